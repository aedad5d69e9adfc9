//! One life of a program: from its start to the moment the power goes.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use connectors::Position;
use crossbeam_channel::{Receiver, Sender, bounded, never, unbounded};
use dataflows::Tick;
use dataflows::workers::{Completed, Response, Workers};
use tokio::sync::{Semaphore, watch};

use super::super::clock::TickClock;
use super::super::coordinator::{CLOSES_AFTER, Coordinator, Inbox, Parts, Recovered, Request};
use super::super::feed::Doors;
use super::super::filling::ChangeRequest;
use super::super::shared::Shared;
use super::super::sinks::Sinks;
use super::super::topology::Topology;
use super::super::{ChangeError, Changed, Engine, Inner, WAITING_ROWS_MAX, add_tables, wiring};
use super::deployments::deployment;
use super::disk::Disk;
use crate::config::Clock;

/// A change on its way, as the task that asked for it sees it.
type Changing = Pin<Box<dyn Future<Output = Result<Changed, ChangeError>>>>;

pub(super) struct Life {
    pub(super) coordinator: Coordinator,
    /// What readers ask.
    pub(super) engine: Engine,
    responses: Receiver<Response>,
    /// What workers have answered and the coordinator has not heard.
    completed: Vec<Completed>,
    inbox: Receiver<Request>,
    changes: Receiver<ChangeRequest>,
    changing: Option<(usize, Changing)>,
    _stop: Sender<()>,
    /// Someone who waits for news, and what there was when they were woken last.
    waiter: watch::Receiver<u64>,
    known: Vec<Tick>,
}

impl Life {
    /// Begins with what the storage has; says where readers go on, too.
    pub(super) fn begin(disk: &Disk, clock: &Arc<AtomicU64>, number: usize) -> Result<(Life, Vec<Position>), String> {
        let mut deployment = deployment(number);
        add_tables(&mut deployment).map_err(|error| format!("{error:#}"))?;
        let (responses, answers) = unbounded();
        let workers = Arc::new(Workers::start(1, responses)?);
        let flows = wiring::flows(&deployment.views, &wiring::definitions(&deployment), 0);
        flows.iter().for_each(|flow| workers.install(&flow.entry.spec));
        let next = flows.len();
        let (sources, states): (Vec<_>, Vec<_>) = deployment.sources.iter().map(wiring::source).unzip();
        let entries = flows.iter().map(|flow| Arc::clone(&flow.entry));
        let topology = Topology::new(Arc::new(deployment), sources, entries);
        let shared = Arc::new(Shared::new(Arc::new(topology), Sinks::default(), Arc::default()));
        let (keeper, _folds) = bounded(1);
        let now = Arc::clone(clock);
        let mut coordinator = Coordinator::new(Parts {
            shared: Arc::clone(&shared),
            workers: Arc::clone(&workers),
            sources: states,
            flows: flows
                .into_iter()
                .map(|flow| (flow.entry.spec.id, flow.running))
                .collect(),
            clock: TickClock::by(Clock::Wall, move || now.load(Ordering::Relaxed)),
            log: Some(Box::new(disk.clone())),
            has_history: false,
            keeper,
        });
        let positions = recover(&mut coordinator, disk, &answers)?;
        let (requests, inbox) = unbounded();
        let (changes, changing) = unbounded();
        let (stop, stopped) = bounded(0);
        let doors = Doors {
            requests,
            changes,
            stopped,
        };
        let engine = Engine {
            inner: Arc::new(Inner {
                shared,
                workers,
                doors: Mutex::new(Some(doors)),
                stop: Mutex::new(None),
                threads: Arc::default(),
                waiting: Arc::new(Semaphore::new(WAITING_ROWS_MAX)),
                changing: tokio::sync::Mutex::new(next),
                incarnation: 0,
                kept: None,
                travels: Arc::default(),
                stopped: Arc::default(),
            }),
        };
        let mut waiter = engine.progress();
        waiter.mark_changed();
        let life = Life {
            coordinator,
            engine,
            responses: answers,
            completed: Vec::new(),
            inbox,
            changes: changing,
            changing: None,
            _stop: stop,
            waiter,
            known: Vec::new(),
        };
        Ok((life, positions))
    }

    /// Tells whether what readers see has changed and nobody was woken to see it.
    pub(super) fn keeps_quiet(&mut self) -> bool {
        let shared = &self.engine.inner.shared;
        let topology = shared.topology();
        let relations = topology
            .flows
            .values()
            .map(|flow| flow.relation.store.complete_through());
        let events = shared.alert_events(Tick::MAX).num_rows() as u64;
        let now: Vec<Tick> = [self.engine.acknowledged(), events]
            .into_iter()
            .chain(relations)
            .collect();
        let is_woken = self.waiter.has_changed().unwrap_or(false);
        self.waiter.mark_unchanged();
        std::mem::replace(&mut self.known, now) != self.known && !is_woken
    }

    /// Has a tick cut of a request.
    pub(super) fn cut(&mut self, request: Request) {
        self.coordinator.cut(request, &self.inbox);
    }

    /// Has a tick cut without rows, if a timer is due.
    pub(super) fn fire(&mut self) {
        let is_due = self.coordinator.timer().is_some_and(|wait| wait <= CLOSES_AFTER);
        if is_due && self.coordinator.has_room() {
            self.coordinator.cut_timers();
        }
    }

    /// Collects every answer that the workers owe, so that the order in which they are heard is ours to choose.
    pub(super) fn collect(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.completed.len() < self.coordinator.awaited() {
            match self.responses.recv_deadline(deadline) {
                Ok(Response::Completed(completed)) => self.completed.extend(completed),
                Ok(Response::Died { reason, .. }) => return Err(format!("a worker died: {reason}")),
                Err(_) => return Err("a worker does not answer".to_owned()),
            }
        }
        // Dataflows are as quick as the machine lets them; of one the answers come in order.
        self.completed.sort_by_key(|completed| (completed.flow, completed.tick));
        Ok(())
    }

    pub(super) fn has_answers(&self) -> bool {
        !self.completed.is_empty()
    }

    /// Lets the coordinator hear one answer of those that `choose` has to choose from; those of one view in order.
    pub(super) fn hear(&mut self, choose: impl FnOnce(usize) -> usize) {
        let firsts: Vec<usize> = (0..self.completed.len())
            .filter(|&at| at == 0 || self.completed[at].flow != self.completed[at - 1].flow)
            .collect();
        if !firsts.is_empty() {
            let completed = self.completed.remove(firsts[choose(firsts.len())]);
            self.coordinator.answered(Response::Completed(vec![completed]));
        }
    }

    /// Asks for another deployment to take the place of the one that runs.
    pub(super) fn change(&mut self, number: usize) {
        let engine = self.engine.clone();
        let changing = async move {
            let mut next = engine.inner.changing.lock().await;
            engine.change_all(&mut next, deployment(number)).await
        };
        self.changing = Some((number, Box::pin(changing)));
    }

    /// Returns which deployment is asked for.
    pub(super) fn changes_to(&self) -> Option<usize> {
        self.changing.as_ref().map(|(number, _)| *number)
    }

    /// Lets who asked for a change go on; returns which deployment runs, once it does.
    pub(super) fn go_on_changing(&mut self) -> Result<Option<usize>, String> {
        let Some((number, changing)) = &mut self.changing else {
            return Ok(None);
        };
        let number = *number;
        match changing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Ok(None),
            Poll::Ready(Ok(_)) => {
                self.changing = None;
                Ok(Some(number))
            }
            Poll::Ready(Err(error)) => Err(format!("the change failed: {error}")),
        }
    }

    /// Lets the coordinator hear what is asked of it for a change.
    pub(super) fn hear_change(&mut self) {
        if let Ok(request) = self.changes.try_recv() {
            self.coordinator.change(request);
        }
    }

    /// Returns the newest tick cut.
    pub(super) fn newest(&self) -> Tick {
        self.coordinator.newest_tick()
    }
}

/// Takes up what the storage has.
fn recover(coordinator: &mut Coordinator, disk: &Disk, answers: &Receiver<Response>) -> Result<Vec<Position>, String> {
    let recovered = Recovered {
        past: Box::new(disk.past()),
        forget: Vec::new(),
    };
    // What is told for the first time now waits for the storage, which syncs by itself until the doors open.
    let (stop, stopped) = bounded::<()>(0);
    let (events, told) = unbounded();
    let syncing = {
        let disk = disk.clone();
        std::thread::spawn(move || {
            while stopped.try_recv() == Err(crossbeam_channel::TryRecvError::Empty) {
                disk.sync(true);
                disk.state().events.drain(..).for_each(|event| drop(events.send(event)));
                std::thread::sleep(Duration::from_micros(50));
            }
        })
    };
    let inbox = Inbox {
        requests: never(),
        changes: never(),
        responses: answers.clone(),
        events: told,
    };
    let positions = coordinator.recover(recovered, &inbox);
    drop(stop);
    syncing.join().map_err(|_| "the storage panicked".to_owned())?;
    let positions = positions.map_err(|error| format!("could not begin: {error:#}"))?;
    while let Ok(event) = inbox.events.try_recv() {
        coordinator.logged(event);
    }
    Ok(positions)
}
