//! The Nexmark benchmark: an auction house, made up event by event.
//!
//! `events` says what the events hold; each is a function of the seed and its
//! number, so that the three sources of a deployment tell one story although each
//! makes only its own part of it. `tables` puts them into columns. Here they come
//! in time order.
mod events;
mod tables;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Deserialize;

use crate::error::{ConfigError, ReadError};
use crate::sources::{Read, Reader, Setting};
use crate::times::{TIME_MAX_US, Times};
use events::{House, PER_EPOCH};
use tables::Rows;

/// Rows in one batch.
const BATCH_ROWS: u64 = 8192;

/// Makes up the events of the Nexmark benchmark: of every 50, one is a new person,
/// three are new auctions and 46 are bids. The same for the same seed on every run
/// and machine; sources of one seed, rate and start belong together.
///
/// ```toml
/// [connector]
/// type = "nexmark"
/// table = "bid"
/// events = 1000000
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NexmarkConfig {
    /// Whose rows to yield: "person", "auction" or "bid".
    pub table: Table,
    /// How many events there are, of all three tables together. Default: no end.
    pub events: Option<u64>,
    /// Events in a second of their own time, from 1 to 1000000. Default: 10000.
    #[serde(default = "rate")]
    pub rate: u64,
    /// What the random numbers begin with. Default: 1.
    #[serde(default = "one")]
    pub seed: u64,
    /// The time of the first event, as in `start = "2026-01-01T00:00:00Z"`.
    /// Default: when the deployment starts.
    pub start: Option<String>,
}

fn rate() -> u64 {
    10_000
}

fn one() -> u64 {
    1
}

/// A table of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// Who sells and bids.
    Person,
    /// What is sold.
    Auction,
    /// What is offered.
    Bid,
}

impl NexmarkConfig {
    /// Whether events come to an end; the event clock would run on for ever.
    pub fn is_bounded(&self) -> bool {
        self.events.is_some()
    }

    pub(crate) fn check(&self, setting: &Setting<'_>) -> Vec<ConfigError> {
        let mut problems: Vec<ConfigError> = tables::check(self.table, setting.columns);
        problems.extend(self.house(setting).err());
        problems
    }

    pub(crate) fn reader(&self, setting: &Setting<'_>) -> Result<NexmarkReader, ConfigError> {
        if let Some(problem) = self.check(setting).into_iter().next() {
            return Err(problem);
        }
        Ok(NexmarkReader {
            table: self.table,
            house: self.house(setting)?,
            rows: Rows::new(self.table, setting.columns),
            next: 0,
            events: self.events.unwrap_or(u64::MAX),
        })
    }

    fn house(&self, setting: &Setting<'_>) -> Result<House, ConfigError> {
        if !(1..=1_000_000).contains(&self.rate) {
            return Err(
                ConfigError::new("rate is not from 1 to 1000000").with_hint("Events have times of whole microseconds.")
            );
        }
        let start_us = match &self.start {
            None => setting.start_us,
            Some(text) => Times::new(setting.time_zone, None)?
                .instant(text)
                .map_err(|reason| ConfigError::new(format!("start: {reason}")))?,
        };
        Ok(House {
            seed: self.seed,
            rate: self.rate,
            start_us,
        })
    }
}

/// Yields the rows of one table in the order of their events.
pub(crate) struct NexmarkReader {
    table: Table,
    house: House,
    rows: Rows,
    /// The row to be made next.
    next: u64,
    /// Events of all tables.
    events: u64,
}

impl NexmarkReader {
    /// The event that makes a row of the table.
    fn event(&self, row: u64) -> u64 {
        let (first, count) = self.table.share();
        row / count * PER_EPOCH + first + row % count
    }
}

impl Reader for NexmarkReader {
    fn read(&mut self, now_us: i64) -> Result<Read, ReadError> {
        let mut made = 0;
        let waits_for = loop {
            let event = self.event(self.next);
            let time_us = self.house.time_us(event);
            if event >= self.events || time_us > TIME_MAX_US {
                break None;
            }
            if time_us > now_us || made == BATCH_ROWS {
                break Some(time_us);
            }
            self.rows.push(&self.house, event);
            self.next += 1;
            made += 1;
        };
        if made > 0 {
            return Ok(Read::Rows(self.rows.take().into()));
        }
        Ok(match waits_for {
            None => Read::End,
            Some(time_us) => Read::Wait(Duration::from_micros(
                u64::try_from(time_us.saturating_sub(now_us)).unwrap_or(0),
            )),
        })
    }
}
