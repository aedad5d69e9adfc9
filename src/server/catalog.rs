//! What there is, and whether it is well: `/views`, `/healthz`, `/readyz`.

use std::sync::Arc;

use arrow::datatypes::DataType;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::error::{ApiError, json_response};
use super::{ENDPOINTS, Server};
use crate::config::ViewKind;
use crate::engine::{Engine, Recovery, Relation, RelationKind};

/// Lists every relation with its columns, key, definition and current extent.
pub(super) async fn views(State(server): State<Arc<Server>>) -> Response {
    let engine = &server.engine;
    let relations: Vec<Value> = engine
        .relations()
        .iter()
        .map(|relation| describe(engine, relation))
        .collect();
    let body = json!({
        "deployment": engine.deployment().name,
        "views": relations,
        "endpoints": ENDPOINTS
            .iter()
            .map(|(method, path, purpose)| json!({"method": method, "path": path, "purpose": purpose}))
            .collect::<Vec<_>>(),
    });
    json_response(StatusCode::OK, body.to_string())
}

pub(super) async fn healthz() -> Response {
    json_response(StatusCode::OK, r#"{"status":"ok"}"#)
}

/// Says no until every relation has its first answer, and again once the program stops.
pub(super) async fn readyz(State(server): State<Arc<Server>>) -> Result<Response, ApiError> {
    if *server.stopping.borrow() {
        return Err(ApiError::busy("stopping", "the program is stopping"));
    }
    let engine = &server.engine;
    if let Some(recovery) = engine.recovery() {
        return Err(recovering(&recovery));
    }
    let relations = engine.relations();
    let waiting: Vec<&str> = relations
        .iter()
        .filter(|relation| engine.completed(&relation.name) == 0)
        .map(|relation| relation.name.as_str())
        .collect();
    if !waiting.is_empty() {
        return Err(ApiError::busy(
            "starting",
            format!("no answer yet from {}", waiting.join(", ")),
        ));
    }
    Ok(json_response(StatusCode::OK, r#"{"status":"ready"}"#))
}

/// Says how far the program has come in taking up what the last run left.
pub(super) fn recovering(recovery: &Recovery) -> ApiError {
    let Recovery { rows, bytes } = recovery;
    let message = format!(
        "taking up what the last run left: {} % ({} of {} rows, {} of {} bytes of the log)",
        recovery.percent(),
        rows.0,
        rows.1,
        bytes.0,
        bytes.1
    );
    ApiError::busy("recovering", message).hint("Ask /readyz when it is done.")
}

fn describe(engine: &Engine, relation: &Relation) -> Value {
    let deployment = engine.deployment();
    let source = deployment.sources.iter().find(|source| source.name == relation.name);
    let columns: Vec<Value> = relation
        .schema
        .fields()
        .iter()
        .enumerate()
        .map(|(position, field)| {
            let mut column = json!({
                "name": field.name(),
                "type": sql_type(field.data_type()),
                "nullable": field.is_nullable(),
            });
            if let Some(from) = source.and_then(|source| source.columns[position].from.as_ref()) {
                column["from"] = json!(from);
            }
            column
        })
        .collect();
    let key: Option<Vec<&str>> = relation.key.as_ref().map(|key| {
        key.iter()
            .map(|&column| relation.schema.field(column).name().as_str())
            .collect()
    });
    let definition = deployment
        .views
        .iter()
        .find(|definition| definition.view.name == relation.name);
    let mut description = json!({
        "name": relation.name,
        "kind": match relation.kind {
            RelationKind::Source => "source",
            RelationKind::View => "view",
            RelationKind::Alert => "alert",
        },
        "columns": columns,
        "key": key,
        "rows": engine.rows(&relation.name),
        "tick": engine.completed(&relation.name),
        "errors": engine.errors(&relation.name),
        "failed": engine.failed(&relation.name),
        "sql": definition.map(|definition| definition.view.sql.trim()),
        "inputs": definition.map(|definition| &definition.view.inputs),
    });
    if let Some(ViewKind::Alert { priority, .. }) = definition.map(|definition| &definition.kind) {
        description["priority"] = json!(priority.as_str());
    }
    if let Some(source) = source {
        description["takes_posts"] = json!(source.connector.takes_posts());
    }
    description
}

/// Writes a type the way a source declares it.
pub(super) fn sql_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 => "tinyint".to_owned(),
        DataType::Int16 => "smallint".to_owned(),
        DataType::Int32 => "integer".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::UInt8 => "tinyint unsigned".to_owned(),
        DataType::UInt16 => "smallint unsigned".to_owned(),
        DataType::UInt32 => "integer unsigned".to_owned(),
        DataType::UInt64 => "bigint unsigned".to_owned(),
        DataType::Float32 => "real".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "varbinary".to_owned(),
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "time".to_owned(),
        DataType::Timestamp(_, _) => "timestamp".to_owned(),
        DataType::Interval(_) | DataType::Duration(_) => "interval".to_owned(),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            format!("{}[]", sql_type(item.data_type()))
        }
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|field| format!("{} {}", field.name(), sql_type(field.data_type())))
                .collect();
            format!("struct({})", fields.join(", "))
        }
        DataType::Dictionary(_, value) => sql_type(value),
        other => other.to_string().to_lowercase(),
    }
}
