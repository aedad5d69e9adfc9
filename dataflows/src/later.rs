//! A time and a constant stretch of it, added as the integers they are.
//!
//! Arrow adds intervals by the calendar of the time's zone, row by row, also where only seconds are added. Without
//! months and days the calendar has no say.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::{max, min};
use arrow::datatypes::{DataType, Schema, TimeUnit, TimestampMicrosecondType};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Literal};

/// Times within this of 1970, in microseconds, are in the range of Arrow's calendar; others are left to it.
const SURE_US: i64 = 8_000_000_000_000_000_000;

/// Returns the same expression, quicker where it adds a constant to times.
pub(crate) fn quickened(physical: &Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    let quicker = Arc::clone(physical).transform_up(|part| {
        Ok(match Later::new(&part) {
            Some(later) => Transformed::yes(Arc::new(later) as Arc<dyn PhysicalExpr>),
            None => Transformed::no(part),
        })
    });
    quicker.map_or_else(|_| Arc::clone(physical), |quicker| quicker.data)
}

/// `time + INTERVAL '10 seconds'`
#[derive(Debug)]
struct Later {
    time: Arc<dyn PhysicalExpr>,
    by_us: i64,
    original: Arc<dyn PhysicalExpr>,
}

impl Later {
    fn new(original: &Arc<dyn PhysicalExpr>) -> Option<Later> {
        let binary = original.downcast_ref::<BinaryExpr>()?;
        let literal = binary.right().downcast_ref::<Literal>()?;
        let ScalarValue::IntervalMonthDayNano(Some(interval)) = literal.value() else {
            return None;
        };
        if interval.months != 0 || interval.days != 0 || interval.nanoseconds % 1_000 != 0 {
            return None;
        }
        let us = interval.nanoseconds / 1_000;
        let by_us = match binary.op() {
            Operator::Plus => us,
            Operator::Minus => us.checked_neg()?,
            _ => return None,
        };
        Some(Later {
            time: Arc::clone(binary.left()),
            by_us,
            original: Arc::clone(original),
        })
    }

    /// None where a time is too far off to be sure.
    fn add(&self, times: &TimestampMicrosecondArray) -> Option<TimestampMicrosecondArray> {
        let sure = |at: Option<i64>| {
            let sum = |at: i64| at.checked_add(self.by_us);
            let close = |at: i64| (-SURE_US..=SURE_US).contains(&at);
            at.is_none_or(|at| close(at) && sum(at).is_some_and(close))
        };
        (sure(min(times)) && sure(max(times))).then(|| times.unary(|at| at.wrapping_add(self.by_us)))
    }
}

impl PhysicalExpr for Later {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.original.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.original.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        if let ColumnarValue::Array(times) = self.time.evaluate(batch)?
            && let DataType::Timestamp(TimeUnit::Microsecond, zone) = times.data_type()
            && let Some(later) = self.add(times.as_primitive::<TimestampMicrosecondType>())
        {
            let later: ArrayRef = Arc::new(later.with_timezone_opt(zone.clone()));
            return Ok(ColumnarValue::Array(later));
        }
        self.original.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.original]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let Some(original) = children.into_iter().next() else {
            return Ok(self);
        };
        Ok(match Later::new(&original) {
            Some(later) => Arc::new(later),
            None => original,
        })
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.original.fmt_sql(f)
    }
}

impl fmt::Display for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.original.fmt(f)
    }
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.original.eq(&other.original)
    }
}

impl Eq for Later {}

impl Hash for Later {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.original.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, IntervalMonthDayNano};
    use datafusion::physical_expr::expressions::{Column, binary, lit};

    use super::*;

    #[test]
    fn adds_as_the_calendar_does() {
        let zone: Arc<str> = "Asia/Kolkata".into();
        for zone in [None, Some(zone)] {
            let time = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
            let schema = Arc::new(Schema::new(vec![Field::new("at", time, true)]));
            for (operator, by, days) in [
                (Operator::Plus, 10_000_000_000, 0),
                (Operator::Minus, 3_000, 0),
                (Operator::Plus, 10_000_000_000, 1),
            ] {
                let interval = IntervalMonthDayNano::new(0, days, by);
                let interval = lit(ScalarValue::IntervalMonthDayNano(Some(interval)));
                let slow = binary(Arc::new(Column::new("at", 0)), operator, interval, &schema);
                let slow = slow.expect("a sum");
                let quick = quickened(&slow);
                assert_eq!(quick.is::<Later>(), days == 0);
                for times in [
                    vec![Some(0), None, Some(-7), Some(1_767_254_340_000_001)],
                    vec![Some(i64::MAX), None],
                    vec![Some(8_100_000_000_000_000_000)],
                    vec![Some(i64::MIN)],
                    Vec::new(),
                ] {
                    let times = TimestampMicrosecondArray::from(times).with_timezone_opt(zone.clone());
                    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(times)]).expect("one column");
                    let evaluated = |expression: &Arc<dyn PhysicalExpr>| {
                        let value = expression.evaluate(&batch).map_err(|error| error.to_string())?;
                        value.into_array(batch.num_rows()).map_err(|error| error.to_string())
                    };
                    assert_eq!(evaluated(&quick), evaluated(&slow));
                }
            }
        }
    }
}
