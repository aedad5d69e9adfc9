//! A reader as the engine uses it: what it yielded, what was logged of it, what it was told.
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, Field, TimeUnit};
use connectors::{Column, ConnectorConfig, FormatConfig, Position, Read, Reader, Setting};
use dataflows::json::RowEncoder;

/// How long anything may take.
pub const SOON: Duration = Duration::from_secs(40);

/// A column by its SQL name of a type; with `*` it is one of the key, with `!` it is not null.
pub fn column(declared: &str) -> Column {
    let (name, kind) = declared.split_once(' ').expect("a name and a type");
    let data_type = match kind.trim_end_matches(['!', '*']) {
        "text" => DataType::Utf8,
        "integer" => DataType::Int32,
        "bigint" => DataType::Int64,
        "double" => DataType::Float64,
        "bytea" => DataType::Binary,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        other => panic!("no type {other} here"),
    };
    let mut column = Column::new(Arc::new(Field::new(name, data_type, !kind.ends_with(['!', '*']))));
    column.key = kind.ends_with('*');
    column
}

/// What a source declares.
pub struct Source {
    pub connector: ConnectorConfig,
    pub format: FormatConfig,
    pub columns: Vec<Column>,
}

impl Source {
    pub fn new(connector: &str, format: &str, columns: &[&str]) -> Source {
        Source {
            connector: toml::from_str(connector).unwrap_or_else(|error| panic!("{connector}\n{error}")),
            format: toml::from_str(format).expect("a format"),
            columns: columns.iter().map(|declared| column(declared)).collect(),
        }
    }

    pub fn setting(&self) -> Setting<'_> {
        Setting {
            name: "readings",
            columns: &self.columns,
            format: &self.format,
            time_column: None,
            time_zone: "UTC",
            directory: Path::new("."),
            start_us: 0,
        }
    }

    /// What is wrong with it.
    pub fn problems(&self) -> Vec<String> {
        let problems = self.connector.check(&self.setting());
        problems
            .iter()
            .map(|problem| format!("{problem} {}", problem.hint.clone().unwrap_or_default()))
            .collect()
    }

    /// Begins to read, from where a run before was at.
    pub fn read_from(&self, position: &Position) -> Run {
        assert_eq!(self.problems(), Vec::<String>::new());
        let reader = self.connector.reader(&self.setting()).expect("a reader");
        let mut reader = reader.expect("a source that is read");
        if !position.is_empty() {
            reader.resume(position).expect("going on");
        }
        Run {
            reader,
            acknowledges: true,
            batches: 0,
            rows: Vec::new(),
            rejected: Vec::new(),
            position: position.clone(),
            partitions: BTreeMap::new(),
        }
    }

    pub fn read(&self) -> Run {
        self.read_from(&Position::new())
    }
}

/// A reader and all it has yielded.
pub struct Run {
    pub reader: Box<dyn Reader>,
    /// Whether each batch counts as safe at once.
    pub acknowledges: bool,
    pub batches: u64,
    /// Rows as JSON.
    pub rows: Vec<String>,
    /// Reasons.
    pub rejected: Vec<String>,
    /// What was logged.
    pub position: Position,
    /// How many rows each partition was told with.
    pub partitions: BTreeMap<String, usize>,
}

impl Run {
    /// Reads once; tells whether something came.
    pub fn step(&mut self) -> bool {
        match self.reader.read(i64::MAX).expect("reading on") {
            Read::Rows(batch) => {
                self.batches += 1;
                let rows = &batch.decoded.rows;
                let encoder = RowEncoder::new(&rows.schema());
                let bound = encoder.bind(rows);
                for row in 0..rows.num_rows() {
                    let mut text = Vec::new();
                    bound.object(row, &mut text);
                    self.rows.push(String::from_utf8(text).expect("JSON"));
                }
                let told: usize = batch.partitions.iter().map(|(_, rows)| rows).sum();
                assert_eq!(told, rows.num_rows(), "{:?}", batch.partitions);
                for (partition, rows) in &batch.partitions {
                    *self.partitions.entry(partition.to_string()).or_default() += rows;
                }
                self.rejected
                    .extend(batch.decoded.rejected.into_iter().map(|rejected| rejected.reason));
                self.position.extend(batch.position);
                if self.acknowledges {
                    self.acknowledge();
                }
                true
            }
            Read::Wait(time) => {
                std::thread::sleep(time);
                // As the engine does, now and then.
                if self.acknowledges {
                    self.acknowledge();
                }
                false
            }
            Read::End => panic!("it never ends"),
        }
    }

    pub fn acknowledge(&mut self) {
        self.reader.acknowledge(self.batches).expect("acknowledging");
    }

    /// Reads on until something holds.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Run) -> bool) {
        let deadline = Instant::now() + SOON;
        while !holds(self) {
            assert!(
                Instant::now() < deadline,
                "{what}: {} rows, the last {:?}, rejected {:?}, at {:?}",
                self.rows.len(),
                self.rows.last(),
                self.rejected,
                self.position
            );
            self.step();
        }
    }

    /// Reads on until there are so many rows, and makes sure that no more follow at once.
    pub fn rows(&mut self, count: usize) -> &[String] {
        self.until(&format!("{count} rows"), |run| run.rows.len() >= count);
        for _ in 0..5 {
            self.step();
        }
        assert_eq!(self.rows.len(), count, "{:?}", self.rows);
        &self.rows
    }

    /// The rows, sorted.
    pub fn sorted(&self) -> Vec<String> {
        let mut rows = self.rows.clone();
        rows.sort();
        rows
    }
}
