//! What the coordinator writes and every door reads.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use dataflows::Tick;
use dataflows::workers::FlowId;
use tokio::sync::watch;

use super::Relation;
use super::alerts::{AlertEvents, Transition};
use super::letters::Letters;
use super::source::{Counts, Outgoing};
use super::store::RelationStore;
use crate::config::Deployment;

/// Ticks whose arrival is remembered for measuring latency.
const ARRIVALS_MAX: usize = 4096;

pub(super) struct Shared {
    pub(super) deployment: Deployment,
    /// Sources, then views in the order of their dataflows.
    pub(super) relations: Vec<RelationEntry>,
    pub(super) by_name: HashMap<String, usize>,
    pub(super) sources: Vec<SourceEntry>,
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
}

/// A relation and its store.
pub(super) struct RelationEntry {
    pub(super) relation: Relation,
    pub(super) store: RelationStore,
    /// The view's failing rows; a source has none.
    pub(super) errors: Option<RelationStore>,
    /// The view itself and every view it reads, whose failing rows may be missing from it.
    pub(super) upstream: Vec<usize>,
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
            upstream: Vec::new(),
            standing: AtomicU64::new(0),
            failed: RwLock::new(None),
        }
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
    pub(super) accepted: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) rejected: AtomicU64,
    clock: Mutex<(Option<i64>, Option<i64>)>,
}

impl SourceEntry {
    pub(super) fn new(name: &str) -> Self {
        SourceEntry {
            name: name.into(),
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
    pub(super) fn new(deployment: Deployment, relations: Vec<RelationEntry>, sources: Vec<SourceEntry>) -> Self {
        let by_name = relations
            .iter()
            .enumerate()
            .map(|(at, entry)| (entry.relation.name.clone(), at))
            .collect();
        Shared {
            deployment,
            relations,
            by_name,
            sources,
            acknowledged: AtomicU64::new(0),
            late: Mutex::default(),
            rejected: Mutex::default(),
            alert_events: Mutex::default(),
            ticks: AtomicU64::new(0),
            tick_seconds: Mutex::default(),
            arrivals: Mutex::default(),
            progress: watch::Sender::new(0),
            failure: RwLock::new(None),
        }
    }

    /// Returns how many failing rows may be missing from a view.
    pub(super) fn errors(&self, entry: &RelationEntry) -> u64 {
        let stores = entry
            .upstream
            .iter()
            .filter_map(|&view| self.relations[view].errors.as_ref());
        stores.map(|errors| u64::try_from(errors.rows()).unwrap_or(0)).sum()
    }

    pub(super) fn source_relation(&self, source: usize) -> usize {
        source
    }

    pub(super) fn view_relation(&self, flow: FlowId) -> usize {
        self.sources.len() + flow
    }

    /// Lets every relation know that a tick was cut, and which views it may change.
    pub(super) fn cut(&self, tick: Tick, concerned: &[bool]) {
        for (position, entry) in self.relations.iter().enumerate() {
            let flow = position.checked_sub(self.sources.len());
            let concerned = flow.is_some_and(|flow| concerned[flow]);
            if let Some(errors) = &entry.errors {
                errors.cut(tick, concerned);
            }
            entry.store.cut(tick, concerned);
        }
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

    pub(super) fn transitions(&self, relation: usize, transitions: Vec<Transition>, standing: usize) {
        self.relations[relation]
            .standing
            .store(standing as u64, Ordering::Relaxed);
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
        tracing::error!(reason, "the engine has stopped");
        *self.failure.write().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        self.bump();
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
