//! Aggregates over frames: one accumulator a partition, which follows the frame from row to row.

use std::ops::Range;

use arrow::array::{ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::SchemaRef;

use super::Span;
use super::partitions::{Change, Changes, Partitions};
use crate::aggregates::{Accumulator, Steps, Unsupported, accumulator};
use crate::operators::aggregate::spec;
use crate::plan::{AggregateCall, AggregateFunction};

/// One aggregate over one frame.
///
/// The accumulator of a partition holds some run of its rows, where it was left.
/// What a tick needs is reached from there row by row, or afresh where that is nearer:
/// an append to a running sum is one step, whatever stands before it.
pub(super) struct Slides {
    state: Box<dyn Accumulator>,
    arguments: Vec<usize>,
    filter: Option<usize>,
    pub(super) frame: usize,
    /// The positions whose rows each partition's accumulator holds.
    held: Vec<Range<usize>>,
}

impl Slides {
    pub(super) fn new(call: &AggregateCall, input: &SchemaRef, frame: usize) -> Result<Self, Unsupported> {
        Ok(Slides {
            // Rows leave a frame even where none is ever taken back.
            state: accumulator(&spec(call, input, false))?,
            arguments: match call.function {
                AggregateFunction::CountRows => Vec::new(),
                _ => call.arguments.clone(),
            },
            filter: call.filter,
            frame,
            held: Vec::new(),
        })
    }

    /// Computes the aggregate for the rows of the spans, whose frames are `bounds`.
    pub(super) fn compute(
        &mut self,
        partitions: &Partitions,
        changes: &Changes,
        spans: &[Span],
        bounds: &[Vec<Range<usize>>],
    ) -> ArrayRef {
        self.held.resize(partitions.count(), 0..0);
        self.state.resize(partitions.count());
        self.follow(partitions, changes);
        let mut steps = Steps::default();
        let mut slots = Vec::new();
        for (span, bounds) in spans.iter().zip(bounds) {
            let sequence = partitions.sequence(span.partition);
            let held = &mut self.held[span.partition as usize];
            for frame in bounds {
                let mut reset = false;
                let moved = held.start.abs_diff(frame.start) + held.end.abs_diff(frame.end);
                if moved > frame.len() {
                    (reset, *held) = (true, frame.start..frame.start);
                }
                let mut add = |rows: Range<usize>, diff: i64| {
                    slots.extend(sequence.from(rows.start).take(rows.len()));
                    steps.diffs.resize(steps.diffs.len() + rows.len(), diff);
                };
                // Rows come before others go, for the two runs may not meet.
                add(frame.start..held.start.min(frame.end).max(frame.start), 1);
                add(held.end.max(frame.start).min(frame.end)..frame.end, 1);
                add(held.start..frame.start.min(held.end).max(held.start), -1);
                add(frame.end.max(held.start).min(held.end)..held.end, -1);
                *held = frame.clone();
                steps.push(span.partition, reset);
            }
        }
        let (arguments, filter) = self.read(partitions, &slots);
        self.state.slide(&steps, &arguments, filter.as_ref())
    }

    /// Takes rows that came among those held in, and those that went out.
    fn follow(&mut self, partitions: &Partitions, changes: &Changes) {
        let (mut slots, mut groups, mut diffs) = (Vec::new(), Vec::new(), Vec::new());
        for (partition, changes) in changes.by_partition() {
            let held = &mut self.held[partition as usize];
            let mut moved = 0isize;
            let mut now = held.clone();
            for Change { position, slot, came } in changes {
                let before = (*position as isize - moved) as usize;
                let (inside, ahead) = match came {
                    true => (held.start < before && before < held.end, before <= held.start),
                    false => (held.contains(&before), before < held.start),
                };
                let diff = if *came { 1 } else { -1 };
                moved += diff as isize;
                if inside {
                    slots.push(*slot);
                    groups.push(partition);
                    diffs.push(diff);
                }
                if ahead {
                    now.start = now.start.saturating_add_signed(diff as isize);
                }
                if ahead || inside {
                    now.end = now.end.saturating_add_signed(diff as isize);
                }
            }
            *held = now;
        }
        if !slots.is_empty() {
            let (arguments, filter) = self.read(partitions, &slots);
            self.state.update(&groups, &arguments, filter.as_ref(), &diffs);
        }
    }

    fn read(&self, partitions: &Partitions, slots: &[u32]) -> (Vec<ArrayRef>, Option<BooleanArray>) {
        let filter = self.filter.map(|filter| {
            let column = partitions.rows.gather_columns(&[filter], slots);
            column[0].as_boolean().clone()
        });
        (partitions.rows.gather_columns(&self.arguments, slots), filter)
    }

    /// Forgets a partition without rows.
    pub(super) fn reset(&mut self, partition: u32) {
        self.state.reset(partition);
        if let Some(held) = self.held.get_mut(partition as usize) {
            *held = 0..0;
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.state.bytes() + self.held.capacity() * size_of::<Range<usize>>()
    }
}
