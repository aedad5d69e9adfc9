//! The one place that mints ticks: nothing else decides anything from a clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dataflows::Tick;

use crate::config::Clock;

/// Hands out ticks, each larger than the one before.
pub(super) struct TickClock {
    kind: Clock,
    wall: Box<dyn Fn() -> u64 + Send>,
    last: Tick,
}

impl TickClock {
    pub(super) fn new(kind: Clock) -> Self {
        let anchor_us = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as u64);
        // The monotonic clock, anchored to the wall clock once: a step of the system's clock moves no tick.
        let anchor = Instant::now();
        TickClock::by(kind, move || anchor_us + anchor.elapsed().as_micros() as u64)
    }

    /// Goes by another clock than the machine's, in microseconds since the epoch.
    pub(super) fn by(kind: Clock, wall: impl Fn() -> u64 + Send + 'static) -> Self {
        TickClock {
            kind,
            wall: Box::new(wall),
            last: 0,
        }
    }

    /// Returns the time by the wall, in microseconds since the epoch.
    pub(super) fn wall_us(&self) -> u64 {
        (self.wall)()
    }

    /// Goes on after a tick that was handed out in an earlier run, or is played again.
    pub(super) fn resume(&mut self, tick: Tick) {
        self.last = self.last.max(tick);
    }

    /// Returns the tick handed out last; 0 before the first.
    pub(super) fn last(&self) -> Tick {
        self.last
    }

    /// Hands out the next tick. Under the event clock it is no earlier than `event_us`.
    pub(super) fn mint(&mut self, event_us: Option<u64>) -> Tick {
        let time = match self.kind {
            Clock::Wall => self.wall_us(),
            Clock::Event => event_us.unwrap_or(0),
        };
        self.last = time.max(self.last + 1);
        self.last
    }
}
