//! `tests/NAME.toml`: rows in at given times, rows expected out (`sangam test`).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use arrow::array::timezone::Tz;
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::SchemaRef;
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::document::Document;
use super::folder::ComponentFile;
use super::problem::FileProblem;
use super::source::Source;
use super::spelling;

/// A test file: steps, in the order of time.
///
/// No connector runs during a test and the event clock is used, so a test holds
/// all there is to know. Times are RFC 3339, or without a zone in the
/// deployment's own.
///
/// ```toml
/// [[step]]
/// at = "2026-01-01T00:00:00Z"
/// rows.readings = [ { station = "K1", at = "2026-01-01T00:00:00Z", ph = 7.1 } ]
///
/// [[step]]
/// at = "2026-01-01T00:10:00Z"
/// expect.latest = [ { station = "K1", ph = 7.1 } ]
/// ```
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestFile {
    /// How far an expected floating-point number may be from the one found.
    /// Default 0: exactly equal.
    #[serde(default)]
    tolerance: f64,
    /// What happens, and what is then to be seen.
    #[serde(default)]
    step: Vec<StepFile>,
}

/// One step: rows go in, the clock stands at `at`, and what is to be seen is compared.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepFile {
    /// The time of the step, after that of the step before. Required.
    at: TomlText,
    /// Rows to insert, by source, with the columns' own names. A column left out is NULL.
    #[serde(default)]
    rows: BTreeMap<String, Vec<toml::Table>>,
    /// Rows to delete, by source: whole rows, or keys where the source has one.
    #[serde(default)]
    delete: BTreeMap<String, Vec<toml::Table>>,
    /// The rows expected, by view, alert or source: all of them, in any order.
    /// Only the columns named by one of them are compared; one that another
    /// leaves out is expected to be NULL there. `{ columns = […], rows = […] }`
    /// names the columns itself.
    #[serde(default)]
    expect: BTreeMap<String, ExpectEntry>,
    /// Rows of this step that arrive too late, by source.
    #[serde(default)]
    expect_late: BTreeMap<String, u64>,
    /// Rows of this step that are rejected, by source.
    #[serde(default)]
    expect_rejected: BTreeMap<String, u64>,
    /// Rows that fail in an expression of a view, as long as they are present.
    #[serde(default)]
    expect_errors: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct ExpectEntry {
    columns: Option<Vec<String>>,
    rows: Vec<toml::Table>,
}

/// A test, checked.
#[derive(Clone, Debug)]
pub struct Test {
    /// The file's name.
    pub name: String,
    /// The file, relative to the deployment folder.
    pub file: PathBuf,
    /// How far floating-point numbers may be from what is expected.
    pub tolerance: f64,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// One step of a test.
#[derive(Clone, Debug)]
pub struct Step {
    /// Where it begins in the file.
    pub line: Option<usize>,
    /// Its time, in microseconds since the epoch.
    pub at_us: i64,
    /// Rows to insert, by source, as JSON objects.
    pub rows: Vec<(String, Vec<Value>)>,
    /// Rows to delete, by source, as JSON objects.
    pub delete: Vec<(String, Vec<Value>)>,
    /// What is to be seen afterwards.
    pub expect: Vec<Expectation>,
    /// How many of the rows are late, by source.
    pub late: Vec<(String, u64)>,
    /// How many of the rows are rejected, by source.
    pub rejected: Vec<(String, u64)>,
    /// How many rows fail, by view.
    pub errors: Vec<(String, u64)>,
}

/// The rows expected in a relation.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// A view, an alert or a source.
    pub relation: String,
    /// The columns compared, as positions in the relation.
    pub columns: Vec<usize>,
    /// The rows, as JSON objects.
    pub rows: Vec<Value>,
    /// Its line in the file.
    pub line: Option<usize>,
}

/// What a test may name.
pub(crate) struct Names<'a> {
    pub(crate) sources: &'a [Source],
    /// Sources, views and alerts, with their columns.
    pub(crate) relations: BTreeMap<&'a str, SchemaRef>,
    /// Components whose own file is wrong: that has been told already.
    pub(crate) broken: &'a [String],
    pub(crate) time_zone: &'a str,
}

/// Reads a test file and checks every name in it.
pub(crate) fn read(file: &ComponentFile, names: &Names<'_>, problems: &mut Vec<FileProblem>) -> Option<Test> {
    let before = problems.len();
    let mut document = Document::parse(&file.path, &file.text, problems)?;
    let parsed: TestFile = document.read(problems)?;
    if parsed.step.is_empty() && problems.len() == before {
        problems.push(
            document
                .problem(&["step"], "a test without a step")
                .hint("Write `[[step]]`, below it `at = \"2026-01-01T00:00:00Z\"` and what goes in and comes out."),
        );
    }
    if !(parsed.tolerance >= 0.0 && parsed.tolerance.is_finite()) {
        problems.push(document.problem(&["tolerance"], "`tolerance` must be a number from 0 up"));
    }
    let mut steps: Vec<Step> = Vec::new();
    for (position, step) in parsed.step.into_iter().enumerate() {
        let position = position.to_string();
        let mut check = Check {
            document: &document,
            names,
            position: &position,
            problems,
        };
        let previous_us = steps.last().map(|step| step.at_us);
        steps.push(check.step(step, previous_us));
    }
    (problems.len() == before).then(|| Test {
        name: file.name.clone(),
        file: file.path.clone(),
        tolerance: parsed.tolerance,
        steps,
    })
}

struct Check<'a, 't> {
    document: &'a Document<'t>,
    names: &'a Names<'a>,
    position: &'a str,
    problems: &'a mut Vec<FileProblem>,
}

impl<'a> Check<'a, '_> {
    fn problem(&self, path: &[&str], what: impl Into<String>) -> FileProblem {
        let path: Vec<&str> = ["step", self.position].iter().chain(path).copied().collect();
        self.document.problem(&path, what)
    }

    fn step(&mut self, step: StepFile, previous_us: Option<i64>) -> Step {
        let at_us = self.time(&step.at.0, previous_us);
        let late = self.counts("expect_late", step.expect_late, true);
        let rejected = self.counts("expect_rejected", step.expect_rejected, true);
        let errors = self.counts("expect_errors", step.expect_errors, false);
        Step {
            line: self.document.line(&["step", self.position]),
            at_us,
            rows: self.rows("rows", step.rows),
            delete: self.rows("delete", step.delete),
            expect: step
                .expect
                .into_iter()
                .filter_map(|(relation, entry)| self.expect(relation, entry))
                .collect(),
            late,
            rejected,
            errors,
        }
    }

    fn time(&mut self, text: &str, previous_us: Option<i64>) -> i64 {
        let parsed = self
            .names
            .time_zone
            .parse::<Tz>()
            .and_then(|zone| string_to_datetime(&zone, text))
            .map(|time| time.timestamp_micros());
        let at_us = match parsed {
            Ok(at_us) if at_us >= 0 => at_us,
            _ => {
                self.problems.push(
                    self.problem(&["at"], format!("\"{text}\" is not a time"))
                        .hint("Write for example \"2026-01-01T00:00:00Z\"."),
                );
                return previous_us.unwrap_or(0);
            }
        };
        if previous_us.is_some_and(|previous_us| at_us <= previous_us) {
            self.problems.push(
                self.problem(&["at"], "a step that is not after the one before it")
                    .hint("Steps are in the order of time; a clock does not go back."),
            );
        }
        at_us
    }

    fn rows(&mut self, key: &str, rows: BTreeMap<String, Vec<toml::Table>>) -> Vec<(String, Vec<Value>)> {
        let mut checked = Vec::new();
        for (name, rows) in rows {
            let Some(source) = self.source(key, &name) else {
                continue;
            };
            if key == "delete" && source.key.is_none() && !source.retractions {
                self.problems.push(
                    self.problem(&[key, &name], format!("rows of \"{name}\" cannot be deleted"))
                        .hint("Declare a `key` or `retractions = true` in the source."),
                );
            }
            for (position, row) in rows.iter().enumerate() {
                for column in row.keys() {
                    let known = || source.schema.fields().iter().map(|field| field.name().as_str());
                    if !known().any(|known| known == column) {
                        self.problems.push(
                            self.problem(
                                &[key, &name, &position.to_string(), column],
                                format!("\"{name}\" has no column \"{column}\""),
                            )
                            .hint_maybe(spelling::hint(column, known(), "column")),
                        );
                    }
                }
            }
            checked.push((
                name,
                rows.into_iter().map(|row| json(toml::Value::Table(row))).collect(),
            ));
        }
        checked
    }

    fn source(&mut self, key: &str, name: &str) -> Option<&'a Source> {
        let names = self.names;
        if let Some(source) = names.sources.iter().find(|source| source.name == name) {
            return Some(source);
        }
        if !self.names.broken.iter().any(|broken| broken == name) {
            let known = self.names.sources.iter().map(|source| source.name.as_str());
            self.problems.push(
                self.problem(&[key, name], format!("there is no source \"{name}\""))
                    .hint_maybe(spelling::hint(name, known, "source")),
            );
        }
        None
    }

    fn relation(&mut self, key: &str, name: &str) -> Option<SchemaRef> {
        let schema = self.names.relations.get(name).cloned();
        if schema.is_none() && !self.names.broken.iter().any(|broken| broken == name) {
            let known = self.names.relations.keys().copied();
            self.problems.push(
                self.problem(&[key, name], format!("there is no view, alert or source \"{name}\""))
                    .hint_maybe(spelling::hint(name, known, "relation")),
            );
        }
        schema
    }

    fn expect(&mut self, relation: String, entry: ExpectEntry) -> Option<Expectation> {
        let schema = self.relation("expect", &relation)?;
        let named = entry
            .columns
            .iter()
            .flatten()
            .chain(entry.rows.iter().flat_map(|row| row.keys()));
        let mut columns = Vec::new();
        for name in named {
            match schema.index_of(name) {
                Ok(column) if columns.contains(&column) => {}
                Ok(column) => columns.push(column),
                Err(_) => {
                    let known = schema.fields().iter().map(|field| field.name().as_str());
                    let problem = self
                        .problem(
                            &["expect", &relation],
                            format!("\"{relation}\" has no column \"{name}\""),
                        )
                        .hint_maybe(spelling::hint(name, known, "column"));
                    if !self.problems.contains(&problem) {
                        self.problems.push(problem);
                    }
                }
            }
        }
        columns.sort_unstable();
        Some(Expectation {
            line: self.document.line(&["step", self.position, "expect", &relation]),
            rows: entry
                .rows
                .into_iter()
                .map(|row| json(toml::Value::Table(row)))
                .collect(),
            columns,
            relation,
        })
    }

    fn counts(&mut self, key: &str, counts: BTreeMap<String, u64>, of_source: bool) -> Vec<(String, u64)> {
        for name in counts.keys() {
            if of_source {
                self.source(key, name);
            } else {
                self.relation(key, name);
            }
        }
        counts.into_iter().collect()
    }
}

/// Turns a TOML value into the JSON a source would be sent.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::from(number),
        // JSON has no word for these; the decoders take them as strings.
        toml::Value::Float(number) if number.is_nan() => Value::from("NaN"),
        toml::Value::Float(number) if number.is_infinite() => {
            Value::from(if number > 0.0 { "Infinity" } else { "-Infinity" })
        }
        toml::Value::Float(number) => Value::from(number),
        toml::Value::Boolean(truth) => Value::Bool(truth),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(values) => values.into_iter().map(json).collect(),
        toml::Value::Table(table) => Value::Object(table.into_iter().map(|(key, value)| (key, json(value))).collect()),
    }
}

/// A time, as a string or as TOML's own.
#[derive(Debug)]
struct TomlText(String);

impl<'de> Deserialize<'de> for TomlText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => Ok(TomlText(text)),
            toml::Value::Datetime(time) => Ok(TomlText(time.to_string())),
            other => Err(serde::de::Error::custom(format!(
                "expected a time such as \"2026-01-01T00:00:00Z\", not {}",
                other.type_str()
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for ExpectEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ExpectVisitor)
    }
}

struct ExpectVisitor;

impl<'de> Visitor<'de> for ExpectVisitor {
    type Value = ExpectEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rows such as [ { station = \"K1\", ph = 7.1 } ], or { columns = […], rows = […] }")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, rows: A) -> Result<ExpectEntry, A::Error> {
        let rows = Vec::deserialize(SeqAccessDeserializer::new(rows))?;
        Ok(ExpectEntry { columns: None, rows })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ExpectEntry, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            /// The columns to compare.
            columns: Vec<String>,
            /// The rows expected.
            rows: Vec<toml::Table>,
        }
        let table = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(ExpectEntry {
            columns: Some(table.columns),
            rows: table.rows,
        })
    }
}
