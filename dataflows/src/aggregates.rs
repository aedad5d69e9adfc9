//! Signed, vectorised accumulators: one column of state for all groups of an operator.
//!
//! The same code serves the incremental operator (diffs of any sign) and
//! DataFusion's batch aggregation (every diff `+1`), so both give one answer.

mod collected;
mod distinct;
mod exact;
mod extremes;
mod logic;
mod means;
mod numeric;
mod ordered;
mod pairs;
mod quantiles;
mod tree;

use std::ops::Range;

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute::{SortOptions, concat, take};
use arrow::datatypes::{
    DataType, Decimal128Type, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType,
    DurationSecondType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;

use crate::plan::AggregateFunction;
use distinct::Distinct;
use extremes::extremes;
use logic::{Bitwise, Logic, Truths};
use means::Means;
use numeric::{Counts, DecimalSums, IntegerSums, Moment, Moments, UnsignedSums, WrappingSums};
use ordered::ordered;
use pairs::{Pairs, Statistic};
use quantiles::{Place, Quantiles, WeightedQuantiles};

pub use ordered::canonical;

/// What an accumulator must know about its call.
#[derive(Clone, Debug)]
pub struct AggregateSpec {
    /// What it computes.
    pub function: AggregateFunction,
    /// The arguments' types; none for `count(*)`.
    pub arguments: Vec<DataType>,
    /// The constants after them: a percentile, a delimiter, the `n` of `nth_value`.
    pub parameters: Vec<ScalarValue>,
    /// Whether each value of a group counts once (`agg(DISTINCT x)`).
    pub distinct: bool,
    /// The types and directions of the `ORDER BY` inside the call.
    pub order: Vec<(DataType, SortOptions)>,
    /// Whether NULL arguments are passed over (the ordered ones; the others always do).
    pub ignore_nulls: bool,
    /// Whether no row is ever taken back, which bounds ordered state to one value a group.
    pub append_only: bool,
    /// The type of the result.
    pub output: DataType,
}

/// An aggregate that is not maintained over these argument types.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{function} over {arguments} is not supported")]
pub struct Unsupported {
    /// The aggregate's SQL name.
    pub function: String,
    /// The arguments' types.
    pub arguments: String,
}

/// The state of one aggregate for many groups.
pub trait Accumulator: Send {
    /// Makes room for the groups `0..groups`.
    fn resize(&mut self, groups: usize);

    /// Applies `diffs[i]` copies of row `i` to group `groups[i]`.
    ///
    /// `arguments` holds the arguments, if any, then the `ORDER BY` columns. Rows
    /// whose filter is not true are passed over.
    fn update(&mut self, groups: &[u32], arguments: &[ArrayRef], filter: Option<&BooleanArray>, diffs: &[i64]);

    /// Returns the current result of each of `groups`.
    fn output(&self, groups: &[u32]) -> ArrayRef;

    /// Follows frames from row to row and returns the result after each step.
    ///
    /// Row `i` of `arguments` is applied `steps.diffs[i]` times.
    fn slide(&mut self, steps: &Steps, arguments: &[ArrayRef], filter: Option<&BooleanArray>) -> ArrayRef {
        let mut results: Vec<ArrayRef> = Vec::new();
        let mut chosen: Vec<u32> = Vec::with_capacity(steps.groups.len());
        let mut previous = None;
        for (group, reset, rows) in steps.iter() {
            if reset {
                self.reset(group);
            }
            // A step without rows, in a partition the last one was in, changes nothing.
            if reset || !rows.is_empty() || previous != Some(group) {
                let arguments: Vec<ArrayRef> = arguments
                    .iter()
                    .map(|column| column.slice(rows.start, rows.len()))
                    .collect();
                let filter = filter.map(|filter| filter.slice(rows.start, rows.len()));
                let groups = vec![group; rows.len()];
                self.update(&groups, &arguments, filter.as_ref(), &steps.diffs[rows]);
                results.push(self.output(&[group]));
            }
            chosen.push(results.len() as u32 - 1);
            previous = Some(group);
        }
        if results.is_empty() {
            return self.output(&[]);
        }
        let results: Vec<&dyn Array> = results.iter().map(AsRef::as_ref).collect();
        let results = concat(&results).expect("results have one type");
        take(&results, &UInt32Array::from(chosen), None).expect("steps have a result each")
    }

    /// Forgets everything about a group.
    fn reset(&mut self, group: u32);

    /// Forgets groups whose rows were not taken back.
    fn release(&mut self, groups: &[u32]) {
        groups.iter().for_each(|&group| self.reset(group));
    }

    /// Returns the memory it holds, in bytes.
    fn bytes(&self) -> usize;
}

/// How the frames of window functions move: which rows come and go before each result.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    groups: Vec<u32>,
    resets: Vec<bool>,
    ends: Vec<usize>,
    /// How often each row is applied.
    pub diffs: Vec<i64>,
}

impl Steps {
    /// Ends a step of a group, of the rows in `diffs` since the last; with `reset` the group starts empty.
    pub fn push(&mut self, group: u32, reset: bool) {
        self.groups.push(group);
        self.resets.push(reset);
        self.ends.push(self.diffs.len());
    }

    /// Returns each step's group, whether it starts empty, and its rows.
    fn iter(&self) -> impl Iterator<Item = (u32, bool, Range<usize>)> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let rows = starts.zip(&self.ends).map(|(start, &end)| start..end);
        let groups = self.groups.iter().zip(&self.resets);
        groups.zip(rows).map(|((&group, &reset), rows)| (group, reset, rows))
    }
}

/// Slides accumulators that read one value a row and give one a group.
#[inline]
fn slide<S, T>(
    state: &mut S,
    steps: &Steps,
    (nulls, filter): (Option<&NullBuffer>, Option<&BooleanArray>),
    reset: impl Fn(&mut S, u32),
    add: impl Fn(&mut S, u32, usize, i64),
    result: impl Fn(&S, u32) -> T,
) -> Vec<T> {
    let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
    let counts = |row: usize| {
        filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
            && nulls.is_none_or(|nulls| nulls.is_valid(row))
    };
    let mut results = Vec::with_capacity(steps.groups.len());
    for (group, afresh, rows) in steps.iter() {
        if afresh {
            reset(state, group);
        }
        for row in rows {
            if counts(row) {
                add(state, group, row, steps.diffs[row]);
            }
        }
        results.push(result(state, group));
    }
    results
}

/// Builds the accumulator of a call.
///
/// # Errors
/// When the aggregate is not maintained over the argument's type.
pub fn accumulator(spec: &AggregateSpec) -> Result<Box<dyn Accumulator>, Unsupported> {
    use AggregateFunction::*;
    let inner = match (spec.function, spec.arguments.as_slice()) {
        (CountRows | Count | ApproxDistinct | RegressionCount, _) => Box::new(Counts::new(&spec.output)),
        (Min | Max | AnyValue, [argument]) => {
            return extremes(spec, argument).map_or_else(|| ordered(spec, argument), Ok);
        }
        (FirstValue | LastValue | NthValue | ArrayAgg | StringAgg, [argument]) => return ordered(spec, argument),
        (Own(aggregate), _) => (aggregate.accumulator)(spec).ok_or_else(|| Unsupported::new(spec))?,
        (_, [argument]) => of_one(spec, argument)?,
        (_, [left, right]) => of_two(spec, left, right)?,
        _ => return Err(Unsupported::new(spec)),
    };
    let distinct = spec.distinct && spec.function.minds_duplicates() || spec.function == ApproxDistinct;
    if !distinct || spec.arguments.is_empty() {
        return Ok(inner);
    }
    let fields: Vec<SortField> = spec.arguments.iter().cloned().map(SortField::new).collect();
    match RowConverter::supports_fields(&fields) {
        true => Ok(Box::new(Distinct::new(inner, &spec.arguments))),
        false => Err(Unsupported::new(spec)),
    }
}

/// Aggregates of one argument.
fn of_one(spec: &AggregateSpec, argument: &DataType) -> Result<Box<dyn Accumulator>, Unsupported> {
    use AggregateFunction::*;
    let output = || spec.output.clone();
    let variance = |population, root| Moment::Variance { population, root };
    let moment = match spec.function {
        Sum => return sum(spec, argument),
        Avg => match argument {
            DataType::Decimal128(..) => return Ok(Box::new(Means::<Decimal128Type>::new(argument, output()))),
            DataType::Duration(TimeUnit::Second) => {
                return Ok(Box::new(Means::<DurationSecondType>::new(argument, output())));
            }
            DataType::Duration(TimeUnit::Millisecond) => {
                return Ok(Box::new(Means::<DurationMillisecondType>::new(argument, output())));
            }
            DataType::Duration(TimeUnit::Microsecond) => {
                return Ok(Box::new(Means::<DurationMicrosecondType>::new(argument, output())));
            }
            DataType::Duration(TimeUnit::Nanosecond) => {
                return Ok(Box::new(Means::<DurationNanosecondType>::new(argument, output())));
            }
            _ => Moment::Mean,
        },
        VarianceSample => variance(false, false),
        VariancePopulation => variance(true, false),
        StddevSample => variance(false, true),
        StddevPopulation => variance(true, true),
        BoolAnd | BoolOr if *argument == DataType::Boolean => {
            let logic = if spec.function == BoolAnd {
                Logic::And
            } else {
                Logic::Or
            };
            return Ok(Box::new(Truths::new(logic)));
        }
        BitAnd | BitOr | BitXor => return bitwise(spec, argument),
        Median | ApproxMedian | PercentileCont | ApproxPercentileCont => {
            let place = match spec.function {
                Median | ApproxMedian => Place::Middle,
                _ => Place::Part(part(spec)?),
            };
            return Ok(match argument {
                DataType::Float64 => Box::new(Quantiles::<Float64Type>::new(place, output())),
                DataType::Float32 => Box::new(Quantiles::<Float32Type>::new(place, output())),
                DataType::Decimal128(..) if spec.function == Median => {
                    Box::new(Quantiles::<Decimal128Type>::new(place, output()))
                }
                _ => return Err(Unsupported::new(spec)),
            });
        }
        _ => return Err(Unsupported::new(spec)),
    };
    match argument {
        DataType::Float64 => Ok(Box::new(Moments::new(moment))),
        _ => Err(Unsupported::new(spec)),
    }
}

fn sum(spec: &AggregateSpec, argument: &DataType) -> Result<Box<dyn Accumulator>, Unsupported> {
    let output = spec.output.clone();
    Ok(match argument {
        DataType::Int64 => Box::new(IntegerSums::new(output)),
        DataType::UInt64 => Box::new(UnsignedSums::new(output)),
        DataType::Decimal128(..) => Box::new(DecimalSums::new(output)),
        DataType::Duration(TimeUnit::Second) => Box::new(WrappingSums::<DurationSecondType>::new(output)),
        DataType::Duration(TimeUnit::Millisecond) => Box::new(WrappingSums::<DurationMillisecondType>::new(output)),
        DataType::Duration(TimeUnit::Microsecond) => Box::new(WrappingSums::<DurationMicrosecondType>::new(output)),
        DataType::Duration(TimeUnit::Nanosecond) => Box::new(WrappingSums::<DurationNanosecondType>::new(output)),
        DataType::Float64 => Box::new(Moments::new(Moment::Sum)),
        _ => return Err(Unsupported::new(spec)),
    })
}

fn bitwise(spec: &AggregateSpec, argument: &DataType) -> Result<Box<dyn Accumulator>, Unsupported> {
    let logic = match spec.function {
        AggregateFunction::BitAnd => Logic::And,
        AggregateFunction::BitOr => Logic::Or,
        // Twice the same leaves nothing of it, so that it matters how often a value is there.
        _ => Logic::Xor,
    };
    let kept = spec.append_only;
    Ok(match argument {
        DataType::Int8 => Box::new(Bitwise::<Int8Type>::new(logic, kept)),
        DataType::Int16 => Box::new(Bitwise::<Int16Type>::new(logic, kept)),
        DataType::Int32 => Box::new(Bitwise::<Int32Type>::new(logic, kept)),
        DataType::Int64 => Box::new(Bitwise::<Int64Type>::new(logic, kept)),
        DataType::UInt8 => Box::new(Bitwise::<UInt8Type>::new(logic, kept)),
        DataType::UInt16 => Box::new(Bitwise::<UInt16Type>::new(logic, kept)),
        DataType::UInt32 => Box::new(Bitwise::<UInt32Type>::new(logic, kept)),
        DataType::UInt64 => Box::new(Bitwise::<UInt64Type>::new(logic, kept)),
        _ => return Err(Unsupported::new(spec)),
    })
}

/// Aggregates of two arguments.
fn of_two(spec: &AggregateSpec, left: &DataType, right: &DataType) -> Result<Box<dyn Accumulator>, Unsupported> {
    use AggregateFunction::*;
    let output = || spec.output.clone();
    let statistic = match spec.function {
        ApproxPercentileContWithWeight => {
            let part = part(spec)?;
            return Ok(match (left, right) {
                (DataType::Float64, DataType::Float64) => {
                    Box::new(WeightedQuantiles::<Float64Type, Float64Type>::new(part, output()))
                }
                (DataType::Float64, DataType::Float32) => {
                    Box::new(WeightedQuantiles::<Float64Type, Float32Type>::new(part, output()))
                }
                (DataType::Float32, DataType::Float64) => {
                    Box::new(WeightedQuantiles::<Float32Type, Float64Type>::new(part, output()))
                }
                (DataType::Float32, DataType::Float32) => {
                    Box::new(WeightedQuantiles::<Float32Type, Float32Type>::new(part, output()))
                }
                _ => return Err(Unsupported::new(spec)),
            });
        }
        CovarianceSample => Statistic::Covariance { population: false },
        CovariancePopulation => Statistic::Covariance { population: true },
        Correlation => Statistic::Correlation,
        RegressionSlope => Statistic::Slope,
        RegressionIntercept => Statistic::Intercept,
        RegressionR2 => Statistic::R2,
        RegressionAvgX => Statistic::MeanX,
        RegressionAvgY => Statistic::MeanY,
        RegressionSxx => Statistic::SpreadX,
        RegressionSyy => Statistic::SpreadY,
        RegressionSxy => Statistic::SpreadXY,
        _ => return Err(Unsupported::new(spec)),
    };
    match (left, right) {
        (DataType::Float64, DataType::Float64) => Ok(Box::new(Pairs::new(statistic))),
        _ => Err(Unsupported::new(spec)),
    }
}

/// The percentile, from 0 to 1.
fn part(spec: &AggregateSpec) -> Result<f64, Unsupported> {
    match spec.parameters.first() {
        Some(ScalarValue::Float64(Some(part))) if (0.0..=1.0).contains(part) => Ok(*part),
        _ => Err(Unsupported::new(spec)),
    }
}

impl Unsupported {
    fn new(spec: &AggregateSpec) -> Self {
        let types: Vec<String> = spec.arguments.iter().map(DataType::to_string).collect();
        Unsupported {
            function: spec.function.to_string(),
            arguments: match types.is_empty() {
                true => "no argument".to_owned(),
                false => types.join(", "),
            },
        }
    }
}

/// The rows in which no column is NULL; none where there is no NULL at all.
fn no_nulls(columns: &[ArrayRef]) -> Option<NullBuffer> {
    let nulls = columns.iter().map(|column| column.logical_nulls());
    nulls
        .reduce(|some, more| NullBuffer::union(some.as_ref(), more.as_ref()))
        .flatten()
}

/// Tells whether every row counts: none is NULL, and there is no filter to pass.
fn counts_all(nulls: Option<&NullBuffer>, filter: Option<&BooleanArray>) -> bool {
    filter.is_none() && nulls.is_none_or(|nulls| nulls.null_count() == 0)
}

/// Calls `apply` with each row whose argument counts: not NULL, and past the filter.
#[inline]
fn each(nulls: Option<&NullBuffer>, filter: Option<&BooleanArray>, length: usize, mut apply: impl FnMut(usize)) {
    let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
    match (nulls, filter) {
        (None, None) => (0..length).for_each(apply),
        (Some(nulls), None) => nulls.valid_indices().for_each(apply),
        (nulls, Some(filter)) => {
            for row in 0..length {
                let passes = filter.is_valid(row) && filter.value(row);
                if passes && nulls.is_none_or(|nulls| nulls.is_valid(row)) {
                    apply(row);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Float64Array;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64;

    use super::*;

    fn spec(function: AggregateFunction, arguments: &[DataType], output: DataType) -> AggregateSpec {
        AggregateSpec {
            function,
            arguments: arguments.to_vec(),
            parameters: Vec::new(),
            distinct: false,
            order: Vec::new(),
            ignore_nulls: false,
            append_only: false,
            output,
        }
    }

    /// Every aggregate of one or two doubles, by a fresh start and by a history that leaves the same rows.
    #[test]
    fn history_leaves_no_trace() {
        use AggregateFunction::*;
        let mut random = Pcg64::seed_from_u64(7);
        let one = [
            Sum,
            Avg,
            Min,
            Max,
            VarianceSample,
            StddevPopulation,
            Median,
            ApproxMedian,
            LastValue,
        ];
        let two = [
            CovarianceSample,
            CovariancePopulation,
            Correlation,
            RegressionSlope,
            RegressionIntercept,
            RegressionR2,
            RegressionAvgX,
            RegressionAvgY,
            RegressionSxx,
            RegressionSyy,
            RegressionSxy,
        ];
        let calls = one
            .iter()
            .map(|function| (*function, 1))
            .chain(two.iter().map(|function| (*function, 2)));
        for (function, width) in calls {
            let types = vec![DataType::Float64; width];
            let spec = spec(function, &types, DataType::Float64);
            let (mut fresh, mut used) = (accumulator(&spec).unwrap(), accumulator(&spec).unwrap());
            let column = |random: &mut Pcg64, rows: usize| -> ArrayRef {
                let value = |random: &mut Pcg64| match random.random_range(0..12) {
                    0 => None,
                    1 => Some(f64::NAN),
                    2 => Some(1e300),
                    3 => Some(f64::INFINITY),
                    _ => Some(random.random_range(-20..20) as f64 / 7.0),
                };
                Arc::new(Float64Array::from_iter((0..rows).map(|_| value(random))))
            };
            let groups: Vec<u32> = (0..60).map(|row| row % 4).collect();
            let (stay, go): (Vec<_>, Vec<_>) = (0..width)
                .map(|_| (column(&mut random, 60), column(&mut random, 60)))
                .unzip();
            for accumulator in [&mut fresh, &mut used] {
                accumulator.resize(5);
            }
            used.update(&groups, &go, None, &[2; 60]);
            used.update(&groups, &stay, None, &[1; 60]);
            used.update(&groups, &go, None, &[-2; 60]);
            fresh.update(&groups, &stay, None, &[1; 60]);
            let all = [0, 1, 2, 3, 4];
            let bits = |output: ArrayRef| format!("{output:?}");
            assert_eq!(bits(used.output(&all)), bits(fresh.output(&all)), "{function}");
            used.update(&groups, &stay, None, &[-1; 60]);
            assert_eq!(used.output(&all).null_count(), 5, "{function}");
        }
    }
}
