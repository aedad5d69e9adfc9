//! The unit that travels: a batch of rows with a signed count each.

use arrow::array::RecordBatch;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::SchemaRef;

/// A tick: microseconds since the Unix epoch, strictly increasing.
pub type Tick = u64;

/// Rows with a signed multiplicity each: `+1` inserts a row, `-1` takes it back.
///
/// Cloning is cheap: columns and diffs are shared.
#[derive(Clone, Debug)]
pub struct Updates {
    rows: RecordBatch,
    diffs: ScalarBuffer<i64>,
}

impl Updates {
    /// Pairs rows with their diffs.
    ///
    /// # Panics
    /// When the two differ in length: that is a bug of the caller, never of the data.
    pub fn new(rows: RecordBatch, diffs: impl Into<ScalarBuffer<i64>>) -> Self {
        let diffs = diffs.into();
        assert_eq!(rows.num_rows(), diffs.len(), "each row has one diff");
        Updates { rows, diffs }
    }

    /// Inserts every row of `rows` once.
    pub fn inserts(rows: RecordBatch) -> Self {
        let diffs = vec![1; rows.num_rows()];
        Updates::new(rows, diffs)
    }

    /// Takes every row of `rows` back once.
    pub fn deletes(rows: RecordBatch) -> Self {
        let diffs = vec![-1; rows.num_rows()];
        Updates::new(rows, diffs)
    }

    /// Holds no rows of `schema`.
    pub fn empty(schema: SchemaRef) -> Self {
        Updates::inserts(RecordBatch::new_empty(schema))
    }

    /// Returns the rows.
    pub fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// Returns the diff of each row.
    pub fn diffs(&self) -> &ScalarBuffer<i64> {
        &self.diffs
    }

    /// Returns the number of rows, whatever their diffs.
    pub fn len(&self) -> usize {
        self.diffs.len()
    }

    /// Tells whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.diffs.is_empty()
    }

    /// Returns `length` rows from `offset` on, without copying.
    pub fn slice(&self, offset: usize, length: usize) -> Self {
        Updates {
            rows: self.rows.slice(offset, length),
            diffs: self.diffs.slice(offset, length),
        }
    }

    /// Returns the memory its columns and diffs hold, in bytes.
    pub fn bytes(&self) -> usize {
        self.rows.get_array_memory_size() + self.diffs.len() * size_of::<i64>()
    }

    /// Takes the parts out.
    pub fn into_parts(self) -> (RecordBatch, ScalarBuffer<i64>) {
        (self.rows, self.diffs)
    }
}
