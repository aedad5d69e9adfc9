//! Temporal filters: a row is present from the first tick at which its bounds hold to the last.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, SchemaRef};

use super::SharedCell;
use super::ticked::TickOperator;
use crate::faults::{self, Fault};
use crate::group_index::GroupIndex;
use crate::parts::Part;
use crate::plan::{TemporalBound, TemporalComparison};
use crate::update::{Tick, Updates};

/// Keeps a row while every bound holds at `now()`, and takes it back by itself.
///
/// State: each row that has still to enter or leave, with one timer a change;
/// bounded by the rows within the widest interval.
pub(crate) struct Temporal {
    bounds: Vec<TemporalBound>,
    schema: SchemaRef,
    /// Every column of a row is its key: an equal row taken back finds the same slot.
    rows: GroupIndex,
    counts: Vec<i64>,
    spans: Vec<Span>,
    /// The one tick each slot waits for; 0 for none.
    next: Vec<Tick>,
    /// What is due when. An entry its slot does not wait for any more is passed over.
    timers: BinaryHeap<Reverse<(Tick, u32)>>,
    shared: SharedCell,
    /// This operator's place among the dataflow's timers.
    due: usize,
    groups: Vec<u32>,
}

/// A row is present at the ticks `enter..leave`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    enter: Tick,
    leave: Tick,
}

/// A tick that never comes.
const NEVER: Tick = Tick::MAX;

impl Temporal {
    pub(crate) fn new(bounds: Vec<TemporalBound>, schema: SchemaRef, shared: &SharedCell) -> Self {
        let types: Vec<DataType> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
        let due = {
            let mut shared = shared.borrow_mut();
            shared.due.push(None);
            shared.due.len() - 1
        };
        Temporal {
            bounds,
            schema,
            rows: GroupIndex::new(&types),
            counts: Vec::new(),
            spans: Vec::new(),
            next: Vec::new(),
            timers: BinaryHeap::new(),
            shared: Rc::clone(shared),
            due,
            groups: Vec::new(),
        }
    }

    /// Returns when each row is present, by its bounds alone.
    fn spans_of(&self, rows: &RecordBatch) -> Vec<Span> {
        let mut spans = vec![Span { enter: 0, leave: NEVER }; rows.num_rows()];
        for bound in &self.bounds {
            let column = rows.column(bound.column);
            let times: &TimestampMicrosecondArray = column.as_primitive();
            for (row, span) in spans.iter_mut().enumerate() {
                let bound = if times.is_null(row) {
                    Span::default()
                } else {
                    bound.span(times.value(row))
                };
                span.enter = span.enter.max(bound.enter);
                span.leave = span.leave.min(bound.leave);
            }
        }
        spans
    }

    fn take(&mut self, tick: Tick, updates: &Updates, rows: &mut Vec<u32>, diffs: &mut Vec<i64>, kept: &mut Vec<u32>) {
        let batch = updates.rows();
        let spans = self.spans_of(batch);
        kept.clear();
        for (row, span) in spans.iter().enumerate() {
            if span.enter <= tick && tick < span.leave {
                rows.push(row as u32);
                diffs.push(updates.diffs()[row]);
            }
            // Rows that can still change must be remembered.
            let next = if tick < span.enter { span.enter } else { span.leave };
            if span.enter < span.leave && next > tick && next != NEVER {
                kept.push(row as u32);
            }
        }
        if kept.is_empty() {
            return;
        }
        let indices = arrow::array::UInt32Array::from(kept.clone());
        let remembered = arrow::compute::take_record_batch(batch, &indices).expect("kept rows are in range");
        let mut groups = std::mem::take(&mut self.groups);
        self.rows
            .intern(remembered.columns(), remembered.num_rows(), &mut groups);
        if self.counts.len() < self.rows.groups() {
            self.counts.resize(self.rows.groups(), 0);
            self.spans.resize(self.rows.groups(), Span::default());
            self.next.resize(self.rows.groups(), 0);
        }
        for (&group, &row) in groups.iter().zip(kept.iter()) {
            let span = spans[row as usize];
            let slot = group as usize;
            if self.next[slot] == 0 {
                self.spans[slot] = span;
                self.next[slot] = if tick < span.enter { span.enter } else { span.leave };
                self.timers.push(Reverse((self.next[slot], group)));
            }
            self.counts[slot] += updates.diffs()[row as usize];
        }
        // Only now: a row may come after its own retraction within a tick.
        for &group in &groups {
            self.release(group);
        }
        self.groups = groups;
    }

    /// Forgets a row that is no longer present at all. Its timer finds nothing and goes.
    fn release(&mut self, group: u32) {
        let slot = group as usize;
        if self.counts[slot] == 0 && self.next[slot] != 0 {
            self.next[slot] = 0;
            self.rows.remove(group);
        }
    }

    /// Fires every timer due at `tick` and returns the rows that enter and leave.
    fn fire(&mut self, tick: Tick) -> Option<Updates> {
        let mut slots = Vec::new();
        let mut diffs = Vec::new();
        let mut gone = Vec::new();
        while let Some(&Reverse((due, group))) = self.timers.peek() {
            if due > tick {
                break;
            }
            self.timers.pop();
            let slot = group as usize;
            if self.next[slot] != due {
                continue;
            }
            // A row that went and came back left an equal timer behind: only one may fire.
            self.next[slot] = NEVER;
            let (span, count) = (self.spans[slot], self.counts[slot]);
            if due == span.enter && tick < span.leave {
                slots.push(group);
                diffs.push(count);
                if span.leave != NEVER {
                    self.next[slot] = span.leave;
                    self.timers.push(Reverse((span.leave, group)));
                    continue;
                }
            } else if due == span.leave && !faults::active(Fault::MissedExpiry) {
                slots.push(group);
                diffs.push(-count);
            }
            gone.push(group);
        }
        if slots.is_empty() && gone.is_empty() {
            return None;
        }
        let columns = self.rows.keys(&slots);
        for group in gone {
            self.counts[group as usize] = 0;
            self.release(group);
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns).expect("rows of this schema went in");
        Some(Updates::new(rows, diffs))
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

impl TemporalBound {
    fn span(&self, time: i64) -> Span {
        // `time <comparison> now + offset` is `now <opposite> time - offset`.
        let edge = time.saturating_sub(self.offset_us);
        let at = |tick: i64| Tick::try_from(tick).unwrap_or(0);
        match self.comparison {
            TemporalComparison::Greater => Span {
                enter: 0,
                leave: at(edge),
            },
            TemporalComparison::GreaterOrEqual => Span {
                enter: 0,
                leave: at(edge.saturating_add(1)),
            },
            TemporalComparison::Less => Span {
                enter: at(edge.saturating_add(1)),
                leave: NEVER,
            },
            TemporalComparison::LessOrEqual => Span {
                enter: at(edge),
                leave: NEVER,
            },
        }
    }
}

impl TickOperator for Temporal {
    fn apply(&mut self, tick: Tick, inputs: &mut [Vec<Part>]) -> Vec<Part> {
        // Timers first: rows of this tick are judged by this tick's `now()` themselves.
        let mut changes: Vec<Part> = self.fire(tick).map(Part::whole).into_iter().collect();
        let mut kept = Vec::new();
        for part in std::mem::take(&mut inputs[0]) {
            let updates = part.into_updates();
            let (mut rows, mut diffs) = (Vec::new(), Vec::new());
            self.take(tick, &updates, &mut rows, &mut diffs, &mut kept);
            if rows.len() == updates.len() {
                changes.push(Part::whole(updates));
            } else if !rows.is_empty() {
                changes.push(Part::whole(updates).select(rows));
            }
        }
        self.prune();
        self.shared.borrow_mut().due[self.due] = self.timers.peek().map(|Reverse((due, _))| *due);
        changes
    }

    fn state_rows(&self) -> usize {
        self.rows.len()
    }

    fn state_bytes(&self) -> usize {
        self.rows.bytes() + self.counts.capacity() * 8 + self.spans.capacity() * 24 + self.timers.capacity() * 16
    }
}
