//! Signed, vectorised accumulators: one column of state for all groups of an operator.
//!
//! The same code serves the incremental operator (diffs of any sign) and
//! DataFusion's batch aggregation (every diff `+1`), so both give one answer.

use arrow::array::{ArrayRef, BooleanArray};
use arrow::compute::SortOptions;
use arrow::datatypes::DataType;

use crate::plan::AggregateFunction;

/// What an accumulator must know about its call.
#[derive(Clone, Debug)]
pub struct AggregateSpec {
    /// What it computes.
    pub function: AggregateFunction,
    /// The argument's type; none for `count(*)`.
    pub argument: Option<DataType>,
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

    /// Forgets everything about a group.
    fn reset(&mut self, group: u32);

    /// Returns the memory it holds, in bytes.
    fn bytes(&self) -> usize;
}

/// Builds the accumulator of a call.
///
/// # Errors
/// When the aggregate is not maintained over the argument's type.
pub fn accumulator(spec: &AggregateSpec) -> Result<Box<dyn Accumulator>, Unsupported> {
    Err(Unsupported {
        function: format!("{:?}", spec.function),
        argument: format!("{:?}", spec.argument),
    })
}
