//! What failed inside a loop, added up by tick: a row may come and go from round to round.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};

use crate::json::RowEncoder;
use crate::operators::linear::error_schema;
use crate::update::{Tick, Updates};

/// Error rows, as expression, row and reason, and how often each is there.
type Counted = HashMap<[String; 3], i64>;

/// Error rows of ticks that are not complete.
#[derive(Clone, Default)]
pub(super) struct Errors {
    by_tick: Rc<RefCell<BTreeMap<Tick, Counted>>>,
}

impl Errors {
    pub(super) fn add(&self, tick: Tick, error: [String; 3], diff: i64) {
        let mut by_tick = self.by_tick.borrow_mut();
        *by_tick.entry(tick).or_default().entry(error).or_default() += diff;
    }

    /// Takes out what the ticks before `frontier` changed.
    pub(super) fn before(&self, frontier: Tick) -> Vec<(Tick, Updates)> {
        let mut by_tick = self.by_tick.borrow_mut();
        if by_tick.is_empty() {
            return Vec::new();
        }
        let later = by_tick.split_off(&frontier);
        let complete = std::mem::replace(&mut *by_tick, later);
        let of_tick = |(tick, errors): (Tick, HashMap<[String; 3], i64>)| {
            let (errors, diffs): (Vec<[String; 3]>, Vec<i64>) =
                errors.into_iter().filter(|(_, diff)| *diff != 0).unzip();
            let column = |at: usize| Arc::new(StringArray::from_iter_values(errors.iter().map(|error| &error[at])));
            let columns: Vec<ArrayRef> = (0..3).map(|at| column(at) as ArrayRef).collect();
            let rows = RecordBatch::try_new(error_schema(), columns).expect("three texts a failure");
            (tick, Updates::new(rows, diffs))
        };
        complete
            .into_iter()
            .map(of_tick)
            .filter(|(_, updates)| !updates.is_empty())
            .collect()
    }
}

/// Writes a row for people to read.
pub(super) fn row_text(batch: &RecordBatch, row: usize) -> String {
    let mut text = Vec::new();
    RowEncoder::new(&batch.schema()).object(batch, row, &mut text);
    String::from_utf8(text).expect("JSON is UTF-8")
}
