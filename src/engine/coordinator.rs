//! The coordinator: cuts ticks from what waits, hands them to the workers, and publishes what they answer.
//!
//! One thread owns every source's state and the only door into the workers.
//! While `in_flight` ticks are unfinished it takes no input, so that load is
//! felt at the doors and ticks grow by themselves.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use connectors::Decoded;
use crossbeam_channel::{Receiver, Sender, after, never, select};
use dataflows::workers::{Closed, Completed, FlowId, Response, TickInput, Workers};
use dataflows::{Tick, Updates};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::alerts::AlertState;
use super::clock::TickClock;
use super::closing::Closings;
use super::keys::KeyCounts;
use super::shared::Shared;
use super::source::{Counts, Operation, Outgoing, SourceState};
use super::store::Run;
use crate::config::Clock;

/// Rows cut into one tick, at most, under the wall clock.
const TICK_ROWS_MAX: usize = 128 * 1024;

/// A bucket that is over is closed this long after the tick that passed it, unless another tick comes before.
const CLOSES_AFTER: Duration = Duration::from_millis(1);

/// What the doors ask of the coordinator.
pub(super) enum Request {
    /// Rows for one source.
    Ingest {
        source: usize,
        operation: Operation,
        decoded: Decoded,
        arrived: Instant,
        /// Where the answer goes; feeds do not wait for one.
        reply: Option<oneshot::Sender<Accepted>>,
        /// Its share of what may wait; given back once the tick is cut.
        permit: Option<OwnedSemaphorePermit>,
    },
    /// One tick of rows of several sources, cut by a replay.
    Replay {
        rows: Vec<(usize, Decoded)>,
        reply: oneshot::Sender<Tick>,
    },
    /// A tick at a given time, without rows.
    Advance { to: Tick, reply: oneshot::Sender<Tick> },
}

/// What became of the rows of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Rows that entered, or were taken back.
    pub accepted: usize,
    /// Rows behind the watermark; they stand in `sangam.late`.
    pub late: usize,
    /// Rows that could not be used; they stand in `sangam.rejected`.
    pub rejected: usize,
    /// Why the first rejected rows were.
    pub reasons: Vec<String>,
    /// The tick they were cut into.
    pub tick: Tick,
}

/// Reasons told with an answer, at most; all of them stand in the tables.
const REASONS_MAX: usize = 5;

pub(super) struct Coordinator {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    clock: TickClock,
    sources: Vec<SourceState>,
    /// For each source, the dataflows its rows can reach, ascending.
    reach: Vec<Vec<FlowId>>,
    /// For each dataflow, those its own rows can reach, itself included.
    reach_flows: Vec<Vec<FlowId>>,
    closings: Closings,
    /// What the tick that was begun closes.
    closed: Vec<(FlowId, Closed)>,
    alerts: Vec<Option<AlertState>>,
    keys: Vec<Option<KeyCounts>>,
    /// The first timer due of each dataflow on each worker.
    due: Vec<Vec<Option<Tick>>>,
    in_flight: BTreeMap<Tick, InFlight>,
    keeper: Sender<usize>,
}

struct InFlight {
    started: Instant,
    flows: HashMap<FlowId, Answer>,
}

/// What the workers have said of one dataflow at one tick.
struct Answer {
    missing: usize,
    rows: Vec<Updates>,
    errors: Vec<Updates>,
}

/// A waiting request's rows, taken into a tick.
struct Taken {
    source: usize,
    counts: Counts,
    reasons: Vec<String>,
    reply: Option<oneshot::Sender<Accepted>>,
}

/// A tick that was begun, and what else is to be done with it.
struct Cut {
    tick: Tick,
    /// Whether it concerns every dataflow, input or not.
    everything: bool,
    taken: Vec<Taken>,
    advanced: Vec<oneshot::Sender<Tick>>,
    arrived: Instant,
}

impl Cut {
    fn at(tick: Tick) -> Self {
        Cut {
            tick,
            everything: false,
            taken: Vec::new(),
            advanced: Vec::new(),
            arrived: Instant::now(),
        }
    }
}

/// What a coordinator starts with.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) workers: Arc<Workers>,
    pub(super) sources: Vec<SourceState>,
    pub(super) reach: Vec<Vec<FlowId>>,
    pub(super) reach_flows: Vec<Vec<FlowId>>,
    pub(super) closings: Closings,
    pub(super) alerts: Vec<Option<AlertState>>,
    pub(super) keys: Vec<Option<KeyCounts>>,
    pub(super) keeper: Sender<usize>,
}

impl Coordinator {
    pub(super) fn new(parts: Parts) -> Self {
        let flows = parts.reach_flows.len();
        Coordinator {
            clock: TickClock::new(parts.shared.deployment.options.clock),
            due: vec![vec![None; parts.workers.count()]; flows],
            in_flight: BTreeMap::new(),
            shared: parts.shared,
            workers: parts.workers,
            sources: parts.sources,
            reach: parts.reach,
            reach_flows: parts.reach_flows,
            closings: parts.closings,
            closed: Vec::new(),
            alerts: parts.alerts,
            keys: parts.keys,
            keeper: parts.keeper,
        }
    }

    /// Runs until every door is closed and every tick is finished, or a worker dies.
    pub(super) fn run(mut self, requests: &Receiver<Request>, responses: &Receiver<Response>) {
        // The first tick concerns everything: constants and empty groups are there from now on.
        let first = self.clock.mint(None);
        self.begin(first);
        self.finish(Cut {
            everything: true,
            ..Cut::at(first)
        });
        let closed = never();
        let in_flight_max = match self.shared.deployment.options.in_flight {
            Some(ticks) => ticks.max(1),
            None => self.workers.count() + 1,
        };
        let mut open = true;
        while open || !self.in_flight.is_empty() {
            let room = self.in_flight.len() < in_flight_max;
            let door = if open && room { requests } else { &closed };
            let timer = match self.timer() {
                Some(wait) if open && room => after(wait),
                _ => never(),
            };
            select! {
                recv(responses) -> response => match response {
                    Ok(Response::Completed(completed)) => {
                        completed.into_iter().for_each(|completed| self.completed(completed));
                        self.shared.bump();
                    }
                    Ok(Response::Died { worker, reason }) => {
                        self.shared.fail(format!("worker {worker} died: {reason}"));
                        return;
                    }
                    Err(_) => return,
                },
                recv(door) -> request => match request {
                    Ok(request) => self.cut(request, requests),
                    Err(_) => open = false,
                },
                recv(timer) -> _ => self.cut_timers(),
            }
        }
    }

    /// Returns how long until a timer is due; only the wall's clock moves by itself.
    fn timer(&mut self) -> Option<Duration> {
        if self.shared.deployment.options.clock == Clock::Event {
            return None;
        }
        let sources = self.sources.iter().filter_map(SourceState::due);
        let flows = self.due.iter().flatten().flatten().copied();
        let due = sources.chain(flows).min();
        let wait = due.map(|due| Duration::from_micros(due.saturating_sub(self.clock.wall_us())));
        match self.closings.is_due(&self.sources) {
            true => Some(wait.map_or(CLOSES_AFTER, |wait| wait.min(CLOSES_AFTER))),
            false => wait,
        }
    }

    /// Cuts a tick without input.
    fn cut_timers(&mut self) {
        let tick = self.clock.mint(None);
        self.begin(tick);
        self.finish(Cut::at(tick));
    }

    /// Cuts a tick from a request and, under the wall clock, whatever else waits.
    fn cut(&mut self, first: Request, requests: &Receiver<Request>) {
        let arrived = match &first {
            Request::Ingest { arrived, .. } => *arrived,
            _ => Instant::now(),
        };
        let clock = self.shared.deployment.options.clock;
        let tick = match &first {
            Request::Advance { to, .. } => self.clock.mint(Some(*to)),
            Request::Ingest {
                source,
                operation: Operation::Insert,
                decoded,
                ..
            } => self.clock.mint(self.newest(*source, decoded)),
            // What is taken back is no news; nor need a key hold a time.
            Request::Ingest {
                operation: Operation::Delete,
                ..
            } => self.clock.mint(None),
            Request::Replay { rows, .. } => self.clock.mint(
                rows.iter()
                    .filter_map(|(source, decoded)| self.newest(*source, decoded))
                    .max(),
            ),
        };
        self.begin(tick);
        let mut taken = Vec::new();
        let mut out = Outgoing::default();
        let mut advanced = Vec::new();
        let mut rows = 0;
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Ingest {
                    source,
                    operation,
                    decoded,
                    reply,
                    permit,
                    ..
                } => {
                    rows += decoded.rows.num_rows();
                    let (counts, reasons) = self.take(tick, source, operation, decoded, &mut out);
                    taken.push(Taken {
                        source,
                        counts,
                        reasons,
                        reply,
                    });
                    drop(permit);
                }
                Request::Replay { rows: replayed, reply } => {
                    for (source, decoded) in replayed {
                        let (counts, reasons) = self.take(tick, source, Operation::Insert, decoded, &mut out);
                        taken.push(Taken {
                            source,
                            counts,
                            reasons,
                            reply: None,
                        });
                    }
                    advanced.push(reply);
                }
                Request::Advance { reply, .. } => advanced.push(reply),
            }
            // Under the event clock each request is a tick, so that all runs are alike.
            next = match clock {
                Clock::Wall if rows < TICK_ROWS_MAX => requests.try_recv().ok(),
                _ => None,
            };
        }
        self.shared.letters(out);
        self.finish(Cut {
            taken,
            advanced,
            arrived,
            ..Cut::at(tick)
        });
    }

    /// Returns the newest event time among rows, which an event clock follows.
    fn newest(&self, source: usize, decoded: &Decoded) -> Option<u64> {
        if self.shared.deployment.options.clock == Clock::Wall {
            return None;
        }
        let time = self.shared.deployment.sources[source].time.as_ref()?;
        // By name: rows that delete by key have no other columns.
        let name = self.shared.deployment.sources[source].schema.field(time.column).name();
        let column = decoded.rows.column_by_name(name)?;
        let times = column.as_primitive_opt::<TimestampMicrosecondType>()?;
        let newest = times.iter().flatten().max()?;
        u64::try_from(newest).ok()
    }

    fn take(
        &mut self,
        tick: Tick,
        source: usize,
        operation: Operation,
        decoded: Decoded,
        out: &mut Outgoing,
    ) -> (Counts, Vec<String>) {
        let before = out.rejected.len();
        let counts = self.sources[source].apply(tick, operation, decoded, out);
        let reasons = out.rejected[before..]
            .iter()
            .take(REASONS_MAX)
            .map(|letter| letter.reason.clone())
            .collect();
        (counts, reasons)
    }

    fn begin(&mut self, tick: Tick) {
        for source in &mut self.sources {
            source.begin(tick);
        }
        self.closed = self.closings.begin(&self.sources);
    }

    /// Hands the tick over, then answers those whose rows it holds.
    fn finish(&mut self, cut: Cut) {
        let Cut {
            tick,
            everything,
            taken,
            advanced,
            arrived,
        } = cut;
        let mut changed = Vec::new();
        for (position, source) in self.sources.iter_mut().enumerate() {
            let changes = source.take_changes();
            if !changes.updates.is_empty() || !changes.steps.is_empty() {
                changed.push((position, changes));
            }
        }
        let mut concerned = vec![everything; self.reach_flows.len()];
        let mut concern = |flows: &[FlowId]| flows.iter().for_each(|&flow| concerned[flow] = true);
        let mut late = Outgoing::default();
        for (source, changes) in &changed {
            concern(&self.reach[*source]);
            let name = &self.shared.sources[*source].name;
            self.closings
                .late((*source, name), tick, &changes.updates, &mut late.late);
        }
        self.shared.letters(late);
        let closed = std::mem::take(&mut self.closed);
        for (flow, _) in &closed {
            concern(&self.reach_flows[*flow]);
        }
        for (flow, due) in self.due.iter_mut().enumerate() {
            if due.iter().flatten().any(|due| *due <= tick) {
                // Its answer to this tick says anew what is due.
                due.fill(None);
                concern(&self.reach_flows[flow]);
            }
        }
        let flows: Vec<FlowId> = (0..concerned.len()).filter(|&flow| concerned[flow]).collect();
        for (position, source) in self.sources.iter().enumerate() {
            self.shared.sources[position].observe(source.clock_us(), source.watermark_us());
        }
        let mut inputs = Vec::new();
        let mut runs = Vec::new();
        for (source, changes) in changed {
            let name = Arc::clone(&self.shared.sources[source].name);
            inputs.extend(
                changes
                    .updates
                    .iter()
                    .map(|updates| (Arc::clone(&name), updates.clone())),
            );
            runs.push((source, Run::new(tick, changes.updates, changes.steps)));
        }
        // Every relation learns of the tick before anyone hears it was acknowledged.
        self.shared.cut(tick, &concerned);
        for (source, run) in runs {
            let relation = self.shared.source_relation(source);
            if self.shared.relations[relation].store.complete(run) {
                let _ = self.keeper.try_send(relation);
            }
        }
        self.shared.arrived(tick, arrived);
        self.shared.acknowledged.store(tick, Ordering::SeqCst);
        let passed = self.closings.passed(&flows);
        self.send(TickInput {
            tick,
            inputs,
            flows,
            closed,
            passed,
        });
        for Taken {
            source,
            counts,
            reasons,
            reply,
        } in taken
        {
            self.shared.sources[source].count(&counts);
            if let Some(reply) = reply {
                let Counts {
                    accepted,
                    late,
                    rejected,
                } = counts;
                // Whoever asked may have gone away; the rows are in all the same.
                let _ = reply.send(Accepted {
                    accepted,
                    late,
                    rejected,
                    reasons,
                    tick,
                });
            }
        }
        for reply in advanced {
            let _ = reply.send(tick);
        }
        self.shared.bump();
    }

    fn send(&mut self, input: TickInput) {
        if input.flows.is_empty() {
            return;
        }
        let tick = input.tick;
        let answers = input
            .flows
            .iter()
            .map(|&flow| {
                (
                    flow,
                    Answer {
                        missing: self.workers.count(),
                        rows: Vec::new(),
                        errors: Vec::new(),
                    },
                )
            })
            .collect();
        self.in_flight.insert(
            tick,
            InFlight {
                started: Instant::now(),
                flows: answers,
            },
        );
        self.workers.tick(input);
    }

    /// Takes one worker's answer; publishes the view's changes once all workers have answered.
    fn completed(&mut self, completed: Completed) {
        let Completed {
            worker,
            flow,
            tick,
            rows,
            errors,
            due,
        } = completed;
        // An older answer says nothing of timers a newer tick may have fired.
        if !self
            .in_flight
            .range(tick + 1..)
            .any(|(_, newer)| newer.flows.contains_key(&flow))
        {
            self.due[flow][worker] = due;
        }
        let Some(in_flight) = self.in_flight.get_mut(&tick) else {
            return;
        };
        let Some(answer) = in_flight.flows.get_mut(&flow) else {
            return;
        };
        answer.rows.extend(rows.into_iter().filter(|rows| !rows.is_empty()));
        answer.errors.extend(errors);
        answer.missing -= 1;
        if answer.missing > 0 {
            return;
        }
        let answer = in_flight
            .flows
            .remove(&flow)
            .unwrap_or_else(|| unreachable!("it was there a line ago"));
        if in_flight.flows.is_empty()
            && let Some(done) = self.in_flight.remove(&tick)
        {
            self.shared.finished(done.started.elapsed());
        }
        self.publish(flow, tick, answer);
    }

    fn publish(&mut self, flow: FlowId, tick: Tick, answer: Answer) {
        let relation = self.shared.view_relation(flow);
        if let Some(alerts) = &mut self.alerts[flow] {
            let transitions = alerts.apply(tick, &answer.rows);
            self.shared.transitions(relation, transitions, alerts.standing());
        }
        if let Some(keys) = &mut self.keys[flow] {
            self.shared.relations[relation].set_failed(keys.apply(&answer.rows));
        }
        // Errors first: whoever sees the rows finds the errors of the same tick.
        let target = &self.shared.relations[relation];
        let errors = Run::new(tick, answer.errors, Vec::new());
        let crowded = target.errors.as_ref().is_some_and(|store| store.complete(errors));
        if target.store.complete(Run::new(tick, answer.rows, Vec::new())) || crowded {
            // A full queue means that the keeper has been told already.
            let _ = self.keeper.try_send(relation);
        }
    }
}
