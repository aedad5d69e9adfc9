//! Signed, vectorised accumulators: one column of state for all groups of an operator.
//!
//! The same code serves the incremental operator (diffs of any sign) and
//! DataFusion's batch aggregation (every diff `+1`), so both give one answer.

mod distinct;
mod exact;
mod numeric;
mod ordered;

use std::ops::Range;

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute::{SortOptions, concat, take};
use arrow::datatypes::DataType;

use crate::plan::AggregateFunction;
use distinct::Distinct;
use numeric::{Counts, DecimalSums, IntegerSums, Moment, Moments, UnsignedSums};
use ordered::ordered;

pub use ordered::canonical;

/// What an accumulator must know about its call.
#[derive(Clone, Debug)]
pub struct AggregateSpec {
    /// What it computes.
    pub function: AggregateFunction,
    /// The argument's type; none for `count(*)`.
    pub argument: Option<DataType>,
    /// Whether each value of a group counts once (`agg(DISTINCT x)`).
    pub distinct: bool,
    /// The types and directions of the `ORDER BY` inside the call.
    pub order: Vec<(DataType, SortOptions)>,
    /// Whether NULL arguments are passed over (first and last value; the others always do).
    pub ignore_nulls: bool,
    /// Whether no row is ever taken back, which bounds ordered state to one value a group.
    pub append_only: bool,
    /// The type of the result.
    pub output: DataType,
}

/// An aggregate that is not maintained over this argument type.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{function} over {argument} is not supported")]
pub struct Unsupported {
    /// The aggregate's SQL name.
    pub function: String,
    /// The argument's type.
    pub argument: String,
}

/// The state of one aggregate for many groups.
pub trait Accumulator: Send {
    /// Makes room for the groups `0..groups`.
    fn resize(&mut self, groups: usize);

    /// Applies `diffs[i]` copies of row `i` to group `groups[i]`.
    ///
    /// `arguments` holds the argument, if any, then the `ORDER BY` columns. Rows
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
    let inner = plain(spec)?;
    match &spec.argument {
        Some(argument) if spec.distinct => Ok(Box::new(Distinct::new(inner, argument))),
        _ => Ok(inner),
    }
}

fn plain(spec: &AggregateSpec) -> Result<Box<dyn Accumulator>, Unsupported> {
    use AggregateFunction::*;
    let unsupported = || Unsupported::new(spec);
    let Some(argument) = &spec.argument else {
        return match spec.function {
            CountRows => Ok(Box::new(Counts::default())),
            _ => Err(unsupported()),
        };
    };
    let moments = |moment| match argument {
        DataType::Float64 => Ok(Box::new(Moments::new(moment)) as Box<dyn Accumulator>),
        _ => Err(unsupported()),
    };
    match spec.function {
        CountRows | Count => Ok(Box::new(Counts::default())),
        Sum => match argument {
            DataType::Int64 => Ok(Box::new(IntegerSums::new(spec.output.clone()))),
            DataType::UInt64 => Ok(Box::new(UnsignedSums::new(spec.output.clone()))),
            DataType::Decimal128(..) => Ok(Box::new(DecimalSums::new(spec.output.clone()))),
            _ => moments(Moment::Sum),
        },
        Avg => moments(Moment::Mean),
        VarianceSample => moments(Moment::Variance {
            population: false,
            root: false,
        }),
        VariancePopulation => moments(Moment::Variance {
            population: true,
            root: false,
        }),
        StddevSample => moments(Moment::Variance {
            population: false,
            root: true,
        }),
        StddevPopulation => moments(Moment::Variance {
            population: true,
            root: true,
        }),
        Min | Max | FirstValue | LastValue => ordered(spec, argument),
    }
}

impl Unsupported {
    fn new(spec: &AggregateSpec) -> Self {
        Unsupported {
            function: spec.function.to_string(),
            argument: spec
                .argument
                .as_ref()
                .map_or_else(|| "no argument".to_owned(), DataType::to_string),
        }
    }
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
