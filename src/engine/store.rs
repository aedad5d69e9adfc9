//! The view store: each relation as it stands, and its recent changes by tick.
//!
//! Changes are appended as they come. They are folded into the base only when
//! somebody reads or when they grow past a budget, by the reader or the keeper
//! and never by the thread that cuts ticks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use dataflows::{Tick, Updates};

use super::base::{BaseRows, Told};
use super::plants::{Plant, is_planted};
use super::source::ChunkStep;

/// Changes kept of each relation for subscribers that are behind, in bytes.
pub const RUN_BYTES_MAX: usize = 16 << 20;

/// Changes kept of a relation although it has fewer rows. Past this, and past as many changes as
/// there are rows, a subscriber that is behind is better served with a snapshot.
const RUN_ROWS_MIN: usize = 1024;

/// Changes not yet folded into the base, in bytes, past which the keeper folds them.
pub(super) const UNFOLDED_BYTES_MAX: usize = 1 << 20;

/// The changes of a relation at one tick.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) tick: Tick,
    pub(super) updates: Vec<Updates>,
    pub(super) steps: Vec<ChunkStep>,
    bytes: usize,
    changes: usize,
}

impl Run {
    pub(super) fn new(tick: Tick, updates: Vec<Updates>, steps: Vec<ChunkStep>) -> Self {
        let bytes = updates.iter().map(Updates::bytes).sum();
        Run {
            changes: updates.iter().map(Updates::len).sum(),
            tick,
            updates,
            steps,
            bytes,
        }
    }

    fn is_empty(&self) -> bool {
        self.updates.iter().all(Updates::is_empty) && self.steps.is_empty()
    }
}

/// One relation: a source's retained rows, a view's rows, or a view's error rows.
pub(super) struct RelationStore {
    schema: SchemaRef,
    runs: Mutex<Runs>,
    base: Mutex<Base>,
}

/// The recent changes, and how far the relation is complete.
#[derive(Default)]
struct Runs {
    runs: VecDeque<Arc<Run>>,
    bytes: usize,
    changes: usize,
    /// Bytes of runs the base does not hold yet.
    unfolded: usize,
    /// Every change after this tick is among the runs.
    floor: Tick,
    /// Of a relation that was filled while others ran: changes up to here are how it came to be.
    told_from: Tick,
    /// The newest tick that was cut.
    cut: Tick,
    /// Cut ticks that may still change this relation, each with the tick that was cut before it.
    pending: VecDeque<(Tick, Tick)>,
    /// Rows present, multiplicities included.
    rows: i64,
}

impl Runs {
    /// Tells whether the oldest run should go. The newest stays: most subscribers wait for it.
    fn crowded(&self) -> bool {
        if self.runs.len() < 2 {
            return false;
        }
        let rows = usize::try_from(self.rows).unwrap_or(0);
        self.bytes > RUN_BYTES_MAX || self.changes > rows.max(RUN_ROWS_MIN)
    }
}

/// The rows as of one tick.
struct Base {
    through: Tick,
    rows: BaseRows,
}

/// The base has moved past the tick asked for: ask again, for a newer one.
#[derive(Debug)]
pub(super) struct Moved;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held is told elsewhere; the data under it is replaced whole or not at all.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RelationStore {
    /// Holds no rows.
    pub(super) fn new(schema: SchemaRef, told: Told) -> Self {
        let base = Base {
            through: 0,
            rows: BaseRows::new(&schema, told),
        };
        RelationStore {
            schema,
            runs: Mutex::default(),
            base: Mutex::new(base),
        }
    }

    /// Notes that a tick was cut, and whether it may change this relation.
    pub(super) fn cut(&self, tick: Tick, concerned: bool) {
        let mut runs = lock(&self.runs);
        let before = std::mem::replace(&mut runs.cut, tick);
        if concerned {
            runs.pending.push_back((tick, before));
        }
    }

    /// Adds what a tick changed. Returns whether the keeper should fold runs into the base.
    pub(super) fn complete(&self, run: Run) -> bool {
        let mut runs = lock(&self.runs);
        if let Some(at) = runs.pending.iter().position(|(tick, _)| *tick == run.tick) {
            runs.pending.remove(at);
        }
        if run.is_empty() {
            return false;
        }
        runs.rows += run
            .updates
            .iter()
            .flat_map(|updates| updates.diffs().iter())
            .sum::<i64>();
        runs.bytes += run.bytes;
        runs.changes += run.changes;
        runs.unfolded += run.bytes;
        runs.runs.push_back(Arc::new(run));
        runs.unfolded > UNFOLDED_BYTES_MAX
    }

    /// Returns the newest tick whose changes are all here.
    ///
    /// It is one that was cut, not one between two: nothing changed there, and yet `now()` went on,
    /// so that rows would be told that were to be gone by then.
    pub(super) fn complete_through(&self) -> Tick {
        let runs = lock(&self.runs);
        match runs.pending.front() {
            Some((tick, _)) if is_planted(Plant::ReadBetweenTicks) => tick - 1,
            Some((_, before)) => *before,
            None => runs.cut,
        }
    }

    /// Returns how many rows there are, as of the newest change.
    pub(super) fn rows(&self) -> i64 {
        lock(&self.runs).rows
    }

    /// Says that what changed up to `tick` is how the relation came to be, and no news.
    pub(super) fn told_from(&self, tick: Tick) {
        lock(&self.runs).told_from = tick;
    }

    /// Returns the runs in `after < tick <= through` for one who knows the rows as of `after`; none
    /// where some are gone already, or the relation was another then.
    pub(super) fn told(&self, after: Tick, through: Tick) -> Option<Vec<Arc<Run>>> {
        if after < lock(&self.runs).told_from {
            return None;
        }
        self.runs(after, through)
    }

    /// Returns the runs in `after < tick <= through`; none where some are gone already.
    fn runs(&self, after: Tick, through: Tick) -> Option<Vec<Arc<Run>>> {
        let runs = lock(&self.runs);
        if after < runs.floor {
            return None;
        }
        let from = runs.runs.partition_point(|run| run.tick <= after);
        let to = runs.runs.partition_point(|run| run.tick <= through);
        Some(runs.runs.range(from..to.max(from)).cloned().collect())
    }

    /// Returns the tick the base stands at, below which nothing can be read any more.
    pub(super) fn folded_through(&self) -> Tick {
        lock(&self.base).through
    }

    /// Returns the rows as of `tick`, which must be complete.
    pub(super) fn snapshot(&self, tick: Tick) -> Result<Vec<RecordBatch>, Moved> {
        let mut base = lock(&self.base);
        if base.through > tick {
            return Err(Moved);
        }
        self.fold_into(&mut base, tick);
        Ok(base.rows.batches(&self.schema))
    }

    /// Folds every complete run into the base, and forgets runs past the budget.
    pub(super) fn fold(&self) {
        let through = self.complete_through();
        let mut base = lock(&self.base);
        if base.through < through {
            self.fold_into(&mut base, through);
        }
    }

    fn fold_into(&self, base: &mut Base, through: Tick) {
        let pending = self.runs(base.through, through).unwrap_or_default();
        let folded: usize = pending.iter().map(|run| run.bytes).sum();
        base.rows.apply(&pending);
        base.through = through;
        let mut runs = lock(&self.runs);
        runs.unfolded = runs.unfolded.saturating_sub(folded);
        // Only what the base holds may go. To free it takes a while, which others need not wait for.
        let mut gone = Vec::new();
        while runs.crowded() && runs.runs.front().is_some_and(|run| run.tick <= through) {
            if let Some(oldest) = runs.runs.pop_front() {
                runs.bytes -= oldest.bytes;
                runs.changes -= oldest.changes;
                runs.floor = oldest.tick;
                gone.push(oldest);
            }
        }
        drop(runs);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Schema;

    use super::*;

    /// By the machine's clock two ticks lie apart: between them `now()` goes on, and nothing is let go of.
    #[test]
    fn a_relation_is_complete_through_a_tick_that_was_cut() {
        let store = RelationStore::new(Arc::new(Schema::empty()), Told::Content);
        let complete = |tick| store.complete(Run::new(tick, Vec::new(), Vec::new()));
        assert_eq!(store.complete_through(), 0);
        store.cut(1_000, true);
        assert_eq!(store.complete_through(), 0);
        complete(1_000);
        assert_eq!(store.complete_through(), 1_000);
        store.cut(5_000, true);
        assert_eq!(store.complete_through(), 1_000);
        store.cut(6_000, false);
        store.cut(9_000, true);
        assert_eq!(store.complete_through(), 1_000);
        complete(5_000);
        assert_eq!(store.complete_through(), 6_000);
        complete(9_000);
        assert_eq!(store.complete_through(), 9_000);
    }
}
