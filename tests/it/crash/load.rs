//! Hands that post without pause: each one POST at a time, with a key, again and again until it is answered.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::{Value, json};

use super::deployment::Clock;
use crate::program::{PATIENCE, Program};

const STATIONS: [&str; 5] = ["k1", "k2", "k3", "m1", "m2"];

/// Gauges of each hand.
const GAUGES: u64 = 6;

/// What is done with rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Insert,
    Delete,
}

/// One POST, and what was answered.
#[derive(Clone, Debug)]
pub(super) struct Post {
    pub(super) hand: u64,
    pub(super) number: u64,
    pub(super) source: &'static str,
    pub(super) operation: Operation,
    pub(super) rows: Vec<Value>,
    /// Lines among them that cannot be understood.
    pub(super) bad: Vec<&'static str>,
    pub(super) answer: Option<Value>,
}

impl Post {
    /// Returns the tick its rows were cut into.
    pub(super) fn tick(&self) -> u64 {
        let answer = self.answer.as_ref().expect("an answer");
        answer["tick"].as_u64().expect("a tick")
    }

    fn key(&self) -> String {
        format!("hand-{}-{}", self.hand, self.number)
    }

    /// Sends it; none where nothing was answered, or that it was not taken.
    fn send(&self, program: &Program) -> Option<Value> {
        let path = match self.operation {
            Operation::Insert => format!("/ingest/{}", self.source),
            Operation::Delete => format!("/ingest/{}?op=delete", self.source),
        };
        let lines = self.rows.iter().map(Value::to_string);
        let lines = lines.chain(self.bad.iter().map(|line| (*line).to_owned()));
        let body = lines.collect::<Vec<_>>().join("\n");
        let key = self.key();
        let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
        let reply = program.try_request("POST", &path, &headers, body.as_bytes()).ok()?;
        if reply.status == 200 {
            return Some(reply.json());
        }
        // A clear no is as good as no answer; anything else is a mistake of ours.
        assert!(matches!(reply.status, 503 | 507), "{}: {}", reply.status, reply.text());
        None
    }
}

/// The time that rows are dated by.
pub(super) struct Times {
    clock: Clock,
    event_us: AtomicI64,
}

impl Times {
    pub(super) fn new(clock: Clock) -> Times {
        Times {
            clock,
            event_us: AtomicI64::new(1_774_750_000_000_000),
        }
    }

    fn next_us(&self, step_us: i64) -> i64 {
        match self.clock {
            Clock::Wall => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                since.expect("a time after 1970").as_micros() as i64
            }
            Clock::Event => self.event_us.fetch_add(step_us, Ordering::Relaxed),
        }
    }
}

/// One who posts.
pub(super) struct Hand {
    number: u64,
    random: Pcg64,
    posts: u64,
    /// Orders that are there.
    orders: Vec<Value>,
    /// The POST that is not answered yet.
    pending: Option<Post>,
    /// Those that were answered since they were last collected.
    answered: Vec<Post>,
    /// POSTs that were sent more than once.
    pub(super) retries: u64,
}

impl Hand {
    pub(super) fn new(number: u64, seed: u64) -> Hand {
        Hand {
            number,
            random: Pcg64::seed_from_u64(seed ^ (number << 32)),
            posts: 0,
            orders: Vec::new(),
            pending: None,
            answered: Vec::new(),
            retries: 0,
        }
    }

    /// Posts until told to stop, or until nothing is answered any more.
    pub(super) fn work(&mut self, program: &Program, times: &Times, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            if self.pending.is_none() {
                self.pending = Some(self.next(times));
            } else {
                self.retries += 1;
            }
            if self.send(program) {
                self.repeat(program);
                // A rest now and then, so that ticks are of all sizes and the books stay thin.
                std::thread::sleep(Duration::from_millis(self.random.random_range(0..8)));
            } else if !program.is_alive() {
                return;
            }
        }
    }

    /// Sends what is not answered yet, until it is.
    pub(super) fn settle(&mut self, program: &Program) {
        if self.pending.is_some() {
            self.retries += 1;
        }
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.pending.is_some() && !self.send(program) && program.is_alive() {
            assert!(std::time::Instant::now() < deadline, "not taken: {:?}", self.pending);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns the POST that is not answered yet.
    pub(super) fn pending(&self) -> Option<&Post> {
        self.pending.as_ref()
    }

    /// Returns what was answered since the last time.
    pub(super) fn collect(&mut self) -> Vec<Post> {
        std::mem::take(&mut self.answered)
    }

    /// Returns what was answered since it was last collected.
    pub(super) fn answered(&self) -> &[Post] {
        &self.answered
    }

    fn send(&mut self, program: &Program) -> bool {
        let Some(post) = &mut self.pending else { return true };
        post.answer = post.send(program);
        if post.answer.is_none() {
            return false;
        }
        self.answered.extend(self.pending.take());
        true
    }

    /// Now and then sends once more what was answered: the answer is the same, and the rows are not there twice.
    fn repeat(&mut self, program: &Program) {
        if !self.random.random_bool(0.04) {
            return;
        }
        let Some(post) = self.answered.choose(&mut self.random) else {
            return;
        };
        if let Some(answer) = post.send(program) {
            let (again, before) = (counts(&answer), post.answer.as_ref().map(counts));
            assert_eq!(Some(again), before, "the second answer to {post:?}: {answer}");
            self.retries += 1;
        }
    }

    fn next(&mut self, times: &Times) -> Post {
        self.posts += 1;
        let (hand, number) = (self.number, self.posts);
        let random = &mut self.random;
        // Unique, and told apart by whoever reads a difference.
        let id = |row: u64| hand * 1_000_000_000 + number * 100 + row;
        let count = random.random_range(1..6);
        let mut bad = Vec::new();
        let mut operation = Operation::Insert;
        let (source, rows): (_, Vec<Value>) = match random.random_range(0..100) {
            0..35 => {
                if random.random_bool(0.1) {
                    bad.push("{\"id\": \"nonsense\"}");
                }
                let row = |row| json!({"id": id(row), "hand": hand, "amount": random.random_range(-50..100)});
                ("journal", (0..count).map(row).collect())
            }
            35..62 => {
                let leap = if random.random_bool(0.01) { 5_000_000 } else { 40_000 };
                let now_us = times.next_us(leap);
                let row = |row| {
                    let back_ms = if random.random_bool(0.05) { 1500..4000 } else { 0..900 };
                    json!({
                        "id": id(row),
                        "station": STATIONS[random.random_range(0..STATIONS.len())],
                        "level": random.random_bool(0.9).then(|| random.random_range(0..100)),
                        "at": time(now_us - random.random_range(back_ms) * 1000),
                    })
                };
                ("readings", (0..count).map(row).collect())
            }
            62..82 => {
                let is_delete = random.random_bool(0.2);
                let mut row = |_| {
                    let gauge = format!("g{hand}-{}", random.random_range(0..GAUGES));
                    match is_delete {
                        true => json!({ "gauge": gauge }),
                        false => {
                            let note = random.random_bool(0.5).then(|| "x".repeat(random.random_range(0..40)));
                            json!({"gauge": gauge, "level": random.random_range(30..70), "note": note})
                        }
                    }
                };
                if is_delete {
                    operation = Operation::Delete;
                }
                ("gauges", (0..count.min(3)).map(&mut row).collect())
            }
            82..96 => {
                if self.orders.len() > 20 || (!self.orders.is_empty() && random.random_bool(0.4)) {
                    operation = Operation::Delete;
                    let at = random.random_range(0..self.orders.len());
                    let mut rows = vec![self.orders.swap_remove(at)];
                    if random.random_bool(0.1) {
                        // One that never was: rejected, and counted as such.
                        rows.push(json!({"id": 7, "station": "k1", "pieces": hand}));
                    }
                    ("orders", rows)
                } else {
                    let row = |row| {
                        json!({
                            "id": id(row),
                            "station": STATIONS.choose(random).expect("stations"),
                            "pieces": random.random_range(0..9),
                        })
                    };
                    let rows: Vec<Value> = (0..count).map(row).collect();
                    self.orders.extend(rows.iter().cloned());
                    ("orders", rows)
                }
            }
            _ => {
                // Each hand has stations of its own, so that their order is known.
                let of_hand = STATIONS.iter().skip(hand as usize % 4).step_by(4);
                let row = |station: &&str| {
                    let place = *["hill", "plain", "delta"].choose(random).expect("places");
                    json!({"station": station, "place": place})
                };
                ("stations", of_hand.map(row).collect())
            }
        };
        Post {
            hand,
            number,
            source,
            operation,
            rows,
            bad,
            answer: None,
        }
    }
}

fn counts(answer: &Value) -> [Value; 4] {
    ["tick", "accepted", "late", "rejected"].map(|name| answer[name].clone())
}

fn time(us: i64) -> String {
    let time = DateTime::from_timestamp_micros(us).expect("a time of this age");
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
