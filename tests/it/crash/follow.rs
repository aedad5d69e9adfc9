//! One who follows every relation over a WebSocket, through every restart: what it holds are the rows of its
//! snapshots and all changes since, and it goes on by the token of its last progress.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::live::{Held, Live};
use crate::program::{PATIENCE, Program};

#[derive(Default)]
pub(super) struct Follower {
    live: Option<Live>,
    /// What each relation held at its last progress, while there is no connection.
    held: BTreeMap<String, Held>,
    /// Frames since the last progress: a token says nothing of them, so what they say comes again.
    waiting: BTreeMap<String, Vec<Value>>,
    /// Subscriptions that were to go on after a restart, and those of them that did.
    pub(super) resumed: (usize, usize),
    /// Snapshots of each when it was last asked to go on.
    asked: BTreeMap<String, usize>,
}

impl Follower {
    /// Subscribes to everything, to go on from where each was.
    pub(super) fn connect(&mut self, program: &Program, relations: &[String]) {
        let mut live = program.live();
        live.held = std::mem::take(&mut self.held);
        for relation in relations {
            let held = live.held.get(relation).filter(|held| !held.resume.is_empty());
            let options = held.map_or(json!({}), |held| json!({ "resume": held.resume }));
            if let Some(held) = held {
                self.asked.insert(relation.clone(), held.snapshots);
            }
            live.subscribe_as(relation, relation, options);
        }
        self.live = Some(live);
    }

    /// Reads until the connection breaks off or the time is over.
    pub(super) fn read(&mut self, deadline: Instant) {
        while Instant::now() < deadline && self.frame(deadline) {}
    }

    /// Reads until every relation has everything up to a tick.
    pub(super) fn reach(&mut self, tick: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.live().held.values().any(|held| held.tick < tick) {
            if !self.frame(deadline) {
                let ticks = self.live().held.iter().map(|(name, held)| (name, held.tick));
                panic!(
                    "waited in vain for tick {tick}: {:?}, refused: {:?}",
                    ticks.filter(|(_, at)| *at < tick).collect::<Vec<_>>(),
                    self.live().refusals
                );
            }
        }
        for (relation, snapshots) in std::mem::take(&mut self.asked) {
            self.resumed.0 += 1;
            self.resumed.1 += usize::from(self.live().of(&relation).snapshots == snapshots);
        }
    }

    /// Returns what is held.
    pub(super) fn held(&self) -> &BTreeMap<String, Held> {
        &self.live().held
    }

    /// Takes note that the program is gone.
    pub(super) fn lost(&mut self) {
        self.waiting.clear();
        self.asked.clear();
        if let Some(live) = self.live.take() {
            self.held = live.held;
        }
    }

    fn live(&self) -> &Live {
        self.live.as_ref().expect("a connection")
    }

    /// Reads one frame; returns whether there was one.
    fn frame(&mut self, deadline: Instant) -> bool {
        let live = self.live.as_mut().expect("a connection");
        let deadline = deadline.min(Instant::now() + Duration::from_secs(60));
        let Some(frame) = live.frame(deadline) else {
            return false;
        };
        assert_ne!(frame["type"], "error", "{frame}");
        let id = frame["id"].as_str().expect("a frame has an id").to_owned();
        let waiting = self.waiting.entry(id).or_default();
        let is_whole = frame["type"] == "progress";
        waiting.push(frame);
        if is_whole {
            for frame in waiting.drain(..) {
                live.apply(&frame);
            }
        }
        true
    }
}
