//! What a seed does to a coordinator, and what must be so afterwards.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use connectors::{Batch, Decoded, Position};
use dataflows::Tick;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tokio::sync::oneshot;

use super::super::coordinator::{Accepted, Arrival, Request};
use super::super::{Operation, alerts};
use super::deployments::{self, views};
use super::disk::{Bug, Disk};
use super::ledger::{Ledger, SOURCES};
use super::life::Life;
use crate::log::Transition;

/// Rows of one batch, at most.
const BATCH_ROWS: usize = 4;

/// What happened in some seeds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) crashes: usize,
    pub(super) in_recovery: usize,
    pub(super) in_checkpoint: usize,
    pub(super) before_sync: usize,
    /// Crashes with a change on its way, and those after which its deployment runs.
    pub(super) in_change: usize,
    pub(super) changed_by_crash: usize,
    pub(super) changes: usize,
    pub(super) checkpoints: usize,
    pub(super) acknowledged: usize,
    pub(super) transitions: usize,
    pub(super) resumed: usize,
    /// Answers of views that were compared, with rows and with some that are no more.
    pub(super) answers: usize,
}

impl Seen {
    fn counts(&mut self) -> [&mut usize; 12] {
        [
            &mut self.crashes,
            &mut self.in_recovery,
            &mut self.in_checkpoint,
            &mut self.before_sync,
            &mut self.in_change,
            &mut self.changed_by_crash,
            &mut self.changes,
            &mut self.checkpoints,
            &mut self.acknowledged,
            &mut self.transitions,
            &mut self.resumed,
            &mut self.answers,
        ]
    }

    pub(super) fn add(&mut self, mut other: Seen) {
        for (count, more) in self.counts().into_iter().zip(other.counts()) {
            *count += *more;
        }
    }

    /// Tells whether each of these happened.
    pub(super) fn is_everything(mut self) -> bool {
        self.counts().into_iter().all(|count| *count > 0)
    }
}

/// Someone who sends a source's rows in their order, and again from where the source goes on.
#[derive(Default)]
struct Reader {
    waiting: VecDeque<(i64, oneshot::Receiver<Accepted>)>,
    /// Rows before this can be lost no more.
    acknowledged: i64,
}

/// Someone who follows `totals`.
#[derive(Default)]
struct Follower {
    tick: Tick,
    held: BTreeMap<Vec<String>, i64>,
    /// What `totals` meant when this was told.
    definition: u64,
}

/// Everything outside of the coordinator.
pub(super) struct World {
    dice: Pcg64Mcg,
    disk: Disk,
    clock: Arc<AtomicU64>,
    ledger: Ledger,
    readers: [Reader; SOURCES],
    life: Option<Life>,
    /// The deployment that a start finds, and the one that ran before.
    deployment: usize,
    before: usize,
    follower: Follower,
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
            ledger: Ledger::default(),
            readers: Default::default(),
            life: None,
            deployment: 0,
            before: 0,
            follower: Follower::default(),
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
        let (life, positions) = Life::begin(&self.disk, &self.clock, self.deployment)?;
        self.life = Some(life);
        for (source, reader) in self.readers.iter_mut().enumerate() {
            let position = positions.get(source).and_then(|position| position.get("0"));
            let goes_on = position.copied().unwrap_or(0);
            let sent = self.ledger.sent(source);
            if !(reader.acknowledged..=sent).contains(&goes_on) {
                return Err(format!(
                    "rows up to {} were acknowledged and up to {sent} sent, and it goes on at {goes_on}",
                    reader.acknowledged
                ));
            }
            reader.waiting.clear();
            // What a start has found is as safe as what was answered.
            reader.acknowledged = goes_on;
            self.ledger.strike(source, goes_on);
        }
        self.look()
    }

    fn life(&mut self) -> &mut Life {
        self.life.as_mut().expect("it lives")
    }

    /// Does one thing that can happen now.
    fn step(&mut self) -> Result<(), String> {
        self.life().collect()?;
        match self.dice.random_range(0..200) {
            0..50 => self.send(),
            50..102 => self.hear(),
            102..122 => {
                let all = self.dice.random_bool(0.5);
                self.disk.sync(all);
            }
            122..140 => self.hear_log(),
            140..148 => {
                self.disk.write();
            }
            148..156 => {
                let later = self.dice.random_range(1..5_000);
                self.clock.fetch_add(later, Ordering::Relaxed);
            }
            156..162 => self.life().fire(),
            162..174 => self.change()?,
            174..184 => self.life().hear_change(),
            184..198 => self.look()?,
            _ => self.crash()?,
        }
        self.life().coordinator.go_on();
        self.acknowledge();
        match self.life().keeps_quiet() {
            true => Err("there is news, and nobody who waits for it was woken".to_owned()),
            false => Ok(()),
        }
    }

    /// Sends the next rows of a source, and has a tick cut of them if there is room.
    fn send(&mut self) {
        let source = self.dice.random_range(0..SOURCES);
        let count = self.dice.random_range(1..=BATCH_ROWS);
        let now_us = self.clock.load(Ordering::Relaxed) as i64;
        let times_us: Vec<i64> = (0..count).map(|_| now_us - self.dice.random_range(0..3_000)).collect();
        let life = self.life.as_mut().expect("it lives");
        if !life.coordinator.has_room() {
            return;
        }
        let rows = self.ledger.next(source, &times_us);
        let to = self.ledger.sent(source) + count as i64;
        let (reply, answer) = oneshot::channel();
        life.cut(Request::Ingest(Arrival {
            source,
            operation: Operation::Insert,
            batch: Batch {
                decoded: Decoded {
                    rows,
                    rejected: Vec::new(),
                },
                position: Position::from([("0".to_owned(), to)]),
                partitions: Vec::new(),
            },
            idempotency_key: None,
            arrived: Instant::now(),
            reply: Some(reply),
            permit: None,
        }));
        self.ledger.enter(source, life.newest(), &times_us);
        self.readers[source].waiting.push_back((to, answer));
    }

    /// Lets the coordinator hear one answer.
    fn hear(&mut self) {
        let dice = &mut self.dice;
        let life = self.life.as_mut().expect("it lives");
        life.hear(|answers| dice.random_range(0..answers));
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

    /// Asks for another deployment, or goes on with the change that was asked for.
    fn change(&mut self) -> Result<(), String> {
        if self.life().changes_to().is_none() {
            let another = self.dice.random_range(1..deployments::COUNT);
            let another = (self.deployment + another) % deployments::COUNT;
            self.life().change(another);
        }
        if let Some(number) = self.life().go_on_changing()? {
            self.seen.changes += 1;
            self.before = std::mem::replace(&mut self.deployment, number);
        }
        Ok(())
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
        let asked = self.life().changes_to();
        self.end();
        // Whoever changes a deployment changes its folder before, after or while it runs.
        let another = asked.unwrap_or(self.before);
        self.seen.in_change += usize::from(asked.is_some());
        if self.dice.random_bool(if asked.is_some() { 0.5 } else { 0.1 }) {
            self.seen.changed_by_crash += usize::from(asked.is_some());
            self.before = std::mem::replace(&mut self.deployment, another);
        }
        if self.dice.random_bool(0.2) {
            // What a start has written before it ends is all that is left of it.
            self.seen.in_recovery += 1;
            self.begin()?;
            self.end();
        }
        self.begin()
    }

    fn end(&mut self) {
        self.life = None;
        let kept = self.dice.random_range(0..=self.disk.unsynced());
        self.disk.lose(kept);
    }

    /// Everyone looks at what is there.
    fn look(&mut self) -> Result<(), String> {
        self.answers()?;
        self.follow()?;
        self.alerts()
    }

    /// Compares views with what the rows up to the tick they are told at come to: each alone, and all at one tick.
    fn answers(&mut self) -> Result<(), String> {
        let engine = self.life().engine.clone();
        let topology = engine.inner.shared.topology();
        let views = views(&topology.deployment);
        let one = views.iter().map(|view| vec![view.name().to_owned()]);
        let all = views.iter().map(|view| view.name().to_owned()).collect();
        for names in one.chain([all]) {
            let snapshot = engine.try_snapshot(&names, 0).map_err(|error| error.to_string())?;
            let Some(snapshot) = snapshot else { continue };
            let held = self.ledger.at(snapshot.tick);
            for view in views.iter().filter(|view| names.iter().any(|name| name == view.name())) {
                let batches = &snapshot.relations[view.name()].batches;
                let mut rows: Vec<Vec<String>> = batches.iter().flat_map(texts).collect();
                rows.sort();
                let expected = (view.answer)(&held);
                if rows != expected {
                    return Err(format!(
                        "{} is {rows:?} at tick {} instead of {expected:?}",
                        view.name(),
                        snapshot.tick
                    ));
                }
                self.seen.answers += usize::from(!rows.is_empty());
            }
        }
        Ok(())
    }

    /// A follower goes on from its tick.
    fn follow(&mut self) -> Result<(), String> {
        let life = self.life.as_ref().expect("it lives");
        let topology = life.engine.inner.shared.topology();
        let entry = topology.relation("totals").expect("a view");
        let through = entry.store.complete_through();
        let Follower { tick, held, definition } = &mut self.follower;
        let is_same = std::mem::replace(definition, entry.relation.definition) == entry.relation.definition;
        if *tick > through {
            return Err(format!("a follower knows tick {tick}, and the view is at {through}"));
        }
        match entry.store.told(*tick, through).filter(|_| is_same) {
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
                    // It has nothing until it looks again.
                    *definition = 0;
                    return Ok(());
                };
                *held = batches.iter().flat_map(texts).map(|row| (row, 1)).collect();
            }
        }
        *tick = through;
        let totals = views(&topology.deployment).iter().find(|view| view.name() == "totals");
        let expected = (totals.expect("a view").answer)(&self.ledger.at(through));
        let held: Vec<Vec<String>> = held.keys().cloned().collect();
        if held != expected {
            return Err(format!(
                "a follower holds {held:?} at tick {through} instead of {expected:?}"
            ));
        }
        Ok(())
    }

    /// Someone takes note of what happened to alerts: what was told stays.
    fn alerts(&mut self) -> Result<(), String> {
        let events = alerts::transitions(&self.life().engine.inner.shared.alert_events(Tick::MAX));
        if events.len() < self.told.len() || events[..self.told.len()] != self.told {
            return Err(format!("of alerts was told {:?}, and now {events:?}", self.told));
        }
        self.seen.transitions += events.len() - self.told.len();
        self.told = events;
        Ok(())
    }

    /// Lets everything that was begun end.
    fn rest(&mut self) -> Result<(), String> {
        for _ in 0..10_000 {
            self.life().collect()?;
            while self.life().has_answers() {
                self.hear();
            }
            if self.life().changes_to().is_some() {
                self.change()?;
            }
            self.life().hear_change();
            self.disk.sync(true);
            self.hear_log();
            self.disk.write();
            self.life().coordinator.go_on();
            self.acknowledge();
            let is_quiet = self.disk.state().events.is_empty() && !self.disk.is_writing() && self.disk.unsynced() == 0;
            let life = self.life();
            let is_settled = life.coordinator.is_settled() && life.coordinator.awaited() == 0;
            if is_quiet && is_settled && life.changes_to().is_none() {
                return Ok(());
            }
        }
        Err("it does not come to rest".to_owned())
    }

    /// Compares everything with what all rows come to.
    fn check(&mut self) -> Result<(), String> {
        self.look()?;
        let life = self.life.as_ref().expect("it lives");
        let newest = life.newest();
        for (source, reader) in self.readers.iter().enumerate() {
            let at = life.coordinator.position(source).get("0").copied().unwrap_or(0);
            let sent = self.ledger.sent(source);
            if at != sent || reader.acknowledged != sent {
                return Err(format!(
                    "source {source} is at {at}, {sent} rows were sent, {} acknowledged",
                    reader.acknowledged
                ));
            }
        }
        let topology = life.engine.inner.shared.topology();
        let views = views(&topology.deployment);
        for view in views {
            let complete = life.engine.completed(view.name());
            if complete != newest {
                return Err(format!(
                    "{} is at tick {complete}, and the newest is {newest}",
                    view.name()
                ));
            }
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
        let many = views.iter().find(|view| view.name() == "many");
        let expected = many.map_or_else(Vec::new, |many| (many.answer)(&self.ledger.at(newest)));
        let rows = expected
            .iter()
            .map(|row| format!("{{\"item\":\"{}\",\"over\":{}}}", row[0], row[1]));
        let (told, rows): (Vec<&str>, Vec<String>) = (standing.values().map(|(_, row)| *row).collect(), rows.collect());
        if told != rows {
            return Err(format!("alerts stand as {told:?}, and should as {rows:?}"));
        }
        Ok(())
    }
}

/// Rows as texts.
fn texts(rows: &RecordBatch) -> Vec<Vec<String>> {
    let text = |column: &ArrayRef, row: usize| {
        let texts = column.as_string_opt::<i32>().map(|texts| texts.value(row).to_owned());
        let time = || {
            Some(
                column
                    .as_primitive_opt::<TimestampMicrosecondType>()?
                    .value(row)
                    .to_string(),
            )
        };
        texts
            .or_else(time)
            .unwrap_or_else(|| column.as_primitive::<Int64Type>().value(row).to_string())
    };
    (0..rows.num_rows())
        .map(|row| rows.columns().iter().map(|column| text(column, row)).collect())
        .collect()
}
