//! Distances on the Earth.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Float64Array};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// The Earth's mean radius R1 = (2a + b) / 3 of WGS 84 (H. Moritz, "Geodetic Reference System 1980", Journal of
/// Geodesy 74, 2000), in kilometres.
const EARTH_RADIUS_KM: f64 = 6371.0088;

/// `great_circle_km(latitude, longitude, latitude, longitude)`: the distance of two points in kilometres, from degrees.
///
/// On a sphere of the Earth's mean radius, by the haversine formula (R. W.
/// Sinnott, "Virtues of the Haversine", Sky and Telescope 68, 1984): at most 0.6 %
/// off the distance on the ellipsoid. NULL in gives NULL out; what is no latitude
/// (beyond ±90°) or not finite gives NaN. Longitudes may be any turn of the circle.
pub fn great_circle_km() -> ScalarUDF {
    ScalarUDF::from(GreatCircle {
        signature: Signature::exact(vec![DataType::Float64; 4], Volatility::Immutable),
    })
}

/// Returns the distance of two points in kilometres.
pub fn distance_km(from: (f64, f64), to: (f64, f64)) -> f64 {
    if !(from.0.abs() <= 90.0 && to.0.abs() <= 90.0) {
        return f64::NAN;
    }
    let half_sine = |degrees: f64| (degrees.to_radians() / 2.0).sin().powi(2);
    let chord =
        half_sine(to.0 - from.0) + from.0.to_radians().cos() * to.0.to_radians().cos() * half_sine(to.1 - from.1);
    // Rounding may put antipodes a hair beyond one.
    2.0 * EARTH_RADIUS_KM * chord.clamp(0.0, 1.0).sqrt().asin()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct GreatCircle {
    signature: Signature,
}

impl ScalarUDFImpl for GreatCircle {
    fn name(&self) -> &str {
        "great_circle_km"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let degrees: Vec<&Float64Array> = arrays.iter().map(|array| array.as_primitive::<Float64Type>()).collect();
        let distances: Float64Array = (0..degrees[0].len())
            .map(|row| {
                let [from_lat, from_lon, to_lat, to_lon] =
                    [0, 1, 2, 3].map(|at| degrees[at].is_valid(row).then(|| degrees[at].value(row)));
                Some(distance_km((from_lat?, from_lon?), (to_lat?, to_lon?)))
            })
            .collect();
        Ok(ColumnarValue::Array(Arc::new(distances)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_known_places() {
        // A quarter of the way round, from the equator to the pole.
        let quarter = std::f64::consts::FRAC_PI_2 * EARTH_RADIUS_KM;
        assert!((distance_km((0.0, 0.0), (90.0, 12.0)) - quarter).abs() < 1e-9);
        // Halfway round, whichever way; there the formula is good to a metre or so.
        assert!((distance_km((10.0, 20.0), (-10.0, -160.0)) - 2.0 * quarter).abs() < 1e-3);
        // Nashville to Los Angeles, the example of many texts: 2,886.45 km with 6371.0088 km.
        let found = distance_km((36.12, -86.67), (33.94, -118.40));
        assert!((found - 2886.448).abs() < 0.01, "{found}");
        assert_eq!(distance_km((5.0, 180.0), (5.0, -180.0)).round(), 0.0);
        assert_eq!(distance_km((1.0, 2.0), (1.0, 2.0)), 0.0);
    }

    #[test]
    fn what_is_no_place_has_no_distance() {
        assert!(distance_km((91.0, 0.0), (0.0, 0.0)).is_nan());
        assert!(distance_km((f64::NAN, 0.0), (0.0, 0.0)).is_nan());
        assert!(distance_km((0.0, f64::INFINITY), (0.0, 0.0)).is_nan());
    }
}
