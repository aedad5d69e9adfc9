//! What is declared of one simulated column, and its value at a step.
use std::time::Duration;

use serde::Deserialize;

use crate::durations;
use crate::error::ConfigError;
use crate::sources::simulate::noise::{Stream, cosine_of_turn};

/// How the values of one column come about: the sum of what is declared here.
///
/// ```toml
/// [connector.columns.ph]
/// base = 7.6
/// spread = 0.3
/// diurnal = { amplitude = 0.4, peak_hour = 15 }
/// noise = 0.05
/// min = 0
/// max = 14
/// decimals = 2
/// ```
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// The middle of all values. Default: 0.
    pub base: f64,
    /// How far the entities' own middles lie from it (standard deviation).
    /// Default: 0.
    pub spread: f64,
    /// A daily cycle, in the deployment's time zone. Default: none.
    pub diurnal: Option<Diurnal>,
    /// Noise of each single value (standard deviation). Default: 0.
    pub noise: f64,
    /// A slow wandering. Default: none.
    pub walk: Option<Walk>,
    /// What another column adds. Default: none.
    pub correlate: Option<Correlation>,
    /// Rare excursions. Default: none.
    pub spikes: Option<Spikes>,
    /// No value lies below. Default: none.
    pub min: Option<f64>,
    /// No value lies above. Default: none.
    pub max: Option<f64>,
    /// Digits after the point. Default: all there are.
    pub decimals: Option<u32>,
    /// The share of values that are NULL, 0 to 1. Default: 0.
    pub missing: f64,
    /// For text columns, instead of all above: one of these, evenly drawn.
    pub values: Option<Vec<String>>,
    /// For boolean columns, instead of all above: the share that is true.
    pub probability: Option<f64>,
}

/// A daily cycle.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diurnal {
    /// How far the peak lies above the middle.
    pub amplitude: f64,
    /// The local hour of the peak, 0 to 24. Default: 15.
    #[serde(default = "afternoon")]
    pub peak_hour: f64,
}

fn afternoon() -> f64 {
    15.0
}

/// A slow wandering around the middle.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Walk {
    /// About how far it goes in one interval.
    pub step: f64,
    /// The share of the way back to the middle that it is drawn in one interval,
    /// 0 to 1. It forgets where it was after about 1/pull intervals, and strays
    /// about step/√(2·pull) from the middle. Default: 0.01.
    #[serde(default = "pull")]
    pub pull: f64,
}

fn pull() -> f64 {
    0.01
}

/// What another column adds to this one.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correlation {
    /// The other column, which must have a model itself.
    pub with: String,
    /// How much of the other's distance from its base is added here.
    pub factor: f64,
}

/// Rare excursions.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spikes {
    /// The chance that one begins in an interval, for each entity, 0 to 1.
    pub probability: f64,
    /// What is added while it lasts; may be negative.
    pub size: f64,
    /// How long it lasts. Default: one interval.
    #[serde(default, deserialize_with = "durations::optional")]
    pub duration: Option<Duration>,
}

impl Model {
    /// Lists numbers that make no sense; `column` is for the messages.
    pub(crate) fn check(&self, column: &str) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        let mut demand = |holds: bool, what: &str| {
            if !holds {
                problems.push(ConfigError::new(format!("model of column \"{column}\": {what}")));
            }
        };
        let share = |value: f64| (0.0..=1.0).contains(&value);
        demand(self.base.is_finite(), "base must be a finite number");
        demand(
            self.spread.is_finite() && self.spread >= 0.0,
            "spread must not be negative",
        );
        demand(
            self.noise.is_finite() && self.noise >= 0.0,
            "noise must not be negative",
        );
        demand(share(self.missing), "missing must lie between 0 and 1");
        demand(
            self.decimals.is_none_or(|decimals| decimals <= 15),
            "decimals must be at most 15",
        );
        demand(
            self.probability.is_none_or(share),
            "probability must lie between 0 and 1",
        );
        demand(
            self.values.as_ref().is_none_or(|values| !values.is_empty()),
            "values must not be empty",
        );
        if let Some(diurnal) = &self.diurnal {
            demand(diurnal.amplitude.is_finite(), "amplitude must be a finite number");
            demand(
                (0.0..=24.0).contains(&diurnal.peak_hour),
                "peak_hour must lie between 0 and 24",
            );
        }
        if let Some(walk) = &self.walk {
            demand(
                walk.step.is_finite() && walk.step >= 0.0,
                "walk.step must not be negative",
            );
            demand(
                walk.pull > 1e-9 && walk.pull <= 1.0,
                "walk.pull must lie above 0, and at most at 1",
            );
        }
        if let Some(correlation) = &self.correlate {
            demand(
                correlation.factor.is_finite(),
                "correlate.factor must be a finite number",
            );
        }
        if let Some(spikes) = &self.spikes {
            demand(share(spikes.probability), "spikes.probability must lie between 0 and 1");
            demand(spikes.size.is_finite(), "spikes.size must be a finite number");
        }
        let bound = |bound: Option<f64>| bound.is_none_or(f64::is_finite);
        demand(bound(self.min) && bound(self.max), "min and max must be finite numbers");
        if let (Some(min), Some(max)) = (self.min, self.max) {
            demand(min <= max, "min must not lie above max");
        }
        problems
    }

    /// Clamps and rounds what has been added up.
    pub(crate) fn finish(&self, value: f64) -> f64 {
        let value = self.min.map_or(value, |min| value.max(min));
        let value = self.max.map_or(value, |max| value.min(max));
        match self.decimals {
            None => value,
            Some(decimals) => {
                let scale = (0..decimals).fold(1.0, |scale, _| scale * 10.0);
                (value * scale).round() / scale
            }
        }
    }
}

/// One column's model for one entity, ready to be asked for any step.
#[derive(Debug, Clone)]
pub(crate) struct Sensor {
    middle: f64,
    noise: Stream,
    walk: Stream,
    spikes: Stream,
    pub(crate) draw: Stream,
    pub(crate) missing: Stream,
}

impl Sensor {
    /// `stream` is that of the entity and the column.
    pub(crate) fn new(model: &Model, stream: Stream) -> Sensor {
        Sensor {
            middle: model.base + model.spread * stream.of("spread").normal(0),
            noise: stream.of("noise"),
            walk: stream.of("walk"),
            spikes: stream.of("spikes"),
            draw: stream.of("draw"),
            missing: stream.of("missing"),
        }
    }

    /// The value before correlation, bounds and rounding. `local_hour` is the
    /// hour of the day, with its part.
    pub(crate) fn level(&self, model: &Model, step: i64, local_hour: f64, interval_us: i64) -> f64 {
        let mut level = self.middle;
        if let Some(diurnal) = &model.diurnal {
            level += diurnal.amplitude * cosine_of_turn((local_hour - diurnal.peak_hour) / 24.0);
        }
        if model.noise > 0.0 {
            level += model.noise * self.noise.normal(step);
        }
        if let Some(walk) = &model.walk {
            let strays = walk.step / (walk.pull * (2.0 - walk.pull)).sqrt();
            let memory = (1.0 / walk.pull).round() as i64;
            level += strays * self.walk.walk(step, memory);
        }
        if let Some(spikes) = &model.spikes {
            let length = steps(spikes.duration, interval_us);
            if self.spikes.episode(step, spikes.probability, length) {
                level += spikes.size;
            }
        }
        level
    }
}

/// How many intervals a duration takes, at least one.
pub(crate) fn steps(duration: Option<Duration>, interval_us: i64) -> i64 {
    let duration_us = duration.map_or(0, durations::micros);
    duration_us.div_euclid(interval_us) + i64::from(duration_us.rem_euclid(interval_us) > 0 || duration_us == 0)
}
