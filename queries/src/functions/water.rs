//! The water-quality index of India's Central Pollution Control Board (CPCB).
//!
//! Source: the NSF index as modified by CPCB, as the Maharashtra Pollution
//! Control Board prints it ("Water Quality Status of Maharashtra 2023-24"):
//!
//! `WQI = 0.31·I(DO) + 0.28·I(FC) + 0.22·I(pH) + 0.19·I(BOD)`
//!
//! The published bands are not continuous at their joins; here a band owns its
//! upper edge and a class its lower one. Sub-indices are clamped to 0-100. NULL
//! in gives NULL out, NaN in NaN out.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray, cast::AsArray};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// The dissolved oxygen, in mg/l, that MPCB counts as full saturation.
const DO_SATURATION_MG_L: f64 = 6.5;

/// `wqi_cpcb(dissolved_oxygen_mg_l, faecal_coliform_mpn_100ml, ph, bod_mg_l)`: the index, 0 (worst) to 100 (best).
pub fn wqi_cpcb() -> ScalarUDF {
    numeric::<4>("wqi_cpcb", |[oxygen, coliform, ph, bod]| {
        index(oxygen, coliform, ph, bod)
    })
}

/// `wqi_do(dissolved_oxygen_mg_l)`: the sub-index of dissolved oxygen, from its share of 6.5 mg/l.
pub fn wqi_do() -> ScalarUDF {
    numeric::<1>("wqi_do", |[oxygen]| oxygen_index(oxygen))
}

/// `wqi_fc(faecal_coliform_mpn_100ml)`: the sub-index of faecal coliform; counts below 1 count as 1.
pub fn wqi_fc() -> ScalarUDF {
    numeric::<1>("wqi_fc", |[coliform]| coliform_index(coliform))
}

/// `wqi_ph(ph)`: the sub-index of pH.
pub fn wqi_ph() -> ScalarUDF {
    numeric::<1>("wqi_ph", |[ph]| ph_index(ph))
}

/// `wqi_bod(bod_mg_l)`: the sub-index of biochemical oxygen demand.
pub fn wqi_bod() -> ScalarUDF {
    numeric::<1>("wqi_bod", |[bod]| bod_index(bod))
}

/// `wqi_class(index)`: CPCB's words for an index: `Good to Excellent` (63 and more),
/// `Medium to Good` (50), `Bad` (38), `Bad to Very Bad` (less).
pub fn wqi_class() -> ScalarUDF {
    ScalarUDF::from(WaterFunction {
        name: "wqi_class",
        signature: Signature::exact(vec![DataType::Float64], Volatility::Immutable),
        output: DataType::Utf8,
        evaluate: |columns| {
            let index = columns[0].as_primitive::<Float64Type>();
            let classes: StringArray = index.iter().map(|index| class(index?)).collect();
            Arc::new(classes)
        },
    })
}

/// Returns the index of one sample.
pub fn index(oxygen: f64, coliform: f64, ph: f64, bod: f64) -> f64 {
    0.31 * oxygen_index(oxygen) + 0.28 * coliform_index(coliform) + 0.22 * ph_index(ph) + 0.19 * bod_index(bod)
}

fn oxygen_index(oxygen: f64) -> f64 {
    let saturation = 100.0 * oxygen / DO_SATURATION_MG_L;
    let index = match saturation {
        s if s.is_nan() => f64::NAN,
        s if s <= 40.0 => 0.18 + 0.66 * s,
        s if s <= 100.0 => -13.55 + 1.17 * s,
        s if s <= 140.0 => 163.34 - 0.62 * s,
        _ => 50.0,
    };
    index.clamp(0.0, 100.0)
}

fn coliform_index(coliform: f64) -> f64 {
    let index = match coliform {
        c if c.is_nan() => f64::NAN,
        c if c <= 1e3 => 97.2 - 26.6 * c.max(1.0).log10(),
        c if c <= 1e5 => 42.33 - 7.75 * c.log10(),
        _ => 2.0,
    };
    index.clamp(0.0, 100.0)
}

fn ph_index(ph: f64) -> f64 {
    let index = match ph {
        p if p.is_nan() => f64::NAN,
        p if p < 2.0 => 0.0,
        p if p <= 5.0 => 16.1 + 7.35 * p,
        p if p <= 7.3 => -142.67 + 33.5 * p,
        p if p <= 10.0 => 316.96 - 29.85 * p,
        p if p <= 12.0 => 96.17 - 8.0 * p,
        _ => 0.0,
    };
    index.clamp(0.0, 100.0)
}

fn bod_index(bod: f64) -> f64 {
    let index = match bod {
        b if b.is_nan() => f64::NAN,
        b if b <= 10.0 => 96.67 - 7.0 * b,
        b if b <= 30.0 => 38.9 - 1.23 * b,
        _ => 2.0,
    };
    index.clamp(0.0, 100.0)
}

fn class(index: f64) -> Option<&'static str> {
    match index {
        i if i.is_nan() => None,
        i if i >= 63.0 => Some("Good to Excellent"),
        i if i >= 50.0 => Some("Medium to Good"),
        i if i >= 38.0 => Some("Bad"),
        _ => Some("Bad to Very Bad"),
    }
}

type Evaluate = fn(&[ArrayRef]) -> ArrayRef;

/// A function of doubles.
#[derive(Debug)]
struct WaterFunction {
    name: &'static str,
    signature: Signature,
    output: DataType,
    evaluate: Evaluate,
}

// The name tells them apart; function pointers have no dependable identity.
impl PartialEq for WaterFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for WaterFunction {}

impl std::hash::Hash for WaterFunction {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for WaterFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.output.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        Ok(ColumnarValue::Array((self.evaluate)(&columns)))
    }
}

/// Wraps a formula over `N` doubles; a NULL among them makes the result NULL.
fn numeric<const N: usize>(name: &'static str, formula: fn([f64; N]) -> f64) -> ScalarUDF {
    ScalarUDF::from(Formula::<N> {
        name,
        signature: Signature::exact(vec![DataType::Float64; N], Volatility::Immutable),
        formula,
    })
}

#[derive(Debug)]
struct Formula<const N: usize> {
    name: &'static str,
    signature: Signature,
    formula: fn([f64; N]) -> f64,
}

impl<const N: usize> PartialEq for Formula<N> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl<const N: usize> Eq for Formula<N> {}

impl<const N: usize> std::hash::Hash for Formula<N> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl<const N: usize> ScalarUDFImpl for Formula<N> {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let columns: [&Float64Array; N] = std::array::from_fn(|column| columns[column].as_primitive::<Float64Type>());
        let rows = columns[0].len();
        let values: Float64Array = (0..rows)
            .map(|row| {
                let mut inputs = [0.0; N];
                for (input, column) in inputs.iter_mut().zip(columns) {
                    *input = if arrow::array::Array::is_null(column, row) {
                        return None;
                    } else {
                        column.value(row)
                    };
                }
                Some((self.formula)(inputs))
            })
            .collect();
        Ok(ColumnarValue::Array(Arc::new(values)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 0.005, "{actual} is not {expected}");
    }

    #[test]
    fn the_published_sample() {
        near(bod_index(2.2), 81.27);
        near(oxygen_index(5.5), 85.45);
        near(coliform_index(6.0), 76.50);
        near(ph_index(7.6), 90.10);
        near(index(5.5, 6.0, 7.6, 2.2), 83.17);
    }

    #[test]
    fn a_band_owns_its_upper_edge() {
        near(oxygen_index(2.6), 26.58);
        near(oxygen_index(6.5), 103.45_f64.min(100.0));
        near(oxygen_index(9.1), 76.54);
        near(oxygen_index(9.2), 50.0);
        near(coliform_index(1e3), 17.4);
        near(coliform_index(1e5), 3.58);
        near(coliform_index(1e5 + 1.0), 2.0);
        near(ph_index(5.0), 52.85);
        near(ph_index(7.3), 100.0);
        near(ph_index(10.0), 18.46);
        near(ph_index(12.0), 0.17);
        near(bod_index(10.0), 26.67);
        near(bod_index(30.0), 2.0);
    }

    #[test]
    fn extremes_are_clamped() {
        near(oxygen_index(-3.0), 0.0);
        near(coliform_index(0.0), 97.2);
        near(ph_index(1.99), 0.0);
        near(ph_index(12.01), 0.0);
        near(bod_index(-5.0), 100.0);
        near(bod_index(1e9), 2.0);
        assert!(index(f64::NAN, 1.0, 7.0, 1.0).is_nan());
    }

    #[test]
    fn a_class_owns_its_lower_edge() {
        assert_eq!(class(63.0), Some("Good to Excellent"));
        assert_eq!(class(62.99), Some("Medium to Good"));
        assert_eq!(class(50.0), Some("Medium to Good"));
        assert_eq!(class(38.0), Some("Bad"));
        assert_eq!(class(37.99), Some("Bad to Very Bad"));
        assert_eq!(class(f64::NAN), None);
    }
}
