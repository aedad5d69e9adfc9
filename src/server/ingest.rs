//! `POST /ingest/{source}`: rows in, counts out.
//!
//! A body is NDJSON, a JSON array or CSV with a header line: by its content type,
//! else in the source's declared format, else by its first character. It is never
//! larger than the deployment's `body_bytes_max`. Rows that do not fit the columns
//! are counted as rejected and stand in `sangam.rejected`; the rest goes on.

mod body;
mod decoders;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use connectors::{Decoded, FormatKind};
use serde_json::json;
use tokio::sync::Semaphore;

use super::Server;
use super::error::{ApiError, json_response};
use super::limits::{BODY_BYTES_DECODED_INLINE, BODY_BYTES_IN_FLIGHT_MAX};
use crate::engine::{Engine, IngestError, Operation, RelationKind};
use decoders::{Decoders, detect};

pub(super) use body::text;

/// What the door for rows keeps between requests.
pub(super) struct Ingest {
    /// One permit for each KiB of body in memory.
    memory: Semaphore,
    /// By name; those declared while the program runs follow when they are first asked for.
    sources: RwLock<HashMap<String, Arc<Source>>>,
}

struct Source {
    decoders: Arc<Decoders>,
    /// Whether the source's connector takes POSTs.
    open: bool,
    /// Whether rows can be taken back.
    deletes: bool,
    /// Whether rows say themselves what becomes of them, or all of them are all there is.
    decides: bool,
}

impl Ingest {
    pub(super) fn new() -> Self {
        Ingest {
            memory: Semaphore::new(BODY_BYTES_IN_FLIGHT_MAX / 1024),
            sources: RwLock::default(),
        }
    }

    /// Returns a source that is declared.
    fn source(&self, engine: &Engine, name: &str) -> Option<Arc<Source>> {
        let known = self
            .sources
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned();
        if known.is_some() {
            return known;
        }
        let deployment = engine.deployment();
        let declared = deployment.sources.iter().find(|source| source.name == name)?;
        let prepared = Arc::new(Source {
            decoders: Arc::new(Decoders::new(declared, &deployment.options.time_zone)),
            open: declared.connector.takes_posts(),
            deletes: declared.key.is_some() || declared.retractions,
            decides: declared.snapshot || declared.format.envelope.is_some(),
        });
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        Some(sources.entry(name.to_owned()).or_insert(prepared).clone())
    }
}

pub(super) async fn ingest(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
    Query(parameters): Query<HashMap<String, String>>,
    request: Request,
) -> Result<Response, ApiError> {
    let source = find(&server, &name)?;
    let operation = operation(&parameters, &name, &source)?;
    let kind = kind(request.headers(), &source)?;
    let idempotency_key = idempotency_key(request.headers())?;
    let bytes_max = server.engine.deployment().options.body_bytes_max;
    let (body, permit) = body::read(request, bytes_max, &server.ingest.memory).await?;
    let decoded = decode(&source, kind, operation, body).await?;
    drop(permit);
    let accepted = server
        .engine
        .ingest_once(&name, operation, decoded, idempotency_key)
        .await;
    let accepted = accepted.map_err(refused)?;
    let mut answer = json!({
        "accepted": accepted.accepted,
        "late": accepted.late,
        "rejected": accepted.rejected,
        "tick": accepted.tick,
        "reasons": accepted.reasons,
    });
    if accepted.repeated {
        // Taken before, and not again.
        answer["repeated"] = json!(true);
    }
    Ok(json_response(StatusCode::OK, answer.to_string()))
}

fn find(server: &Server, name: &str) -> Result<Arc<Source>, ApiError> {
    let Some(source) = server.ingest.source(&server.engine, name) else {
        if server
            .engine
            .relation(name)
            .is_some_and(|relation| relation.kind != RelationKind::Source)
        {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                "not_a_source",
                format!("\"{name}\" is a view: it is computed, and takes no rows"),
            )
            .hint(format!(
                "POST to one of its sources: {}.",
                open_sources(server).join(", ")
            )));
        }
        return Err(ApiError::unknown(
            "unknown_source",
            "source",
            name,
            open_sources(server).iter().map(String::as_str),
        ));
    };
    if !source.open {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "source_takes_no_posts",
            format!("source \"{name}\" reads its rows by a connector of its own"),
        )
        .hint("Only sources whose connector has type \"http\" or \"simulate\" take POSTs."));
    }
    Ok(source)
}

fn open_sources(server: &Server) -> Vec<String> {
    let deployment = server.engine.deployment();
    let sources = deployment.sources.iter();
    sources
        .filter(|source| source.connector.takes_posts())
        .map(|source| source.name.clone())
        .collect()
}

fn operation(parameters: &HashMap<String, String>, name: &str, source: &Source) -> Result<Operation, ApiError> {
    if let Some(unknown) = parameters.keys().find(|parameter| *parameter != "op") {
        return Err(
            ApiError::bad_request("unknown_parameter", format!("there is no parameter \"{unknown}\""))
                .hint("The one parameter is op, as in ?op=delete."),
        );
    }
    match parameters.get("op").map(String::as_str) {
        Some(_) if source.decides => Err(ApiError::new(
            StatusCode::CONFLICT,
            "source_decides",
            format!("what becomes of rows of source \"{name}\" is not for op to say"),
        )
        .hint("Leave op out: a snapshot is all there is, and an envelope holds an op of its own.")),
        None | Some("insert" | "upsert") => Ok(Operation::Insert),
        Some("delete") if source.deletes => Ok(Operation::Delete),
        Some("delete") => Err(ApiError::new(
            StatusCode::CONFLICT,
            "source_keeps_its_rows",
            format!("source \"{name}\" only takes rows in"),
        )
        .hint("Declare a key, or retractions = true, in the source's file so that rows can be taken back.")),
        Some(other) => Err(
            ApiError::bad_request("unknown_operation", format!("there is no operation \"{other}\""))
                .hint("Leave op out to insert (upsert, with a key), or say ?op=delete."),
        ),
    }
}

/// The longest idempotency key, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Returns the key by which this request is known if it is sent again.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match key.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= IDEMPOTENCY_KEY_BYTES_MAX => Ok(Some(key.to_owned())),
        _ => Err(ApiError::bad_request(
            "unusable_idempotency_key",
            format!("the Idempotency-Key is no text of 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters"),
        )
        .hint("Send for example a UUID, and the same one again where no answer came.")),
    }
}

/// Returns the format that the headers or the declaration tell, if they do.
fn kind(headers: &HeaderMap, source: &Source) -> Result<Option<FormatKind>, ApiError> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && encoding != "identity"
    {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "compressed_body",
            "bodies are taken uncompressed only",
        )
        .hint("Send the body without Content-Encoding."));
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(source.decoders.declared());
    };
    let value = value.to_str().unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        "text/csv" => Ok(Some(FormatKind::Csv)),
        "application/json"
        | "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/json-lines" => Ok(Some(FormatKind::Json)),
        // What curl, fetch and others say when they were told nothing.
        "" | "application/x-www-form-urlencoded" | "application/octet-stream" | "text/plain" => {
            Ok(source.decoders.declared())
        }
        other => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unknown_content_type",
            format!("rows of content type \"{other}\" are not understood"),
        )
        .hint("Send NDJSON or a JSON array as application/json, or CSV with a header line as text/csv.")),
    }
}

async fn decode(
    source: &Source,
    kind: Option<FormatKind>,
    operation: Operation,
    body: Bytes,
) -> Result<Decoded, ApiError> {
    let kind = kind.unwrap_or_else(|| detect(&body));
    if body.len() < BODY_BYTES_DECODED_INLINE {
        return source.decoders.decode(kind, operation, &body);
    }
    let decoders = source.decoders.clone();
    tokio::task::spawn_blocking(move || decoders.decode(kind, operation, &body))
        .await
        .map_err(|_| {
            ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "decoder_failed",
                "the decoder panicked",
            )
        })?
}

fn refused(error: IngestError) -> ApiError {
    ApiError::busy("not_taken", error.to_string())
        .hint("Send it again in a moment. With the header Idempotency-Key it counts once, whether or not it was taken.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_character_tells_json_from_csv() {
        assert_eq!(detect(b" \n[{\"a\":1}]"), FormatKind::Json);
        assert_eq!(detect(b"{\"a\":1}\n{\"a\":2}"), FormatKind::Json);
        assert_eq!(detect(b"a,b\n1,2\n"), FormatKind::Csv);
        assert_eq!(detect("\u{feff}{}".as_bytes()), FormatKind::Json);
        assert_eq!(detect(b""), FormatKind::Json);
    }
}
