//! Compares the rows a test expects with the rows there are.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;

use crate::cli::table;

/// What differs between two multisets of rows of one schema.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Difference {
    /// Rows expected and not there.
    pub(super) missing: Vec<Vec<String>>,
    /// Rows there and not expected.
    pub(super) unexpected: Vec<Vec<String>>,
}

impl Difference {
    pub(super) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty()
    }

    /// Lays the difference out under the columns' names: `-` missing, `+` unexpected.
    pub(super) fn print(&self, schema: &SchemaRef) -> String {
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let mut lines = vec![(' ', &names)];
        lines.extend(self.missing.iter().map(|row| ('-', row)));
        lines.extend(self.unexpected.iter().map(|row| ('+', row)));
        let width = |column: usize| {
            lines
                .iter()
                .map(|(_, cells)| cells[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..names.len()).map(width).collect();
        let mut text = String::new();
        for (sign, cells) in &lines {
            let mut line = format!("{sign} ");
            for (cell, width) in cells.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Finds the rows of `expected` and `found` that have no partner in the other.
///
/// Cells are compared by their text, which is exact for every type; floats by
/// value, at most `tolerance` apart.
pub(super) fn difference(
    schema: &SchemaRef,
    expected: &[RecordBatch],
    found: &[RecordBatch],
    tolerance: f64,
) -> Result<Difference, ArrowError> {
    let is_float: Vec<bool> = schema
        .fields()
        .iter()
        .map(|field| matches!(field.data_type(), DataType::Float32 | DataType::Float64))
        .collect();
    let rows = |batches: &[RecordBatch]| -> Result<Vec<Vec<String>>, ArrowError> {
        let mut rows = Vec::new();
        for batch in batches {
            rows.extend(table::cells(batch)?);
        }
        // Exact partners first: a row within the tolerance must not take one away.
        rows.sort();
        Ok(rows)
    };
    let mut unexpected = rows(found)?;
    let mut missing = rows(expected)?;
    for tolerance in [0.0, tolerance] {
        missing.retain(|row| {
            let partner = unexpected
                .iter()
                .position(|found| is_same(row, found, &is_float, tolerance));
            if let Some(partner) = partner {
                unexpected.remove(partner);
            }
            partner.is_none()
        });
    }
    Ok(Difference { missing, unexpected })
}

fn is_same(left: &[String], right: &[String], is_float: &[bool], tolerance: f64) -> bool {
    left.iter()
        .zip(right)
        .zip(is_float)
        .all(|((left, right), is_float)| left == right || (*is_float && is_near(left, right, tolerance)))
}

fn is_near(left: &str, right: &str, tolerance: f64) -> bool {
    match (left.parse::<f64>(), right.parse::<f64>()) {
        // Equality covers infinities and the two zeros, whose difference says nothing.
        (Ok(left), Ok(right)) => left == right || (left - right).abs() <= tolerance,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, StringArray};

    use super::*;

    fn batch(rows: &[(&str, Option<f64>)]) -> RecordBatch {
        let names = StringArray::from_iter_values(rows.iter().map(|(name, _)| *name));
        let values: Float64Array = rows.iter().map(|(_, value)| *value).collect();
        RecordBatch::try_from_iter([
            ("name", Arc::new(names) as ArrayRef),
            ("value", Arc::new(values) as ArrayRef),
        ])
        .unwrap()
    }

    fn compare(expected: &[(&str, Option<f64>)], found: &[(&str, Option<f64>)], tolerance: f64) -> Difference {
        let expected = batch(expected);
        difference(&expected.schema(), &[expected], &[batch(found)], tolerance).unwrap()
    }

    #[test]
    fn order_does_not_matter_and_multiplicity_does() {
        assert!(compare(&[("a", Some(1.0)), ("b", None)], &[("b", None), ("a", Some(1.0))], 0.0).is_empty());
        let difference = compare(&[("a", Some(1.0))], &[("a", Some(1.0)), ("a", Some(1.0))], 0.0);
        assert_eq!(difference.unexpected.len(), 1);
    }

    #[test]
    fn floats_are_exact_unless_a_tolerance_is_given() {
        let (sum, written) = (0.1 + 0.2, 0.3);
        assert!(!compare(&[("a", Some(sum))], &[("a", Some(written))], 0.0).is_empty());
        assert!(compare(&[("a", Some(sum))], &[("a", Some(written))], 1e-9).is_empty());
        assert!(compare(&[("a", Some(-0.0))], &[("a", Some(0.0))], 0.0).is_empty());
        assert!(compare(&[("a", Some(f64::NAN))], &[("a", Some(f64::NAN))], 0.0).is_empty());
        assert!(!compare(&[("a", None)], &[("a", Some(0.0))], 1.0).is_empty());
    }

    #[test]
    fn a_near_row_does_not_take_an_exact_partner() {
        let expected = [("a", Some(1.0)), ("a", Some(1.05))];
        let found = [("a", Some(1.05)), ("a", Some(1.15))];
        assert_eq!(compare(&expected, &found, 0.1).missing.len(), 1);
        let found = [("a", Some(0.95)), ("a", Some(1.0))];
        assert!(compare(&expected[..1], &found[1..], 0.1).is_empty());
    }

    #[test]
    fn the_difference_reads_as_one() {
        let difference = compare(&[("K1", Some(7.1))], &[("K1", Some(7.2))], 0.0);
        let text = difference.print(&batch(&[]).schema());
        assert_eq!(text, "  name  value\n- K1    7.1\n+ K1    7.2\n");
    }
}
