//! The worker threads: commands in by one door, the same for every worker; completed ticks out by the other.

mod outbox;
mod server;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::thread::Thread;

use arrow::array::RecordBatch;
use crossbeam_channel::{Sender, bounded, unbounded};
use timely::WorkerConfig;
use timely::communication::WorkerGuards;
use timely::worker::Worker;

use crate::operators::OperatorStats;
use crate::plan::Plan;
use crate::update::{Tick, Updates};
use server::Server;

pub use crate::operators::{Closed, Passed};
pub use crate::render::check;

/// The number of a dataflow, larger than that of every dataflow installed before.
pub type FlowId = usize;

/// A view, or a part that several views share, to be kept current.
#[derive(Clone, Debug)]
pub struct FlowSpec {
    /// Its number.
    pub id: FlowId,
    /// The name by which dataflows installed later read it. A later one of the same name takes it over.
    pub view: String,
    /// Its plan; every relation it reads is a source or a view installed before.
    pub plan: Plan,
    /// Whether only other dataflows read it: its answers are empty but for failing rows.
    pub is_part: bool,
}

impl FlowSpec {
    /// A view whose answers are told.
    pub fn new(id: FlowId, view: impl Into<String>, plan: Plan) -> Self {
        FlowSpec {
            id,
            view: view.into(),
            plan,
            is_part: false,
        }
    }
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
    /// What the rows of later ticks are not below, in joins by time of dataflows it concerns.
    pub passed: Vec<(FlowId, Arc<[Passed]>)>,
    /// Rows of closed buckets that dataflows hold from now on, as if they had closed them.
    pub seeds: Vec<Seed>,
    /// Set while these dataflows are filled with what stood before they were installed: `inputs`
    /// is part of what their relations held at this tick, and for them alone. Of what came
    /// meanwhile, only what is later counts.
    pub fill: Option<Tick>,
}

/// Rows of closed buckets that a dataflow takes in again.
#[derive(Clone, Debug)]
pub struct Seed {
    /// The dataflow.
    pub flow: FlowId,
    /// The rows.
    pub rows: RecordBatch,
    /// Whether they are told: where they are not, the view shows them already.
    pub told: bool,
}

impl TickInput {
    /// A tick of dataflows that run.
    pub fn new(tick: Tick, inputs: Vec<(Arc<str>, Updates)>, flows: Vec<FlowId>) -> Self {
        TickInput {
            tick,
            inputs,
            flows,
            closed: Vec::new(),
            passed: Vec::new(),
            seeds: Vec::new(),
            fill: None,
        }
    }
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
    Remove(FlowId),
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
                // Timely steps what is installed until it is done, which it would never be.
                let end = || drop_all(worker);
                let _ = std::panic::catch_unwind(AssertUnwindSafe(end));
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

    /// Adds a dataflow on every worker.
    pub fn install(&self, flow: &Arc<FlowSpec>) {
        self.send(|| Command::Install(Arc::clone(flow)));
    }

    /// Takes a dataflow away, whose ticks are all completed. Nothing may read it any more.
    pub fn remove(&self, flow: FlowId) {
        self.send(|| Command::Remove(flow));
    }

    /// Hands a tick to every worker. Each dataflow it concerns answers once from each.
    pub fn tick(&self, input: TickInput) {
        let input = Arc::new(input);
        self.send(|| Command::Tick(Arc::clone(&input)));
    }

    /// Returns what each operator of each dataflow, by number, did and holds, added up over workers.
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
        let guards = self.guards.lock().map(|mut guards| guards.take());
        if let Ok(Some(guards)) = guards {
            // A worker that died has said so.
            let _ = guards.join();
        }
    }
}

/// Ends all that runs on a worker, done or not.
fn drop_all(worker: &mut Worker) {
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}
