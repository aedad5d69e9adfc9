//! One form for every float key: `-0.0` becomes `0.0`, every NaN the same NaN.
//!
//! Keys are compared by their bytes, and DataFusion keeps NaNs of different
//! bits apart; the rewrite `rewrites::canonical` puts this around float keys.

use std::sync::Arc;

use arrow::array::{ArrayRef, cast::AsArray};
use arrow::datatypes::{DataType, Field, FieldRef, Float16Type, Float32Type, Float64Type};
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The function's name, which no operator would write.
pub(crate) const NAME: &str = "__canonical";

/// Wraps a float expression.
pub(crate) fn canonical(expression: Expr) -> Expr {
    ScalarUDF::from(Canonical::default()).call(vec![expression])
}

/// Builds the function, for the registry.
pub(crate) fn function() -> ScalarUDF {
    ScalarUDF::from(Canonical::default())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Canonical {
    signature: Signature,
}

impl Default for Canonical {
    fn default() -> Self {
        Canonical {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for Canonical {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> Result<FieldRef> {
        let argument = &arguments.arg_fields[0];
        // What may not be NULL still may not: the terms of a recursion are compared.
        Ok(Arc::new(Field::new(
            NAME,
            argument.data_type().clone(),
            argument.is_nullable(),
        )))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let column: ArrayRef = match columns[0].data_type() {
            // Adding zero folds -0.0 into 0.0.
            DataType::Float64 => Arc::new(
                columns[0]
                    .as_primitive::<Float64Type>()
                    .unary::<_, Float64Type>(|x| if x.is_nan() { f64::NAN } else { x + 0.0 }),
            ),
            DataType::Float32 => Arc::new(
                columns[0]
                    .as_primitive::<Float32Type>()
                    .unary::<_, Float32Type>(|x| if x.is_nan() { f32::NAN } else { x + 0.0 }),
            ),
            DataType::Float16 => {
                let zero = <Float16Type as arrow::datatypes::ArrowPrimitiveType>::Native::default();
                Arc::new(
                    columns[0]
                        .as_primitive::<Float16Type>()
                        .unary::<_, Float16Type>(|x| if x == zero { zero } else { x }),
                )
            }
            other => return exec_err!("{NAME} is for floats, not for {other}"),
        };
        Ok(ColumnarValue::Array(column))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Float64Array;

    use super::*;

    #[test]
    fn folds_zeros_and_nans() {
        let odd_nan = f64::from_bits(0xfff8_0000_0000_1234);
        let column: ArrayRef = Arc::new(Float64Array::from(vec![Some(-0.0), Some(odd_nan), None, Some(-1.5)]));
        let field = Arc::new(Field::new("x", DataType::Float64, true));
        let arguments = ScalarFunctionArgs {
            args: vec![ColumnarValue::Array(column)],
            arg_fields: vec![field.clone()],
            number_rows: 4,
            return_field: field,
            config_options: Arc::default(),
        };
        let result = function().invoke_with_args(arguments).unwrap().into_array(4).unwrap();
        let bits: Vec<_> = result
            .as_primitive::<Float64Type>()
            .iter()
            .map(|x| x.map(f64::to_bits))
            .collect();
        assert_eq!(
            bits,
            [Some(0), Some(f64::NAN.to_bits()), None, Some((-1.5f64).to_bits())]
        );
    }
}
