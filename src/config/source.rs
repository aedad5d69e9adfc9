//! `sources/NAME.toml`: where rows come in, what they look like, how long they stay.

mod stays;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use connectors::{Column, ConnectorConfig, FormatConfig, Setting};
use queries::{Catalog, SourceRelation};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::document::Document;
use super::duration::Span;
use super::folder::is_identifier;
use super::options::Clock;
use super::problem::FileProblem;
use super::spelling;
pub use stays::KeepInput;

/// A source file.
///
/// ```toml
/// columns = { station = "text not null", at = "timestamp not null", ph = "double" }
/// time    = { column = "at", lateness = "30 seconds" }
/// retain  = "2 hours"
/// [connector]
/// type = "http"
/// ```
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceFile {
    /// Names and SQL types, in order. Required.
    #[serde(default)]
    columns: BTreeMap<String, ColumnEntry>,
    /// The columns that identify a row: a row replaces the one with an equal key.
    key: Option<Vec<String>>,
    /// With `key`: the row with the largest version wins, instead of the last to arrive.
    version: Option<String>,
    /// Whether whole rows may be taken back (`?op=delete`). Default: they may not.
    #[serde(default)]
    retractions: bool,
    /// Whether each body or file is all there is: what it does not hold is taken back. Default: rows are added.
    #[serde(default)]
    snapshot: bool,
    /// Which column says when a row happened.
    time: Option<TimeEntry>,
    /// The column that says when a row arrived: filled with the time of its tick.
    arrival: Option<String>,
    /// How long a row stays, by the source's clock. Default: for ever.
    retain: Option<Span>,
    /// How long what came in is kept in history, for questions about the past: a span, or "forever". Default: not.
    keep: Option<KeepInput>,
    /// Where rows come from. Required.
    connector: Option<ConnectorConfig>,
    /// How rows are written. Default: by a file's name, JSON elsewhere.
    format: Option<FormatConfig>,
}

/// A column's type, or its type and the input's name for it.
#[derive(Debug)]
struct ColumnEntry {
    sql_type: String,
    from: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeEntry {
    /// A column of type `timestamp not null`.
    column: String,
    /// How far behind the newest row another may still arrive. Default: any row is in time.
    lateness: Option<Span>,
    /// How far a row may be dated past the tick. Default: 1 minute under the
    /// wall clock, any distance under the event clock.
    ahead: Option<Span>,
    /// How long the watermark waits for a partition that has no rows. Default: 30 seconds.
    idle: Option<Span>,
}

/// A source, checked.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file's name.
    pub name: String,
    /// The columns' names, types and nullability.
    pub schema: SchemaRef,
    /// The same columns with the input's names for them.
    pub columns: Vec<Column>,
    /// Positions of the key columns of an upsert source.
    pub key: Option<Vec<usize>>,
    /// Position of the column whose largest value wins within a key.
    pub version: Option<usize>,
    /// Whether whole rows may be taken back.
    pub retractions: bool,
    /// Whether each body or file is all there is.
    pub snapshot: bool,
    /// The event time.
    pub time: Option<TimeColumn>,
    /// Position of the column that is filled with the time of a row's tick.
    pub arrival: Option<usize>,
    /// How long a row stays, in microseconds of the source's clock.
    pub retain_us: Option<i64>,
    /// How long what came in is kept in history, if it is.
    pub keep: Option<KeepInput>,
    /// Where rows come from.
    pub connector: ConnectorConfig,
    /// How rows are written.
    pub format: FormatConfig,
}

/// The event time of a source's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeColumn {
    /// Position of a timestamp column without NULLs.
    pub column: usize,
    /// Rows further behind the source's clock are late; none: no row is.
    pub lateness_us: Option<i64>,
    /// Rows dated further past the tick are rejected; none: no row is.
    pub ahead_us: Option<i64>,
    /// A partition without rows for so long, by ticks, is not waited for.
    pub idle_us: i64,
}

/// Rows dated further ahead than this are refused under the wall clock: one
/// sensor in 2099 must not make all others late.
const AHEAD_US: i64 = 60_000_000;

/// Partitions without rows for so long are idle.
const IDLE_US: i64 = 30_000_000;

/// A start for connectors to be checked with, 2026-01-01: that a deployment is
/// right must not depend on when it is asked.
const SOME_DAY_US: i64 = 1_767_225_600_000_000;

impl Source {
    /// Tells whether no row is ever taken back, expiry included.
    pub fn is_append_only(&self) -> bool {
        self.only_grows() && self.retain_us.is_none()
    }

    /// Tells whether nothing but expiry takes rows back.
    fn only_grows(&self) -> bool {
        self.key.is_none() && !self.retractions && !self.snapshot
    }

    /// Returns the least age at which a row expires, where nothing else takes rows back.
    ///
    /// By the tick's time: the source's clock, which decides, may be `ahead` of it.
    fn expires_after_us(&self) -> Option<i64> {
        let only_expiry = self.only_grows();
        let ahead_us = self.time?.ahead_us.unwrap_or(0);
        self.retain_us
            .filter(|_| only_expiry)
            .map(|retain_us| retain_us - ahead_us)
    }

    pub(crate) fn relation(&self) -> SourceRelation {
        let names = |columns: &Vec<usize>| {
            columns
                .iter()
                .map(|column| self.schema.field(*column).name().clone())
                .collect()
        };
        SourceRelation {
            name: self.name.clone(),
            schema: Arc::clone(&self.schema),
            append_only: self.is_append_only(),
            key: self.key.as_ref().map(names),
            retain_us: self.retain_us,
            expires_after_us: self.expires_after_us(),
            time_column: self.time.map(|time| self.schema.field(time.column).name().clone()),
            lateness_us: self.time.and_then(|time| time.lateness_us),
        }
    }
}

/// What a source is checked against.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) catalog: &'a Catalog,
    pub(crate) clock: Clock,
}

/// Checks a source file; adds what is wrong and gives the source only if nothing is.
pub(crate) fn build(
    name: &str,
    file: SourceFile,
    document: &Document<'_>,
    deployment: Surroundings<'_>,
    problems: &mut Vec<FileProblem>,
) -> Option<Source> {
    let Surroundings { catalog, clock, .. } = deployment;
    let before = problems.len();
    let mut check = Check {
        document,
        problems,
        columns: Vec::new(),
    };
    check.columns(&file.columns, catalog);
    let key = check.key(&file);
    let version = check.version(&file);
    let time = check.time(&file, clock);
    let arrival = check.arrival(&file);
    check.retain(&file);
    check.keep(&file);
    check.snapshot(&file);
    check.envelope(&file);
    let format = file.format.unwrap_or_default();
    let connector = check.connector(file.connector, clock);
    let mut columns = check.columns;
    for (position, column) in columns.iter_mut().enumerate() {
        column.key = key.as_ref().is_some_and(|key| key.contains(&position));
    }
    if problems.len() > before {
        return None;
    }
    let connector = connector?;
    let setting = Setting {
        name,
        columns: &columns,
        format: &format,
        time_column: time.map(|time| time.column),
        time_zone: catalog.time_zone(),
        directory: deployment.dir,
        start_us: SOME_DAY_US,
    };
    for error in connector.check(&setting) {
        let path = path_of(&error.what, document);
        problems.push(document.problem(&path, error.what.as_str()).hint_maybe(error.hint));
    }
    if problems.len() > before {
        return None;
    }
    let source = Source {
        name: name.to_owned(),
        schema: connectors::schema(&columns),
        columns,
        key,
        version,
        retractions: file.retractions,
        snapshot: file.snapshot,
        time,
        arrival,
        retain_us: file.retain.map(|retain| retain.us),
        keep: file.keep,
        format,
        connector,
    };
    if source.keep.is_some()
        && let Err(error) = crate::engine::layout_of_input(&source)
    {
        problems.push(document.problem(&["keep"], error.what).hint(error.hint));
    }
    Some(source)
}

/// Finds the key that a connector's or a format's message speaks of: the column
/// whose model it names, or the option it begins with.
fn path_of<'m>(message: &'m str, document: &Document<'_>) -> Vec<&'m str> {
    let column = message
        .split_once("column \"")
        .and_then(|(_, rest)| rest.split('"').next());
    let option = message.split(' ').next();
    let candidates = [
        column.map(|column| vec!["connector", "columns", column]),
        option.map(|option| vec!["connector", option]),
        option.map(|option| vec!["format", option]),
    ];
    let known = candidates.into_iter().flatten().find(|path| document.has(path));
    known.unwrap_or_else(|| vec!["connector"])
}

struct Check<'a, 't> {
    document: &'a Document<'t>,
    problems: &'a mut Vec<FileProblem>,
    columns: Vec<Column>,
}

impl Check<'_, '_> {
    fn refuse(&mut self, path: &[&str], what: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(self.document.problem(path, what).hint(hint));
    }

    /// Looks a column up by name; `columns` that are wrong themselves are told once.
    fn column(&mut self, path: &[&str], name: &str) -> Option<usize> {
        let position = self.columns.iter().position(|column| column.field.name() == name);
        if position.is_none() && !self.document.has(&["columns", name]) && self.document.has(&["columns"]) {
            let known = self.columns.iter().map(|column| column.field.name().as_str());
            let problem = self
                .document
                .problem(path, format!("`{}` names an unknown column \"{name}\"", path.join(".")))
                .hint_maybe(spelling::hint(name, known, "column"));
            self.problems.push(problem);
        }
        position
    }

    fn columns(&mut self, columns: &BTreeMap<String, ColumnEntry>, catalog: &Catalog) {
        if columns.is_empty() {
            if !self.document.is_broken(&["columns"]) {
                self.refuse(
                    &["columns"],
                    "a source needs `columns`",
                    "Write for example `columns = { station = \"text not null\", at = \"timestamp not null\", ph = \"double\" }`.",
                );
            }
            return;
        }
        // TOML's tables come sorted; operators mean the order they wrote.
        let mut ordered: Vec<_> = columns.iter().collect();
        ordered.sort_by_key(|(name, _)| self.document.offset(&["columns", name]));
        for (name, entry) in ordered {
            let path = ["columns", name.as_str()];
            if !is_identifier(name) {
                self.refuse(
                    &path,
                    format!("\"{name}\" cannot be the name of a column"),
                    format!(
                        "Column names are small letters, digits and underscores; the input's own name goes into `from`: `NAME = {{ type = \"{}\", from = \"{name}\" }}`.",
                        entry.sql_type
                    ),
                );
                continue;
            }
            match catalog.column_type(&entry.sql_type) {
                Ok(found) => self.columns.push(Column {
                    field: Arc::new(Field::new(name, found.data_type, found.nullable)),
                    from: entry.from.clone(),
                    key: false,
                }),
                Err(problem) => {
                    let told = self
                        .document
                        .problem(&path, format!("column \"{name}\": {}", problem.what))
                        .hint_maybe(problem.hint);
                    self.problems.push(told);
                }
            }
        }
    }

    fn key(&mut self, file: &SourceFile) -> Option<Vec<usize>> {
        let names = file.key.as_ref()?;
        if names.is_empty() {
            self.refuse(
                &["key"],
                "`key` names no column",
                "Leave `key` out if rows replace nothing.",
            );
        }
        if file.retractions {
            self.refuse(
                &["retractions"],
                "`retractions` stands beside `key`",
                "Leave it out: rows of a source with a key can be deleted by their key.",
            );
        }
        let mut key = Vec::new();
        for name in names {
            let Some(position) = self.column(&["key"], name) else {
                continue;
            };
            if key.contains(&position) {
                self.refuse(
                    &["key"],
                    format!("`key` names \"{name}\" twice"),
                    "Name each column once.",
                );
            } else if self.columns[position].field.is_nullable() {
                self.refuse(
                    &["columns", name],
                    format!("key column \"{name}\" may be NULL"),
                    "Declare it `not null`: NULL identifies nothing.",
                );
            }
            key.push(position);
        }
        Some(key)
    }

    fn version(&mut self, file: &SourceFile) -> Option<usize> {
        let name = file.version.as_ref()?;
        if file.key.is_none() {
            self.refuse(
                &["version"],
                "`version` without `key`",
                "A version decides which row of a key wins; declare the `key`, or leave `version` out.",
            );
        }
        let position = self.column(&["version"], name)?;
        if self.columns[position].field.is_nullable() {
            self.refuse(
                &["columns", name],
                format!("version column \"{name}\" may be NULL"),
                "Declare it `not null`: NULL cannot be compared with another version.",
            );
        }
        Some(position)
    }

    fn time(&mut self, file: &SourceFile, clock: Clock) -> Option<TimeColumn> {
        let time = file.time.as_ref()?;
        if time.lateness.is_some() && (file.key.is_some() || file.retractions) {
            let reason = if file.key.is_some() { "key" } else { "retractions" };
            self.refuse(
                &["time", "lateness"],
                format!("`lateness` stands beside `{reason}`"),
                "Lateness is for sources that only insert: leave it out, every row is in time.",
            );
        }
        let column = self.column(&["time", "column"], &time.column)?;
        let field = &self.columns[column].field;
        if !matches!(field.data_type(), DataType::Timestamp(TimeUnit::Microsecond, Some(_))) {
            self.refuse(
                &["columns", &time.column],
                format!("time column \"{}\" is not a timestamp", time.column),
                "Declare it `timestamp not null`.",
            );
        } else if field.is_nullable() {
            self.refuse(
                &["columns", &time.column],
                format!("time column \"{}\" may be NULL", time.column),
                "Declare it `timestamp not null`: a row without a time has no place in the order.",
            );
        }
        Some(TimeColumn {
            column,
            lateness_us: time.lateness.map(|lateness| lateness.us),
            idle_us: time.idle.map_or(IDLE_US, |idle| idle.us),
            ahead_us: match (time.ahead, clock) {
                (Some(ahead), _) => Some(ahead.us),
                (None, Clock::Wall) => Some(AHEAD_US),
                (None, Clock::Event) => None,
            },
        })
    }

    fn arrival(&mut self, file: &SourceFile) -> Option<usize> {
        let name = file.arrival.as_ref()?;
        let column = self.column(&["arrival"], name)?;
        let field = &self.columns[column].field;
        let path = ["columns", name.as_str()];
        if !matches!(field.data_type(), DataType::Timestamp(TimeUnit::Microsecond, Some(_))) || !field.is_nullable() {
            self.refuse(
                &path,
                format!("arrival column \"{name}\" is not a plain timestamp"),
                "Declare it `timestamp`: no row brings it along.",
            );
        } else if file.retractions {
            self.refuse(
                &["arrival"],
                "`arrival` stands beside `retractions`",
                "A row could not be taken back without knowing when it arrived: give the source a `key`.",
            );
        } else if file.time.as_ref().is_some_and(|time| time.column == *name) || file.version.as_ref() == Some(name) {
            self.refuse(
                &["arrival"],
                format!("`arrival` names \"{name}\", which rows bring along"),
                "Give it a column of its own.",
            );
        }
        Some(column)
    }

    fn envelope(&mut self, file: &SourceFile) {
        if file.format.as_ref().is_none_or(|format| format.envelope.is_none()) {
            return;
        }
        if file.snapshot {
            self.refuse(
                &["snapshot"],
                "`snapshot` stands beside an envelope",
                "What is in an envelope says itself what becomes of it: leave `snapshot` out.",
            );
        } else if file.key.is_none() && !file.retractions {
            self.refuse(
                &["format", "envelope"],
                "an envelope around rows that are never taken back",
                "Declare the `key` of the table, or `retractions = true` if it has none.",
            );
        }
    }

    fn connector(&mut self, connector: Option<ConnectorConfig>, clock: Clock) -> Option<ConnectorConfig> {
        if connector.is_none() && !self.document.is_broken(&["connector"]) {
            let known: Vec<String> = connectors::SOURCES
                .iter()
                .map(|entry| format!("\"{}\"", entry.name))
                .collect();
            self.refuse(
                &["connector"],
                "a source needs a `[connector]`",
                format!(
                    "Write for example `[connector]` and below it `type = \"http\"`; the types there are: {}.",
                    known.join(", ")
                ),
            );
        }
        let endless = match &connector {
            Some(ConnectorConfig::Simulate(simulate)) if !simulate.is_bounded() => {
                Some(("a simulation", "`until` or `rows`"))
            }
            Some(ConnectorConfig::Nexmark(nexmark)) if !nexmark.is_bounded() => Some(("a benchmark", "`events`")),
            _ => None,
        };
        if clock == Clock::Event && matches!(connector, Some(ConnectorConfig::Kafka(_))) {
            self.refuse(
                &["connector"],
                "a topic under the event clock",
                "Messages come when they come: use clock = \"wall\", or a recording in files.",
            );
        }
        if clock == Clock::Event
            && let Some((what, end)) = endless
        {
            self.refuse(
                &["connector"],
                format!("{what} without an end under the event clock"),
                format!("Nothing would hold it back: give it {end}."),
            );
        }
        if clock == Clock::Event
            && matches!(
                connector,
                Some(ConnectorConfig::Mqtt(_) | ConnectorConfig::MqttListener(_))
            )
        {
            self.refuse(
                &["connector"],
                "messages as they come under the event clock",
                "It replays what was recorded: read a file, or leave `clock` out of deployment.toml.",
            );
        }
        connector
    }
}

impl<'de> Deserialize<'de> for ColumnEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ColumnVisitor)
    }
}

struct ColumnVisitor;

impl<'de> Visitor<'de> for ColumnVisitor {
    type Value = ColumnEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a type such as \"double\" or { type = \"double\", from = \"D.O. (mg/l)\" }")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ColumnEntry, E> {
        Ok(ColumnEntry {
            sql_type: text.to_owned(),
            from: None,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ColumnEntry, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            /// The column's SQL type.
            r#type: String,
            /// The input's name for the column: a CSV header, a JSON key.
            from: Option<String>,
        }
        let table = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(ColumnEntry {
            sql_type: table.r#type,
            from: table.from,
        })
    }
}
