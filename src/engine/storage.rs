//! Where a coordinator has its ticks written down, and finds those of earlier runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use crossbeam_channel::{Sender, unbounded};
use queries::cold::{Cold, Span};

use super::keeping::{Door, Holdings, Keeper, Keeping};
use crate::history::Inventory;
use crate::log::{
    Checkpoint, Durability, LogError, LogEvent, LogStore, LogWriter, Manifest, Named, OutboxDoor, Part, Record, Told,
};

/// What a coordinator asks of the place where ticks are written down. It hears of what came of it as [`LogEvent`]s.
pub(super) trait Storage: Send {
    /// Hands a record over; returns its number.
    fn append(&mut self, record: Record) -> u64;

    /// Returns the number of the next record.
    fn next(&self) -> u64;

    /// Hands all that is retained over: once it is written whole, records before it go.
    fn checkpoint(&mut self, checkpoint: Checkpoint);

    /// Hears that the checkpoint handed over last has taken the place of the one before.
    fn named(&mut self);

    /// Hears that what the last checkpoint took to history is read there: files may be merged.
    fn stored(&mut self) {}
}

/// A data folder.
pub(super) struct Disk {
    writer: LogWriter,
    jobs: Option<Sender<Job>>,
    checkpoints: Option<JoinHandle<()>>,
}

enum Job {
    Write(Box<Checkpoint>),
    Sweep,
    Merge,
}

impl Disk {
    /// Starts the threads that write to a data folder; with a door to history, checkpoints take rows there.
    pub(super) fn start(
        folder: &Folder,
        durability: Durability,
        history: Option<(Door, Arc<Holdings>)>,
        events: Sender<LogEvent>,
    ) -> anyhow::Result<Disk> {
        let writer = LogWriter::start(Arc::clone(&folder.store), folder.next(), durability, events.clone())?;
        let (name, keep) = (writer.namer(), writer.keeper());
        let (data, last) = (folder.data.clone(), folder.manifest.clone());
        let (store, inventory) = (Arc::clone(&folder.store), folder.inventory.clone());
        let (jobs, waiting) = unbounded::<Job>();
        let checkpoints = super::spawn("checkpoints", move || {
            let keeper = history.map(|(door, holdings)| Keeper::new(door, store, data.clone(), inventory, holdings));
            let mut writing = Checkpoints {
                data,
                last,
                keeper,
                events: events.clone(),
            };
            for job in waiting {
                let done = match job {
                    Job::Write(checkpoint) => writing.write(*checkpoint, &name),
                    Job::Sweep => writing.sweep(),
                    Job::Merge => {
                        writing.merge(&keep);
                        Ok(())
                    }
                };
                if let Err(error) = done {
                    let _ = events.send(LogEvent::Failed(error));
                    return;
                }
            }
        })?;
        Ok(Disk {
            writer,
            jobs: Some(jobs),
            checkpoints: Some(checkpoints),
        })
    }

    /// Returns a door for whoever delivers and merges what is in a sink's outbox.
    pub(super) fn outbox(&self, sink: Arc<str>) -> OutboxDoor {
        self.writer.outbox(sink)
    }

    fn job(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // A thread that has ended has said why.
            let _ = jobs.send(job);
        }
    }
}

impl Storage for Disk {
    fn append(&mut self, record: Record) -> u64 {
        self.writer.append(record)
    }

    fn next(&self) -> u64 {
        self.writer.next()
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.job(Job::Write(Box::new(checkpoint)));
    }

    fn named(&mut self) {
        self.job(Job::Sweep);
    }

    fn stored(&mut self) {
        self.job(Job::Merge);
    }
}

/// What the thread that writes checkpoints knows.
struct Checkpoints {
    data: PathBuf,
    last: Option<Manifest>,
    keeper: Option<Keeper>,
    events: Sender<LogEvent>,
}

impl Checkpoints {
    /// Writes a checkpoint, takes rows to history before, and has both named at once.
    fn write(&mut self, mut checkpoint: Checkpoint, name: &impl Fn(Named) -> bool) -> Result<(), LogError> {
        let kept = self
            .keeper
            .as_mut()
            .map(|keeper| keeper.keep(&mut checkpoint, self.last.as_ref()));
        let manifest = checkpoint.write(&self.data, self.last.as_ref())?;
        self.last = Some(manifest.clone());
        let (inventory, stored, failure) = match kept {
            Some(Keeping {
                inventory,
                stored,
                failure,
            }) => (Some(inventory), stored, failure),
            None => (None, Vec::new(), None),
        };
        let is_safe = name(Named {
            manifest,
            inventory: inventory.clone(),
            stored,
        });
        // Only now may files go that count no more.
        if let (true, Some(keeper), Some(inventory)) = (is_safe, &mut self.keeper, inventory) {
            keeper.counts(inventory, failure);
        }
        Ok(())
    }

    fn sweep(&self) -> Result<(), LogError> {
        self.last.as_ref().map_or(Ok(()), |last| last.sweep(&self.data))
    }

    fn merge(&mut self, name: &dyn Fn(Inventory) -> bool) {
        let Some(keeper) = &mut self.keeper else { return };
        let merged = keeper.merge(name);
        if !merged.is_empty() {
            let _ = self.events.send(LogEvent::Merged(merged));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It holds a door to the writer, which ends once all are closed.
        self.jobs = None;
        if let Some(checkpoints) = self.checkpoints.take() {
            let _ = checkpoints.join();
        }
    }
}

/// What earlier runs have written down.
pub(super) trait Past: Send {
    /// Returns the newest checkpoint.
    fn manifest(&self) -> Option<&Manifest>;

    /// Returns the number of the first record, that of the last, and their bytes.
    fn extent(&self) -> Option<(u64, u64, u64)>;

    /// Hands every record from a number on that says what was told.
    fn told(&self, from: u64, take: &mut dyn FnMut(Told)) -> anyhow::Result<()>;

    /// Hands every record from a number on, with its length.
    fn records(&self, from: u64, take: Take<'_, (Record, usize)>) -> anyhow::Result<()>;

    /// Hands rows of the checkpoint.
    fn part(&self, part: &Part, take: Take<'_, RecordBatch>) -> anyhow::Result<()>;

    /// Says where all this is.
    fn place(&self) -> String;

    /// Returns what there is of history.
    fn inventory(&self) -> Inventory {
        Inventory::default()
    }

    /// Hands the finished rows of a view to whoever reads them, if there are any.
    fn cold(&self, _view: &str) -> Option<Cold> {
        None
    }

    /// Hands finished rows of a view, of a span of time.
    fn finished(
        &self,
        _view: &str,
        _schema: &SchemaRef,
        _span: &Span,
        _take: Take<'_, RecordBatch>,
    ) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Takes one thing after the other, until one fails.
pub(super) type Take<'a, T> = &'a mut dyn FnMut(T) -> anyhow::Result<()>;

/// What a data folder holds of earlier runs.
pub(super) struct Folder {
    pub(super) store: Arc<LogStore>,
    pub(super) data: PathBuf,
    manifest: Option<Manifest>,
    pub(super) inventory: Inventory,
    history: Option<(Door, Arc<Holdings>)>,
    extent: Option<(u64, u64, u64)>,
}

impl Folder {
    /// Opens a data folder, or makes one.
    ///
    /// # Errors
    /// As [`LogStore::open`].
    pub(super) fn open(data: &Path) -> Result<Folder, LogError> {
        let store = Arc::new(LogStore::open(data)?);
        Ok(Folder {
            manifest: store.meta("checkpoint")?,
            inventory: store.meta("history")?.unwrap_or_default(),
            history: None,
            extent: store.extent()?,
            data: data.to_owned(),
            store,
        })
    }

    /// Says where its history is.
    pub(super) fn with_history(mut self, history: (Door, Arc<Holdings>)) -> Self {
        self.history = Some(history);
        self
    }

    /// Returns the number of the record to be written next.
    pub(super) fn next(&self) -> u64 {
        match (self.extent, &self.manifest) {
            (Some((_, last, _)), _) => last + 1,
            (None, Some(manifest)) => manifest.log_from,
            (None, None) => 1,
        }
    }
}

impl Past for Folder {
    fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    fn extent(&self) -> Option<(u64, u64, u64)> {
        self.extent
    }

    fn told(&self, from: u64, take: &mut dyn FnMut(Told)) -> anyhow::Result<()> {
        Ok(self.store.replay_told(from, take)?)
    }

    fn records(&self, from: u64, take: Take<'_, (Record, usize)>) -> anyhow::Result<()> {
        self.store.replay(from, |_, record, bytes| take((record, bytes)))
    }

    fn part(&self, part: &Part, take: Take<'_, RecordBatch>) -> anyhow::Result<()> {
        part.read(&self.data, take)
    }

    fn place(&self) -> String {
        format!("the data folder \"{}\"", self.data.display())
    }

    fn inventory(&self) -> Inventory {
        self.inventory.clone()
    }

    fn cold(&self, view: &str) -> Option<Cold> {
        let kept = self.inventory.views.get(view)?;
        let (door, holdings) = self.history.as_ref()?;
        let cold = door.archive.cold(&kept.entries);
        holdings.lock().watched.push(cold.watch());
        Some(cold)
    }

    fn finished(&self, view: &str, schema: &SchemaRef, span: &Span, take: Take<'_, RecordBatch>) -> anyhow::Result<()> {
        match (&self.history, self.cold(view)) {
            (Some((door, _)), Some(cold)) => door.rows(&cold, schema, span, take),
            _ => Ok(()),
        }
    }
}
