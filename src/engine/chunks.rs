//! Batches of a growing relation, merged by tiers so that there are few.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;

/// Batches of about equal size that become one.
const FANOUT: usize = 8;

/// Batches of at least this many rows stay as they are: a query takes no larger ones,
/// and copying them would be felt at every tick under load.
const CHUNK_ROWS: usize = 8 * 1024;

/// What happened to a list of chunks; applying it elsewhere gives the same list without copying a row.
#[derive(Clone, Debug)]
pub(super) struct Pushed {
    /// How many chunks went from the end.
    pub(super) replaced: usize,
    /// The chunk that came.
    pub(super) chunk: RecordBatch,
}

/// A list of batches. Each row is copied about log8 of its chunk's size times.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunks(Vec<RecordBatch>);

impl Chunks {
    /// Adds a batch, merging it with the last ones once they are as many as the fan-out.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Pushed {
        let tier = |rows: usize| rows.max(1).ilog(FANOUT);
        let mut from = self.0.len();
        let mut rows = batch.num_rows();
        loop {
            let alike = self.0[..from]
                .iter()
                .rev()
                .take_while(|chunk| tier(chunk.num_rows()) <= tier(rows))
                .count();
            if alike + 1 < FANOUT || rows >= CHUNK_ROWS {
                break;
            }
            rows += self.0[from - alike..from]
                .iter()
                .map(RecordBatch::num_rows)
                .sum::<usize>();
            from -= alike;
        }
        let replaced = self.0.len() - from;
        let chunk = if replaced == 0 {
            batch
        } else {
            let parts = self.0[from..].iter().chain([&batch]);
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
