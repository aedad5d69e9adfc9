//! The one place that mints ticks: nothing else decides anything from a clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dataflows::Tick;

use crate::config::Clock;

/// Hands out ticks, each larger than the one before.
pub(super) struct TickClock {
    kind: Clock,
    /// The monotonic clock, anchored to the wall clock once: a step of the system's clock moves no tick.
    anchor: Instant,
    anchor_us: u64,
    last: Tick,
}

impl TickClock {
    pub(super) fn new(kind: Clock) -> Self {
        let anchor_us = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as u64);
        TickClock {
            kind,
            anchor: Instant::now(),
            anchor_us,
            last: 0,
        }
    }

    /// Returns the time by the wall, in microseconds since the epoch.
    pub(super) fn wall_us(&self) -> u64 {
        self.anchor_us + self.anchor.elapsed().as_micros() as u64
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
