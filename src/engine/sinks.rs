//! What sinks are told of a view, and the threads that deliver it from the outbox.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::DataType;
use connectors::{Delivery, Sink, SinkError};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use dataflows::group_index::GroupIndex;
use dataflows::{Tick, Updates};

use crate::config::SinkDef;
use crate::log::{LogStore, Record};

/// Ticks delivered together, at most.
const DELIVERIES_MAX: usize = 256;

/// How long the other side is left alone after it did not take something, at first and at most.
const RESTS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];

/// How a sink is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkStatus {
    /// Its name.
    pub sink: String,
    /// The view it is told of.
    pub from: String,
    /// Ticks that wait to be delivered.
    pub waiting: usize,
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
    waiting: AtomicUsize,
    delivered: Mutex<Tick>,
    failure: Mutex<Option<String>>,
    stopped: AtomicBool,
}

/// What the threads of sinks need.
pub(super) struct Delivering {
    states: Vec<(Arc<SinkState>, Receiver<()>)>,
}

impl Sinks {
    /// Prepares the sinks of a deployment.
    pub(super) fn new(definitions: &[SinkDef]) -> (Sinks, Delivering) {
        let (mut by_name, mut states) = (HashMap::new(), Vec::new());
        for definition in definitions {
            let (door, woken) = bounded(1);
            let state = Arc::new(SinkState {
                definition: definition.clone(),
                door,
                waiting: AtomicUsize::new(0),
                delivered: Mutex::new(0),
                failure: Mutex::new(None),
                stopped: AtomicBool::new(false),
            });
            by_name.insert(Arc::from(definition.name.as_str()), Arc::clone(&state));
            states.push((state, woken));
        }
        (Sinks { by_name }, Delivering { states })
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
        self.by_name.values().any(|state| {
            let waiting = state.waiting.load(Ordering::Relaxed);
            waiting >= state.definition.waiting_ticks_max && !state.stopped.load(Ordering::Relaxed)
        })
    }

    /// Notes that there is one tick more to deliver.
    pub(super) fn add(&self, sink: &str) {
        if let Some(state) = self.by_name.get(sink) {
            state.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells a sink that what it is to deliver can be lost no more.
    pub(super) fn wake(&self, sink: &str) {
        if let Some(state) = self.by_name.get(sink) {
            // A full door means that it has been told already.
            let _ = state.door.try_send(());
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
                delivered: *state.delivered.lock().unwrap_or_else(PoisonError::into_inner),
                failure: state.failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            })
            .collect();
        status.sort_by(|one, other| one.sink.cmp(&other.sink));
        status
    }
}

impl Delivering {
    /// Starts a thread for each sink. `done` makes what forgets what was delivered; `stopped` says that it is over.
    pub(super) fn start<F: Fn(Tick) + Send + 'static>(
        self,
        store: &Arc<LogStore>,
        done: impl Fn(Arc<str>) -> F,
        stopped: &Receiver<()>,
    ) -> anyhow::Result<Vec<JoinHandle<()>>> {
        let mut threads = Vec::new();
        for (state, woken) in self.states {
            let sink = state.definition.connector.sink(&state.definition.setting);
            let sink =
                sink.map_err(|error| anyhow::anyhow!("could not set up sink \"{}\": {error}", state.definition.name))?;
            let waiting = store.outbox(&state.definition.name, 0, usize::MAX)?.len();
            state.waiting.fetch_add(waiting, Ordering::Relaxed);
            let (store, stopped) = (Arc::clone(store), stopped.clone());
            let done = done(state.definition.name.as_str().into());
            let name = format!("sink {}", state.definition.name);
            threads.push(super::spawn(&name, move || {
                state.run(sink, &store, &done, &woken, &stopped)
            })?);
        }
        Ok(threads)
    }
}

impl SinkState {
    /// Delivers until it is over; what the other side does not take is tried again.
    fn run(
        &self,
        mut sink: Box<dyn Sink>,
        store: &LogStore,
        done: &impl Fn(Tick),
        woken: &Receiver<()>,
        stopped: &Receiver<()>,
    ) {
        let mut rest = RESTS[0];
        let mut after: Option<Tick> = None;
        loop {
            let delivered = self.deliver(sink.as_mut(), store, done, &mut after);
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
                return;
            }
        }
    }

    /// Delivers the oldest ticks that wait; tells whether there were any.
    fn deliver(
        &self,
        sink: &mut dyn Sink,
        store: &LogStore,
        done: &impl Fn(Tick),
        after: &mut Option<Tick>,
    ) -> Result<bool, SinkError> {
        let after = match after {
            Some(after) => after,
            // What the other side has already is not told again.
            None => after.insert(sink.delivered()?.unwrap_or(0)),
        };
        let records = store
            .outbox(&self.definition.name, *after, DELIVERIES_MAX)
            .map_err(|error| SinkError::Fatal(error.to_string()))?;
        let deliveries: Vec<Delivery> = records
            .into_iter()
            .filter_map(|record| match record {
                Record::Told(told) => Some(told),
                Record::Tick(_) => None,
            })
            .flat_map(|told| {
                let tick = told.tick;
                told.outgoing.into_iter().map(move |outgoing| Delivery {
                    tick,
                    rows: outgoing.rows,
                    diffs: outgoing.diffs,
                })
            })
            .collect();
        let Some(last) = deliveries.last().map(|delivery| delivery.tick) else {
            return Ok(false);
        };
        sink.deliver(&deliveries)?;
        self.fail(None);
        *after = last;
        *self.delivered.lock().unwrap_or_else(PoisonError::into_inner) = last;
        let count = deliveries.len();
        let lower = |waiting: usize| Some(waiting.saturating_sub(count));
        let _ = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower);
        done(last);
        Ok(true)
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
