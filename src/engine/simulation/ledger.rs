//! The test's own ledger: which rows were sent, and the tick each was cut into.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use dataflows::Tick;

use super::deployments::deployment;

pub(super) const ORDERS: usize = 0;
pub(super) const STOCK: usize = 1;
pub(super) const SOURCES: usize = 2;

/// Every row that counts, by source: those of a tick that was lost are struck out.
#[derive(Default)]
pub(super) struct Ledger([Vec<Sent>; SOURCES]);

#[derive(Clone, Copy)]
struct Sent {
    tick: Tick,
    at_us: i64,
}

/// What sources hold at a tick.
pub(super) struct Held {
    /// The time of each order; its place is its number.
    pub(super) orders: Vec<i64>,
    /// How many rows of stock there were.
    stock: i64,
    pub(super) now_us: i64,
    /// The time of the newest order before the tick.
    pub(super) clock_before_us: Option<i64>,
}

impl Held {
    /// Returns the newest amount of each item.
    pub(super) fn stock(&self) -> BTreeMap<String, i64> {
        (0..self.stock).map(|row| (item(row), row)).collect()
    }
}

impl Ledger {
    /// Returns how many rows of a source were sent.
    pub(super) fn sent(&self, source: usize) -> i64 {
        self.0[source].len() as i64
    }

    /// Makes the next rows of a source, dated by these times.
    pub(super) fn next(&self, source: usize, times_us: &[i64]) -> RecordBatch {
        let from = self.sent(source);
        let numbers = || from..from + times_us.len() as i64;
        let items: ArrayRef = Arc::new(StringArray::from_iter_values(numbers().map(item)));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers()));
        let schema = Arc::clone(&deployment(0).sources[source].schema);
        let columns = match source {
            ORDERS => {
                let times = TimestampMicrosecondArray::from(times_us.to_vec());
                let times = times.with_data_type(schema.field(2).data_type().clone());
                vec![numbers, items, Arc::new(times) as ArrayRef]
            }
            _ => vec![items, numbers],
        };
        RecordBatch::try_new(schema, columns).expect("the source's columns")
    }

    /// Enters rows that were cut into a tick.
    pub(super) fn enter(&mut self, source: usize, tick: Tick, times_us: &[i64]) {
        self.0[source].extend(times_us.iter().map(|&at_us| Sent { tick, at_us }));
    }

    /// Strikes out what a source lost: all from a row on.
    pub(super) fn strike(&mut self, source: usize, from: i64) {
        self.0[source].truncate(usize::try_from(from).unwrap_or(0));
    }

    /// Returns what sources hold at a tick.
    pub(super) fn at(&self, tick: Tick) -> Held {
        let until = |source: usize| self.0[source].partition_point(|sent| sent.tick <= tick);
        let orders = &self.0[ORDERS][..until(ORDERS)];
        Held {
            orders: orders.iter().map(|sent| sent.at_us).collect(),
            stock: until(STOCK) as i64,
            now_us: tick as i64,
            clock_before_us: orders
                .iter()
                .filter(|sent| sent.tick < tick)
                .map(|sent| sent.at_us)
                .max(),
        }
    }
}

/// The item that row number `at` of a source is of.
pub(super) fn item(at: i64) -> String {
    format!("item {}", at * 7 % 5)
}
