//! Plays one test against an engine of its own.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use connectors::{Column, ConnectorConfig, Decoded, Decoder, Envelope, FormatConfig, HttpConfig};
use dataflows::Tick;
use serde_json::Value;

use super::compare;
use crate::config::{Clock, Deployment, Expectation, Source, Step, Test};
use crate::engine::{Engine, Operation, Snapshot};

/// Something a step saw that it did not expect.
#[derive(Debug)]
pub(super) struct Failure {
    /// The step, counted from one.
    step: usize,
    line: Option<usize>,
    what: String,
}

impl Failure {
    /// Lays the failure out under the place in the file it comes from.
    pub(super) fn print(&self, file: &Path) -> String {
        let line = self.line.map(|line| format!(":{line}")).unwrap_or_default();
        let what = self.what.trim_end().replace('\n', "\n      ");
        format!("    {}{line}: step {}: {what}", file.display(), self.step)
    }
}

/// Runs every step of a test; returns what was not as expected.
///
/// # Errors
/// When the engine itself fails, which no test expects.
pub(super) async fn play(deployment: &Deployment, test: &Test) -> anyhow::Result<Vec<Failure>> {
    let engine = Engine::start(for_test(deployment))?;
    let mut player = Player {
        deployment,
        engine: &engine,
        test,
        failures: Vec::new(),
    };
    let mut result = Ok(());
    for (position, step) in test.steps.iter().enumerate() {
        result = player.step(position + 1, step).await;
        if result.is_err() {
            break;
        }
    }
    let failures = player.failures;
    engine.shutdown();
    result.map(|()| failures)
}

/// The same deployment under the event clock, fed by nobody but the test.
fn for_test(deployment: &Deployment) -> Deployment {
    let mut deployment = deployment.clone();
    deployment.options.clock = Clock::Event;
    deployment.options.workers = Some(1);
    for source in &mut deployment.sources {
        source.connector = ConnectorConfig::Http(HttpConfig::default());
        // What a message's key would hold stands in the rows of a test.
        source.format.envelope = source.format.envelope.filter(|envelope| *envelope != Envelope::Upsert);
    }
    deployment
}

struct Player<'a> {
    deployment: &'a Deployment,
    engine: &'a Engine,
    test: &'a Test,
    failures: Vec<Failure>,
}

impl Player<'_> {
    async fn step(&mut self, number: usize, step: &Step) -> anyhow::Result<()> {
        let at = u64::try_from(step.at_us).unwrap_or(0);
        // The clock stops just short of the step, so that each batch of rows
        // still has a tick of its own and none is past the step's time.
        let batches = step.rows.len() + step.delete.len();
        self.advance(at.saturating_sub(batches as u64)).await?;
        let mut late = Vec::new();
        let mut rejected = Vec::new();
        let deletes = step.delete.iter().map(|rows| (Operation::Delete, rows));
        let inserts = step.rows.iter().map(|rows| (Operation::Insert, rows));
        for (operation, (name, rows)) in deletes.chain(inserts) {
            let source = self.deployment.sources.iter().find(|source| source.name == *name);
            let source = source.with_context(|| format!("no source \"{name}\""))?;
            let decoded = decode(
                &self.input_columns(source, operation),
                rows,
                &self.deployment.options.time_zone,
            )?;
            let accepted = self.engine.ingest(name, operation, decoded).await?;
            late.push((name.clone(), accepted.late as u64));
            rejected.push((name.clone(), accepted.rejected as u64));
        }
        self.advance(at).await?;
        self.counts(number, step, "late", &late, &step.late);
        self.counts(number, step, "rejected", &rejected, &step.rejected);
        // A snapshot waits until every view it names has taken the step in.
        let named = step.expect.iter().map(|expectation| &expectation.relation);
        let mut names: Vec<String> = named.chain(step.errors.iter().map(|(view, _)| view)).cloned().collect();
        names.sort();
        names.dedup();
        let snapshot = self.engine.snapshot(&names, self.engine.acknowledged()).await?;
        let errors: Vec<(String, u64)> = names
            .iter()
            .map(|name| (name.clone(), self.engine.errors(name)))
            .collect();
        self.counts(number, step, "failing", &errors, &step.errors);
        for expectation in &step.expect {
            self.expect(number, expectation, &snapshot)?;
        }
        Ok(())
    }

    async fn advance(&self, to: Tick) -> anyhow::Result<()> {
        if to > self.engine.acknowledged() {
            self.engine.advance(to).await?;
        }
        Ok(())
    }

    /// Rows that are late, rejected or failing are never passed over in silence: a test must say them.
    fn counts(&mut self, number: usize, step: &Step, word: &str, found: &[(String, u64)], expected: &[(String, u64)]) {
        let of = |counts: &[(String, u64)], name: &str| -> u64 {
            counts
                .iter()
                .filter(|(counted, _)| counted == name)
                .map(|(_, count)| count)
                .sum()
        };
        let mut names: Vec<&String> = found.iter().chain(expected).map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        for name in names {
            let (expected, found) = (of(expected, name), of(found, name));
            if expected != found {
                self.fail(
                    number,
                    step.line,
                    format!("{name}: expected {expected} {word} rows, found {found}"),
                );
            }
        }
    }

    fn expect(&mut self, number: usize, expectation: &Expectation, snapshot: &Snapshot) -> anyhow::Result<()> {
        let name = &expectation.relation;
        if let Some(reason) = self.engine.failed(name) {
            self.fail(number, expectation.line, format!("{name} has failed: {reason}"));
            return Ok(());
        }
        let queries::Relation { schema, batches, .. } = snapshot
            .relations
            .get(name)
            .with_context(|| format!("no relation \"{name}\""))?;
        // Without a row nothing is named: then every column is worth showing.
        let columns = match expectation.columns.as_slice() {
            [] => (0..schema.fields().len()).collect(),
            columns => columns.to_vec(),
        };
        let schema = nullable(&schema.project(&columns)?);
        let found = batches
            .iter()
            .map(|batch| batch.project(&columns))
            .collect::<Result<Vec<RecordBatch>, _>>()?;
        let columns: Vec<Column> = schema
            .fields()
            .iter()
            .map(|field| Column::new(Arc::clone(field)))
            .collect();
        let expected = decode(&columns, &expectation.rows, &self.deployment.options.time_zone)?;
        for rejected in &expected.rejected {
            self.fail(
                number,
                expectation.line,
                format!("{name}: cannot expect {}: {}", rejected.raw, rejected.reason),
            );
        }
        let difference = compare::difference(&schema, &[expected.rows], &found, self.test.tolerance)?;
        if !difference.is_empty() {
            let what = format!(
                "{name}: {} missing (-), {} unexpected (+)\n{}",
                difference.missing.len(),
                difference.unexpected.len(),
                difference.print(&schema)
            );
            self.fail(number, expectation.line, what);
        }
        Ok(())
    }

    /// A row is deleted by its key alone, where the source has one.
    fn input_columns(&self, source: &Source, operation: Operation) -> Vec<Column> {
        let fields = source.schema.fields().iter().enumerate();
        fields
            .map(|(position, field)| {
                let is_key = source.key.as_ref().is_none_or(|key| key.contains(&position));
                let may_lack = operation == Operation::Delete && !is_key;
                let field = Field::clone(field);
                let is_nullable = field.is_nullable() || may_lack;
                Column::new(Arc::new(field.with_nullable(is_nullable)))
            })
            .collect()
    }

    fn fail(&mut self, step: usize, line: Option<usize>, what: String) {
        self.failures.push(Failure { step, line, what });
    }
}

/// Decodes JSON objects as a source of type `http` would.
fn decode(columns: &[Column], rows: &[Value], time_zone: &str) -> anyhow::Result<Decoded> {
    let mut decoder = Decoder::new(&FormatConfig::default(), columns, time_zone)?;
    let bytes = serde_json::to_vec(rows)?;
    let decoded = decoder.decode(&bytes);
    if decoded.rows.num_rows() + decoded.rejected.len() != rows.len() {
        bail!("{} rows became {}", rows.len(), decoded.rows.num_rows());
    }
    Ok(decoded)
}

/// What is expected may be NULL anywhere, to be found missing rather than refused.
fn nullable(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| Field::clone(field).with_nullable(true))
        .collect();
    Arc::new(Schema::new(fields))
}
