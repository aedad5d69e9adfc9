//! The view store: each relation as it stands, and its recent changes by tick.
//!
//! Changes are appended as they come. They are folded into the base only when
//! somebody reads or when they grow past a budget, by the reader or the keeper
//! and never by the thread that cuts ticks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use dataflows::plan::{Bucket, times_of};
use dataflows::{Tick, Updates};
use queries::cold::Cold;

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
    /// Where some of its rows are from this tick on.
    stored: Option<StoredRows>,
    bytes: usize,
    changes: usize,
}

/// Rows of a relation that are in files from a tick on.
#[derive(Clone, Debug)]
pub(super) struct StoredRows {
    /// Position of the bucket's column.
    pub(super) bucket: usize,
    /// Rows of buckets below this are there, and not in memory.
    pub(super) stored: i64,
    /// Rows there before this have left, in microseconds.
    pub(super) from_us: Option<i64>,
    /// The files, where they are others than before.
    pub(super) cold: Option<Cold>,
}

impl StoredRows {
    /// Divides rows: those that are in files, and those that are not.
    fn divide(&self, rows: &RecordBatch) -> [BooleanArray; 2] {
        let bucket = Bucket {
            column: self.bucket,
            of: None,
        };
        let times = times_of(&bucket, rows);
        let is_stored = |time: Option<i64>| time.is_some_and(|time| time < self.stored);
        let stored = times.iter().map(|time| Some(is_stored(time))).collect();
        [stored, times.iter().map(|time| Some(!is_stored(time))).collect()]
    }

    /// Leaves of changes those of rows in memory.
    fn in_memory(&self, updates: &Updates) -> Updates {
        let [_, memory] = self.divide(updates.rows());
        let rows = filter_record_batch(updates.rows(), &memory).expect("one verdict a row");
        let diffs = updates.diffs().iter().zip(memory.values());
        let diffs: Vec<i64> = diffs.filter(|(_, kept)| *kept).map(|(diff, _)| *diff).collect();
        Updates::new(rows, diffs)
    }
}

impl Run {
    pub(super) fn new(tick: Tick, updates: Vec<Updates>, steps: Vec<ChunkStep>) -> Self {
        let bytes = updates.iter().map(Updates::bytes).sum();
        Run {
            changes: updates.iter().map(Updates::len).sum(),
            tick,
            updates,
            steps,
            stored: None,
            bytes,
        }
    }

    /// Says that from here on some rows are in files.
    pub(super) fn with_stored(mut self, stored: Option<StoredRows>) -> Self {
        self.stored = stored;
        self
    }

    fn is_empty(&self) -> bool {
        self.updates.iter().all(Updates::is_empty) && self.steps.is_empty() && self.stored.is_none()
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
    /// The rows that are in files.
    cold: Option<Cold>,
    schema: SchemaRef,
}

impl Base {
    /// Applies what complete ticks changed, in their order.
    fn apply(&mut self, runs: &[Arc<Run>]) {
        let mut rest = runs;
        while let Some(at) = rest.iter().position(|run| run.stored.is_some()) {
            self.rows.apply(&rest[..at]);
            if let Some(stored) = &rest[at].stored {
                self.let_go(stored);
                // What else the tick changed of rows in files, the files show.
                let updates = rest[at]
                    .updates
                    .iter()
                    .map(|updates| stored.in_memory(updates))
                    .collect();
                self.rows
                    .apply(&[Arc::new(Run::new(rest[at].tick, updates, Vec::new()))]);
            }
            rest = &rest[at + 1..];
        }
        self.rows.apply(rest);
    }

    /// Lets rows go that are in files; returns how many.
    fn let_go(&mut self, stored: &StoredRows) -> usize {
        let mut count = 0;
        let rows = self.rows.batches(&self.schema);
        let gone = rows.iter().map(|rows| {
            let [gone, _] = stored.divide(rows);
            filter_record_batch(rows, &gone).expect("one verdict a row")
        });
        let gone: Vec<Updates> = gone.filter(|rows| rows.num_rows() > 0).map(Updates::deletes).collect();
        count += gone.iter().map(Updates::len).sum::<usize>();
        if !gone.is_empty() {
            self.rows.apply(&[Arc::new(Run::new(self.through, gone, Vec::new()))]);
        }
        let cold = stored.cold.as_ref().or(self.cold.as_ref()).cloned();
        self.cold = match stored.from_us {
            Some(from_us) => cold.map(|cold| cold.with_from(from_us)),
            None => cold,
        };
        count
    }
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
            cold: None,
            schema: Arc::clone(&schema),
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

    /// Returns the rows in memory as of `tick`, which must be complete.
    pub(super) fn snapshot(&self, tick: Tick) -> Result<Vec<RecordBatch>, Moved> {
        self.whole(tick).map(|(rows, _)| rows)
    }

    /// Returns all rows as of `tick`, which must be complete: those in memory, and those in files.
    pub(super) fn whole(&self, tick: Tick) -> Result<(Vec<RecordBatch>, Option<Cold>), Moved> {
        let mut base = lock(&self.base);
        if base.through > tick {
            return Err(Moved);
        }
        self.fold_into(&mut base, tick);
        Ok((base.rows.batches(&self.schema), base.cold.clone()))
    }

    /// Begins with rows that are in files, `rows` of them.
    pub(super) fn begin_with(&self, cold: Cold, rows: u64) {
        lock(&self.base).cold = Some(cold);
        lock(&self.runs).rows += i64::try_from(rows).unwrap_or(i64::MAX);
    }

    /// Shows the rows in files that another relation does, whose place it takes.
    pub(super) fn take_over(&self, old: &RelationStore) {
        old.fold();
        let (cold, memory) = {
            let mut base = lock(&old.base);
            let rows = base.rows.batches(&old.schema);
            (base.cold.clone(), rows.iter().map(RecordBatch::num_rows).sum::<usize>())
        };
        let Some(cold) = cold else { return };
        let rows = u64::try_from(old.rows()).unwrap_or(0);
        self.begin_with(cold, rows.saturating_sub(memory as u64));
    }

    /// Lets rows go that a fill has brought and that are in files, too.
    pub(super) fn let_go(&self, stored: &StoredRows) {
        let through = self.complete_through();
        let mut base = lock(&self.base);
        let through = through.max(base.through);
        self.fold_into(&mut base, through);
        let gone = base.let_go(stored);
        lock(&self.runs).rows -= i64::try_from(gone).unwrap_or(i64::MAX);
    }

    /// Reads the rows that are in files in others, into which they were merged.
    pub(super) fn merged(&self, cold: Cold) {
        self.fold();
        let mut base = lock(&self.base);
        if let Some(known) = &base.cold {
            base.cold = Some(known.merged_into(cold));
        }
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
        base.apply(&pending);
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
