//! Dead letters: rows that were late or rejected, kept for people to read.
//!
//! Each table has a bound of its own; the oldest rows go first, and counters
//! remember how many there ever were.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, UInt64Type};
use dataflows::Tick;

/// Letters kept in each table.
pub const LETTERS_MAX: usize = 100_000;
/// Text kept in each table, in bytes.
pub const LETTER_BYTES_MAX: usize = 64 << 20;

/// The names of the tables in checkpoints.
pub(super) const LATE: &str = "late";
pub(super) const REJECTED: &str = "rejected";

/// A row that did not enter.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) source: Arc<str>,
    pub(super) tick: Tick,
    pub(super) reason: String,
    pub(super) raw: String,
}

/// A bounded table of letters.
#[derive(Default)]
pub(super) struct Letters {
    letters: VecDeque<Letter>,
    bytes: usize,
    total: u64,
}

impl Letters {
    pub(super) fn push(&mut self, letter: Letter) {
        self.bytes += letter.raw.len() + letter.reason.len();
        self.total += 1;
        self.letters.push_back(letter);
        while self.letters.len() > LETTERS_MAX || self.bytes > LETTER_BYTES_MAX {
            let Some(oldest) = self.letters.pop_front() else { break };
            self.bytes -= oldest.raw.len() + oldest.reason.len();
        }
    }

    /// Returns how many there ever were.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Takes in what [`batch`](Self::batch) returned, of so many as there ever were.
    pub(super) fn restore(&mut self, rows: &RecordBatch, total: u64) {
        let text = |column: usize| rows.column(column).as_string::<i32>();
        let ticks = rows.column(1).as_primitive::<UInt64Type>();
        for row in 0..rows.num_rows() {
            self.push(Letter {
                source: text(0).value(row).into(),
                tick: ticks.value(row),
                reason: text(3).value(row).to_owned(),
                raw: text(4).value(row).to_owned(),
            });
        }
        self.total = self.total.max(total);
    }

    /// Returns the letters up to a tick, oldest first.
    pub(super) fn batch(&self, through: Tick) -> RecordBatch {
        let letters = || self.letters.iter().filter(|letter| letter.tick <= through);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(letters().map(|letter| &*letter.source))),
            Arc::new(UInt64Array::from_iter_values(letters().map(|letter| letter.tick))),
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(letters().map(|letter| letter.tick as i64))
                    .with_timezone("UTC"),
            ),
            Arc::new(StringArray::from_iter_values(letters().map(|letter| &letter.reason))),
            Arc::new(StringArray::from_iter_values(letters().map(|letter| &letter.raw))),
        ];
        RecordBatch::try_new(schema(), columns).expect("five columns a letter")
    }
}

/// The columns of `sangam.late` and `sangam.rejected`.
pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("source", DataType::Utf8, false),
        Field::new("tick", DataType::UInt64, false),
        Field::new(
            "at",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            false,
        ),
        Field::new("reason", DataType::Utf8, false),
        Field::new("row", DataType::Utf8, false),
    ]))
}
