//! What waits for the log: ticks that nobody may see yet, and what is to be told of ticks that are seen.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use dataflows::Tick;
use dataflows::workers::FlowId;
use tokio::sync::oneshot;

use super::super::flows::Answer;
use super::super::plants::{Plant, is_planted};
use super::super::shared::RelationEntry;
use super::super::source::Outgoing;
use super::super::store::Run;
use super::{Coordinator, Record, Taken, Told};
use crate::log::Transition;

/// A tick that the workers have, and the log may not.
pub(super) struct Pending {
    /// Its record's number.
    pub(super) number: u64,
    pub(super) tick: Tick,
    /// Rows that came or went.
    pub(super) rows: usize,
    /// The dataflows it concerns, ascending.
    pub(super) flows: Vec<FlowId>,
    /// What it changed in sources.
    pub(super) runs: Vec<(usize, Run)>,
    /// The clock and the watermark of each source.
    pub(super) clocks: Vec<(Option<i64>, Option<i64>)>,
    pub(super) letters: Outgoing,
    pub(super) taken: Vec<Taken>,
    pub(super) advanced: Vec<oneshot::Sender<Tick>>,
    pub(super) arrived: Instant,
    /// What workers have answered meanwhile.
    pub(super) answers: Vec<(FlowId, Answer)>,
}

/// What is told once its record can be lost no more.
pub(super) enum Untold {
    /// What happened to alerts, and how many stand then.
    Transitions(Option<Arc<RelationEntry>>, Vec<Transition>, usize),
    /// What a tick changed in a view.
    Answer(FlowId, Tick, Answer),
    /// There is something for a sink.
    Outgoing(Arc<str>),
    /// A change of what runs has taken effect at a tick.
    Changed(oneshot::Sender<Tick>, Tick),
}

impl Untold {
    pub(super) fn is_of(&self, flow: FlowId) -> bool {
        matches!(self, Untold::Answer(of, ..) if *of == flow)
    }
}

impl Coordinator {
    /// Lets everyone see what can be lost no more.
    pub(super) fn reveal(&mut self) {
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.number <= self.durable) {
            self.show(pending);
        }
        self.reveal_told();
    }

    /// Lets everyone see a tick, and answers those whose rows it holds.
    fn show(&mut self, pending: Pending) {
        let tick = pending.tick;
        self.pending_rows -= pending.rows;
        self.shared.letters(pending.letters);
        for (source, (clock, watermark)) in self.topology.sources.iter().zip(pending.clocks) {
            source.observe(clock, watermark);
        }
        // Every relation learns of the tick before anyone hears it was acknowledged.
        for (position, source) in self.topology.sources.iter().enumerate() {
            // Nobody may read of the tick before its rows are there.
            let changes = pending.runs.iter().any(|(changed, _)| *changed == position);
            source.relation.cut(tick, changes);
        }
        for (flow, running) in &self.flows {
            running.relation.cut(tick, pending.flows.binary_search(flow).is_ok());
        }
        for (source, run) in pending.runs {
            let relation = &self.topology.sources[source].relation;
            if let Some(witness) = &self.witness {
                witness.changed(relation, tick, &run.updates);
            }
            if relation.store.complete(run) {
                let _ = self.keeper.try_send(Arc::clone(relation));
            }
        }
        self.shared.arrived(tick, pending.arrived);
        self.shared.acknowledged.store(tick, Ordering::SeqCst);
        for Taken {
            source,
            counts,
            answer,
            reply,
        } in pending.taken
        {
            self.topology.sources[source].count(&counts);
            if let Some(reply) = reply {
                // Whoever asked may have gone away; the rows are in all the same.
                let _ = reply.send(answer);
            }
        }
        for reply in pending.advanced {
            let _ = reply.send(tick);
        }
        for (flow, answer) in pending.answers {
            self.publish(flow, tick, answer);
        }
        self.shared.bump();
    }

    /// Publishes what a tick that is seen changed in a view, once what it tells of alerts and to sinks is written.
    pub(super) fn publish(&mut self, flow: FlowId, tick: Tick, answer: Answer) {
        let answer = answer.with_stored(self.in_files.remove(&(flow, tick)));
        let transitions = self.transitions(flow, tick, &answer);
        let Some(running) = self.flows.get(&flow).or_else(|| self.leaving.get(&flow)) else {
            return;
        };
        let mut told = Told {
            tick,
            transitions,
            outgoing: running.outgoing(&answer),
        };
        let relation = Arc::clone(&running.relation);
        let standing = running.standing();
        let waits = self
            .untold
            .iter()
            .rev()
            .find(|(_, untold)| untold.is_of(flow))
            .map(|(number, _)| *number);
        // What was told before a crash is known already.
        self.told.remove(&mut told);
        if told.transitions.is_empty() && told.outgoing.is_empty() {
            relation.standing.store(standing as u64, Ordering::Relaxed);
            return match waits {
                Some(number) => self.untold.push_back((number, Untold::Answer(flow, tick, answer))),
                None => self.tell(Untold::Answer(flow, tick, answer)),
            };
        }
        let sinks: Vec<Arc<str>> = told
            .outgoing
            .iter()
            .map(|outgoing| Arc::clone(&outgoing.sink))
            .collect();
        sinks.iter().for_each(|sink| self.shared.sinks.add(sink));
        let transitions = told.transitions.clone();
        let number = match (self.append_told(told), is_planted(Plant::AlertsToldUnwritten)) {
            (_, true) => self.durable,
            (number, false) => number,
        };
        let mut untold = vec![
            Untold::Transitions(Some(relation), transitions, standing),
            Untold::Answer(flow, tick, answer),
        ];
        untold.extend(sinks.into_iter().map(Untold::Outgoing));
        self.untold.extend(untold.into_iter().map(|untold| (number, untold)));
        self.reveal_told();
    }

    /// Tells of alerts once it is written that it is told.
    pub(super) fn tell_transitions(
        &mut self,
        tick: Tick,
        relation: Option<Arc<RelationEntry>>,
        transitions: Vec<Transition>,
        standing: usize,
    ) {
        let number = match transitions.is_empty() {
            true => self.untold.back().map_or(self.durable, |(number, _)| *number),
            false => self.append_told(Told {
                tick,
                transitions: transitions.clone(),
                outgoing: Vec::new(),
            }),
        };
        self.untold
            .push_back((number, Untold::Transitions(relation, transitions, standing)));
        self.reveal_told();
    }

    /// Answers who asked for a change, once all that it tells of alerts is told.
    pub(super) fn answer_change(&mut self, reply: oneshot::Sender<Tick>, tick: Tick) {
        let number = self.untold.back().map_or(self.durable, |(number, _)| *number);
        self.untold.push_back((number, Untold::Changed(reply, tick)));
        self.reveal_told();
    }

    pub(super) fn append_told(&mut self, told: Told) -> u64 {
        match &mut self.log {
            Some(log) => log.append(Record::Told(told)),
            None => self.durable,
        }
    }

    fn reveal_told(&mut self) {
        let mut is_told = false;
        while let Some((_, untold)) = self.untold.pop_front_if(|(number, _)| *number <= self.durable) {
            self.tell(untold);
            is_told = true;
        }
        if is_told {
            // Whoever reads a view with a sink or an alert may wait for just this.
            self.shared.bump();
        }
    }

    fn tell(&mut self, untold: Untold) {
        match untold {
            Untold::Transitions(relation, transitions, standing) => {
                if let Some(witness) = &self.witness {
                    witness.transitions(&transitions);
                }
                self.shared.transitions(relation.as_deref(), transitions, standing);
            }
            Untold::Answer(flow, tick, answer) => {
                if let Some(running) = self.flows.get_mut(&flow).or_else(|| self.leaving.get_mut(&flow)) {
                    if let Some(witness) = &self.witness {
                        witness.changed(&running.relation, tick, answer.rows());
                    }
                    running.show(tick, answer, &self.keeper);
                }
            }
            Untold::Outgoing(sink) => self.shared.sinks.wake(&sink),
            Untold::Changed(reply, tick) => {
                // Whoever asked may have gone away; the change holds all the same.
                let _ = reply.send(tick);
            }
        }
    }
}
