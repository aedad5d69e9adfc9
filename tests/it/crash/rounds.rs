//! Rounds of starting, loading, killing, cutting the power; after each start everything is held to the books.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::Value;

use super::alerts::Watch;
use super::books::Books;
use super::deployment::{Clock, deployment};
use super::disk::{Cut, Disk, Lost};
use super::follow::Follower;
use super::gate::Gate;
use super::load::{Hand, Times};
use super::points::{Phase, Plan, phase};
use crate::front_door::ledger::canonical;
use crate::program::{PATIENCE, Program};

const HANDS: u64 = 4;

/// How long a point may be waited for that lies in the load; then it is killed from outside.
const POINT_PATIENCE: Duration = Duration::from_secs(3);

/// How long a merge may be waited for: eight files must come to be first.
const MERGE_PATIENCE: Duration = Duration::from_secs(12);

/// A deployment that is killed again and again, and all that is known of it.
pub(super) struct Campaign {
    root: tempfile::TempDir,
    folder: PathBuf,
    switch: PathBuf,
    pub(super) disk: Disk,
    random: Pcg64,
    hands: Vec<Hand>,
    times: Times,
    books: Books,
    relations: Vec<String>,
    follower: Follower,
    watch: Watch,
    /// Before the bucket of its history, where it has one.
    gate: Option<Gate>,
    /// More variables, for whoever plants a bug in the library, or names a bucket.
    pub(super) variables: Vec<(String, String)>,
    /// How long the last start took that nothing came into, and how many calls it made.
    start_ms: u64,
    start_calls: u64,
    pub(super) tally: Tally,
}

/// What happened in all rounds.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) kills: usize,
    pub(super) cuts: usize,
    pub(super) lost: Lost,
    pub(super) phases: BTreeMap<Phase, usize>,
    /// Points that never came.
    pub(super) missed: Vec<String>,
    pub(super) checks: usize,
    /// Rows of views that close which the program's own audits compared, and which they could not.
    pub(super) audited: (u64, u64),
    pub(super) posts: usize,
    pub(super) retries: u64,
    pub(super) rows: usize,
    pub(super) transitions: usize,
    /// Subscriptions that were to go on by their token, and those that did.
    pub(super) resumed: (usize, usize),
    pub(super) start_ms: Vec<u64>,
}

/// What a relation holds, and who says so.
type Found<'a> = (&'a str, &'a str, Vec<String>);

impl Campaign {
    pub(super) fn new(seed: u64, clock: Clock) -> Campaign {
        Campaign::with(seed, clock, None)
    }

    /// The same with history in a bucket behind a gate.
    pub(super) fn with(seed: u64, clock: Clock, bucket: Option<(&str, Gate)>) -> Campaign {
        let root = tempfile::tempdir().expect("a folder of our own");
        let folder = root.path().join("deployment");
        deployment(&folder, clock, bucket.as_ref().map(|(place, _)| *place));
        let books = Books::open(&folder);
        Campaign {
            switch: root.path().join("armed"),
            disk: Disk::new(root.path()),
            folder,
            root,
            random: Pcg64::seed_from_u64(seed),
            hands: (0..HANDS).map(|number| Hand::new(number, seed)).collect(),
            times: Times::new(clock),
            relations: books.names(),
            books,
            follower: Follower::default(),
            watch: Watch::default(),
            gate: bucket.map(|(_, gate)| gate),
            variables: Vec::new(),
            start_ms: 300,
            start_calls: 40,
            tally: Tally::default(),
        }
    }

    /// Plays rounds until so many kills fell.
    pub(super) fn play(&mut self, kills: usize) {
        let mut first = Plan::first();
        while self.tally.kills < kills {
            let drawn = Plan::draw(&mut self.random, self.start_ms, self.start_calls);
            let plan = first.pop().unwrap_or(drawn);
            let cut = match self.random.random_range(0..4) {
                0 | 1 => None,
                2 => Some(Cut::Clean),
                _ => Some(Cut::Torn(self.random.random_range(0.1..0.9))),
            };
            self.round(&plan, cut);
        }
        self.end();
    }

    /// Stops it as Ctrl-C does, twice, and looks a last time.
    pub(super) fn end(&mut self) {
        for _ in 0..2 {
            let mut program = self.spawn(None);
            program.ready().expect("it starts");
            self.look(&program);
            self.load(&mut program, |_| std::thread::sleep(Duration::from_millis(300)));
            self.settle(&program);
            self.check(&program);
            self.follower.lost();
            program.stop();
        }
    }

    /// Plays one round: starts it, holds it to the books, loads it, until it dies as planned; then the power is cut.
    pub(super) fn round(&mut self, plan: &Plan, cut: Option<Cut>) {
        // A line a round, read where one fails.
        print!("{plan:?}: ");
        let knew_rows = self.books.tick > 0;
        let began = Instant::now();
        let was_ready = self.live_and_die(plan);
        self.follower.lost();
        // It may not be there.
        let _ = fs::remove_file(&self.switch);
        let phase = phase(&self.disk.calls(), was_ready);
        self.tally.kills += 1;
        // There is nothing to recover before the first row.
        if knew_rows || phase != Phase::Recovery {
            *self.tally.phases.entry(phase).or_default() += 1;
        }
        print!("fell in {phase:?} after {} ms", began.elapsed().as_millis());
        if let Some(cut) = cut {
            let lost = self.disk.cut(cut, &mut self.random);
            self.tally.cuts += 1;
            self.tally.lost.pages += lost.pages;
            self.tally.lost.spared += lost.spared;
            self.tally.lost.names += lost.names;
            print!(", {cut:?} took {lost:?}");
        }
        println!();
    }

    /// Runs it until it dies; returns whether it was ready.
    fn live_and_die(&mut self, plan: &Plan) -> bool {
        let mut program = self.spawn(plan.point().map(|(point, _)| point));
        let began = Instant::now();
        if let Plan::StartedFor(ms) = plan {
            std::thread::sleep(Duration::from_millis(*ms));
            program.signal("KILL");
            program.ended(PATIENCE);
            return false;
        }
        let counts_from_start = plan.point().is_some_and(|(_, from_start)| from_start);
        if counts_from_start {
            fs::write(&self.switch, "").expect("a file");
        }
        if let Err(status) = program.ready() {
            assert!(
                counts_from_start && status.signal() == Some(9),
                "it ended by itself with {status}; it said:\n{}",
                program.said()
            );
            return false;
        }
        if counts_from_start {
            fs::remove_file(&self.switch).expect("a file");
            if !program.is_alive() {
                program.ended(PATIENCE);
                return false;
            }
        } else {
            self.start_ms = u64::try_from(began.elapsed().as_millis()).expect("a short time").max(2);
            self.start_calls = self.disk.calls().lines().filter(|line| line.starts_with("B ")).count() as u64;
            self.tally.start_ms.push(self.start_ms);
        }
        self.look(&program);
        let (switch, gate) = (self.switch.clone(), self.gate.clone());
        let mut missed = false;
        self.load(&mut program, |program| {
            match (plan, &gate) {
                (Plan::LoadedFor(ms), _) => std::thread::sleep(Duration::from_millis(*ms)),
                (Plan::Requesting(trap), Some(gate)) => {
                    gate.set(*trap);
                    let deadline = Instant::now() + MERGE_PATIENCE;
                    while !gate.has_caught() && Instant::now() < deadline {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    missed = !gate.has_caught();
                    gate.unset();
                }
                (Plan::Deserted, Some(gate)) => {
                    let failing = "SELECT count(*) FROM sangam.history WHERE failure IS NOT NULL";
                    gate.shut();
                    program.until("history fails", || program.number(failing) > 0);
                    gate.open();
                    program.until("history goes on", || program.number(failing) == 0);
                }
                (Plan::Stranded, Some(gate)) => {
                    gate.shut();
                    std::thread::sleep(Duration::from_millis(500));
                }
                _ => {
                    let merges = plan.point().is_some_and(|(point, _)| point.contains("merged"));
                    let patience = if merges { MERGE_PATIENCE } else { POINT_PATIENCE };
                    let deadline = Instant::now() + patience;
                    if !counts_from_start {
                        fs::write(&switch, "").expect("a file");
                    }
                    while program.is_alive() && Instant::now() < deadline && !counts_from_start {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
            }
            if program.is_alive() {
                missed |= plan.point().is_some();
                program.signal("KILL");
            }
            program.until("it is dead", || !program.is_alive());
        });
        let status = program.ended(PATIENCE);
        assert_eq!(
            status.signal(),
            Some(9),
            "it ended by itself with {status}; it said:\n{}",
            program.said()
        );
        if missed {
            self.tally.missed.push(format!("{plan:?}"));
        }
        true
    }

    /// Starts it; it may be told where to die.
    pub(super) fn spawn(&self, point: Option<&str>) -> Program {
        self.disk.forget_calls();
        let mut variables = self.disk.variables();
        variables.push(("POWERCUT_SYNC_US".to_owned(), "500".to_owned()));
        if let Some(point) = point {
            variables.push(("POWERCUT_KILL".to_owned(), point.to_owned()));
            let switch = self.switch.to_str().expect("a path in UTF-8").to_owned();
            variables.push(("POWERCUT_KILL_WHILE".to_owned(), switch));
        }
        variables.extend(self.variables.iter().cloned());
        let data = self.disk.folder().join("data");
        Program::spawn(
            &self.folder,
            &["--data", data.to_str().expect("a path in UTF-8")],
            &variables,
        )
    }

    /// Holds what is there after a start to the books: first as it is, then with every POST answered.
    fn look(&mut self, program: &Program) {
        self.watch.look(program);
        self.is_whole(program);
        self.follower.connect(program, &self.relations);
        self.settle(program);
        self.check(program);
    }

    /// Loads it with everything at once while something is done to it; returns once that is over and it is dead or
    /// nothing is on its way.
    fn load(&mut self, program: &mut Program, meanwhile: impl FnOnce(&Program)) {
        let stop = AtomicBool::new(false);
        let (program, stop, times) = (&*program, &stop, &self.times);
        let (follower, watch) = (&mut self.follower, &mut self.watch);
        std::thread::scope(|scope| {
            for hand in &mut self.hands {
                scope.spawn(move || hand.work(program, times, stop));
            }
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    follower.read(Instant::now() + Duration::from_millis(50));
                }
            });
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) && program.is_alive() {
                    watch.look(program);
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            meanwhile(program);
            stop.store(true, Ordering::Relaxed);
        });
    }

    /// Has every POST answered.
    fn settle(&mut self, program: &Program) {
        std::thread::scope(|scope| {
            for hand in &mut self.hands {
                scope.spawn(move || hand.settle(program));
            }
        });
    }

    /// Before anything is sent again: what was acknowledged is there, what was not is there as a whole or not at
    /// all, and nothing else is.
    fn is_whole(&self, program: &Program) {
        let id = |row: &Value| row["id"].as_i64().expect("an id");
        let found: Vec<i64> = program.sql("SELECT id FROM journal").iter().map(id).collect();
        let once: BTreeSet<i64> = found.iter().copied().collect();
        assert_eq!(found.len(), once.len(), "rows are there twice");
        let mut acknowledged: BTreeSet<i64> = self.books.rows("journal").map(id).collect();
        for hand in &self.hands {
            for post in hand.answered().iter().filter(|post| post.source == "journal") {
                acknowledged.extend(post.rows.iter().map(id));
            }
        }
        let lost: Vec<&i64> = acknowledged.difference(&once).collect();
        let some = &lost[..lost.len().min(10)];
        assert!(
            lost.is_empty(),
            "{} of {} acknowledged rows are lost: {some:?}",
            lost.len(),
            acknowledged.len()
        );
        let mut unknown: BTreeSet<i64> = once.difference(&acknowledged).copied().collect();
        for post in self
            .hands
            .iter()
            .filter_map(Hand::pending)
            .filter(|post| post.source == "journal")
        {
            let there = post.rows.iter().filter(|row| unknown.remove(&id(row))).count();
            assert!(
                there == 0 || there == post.rows.len(),
                "{there} rows are there of {post:?}"
            );
        }
        assert!(unknown.is_empty(), "rows are there that were never sent: {unknown:?}");
    }

    /// Holds everything to the books. Nothing is on its way.
    fn check(&mut self, program: &Program) {
        let posts: Vec<_> = self.hands.iter_mut().flat_map(Hand::collect).collect();
        self.tally.posts += posts.len();
        self.tally.retries = self.hands.iter().map(|hand| hand.retries).sum();
        self.books.enter(posts);
        if self.books.tick == 0 {
            return;
        }
        self.follower.reach(self.books.tick);
        self.tally.resumed = self.follower.resumed;
        // What was found: by tick and relation, who says so and what.
        let mut found: BTreeMap<u64, Vec<Found<'_>>> = BTreeMap::new();
        for relation in &self.relations {
            let held = &self.follower.held()[relation];
            found
                .entry(held.tick)
                .or_default()
                .push((relation, "WebSocket", held.rows()));
            let reply = program.query(&format!("SELECT * FROM {relation}"), "application/json");
            assert_eq!(reply.status, 200, "{}", reply.text());
            let rows = canonical(&reply.body);
            found.entry(reply.tick()).or_default().push((relation, "SQL", rows));
        }
        for (tick, found) in found {
            let wanted = found.iter().map(|(relation, ..)| *relation).collect();
            let expected = self.books.answers(tick, &wanted);
            for (relation, by, rows) in found {
                self.tally.rows += rows.len();
                let what = format!("{relation} by {by} at tick {tick} (rows came at {})", self.books.tick);
                crate::front_door::same(&what, &rows, &expected[relation]);
            }
        }
        for table in ["late", "rejected"] {
            let sql = format!("SELECT source, count(*) AS n FROM sangam.{table} GROUP BY source");
            let counts: BTreeMap<String, usize> = program
                .sql(&sql)
                .iter()
                .map(|row| {
                    let count = row["n"].as_u64().expect("a count");
                    (row["source"].as_str().expect("a name").to_owned(), count as usize)
                })
                .collect();
            for (source, (late, rejected)) in self.books.letters() {
                let expected = if table == "late" { late } else { rejected };
                let count = counts.get(source).copied().unwrap_or(0);
                assert_eq!(count, expected, "rows of {source} in sangam.{table}");
            }
        }
        let failing = self.books.rows("orders").filter(|row| row["pieces"] == 0).count();
        let errors = program.number("SELECT count(*) FROM sangam.errors");
        assert_eq!(errors, failing as i64, "orders without pieces in sangam.errors");
        self.tally.transitions = self.watch.check(program, &self.books.high);
        self.audit(program);
        self.tally.checks += 1;
    }

    /// Has the program compare its views itself: it must find nothing, whatever it closed before it was killed.
    fn audit(&mut self, program: &Program) {
        let audit = program.request("POST", "/verify", &[], b"").json();
        assert_eq!(audit["right"], true, "an audit: {audit}");
        let views = audit["views"].as_array().expect("views").iter();
        for view in views.filter(|view| ["finished", "running"].contains(&view["view"].as_str().unwrap_or_default())) {
            let number = |name: &str| view[name].as_u64().expect("a count");
            self.tally.audited.0 += number("compared");
            self.tally.audited.1 += number("rows") - number("compared");
        }
    }

    /// Compares what it left, with all its history, as `sangam verify` does; returns what that says.
    pub(super) fn verify(&self) -> String {
        let data = self.disk.folder().join("data");
        let told = std::process::Command::new(env!("CARGO_BIN_EXE_sangam"))
            .arg("verify")
            .arg(&self.folder)
            .arg("--data")
            .arg(data)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .output()
            .expect("the program starts");
        let said = [told.stdout, told.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        assert!(told.status.success(), "{}\n{}", said[0], said[1]);
        said[0].clone()
    }
}

impl Drop for Campaign {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.root.disable_cleanup(true);
            eprintln!("what is left of it: {}", self.folder.display());
        }
    }
}
