//! What a seed does to a coordinator, and what must be so afterwards.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use connectors::{Batch, Decoded, Position};
use crossbeam_channel::{Receiver, Sender, bounded, never, unbounded};
use dataflows::Tick;
use dataflows::workers::{Completed, Response, Workers};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tokio::sync::oneshot;

use super::super::clock::TickClock;
use super::super::coordinator::{Accepted, Arrival, Coordinator, Inbox, Parts, Recovered, Request};
use super::super::shared::Shared;
use super::super::sinks::Sinks;
use super::super::topology::Topology;
use super::super::{Operation, alerts, wiring};
use super::disk::{Bug, Disk};
use crate::config::{Clock, Deployment};
use crate::log::Transition;

/// Rows of one batch, at most.
const BATCH_ROWS: i64 = 4;

/// What happened in some seeds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) crashes: usize,
    pub(super) in_recovery: usize,
    pub(super) in_checkpoint: usize,
    pub(super) before_sync: usize,
    pub(super) checkpoints: usize,
    pub(super) acknowledged: usize,
    pub(super) transitions: usize,
    pub(super) resumed: usize,
}

impl Seen {
    pub(super) fn add(&mut self, other: &Seen) {
        self.crashes += other.crashes;
        self.in_recovery += other.in_recovery;
        self.in_checkpoint += other.in_checkpoint;
        self.before_sync += other.before_sync;
        self.checkpoints += other.checkpoints;
        self.acknowledged += other.acknowledged;
        self.transitions += other.transitions;
        self.resumed += other.resumed;
    }

    /// Tells whether each of these happened.
    pub(super) fn is_everything(&self) -> bool {
        let Seen {
            crashes,
            in_recovery,
            in_checkpoint,
            before_sync,
            checkpoints,
            acknowledged,
            transitions,
            resumed,
        } = *self;
        [
            crashes,
            in_recovery,
            in_checkpoint,
            before_sync,
            checkpoints,
            acknowledged,
            transitions,
            resumed,
        ]
        .iter()
        .all(|count| *count > 0)
    }
}

/// The deployment, planned once: what is asked of it is easily computed by hand.
fn deployment() -> Deployment {
    static PLANNED: OnceLock<Deployment> = OnceLock::new();
    let planned = PLANNED.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a folder");
        let http = "[connector]\ntype = \"http\"\n";
        let files = [
            ("deployment.toml", "checkpoint_bytes = 3000\nworkers = 1\n".to_owned()),
            ("sources/orders.toml", format!("columns = {{ id = \"bigint not null\", item = \"text\" }}\n{http}")),
            (
                "sources/stock.toml",
                format!("columns = {{ item = \"text not null\", left = \"bigint\" }}\nkey = [\"item\"]\n{http}").replace("left", "amount"),
            ),
            (
                "views/totals.sql",
                "--! key = [\"item\"]\nSELECT item, count(*) AS orders, sum(id) AS ids FROM orders GROUP BY item".to_owned(),
            ),
            (
                "views/named.sql",
                "SELECT t.item, t.orders, s.amount FROM totals t JOIN stock s ON s.item = t.item".to_owned(),
            ),
            (
                "alerts/many.sql",
                "--! key = [\"item\"]\n--! priority = \"high\"\nSELECT item, orders % 3 AS over FROM totals WHERE orders % 7 >= 4"
                    .to_owned(),
            ),
        ];
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        crate::config::load(dir.path()).unwrap_or_else(|problems| panic!("{problems:?}"))
    });
    planned.clone()
}

/// Row number `at` of a source.
fn item(at: i64) -> String {
    format!("item {}", at * 7 % 5)
}

fn rows(source: usize, from: i64, to: i64) -> RecordBatch {
    let items: ArrayRef = Arc::new(StringArray::from_iter_values((from..to).map(item)));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(from..to));
    let schema = Arc::clone(&deployment().sources[source].schema);
    let columns = if source == ORDERS {
        vec![numbers, items]
    } else {
        vec![items, numbers]
    };
    RecordBatch::try_new(schema, columns).expect("two columns")
}

const ORDERS: usize = 0;
const STOCK: usize = 1;
const SOURCES: usize = 2;

/// Someone who sends a source's rows in their order, and again from where the source goes on.
#[derive(Default)]
struct Reader {
    sent: i64,
    waiting: VecDeque<(i64, oneshot::Receiver<Accepted>)>,
    /// Rows before this can be lost no more.
    acknowledged: i64,
}

/// One life of a program.
struct Life {
    coordinator: Coordinator,
    shared: Arc<Shared>,
    responses: Receiver<Response>,
    completed: Vec<Completed>,
    inbox: Receiver<Request>,
    _doors: Sender<Request>,
}

/// Everything outside of the coordinator.
pub(super) struct World {
    dice: Pcg64Mcg,
    disk: Disk,
    clock: Arc<AtomicU64>,
    readers: [Reader; SOURCES],
    life: Option<Life>,
    /// What a follower of `totals` holds, and as of which tick.
    followed: (Tick, BTreeMap<Vec<String>, i64>),
    /// What was seen happening to alerts.
    told: Vec<Transition>,
    seen: Seen,
}

impl World {
    pub(super) fn new(seed: u64, bug: Bug) -> Self {
        World {
            dice: Pcg64Mcg::seed_from_u64(seed),
            disk: Disk::new(bug),
            clock: Arc::new(AtomicU64::new(1_000_000)),
            readers: Default::default(),
            life: None,
            followed: (0, BTreeMap::new()),
            told: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// Plays so many steps, and comes to rest; says what was wrong.
    pub(super) fn play(mut self, steps: usize) -> Result<Seen, String> {
        self.begin()?;
        for _ in 0..steps {
            self.step()?;
        }
        self.rest()?;
        self.check()?;
        Ok(self.seen)
    }

    /// Begins a life with what the storage has.
    fn begin(&mut self) -> Result<(), String> {
        let deployment = deployment();
        let (responses, answers) = unbounded();
        let workers = Arc::new(Workers::start(1, responses)?);
        let flows = wiring::flows(&deployment.views, &wiring::definitions(&deployment), 0);
        flows.iter().for_each(|flow| workers.install(&flow.entry.spec));
        let (sources, states): (Vec<_>, Vec<_>) = deployment.sources.iter().map(wiring::source).unzip();
        let entries = flows.iter().map(|flow| Arc::clone(&flow.entry));
        let shared = Arc::new(Shared::new(
            Arc::new(Topology::new(Arc::new(deployment), sources, entries)),
            Sinks::default(),
            Arc::default(),
        ));
        let (keeper, _folds) = bounded(1);
        let now = Arc::clone(&self.clock);
        let mut coordinator = Coordinator::new(Parts {
            shared: Arc::clone(&shared),
            workers,
            sources: states,
            flows: flows
                .into_iter()
                .map(|flow| (flow.entry.spec.id, flow.running))
                .collect(),
            clock: TickClock::by(Clock::Wall, move || now.load(Ordering::Relaxed)),
            log: Some(Box::new(self.disk.clone())),
            has_history: false,
            keeper,
        });
        let (doors, inbox) = unbounded();
        let during = Inbox {
            requests: inbox.clone(),
            changes: never(),
            responses: answers.clone(),
            events: never(),
        };
        let recovered = Recovered {
            past: Box::new(self.disk.past()),
            forget: Vec::new(),
        };
        // What is told for the first time now waits for the storage, which syncs by itself until the doors open.
        let (stop, stopped) = bounded::<()>(0);
        let (events, told) = unbounded();
        let syncing = {
            let disk = self.disk.clone();
            std::thread::spawn(move || {
                while stopped.try_recv() == Err(crossbeam_channel::TryRecvError::Empty) {
                    disk.sync(true);
                    disk.state().events.drain(..).for_each(|event| drop(events.send(event)));
                    std::thread::sleep(Duration::from_micros(50));
                }
            })
        };
        let during = Inbox { events: told, ..during };
        let positions = coordinator.recover(recovered, &during);
        drop(stop);
        syncing.join().map_err(|_| "the storage panicked".to_owned())?;
        let positions = positions.map_err(|error| format!("could not begin: {error:#}"))?;
        while let Ok(event) = during.events.try_recv() {
            coordinator.logged(event);
        }
        self.life = Some(Life {
            coordinator,
            shared,
            responses: answers,
            completed: Vec::new(),
            inbox,
            _doors: doors,
        });
        for (source, reader) in self.readers.iter_mut().enumerate() {
            let goes_on = positions
                .get(source)
                .and_then(|position| position.get("0"))
                .copied()
                .unwrap_or(0);
            if goes_on < reader.acknowledged {
                return Err(format!(
                    "rows up to {} were acknowledged, and it goes on at {goes_on}",
                    reader.acknowledged
                ));
            }
            reader.waiting.clear();
            reader.sent = goes_on;
        }
        self.follow()
    }

    fn life(&mut self) -> &mut Life {
        self.life.as_mut().expect("it lives")
    }

    /// Does one thing that can happen now.
    fn step(&mut self) -> Result<(), String> {
        self.collect()?;
        match self.dice.random_range(0..100) {
            0..30 => self.send(),
            30..60 => self.hear(),
            60..72 => {
                let all = self.dice.random_bool(0.5);
                self.disk.sync(all);
            }
            72..82 => self.hear_log(),
            82..87 => {
                self.disk.write();
            }
            87..92 => {
                let later = self.dice.random_range(1..5_000);
                self.clock.fetch_add(later, Ordering::Relaxed);
            }
            92..98 => self.follow()?,
            _ => self.crash()?,
        }
        self.life().coordinator.go_on();
        self.acknowledge();
        Ok(())
    }

    /// Collects every answer that the workers owe, so that the order in which they are heard is ours to choose.
    fn collect(&mut self) -> Result<(), String> {
        let life = self.life();
        let deadline = Instant::now() + Duration::from_secs(20);
        while life.completed.len() < life.coordinator.awaited() {
            match life.responses.recv_deadline(deadline) {
                Ok(Response::Completed(completed)) => life.completed.extend(completed),
                Ok(Response::Died { reason, .. }) => return Err(format!("a worker died: {reason}")),
                Err(_) => return Err("a worker does not answer".to_owned()),
            }
        }
        Ok(())
    }

    /// Sends the next rows of a source, and has a tick cut of them if there is room.
    fn send(&mut self) {
        let source = self.dice.random_range(0..SOURCES);
        let count = self.dice.random_range(1..=BATCH_ROWS);
        let life = self.life.as_mut().expect("it lives");
        if !life.coordinator.has_room() {
            return;
        }
        let reader = &mut self.readers[source];
        let (from, to) = (reader.sent, reader.sent + count);
        let (reply, answer) = oneshot::channel();
        let request = Request::Ingest(Arrival {
            source,
            operation: Operation::Insert,
            batch: Batch {
                decoded: Decoded {
                    rows: rows(source, from, to),
                    rejected: Vec::new(),
                },
                position: Position::from([("0".to_owned(), to)]),
                partitions: Vec::new(),
            },
            idempotency_key: None,
            arrived: Instant::now(),
            reply: Some(reply),
            permit: None,
        });
        reader.sent = to;
        reader.waiting.push_back((to, answer));
        life.coordinator.cut(request, &life.inbox);
    }

    /// Lets the coordinator hear one answer; those of one view come in their order.
    fn hear(&mut self) {
        let life = self.life.as_mut().expect("it lives");
        if life.completed.is_empty() {
            return;
        }
        let at = self.dice.random_range(0..life.completed.len());
        let flow = life.completed[at].flow;
        let first = life
            .completed
            .iter()
            .position(|completed| completed.flow == flow)
            .unwrap_or(at);
        let completed = life.completed.remove(first);
        life.coordinator.completed(completed);
    }

    fn hear_log(&mut self) {
        let event = self.disk.state().events.pop_front();
        if let Some(event) = event {
            if matches!(event, crate::log::LogEvent::Named(_)) {
                self.seen.checkpoints += 1;
            }
            self.life().coordinator.logged(event);
        }
    }

    /// Readers take note of what is safe.
    fn acknowledge(&mut self) {
        for reader in &mut self.readers {
            while let Some((to, answer)) = reader.waiting.front_mut() {
                if answer.try_recv().is_err() {
                    break;
                }
                reader.acknowledged = *to;
                self.seen.acknowledged += 1;
                reader.waiting.pop_front();
            }
        }
    }

    /// The power goes, perhaps again while what was left is taken up.
    fn crash(&mut self) -> Result<(), String> {
        self.seen.crashes += 1;
        self.seen.before_sync += usize::from(self.disk.unsynced() > 0);
        self.seen.in_checkpoint += usize::from(self.disk.is_writing());
        self.life = None;
        let kept = self.dice.random_range(0..=self.disk.unsynced());
        self.disk.lose(kept);
        if self.dice.random_bool(0.2) {
            // What a start has written before it ends is all that is left of it.
            self.seen.in_recovery += 1;
            self.begin()?;
            self.life = None;
            let kept = self.dice.random_range(0..=self.disk.unsynced());
            self.disk.lose(kept);
        }
        self.begin()
    }

    /// A follower goes on from its tick, and takes note of what happened to alerts.
    fn follow(&mut self) -> Result<(), String> {
        let life = self.life.as_ref().expect("it lives");
        let entry = Arc::clone(life.shared.topology().relation("totals").expect("a view"));
        let through = entry.store.complete_through();
        let events = alerts::transitions(&life.shared.alert_events(Tick::MAX));
        let (tick, held) = &mut self.followed;
        if *tick > through {
            return Err(format!("a follower knows tick {tick}, and the view is at {through}"));
        }
        match entry.store.told(*tick, through) {
            Some(runs) => {
                self.seen.resumed += usize::from(*tick > 0);
                for updates in runs.iter().flat_map(|run| &run.updates) {
                    for (row, diff) in texts(updates.rows()).into_iter().zip(updates.diffs()) {
                        let count = held.entry(row).or_default();
                        *count += diff;
                        if !(0..=1).contains(count) {
                            return Err(format!("a follower was told a row {count} times"));
                        }
                    }
                }
                held.retain(|_, count| *count != 0);
            }
            None => {
                let Ok(batches) = entry.store.snapshot(through) else {
                    return Ok(());
                };
                *held = batches.iter().flat_map(texts).map(|row| (row, 1)).collect();
            }
        }
        *tick = through;
        if events.len() < self.told.len() || events[..self.told.len()] != self.told {
            return Err(format!("of alerts was told {:?}, and now {:?}", self.told, events));
        }
        self.seen.transitions += events.len() - self.told.len();
        self.told = events;
        Ok(())
    }

    /// Lets everything that was begun end.
    fn rest(&mut self) -> Result<(), String> {
        for _ in 0..10_000 {
            self.collect()?;
            while !self.life().completed.is_empty() {
                self.hear();
            }
            self.disk.sync(true);
            self.hear_log();
            self.disk.write();
            self.life().coordinator.go_on();
            self.acknowledge();
            let is_quiet = self.disk.state().events.is_empty() && !self.disk.is_writing() && self.disk.unsynced() == 0;
            let life = self.life();
            if is_quiet && life.coordinator.is_settled() && life.coordinator.awaited() == 0 {
                return Ok(());
            }
        }
        Err("it does not come to rest".to_owned())
    }

    /// Compares everything with what the rows up to each reader's position come to.
    fn check(&mut self) -> Result<(), String> {
        self.follow()?;
        let life = self.life.as_ref().expect("it lives");
        let at = |source| life.coordinator.position(source).get("0").copied().unwrap_or(0);
        for (source, reader) in self.readers.iter().enumerate() {
            if !(reader.acknowledged..=reader.sent).contains(&at(source)) {
                return Err(format!("source {source} is at {}, sent {}", at(source), reader.sent));
            }
        }
        let mut totals: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        for id in 0..at(ORDERS) {
            let (orders, ids) = totals.entry(item(id)).or_default();
            *orders += 1;
            *ids += id;
        }
        let stock: BTreeMap<String, i64> = (0..at(STOCK)).map(|at| (item(at), at)).collect();
        let named = totals
            .iter()
            .filter_map(|(item, (orders, _))| Some((item, orders, stock.get(item)?)));
        let of_totals: Vec<Vec<String>> = totals
            .iter()
            .map(|(item, (orders, ids))| vec![item.clone(), orders.to_string(), ids.to_string()])
            .collect();
        let of_named = named.map(|(item, orders, amount)| vec![item.clone(), orders.to_string(), amount.to_string()]);
        let of_many = totals.iter().filter(|(_, (orders, _))| orders % 7 >= 4);
        let of_many = of_many.map(|(item, (orders, _))| vec![item.clone(), (orders % 3).to_string()]);
        for (view, expected) in [
            ("totals", of_totals.clone()),
            ("named", of_named.collect()),
            ("many", of_many.collect()),
        ] {
            let topology = life.shared.topology();
            let entry = topology.relation(view).expect("a view");
            let batches = entry.store.snapshot(entry.store.complete_through());
            let mut held: Vec<Vec<String>> = batches.unwrap_or_default().iter().flat_map(texts).collect();
            held.sort();
            if held != expected {
                return Err(format!("{view} is {held:?} instead of {expected:?}"));
            }
        }
        let followed: Vec<Vec<String>> = self.followed.1.keys().cloned().collect();
        if followed != of_totals {
            return Err(format!("a follower holds {followed:?} instead of {of_totals:?}"));
        }
        let mut standing: BTreeMap<&str, (Tick, &str)> = BTreeMap::new();
        for event in &self.told {
            let before = standing.get(event.key.as_str()).copied();
            match (&*event.transition, before) {
                ("raised", None) if event.raised == event.tick => {
                    standing.insert(&event.key, (event.raised, &event.row));
                }
                ("updated", Some((raised, row))) if raised == event.raised && row != event.row => {
                    standing.insert(&event.key, (raised, &event.row));
                }
                ("cleared", Some((raised, _))) if raised == event.raised => {
                    standing.remove(event.key.as_str());
                }
                _ => return Err(format!("{event:?} after {before:?}")),
            }
        }
        let over = totals.values().filter(|(orders, _)| orders % 7 >= 4).count();
        if standing.len() != over {
            return Err(format!(
                "{} alerts stand as they were told, and {over} should",
                standing.len()
            ));
        }
        Ok(())
    }
}

/// Rows as texts.
fn texts(rows: &RecordBatch) -> Vec<Vec<String>> {
    let text = |column: &ArrayRef, row: usize| match column.as_string_opt::<i32>() {
        Some(texts) => texts.value(row).to_owned(),
        None => column.as_primitive::<Int64Type>().value(row).to_string(),
    };
    (0..rows.num_rows())
        .map(|row| rows.columns().iter().map(|column| text(column, row)).collect())
        .collect()
}
