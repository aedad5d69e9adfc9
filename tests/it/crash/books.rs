//! The test's own books: what was sent and taken, what each source must hold at a tick, what each view must say.
//!
//! Nothing here comes from the engine but the tick it says a POST was cut into. What a POST came to (accepted, late,
//! rejected) is computed here and must be what was answered: a watermark, a key or a row lost in a restart shows in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::json::ReaderBuilder;
use chrono::DateTime;
use queries::{Closing, Emit, Relations};
use sangam::config::{self, Deployment, Source};
use serde_json::Value;

use super::alerts::Expected;
use super::load::{Operation, Post};
use crate::front_door::ledger::{canonical, encoded};
use crate::oracle::closing::chosen;

pub(super) struct Books {
    pub(super) deployment: Deployment,
    books: Vec<Book>,
    /// The newest tick that rows were cut into.
    pub(super) tick: u64,
    /// The transitions of the alert over a keyed source, which only its rows decide.
    pub(super) high: Expected,
    runtime: tokio::runtime::Runtime,
}

/// One source.
struct Book {
    source: Source,
    held: Vec<Held>,
    /// Every row that was ever accepted, where views keep what their source does not.
    ever: Vec<Value>,
    clock_us: Option<i64>,
    clock_before_us: Option<i64>,
    late: usize,
    rejected: usize,
}

struct Held {
    row: Value,
    leaves_us: Option<i64>,
}

impl Books {
    pub(super) fn open(dir: &Path) -> Books {
        let deployment = config::load(dir).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let books = deployment.sources.iter().map(|source| Book {
            source: source.clone(),
            held: Vec::new(),
            ever: Vec::new(),
            clock_us: None,
            clock_before_us: None,
            late: 0,
            rejected: 0,
        });
        Books {
            books: books.collect(),
            deployment,
            tick: 0,
            high: Expected::default(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
        }
    }

    /// Returns every source and view.
    pub(super) fn names(&self) -> Vec<String> {
        let sources = self.deployment.sources.iter().map(|source| source.name.clone());
        sources
            .chain(self.deployment.views.iter().map(|view| view.view.name.clone()))
            .collect()
    }

    /// Enters POSTs that were all answered since the last time; none is on its way.
    pub(super) fn enter(&mut self, mut posts: Vec<Post>) {
        // Hands have rows of their own, so that within a tick only the order of each hand matters.
        posts.sort_by_key(|post| (post.tick(), post.hand, post.number));
        for of_tick in posts.chunk_by(|one, other| one.tick() == other.tick()) {
            let tick = of_tick[0].tick();
            assert!(
                tick > self.tick,
                "rows were cut into tick {tick}, and others into {} before they were sent",
                self.tick
            );
            self.tick = tick;
            self.books.iter_mut().for_each(|book| book.begin(tick));
            for post in of_tick {
                let book = self
                    .books
                    .iter_mut()
                    .find(|book| book.source.name == post.source)
                    .expect("a source");
                let counts = book.take(post, tick);
                let answer = post.answer.as_ref().expect("an answer");
                let told = ["accepted", "late", "rejected"].map(|name| answer[name].as_u64().expect("a count"));
                assert_eq!(told, counts, "accepted, late, rejected of {post:?}");
            }
            if of_tick.iter().any(|post| post.source == "gauges") {
                let gauges: Vec<Value> = self.rows("gauges").cloned().collect();
                self.high.tick(tick, &gauges);
            }
        }
    }

    /// Returns the rows a source holds as of the newest tick.
    pub(super) fn rows(&self, source: &str) -> impl Iterator<Item = &Value> {
        let book = self.books.iter().find(|book| book.source.name == source);
        book.expect("a source").held.iter().map(|held| &held.row)
    }

    /// Returns how many rows of each source were late, and how many rejected.
    pub(super) fn letters(&self) -> BTreeMap<&str, (usize, usize)> {
        let books = self.books.iter();
        books
            .map(|book| (book.source.name.as_str(), (book.late, book.rejected)))
            .collect()
    }

    /// Returns the right rows of some relations at a tick no older than the newest, sorted.
    pub(super) fn answers(&self, tick: u64, wanted: &BTreeSet<&str>) -> BTreeMap<String, Vec<String>> {
        assert!(
            tick >= self.tick,
            "an answer of tick {tick}, after rows were acknowledged at {}",
            self.tick
        );
        let mut relations = Relations::new();
        let mut answers = BTreeMap::new();
        for book in &self.books {
            let (name, schema) = (&book.source.name, &book.source.schema);
            let rows = batch(schema, &book.rows_at(tick, self.tick));
            if wanted.contains(name.as_str()) {
                answers.insert(name.clone(), canonical(&encoded(std::slice::from_ref(&rows))));
            }
            relations.insert(name.clone(), (schema.clone(), vec![rows]).into());
        }
        let needed = self.needed(wanted);
        for view in self.deployment.views.iter().map(|definition| &definition.view) {
            if !needed.contains(view.name.as_str()) {
                continue;
            }
            let answer = |relations: &Relations| {
                let answer = self
                    .runtime
                    .block_on(self.deployment.catalog.batch(view, relations, tick));
                answer.unwrap_or_else(|error| panic!("{} by DataFusion: {error}", view.name))
            };
            let rows = match &view.closing {
                None => answer(&relations),
                Some(closing) => {
                    let mut ever = relations.clone();
                    for book in self
                        .books
                        .iter()
                        .filter(|book| closing.sources.contains(&book.source.name))
                    {
                        let rows: Vec<&Value> = book.ever.iter().collect();
                        let schema = &book.source.schema;
                        ever.insert(
                            book.source.name.clone(),
                            (schema.clone(), vec![batch(schema, &rows)]).into(),
                        );
                    }
                    self.closed(closing, tick, &answer(&ever))
                }
            };
            if wanted.contains(view.name.as_str()) {
                answers.insert(view.name.clone(), canonical(&encoded(&rows)));
            }
            relations.insert(view.name.clone(), (view.schema.clone(), rows).into());
        }
        answers
    }

    /// Returns these views, and those they read.
    fn needed<'a>(&'a self, wanted: &BTreeSet<&'a str>) -> BTreeSet<&'a str> {
        let mut needed = wanted.clone();
        for definition in self.deployment.views.iter().rev() {
            if needed.contains(definition.view.name.as_str()) {
                needed.extend(definition.view.inputs.iter().map(String::as_str));
            }
        }
        needed
    }

    /// Of what a view answers over all rows there ever were, what it must show.
    ///
    /// Its one source holds back what is late, so that no row comes into a bucket that is closed.
    fn closed(&self, closing: &Closing, tick: u64, rows: &[RecordBatch]) -> Vec<RecordBatch> {
        assert!(
            closing.views.is_empty() && closing.unheld.is_empty(),
            "views over sources alone"
        );
        let watermark = |book: &Book| {
            let clock_us = if tick > self.tick {
                book.clock_us
            } else {
                book.clock_before_us
            };
            Some(clock_us? - book.source.time.as_ref()?.lateness_us?)
        };
        let sources = self
            .books
            .iter()
            .filter(|book| closing.sources.contains(&book.source.name));
        let watermark_us: Option<Vec<i64>> = sources.map(watermark).collect();
        let watermark_us = watermark_us.and_then(|all| all.into_iter().min());
        let at = |bound: fn(&Closing, i64) -> Option<i64>| {
            watermark_us
                .and_then(|watermark_us| bound(closing, watermark_us))
                .unwrap_or(i64::MIN)
        };
        let (below, gone) = (at(Closing::below), at(Closing::gone));
        let is_shown = |bucket: Option<i64>| {
            let bucket = bucket.expect("a bucket");
            bucket >= gone && (closing.emit == Emit::OnChange || bucket < below)
        };
        rows.iter().map(|rows| chosen(rows, closing.bucket, is_shown)).collect()
    }
}

impl Book {
    /// Begins a tick: rows leave whose segment the clock had passed by `retain` before.
    fn begin(&mut self, tick: u64) {
        self.clock_before_us = self.clock_us;
        let Some(now_us) = self.expiry_clock(tick, self.clock_us) else {
            return;
        };
        if self.source.retain_us.is_some() {
            self.held
                .retain(|held| held.leaves_us.is_none_or(|leaves| leaves > now_us));
        }
    }

    fn expiry_clock(&self, tick: u64, clock_us: Option<i64>) -> Option<i64> {
        match self.source.time {
            Some(_) => clock_us,
            None => i64::try_from(tick).ok(),
        }
    }

    /// Returns the rows at a tick, which may be one without rows after the newest.
    fn rows_at(&self, tick: u64, newest: u64) -> Vec<&Value> {
        let now_us = match tick > newest {
            true => self.expiry_clock(tick, self.clock_us),
            false => None,
        };
        let is_there = |held: &&Held| {
            held.leaves_us
                .is_none_or(|leaves| now_us.is_none_or(|now| leaves > now))
        };
        self.held.iter().filter(is_there).map(|held| &held.row).collect()
    }

    /// Takes a POST's rows; returns how many were accepted, late and rejected.
    fn take(&mut self, post: &Post, tick: u64) -> [u64; 3] {
        let mut counts = [0, 0, post.bad.len() as u64];
        for row in &post.rows {
            counts[match post.operation {
                Operation::Insert => self.insert(row, tick),
                Operation::Delete => self.delete(row),
            }] += 1;
        }
        self.late += counts[1] as usize;
        self.rejected += counts[2] as usize;
        counts
    }

    /// Returns 0 where a row is accepted, 1 where it is late, 2 where it is rejected.
    fn insert(&mut self, row: &Value, tick: u64) -> usize {
        let at = self.source.time.as_ref().map(|time| {
            let text = row[self.source.schema.field(time.column).name()].as_str();
            let at = DateTime::parse_from_rfc3339(text.expect("a time")).expect("the test sends RFC 3339");
            at.timestamp_micros()
        });
        let leaves_us = self.source.retain_us.map(|retain| {
            let width = (retain / 32).max(1);
            (at.unwrap_or(tick as i64).div_euclid(width) + 1) * width + retain
        });
        if let (Some(at), Some(time), Some(before)) = (at, &self.source.time, self.clock_before_us) {
            if time.lateness_us.is_some_and(|lateness| at < before - lateness) {
                return 1;
            }
            if leaves_us.is_some_and(|leaves| leaves <= before) {
                return 2;
            }
        }
        self.clock_us = self.clock_us.max(at);
        if self.source.key.is_some() {
            if let Some(found) = (0..self.held.len()).find(|&held| self.is_same(held, row)) {
                self.held.remove(found);
            }
        } else if self.source.time.is_some() {
            self.ever.push(row.clone());
        }
        self.held.push(Held {
            row: row.clone(),
            leaves_us,
        });
        0
    }

    fn delete(&mut self, row: &Value) -> usize {
        // Of equal rows the one that would have left first goes.
        let found = (0..self.held.len())
            .filter(|&held| self.is_same(held, row))
            .min_by_key(|&held| self.held[held].leaves_us);
        let Some(found) = found else { return 2 };
        self.held.remove(found);
        0
    }

    fn is_same(&self, held: usize, row: &Value) -> bool {
        let held = &self.held[held].row;
        match &self.source.key {
            Some(key) => key.iter().all(|&column| {
                let name = self.source.schema.field(column).name();
                held[name] == row[name]
            }),
            None => held == row,
        }
    }
}

/// Makes a batch with arrow's own reader, not with the decoder under test.
fn batch(schema: &SchemaRef, rows: &[&Value]) -> RecordBatch {
    let mut decoder = ReaderBuilder::new(Arc::clone(schema))
        .with_batch_size(rows.len().max(1))
        .build_decoder()
        .expect("a decoder");
    decoder.serialize(rows).expect("rows of the schema");
    let batch = decoder.flush().expect("rows of the schema");
    batch.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(schema)))
}
