//! Reads rows that are out of memory: immutable Parquet files in an object store.
//!
//! A relation may have a *hot* part, batches in memory, and a *cold* one, exactly the files
//! its manifest names; nothing is ever listed. `table` gives a plan both as one, `hints`
//! tells its scans what the filters above will drop, so that files, row groups and pages
//! are passed over, `stream` reads files without a plan, `verified` compares every block
//! that is read with the checksum the manifest has of it.

pub(crate) mod hints;
mod stream;
mod table;
mod verified;

use std::fmt;
use std::sync::{Arc, Weak};

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Date32Type, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::common::pruning::PrunableStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::execution::cache::default_cache::DefaultCache;
use object_store::ObjectStore;

pub use stream::{RowStream, Span};
pub(crate) use table::HotAndCold;
use verified::Verified;

/// The column of raw input that holds the tick of a row.
pub const TICK_COLUMN: &str = "__tick";
/// The column of raw input that holds the place of a row among those of its tick.
pub const SEQUENCE_COLUMN: &str = "__seq";
/// The column of raw input that says whether a row came (1) or went (-1).
pub const DIFF_COLUMN: &str = "__diff";

/// Bytes of footers kept, so that a file opened once is opened without a request.
const FOOTERS_BYTES_MAX: usize = 32 << 20;
/// Microseconds in a day.
pub(crate) const DAY_US: i64 = 86_400_000_000;

/// Where cold files are, and what is remembered of those that were opened.
#[derive(Clone)]
pub struct ColdStore {
    store: Arc<dyn ObjectStore>,
    footers: Arc<FileMetadataCache>,
}

impl ColdStore {
    /// Reads from a store, in which paths are those of [`ColdFile`].
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        ColdStore {
            store,
            footers: Arc::new(DefaultCache::new(FOOTERS_BYTES_MAX)),
        }
    }
}

impl fmt::Debug for ColdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ColdStore({})", self.store)
    }
}

/// A file, and what its manifest knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColdFile {
    /// Where it is in the store.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// The earliest and latest time in it, in microseconds since 1970.
    pub time_us: Option<(i64, i64)>,
    /// The first and last tick in it.
    pub ticks: Option<(u64, u64)>,
    /// Bytes that each checksum is of; the last block may be shorter.
    pub block_bytes: u64,
    /// The CRC-32 of each block.
    pub blocks: Vec<u32>,
}

/// The cold part of a relation at some moment.
///
/// Files may be deleted once nobody holds the `Cold` that names them.
#[derive(Clone, Debug)]
pub struct Cold {
    files: Arc<[ColdFile]>,
    reader: Arc<CachedParquetFileReaderFactory>,
    time: Option<String>,
    hot_from_us: Option<i64>,
    from_us: Option<i64>,
}

impl Cold {
    /// Takes the files that are in force.
    pub fn new(store: &ColdStore, files: Vec<ColdFile>) -> Self {
        let verified = Verified::new(Arc::clone(&store.store), &files);
        Cold {
            files: files.into(),
            reader: Arc::new(CachedParquetFileReaderFactory::new(
                Arc::new(verified),
                Arc::clone(&store.footers),
            )),
            time: None,
            hot_from_us: None,
            from_us: None,
        }
    }

    /// Names the column that the files' times are of.
    #[must_use]
    pub fn with_time(mut self, column: impl Into<String>) -> Self {
        self.time = Some(column.into());
        self
    }

    /// Passes over hot rows before this time: they stand in the files, too.
    ///
    /// A view that has closed a bucket may keep its rows until the file and the manifest
    /// are durable, and a while longer; no query sees them twice.
    #[must_use]
    pub fn with_hot_from(mut self, time_us: i64) -> Self {
        self.hot_from_us = Some(time_us);
        self
    }

    /// Passes over rows of the files before this time: they are kept no longer, and their files are
    /// only because they hold others, too.
    #[must_use]
    pub fn with_from(mut self, time_us: i64) -> Self {
        self.from_us = Some(time_us);
        self
    }

    /// Shows as much of other files, into which the same rows were merged.
    #[must_use]
    pub fn merged_into(&self, other: Cold) -> Self {
        Cold {
            time: self.time.clone(),
            hot_from_us: self.hot_from_us,
            from_us: self.from_us,
            ..other
        }
    }

    /// Returns what tells when nobody holds it any more, so that its files may go.
    pub fn watch(&self) -> Weak<[ColdFile]> {
        Arc::downgrade(&self.files)
    }

    /// Returns the files.
    pub fn files(&self) -> &[ColdFile] {
        &self.files
    }

    /// Returns how many rows the files have.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// Leaves of a hot batch what is not in the files.
    pub(crate) fn hot(&self, batch: RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
        let (Some(from), Some(column)) = (self.hot_from_us, &self.time) else {
            return Ok(batch);
        };
        let Some(column) = batch.column_by_name(column) else {
            return Ok(batch);
        };
        let Some(mask) = at_or_after(column.as_ref(), from) else {
            return Ok(batch);
        };
        if mask.true_count() == batch.num_rows() {
            return Ok(batch);
        }
        filter_record_batch(&batch, &mask)
    }

    /// Returns what is known of the files' columns, for pruning and planning.
    fn statistics(&self, schema: &SchemaRef) -> Vec<Arc<Statistics>> {
        let of = |file: &ColdFile| {
            let columns = schema.fields().iter().map(|field| {
                let bounds = if field.name() == TICK_COLUMN {
                    file.ticks
                        .map(|(min, max)| (ScalarValue::UInt64(Some(min)), ScalarValue::UInt64(Some(max))))
                } else if Some(field.name()) == self.time.as_ref() {
                    file.time_us
                        .and_then(|(min, max)| Some((time(min, field.data_type())?, time(max, field.data_type())?)))
                } else {
                    None
                };
                match bounds {
                    Some((min, max)) => ColumnStatistics {
                        min_value: Precision::Exact(min),
                        max_value: Precision::Exact(max),
                        ..ColumnStatistics::new_unknown()
                    },
                    None => ColumnStatistics::new_unknown(),
                }
            });
            Arc::new(Statistics {
                num_rows: Precision::Exact(file.rows as usize),
                total_byte_size: Precision::Absent,
                column_statistics: columns.collect(),
            })
        };
        self.files.iter().map(of).collect()
    }

    fn prunable(&self, schema: &SchemaRef) -> PrunableStatistics {
        PrunableStatistics::new(self.statistics(schema), Arc::clone(schema))
    }
}

/// Tells of each time whether it is at or after one; none where the column holds no times.
fn at_or_after(column: &dyn Array, from_us: i64) -> Option<BooleanArray> {
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let times = column.as_primitive::<TimestampMicrosecondType>();
            Some(
                times
                    .iter()
                    .map(|time| Some(time.is_none_or(|time| time >= from_us)))
                    .collect(),
            )
        }
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>();
            let late = |day: i32| i64::from(day) * DAY_US >= from_us;
            Some(days.iter().map(|day| Some(day.is_none_or(late))).collect())
        }
        _ => None,
    }
}

/// Returns the first value of a column's type that is not before a time: of days, the first that begins then.
fn from(time_us: i64, data_type: &DataType) -> Option<ScalarValue> {
    match data_type {
        DataType::Date32 => Some(ScalarValue::Date32(Some(
            (time_us.div_euclid(DAY_US) + i64::from(time_us.rem_euclid(DAY_US) > 0)) as i32,
        ))),
        other => time(time_us, other),
    }
}

/// Returns a time as a value of a column's type.
fn time(time_us: i64, data_type: &DataType) -> Option<ScalarValue> {
    match data_type {
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            Some(ScalarValue::TimestampMicrosecond(Some(time_us), zone.clone()))
        }
        DataType::Date32 => Some(ScalarValue::Date32(Some(time_us.div_euclid(DAY_US) as i32))),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
