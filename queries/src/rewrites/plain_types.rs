//! Chooses the types that leave a view or a query.
//!
//! Some functions answer with views of strings, dictionaries or nanoseconds;
//! what leaves is text, binary and microseconds in the deployment's zone, so
//! that stores, wires and views over views meet one type for one thing.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, TimeUnit};
use datafusion::error::Result;
use datafusion::logical_expr::{LogicalPlan, cast};

use super::{column_of, restore};
use crate::functions::json;

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
            Some(_) if json::is_any(field.data_type()) => json::as_text(column_of(&schema, index)),
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
        // `->` answers with whatever stands there: it leaves as its text.
        other if json::is_any(other) => Some(DataType::Utf8),
        DataType::List(field) => within(field, time_zone).map(DataType::List),
        DataType::LargeList(field) => within(field, time_zone).map(DataType::LargeList),
        DataType::FixedSizeList(field, length) => {
            within(field, time_zone).map(|field| DataType::FixedSizeList(field, *length))
        }
        DataType::Struct(fields) => {
            let plain: Vec<Option<FieldRef>> = fields.iter().map(|field| within(field, time_zone)).collect();
            plain.iter().any(Option::is_some).then(|| {
                let fields = fields.iter().zip(plain);
                DataType::Struct(
                    fields
                        .map(|(field, plain)| plain.unwrap_or_else(|| field.clone()))
                        .collect(),
                )
            })
        }
        DataType::Map(entries, sorted) => within(entries, time_zone).map(|entries| DataType::Map(entries, *sorted)),
        _ => None,
    }
}

/// Returns the field of a list, struct or map to leave as; none where it stays.
fn within(field: &FieldRef, time_zone: &Arc<str>) -> Option<FieldRef> {
    // What is within a list cannot be taken apart by a call: such a list is refused.
    if json::is_any(field.data_type()) {
        return None;
    }
    let data_type = plain(field.data_type(), time_zone)?;
    Some(Arc::new(field.as_ref().clone().with_data_type(data_type)))
}
