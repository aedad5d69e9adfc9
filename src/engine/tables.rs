//! System tables: what the engine knows of itself, for SQL to read.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use dataflows::workers::Workers;
use dataflows::{Tick, error_schema};

use super::shared::Shared;
use super::store::Moved;
use super::topology::Topology;
use super::{RelationKind, alerts, letters};
use crate::history::FileEntry;

/// Every system table: its name, its columns, and how it is read.
pub(super) const TABLES: &[Table] = &[
    Table {
        name: "sangam.views",
        schema: views_schema,
        read: views,
    },
    Table {
        name: "sangam.sources",
        schema: sources_schema,
        read: sources,
    },
    Table {
        name: "sangam.sinks",
        schema: sinks_schema,
        read: sinks,
    },
    Table {
        name: "sangam.history",
        schema: history_schema,
        read: history,
    },
    Table {
        name: "sangam.operators",
        schema: operators_schema,
        read: operators,
    },
    Table {
        name: "sangam.late",
        schema: letters::schema,
        read: |at| Ok(at.letters(&at.shared.late)),
    },
    Table {
        name: "sangam.rejected",
        schema: letters::schema,
        read: |at| Ok(at.letters(&at.shared.rejected)),
    },
    Table {
        name: "sangam.errors",
        schema: errors_schema,
        read: errors,
    },
    Table {
        name: "sangam.alert_events",
        schema: alerts::schema,
        read: alert_events,
    },
];

/// One line of the list.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) schema: fn() -> SchemaRef,
    pub(super) read: fn(&Reading<'_>) -> Result<Vec<RecordBatch>, Moved>,
}

/// What a table is read from, as of a tick.
pub(super) struct Reading<'a> {
    pub(super) shared: &'a Shared,
    pub(super) topology: &'a Topology,
    pub(super) workers: &'a Workers,
    pub(super) tick: Tick,
}

impl Reading<'_> {
    fn letters(&self, table: &std::sync::Mutex<letters::Letters>) -> Vec<RecordBatch> {
        vec![table.lock().unwrap_or_else(PoisonError::into_inner).batch(self.tick)]
    }
}

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

fn count(name: &str) -> Field {
    Field::new(name, DataType::Int64, false)
}

fn time(name: &str) -> Field {
    Field::new(
        name,
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        true,
    )
}

fn texts<T: AsRef<str>>(values: impl Iterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn counts(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter(values).with_timezone("UTC"))
}

fn batch(schema: SchemaRef, columns: Vec<ArrayRef>) -> Vec<RecordBatch> {
    vec![RecordBatch::try_new(schema, columns).expect("a table's columns are those of its schema")]
}

fn views_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("name", false),
        text("kind", false),
        text("key", true),
        count("rows"),
        count("errors"),
        time("complete"),
        text("failed", true),
        text("sql", false),
    ]))
}

fn views(at: &Reading<'_>) -> Result<Vec<RecordBatch>, Moved> {
    let views = || at.topology.views.iter();
    let entries = || views().map(|view| &*view.relation);
    let key = |entry: &super::shared::RelationEntry| {
        let key = entry.relation.key.as_ref()?;
        let names: Vec<&str> = key
            .iter()
            .map(|&column| entry.relation.schema.field(column).name().as_str())
            .collect();
        Some(names.join(", "))
    };
    Ok(batch(
        views_schema(),
        vec![
            texts(entries().map(|entry| Some(&entry.relation.name))),
            texts(entries().map(|entry| Some(entry.relation.kind.as_str()))),
            texts(entries().map(key)),
            counts(entries().map(|entry| entry.store.rows())),
            counts(views().map(|view| at.topology.errors(view.name()) as i64)),
            times(entries().map(|entry| Some(entry.store.complete_through() as i64))),
            texts(entries().map(|entry| entry.failed())),
            texts(views().map(|view| view.view.as_ref().map(|definition| &definition.view.sql))),
        ],
    ))
}

fn sources_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("name", false),
        text("connector", false),
        count("rows"),
        count("accepted"),
        count("late"),
        count("rejected"),
        time("clock"),
        time("watermark"),
    ]))
}

fn sources(at: &Reading<'_>) -> Result<Vec<RecordBatch>, Moved> {
    let entries = || at.topology.sources.iter();
    let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed) as i64;
    Ok(batch(
        sources_schema(),
        vec![
            texts(entries().map(|source| Some(&source.name))),
            texts(
                at.topology
                    .deployment
                    .sources
                    .iter()
                    .map(|source| Some(source.connector.name())),
            ),
            counts(entries().map(|source| source.relation.store.rows())),
            counts(entries().map(|source| load(&source.accepted))),
            counts(entries().map(|source| load(&source.late))),
            counts(entries().map(|source| load(&source.rejected))),
            times(entries().map(|source| source.clock().0)),
            times(entries().map(|source| source.clock().1)),
        ],
    ))
}

fn sinks_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("name", false),
        text("from", false),
        count("waiting"),
        count("conflated"),
        time("delivered"),
        text("failure", true),
    ]))
}

fn sinks(at: &Reading<'_>) -> Result<Vec<RecordBatch>, Moved> {
    let status = at.shared.sinks.status();
    Ok(batch(
        sinks_schema(),
        vec![
            texts(status.iter().map(|sink| Some(&sink.sink))),
            texts(status.iter().map(|sink| Some(&sink.from))),
            counts(status.iter().map(|sink| sink.waiting as i64)),
            counts(status.iter().map(|sink| sink.conflated as i64)),
            times(
                status
                    .iter()
                    .map(|sink| (sink.delivered > 0).then_some(sink.delivered as i64)),
            ),
            texts(status.iter().map(|sink| sink.failure.as_ref())),
        ],
    ))
}

fn history_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("name", false),
        text("kind", false),
        count("files"),
        count("rows"),
        count("bytes"),
        time("first"),
        time("last"),
        text("failure", true),
    ]))
}

fn history(at: &Reading<'_>) -> Result<Vec<RecordBatch>, Moved> {
    let held = at.shared.holdings.lock();
    let views = held
        .inventory
        .views
        .iter()
        .map(|(name, view)| (name, "view", &view.entries));
    let sources = held
        .inventory
        .sources
        .iter()
        .map(|(name, source)| (name, "source", &source.entries));
    let lines: Vec<_> = views.chain(sources).collect();
    let sum = |of: fn(&FileEntry) -> u64| {
        let sums = lines
            .iter()
            .map(move |(_, _, entries)| entries.iter().map(of).sum::<u64>() as i64);
        counts(sums)
    };
    let spans: Vec<(Option<i64>, Option<i64>)> = lines
        .iter()
        .map(|(_, _, entries)| {
            let spans = entries.iter().map(FileEntry::span_us);
            (
                spans.clone().map(|(first, _)| first).min(),
                spans.map(|(_, last)| last).max(),
            )
        })
        .collect();
    Ok(batch(
        history_schema(),
        vec![
            texts(lines.iter().map(|(name, ..)| Some(name))),
            texts(lines.iter().map(|(_, kind, _)| Some(kind))),
            sum(|_| 1),
            sum(|entry| entry.rows),
            sum(|entry| entry.bytes),
            times(spans.iter().map(|(first, _)| *first)),
            times(spans.iter().map(|(_, last)| *last)),
            texts(lines.iter().map(|_| held.failure.as_ref())),
        ],
    ))
}

fn operators_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("view", false),
        text("operator", false),
        count("rows_in"),
        count("rows_out"),
        count("state_rows"),
        count("state_bytes"),
    ]))
}

fn operators(at: &Reading<'_>) -> Result<Vec<RecordBatch>, Moved> {
    let stats = at.workers.stats();
    let flows = at.topology.flows.iter();
    let lines: Vec<_> = flows
        .filter_map(|(id, flow)| Some((flow.name(), stats.get(*id)?)))
        .flat_map(|(name, operators)| operators.iter().map(move |operator| (name, operator)))
        .collect();
    Ok(batch(
        operators_schema(),
        vec![
            texts(lines.iter().map(|(view, _)| Some(view))),
            texts(lines.iter().map(|(_, operator)| Some(&operator.name))),
            counts(lines.iter().map(|(_, operator)| operator.rows_in as i64)),
            counts(lines.iter().map(|(_, operator)| operator.rows_out as i64)),
            counts(lines.iter().map(|(_, operator)| operator.state_rows as i64)),
            counts(lines.iter().map(|(_, operator)| operator.state_bytes as i64)),
        ],
    ))
}

fn errors_schema() -> SchemaRef {
    let mut fields = vec![Arc::new(text("view", false))];
    fields.extend(error_schema().fields().iter().cloned());
    Arc::new(Schema::new(fields))
}

fn errors(at: &Reading<'_>) -> Result<Vec<RecordBatch>, Moved> {
    let mut all = Vec::new();
    for view in &at.topology.views {
        let own = at.topology.own_errors(view).into_iter();
        for errors in own.filter_map(|relation| relation.errors.as_ref()) {
            for rows in errors.snapshot(at.tick)? {
                let view = texts(std::iter::repeat_n(Some(view.name()), rows.num_rows()));
                let columns = std::iter::once(view).chain(rows.columns().iter().cloned()).collect();
                all.extend(batch(errors_schema(), columns));
            }
        }
    }
    Ok(all)
}

fn alert_events(at: &Reading<'_>) -> Result<Vec<RecordBatch>, Moved> {
    Ok(vec![
        at.shared
            .alert_events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .batch(at.tick),
    ])
}

impl RelationKind {
    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            RelationKind::Source => "source",
            RelationKind::View => "view",
            RelationKind::Alert => "alert",
        }
    }
}
