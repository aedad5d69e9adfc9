//! What the coordinator knows of each running dataflow, and what the workers answer for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use dataflows::workers::{Completed, FlowId};
use dataflows::{Tick, Updates};

use super::alerts::{AlertState, Standing};
use super::keys::KeyCounts;
use super::shared::RelationEntry;
use super::sinks;
use super::store::{Run, StoredRows};
use crate::log::{Outgoing, Transition};

/// One running dataflow.
pub(super) struct Running {
    pub(super) relation: Arc<RelationEntry>,
    alerts: Option<AlertState>,
    keys: Option<KeyCounts>,
    /// The sinks that are told what changes.
    sinks: Vec<Arc<str>>,
    has_timers: bool,
    /// The first timer due, by worker.
    due: Vec<Option<Tick>>,
    /// While an alert is filled, its rows so far: what stands only half way is told to nobody.
    held_back: Option<Vec<Updates>>,
}

impl Running {
    pub(super) fn new(relation: Arc<RelationEntry>, alerts: Option<AlertState>, keys: Option<KeyCounts>) -> Self {
        Running {
            relation,
            alerts,
            keys,
            sinks: Vec::new(),
            has_timers: false,
            due: Vec::new(),
            held_back: None,
        }
    }

    /// Says which sinks are told what changes.
    pub(super) fn with_sinks(mut self, sinks: Vec<Arc<str>>) -> Self {
        self.sinks = sinks;
        self
    }

    /// Says whether its operators have timers.
    pub(super) fn with_timers(mut self, has_timers: bool) -> Self {
        self.has_timers = has_timers;
        self
    }

    pub(super) fn has_timers(&self) -> bool {
        self.has_timers
    }

    /// Notes when a worker's next timer is due.
    pub(super) fn set_due(&mut self, worker: usize, due: Option<Tick>) {
        self.due.resize(self.due.len().max(worker + 1), None);
        self.due[worker] = due;
    }

    /// Returns the first tick at which a timer is due.
    pub(super) fn due(&self) -> Option<Tick> {
        self.due.iter().flatten().min().copied()
    }

    /// Forgets its timers: the answer to the tick that fires them says anew what is due.
    pub(super) fn fired(&mut self) {
        self.due.fill(None);
    }

    /// Holds back what it would tell of alerts until [`go_live`](Self::go_live).
    pub(super) fn hold_back(&mut self) {
        self.held_back = self.alerts.is_some().then(Vec::new);
    }

    pub(super) fn is_alert(&self) -> bool {
        self.alerts.is_some()
    }

    /// Goes on from what stands by what was told; returns what is to be told for it to be so.
    pub(super) fn goes_on_from(&mut self, told: &Standing, tick: Tick) -> Vec<Transition> {
        let alerts = self.alerts.as_mut();
        alerts.map_or_else(Vec::new, |alerts| alerts.goes_on_from(told, tick))
    }

    /// Takes what a tick changed to the alerts that stand; returns what is to be told of them.
    pub(super) fn transitions(&mut self, tick: Tick, answer: &Answer) -> Vec<Transition> {
        match (&mut self.alerts, &self.held_back) {
            (Some(alerts), None) => alerts.apply(tick, &answer.rows),
            _ => Vec::new(),
        }
    }

    /// Returns what sinks are to deliver of what a tick changed.
    pub(super) fn outgoing(&self, answer: &Answer) -> Vec<Outgoing> {
        if self.sinks.is_empty() {
            return Vec::new();
        }
        let Some((rows, diffs)) = sinks::net(&answer.rows) else {
            return Vec::new();
        };
        let sinks = self.sinks.iter();
        sinks
            .map(|sink| Outgoing {
                sink: Arc::clone(sink),
                rows: rows.clone(),
                diffs: diffs.clone(),
            })
            .collect()
    }

    /// Returns how many alerts stand.
    pub(super) fn standing(&self) -> usize {
        self.alerts.as_ref().map_or(0, AlertState::standing)
    }

    /// Returns the alerts that stand, each as it was told last.
    pub(super) fn standing_rows(&self) -> impl Iterator<Item = Transition> {
        self.alerts.iter().flat_map(AlertState::standing_rows)
    }

    /// Shows what a tick changed: to the check of its key, and to the store.
    pub(super) fn show(&mut self, tick: Tick, answer: Answer, keeper: &Sender<Arc<RelationEntry>>) {
        if let Some(held_back) = &mut self.held_back {
            held_back.extend(answer.rows.iter().cloned());
        }
        if let Some(keys) = &mut self.keys {
            self.relation.set_failed(keys.apply(&answer.rows));
        }
        // Errors first: whoever sees the rows finds the errors of the same tick.
        let errors = Run::new(tick, answer.errors, Vec::new());
        let crowded = self
            .relation
            .errors
            .as_ref()
            .is_some_and(|store| store.complete(errors));
        let run = Run::new(tick, answer.rows, Vec::new()).with_stored(answer.stored);
        if self.relation.store.complete(run) || crowded {
            // A full queue means that the keeper has been told already.
            let _ = keeper.try_send(Arc::clone(&self.relation));
        }
    }

    /// Starts to tell of alerts, where it replaces `old` of what is different from before.
    pub(super) fn go_live(&mut self, old: Option<&mut Running>, tick: Tick) -> Vec<Transition> {
        let old = old.and_then(Running::retire);
        let (Some(alerts), Some(rows)) = (&mut self.alerts, self.held_back.take()) else {
            return old.map_or_else(Vec::new, |mut old| old.clear(tick));
        };
        let nothing = Standing::new();
        alerts.apply(tick, &rows);
        alerts.goes_on_from(old.as_ref().map_or(&nothing, AlertState::all_standing), tick)
    }

    /// Tells no more of alerts: what workers still answer for it, whoever takes its place has told of.
    pub(super) fn retire(&mut self) -> Option<AlertState> {
        self.alerts.take()
    }
}

/// What the workers have said of one dataflow at one tick.
#[derive(Default)]
pub(super) struct Answer {
    missing: usize,
    rows: Vec<Updates>,
    errors: Vec<Updates>,
    /// Which of the view's rows are in files from this tick on, where that has changed.
    stored: Option<StoredRows>,
}

impl Answer {
    /// Says which of the view's rows are in files from this tick on.
    pub(super) fn with_stored(mut self, stored: Option<StoredRows>) -> Self {
        self.stored = stored;
        self
    }
}

impl Answer {
    /// Returns what came and went.
    pub(super) fn rows(&self) -> &[Updates] {
        &self.rows
    }
}

/// What is still to be answered at one tick.
pub(super) struct Answers {
    pub(super) started: Instant,
    flows: HashMap<FlowId, Answer>,
}

impl Answers {
    /// Expects an answer from every worker for every dataflow.
    pub(super) fn of(flows: &[FlowId], workers: usize) -> Self {
        let answer = || Answer {
            missing: workers,
            ..Answer::default()
        };
        Answers {
            started: Instant::now(),
            flows: flows.iter().map(|&flow| (flow, answer())).collect(),
        }
    }

    /// Takes one worker's answer; returns all of them once nobody's is missing.
    pub(super) fn take(&mut self, completed: Completed) -> Option<Answer> {
        let answer = self.flows.get_mut(&completed.flow)?;
        answer
            .rows
            .extend(completed.rows.into_iter().filter(|rows| !rows.is_empty()));
        answer.errors.extend(completed.errors);
        answer.missing -= 1;
        if answer.missing > 0 {
            return None;
        }
        self.flows.remove(&completed.flow)
    }

    /// Returns how many answers are missing.
    #[cfg(test)]
    pub(super) fn missing(&self) -> usize {
        self.flows.values().map(|answer| answer.missing).sum()
    }

    pub(super) fn concerns(&self, flow: FlowId) -> bool {
        self.flows.contains_key(&flow)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }
}
