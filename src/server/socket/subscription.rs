//! One subscription: a position in a relation's changes, and what is owed from there.

use std::sync::Arc;
use std::time::Duration;

use ::metrics::{counter, gauge};
use arrow::error::ArrowError;
use axum::extract::ws::Message;
use bytes::Bytes;
use dataflows::{Tick, Updates};
use tokio::time::Instant;
use tracing::error;

use super::cursor::Cursor;
use super::protocol::Frames;
use super::resume::Resume;
use super::selection::Selection;
use crate::engine::{Changes, Engine};
use crate::server::error::ApiError;
use crate::server::limits::{BEHIND_ROWS_MAX, NET_ROWS_INLINE, PROGRESS_INTERVAL, SNAPSHOT_PATIENCE};
use crate::server::{Server, metrics};

/// A client's interest in a selection.
pub(super) struct Subscription {
    /// The client's name for it.
    pub(super) id: String,
    frames: Frames,
    selection: Arc<Selection>,
    asked: Asked,
    state: State,
    incarnation: u64,
    /// The tick of the last progress frame, and when it was sent.
    told: Tick,
    told_at: Instant,
    /// Whether it has been up to date once: what it missed before says nothing about latency.
    caught_up: bool,
}

/// What the client wants to see, in its own words: they may come to something else when the view changes.
pub(super) struct Asked {
    pub(super) filter: Option<String>,
    pub(super) columns: Option<Vec<String>>,
}

enum State {
    /// Owed a snapshot.
    Fresh,
    /// In the middle of one.
    Snapshot(Cursor),
    /// Has everything up to this tick.
    Following(Tick),
}

/// What is to be written now for one subscription.
#[derive(Default)]
pub(super) struct Step {
    /// In this order.
    pub(super) frames: Vec<Message>,
    /// How long the client may take over them; for ever, if absent.
    pub(super) patience: Option<Duration>,
    /// Changes up to this tick are among them.
    pub(super) changed: Option<Tick>,
    /// There is more right after.
    pub(super) more: bool,
    /// The subscription is over.
    pub(super) ended: bool,
}

impl Subscription {
    pub(super) fn new(
        engine: &Engine,
        id: String,
        selection: Arc<Selection>,
        asked: Asked,
        resume: Option<&str>,
    ) -> Self {
        gauge!(metrics::SUBSCRIBERS, "relation" => selection.relation.clone()).increment(1.0);
        let mut subscription = Subscription {
            frames: Frames::new(&id),
            id,
            selection,
            asked,
            state: State::Fresh,
            incarnation: engine.incarnation(),
            told: 0,
            told_at: Instant::now(),
            caught_up: false,
        };
        let known = resume.and_then(Resume::parse).filter(|resume| {
            resume.continues(&subscription.at(0)) && resume.tick <= engine.completed(&subscription.selection.relation)
        });
        if let Some(resume) = known {
            subscription.state = State::Following(resume.tick);
        }
        subscription
    }

    pub(super) fn relation(&self) -> &str {
        &self.selection.relation
    }

    /// Tells when a progress frame is due although nothing changes.
    pub(super) fn progress_due(&self) -> Option<Instant> {
        match self.state {
            State::Following(position) if position > self.told => Some(self.told_at + PROGRESS_INTERVAL),
            _ => None,
        }
    }

    /// Returns what is owed at this moment, as one frame and its progress.
    pub(super) async fn step(&mut self, server: &Server) -> Step {
        let engine = &server.engine;
        if !self.is_current(engine)
            && let Err(error) = self.select_anew(server)
        {
            return Step {
                frames: vec![self.frames.error(&error)],
                ended: true,
                ..Step::default()
            };
        }
        if let Some(reason) = engine.failed(self.relation()) {
            let error = ApiError::bad_request("view_failed", format!("\"{}\" has failed: {reason}", self.relation()))
                .hint("Its rows can be read through POST /sql. Correct the view's key, or the rows, and start again.");
            return Step {
                frames: vec![self.frames.error(&error)],
                ended: true,
                ..Step::default()
            };
        }
        let step = match &mut self.state {
            State::Fresh => self.start(engine).await,
            State::Snapshot(_) => self.go_on(engine).await,
            State::Following(position) => {
                let position = *position;
                self.follow(server, position).await
            }
        };
        step.unwrap_or_else(|error| {
            if !self.is_current(engine) {
                return Step {
                    more: true,
                    ..Step::default()
                };
            }
            error!(relation = self.relation(), %error, "could not compute the changes of a subscription");
            let error = ApiError::bad_request("not_computed", format!("the rows could not be computed: {error}"));
            Step {
                frames: vec![self.frames.error(&error)],
                ended: true,
                ..Step::default()
            }
        })
    }

    /// Tells whether the relation is still the one that was selected from.
    fn is_current(&self, engine: &Engine) -> bool {
        engine.definition(self.relation()) == Some(self.selection.definition)
    }

    /// Shows the relation as it is defined now, from its first row on.
    fn select_anew(&mut self, server: &Server) -> Result<(), ApiError> {
        let engine = &server.engine;
        let Some(relation) = engine.relation(self.relation()) else {
            let what = format!("the view \"{}\" has been dropped", self.relation());
            return Err(ApiError::not_found("view_dropped", what));
        };
        let (filter, columns) = (self.asked.filter.as_deref(), self.asked.columns.as_deref());
        let catalog = &engine.deployment().catalog;
        self.selection = server.sockets.selections.get(catalog, &relation, filter, columns)?;
        self.state = State::Fresh;
        self.caught_up = false;
        Ok(())
    }

    async fn start(&mut self, engine: &Engine) -> Result<Step, ArrowError> {
        let name = self.relation().to_owned();
        let snapshot = engine.snapshot(std::slice::from_ref(&name), 0).await;
        let mut snapshot = snapshot.map_err(|error| ArrowError::from_external_error(Box::new(error)))?;
        if !self.is_current(engine) {
            return Ok(Step {
                more: true,
                ..Step::default()
            });
        }
        let relation = snapshot.relations.remove(&name);
        let cursor = relation
            .map(|relation| Cursor::new(snapshot.tick, &relation))
            .transpose()?;
        self.state = State::Snapshot(cursor.unwrap_or_else(|| Cursor::empty(snapshot.tick)));
        self.go_on(engine).await
    }

    async fn go_on(&mut self, engine: &Engine) -> Result<Step, ArrowError> {
        let State::Snapshot(cursor) = &mut self.state else {
            return Ok(Step::default());
        };
        let rows = cursor.next(&self.selection).await?;
        let (tick, more) = (cursor.tick, !cursor.is_done());
        let errors = engine.errors(&self.selection.relation);
        let mut frames = vec![self.frames.snapshot(tick, &rows, more, errors)];
        if !more {
            self.state = State::Following(tick);
            frames.push(self.progress(engine, tick));
        }
        // There may be changes to send right after the last part, too.
        Ok(Step {
            frames,
            patience: Some(SNAPSHOT_PATIENCE),
            more: true,
            ..Step::default()
        })
    }

    async fn follow(&mut self, server: &Server, position: Tick) -> Result<Step, ArrowError> {
        let engine = &server.engine;
        let through = engine.completed(self.relation());
        let mut step = Step::default();
        if through > position {
            let changes = engine.changes(self.relation(), position, through);
            if !self.is_current(engine) {
                return Ok(Step { more: true, ..step });
            }
            let body = match changes {
                Changes::Runs(runs) if self.is_near(engine, &runs) => {
                    self.write(server, position, through, runs).await?
                }
                Changes::Runs(_) | Changes::TooOld => {
                    counter!(metrics::RESNAPSHOTS, "relation" => self.relation().to_owned()).increment(1);
                    self.state = State::Fresh;
                    return Ok(Step { more: true, ..step });
                }
            };
            self.state = State::Following(through);
            if let Some(body) = body {
                step.frames.push(self.frames.changes(through, &body));
                step.frames.push(self.progress(engine, through));
                step.changed = Some(through).filter(|_| self.caught_up);
                self.caught_up = true;
                return Ok(step);
            }
        }
        self.caught_up = true;
        if self.progress_due().is_some_and(|due| due <= Instant::now()) || self.told == 0 {
            step.frames.push(self.progress(engine, through.max(position)));
        }
        Ok(step)
    }

    /// Tells whether netting these runs is less work than a snapshot.
    fn is_near(&self, engine: &Engine, runs: &[Updates]) -> bool {
        let rows: usize = runs.iter().map(Updates::len).sum();
        rows <= BEHIND_ROWS_MAX || rows as u64 <= engine.rows(self.relation())
    }

    /// Writes the net of `runs`, or takes what an equal subscription has written.
    async fn write(
        &self,
        server: &Server,
        after: Tick,
        through: Tick,
        runs: Vec<Updates>,
    ) -> Result<Option<Bytes>, ArrowError> {
        let rows: usize = runs.iter().map(Updates::len).sum();
        if rows == 0 {
            return Ok(None);
        }
        let selection = self.selection.clone();
        let span = (selection.id, after, through);
        let shared = server.sockets.shared_changes();
        let write = move || {
            // One subscriber alone has nobody to share with; the other count is this closure's.
            if Arc::strong_count(&selection) <= 2 {
                return selection.changes(&runs);
            }
            let mut failed = None;
            let body = shared.get(span, || {
                selection.changes(&runs).unwrap_or_else(|error| {
                    failed = Some(error);
                    None
                })
            });
            failed.map_or(Ok(body), Err)
        };
        if rows <= NET_ROWS_INLINE {
            return write();
        }
        let joined = tokio::task::spawn_blocking(write).await;
        joined.map_err(|error| ArrowError::from_external_error(Box::new(error)))?
    }

    fn progress(&mut self, engine: &Engine, tick: Tick) -> Message {
        self.told = tick;
        self.told_at = Instant::now();
        self.frames
            .progress(tick, &self.at(tick).token(), engine.errors(self.relation()))
    }

    fn at(&self, tick: Tick) -> Resume {
        Resume {
            definition: self.selection.definition,
            selection: self.selection.fingerprint,
            incarnation: self.incarnation,
            tick,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        gauge!(metrics::SUBSCRIBERS, "relation" => self.selection.relation.clone()).decrement(1.0);
    }
}
