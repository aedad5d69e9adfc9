//! The crate as its users meet it: texts in, plans, answers and refusals out.
mod answers;
mod json;
mod nested;
mod own;
mod plans;
mod queries;
mod refused;
mod registry;
mod sharing;
mod temporal;
mod time_windows;
mod travel;
mod windows;

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::util::pretty::pretty_format_batches;

use crate::{Catalog, Relations, SourceRelation, View};

/// 2026-03-01T00:00:00Z.
const TICK: u64 = 1_772_323_200_000_000;

fn schema(catalog: &Catalog, columns: &[(&str, &str)]) -> SchemaRef {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, sql)| {
            let column = catalog.column_type(sql).unwrap();
            Field::new(*name, column.data_type, column.nullable)
        })
        .collect();
    Arc::new(Schema::new(fields))
}

fn source(name: &str, schema: SchemaRef) -> SourceRelation {
    SourceRelation {
        name: name.into(),
        schema,
        append_only: true,
        key: None,
        retain_us: None,
        expires_after_us: None,
        time_column: None,
        lateness_us: None,
    }
}

/// A catalog with readings that stay two hours, keyed stations, and endless events.
fn catalog_in(time_zone: &str) -> Catalog {
    let mut catalog = Catalog::new(time_zone).unwrap();
    let readings = schema(
        &catalog,
        &[
            ("station", "text not null"),
            ("at", "timestamp not null"),
            ("ph", "double"),
            ("count", "integer"),
            ("price", "decimal(10, 2)"),
        ],
    );
    let stations = schema(
        &catalog,
        &[("station", "text not null"), ("river", "text"), ("limit_ph", "double")],
    );
    let events = schema(
        &catalog,
        &[
            ("id", "bigint not null"),
            ("kind", "text"),
            ("value", "bigint"),
            ("weight", "double"),
        ],
    );
    catalog
        .add_source(SourceRelation {
            append_only: false,
            retain_us: Some(7_200_000_000),
            expires_after_us: Some(7_140_000_000),
            time_column: Some("at".into()),
            ..source("readings", readings)
        })
        .unwrap();
    catalog
        .add_source(SourceRelation {
            append_only: false,
            key: Some(vec!["station".into()]),
            ..source("stations", stations)
        })
        .unwrap();
    catalog.add_source(source("events", events)).unwrap();
    catalog
}

fn catalog() -> Catalog {
    catalog_in("UTC")
}

fn view(catalog: &Catalog, sql: &str) -> View {
    catalog
        .plan_view("v", sql)
        .unwrap_or_else(|problems| panic!("{sql}: {problems:#?}"))
}

/// A row of `events`: id, kind, value, weight.
type Event<'a> = (i64, Option<&'a str>, Option<i64>, Option<f64>);

/// Rows of `events`.
fn events(catalog: &Catalog, rows: &[Event]) -> Relations {
    let schema = schema(
        catalog,
        &[
            ("id", "bigint not null"),
            ("kind", "text"),
            ("value", "bigint"),
            ("weight", "double"),
        ],
    );
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(StringArray::from_iter(rows.iter().map(|row| row.1))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.2))),
        Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.3))),
    ];
    let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
    Relations::from([("events".to_owned(), (schema, vec![batch]).into())])
}

/// Rows of `readings`: station, microseconds, ph.
fn readings(catalog: &Catalog, rows: &[(&str, i64, Option<f64>)]) -> Relations {
    let schema = schema(
        catalog,
        &[
            ("station", "text not null"),
            ("at", "timestamp not null"),
            ("ph", "double"),
            ("count", "integer"),
            ("price", "decimal(10, 2)"),
        ],
    );
    let at =
        TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.1)).with_timezone(catalog.time_zone());
    assert_eq!(
        at.data_type(),
        &DataType::Timestamp(TimeUnit::Microsecond, Some(catalog.time_zone().into()))
    );
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(at),
        Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.2))),
        Arc::new(Int32Array::from_iter_values((0..rows.len()).map(|row| row as i32))),
        Arc::new(
            Decimal128Array::from_iter_values((0..rows.len()).map(|row| row as i128 * 125))
                .with_precision_and_scale(10, 2)
                .unwrap(),
        ),
    ];
    let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
    Relations::from([("readings".to_owned(), (schema, vec![batch]).into())])
}

/// Prints rows in the order of their text.
fn printed(batches: &[RecordBatch]) -> String {
    let text = pretty_format_batches(batches).unwrap().to_string();
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('+')).collect();
    if lines.len() > 1 {
        lines[1..].sort_unstable();
    }
    lines.join("\n")
}

fn answer(catalog: &Catalog, sql: &str, relations: &Relations, tick: u64) -> String {
    let view = view(catalog, sql);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    printed(
        &runtime
            .block_on(catalog.batch(&view, relations, tick))
            .unwrap_or_else(|error| panic!("{sql}: {error}")),
    )
}

fn plain(catalog: &Catalog, sql: &str, relations: &Relations, tick: u64) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    printed(
        &runtime
            .block_on(catalog.plain_batch(sql, relations, tick))
            .unwrap_or_else(|error| panic!("{sql}: {error}")),
    )
}
