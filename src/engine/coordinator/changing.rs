//! Dataflows on their way in and out, while the others run.

use std::collections::BTreeMap;
use std::sync::Arc;

use connectors::Position;
use dataflows::workers::FlowId;

use super::super::closing::{self, Closings};
use super::super::filling::{ChangeRequest, Fill, Filling};
use super::super::flows::Running;
use super::super::plants::{Plant, is_planted};
use super::super::wiring::NewFlow;
use super::Coordinator;

impl Coordinator {
    pub(in crate::engine) fn change(&mut self, request: ChangeRequest) {
        match request {
            ChangeRequest::Install { flows, reply } => {
                self.install(&flows);
                self.filling = Some(Filling::new(flows));
                let _ = reply.send((self.clock.last(), self.closings.by_name()));
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
            ChangeRequest::Compare { reply } => {
                let comparable = self.closings.comparable(&self.topology, &self.sources);
                // Whoever asked may have gone away.
                let _ = reply.send((self.clock.last(), comparable));
            }
        }
    }

    fn install(&self, flows: &[NewFlow]) {
        for flow in flows {
            self.workers.install(&flow.entry.spec);
        }
    }

    /// Hands new dataflows what comes next; once they stand where the others do, they are of them.
    pub(super) fn fill(&mut self) {
        let Some(filling) = &mut self.filling else { return };
        if let Some(input) = filling.next(self.workers.count()) {
            self.workers.tick(input);
        }
        // What is not seen yet of the others is not to be seen of these first.
        if (self.pending.is_empty() || is_planted(Plant::NewcomersAhead))
            && self.in_files.is_empty()
            && filling.is_done()
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
            let mut old = old.and_then(|old| gone.remove_entry(&old));
            if let (Some((_, old)), Some(rows)) = (&old, self.closings.rows_in_files(name)) {
                new.relation.store.take_over(&old.relation.store);
                new.relation.store.let_go(&rows);
            }
            let transitions = new.go_live(old.as_mut().map(|(_, old)| old), tick);
            // After a start it is told later, by what was told before.
            if !self.told.is_behind(&new.relation.relation.name) {
                self.tell_transitions(tick, Some(Arc::clone(&new.relation)), transitions, new.standing());
            }
            self.leaving.extend(old);
            self.flows.insert(flow, new);
        }
        for running in gone.values_mut() {
            let transitions = running.retire().map_or_else(Vec::new, |mut alerts| alerts.clear(tick));
            self.tell_transitions(tick, Some(Arc::clone(&running.relation)), transitions, 0);
        }
        self.leaving.append(&mut gone);
        for source in &fill.topology.sources[self.sources.len()..] {
            source.relation.cut(tick, false);
        }
        self.sources.extend(fill.sources);
        self.positions.resize(self.sources.len(), Position::new());
        self.topology = fill.topology;
        self.shared.set_topology(Arc::clone(&self.topology));
        self.answer_change(fill.reply, tick);
        self.shared.bump();
    }

    /// Takes dataflows away whose last tick is answered.
    pub(super) fn let_go(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let is_awaited = |flow: &FlowId| {
            let answers = self.in_flight.values().any(|answers| answers.concerns(*flow));
            answers || self.untold.iter().any(|(_, untold)| untold.is_of(*flow))
        };
        let done: Vec<FlowId> = self.leaving.keys().copied().filter(|flow| !is_awaited(flow)).collect();
        for flow in done {
            self.leaving.remove(&flow);
            self.workers.remove(flow);
        }
    }
}
