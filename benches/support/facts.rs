//! The updates every contender is given: `(key, amount)`, uniform over the keys, from a fixed seed.
#![allow(dead_code, reason = "each bench uses its part of this")]

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// Rows of one tick.
pub const TICK_ROWS: usize = 10_000;

/// Updates, cut into ticks.
pub struct Facts {
    pub ticks: Vec<Vec<(u64, i64)>>,
}

impl Facts {
    pub fn generate(keys: u64, rows: usize) -> Facts {
        let mut random = Pcg64::seed_from_u64(7);
        let mut row = || (random.random_range(0..keys), random.random_range(-1000..1000));
        Facts {
            ticks: (0..rows / TICK_ROWS)
                .map(|_| (0..TICK_ROWS).map(|_| row()).collect())
                .collect(),
        }
    }

    pub fn rows(&self) -> usize {
        self.ticks.len() * TICK_ROWS
    }

    /// The ticks as batches of `key bigint, amount bigint`.
    pub fn integers(&self) -> Vec<RecordBatch> {
        self.batches(
            |keys| Arc::new(Int64Array::from_iter_values(keys.map(|key| key as i64))),
            integer_amounts,
        )
    }

    /// The same with keys of 15 bytes of text.
    pub fn texts(&self) -> Vec<RecordBatch> {
        self.batches(
            |keys| {
                Arc::new(StringArray::from_iter_values(
                    keys.map(|key| format!("station{key:08}")),
                ))
            },
            integer_amounts,
        )
    }

    /// The same with `amount double`.
    pub fn doubles(&self) -> Vec<RecordBatch> {
        let amounts = |tick: &[(u64, i64)]| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(
                tick.iter().map(|(_, amount)| *amount as f64 * 0.1),
            ))
        };
        self.batches(
            |keys| Arc::new(Int64Array::from_iter_values(keys.map(|key| key as i64))),
            amounts,
        )
    }

    fn batches(
        &self,
        keys: impl Fn(&mut dyn Iterator<Item = u64>) -> ArrayRef,
        amounts: impl Fn(&[(u64, i64)]) -> ArrayRef,
    ) -> Vec<RecordBatch> {
        let batch = |tick: &Vec<(u64, i64)>| {
            let columns = [keys(&mut tick.iter().map(|(key, _)| *key)), amounts(tick)];
            let fields = ["key", "amount"].into_iter().zip(&columns);
            let fields: Vec<Field> = fields
                .map(|(name, column)| Field::new(name, column.data_type().clone(), false))
                .collect();
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.to_vec()).expect("two columns a tick")
        };
        self.ticks.iter().map(batch).collect()
    }
}

fn integer_amounts(tick: &[(u64, i64)]) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(tick.iter().map(|(_, amount)| *amount)))
}

/// A table of one row a key: `key bigint, weight bigint`.
pub fn table(keys: u64) -> RecordBatch {
    let fields = ["key", "weight"].map(|name| Field::new(name, DataType::Int64, false));
    let key: ArrayRef = Arc::new(Int64Array::from_iter_values(0..keys as i64));
    let weight: ArrayRef = Arc::new(Int64Array::from_iter_values((0..keys as i64).map(weight)));
    RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), vec![key, weight]).expect("two columns")
}

/// What the table holds under a key.
pub fn weight(key: i64) -> i64 {
    key % 97 + 1
}
