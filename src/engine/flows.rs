//! What the coordinator knows of each running dataflow, and what the workers answer for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use dataflows::workers::{Completed, FlowId};
use dataflows::{Tick, Updates};

use super::alerts::AlertState;
use super::keys::KeyCounts;
use super::shared::{RelationEntry, Shared};
use super::store::Run;

/// One running dataflow.
pub(super) struct Running {
    pub(super) relation: Arc<RelationEntry>,
    alerts: Option<AlertState>,
    keys: Option<KeyCounts>,
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
            due: Vec::new(),
            held_back: None,
        }
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

    /// Publishes what a tick changed: to alerts, to the check of its key, to the store.
    pub(super) fn publish(&mut self, tick: Tick, answer: Answer, shared: &Shared, keeper: &Sender<Arc<RelationEntry>>) {
        match (&mut self.alerts, &mut self.held_back) {
            (Some(_), Some(held_back)) => held_back.extend(answer.rows.iter().cloned()),
            (Some(alerts), None) => {
                let transitions = alerts.apply(tick, &answer.rows);
                shared.transitions(&self.relation, transitions, alerts.standing());
            }
            (None, _) => {}
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
        if self.relation.store.complete(Run::new(tick, answer.rows, Vec::new())) || crowded {
            // A full queue means that the keeper has been told already.
            let _ = keeper.try_send(Arc::clone(&self.relation));
        }
    }

    /// Starts to tell of alerts, where it replaces `old` of what is different from before.
    pub(super) fn go_live(&mut self, old: Option<&Running>, tick: Tick, shared: &Shared) {
        if let (Some(alerts), Some(rows)) = (&mut self.alerts, self.held_back.take()) {
            let transitions = alerts.replace(old.and_then(|old| old.alerts.as_ref()), tick, &rows);
            shared.transitions(&self.relation, transitions, alerts.standing());
        }
    }

    /// Clears every alert that stands: there will be no more of this name.
    pub(super) fn clear(&mut self, tick: Tick, shared: &Shared) {
        if let Some(alerts) = &mut self.alerts {
            let transitions = alerts.clear(tick);
            shared.transitions(&self.relation, transitions, 0);
        }
    }
}

/// What the workers have said of one dataflow at one tick.
#[derive(Default)]
pub(super) struct Answer {
    missing: usize,
    rows: Vec<Updates>,
    errors: Vec<Updates>,
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

    pub(super) fn concerns(&self, flow: FlowId) -> bool {
        self.flows.contains_key(&flow)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }
}
