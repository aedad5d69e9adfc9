//! Rows that are made up: plausible readings from a declared model and a seed.
//!
//! `noise` is random access: a value is a function of seed, entity, column and
//! step. `model` adds a column's value up, `plan` fills the rows of a step. Here
//! they come in time order.
mod entities;
mod model;
mod noise;
mod plan;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

pub use model::{Correlation, Diurnal, Model, Spikes, Walk};

use crate::durations;
use crate::error::{ConfigError, ReadError};
use crate::sources::http::posted;
use crate::sources::{Read, Reader, Setting};
use plan::{Plan, Row};

/// Rows in one batch.
const BATCH_ROWS: usize = 8192;

/// Makes up readings: one row an entity and interval, the same for the same seed
/// on every run and machine. Rows may be posted besides.
///
/// Nothing needs to survive a restart: every value is a function of its time.
///
/// ```toml
/// [connector]
/// type = "simulate"
/// interval = "10 seconds"
/// backfill = "2 days"
/// entities = { column = "station", values = ["K1", "K2"] }
///
/// [connector.columns.ph]
/// base = 7.6
/// noise = 0.05
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulateConfig {
    /// The time between two rows of an entity, at least a millisecond.
    #[serde(deserialize_with = "durations::duration")]
    pub interval: Duration,
    /// What the random numbers begin with. Default: 1.
    #[serde(default = "one")]
    pub seed: u64,
    /// How much history there is at the start. Default: none.
    #[serde(default, deserialize_with = "durations::optional")]
    pub backfill: Option<Duration>,
    /// The time of the first row, as in `start = "2026-01-01T00:00:00Z"`.
    /// Default: when the deployment starts, less `backfill`.
    pub start: Option<String>,
    /// No row is dated at or after this time. Default: none.
    pub until: Option<String>,
    /// No more rows than this. Default: none.
    pub rows: Option<u64>,
    /// Who sends rows: a list of keys for the first text column, or
    /// `{ column = "station", values = ["K1"] }`, or, from a CSV file,
    /// `{ column = "station", file = "data/stations.csv" }`: its other columns
    /// fill columns of the same name. Default: one nameless sender.
    pub entities: Option<Entities>,
    /// How much later than its interval's start a row may be dated, at random;
    /// shorter than the interval. Default: none.
    #[serde(default, deserialize_with = "durations::optional")]
    pub jitter: Option<Duration>,
    /// The boolean column that says "simulated": true in every row made here.
    /// Default: "simulated". It must be declared, so that nobody is deceived.
    #[serde(default = "simulated")]
    pub simulated: String,
    /// When entities fall silent. Default: never.
    pub outages: Option<Outages>,
    /// The columns' models.
    #[serde(default)]
    pub columns: BTreeMap<String, Model>,
}

fn one() -> u64 {
    1
}

fn simulated() -> String {
    "simulated".to_owned()
}

/// Who sends rows.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "expected a list of keys, or { column = …, values = […] }, or { column = …, file = … }"
)]
pub enum Entities {
    /// Keys of the first text column.
    Keys(Vec<String>),
    /// Keys of a column.
    Values {
        /// The column.
        column: String,
        /// Its keys.
        values: Vec<String>,
    },
    /// Keys from a CSV file.
    File {
        /// The column, here and in the file.
        column: String,
        /// The file, relative to the deployment's folder.
        file: PathBuf,
    },
}

/// When an entity's rows are missing.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outages {
    /// The chance that an outage begins in an interval, for each entity, 0 to 1.
    pub probability: f64,
    /// How long it lasts.
    #[serde(deserialize_with = "durations::duration")]
    pub duration: Duration,
}

impl SimulateConfig {
    /// Whether rows come to an end; the event clock would run on for ever.
    pub fn is_bounded(&self) -> bool {
        self.until.is_some() || self.rows.is_some()
    }

    pub(crate) fn check(&self, setting: &Setting<'_>) -> Vec<ConfigError> {
        let mut problems: Vec<ConfigError> = posted(setting).err().into_iter().collect();
        match Plan::new(self, setting) {
            Ok(_) => {}
            Err(more) => problems.extend(more),
        }
        problems
    }

    pub(crate) fn reader(&self, setting: &Setting<'_>) -> Result<SimulateReader, ConfigError> {
        let plan = Plan::new(self, setting).map_err(|problems| {
            // `check` tells all of them.
            problems
                .into_iter()
                .next()
                .unwrap_or_else(|| ConfigError::new("the simulation cannot run"))
        })?;
        Ok(SimulateReader {
            step: plan.first_step,
            plan,
            due: Vec::new(),
            next: 0,
            made: 0,
        })
    }
}

/// Yields simulated rows in the order of their times.
pub(crate) struct SimulateReader {
    plan: Plan,
    /// The next step to be looked at.
    step: i64,
    /// The rows of the step before it, by time; `next..` are still to come.
    due: Vec<Row>,
    next: usize,
    made: u64,
}

impl Reader for SimulateReader {
    fn read(&mut self, now_us: i64) -> Result<Read, ReadError> {
        let mut rows = Vec::new();
        let waits_for = loop {
            if self.made >= self.plan.rows_max {
                break None;
            }
            match self.due.get(self.next) {
                Some(row) if row.time_us >= self.plan.until_us => {
                    // Rows of a step are in order, and so are steps.
                    self.made = self.plan.rows_max;
                }
                Some(row) if row.time_us > now_us => break Some(row.time_us),
                Some(row) => {
                    if rows.len() == BATCH_ROWS {
                        break Some(row.time_us);
                    }
                    rows.push(*row);
                    self.next += 1;
                    self.made += 1;
                }
                None => {
                    let begins_us = self.step.saturating_mul(self.plan.interval_us);
                    if begins_us >= self.plan.until_us {
                        break None;
                    }
                    if begins_us > now_us {
                        break Some(begins_us);
                    }
                    self.plan.rows_of(self.step, &mut self.due);
                    self.next = 0;
                    self.step += 1;
                }
            }
        };
        if !rows.is_empty() {
            return Ok(Read::Rows(self.plan.fill(&rows).into()));
        }
        Ok(match waits_for {
            None => Read::End,
            Some(time_us) => Read::Wait(Duration::from_micros(
                u64::try_from(time_us.saturating_sub(now_us)).unwrap_or(0),
            )),
        })
    }
}

#[cfg(test)]
mod tests;
