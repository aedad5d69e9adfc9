//! Window functions of others, continued from row to row: the state after each row is kept beside it.

use std::sync::Arc;

use arrow::array::ArrayRef;

use super::Span;
use super::partitions::Partitions;
use crate::faults::{self, Fault};
use crate::functions::Running;

/// One such function.
///
/// State: a few words a row, by slot. A row that comes at the end continues from the last; one that
/// comes or goes elsewhere has all behind it computed again, and nothing before.
pub(super) struct Runs {
    function: Arc<dyn Running>,
    arguments: Vec<usize>,
    start: Vec<u64>,
    /// The state after each row.
    states: Vec<u64>,
}

impl Runs {
    pub(super) fn new(function: Arc<dyn Running>, arguments: Vec<usize>) -> Self {
        Runs {
            start: function.start(),
            function,
            arguments,
            states: Vec::new(),
        }
    }

    /// Computes the function for the rows of the spans, each of which reaches the end of what is asked for.
    pub(super) fn compute(&mut self, partitions: &Partitions, spans: &[Span]) -> ArrayRef {
        let width = self.start.len();
        self.states.resize(partitions.rows.slots() * width, 0);
        let (mut slots, mut runs, mut before) = (Vec::new(), Vec::with_capacity(spans.len()), Vec::new());
        for span in spans {
            let sequence = partitions.sequence(span.partition);
            let last = match span.rows.start.checked_sub(1) {
                Some(_) if faults::active(Fault::LostState) => None,
                Some(row) => sequence.get(row),
                None => None,
            };
            match last {
                Some(slot) => before.extend_from_slice(&self.states[slot as usize * width..][..width]),
                None => before.extend_from_slice(&self.start),
            }
            runs.push(span.rows.len());
            slots.extend(sequence.from(span.rows.start).take(span.rows.len()));
        }
        let arguments = partitions.rows.gather_columns(&self.arguments, &slots);
        let mut after = Vec::with_capacity(slots.len() * width);
        let results = self.function.follow(&arguments, &runs, &before, &mut after);
        for (slot, state) in slots.iter().zip(after.chunks_exact(width.max(1))) {
            self.states[*slot as usize * width..][..width].copy_from_slice(state);
        }
        results
    }

    pub(super) fn bytes(&self) -> usize {
        self.states.capacity() * size_of::<u64>()
    }
}
