//! Raw input in history: the records of the log as rows of files, and back.
//!
//! A row of a file is a row as it was posted, with its tick, its place in the tick, and whether it came or was taken
//! back. One that did neither says that a partition was read from of which no row came: the watermark waits for it.
//! Ticks in which nothing came for a source that is kept are rows of a history of their own, so that a replay has every
//! tick that there was.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt64Array, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use connectors::{Position, TAKEN_BACK};
use dataflows::Tick;
use queries::cold::{DIFF_COLUMN, SEQUENCE_COLUMN, TICK_COLUMN};

use super::keeping::Door;
use super::source::SourceState;
use crate::config::{Deployment, Source};
use crate::history::{FileEntry, HistoryError, Inventory, KeptSource, Layout};
use crate::log::{Checkpoint, Entry, KeepSource, LogStore, Manifest, Record};

/// The name under which ticks are kept in which nothing else is. No source can have it.
pub(crate) const TICKS: &str = "sangam_ticks";

/// The column that says of which partition a row was read; NULL where its source has none.
const PARTITION_COLUMN: &str = "__partition";

/// Rows of one source gathered before they are written.
const WRITE_ROWS: usize = 256 * 1024;

/// Returns the columns of a source's raw input.
pub(super) fn schema(columns: &Schema) -> SchemaRef {
    let mut fields: Vec<Field> = columns
        .fields()
        .iter()
        // Of a row that is taken back by key, only the key is known.
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    fields.push(Field::new(PARTITION_COLUMN, DataType::Utf8, true));
    fields.push(Field::new(TICK_COLUMN, DataType::UInt64, false));
    fields.push(Field::new(SEQUENCE_COLUMN, DataType::UInt64, false));
    fields.push(Field::new(DIFF_COLUMN, DataType::Int64, false));
    Arc::new(Schema::new(fields))
}

/// Lays the raw input of a source out.
///
/// # Errors
/// When a column is of a type that files cannot hold.
pub(crate) fn layout(source: &Source) -> Result<Layout, HistoryError> {
    let name = |column: usize| source.schema.field(column).name().clone();
    let key: Vec<String> = source.key.iter().flatten().map(|&column| name(column)).collect();
    let time = source.time.map(|time| name(time.column));
    Layout::new(source.name.as_str(), schema(&source.schema), time.as_deref(), &key)
}

/// Lays out the ticks in which nothing came.
pub(super) fn layout_of_ticks() -> Result<Layout, HistoryError> {
    Layout::new(TICKS, schema(&Schema::empty()), None, &[])
}

/// Returns the sources whose raw input goes to history with a checkpoint at a tick.
pub(super) fn kept(deployment: &Deployment, states: &[SourceState], tick: Tick) -> BTreeMap<String, KeepSource> {
    let mut kept = BTreeMap::new();
    for (source, state) in deployment.sources.iter().zip(states) {
        let Some(keep) = source.keep else { continue };
        // It was laid out when the deployment was checked.
        let Ok(layout) = layout(source) else { continue };
        kept.insert(
            source.name.clone(),
            KeepSource {
                layout,
                keep_us: keep.us(),
                retained_from_us: state.expired_below_us(tick),
                retain_us: state.retained_for_us(),
                ahead_us: source.time.and_then(|time| time.ahead_us),
            },
        );
    }
    let longest = kept
        .values()
        .map(|keep| keep.keep_us)
        .reduce(|one, other| Some(one?.max(other?)));
    if let (Some(keep_us), Ok(layout)) = (longest, layout_of_ticks()) {
        let ticks = KeepSource {
            layout,
            keep_us,
            retained_from_us: Some(i64::MAX),
            retain_us: 0,
            ahead_us: None,
        };
        kept.insert(TICKS.to_owned(), ticks);
    }
    kept
}

/// Takes raw input from the log to history.
pub(super) struct Raw<'a> {
    pub(super) door: &'a Door,
    pub(super) store: &'a LogStore,
    pub(super) data: &'a Path,
}

/// Rows of a source on their way.
struct Gathered {
    keep: KeepSource,
    kept: KeptSource,
    /// Records before this are in what it began with.
    from: u64,
    rows: Vec<RecordBatch>,
    count: usize,
}

impl Raw<'_> {
    /// Takes what the log forgets with a checkpoint; says nothing of it where it cannot take all.
    pub(super) fn keep(
        &self,
        checkpoint: &mut Checkpoint,
        last: Option<&Manifest>,
        inventory: &mut Inventory,
    ) -> anyhow::Result<()> {
        let wanted = std::mem::take(&mut checkpoint.keep.sources);
        let below = checkpoint.manifest.log_from;
        let begun = last.map_or(1, |last| last.log_from);
        let from = match inventory.records_from {
            0 => begun,
            from => from,
        };
        if wanted.is_empty() {
            inventory.sources.clear();
            inventory.records_from = below;
            return Ok(());
        }
        let mut sequence = inventory.sequence;
        let mut all = BTreeMap::new();
        for (name, keep) in wanted {
            let known = inventory.sources.get(&name).cloned();
            let mut gathered = Gathered {
                from: if known.is_some() { from } else { begun.max(from) },
                kept: known.clone().unwrap_or_default(),
                rows: Vec::new(),
                count: 0,
                keep,
            };
            if let (None, Some(last)) = (known, last) {
                self.begin(&name, last, &mut gathered)?;
            }
            all.insert(name, gathered);
        }
        self.store.replay_some(from, below, |number, record| {
            let Record::Tick(record) = record else { return Ok(()) };
            let mut came = false;
            let mut places: BTreeMap<&str, u64> = BTreeMap::new();
            let tells = |entry: &&Entry| entry.rows.num_rows() > 0 || !entry.partitions.is_empty();
            for entry in record.entries.iter().filter(tells) {
                let Some(gathered) = all.get_mut(&*entry.source).filter(|gathered| number >= gathered.from) else {
                    continue;
                };
                came = true;
                let place = places.entry(&entry.source).or_default();
                let schema = Arc::clone(gathered.keep.layout.schema());
                gathered.push(rows_of(entry, record.tick, place, &schema)?);
                if entry.partitions.iter().any(|(_, rows)| *rows == 0) {
                    gathered.push(without_rows(entry, record.tick, place, &schema)?);
                }
            }
            if !came && let Some(ticks) = all.get_mut(TICKS) {
                ticks.push(tick(record.tick, ticks.keep.layout.schema())?);
            }
            for gathered in all.values_mut().filter(|gathered| gathered.count >= WRITE_ROWS) {
                self.write(gathered, &mut sequence)?;
            }
            anyhow::Ok(())
        })?;
        let mut sources = BTreeMap::new();
        for (name, mut gathered) in all {
            self.write(&mut gathered, &mut sequence)?;
            expire(&mut gathered, checkpoint.manifest.tick);
            sources.insert(name, gathered.kept);
        }
        inventory.sources = sources;
        inventory.sequence = sequence;
        inventory.records_from = below;
        Ok(())
    }

    /// Begins with the rows that were there at the last checkpoint, as if they had come then.
    fn begin(&self, name: &str, last: &Manifest, gathered: &mut Gathered) -> anyhow::Result<()> {
        gathered.kept.since = last.tick;
        let schema = Arc::clone(gathered.keep.layout.schema());
        let mut place = 0;
        for part in last.sources.get(name).map_or(&[][..], |source| &source.parts) {
            part.read(self.data, |rows| {
                let entry = Entry {
                    source: name.into(),
                    delete: false,
                    rows,
                    rejected: Vec::new(),
                    position: Position::default(),
                    partitions: Vec::new(),
                    idempotency_key: None,
                };
                gathered.push(rows_of(&entry, last.tick, &mut place, &schema)?);
                anyhow::Ok(())
            })?;
        }
        Ok(())
    }

    fn write(&self, gathered: &mut Gathered, sequence: &mut u64) -> Result<(), HistoryError> {
        if gathered.rows.is_empty() {
            return Ok(());
        }
        *sequence += 1;
        let write = self
            .door
            .archive
            .write(&gathered.keep.layout, &gathered.rows, *sequence);
        gathered.kept.entries.extend(self.door.wait(write)?);
        gathered.rows.clear();
        gathered.count = 0;
        Ok(())
    }
}

impl Gathered {
    fn push(&mut self, rows: RecordBatch) {
        if rows.num_rows() > 0 {
            self.count += rows.num_rows();
            self.rows.push(rows);
        }
    }
}

/// Gives up files that are kept long enough and hold nothing that is still retained.
fn expire(gathered: &mut Gathered, now: Tick) {
    let Gathered { keep, kept, .. } = gathered;
    let Some(keep_us) = keep.keep_us else { return };
    let before = now.saturating_sub(keep_us.unsigned_abs());
    // A row dated later was refused.
    let latest = |entry: &FileEntry| {
        let tick = i64::try_from(entry.tick_max.unwrap_or(u64::MAX)).unwrap_or(i64::MAX);
        let ahead = tick.saturating_add(keep.ahead_us.unwrap_or(0));
        entry.time_max_us.map_or(tick, |time| time.min(ahead))
    };
    let is_over = |entry: &FileEntry| {
        let old = entry.tick_max.is_some_and(|tick| tick < before);
        old && keep.retained_from_us.is_some_and(|from| latest(entry) < from)
    };
    let (over, stay): (Vec<FileEntry>, Vec<FileEntry>) =
        std::mem::take(&mut kept.entries).into_iter().partition(is_over);
    kept.entries = stay;
    if over.is_empty() {
        return;
    }
    kept.expired_us = kept.expired_us.max(over.iter().map(latest).max());
    kept.expired_tick = kept
        .expired_tick
        .max(over.iter().filter_map(|entry| entry.tick_max).max());
    // What was there before a tick matters no more once all of it has expired from the source.
    let needed = kept.expired_us.unwrap_or(i64::MIN).saturating_add(keep.retain_us);
    let passed = |entry: &&FileEntry| match (entry.time_min_us, entry.tick_min) {
        (Some(time), Some(tick)) => {
            let tick = i64::try_from(tick).unwrap_or(i64::MAX);
            time >= needed && time <= tick.saturating_add(keep.ahead_us.unwrap_or(0))
        }
        (None, Some(tick)) => i64::try_from(tick).unwrap_or(i64::MAX) >= needed,
        _ => false,
    };
    let known = kept
        .entries
        .iter()
        .filter(passed)
        .filter_map(|entry| entry.tick_max)
        .min();
    kept.since = known.unwrap_or(now).max(kept.since);
}

fn tick(tick: Tick, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::new_null(1)),
        Arc::new(UInt64Array::from(vec![tick])),
        Arc::new(UInt64Array::from(vec![0])),
        Arc::new(Int64Array::from(vec![1])),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// Gives the rows of an entry the form they have in files; `place` counts those of its source and tick.
fn rows_of(entry: &Entry, tick: Tick, place: &mut u64, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let (rows, count) = (&entry.rows, entry.rows.num_rows());
    let declared = &schema.fields()[..schema.fields().len() - 4];
    let mut columns: Vec<ArrayRef> = declared
        .iter()
        .map(|field| match rows.column_by_name(field.name()) {
            Some(column) => Arc::clone(column),
            None => new_null_array(field.data_type(), count),
        })
        .collect();
    let mut partitions: Vec<Option<&str>> = Vec::with_capacity(count);
    for (name, rows) in &entry.partitions {
        partitions.extend(std::iter::repeat_n(Some(&**name), *rows));
    }
    partitions.resize(count, None);
    let taken_back = rows.column_by_name(TAKEN_BACK).and_then(|marks| marks.as_boolean_opt());
    let diffs: Int64Array = match (entry.delete, taken_back) {
        (true, _) => Int64Array::from_value(-1, count),
        (false, Some(marks)) => marks
            .values()
            .iter()
            .map(|taken| Some(if taken { -1 } else { 1 }))
            .collect(),
        (false, None) => Int64Array::from_value(1, count),
    };
    let from = *place;
    *place += count as u64;
    columns.push(Arc::new(StringArray::from(partitions)));
    columns.push(Arc::new(UInt64Array::from_value(tick, count)));
    columns.push(Arc::new(UInt64Array::from_iter_values(from..*place)));
    columns.push(Arc::new(diffs));
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// Makes a row of each partition of an entry that was read from and had none.
fn without_rows(entry: &Entry, tick: Tick, place: &mut u64, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let empty = entry.partitions.iter().filter(|(_, rows)| *rows == 0);
    let names: Vec<&str> = empty.map(|(name, _)| &**name).collect();
    let declared = &schema.fields()[..schema.fields().len() - 4];
    let mut columns: Vec<ArrayRef> = declared
        .iter()
        .map(|field| new_null_array(field.data_type(), names.len()))
        .collect();
    let from = *place;
    *place += names.len() as u64;
    columns.push(Arc::new(UInt64Array::from_value(tick, names.len())));
    columns.push(Arc::new(UInt64Array::from_iter_values(from..*place)));
    columns.push(Arc::new(Int64Array::from_value(0, names.len())));
    columns.insert(declared.len(), Arc::new(StringArray::from(names)));
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// Gives rows of one tick, in their order, the form they had in the log.
pub(in crate::engine) fn entries_of(source: &Arc<str>, rows: &[RecordBatch]) -> Result<Vec<Entry>, ArrowError> {
    let Some(first) = rows.first() else {
        return Ok(Vec::new());
    };
    let rows = match rows {
        [one] => one.clone(),
        _ => concat_batches(first.schema_ref(), rows)?,
    };
    let declared = rows.num_columns() - 4;
    let all: Vec<usize> = (0..declared).collect();
    let diffs = rows.column(declared + 3).as_primitive::<Int64Type>().values().clone();
    let partitions = rows.column(declared).as_string::<i32>().clone();
    let plain = rows.project(&all)?;
    let mut entries = Vec::new();
    let mut from = 0;
    for run in diffs.chunk_by(|one, other| one == other) {
        let of_run = partitions.slice(from, run.len());
        let each = usize::from(run[0] != 0);
        let mut counted: Vec<(Arc<str>, usize)> = Vec::new();
        for name in of_run.iter().flatten() {
            match counted.last_mut().filter(|(last, _)| **last == *name) {
                Some((_, count)) => *count += each,
                None => counted.push((name.into(), each)),
            }
        }
        entries.push(Entry {
            source: Arc::clone(source),
            delete: run[0] < 0,
            rows: plain.slice(from, run.len() * each),
            rejected: Vec::new(),
            position: Position::default(),
            partitions: counted,
            idempotency_key: None,
        });
        from += run.len();
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_of_files_with_their_partitions() {
        let columns = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
        let schema = schema(&columns);
        let entry = |numbers: &[i64], partitions: &[(&str, usize)], delete: bool| {
            let numbers: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
            Entry {
                source: "readings".into(),
                delete,
                rows: RecordBatch::try_from_iter([("n", numbers)]).expect("rows"),
                rejected: Vec::new(),
                position: Position::default(),
                partitions: partitions.iter().map(|(name, rows)| ((*name).into(), *rows)).collect(),
                idempotency_key: None,
            }
        };
        let told = [
            entry(&[1, 2, 3], &[("a", 2), ("b", 1)], false),
            // Read from, and nothing could be made of it.
            entry(&[], &[("c", 0), ("d", 0)], false),
            entry(&[2], &[("a", 1)], true),
            entry(&[4, 5], &[("a", 1), ("e", 0), ("b", 1)], false),
        ];
        let mut place = 0;
        let mut rows = Vec::new();
        for entry in &told {
            rows.push(rows_of(entry, 7, &mut place, &schema).expect("rows"));
            rows.push(without_rows(entry, 7, &mut place, &schema).expect("rows"));
        }
        assert_eq!(place, 9, "each has its place");
        let found = entries_of(&"readings".into(), &rows).expect("entries");
        let found: Vec<_> = found
            .iter()
            .map(|entry| {
                let partitions = entry.partitions.iter().map(|(name, rows)| format!("{name} {rows}"));
                (
                    entry.delete,
                    entry.rows.num_rows(),
                    partitions.collect::<Vec<_>>().join(", "),
                )
            })
            .collect();
        let line = |delete, rows, partitions: &str| (delete, rows, partitions.to_owned());
        assert_eq!(
            found,
            [
                line(false, 3, "a 2, b 1"),
                line(false, 0, "c 0, d 0"),
                line(true, 1, "a 1"),
                line(false, 2, "a 1, b 1"),
                line(false, 0, "e 0"),
            ]
        );
    }
}
