//! Keeps DataFusion from estimating how many rows pass a filter.
//!
//! The estimate computes with intervals, whose types it gets wrong for products of decimals, among others: then
//! the query fails over a figure that nothing here asks for. It leaves calls of functions alone.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Filter, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// Puts every filter's predicate into a call that gives it back.
pub(super) fn opaque(plan: LogicalPlan) -> Result<LogicalPlan> {
    let function = ScalarUDF::from(AsItIs {
        signature: Signature::exact(vec![DataType::Boolean], Volatility::Immutable),
    });
    let plan = plan.transform_up_with_subqueries(|plan| {
        let LogicalPlan::Filter(Filter { predicate, input, .. }) = plan else {
            return Ok(Transformed::no(plan));
        };
        let predicate = function.call(vec![predicate]);
        Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(
            predicate, input,
        )?)))
    })?;
    Ok(plan.data)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AsItIs {
    signature: Signature,
}

impl ScalarUDFImpl for AsItIs {
    fn name(&self) -> &str {
        "__as_it_is"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(args.args.swap_remove(0))
    }
}
