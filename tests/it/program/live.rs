//! A WebSocket client that holds each subscribed view as its frames make it.
//!
//! It is strict: a change that does not apply to what it holds, a tick that does
//! not rise or a frame out of order fails the test at once.

use std::collections::{BTreeMap, HashMap};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio_tungstenite::tungstenite::{self, Error, Message, WebSocket};

use super::{PATIENCE, Program};

/// A connection and its subscriptions by id.
pub struct Live {
    socket: WebSocket<TcpStream>,
    /// Key columns of every relation that has a key.
    keys: HashMap<String, Vec<String>>,
    /// What each subscription holds.
    pub held: BTreeMap<String, Held>,
    /// Frames of type error, oldest first.
    pub refusals: Vec<Value>,
}

/// One subscription, as its frames made it.
#[derive(Debug, Default)]
pub struct Held {
    key: Option<Vec<String>>,
    /// Rows by key, or by themselves, with how often they are there.
    rows: BTreeMap<String, (String, i64)>,
    /// More parts of a snapshot are to come.
    pub in_snapshot: bool,
    changed: u64,
    /// The tick of the newest progress.
    pub tick: u64,
    /// The token to go on from there.
    pub resume: String,
    /// Failing rows upstream, as last told.
    pub errors: u64,
    /// Snapshots begun.
    pub snapshots: usize,
    /// Frames of changes.
    pub changes: usize,
}

impl Live {
    /// Connects to a program.
    pub fn connect(program: &Program) -> Live {
        let stream = program.connect();
        stream.set_nodelay(true).expect("an option of TCP");
        let url = format!("ws://{}/ws", program.address);
        let (socket, _) = tungstenite::client(url, stream).expect("a WebSocket");
        let views = program.get("/views").json();
        let views = views["views"].as_array().expect("a list of relations");
        let key = |view: &Value| {
            let columns = view["key"].as_array()?;
            Some(
                columns
                    .iter()
                    .map(|column| column.as_str().expect("a name").to_owned())
                    .collect(),
            )
        };
        let keys = views
            .iter()
            .filter_map(|view| Some((view["name"].as_str().expect("a name").to_owned(), key(view)?)))
            .collect();
        Live {
            socket,
            keys,
            held: BTreeMap::new(),
            refusals: Vec::new(),
        }
    }

    /// Follows a relation under its own name.
    pub fn subscribe(&mut self, relation: &str) {
        self.subscribe_as(relation, relation, json!({}));
    }

    /// Follows a relation under some id, with `where`, `columns` or `resume`.
    ///
    /// With `resume`, what was held under the id before stays.
    pub fn subscribe_as(&mut self, id: &str, relation: &str, options: Value) {
        let mut message = Map::from_iter([
            ("type".to_owned(), json!("subscribe")),
            ("id".to_owned(), json!(id)),
            ("view".to_owned(), json!(relation)),
        ]);
        message.extend(options.as_object().expect("options").clone());
        let held = self.held.entry(id.to_owned()).or_default();
        held.key = self.keys.get(relation).cloned();
        self.say(&Value::Object(message).to_string());
    }

    /// Sends a text message.
    pub fn say(&mut self, text: &str) {
        self.send(Message::text(text));
    }

    /// Sends any message.
    pub fn send(&mut self, message: Message) {
        self.socket.send(message).expect("the WebSocket takes messages");
    }

    /// Reads until every subscription has everything up to `tick`.
    pub fn reach(&mut self, tick: u64) {
        self.until(&format!("every subscription has tick {tick}"), |live| {
            live.held.values().all(|held| held.tick >= tick && !held.in_snapshot)
        });
    }

    /// Reads frames until something is so.
    pub fn until(&mut self, what: &str, is_so: impl Fn(&Live) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            if self.read(deadline).is_none() {
                let ticks: Vec<_> = self
                    .held
                    .iter()
                    .map(|(id, held)| (id, held.tick, held.in_snapshot))
                    .collect();
                panic!("waited in vain until {what}: {ticks:?}, refused: {:?}", self.refusals);
            }
        }
    }

    /// Reads until an error comes, and returns it.
    pub fn refusal(&mut self) -> Value {
        self.until("an error comes", |live| !live.refusals.is_empty());
        self.refusals.remove(0)
    }

    /// Reads and applies one frame; none within the time, or none any more, gives nothing.
    pub fn read(&mut self, deadline: Instant) -> Option<Value> {
        let frame = self.frame(deadline)?;
        self.apply(&frame);
        Some(frame)
    }

    /// Reads one frame and leaves it to the caller to apply it.
    pub fn frame(&mut self, deadline: Instant) -> Option<Value> {
        loop {
            let left = deadline
                .saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1));
            self.socket.get_ref().set_read_timeout(Some(left)).expect("a timeout");
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    return Some(serde_json::from_str(&text).expect("frames are JSON"));
                }
                Ok(Message::Close(_)) => return None,
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    /// Reads on until the other side closes; returns the code it gives, if it gives one.
    pub fn closed(&mut self) -> Option<u16> {
        self.socket
            .get_ref()
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout");
        loop {
            match self.socket.read() {
                Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("the WebSocket stays open")
                }
                Err(_) => return None,
            }
        }
    }

    /// Returns a subscription.
    pub fn of(&self, id: &str) -> &Held {
        self.held.get(id).unwrap_or_else(|| panic!("nobody subscribed to {id}"))
    }

    /// Applies one frame to what is held.
    pub fn apply(&mut self, frame: &Value) {
        let kind = frame["type"].as_str().expect("a frame has a type");
        if kind == "error" {
            self.refusals.push(frame.clone());
            return;
        }
        let id = frame["id"].as_str().expect("a frame has an id");
        let held = self
            .held
            .get_mut(id)
            .unwrap_or_else(|| panic!("a frame for {id}: {frame}"));
        let tick = frame["tick"].as_u64().expect("a frame has a tick");
        match kind {
            "snapshot" => held.snapshot(tick, frame),
            "changes" => held.change(tick, frame),
            "progress" => held.progress(tick, frame),
            other => panic!("a frame of type {other}: {frame}"),
        }
    }
}

impl Held {
    /// Returns all rows, sorted, each as often as it is there.
    pub fn rows(&self) -> Vec<String> {
        let mut rows: Vec<String> = self
            .rows
            .values()
            .flat_map(|(row, copies)| {
                std::iter::repeat_n(row.clone(), usize::try_from(*copies).expect("never negative"))
            })
            .collect();
        rows.sort();
        rows
    }

    fn snapshot(&mut self, tick: u64, frame: &Value) {
        if !self.in_snapshot {
            self.in_snapshot = true;
            self.rows.clear();
            self.snapshots += 1;
            self.changed = tick;
        }
        assert_eq!(tick, self.changed, "a snapshot of two ticks");
        for row in rows_of(frame, "rows") {
            let copies = self.add(row, 1);
            assert!(self.key.is_none() || copies == 1, "a snapshot has a key twice: {row}");
        }
        self.in_snapshot = frame["more"].as_bool().expect("a snapshot tells whether there is more");
    }

    fn change(&mut self, tick: u64, frame: &Value) {
        assert!(!self.in_snapshot, "changes inside a snapshot: {frame}");
        assert!(
            tick > self.changed && tick > self.tick,
            "changes of an old tick: {frame}"
        );
        self.changed = tick;
        self.changes += 1;
        if self.key.is_some() {
            for row in rows_of(frame, "delete") {
                assert!(
                    self.rows.remove(&self.name(row)).is_some(),
                    "a key that is not there is deleted: {row}"
                );
            }
            for row in rows_of(frame, "upsert") {
                self.rows.insert(self.name(row), (row.to_string(), 1));
            }
            return;
        }
        for row in rows_of(frame, "insert") {
            self.add(row, 1);
        }
        for row in rows_of(frame, "delete") {
            let copies = self.add(row, -1);
            assert!(copies >= 0, "a row that is not there is deleted: {row}");
        }
        self.rows.retain(|_, (_, copies)| *copies != 0);
    }

    fn progress(&mut self, tick: u64, frame: &Value) {
        assert!(!self.in_snapshot, "progress inside a snapshot: {frame}");
        assert!(
            tick >= self.tick && tick >= self.changed,
            "progress to an old tick: {frame}"
        );
        self.tick = tick;
        self.errors = frame["errors"].as_u64().expect("progress tells of errors");
        self.resume = frame["resume"].as_str().expect("progress has a token").to_owned();
    }

    fn add(&mut self, row: &Value, copies: i64) -> i64 {
        let entry = self.rows.entry(self.name(row)).or_insert_with(|| (row.to_string(), 0));
        entry.1 += copies;
        entry.1
    }

    /// What a row is found by: its key, else itself.
    fn name(&self, row: &Value) -> String {
        match &self.key {
            Some(key) => Value::Array(key.iter().map(|column| row[column].clone()).collect()).to_string(),
            None => row.to_string(),
        }
    }
}

fn rows_of<'a>(frame: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    frame[list]
        .as_array()
        .unwrap_or_else(|| panic!("no {list} in {frame}"))
        .iter()
}
