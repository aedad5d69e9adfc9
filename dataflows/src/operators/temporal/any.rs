//! A row that is present while any of several conditions holds: it may enter and leave more than once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, SchemaRef};

use super::{NEVER, Span, spans_of};
use crate::faults::{self, Fault};
use crate::group_index::GroupIndex;
use crate::operators::SharedCell;
use crate::operators::ticked::TickOperator;
use crate::parts::Part;
use crate::plan::TemporalAlternative;
use crate::update::{Tick, Updates};

/// Keeps a row while one of the alternatives holds at `now()`.
///
/// State: each distinct row that has still to enter or leave, how often it is
/// there, and the one tick it waits for. When it is present is computed anew
/// from the row itself.
pub(crate) struct TemporalAny {
    alternatives: Vec<TemporalAlternative>,
    schema: SchemaRef,
    /// Every column of a row is its key: an equal row taken back finds the same slot.
    rows: GroupIndex,
    counts: Vec<i64>,
    /// Whether the row is present until the tick it waits for.
    present: Vec<bool>,
    /// The one tick each slot waits for; 0 for none.
    next: Vec<Tick>,
    /// What is due when. An entry its slot does not wait for any more is passed over.
    timers: BinaryHeap<Reverse<(Tick, u32)>>,
    groups: Vec<u32>,
    shared: SharedCell,
    /// This operator's place among the dataflow's timers.
    due: usize,
}

/// When the rows of a batch are present: for each, disjoint spans in order.
struct Presence {
    spans: Vec<Span>,
    /// Where each row's spans end among them.
    ends: Vec<u32>,
}

impl Presence {
    fn of(&self, row: usize) -> &[Span] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.spans[start as usize..self.ends[row] as usize]
    }

    fn at(&self, row: usize, tick: Tick) -> bool {
        self.of(row).iter().any(|span| span.enter <= tick && tick < span.leave)
    }

    /// Returns the first tick after `tick` at which the row enters or leaves.
    fn next(&self, row: usize, tick: Tick) -> Option<Tick> {
        let edges = self.of(row).iter().flat_map(|span| [span.enter, span.leave]);
        edges.filter(|edge| *edge > tick && *edge != NEVER).min()
    }
}

impl TemporalAny {
    pub(crate) fn new(alternatives: Vec<TemporalAlternative>, schema: SchemaRef, shared: &SharedCell) -> Self {
        let types: Vec<DataType> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
        let due = shared.borrow_mut().timer();
        TemporalAny {
            alternatives,
            schema,
            rows: GroupIndex::new(&types),
            counts: Vec::new(),
            present: Vec::new(),
            next: Vec::new(),
            timers: BinaryHeap::new(),
            groups: Vec::new(),
            shared: Rc::clone(shared),
            due,
        }
    }

    fn presence(&self, rows: &RecordBatch) -> Presence {
        presence(&self.alternatives, rows)
    }

    /// Lets what is due enter or leave.
    fn fire(&mut self, tick: Tick) -> Option<Updates> {
        let mut fired = Vec::new();
        while let Some(&Reverse((due, group))) = self.timers.peek() {
            if due > tick {
                break;
            }
            self.timers.pop();
            if self.next[group as usize] == due {
                // A row that went and came back left an equal timer behind: only one may fire.
                self.next[group as usize] = NEVER;
                fired.push(group);
            }
        }
        if fired.is_empty() {
            return None;
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), self.rows.keys(&fired))
            .expect("rows of this schema went in");
        let presence = self.presence(&rows);
        let (mut changed, mut diffs) = (Vec::new(), Vec::new());
        for (row, &group) in fired.iter().enumerate() {
            let slot = group as usize;
            let now = presence.at(row, tick);
            // Ticks may have passed over a whole span.
            if now != self.present[slot] {
                changed.push(row as u32);
                diffs.push(if now { self.counts[slot] } else { -self.counts[slot] });
            }
            match presence.next(row, tick) {
                Some(next) => {
                    self.present[slot] = now;
                    self.next[slot] = next;
                    self.timers.push(Reverse((next, group)));
                }
                None => {
                    self.counts[slot] = 0;
                    self.release(group);
                }
            }
        }
        self.prune();
        let changed = take_record_batch(&rows, &UInt32Array::from(changed)).expect("rows are in range");
        Some(Updates::new(changed, diffs))
    }

    /// Returns the rows of a batch that are present, after remembering those that can still change.
    fn take(&mut self, tick: Tick, updates: &Updates) -> Vec<u32> {
        let presence = self.presence(updates.rows());
        let (mut present, mut kept) = (Vec::new(), Vec::new());
        for row in 0..updates.len() {
            if presence.at(row, tick) {
                present.push(row as u32);
            }
            if presence.next(row, tick).is_some() {
                kept.push(row as u32);
            }
        }
        if !kept.is_empty() {
            self.remember(tick, updates, &presence, &kept);
        }
        present
    }

    fn remember(&mut self, tick: Tick, updates: &Updates, presence: &Presence, kept: &[u32]) {
        let remembered =
            take_record_batch(updates.rows(), &UInt32Array::from(kept.to_vec())).expect("kept rows are in range");
        let mut groups = std::mem::take(&mut self.groups);
        self.rows
            .intern(remembered.columns(), remembered.num_rows(), &mut groups);
        if self.counts.len() < self.rows.groups() {
            self.counts.resize(self.rows.groups(), 0);
            self.present.resize(self.rows.groups(), false);
            self.next.resize(self.rows.groups(), 0);
        }
        for (&group, &row) in groups.iter().zip(kept) {
            let (slot, row) = (group as usize, row as usize);
            if self.next[slot] == 0
                && let Some(next) = presence.next(row, tick)
            {
                self.present[slot] = presence.at(row, tick);
                self.next[slot] = next;
                self.timers.push(Reverse((next, group)));
            }
            self.counts[slot] += updates.diffs()[row];
        }
        // Only now: a row may come after its own retraction within a tick.
        for &group in &groups {
            self.release(group);
        }
        self.groups = groups;
        self.prune();
    }

    /// Forgets a row that is no longer there. Its timer finds nothing and goes.
    fn release(&mut self, group: u32) {
        let slot = group as usize;
        if self.counts[slot] == 0 && self.next[slot] != 0 {
            self.next[slot] = 0;
            self.rows.remove(group);
        }
    }

    /// Drops stale timers once they outnumber live ones, so that retractions free their memory.
    fn prune(&mut self) {
        if self.timers.len() > 1024 && self.timers.len() > 4 * self.rows.len() {
            let next = &self.next;
            self.timers
                .retain(|Reverse((due, group))| next[*group as usize] == *due);
        }
        if self.rows.is_empty() {
            self.timers.clear();
        }
    }
}

/// Returns when each row is present: the union of its alternatives' spans.
fn presence(alternatives: &[TemporalAlternative], rows: &RecordBatch) -> Presence {
    let considered = match faults::active(Fault::ForgottenAlternative) {
        true => &alternatives[..alternatives.len().min(1)],
        false => alternatives,
    };
    let each: Vec<Vec<Span>> = considered
        .iter()
        .map(|alternative| {
            let mut spans = spans_of(&alternative.bounds, rows);
            for &flag in &alternative.flags {
                let flag = rows.column(flag).as_boolean();
                for (row, span) in spans.iter_mut().enumerate() {
                    if flag.is_null(row) || !flag.value(row) {
                        *span = Span::default();
                    }
                }
            }
            spans
        })
        .collect();
    let mut presence = Presence {
        spans: Vec::with_capacity(rows.num_rows()),
        ends: Vec::with_capacity(rows.num_rows()),
    };
    let mut own: Vec<Span> = Vec::with_capacity(each.len());
    for row in 0..rows.num_rows() {
        own.clear();
        own.extend(
            each.iter()
                .map(|spans| spans[row])
                .filter(|span| span.enter < span.leave),
        );
        own.sort_unstable_by_key(|span| span.enter);
        let before = presence.spans.len();
        for span in &own {
            match presence.spans[before..].last_mut() {
                // Overlapping or touching: the row neither leaves nor enters in between.
                Some(last) if span.enter <= last.leave => last.leave = last.leave.max(span.leave),
                _ => presence.spans.push(*span),
            }
        }
        presence.ends.push(presence.spans.len() as u32);
    }
    presence
}

impl TickOperator for TemporalAny {
    fn apply(&mut self, tick: Tick, inputs: &mut [Vec<Part>]) -> Vec<Part> {
        // Timers first: rows of this tick are judged by this tick's `now()` themselves.
        let mut changes: Vec<Part> = self.fire(tick).into_iter().map(Part::whole).collect();
        for part in std::mem::take(&mut inputs[0]) {
            let updates = part.into_updates();
            let rows = self.take(tick, &updates);
            if rows.len() == updates.len() {
                changes.push(Part::whole(updates));
            } else if !rows.is_empty() {
                changes.push(Part::whole(updates).select(rows));
            }
        }
        self.shared.borrow_mut().due[self.due] = self.timers.peek().map(|Reverse((due, _))| *due);
        changes
    }

    fn state_rows(&self) -> usize {
        self.rows.len()
    }

    fn state_bytes(&self) -> usize {
        self.rows.bytes() + self.counts.capacity() * 8 + self.next.capacity() * 9 + self.timers.capacity() * 16
    }
}
