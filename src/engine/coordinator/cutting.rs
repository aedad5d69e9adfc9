//! From what waits to a tick: takes requests in, has sources decide what becomes of their rows, and hands the tick to
//! the log and to the workers.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use connectors::{Batch, Decoded};
use crossbeam_channel::Receiver;
use dataflows::Tick;
use dataflows::workers::{FlowId, TickInput};
use tokio::sync::oneshot;

use super::super::closing::Moved;
use super::super::flows::Answers;
use super::super::plants::{Plant, is_planted};
use super::super::source::{Counts, Operation, Outgoing};
use super::super::store::Run;
use super::pending::Pending;
use super::{Accepted, Arrival, Coordinator, Request};
use crate::config::Clock;
use crate::log::{Entry, Record, TickRecord};

/// Rows cut into one tick, at most, under the wall clock.
const TICK_ROWS_MAX: usize = 128 * 1024;

/// Reasons told with an answer, at most; all of them stand in the tables.
const REASONS_MAX: usize = 5;

/// A waiting request's rows, taken into a tick.
pub(super) struct Taken {
    pub(super) source: usize,
    pub(super) counts: Counts,
    pub(super) answer: Accepted,
    pub(super) reply: Option<oneshot::Sender<Accepted>>,
}

/// A tick that was begun, and what else is to be done with it.
pub(super) struct Cut {
    pub(super) tick: Tick,
    /// Whether it concerns every dataflow, input or not.
    pub(super) everything: bool,
    pub(super) entries: Vec<Entry>,
    pub(super) letters: Outgoing,
    pub(super) taken: Vec<Taken>,
    pub(super) advanced: Vec<oneshot::Sender<Tick>>,
    pub(super) arrived: Instant,
}

impl Cut {
    pub(super) fn at(tick: Tick) -> Self {
        Cut {
            tick,
            everything: false,
            entries: Vec::new(),
            letters: Outgoing::default(),
            taken: Vec::new(),
            advanced: Vec::new(),
            arrived: Instant::now(),
        }
    }
}

impl Coordinator {
    /// Cuts a tick without input.
    pub(in crate::engine) fn cut_timers(&mut self) {
        let tick = self.clock.mint(None);
        self.begin(tick);
        self.finish(Cut::at(tick));
    }

    /// Cuts a tick from a request and, under the wall clock, whatever else waits.
    pub(in crate::engine) fn cut(&mut self, first: Request, requests: &Receiver<Request>) {
        let clock = self.shared.options.clock;
        let tick = match &first {
            Request::Advance { to, .. } => self.clock.mint(Some(*to)),
            Request::Ingest(arrival) => match arrival.operation {
                Operation::Insert => self.clock.mint(self.newest(arrival.source, &arrival.batch.decoded)),
                // What is taken back is no news; nor need a key hold a time.
                Operation::Delete => self.clock.mint(None),
            },
            Request::Replay { rows, .. } => self.clock.mint(
                rows.iter()
                    .filter_map(|(source, batch)| self.newest(*source, &batch.decoded))
                    .max(),
            ),
        };
        let mut cut = Cut::at(tick);
        if let Request::Ingest(arrival) = &first {
            cut.arrived = arrival.arrived;
        }
        self.begin(tick);
        let mut rows = 0;
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Ingest(arrival) => {
                    rows += arrival.batch.decoded.rows.num_rows();
                    self.take_arrival(arrival, &mut cut);
                }
                Request::Replay { rows, reply } => {
                    for (source, batch) in rows {
                        self.take(source, Operation::Insert, batch, None, None, &mut cut);
                    }
                    cut.advanced.push(reply);
                }
                Request::Advance { reply, .. } => cut.advanced.push(reply),
            }
            // Under the event clock each request is a tick, so that all runs are alike.
            next = match clock {
                Clock::Wall if rows < TICK_ROWS_MAX => requests.try_recv().ok(),
                _ => None,
            };
        }
        self.finish(cut);
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

    /// Takes what arrived into a tick, unless it was taken before.
    fn take_arrival(&mut self, arrival: Arrival, cut: &mut Cut) {
        let Arrival {
            source,
            operation,
            batch,
            idempotency_key,
            reply,
            permit,
            arrived: _,
        } = arrival;
        // It waits no more.
        drop(permit);
        let known = idempotency_key
            .as_ref()
            .and_then(|key| self.answered.find(&self.topology.sources[source].name, key));
        match known {
            // Answered with this tick, before which the first one is durable.
            Some(answer) => cut.taken.push(Taken {
                source,
                counts: Counts::default(),
                answer,
                reply,
            }),
            None => self.take(source, operation, batch, idempotency_key, reply, cut),
        }
    }

    /// Lets a source decide what becomes of rows.
    pub(super) fn take(
        &mut self,
        source: usize,
        operation: Operation,
        batch: Batch,
        idempotency_key: Option<String>,
        reply: Option<oneshot::Sender<Accepted>>,
        cut: &mut Cut,
    ) {
        let name = Arc::clone(&self.topology.sources[source].name);
        let Batch {
            decoded,
            position,
            partitions,
        } = batch;
        self.positions[source].extend(position.iter().map(|(key, at)| (key.clone(), *at)));
        if self.log.is_some() {
            cut.entries.push(Entry {
                source: Arc::clone(&name),
                delete: operation == Operation::Delete,
                rows: decoded.rows.clone(),
                rejected: decoded.rejected.clone(),
                position,
                partitions: partitions.clone(),
                idempotency_key: idempotency_key.clone(),
            });
        }
        let before = cut.letters.rejected.len();
        let counts = self.sources[source].apply(cut.tick, operation, decoded, &partitions, &mut cut.letters);
        let reasons = cut.letters.rejected[before..].iter().take(REASONS_MAX);
        let answer = Accepted {
            accepted: counts.accepted,
            late: counts.late,
            rejected: counts.rejected,
            reasons: reasons.map(|letter| letter.reason.clone()).collect(),
            tick: cut.tick,
            repeated: false,
        };
        if let Some(key) = idempotency_key {
            self.answered.remember(&name, &key, &answer);
        }
        let reply = reply.and_then(|reply| match is_planted(Plant::RepliedWhenTaken) {
            true => reply.send(answer.clone()).err().and(None),
            false => Some(reply),
        });
        cut.taken.push(Taken {
            source,
            counts,
            answer,
            reply,
        });
    }

    pub(super) fn begin(&mut self, tick: Tick) {
        for source in &mut self.sources {
            source.begin(tick);
        }
        if self.filling.is_none()
            && let Some(stored) = self.storing.take()
        {
            self.store(tick, stored);
        }
        let (closed, moved) = self.closings.begin(&self.sources);
        self.closed
            .retain(|(flow, _)| !closed.iter().any(|(other, _)| other == flow));
        self.closed.extend(closed);
        for Moved { flow, rows } in moved {
            let known = self.in_files.entry((flow, tick)).or_insert_with(|| rows.clone());
            known.from_us = rows.from_us;
        }
    }

    /// Hands a tick to the log and to the workers; what it holds is answered for once the log has it.
    pub(super) fn finish(&mut self, mut cut: Cut) {
        let tick = cut.tick;
        let mut changed = Vec::new();
        for (position, source) in self.sources.iter_mut().enumerate() {
            let changes = source.take_changes();
            if !changes.updates.is_empty() || !changes.steps.is_empty() {
                changed.push((position, changes));
            }
        }
        let mut flows: Vec<FlowId> = Vec::new();
        if cut.everything {
            flows.extend(self.flows.keys());
        }
        for (source, changes) in &changed {
            flows.extend(&self.topology.reach[*source]);
            let name = &self.topology.sources[*source].name;
            self.closings
                .late((*source, name), tick, &changes.updates, &mut cut.letters.late);
        }
        let closed = std::mem::take(&mut self.closed);
        for (flow, _) in &closed {
            flows.extend(&self.topology.reach_flows[flow]);
        }
        for (flow, running) in &mut self.flows {
            // A dataflow that has not answered yet may have timers that nobody knows of.
            let unknown = || {
                let awaited = self.in_flight.values().any(|answers| answers.concerns(*flow));
                running.has_timers() && awaited && !is_planted(Plant::TimerUnknown)
            };
            if running.due().is_some_and(|due| due <= tick) || unknown() {
                running.fired();
                flows.extend(&self.topology.reach_flows[flow]);
            }
        }
        flows.sort_unstable();
        flows.dedup();
        let mut inputs = Vec::new();
        let mut runs = Vec::new();
        let mut rows = 0;
        for (source, changes) in changed {
            let name = Arc::clone(&self.topology.sources[source].name);
            rows += changes.updates.iter().map(dataflows::Updates::len).sum::<usize>();
            inputs.extend(
                changes
                    .updates
                    .iter()
                    .map(|updates| (Arc::clone(&name), updates.clone())),
            );
            runs.push((source, Run::new(tick, changes.updates, changes.steps)));
        }
        if let Some(filling) = &mut self.filling {
            filling.missed(tick);
        }
        let clocks = self
            .sources
            .iter()
            .map(|source| (source.clock_us(), source.watermark_us()));
        let number = match &mut self.log {
            Some(log) => log.append(Record::Tick(TickRecord {
                tick,
                everything: cut.everything,
                stored: self.stores,
                entries: std::mem::take(&mut cut.entries),
            })),
            None => self.durable,
        };
        self.stores = false;
        self.pending_rows += rows;
        self.pending.push_back(Pending {
            number,
            tick,
            rows,
            flows: flows.clone(),
            runs,
            clocks: clocks.collect(),
            letters: cut.letters,
            taken: cut.taken,
            advanced: cut.advanced,
            arrived: cut.arrived,
            answers: Vec::new(),
        });
        if number <= self.durable {
            self.reveal();
        }
        let passed = self.closings.passed(&flows, &self.sources);
        let wants;
        (self.is_short, wants) = self.closings.wants_rows(&self.sources);
        if wants {
            self.saving.want();
        }
        let seeds = std::mem::take(&mut self.held);
        self.send(TickInput {
            tick,
            inputs,
            flows,
            closed,
            passed,
            seeds,
            fill: None,
        });
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
}
