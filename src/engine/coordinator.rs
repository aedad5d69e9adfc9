//! The coordinator: cuts ticks from what waits, hands them to the log and the workers, and publishes what these answer.
//!
//! It owns every source's state and the only door into the workers. What it does is decided by what it is told, in
//! order, and by nothing else: `run` tells it from its thread, and a simulation may instead. Nothing of a tick is
//! seen outside before the log has it: `cutting` makes ticks of what waits, `pending` holds them until then, while the
//! workers compute. `changing` replaces dataflows while others run. `saving` has all that is retained written down now
//! and then, `storing` has rows read in history that went there with it. `recovery` begins with the last of these and
//! with the ticks that followed, by `playing` them again, as a replay does.
//!
//! While `in_flight` ticks are unfinished it takes no input, so that load is felt at the doors and ticks grow by
//! themselves.

mod changing;
mod cutting;
mod greeting;
mod pending;
mod playing;
mod recovery;
mod run;
mod saving;
mod storing;
mod told;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use connectors::{Batch, Position};
use crossbeam_channel::Sender;
use dataflows::Tick;
use dataflows::workers::{Closed, Completed, FlowId, Seed, Workers};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::clock::TickClock;
use super::closing::Closings;
use super::filling::Filling;
use super::flows::{Answers, Running};
use super::idempotency::Answered;
use super::shared::{RelationEntry, Shared};
use super::source::{Operation, SourceState};
use super::storage::Storage;
use super::store::StoredRows;
use super::topology::Topology;
use crate::config::Clock;
use crate::history::Stored;
use crate::log::{Record, Told};
use cutting::{Cut, Taken};
use pending::{Pending, Untold};
use saving::Saving;
use told::AlreadyTold;

pub(in crate::engine) use playing::{Again, Seen, Witness};
pub(in crate::engine) use recovery::Recovered;
pub(super) use run::{Inbox, run};

/// Ticks that may wait for the log, at most: past that the doors are closed.
const PENDING_TICKS_MAX: usize = 256;

/// Rows that may wait for the log, at most but for those of one tick.
const PENDING_ROWS_MAX: usize = 512 * 1024;

/// A bucket that is over is closed this long after the tick that passed it, unless another tick comes before.
pub(super) const CLOSES_AFTER: Duration = Duration::from_millis(1);

/// What the doors ask of the coordinator.
pub(super) enum Request {
    /// Rows for one source.
    Ingest(Arrival),
    /// One tick of rows of several sources, cut by a replay.
    Replay {
        rows: Vec<(usize, Batch)>,
        reply: oneshot::Sender<Tick>,
    },
    /// A tick at a given time, without rows.
    Advance { to: Tick, reply: oneshot::Sender<Tick> },
}

/// Rows that come together.
pub(super) struct Arrival {
    pub(super) source: usize,
    pub(super) operation: Operation,
    pub(super) batch: Batch,
    /// By which a request is known that is sent again.
    pub(super) idempotency_key: Option<String>,
    pub(super) arrived: Instant,
    /// Where the answer goes, once nothing of it can be lost.
    pub(super) reply: Option<oneshot::Sender<Accepted>>,
    /// Its share of what may wait; given back once the tick is cut.
    pub(super) permit: Option<OwnedSemaphorePermit>,
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
    /// Whether a request of the same idempotency key was taken before, and this one was not again.
    pub repeated: bool,
}

pub(super) struct Coordinator {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    clock: TickClock,
    topology: Arc<Topology>,
    sources: Vec<SourceState>,
    /// Where the reader of each source goes on.
    positions: Vec<Position>,
    flows: BTreeMap<FlowId, Running>,
    closings: Closings,
    /// What the tick that was begun closes.
    closed: Vec<(FlowId, Closed)>,
    /// What went to history with the last checkpoint, and is not read there yet.
    storing: Option<Vec<Stored>>,
    /// While a start reads the log: what its checkpoint took to history, and whose rows in files are fed.
    after_load: Vec<Stored>,
    reread: Vec<(Arc<RelationEntry>, StoredRows)>,
    /// Whether the tick that was begun says that it is.
    stores: bool,
    /// Rows of closed buckets that come to memory again with the tick that was begun.
    held: Vec<Seed>,
    /// Whether rows are to leave with the next tick that are in files only.
    is_short: bool,
    /// What of views is in files, by dataflow and tick, until that tick is answered.
    in_files: BTreeMap<(FlowId, Tick), StoredRows>,
    /// Dataflows on their way in, at most one change at a time.
    filling: Option<Filling>,
    /// Dataflows on their way out, until their last tick is answered.
    leaving: BTreeMap<FlowId, Running>,
    in_flight: BTreeMap<Tick, Answers>,
    in_flight_max: usize,
    /// Where ticks are written down; none where nothing is to survive.
    log: Option<Box<dyn Storage>>,
    /// Records up to this number can be lost no more.
    durable: u64,
    /// Ticks that the log does not have yet, in their order.
    pending: VecDeque<Pending>,
    pending_rows: usize,
    /// What is told once the log has it, in the order it was handed over.
    untold: VecDeque<(u64, Untold)>,
    /// What was told before a crash, while its ticks are computed again.
    told: AlreadyTold,
    answered: Answered,
    saving: Saving,
    keeper: Sender<Arc<RelationEntry>>,
    /// Who is told of what may be seen, beside the stores: in a replay only.
    witness: Option<Witness>,
}

/// What a coordinator starts with.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) workers: Arc<Workers>,
    pub(super) sources: Vec<SourceState>,
    pub(super) flows: BTreeMap<FlowId, Running>,
    pub(super) clock: TickClock,
    pub(super) log: Option<Box<dyn Storage>>,
    /// Whether closed rows that are kept go to history.
    pub(super) has_history: bool,
    pub(super) keeper: Sender<Arc<RelationEntry>>,
}

impl Coordinator {
    pub(super) fn new(parts: Parts) -> Self {
        let topology = parts.shared.topology();
        let in_flight_max = match parts.shared.options.in_flight {
            Some(ticks) => ticks.max(1),
            None => parts.workers.count() + 1,
        };
        Coordinator {
            clock: parts.clock,
            closings: Closings::new(&topology, &Closings::default(), &[]).with_history(&topology, parts.has_history),
            topology,
            filling: None,
            leaving: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            in_flight_max,
            positions: vec![Position::new(); parts.sources.len()],
            durable: 0,
            pending: VecDeque::new(),
            pending_rows: 0,
            untold: VecDeque::new(),
            told: AlreadyTold::default(),
            answered: Answered::default(),
            saving: Saving::new(parts.shared.options.checkpoint_bytes as u64),
            log: parts.log,
            shared: parts.shared,
            workers: parts.workers,
            sources: parts.sources,
            closed: Vec::new(),
            storing: None,
            after_load: Vec::new(),
            reread: Vec::new(),
            stores: false,
            held: Vec::new(),
            is_short: false,
            in_files: BTreeMap::new(),
            flows: parts.flows,
            keeper: parts.keeper,
            witness: None,
        }
    }

    /// Cuts the first tick of a deployment. It concerns everything: constants and empty groups are there from now on.
    pub(super) fn first_tick(&mut self) {
        let first = self.clock.mint(None);
        self.begin(first);
        self.finish(Cut {
            everything: true,
            ..Cut::at(first)
        });
    }

    /// Tells whether it takes input now.
    pub(super) fn has_room(&self) -> bool {
        let filling = self.filling.as_ref().is_some_and(Filling::closes_doors);
        let waits = self.pending.len() >= PENDING_TICKS_MAX || self.pending_rows >= PENDING_ROWS_MAX;
        let sinks = self.shared.sinks.is_full();
        let saves = self.saving.closes_doors() && self.filling.is_none() && self.storing.is_none();
        // Rows are to leave with the next tick that are still to be read; where history does not answer, they stay.
        let reads = self.is_short && self.storing.is_none() && self.shared.holdings.lock().failure.is_none();
        self.in_flight.len() < self.in_flight_max && !filling && !waits && !sinks && !saves && !reads
    }

    /// Tells whether every tick is finished and seen, and all that was to be told is.
    pub(super) fn is_settled(&self) -> bool {
        self.in_flight.is_empty() && self.pending.is_empty() && self.untold.is_empty()
    }

    /// Does what became possible by what it was told last.
    pub(super) fn go_on(&mut self) {
        self.fill();
        self.let_go();
        self.save();
    }

    /// Returns how long until a timer is due; only the wall's clock moves by itself.
    pub(super) fn timer(&mut self) -> Option<Duration> {
        if self.shared.options.clock == Clock::Event {
            return None;
        }
        let sources = self.sources.iter().filter_map(SourceState::due);
        let flows = self.flows.values().filter_map(Running::due);
        let due = sources.chain(flows).min();
        let wait = due.map(|due| Duration::from_micros(due.saturating_sub(self.clock.wall_us())));
        let stores = self.storing.is_some() && self.filling.is_none();
        match self.closings.is_due(&self.sources) || stores {
            true => Some(wait.map_or(CLOSES_AFTER, |wait| wait.min(CLOSES_AFTER))),
            false => wait,
        }
    }

    /// Returns how many answers of workers are missing.
    #[cfg(test)]
    pub(super) fn awaited(&self) -> usize {
        let filling = self.filling.as_ref().map_or(0, Filling::missing);
        self.in_flight.values().map(Answers::missing).sum::<usize>() + filling
    }

    /// Returns the tick cut last.
    #[cfg(test)]
    pub(super) fn newest_tick(&self) -> Tick {
        self.clock.last()
    }

    /// Returns where the reader of a source goes on.
    #[cfg(test)]
    pub(super) fn position(&self, source: usize) -> &Position {
        &self.positions[source]
    }

    /// Takes one worker's answer; publishes the view's changes once all workers have answered.
    pub(super) fn completed(&mut self, completed: Completed) {
        let (flow, tick) = (completed.flow, completed.tick);
        if let Some(filling) = &mut self.filling
            && filling.running.contains_key(&flow)
        {
            return filling.completed(completed, &self.keeper);
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
        match self.pending.iter_mut().find(|pending| pending.tick == tick) {
            Some(pending) => pending.answers.push((flow, answer)),
            None => self.publish(flow, tick, answer),
        }
    }
}
