//! `GET /views/{view}/changes`: what changed between two earlier times, in the words of a subscription.
//!
//! One line of JSON a tick. An answer is bounded: where there is more, its last line is `{"next": TICK}`, and
//! `?from=TICK` goes on there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use dataflows::{Tick, Updates};

use super::selection::Selection;
use crate::server::Server;
use crate::server::error::ApiError;
use crate::server::limits::{PAST_BYTES_MAX, REPLAY_PATIENCE};
use crate::server::sql::not_told;

/// Tells what changed in `from <= tick <= to`; without `to`, until now.
pub(in crate::server) async fn changes(
    State(server): State<Arc<Server>>,
    Path(view): Path<String>,
    Query(mut parameters): Query<HashMap<String, String>>,
) -> Result<Response, ApiError> {
    let engine = &server.engine;
    let Some(relation) = engine.relation(&view) else {
        let relations = engine.relations();
        let names = relations.iter().map(|relation| relation.name.as_str());
        return Err(ApiError::unknown("unknown_view", "view", &view, names));
    };
    let from = time("from", parameters.remove("from"))?.ok_or_else(|| {
        ApiError::bad_request("no_time", "it is not said from when on").hint("Say ?from=2026-03-01T10:00:00Z.")
    })?;
    let to = time("to", parameters.remove("to"))?.unwrap_or_else(|| engine.now());
    if let Some(unknown) = parameters.keys().next() {
        return Err(
            ApiError::bad_request("unknown_parameter", format!("there is no parameter \"{unknown}\""))
                .hint("The parameters are from and to."),
        );
    }
    if from > to {
        return Err(ApiError::bad_request("bad_time", "from is after to").hint("Say the earlier time first."));
    }
    let selection = Selection::new(&engine.deployment().catalog, &relation, None, None)?;
    let lines = Arc::new(Mutex::new(Vec::new()));
    let written = Arc::clone(&lines);
    let take = move |tick: Tick, updates: &[Updates]| -> anyhow::Result<bool> {
        let mut lines = written.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() > PAST_BYTES_MAX {
            lines.extend_from_slice(format!("{{\"next\":{tick}}}\n").as_bytes());
            return Ok(false);
        }
        if let Some(changes) = selection.changes(updates)? {
            lines.extend_from_slice(format!("{{\"tick\":{tick},").as_bytes());
            lines.extend_from_slice(&changes);
            lines.extend_from_slice(b"}\n");
        }
        Ok(true)
    };
    engine
        .past_changes(&view, (from, to), REPLAY_PATIENCE, take)
        .await
        .map_err(not_told)?;
    let lines = std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

/// Reads a time as people or programs write one: RFC 3339, or the number of a tick.
fn time(parameter: &str, text: Option<String>) -> Result<Option<Tick>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    match crate::engine::tick(&text) {
        Some(tick) => Ok(Some(tick)),
        None => Err(
            ApiError::bad_request("bad_time", format!("{parameter}={text} is no time"))
                .hint("Write 2026-03-01T10:00:00Z, or microseconds since 1970, as ticks are counted."),
        ),
    }
}
