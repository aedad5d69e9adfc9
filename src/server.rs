//! What answers on the network: HTTP and WebSocket.
//!
//! `ingest` takes rows, `socket` sends live views, `sql` answers queries,
//! `catalog` tells what there is and whether it is well, `views` changes it, `metrics` counts, `page`
//! is what a browser sees, `error` is how all of them say no.
//!
//! Nothing here decides an answer: rows come decoded from `connectors`, results
//! from the engine. What is bounded, and by how much, stands in [`limits`].

mod catalog;
mod error;
mod ingest;
pub mod limits;
pub mod metrics;
mod page;
mod socket;
mod sql;
mod upkeep;
mod views;

use std::future::Future;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{delete, get, post};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::engine::Engine;
use error::ApiError;

/// Method, path and purpose of every door, for the page and for those who miss one.
pub const ENDPOINTS: &[(&str, &str, &str)] = &[
    (
        "POST",
        "/ingest/{source}",
        "rows in: NDJSON, a JSON array or CSV; ?op=delete takes them back",
    ),
    (
        "GET",
        "/ws",
        "live views: a WebSocket that sends a snapshot, then every change",
    ),
    (
        "POST",
        "/sql",
        "one SQL query, as the body; the answer as JSON, CSV or Arrow",
    ),
    (
        "GET",
        "/views",
        "sources, views and alerts: columns, keys, definitions, rows",
    ),
    (
        "POST",
        "/views",
        "adds or changes a view or alert: {\"name\", \"sql\"}, also written to the deployment folder",
    ),
    (
        "DELETE",
        "/views/{view}",
        "drops a view or alert that nothing else reads",
    ),
    (
        "GET",
        "/views/{view}/changes",
        "what changed in a view from one time to another, a line a tick: ?from= and ?to=",
    ),
    (
        "POST",
        "/backup",
        "copies all that survives into the deployment's folder for backups; ?name= names the copy",
    ),
    (
        "POST",
        "/verify",
        "compares every view with the batch answer over what its inputs hold",
    ),
    ("GET", "/healthz", "200 while the process answers"),
    ("GET", "/readyz", "200 once every view has its first answer"),
    ("GET", "/metrics", "figures for Prometheus"),
    ("GET", "/", "this deployment in a browser"),
];

/// What every handler shares.
struct Server {
    engine: Engine,
    ingest: ingest::Ingest,
    queries: sql::Queries,
    sockets: socket::Sockets,
    metrics: metrics::Metrics,
    /// True once the program is told to stop.
    stopping: watch::Receiver<bool>,
}

/// Answers on `listener` until `shutdown` completes, then lets running requests
/// finish and closes every WebSocket with a close frame.
///
/// # Errors
/// When the metrics cannot be set up or the listener fails.
pub async fn serve(
    engine: Engine,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let (stop, stopping) = watch::channel(false);
    let server = Arc::new(Server {
        ingest: ingest::Ingest::new(),
        queries: sql::Queries::new()?,
        sockets: socket::Sockets::new(),
        metrics: metrics::Metrics::install()?,
        engine,
        stopping,
    });
    let router = router(server.clone());
    // Frames and replies are small and each is waited for: never hold them back.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "no TCP_NODELAY on a connection");
        }
    });
    let upkeep = server.metrics.upkeep();
    let mut stopping = server.stopping.clone();
    let stopped = async move {
        // An error means the sender is gone, which is a stop as well.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let answering = tokio::spawn(
        axum::serve(listener, router)
            .with_graceful_shutdown(stopped)
            .into_future(),
    );
    let patience = async {
        shutdown.await;
        let _ = stop.send(true);
        // A request that is being sent drop by drop must not hold the program up.
        tokio::time::sleep(limits::SHUTDOWN_PATIENCE).await;
    };
    let outcome = tokio::select! {
        outcome = answering => outcome.context("the server panicked")?.context("the server failed"),
        () = patience => {
            warn!("stopped without waiting for the last requests");
            Ok(())
        }
    };
    upkeep.abort();
    server.sockets.closed().await;
    outcome
}

fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/ingest/{source}", post(ingest::ingest))
        .route("/ws", get(socket::upgrade))
        .route("/sql", post(sql::query))
        .route("/views", get(catalog::views).post(views::put))
        .route("/views/{view}", delete(views::remove))
        .route("/views/{view}/changes", get(socket::past::changes))
        .route("/backup", post(upkeep::backup))
        .route("/verify", post(upkeep::verify))
        .route("/healthz", get(catalog::healthz))
        .route("/readyz", get(catalog::readyz))
        .route("/metrics", get(metrics::scrape))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(server.clone(), recovered))
        .layer(middleware::from_fn(count))
        .with_state(server)
}

/// Turns away what asks for rows, or brings some, before everything is as the last run left it.
async fn recovered(State(server): State<Arc<Server>>, request: Request, next: Next) -> Result<Response, ApiError> {
    let is_of_the_program = matches!(request.uri().path(), "/" | "/healthz" | "/readyz" | "/metrics");
    match server.engine.recovery() {
        Some(recovery) if !is_of_the_program => Err(catalog::recovering(&recovery)),
        _ => Ok(next.run(request).await),
    }
}

async fn count(request: Request, next: Next) -> Response {
    // The pattern, never the path as sent: its values would grow the metrics without bound.
    let path = endpoint(request.uri().path()).map_or("unknown", |(_, pattern, _)| pattern);
    let response = next.run(request).await;
    metrics::request(path, response.status());
    response
}

/// Finds the door a path leads to.
fn endpoint(path: &str) -> Option<(&'static str, &'static str, &'static str)> {
    let leads_to = |pattern: &str| match pattern.split_once('{') {
        Some((stem, rest)) => {
            let end = rest.split_once('}').map_or("", |(_, end)| end);
            let name = path.strip_prefix(stem).and_then(|path| path.strip_suffix(end));
            name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
        }
        None => path == pattern,
    };
    ENDPOINTS.iter().copied().find(|(_, pattern, _)| leads_to(pattern))
}

async fn no_such_path(uri: Uri) -> ApiError {
    let paths: Vec<String> = ENDPOINTS
        .iter()
        .map(|(method, path, _)| format!("{method} {path}"))
        .collect();
    ApiError::not_found("unknown_path", format!("there is nothing at {}", uri.path()))
        .hint(format!("Try one of: {}.", paths.join(", ")))
}

async fn no_such_method(method: Method, uri: Uri) -> ApiError {
    let path = uri.path();
    let error = ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{path} does not take {method}"),
    );
    match endpoint(path) {
        Some((takes, _, purpose)) => error.hint(format!("Use {takes} {path}: {purpose}.")),
        None => error,
    }
}
