//! The aggregates that both engines compute with the same code.
//!
//! They take the names of DataFusion's own: what these accept and return stays,
//! but the values are kept by `dataflows::aggregates`, with every diff `+1`. So
//! a batch answer depends neither on the order of rows nor on partitions.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::datatypes::{DataType, FieldRef};
use dataflows::aggregates::{self, AggregateSpec};
use dataflows::plan::AggregateFunction;
use datafusion::common::{ScalarValue, not_impl_err};
use datafusion::error::Result;
use datafusion::functions_aggregate::{
    any_value, approx_distinct, approx_median, approx_percentile_cont, approx_percentile_cont_with_weight, array_agg,
    average, bit_and_or_xor, bool_and_or, correlation, count, covariance, first_last, median, min_max, nth_value,
    percentile_cont, regr, stddev, string_agg, sum, variance,
};
use datafusion::logical_expr::expr::AggregateFunctionParams;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, Signature, StatisticsArgs,
};
use datafusion::physical_expr::expressions::Literal;

use super::kinds::aggregate::Aggregate;
use crate::problem::Problem;

/// Returns the aggregates that replace DataFusion's of the same names.
pub(crate) fn functions() -> Vec<AggregateUDF> {
    use AggregateFunction::*;
    [
        (Count, count::count_udaf()),
        (ApproxDistinct, approx_distinct::approx_distinct_udaf()),
        (Sum, sum::sum_udaf()),
        (Avg, average::avg_udaf()),
        (Min, min_max::min_udaf()),
        (Max, min_max::max_udaf()),
        (AnyValue, any_value::any_value_udaf()),
        (VarianceSample, variance::var_samp_udaf()),
        (VariancePopulation, variance::var_pop_udaf()),
        (StddevSample, stddev::stddev_udaf()),
        (StddevPopulation, stddev::stddev_pop_udaf()),
        (CovarianceSample, covariance::covar_samp_udaf()),
        (CovariancePopulation, covariance::covar_pop_udaf()),
        (Correlation, correlation::corr_udaf()),
        (RegressionSlope, regr::regr_slope_udaf()),
        (RegressionIntercept, regr::regr_intercept_udaf()),
        (RegressionCount, regr::regr_count_udaf()),
        (RegressionR2, regr::regr_r2_udaf()),
        (RegressionAvgX, regr::regr_avgx_udaf()),
        (RegressionAvgY, regr::regr_avgy_udaf()),
        (RegressionSxx, regr::regr_sxx_udaf()),
        (RegressionSyy, regr::regr_syy_udaf()),
        (RegressionSxy, regr::regr_sxy_udaf()),
        (BoolAnd, bool_and_or::bool_and_udaf()),
        (BoolOr, bool_and_or::bool_or_udaf()),
        (BitAnd, bit_and_or_xor::bit_and_udaf()),
        (BitOr, bit_and_or_xor::bit_or_udaf()),
        (BitXor, bit_and_or_xor::bit_xor_udaf()),
        (Median, median::median_udaf()),
        (ApproxMedian, approx_median::approx_median_udaf()),
        (PercentileCont, percentile_cont::percentile_cont_udaf()),
        (
            ApproxPercentileCont,
            approx_percentile_cont::approx_percentile_cont_udaf(),
        ),
        (
            ApproxPercentileContWithWeight,
            approx_percentile_cont_with_weight::approx_percentile_cont_with_weight_udaf(),
        ),
        (FirstValue, first_last::first_value_udaf()),
        (LastValue, first_last::last_value_udaf()),
        (NthValue, nth_value::nth_value_udaf()),
        (ArrayAgg, array_agg::array_agg_udaf()),
        (StringAgg, string_agg::string_agg_udaf()),
    ]
    .into_iter()
    .map(|(function, standard)| AggregateUDF::from(Shared::new(function, standard)))
    .collect()
}

/// Returns an aggregate of ours.
pub(crate) fn own(aggregate: &'static Aggregate) -> AggregateUDF {
    let standard = Arc::new(AggregateUDF::from(aggregate.declared()));
    AggregateUDF::from(Shared::new(AggregateFunction::Own(&aggregate.shared), standard))
}

/// Returns which aggregate a function is, if it is one of ours or a count.
pub(crate) fn function_of(function: &AggregateUDF) -> Option<AggregateFunction> {
    match function.inner().downcast_ref::<Shared>() {
        Some(shared) => Some(shared.function),
        None if function.name() == "count" => Some(AggregateFunction::Count),
        None => None,
    }
}

/// Checks the constants after a call's columns, and brings them into the one form of both engines.
///
/// A percentile counted from above (`WITHIN GROUP (ORDER BY x DESC)`) becomes one counted from below.
pub(crate) fn parameters(
    function: AggregateFunction,
    mut constants: Vec<ScalarValue>,
    descending: bool,
) -> Result<Vec<ScalarValue>, Problem> {
    use AggregateFunction::*;
    if let Own(_) = function {
        return Ok(constants);
    }
    constants.truncate(1);
    match (function, constants.as_slice()) {
        (PercentileCont | ApproxPercentileCont | ApproxPercentileContWithWeight, [part]) => {
            let part = match part {
                ScalarValue::Float64(Some(part)) => Some(*part),
                ScalarValue::Float32(Some(part)) => Some(f64::from(*part)),
                _ => None,
            };
            let Some(part) = part.filter(|part| (0.0..=1.0).contains(part)) else {
                let hint = format!("Write {function}(0.9) WITHIN GROUP (ORDER BY x).");
                return Err(Problem::new(format!("the percentile of {function}() is not from 0 to 1")).hint(hint));
            };
            let part = if descending { 1.0 - part } else { part };
            Ok(vec![ScalarValue::Float64(Some(part))])
        }
        (NthValue, [ScalarValue::Int64(Some(at))]) if *at != 0 => Ok(constants),
        (NthValue, _) => Err(
            Problem::new("the position of nth_value() is not a whole number other than 0")
                .hint("Write nth_value(x, 2 ORDER BY at), or nth_value(x, -2 ORDER BY at) to count from the end."),
        ),
        (StringAgg, [delimiter]) if delimiter.is_null() || delimiter.try_as_str().is_some() => Ok(constants),
        (StringAgg, _) => {
            Err(Problem::new("the delimiter of string_agg() is not a constant text").hint("Write string_agg(x, ', ')."))
        }
        _ => Ok(Vec::new()),
    }
}

/// An aggregate with DataFusion's name and types and Sangam's values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shared {
    function: AggregateFunction,
    /// DataFusion's: its signature, its types, its windows and its `DISTINCT`.
    standard: Arc<AggregateUDF>,
}

impl Shared {
    fn new(function: AggregateFunction, standard: Arc<AggregateUDF>) -> Self {
        Shared { function, standard }
    }

    /// Returns our accumulator, able to take values back unless `append_only`; none where DataFusion's own must do.
    fn exact(&self, call: &AccumulatorArgs, append_only: bool) -> Option<Box<dyn aggregates::Accumulator>> {
        let mut order_bys = call.order_bys;
        if !self.function.is_ordered() {
            order_bys = &[];
        } else if order_bys.is_empty() {
            // `ties` completes every order but that of a window, which is the order of its rows.
            return None;
        } else if let [before @ .., last] = order_bys
            // The argument, smallest first, ends every order anyway.
            && !before.is_empty()
            && call.exprs.first() == Some(&last.expr)
            && !last.options.descending
            && last.options.nulls_first
        {
            order_bys = before;
        }
        let by_argument = || matches!(order_bys, [order] if call.exprs.first() == Some(&order.expr));
        let ends = self.function.is_end();
        if call.is_distinct && !ends && !order_bys.is_empty() && !by_argument() {
            return None;
        }
        let order = order_bys
            .iter()
            .map(|order| Some((order.expr.data_type(call.schema).ok()?, order.options)))
            .collect::<Option<Vec<_>>>()?;
        let columns = self.function.columns().min(call.exprs.len());
        let constants = call.exprs[columns..]
            .iter()
            .map(|constant| {
                constant
                    .downcast_ref::<Literal>()
                    .map(|literal| literal.value().clone())
            })
            .collect::<Option<Vec<_>>>()?;
        let descending = call.order_bys.first().is_some_and(|order| order.options.descending);
        let spec = AggregateSpec {
            function: self.function,
            arguments: call.expr_fields[..columns]
                .iter()
                .map(|field| field.data_type().clone())
                .collect(),
            parameters: parameters(self.function, constants, descending).ok()?,
            distinct: call.is_distinct && !ends,
            order,
            ignore_nulls: call.ignore_nulls,
            append_only,
            output: call.return_field.data_type().clone(),
        };
        let inner = aggregates::accumulator(&spec).ok()?;
        Some(match call.exprs.len() - columns {
            0 => inner,
            constants => Box::new(Columns {
                inner,
                columns,
                constants,
            }),
        })
    }
}

/// Leaves the constants of a call out of what DataFusion hands over.
struct Columns {
    inner: Box<dyn aggregates::Accumulator>,
    columns: usize,
    constants: usize,
}

impl aggregates::Accumulator for Columns {
    fn resize(&mut self, groups: usize) {
        self.inner.resize(groups);
    }

    fn update(&mut self, groups: &[u32], arguments: &[ArrayRef], filter: Option<&BooleanArray>, diffs: &[i64]) {
        let order = &arguments[self.columns + self.constants..];
        let columns = [&arguments[..self.columns], order].concat();
        self.inner.update(groups, &columns, filter, diffs);
    }

    fn output(&self, groups: &[u32]) -> ArrayRef {
        self.inner.output(groups)
    }

    fn reset(&mut self, group: u32) {
        self.inner.reset(group);
    }

    fn bytes(&self) -> usize {
        self.inner.bytes()
    }
}

impl AggregateUDFImpl for Shared {
    fn name(&self) -> &str {
        self.standard.name()
    }

    fn aliases(&self) -> &[String] {
        self.standard.aliases()
    }

    fn signature(&self) -> &Signature {
        self.standard.signature()
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.standard.coerce_types(arguments)
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.standard.return_type(arguments)
    }

    fn return_field(&self, arguments: &[FieldRef]) -> Result<FieldRef> {
        self.standard.return_field(arguments)
    }

    fn is_nullable(&self) -> bool {
        self.standard.is_nullable()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.standard.schema_name(params)
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.standard.default_value(data_type)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.standard.supports_null_handling_clause()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.standard.documentation()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        // "Beneficial" hands the ORDER BY columns over without sorting the input.
        match self.function.is_ordered() {
            true => AggregateOrderSensitivity::Beneficial,
            false => AggregateOrderSensitivity::Insensitive,
        }
    }

    fn supports_within_group_clause(&self) -> bool {
        self.standard.supports_within_group_clause()
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs) -> Option<ScalarValue> {
        // Which of two zeros is the least, the statistics do not know.
        match self.function {
            AggregateFunction::Count => self.standard.value_from_stats(statistics),
            _ => None,
        }
    }

    fn with_beneficial_ordering(self: Arc<Self>, _: bool) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        Ok(Some(self))
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match self.exact(&arguments, true) {
            Some(inner) => Ok(Box::new(OneGroup {
                name: self.name().to_owned(),
                inner: Mutex::new(inner),
            })),
            None => self.standard.accumulator(arguments),
        }
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.standard.state_fields(arguments)
    }

    fn groups_accumulator_supported(&self, arguments: AccumulatorArgs) -> bool {
        self.exact(&arguments, true).is_some() || self.standard.groups_accumulator_supported(arguments)
    }

    fn create_groups_accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        match self.exact(&arguments, true) {
            Some(inner) => Ok(Box::new(Groups {
                name: self.name().to_owned(),
                inner,
                emitted: 0,
                groups: 0,
                ones: vec![],
            })),
            None => self.standard.create_groups_accumulator(arguments),
        }
    }

    fn create_sliding_accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match self.exact(&arguments, false) {
            Some(inner) => Ok(Box::new(OneGroup {
                name: self.name().to_owned(),
                inner: Mutex::new(inner),
            })),
            None => self.standard.create_sliding_accumulator(arguments),
        }
    }
}

/// Says that partial states never meet: `batch` plans every aggregation in one phase.
fn single_phase<T>(name: &str) -> Result<T> {
    not_impl_err!("{name} is computed in one phase and has no partial state")
}

/// Many groups at once.
struct Groups {
    name: String,
    inner: Box<dyn aggregates::Accumulator>,
    /// Groups already emitted: DataFusion numbers the rest from 0 again.
    emitted: usize,
    /// Groups not yet emitted.
    groups: usize,
    ones: Vec<i64>,
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        total_groups: usize,
    ) -> Result<()> {
        self.groups = total_groups;
        self.inner.resize(self.emitted + total_groups);
        let groups: Vec<u32> = group_indices
            .iter()
            .map(|group| (self.emitted + group) as u32)
            .collect();
        if self.ones.len() < groups.len() {
            self.ones.resize(groups.len(), 1);
        }
        self.inner.update(&groups, values, filter, &self.ones[..groups.len()]);
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let count = match emit_to {
            EmitTo::All => self.groups,
            EmitTo::First(count) => count,
        };
        let groups: Vec<u32> = (self.emitted as u32..(self.emitted + count) as u32).collect();
        let output = self.inner.output(&groups);
        groups.iter().for_each(|group| self.inner.reset(*group));
        self.emitted += count;
        self.groups -= count;
        Ok(output)
    }

    fn state(&mut self, _: EmitTo) -> Result<Vec<ArrayRef>> {
        single_phase(&self.name)
    }

    fn merge_batch(&mut self, _: &[ArrayRef], _: &[usize], _: usize) -> Result<()> {
        single_phase(&self.name)
    }

    fn convert_to_state(&self, _: &[ArrayRef], _: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        single_phase(&self.name)
    }

    fn size(&self) -> usize {
        self.inner.bytes()
    }
}

/// The one group of an aggregation without `GROUP BY`.
struct OneGroup {
    name: String,
    // DataFusion asks for `Sync`; the lock is never contended.
    inner: Mutex<Box<dyn aggregates::Accumulator>>,
}

impl OneGroup {
    fn inner(&mut self) -> &mut dyn aggregates::Accumulator {
        self.inner.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut()
    }
}

impl fmt::Debug for OneGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Accumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, |column| column.len());
        let inner = self.inner();
        inner.resize(1);
        inner.update(&vec![0; rows], values, None, &vec![1; rows]);
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, |column| column.len());
        let inner = self.inner();
        inner.resize(1);
        inner.update(&vec![0; rows], values, None, &vec![-1; rows]);
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let inner = self.inner();
        inner.resize(1);
        ScalarValue::try_from_array(&inner.output(&[0]), 0)
    }

    fn size(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).bytes()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        single_phase(&self.name)
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        single_phase(&self.name)
    }
}
