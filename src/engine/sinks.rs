//! What sinks are told of a view, and the threads that deliver it from the outbox; `conflating` merges what waits there.

mod conflating;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::DataType;
use connectors::{Delivery, Sink, SinkError};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use dataflows::group_index::GroupIndex;
use dataflows::{Tick, Updates};

use self::conflating::Conflating;
use crate::config::{SinkDef, WhenFull};
use crate::log::{Conflation, LogError, LogStore, OutboxDoor, Outgoing};

/// Ticks delivered together, at most.
const DELIVERIES_MAX: usize = 256;

/// Bytes in the outbox delivered together, at most but for one tick.
const DELIVERED_BYTES_MAX: usize = 16 << 20;

/// How long the other side is left alone after it did not take something, at first and at most.
const RESTS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];

/// How a sink is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkStatus {
    /// Its name.
    pub sink: String,
    /// The view it is told of.
    pub from: String,
    /// Ticks that wait to be delivered, the net change of some being one.
    pub waiting: usize,
    /// Ticks that gave way to a later one, since the sink is there.
    pub conflated: u64,
    /// The newest tick that the other side has.
    pub delivered: Tick,
    /// Why the other side did not take the last, if it did not.
    pub failure: Option<String>,
}

/// All sinks of a deployment.
#[derive(Default)]
pub(super) struct Sinks {
    by_name: HashMap<Arc<str>, Arc<SinkState>>,
}

struct SinkState {
    definition: SinkDef,
    /// Woken when there is something to deliver.
    door: Sender<()>,
    /// Woken when there is much that may be merged, where it may be.
    merging: Option<Sender<()>>,
    waiting: AtomicUsize,
    /// Those that wait and were never tried.
    untried: AtomicUsize,
    conflated: AtomicU64,
    tried: Mutex<Tried>,
    delivered: Mutex<Tick>,
    failure: Mutex<Option<String>>,
    stopped: AtomicBool,
}

/// How far a sink has tried to deliver. Whoever takes from its outbox, to deliver or to merge, holds it meanwhile.
///
/// The other side may have what was tried, or a part of it, whatever it said; what comes later it has not. So only that
/// may give way to its net change, and what was tried is tried again as it was, before anything else.
#[derive(Default)]
struct Tried {
    /// Nothing after this tick was tried.
    through: Tick,
    /// Whether the store says so, too.
    is_noted: bool,
}

/// What the threads of sinks need.
pub(super) struct Delivering {
    sinks: Vec<Woken>,
}

/// A sink, and what wakes its threads.
struct Woken {
    state: Arc<SinkState>,
    /// There is something to deliver.
    more: Receiver<()>,
    /// There is much that may be merged.
    much: Option<Receiver<()>>,
}

impl Sinks {
    /// Prepares the sinks of a deployment.
    pub(super) fn new(definitions: &[SinkDef]) -> (Sinks, Delivering) {
        let (mut by_name, mut woken) = (HashMap::new(), Vec::new());
        for definition in definitions {
            let (door, more) = bounded(1);
            let conflates = definition.when_full == WhenFull::Conflate;
            let (merging, much) = conflates.then(|| bounded(1)).unzip();
            let state = Arc::new(SinkState {
                definition: definition.clone(),
                door,
                merging,
                waiting: AtomicUsize::new(0),
                untried: AtomicUsize::new(0),
                conflated: AtomicU64::new(0),
                tried: Mutex::default(),
                delivered: Mutex::new(0),
                failure: Mutex::new(None),
                stopped: AtomicBool::new(false),
            });
            by_name.insert(Arc::from(definition.name.as_str()), Arc::clone(&state));
            woken.push(Woken { state, more, much });
        }
        (Sinks { by_name }, Delivering { sinks: woken })
    }

    /// Returns the names of the sinks that are told of a view.
    pub(super) fn of(&self, view: &str) -> Vec<Arc<str>> {
        let sinks = self.by_name.iter().filter(|(_, state)| state.definition.from == view);
        let mut names: Vec<Arc<str>> = sinks.map(|(name, _)| Arc::clone(name)).collect();
        names.sort();
        names
    }

    /// Tells whether one has so much to deliver that sources must wait.
    pub(super) fn is_full(&self) -> bool {
        let mut states = self.by_name.values();
        states.any(|state| state.is_full() && !state.stopped.load(Ordering::Relaxed))
    }

    /// Notes that there is one tick more to deliver.
    pub(super) fn add(&self, sink: &str) {
        if let Some(state) = self.by_name.get(sink) {
            state.waiting.fetch_add(1, Ordering::Relaxed);
            state.untried.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells a sink that what it is to deliver can be lost no more.
    pub(super) fn wake(&self, sink: &str) {
        if let Some(state) = self.by_name.get(sink) {
            // A full door means that it has been told already.
            let _ = state.door.try_send(());
            state.wake_merging();
        }
    }

    /// Returns how each is doing, by name.
    pub(super) fn status(&self) -> Vec<SinkStatus> {
        let mut status: Vec<SinkStatus> = self
            .by_name
            .iter()
            .map(|(name, state)| SinkStatus {
                sink: name.to_string(),
                from: state.definition.from.clone(),
                waiting: state.waiting.load(Ordering::Relaxed),
                conflated: state.conflated.load(Ordering::Relaxed),
                delivered: *state.delivered.lock().unwrap_or_else(PoisonError::into_inner),
                failure: state.failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            })
            .collect();
        status.sort_by(|one, other| one.sink.cmp(&other.sink));
        status
    }
}

impl Delivering {
    /// Starts the threads of each sink. `outbox` makes the doors to change what waits; `stopped` says that it is over.
    pub(super) fn start(
        self,
        store: &Arc<LogStore>,
        outbox: impl Fn(Arc<str>) -> OutboxDoor,
        stopped: &Receiver<()>,
    ) -> anyhow::Result<Vec<JoinHandle<()>>> {
        let mut threads = Vec::new();
        for Woken { state, more, much } in self.sinks {
            let name = &state.definition.name;
            let sink = state.definition.connector.sink(&state.definition.setting);
            let sink = sink.map_err(|error| anyhow::anyhow!("could not set up sink \"{name}\": {error}"))?;
            state.find(store)?;
            let outbox = outbox(name.as_str().into());
            if let Some(much) = much {
                let mut conflating = Conflating::new(Arc::clone(&state), Arc::clone(store), outbox.clone());
                let stopped = stopped.clone();
                let name = format!("merge {name}");
                threads.push(super::spawn(&name, move || conflating.run(&much, &stopped))?);
                state.wake_merging();
            }
            let (store, stopped) = (Arc::clone(store), stopped.clone());
            let name = format!("sink {name}");
            threads.push(super::spawn(&name, move || {
                state.run(sink, &store, &outbox, &more, &stopped)
            })?);
        }
        Ok(threads)
    }
}

impl SinkState {
    /// Finds how an earlier run has left the outbox.
    fn find(&self, store: &LogStore) -> Result<(), LogError> {
        let name = &self.definition.name;
        let conflation = store.conflation(name)?;
        let (waiting, newest) = store.outbox_length(name, 0..=Tick::MAX)?;
        // Where nothing says what that run has tried, it may have tried everything.
        let through = conflation.tried.or(newest).unwrap_or(0);
        let (untried, _) = store.outbox_length(name, through + 1..=Tick::MAX)?;
        self.waiting.fetch_add(waiting, Ordering::Relaxed);
        self.untried.fetch_add(untried, Ordering::Relaxed);
        self.conflated.store(conflation.conflated, Ordering::Relaxed);
        *self.tried() = Tried {
            through,
            is_noted: conflation.tried.is_some(),
        };
        Ok(())
    }

    fn tried(&self) -> MutexGuard<'_, Tried> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether sources must wait.
    fn is_full(&self) -> bool {
        let most = self.definition.waiting_ticks_max;
        match self.definition.when_full {
            WhenFull::Block => self.waiting.load(Ordering::Relaxed) >= most,
            // Merging is behind: it must be waited for, as it would not end otherwise.
            WhenFull::Conflate => self.untried.load(Ordering::Relaxed) >= 2 * most + DELIVERIES_MAX,
        }
    }

    /// Delivers until it is over; what the other side does not take is tried again.
    fn run(
        &self,
        mut sink: Box<dyn Sink>,
        store: &LogStore,
        outbox: &OutboxDoor,
        woken: &Receiver<()>,
        stopped: &Receiver<()>,
    ) {
        let mut rest = RESTS[0];
        let mut after: Option<Tick> = None;
        loop {
            let delivered = self.deliver(sink.as_mut(), store, outbox, &mut after);
            let wait = match delivered {
                Ok(true) => Duration::ZERO,
                Ok(false) => Duration::from_secs(1),
                Err(SinkError::Retry(reason)) => {
                    self.fail(Some(&reason));
                    let wait = rest;
                    rest = (rest * 2).min(RESTS[1]);
                    wait
                }
                Err(SinkError::Fatal(reason)) => {
                    self.fail(Some(&reason));
                    self.stopped.store(true, Ordering::Relaxed);
                    tracing::error!(
                        sink = self.definition.name,
                        reason,
                        "sink stopped; what it is to deliver is kept"
                    );
                    return;
                }
            };
            if wait.is_zero() || self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
                rest = RESTS[0];
            }
            let over = match self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                // It is left alone for a while, whatever there is to deliver.
                true => !matches!(stopped.recv_timeout(wait), Err(RecvTimeoutError::Timeout)),
                false => crossbeam_channel::select! {
                    recv(stopped) -> _ => true,
                    recv(woken) -> _ => false,
                    default(wait) => false,
                },
            };
            if over {
                // Nobody waits for it any more: what came in meanwhile is taken before the program ends.
                self.stopped.store(true, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Delivers the oldest ticks that wait; tells whether there were any.
    fn deliver(
        &self,
        sink: &mut dyn Sink,
        store: &LogStore,
        outbox: &OutboxDoor,
        after: &mut Option<Tick>,
    ) -> Result<bool, SinkError> {
        let fatal = |error: LogError| SinkError::Fatal(error.to_string());
        let from = match *after {
            Some(after) => after,
            // What the other side has already is not told again.
            None => {
                let had = sink.delivered()?.unwrap_or(0);
                let (count, _) = store.outbox_length(&self.definition.name, 0..=had).map_err(fatal)?;
                self.is_delivered(had, count, outbox);
                *after.insert(had)
            }
        };
        let deliveries: Vec<Delivery> = self
            .take(store, outbox, from)
            .map_err(fatal)?
            .into_iter()
            .map(|(tick, Outgoing { rows, diffs, .. })| Delivery { tick, rows, diffs })
            .collect();
        let Some(last) = deliveries.last().map(|delivery| delivery.tick) else {
            return Ok(false);
        };
        sink.deliver(&deliveries)?;
        self.fail(None);
        *after = Some(last);
        self.is_delivered(last, deliveries.len(), outbox);
        Ok(true)
    }

    /// Takes what is delivered next: what was tried before, or else some that was not.
    fn take(&self, store: &LogStore, outbox: &OutboxDoor, after: Tick) -> Result<Vec<(Tick, Outgoing)>, LogError> {
        let name = &self.definition.name;
        let most = (DELIVERIES_MAX, DELIVERED_BYTES_MAX);
        let mut tried = self.tried();
        if after < tried.through {
            let again = store.outbox(name, after + 1..=tried.through, most)?;
            if !again.is_empty() {
                return Ok(again);
            }
        }
        let from = after.max(tried.through) + 1;
        let taken = store.outbox(name, from..=Tick::MAX, most)?;
        let Some((last, _)) = taken.last() else {
            return Ok(taken);
        };
        if tried.is_noted {
            // What is noted would be wrong from the first attempt on.
            let conflated = self.conflated.load(Ordering::Relaxed);
            if !outbox.note(Conflation { tried: None, conflated }) {
                return Ok(Vec::new());
            }
            tried.is_noted = false;
        }
        tried.through = *last;
        lower(&self.untried, taken.len());
        Ok(taken)
    }

    /// Forgets what the other side has, so many ticks up to one.
    fn is_delivered(&self, through: Tick, count: usize, outbox: &OutboxDoor) {
        if count == 0 {
            return;
        }
        *self.delivered.lock().unwrap_or_else(PoisonError::into_inner) = through;
        lower(&self.waiting, count);
        outbox.delivered(through);
    }

    fn fail(&self, failure: Option<&str>) {
        let mut current = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_deref() != failure {
            match failure {
                Some(reason) => tracing::warn!(sink = self.definition.name, reason, "could not deliver; trying again"),
                None => tracing::info!(sink = self.definition.name, "delivers again"),
            }
            *current = failure.map(str::to_owned);
        }
    }
}

fn lower(counter: &AtomicUsize, by: usize) {
    let lower = |count: usize| Some(count.saturating_sub(by));
    let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower);
}

/// Adds changes up: equal rows become one, and what came and went is none. None, where nothing is left.
pub(super) fn net(changes: &[Updates]) -> Option<(RecordBatch, Vec<i64>)> {
    let schema = changes.first()?.rows().schema();
    let rows = concat_batches(&schema, changes.iter().map(Updates::rows)).expect("rows of one view have one schema");
    let types: Vec<DataType> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
    let mut index = GroupIndex::new(&types);
    let mut groups = Vec::new();
    index.intern(rows.columns(), rows.num_rows(), &mut groups);
    let mut sums = vec![0; index.groups()];
    let mut first = vec![0; index.groups()];
    let diffs = changes.iter().flat_map(|updates| updates.diffs().iter());
    for (row, (&group, diff)) in groups.iter().zip(diffs).enumerate() {
        sums[group as usize] += diff;
        // Any of equal rows will do.
        first[group as usize] = row as u32;
    }
    let mut left: Vec<(u32, i64)> = first.into_iter().zip(sums).filter(|(_, diff)| *diff != 0).collect();
    left.sort_unstable();
    if left.is_empty() {
        return None;
    }
    let (places, diffs): (Vec<u32>, Vec<i64>) = left.into_iter().unzip();
    let rows = take_record_batch(&rows, &UInt32Array::from(places)).expect("rows of the batch");
    Some((rows, diffs))
}
