//! The view store: each relation as it stands, and its recent changes by tick.
//!
//! Changes are appended as they come. They are folded into the base only when
//! somebody reads or when they grow past a budget, by the reader or the keeper
//! and never by the thread that cuts ticks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use dataflows::group_index::GroupIndex;
use dataflows::{Tick, Updates};

use super::chunks::Chunks;
use super::source::ChunkStep;

/// Changes kept of each relation for subscribers that are behind, in bytes.
pub const RUN_BYTES_MAX: usize = 16 << 20;

/// Changes not yet folded into the base, in bytes, past which the keeper folds them.
pub(super) const UNFOLDED_BYTES_MAX: usize = 4 << 20;

/// Rows in one page of a base.
const PAGE_ROWS: usize = 4096;

/// The changes of a relation at one tick.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) tick: Tick,
    pub(super) updates: Vec<Updates>,
    steps: Vec<ChunkStep>,
    bytes: usize,
}

impl Run {
    pub(super) fn new(tick: Tick, updates: Vec<Updates>, steps: Vec<ChunkStep>) -> Self {
        let bytes = updates.iter().map(Updates::bytes).sum();
        Run { tick, updates, steps, bytes }
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
    /// Bytes of runs the base does not hold yet.
    unfolded: usize,
    /// Every change after this tick is among the runs.
    floor: Tick,
    /// The newest tick that was cut.
    cut: Tick,
    /// Cut ticks that may still change this relation.
    pending: VecDeque<Tick>,
    /// Rows present, multiplicities included.
    rows: i64,
}

/// The rows as of one tick.
struct Base {
    through: Tick,
    rows: BaseRows,
}

enum BaseRows {
    /// Chunks by segment, shared with the source that appends them.
    Chunks(BTreeMap<i64, Chunks>),
    /// Rows by content, in pages that are built again when they changed.
    Indexed(Box<Indexed>),
}

struct Indexed {
    index: GroupIndex,
    counts: Vec<i64>,
    pages: Vec<Option<RecordBatch>>,
    scratch: Vec<u32>,
}

/// The base has moved past the tick asked for: ask again, for a newer one.
#[derive(Debug)]
pub(super) struct Moved;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held is told elsewhere; the data under it is replaced whole or not at all.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RelationStore {
    /// Holds no rows. `chunks` tells whether its runs carry the steps of a relation held as chunks.
    pub(super) fn new(schema: SchemaRef, chunks: bool) -> Self {
        let rows = if chunks {
            BaseRows::Chunks(BTreeMap::new())
        } else {
            let types: Vec<DataType> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
            BaseRows::Indexed(Box::new(Indexed {
                index: GroupIndex::new(&types),
                counts: Vec::new(),
                pages: Vec::new(),
                scratch: Vec::new(),
            }))
        };
        RelationStore { schema, runs: Mutex::default(), base: Mutex::new(Base { through: 0, rows }) }
    }

    /// Notes that a tick was cut, and whether it may change this relation.
    pub(super) fn cut(&self, tick: Tick, concerned: bool) {
        let mut runs = lock(&self.runs);
        runs.cut = tick;
        if concerned {
            runs.pending.push_back(tick);
        }
    }

    /// Adds what a tick changed. Returns whether the keeper should fold runs into the base.
    pub(super) fn complete(&self, run: Run) -> bool {
        let mut runs = lock(&self.runs);
        if let Some(at) = runs.pending.iter().position(|tick| *tick == run.tick) {
            runs.pending.remove(at);
        }
        if run.is_empty() {
            return false;
        }
        runs.rows += run.updates.iter().flat_map(|updates| updates.diffs().iter()).sum::<i64>();
        runs.bytes += run.bytes;
        runs.unfolded += run.bytes;
        runs.runs.push_back(Arc::new(run));
        runs.unfolded > UNFOLDED_BYTES_MAX
    }

    /// Returns the newest tick whose changes are all here.
    pub(super) fn complete_through(&self) -> Tick {
        let runs = lock(&self.runs);
        runs.pending.front().map_or(runs.cut, |pending| pending - 1)
    }

    /// Returns how many rows there are, as of the newest change.
    pub(super) fn rows(&self) -> i64 {
        lock(&self.runs).rows
    }

    /// Returns the runs in `after < tick <= through`; none where some are gone already.
    pub(super) fn runs(&self, after: Tick, through: Tick) -> Option<Vec<Arc<Run>>> {
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
        // Only what the base holds may go.
        while runs.bytes > RUN_BYTES_MAX && runs.runs.front().is_some_and(|run| run.tick <= through) {
            if let Some(oldest) = runs.runs.pop_front() {
                runs.bytes -= oldest.bytes;
                runs.floor = oldest.tick;
            }
        }
    }
}

impl BaseRows {
    fn apply(&mut self, runs: &[Arc<Run>]) {
        match self {
            BaseRows::Chunks(segments) => {
                for step in runs.iter().flat_map(|run| &run.steps) {
                    match step {
                        ChunkStep::Pushed(segment, pushed) => segments.entry(*segment).or_default().apply(pushed),
                        ChunkStep::Expired(segment) => {
                            segments.remove(segment);
                        }
                    }
                }
            }
            BaseRows::Indexed(indexed) => indexed.apply(runs.iter().flat_map(|run| &run.updates)),
        }
    }

    fn batches(&mut self, schema: &SchemaRef) -> Vec<RecordBatch> {
        match self {
            BaseRows::Chunks(segments) => {
                segments.values().flat_map(|chunks| chunks.batches().iter().cloned()).collect()
            }
            BaseRows::Indexed(indexed) => indexed.batches(schema),
        }
    }
}

impl Indexed {
    fn apply<'a>(&mut self, updates: impl Iterator<Item = &'a Updates>) {
        let mut groups = std::mem::take(&mut self.scratch);
        let mut emptied = Vec::new();
        for updates in updates {
            let rows = updates.rows();
            self.index.intern(rows.columns(), rows.num_rows(), &mut groups);
            self.counts.resize(self.index.groups().max(self.counts.len()), 0);
            self.pages.resize(self.counts.len().div_ceil(PAGE_ROWS), None);
            for (&group, &diff) in groups.iter().zip(updates.diffs().iter()) {
                let count = &mut self.counts[group as usize];
                *count += diff;
                if *count == 0 {
                    emptied.push(group);
                }
                self.pages[group as usize / PAGE_ROWS] = None;
            }
        }
        // Only now: within these runs a row may come back, or come after its retraction.
        for group in emptied {
            if self.counts[group as usize] == 0 {
                self.index.remove(group);
            }
        }
        self.scratch = groups;
    }

    fn batches(&mut self, schema: &SchemaRef) -> Vec<RecordBatch> {
        let mut batches = Vec::with_capacity(self.pages.len());
        for (page, built) in self.pages.iter_mut().enumerate() {
            let batch = built.get_or_insert_with(|| {
                let from = page * PAGE_ROWS;
                let to = (from + PAGE_ROWS).min(self.counts.len());
                let slots: Vec<u32> = (from..to)
                    .flat_map(|slot| {
                        let copies = usize::try_from(self.counts[slot]).unwrap_or(0);
                        std::iter::repeat_n(slot as u32, copies)
                    })
                    .collect();
                RecordBatch::try_new(Arc::clone(schema), self.index.keys(&slots)).expect("rows of this schema went in")
            });
            if batch.num_rows() > 0 {
                batches.push(batch.clone());
            }
        }
        batches
    }
}
