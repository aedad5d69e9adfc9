//! The coarsest time that is in the same windows as a time.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// Nearer to 1970 than this, in microseconds, no sum of a time, an offset and a size overflows.
const FAR_US: i64 = 1 << 60;

/// Builds the function from a time to the last multiple of `grain_us`, counted from `offset_us`, that is not after it.
///
/// A time so far out that an edge of its windows might be out of range stays as it is.
pub(super) fn grain(grain_us: i64, size_us: i64, offset_us: i64) -> ScalarUDF {
    ScalarUDF::from(Grain {
        signature: Signature::user_defined(Volatility::Immutable),
        grain_us,
        size_us,
        offset_us,
    })
}

/// Returns what the function makes of a time; none where it is another function.
pub(crate) fn grain_of(function: &ScalarUDF, at: i64) -> Option<i64> {
    Some(function.inner().downcast_ref::<Grain>()?.of(at))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Grain {
    signature: Signature,
    grain_us: i64,
    size_us: i64,
    offset_us: i64,
}

impl Grain {
    fn of(&self, at: i64) -> i64 {
        let near = |us: i64| us.unsigned_abs() < FAR_US as u64;
        match near(at) && near(self.size_us) && near(self.offset_us) {
            true => at - (at - self.offset_us).rem_euclid(self.grain_us),
            false => at,
        }
    }
}

impl ScalarUDFImpl for Grain {
    fn name(&self) -> &str {
        "window_grain"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [DataType::Timestamp(TimeUnit::Microsecond, _)] => Ok(arguments.to_vec()),
            _ => plan_err!("window_grain takes a timestamp"),
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let times = args.args[0].to_array(args.number_rows)?;
        let coarse = times.as_primitive::<TimestampMicrosecondType>().unary(|at| self.of(at));
        let coarse: arrow::array::PrimitiveArray<TimestampMicrosecondType> = coarse;
        Ok(ColumnarValue::Array(Arc::new(
            coarse.with_data_type(times.data_type().clone()),
        )))
    }
}
