//! Requests that are known by a key, so that one that is sent again is not taken again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};

use super::coordinator::Accepted;

/// Keys remembered; the oldest are forgotten first.
pub const IDEMPOTENCY_KEYS_MAX: usize = 100_000;

/// The name of the table in checkpoints.
pub(super) const TABLE: &str = "idempotency";

/// What was answered to the newest requests with a key.
#[derive(Default)]
pub(super) struct Answered {
    answers: HashMap<(Arc<str>, String), Accepted>,
    order: VecDeque<(Arc<str>, String)>,
}

impl Answered {
    /// Returns what was answered to a source's request of this key.
    pub(super) fn find(&self, source: &Arc<str>, key: &str) -> Option<Accepted> {
        let answer = self.answers.get(&(Arc::clone(source), key.to_owned()))?;
        Some(Accepted {
            repeated: true,
            ..answer.clone()
        })
    }

    pub(super) fn remember(&mut self, source: &Arc<str>, key: &str, answer: &Accepted) {
        let key = (Arc::clone(source), key.to_owned());
        if self.answers.insert(key.clone(), answer.clone()).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > IDEMPOTENCY_KEYS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.answers.remove(&oldest);
            }
        }
    }

    /// Returns all of it, the oldest first; why rows were rejected is not part of it.
    pub(super) fn batch(&self) -> RecordBatch {
        let answers = || self.order.iter().filter_map(|key| Some((key, self.answers.get(key)?)));
        let count = |of: fn(&Accepted) -> u64| -> ArrayRef {
            Arc::new(UInt64Array::from_iter_values(answers().map(|(_, answer)| of(answer))))
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(
                answers().map(|((source, _), _)| &**source),
            )),
            Arc::new(StringArray::from_iter_values(answers().map(|((_, key), _)| key))),
            count(|answer| answer.tick),
            count(|answer| answer.accepted as u64),
            count(|answer| answer.late as u64),
            count(|answer| answer.rejected as u64),
        ];
        let text = |name| Field::new(name, DataType::Utf8, false);
        let number = |name| Field::new(name, DataType::UInt64, false);
        let schema = Schema::new(vec![
            text("source"),
            text("key"),
            number("tick"),
            number("accepted"),
            number("late"),
            number("rejected"),
        ]);
        RecordBatch::try_new(Arc::new(schema), columns).expect("six columns an answer")
    }

    /// Takes in what [`batch`](Self::batch) returned.
    pub(super) fn restore(&mut self, rows: &RecordBatch) {
        let text = |column: usize| rows.column(column).as_string::<i32>();
        let number = |column: usize| rows.column(column).as_primitive::<UInt64Type>();
        for row in 0..rows.num_rows() {
            let answer = Accepted {
                accepted: number(3).value(row) as usize,
                late: number(4).value(row) as usize,
                rejected: number(5).value(row) as usize,
                reasons: Vec::new(),
                tick: number(2).value(row),
                repeated: false,
            };
            self.remember(&text(0).value(row).into(), text(1).value(row), &answer);
        }
    }
}
