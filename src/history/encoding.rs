//! How each column is written: by trying the encodings there are on rows of its own.
//!
//! Readings of a sensor come in few distinct values, sums in many; clocks tick evenly or not.
//! No rule knows; a trial costs a few milliseconds, once for a relation and once for a merge.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::Result;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use super::entry::FORMAT_VERSION;
use super::layout::Layout;

/// Rows of a page: what a question about one kind of row has to read.
const PAGE_ROWS: usize = 8_192;
/// Rows that encodings are tried on.
const TRIAL_ROWS: usize = 32_768;
/// Rows that tell how the next file is best written, too.
const TELLING_ROWS: usize = 4_096;
/// Bytes of a bound that statistics keep of a text.
const BOUND_BYTES: usize = 64;

/// Chooses how to write files whose first rows are these.
pub(super) fn properties(layout: &Layout, first: &RecordBatch) -> Result<WriterProperties> {
    let mut builder = base()?
        .set_created_by(format!("sangam {}", env!("CARGO_PKG_VERSION")))
        .set_key_value_metadata(Some(vec![
            KeyValue::new("sangam.relation".to_owned(), layout.relation.clone()),
            KeyValue::new("sangam.version".to_owned(), FORMAT_VERSION.to_string()),
        ]));
    let tried;
    let encodings = match layout.encodings.get() {
        Some(encodings) => encodings,
        None => {
            let columns = layout.schema.fields().iter().zip(first.columns());
            tried = columns
                .map(|(field, column)| best(field, column))
                .collect::<Result<Vec<_>>>()?;
            if first.num_rows() >= TELLING_ROWS {
                // Whoever was first is as right.
                let _ = layout.encodings.set(tried.clone());
            }
            &tried
        }
    };
    for (field, encoding) in layout.schema.fields().iter().zip(encodings) {
        if let Some(encoding) = encoding {
            builder = with(builder, field.name(), *encoding);
        }
    }
    Ok(builder.build())
}

fn base() -> Result<WriterPropertiesBuilder> {
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        // Row groups end where windows end.
        .set_max_row_group_row_count(None)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_statistics_truncate_length(Some(BOUND_BYTES))
        .set_column_index_truncate_length(Some(BOUND_BYTES)))
}

fn with(builder: WriterPropertiesBuilder, name: &str, encoding: Encoding) -> WriterPropertiesBuilder {
    let path = ColumnPath::new(vec![name.to_owned()]);
    builder
        .set_column_dictionary_enabled(path.clone(), false)
        .set_column_encoding(path, encoding)
}

/// Returns the encodings that may be better for a type than a dictionary.
fn candidates(data_type: &DataType) -> &'static [Encoding] {
    match data_type {
        DataType::Timestamp(..)
        | DataType::Duration(_)
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Date32
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt32
        | DataType::UInt64 => &[Encoding::DELTA_BINARY_PACKED, Encoding::BYTE_STREAM_SPLIT],
        DataType::Float32 | DataType::Float64 | DataType::Decimal128(..) => &[Encoding::BYTE_STREAM_SPLIT],
        DataType::Utf8 | DataType::Binary => &[Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY],
        _ => &[],
    }
}

/// Returns the encoding that makes the first rows of a column smallest; none for a dictionary.
fn best(field: &Field, column: &ArrayRef) -> Result<Option<Encoding>> {
    let candidates = candidates(field.data_type());
    if candidates.is_empty() || column.is_empty() {
        return Ok(None);
    }
    let sample = column.slice(0, column.len().min(TRIAL_ROWS));
    let mut best = (length(field, &sample, None)?, None);
    for encoding in candidates {
        let length = length(field, &sample, Some(*encoding))?;
        if length < best.0 {
            best = (length, Some(*encoding));
        }
    }
    Ok(best.1)
}

/// Returns how long a file of one column is.
fn length(field: &Field, column: &ArrayRef, encoding: Option<Encoding>) -> Result<usize> {
    let mut builder = base()?.set_statistics_enabled(EnabledStatistics::None);
    if let Some(encoding) = encoding {
        builder = with(builder, field.name(), encoding);
    }
    let schema = Arc::new(Schema::new(vec![field.clone()]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(column)])?;
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(builder.build()))?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?.len())
}
