//! A source's relation: which rows enter it, which leave it, and when.
//!
//! `keyed` and `counted` hold the rows of sources that take some back; `partitions` are what a watermark waits for.
mod counted;
mod keyed;
mod partitions;
mod saved;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef, TimestampMicrosecondType};
use connectors::{Decoded, Rejected, TAKEN_BACK};
use dataflows::aggregates::canonical;
use dataflows::columns::Rows;
use dataflows::json::RowEncoder;
use dataflows::{Tick, Updates};
use serde::{Deserialize, Serialize};

use super::chunks::{Chunks, Pushed};
use super::letters::Letter;
use crate::config;
use counted::Counted;
use keyed::Keyed;
use partitions::Partitions;

/// Segments of `retain` in which rows expire together.
const SEGMENTS: i64 = 32;

/// What to do with rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// They come in; by key, they replace.
    Insert,
    /// They are taken back: by key, or as whole rows.
    Delete,
}

/// How many rows of a request went where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) accepted: usize,
    pub(super) late: usize,
    pub(super) rejected: usize,
}

/// What one tick changes in a source's relation.
#[derive(Default)]
pub(super) struct SourceChanges {
    /// The rows that came and went.
    pub(super) updates: Vec<Updates>,
    /// The same for a relation held as chunks, which only grows and expires.
    pub(super) steps: Vec<ChunkStep>,
}

/// One change of a relation held as chunks.
#[derive(Clone, Debug)]
pub(super) enum ChunkStep {
    /// Rows came into a segment.
    Pushed(i64, Pushed),
    /// A segment expired.
    Expired(i64),
}

/// Where letters of one tick go.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) late: Vec<Letter>,
    pub(super) rejected: Vec<Letter>,
}

/// The retained rows of one source, and its clock.
pub(super) struct SourceState {
    name: Arc<str>,
    source: config::Source,
    /// The largest event time accepted, in microseconds since the epoch.
    clock_us: Option<i64>,
    /// The clock as the tick began: expiry goes by it.
    clock_before_us: Option<i64>,
    /// The watermark as the tick began: lateness goes by it.
    watermark_before_us: Option<i64>,
    partitions: Partitions,
    ahead_us: Option<i64>,
    retain: Option<Retain>,
    rows: Retained,
    encoder: RowEncoder,
    changes: SourceChanges,
    /// Whether anything was changed since that was last written down.
    unsaved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Retain {
    retain_us: i64,
    width_us: i64,
}

impl Retain {
    /// Returns when a segment leaves: once the clock has reached this.
    fn leaves_us(self, segment: i64) -> i64 {
        (segment.saturating_add(1))
            .saturating_mul(self.width_us)
            .saturating_add(self.retain_us)
    }

    fn segment(self, time_us: i64) -> i64 {
        time_us.div_euclid(self.width_us)
    }
}

/// The relation's rows, in the form its kind of source needs.
enum Retained {
    /// Only inserts; rows are held for the retractions of expiry.
    Appended(BTreeMap<i64, Chunks>),
    Keyed(Box<Keyed>),
    Counted(Box<Counted>),
}

impl SourceState {
    /// Starts without rows. `ahead_us` is how far past the tick a row may be dated.
    pub(super) fn new(source: &config::Source, ahead_us: Option<i64>) -> Self {
        let types: Vec<DataType> = source
            .schema
            .fields()
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        let rows = match &source.key {
            Some(key) => Retained::Keyed(Box::new(Keyed::new(key, source.version, &types))),
            None if source.retractions || source.snapshot => Retained::Counted(Box::new(Counted::new(&types))),
            None => Retained::Appended(BTreeMap::new()),
        };
        SourceState {
            name: source.name.as_str().into(),
            clock_us: None,
            clock_before_us: None,
            watermark_before_us: None,
            partitions: Partitions::new(source.time.map_or(0, |time| time.idle_us)),
            ahead_us,
            retain: source.retain_us.map(|retain_us| Retain {
                retain_us,
                width_us: (retain_us / SEGMENTS).max(1),
            }),
            rows,
            encoder: RowEncoder::new(&source.schema),
            changes: SourceChanges::default(),
            unsaved: true,
            source: source.clone(),
        }
    }

    /// Returns whether the relation is held as chunks.
    pub(super) fn is_appended(&self) -> bool {
        matches!(self.rows, Retained::Appended(_))
    }

    /// Returns the largest event time accepted.
    pub(super) fn clock_us(&self) -> Option<i64> {
        self.clock_us
    }

    /// Returns the event time before which rows are late from the next tick on.
    pub(super) fn watermark_us(&self) -> Option<i64> {
        let lateness = self.source.time.as_ref()?.lateness_us?;
        let clock = self.partitions.clock_us(self.clock_us)?;
        Some(clock.saturating_sub(lateness))
    }

    /// Returns the event time from which on every accepted row is still there; none where rows stay for ever.
    pub(super) fn retained_from_us(&self) -> Option<i64> {
        Some(self.clock_us?.saturating_sub(self.retain?.retain_us))
    }

    /// Returns the time, or the tick where rows have none, before which every row has left; none where rows stay.
    pub(super) fn expired_below_us(&self, tick: Tick) -> Option<i64> {
        self.retain?;
        let now = match self.source.time {
            Some(_) => self.clock_us?,
            None => i64::try_from(tick).unwrap_or(i64::MAX),
        };
        Some(now.saturating_sub(self.retained_for_us()))
    }

    /// Returns for how long a row stays at most; 0 where rows stay for ever.
    pub(super) fn retained_for_us(&self) -> i64 {
        self.retain
            .map_or(0, |retain| retain.retain_us.saturating_add(retain.width_us))
    }

    /// Begins a tick: rows whose time is over leave.
    pub(super) fn begin(&mut self, tick: Tick) {
        self.clock_before_us = self.clock_us;
        self.partitions.begin(tick);
        self.watermark_before_us = self.watermark_us();
        let (Some(retain), Some(clock)) = (self.retain, self.expiry_clock(tick)) else {
            return;
        };
        while let Some(segment) = self
            .oldest_segment()
            .filter(|segment| retain.leaves_us(*segment) <= clock)
        {
            let gone = match &mut self.rows {
                Retained::Appended(segments) => {
                    self.changes.steps.push(ChunkStep::Expired(segment));
                    let chunks = segments.remove(&segment).unwrap_or_default();
                    chunks.batches().iter().cloned().map(Updates::deletes).collect()
                }
                Retained::Keyed(keyed) => keyed.expire(segment, &self.source.schema),
                Retained::Counted(counted) => counted.expire(segment, &self.source.schema),
            };
            self.changes.updates.extend(gone);
        }
    }

    /// What expiry goes by: the source's clock before the tick; the tick itself where rows have no time.
    fn expiry_clock(&self, tick: Tick) -> Option<i64> {
        match self.source.time {
            Some(_) => self.clock_before_us,
            None => Some(i64::try_from(tick).unwrap_or(i64::MAX)),
        }
    }

    fn oldest_segment(&self) -> Option<i64> {
        match &self.rows {
            Retained::Appended(segments) => segments.first_key_value().map(|(segment, _)| *segment),
            Retained::Keyed(keyed) => keyed.oldest_segment(),
            Retained::Counted(counted) => counted.oldest_segment(),
        }
    }

    /// Returns the first tick at which rows leave without any input.
    pub(super) fn due(&self) -> Option<Tick> {
        let idle = match self.source.time {
            Some(time) if time.lateness_us.is_some() => self.partitions.due(),
            _ => None,
        };
        self.expires().into_iter().chain(idle).min()
    }

    fn expires(&self) -> Option<Tick> {
        let leaves = self.retain?.leaves_us(self.oldest_segment()?);
        match (&self.source.time, self.clock_us) {
            (None, _) => Some(Tick::try_from(leaves).unwrap_or(0)),
            // The clock has passed it already: at the very next tick.
            (Some(_), Some(clock)) if leaves <= clock => Some(0),
            _ => None,
        }
    }

    /// Returns what the tick changed, and forgets it.
    pub(super) fn take_changes(&mut self) -> SourceChanges {
        self.unsaved |= !self.changes.updates.is_empty() || !self.changes.steps.is_empty();
        std::mem::take(&mut self.changes)
    }

    /// Takes rows in, or back, at a tick that was begun. `partitions` says how they divide, where they do.
    pub(super) fn apply(
        &mut self,
        tick: Tick,
        operation: Operation,
        decoded: Decoded,
        partitions: &[(Arc<str>, usize)],
        out: &mut Outgoing,
    ) -> Counts {
        let mut counts = Counts {
            rejected: decoded.rejected.len(),
            ..Counts::default()
        };
        for Rejected { raw, reason } in decoded.rejected {
            out.rejected.push(Letter {
                source: Arc::clone(&self.name),
                tick,
                reason,
                raw,
            });
        }
        if let Some(time) = self.source.time
            && let Some(times) = decoded
                .rows
                .column_by_name(self.source.schema.field(time.column).name())
            && let Some(times) = times.as_primitive_opt::<TimestampMicrosecondType>()
        {
            let newest = self.newest_us(tick);
            self.partitions.take(tick, partitions, times, newest);
        }
        if self.source.snapshot && operation == Operation::Insert {
            self.replace(tick, decoded.rows, out, &mut counts);
            return counts;
        }
        for (operation, rows) in self.runs(operation, decoded.rows) {
            self.change(tick, operation, rows, out, &mut counts);
        }
        counts
    }

    /// Splits rows of an envelope where some come and others are taken back, in their order.
    fn runs(&self, operation: Operation, rows: RecordBatch) -> Vec<(Operation, RecordBatch)> {
        let width = self.source.schema.fields().len();
        let marked = rows.num_columns() == width + 1 && rows.schema_ref().field(width).name() == TAKEN_BACK;
        let Some(marks) = rows.column(rows.num_columns() - 1).as_boolean_opt().filter(|_| marked) else {
            return vec![(operation, rows)];
        };
        let marks: Vec<bool> = marks.values().iter().collect();
        let mut from = 0;
        let runs = marks.chunk_by(|one, other| one == other).map(|run| {
            let rows = rows.slice(from, run.len());
            from += run.len();
            if run[0] && self.source.key.is_some() {
                // Only its key is known of a row that is taken back.
                return (Operation::Delete, rows);
            }
            let whole = RecordBatch::try_new(Arc::clone(&self.source.schema), rows.columns()[..width].to_vec());
            let operation = if run[0] { Operation::Delete } else { Operation::Insert };
            (operation, whole.expect("what comes has all that is declared"))
        });
        runs.collect()
    }

    /// Takes rows in as all that there is: what they do not hold is taken back.
    ///
    /// Where some could not be used, nothing is known to be missing, and nothing is taken back.
    fn replace(&mut self, tick: Tick, rows: RecordBatch, out: &mut Outgoing, counts: &mut Counts) {
        let rows = self.judge(tick, rows, out, counts);
        let partial = counts.rejected > 0;
        let changes = match &mut self.rows {
            Retained::Keyed(keyed) => keyed.replace(&rows, partial, &self.source.schema),
            Retained::Counted(counted) => counted.replace(&rows, partial, &self.source.schema),
            Retained::Appended(_) => Vec::new(),
        };
        self.changes.updates.extend(changes);
        counts.accepted += rows.num_rows();
    }

    /// Takes rows in, or back.
    fn change(&mut self, tick: Tick, operation: Operation, rows: RecordBatch, out: &mut Outgoing, counts: &mut Counts) {
        let rows = match operation {
            Operation::Insert => {
                let rows = self.judge(tick, rows, out, counts);
                self.dated(tick, rows)
            }
            Operation::Delete => rows,
        };
        if rows.num_rows() == 0 {
            return;
        }
        let name = Arc::clone(&self.name);
        let segments = match operation {
            Operation::Insert => self.segments_of(tick, &rows),
            Operation::Delete => None,
        };
        let mut rejected = 0;
        let mut reject = |batch: &RecordBatch, row: usize, reason: &str| {
            let mut raw = Vec::new();
            RowEncoder::new(&batch.schema()).object(batch, row, &mut raw);
            let raw = String::from_utf8_lossy(&raw).into_owned();
            out.rejected.push(Letter {
                source: Arc::clone(&name),
                tick,
                reason: reason.to_owned(),
                raw,
            });
            rejected += 1;
        };
        let total = rows.num_rows();
        match (&mut self.rows, operation) {
            (Retained::Appended(kept), Operation::Insert) => {
                append(kept, &rows, segments.as_deref(), &mut self.changes.steps);
                self.changes.updates.push(Updates::inserts(rows));
            }
            (Retained::Appended(_), Operation::Delete) => {
                let reason = "the source only inserts; rows are taken back only with a key or retractions = true";
                (0..total).for_each(|row| reject(&rows, row, reason));
            }
            (Retained::Keyed(keyed), Operation::Insert) => {
                let changes = keyed.upsert(&rows, segments.as_deref(), &self.source.schema);
                self.changes.updates.extend(changes);
            }
            (Retained::Keyed(keyed), Operation::Delete) => {
                let changes = keyed.delete(&rows, &self.source.schema, &mut reject);
                self.changes.updates.extend(changes);
            }
            (Retained::Counted(counted), Operation::Insert) => {
                counted.insert(&rows, segments.as_deref());
                self.changes.updates.push(Updates::inserts(rows));
            }
            (Retained::Counted(counted), Operation::Delete) => {
                let changes = counted.delete(&rows, &mut reject);
                self.changes.updates.extend(changes);
            }
        }
        counts.accepted += total - rejected;
        counts.rejected += rejected;
    }

    /// Fills the column that says when a row arrived.
    fn dated(&self, tick: Tick, rows: RecordBatch) -> RecordBatch {
        let Some(column) = self.source.arrival else { return rows };
        let DataType::Timestamp(_, zone) = self.source.schema.field(column).data_type() else {
            return rows;
        };
        let at = i64::try_from(tick).unwrap_or(i64::MAX);
        let times = TimestampMicrosecondArray::from_value(at, rows.num_rows()).with_timezone_opt(zone.clone());
        let mut columns = rows.columns().to_vec();
        columns[column] = Arc::new(times);
        RecordBatch::try_new(rows.schema(), columns).expect("a column of the declared type")
    }

    /// Keeps the rows whose time is neither late nor ahead nor already over, and moves the clock.
    fn judge(&mut self, tick: Tick, rows: RecordBatch, out: &mut Outgoing, counts: &mut Counts) -> RecordBatch {
        let Some(time) = &self.source.time else { return rows };
        let column = Arc::clone(rows.column(time.column));
        let times = column.as_primitive::<TimestampMicrosecondType>();
        let before = self.clock_before_us;
        let watermark = self.watermark_before_us;
        let newest = self.newest_us(tick);
        let retain = self.retain.zip(before);
        let verdict = |at: i64| {
            if newest.is_some_and(|newest| at > newest) {
                Verdict::Ahead
            } else if watermark.is_some_and(|watermark| at < watermark) {
                Verdict::Late
            } else if retain.is_some_and(|(retain, clock)| retain.leaves_us(retain.segment(at)) <= clock) {
                Verdict::Over
            } else {
                Verdict::Accepted
            }
        };
        let verdicts: Vec<Verdict> = times.values().iter().map(|at| verdict(*at)).collect();
        let clock = times
            .values()
            .iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| **verdict == Verdict::Accepted);
        if let Some(clock) = clock.map(|(at, _)| *at).max() {
            self.clock_us = self.clock_us.max(Some(clock));
        }
        if verdicts.iter().all(|verdict| *verdict == Verdict::Accepted) {
            return rows;
        }
        let encoded = self.encoder.bind(&rows);
        for (row, verdict) in verdicts.iter().enumerate() {
            if *verdict == Verdict::Accepted {
                continue;
            }
            let mut raw = Vec::new();
            encoded.object(row, &mut raw);
            let raw = String::from_utf8_lossy(&raw).into_owned();
            let reason = verdict.reason(time.lateness_us, self.ahead_us);
            let letter = Letter {
                source: Arc::clone(&self.name),
                tick,
                reason,
                raw,
            };
            if *verdict == Verdict::Late {
                counts.late += 1;
                out.late.push(letter);
            } else {
                counts.rejected += 1;
                out.rejected.push(letter);
            }
        }
        let accepted: BooleanArray = verdicts
            .iter()
            .map(|verdict| Some(*verdict == Verdict::Accepted))
            .collect();
        filter_record_batch(&rows, &accepted).expect("one verdict a row")
    }

    /// Returns the newest time a row may be dated at a tick; none where it may be any.
    fn newest_us(&self, tick: Tick) -> Option<i64> {
        let now = i64::try_from(tick).unwrap_or(i64::MAX);
        self.ahead_us.map(|ahead| now.saturating_add(ahead))
    }

    /// Returns the segment each row expires with, where rows expire.
    fn segments_of(&self, tick: Tick, rows: &RecordBatch) -> Option<Vec<i64>> {
        let retain = self.retain?;
        Some(match &self.source.time {
            Some(time) => {
                let times = rows.column(time.column).as_primitive::<TimestampMicrosecondType>();
                times.values().iter().map(|at| retain.segment(*at)).collect()
            }
            None => vec![retain.segment(i64::try_from(tick).unwrap_or(i64::MAX)); rows.num_rows()],
        })
    }
}

/// What becomes of a row by its time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Late,
    Ahead,
    Over,
}

impl Verdict {
    fn reason(self, lateness_us: Option<i64>, ahead_us: Option<i64>) -> String {
        let seconds = |us: Option<i64>| us.unwrap_or(0) as f64 / 1e6;
        match self {
            Verdict::Late => format!("more than {} s behind the newest row", seconds(lateness_us)),
            Verdict::Ahead => format!("dated more than {} s ahead of the tick", seconds(ahead_us)),
            Verdict::Over => "older than what the source retains".to_owned(),
            Verdict::Accepted => String::new(),
        }
    }
}

fn append(kept: &mut BTreeMap<i64, Chunks>, rows: &RecordBatch, segments: Option<&[i64]>, steps: &mut Vec<ChunkStep>) {
    let Some(segments) = segments else {
        steps.push(ChunkStep::Pushed(0, kept.entry(0).or_default().push(rows.clone())));
        return;
    };
    // Rows mostly come in order of time: few runs, each a slice.
    let mut from = 0;
    for run in segments.chunk_by(|left, right| left == right) {
        let slice = rows.slice(from, run.len());
        steps.push(ChunkStep::Pushed(run[0], kept.entry(run[0]).or_default().push(slice)));
        from += run.len();
    }
}

fn columns(batch: &RecordBatch, positions: &[usize]) -> Vec<ArrayRef> {
    positions
        .iter()
        .map(|&position| canonical(batch.column(position)))
        .collect()
}

fn batch_of(schema: &SchemaRef, rows: &Rows, slots: &[u32]) -> RecordBatch {
    RecordBatch::try_new(Arc::clone(schema), rows.gather(slots)).expect("rows of this schema went in")
}

fn take(rows: &RecordBatch, positions: Vec<u32>) -> RecordBatch {
    take_record_batch(rows, &UInt32Array::from(positions)).expect("positions are in range")
}
