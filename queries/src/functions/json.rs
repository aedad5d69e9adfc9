//! Functions and operators of texts that hold JSON: `->`, `->>`, `?`, `json_get_int`, …
//!
//! `->` answers with whatever stands there: a value of no one type, which may be
//! taken further apart or compared, but neither leave a view nor be kept. What
//! leaves becomes text that holds JSON (`rewrites::plain_types`).

use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::Expr;
use datafusion_functions_json::JSON_UNION_DATA_TYPE;

/// Registers all of them.
pub(crate) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    datafusion_functions_json::register_all(registry)
}

/// Tells whether a type is what `->` answers with.
pub(crate) fn is_any(data_type: &DataType) -> bool {
    *data_type == *JSON_UNION_DATA_TYPE
}

/// Returns the JSON of what `->` answered with as text.
pub(crate) fn as_text(value: Expr) -> Expr {
    datafusion_functions_json::udfs::json_union_to_text_udf().call(vec![value])
}
