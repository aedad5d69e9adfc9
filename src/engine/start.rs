//! How a deployment starts: what it finds, the threads it needs, and what is read once it is as the last run left it.

use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use connectors::Position;
use crossbeam_channel::{bounded, never, unbounded};
use dataflows::workers::{Workers, check};
use tokio::sync::Semaphore;

use super::clock::TickClock;
use super::coordinator::{self, Coordinator, Inbox, Recovered, Request};
use super::feed::{self, Doors, Feed};
use super::keeping::{Door, Holdings};
use super::shared::{Recovery, RelationEntry, Shared};
use super::sinks::Sinks;
use super::storage::{Disk, Folder, Storage};
use super::topology::Topology;
use super::wiring::{self, feeds};
use super::{Engine, Inner, Kept, WAITING_ROWS_MAX, add_tables, definitions, follow, spawn, yield_to_others};
use crate::config::{Clock, Deployment};
use crate::log::{Durability, LogEvent};

/// Where a deployment keeps what is to survive.
#[derive(Clone, Debug)]
pub struct Data {
    /// The data folder; it is made where there is none.
    pub dir: PathBuf,
    /// What acknowledged means.
    pub durability: Durability,
    /// Sources whose rows may be forgotten where they are declared no more.
    pub forget: Vec<String>,
    /// Where history is: a folder, or a bucket as in "s3://bucket/prefix".
    pub history: String,
    /// Whether sources are read, and rows go to history. To look at what is there, they need not.
    pub reads: bool,
}

impl Engine {
    /// Starts a deployment of which nothing survives.
    ///
    /// # Errors
    /// When workers cannot be started, or a source cannot be read.
    pub fn start(deployment: Deployment) -> anyhow::Result<Engine> {
        Engine::begin(deployment, None)
    }

    /// Starts a deployment where the last run of it ended. It is brought there after this has returned:
    /// [`recovery`](Self::recovery) tells how far that is.
    ///
    /// # Errors
    /// When workers cannot be started, a source cannot be read, or the data folder cannot be used.
    pub fn open(deployment: Deployment, data: Data) -> anyhow::Result<Engine> {
        match data.durability {
            Durability::None => Engine::begin(deployment, None),
            _ => Engine::begin(deployment, Some(data)),
        }
    }

    fn begin(mut deployment: Deployment, data: Option<Data>) -> anyhow::Result<Engine> {
        add_tables(&mut deployment)?;
        let holdings = Arc::new(Holdings::default());
        let found = data.map(|data| -> anyhow::Result<_> {
            let folder = Folder::open(&data.dir)?;
            let door = Door::open(
                &data.history,
                &folder.store.owner(),
                data.reads.then_some(&folder.inventory),
            )?;
            definitions::keep(&deployment, &data.dir);
            let reading = door.again()?;
            let folder = folder.with_history((reading, Arc::clone(&holdings)));
            Ok((data, folder, door))
        });
        let found = found.transpose()?;
        let now_us = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as i64);
        // What a source makes up from the start on, it makes up from the same start again.
        let start_us = found
            .as_ref()
            .map_or(now_us, |(_, folder, _)| folder.store.identity().started_us);
        let feeds = match &found {
            Some((data, ..)) if !data.reads => Vec::new(),
            _ => feeds(&deployment, 0, start_us)?,
        };
        let count = deployment
            .options
            .workers
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |count| count.get().div_ceil(2)));
        let (responses, answers) = unbounded();
        let workers = Arc::new(Workers::start(count, responses).map_err(anyhow::Error::msg)?);
        let flows = wiring::flows(&deployment.views, &wiring::definitions(&deployment), 0);
        for flow in &flows {
            check(&flow.entry.spec.plan).with_context(|| format!("could not run view \"{}\"", flow.entry.name()))?;
            workers.install(&flow.entry.spec);
        }
        let (sources, states): (Vec<_>, Vec<_>) = deployment.sources.iter().map(wiring::source).unzip();
        let next = flows.len();
        let entries = flows.iter().map(|flow| Arc::clone(&flow.entry));
        let (sinks, delivering) = Sinks::new(&deployment.sinks);
        let shared = Arc::new(Shared::new(
            Arc::new(Topology::new(Arc::new(deployment), sources, entries)),
            sinks,
            Arc::clone(&holdings),
        ));
        let (keeper, folds) = bounded::<Arc<RelationEntry>>(64);
        let (requests, inbox) = unbounded::<Request>();
        let (changes, changing) = unbounded();
        let (stop, stopped) = bounded::<()>(0);
        let doors = Doors {
            requests,
            changes,
            stopped,
        };
        let mut threads = Vec::new();
        threads.push(spawn("keeper", move || {
            yield_to_others();
            for entry in folds {
                entry.store.fold();
                if let Some(errors) = &entry.errors {
                    errors.fold();
                }
            }
        })?);
        let incarnation = match &found {
            Some((_, folder, _)) => folder.store.identity().incarnation,
            None => std::hash::RandomState::new().hash_one(now_us),
        };
        let (events, logged) = unbounded::<LogEvent>();
        let logged = if found.is_some() { logged } else { never() };
        let kept = found.as_ref().map(|(data, folder, _)| Kept {
            store: Arc::clone(&folder.store),
            data: data.dir.clone(),
            history: data.history.clone(),
        });
        let has_history = found.is_some();
        let (log, recovered) = match found {
            Some((data, folder, door)) => {
                let history = data.reads.then(|| (door, Arc::clone(&holdings)));
                let disk = Disk::start(&folder, data.durability, history, events)?;
                threads.extend(delivering.start(&folder.store, |sink| disk.outbox(sink), &doors.stopped)?);
                let recovered = Recovered {
                    past: Box::new(folder),
                    forget: data.forget,
                };
                (Some(Box::new(disk) as Box<dyn Storage>), Some(recovered))
            }
            None => (None, None),
        };
        let mut coordinator = Coordinator::new(coordinator::Parts {
            shared: Arc::clone(&shared),
            workers: Arc::clone(&workers),
            sources: states,
            flows: flows
                .into_iter()
                .map(|flow| {
                    let sinks = shared.sinks.of(flow.entry.name());
                    (flow.entry.spec.id, flow.running.with_sinks(sinks))
                })
                .collect(),
            clock: TickClock::new(shared.options.clock),
            log,
            has_history,
            keeper,
        });
        let inbox = Inbox {
            requests: inbox,
            changes: changing,
            responses: answers,
            events: logged,
        };
        let reading = Reading {
            feeds,
            doors: doors.clone(),
            clock: shared.options.clock,
            tick_rows: shared.options.tick_rows,
            start_us: now_us,
        };
        if recovered.is_some() {
            shared.set_recovery(Some(Recovery::default()));
        }
        let threads = Arc::new(Mutex::new(threads));
        let (known, readers) = (Arc::clone(&shared), Arc::clone(&threads));
        let coordinating = spawn("coordinator", move || {
            let positions = match recovered {
                Some(recovered) => coordinator.recover(recovered, &inbox),
                None => {
                    coordinator.first_tick();
                    Ok(Vec::new())
                }
            };
            let read = positions.and_then(|positions| reading.begin(positions));
            match read {
                Ok(reading) => readers.lock().unwrap_or_else(PoisonError::into_inner).extend(reading),
                Err(error) => return known.fail(format!("{error:#}")),
            }
            coordinator::run(coordinator, &inbox);
        })?;
        threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(coordinating);
        Ok(Engine {
            inner: Arc::new(Inner {
                shared,
                workers,
                doors: Mutex::new(Some(doors)),
                stop: Mutex::new(Some(stop)),
                threads,
                waiting: Arc::new(Semaphore::new(WAITING_ROWS_MAX)),
                changing: tokio::sync::Mutex::new(next),
                incarnation,
                kept,
                travels: Arc::default(),
                stopped: Arc::default(),
            }),
        })
    }
}

/// What is to be read once everything is as the last run left it.
struct Reading {
    feeds: Vec<Feed>,
    doors: Doors,
    clock: Clock,
    tick_rows: usize,
    start_us: i64,
}

impl Reading {
    /// Starts to read where the last run has logged that it was.
    fn begin(self, positions: Vec<Position>) -> anyhow::Result<Vec<JoinHandle<()>>> {
        let mut feeds = self.feeds;
        for feed in &mut feeds {
            let position = positions.get(feed.source).cloned().unwrap_or_default();
            feed.resume(&position)
                .with_context(|| format!("could not go on reading source \"{}\"", feed.name))?;
        }
        let doors = self.doors;
        match self.clock {
            Clock::Event if !feeds.is_empty() => {
                let replay = spawn("replay", move || feed::replay(feeds, self.tick_rows, &doors))?;
                Ok(vec![replay])
            }
            Clock::Event => Ok(Vec::new()),
            Clock::Wall => {
                let feeds = feeds.into_iter();
                feeds.map(|feed| follow(feed, doors.clone(), self.start_us)).collect()
            }
        }
    }
}
