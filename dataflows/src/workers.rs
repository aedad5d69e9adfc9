//! The worker threads: commands in by one door, the same for every worker; completed ticks out by the other.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use timely::WorkerConfig;
use timely::communication::WorkerGuards;
use timely::scheduling::Activator;
use timely::worker::Worker;

use crate::faults::{self, Fault};
use crate::operators::ticked::{Route, TickOperator, ticked};
pub use crate::operators::{Closed, Passed};
use crate::operators::{OperatorStats, Shared, SharedCell};
use crate::parts::Part;
use crate::plan::Plan;
use crate::relations::{Inlet, OutletCell, import};
use crate::render::render;
use crate::update::{Tick, Updates};

pub use crate::render::check;

/// The position of a view's dataflow in the order of installation.
pub type FlowId = usize;

/// A view to be kept current.
#[derive(Clone, Debug)]
pub struct FlowSpec {
    /// The view's name, by which later dataflows read it.
    pub view: String,
    /// Its plan; every relation it reads is a source or a view installed before.
    pub plan: Plan,
}

/// Everything that happens at one tick.
#[derive(Clone, Debug)]
pub struct TickInput {
    /// The tick; larger than every tick before.
    pub tick: Tick,
    /// The changes of each source that changed.
    pub inputs: Vec<(Arc<str>, Updates)>,
    /// The dataflows it concerns, ascending: each that a changed source can
    /// reach, each with a timer due, and all that these can reach.
    pub flows: Vec<FlowId>,
    /// How far dataflows are closed from now on; those it says nothing of stay where they were.
    pub closed: Vec<(FlowId, Closed)>,
    /// What the rows to come of joins by time are not below, of dataflows it concerns.
    pub passed: Vec<(FlowId, Arc<[Passed]>)>,
}

/// What a worker says.
#[derive(Clone, Debug)]
pub enum Response {
    /// Dataflows have completed ticks on this worker, in this order.
    Completed(Vec<Completed>),
    /// The worker has died and took the others with it.
    Died {
        /// Its index.
        worker: usize,
        /// What it died of.
        reason: String,
    },
}

/// A worker's share of one view's changes at one tick.
#[derive(Clone, Debug)]
pub struct Completed {
    /// The worker's index.
    pub worker: usize,
    /// The dataflow.
    pub flow: FlowId,
    /// The tick.
    pub tick: Tick,
    /// The changes of the view.
    pub rows: Vec<Updates>,
    /// The changes of its error rows; see [`error_schema`](crate::error_schema).
    pub errors: Vec<Updates>,
    /// The first tick at which one of its timers is due.
    pub due: Option<Tick>,
}

/// The running workers. Dropping them stops the threads and waits for them.
pub struct Workers {
    doors: Vec<(Sender<Command>, Thread)>,
    /// Taken on drop.
    guards: Mutex<Option<WorkerGuards<()>>>,
}

enum Command {
    Install(Arc<FlowSpec>),
    Tick(Arc<TickInput>),
    Stats(Sender<(usize, Vec<Vec<OperatorStats>>)>),
}

impl Workers {
    /// Starts `count` worker threads that say what they complete to `responses`.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn start(count: usize, responses: Sender<Response>) -> Result<Workers, String> {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| unbounded::<Command>()).unzip();
        let receivers = Mutex::new(receivers.into_iter().map(Some).collect::<Vec<_>>());
        let (threads_in, threads) = unbounded();
        // With one worker no allocator for several is needed.
        let communication = match count {
            1 => timely::CommunicationConfig::Thread,
            _ => timely::CommunicationConfig::Process(count),
        };
        let config = timely::Config {
            communication,
            worker: WorkerConfig::default(),
        };
        let guards = timely::execute(config, move |worker| {
            let index = worker.index();
            let commands = receivers.lock().expect("taken once each")[index]
                .take()
                .expect("one door a worker");
            // The starter waits for every thread, so that it can wake them.
            let _ = threads_in.send((index, std::thread::current()));
            let run = || Server::new(index, responses.clone()).run(worker, &commands);
            if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(run)) {
                let reason = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("an unknown panic");
                let _ = responses.send(Response::Died {
                    worker: index,
                    reason: reason.to_owned(),
                });
            }
        })?;
        let mut handles: Vec<(usize, Thread)> = threads.iter().take(count).collect();
        handles.sort_by_key(|(index, _)| *index);
        let doors = senders
            .into_iter()
            .zip(handles)
            .map(|(sender, (_, thread))| (sender, thread))
            .collect();
        Ok(Workers {
            doors,
            guards: Mutex::new(Some(guards)),
        })
    }

    /// Returns how many workers there are.
    pub fn count(&self) -> usize {
        self.doors.len()
    }

    /// Adds a dataflow on every worker; its id is the number of those added before.
    pub fn install(&self, flow: &Arc<FlowSpec>) {
        self.send(|| Command::Install(Arc::clone(flow)));
    }

    /// Hands a tick to every worker. Each dataflow it concerns answers once from each.
    pub fn tick(&self, input: TickInput) {
        let input = Arc::new(input);
        self.send(|| Command::Tick(Arc::clone(&input)));
    }

    /// Returns what each operator of each dataflow did and holds, added up over workers.
    pub fn stats(&self) -> Vec<Vec<OperatorStats>> {
        let (sender, receiver) = bounded(self.doors.len());
        self.send(|| Command::Stats(sender.clone()));
        drop(sender);
        let mut total: Vec<Vec<OperatorStats>> = Vec::new();
        for (_, flows) in receiver {
            total.resize_with(total.len().max(flows.len()), Vec::new);
            for (total, flow) in total.iter_mut().zip(flows) {
                if total.is_empty() {
                    *total = flow;
                    continue;
                }
                for (total, operator) in total.iter_mut().zip(flow) {
                    total.rows_in += operator.rows_in;
                    total.rows_out += operator.rows_out;
                    total.state_rows += operator.state_rows;
                    total.state_bytes += operator.state_bytes;
                }
            }
        }
        total
    }

    /// Returns how many updates the operators of each worker have read.
    pub fn rows_by_worker(&self) -> Vec<u64> {
        let (sender, receiver) = bounded(self.doors.len());
        self.send(|| Command::Stats(sender.clone()));
        drop(sender);
        let mut rows = vec![0; self.doors.len()];
        for (worker, flows) in receiver {
            rows[worker] = flows.iter().flatten().map(|operator| operator.rows_in).sum();
        }
        rows
    }

    fn send(&self, command: impl Fn() -> Command) {
        for (door, thread) in &self.doors {
            // A worker that died has said so by the other door.
            let _ = door.send(command());
            thread.unpark();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (door, thread) in std::mem::take(&mut self.doors) {
            drop(door);
            thread.unpark();
        }
        // Dropping the guards waits for the threads.
        drop(self.guards.lock().map(|mut guards| guards.take()));
    }
}

/// One worker's side.
struct Server {
    index: usize,
    outbox: Rc<Outbox>,
    flows: Vec<Flow>,
    by_view: HashMap<String, FlowId>,
    sources: HashMap<String, OutletCell>,
}

struct Flow {
    shared: SharedCell,
    outlet: OutletCell,
    inlets: Vec<Rc<Inlet>>,
}

impl Server {
    fn new(index: usize, responses: Sender<Response>) -> Self {
        Server {
            index,
            outbox: Rc::new(Outbox::new(responses)),
            flows: Vec::new(),
            by_view: HashMap::new(),
            sources: HashMap::new(),
        }
    }

    fn run(&mut self, worker: &mut Worker, commands: &Receiver<Command>) {
        loop {
            loop {
                match commands.try_recv() {
                    Ok(Command::Install(flow)) => self.install(worker, &flow),
                    Ok(Command::Tick(input)) => self.tick(&input, worker.peers()),
                    Ok(Command::Stats(reply)) => {
                        let stats = self
                            .flows
                            .iter()
                            .map(|flow| flow.shared.borrow().stats.clone())
                            .collect();
                        let _ = reply.send((self.index, stats));
                    }
                    Err(crossbeam_channel::TryRecvError::Empty) => break,
                    Err(crossbeam_channel::TryRecvError::Disconnected) => {
                        for dataflow in worker.installed_dataflows() {
                            worker.drop_dataflow(dataflow);
                        }
                        return;
                    }
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
        let flow = self.flows.len();
        worker.dataflow_named::<Tick, _, _>(&spec.view, |scope| {
            let rows = render(scope, &spec.plan, &shared, |relation| {
                let inlet = match self.by_view.get(relation) {
                    Some(&writer) => {
                        let writer = &self.flows[writer];
                        writer.outlet.borrow_mut().subscribe(&shared, Some(&writer.shared))
                    }
                    None => {
                        let source = self.sources.entry(relation.to_owned()).or_default();
                        source.borrow_mut().subscribe(&shared, None)
                    }
                };
                inlets.push(Rc::clone(&inlet));
                import(scope, relation, &inlet)
            })
            .expect("the plan was checked before it was sent");
            let terminal = Terminal {
                flow,
                worker: self.index,
                shared: Rc::clone(&shared),
                outlet: Rc::clone(&outlet),
                outbox: Rc::clone(&self.outbox),
                initial: Vec::new(),
            };
            ticked(
                scope,
                "view",
                vec![(rows, Route::Here)],
                &shared,
                true,
                Box::new(terminal),
            );
        });
        self.by_view.insert(spec.view.clone(), flow);
        self.flows.push(Flow { shared, outlet, inlets });
    }

    fn tick(&mut self, input: &TickInput, peers: usize) {
        for (flow, closed) in &input.closed {
            let mut shared = self.flows[*flow].shared.borrow_mut();
            shared.closed.push_back((input.tick, *closed));
        }
        for (flow, passed) in &input.passed {
            let mut shared = self.flows[*flow].shared.borrow_mut();
            shared.passed.push_back((input.tick, Arc::clone(passed)));
        }
        for &flow in &input.flows {
            let mut shared = self.flows[flow].shared.borrow_mut();
            shared.ticks.push_back(input.tick);
            shared.latest = input.tick;
        }
        for (source, updates) in &input.inputs {
            if let Some(outlet) = self.sources.get(&**source)
                && let Some(share) = share(updates, self.index, peers, input.tick)
            {
                outlet.borrow().publish(input.tick, &[Part::whole(share)]);
            }
        }
        for &flow in &input.flows {
            let flow = &self.flows[flow];
            flow.inlets.iter().for_each(|inlet| inlet.refresh());
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

/// Answers held back this long are sent although more may follow.
const HELD_BACK_MAX: Duration = Duration::from_micros(200);

/// Collects what dataflows complete while there is more to do: to wake the coordinator costs
/// more than many a tick of a small view. One operator that takes longer than
/// that holds answers back until it is done.
struct Outbox {
    responses: Sender<Response>,
    waiting: RefCell<(Vec<Completed>, Option<Instant>)>,
}

impl Outbox {
    fn new(responses: Sender<Response>) -> Self {
        Outbox {
            responses,
            waiting: RefCell::default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.waiting.borrow().0.is_empty()
    }

    fn is_due(&self) -> bool {
        let since = self.waiting.borrow().1;
        since.is_some_and(|since| since.elapsed() > HELD_BACK_MAX)
    }

    fn push(&self, completed: Completed) {
        {
            let (waiting, since) = &mut *self.waiting.borrow_mut();
            waiting.push(completed);
            since.get_or_insert_with(Instant::now);
        }
        if self.is_due() {
            self.send();
        }
    }

    fn send(&self) {
        let (waiting, _) = self.waiting.take();
        if !waiting.is_empty() {
            // The engine may be gone already; then nobody waits for these ticks.
            let _ = self.responses.send(Response::Completed(waiting));
        }
    }
}

/// The end of a dataflow: says what each tick changed, to the store and to the dataflows that read the view.
struct Terminal {
    flow: FlowId,
    worker: usize,
    shared: Rc<RefCell<Shared>>,
    outlet: OutletCell,
    outbox: Rc<Outbox>,
    /// What was there before the first tick, told with it.
    initial: Vec<Part>,
}

impl TickOperator for Terminal {
    fn apply(&mut self, tick: Tick, inputs: &mut [Vec<Part>]) -> Vec<Part> {
        let mut parts = std::mem::take(&mut inputs[0]);
        if tick == 0 {
            self.initial.append(&mut parts);
            return Vec::new();
        }
        parts.splice(0..0, self.initial.drain(..));
        self.outlet.borrow().publish(tick, &parts);
        let (errors, due) = {
            let mut shared = self.shared.borrow_mut();
            while shared.ticks.front().is_some_and(|oldest| *oldest <= tick) {
                shared.ticks.pop_front();
            }
            shared.forget_closed(tick);
            let later = shared.errors.split_off(&(tick + 1));
            let errors = std::mem::replace(&mut shared.errors, later);
            let due = shared.due.iter().flatten().min().copied();
            (errors.into_values().flatten().collect(), due)
        };
        self.outlet.borrow().refresh();
        self.outbox.push(Completed {
            worker: self.worker,
            flow: self.flow,
            tick,
            rows: parts.into_iter().map(Part::into_updates).collect(),
            errors,
            due,
        });
        Vec::new()
    }

    fn reads_early(&self) -> bool {
        faults::active(Fault::EarlyTick)
    }

    fn state_rows(&self) -> usize {
        0
    }

    fn state_bytes(&self) -> usize {
        0
    }
}
