//! Runs a deployment: rows in, ticks, views kept current, answers out.
//!
//! `feed` and the doors bring requests to the `coordinator`, which mints ticks
//! by the `clock`, says how far views are closed (`closing`), lets each `source` decide what enters and leaves (`chunks`
//! hold what only grows, `letters` what did not enter, `idempotency` what was sent before), hands ticks to the log
//! (`storage`) and to the workers and publishes their answers (`flows`) to the `store`, past `alerts`, `keys` and
//! `sinks`. `start` brings all of it to life. `topology` is what runs and `shared` what everyone reads, by `reading` all
//! at one tick; `tables` shows it to SQL. `wiring` builds the parts, `change` replaces some while the others run,
//! `filling` brings them up to where these are.
//!
//! `keeping` takes finished rows and, by `raw`, what came in to history; `readers` say how much of it views need when
//! they begin, and `carried` is what views keep that are declared anew. `reels` hand raw input out again.
//!
//! A `replay` lets the ticks of a `tape` go by again: for `travel`, which says what was shown at an earlier tick, and
//! for a `backtest` of definitions against those that ran, of which `definitions` keeps a copy.
mod alerts;
mod audit;
mod backtest;
mod base;
mod carried;
mod change;
mod chunks;
mod clock;
mod closing;
mod coordinator;
mod definitions;
mod feed;
mod filling;
mod flows;
mod idempotency;
mod keeping;
mod keys;
mod letters;
mod plants;
mod raw;
mod readers;
mod reading;
mod reels;
mod replay;
mod shared;
mod sinks;
mod source;
mod start;
mod storage;
mod store;
mod tables;
mod tape;
mod topology;
mod travel;
mod wiring;

#[cfg(test)]
mod simulation;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context;
use arrow::datatypes::SchemaRef;
use connectors::Decoded;
use crossbeam_channel::Sender;
use dataflows::plan::Plan;
use dataflows::sharing::Sharing;
use dataflows::workers::{FlowId, Workers};
use dataflows::{OperatorStats, Tick};
use tokio::sync::{Semaphore, oneshot};

use crate::config::{Clock, Deployment, ViewDef};
use crate::log::{LogError, LogStore};
use coordinator::{Arrival, Request};
use feed::{Doors, Feed};
pub use keeping::{copy_history, verify_history};
use shared::{RelationEntry, Shared};
use tables::TABLES;

pub use alerts::TRANSITIONS_MAX;
pub use audit::{Audit, Audited};
pub use backtest::{
    AlertDifference, Backtest, ChangedRow, Declared, Difference, Happened, Listed, RowsDifference, Span, Transitions,
};
pub use change::{ChangeError, Changed};
pub(crate) use closing::layout as layout_of_rows;
pub use coordinator::Accepted;
pub(crate) use definitions::load as definitions;
pub use idempotency::IDEMPOTENCY_KEYS_MAX;
pub use letters::{LETTER_BYTES_MAX, LETTERS_MAX};
pub(crate) use raw::{TICKS, layout as layout_of_input};
pub use reading::{Changes, Snapshot};
pub use shared::Recovery;
pub use sinks::SinkStatus;
pub use source::Operation;
pub use start::Data;
pub use store::RUN_BYTES_MAX;
pub use travel::TravelError;
pub(crate) use travel::{tick, time};

/// The folder of history in a backup.
pub const BACKUP_HISTORY: &str = "history";

/// Rows that may wait to be cut into a tick; who brings more waits at the door.
pub const WAITING_ROWS_MAX: usize = 512 * 1024;

/// A running deployment. Cloning it gives another handle to the same one.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    doors: Mutex<Option<Doors>>,
    stop: Mutex<Option<Sender<()>>>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    waiting: Arc<Semaphore>,
    /// Held while the deployment is changed; the number of the next dataflow.
    changing: tokio::sync::Mutex<FlowId>,
    incarnation: u64,
    kept: Option<Kept>,
    /// Where one at a time looks back.
    travels: travel::Place,
    /// Set once the engine stops: nobody looks back any further.
    stopped: Arc<AtomicBool>,
}

/// Where all is that survives.
struct Kept {
    store: Arc<LogStore>,
    data: PathBuf,
    history: String,
}

/// What is known of a source, view or alert before any row is.
#[derive(Clone, Debug)]
pub struct Relation {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: RelationKind,
    /// Its columns.
    pub schema: SchemaRef,
    /// Positions of its key columns, if it has a key.
    pub key: Option<Vec<usize>>,
    /// Changes when its definition changes.
    pub definition: u64,
}

/// What a relation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    /// Rows come in.
    Source,
    /// Rows are derived.
    View,
    /// Rows are the alerts now standing.
    Alert,
}

/// Why rows were not taken.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// No source has this name.
    #[error("no source \"{0}\"")]
    UnknownSource(String),
    /// The engine has stopped, or is stopping.
    #[error("the engine has stopped")]
    Stopped,
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No relation has this name.
    #[error("no source, view or system table \"{0}\"")]
    UnknownRelation(String),
    /// Ticks are only set by hand under the event clock.
    #[error("the clock is not the event clock, so no tick can be set by hand")]
    NotEventClock,
    /// The engine has stopped, or is stopping.
    #[error("the engine has stopped")]
    Stopped,
}

/// What an operator of a view did and holds.
#[derive(Clone, Debug)]
pub struct ViewOperator {
    /// The view, or the part that several views share.
    pub view: String,
    /// The operator.
    pub stats: OperatorStats,
}

/// What is counted of a source since the start.
#[derive(Clone, Debug)]
pub struct SourceCounts {
    /// The source.
    pub source: String,
    /// Rows that entered.
    pub accepted: u64,
    /// Rows behind the watermark.
    pub late: u64,
    /// Rows that could not be used.
    pub rejected: u64,
}

/// Why no backup was made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to back up.
    #[error("nothing of this deployment survives, so there is nothing to back up")]
    NothingKept,
    /// The name cannot be that of a folder.
    #[error("\"{0}\" cannot be the name of a backup")]
    Name(String),
    /// It could not be written.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Engine {
    /// Copies all that survives, as of one moment, into a folder of this name in the deployment's folder for
    /// backups; returns the folder.
    ///
    /// # Errors
    /// When nothing survives, the name is unfit or taken, or the disk is full.
    pub fn backup(&self, name: &str) -> Result<PathBuf, BackupError> {
        let is_fit = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
        if name.is_empty() || name.len() > 100 || !name.chars().all(is_fit) {
            return Err(BackupError::Name(name.to_owned()));
        }
        let kept = self.inner.kept.as_ref().ok_or(BackupError::NothingKept)?;
        let deployment = self.deployment();
        let to = deployment.dir.join(&deployment.options.backups).join(name);
        kept.store.backup(&kept.data, &to, |inventory, into| {
            let into = into.join(BACKUP_HISTORY).display().to_string();
            let copied = copy_history(&kept.history, &into, &kept.store.owner(), inventory);
            copied.map_err(|error| LogError::history("copy", &kept.history, error))
        })?;
        // Whoever reads this may stand elsewhere.
        Ok(std::path::absolute(&to).unwrap_or(to))
    }

    /// Returns how each sink is doing.
    pub fn sinks(&self) -> Vec<SinkStatus> {
        self.inner.shared.sinks.status()
    }

    /// Returns how far the start has come; none once everything is as the last run left it.
    pub fn recovery(&self) -> Option<Recovery> {
        self.inner.shared.recovery()
    }

    /// Returns what is running.
    pub fn deployment(&self) -> Arc<Deployment> {
        Arc::clone(&self.inner.shared.topology().deployment)
    }

    /// Returns every source, then every view and alert, each after all it reads.
    pub fn relations(&self) -> Vec<Relation> {
        let topology = self.inner.shared.topology();
        topology.relations().map(|entry| entry.relation.clone()).collect()
    }

    /// Returns a source, view or alert by name.
    pub fn relation(&self, name: &str) -> Option<Relation> {
        self.entry(name).map(|entry| entry.relation.clone())
    }

    /// Returns a number that changes when a relation's definition does; none where there is no such relation.
    pub fn definition(&self, name: &str) -> Option<u64> {
        self.entry(name).map(|entry| entry.relation.definition)
    }

    /// Brings rows to a source, or takes them back; answers once they can be lost no more.
    ///
    /// # Errors
    /// When there is no such source, or the engine has stopped.
    pub async fn ingest(&self, source: &str, operation: Operation, decoded: Decoded) -> Result<Accepted, IngestError> {
        self.ingest_once(source, operation, decoded, None).await
    }

    /// As [`ingest`](Self::ingest); of requests with the same key only the first counts, and the others are
    /// answered as it was, as long as its key is among the newest [`IDEMPOTENCY_KEYS_MAX`].
    ///
    /// # Errors
    /// When there is no such source, or the engine has stopped.
    pub async fn ingest_once(
        &self,
        source: &str,
        operation: Operation,
        decoded: Decoded,
        idempotency_key: Option<String>,
    ) -> Result<Accepted, IngestError> {
        let arrived = Instant::now();
        let topology = self.inner.shared.topology();
        let position = topology
            .source(source)
            .ok_or_else(|| IngestError::UnknownSource(source.to_owned()))?;
        let rows = decoded.rows.num_rows().clamp(1, WAITING_ROWS_MAX) as u32;
        let waiting = Arc::clone(&self.inner.waiting);
        let permit = waiting
            .acquire_many_owned(rows)
            .await
            .map_err(|_| IngestError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        let request = Request::Ingest(Arrival {
            source: position,
            operation,
            batch: decoded.into(),
            idempotency_key,
            arrived,
            reply: Some(reply),
            permit: Some(permit),
        });
        self.send(request).map_err(|_| IngestError::Stopped)?;
        answer.await.map_err(|_| IngestError::Stopped)
    }

    /// Closes a tick at `to` without rows, under the event clock; returns the tick.
    ///
    /// # Errors
    /// Under the wall clock, or when the engine has stopped.
    pub async fn advance(&self, to: Tick) -> Result<Tick, EngineError> {
        if self.inner.shared.options.clock != Clock::Event {
            return Err(EngineError::NotEventClock);
        }
        let (reply, answer) = oneshot::channel();
        self.send(Request::Advance { to, reply })?;
        answer.await.map_err(|_| EngineError::Stopped)
    }

    fn send(&self, request: Request) -> Result<(), EngineError> {
        let doors = self.inner.doors.lock().unwrap_or_else(PoisonError::into_inner);
        let doors = doors.as_ref().ok_or(EngineError::Stopped)?;
        doors.requests.send(request).map_err(|_| EngineError::Stopped)
    }

    /// Returns how many rows a relation has, as of its newest change.
    pub fn rows(&self, relation: &str) -> u64 {
        self.entry(relation)
            .map_or(0, |entry| u64::try_from(entry.store.rows()).unwrap_or(0))
    }

    /// Returns how many failing rows may be missing from a view: its own and those of the views it reads.
    pub fn errors(&self, relation: &str) -> u64 {
        self.inner.shared.topology().errors(relation)
    }

    /// Returns what is wrong with a view that has failed.
    pub fn failed(&self, relation: &str) -> Option<String> {
        self.entry(relation)?.failed()
    }

    /// Returns when the first row of a tick arrived, for the newest few thousand ticks.
    pub fn arrival(&self, tick: Tick) -> Option<Instant> {
        self.inner.shared.arrival(tick)
    }

    /// Returns the number of the log: ticks of another one mean nothing here.
    pub fn incarnation(&self) -> u64 {
        self.inner.incarnation
    }

    /// Returns what every operator did and holds, over all workers.
    pub fn operators(&self) -> Vec<ViewOperator> {
        let stats = self.inner.workers.stats();
        let topology = self.inner.shared.topology();
        let flows = topology.flows.iter();
        flows
            .flat_map(|(id, flow)| {
                let operators = stats.get(*id).cloned().unwrap_or_default();
                operators.into_iter().map(|stats| ViewOperator {
                    view: flow.name().to_owned(),
                    stats,
                })
            })
            .collect()
    }

    /// Returns the plan of every running dataflow with the name of its view or shared part.
    pub fn plans(&self) -> Vec<(String, Plan)> {
        let topology = self.inner.shared.topology();
        let flows = topology.flows.values();
        flows
            .map(|flow| (flow.name().to_owned(), flow.spec.plan.clone()))
            .collect()
    }

    /// Returns how many updates the operators of each worker have read.
    pub fn rows_by_worker(&self) -> Vec<u64> {
        self.inner.workers.rows_by_worker()
    }

    /// Returns what is counted of each source.
    pub fn sources(&self) -> Vec<SourceCounts> {
        let topology = self.inner.shared.topology();
        let sources = topology.sources.iter();
        sources
            .map(|source| SourceCounts {
                source: source.name.to_string(),
                accepted: source.accepted.load(Ordering::Relaxed),
                late: source.late.load(Ordering::Relaxed),
                rejected: source.rejected.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// Returns how many alerts of one name now stand.
    pub fn standing(&self, alert: &str) -> u64 {
        self.entry(alert)
            .map_or(0, |entry| entry.standing.load(Ordering::Relaxed))
    }

    /// Returns the median and the 99th percentile of how long the newest ticks took, in seconds.
    pub fn tick_seconds(&self) -> (f64, f64) {
        self.inner.shared.tick_seconds()
    }

    /// Returns how many ticks were completed.
    pub fn ticks(&self) -> u64 {
        self.inner.shared.ticks.load(Ordering::Relaxed)
    }

    /// Returns why the engine has stopped by itself, if it has.
    pub fn failure(&self) -> Option<String> {
        self.inner.shared.failure()
    }

    /// Closes the doors, finishes the ticks that were cut, and waits for every thread.
    pub fn shutdown(&self) {
        self.inner.waiting.close();
        self.inner.stopped.store(true, Ordering::Relaxed);
        let take = |threads: &Mutex<Vec<JoinHandle<()>>>| {
            std::mem::take(&mut *threads.lock().unwrap_or_else(PoisonError::into_inner))
        };
        drop(self.inner.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(self.inner.doors.lock().unwrap_or_else(PoisonError::into_inner).take());
        for thread in take(&self.inner.threads) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
        if let Ok(mut place) = self.inner.travels.try_lock() {
            drop(place.take());
        }
        self.inner.shared.bump();
    }

    fn entry(&self, name: &str) -> Option<Arc<RelationEntry>> {
        self.inner.shared.topology().relation(name).map(Arc::clone)
    }
}

/// Tells what views share with each other when they are run together.
pub fn sharing(views: &[ViewDef]) -> Sharing {
    wiring::sharing(views, 0)
}

/// Lets queries read the system tables.
fn add_tables(deployment: &mut Deployment) -> anyhow::Result<()> {
    for table in TABLES {
        deployment
            .catalog
            .add_system_table(table.name, (table.schema)())
            .with_context(|| format!("could not add the system table {}", table.name))?;
    }
    Ok(())
}

/// Reads a source by the wall clock, on a thread of its own.
fn follow(feed: Feed, doors: Doors, start_us: i64) -> anyhow::Result<JoinHandle<()>> {
    let anchor = Instant::now();
    let now_us = move || start_us + anchor.elapsed().as_micros() as i64;
    spawn(&feed.name.clone(), move || feed::follow(feed, &doors, now_us))
}

/// Has this thread do its work when others leave room: where all processors are busy, one that wakes for a tick
/// would else wait milliseconds until this one's share of time is over.
fn yield_to_others() {
    // On Linux a thread has a niceness of its own, and of itself it is number nought. Without, ticks are only later.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, KEEPER_NICENESS);
}

/// A third of the weight of other threads.
#[cfg(target_os = "linux")]
const KEEPER_NICENESS: i32 = 5;

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> anyhow::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("sangam {name}"))
        .spawn(run)
        .with_context(|| format!("could not start the thread \"{name}\""))
}
