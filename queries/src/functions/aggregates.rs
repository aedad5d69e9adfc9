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
use datafusion::functions_aggregate::{average, first_last, min_max, stddev, sum, variance};
use datafusion::logical_expr::expr::AggregateFunctionParams;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, Signature, Volatility,
};

/// Returns the aggregates that replace DataFusion's of the same names.
pub(crate) fn functions() -> Vec<AggregateUDF> {
    use AggregateFunction::*;
    [
        (Sum, sum::sum_udaf()),
        (Avg, average::avg_udaf()),
        (Min, min_max::min_udaf()),
        (Max, min_max::max_udaf()),
        (VarianceSample, variance::var_samp_udaf()),
        (VariancePopulation, variance::var_pop_udaf()),
        (StddevSample, stddev::stddev_udaf()),
        (StddevPopulation, stddev::stddev_pop_udaf()),
        (FirstValue, first_last::first_value_udaf()),
        (LastValue, first_last::last_value_udaf()),
    ]
    .into_iter()
    .map(|(function, standard)| AggregateUDF::from(Shared::new(function, standard)))
    .collect()
}

/// Returns which aggregate a function is, if it is one of ours or a count.
pub(crate) fn function_of(function: &AggregateUDF) -> Option<AggregateFunction> {
    match function.inner().downcast_ref::<Shared>() {
        Some(shared) => Some(shared.function),
        None if function.name() == "count" => Some(AggregateFunction::Count),
        None => None,
    }
}

/// Tells whether an aggregate reads an end of an order, where duplicates make no difference.
pub(crate) fn ends(function: AggregateFunction) -> bool {
    use AggregateFunction::*;
    matches!(function, Min | Max | FirstValue | LastValue)
}

/// An aggregate with DataFusion's name and types and Sangam's values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shared {
    function: AggregateFunction,
    /// DataFusion's: its signature, its types, its windows and its `DISTINCT`.
    standard: Arc<AggregateUDF>,
    signature: Signature,
}

impl Shared {
    fn new(function: AggregateFunction, standard: Arc<AggregateUDF>) -> Self {
        let signature = match function {
            // Exact over doubles only; decimals are averaged as doubles.
            AggregateFunction::Avg => Signature::exact(vec![DataType::Float64], Volatility::Immutable),
            _ => standard.signature().clone(),
        };
        Shared {
            function,
            standard,
            signature,
        }
    }

    /// Returns our accumulator, able to take values back unless `append_only`; none where DataFusion's own must do.
    fn exact(&self, arguments: &AccumulatorArgs, append_only: bool) -> Option<Box<dyn aggregates::Accumulator>> {
        let order = arguments
            .order_bys
            .iter()
            .map(|order| Some((order.expr.data_type(arguments.schema).ok()?, order.options)))
            .collect::<Option<Vec<_>>>()?;
        let spec = AggregateSpec {
            function: self.function,
            argument: arguments.expr_fields.first().map(|field| field.data_type().clone()),
            distinct: arguments.is_distinct && !ends(self.function),
            order,
            ignore_nulls: arguments.ignore_nulls,
            append_only,
            output: arguments.return_field.data_type().clone(),
        };
        aggregates::accumulator(&spec).ok()
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
        &self.signature
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
        match self.function {
            AggregateFunction::FirstValue | AggregateFunction::LastValue => AggregateOrderSensitivity::Beneficial,
            _ => AggregateOrderSensitivity::Insensitive,
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
