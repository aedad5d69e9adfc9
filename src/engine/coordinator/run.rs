//! The coordinator's thread: tells it what happens, one thing after the other.

use std::time::Duration;

use crossbeam_channel::{Receiver, after, never, select};
use dataflows::workers::Response;

use super::super::filling::{ChangeRequest, Filling};
use super::{Coordinator, Request};
use crate::config::Clock;
use crate::log::LogEvent;

/// How often is looked whether a sink has room again: nobody tells of it.
const SINKS_ASKED_EVERY: Duration = Duration::from_millis(20);

/// The doors of a coordinator.
pub(in crate::engine) struct Inbox {
    pub(in crate::engine) requests: Receiver<Request>,
    pub(in crate::engine) changes: Receiver<ChangeRequest>,
    pub(in crate::engine) responses: Receiver<Response>,
    pub(in crate::engine) events: Receiver<LogEvent>,
}

/// Runs until every door is closed and every tick is finished, or something fails that nothing can go on without.
pub(in crate::engine) fn run(mut coordinator: Coordinator, inbox: &Inbox) {
    let (no_requests, no_changes) = (never(), never());
    let (mut open, mut may_change) = (true, true);
    // A start that found a long log has a checkpoint to write before any door opens.
    coordinator.go_on();
    while open || !coordinator.is_settled() {
        // Asked before the rest: one that has room by then is one less reason to wait, and never one more.
        let asked = match coordinator.shared.sinks.is_full() {
            true => after(SINKS_ASKED_EVERY),
            false => never(),
        };
        let room = coordinator.has_room();
        let door = if open && room { &inbox.requests } else { &no_requests };
        let changes = if may_change { &inbox.changes } else { &no_changes };
        let timer = match coordinator.timer() {
            Some(wait) if open && room => after(wait),
            _ => never(),
        };
        let rested = match coordinator.filling.as_ref().and_then(Filling::rest) {
            Some(rest) => after(rest),
            None => never(),
        };
        select! {
            recv(inbox.responses) -> response => match response {
                Ok(response) => coordinator.answered(response),
                Err(_) => return,
            },
            recv(inbox.events) -> event => if let Ok(event) = event {
                coordinator.logged(event);
            },
            recv(door) -> request => match request {
                Ok(request) => coordinator.cut(request, &inbox.requests),
                Err(_) => open = false,
            },
            recv(changes) -> change => match change {
                Ok(change) => coordinator.change(change),
                Err(_) => may_change = false,
            },
            recv(timer) -> _ => coordinator.cut_timers(),
            recv(rested) -> _ => {}
            recv(asked) -> _ => {}
        }
        if coordinator.shared.failure().is_some() {
            return;
        }
        coordinator.go_on();
    }
    coordinator.save_last(inbox);
}

impl Coordinator {
    /// Takes what a worker says.
    pub(in crate::engine) fn answered(&mut self, response: Response) {
        match response {
            Response::Completed(completed) => {
                completed.into_iter().for_each(|completed| self.completed(completed));
                self.shared.bump();
            }
            Response::Died { worker, reason } => self.shared.fail(format!("worker {worker} died: {reason}")),
        }
    }

    /// Has all that is retained written down before the end, so that the next start need not go through the log.
    fn save_last(&mut self, inbox: &Inbox) {
        // What the last checkpoint took to history must be read there before another takes more.
        if self.storing.is_some() && self.shared.options.clock == Clock::Wall && self.log.is_some() {
            self.cut_timers();
            while !self.is_settled() && self.hear(inbox).is_ok() {}
        }
        self.saving.want();
        self.go_on();
        while self.saving.is_writing() && self.shared.failure().is_none() {
            match inbox.events.recv_timeout(Duration::from_secs(600)) {
                Ok(event) => self.logged(event),
                Err(_) => return,
            }
        }
    }
}
