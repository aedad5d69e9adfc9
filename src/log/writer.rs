//! The thread that writes: whatever waits is committed together, so that one sync serves all of it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use dataflows::Tick;
use queries::cold::Cold;
use serde::Deserialize;

use super::checkpoint::Manifest;
use super::error::LogError;
use super::outbox::{Conflated, Conflation, name_of};
use super::record::{Outgoing, Record, Told};
use super::store::{Batcher, LogStore, Replaced, Write, json};
use crate::history::{Inventory, Stored};

/// What acknowledged means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It survives a power cut: written and synced before anything is told.
    #[default]
    Sync,
    /// It survives a power cut within [`SYNC_EVERY`] later; a crash of the program may lose as much.
    Interval,
    /// It is gone with the program.
    None,
}

/// How often is synced with [`Durability::Interval`].
const SYNC_EVERY: Duration = Duration::from_millis(200);

/// Bytes written in one transaction, at most but for one record: whoever waits for the first waits for all.
const COMMIT_BYTES_MAX: usize = 16 << 20;

/// A checkpoint that is written whole.
#[derive(Debug)]
pub struct Named {
    /// What it consists of.
    pub manifest: Manifest,
    /// What there is of history with it.
    pub inventory: Option<Inventory>,
    /// What it made of views that keep their rows.
    pub stored: Vec<Stored>,
}

/// What the thread that writes says.
#[derive(Debug)]
pub enum LogEvent {
    /// Every record up to this number can be lost no more.
    Durable {
        /// The number.
        through: u64,
        /// Bytes of records written since the start.
        bytes: u64,
    },
    /// A checkpoint has taken the place of the one before, for which so many bytes were written.
    Named(u64),
    /// With that checkpoint, rows of views went to history.
    Stored(Vec<Stored>),
    /// The same rows of views are in other files of history now.
    Merged(Vec<(String, Cold)>),
    /// Nothing more can be written.
    Failed(LogError),
}

enum Command {
    Append(u64, Record),
    Name(Box<Named>),
    Keep(Box<Inventory>),
    Delivered(Arc<str>, Tick),
    Conflate(Box<Conflated>),
    Note(Arc<str>, Conflation),
    Settle(Sender<()>),
}

/// The door to the thread that writes.
pub struct LogWriter {
    commands: Option<Sender<Command>>,
    next: u64,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts the thread; records are numbered from `next` on.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        store: Arc<LogStore>,
        next: u64,
        durability: Durability,
        events: Sender<LogEvent>,
    ) -> std::io::Result<LogWriter> {
        let (commands, waiting) = unbounded();
        let thread = std::thread::Builder::new()
            .name("sangam log".to_owned())
            .spawn(move || {
                let mut writing = Writing {
                    store,
                    durability,
                    batcher: Batcher::new(),
                    bytes: 0,
                    synced: Instant::now(),
                    unsynced: false,
                };
                if let Err(error) = writing.run(&waiting, &events) {
                    // Whoever waits for what cannot be written hears why.
                    let _ = events.send(LogEvent::Failed(error));
                }
            })?;
        Ok(LogWriter {
            commands: Some(commands),
            next,
            thread: Some(thread),
        })
    }

    /// Hands a record over; returns its number, by which [`LogEvent::Durable`] speaks of it.
    pub fn append(&mut self, record: Record) -> u64 {
        let number = self.next;
        self.next += 1;
        self.send(Command::Append(number, record));
        number
    }

    /// Returns the number of the next record.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Returns a door for whoever writes checkpoints; it tells whether what it was handed is safe.
    pub fn namer(&self) -> impl Fn(Named) -> bool + Send + 'static {
        let commands = self.commands.clone();
        move |named| safe(commands.as_ref(), Command::Name(Box::new(named)))
    }

    /// Returns a door for whoever merges files of history; it tells whether what it was handed is safe.
    pub fn keeper(&self) -> impl Fn(Inventory) -> bool + Send + 'static {
        let commands = self.commands.clone();
        move |inventory| safe(commands.as_ref(), Command::Keep(Box::new(inventory)))
    }

    /// Returns a door for whoever delivers and merges what is in a sink's outbox.
    pub fn outbox(&self, sink: Arc<str>) -> OutboxDoor {
        OutboxDoor {
            sink,
            commands: self.commands.clone(),
        }
    }

    /// Waits until all that was handed over is written.
    pub fn settle(&self) {
        let (done, waiting) = crossbeam_channel::bounded(0);
        self.send(Command::Settle(done));
        // An error means that the thread has ended, and has said why.
        let _ = waiting.recv();
    }

    fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // A thread that has ended has said why.
            let _ = commands.send(command);
        }
    }
}

/// The door by which a sink's outbox is changed.
#[derive(Clone)]
pub struct OutboxDoor {
    sink: Arc<str>,
    commands: Option<Sender<Command>>,
}

impl OutboxDoor {
    /// Forgets what was delivered: all up to a tick.
    pub fn delivered(&self, tick: Tick) {
        if let Some(commands) = &self.commands {
            // A thread that has ended has said why.
            let _ = commands.send(Command::Delivered(Arc::clone(&self.sink), tick));
        }
    }

    /// Puts the net change of some ticks in their place, in one write; tells whether it is safe.
    pub fn conflate(&self, conflated: Conflated) -> bool {
        safe(self.commands.as_ref(), Command::Conflate(Box::new(conflated)))
    }

    /// Notes what is known of the outbox; tells whether that is safe.
    pub fn note(&self, conflation: Conflation) -> bool {
        let note = Command::Note(Arc::clone(&self.sink), conflation);
        safe(self.commands.as_ref(), note)
    }
}

/// Hands something over and waits until it is safe; tells whether it is.
fn safe(commands: Option<&Sender<Command>>, command: Command) -> bool {
    let (done, waiting) = crossbeam_channel::bounded(1);
    let Some(commands) = commands else { return false };
    let handed = commands
        .send(command)
        .and_then(|()| commands.send(Command::Settle(done)));
    // A thread that has ended has said why.
    handed.is_ok() && waiting.recv().is_ok()
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

struct Writing {
    store: Arc<LogStore>,
    durability: Durability,
    batcher: Batcher,
    bytes: u64,
    synced: Instant,
    unsynced: bool,
}

impl Writing {
    fn run(&mut self, waiting: &Receiver<Command>, events: &Sender<LogEvent>) -> Result<(), LogError> {
        loop {
            let first = match self.unsynced {
                true => waiting.recv_timeout(SYNC_EVERY.saturating_sub(self.synced.elapsed())),
                false => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let first = match first {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    return match self.unsynced {
                        true => self.store.write(Write::default(), true),
                        false => Ok(()),
                    };
                }
            };
            let mut write = Write::default();
            let (mut through, mut named, mut settled) = (None, None, Vec::new());
            let (mut stored, mut kept, mut noted) = (Vec::new(), false, false);
            // What is merged is no part of the log that a checkpoint ends.
            let (mut size, mut merged) = (0, 0);
            let mut next = first;
            while let Some(command) = next {
                match command {
                    Command::Append(number, record) => {
                        size += self.append(number, record, &mut write)?;
                        through = Some(number);
                    }
                    Command::Name(checkpoint) => {
                        let Named {
                            manifest,
                            inventory,
                            stored: moved,
                        } = *checkpoint;
                        // What came in stays until it is in history, too, where that is wanted.
                        let kept_from = inventory.as_ref().map_or(u64::MAX, |inventory| inventory.records_from);
                        write.forget_below = Some(manifest.log_from.min(kept_from));
                        named = Some(manifest.written);
                        stored = moved;
                        write.meta.push(("checkpoint".into(), json(&manifest)));
                        write
                            .meta
                            .extend(inventory.map(|inventory| ("history".into(), json(&inventory))));
                    }
                    Command::Keep(inventory) => {
                        kept = true;
                        write.meta.push(("history".into(), json(&*inventory)));
                    }
                    Command::Delivered(sink, tick) => write.delivered.push((sink, tick)),
                    Command::Conflate(conflated) => merged += self.conflate(*conflated, &mut write)?,
                    Command::Note(sink, conflation) => {
                        noted = true;
                        write.meta.push((name_of(&sink).into(), json(&conflation)));
                    }
                    Command::Settle(done) => settled.push(done),
                }
                next = match size + merged < COMMIT_BYTES_MAX {
                    true => waiting.try_recv().ok(),
                    false => None,
                };
            }
            write.schemas = self.batcher.fresh_schemas();
            // The files that a checkpoint names are synced; so must be what names them before others go. What is noted
            // of an outbox holds for what is told next.
            let must = named.is_some() || kept || noted;
            let sync = self.durability == Durability::Sync || must || self.synced.elapsed() >= SYNC_EVERY;
            self.store.write(write, sync)?;
            self.unsynced = !sync;
            if sync {
                self.synced = Instant::now();
            }
            if let Some(through) = through {
                self.bytes += size as u64;
                let _ = events.send(LogEvent::Durable {
                    through,
                    bytes: self.bytes,
                });
            }
            // Before the checkpoint is told of: the next must not begin without it.
            if !stored.is_empty() {
                let _ = events.send(LogEvent::Stored(stored));
            }
            if let Some(written) = named {
                let _ = events.send(LogEvent::Named(written));
            }
            for done in settled {
                // Who waited may have gone away.
                let _ = done.send(());
            }
        }
    }

    /// Adds a record to what is written; what sinks deliver goes to their outbox, and the record says only that it did.
    fn append(&mut self, number: u64, record: Record, write: &mut Write) -> Result<usize, LogError> {
        let record = match record {
            Record::Told(told) if !told.outgoing.is_empty() => {
                for outgoing in &told.outgoing {
                    let alone = Record::Told(Told {
                        tick: told.tick,
                        transitions: Vec::new(),
                        outgoing: vec![outgoing.clone()],
                    });
                    let bytes = self.encode(&alone)?;
                    write.outgoing.push((Arc::clone(&outgoing.sink), told.tick, bytes));
                }
                let mut told = told;
                for outgoing in &mut told.outgoing {
                    outgoing.rows = outgoing.rows.slice(0, 0);
                    outgoing.diffs.clear();
                }
                Record::Told(told)
            }
            record => record,
        };
        let bytes = self.encode(&record)?;
        let size = bytes.len();
        write.records.push((number, bytes));
        Ok(size)
    }

    /// Adds the net change of some ticks, and that they go; returns how many bytes it has.
    fn conflate(&mut self, conflated: Conflated, write: &mut Write) -> Result<usize, LogError> {
        let Conflated {
            sink,
            ticks,
            change,
            conflation,
        } = conflated;
        let bytes = match change {
            Some((rows, diffs)) => {
                let outgoing = Outgoing {
                    sink: Arc::clone(&sink),
                    rows,
                    diffs,
                };
                Some(self.encode(&Record::Told(Told {
                    tick: *ticks.end(),
                    transitions: Vec::new(),
                    outgoing: vec![outgoing],
                }))?)
            }
            None => None,
        };
        let size = bytes.as_ref().map_or(0, Vec::len);
        write.meta.push((name_of(&sink).into(), json(&conflation)));
        write.replaced.push(Replaced { sink, ticks, bytes });
        Ok(size)
    }

    fn encode(&mut self, record: &Record) -> Result<Vec<u8>, LogError> {
        let encoded = self.batcher.encode(record);
        encoded.map_err(|what| LogError::io("encode a record for", self.store.path(), std::io::Error::other(what)))
    }
}
