//! Chooses the types that leave a view or a query.
//!
//! Some functions answer with views of strings, dictionaries or nanoseconds;
//! what leaves is text, binary and microseconds in the deployment's zone, so
//! that stores, wires and views over views meet one type for one thing.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::error::Result;
use datafusion::logical_expr::{LogicalPlan, cast};

use super::{column_of, restore};

pub(crate) fn rewrite(plan: LogicalPlan, time_zone: &Arc<str>) -> Result<LogicalPlan> {
    let schema = plan.schema().clone();
    if schema
        .fields()
        .iter()
        .all(|field| plain(field.data_type(), time_zone).is_none())
    {
        return Ok(plan);
    }
    let expressions = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(index, field)| match plain(field.data_type(), time_zone) {
            Some(data_type) => cast(column_of(&schema, index), data_type),
            None => column_of(&schema, index),
        })
        .collect();
    restore(plan, &schema, expressions)
}

/// Returns the type to leave as; none where it stays.
pub(crate) fn plain(data_type: &DataType, time_zone: &Arc<str>) -> Option<DataType> {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => Some(DataType::Utf8),
        DataType::BinaryView | DataType::LargeBinary => Some(DataType::Binary),
        DataType::Dictionary(_, value) => Some(plain(value, time_zone).unwrap_or_else(|| value.as_ref().clone())),
        DataType::Timestamp(unit, Some(zone)) if *unit != TimeUnit::Microsecond || zone != time_zone => {
            Some(DataType::Timestamp(TimeUnit::Microsecond, Some(time_zone.clone())))
        }
        DataType::Timestamp(unit, None) if *unit != TimeUnit::Microsecond => {
            Some(DataType::Timestamp(TimeUnit::Microsecond, None))
        }
        _ => None,
    }
}
