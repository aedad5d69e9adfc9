//! `POST /views` and `DELETE /views/{view}`: changes what runs, while it runs.
//!
//! A change is made in the deployment folder, too, so that a restart finds what ran. It takes effect as a
//! whole, or not at all; only should the file then refuse its new name, the change runs and the answer says so.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::error::{ApiError, json_response};
use super::limits::QUERY_TEXT_BYTES_MAX;
use super::{Server, ingest};
use crate::config::{ALERT, Edit, Kind, VIEW};
use crate::engine::{ChangeError, Changed};

/// A view as a client declares it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    /// Its name.
    name: String,
    /// What its file is to say: one `SELECT`, under head lines `--!` if need be.
    sql: String,
    /// "view" (default) or "alert".
    kind: Option<String>,
}

/// Adds a view or alert, or changes one; answers once it is current.
pub(super) async fn put(
    State(server): State<Arc<Server>>,
    Query(parameters): Query<HashMap<String, String>>,
    request: Request,
) -> Result<Response, ApiError> {
    let is_json = media_type(request.headers())?;
    let body = ingest::text(request.into_body(), QUERY_TEXT_BYTES_MAX).await?;
    let declared = match is_json {
        true => serde_json::from_str(&body).map_err(|error| {
            ApiError::bad_request("bad_request", format!("the body is not understood: {error}"))
                .hint("Send {\"name\": \"…\", \"sql\": \"SELECT …\"}, for an alert with \"kind\": \"alert\".")
        })?,
        false => from_parameters(parameters, body)?,
    };
    let kind = kind(declared.kind.as_deref())?;
    let edit = Edit::Put {
        kind,
        name: declared.name,
        text: declared.sql,
    };
    answer(server.engine.edit(edit).await)
}

/// Drops a view or alert.
pub(super) async fn remove(State(server): State<Arc<Server>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let deployment = server.engine.deployment();
    let mut names = deployment.views.iter().map(|definition| definition.view.name.as_str());
    if !names.clone().any(|known| known == name) {
        return Err(ApiError::unknown("unknown_view", "view or alert", &name, &mut names));
    }
    answer(server.engine.edit(Edit::Drop { name }).await)
}

/// Tells JSON from plain SQL. What a form of any web page could send is not taken.
fn media_type(headers: &HeaderMap) -> Result<bool, ApiError> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    match value.unwrap_or_default().split(';').next().unwrap_or_default().trim() {
        "application/json" => Ok(true),
        "application/sql" => Ok(false),
        other => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unknown_content_type",
            format!("a view of content type \"{other}\" is not understood"),
        )
        .hint("Send {\"name\", \"sql\"} as application/json, or the SELECT as application/sql with ?name=NAME.")),
    }
}

fn from_parameters(mut parameters: HashMap<String, String>, sql: String) -> Result<Declared, ApiError> {
    let Some(name) = parameters.remove("name") else {
        return Err(ApiError::bad_request("no_name", "the view has no name").hint("Say ?name=NAME."));
    };
    let kind = parameters.remove("kind");
    match parameters.keys().next() {
        Some(unknown) => Err(ApiError::bad_request(
            "unknown_parameter",
            format!("there is no parameter \"{unknown}\""),
        )
        .hint("The parameters are name and kind.")),
        None => Ok(Declared { name, sql, kind }),
    }
}

fn kind(kind: Option<&str>) -> Result<&'static Kind, ApiError> {
    match kind {
        None | Some("view") => Ok(&VIEW),
        Some("alert") => Ok(&ALERT),
        Some(other) => Err(
            ApiError::bad_request("unknown_kind", format!("there is no kind \"{other}\""))
                .hint("The kinds are view and alert."),
        ),
    }
}

fn answer(changed: Result<Changed, ChangeError>) -> Result<Response, ApiError> {
    let changed = changed.map_err(refused)?;
    let body = json!({
        "added": changed.added,
        "changed": changed.changed,
        "dropped": changed.dropped,
        "tick": changed.tick,
        "rows": changed.rows,
        "seconds": changed.took.as_secs_f64(),
    });
    Ok(json_response(StatusCode::OK, body.to_string()))
}

fn refused(error: ChangeError) -> ApiError {
    match error {
        ChangeError::Wrong(mut problems) if problems.len() == 1 => {
            let hint = problems[0].hint.take();
            ApiError {
                hint,
                ..ApiError::bad_request("bad_view", problems[0].to_string())
            }
        }
        ChangeError::Wrong(_) | ChangeError::Unsupported(_) => ApiError::bad_request("bad_view", error.to_string()),
        ChangeError::Unwritten(_) => ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "folder_not_written",
            error.to_string(),
        )
        .hint("Let the program write to the folder, or change the file by hand and send the program SIGHUP."),
        ChangeError::NeedsRestart(_) => ApiError::new(StatusCode::CONFLICT, "needs_restart", error.to_string())
            .hint("Options, and sources that are read already, are fixed while the program runs: start it anew."),
        ChangeError::Stopped(_) => ApiError::busy("stopping", error.to_string()),
    }
}
