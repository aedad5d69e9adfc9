//! `now()`: the tick's time, for views, audits and queries alike.
//!
//! It is never evaluated as a function: views turn it into temporal filters,
//! and batch replaces it by the tick before anything runs.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The function's name.
const NAME: &str = "now";

/// Builds the function for a time zone.
pub(crate) fn function(time_zone: &Arc<str>) -> ScalarUDF {
    ScalarUDF::from(Now {
        // Stable, so that filters with it are pushed down; DataFusion tries to
        // fold stable functions and keeps those that refuse to be invoked.
        signature: Signature::nullary(Volatility::Stable),
        aliases: vec!["current_timestamp".to_owned()],
        time_zone: time_zone.clone(),
    })
}

/// Tells whether an expression is a call of `now()`.
pub(crate) fn is_now(expression: &Expr) -> bool {
    matches!(expression, Expr::ScalarFunction(ScalarFunction { func, .. }) if func.name() == NAME)
}

/// Tells whether `now()` stands anywhere in an expression.
pub(crate) fn mentions_now(expression: &Expr) -> bool {
    use datafusion::common::tree_node::TreeNode;
    expression.exists(|part| Ok(is_now(part))).unwrap_or(false)
}

/// Returns a literal of `now()`'s type.
pub(crate) fn literal(at_us: i64, time_zone: &Arc<str>) -> Expr {
    Expr::Literal(
        ScalarValue::TimestampMicrosecond(Some(at_us), Some(time_zone.clone())),
        None,
    )
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Now {
    signature: Signature,
    aliases: Vec<String>,
    time_zone: Arc<str>,
}

impl ScalarUDFImpl for Now {
    fn name(&self) -> &str {
        NAME
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, Some(self.time_zone.clone())))
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(NAME, self.return_type(&[])?, false)))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("now() stands for the tick and was not replaced by it")
    }
}
