//! `ewma(x, at, half_life) OVER (… ORDER BY at)`: a mean in which the past weighs less and less.
//!
//! A value counts half as much once `half_life` has passed, whether values come often or not: with
//! `d = 2 ^ -(time since the row before / half_life)`, the sum is `s = x + d·s'`, the weight `w = 1 + d·w'`
//! and the mean `s / w`. A row whose value or time is NULL has the mean so far, NULL before the first value,
//! and changes nothing. NaN stays: every mean after it is NaN. Rows are taken in the order of the window, equal
//! ones as all windows do; time that runs backwards (`ORDER BY at DESC`) counts by its length. A frame says
//! nothing to it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Builder};
use arrow::datatypes::{DataType, Float64Type, IntervalUnit, TimeUnit, TimestampMicrosecondType};
use dataflows::functions::Running;
use datafusion::common::ScalarValue;

use super::kinds::window::Window;
use super::time_windows::interval_of;
use crate::problem::Problem;

/// The function, for the list.
pub(super) static EWMA: Window = Window {
    name: "ewma",
    columns: 2,
    coerce,
    output: DataType::Float64,
    build,
};

fn misused(what: &str) -> Problem {
    Problem::new(format!("ewma() {what}"))
        .hint("Write ewma(x, at, INTERVAL '1 hour') OVER (PARTITION BY station ORDER BY at).")
}

fn coerce(arguments: &[DataType]) -> Result<Vec<DataType>, Problem> {
    let [value, time, half_life] = arguments else {
        return Err(misused("takes a value, its time and a half-life"));
    };
    if !value.is_numeric() && *value != DataType::Null {
        return Err(misused("needs a number first"));
    }
    let DataType::Timestamp(_, zone) = time else {
        return Err(misused("needs a timestamp second"));
    };
    if !matches!(half_life, DataType::Interval(_)) {
        return Err(misused("needs an interval as its half-life"));
    }
    Ok(vec![
        DataType::Float64,
        DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Interval(IntervalUnit::MonthDayNano),
    ])
}

fn build(constants: &[ScalarValue]) -> Result<Arc<dyn Running>, Problem> {
    let half_life = constants.first().ok_or_else(|| misused("needs a half-life"))?;
    let nanoseconds = interval_of(half_life).map_err(|wrong| misused(&format!("needs {wrong} as its half-life")))?;
    match nanoseconds {
        ..=0 => Err(misused("needs a half-life longer than nothing")),
        nanoseconds => Ok(Arc::new(Decayed {
            half_life_us: nanoseconds as f64 / 1e3,
        })),
    }
}

/// The mean of one half-life. Its state: the sum, the weight and the time of the last value.
#[derive(Debug)]
struct Decayed {
    half_life_us: f64,
}

impl Running for Decayed {
    fn start(&self) -> Vec<u64> {
        vec![0; 3]
    }

    fn follow(&self, arguments: &[ArrayRef], runs: &[usize], before: &[u64], after: &mut Vec<u64>) -> ArrayRef {
        let values = arguments[0].as_primitive::<Float64Type>();
        let times = arguments[1].as_primitive::<TimestampMicrosecondType>();
        let mut means = Float64Builder::with_capacity(values.len());
        let mut row = 0;
        for (&length, state) in runs.iter().zip(before.chunks_exact(3)) {
            let (mut sum, mut weight) = (f64::from_bits(state[0]), f64::from_bits(state[1]));
            let mut last = state[2].cast_signed();
            for row in row..row + length {
                if values.is_valid(row) && times.is_valid(row) {
                    let (value, time) = (values.value(row), times.value(row));
                    let decay = (-(time.abs_diff(last) as f64) / self.half_life_us).exp2();
                    (sum, weight, last) = match weight > 0.0 {
                        true => (value + decay * sum, 1.0 + decay * weight, time),
                        false => (value, 1.0, time),
                    };
                }
                after.extend([sum.to_bits(), weight.to_bits(), last.cast_unsigned()]);
                means.append_option((weight > 0.0).then(|| sum / weight));
            }
            row += length;
        }
        Arc::new(means.finish())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, TimestampMicrosecondArray};

    use super::*;

    fn means(
        values: &[Option<f64>],
        times: &[Option<i64>],
        runs: &[usize],
        before: &[u64],
    ) -> (Vec<Option<f64>>, Vec<u64>) {
        let arguments: [ArrayRef; 2] = [
            Arc::new(Float64Array::from(values.to_vec())),
            Arc::new(TimestampMicrosecondArray::from(times.to_vec())),
        ];
        let mut after = Vec::new();
        let found = Decayed { half_life_us: 10.0 }.follow(&arguments, runs, before, &mut after);
        (found.as_primitive::<Float64Type>().iter().collect(), after)
    }

    #[test]
    fn the_past_fades() {
        let values = [None, Some(4.0), None, Some(1.0), Some(1.0)];
        let times = [Some(0), Some(0), Some(5), Some(10), None];
        let (found, after) = means(&values, &times, &[5], &[0; 3]);
        // (1 + 4/2) / (1 + 1/2)
        assert_eq!(found, [None, Some(4.0), Some(4.0), Some(2.0), Some(2.0)]);
        // From any row on it goes as if it had not stopped.
        for stop in 1..5 {
            let (rest, _) = means(
                &values[stop..],
                &times[stop..],
                &[5 - stop],
                &after[(stop - 1) * 3..stop * 3],
            );
            assert_eq!(rest, found[stop..]);
        }
        // Two runs know nothing of each other.
        let (both, _) = means(&[Some(4.0), Some(2.0)], &[Some(0), Some(0)], &[1, 1], &[0; 6]);
        assert_eq!(both, [Some(4.0), Some(2.0)]);
    }

    #[test]
    fn a_half_life_is_a_length_of_time() {
        let interval = |text: &str| {
            ScalarValue::try_from_string(text.into(), &DataType::Interval(IntervalUnit::MonthDayNano)).unwrap()
        };
        assert!(build(&[interval("1 hour")]).is_ok());
        for wrong in ["0 hours", "-1 hour", "1 month"] {
            assert!(build(&[interval(wrong)]).is_err(), "{wrong}");
        }
        assert!(coerce(&[DataType::Utf8, DataType::Utf8, DataType::Utf8]).is_err());
    }
}
