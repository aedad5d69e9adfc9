//! The one JSON encoder: rows of a batch as JSON objects, the same everywhere they leave.
//!
//! | SQL | JSON |
//! |---|---|
//! | NULL | `null` |
//! | boolean, text | boolean, string |
//! | integers | a number up to ±2^53, a string beyond: a reader with doubles would round it |
//! | real, double | the shortest number that reads back the same; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | decimal | a string with all digits of its scale |
//! | timestamp | RFC 3339 in UTC, `"2026-01-02T03:04:05Z"`, with a fraction of 3, 6 or 9 digits where there is one; without a zone it counts as UTC |
//! | date, time | ISO 8601 |
//! | binary | lower-case hexadecimal |
//! | list, struct, map | array, object, object |
//! | interval and the rest | Arrow's text form as a string |
//!
//! Columns are bound once a batch, so that a row costs one `match` a cell and no
//! allocation.

mod cells;
mod text;

use std::collections::HashSet;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

use cells::Cells;

/// Encodes rows of one schema as JSON objects.
///
/// ```
/// # use std::sync::Arc;
/// # use arrow::array::{Float64Array, RecordBatch};
/// # use dataflows::json::RowEncoder;
/// let batch = RecordBatch::try_from_iter([("ph", Arc::new(Float64Array::from(vec![7.5])) as _)]).unwrap();
/// let mut out = Vec::new();
/// RowEncoder::new(&batch.schema()).object(&batch, 0, &mut out);
/// assert_eq!(out, br#"{"ph":7.5}"#);
/// ```
#[derive(Clone, Debug)]
pub struct RowEncoder {
    columns: Vec<Column>,
}

#[derive(Clone, Debug)]
struct Column {
    position: usize,
    /// The escaped name with its quotes and colon.
    label: Vec<u8>,
}

/// The rows of one batch, ready to be written in any order.
#[derive(Debug)]
pub struct BoundRows<'encoder> {
    columns: Vec<(&'encoder [u8], Cells)>,
}

impl RowEncoder {
    /// Encodes every column of `schema`.
    ///
    /// A name that repeats gets `_2`, `_3`, …: most readers of JSON keep only one of
    /// two equal names.
    pub fn new(schema: &Schema) -> Self {
        Self::with_columns(schema, &(0..schema.fields().len()).collect::<Vec<_>>())
    }

    /// Encodes the columns of `schema` at `positions`, in that order.
    ///
    /// # Panics
    /// When a position is beyond the schema.
    pub fn with_columns(schema: &Schema, positions: &[usize]) -> Self {
        let mut used: HashSet<String> = HashSet::new();
        let columns = positions
            .iter()
            .map(|&position| {
                let name = schema.field(position).name();
                let mut unique = name.clone();
                let mut count = 1;
                while !used.insert(unique.clone()) {
                    count += 1;
                    unique = format!("{name}_{count}");
                }
                Column {
                    position,
                    label: text::label(&unique),
                }
            })
            .collect();
        RowEncoder { columns }
    }

    /// Prepares the rows of `batch`, which has the encoder's schema.
    pub fn bind(&self, batch: &RecordBatch) -> BoundRows<'_> {
        BoundRows {
            columns: self
                .columns
                .iter()
                .map(|column| (column.label.as_slice(), Cells::new(batch.column(column.position))))
                .collect(),
        }
    }

    /// Appends one row as an object. For more than one row, [`bind`](Self::bind) first.
    pub fn object(&self, batch: &RecordBatch, row: usize, out: &mut Vec<u8>) {
        self.bind(batch).object(row, out);
    }

    /// Appends all rows of `batch`, separated by commas.
    pub fn objects(&self, batch: &RecordBatch, out: &mut Vec<u8>) {
        let rows = self.bind(batch);
        for row in 0..batch.num_rows() {
            if row > 0 {
                out.push(b',');
            }
            rows.object(row, out);
        }
    }
}

impl BoundRows<'_> {
    /// Appends one row as an object.
    pub fn object(&self, row: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        for (position, (label, cells)) in self.columns.iter().enumerate() {
            if position > 0 {
                out.push(b',');
            }
            out.extend_from_slice(label);
            cells.write(row, out);
        }
        out.push(b'}');
    }

    /// Appends the value of one row in the encoder's column `column`.
    pub fn cell(&self, column: usize, row: usize, out: &mut Vec<u8>) {
        self.columns[column].1.write(row, out);
    }
}

/// Returns the rows of all batches as one JSON array of objects.
pub fn rows(batches: &[RecordBatch]) -> Vec<u8> {
    let mut out = vec![b'['];
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        if out.len() > 1 {
            out.push(b',');
        }
        RowEncoder::new(&batch.schema()).objects(batch, &mut out);
    }
    out.push(b']');
    out
}

/// Appends `value` as a JSON string, quotes included.
pub fn string(value: &str, out: &mut Vec<u8>) {
    text::string(value, out);
}

#[cfg(test)]
mod tests;
