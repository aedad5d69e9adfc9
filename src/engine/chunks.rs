//! Batches of a growing relation, merged by tiers so that there are few.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use dataflows::tiers;

/// What happened to a list of chunks; applying it elsewhere gives the same list without copying a row.
#[derive(Clone, Debug)]
pub(super) struct Pushed {
    /// How many chunks went from the end.
    pub(super) replaced: usize,
    /// The chunk that came.
    pub(super) chunk: RecordBatch,
}

/// A list of batches.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunks(Vec<RecordBatch>);

impl Chunks {
    /// Adds a batch, merging it with the last ones where they are many and small.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Pushed {
        let replaced = tiers::merged(self.0.iter().map(RecordBatch::num_rows), batch.num_rows());
        let chunk = if replaced == 0 {
            batch
        } else {
            let parts = self.0[self.0.len() - replaced..].iter().chain([&batch]);
            concat_batches(&batch.schema(), parts).expect("chunks of one relation have one schema")
        };
        let pushed = Pushed { replaced, chunk };
        self.apply(&pushed);
        pushed
    }

    /// Repeats elsewhere what [`Chunks::push`] did.
    pub(super) fn apply(&mut self, pushed: &Pushed) {
        self.0.truncate(self.0.len() - pushed.replaced);
        self.0.push(pushed.chunk.clone());
    }

    /// Returns the batches, in the order they came.
    pub(super) fn batches(&self) -> &[RecordBatch] {
        &self.0
    }
}
