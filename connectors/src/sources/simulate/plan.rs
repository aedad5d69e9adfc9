//! A checked simulation: which rows there are at each step, and what they hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{CastOptions, cast, cast_with_options, take};
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use chrono::{DateTime, Offset, TimeZone};

use super::SimulateConfig;
use super::entities::{EntityRows, entity_rows};
use super::model::{Model, Sensor, steps};
use super::noise::Stream;
use crate::column::{Column, schema};
use crate::decoded::Decoded;
use crate::durations::micros;
use crate::error::ConfigError;
use crate::sources::Setting;
use crate::times::{TIME_MAX_US, Times, zone};

const HOUR_US: i64 = 3_600_000_000;

/// A checked simulation.
pub(super) struct Plan {
    pub(super) schema: SchemaRef,
    seed: Stream,
    zone: Tz,
    pub(super) interval_us: i64,
    jitter_us: i64,
    pub(super) first_step: i64,
    pub(super) until_us: i64,
    pub(super) rows_max: u64,
    outages: Option<(f64, i64)>,
    entities: Vec<Entity>,
    columns: Vec<Filling>,
    /// Columns with numeric models, each after the one it correlates with.
    order: Vec<usize>,
    models: Vec<Model>,
}

struct Entity {
    jitter: Stream,
    outages: Stream,
    /// One for each model.
    sensors: Vec<Sensor>,
}

/// Where a column's values come from.
enum Filling {
    Time,
    Simulated,
    /// The same for all rows of an entity: one value each.
    Fixed(ArrayRef),
    /// By the model of that number, correlated with that other model.
    Model {
        model: usize,
        with: Option<(usize, f64)>,
    },
    Null,
}

impl Plan {
    pub(super) fn new(config: &SimulateConfig, setting: &Setting<'_>) -> Result<Plan, Vec<ConfigError>> {
        let mut problems = Vec::new();
        let columns = setting.columns;
        let place = |name: &str| columns.iter().position(|column| column.field.name() == name);
        let interval_us = micros(config.interval);
        if interval_us < 1000 {
            problems.push(ConfigError::new("interval must be at least a millisecond"));
        }
        let jitter_us = config.jitter.map_or(0, micros);
        if jitter_us >= interval_us.max(1) {
            problems.push(ConfigError::new("jitter must be shorter than interval"));
        }

        let is_time =
            |column: &Column| matches!(column.field.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _));
        let time = setting
            .time_column
            .filter(|place| *place < columns.len())
            .or(columns.iter().position(is_time));
        match time {
            Some(time) if is_time(&columns[time]) => {}
            _ => problems.push(
                ConfigError::new("simulated rows need a time")
                    .with_hint("Declare a column such as at = \"timestamp not null\"."),
            ),
        }
        let simulated = place(&config.simulated);
        if simulated.is_none_or(|place| *columns[place].field.data_type() != DataType::Boolean) {
            problems.push(
                ConfigError::new(format!(
                    "simulated rows must be marked, but there is no boolean column \"{}\"",
                    config.simulated
                ))
                .with_hint(format!("Declare {} = \"boolean not null\".", config.simulated)),
            );
        }

        let modelled = |name: &str| config.columns.contains_key(name);
        let entities = match entity_rows(config, setting, &|name| modelled(name)) {
            Ok(entities) => entities,
            Err(problem) => {
                problems.push(problem);
                EntityRows {
                    keys: vec![String::new()],
                    column: None,
                    fixed: BTreeMap::new(),
                }
            }
        };

        let mut models = Vec::new();
        let mut numbers = BTreeMap::new();
        for (name, model) in &config.columns {
            problems.extend(model.check(name));
            match place(name) {
                None => problems.push(
                    ConfigError::new(format!("there is a model for column \"{name}\", which is not declared"))
                        .with_hint("Add it to columns, or remove its model."),
                ),
                Some(place) if Some(place) == time || Some(place) == simulated || Some(place) == entities.column => {
                    problems.push(ConfigError::new(format!("column \"{name}\" needs no model")));
                }
                Some(place) => problems.extend(fits(&columns[place], model)),
            }
            numbers.insert(name.as_str(), models.len());
            models.push(model.clone());
        }
        let mut with = vec![None; models.len()];
        for (name, model) in &config.columns {
            let Some(correlation) = &model.correlate else {
                continue;
            };
            match numbers.get(correlation.with.as_str()) {
                Some(other) => with[numbers[name.as_str()]] = Some((*other, correlation.factor)),
                None => problems.push(ConfigError::new(format!(
                    "model of column \"{name}\" correlates with \"{}\", which has no model",
                    correlation.with
                ))),
            }
        }
        let order = match in_order(&with) {
            Some(order) => order,
            None => {
                problems.push(ConfigError::new("columns correlate with each other in a circle"));
                Vec::new()
            }
        };

        let mut fillings = Vec::new();
        for (at, column) in columns.iter().enumerate() {
            let name = column.field.name();
            fillings.push(if Some(at) == time {
                Filling::Time
            } else if Some(at) == simulated {
                Filling::Simulated
            } else if let Some(fixed) = entities.fixed.get(name) {
                Filling::Fixed(Arc::clone(fixed))
            } else if let Some(model) = numbers.get(name.as_str()) {
                Filling::Model {
                    model: *model,
                    with: with[*model],
                }
            } else {
                if !column.field.is_nullable() {
                    problems.push(
                        ConfigError::new(format!("column \"{name}\" is not null, but has no model"))
                            .with_hint(format!("Add [connector.columns.{name}], or let it be NULL.")),
                    );
                }
                Filling::Null
            });
        }

        let outages = config.outages.as_ref().map(|outages| {
            if !(0.0..=1.0).contains(&outages.probability) {
                problems.push(ConfigError::new("outages.probability must lie between 0 and 1"));
            }
            (outages.probability, steps(Some(outages.duration), interval_us.max(1)))
        });
        let mut instant = |key: &str, text: &Option<String>| {
            let text = text.as_deref()?;
            match Times::new(setting.time_zone, None).map(|mut times| times.instant(text)) {
                Ok(Ok(instant)) => Some(instant),
                Ok(Err(reason)) => {
                    problems.push(ConfigError::new(format!("{key}: {reason}")));
                    None
                }
                Err(problem) => {
                    problems.push(problem);
                    None
                }
            }
        };
        let start = instant("start", &config.start);
        let until = instant("until", &config.until);
        let zone = zone(setting.time_zone).map_err(|problem| problems.push(problem)).ok();
        let Some(zone) = zone.filter(|_| problems.is_empty()) else {
            return Err(problems);
        };

        let start_us = start.unwrap_or_else(|| setting.start_us.saturating_sub(config.backfill.map_or(0, micros)));
        let start_us = start_us.clamp(0, TIME_MAX_US);
        let seed = Stream::new(config.seed);
        let entities = entities.keys.iter().map(|key| {
            let stream = seed.of("entity").of(key);
            let sensors = config
                .columns
                .iter()
                .map(|(name, model)| Sensor::new(model, stream.of("column").of(name)));
            Entity {
                jitter: stream.of("jitter"),
                outages: stream.of("outages"),
                sensors: sensors.collect(),
            }
        });
        Ok(Plan {
            schema: schema(columns),
            seed,
            zone,
            interval_us,
            jitter_us,
            first_step: start_us.div_euclid(interval_us) + i64::from(start_us.rem_euclid(interval_us) > 0),
            until_us: until.unwrap_or(TIME_MAX_US),
            rows_max: config.rows.unwrap_or(u64::MAX),
            outages,
            entities: entities.collect(),
            columns: fillings,
            order,
            models,
        })
    }
}

/// Whether a model can fill a column of that type.
fn fits(column: &Column, model: &Model) -> Option<ConfigError> {
    let name = column.field.name();
    let what = match column.field.data_type() {
        DataType::Utf8 if model.values.is_some() => None,
        DataType::Utf8 => Some("a text column is modelled by values = […]".to_owned()),
        DataType::Boolean if model.probability.is_some() => None,
        DataType::Boolean => Some("a boolean column is modelled by probability = …".to_owned()),
        DataType::Float64
        | DataType::Float32
        | DataType::Int64
        | DataType::Int32
        | DataType::Int16
        | DataType::Decimal128(..) => (model.values.is_some() || model.probability.is_some())
            .then(|| "values and probability are for text and boolean columns".to_owned()),
        other => Some(format!("a column of type {other} cannot be simulated")),
    };
    let what = what.or_else(|| {
        (model.missing > 0.0 && !column.field.is_nullable())
            .then(|| "missing > 0, but the column is not null".to_owned())
    });
    what.map(|what| ConfigError::new(format!("model of column \"{name}\": {what}")))
}

/// The models, each after the one it depends on; none if they depend in a circle.
fn in_order(with: &[Option<(usize, f64)>]) -> Option<Vec<usize>> {
    let mut order = Vec::new();
    let mut placed = vec![false; with.len()];
    while order.len() < with.len() {
        let before = order.len();
        for model in 0..with.len() {
            if !placed[model] && with[model].is_none_or(|(other, _)| placed[other]) {
                placed[model] = true;
                order.push(model);
            }
        }
        if order.len() == before {
            return None;
        }
    }
    Some(order)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub(super) time_us: i64,
    entity: u32,
    step: i64,
}

impl Plan {
    /// The rows of a step, by time.
    pub(super) fn rows_of(&self, step: i64, rows: &mut Vec<Row>) {
        rows.clear();
        for (at, entity) in self.entities.iter().enumerate() {
            if let Some((probability, length)) = self.outages
                && entity.outages.episode(step, probability, length)
            {
                continue;
            }
            let later_us = match self.jitter_us {
                0 => 0,
                jitter_us => (entity.jitter.bits(step) % jitter_us as u64) as i64,
            };
            rows.push(Row {
                time_us: step * self.interval_us + later_us,
                entity: at as u32,
                step,
            });
        }
        rows.sort_unstable();
    }

    pub(super) fn fill(&self, rows: &[Row]) -> Decoded {
        let hours = self.local_hours(rows);
        // By model: values before bounds and rounding, correlation included.
        let mut levels: Vec<Vec<f64>> = vec![Vec::new(); self.models.len()];
        for model in &self.order {
            let with = self.columns.iter().find_map(|filling| match filling {
                Filling::Model { model: number, with } if number == model => *with,
                _ => None,
            });
            let declared = &self.models[*model];
            let values = rows.iter().zip(&hours).enumerate().map(|(at, (row, hour))| {
                let sensor = &self.entities[row.entity as usize].sensors[*model];
                let level = sensor.level(declared, row.step, *hour, self.interval_us);
                match with {
                    None => level,
                    Some((other, factor)) => level + factor * (levels[other][at] - self.models[other].base),
                }
            });
            levels[*model] = values.collect();
        }
        let arrays = self
            .columns
            .iter()
            .zip(self.schema.fields())
            .map(|(filling, field)| self.array(filling, field, rows, &levels));
        let batch = arrays
            .collect::<Result<Vec<_>, _>>()
            .and_then(|arrays| RecordBatch::try_new(self.schema.clone(), arrays));
        match batch {
            Ok(rows) => Decoded {
                rows,
                rejected: Vec::new(),
            },
            Err(error) => {
                // Unreachable: `Plan::new` has checked types and NULLs.
                tracing::error!(%error, seed = ?self.seed, "simulated rows do not fit their schema");
                Decoded::empty(self.schema.clone())
            }
        }
    }

    fn array(
        &self,
        filling: &Filling,
        field: &Field,
        rows: &[Row],
        levels: &[Vec<f64>],
    ) -> Result<ArrayRef, arrow::error::ArrowError> {
        let sensors = |model: usize| {
            rows.iter()
                .map(move |row| (row, &self.entities[row.entity as usize].sensors[model]))
        };
        Ok(match filling {
            Filling::Time => {
                let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.time_us));
                Arc::new(times.with_data_type(field.data_type().clone()))
            }
            Filling::Simulated => Arc::new(BooleanArray::from(vec![true; rows.len()])),
            Filling::Fixed(values) => take(
                values,
                &UInt32Array::from_iter_values(rows.iter().map(|row| row.entity)),
                None,
            )?,
            Filling::Null => arrow::array::new_null_array(field.data_type(), rows.len()),
            Filling::Model { model, .. } => {
                let declared = &self.models[*model];
                let is_missing = |row: &Row, sensor: &Sensor| {
                    declared.missing > 0.0 && sensor.missing.uniform(row.step) < declared.missing
                };
                if let Some(values) = &declared.values {
                    let texts = sensors(*model).map(|(row, sensor)| {
                        let place = (sensor.draw.bits(row.step) % values.len() as u64) as usize;
                        (!is_missing(row, sensor)).then(|| values[place].as_str())
                    });
                    Arc::new(texts.collect::<StringArray>())
                } else if let Some(probability) = declared.probability {
                    let flags = sensors(*model).map(|(row, sensor)| {
                        (!is_missing(row, sensor)).then(|| sensor.draw.uniform(row.step) < probability)
                    });
                    Arc::new(flags.collect::<BooleanArray>())
                } else {
                    numbers(
                        field.data_type(),
                        sensors(*model)
                            .zip(&levels[*model])
                            .map(|((row, sensor), level)| (!is_missing(row, sensor)).then(|| declared.finish(*level))),
                    )?
                }
            }
        })
    }

    /// The local hour of each row's step, with its part.
    fn local_hours(&self, rows: &[Row]) -> Vec<f64> {
        // Zones change on the hour or on quarters of it.
        let mut recent = (i64::MIN, 0_i64);
        let mut hours = Vec::with_capacity(rows.len());
        for row in rows {
            let quarter = row.time_us.div_euclid(HOUR_US / 4);
            if recent.0 != quarter {
                let utc = DateTime::from_timestamp_micros(quarter * (HOUR_US / 4))
                    .unwrap_or_default()
                    .naive_utc();
                let offset_s = self.zone.offset_from_utc_datetime(&utc).fix().local_minus_utc();
                recent = (quarter, i64::from(offset_s) * 1_000_000);
            }
            hours.push((row.time_us + recent.1).rem_euclid(24 * HOUR_US) as f64 / HOUR_US as f64);
        }
        hours
    }
}

/// Numbers in the declared type; whole ones are rounded, and end where it ends.
fn numbers(
    data_type: &DataType,
    values: impl Iterator<Item = Option<f64>>,
) -> Result<ArrayRef, arrow::error::ArrowError> {
    use arrow::array::{Float64Array, Int64Array};
    let whole = |min: i64, max: i64, values: &mut dyn Iterator<Item = Option<f64>>| {
        values
            .map(|value| value.map(|value| (value.round() as i64).clamp(min, max)))
            .collect::<Int64Array>()
    };
    let mut values = values;
    match data_type {
        DataType::Int64 => Ok(Arc::new(whole(i64::MIN, i64::MAX, &mut values))),
        DataType::Int32 => cast(&whole(i32::MIN.into(), i32::MAX.into(), &mut values), data_type),
        DataType::Int16 => cast(&whole(i16::MIN.into(), i16::MAX.into(), &mut values), data_type),
        DataType::Decimal128(precision, scale) => {
            let limit = (0..*precision as i32 - i32::from(*scale)).fold(1.0, |limit, _| limit * 10.0) - 1.0;
            let floats: Float64Array = values
                .map(|value| value.map(|value| value.clamp(-limit, limit)))
                .collect();
            cast_with_options(&floats, data_type, &CastOptions::default())
        }
        DataType::Float32 => cast(&values.collect::<Float64Array>(), data_type),
        _ => Ok(Arc::new(values.collect::<Float64Array>())),
    }
}
