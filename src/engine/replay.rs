//! A replay: a coordinator with workers and no log, which lets earlier ticks go by again for whoever drives it.
//!
//! It begins with nothing and is told what came, tick by tick. The ticks are the clock: no other time goes by. What
//! it then shows is what a running deployment showed at that tick, for it is the same code that decides.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};
use crossbeam_channel::{Receiver, bounded, never, unbounded};
use dataflows::Tick;
use dataflows::workers::{Workers, check};
use queries::Relations;

use super::clock::TickClock;
use super::coordinator::{self, Again, Coordinator, Inbox, Seen, Witness};
use super::shared::{RelationEntry, Shared};
use super::sinks::Sinks;
use super::tape::Tape;
use super::topology::Topology;
use super::wiring;
use crate::config::{Clock, Deployment, ViewDef};
use crate::log::TickRecord;

/// What a replay is to show.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Wanted {
    /// The sources, views and alerts that are asked for; none: all.
    pub(in crate::engine) relations: Option<BTreeSet<String>>,
    /// Those whose changes are told as they happen.
    pub(in crate::engine) watched: HashSet<String>,
    /// Threads that compute.
    pub(in crate::engine) workers: usize,
    /// Whether rows of sources that are not declared are passed over.
    pub(in crate::engine) passes_over: bool,
    /// When it is to give up.
    pub(in crate::engine) patience: Patience,
}

/// For how long whoever asked will wait.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Patience {
    /// Until then, at most.
    pub(in crate::engine) deadline: Option<Instant>,
    /// Until one of these is set.
    pub(in crate::engine) ended: Vec<Arc<AtomicBool>>,
}

impl Patience {
    fn is_over(&self) -> bool {
        let ended = self.ended.iter().any(|ended| ended.load(Ordering::Relaxed));
        ended || self.deadline.is_some_and(|deadline| Instant::now() > deadline)
    }
}

/// What happens while a replay plays.
pub(in crate::engine) enum Event {
    /// A tick has gone by.
    Passed,
    /// A tick may be seen.
    Seen(Seen),
    /// Every tick up to this one has gone by, and none after it.
    Reached(Tick),
}

/// Hears what happens, and may look at the replay then.
pub(in crate::engine) type Hear<'a> = &'a mut dyn FnMut(&mut Replay, Event) -> anyhow::Result<()>;

/// It took longer than whoever asked would wait.
#[derive(Debug, thiserror::Error)]
#[error("the replay took too long")]
pub(in crate::engine) struct TookTooLong;

/// A deployment through which earlier ticks go by again.
pub(in crate::engine) struct Replay {
    coordinator: Coordinator,
    inbox: Inbox,
    topology: Arc<Topology>,
    folds: Receiver<Arc<RelationEntry>>,
    seen: Receiver<Seen>,
    /// The sources of which rows are wanted; none: all.
    sources: Option<BTreeSet<String>>,
    passes_over: bool,
    patience: Patience,
}

impl Replay {
    /// Starts a deployment with nothing; of its views those that are asked for, and what these read.
    ///
    /// # Errors
    /// When workers cannot be started, or a view cannot be run.
    pub(in crate::engine) fn start(deployment: &Deployment, wanted: Wanted) -> anyhow::Result<Replay> {
        let needed = Needed::of(deployment, wanted.relations.as_ref());
        let mut deployment = deployment.clone();
        deployment.views.retain(|view| needed.views.contains(&view.view.name));
        let (responses, answers) = unbounded();
        let workers = Arc::new(Workers::start(wanted.workers.max(1), responses).map_err(anyhow::Error::msg)?);
        let flows = wiring::flows(&deployment.views, &wiring::definitions(&deployment), 0);
        for flow in &flows {
            check(&flow.entry.spec.plan).with_context(|| format!("could not run view \"{}\"", flow.entry.name()))?;
            workers.install(&flow.entry.spec);
        }
        let (entries, states): (Vec<_>, Vec<_>) = deployment.sources.iter().map(wiring::source).unzip();
        let entered = flows.iter().map(|flow| Arc::clone(&flow.entry));
        let topology = Arc::new(Topology::new(Arc::new(deployment), entries, entered));
        // Nobody is told anything: what was to be delivered was.
        let (sinks, _) = Sinks::new(&[]);
        let shared = Arc::new(Shared::new(Arc::clone(&topology), sinks, Arc::default()).for_replay());
        let (keeper, folds) = bounded(64);
        let mut coordinator = Coordinator::new(coordinator::Parts {
            clock: TickClock::new(Clock::Event),
            flows: flows
                .into_iter()
                .map(|flow| (flow.entry.spec.id, flow.running))
                .collect(),
            sources: states,
            log: None,
            has_history: false,
            shared,
            workers,
            keeper,
        });
        let (door, seen) = unbounded();
        coordinator.watched_by(Witness {
            watched: wanted.watched,
            door,
        });
        Ok(Replay {
            coordinator,
            inbox: Inbox {
                requests: never(),
                changes: never(),
                responses: answers,
                events: never(),
            },
            topology,
            folds,
            seen,
            sources: wanted.relations.is_some().then_some(needed.sources),
            passes_over: wanted.passes_over,
            patience: wanted.patience,
        })
    }

    /// Returns the tick that went by last; 0 before the first.
    pub(in crate::engine) fn last(&self) -> Tick {
        self.coordinator.last_tick()
    }

    /// Says anew for how long whoever asks will wait.
    pub(in crate::engine) fn with_patience(mut self, patience: Patience) -> Replay {
        self.patience = patience;
        self
    }

    /// Lets the ticks of a tape go by up to the last stop. Those that went by before are passed over, so it may go on
    /// from where it is. At each stop, in rising order, it settles.
    ///
    /// # Errors
    /// When the tape cannot be read, rows do not fit, a worker dies, time is over, or `hear` fails.
    pub(in crate::engine) fn play(&mut self, tape: &dyn Tape, stops: &[Tick], hear: Hear<'_>) -> anyhow::Result<()> {
        let Some(&through) = stops.last() else { return Ok(()) };
        let sources = self.sources.clone();
        let mut stops = stops.iter().copied().peekable();
        tape.play(through, sources.as_ref(), &mut |record| {
            if record.tick <= self.last() {
                return self.in_time();
            }
            while let Some(stop) = stops.next_if(|stop| *stop < record.tick) {
                self.reach(stop, hear)?;
            }
            self.one(record)?;
            hear(self, Event::Passed)?;
            self.hand_on(hear)
        })?;
        stops.try_for_each(|stop| self.reach(stop, hear))
    }

    /// Lets a tick without rows go by at `tick`, unless one as late has: what is due by then has happened afterwards.
    ///
    /// # Errors
    /// When a worker dies, or `hear` fails.
    pub(in crate::engine) fn end_at(&mut self, tick: Tick, hear: Hear<'_>) -> anyhow::Result<()> {
        if self.last() < tick {
            self.one(TickRecord {
                tick,
                ..TickRecord::default()
            })?;
        }
        self.reach(tick, hear)
    }

    /// Returns what relations hold at the tick that went by last, once the replay has settled.
    ///
    /// # Errors
    /// When it has no such relation, or has not settled.
    pub(in crate::engine) fn snapshot<'n>(
        &self,
        names: impl IntoIterator<Item = &'n String>,
    ) -> anyhow::Result<Relations> {
        let tick = self.last();
        let mut relations = Relations::new();
        for name in names {
            let Some(entry) = self.topology.relation(name) else {
                bail!("the replay has no source or view \"{name}\"");
            };
            let Ok(batches) = entry.store.snapshot(tick) else {
                bail!("the replay has not settled");
            };
            relations.insert(name.clone(), (Arc::clone(&entry.relation.schema), batches).into());
        }
        Ok(relations)
    }

    /// Lets one tick go by.
    fn one(&mut self, mut record: TickRecord) -> anyhow::Result<()> {
        self.in_time()?;
        // Constants and empty groups are there from the first tick on, also where earlier ones are known no more.
        record.everything |= self.last() == 0;
        let passes_over = self.passes_over;
        let again = Again {
            passes_over: &|_| passes_over,
            place: &|| "the data folder".to_owned(),
        };
        self.coordinator.look_back(record, &again, &self.inbox)
    }

    fn in_time(&self) -> anyhow::Result<()> {
        match self.patience.is_over() {
            true => Err(TookTooLong.into()),
            false => Ok(()),
        }
    }

    fn reach(&mut self, stop: Tick, hear: Hear<'_>) -> anyhow::Result<()> {
        self.coordinator.settle(&self.inbox)?;
        self.hand_on(hear)?;
        hear(self, Event::Reached(stop))
    }

    /// Hands on what was seen, and folds what the stores have too much of: there is no keeper here.
    fn hand_on(&mut self, hear: Hear<'_>) -> anyhow::Result<()> {
        while let Ok(entry) = self.folds.try_recv() {
            entry.store.fold();
            if let Some(errors) = &entry.errors {
                errors.fold();
            }
        }
        while let Ok(seen) = self.seen.try_recv() {
            hear(self, Event::Seen(seen))?;
        }
        Ok(())
    }
}

/// What has to run so that some relations can be shown.
pub(in crate::engine) struct Needed {
    pub(in crate::engine) views: BTreeSet<String>,
    pub(in crate::engine) sources: BTreeSet<String>,
}

impl Needed {
    /// Follows what relations read; without names, all is needed.
    pub(in crate::engine) fn of(deployment: &Deployment, relations: Option<&BTreeSet<String>>) -> Needed {
        let sources = || deployment.sources.iter().map(|source| source.name.clone());
        let mut wanted: BTreeSet<String> = match relations {
            Some(relations) => relations.clone(),
            None => {
                let views = deployment.views.iter().map(|view| view.view.name.clone());
                views.chain(sources()).collect()
            }
        };
        let mut views = BTreeSet::new();
        // Each view stands after all it reads.
        for definition in deployment.views.iter().rev() {
            if wanted.contains(&definition.view.name) {
                views.insert(definition.view.name.clone());
                wanted.extend(reads(definition).cloned());
            }
        }
        Needed {
            sources: sources().filter(|source| wanted.contains(source)).collect(),
            views,
        }
    }
}

/// Returns what a view reads, and the sources whose watermark it goes by.
fn reads(definition: &ViewDef) -> impl Iterator<Item = &String> {
    let view = &definition.view;
    let closing = view.closing.iter();
    let held = closing.flat_map(|closing| closing.sources.iter().chain(&closing.unheld).chain(&closing.views));
    let passing = view.passing.iter();
    let passing = passing.flat_map(|passing| passing.sources.iter().chain(&passing.views));
    view.inputs.iter().chain(held).chain(passing)
}

#[cfg(test)]
mod tests;
