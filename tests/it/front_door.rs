//! Through the front door: rows in by HTTP, views out by WebSocket and `/sql`,
//! under the event clock, held to the test's own books at every tick.
//!
//! `ledger` keeps the books and asks DataFusion for the answer, `bodies` writes
//! rows in every form, `water` drives the views of `config/water`, `shop` a small
//! deployment of every kind of source, `cascade` recursion, `changes` another deployment, `follow` the protocol of `/ws`, `answers`
//! the forms of `/sql`, `values` lists and JSON, `inputs` envelopes and snapshots, `doors` the rest.
mod answers;
mod bodies;
mod cascade;
mod changes;
mod doors;
mod follow;
mod inputs;
pub(crate) mod ledger;
mod shop;
mod values;
mod water;

use serde_json::Value;

use crate::program::Program;
use crate::program::live::Live;
use bodies::Body;
use ledger::{Ledger, Operation, canonical};

/// A program, a client that follows all of it, and the books.
struct Session {
    program: Program,
    live: Live,
    ledger: Ledger,
    /// The tick of the newest acknowledged rows.
    tick: u64,
    posts: usize,
}

impl Session {
    fn start(dir: &std::path::Path, workers: usize) -> Session {
        let ledger = Ledger::open(dir);
        let program = Program::start_with(dir, &["--workers", &workers.to_string()]);
        let mut live = program.live();
        for relation in ledger.names() {
            live.subscribe(&relation);
        }
        Session {
            program,
            live,
            ledger,
            tick: 0,
            posts: 0,
        }
    }

    /// Sends rows to a source in one form after the other, with what cannot be understood among
    /// them; the counts must be those of the books.
    fn send(&mut self, source: &str, operation: Operation, rows: &[Value], bad: &[&str]) {
        self.posts += 1;
        // A broken line of CSV is another thing than one of JSON.
        let csv = if self.posts.is_multiple_of(3) && bad.is_empty() {
            Body::csv(rows)
        } else {
            None
        };
        let body = match csv {
            Some(body) => body,
            None if self.posts.is_multiple_of(2) => Body::array(rows, bad),
            None => Body::lines(rows, bad),
        };
        let path = match operation {
            Operation::Insert => source.to_owned(),
            Operation::Delete => format!("{source}?op=delete"),
        };
        let reply = self.program.post(&path, body.content_type, &body.bytes);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let reply = reply.json();
        let tick = reply["tick"].as_u64().expect("a tick");
        assert!(tick > self.tick, "tick {tick} after {}", self.tick);
        self.tick = tick;
        let counts = self.ledger.post(source, operation, rows, bad.len(), tick);
        for (name, count) in [
            ("accepted", counts.accepted),
            ("late", counts.late),
            ("rejected", counts.rejected),
        ] {
            assert_eq!(
                reply[name].as_u64(),
                Some(count as u64),
                "{name} of {path}: {}",
                String::from_utf8_lossy(&body.bytes)
            );
        }
        let reasons = reply["reasons"].as_array().expect("reasons").len();
        assert_eq!(
            reasons,
            counts.rejected.min(5),
            "each rejected row has a reason, the first are told: {reply}"
        );
    }

    /// Holds every relation to the books: what the WebSocket made of it and what `/sql` says.
    ///
    /// Returns how many rows there are.
    fn check(&mut self) -> usize {
        self.live.reach(self.tick);
        let expected = self.ledger.answers(self.tick);
        let mut count = 0;
        for (name, expected) in &expected {
            count += expected.len();
            let at = format!("{name} at tick {}", self.tick);
            same(&format!("by WebSocket: {at}"), &self.live.of(name).rows(), expected);
            let reply = self.program.query(&format!("SELECT * FROM {name}"), "application/json");
            assert_eq!((reply.status, reply.tick()), (200, self.tick), "{}", reply.text());
            same(&format!("by SQL: {at}"), &canonical(&reply.body), expected);
        }
        count
    }
}

/// Compares sorted rows.
pub(crate) fn same(what: &str, found: &[String], expected: &[String]) {
    if found == expected {
        return;
    }
    let mut missing: Vec<&String> = expected.iter().collect();
    let mut unexpected = Vec::new();
    for row in found {
        match missing.iter().position(|other| *other == row) {
            Some(position) => drop(missing.swap_remove(position)),
            None => unexpected.push(row),
        }
    }
    missing.truncate(5);
    unexpected.truncate(5);
    panic!("{what}: missing {missing:#?}, unexpected {unexpected:#?}");
}
