//! What is sent at each tick: inserts, deletions, nothing at all.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use connectors::{Decoded, Rejected};
use sangam::engine::Operation;

use super::dice::Dice;
use super::ledger::{Book, Verdict};
use super::sources::Kind;
use super::values::{Row, Taste, batch};

/// What happens at one tick.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Post {
        source: usize,
        operation: Operation,
        rows: Vec<Row>,
        /// Deletions by key mostly name the key alone.
        only_key: bool,
        /// Rows that a decoder refused.
        refused: usize,
    },
    /// Time passes.
    Advance { to: u64 },
}

/// Rows a source holds at most before most of what comes is deletions.
const HELD_MAX: usize = 45;

/// Makes the next step up.
pub(crate) fn step(dice: &mut Dice, books: &[Book], taste: Taste, tick: u64) -> Step {
    if dice.chance(8) {
        let forward = dice.between(0, 4_000) * 1_000_000;
        return Step::Advance {
            to: (taste.now_us.max(tick as i64 - 60_000_000_000) + forward) as u64,
        };
    }
    let source = dice.below(books.len());
    let book = &books[source];
    let held = book.len();
    let deletes = match book.spec.kind {
        Kind::Append => dice.chance(2),
        Kind::Snapshot { .. } => false,
        _ => held > 0 && dice.chance(if held > HELD_MAX { 80 } else { 42 }),
    };
    let refused = if dice.chance(5) { dice.between(1, 3) as usize } else { 0 };
    if !deletes {
        let most = if book.spec.can_be_emptied() { 14 } else { 6 };
        let count = dice.between(1, most);
        let mut rows: Vec<Row> = (0..count).map(|_| book.spec.row(dice, taste)).collect();
        if let Kind::Snapshot { .. } = book.spec.kind {
            // Most of what there is is still there.
            rows.truncate(dice.below(rows.len() + 1));
            let stays = *dice.pick(&[0, 60, 85, 95]);
            let held = (0..held.min(HELD_MAX))
                .filter(|_| dice.chance(stays))
                .map(|at| book.row(at).clone());
            rows.splice(0..0, held.collect::<Vec<Row>>());
        } else if dice.chance(30) {
            // A row twice, and one that is there already.
            rows.push(dice.pick(&rows).clone());
            if held > 0 {
                rows.push(book.row(dice.below(held)).clone());
            }
        }
        return Step::Post {
            source,
            operation: Operation::Insert,
            rows,
            only_key: false,
            refused,
        };
    }
    let mut rows: Vec<Row> = Vec::new();
    let count = dice.between(1, if held > HELD_MAX { 30 } else { 12 });
    for _ in 0..count {
        rows.push(if held == 0 || dice.chance(10) {
            book.spec.row(dice, taste)
        } else {
            book.row(dice.below(held)).clone()
        });
    }
    let only_key = dice.chance(70);
    Step::Post {
        source,
        operation: Operation::Delete,
        rows,
        only_key,
        refused,
    }
}

/// Enters a step into the books; returns its tick and what the reply must say.
pub(crate) fn enter(step: &Step, books: &mut [Book], last: u64) -> (u64, Verdict) {
    let tick = match step {
        Step::Advance { to } => (*to).max(last + 1),
        Step::Post {
            source,
            rows,
            operation,
            ..
        } => {
            // What is taken back moves no clock.
            let time = books[*source].spec.time.filter(|_| *operation == Operation::Insert);
            let newest = time.and_then(|(column, _)| rows.iter().filter_map(|row| row[column].time()).max());
            (newest.unwrap_or(0) as u64).max(last + 1)
        }
    };
    books.iter_mut().for_each(|book| book.begin(tick));
    let verdict = match step {
        Step::Advance { .. } => Verdict::default(),
        Step::Post {
            source,
            operation,
            rows,
            refused,
            ..
        } => {
            let book = &mut books[*source];
            let mut verdict = match operation {
                Operation::Insert if matches!(book.spec.kind, Kind::Snapshot { .. }) => {
                    book.replace(tick, rows, *refused > 0)
                }
                Operation::Insert => book.insert(tick, rows),
                Operation::Delete => book.delete(rows),
            };
            book.refuse(*refused);
            verdict.rejected += refused;
            verdict
        }
    };
    (tick, verdict)
}

/// What the engine is handed.
pub(crate) fn decoded(schema: &SchemaRef, book: &Book, rows: &[Row], only_key: bool, refused: usize) -> Decoded {
    let whole = batch(schema, rows);
    let rows = match book.spec.key_schema(schema).filter(|_| only_key) {
        Some((schema, key)) => {
            let columns = key.iter().map(|&at| Arc::clone(whole.column(at))).collect();
            RecordBatch::try_new(schema, columns).expect("columns of the schema")
        }
        None => whole,
    };
    let rejected = (0..refused).map(|_| Rejected::new(b"not a row", "no format")).collect();
    Decoded { rows, rejected }
}
