//! The one list of sinks, and what they have in common.
//!
//! To add one: its file under `sinks/`, its line in [`SINKS`], its variant of [`SinkConfig`]; the compiler lists the
//! rest.
//!
//! A sink is told what a view changed, tick by tick, from an outbox that survives the program: each delivery is
//! repeated until the other side has it for good.

pub(crate) mod kafka;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::error::ConfigError;

/// Every sink that a deployment can declare.
pub const SINKS: &[SinkEntry] = &[SinkEntry {
    name: "kafka",
    about: "writes to a topic of a Kafka cluster",
    parse: |table| table.try_into().map(|config| SinkConfig::Kafka(Box::new(config))),
}];

/// One line of the list: all that is known of a sink before it is declared.
#[derive(Debug)]
pub struct SinkEntry {
    /// What `type` says.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// Reads its options.
    pub parse: fn(toml::Table) -> Result<SinkConfig, toml::de::Error>,
}

/// The `[connector]` of a sink, chosen by its `type`.
#[derive(Debug, Clone, PartialEq)]
pub enum SinkConfig {
    /// Changes are written to a topic of Kafka.
    Kafka(Box<kafka::KafkaSinkConfig>),
}

impl<'de> Deserialize<'de> for SinkConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SinkConfig, D::Error> {
        let mut table = toml::Table::deserialize(deserializer)?;
        let known: Vec<String> = SINKS.iter().map(|entry| format!("\"{}\"", entry.name)).collect();
        let known = known.join(", ");
        let kind = match table.remove("type") {
            Some(toml::Value::String(kind)) => kind,
            Some(_) => return Err(D::Error::custom("type of a connector must be a text")),
            None => {
                return Err(D::Error::custom(format!(
                    "the connector of a sink needs a type; there are {known}"
                )));
            }
        };
        let Some(entry) = SINKS.iter().find(|entry| entry.name == kind) else {
            return Err(D::Error::custom(format!(
                "unknown type \"{kind}\" for the connector of a sink; there are {known}"
            )));
        };
        (entry.parse)(table)
            .map_err(|error| D::Error::custom(format!("connector of type \"{kind}\": {}", error.message().trim_end())))
    }
}

impl SinkConfig {
    /// The sink's name in [`SINKS`].
    pub fn name(&self) -> &'static str {
        match self {
            SinkConfig::Kafka(_) => "kafka",
        }
    }

    /// Lists what cannot work, without reaching the other side.
    pub fn check(&self, setting: &SinkSetting) -> Vec<ConfigError> {
        match self {
            SinkConfig::Kafka(config) => config.check(setting),
        }
    }

    /// Says why ticks that wait cannot give way to their net change, if they cannot: the other side must be told the
    /// newest row of each key, and no more than that.
    pub fn check_conflation(&self, setting: &SinkSetting) -> Option<ConfigError> {
        match self {
            SinkConfig::Kafka(config) => config.check_conflation(setting),
        }
    }

    /// Makes the sink; it reaches the other side when it is first asked something.
    pub fn sink(&self, setting: &SinkSetting) -> Result<Box<dyn Sink>, ConfigError> {
        match self {
            SinkConfig::Kafka(config) => Ok(Box::new(config.sink(setting)?)),
        }
    }
}

/// What a view changed at one tick.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The tick, in microseconds since 1970; deliveries of a sink come in its order.
    pub tick: u64,
    /// The rows that came or went, of the view's schema; equal rows are one.
    pub rows: RecordBatch,
    /// How often each came; less than nothing where it went.
    pub diffs: Vec<i64>,
}

/// What a sink is set up with besides its own options.
#[derive(Debug, Clone)]
pub struct SinkSetting {
    /// The sink's name, unique within the deployment.
    pub name: String,
    /// The deployment's name.
    pub deployment: String,
    /// The columns of the view.
    pub schema: SchemaRef,
    /// Positions of the view's key columns, if it has a key.
    pub key: Option<Vec<usize>>,
}

/// Why the other side did not take a delivery.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It may work another time: the same deliveries are tried again, after a while.
    #[error("{0}")]
    Retry(String),
    /// Somebody else writes in this sink's place, or it is refused for good: an operator has to look.
    #[error("{0}")]
    Fatal(String),
}

/// Tells another system what a view changes.
pub trait Sink: Send {
    /// The newest tick that the other side has whole, where it remembers that itself, in one write with the rows:
    /// what is older is not told again, so each change counts exactly once. None where it does not: then what was
    /// not known to be delivered is told again after a crash, at least once in all.
    fn delivered(&mut self) -> Result<Option<u64>, SinkError>;

    /// Tells what changed at some ticks, in their order; returns once the other side can lose it no more.
    fn deliver(&mut self, deliveries: &[Delivery]) -> Result<(), SinkError>;
}
