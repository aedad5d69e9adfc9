//! The coordinator: cuts ticks from what waits, hands them to the workers, and publishes what they answer.
//!
//! One thread owns every source's state and the only door into the workers.
//! While `in_flight` ticks are unfinished it takes no input, so that load is
//! felt at the doors and ticks grow by themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use connectors::Decoded;
use crossbeam_channel::{Receiver, Sender, after, never, select};
use dataflows::Tick;
use dataflows::workers::{Closed, Completed, FlowId, Response, TickInput, Workers};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::clock::TickClock;
use super::closing::{self, Closings};
use super::filling::{ChangeRequest, Fill, Filling};
use super::flows::{Answers, Running};
use super::shared::{RelationEntry, Shared};
use super::source::{Counts, Operation, Outgoing, SourceState};
use super::store::Run;
use super::topology::Topology;
use super::wiring::NewFlow;
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
    topology: Arc<Topology>,
    sources: Vec<SourceState>,
    flows: BTreeMap<FlowId, Running>,
    closings: Closings,
    /// What the tick that was begun closes.
    closed: Vec<(FlowId, Closed)>,
    /// Dataflows on their way in, at most one change at a time.
    filling: Option<Filling>,
    /// Dataflows on their way out, until their last tick is answered.
    leaving: BTreeMap<FlowId, Running>,
    in_flight: BTreeMap<Tick, Answers>,
    keeper: Sender<Arc<RelationEntry>>,
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
    pub(super) flows: BTreeMap<FlowId, Running>,
    pub(super) keeper: Sender<Arc<RelationEntry>>,
}

/// The doors of a coordinator.
pub(super) struct Inbox {
    pub(super) requests: Receiver<Request>,
    pub(super) changes: Receiver<ChangeRequest>,
    pub(super) responses: Receiver<Response>,
}

impl Coordinator {
    pub(super) fn new(parts: Parts) -> Self {
        let topology = parts.shared.topology();
        Coordinator {
            clock: TickClock::new(parts.shared.options.clock),
            closings: Closings::new(&topology, &Closings::default(), &[]),
            topology,
            filling: None,
            leaving: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            shared: parts.shared,
            workers: parts.workers,
            sources: parts.sources,
            closed: Vec::new(),
            flows: parts.flows,
            keeper: parts.keeper,
        }
    }

    /// Runs until every door is closed and every tick is finished, or a worker dies.
    pub(super) fn run(mut self, inbox: &Inbox) {
        // The first tick concerns everything: constants and empty groups are there from now on.
        let first = self.clock.mint(None);
        self.begin(first);
        self.finish(Cut {
            everything: true,
            ..Cut::at(first)
        });
        let (no_requests, no_changes) = (never(), never());
        let in_flight_max = match self.shared.options.in_flight {
            Some(ticks) => ticks.max(1),
            None => self.workers.count() + 1,
        };
        let (mut open, mut may_change) = (true, true);
        while open || !self.in_flight.is_empty() {
            let room =
                self.in_flight.len() < in_flight_max && !self.filling.as_ref().is_some_and(Filling::closes_doors);
            let door = if open && room { &inbox.requests } else { &no_requests };
            let changes = if may_change { &inbox.changes } else { &no_changes };
            let timer = match self.timer() {
                Some(wait) if open && room => after(wait),
                _ => never(),
            };
            let rested = match self.filling.as_ref().and_then(Filling::rest) {
                Some(rest) => after(rest),
                None => never(),
            };
            select! {
                recv(inbox.responses) -> response => match response {
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
                    Ok(request) => self.cut(request, &inbox.requests),
                    Err(_) => open = false,
                },
                recv(changes) -> change => match change {
                    Ok(change) => self.change(change),
                    Err(_) => may_change = false,
                },
                recv(timer) -> _ => self.cut_timers(),
                recv(rested) -> _ => {}
            }
            self.fill();
            self.let_go();
        }
    }

    fn change(&mut self, request: ChangeRequest) {
        match request {
            ChangeRequest::Install { flows, reply } => {
                self.install(&flows);
                self.filling = Some(Filling::new(flows));
                let _ = reply.send(self.clock.last());
            }
            ChangeRequest::Fill(fill) => {
                if let Some(filling) = &mut self.filling {
                    let closed = closing::starting(&fill.topology, &filling.flows(), &self.sources);
                    filling.begin(fill, closed);
                }
            }
            ChangeRequest::Abandon => {
                for flow in self.filling.take().map_or_else(Vec::new, |filling| filling.flows()) {
                    self.workers.remove(flow);
                }
            }
        }
    }

    fn install(&self, flows: &[NewFlow]) {
        for flow in flows {
            self.workers.install(&flow.entry.spec);
        }
    }

    /// Hands new dataflows what comes next; once they stand where the others do, they are of them.
    fn fill(&mut self) {
        let Some(filling) = &mut self.filling else { return };
        if let Some(input) = filling.next(self.workers.count()) {
            self.workers.tick(input);
        }
        if filling.is_done()
            && let Some((running, fill, closed)) = self.filling.take().and_then(Filling::finish)
        {
            self.closings = Closings::new(&fill.topology, &self.closings, &closed);
            self.replace(running, *fill);
        }
    }

    /// Puts new dataflows in the place of others.
    fn replace(&mut self, running: BTreeMap<FlowId, Running>, fill: Fill) {
        let tick = self.clock.last();
        let mut gone: BTreeMap<FlowId, Running> = BTreeMap::new();
        for flow in fill.remove {
            gone.extend(self.flows.remove(&flow).map(|running| (flow, running)));
        }
        for (flow, mut new) in running {
            new.relation.cut(tick, false);
            new.relation.store.told_from(tick);
            let name = &new.relation.relation.name;
            let old = gone
                .iter()
                .find(|(_, old)| old.relation.relation.name == *name)
                .map(|(id, _)| *id);
            let old = old.and_then(|old| gone.remove_entry(&old));
            new.go_live(old.as_ref().map(|(_, old)| old), tick, &self.shared);
            self.leaving.extend(old);
            self.flows.insert(flow, new);
        }
        for running in gone.values_mut() {
            running.clear(tick, &self.shared);
        }
        self.leaving.append(&mut gone);
        for source in &fill.topology.sources[self.sources.len()..] {
            source.relation.cut(tick, false);
        }
        self.sources.extend(fill.sources);
        self.topology = fill.topology;
        self.shared.set_topology(Arc::clone(&self.topology));
        let _ = fill.reply.send(tick);
        self.shared.bump();
    }

    /// Takes dataflows away whose last tick is answered.
    fn let_go(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let is_awaited = |flow: &FlowId| self.in_flight.values().any(|answers| answers.concerns(*flow));
        let done: Vec<FlowId> = self.leaving.keys().copied().filter(|flow| !is_awaited(flow)).collect();
        for flow in done {
            self.leaving.remove(&flow);
            self.workers.remove(flow);
        }
    }

    /// Returns how long until a timer is due; only the wall's clock moves by itself.
    fn timer(&mut self) -> Option<Duration> {
        if self.shared.options.clock == Clock::Event {
            return None;
        }
        let sources = self.sources.iter().filter_map(SourceState::due);
        let flows = self.flows.values().filter_map(Running::due);
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
        let clock = self.shared.options.clock;
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
        if self.shared.options.clock == Clock::Wall {
            return None;
        }
        let time = self.topology.deployment.sources[source].time.as_ref()?;
        // By name: rows that delete by key have no other columns.
        let name = self.topology.deployment.sources[source]
            .schema
            .field(time.column)
            .name();
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
        let mut flows: Vec<FlowId> = Vec::new();
        if everything {
            flows.extend(self.flows.keys());
        }
        let mut late = Outgoing::default();
        for (source, changes) in &changed {
            flows.extend(&self.topology.reach[*source]);
            let name = &self.topology.sources[*source].name;
            self.closings
                .late((*source, name), tick, &changes.updates, &mut late.late);
        }
        self.shared.letters(late);
        let closed = std::mem::take(&mut self.closed);
        for (flow, _) in &closed {
            flows.extend(&self.topology.reach_flows[flow]);
        }
        for (flow, running) in &mut self.flows {
            if running.due().is_some_and(|due| due <= tick) {
                running.fired();
                flows.extend(&self.topology.reach_flows[flow]);
            }
        }
        flows.sort_unstable();
        flows.dedup();
        for (position, source) in self.sources.iter().enumerate() {
            self.topology.sources[position].observe(source.clock_us(), source.watermark_us());
        }
        let mut inputs = Vec::new();
        let mut runs = Vec::new();
        for (source, changes) in changed {
            let name = Arc::clone(&self.topology.sources[source].name);
            inputs.extend(
                changes
                    .updates
                    .iter()
                    .map(|updates| (Arc::clone(&name), updates.clone())),
            );
            runs.push((source, Run::new(tick, changes.updates, changes.steps)));
        }
        // Every relation learns of the tick before anyone hears it was acknowledged.
        for source in &self.topology.sources {
            source.relation.cut(tick, false);
        }
        for (flow, running) in &self.flows {
            running.relation.cut(tick, flows.binary_search(flow).is_ok());
        }
        if let Some(filling) = &mut self.filling {
            filling.missed(tick);
        }
        for (source, run) in runs {
            let relation = &self.topology.sources[source].relation;
            if relation.store.complete(run) {
                let _ = self.keeper.try_send(Arc::clone(relation));
            }
        }
        self.shared.arrived(tick, arrived);
        self.shared.acknowledged.store(tick, Ordering::SeqCst);
        let passed = self.closings.passed(&flows, &self.sources);
        self.send(TickInput {
            tick,
            inputs,
            flows,
            closed,
            passed,
            fill: None,
        });
        for Taken {
            source,
            counts,
            reasons,
            reply,
        } in taken
        {
            self.topology.sources[source].count(&counts);
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
        // Dataflows on their way in take the rows up, too, even where nobody else wants them.
        if input.flows.is_empty() && (self.filling.is_none() || input.inputs.is_empty()) {
            return;
        }
        if !input.flows.is_empty() {
            let answers = Answers::of(&input.flows, self.workers.count());
            self.in_flight.insert(input.tick, answers);
        }
        self.workers.tick(input);
    }

    /// Takes one worker's answer; publishes the view's changes once all workers have answered.
    fn completed(&mut self, completed: Completed) {
        let (flow, tick) = (completed.flow, completed.tick);
        if let Some(filling) = &mut self.filling
            && filling.running.contains_key(&flow)
        {
            return filling.completed(completed, &self.shared, &self.keeper);
        }
        let Some(running) = self.flows.get_mut(&flow).or_else(|| self.leaving.get_mut(&flow)) else {
            return;
        };
        // An older answer says nothing of timers a newer tick may have fired.
        if !self.in_flight.range(tick + 1..).any(|(_, newer)| newer.concerns(flow)) {
            running.set_due(completed.worker, completed.due);
        }
        let Some(answers) = self.in_flight.get_mut(&tick) else {
            return;
        };
        let Some(answer) = answers.take(completed) else { return };
        if answers.is_empty()
            && let Some(done) = self.in_flight.remove(&tick)
        {
            self.shared.finished(done.started.elapsed());
        }
        running.publish(tick, answer, &self.shared, &self.keeper);
    }
}
