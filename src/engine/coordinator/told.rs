//! What was told of ticks that are computed again after a start, and how alerts go on from there.
//!
//! An alert, or what it reads, may be another than the one that ran when it was told: it was changed while the
//! program ran, or while it did not. So of what was told no more is taken for granted than what stands by it. Ticks
//! up to the last that was told of are passed over, and from then on is told what differs; where nothing was
//! changed, that is what each tick comes to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use dataflows::Tick;
use dataflows::workers::FlowId;

use super::super::alerts::{Standing, cleared};
use super::super::flows::Answer;
use super::super::plants::{Plant, is_planted};
use super::{Coordinator, Told};
use crate::log::Transition;

/// What was told before a crash, while its ticks are computed again.
#[derive(Default)]
pub(super) struct AlreadyTold {
    alerts: HashMap<Arc<str>, Last>,
    sinks: HashSet<(Tick, Arc<str>)>,
}

/// How an alert was left.
#[derive(Default)]
struct Last {
    /// Nothing is told of ticks up to this one.
    tick: Tick,
    priority: Arc<str>,
    standing: Standing,
}

/// What was told of an alert at a tick, and is not to be told again.
enum Known {
    Nothing,
    Everything,
    /// What stood before it.
    Standing(Standing),
}

impl AlreadyTold {
    /// Takes note of an alert whose rows are computed anew, as of a tick.
    pub(super) fn knows(&mut self, alert: &str, tick: Tick) {
        let last = self.alerts.entry(alert.into()).or_default();
        last.tick = last.tick.max(tick);
    }

    /// Takes note of what stood when a checkpoint was taken.
    pub(super) fn stood(&mut self, tick: Tick, standing: Transition) {
        self.transition(Transition { tick, ..standing });
    }

    /// Takes note of what was told.
    pub(super) fn note(&mut self, told: &Told) {
        told.transitions.iter().cloned().for_each(|told| self.transition(told));
        let sinks = told.outgoing.iter().map(|out| (told.tick, Arc::clone(&out.sink)));
        self.sinks.extend(sinks);
    }

    fn transition(&mut self, told: Transition) {
        let last = self.alerts.entry(told.alert).or_default();
        last.tick = last.tick.max(told.tick);
        last.priority = told.priority;
        match &*told.transition {
            "cleared" => last.standing.remove(&told.key),
            _ => last.standing.insert(told.key, (told.raised, told.row)),
        };
    }

    fn of(&mut self, alert: &str, tick: Tick) -> Known {
        match self.alerts.get(alert) {
            None => Known::Nothing,
            Some(last) if tick <= last.tick => Known::Everything,
            Some(_) if is_planted(Plant::AlertsTakenForTheSame) => Known::Nothing,
            Some(_) => {
                let last = self.alerts.remove(alert);
                Known::Standing(last.map(|last| last.standing).unwrap_or_default())
            }
        }
    }

    /// Returns the sinks that were told anything.
    pub(super) fn sinks(&self) -> impl Iterator<Item = &str> {
        self.sinks.iter().map(|(_, sink)| &**sink)
    }

    /// Tells whether an alert is still computed anew.
    pub(super) fn is_behind(&self, alert: &str) -> bool {
        self.alerts.contains_key(alert)
    }

    /// Takes out of `told` what sinks were told before.
    pub(super) fn remove(&self, told: &mut Told) {
        let tick = told.tick;
        told.outgoing
            .retain(|out| !self.sinks.contains(&(tick, Arc::clone(&out.sink))));
    }
}

impl Coordinator {
    /// Takes what a tick changed to the alerts that stand; returns what is to be told of them.
    pub(super) fn transitions(&mut self, flow: FlowId, tick: Tick, answer: &Answer) -> Vec<Transition> {
        let Some(running) = self.flows.get_mut(&flow).or_else(|| self.leaving.get_mut(&flow)) else {
            return Vec::new();
        };
        let transitions = running.transitions(tick, answer);
        match self.told.of(&running.relation.relation.name, tick) {
            Known::Nothing => transitions,
            Known::Everything => Vec::new(),
            Known::Standing(standing) => running.goes_on_from(&standing, tick),
        }
    }

    /// Ends the time in which ticks are computed again: what of alerts stands by what was told, and is not so, is
    /// told now; of those that are declared no more, that they are cleared.
    pub(super) fn tell_what_differs(&mut self) {
        let tick = self.clock.last();
        let told = std::mem::take(&mut self.told);
        let mut alerts: Vec<(Arc<str>, Last)> = told.alerts.into_iter().collect();
        alerts.retain(|_| !is_planted(Plant::AlertsTakenForTheSame));
        alerts.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (alert, last) in alerts {
            let running = self.flows.values_mut();
            let mut running = running.filter(|running| running.is_alert());
            match running.find(|running| *running.relation.relation.name == *alert) {
                Some(running) => {
                    let transitions = running.goes_on_from(&last.standing, tick);
                    let (relation, standing) = (Arc::clone(&running.relation), running.standing());
                    self.tell_transitions(tick, Some(relation), transitions, standing);
                }
                None => {
                    let transitions = cleared(&alert, &last.priority, tick, &last.standing);
                    self.tell_transitions(tick, None, transitions, 0);
                }
            }
        }
    }
}
