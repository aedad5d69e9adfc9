//! A thousand stations that measure the quality of water once a minute, from a fixed seed.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Builder, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

pub const STATIONS: usize = 1_000;
/// 2026-01-01T00:00:00Z.
pub const START_US: i64 = 1_767_225_600_000_000;
const MINUTE_US: i64 = 60_000_000;

/// A column: where it starts, how far it strays in a minute, how strongly it is drawn back, its decimals.
pub const COLUMNS: [(&str, f64, f64, f64, i32); 4] = [
    ("ph", 7.7, 0.03, 0.02, 2),
    ("dissolved_oxygen", 6.6, 0.08, 0.02, 2),
    ("turbidity", 35.0, 1.5, 0.02, 1),
    ("temperature", 25.0, 0.1, 0.01, 1),
];

/// What the stations measure: walks with the resolution of their sensors.
pub struct Stations {
    random: Pcg64,
    names: Vec<String>,
    values: Vec<[f64; COLUMNS.len()]>,
}

impl Stations {
    pub fn new() -> Stations {
        let mut random = Pcg64::seed_from_u64(20);
        let values = (0..STATIONS).map(|_| COLUMNS.map(|(_, base, step, ..)| base + step * 20.0 * normal(&mut random)));
        Stations {
            names: (0..STATIONS).map(|station| format!("ST{station:04}")).collect(),
            values: values.collect(),
            random,
        }
    }

    /// Returns the readings of some minutes, in the order they are taken: each station at a second of its own.
    pub fn minutes(&mut self, minutes: std::ops::Range<i64>) -> RecordBatch {
        let count = minutes.clone().count() * STATIONS;
        let mut stations = Vec::with_capacity(count);
        let mut times = Vec::with_capacity(count);
        let mut columns = COLUMNS.map(|_| Float64Builder::with_capacity(count));
        for minute in minutes {
            for station in 0..STATIONS {
                stations.push(self.names[station].as_str());
                // Stations come in turn within the minute; their clocks show milliseconds.
                let within = station as i64 * MINUTE_US / STATIONS as i64 + self.random.random_range(0..50) * 1_000;
                times.push(START_US + minute * MINUTE_US + within);
                for (place, (_, base, step, pull, decimals)) in COLUMNS.iter().enumerate() {
                    let value = &mut self.values[station][place];
                    *value += step * normal(&mut self.random) + pull * (base - *value);
                    let resolution = 10_f64.powi(*decimals);
                    match self.random.random_bool(0.002) {
                        true => columns[place].append_null(),
                        false => columns[place].append_value((*value * resolution).round() / resolution),
                    }
                }
            }
        }
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(stations)),
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
        ];
        arrays.extend(columns.map(|mut column| Arc::new(column.finish()) as ArrayRef));
        RecordBatch::try_new(schema(), arrays).expect("readings")
    }
}

/// About a normal variate.
fn normal(random: &mut Pcg64) -> f64 {
    (0..4).map(|_| random.random_range(-1.0..1.0)).sum::<f64>() * 0.87
}

/// Their columns.
pub fn schema() -> SchemaRef {
    let at = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields = vec![
        Field::new("station", DataType::Utf8, false),
        Field::new("at", at, false),
    ];
    fields.extend(COLUMNS.map(|(name, ..)| Field::new(name, DataType::Float64, true)));
    Arc::new(Schema::new(fields))
}
