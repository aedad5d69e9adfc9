//! One worker's side: installs dataflows, hands them their ticks, takes them away.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use timely::scheduling::Activator;
use timely::worker::Worker;

use super::outbox::{Outbox, Terminal};
use super::{Command, FlowId, FlowSpec, Response, TickInput};
use crate::operators::SharedCell;
use crate::operators::ticked::{Route, ticked};
use crate::parts::Part;
use crate::relations::{Inlet, OutletCell, import};
use crate::render::render;
use crate::update::{Tick, Updates};

pub(super) struct Server {
    index: usize,
    outbox: Rc<Outbox>,
    /// By number; those taken away leave a gap.
    flows: Vec<Option<Flow>>,
    /// The dataflow that newcomers read under a name.
    by_view: HashMap<String, FlowId>,
    sources: HashMap<String, OutletCell>,
}

struct Flow {
    shared: SharedCell,
    outlet: OutletCell,
    inlets: Vec<Reading>,
}

/// What a dataflow reads.
struct Reading {
    relation: String,
    /// The dataflow that writes it; none for a source.
    writer: Option<FlowId>,
    inlet: Rc<Inlet>,
}

impl Server {
    pub(super) fn new(index: usize, responses: Sender<Response>) -> Self {
        Server {
            index,
            outbox: Rc::new(Outbox::new(responses)),
            flows: Vec::new(),
            by_view: HashMap::new(),
            sources: HashMap::new(),
        }
    }

    pub(super) fn run(&mut self, worker: &mut Worker, commands: &Receiver<Command>) {
        loop {
            loop {
                match commands.try_recv() {
                    Ok(Command::Install(flow)) => self.install(worker, &flow),
                    Ok(Command::Remove(flow)) => self.remove(flow),
                    Ok(Command::Tick(input)) => self.tick(&input, worker.peers()),
                    Ok(Command::Stats(reply)) => {
                        let stats = self.flows.iter().map(|flow| match flow {
                            Some(flow) => flow.shared.borrow().stats.clone(),
                            None => Vec::new(),
                        });
                        let _ = reply.send((self.index, stats.collect()));
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return super::drop_all(worker),
                }
            }
            if self.outbox.is_empty() {
                // Returns at once while operators are active; parks until woken otherwise.
                worker.step_or_park(None);
            } else if !self.outbox.is_due() && worker.activations().borrow().empty_for() == Some(Duration::ZERO) {
                worker.step();
            } else {
                self.outbox.send();
            }
        }
    }

    fn install(&mut self, worker: &mut Worker, spec: &FlowSpec) {
        let shared: SharedCell = SharedCell::default();
        let outlet: OutletCell = OutletCell::default();
        let mut inlets = Vec::new();
        worker.dataflow_named::<Tick, _, _>(&spec.view, |scope| {
            let rows = render(scope, &spec.plan, &shared, |relation| {
                let writer = self.by_view.get(relation).copied();
                let inlet = match writer.and_then(|writer| self.flows[writer].as_ref()) {
                    Some(writer) => writer.outlet.borrow_mut().subscribe(&shared, Some(&writer.shared)),
                    None => {
                        let source = self.sources.entry(relation.to_owned()).or_default();
                        source.borrow_mut().subscribe(&shared, None)
                    }
                };
                inlets.push(Reading {
                    relation: relation.to_owned(),
                    writer,
                    inlet: Rc::clone(&inlet),
                });
                import(scope, relation, &inlet)
            })
            .expect("the plan was checked before it was sent");
            let terminal = Terminal::new(spec, self.index, &shared, &outlet, &self.outbox);
            ticked(
                scope,
                "view",
                vec![(rows, Route::Here)],
                &shared,
                true,
                Box::new(terminal),
            );
        });
        self.by_view.insert(spec.view.clone(), spec.id);
        self.flows.resize_with(self.flows.len().max(spec.id + 1), || None);
        self.flows[spec.id] = Some(Flow { shared, outlet, inlets });
    }

    /// Ends a dataflow's inputs; with nothing more to do, it goes by itself, and its state with it.
    fn remove(&mut self, flow: FlowId) {
        let Some(removed) = self.flows.get_mut(flow).and_then(Option::take) else {
            return;
        };
        self.by_view.retain(|_, writer| *writer != flow);
        for reading in &removed.inlets {
            reading.inlet.end();
        }
        let outlets = self.flows.iter().flatten().map(|flow| &flow.outlet);
        for outlet in outlets.chain(self.sources.values()) {
            outlet.borrow_mut().forget_ended();
        }
        let mut shared = removed.shared.borrow_mut();
        shared.ended = true;
        shared.activators.iter().for_each(Activator::activate);
    }

    fn tick(&mut self, input: &TickInput, peers: usize) {
        let flows = || input.flows.iter().filter_map(|&flow| self.flows[flow].as_ref());
        for (flow, closed) in &input.closed {
            if let Some(flow) = &self.flows[*flow] {
                flow.shared.borrow_mut().closed.push_back((input.tick, *closed));
            }
        }
        for (flow, passed) in &input.passed {
            if let Some(flow) = &self.flows[*flow] {
                let passed = (input.tick, Arc::clone(passed));
                flow.shared.borrow_mut().passed.push_back(passed);
            }
        }
        for seed in &input.seeds {
            let share = share(&Updates::inserts(seed.rows.clone()), self.index, peers, input.tick);
            if let (Some(flow), Some(share)) = (&self.flows[seed.flow], share) {
                flow.shared.borrow_mut().seeds.push((input.tick, share, seed.told));
            }
        }
        for flow in flows() {
            let mut shared = flow.shared.borrow_mut();
            shared.ticks.push_back(input.tick);
            shared.latest = input.tick;
        }
        if let Some(through) = input.fill {
            let outside = |reading: &&Reading| reading.writer.is_none_or(|writer| !input.flows.contains(&writer));
            for reading in flows().flat_map(|flow| &flow.inlets).filter(outside) {
                reading.inlet.forget(through);
            }
        }
        for (relation, updates) in &input.inputs {
            let Some(share) = share(updates, self.index, peers, input.tick) else {
                continue;
            };
            let parts = [Part::whole(share)];
            if input.fill.is_some() {
                for reading in flows().flat_map(|flow| &flow.inlets) {
                    if reading.relation == **relation {
                        reading.inlet.fill(input.tick, &parts);
                    }
                }
            } else if let Some(outlet) = self.sources.get(&**relation) {
                outlet.borrow().publish(input.tick, &parts);
            }
        }
        for flow in flows() {
            flow.inlets.iter().for_each(|reading| reading.inlet.refresh());
            if flow.inlets.is_empty() {
                // Without an input no frontier moves: nothing else would tell it of the tick.
                flow.shared.borrow().activators.iter().for_each(Activator::activate);
            }
        }
    }
}

/// Fewer rows than this are not worth dividing among workers.
const SHARED_ROWS_MIN: usize = 512;

/// Returns the rows of a tick that enter the dataflows at this worker.
fn share(updates: &Updates, worker: usize, peers: usize, tick: Tick) -> Option<Updates> {
    let rows = updates.len();
    if peers == 1 {
        return (rows > 0).then(|| updates.clone());
    }
    if rows < SHARED_ROWS_MIN {
        return (rows > 0 && tick % peers as u64 == worker as u64).then(|| updates.clone());
    }
    let (from, to) = (rows * worker / peers, rows * (worker + 1) / peers);
    Some(updates.slice(from, to - from))
}
