//! Cuts rows into windows: spans of time, in each of which rows of one kind lie together.
//!
//! A window becomes a row group. So a question about a span of time passes over row groups,
//! one about a station over pages, and neighbours resemble each other, which is what
//! compression feeds on.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use queries::cold::{SEQUENCE_COLUMN, TICK_COLUMN};

use super::entry::day;
use super::error::HistoryError;
use super::layout::Layout;

/// Rows of a window, about.
pub(super) const WINDOW_ROWS: usize = 131_072;
/// Bytes of a window in memory, about.
pub(super) const WINDOW_BYTES: usize = 64 << 20;

/// Rows of one day, in windows.
pub(super) struct Day {
    pub(super) date: String,
    pub(super) windows: Vec<RecordBatch>,
}

/// Cuts rows by the day they are dated, then into windows; each is in order.
pub(super) fn cut(layout: &Layout, rows: &RecordBatch) -> Result<Vec<Day>, HistoryError> {
    let moments = layout.moments(rows)?;
    let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
    if !moments.is_sorted() {
        order.sort_by_key(|row| moments[*row as usize]);
    }
    let row_bytes = rows.get_array_memory_size() / rows.num_rows().max(1);
    let rows_max = WINDOW_ROWS.min(WINDOW_BYTES / row_bytes.max(1)).max(1);
    let day_of = |row: &u32| moments[*row as usize].div_euclid(86_400_000_000);
    let mut days = Vec::new();
    for of_day in order.chunk_by(|a, b| day_of(a) == day_of(b)) {
        let at = moments[of_day[0] as usize];
        let date = day(at).ok_or_else(|| {
            HistoryError::unsupported(
                format!(
                    "a row of \"{}\" is dated {at} µs from 1970, outside the years 1 to 9999",
                    layout.relation
                ),
                "Leave such rows out of the view, with WHERE.",
            )
        })?;
        let windows = of_day.chunks(rows_max).map(|window| {
            let rows = take_record_batch(rows, &UInt32Array::from(window.to_vec()))?;
            arranged(layout, &rows)
        });
        let windows = windows
            .collect::<Result<_, ArrowError>>()
            .map_err(|error| unfit(layout, error))?;
        days.push(Day { date, windows });
    }
    Ok(days)
}

pub(super) fn unfit(layout: &Layout, error: ArrowError) -> HistoryError {
    HistoryError::parquet(format!("could not put rows of \"{}\" in order", layout.relation), error)
}

/// Puts a window in order: rows of one kind together, each kind in its course.
pub(super) fn arranged(layout: &Layout, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let mut names: Vec<&str> = layout.key.iter().map(String::as_str).collect();
    if names.is_empty() {
        names.extend(kind(rows));
    }
    names.extend(layout.time.as_deref());
    names.extend([TICK_COLUMN, SEQUENCE_COLUMN]);
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for name in names {
        let Some(column) = rows.column_by_name(name) else {
            continue;
        };
        let field = SortField::new(column.data_type().clone());
        if RowConverter::supports_fields(std::slice::from_ref(&field)) {
            fields.push(field);
            columns.push(Arc::clone(column));
        }
    }
    if fields.is_empty() {
        return Ok(rows.clone());
    }
    let encoded = RowConverter::new(fields)?.convert_columns(&columns)?;
    let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
    order.sort_by(|a, b| encoded.row(*a as usize).cmp(&encoded.row(*b as usize)));
    take_record_batch(rows, &UInt32Array::from(order))
}

/// Returns the column that says what kind a row is, where no key does: the first text that is
/// never NULL and of which there are few.
fn kind(rows: &RecordBatch) -> Option<&str> {
    let schema = rows.schema_ref();
    let few = (rows.num_rows() / 16).max(1);
    let place = schema.fields().iter().enumerate().find_map(|(place, field)| {
        let column = rows.column(place);
        if *field.data_type() != DataType::Utf8 || column.null_count() > 0 {
            return None;
        }
        let mut seen = HashSet::new();
        let texts = column.as_string::<i32>();
        (0..texts.len())
            .all(|row| {
                seen.insert(texts.value(row));
                seen.len() <= few
            })
            .then_some(place)
    })?;
    Some(schema.field(place).name())
}
