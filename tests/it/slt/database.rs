//! The engine as a script sees it.
//!
//! - `CREATE SOURCE name`, and below it the source's file without its connector
//! - `CREATE VIEW name AS SELECT …`
//! - `INSERT INTO source VALUES …`, `DELETE FROM source [WHERE …]`: a tick each
//! - `ADVANCE TO 'time'`: a tick without rows
//! - `NOTHING IS HELD`: no operator holds a row
//! - anything else is a query, of any relation

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use connectors::Decoded;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use queries::Relations;
use sangam::config::{self, Deployment};
use sangam::engine::{Engine, Operation, Snapshot};
use sqllogictest::{DB, DBOutput, DefaultColumnType};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::oracle::bag::Reader;

/// Memory a query may use.
const BYTES_MAX: usize = 1 << 30;

/// What a script is told.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Told(String);

fn told(error: impl std::fmt::Display) -> Told {
    Told(error.to_string())
}

/// What happened at a tick.
#[derive(Clone)]
enum Step {
    Rows(String, Operation, RecordBatch),
    Advance(u64),
}

/// A deployment that a script writes, and the script's own books of its rows.
pub(crate) struct Database {
    runtime: Runtime,
    dir: TempDir,
    deployment: Option<Deployment>,
    engine: Option<Engine>,
    tick: u64,
    steps: Vec<Step>,
    /// The rows of each source, one by one.
    rows: BTreeMap<String, Vec<RecordBatch>>,
}

impl DB for Database {
    type Error = Told;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Told> {
        let mut words = sql.split_whitespace();
        let mut word = || words.next().unwrap_or_default();
        let done = |count: usize| Ok(DBOutput::StatementComplete(count as u64));
        match (word(), word(), word()) {
            ("CREATE", "SOURCE", name) => {
                let (_, text) = sql.split_once('\n').unwrap_or_default();
                self.create(
                    &format!("sources/{name}.toml"),
                    &format!("{text}\n[connector]\ntype = \"http\"\n"),
                )?;
                done(0)
            }
            ("CREATE", "VIEW", name) => {
                let (_, text) = sql.split_once("AS").ok_or_else(|| told("a view needs AS"))?;
                self.create(&format!("views/{name}.sql"), text.trim_start())?;
                done(0)
            }
            ("INSERT", "INTO", name) => {
                let (_, values) = sql.split_once(name).unwrap_or_default();
                let rows = self.values(name, values)?;
                self.enter(Step::Rows(name.to_owned(), Operation::Insert, rows))
                    .and_then(done)
            }
            ("DELETE", "FROM", name) => {
                let rows = self.chosen(name, sql)?;
                self.enter(Step::Rows(name.to_owned(), Operation::Delete, rows))
                    .and_then(done)
            }
            ("ADVANCE", "TO", time) => {
                let time = chrono::DateTime::parse_from_rfc3339(time.trim_matches('\'')).map_err(told)?;
                self.enter(Step::Advance(time.timestamp_micros() as u64)).and_then(done)
            }
            ("NOTHING", "IS", "HELD") => {
                self.engine()?;
                self.check(&[])?;
                let mut operators = self.engine()?.operators().into_iter();
                match operators.find(|operator| operator.stats.state_rows > 0) {
                    Some(held) => Err(Told(format!(
                        "{} of {} holds rows: {:?}",
                        held.stats.name, held.view, held.stats
                    ))),
                    None => done(0),
                }
            }
            _ => self.query(sql),
        }
    }

    fn shutdown(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.shutdown();
        }
    }
}

impl Database {
    pub(crate) fn new() -> Database {
        let dir = tempfile::tempdir().expect("a folder of our own");
        for folder in ["sources", "views"] {
            std::fs::create_dir(dir.path().join(folder)).expect("a folder of our own");
        }
        std::fs::write(dir.path().join("deployment.toml"), "clock = \"event\"\nworkers = 2\n").expect("our own folder");
        Database {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime of our own"),
            dir,
            deployment: None,
            engine: None,
            tick: 0,
            steps: Vec::new(),
            rows: BTreeMap::new(),
        }
    }

    /// Adds a file; one that is wrong is taken back.
    fn create(&mut self, file: &str, text: &str) -> Result<(), Told> {
        let path = self.dir.path().join(file);
        std::fs::write(&path, text).map_err(told)?;
        match config::load(self.dir.path()) {
            Ok(deployment) => {
                self.shutdown();
                self.deployment = Some(deployment);
                Ok(())
            }
            Err(problems) => {
                std::fs::remove_file(&path).map_err(told)?;
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Err(Told(problems.join("\n")))
            }
        }
    }

    fn deployment(&self) -> Result<&Deployment, Told> {
        self.deployment.as_ref().ok_or_else(|| told("nothing is declared"))
    }

    fn schema(&self, source: &str) -> Result<SchemaRef, Told> {
        let mut sources = self.deployment()?.sources.iter();
        let source = sources
            .find(|known| known.name == source)
            .ok_or_else(|| told(format!("no source {source}")))?;
        Ok(Arc::clone(&source.schema))
    }

    /// Returns the engine, started and told all that happened.
    fn engine(&mut self) -> Result<Engine, Told> {
        if let Some(engine) = &self.engine {
            return Ok(engine.clone());
        }
        let engine = Engine::start(self.deployment()?.clone()).map_err(|error| Told(format!("{error:#}")))?;
        // The first tick, of what is there without any row.
        self.tick = 1;
        for step in self.steps.clone() {
            self.tick = self.runtime.block_on(send(&engine, &step))?.0;
        }
        self.engine = Some(engine.clone());
        Ok(engine)
    }

    /// Lets a step happen, in the engine and in the books; returns how many rows it concerned.
    fn enter(&mut self, step: Step) -> Result<usize, Told> {
        let engine = self.engine()?;
        let (tick, count) = self.runtime.block_on(send(&engine, &step))?;
        self.tick = tick;
        if let Step::Rows(name, operation, rows) = &step {
            let deployment = engine.deployment();
            let source = {
                let mut sources = deployment.sources.iter();
                sources
                    .find(|source| source.name == *name)
                    .ok_or_else(|| told("no such source"))?
            };
            let key = source.key.clone();
            let rows = match source.arrival {
                Some(column) if *operation == Operation::Insert => arrived(rows, column, tick)?,
                _ => rows.clone(),
            };
            let all: Vec<usize> = (0..rows.num_columns()).collect();
            let own = key.as_ref().unwrap_or(&all);
            let held = self.rows.entry(name.clone()).or_default();
            for row in 0..rows.num_rows() {
                let row = rows.slice(row, 1);
                let same = held.iter().position(|held| same(held, &row, own));
                if let Some(at) = same
                    && (key.is_some() || *operation == Operation::Delete)
                {
                    held.remove(at);
                }
                if *operation == Operation::Insert {
                    held.push(row);
                }
            }
        }
        self.steps.push(step);
        Ok(count)
    }

    /// Reads `VALUES (…), …` into the columns of a source.
    fn values(&self, source: &str, values: &str) -> Result<RecordBatch, Told> {
        let schema = self.schema(source)?;
        let values = self.runtime.block_on(async {
            let values = SessionContext::new().sql(values.trim()).await.map_err(told)?;
            values.collect().await.map_err(told)
        })?;
        let batch = values.first().ok_or_else(|| told("no rows"))?;
        let columns = schema
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(field, column)| cast(column, field.data_type()).map_err(told))
            .collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(schema, columns).map_err(told)
    }

    /// Finds the rows of a source that `DELETE FROM source WHERE …` means.
    fn chosen(&self, source: &str, sql: &str) -> Result<RecordBatch, Told> {
        let schema = self.schema(source)?;
        let rows = self.rows.get(source).cloned().unwrap_or_default();
        let chosen = self.runtime.block_on(async {
            let context = SessionContext::new();
            let table = MemTable::try_new(Arc::clone(&schema), vec![rows]).map_err(told)?;
            context.register_table(source, Arc::new(table)).map_err(told)?;
            let chosen = context
                .sql(&sql.replacen("DELETE", "SELECT *", 1))
                .await
                .map_err(told)?;
            chosen.collect().await.map_err(told)
        })?;
        arrow::compute::concat_batches(&schema, &chosen).map_err(told)
    }

    /// Answers a query, once every view is known to be right.
    fn query(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Told> {
        let engine = self.engine()?;
        let query = self.deployment()?.catalog.plan_query(sql);
        // The running engine also knows the system tables.
        let running = engine.deployment();
        let (query, catalog) = match query {
            Ok(query) => (query, &running.catalog),
            Err(_) => {
                let catalog = &running.catalog;
                (
                    catalog.plan_query(sql).map_err(|problem| Told(problem.to_string()))?,
                    catalog,
                )
            }
        };
        let relations = self.check(query.relations())?;
        let (schema, batches) = self
            .runtime
            .block_on(catalog.run_query(&query, &relations, self.tick, BYTES_MAX))
            .map_err(told)?;
        let types = schema.fields().iter().map(|field| match field.data_type() {
            DataType::Utf8 => DefaultColumnType::Text,
            DataType::Float64 | DataType::Float32 => DefaultColumnType::FloatingPoint,
            numbers if numbers.is_integer() => DefaultColumnType::Integer,
            _ => DefaultColumnType::Any,
        });
        let mut rows = Vec::new();
        let options = FormatOptions::default().with_null("NULL");
        for batch in &batches {
            let columns: Vec<ArrayFormatter<'_>> = batch
                .columns()
                .iter()
                .map(|column| ArrayFormatter::try_new(column, &options).map_err(told))
                .collect::<Result<_, _>>()?;
            rows.extend((0..batch.num_rows()).map(|row| {
                let cell = |column: &ArrayFormatter<'_>| match column.value(row).to_string() {
                    empty if empty.is_empty() => "(empty)".to_owned(),
                    text => text,
                };
                columns.iter().map(cell).collect::<Vec<String>>()
            }));
        }
        Ok(DBOutput::Rows {
            types: types.collect(),
            rows,
        })
    }

    /// Compares every source with the books and every view with its batch answer over them; returns some
    /// relations as the engine holds them.
    fn check(&mut self, wanted: &[String]) -> Result<Relations, Told> {
        let engine = self.engine()?;
        let deployment = self.deployment()?;
        let mut names: Vec<String> = deployment.sources.iter().map(|source| source.name.clone()).collect();
        names.extend(deployment.views.iter().map(|view| view.view.name.clone()));
        names.extend(wanted.iter().filter(|name| name.starts_with("sangam.")).cloned());
        self.runtime.block_on(async {
            let snapshot = engine.snapshot(&names, self.tick).await;
            let Snapshot { tick, relations } =
                snapshot.map_err(|error| Told(format!("{error}: {:?}", engine.failure())))?;
            let mut inputs = Relations::new();
            for source in &deployment.sources {
                let is_late = source.time.is_some_and(|time| time.lateness_us.is_some());
                if is_late || source.retain_us.is_some() {
                    // The books know nothing of late rows, nor of those that expire: scripts say what is there.
                    inputs.insert(source.name.clone(), relations[&source.name].clone());
                    continue;
                }
                let rows = self.rows.get(&source.name).cloned().unwrap_or_default();
                compare(&source.name, &source.schema, &rows, &relations)?;
                inputs.insert(source.name.clone(), (Arc::clone(&source.schema), rows).into());
            }
            for definition in &deployment.views {
                let view = &definition.view;
                if view.closing.is_some() {
                    // What it has closed is no batch answer of today's rows: scripts say what it is.
                    inputs.insert(view.name.clone(), relations[&view.name].clone());
                    continue;
                }
                let rows = deployment.catalog.batch(view, &inputs, tick).await.map_err(told)?;
                compare(&view.name, &view.schema, &rows, &relations)?;
                inputs.insert(view.name.clone(), (Arc::clone(&view.schema), rows).into());
            }
            Ok(relations)
        })
    }
}

async fn send(engine: &Engine, step: &Step) -> Result<(u64, usize), Told> {
    match step {
        Step::Rows(source, operation, rows) => {
            let rows = Decoded {
                rows: rows.clone(),
                rejected: Vec::new(),
            };
            let accepted = engine.ingest(source, *operation, rows).await.map_err(told)?;
            match accepted.reasons.first() {
                Some(reason) => Err(Told(format!("not taken in: {reason:?}"))),
                None => Ok((accepted.tick, accepted.accepted)),
            }
        }
        Step::Advance(to) => Ok((engine.advance(*to).await.map_err(told)?, 0)),
    }
}

fn compare(name: &str, schema: &SchemaRef, expected: &[RecordBatch], relations: &Relations) -> Result<(), Told> {
    let reader = Reader::new(schema);
    let found = relations
        .get(name)
        .map(|found| found.batches.as_slice())
        .unwrap_or_default();
    let (want, have) = (reader.bag(expected).map_err(Told)?, reader.bag(found).map_err(Told)?);
    match reader.difference(&want, &have) {
        Some(difference) => Err(Told(format!("{name} is not what a batch answers:\n{difference}"))),
        None => Ok(()),
    }
}

/// Fills in when rows arrived.
fn arrived(rows: &RecordBatch, column: usize, tick: u64) -> Result<RecordBatch, Told> {
    let times = TimestampMicrosecondArray::from_value(tick as i64, rows.num_rows());
    let mut columns = rows.columns().to_vec();
    columns[column] = cast(&times, rows.column(column).data_type()).map_err(told)?;
    RecordBatch::try_new(rows.schema(), columns).map_err(told)
}

/// Tells whether two rows agree in some columns.
fn same(left: &RecordBatch, right: &RecordBatch, columns: &[usize]) -> bool {
    columns.iter().all(|&at| left.column(at) == right.column(at))
}
