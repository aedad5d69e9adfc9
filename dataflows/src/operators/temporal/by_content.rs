//! Rows that may be taken back at any time: each is found by all it holds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, SchemaRef};

use super::{Memory, NEVER, Span};
use crate::faults::{self, Fault};
use crate::group_index::GroupIndex;
use crate::update::{Tick, Updates};

/// Remembers each distinct row, how often it is there and the one tick it waits for.
pub(super) struct ByContent {
    schema: SchemaRef,
    /// Every column of a row is its key: an equal row taken back finds the same slot.
    rows: GroupIndex,
    counts: Vec<i64>,
    spans: Vec<Span>,
    /// The one tick each slot waits for; 0 for none.
    next: Vec<Tick>,
    /// What is due when. An entry its slot does not wait for any more is passed over.
    timers: BinaryHeap<Reverse<(Tick, u32)>>,
    groups: Vec<u32>,
}

impl ByContent {
    pub(super) fn new(schema: SchemaRef) -> Self {
        let types: Vec<DataType> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
        ByContent {
            schema,
            rows: GroupIndex::new(&types),
            counts: Vec::new(),
            spans: Vec::new(),
            next: Vec::new(),
            timers: BinaryHeap::new(),
            groups: Vec::new(),
        }
    }

    /// Forgets a row that is no longer present at all. Its timer finds nothing and goes.
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

impl Memory for ByContent {
    fn remember(&mut self, tick: Tick, updates: &Updates, spans: &[Span], kept: &[u32]) {
        let indices = UInt32Array::from(kept.to_vec());
        let remembered = take_record_batch(updates.rows(), &indices).expect("kept rows are in range");
        let mut groups = std::mem::take(&mut self.groups);
        self.rows
            .intern(remembered.columns(), remembered.num_rows(), &mut groups);
        if self.counts.len() < self.rows.groups() {
            self.counts.resize(self.rows.groups(), 0);
            self.spans.resize(self.rows.groups(), Span::default());
            self.next.resize(self.rows.groups(), 0);
        }
        for (&group, &row) in groups.iter().zip(kept) {
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
        self.prune();
    }

    fn fire(&mut self, tick: Tick) -> Vec<Updates> {
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
            return Vec::new();
        }
        let columns = self.rows.keys(&slots);
        for group in gone {
            self.counts[group as usize] = 0;
            self.release(group);
        }
        self.prune();
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns).expect("rows of this schema went in");
        vec![Updates::new(rows, diffs)]
    }

    fn due(&self) -> Option<Tick> {
        self.timers.peek().map(|Reverse((due, _))| *due)
    }

    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn bytes(&self) -> usize {
        self.rows.bytes() + self.counts.capacity() * 8 + self.spans.capacity() * 24 + self.timers.capacity() * 16
    }
}
