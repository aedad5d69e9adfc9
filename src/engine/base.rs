//! The rows of a relation as of one tick, in the form its kind of relation needs.

mod keyed;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use dataflows::Updates;
use dataflows::group_index::GroupIndex;

use super::chunks::Chunks;
use super::source::ChunkStep;
use super::store::Run;
use keyed::Keyed;

/// Slots in one page of a base.
const PAGE_SLOTS: usize = 4096;

/// How a relation's rows are told apart.
pub(super) enum Told {
    /// They only come and expire: its runs carry the steps of its chunks.
    Chunks,
    /// Not at all: the plan shows that they only come.
    Grows,
    /// By these columns, which no two rows share at the end of a tick.
    Key(Vec<usize>),
    /// By all they hold, and equal rows are counted.
    Content,
}

/// The rows as of one tick.
pub(super) enum BaseRows {
    /// Chunks by segment, shared with the source that appends them.
    Chunks(BTreeMap<i64, Chunks>),
    /// The rows of a view as they came.
    Grown(Chunks),
    Keyed(Box<Keyed>),
    Counted(Box<Counted>),
}

impl BaseRows {
    /// Holds no rows.
    pub(super) fn new(schema: &SchemaRef, told: Told) -> Self {
        match told {
            Told::Chunks => BaseRows::Chunks(BTreeMap::new()),
            Told::Grows => BaseRows::Grown(Chunks::default()),
            Told::Key(key) => BaseRows::Keyed(Box::new(Keyed::new(key, schema))),
            Told::Content => BaseRows::Counted(Box::new(Counted::new(schema))),
        }
    }

    /// Applies what complete ticks changed, in their order.
    pub(super) fn apply(&mut self, runs: &[Arc<Run>]) {
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
            BaseRows::Grown(chunks) => {
                for updates in runs.iter().flat_map(|run| &run.updates) {
                    chunks.push(copies(updates));
                }
            }
            BaseRows::Keyed(keyed) => runs.iter().for_each(|run| keyed.apply(&run.updates)),
            BaseRows::Counted(counted) => counted.apply(runs.iter().flat_map(|run| &run.updates)),
        }
    }

    /// Returns the rows; batches that did not change are those of the last time.
    pub(super) fn batches(&mut self, schema: &SchemaRef) -> Vec<RecordBatch> {
        match self {
            BaseRows::Chunks(segments) => segments
                .values()
                .flat_map(|chunks| chunks.batches().iter().cloned())
                .collect(),
            BaseRows::Grown(chunks) => chunks.batches().to_vec(),
            BaseRows::Keyed(keyed) => keyed.batches(),
            BaseRows::Counted(counted) => counted.batches(schema),
        }
    }
}

/// The rows of updates that insert, each as often as it comes.
fn copies(updates: &Updates) -> RecordBatch {
    if updates.diffs().iter().all(|diff| *diff == 1) {
        return updates.rows().clone();
    }
    let rows = updates.diffs().iter().enumerate();
    let rows: UInt32Array = rows
        .flat_map(|(row, diff)| std::iter::repeat_n(row as u32, usize::try_from(*diff).unwrap_or(0)))
        .collect();
    take_record_batch(updates.rows(), &rows).expect("rows of the batch")
}

/// Batches built from stretches of slots, and built again only when something in them changed.
#[derive(Default)]
struct Pages(Vec<Option<RecordBatch>>);

impl Pages {
    fn cover(&mut self, slots: usize) {
        self.0.resize(slots.div_ceil(PAGE_SLOTS).max(self.0.len()), None);
    }

    fn touch(&mut self, slot: u32) {
        self.0[slot as usize / PAGE_SLOTS] = None;
    }

    /// Builds what is missing: `build` is given each page's slots.
    fn batches(&mut self, slots: usize, build: impl Fn(std::ops::Range<usize>) -> RecordBatch) -> Vec<RecordBatch> {
        let pages = self.0.iter_mut().enumerate().map(|(page, built)| {
            let from = page * PAGE_SLOTS;
            built
                .get_or_insert_with(|| build(from..(from + PAGE_SLOTS).min(slots)))
                .clone()
        });
        pages.filter(|batch| batch.num_rows() > 0).collect()
    }
}

/// Rows by content, each with how often it is there.
pub(super) struct Counted {
    index: GroupIndex,
    counts: Vec<i64>,
    pages: Pages,
    scratch: Vec<u32>,
}

impl Counted {
    fn new(schema: &SchemaRef) -> Self {
        let types: Vec<DataType> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
        Counted {
            index: GroupIndex::new(&types),
            counts: Vec::new(),
            pages: Pages::default(),
            scratch: Vec::new(),
        }
    }

    fn apply<'a>(&mut self, updates: impl Iterator<Item = &'a Updates>) {
        let mut groups = std::mem::take(&mut self.scratch);
        let mut emptied = Vec::new();
        for updates in updates {
            let rows = updates.rows();
            self.index.intern(rows.columns(), rows.num_rows(), &mut groups);
            self.counts.resize(self.index.groups().max(self.counts.len()), 0);
            self.pages.cover(self.counts.len());
            for (&group, &diff) in groups.iter().zip(updates.diffs().iter()) {
                let count = &mut self.counts[group as usize];
                *count += diff;
                if *count == 0 {
                    emptied.push(group);
                }
                self.pages.touch(group);
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
        let Counted {
            index, counts, pages, ..
        } = self;
        pages.batches(counts.len(), |range| {
            let copies = |slot: usize| usize::try_from(counts[slot]).unwrap_or(0);
            let slots: Vec<u32> = range
                .flat_map(|slot| std::iter::repeat_n(slot as u32, copies(slot)))
                .collect();
            RecordBatch::try_new(Arc::clone(schema), index.keys(&slots)).expect("rows of this schema went in")
        })
    }
}
