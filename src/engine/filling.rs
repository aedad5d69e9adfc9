//! Fills dataflows that are installed while others run, in slices, so that nobody waits for them.
//!
//! From the moment they are installed, the new dataflows are handed whatever their relations change,
//! and set it aside. What the relations held at a tick after that moment is read by the thread that asked, and
//! fed to them slice by slice at ticks just before it, the next once the last is answered; ticks of
//! the others go on in between. Then the ticks they missed follow, some at a time as one, until
//! none is left: from the next tick on they are as all others, and take the place of those they replace.
//!
//! What is set aside are the batches the others were handed, not copies; past [`MISSED_TICKS_MAX`]
//! ticks of it the doors close until the newcomers have caught up.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use crossbeam_channel::Sender;
use dataflows::workers::{Closed, Completed, FlowId, Seed, TickInput};
use dataflows::{Tick, Updates};
use tokio::sync::oneshot;

use super::closing::Comparable;
use super::flows::{Answers, Running};
use super::plants::{Plant, is_planted};
use super::shared::RelationEntry;
use super::source::SourceState;
use super::topology::Topology;
use super::wiring::NewFlow;

/// How long the others may have to wait for a slice.
const SLICE_AIM: Duration = Duration::from_micros(300);

/// Half of the time is for the others, but no rest is longer. The simulation has no time to lose, and none to measure.
const REST_MAX: Duration = Duration::from_millis(if cfg!(test) { 0 } else { 10 });

/// Rows fed at a time, at least and at most; the last may be fewer.
const SLICE_ROWS: RangeInclusive<usize> = if cfg!(test) { 32..=32 } else { 1024..=8 * 1024 };

/// Rows fed at a time where nobody else has to wait.
const ALONE_ROWS: usize = if cfg!(test) { 64 } else { 64 * 1024 };

/// Ticks that may be set aside.
pub(super) const MISSED_TICKS_MAX: usize = 64 * 1024;

/// Missed ticks handed over as one. Once no more are left, the doors close for them.
const CATCH_UP_TICKS: usize = 16;

/// What is asked of the coordinator to change what runs, or about it while nobody else may.
pub(super) enum ChangeRequest {
    /// Installs dataflows; answers with the newest tick cut before, and how far views are closed.
    Install {
        flows: Vec<NewFlow>,
        reply: oneshot::Sender<(Tick, HashMap<String, Closed>)>,
    },
    /// Fills the dataflows installed, then lets them take their places.
    Fill(Box<Fill>),
    /// Takes the dataflows installed away again.
    Abandon,
    /// Changes nothing; answers with the tick begun last, and what of views that close can be compared then.
    Compare {
        reply: oneshot::Sender<(Tick, HashMap<String, Comparable>)>,
    },
}

/// What dataflows are filled with, and what is to be once they are.
pub(super) struct Fill {
    /// The tick of the contents.
    pub(super) through: Tick,
    /// The contents, in the order they are fed.
    pub(super) contents: Contents,
    /// Finished rows that dataflows begin with, and how far those that replace others are closed.
    pub(super) seeds: Vec<Seed>,
    pub(super) closed: Vec<(FlowId, Closed)>,
    /// What runs afterwards.
    pub(super) topology: Arc<Topology>,
    /// What decides which rows enter the sources that are new.
    pub(super) sources: Vec<SourceState>,
    /// The dataflows that are to go then.
    pub(super) remove: Vec<FlowId>,
    pub(super) reply: oneshot::Sender<Tick>,
}

/// Rows of relations that are still to be fed.
pub(super) struct Contents {
    batches: VecDeque<(Arc<str>, RecordBatch)>,
    rows: usize,
    is_begun: bool,
}

impl Contents {
    pub(super) fn new(batches: impl Iterator<Item = (Arc<str>, RecordBatch)>) -> Self {
        let batches: VecDeque<_> = batches.filter(|(_, rows)| rows.num_rows() > 0).collect();
        Contents {
            rows: batches.iter().map(|(_, rows)| rows.num_rows()).sum(),
            batches,
            is_begun: false,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Tells whether all was fed. Nothing at all is fed too: constants and empty groups are there from then on.
    fn are_fed(&self) -> bool {
        self.is_begun && self.rows == 0
    }

    /// Takes the next rows, `count` of them where there are as many.
    fn take(&mut self, count: usize) -> Vec<(Arc<str>, RecordBatch)> {
        self.is_begun = true;
        let mut taken = Vec::new();
        let mut room = count.min(self.rows);
        self.rows -= room;
        while room > 0
            && let Some((name, batch)) = self.batches.front_mut()
        {
            let rows = room.min(batch.num_rows());
            taken.push((Arc::clone(name), batch.slice(0, rows)));
            *batch = batch.slice(rows, batch.num_rows() - rows);
            room -= rows;
            if batch.num_rows() == 0 {
                self.batches.pop_front();
            }
        }
        taken
    }
}

/// Dataflows that are filled, what is to be with them, and how far each was closed from the start.
pub(super) type Filled = (BTreeMap<FlowId, Running>, Box<Fill>, Vec<(FlowId, Closed)>);

/// Dataflows on their way in.
pub(super) struct Filling {
    pub(super) running: BTreeMap<FlowId, Running>,
    /// The ticks since they were installed that they have not been advanced for.
    missed: VecDeque<Tick>,
    unanswered: BTreeMap<Tick, Answers>,
    fill: Option<Box<Fill>>,
    /// Rows of the next slice, and of each but the last at least.
    slice_rows: usize,
    least_rows: usize,
    /// Until when nothing more is fed.
    rests_until: Instant,
    /// How far they are closed from the start: of buckets below, rows have expired already.
    closed: Vec<(FlowId, Closed)>,
    /// Rows of closed buckets that are there from the start.
    seeds: Vec<Seed>,
    /// Whether nobody else is there to wait.
    alone: bool,
}

impl Filling {
    pub(super) fn new(flows: Vec<NewFlow>) -> Self {
        let running = flows.into_iter().map(|flow| {
            let mut running = flow.running;
            running.hold_back();
            (flow.entry.spec.id, running)
        });
        Filling::of(running.collect(), false)
    }

    /// Fills all there is, before anyone else is there: with closed rows, and as quickly as it goes.
    pub(super) fn alone(mut running: BTreeMap<FlowId, Running>, seeds: Vec<Seed>) -> Self {
        running.values_mut().for_each(Running::hold_back);
        Filling {
            seeds,
            slice_rows: ALONE_ROWS,
            least_rows: ALONE_ROWS,
            ..Filling::of(running, true)
        }
    }

    fn of(running: BTreeMap<FlowId, Running>, alone: bool) -> Self {
        Filling {
            running,
            seeds: Vec::new(),
            alone,
            missed: VecDeque::new(),
            unanswered: BTreeMap::new(),
            fill: None,
            slice_rows: *SLICE_ROWS.start(),
            least_rows: *SLICE_ROWS.start(),
            rests_until: Instant::now(),
            closed: Vec::new(),
        }
    }

    pub(super) fn flows(&self) -> Vec<FlowId> {
        self.running.keys().copied().collect()
    }

    /// Notes a tick of the others.
    pub(super) fn missed(&mut self, tick: Tick) {
        self.missed.push_back(tick);
    }

    /// Tells whether the others must wait for a moment.
    pub(super) fn closes_doors(&self) -> bool {
        let is_near =
            self.missed.len() <= CATCH_UP_TICKS && self.fill.as_ref().is_some_and(|fill| fill.contents.are_fed());
        is_near || self.missed.len() >= MISSED_TICKS_MAX && self.fill.is_some()
    }

    /// Starts to fill.
    pub(super) fn begin(&mut self, mut fill: Box<Fill>, closed: Vec<(FlowId, Closed)>) {
        self.seeds.append(&mut fill.seeds);
        self.closed = closed;
        let known = std::mem::take(&mut fill.closed);
        self.closed
            .retain(|(flow, _)| !known.iter().any(|(other, _)| other == flow));
        self.closed.extend(known);
        self.missed.retain(|tick| *tick > fill.through);
        // Each slice is a tick of its own, the last of them that of the contents: so there must be
        // as many ticks before it as slices can still come.
        let enough = fill.contents.rows() as u64 / fill.through.max(1) + 1;
        self.least_rows = (enough as usize).max(self.least_rows);
        self.fill = Some(fill);
    }

    /// Returns how long until the next slice, where that is all there is to wait for.
    pub(super) fn rest(&self) -> Option<Duration> {
        let rest = self.rests_until.checked_duration_since(Instant::now())?;
        (self.unanswered.is_empty() && self.fill.is_some()).then_some(rest)
    }

    /// Returns what is to be handed over next, if nothing is unanswered.
    pub(super) fn next(&mut self, workers: usize) -> Option<TickInput> {
        let fill = self.fill.as_mut()?;
        if !self.unanswered.is_empty() || self.running.is_empty() || self.rests_until > Instant::now() {
            return None;
        }
        let flows: Vec<FlowId> = self.running.keys().copied().collect();
        let input = if !fill.contents.are_fed() {
            let rows = fill.contents.take(self.slice_rows.max(self.least_rows)).into_iter();
            TickInput {
                tick: fill.through - (fill.contents.rows() as u64).div_ceil(self.least_rows as u64),
                inputs: rows
                    .map(|(relation, rows)| (relation, Updates::inserts(rows)))
                    .collect(),
                flows: flows.clone(),
                // Said at every step, it holds from the first on.
                closed: self.closed.clone(),
                passed: Vec::new(),
                seeds: std::mem::take(&mut self.seeds),
                fill: match self.missed.back() {
                    Some(newest) if is_planted(Plant::NewcomersMissATick) => Some(*newest),
                    _ => Some(fill.through),
                },
            }
        } else {
            // The last of some ticks stands for all of them.
            let lot = match is_planted(Plant::NewcomersBehind) {
                true => 0,
                false => self.missed.len().min(CATCH_UP_TICKS),
            };
            let last = self.missed.drain(..lot).next_back()?;
            TickInput::new(last, Vec::new(), flows.clone())
        };
        self.unanswered.insert(input.tick, Answers::of(&flows, workers));
        for running in self.running.values() {
            running.relation.cut(input.tick, true);
        }
        Some(input)
    }

    /// Takes one worker's answer.
    pub(super) fn completed(&mut self, completed: Completed, keeper: &Sender<Arc<RelationEntry>>) {
        let (flow, tick) = (completed.flow, completed.tick);
        let Some(running) = self.running.get_mut(&flow) else {
            return;
        };
        if !self
            .unanswered
            .range(tick + 1..)
            .any(|(_, answers)| answers.concerns(flow))
        {
            running.set_due(completed.worker, completed.due);
        }
        let Some(answers) = self.unanswered.get_mut(&tick) else {
            return;
        };
        if let Some(answer) = answers.take(completed) {
            if answers.is_empty() {
                let took = answers.started.elapsed().max(SLICE_AIM / 16);
                let fit = self.slice_rows as f64 * SLICE_AIM.as_secs_f64() / took.as_secs_f64();
                self.slice_rows =
                    (fit as usize).clamp(*SLICE_ROWS.start(), (2 * self.slice_rows).min(*SLICE_ROWS.end()));
                if self.alone {
                    self.slice_rows = ALONE_ROWS;
                } else if self.fill.as_ref().is_some_and(|fill| !fill.contents.are_fed()) {
                    self.rests_until = Instant::now() + took.min(REST_MAX);
                }
                self.unanswered.remove(&tick);
            }
            running.show(tick, answer, keeper);
        }
    }

    /// Returns how many answers are missing.
    #[cfg(test)]
    pub(super) fn missing(&self) -> usize {
        self.unanswered.values().map(Answers::missing).sum()
    }

    /// Returns how many rows are still to be fed.
    pub(super) fn rows_left(&self) -> usize {
        self.fill.as_ref().map_or(0, |fill| fill.contents.rows())
    }

    /// Tells whether nothing is left to be done: the dataflows stand where the others do.
    pub(super) fn is_done(&self) -> bool {
        let filled = self
            .fill
            .as_ref()
            .is_some_and(|fill| fill.contents.are_fed() || self.running.is_empty());
        let caught_up = self.missed.is_empty() || self.running.is_empty() || is_planted(Plant::NewcomersBehind);
        filled && self.unanswered.is_empty() && caught_up
    }

    /// Returns the dataflows and what is to be with them.
    pub(super) fn finish(self) -> Option<Filled> {
        Some((self.running, self.fill?, self.closed))
    }
}
