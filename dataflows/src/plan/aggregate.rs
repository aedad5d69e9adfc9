//! Aggregates as data.

use std::fmt;

use arrow::compute::SortOptions;
use arrow::datatypes::FieldRef;
use datafusion::common::ScalarValue;

use crate::functions;

/// One aggregate over the rows of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregateCall {
    /// What it computes.
    pub function: AggregateFunction,
    /// Positions of its arguments; none for `count(*)`.
    pub arguments: Vec<usize>,
    /// The constants after them: a percentile, a delimiter, the `n` of `nth_value`.
    pub parameters: Vec<ScalarValue>,
    /// Whether each value of a group counts once.
    pub distinct: bool,
    /// Position of a boolean column: only rows with `true` count.
    pub filter: Option<usize>,
    /// `ORDER BY` inside the call, total up to equal arguments.
    pub order: Vec<(usize, SortOptions)>,
    /// Whether NULL arguments are passed over (`IGNORE NULLS`; only the ordered ones may keep them).
    pub ignore_nulls: bool,
    /// The name, type and nullability of the result.
    pub field: FieldRef,
}

/// The aggregates Sangam maintains.
///
/// The approximate ones are computed exactly: a sketch cannot forget a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AggregateFunction {
    /// `count(*)`
    CountRows,
    /// `count(x, …)`: the rows in which no argument is NULL.
    Count,
    /// `approx_distinct(x)`: the exact number of different values.
    ApproxDistinct,
    /// `sum(x)`: wrapping for integers, decimals and durations, exact and rounded once for floats.
    Sum,
    /// `avg(x)` over floats, decimals and durations.
    Avg,
    /// `min(x)` in the one byte order.
    Min,
    /// `max(x)` in the one byte order.
    Max,
    /// `any_value(x)`: the smallest.
    AnyValue,
    /// `var_samp(x)`
    VarianceSample,
    /// `var_pop(x)`
    VariancePopulation,
    /// `stddev_samp(x)`, also known as `stddev(x)`
    StddevSample,
    /// `stddev_pop(x)`
    StddevPopulation,
    /// `covar_samp(y, x)`
    CovarianceSample,
    /// `covar_pop(y, x)`
    CovariancePopulation,
    /// `corr(y, x)`
    Correlation,
    /// `regr_slope(y, x)`
    RegressionSlope,
    /// `regr_intercept(y, x)`
    RegressionIntercept,
    /// `regr_count(y, x)`
    RegressionCount,
    /// `regr_r2(y, x)`
    RegressionR2,
    /// `regr_avgx(y, x)`
    RegressionAvgX,
    /// `regr_avgy(y, x)`
    RegressionAvgY,
    /// `regr_sxx(y, x)`
    RegressionSxx,
    /// `regr_syy(y, x)`
    RegressionSyy,
    /// `regr_sxy(y, x)`
    RegressionSxy,
    /// `bool_and(x)`
    BoolAnd,
    /// `bool_or(x)`
    BoolOr,
    /// `bit_and(x)`
    BitAnd,
    /// `bit_or(x)`
    BitOr,
    /// `bit_xor(x)`
    BitXor,
    /// `median(x)`
    Median,
    /// `approx_median(x)`: the exact median.
    ApproxMedian,
    /// `percentile_cont(p) WITHIN GROUP (ORDER BY x)`
    PercentileCont,
    /// `approx_percentile_cont(p) WITHIN GROUP (ORDER BY x)`: the exact percentile.
    ApproxPercentileCont,
    /// `approx_percentile_cont_with_weight(weight, p) WITHIN GROUP (ORDER BY x)`: exact, weights as frequencies.
    ApproxPercentileContWithWeight,
    /// `first_value(x ORDER BY …)`
    FirstValue,
    /// `last_value(x ORDER BY …)`
    LastValue,
    /// `nth_value(x, n ORDER BY …)`, from the end where `n` is negative.
    NthValue,
    /// `array_agg(x ORDER BY …)`
    ArrayAgg,
    /// `string_agg(x, delimiter ORDER BY …)`
    StringAgg,
    /// One that is written elsewhere.
    Own(&'static functions::Aggregate),
}

impl AggregateFunction {
    /// Returns its SQL name.
    pub fn name(self) -> &'static str {
        use AggregateFunction::*;
        match self {
            CountRows => "count(*)",
            Count => "count",
            ApproxDistinct => "approx_distinct",
            Sum => "sum",
            Avg => "avg",
            Min => "min",
            Max => "max",
            AnyValue => "any_value",
            VarianceSample => "var_samp",
            VariancePopulation => "var_pop",
            StddevSample => "stddev_samp",
            StddevPopulation => "stddev_pop",
            CovarianceSample => "covar_samp",
            CovariancePopulation => "covar_pop",
            Correlation => "corr",
            RegressionSlope => "regr_slope",
            RegressionIntercept => "regr_intercept",
            RegressionCount => "regr_count",
            RegressionR2 => "regr_r2",
            RegressionAvgX => "regr_avgx",
            RegressionAvgY => "regr_avgy",
            RegressionSxx => "regr_sxx",
            RegressionSyy => "regr_syy",
            RegressionSxy => "regr_sxy",
            BoolAnd => "bool_and",
            BoolOr => "bool_or",
            BitAnd => "bit_and",
            BitOr => "bit_or",
            BitXor => "bit_xor",
            Median => "median",
            ApproxMedian => "approx_median",
            PercentileCont => "percentile_cont",
            ApproxPercentileCont => "approx_percentile_cont",
            ApproxPercentileContWithWeight => "approx_percentile_cont_with_weight",
            FirstValue => "first_value",
            LastValue => "last_value",
            NthValue => "nth_value",
            ArrayAgg => "array_agg",
            StringAgg => "string_agg",
            Own(aggregate) => aggregate.name,
        }
    }

    /// Returns how many of its leading arguments are read from rows; those after them are constants.
    pub fn columns(self) -> usize {
        use AggregateFunction::*;
        match self {
            NthValue | StringAgg | PercentileCont | ApproxPercentileCont => 1,
            ApproxPercentileContWithWeight => 2,
            Own(aggregate) => aggregate.columns,
            _ => usize::MAX,
        }
    }

    /// Tells whether an `ORDER BY` inside the call decides the result.
    pub fn is_ordered(self) -> bool {
        use AggregateFunction::*;
        matches!(self, FirstValue | LastValue | NthValue | ArrayAgg | StringAgg)
    }

    /// Tells whether it is of the ordered ones that read one end, where a value counts once anyway.
    pub fn is_end(self) -> bool {
        use AggregateFunction::*;
        matches!(self, Min | Max | AnyValue | FirstValue | LastValue)
    }

    /// Tells whether it sees to `DISTINCT` itself, or duplicates make no difference to it.
    pub fn minds_duplicates(self) -> bool {
        use AggregateFunction::*;
        if let Own(aggregate) = self {
            return aggregate.minds_duplicates;
        }
        !(self.is_end()
            || matches!(
                self,
                ApproxDistinct | BoolAnd | BoolOr | BitAnd | BitOr | NthValue | ArrayAgg | StringAgg
            ))
    }
}

impl fmt::Display for AggregateFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
