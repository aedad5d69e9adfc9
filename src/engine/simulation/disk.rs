//! A storage that loses what was not synced when the power goes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use connectors::Position;

use super::super::storage::{Past, Storage, Take};
use crate::log::{Checkpoint, Entry, FileRef, LogEvent, Manifest, Part, Record, Rows, Told};

/// A bug of a kind that storages really have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    None,
    /// It says that ticks are safe as soon as it is handed them.
    AcknowledgedBeforeSync,
    /// It says that what is told is safe as soon as it is handed it.
    ToldBeforeSync,
    /// It writes where readers go on apart from, and after, the rows.
    OffsetsApart,
    /// A checkpoint is named before all its files are written.
    NamedBeforeComplete,
}

/// A disk that several runs share, one after the other.
#[derive(Clone)]
pub(super) struct Disk(Arc<Mutex<State>>, Bug);

#[derive(Default)]
pub(super) struct State {
    next: u64,
    synced: BTreeMap<u64, Record>,
    unsynced: VecDeque<(u64, Record)>,
    manifest: Option<Manifest>,
    files: BTreeMap<String, Vec<RecordBatch>>,
    writing: Option<Writing>,
    /// No two checkpoints write files of the same name.
    checkpoints: u64,
    /// Where readers go on, held back until the next record where a bug wants it so.
    late: Vec<Entry>,
    /// What is to be said to the coordinator.
    pub(super) events: VecDeque<LogEvent>,
}

/// A checkpoint on its way.
struct Writing {
    manifest: Manifest,
    files: VecDeque<(String, Vec<RecordBatch>)>,
    named: bool,
}

impl Disk {
    pub(super) fn new(bug: Bug) -> Self {
        let state = State {
            next: 1,
            ..State::default()
        };
        Disk(Arc::new(Mutex::new(state)), bug)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Syncs the oldest records, one or all; tells whether there were any.
    pub(super) fn sync(&self, all: bool) -> bool {
        let mut state = self.state();
        let count = if all {
            state.unsynced.len()
        } else {
            state.unsynced.len().min(1)
        };
        let records: Vec<(u64, Record)> = state.unsynced.drain(..count).collect();
        let Some((through, _)) = records.last() else {
            return false;
        };
        let through = *through;
        state.synced.extend(records);
        state.events.push_back(LogEvent::Durable {
            through,
            bytes: through * 100,
        });
        true
    }

    /// Goes on with a checkpoint by one step; tells whether there was one.
    pub(super) fn write(&self) -> bool {
        let mut state = self.state();
        let early = self.1 == Bug::NamedBeforeComplete;
        let Some(mut writing) = state.writing.take() else {
            return false;
        };
        if (writing.files.is_empty() || early) && !writing.named {
            writing.named = true;
            state.synced = state.synced.split_off(&writing.manifest.log_from);
            state.manifest = Some(writing.manifest.clone());
            state.events.push_back(LogEvent::Named(1));
        } else if let Some((name, rows)) = writing.files.pop_front() {
            state.files.insert(name, rows);
        }
        if !(writing.named && writing.files.is_empty()) {
            state.writing = Some(writing);
        }
        true
    }

    pub(super) fn is_writing(&self) -> bool {
        self.state().writing.is_some()
    }

    /// Loses what was not synced, but for so many records that happened to be.
    pub(super) fn lose(&self, kept: usize) {
        let mut state = self.state();
        let kept = kept.min(state.unsynced.len());
        let kept: Vec<(u64, Record)> = state.unsynced.drain(..kept).collect();
        state.synced.extend(kept);
        state.unsynced.clear();
        state.writing = None;
        state.events.clear();
        state.late.clear();
        state.next = match (state.synced.last_key_value(), &state.manifest) {
            (Some((last, _)), _) => last + 1,
            (None, Some(manifest)) => manifest.log_from,
            (None, None) => 1,
        };
    }

    pub(super) fn unsynced(&self) -> usize {
        self.state().unsynced.len()
    }

    /// What a start finds.
    pub(super) fn past(&self) -> Found {
        let state = self.state();
        Found {
            manifest: state.manifest.clone(),
            records: state.synced.clone(),
            files: state.files.clone(),
        }
    }
}

impl Storage for Disk {
    fn append(&mut self, record: Record) -> u64 {
        let bug = self.1;
        let mut state = self.state();
        let number = state.next;
        let told = matches!(record, Record::Told(_));
        let records = match record {
            Record::Tick(mut tick) if bug == Bug::OffsetsApart => {
                let late = std::mem::take(&mut state.late);
                state.late = tick.entries.clone();
                for entry in &mut state.late {
                    entry.rows = entry.rows.slice(0, 0);
                    entry.rejected.clear();
                }
                for entry in &mut tick.entries {
                    entry.position = Position::new();
                }
                tick.entries.splice(0..0, late);
                vec![Record::Tick(tick)]
            }
            record => vec![record],
        };
        let count = records.len() as u64;
        state.unsynced.extend((number..).zip(records));
        state.next += count;
        let last = state.next - 1;
        if bug == Bug::AcknowledgedBeforeSync && !told || bug == Bug::ToldBeforeSync && told {
            state.events.push_back(LogEvent::Durable {
                through: last,
                bytes: 0,
            });
        }
        last
    }

    fn next(&self) -> u64 {
        self.state().next
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        let mut state = self.state();
        let Checkpoint { mut manifest, rows, .. } = checkpoint;
        state.checkpoints += 1;
        let sequence = state.checkpoints;
        let mut files = VecDeque::new();
        let mut file = |segment: i64, batches: Vec<RecordBatch>| {
            let name = format!("{sequence}-{}", files.len());
            let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
            files.push_back((name.clone(), batches));
            Part {
                segment,
                rows,
                file: FileRef { name, bytes: 1 },
            }
        };
        let last = state.manifest.clone().unwrap_or_default();
        let [sources, views, tables] = rows;
        let mut parts = |rows: Rows, before: Option<&Vec<Part>>| match rows {
            Rows::Same => before.cloned().unwrap_or_default(),
            Rows::Any(batches) => vec![file(0, batches)],
            Rows::Grown(stretches) => stretches
                .into_iter()
                .map(|stretch| file(stretch.segment, stretch.batches))
                .collect(),
        };
        for (name, rows) in sources {
            let parts = parts(rows, last.sources.get(&name).map(|source| &source.parts));
            manifest.sources.entry(name).or_default().parts = parts;
        }
        for (name, rows) in views {
            let parts = parts(rows, last.views.get(&name).map(|view| &view.parts));
            manifest.views.entry(name).or_default().parts = parts;
        }
        for (name, rows) in tables {
            let parts = parts(rows, last.tables.get(&name));
            manifest.tables.insert(name, parts);
        }
        state.writing = Some(Writing {
            manifest,
            files,
            named: false,
        });
    }

    fn named(&mut self) {}
}

/// What the storage has at a start.
pub(super) struct Found {
    manifest: Option<Manifest>,
    records: BTreeMap<u64, Record>,
    files: BTreeMap<String, Vec<RecordBatch>>,
}

impl Past for Found {
    fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    fn extent(&self) -> Option<(u64, u64, u64)> {
        let (first, last) = (self.records.first_key_value()?, self.records.last_key_value()?);
        Some((*first.0, *last.0, 100 * self.records.len() as u64))
    }

    fn told(&self, from: u64, take: &mut dyn FnMut(Told)) -> anyhow::Result<()> {
        for (_, record) in self.records.range(from..) {
            if let Record::Told(told) = record {
                take(told.clone());
            }
        }
        Ok(())
    }

    fn records(&self, from: u64, take: Take<'_, (Record, usize)>) -> anyhow::Result<()> {
        for (expected, (number, record)) in (from..).zip(self.records.range(from..)) {
            anyhow::ensure!(*number == expected, "record {expected} is missing");
            take((record.clone(), 100))?;
        }
        Ok(())
    }

    fn part(&self, part: &Part, take: Take<'_, RecordBatch>) -> anyhow::Result<()> {
        let Some(batches) = self.files.get(&part.file.name) else {
            anyhow::bail!("file {} is missing", part.file.name);
        };
        batches.iter().cloned().try_for_each(take)
    }

    fn place(&self) -> String {
        "the disk".to_owned()
    }
}
