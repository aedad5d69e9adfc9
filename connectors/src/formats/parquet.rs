//! Parquet files, through the `parquet` crate's Arrow reader.
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, can_cast_types, cast_with_options, filter};
use arrow::datatypes::{DataType, SchemaRef, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use crate::cells::{Cell, Kind};
use crate::column::{Column, schema};
use crate::decoded::{Decoded, RAW_BYTES_MAX, Rejected};
use crate::error::{ConfigError, ReadError};
use crate::format::{FormatConfig, FormatKind};
use crate::times::{TIME_MAX_US, TIME_MIN_US, Times};
use crate::values::{ColumnBuilder, Nulls};

/// Rows in one batch.
const BATCH_ROWS: usize = 8192;

/// Makes the declared columns of what a Parquet file holds.
pub(crate) struct ParquetRows {
    columns: Vec<Column>,
    schema: SchemaRef,
    /// For columns that the file holds as text.
    builders: Vec<ColumnBuilder>,
    time_zone: Arc<str>,
}

impl ParquetRows {
    pub(crate) fn new(format: &FormatConfig, columns: &[Column], time_zone: &str) -> Result<ParquetRows, ConfigError> {
        format.check(FormatKind::Parquet)?;
        let times = Times::new(time_zone, format.timestamp.as_deref())?;
        let nulls = Nulls {
            delimited: true,
            ..format.nulls(FormatKind::Parquet)
        };
        let builders = columns
            .iter()
            .map(|column| ColumnBuilder::new(&column.field, nulls.clone(), times.clone()))
            .collect::<Result<_, _>>()?;
        Ok(ParquetRows {
            columns: columns.to_vec(),
            schema: schema(columns),
            builders,
            time_zone: time_zone.into(),
        })
    }

    /// Casts one batch of the file, which has these of the declared columns.
    fn decode(&mut self, batch: &RecordBatch) -> Result<Decoded, String> {
        let rows = batch.num_rows();
        let mut bad: Vec<Option<String>> = Vec::new();
        let mut arrays = Vec::with_capacity(self.columns.len());
        for (column, builder) in self.columns.iter().zip(&mut self.builders) {
            let mut refuse = |row: usize, reason: String| {
                bad.resize(rows, None);
                bad[row].get_or_insert(reason);
            };
            let array = match batch.column_by_name(column.input_name()) {
                None => new_null_array(column.field.data_type(), rows),
                Some(array) => cast(array, column, builder, &self.time_zone, &mut refuse)?,
            };
            if !column.field.is_nullable() && array.null_count() > 0 {
                for row in (0..rows).filter(|row| array.is_null(*row)) {
                    let name = column.field.name();
                    refuse(row, format!("column \"{name}\": missing, but declared not null"));
                }
            }
            arrays.push(array);
        }
        let mut rejected = Vec::new();
        let mut kept = rows;
        if !bad.is_empty() {
            let good = BooleanArray::from(bad.iter().map(Option::is_none).collect::<Vec<_>>());
            arrays = arrays
                .iter()
                .map(|array| filter(array, &good))
                .collect::<Result<_, _>>()
                .map_err(|error| error.to_string())?;
            kept = good.true_count();
            for (row, reason) in bad.into_iter().enumerate() {
                if let Some(reason) = reason {
                    rejected.push(Rejected::new(display(batch, row).as_bytes(), reason));
                }
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(kept));
        let rows = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .map_err(|error| error.to_string())?;
        Ok(Decoded { rows, rejected })
    }
}

/// Gives `array` the declared type; what does not fit becomes NULL and is refused.
fn cast(
    array: &ArrayRef,
    column: &Column,
    builder: &mut ColumnBuilder,
    time_zone: &Arc<str>,
    refuse: &mut impl FnMut(usize, String),
) -> Result<ArrayRef, String> {
    let wanted = column.field.data_type();
    let options = CastOptions {
        safe: true,
        ..CastOptions::default()
    };
    let cast_to =
        |array: &ArrayRef, to: &DataType| cast_with_options(array, to, &options).map_err(|error| error.to_string());
    let is_text = matches!(
        array.data_type(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    ) || matches!(array.data_type(), DataType::Dictionary(_, value) if value.is_string());
    if is_text && *wanted != DataType::Utf8 {
        // Texts are read as in any other format, with its patterns.
        let texts = cast_to(array, &DataType::Utf8)?;
        let cells = texts.as_string::<i32>().iter().map(|text| match text {
            None => Cell {
                kind: Kind::Missing,
                text: "",
            },
            Some(text) => Cell {
                kind: Kind::Quoted,
                text,
            },
        });
        builder.append(cells, refuse);
        return Ok(builder.finish());
    }
    if !can_cast_types(array.data_type(), wanted) {
        return Err(format!(
            "column \"{}\" has type {} there, which cannot become {wanted}",
            column.input_name(),
            array.data_type()
        ));
    }
    let cast = match (array.data_type(), wanted) {
        // A zoneless time is read in the deployment's zone, whatever the column's.
        (DataType::Timestamp(unit, None), DataType::Timestamp(..)) => {
            let local = cast_to(array, &DataType::Timestamp(*unit, Some(Arc::clone(time_zone))))?;
            cast_to(&local, wanted)?
        }
        _ => cast_to(array, wanted)?,
    };
    for row in 0..cast.len() {
        if cast.is_null(row) && array.is_valid(row) {
            refuse(
                row,
                format!("column \"{}\": the value does not fit {wanted}", column.field.name()),
            );
        }
    }
    if let Some(times) = cast.as_primitive_opt::<TimestampMicrosecondType>() {
        for (row, time) in times.iter().enumerate() {
            if time.is_some_and(|time| !(TIME_MIN_US..=TIME_MAX_US).contains(&time)) {
                refuse(
                    row,
                    format!("column \"{}\": outside the years 1970 to 9999", column.field.name()),
                );
            }
        }
    }
    Ok(cast)
}

/// A row as text: `station=K1, ph=7.1`.
fn display(batch: &RecordBatch, row: usize) -> String {
    let options = FormatOptions::new().with_null("null").with_display_error(true);
    let mut text = String::new();
    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
        if text.len() > RAW_BYTES_MAX {
            break;
        }
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(field.name());
        text.push('=');
        if let Ok(formatter) = ArrayFormatter::try_new(array.as_ref(), &options) {
            text.push_str(&formatter.value(row).to_string());
        }
    }
    text
}

/// A Parquet file that is being read.
pub(crate) struct ParquetFile {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    rows: ParquetRows,
}

impl ParquetFile {
    pub(crate) fn open(path: PathBuf, rows: ParquetRows) -> Result<ParquetFile, ReadError> {
        let file = File::open(&path).map_err(|source| ReadError::Open {
            path: path.clone(),
            source,
        })?;
        let failed = |reason: String| ReadError::Parquet {
            path: path.clone(),
            reason,
        };
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| failed(error.to_string()))?;
        let wanted: Vec<&str> = rows.columns.iter().map(Column::input_name).collect();
        let roots: Vec<usize> = builder
            .schema()
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| wanted.contains(&field.name().as_str()))
            .map(|(root, _)| root)
            .collect();
        if roots.is_empty() {
            return Err(failed(format!(
                "it has none of the declared columns ({})",
                wanted.join(", ")
            )));
        }
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let reader = builder
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(|error| failed(error.to_string()))?;
        Ok(ParquetFile { path, reader, rows })
    }

    /// The next rows, or none at the end.
    pub(crate) fn read(&mut self) -> Result<Option<Decoded>, ReadError> {
        let decoded = match self.reader.next() {
            None => return Ok(None),
            Some(Ok(batch)) => self.rows.decode(&batch),
            Some(Err(error)) => Err(error.to_string()),
        };
        decoded.map(Some).map_err(|reason| ReadError::Parquet {
            path: self.path.clone(),
            reason,
        })
    }
}
