//! `date_bin` that stays in microseconds.
//!
//! DataFusion's turns zoned times into nanoseconds first, which end in 2262 and
//! leave views with another type than they read. This one bins microseconds as
//! they are, in UTC; strides of months, and times of other units, are left to
//! DataFusion's.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::datatypes::{DataType, IntervalUnit, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::functions::datetime::date_bin;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// Builds the function, under DataFusion's name.
pub(crate) fn function() -> ScalarUDF {
    ScalarUDF::from(DateBin {
        signature: Signature::user_defined(Volatility::Immutable),
        standard: date_bin(),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DateBin {
    signature: Signature,
    standard: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for DateBin {
    fn name(&self) -> &str {
        "date_bin"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.standard.documentation()
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let (stride, source, origin) = match arguments {
            [stride, source] => (stride, source, None),
            [stride, source, origin] => (stride, source, Some(origin)),
            _ => return plan_err!("date_bin takes an interval, a time and perhaps an origin"),
        };
        if !matches!(
            stride,
            DataType::Interval(_) | DataType::Utf8 | DataType::Utf8View | DataType::Null
        ) {
            return plan_err!("date_bin takes an interval first, such as INTERVAL '1 hour', not {stride}");
        }
        let source = match source {
            DataType::Timestamp(..) | DataType::Time32(_) | DataType::Time64(_) => source.clone(),
            DataType::Date32 | DataType::Date64 | DataType::Utf8 | DataType::Utf8View | DataType::Null => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            other => return plan_err!("date_bin takes a time second, not {other}"),
        };
        let mut coerced = vec![DataType::Interval(IntervalUnit::MonthDayNano), source.clone()];
        if origin.is_some() {
            coerced.push(match source {
                // What DataFusion's own asks an origin to be.
                DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Nanosecond, zone),
                time => time,
            });
        }
        Ok(coerced)
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[1].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let origin_ns = match args.args.get(2) {
            None => Some(0),
            Some(ColumnarValue::Scalar(ScalarValue::TimestampNanosecond(origin, _))) => *origin,
            Some(_) => None,
        };
        let (Some(stride), Some(origin)) = (stride_us(&args.args[0]), origin_ns.filter(|ns| ns % 1_000 == 0)) else {
            return self.standard.invoke_with_args(args);
        };
        let DataType::Timestamp(TimeUnit::Microsecond, zone) = args.args[1].data_type() else {
            return self.standard.invoke_with_args(args);
        };
        let origin = origin / 1_000;
        // Out of range, as in DataFusion's, is NULL.
        let bin = |at: i64| -> Option<i64> {
            let bins = at.checked_sub(origin)?.div_euclid(stride);
            bins.checked_mul(stride)?.checked_add(origin)
        };
        match &args.args[1] {
            ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(at, _)) => Ok(ColumnarValue::Scalar(
                ScalarValue::TimestampMicrosecond(at.and_then(bin), zone),
            )),
            ColumnarValue::Array(times) => {
                let times = times.as_primitive::<TimestampMicrosecondType>();
                let binned = times
                    .unary_opt::<_, TimestampMicrosecondType>(bin)
                    .with_timezone_opt(zone);
                Ok(ColumnarValue::Array(Arc::new(binned)))
            }
            _ => self.standard.invoke_with_args(args),
        }
    }
}

/// Returns a literal stride in whole microseconds; none where DataFusion's own must do.
fn stride_us(stride: &ColumnarValue) -> Option<i64> {
    let ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(stride))) = stride else {
        return None;
    };
    if stride.months != 0 || stride.nanoseconds % 1_000 != 0 {
        return None;
    }
    let us = i64::from(stride.days)
        .checked_mul(86_400_000_000)?
        .checked_add(stride.nanoseconds / 1_000)?;
    (us > 0).then_some(us)
}

#[cfg(test)]
mod tests {
    use arrow::array::TimestampMicrosecondArray;
    use arrow::datatypes::{Field, IntervalMonthDayNano};

    use super::*;

    fn binned(days: i32, nanoseconds: i64, at: Vec<Option<i64>>, origin_ns: Option<i64>) -> Vec<Option<i64>> {
        let zone: Arc<str> = "Asia/Kolkata".into();
        let rows = at.len();
        let source = TimestampMicrosecondArray::from(at).with_timezone(zone.clone());
        let field = Arc::new(Field::new(
            "at",
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone.clone())),
            true,
        ));
        let stride = ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(0, days, nanoseconds)));
        let mut args = vec![ColumnarValue::Scalar(stride), ColumnarValue::Array(Arc::new(source))];
        if origin_ns.is_some() {
            args.push(ColumnarValue::Scalar(ScalarValue::TimestampNanosecond(
                origin_ns,
                Some(zone),
            )));
        }
        let result = function()
            .invoke_with_args(ScalarFunctionArgs {
                arg_fields: vec![field.clone(); args.len()],
                args,
                number_rows: rows,
                return_field: field.clone(),
                config_options: Arc::default(),
            })
            .unwrap()
            .into_array(rows)
            .unwrap();
        assert_eq!(result.data_type(), field.data_type());
        result.as_primitive::<TimestampMicrosecondType>().iter().collect()
    }

    #[test]
    fn bins_down_on_both_sides_of_the_epoch() {
        let hour = 3_600_000_000;
        let at = vec![Some(0), Some(hour - 1), Some(hour), Some(-1), Some(-hour), None];
        assert_eq!(
            binned(0, hour * 1_000, at, None),
            [Some(0), Some(0), Some(hour), Some(-hour), Some(-hour), None]
        );
    }

    #[test]
    fn reaches_the_year_9999() {
        let at = 253_402_300_799_999_999;
        assert_eq!(
            binned(1, 0, vec![Some(at), Some(i64::MIN)], None),
            [Some(at / 86_400_000_000 * 86_400_000_000), None]
        );
    }

    #[test]
    fn an_origin_moves_the_edges() {
        let minute = 60_000_000;
        let at = vec![Some(5 * minute), Some(17 * minute)];
        let expected = [Some(-10 * minute), Some(5 * minute)];
        assert_eq!(
            binned(0, 15 * minute * 1_000, at, Some(5 * minute * 1_000)),
            [Some(5 * minute), Some(5 * minute)]
        );
        let at = vec![Some(-10 * minute), Some(5 * minute)];
        assert_eq!(binned(0, 15 * minute * 1_000, at, Some(5 * minute * 1_000)), expected);
    }
}
