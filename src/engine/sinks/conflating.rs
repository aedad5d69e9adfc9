//! Merges what waits for a sink into its net change, once too much does (`when_full = "conflate"`).
//!
//! It happens on a thread of its own: an attempt to deliver may take a quarter of a minute to fail, and ticks go on. The
//! thread that writes the log only puts the result in its place, between its other commits.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Schema};
use crossbeam_channel::{Receiver, TryRecvError};
use dataflows::group_index::GroupIndex;
use dataflows::{Tick, Updates};

use super::{SinkState, lower, net};
use crate::engine::plants::{Plant, is_planted};
use crate::log::{Conflated, Conflation, LogError, LogStore, OutboxDoor, Outgoing};

/// Ticks merged in one write, at most: the log waits while they are taken out.
const MERGED_TICKS_MAX: usize = 4096;

/// Bytes merged in one write, at most but for what the first of them needs: they are in memory meanwhile.
const MERGED_BYTES_MAX: usize = 16 << 20;

/// Ticks of so few bytes are merged with the next whatever these bring.
const SMALL_BYTES: usize = 64 << 10;

/// What merges the ticks that wait for one sink.
pub(super) struct Conflating {
    state: Arc<SinkState>,
    store: Arc<LogStore>,
    outbox: OutboxDoor,
    /// Ticks up to this one cannot be merged: an earlier definition of the view told them, with other columns.
    passed: Tick,
}

impl SinkState {
    /// Tells whether as many ticks wait as may, and enough of them can be merged that it is worth it.
    pub(super) fn has_much(&self) -> bool {
        let most = self.definition.waiting_ticks_max;
        let (waiting, untried) = (&self.waiting, &self.untried);
        waiting.load(Ordering::Relaxed) >= most && untried.load(Ordering::Relaxed) >= (most / 2).max(2)
    }

    /// Has ticks merged, where too many wait and they may be.
    pub(super) fn wake_merging(&self) {
        if let Some(merging) = &self.merging
            && self.has_much()
        {
            // A full door means that it has been told already.
            let _ = merging.try_send(());
        }
    }
}

impl Conflating {
    pub(super) fn new(state: Arc<SinkState>, store: Arc<LogStore>, outbox: OutboxDoor) -> Self {
        Conflating {
            state,
            store,
            outbox,
            passed: 0,
        }
    }

    /// Merges whenever there is much, until it is over.
    pub(super) fn run(&mut self, much: &Receiver<()>, stopped: &Receiver<()>) {
        loop {
            crossbeam_channel::select! {
                recv(stopped) -> _ => return,
                recv(much) -> _ => {}
            }
            while self.state.has_much() && matches!(stopped.try_recv(), Err(TryRecvError::Empty)) {
                match self.merge() {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::error!(
                            sink = self.state.definition.name,
                            %error,
                            "could not merge ticks that wait for a sink; sources will wait once too many do"
                        );
                        return;
                    }
                }
            }
        }
    }

    /// Merges some of the oldest ticks that wait and were never tried; tells whether more may come of doing it again.
    pub(super) fn merge(&mut self) -> Result<bool, LogError> {
        let SinkState {
            definition,
            waiting,
            untried,
            conflated,
            ..
        } = &*self.state;
        let name = &definition.name;
        // Until it is written: nobody else may take what is merged.
        let mut tried = self.state.tried();
        let after = match is_planted(Plant::MergedAfterTried) {
            true => self.passed,
            false => self.passed.max(tried.through),
        };
        // The newest are left: they are merged with those to come.
        let many = untried
            .load(Ordering::Relaxed)
            .saturating_sub(definition.waiting_ticks_max / 4);
        let many = many.clamp(2, MERGED_TICKS_MAX);
        let sizes = self.store.outbox_sizes(name, after + 1..=Tick::MAX, many)?;
        let Some(ticks) = choose(&sizes) else {
            return Ok(false);
        };
        let last = *ticks.end();
        let entries = self.store.outbox(name, ticks, (usize::MAX, usize::MAX))?;
        let (Some(run), Some(key)) = (alike(&entries, &definition.setting.schema), &definition.setting.key) else {
            self.passed = last;
            return Ok(true);
        };
        let [(first, _), .., (last, _)] = run else {
            // One alone. Where it is the newest of these, those to come may be like it.
            let alone = run.first().map_or(last, |(tick, _)| *tick);
            self.passed = if alone == last { last - 1 } else { alone };
            return Ok(true);
        };
        let changes = run.iter().map(|(_, outgoing)| outgoing);
        let changes: Vec<Updates> = changes
            .map(|outgoing| Updates::new(outgoing.rows.clone(), outgoing.diffs.clone()))
            .collect();
        let change = net_by_key(&changes, key);
        let gone = run.len() - usize::from(change.is_some());
        let total = conflated.load(Ordering::Relaxed) + gone as u64;
        let is_safe = self.outbox.conflate(Conflated {
            sink: name.as_str().into(),
            ticks: *first..=*last,
            change,
            conflation: Conflation {
                tried: Some(tried.through),
                conflated: total,
            },
        });
        if !is_safe {
            // The log has said why.
            return Ok(false);
        }
        tried.is_noted = true;
        conflated.store(total, Ordering::Relaxed);
        lower(waiting, gone);
        lower(untried, gone);
        Ok(true)
    }
}

/// Chooses neighbours to be merged, by the bytes of each. One that has more of them than all that follow is left alone
/// until they have as many: so a row is written again a few times, however many ticks come, and of large ones few stay.
pub(super) fn choose(sizes: &[(Tick, usize)]) -> Option<RangeInclusive<Tick>> {
    let mut rest: usize = sizes.iter().map(|(_, bytes)| bytes).sum();
    for (place, &(first, bytes)) in sizes.iter().enumerate() {
        rest -= bytes;
        if bytes > rest.max(SMALL_BYTES) {
            continue;
        }
        let (mut last, mut sum) = (None, bytes);
        for &(tick, more) in &sizes[place + 1..] {
            if last.is_some() && sum + more > MERGED_BYTES_MAX.max(2 * bytes) {
                break;
            }
            sum += more;
            last = Some(tick);
        }
        return Some(first..=last?);
    }
    None
}

/// Returns the first ticks that have the columns a sink is declared for, and all the same.
fn alike<'a>(entries: &'a [(Tick, Outgoing)], declared: &Schema) -> Option<&'a [(Tick, Outgoing)]> {
    let declared = columns(declared);
    let from = entries
        .iter()
        .position(|(_, outgoing)| columns(outgoing.rows.schema_ref()) == declared)?;
    let schema = entries[from].1.rows.schema();
    let run = entries[from..].iter();
    let count = run.take_while(|(_, outgoing)| outgoing.rows.schema() == schema).count();
    Some(&entries[from..from + count])
}

fn columns(schema: &Schema) -> Vec<(&str, &DataType)> {
    let fields = schema.fields().iter();
    fields.map(|field| (field.name().as_str(), field.data_type())).collect()
}

/// Adds changes of rows with a key up, the oldest first: of each key, the row there was before goes and the one there is
/// after comes. None, where nothing is left.
///
/// Whoever is told of it ends where they would have, told of one change after the other.
pub(super) fn net_by_key(changes: &[Updates], key: &[usize]) -> Option<(RecordBatch, Vec<i64>)> {
    let schema = changes.first()?.rows().schema();
    let rows = concat_batches(&schema, changes.iter().map(Updates::rows)).expect("rows of one schema");
    let types: Vec<DataType> = key
        .iter()
        .map(|&column| schema.field(column).data_type().clone())
        .collect();
    let keys: Vec<_> = key.iter().map(|&column| Arc::clone(rows.column(column))).collect();
    let mut index = GroupIndex::new(&types);
    let mut groups = Vec::new();
    index.intern(&keys, rows.num_rows(), &mut groups);
    let mut spans = vec![Span::default(); index.groups()];
    let diffs = changes
        .iter()
        .enumerate()
        .flat_map(|(change, updates)| updates.diffs().iter().map(move |diff| (change, *diff)));
    for (row, (&group, (change, diff))) in groups.iter().zip(diffs).enumerate() {
        spans[group as usize].take(row as u32, change, diff);
    }
    let (mut places, mut diffs) = (Vec::new(), Vec::new());
    for Span { before, after, .. } in spans {
        let before = before.filter(|_| !is_planted(Plant::MergedWithoutWhatGoes));
        for (place, diff) in [(before, -1), (after, 1)] {
            if let Some(place) = place {
                places.push(place);
                diffs.push(diff);
            }
        }
    }
    let rows = take_record_batch(&rows, &UInt32Array::from(places)).expect("rows of the batch");
    // A row that is after what it was before has not changed.
    net(&[Updates::new(rows, diffs)])
}

/// What became of one key.
#[derive(Clone, Default)]
struct Span {
    /// The first and the last change that say something of it.
    changes: Option<(usize, usize)>,
    /// The row before the first.
    before: Option<u32>,
    /// The row after the last.
    after: Option<u32>,
}

impl Span {
    fn take(&mut self, row: u32, change: usize, diff: i64) {
        let (first, last) = self.changes.unwrap_or((change, change));
        if change != last {
            self.after = None;
        }
        self.changes = Some((first, change));
        match diff > 0 {
            true => self.after = Some(row),
            false if change == first => self.before = Some(row),
            false => {}
        }
    }
}
