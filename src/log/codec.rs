//! Rows as bytes: Arrow's IPC messages without their schema, which is kept once.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{StreamReader, read_record_batch};
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, StreamWriter};
use arrow::ipc::{CompressionType, MetadataVersion, root_as_message};

/// Batches of fewer rows are not compressed: their buffers are too small to gain.
const COMPRESSED_ROWS_MIN: usize = 256;

/// Which batches are compressed, if they are large enough.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Compress {
    /// All: they stay for long, and nobody waits for them.
    All,
    /// Those with texts and the like. Of numbers, what is saved takes longer to save than to write, and somebody waits
    /// for each of them.
    Texts,
}

/// Writes batches; keeps its scratch space from one to the next.
pub(super) struct Encoder {
    context: IpcWriteContext,
    compress: Compress,
    plain: IpcWriteOptions,
    compressed: IpcWriteOptions,
}

impl Encoder {
    pub(super) fn new(compress: Compress) -> Self {
        let plain = IpcWriteOptions::default();
        let compressed = plain.clone().try_with_compression(Some(CompressionType::LZ4_FRAME));
        Encoder {
            context: IpcWriteContext::default(),
            compress,
            compressed: compressed.unwrap_or_else(|_| plain.clone()),
            plain,
        }
    }

    fn is_worth_it(&self, batch: &RecordBatch) -> bool {
        let is_fixed =
            |column: &ArrayRef| column.data_type().is_primitive() || *column.data_type() == DataType::Boolean;
        batch.num_rows() >= COMPRESSED_ROWS_MIN
            && (self.compress == Compress::All || !batch.columns().iter().all(is_fixed))
    }

    /// Appends a batch: the lengths of its two parts, then these.
    pub(super) fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let options = match self.is_worth_it(batch) {
            true => &self.compressed,
            false => &self.plain,
        };
        let mut dictionaries = DictionaryTracker::new(false);
        let (_, encoded) = IpcDataGenerator::default().encode(batch, &mut dictionaries, options, &mut self.context)?;
        let length = |bytes: &[u8]| {
            u32::try_from(bytes.len())
                .map(u32::to_le_bytes)
                .map_err(|_| ArrowError::IpcError("a batch of more than 4 GiB".to_owned()))
        };
        out.extend(length(&encoded.ipc_message)?);
        out.extend(length(&encoded.arrow_data)?);
        out.extend(encoded.ipc_message);
        out.extend(encoded.arrow_data);
        Ok(())
    }
}

/// Reads a batch from the front of `bytes`.
pub(super) fn batch(bytes: &mut &[u8], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let short = || ArrowError::IpcError("a batch is cut off".to_owned());
    let mut take = |length: usize| -> Result<&[u8], ArrowError> {
        let (taken, rest) = bytes.split_at_checked(length).ok_or_else(short)?;
        *bytes = rest;
        Ok(taken)
    };
    let mut length = || -> Result<usize, ArrowError> {
        let four: [u8; 4] = take(4)?.try_into().map_err(|_| short())?;
        Ok(u32::from_le_bytes(four) as usize)
    };
    let (of_message, of_data) = (length()?, length()?);
    let message = take(of_message)?;
    // Copied, so that the arrays stand aligned and on their own.
    let data = Buffer::from(take(of_data)?);
    let message = root_as_message(message).map_err(|error| ArrowError::IpcError(error.to_string()))?;
    let header = message
        .header_as_record_batch()
        .ok_or_else(|| ArrowError::IpcError("a message that is no batch".to_owned()))?;
    read_record_batch(
        &data,
        header,
        Arc::clone(schema),
        &HashMap::new(),
        None,
        &MetadataVersion::V5,
    )
}

/// Gives a schema bytes.
pub(super) fn schema_bytes(schema: &Schema) -> Result<Vec<u8>, ArrowError> {
    let mut bytes = Vec::new();
    StreamWriter::try_new(&mut bytes, schema)?.finish()?;
    Ok(bytes)
}

/// Reads a schema.
pub(super) fn schema(bytes: &[u8]) -> Result<SchemaRef, ArrowError> {
    Ok(StreamReader::try_new(bytes, None)?.schema())
}
