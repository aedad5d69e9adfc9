//! The test's own books: which rows each source must hold at a tick, and what
//! DataFusion answers over them.
//!
//! Nothing here comes from the engine. Rows are what the test sent; lateness,
//! keys, retractions and expiry are kept by the rules of the design's section 4,
//! row by row.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::json::ReaderBuilder;
use chrono::DateTime;
use dataflows::json::RowEncoder;
use queries::Relations;
use sangam::config::{self, Deployment, Source};
use serde_json::Value;

/// What is done with rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Insert,
    Delete,
}

/// What became of the rows of one POST.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) accepted: usize,
    pub(super) late: usize,
    pub(super) rejected: usize,
}

pub(super) struct Ledger {
    deployment: Deployment,
    books: Vec<Book>,
    runtime: tokio::runtime::Runtime,
}

struct Book {
    source: Source,
    rows: Vec<Held>,
    /// The newest accepted event time.
    clock: Option<i64>,
    /// The same before the tick now open.
    clock_before: Option<i64>,
}

struct Held {
    row: Value,
    /// When it leaves, by the source's clock.
    leaves: Option<i64>,
}

impl Ledger {
    /// Opens the books of a deployment.
    pub(super) fn open(dir: &Path) -> Ledger {
        let deployment = config::load(dir).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let books = deployment
            .sources
            .iter()
            .map(|source| Book {
                source: source.clone(),
                rows: Vec::new(),
                clock: None,
                clock_before: None,
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        Ledger {
            deployment,
            books,
            runtime,
        }
    }

    /// Returns every source and view.
    pub(super) fn names(&self) -> Vec<String> {
        let sources = self.deployment.sources.iter().map(|source| source.name.clone());
        sources
            .chain(self.deployment.views.iter().map(|view| view.view.name.clone()))
            .collect()
    }

    /// Enters the rows of one tick.
    pub(super) fn post(&mut self, source: &str, operation: Operation, rows: &[Value], bad: usize, tick: u64) -> Counts {
        self.books.iter_mut().for_each(|book| book.begin(tick));
        let book = self
            .books
            .iter_mut()
            .find(|book| book.source.name == source)
            .expect("a source");
        let mut counts = Counts {
            rejected: bad,
            ..Counts::default()
        };
        for row in rows {
            match operation {
                Operation::Insert => book.insert(row, tick, &mut counts),
                Operation::Delete => book.delete(row, &mut counts),
            }
        }
        counts
    }

    /// Returns the rows a source holds.
    pub(super) fn held(&self, source: &str) -> Vec<Value> {
        let book = self
            .books
            .iter()
            .find(|book| book.source.name == source)
            .expect("a source");
        book.rows.iter().map(|held| held.row.clone()).collect()
    }

    /// Returns the right rows of every source and view at a tick, sorted.
    pub(super) fn answers(&self, tick: u64) -> BTreeMap<String, Vec<String>> {
        let mut relations: Relations = Relations::new();
        let mut answers = BTreeMap::new();
        for book in &self.books {
            let batch = batch(&book.source.schema, &self.deployment.options.time_zone, &book.rows);
            answers.insert(
                book.source.name.clone(),
                canonical(&encoded(std::slice::from_ref(&batch))),
            );
            relations.insert(
                book.source.name.clone(),
                (book.source.schema.clone(), vec![batch]).into(),
            );
        }
        for definition in &self.deployment.views {
            let view = &definition.view;
            let answer = self
                .runtime
                .block_on(self.deployment.catalog.batch(view, &relations, tick));
            let batches = answer.unwrap_or_else(|error| panic!("{} by DataFusion: {error}", view.name));
            answers.insert(view.name.clone(), canonical(&encoded(&batches)));
            relations.insert(view.name.clone(), (view.schema.clone(), batches).into());
        }
        answers
    }
}

impl Book {
    /// Opens a tick: rows leave whose segment the clock had passed by `retain` before.
    fn begin(&mut self, tick: u64) {
        self.clock_before = self.clock;
        let now = if self.source.time.is_some() {
            self.clock_before
        } else {
            i64::try_from(tick).ok()
        };
        if let Some(now) = now {
            self.rows.retain(|held| held.leaves.is_none_or(|leaves| leaves > now));
        }
    }

    fn insert(&mut self, row: &Value, tick: u64, counts: &mut Counts) {
        let at = self.source.time.as_ref().map(|time| {
            let name = self.source.schema.field(time.column).name();
            let text = row[name].as_str().expect("the test sends times");
            DateTime::parse_from_rfc3339(text)
                .expect("the test sends RFC 3339")
                .timestamp_micros()
        });
        let leaves = self.source.retain_us.map(|retain| {
            let width = (retain / 32).max(1);
            (at.unwrap_or(tick as i64).div_euclid(width) + 1) * width + retain
        });
        if let (Some(at), Some(time), Some(before)) = (at, &self.source.time, self.clock_before) {
            if time.lateness_us.is_some_and(|lateness| at < before - lateness) {
                counts.late += 1;
                return;
            }
            if leaves.is_some_and(|leaves| leaves <= before) {
                counts.rejected += 1;
                return;
            }
        }
        self.clock = self.clock.max(at);
        counts.accepted += 1;
        if let Some(key) = self.key() {
            self.rows
                .retain(|held| key.iter().any(|column| held.row[column] != row[column]));
        }
        self.rows.push(Held {
            row: row.clone(),
            leaves,
        });
    }

    fn delete(&mut self, row: &Value, counts: &mut Counts) {
        let same = |held: &Held| match self.key() {
            Some(key) => key.iter().all(|column| held.row[column] == row[column]),
            None => held.row == *row,
        };
        // Of equal rows the one that would have left first goes.
        let found = (0..self.rows.len())
            .filter(|&at| same(&self.rows[at]))
            .min_by_key(|&at| self.rows[at].leaves);
        match found {
            Some(at) => {
                self.rows.remove(at);
                counts.accepted += 1;
            }
            None => counts.rejected += 1,
        }
    }

    fn key(&self) -> Option<Vec<String>> {
        let key = self.source.key.as_ref()?;
        Some(
            key.iter()
                .map(|&column| self.source.schema.field(column).name().clone())
                .collect(),
        )
    }
}

/// Makes a batch with arrow's own reader, not with the decoder under test.
fn batch(schema: &SchemaRef, time_zone: &str, held: &[Held]) -> RecordBatch {
    assert!(!time_zone.is_empty(), "timestamps carry a zone");
    let rows: Vec<&Value> = held.iter().map(|held| &held.row).collect();
    let mut decoder = ReaderBuilder::new(Arc::clone(schema))
        .with_batch_size(rows.len().max(1))
        .build_decoder()
        .expect("a decoder");
    decoder.serialize(&rows).expect("rows of the schema");
    let batch = decoder.flush().expect("rows of the schema");
    batch.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(schema)))
}

/// Writes rows as the program writes them.
pub(crate) fn encoded(batches: &[RecordBatch]) -> Vec<u8> {
    let mut out = vec![b'['];
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        if out.len() > 1 {
            out.push(b',');
        }
        RowEncoder::new(&batch.schema()).objects(batch, &mut out);
    }
    out.push(b']');
    out
}

/// Reads an array of rows and sorts them, each in one spelling.
pub(crate) fn canonical(rows: &[u8]) -> Vec<String> {
    let rows: Vec<Value> = serde_json::from_slice(rows).expect("an array of rows");
    let mut rows: Vec<String> = rows.iter().map(Value::to_string).collect();
    rows.sort();
    rows
}
