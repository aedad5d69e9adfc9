//! What many changes come to: each row once, with the sum of its diffs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::error::ArrowError;
use arrow::row::{Row, RowConverter};
use foldhash::fast::RandomState;

/// A row that is there more often, or less often, than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// A row of the batch that stands for all its equals.
    pub(super) row: usize,
    /// How many more of it there are; never zero.
    pub(super) diff: i64,
}

/// Sums the diffs of equal rows and drops what comes to nothing.
///
/// Rows are equal when their bytes are, so `-0.0` and `0.0` are two rows. The
/// order is that of each row's first change.
pub(super) fn net(converter: &RowConverter, rows: &RecordBatch, diffs: &[i64]) -> Result<Vec<Change>, ArrowError> {
    if let ([diff], 1) = (diffs, rows.num_rows()) {
        return Ok(if *diff == 0 {
            Vec::new()
        } else {
            vec![Change { row: 0, diff: *diff }]
        });
    }
    let encoded = converter.convert_columns(rows.columns())?;
    let mut seen: HashMap<Row<'_>, usize, RandomState> =
        HashMap::with_capacity_and_hasher(diffs.len(), RandomState::default());
    let mut changes: Vec<Change> = Vec::new();
    for (position, (row, &diff)) in encoded.iter().zip(diffs).enumerate() {
        match seen.entry(row) {
            Entry::Occupied(slot) => changes[*slot.get()].diff += diff,
            Entry::Vacant(slot) => {
                slot.insert(changes.len());
                changes.push(Change { row: position, diff });
            }
        }
    }
    changes.retain(|change| change.diff != 0);
    Ok(changes)
}

/// Splits changes of a relation with a key: the rows now standing under a changed
/// key, and a row for each key that stands no more.
pub(super) fn by_key(
    converter: &RowConverter,
    key: &[ArrayRef],
    changes: &[Change],
) -> Result<(Vec<usize>, Vec<usize>), ArrowError> {
    let upserts: Vec<usize> = changes
        .iter()
        .filter(|change| change.diff > 0)
        .map(|change| change.row)
        .collect();
    let mut deletes: Vec<usize> = changes
        .iter()
        .filter(|change| change.diff < 0)
        .map(|change| change.row)
        .collect();
    if !deletes.is_empty() {
        // A removed row whose key came back was replaced; and a key is deleted once.
        let encoded = converter.convert_columns(key)?;
        let mut told: HashMap<Row<'_>, (), RandomState> = upserts.iter().map(|&row| (encoded.row(row), ())).collect();
        deletes.retain(|&row| told.insert(encoded.row(row), ()).is_none());
    }
    Ok((upserts, deletes))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, StringArray};
    use arrow::row::SortField;

    use super::*;

    fn rows(rows: &[(&str, f64)]) -> RecordBatch {
        RecordBatch::try_from_iter([
            (
                "k",
                Arc::new(rows.iter().map(|row| Some(row.0)).collect::<StringArray>()) as ArrayRef,
            ),
            (
                "v",
                Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.1))),
            ),
        ])
        .unwrap()
    }

    fn converter(batch: &RecordBatch, columns: usize) -> RowConverter {
        let fields = batch
            .schema()
            .fields()
            .iter()
            .take(columns)
            .map(|field| SortField::new(field.data_type().clone()))
            .collect();
        RowConverter::new(fields).unwrap()
    }

    fn netted(batch: &RecordBatch, diffs: &[i64]) -> Vec<(usize, i64)> {
        let changes = net(&converter(batch, 2), batch, diffs).unwrap();
        changes.iter().map(|change| (change.row, change.diff)).collect()
    }

    #[test]
    fn what_comes_and_goes_is_nothing() {
        let batch = rows(&[("a", 1.0), ("b", 1.0), ("a", 1.0), ("a", 2.0), ("a", 2.0)]);
        assert_eq!(netted(&batch, &[1, 1, -1, 1, 1]), [(1, 1), (3, 2)]);
        assert_eq!(netted(&batch, &[-1, 1, 1, 0, 0]), [(1, 1)]);
        assert_eq!(netted(&batch.slice(0, 0), &[]), []);
        assert_eq!(netted(&batch.slice(0, 1), &[0]), []);
        assert_eq!(netted(&batch.slice(0, 1), &[-2]), [(0, -2)]);
    }

    #[test]
    fn rows_are_told_apart_by_their_bytes() {
        let batch = rows(&[("a", 0.0), ("a", -0.0), ("a", f64::NAN), ("a", f64::NAN)]);
        assert_eq!(netted(&batch, &[1, -1, 1, 1]), [(0, 1), (1, -1), (2, 2)]);
    }

    #[test]
    fn a_replaced_key_is_no_deletion() {
        let batch = rows(&[("a", 1.0), ("a", 2.0), ("b", 1.0), ("c", 1.0), ("b", 5.0)]);
        let diffs = [-1, 1, -1, 1, -1];
        let changes = net(&converter(&batch, 2), &batch, &diffs).unwrap();
        let key = &batch.columns()[..1];
        assert_eq!(
            by_key(&converter(&batch, 1), key, &changes).unwrap(),
            (vec![1, 3], vec![2])
        );
    }
}
