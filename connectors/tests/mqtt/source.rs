//! A source as the engine uses it: read, logged, acknowledged.
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, Int64Type, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use connectors::{Column, ConfigError, ConnectorConfig, FormatConfig, Position, Read, Reader, Setting};

use crate::broker::DEADLINE;

/// The time that tests are told it is.
pub(crate) const NOW_US: i64 = 1_700_000_000_000_000;

/// A reader, and what came of it.
pub(crate) struct Source {
    reader: Box<dyn Reader>,
    /// Rows as they came: their values, joined.
    pub(crate) rows: Vec<String>,
    /// The values of the column `n`.
    pub(crate) numbers: Vec<i64>,
    /// Rejected ones, with the reason.
    pub(crate) rejected: Vec<String>,
    /// What was logged.
    pub(crate) position: Position,
    pub(crate) batches: u64,
}

fn columns() -> Vec<Column> {
    let column = |name: &str, data_type, nullable| Column::new(Arc::new(Field::new(name, data_type, nullable)));
    vec![
        column("station", DataType::Utf8, true),
        column("n", DataType::Int64, true),
        column("topic", DataType::Utf8, true),
        column("retained", DataType::Boolean, true),
        column("qos", DataType::Int16, true),
        column("client", DataType::Utf8, true),
        column(
            "received",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            true,
        ),
    ]
}

/// Opens a source with these options; its columns are station, n, topic, retained, qos, client and received.
pub(crate) fn open(options: &str) -> Result<Source, ConfigError> {
    open_as("readings", options, Path::new("."))
}

pub(crate) fn open_as(name: &str, options: &str, directory: &Path) -> Result<Source, ConfigError> {
    let connector: ConnectorConfig = toml::from_str(options).map_err(|error| ConfigError::new(error.message()))?;
    let columns = columns();
    let setting = Setting {
        name,
        columns: &columns,
        format: &FormatConfig::default(),
        time_column: None,
        time_zone: "UTC",
        directory,
        start_us: 0,
    };
    if let Some(problem) = connector.check(&setting).into_iter().next() {
        return Err(problem);
    }
    Ok(Source {
        reader: connector.reader(&setting)?.unwrap(),
        rows: Vec::new(),
        numbers: Vec::new(),
        rejected: Vec::new(),
        position: Position::new(),
        batches: 0,
    })
}

/// The one problem that a declaration has.
pub(crate) fn problem(options: &str) -> String {
    match open(options) {
        Ok(_) => panic!("no problem with {options}"),
        Err(error) => error.what,
    }
}

impl Source {
    /// Goes on where an earlier one was, which was lost.
    pub(crate) fn resume(mut self, position: &Position) -> Source {
        self.reader.resume(position).unwrap();
        self.position = position.clone();
        self
    }

    /// Reads once; tells whether anything came.
    pub(crate) fn read(&mut self) -> bool {
        match self.reader.read(NOW_US).unwrap() {
            Read::Rows(batch) => {
                self.batches += 1;
                let rows = &batch.decoded.rows;
                let options = FormatOptions::default().with_null("-");
                let columns: Vec<ArrayFormatter<'_>> = rows
                    .columns()
                    .iter()
                    .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
                    .collect();
                for row in 0..rows.num_rows() {
                    let values: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
                    self.rows.push(values.join(" "));
                    let numbers = rows.column(1).as_primitive::<Int64Type>();
                    self.numbers.extend(numbers.is_valid(row).then(|| numbers.value(row)));
                }
                let rejected = batch.decoded.rejected.into_iter();
                self.rejected
                    .extend(rejected.map(|row| format!("{}: {}", row.reason, row.raw)));
                self.position.extend(batch.position);
                true
            }
            Read::Wait(wait) => {
                std::thread::sleep(wait);
                false
            }
            Read::End => panic!("the source ended"),
        }
    }

    /// Reads until so many rows came, good or bad; acknowledges none.
    #[track_caller]
    pub(crate) fn read_to(&mut self, rows: usize) {
        let deadline = Instant::now() + DEADLINE;
        while self.rows.len() + self.rejected.len() < rows {
            assert!(
                Instant::now() < deadline,
                "{} rows of {rows} came, {:?} were rejected",
                self.rows.len(),
                self.rejected
            );
            self.read();
        }
    }

    /// Reads for a while in which nothing should come; returns how many rows there are.
    pub(crate) fn read_for(&mut self, time: Duration) -> usize {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.read();
        }
        self.rows.len() + self.rejected.len()
    }

    /// Says that all that was read is durable.
    pub(crate) fn acknowledge(&mut self) {
        self.reader.acknowledge(self.batches).unwrap();
    }

    /// Reads until it is so, and acknowledges all meanwhile.
    #[track_caller]
    pub(crate) fn follow(&mut self, what: &str, mut so: impl FnMut(&Source) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        self.acknowledge();
        while !so(self) {
            assert!(
                Instant::now() < deadline,
                "in vain: {what}; {} rows came, {:?} were rejected",
                self.rows.len(),
                self.rejected
            );
            if self.read() {
                self.acknowledge();
            }
        }
    }

    /// The numbers that came, in order of size.
    pub(crate) fn sorted(&self) -> Vec<i64> {
        let mut numbers = self.numbers.clone();
        numbers.sort_unstable();
        numbers
    }
}

/// Messages with these numbers.
pub(crate) fn numbered(numbers: std::ops::Range<i64>) -> impl Iterator<Item = String> {
    numbers.map(|n| format!("{{\"n\":{n}}}"))
}
