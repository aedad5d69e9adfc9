//! What flows between operators: batches, each with the rows of it that are meant.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::{DataType, Schema};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::dataflow::channels::ContainerBytes;

use crate::update::Updates;

/// Some rows of a shared batch. Inside a process an exchange moves no rows, only selections.
#[derive(Clone, Debug)]
pub struct Part {
    updates: Updates,
    /// The rows meant, ascending; all rows when absent.
    selection: Option<UInt32Array>,
}

impl Part {
    /// Means every row of the batch.
    pub fn whole(updates: Updates) -> Self {
        Part {
            updates,
            selection: None,
        }
    }

    /// Means the rows of this part at `rows` (positions among the rows it means now).
    pub fn select(&self, rows: Vec<u32>) -> Self {
        let selection = match &self.selection {
            None => UInt32Array::from(rows),
            Some(outer) => UInt32Array::from_iter_values(rows.into_iter().map(|row| outer.value(row as usize))),
        };
        Part {
            updates: self.updates.clone(),
            selection: Some(selection),
        }
    }

    /// Returns the number of rows meant.
    pub fn len(&self) -> usize {
        self.selection.as_ref().map_or(self.updates.len(), UInt32Array::len)
    }

    /// Tells whether no rows are meant.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns one column of the rows meant.
    pub fn column(&self, position: usize) -> ArrayRef {
        let column = self.updates.rows().column(position);
        match &self.selection {
            None => Arc::clone(column),
            Some(selection) => take(column, selection, None).expect("selections are in range"),
        }
    }

    /// Returns some columns of the rows meant.
    pub fn columns(&self, positions: &[usize]) -> Vec<ArrayRef> {
        positions.iter().map(|&position| self.column(position)).collect()
    }

    /// Returns the diffs of the rows meant.
    pub fn diffs(&self) -> ScalarBuffer<i64> {
        let diffs = self.updates.diffs();
        match &self.selection {
            None => diffs.clone(),
            Some(selection) => selection.values().iter().map(|&row| diffs[row as usize]).collect(),
        }
    }

    /// Returns the rows meant as a batch of their own.
    pub fn into_updates(self) -> Updates {
        match &self.selection {
            None => self.updates,
            Some(selection) => {
                let rows = take_record_batch(self.updates.rows(), selection).expect("selections are in range");
                Updates::new(rows, self.diffs())
            }
        }
    }
}

/// The container timely carries. It counts rows, because an exchange splits parts but never rows.
#[derive(Clone, Debug, Default)]
pub struct Parts(pub Vec<Part>);

impl Accountable for Parts {
    fn record_count(&self) -> i64 {
        self.0.iter().map(|part| part.len() as i64).sum()
    }
}

/// Name of the diff column on the wire between processes.
const DIFF: &str = "__diff";

impl ContainerBytes for Parts {
    fn from_bytes(bytes: Bytes) -> Self {
        let reader = StreamReader::try_new(&bytes[8..], None).expect("a peer of the same version wrote this");
        let parts = reader.map(|batch| {
            let mut batch = batch.expect("a peer of the same version wrote this");
            let diffs = batch.remove_column(batch.num_columns() - 1);
            let diffs = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&diffs)
                .values()
                .clone();
            Part::whole(Updates::new(batch, diffs))
        });
        Parts(parts.collect())
    }

    fn length_in_bytes(&self) -> usize {
        (8 + self.encoded().len() + 7) & !7
    }

    fn into_bytes<W: std::io::Write>(&self, writer: &mut W) {
        let mut bytes = self.encoded();
        let length = bytes.len() as u64;
        bytes.resize(((8 + bytes.len() + 7) & !7) - 8, 0);
        writer
            .write_all(&length.to_le_bytes())
            .and_then(|()| writer.write_all(&bytes))
            .expect("timely hands out room for length_in_bytes");
    }
}

impl Parts {
    /// Encodes rows and diffs as one Arrow IPC stream: rows are copied only here, between processes.
    fn encoded(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Some(first) = self.0.first() else { return bytes };
        let mut fields = first.updates.rows().schema().fields().to_vec();
        fields.push(Arc::new(arrow::datatypes::Field::new(DIFF, DataType::Int64, false)));
        let schema = Arc::new(Schema::new(fields));
        let mut writer = StreamWriter::try_new(&mut bytes, &schema).expect("writing to memory");
        for part in &self.0 {
            let (rows, diffs) = part.clone().into_updates().into_parts();
            let mut columns = rows.columns().to_vec();
            columns.push(Arc::new(arrow::array::Int64Array::new(diffs, None)));
            let batch = RecordBatch::try_new(Arc::clone(&schema), columns).expect("one diff a row");
            writer.write(&batch).expect("writing to memory");
        }
        writer.finish().expect("writing to memory");
        drop(writer);
        bytes
    }
}
