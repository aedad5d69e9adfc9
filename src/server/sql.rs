//! `POST /sql`: one query over one tick.
//!
//! All relations a query names are read at the newest tick complete for all of
//! them, and never at one older than any tick acknowledged before the request
//! arrived; the answer tells the tick in `x-sangam-tick`. Queries run on threads
//! of their own, so that a heavy one does not hold up rows coming in or views
//! going out. What a relation held at an earlier time is found out by a replay, before.

mod csv;
mod format;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use dataflows::Tick;
use queries::{Problem, QueryError, Relations};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::error::ApiError;
use super::limits::{
    QUERIES_MAX, QUERIES_WAITING_MAX, QUERY_BYTES_MAX, QUERY_PATIENCE, QUERY_TEXT_BYTES_MAX, REPLAY_PATIENCE,
};
use super::{Server, ingest, metrics};
use crate::engine::{Engine, TravelError};
use format::Format;

/// Where queries run, and how many.
pub(super) struct Queries {
    /// Taken on drop only: a runtime may not be waited for inside another.
    runtime: Option<Runtime>,
    running: Arc<Semaphore>,
    waiting: Semaphore,
}

/// The stack of a thread that runs queries.
const STACK_BYTES: usize = 32 << 20;

/// The rows of one query at one tick.
struct Answer {
    tick: Tick,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl Queries {
    pub(super) fn new() -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name("sangam-query")
            // Plans are walked by recursion.
            .thread_stack_size(STACK_BYTES)
            // Files of history may be in a bucket.
            .enable_all()
            .build()
            .context("could not start the threads that run queries")?;
        Ok(Queries {
            runtime: Some(runtime),
            running: Arc::new(Semaphore::new(QUERIES_MAX)),
            waiting: Semaphore::new(QUERIES_MAX + QUERIES_WAITING_MAX),
        })
    }

    async fn run(&self, engine: &Engine, sql: String, at_least: Tick) -> Result<Answer, ApiError> {
        let _place = self.waiting.try_acquire().map_err(|_| {
            ApiError::busy("too_many_queries", "too many queries are waiting").hint("Ask again in a moment.")
        })?;
        let running = self.running.clone().acquire_owned().await.map_err(|_| stopping())?;
        let engine = engine.clone();
        let runtime = self.runtime.as_ref().ok_or_else(stopping)?;
        let mut task = runtime.spawn(async move {
            let answer = answer(&engine, &sql, at_least).await;
            drop(running);
            answer
        });
        // Held until the answer or the end of patience: when the caller hangs up, the query stops too.
        let abort = AbortOnDrop(task.abort_handle());
        match timeout(QUERY_PATIENCE, &mut task).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "query_panicked",
                "the query panicked",
            )
            .hint("This is a bug of Sangam. Please report the query.")),
            Err(_) => {
                drop(abort);
                let seconds = Duration::as_secs(&QUERY_PATIENCE);
                Err(ApiError::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "query_timeout",
                    format!("the query took longer than {seconds} seconds and was stopped"),
                )
                .hint("Read fewer rows, or declare a view, which is kept current."))
            }
        }
    }
}

impl Drop for Queries {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) async fn query(State(server): State<Arc<Server>>, request: Request) -> Result<Response, ApiError> {
    let started = Instant::now();
    // Taken first: what was acknowledged before the request came must be in the answer.
    let acknowledged = server.engine.acknowledged();
    let format = Format::negotiate(request.headers())?;
    let sql = ingest::text(request.into_body(), QUERY_TEXT_BYTES_MAX).await?;
    if sql.trim().is_empty() {
        return Err(ApiError::bad_request("empty_query", "the body is empty")
            .hint("Send the query's text as the body, as in: curl --data 'SELECT * FROM sangam.views' .../sql"));
    }
    let answer = server.queries.run(&server.engine, sql, acknowledged).await;
    metrics::query(started.elapsed(), answer.is_ok());
    let answer = answer?;
    Ok(format.response(answer.tick, &answer.schema, answer.batches))
}

async fn answer(engine: &Engine, sql: &str, at_least: Tick) -> Result<Answer, ApiError> {
    let catalog = &engine.deployment().catalog;
    let query = catalog.plan_query_at(sql, engine.now()).map_err(bad_sql)?;
    let earlier = earlier(engine, &query).await?;
    let mut snapshot = engine
        .snapshot(query.relations(), at_least)
        .await
        .map_err(|error| ApiError::busy("no_snapshot", error.to_string()))?;
    let tick = snapshot.tick;
    snapshot.relations.extend(earlier);
    let ran = catalog
        .run_query(&query, &snapshot.relations, tick, QUERY_BYTES_MAX)
        .await;
    let (schema, batches) = ran.map_err(|error| match error {
        QueryError::TooLarge { .. } => {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "result_too_large", error.to_string())
                .hint("Add a LIMIT, aggregate in the query, or declare a view, which is kept current.")
        }
        QueryError::Problem(problem) => bad_sql(problem),
        error => ApiError::bad_request("query_failed", error.to_string()),
    })?;
    Ok(Answer { tick, schema, batches })
}

/// Finds out what a query's relations held at earlier times.
async fn earlier(engine: &Engine, query: &queries::Query) -> Result<Relations, ApiError> {
    let asked: Vec<(String, Tick)> = query
        .as_of()
        .iter()
        .map(|as_of| (as_of.relation.clone(), as_of.tick))
        .collect();
    let found = engine.as_of(&asked, REPLAY_PATIENCE).await.map_err(not_told)?;
    let names = query.as_of().iter().map(|as_of| as_of.name.clone());
    Ok(names.zip(found).collect())
}

/// Tells why nothing is known of an earlier time.
pub(super) fn not_told(error: TravelError) -> ApiError {
    let message = error.to_string();
    let refusal = match &error {
        TravelError::Unknown(_) => ApiError::not_found("unknown_view", message),
        TravelError::Future { .. } => ApiError::bad_request("in_the_future", message),
        TravelError::NotKnown { .. } => ApiError::bad_request("not_known", message),
        TravelError::NothingKept => ApiError::new(StatusCode::CONFLICT, "nothing_kept", message),
        TravelError::TooLong(_) => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "replay_timeout", message),
        TravelError::Busy => ApiError::busy("too_many_replays", message),
        TravelError::Stopped => stopping(),
        TravelError::Failed(_) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "replay_failed", message),
    };
    match error.hint() {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}

/// Tells what is wrong with a text.
pub(super) fn bad_sql(problem: Problem) -> ApiError {
    let message = match problem.line {
        Some(line) => format!("line {line}: {}", problem.what),
        None => problem.what,
    };
    ApiError {
        hint: problem.hint,
        ..ApiError::bad_request("bad_sql", message)
    }
}

fn stopping() -> ApiError {
    ApiError::busy("stopping", "the program is stopping")
}
