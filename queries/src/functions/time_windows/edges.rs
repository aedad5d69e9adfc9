//! The edges of the windows a time is in, as a list.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, ListArray, TimestampMicrosecondBuilder};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, TimeUnit, TimestampMicrosecondType};
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::grain;

/// Builds the function from a time to the starts of all windows of `size` that cover it, one every `slide`.
pub(super) fn hop_starts(slide_ns: i64, size_ns: i64, offset_ns: i64) -> ScalarUDF {
    edges("hop_starts", slide_ns, size_ns, offset_ns)
}

/// Builds the function from a time to the ends, one every `step`, that its window of `size` still has before it.
pub(super) fn cumulate_ends(step_ns: i64, size_ns: i64, offset_ns: i64) -> ScalarUDF {
    edges("cumulate_ends", step_ns, size_ns, offset_ns)
}

/// Tells whether a function is one of these, which never fail.
pub(crate) fn is_edge(function: &ScalarUDF) -> bool {
    function.inner().downcast_ref::<Edges>().is_some()
}

/// Returns how long the windows are of which a function finds the edges; none where it is another.
pub(crate) fn edge_size_us(function: &ScalarUDF) -> Option<i64> {
    Some(function.inner().downcast_ref::<Edges>()?.size)
}

/// Returns the first edge from which on those of a time, and of all later ones, are.
pub(crate) fn first_edge(function: &ScalarUDF, at: i64) -> Option<i64> {
    Some(function.inner().downcast_ref::<Edges>()?.of(at)?.0)
}

/// Returns the function from a time to the coarsest one that has the same edges; none where it is another function.
pub(crate) fn grain_of_edges(function: &ScalarUDF) -> Option<ScalarUDF> {
    let edges = function.inner().downcast_ref::<Edges>()?;
    // Both ends of every window are multiples of it.
    let (mut grain, mut rest) = (edges.size, edges.every);
    while rest != 0 {
        (grain, rest) = (rest, grain % rest);
    }
    Some(grain::grain(grain, edges.size, edges.offset))
}

fn edges(name: &'static str, every_ns: i64, size_ns: i64, offset_ns: i64) -> ScalarUDF {
    ScalarUDF::from(Edges {
        name,
        signature: Signature::user_defined(Volatility::Immutable),
        every: every_ns / 1_000,
        size: size_ns / 1_000,
        offset: offset_ns / 1_000,
    })
}

/// All in microseconds, counted from 1970 in UTC.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Edges {
    name: &'static str,
    signature: Signature,
    every: i64,
    size: i64,
    offset: i64,
}

impl Edges {
    /// Returns the first edge and how many there are, each `every` after the one before.
    fn of(&self, at: i64) -> Option<(i64, i64)> {
        let at = at.checked_sub(self.offset)?;
        match self.name {
            "hop_starts" => {
                // The earliest start is the first one after `at - size`.
                let first = at.checked_sub(self.size)?.div_euclid(self.every).checked_add(1)?;
                let last = at.div_euclid(self.every);
                let start = first.checked_mul(self.every)?.checked_add(self.offset)?;
                Some((start, last.checked_sub(first)?.checked_add(1)?))
            }
            _ => {
                let start = at.div_euclid(self.size).checked_mul(self.size)?;
                let passed = at.checked_sub(start)? / self.every;
                let end = start.checked_add((passed + 1).checked_mul(self.every)?)?;
                Some((end.checked_add(self.offset)?, self.size / self.every - passed))
            }
        }
        // The last edge must be a time, too.
        .filter(|(first, count)| {
            (count - 1)
                .checked_mul(self.every)
                .and_then(|span| first.checked_add(span))
                .is_some()
        })
    }
}

impl ScalarUDFImpl for Edges {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            // What follows the time is for those who read the plan.
            [DataType::Timestamp(TimeUnit::Microsecond, _), ..] => Ok(arguments.to_vec()),
            _ => plan_err!("{} takes a timestamp", self.name),
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new("item", arguments[0].clone(), true))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let times = args.args[0].to_array(args.number_rows)?;
        let times_of = times.as_primitive::<TimestampMicrosecondType>();
        let windows = usize::try_from(self.size / self.every).unwrap_or(0) + 1;
        let mut edges = TimestampMicrosecondBuilder::with_capacity(times.len() * windows);
        let mut lengths = Vec::with_capacity(times.len());
        let mut valid = Vec::with_capacity(times.len());
        for at in times_of {
            let found = at.and_then(|at| self.of(at));
            let (first, count) = found.unwrap_or((0, 0));
            for step in 0..count.max(0) {
                edges.append_value(first + step * self.every);
            }
            lengths.push(usize::try_from(count).unwrap_or(0));
            valid.push(found.is_some());
        }
        let edges: ArrayRef = Arc::new(edges.finish().with_data_type(times.data_type().clone()));
        let item = Arc::new(Field::new("item", times.data_type().clone(), true));
        let lists = ListArray::try_new(
            item,
            OffsetBuffer::from_lengths(lengths),
            edges,
            Some(NullBuffer::from(valid)),
        )?;
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn all(edges: &ScalarUDF, at_us: i64) -> Option<Vec<i64>> {
        let edges = edges.inner().downcast_ref::<Edges>().unwrap();
        let (first, count) = edges.of(at_us)?;
        Some((0..count).map(|step| first + step * edges.every).collect())
    }

    #[test]
    fn hops_cover_their_time() {
        let hops = hop_starts(2 * SECOND, 5 * SECOND, 0);
        assert_eq!(all(&hops, 0), Some(vec![-4_000_000, -2_000_000, 0]));
        assert_eq!(all(&hops, 1_000_000), Some(vec![-2_000_000, 0]));
        assert_eq!(all(&hops, -1), Some(vec![-4_000_000, -2_000_000]));
        // Gaps between windows.
        let gaps = hop_starts(10 * SECOND, 2 * SECOND, SECOND);
        assert_eq!(all(&gaps, 1_000_000), Some(vec![1_000_000]));
        assert_eq!(all(&gaps, 3_000_000), Some(vec![]));
        assert_eq!(all(&gaps, i64::MIN), None);
    }

    #[test]
    fn the_coarsest_time_has_the_same_edges() {
        let functions = [
            hop_starts(2 * SECOND, 5 * SECOND, 0),
            hop_starts(6 * SECOND, 4 * SECOND, SECOND),
            hop_starts(2 * SECOND, 10 * SECOND, -3 * SECOND),
            cumulate_ends(2 * SECOND, 6 * SECOND, SECOND),
        ];
        for function in &functions {
            let grain = grain_of_edges(function).unwrap();
            let mut coarser = 0;
            for at in (-20_000_000..20_000_000).step_by(250_000) {
                let coarse = grain::grain_of(&grain, at).unwrap();
                assert_eq!(all(function, at), all(function, coarse), "{at} {coarse}");
                assert!(coarse <= at);
                coarser += usize::from(coarse < at);
            }
            assert!(coarser > 100);
            for at in [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX] {
                assert_eq!(all(function, at), all(function, grain::grain_of(&grain, at).unwrap()));
            }
        }
    }

    #[test]
    fn cumulated_windows_end_later_and_later() {
        let ends = cumulate_ends(2 * SECOND, 6 * SECOND, 0);
        assert_eq!(all(&ends, 0), Some(vec![2_000_000, 4_000_000, 6_000_000]));
        assert_eq!(all(&ends, 1_999_999), Some(vec![2_000_000, 4_000_000, 6_000_000]));
        assert_eq!(all(&ends, 2_000_000), Some(vec![4_000_000, 6_000_000]));
        assert_eq!(all(&ends, -1), Some(vec![0]));
        assert_eq!(
            all(&cumulate_ends(2 * SECOND, 6 * SECOND, SECOND), 0),
            Some(vec![1_000_000])
        );
        assert_eq!(all(&ends, i64::MAX), None);
    }
}
