//! What is to be written: a relation's columns, which of them is time, and which tell rows of one kind apart.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Field, IntervalUnit, SchemaRef, TimeUnit, TimestampMicrosecondType, UInt64Type,
};
use parquet::basic::Encoding;
use queries::cold::{DIFF_COLUMN, SEQUENCE_COLUMN, TICK_COLUMN};

use super::entry::fingerprint;
use super::error::HistoryError;

const DAY_US: i64 = 86_400_000_000;

/// How the rows of a relation are laid out in files.
///
/// One is made for a relation and kept: it remembers which encodings its first rows were
/// smallest in.
///
/// ```
/// use std::sync::{Arc, OnceLock};
/// use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
/// use sangam::history::Layout;
///
/// let hour = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
/// let schema = Arc::new(Schema::new(vec![
///     Field::new("station", DataType::Utf8, false),
///     Field::new("hour", hour, false),
///     Field::new("ph", DataType::Float64, true),
/// ]));
/// let layout = Layout::new("hourly", schema, Some("hour"), &["station".to_owned()]).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Layout {
    pub(super) relation: String,
    pub(super) schema: SchemaRef,
    pub(super) time: Option<String>,
    pub(super) key: Vec<String>,
    pub(super) fingerprint: String,
    /// How the columns are best written, once that has been tried.
    pub(super) encodings: Arc<OnceLock<Vec<Option<Encoding>>>>,
    /// The column that says which day a row belongs to.
    dated: usize,
}

impl Layout {
    /// Lays out a relation, or says why it cannot be.
    ///
    /// Rows with a tick are dated by it, others by `time`, a column of timestamps or dates;
    /// `key` names the columns that rows of one kind share, such as a station.
    ///
    /// # Errors
    /// When there is nothing to date rows by, or a column is of a type that files cannot hold.
    pub fn new(
        relation: impl Into<String>,
        schema: SchemaRef,
        time: Option<&str>,
        key: &[String],
    ) -> Result<Self, HistoryError> {
        let relation = relation.into();
        if !crate::config::is_identifier(&relation) {
            return Err(HistoryError::unsupported(
                format!("\"{relation}\" cannot be the name of a folder of history"),
                "Names are a small letter, then small letters, digits and underscores, at most 63.",
            ));
        }
        let mut names = HashSet::new();
        for field in schema.fields() {
            check_type(&relation, field.name(), field.data_type())?;
            if !names.insert(field.name()) {
                return Err(HistoryError::unsupported(
                    format!("\"{relation}\" has two columns \"{}\"", field.name()),
                    "Name one of them otherwise, with AS.",
                ));
            }
        }
        if let Some(time) = time {
            let found = schema.field_with_name(time).ok().map(Field::data_type);
            if !found.is_some_and(is_time) {
                return Err(HistoryError::unsupported(
                    format!("column \"{time}\" of \"{relation}\" is no column of times"),
                    "History is laid out by a timestamp or a date.",
                ));
            }
        }
        let dated = match schema.index_of(TICK_COLUMN) {
            Ok(tick) => {
                raw(&relation, &schema)?;
                tick
            }
            Err(_) => time
                .and_then(|time| schema.index_of(time).ok())
                .ok_or_else(|| nothing_to_date_by(&relation))?,
        };
        Ok(Layout {
            fingerprint: fingerprint(&schema),
            encodings: Arc::default(),
            key: key.iter().filter(|name| names.contains(name)).cloned().collect(),
            time: time.map(str::to_owned),
            relation,
            schema,
            dated,
        })
    }

    /// Names the columns and types: rows of others are another history.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Returns the columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns the column of times, if there is one.
    pub fn time(&self) -> Option<&str> {
        self.time.as_deref()
    }

    /// Returns the moment of each row, by which it is dated, in microseconds since 1970.
    pub(super) fn moments(&self, batch: &RecordBatch) -> Result<Vec<i64>, HistoryError> {
        let column = batch.column(self.dated);
        if column.null_count() > 0 {
            return Err(HistoryError::unsupported(
                format!(
                    "a row of \"{}\" has no \"{}\" to date it by",
                    self.relation,
                    self.schema.field(self.dated).name()
                ),
                "Leave such rows out of the view, with WHERE … IS NOT NULL.",
            ));
        }
        Ok(match column.data_type() {
            DataType::UInt64 => {
                let ticks = column.as_primitive::<UInt64Type>().values().iter();
                ticks.map(|tick| i64::try_from(*tick).unwrap_or(i64::MAX)).collect()
            }
            DataType::Date32 => {
                let days = column.as_primitive::<Date32Type>().values().iter();
                days.map(|day| i64::from(*day) * DAY_US).collect()
            }
            _ => column.as_primitive::<TimestampMicrosecondType>().values().to_vec(),
        })
    }

    /// Returns the bounds of the time column.
    pub(super) fn times(&self, batch: &RecordBatch) -> Option<(i64, i64)> {
        let column = batch.column_by_name(self.time.as_ref()?)?;
        match column.data_type() {
            DataType::Date32 => {
                let days = column.as_primitive::<Date32Type>();
                let bounds = arrow::compute::min(days).zip(arrow::compute::max(days));
                bounds.map(|(min, max)| (i64::from(min) * DAY_US, i64::from(max) * DAY_US))
            }
            _ => {
                let times = column.as_primitive_opt::<TimestampMicrosecondType>()?;
                arrow::compute::min(times).zip(arrow::compute::max(times))
            }
        }
    }

    /// Returns the bounds of the ticks.
    pub(super) fn ticks(&self, batch: &RecordBatch) -> Option<(u64, u64)> {
        let ticks = batch.column_by_name(TICK_COLUMN)?.as_primitive_opt::<UInt64Type>()?;
        arrow::compute::min(ticks).zip(arrow::compute::max(ticks))
    }

    /// Refuses a batch of other columns, and puts it under the layout's schema.
    pub(super) fn fit(&self, batch: &RecordBatch) -> Result<RecordBatch, HistoryError> {
        let fits = batch.num_columns() == self.schema.fields().len()
            && batch.columns().iter().zip(self.schema.fields()).all(|(column, field)| {
                column.data_type() == field.data_type() && (field.is_nullable() || column.null_count() == 0)
            });
        let fitted = fits.then(|| RecordBatch::try_new(Arc::clone(&self.schema), batch.columns().to_vec()));
        match fitted {
            Some(Ok(batch)) => Ok(batch),
            _ => Err(HistoryError::unsupported(
                format!(
                    "rows for the history of \"{}\" have other columns than it",
                    self.relation
                ),
                "This is a bug of Sangam. Please report it.",
            )),
        }
    }
}

fn is_time(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(TimeUnit::Microsecond, _) | DataType::Date32
    )
}

fn nothing_to_date_by(relation: &str) -> HistoryError {
    HistoryError::unsupported(
        format!("\"{relation}\" has no time to lay its history out by"),
        "Keep a view that has a time bucket, or a source.",
    )
}

/// Checks the columns that raw input has beside the source's.
fn raw(relation: &str, schema: &SchemaRef) -> Result<(), HistoryError> {
    for (name, data_type) in [
        (TICK_COLUMN, DataType::UInt64),
        (SEQUENCE_COLUMN, DataType::UInt64),
        (DIFF_COLUMN, DataType::Int64),
    ] {
        let found = schema.field_with_name(name).ok();
        if !found.is_some_and(|field| *field.data_type() == data_type && !field.is_nullable()) {
            return Err(HistoryError::unsupported(
                format!("raw input of \"{relation}\" needs a column \"{name}\" of {data_type}"),
                "This is a bug of Sangam. Please report it.",
            ));
        }
    }
    Ok(())
}

/// Refuses the types that Parquet has no form for.
fn check_type(relation: &str, column: &str, data_type: &DataType) -> Result<(), HistoryError> {
    let within = |field: &Field| check_type(relation, column, field.data_type());
    let refuse = |hint: &str| {
        let what = format!("column \"{column}\" of \"{relation}\" has type {data_type}, which history cannot keep");
        Err(HistoryError::unsupported(what, hint))
    };
    match data_type {
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            refuse("Keep a number instead: extract(epoch FROM …) makes seconds of it.")
        }
        DataType::Union(..)
        | DataType::RunEndEncoded(..)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::Dictionary(..) => refuse("Cast it to text, with CAST(… AS TEXT)."),
        DataType::Struct(fields) if fields.is_empty() => refuse("Leave the column out: it holds nothing."),
        DataType::Struct(fields) => fields.iter().try_for_each(|field| within(field)),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => within(item),
        DataType::Map(entries, _) => within(entries),
        _ => Ok(()),
    }
}
