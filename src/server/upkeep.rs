//! `POST /backup` and `POST /verify`: what an operator does to a running deployment.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::Server;
use super::error::{ApiError, json_response};
use crate::engine::BackupError;

/// Makes a backup; `?name=` names its folder.
pub(super) async fn backup(
    State(server): State<Arc<Server>>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Result<Response, ApiError> {
    let name = match parameters.get("name") {
        Some(name) => name.clone(),
        None => chrono::Utc::now().format("%Y-%m-%dT%H%M%S").to_string(),
    };
    let engine = server.engine.clone();
    let made = tokio::task::spawn_blocking(move || engine.backup(&name)).await;
    let made = made.map_err(|_| failed("the backup panicked".to_owned()))?;
    match made {
        Ok(folder) => Ok(json_response(StatusCode::OK, json!({ "backup": folder }).to_string())),
        Err(error @ BackupError::Name(_)) => Err(ApiError::bad_request("bad_name", error.to_string())
            .hint("Use letters, digits, - and _, at most 100, or leave the name out.")),
        Err(error @ BackupError::NothingKept) => {
            Err(ApiError::new(StatusCode::CONFLICT, "nothing_kept", error.to_string())
                .hint("Leave `durability = \"none\"` out of deployment.toml."))
        }
        Err(BackupError::Log(error)) => Err(failed(format!("{:#}", anyhow::Error::new(error)))),
    }
}

/// Compares every view with the batch answer.
pub(super) async fn verify(State(server): State<Arc<Server>>) -> Result<Response, ApiError> {
    let audit = server.engine.audit().await;
    let audit = audit.map_err(|error| ApiError::busy("stopped", error.to_string()))?;
    let views: Vec<_> = audit
        .views
        .iter()
        .map(|view| {
            json!({
                "view": view.view,
                "rows": view.rows,
                "compared": view.compared,
                "difference": view.difference,
                "passed_over": view.passed_over,
            })
        })
        .collect();
    let is_right = audit.views.iter().all(|view| view.difference.is_none());
    let body = json!({ "tick": audit.tick, "right": is_right, "views": views });
    Ok(json_response(StatusCode::OK, body.to_string()))
}

fn failed(message: String) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "not_backed_up", message)
}
