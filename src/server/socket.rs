//! `GET /ws`: live views over a WebSocket, many subscriptions on one.
//!
//! `protocol` has the words, `selection` is what a subscription shows of a
//! relation, `subscription` where it stands, `net` sums changes up, `shared` is
//! what equal subscriptions have in common, `resume` the token to go on with. `past` tells of earlier changes, in the
//! same words and by HTTP.
//!
//! A client is owed the net of the changes since its position. It is computed when
//! the socket can take it, one frame a subscription, so a client that does not read
//! costs its task and the frame it has not taken. Frames of one subscription come in
//! this order: the snapshot in parts, then changes at rising ticks, each followed by
//! progress. A snapshot that begins later replaces all rows sent before.

mod cursor;
mod net;
pub(super) mod past;
mod protocol;
mod resume;
mod selection;
mod shared;
mod subscription;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use futures_util::SinkExt;
use metrics::{counter, gauge, histogram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::debug;

use super::error::ApiError;
use super::limits::{CLOSE_PATIENCE, MESSAGE_BYTES_MAX, PING_INTERVAL, SOCKETS_MAX, SUBSCRIPTIONS_MAX};
use super::{Server, metrics as names};
use protocol::{Frames, Request, refusal};
use shared::{Selections, SharedChanges};
use subscription::{Asked, Subscription};

/// What all WebSockets share.
pub(super) struct Sockets {
    open: Arc<Semaphore>,
    selections: Selections,
    changes: Arc<SharedChanges>,
}

impl Sockets {
    pub(super) fn new() -> Self {
        Sockets {
            open: Arc::new(Semaphore::new(SOCKETS_MAX)),
            selections: Selections::default(),
            changes: Arc::default(),
        }
    }

    /// Waits until every WebSocket has been closed, not for ever.
    pub(super) async fn closed(&self) {
        let _ = timeout(CLOSE_PATIENCE * 2, self.open.acquire_many(SOCKETS_MAX as u32)).await;
    }

    fn shared_changes(&self) -> Arc<SharedChanges> {
        self.changes.clone()
    }
}

pub(super) async fn upgrade(
    State(server): State<Arc<Server>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|rejection| {
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "not_a_websocket", rejection.body_text())
            .hint("Connect with a WebSocket client, as in: websocat ws://HOST:PORT/ws")
    })?;
    let place = server.sockets.open.clone().try_acquire_owned().map_err(|_| {
        ApiError::busy(
            "too_many_websockets",
            format!("{SOCKETS_MAX} WebSockets are open already"),
        )
    })?;
    Ok(upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket| serve(server, socket, place)))
}

async fn serve(server: Arc<Server>, socket: WebSocket, place: OwnedSemaphorePermit) {
    gauge!(names::SOCKETS).increment(1.0);
    let mut stopping = server.stopping.clone();
    let mut session = Session {
        server,
        socket,
        subscriptions: Vec::new(),
    };
    let close = tokio::select! {
        close = session.run() => close,
        _ = stopping.wait_for(|stopping| *stopping) => Close::Say(close_code::AWAY, "the program is stopping"),
    };
    session.subscriptions.clear();
    if let Close::Say(code, reason) = close {
        let frame = Message::Close(Some(CloseFrame {
            code,
            reason: reason.into(),
        }));
        // Whoever reads gets the frame; nobody is waited for.
        let _ = timeout(CLOSE_PATIENCE, session.socket.send(frame)).await;
    }
    gauge!(names::SOCKETS).decrement(1.0);
    drop(place);
}

/// How a session ends.
enum Close {
    /// The client has gone.
    Gone,
    /// The client is told why.
    Say(u16, &'static str),
}

impl From<axum::Error> for Close {
    fn from(error: axum::Error) -> Self {
        debug!(%error, "a websocket broke off");
        Close::Gone
    }
}

struct Session {
    server: Arc<Server>,
    socket: WebSocket,
    subscriptions: Vec<Subscription>,
}

impl Session {
    async fn run(&mut self) -> Close {
        match self.converse().await {
            Ok(close) | Err(close) => close,
        }
    }

    async fn converse(&mut self) -> Result<Close, Close> {
        let mut progress = self.server.engine.progress();
        let mut ping = interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        loop {
            // Marked before the ticks are read: one that completes meanwhile wakes us again.
            progress.borrow_and_update();
            let more = self.deliver().await?;
            let due = self.subscriptions.iter().filter_map(Subscription::progress_due).min();
            tokio::select! {
                biased;
                message = self.socket.recv() => match message {
                    Some(Ok(message)) => match self.hear(message).await? {
                        Some(close) => return Ok(close),
                        None => continue,
                    },
                    Some(Err(error)) => return Ok(broken(&error)),
                    None => return Ok(Close::Gone),
                },
                changed = progress.changed(), if !more => {
                    if changed.is_err() {
                        return Ok(Close::Say(close_code::AWAY, "the program is stopping"));
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if !more && due.is_some() => {}
                _ = ping.tick() => self.socket.send(Message::Ping(Bytes::new())).await?,
                () = std::future::ready(()), if more => {}
            }
        }
    }

    /// Writes one frame of each subscription that is owed one; tells whether there is more.
    async fn deliver(&mut self) -> Result<bool, Close> {
        let mut more = false;
        let mut written = false;
        let mut delivered = Vec::new();
        let mut position = 0;
        while let Some(subscription) = self.subscriptions.get_mut(position) {
            let step = subscription.step(&self.server).await;
            delivered.extend(step.changed.map(|tick| (position, tick)));
            more |= step.more;
            for frame in step.frames {
                written = true;
                count(&frame);
                self.write(frame, step.patience).await?;
            }
            if step.ended {
                self.subscriptions.remove(position);
            } else {
                position += 1;
            }
        }
        if written {
            self.socket.flush().await?;
        }
        for (position, tick) in delivered {
            if let (Some(subscription), Some(arrival)) =
                (self.subscriptions.get(position), self.server.engine.arrival(tick))
            {
                histogram!(names::DELIVERY_LATENCY, "relation" => subscription.relation().to_owned())
                    .record(arrival.elapsed());
            }
        }
        Ok(more)
    }

    async fn write(&mut self, frame: Message, patience: Option<Duration>) -> Result<(), Close> {
        let Some(patience) = patience else {
            return Ok(self.socket.feed(frame).await?);
        };
        // Through to the network: what stands in a buffer has not been taken.
        match timeout(patience, self.socket.send(frame)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(Close::Say(close_code::POLICY, "the snapshot was not read")),
        }
    }

    async fn hear(&mut self, message: Message) -> Result<Option<Close>, Close> {
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => {
                let error = ApiError::bad_request("bad_request", "binary messages are not understood")
                    .hint("Send JSON as text messages.");
                self.answer(refusal(&error)).await?;
                return Ok(None);
            }
            Message::Ping(_) | Message::Pong(_) => return Ok(None),
            Message::Close(_) => return Ok(Some(Close::Gone)),
        };
        match Request::parse(&text) {
            Ok(Request::Subscribe {
                id,
                view,
                filter,
                columns,
                resume,
            }) => {
                if let Err(error) = self.subscribe(id.clone(), &view, filter, columns, resume.as_deref()) {
                    self.answer(Frames::new(&id).error(&error)).await?;
                }
            }
            Ok(Request::Unsubscribe { id }) => {
                let before = self.subscriptions.len();
                self.subscriptions.retain(|subscription| subscription.id != id);
                if self.subscriptions.len() == before {
                    let error = ApiError::not_found("unknown_id", format!("there is no subscription \"{id}\""));
                    self.answer(Frames::new(&id).error(&error)).await?;
                }
            }
            Err((Some(id), error)) => self.answer(Frames::new(&id).error(&error)).await?,
            Err((None, error)) => self.answer(refusal(&error)).await?,
        }
        Ok(None)
    }

    fn subscribe(
        &mut self,
        id: String,
        view: &str,
        filter: Option<String>,
        columns: Option<Vec<String>>,
        resume: Option<&str>,
    ) -> Result<(), ApiError> {
        if self.subscriptions.iter().any(|subscription| subscription.id == id) {
            return Err(
                ApiError::bad_request("id_in_use", format!("there is a subscription \"{id}\" already"))
                    .hint("Unsubscribe it first, or choose another id."),
            );
        }
        if self.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return Err(ApiError::busy(
                "too_many_subscriptions",
                format!("this WebSocket has {SUBSCRIPTIONS_MAX} subscriptions already"),
            )
            .hint("Open another WebSocket."));
        }
        let engine = &self.server.engine;
        let Some(relation) = engine.relation(view) else {
            let relations = engine.relations();
            let names = relations.iter().map(|relation| relation.name.as_str());
            let error = ApiError::unknown("unknown_view", "view", view, names);
            return Err(if view.starts_with("sangam.") {
                error.hint("System tables cannot be subscribed to. Read them through POST /sql.")
            } else {
                error
            });
        };
        let filter = filter
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty());
        let selection = self.server.sockets.selections.get(
            &engine.deployment().catalog,
            &relation,
            filter.as_deref(),
            columns.as_deref(),
        )?;
        let asked = Asked { filter, columns };
        self.subscriptions
            .push(Subscription::new(engine, id, selection, asked, resume));
        Ok(())
    }

    async fn answer(&mut self, frame: Message) -> Result<(), Close> {
        count(&frame);
        Ok(self.socket.send(frame).await?)
    }
}

fn count(frame: &Message) {
    if let Message::Text(text) = frame {
        counter!(names::FRAMES).increment(1);
        counter!(names::FRAME_BYTES).increment(text.len() as u64);
    }
}

/// Tells a client that broke the rules from one that has gone.
fn broken(error: &axum::Error) -> Close {
    debug!(%error, "a websocket broke off");
    let text = error.to_string();
    if text.contains("too long") || text.contains("Space limit") {
        return Close::Say(close_code::SIZE, "messages are limited to 65536 bytes");
    }
    Close::Gone
}
