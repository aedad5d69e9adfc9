//! What the coordinator writes and every door reads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use dataflows::Tick;
use tokio::sync::watch;

use super::Relation;
use super::alerts::AlertEvents;
use super::keeping::Holdings;
use super::letters::Letters;
use super::sinks::Sinks;
use super::source::{Counts, Outgoing};
use super::store::RelationStore;
use super::topology::Topology;
use crate::config::Options;
use crate::log::Transition;

/// Ticks whose arrival is remembered for measuring latency.
const ARRIVALS_MAX: usize = 4096;

pub(super) struct Shared {
    /// They stay as they were at the start.
    pub(super) options: Options,
    topology: RwLock<Arc<Topology>>,
    /// The newest tick whose rows were answered for.
    pub(super) acknowledged: AtomicU64,
    pub(super) late: Mutex<Letters>,
    pub(super) rejected: Mutex<Letters>,
    pub(super) alert_events: Mutex<AlertEvents>,
    pub(super) ticks: AtomicU64,
    tick_seconds: Mutex<Recent>,
    arrivals: Mutex<VecDeque<(Tick, Instant)>>,
    progress: watch::Sender<u64>,
    failure: RwLock<Option<String>>,
    /// What is read of the data folder before the doors open; none once they are.
    recovery: RwLock<Option<Recovery>>,
    pub(super) sinks: Sinks,
    /// What there is of history.
    pub(super) holdings: Arc<Holdings>,
    /// Whether this is no running deployment but a replay, of which no figures are kept.
    is_replay: bool,
}

/// How far a start has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Rows read or fed so far, and in all.
    pub rows: (u64, u64),
    /// Bytes of the data folder read so far, and in all.
    pub bytes: (u64, u64),
}

impl Recovery {
    /// Returns how much of it is done, from 0 to 100.
    pub fn percent(&self) -> u64 {
        let (done, all) = (self.rows.0 + self.bytes.0, self.rows.1 + self.bytes.1);
        (done.saturating_mul(100)).checked_div(all).unwrap_or(0).min(100)
    }
}

/// A relation and its store.
pub(super) struct RelationEntry {
    pub(super) relation: Relation,
    pub(super) store: RelationStore,
    /// The view's failing rows; a source has none.
    pub(super) errors: Option<RelationStore>,
    /// Alerts now standing, for an alert.
    pub(super) standing: AtomicU64,
    failed: RwLock<Option<String>>,
}

impl RelationEntry {
    pub(super) fn new(relation: Relation, store: RelationStore, errors: Option<RelationStore>) -> Self {
        RelationEntry {
            relation,
            store,
            errors,
            standing: AtomicU64::new(0),
            failed: RwLock::new(None),
        }
    }

    /// Notes that a tick was cut, and whether it may change this relation.
    pub(super) fn cut(&self, tick: Tick, concerned: bool) {
        if let Some(errors) = &self.errors {
            errors.cut(tick, concerned);
        }
        self.store.cut(tick, concerned);
    }

    pub(super) fn set_failed(&self, failed: Option<String>) {
        let mut current = self.failed.write().unwrap_or_else(PoisonError::into_inner);
        if *current != failed {
            if let Some(reason) = &failed {
                tracing::warn!(view = self.relation.name, reason, "view failed");
            }
            *current = failed;
        }
    }

    pub(super) fn failed(&self) -> Option<String> {
        self.failed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is counted of a source.
pub(super) struct SourceEntry {
    pub(super) name: Arc<str>,
    pub(super) relation: Arc<RelationEntry>,
    pub(super) accepted: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) rejected: AtomicU64,
    clock: Mutex<(Option<i64>, Option<i64>)>,
}

impl SourceEntry {
    pub(super) fn new(relation: RelationEntry) -> Self {
        SourceEntry {
            name: relation.relation.name.as_str().into(),
            relation: Arc::new(relation),
            accepted: AtomicU64::new(0),
            late: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            clock: Mutex::new((None, None)),
        }
    }

    pub(super) fn count(&self, counts: &Counts) {
        self.accepted.fetch_add(counts.accepted as u64, Ordering::Relaxed);
        self.late.fetch_add(counts.late as u64, Ordering::Relaxed);
        self.rejected.fetch_add(counts.rejected as u64, Ordering::Relaxed);
    }

    /// Returns what was counted: accepted, late, rejected.
    pub(super) fn counts(&self) -> [u64; 3] {
        [&self.accepted, &self.late, &self.rejected].map(|count| count.load(Ordering::Relaxed))
    }

    /// Goes on counting from there.
    pub(super) fn set_counts(&self, counts: [u64; 3]) {
        for (count, value) in [&self.accepted, &self.late, &self.rejected].into_iter().zip(counts) {
            count.store(value, Ordering::Relaxed);
        }
    }

    pub(super) fn observe(&self, clock: Option<i64>, watermark: Option<i64>) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = (clock, watermark);
    }

    /// Returns the source's clock and its watermark.
    pub(super) fn clock(&self) -> (Option<i64>, Option<i64>) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Durations of the newest ticks, for the line of progress.
#[derive(Default)]
struct Recent {
    seconds: VecDeque<f64>,
}

impl Shared {
    pub(super) fn new(topology: Arc<Topology>, sinks: Sinks, holdings: Arc<Holdings>) -> Self {
        Shared {
            options: topology.deployment.options.clone(),
            topology: RwLock::new(topology),
            acknowledged: AtomicU64::new(0),
            late: Mutex::default(),
            rejected: Mutex::default(),
            alert_events: Mutex::default(),
            ticks: AtomicU64::new(0),
            tick_seconds: Mutex::default(),
            arrivals: Mutex::default(),
            progress: watch::Sender::new(0),
            failure: RwLock::new(None),
            recovery: RwLock::new(None),
            sinks,
            holdings,
            is_replay: false,
        }
    }

    /// Keeps no figures: what goes by went by before.
    pub(super) fn for_replay(mut self) -> Self {
        self.is_replay = true;
        self
    }

    /// Returns what runs now.
    pub(super) fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_topology(&self, topology: Arc<Topology>) {
        *self.topology.write().unwrap_or_else(PoisonError::into_inner) = topology;
    }

    /// Returns the late rows up to a tick, and how many there ever were.
    pub(super) fn late_letters(&self, through: Tick) -> (RecordBatch, u64) {
        let letters = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        (letters.batch(through), letters.total())
    }

    /// Returns the rejected rows up to a tick, and how many there ever were.
    pub(super) fn rejected_letters(&self, through: Tick) -> (RecordBatch, u64) {
        let letters = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        (letters.batch(through), letters.total())
    }

    /// Returns what happened to alerts up to a tick.
    pub(super) fn alert_events(&self, through: Tick) -> RecordBatch {
        let events = self.alert_events.lock().unwrap_or_else(PoisonError::into_inner);
        events.batch(through)
    }

    /// Takes in late rows of an earlier run.
    pub(super) fn restore_late(&self, rows: &RecordBatch, total: u64) {
        self.late
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .restore(rows, total);
    }

    /// Takes in rejected rows of an earlier run.
    pub(super) fn restore_rejected(&self, rows: &RecordBatch, total: u64) {
        self.rejected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .restore(rows, total);
    }

    /// Takes in what was told of alerts in an earlier run.
    pub(super) fn restore_events(&self, transitions: Vec<Transition>) {
        self.alert_events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(transitions);
    }

    /// Says how far the start has come; none once it is over.
    pub(super) fn set_recovery(&self, recovery: Option<Recovery>) {
        *self.recovery.write().unwrap_or_else(PoisonError::into_inner) = recovery;
        self.bump();
    }

    /// Returns how far the start has come; none once it is over.
    pub(super) fn recovery(&self) -> Option<Recovery> {
        *self.recovery.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn letters(&self, out: Outgoing) {
        let keep = |table: &Mutex<Letters>, letters: Vec<_>| {
            if !letters.is_empty() {
                let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                letters.into_iter().for_each(|letter| table.push(letter));
            }
        };
        keep(&self.late, out.late);
        keep(&self.rejected, out.rejected);
    }

    /// Tells of an alert, and how many of it stand; of one that is no more, there is nobody to ask.
    pub(super) fn transitions(&self, alert: Option<&RelationEntry>, transitions: Vec<Transition>, standing: usize) {
        if let Some(alert) = alert {
            alert.standing.store(standing as u64, Ordering::Relaxed);
        }
        if !transitions.is_empty() {
            self.alert_events
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(transitions);
        }
    }

    pub(super) fn arrived(&self, tick: Tick, at: Instant) {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.push_back((tick, at));
        if arrivals.len() > ARRIVALS_MAX {
            arrivals.pop_front();
        }
    }

    pub(super) fn arrival(&self, tick: Tick) -> Option<Instant> {
        let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let at = arrivals.partition_point(|(arrived, _)| *arrived < tick);
        arrivals
            .get(at)
            .filter(|(arrived, _)| *arrived == tick)
            .map(|(_, at)| *at)
    }

    pub(super) fn finished(&self, took: Duration) {
        if self.is_replay {
            return;
        }
        self.ticks.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("sangam_ticks_total").increment(1);
        metrics::histogram!("sangam_tick_duration_seconds").record(took.as_secs_f64());
        let mut recent = self.tick_seconds.lock().unwrap_or_else(PoisonError::into_inner);
        recent.seconds.push_back(took.as_secs_f64());
        if recent.seconds.len() > 1024 {
            recent.seconds.pop_front();
        }
    }

    /// Returns the median and the 99th percentile of the newest ticks' durations, in seconds.
    pub(super) fn tick_seconds(&self) -> (f64, f64) {
        let recent = self.tick_seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seconds: Vec<f64> = recent.seconds.iter().copied().collect();
        drop(recent);
        seconds.sort_unstable_by(f64::total_cmp);
        let at = |quantile: f64| {
            seconds
                .get((seconds.len() as f64 * quantile) as usize)
                .copied()
                .unwrap_or(0.0)
        };
        (at(0.5), at(0.99))
    }

    /// Wakes everyone who waits for progress.
    pub(super) fn bump(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    pub(super) fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    pub(super) fn fail(&self, reason: String) {
        match self.is_replay {
            true => tracing::error!(reason, "a replay has stopped"),
            false => tracing::error!(reason, "the engine has stopped"),
        }
        *self.failure.write().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        self.bump();
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
