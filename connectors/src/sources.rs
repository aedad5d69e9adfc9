//! The one list of sources, and what they have in common.
//!
//! To add one: its file under `sources/`, its line in [`SOURCES`], its variant of
//! [`ConnectorConfig`]; the compiler lists the rest.
pub(crate) mod file;
pub(crate) mod http;
pub(crate) mod kafka;
pub(crate) mod mqtt;
pub(crate) mod mqtt_listener;
pub(crate) mod nexmark;
pub(crate) mod simulate;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::column::Column;
use crate::decoded::Decoded;
use crate::error::{ConfigError, ReadError};
use crate::format::FormatConfig;

/// Every source that a deployment can declare.
pub const SOURCES: &[SourceEntry] = &[
    entry("http", "takes rows that are posted to /ingest/{source}", |table| {
        table.try_into().map(ConnectorConfig::Http)
    }),
    entry(
        "file",
        "reads files of CSV, JSON lines or Parquet, once or as they grow",
        |table| table.try_into().map(ConnectorConfig::File),
    ),
    entry("kafka", "reads the topics of a Kafka cluster", |table| {
        table.try_into().map(|config| ConnectorConfig::Kafka(Box::new(config)))
    }),
    entry("mqtt", "subscribes to topics of an MQTT broker", |table| {
        table.try_into().map(|config| ConnectorConfig::Mqtt(Box::new(config)))
    }),
    entry(
        "mqtt_listener",
        "takes messages that MQTT clients publish here, with no broker between",
        |table| {
            table
                .try_into()
                .map(|config| ConnectorConfig::MqttListener(Box::new(config)))
        },
    ),
    entry(
        "simulate",
        "makes up plausible readings from a declared model and a seed",
        |table| {
            table
                .try_into()
                .map(|config| ConnectorConfig::Simulate(Box::new(config)))
        },
    ),
    entry(
        "nexmark",
        "makes up the auctions of the Nexmark benchmark from a seed",
        |table| table.try_into().map(ConnectorConfig::Nexmark),
    ),
];

/// One line of the list: all that is known of a source before it is declared.
#[derive(Debug)]
pub struct SourceEntry {
    /// What `type` says.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// Reads its options.
    pub parse: fn(toml::Table) -> Result<ConnectorConfig, toml::de::Error>,
}

const fn entry(
    name: &'static str,
    about: &'static str,
    parse: fn(toml::Table) -> Result<ConnectorConfig, toml::de::Error>,
) -> SourceEntry {
    SourceEntry { name, about, parse }
}

/// The `[connector]` of a source, chosen by its `type`.
#[derive(Debug, Clone, PartialEq)]
pub enum ConnectorConfig {
    /// Rows are posted.
    Http(http::HttpConfig),
    /// Rows are read from files.
    File(file::FileConfig),
    /// Rows are read from topics of Kafka.
    Kafka(Box<kafka::KafkaConfig>),
    /// Rows come from a broker.
    Mqtt(Box<mqtt::MqttConfig>),
    /// Rows come from MQTT clients.
    MqttListener(Box<mqtt_listener::MqttListenerConfig>),
    /// Rows are made up.
    Simulate(Box<simulate::SimulateConfig>),
    /// Rows are those of a benchmark.
    Nexmark(nexmark::NexmarkConfig),
}

impl<'de> Deserialize<'de> for ConnectorConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ConnectorConfig, D::Error> {
        let mut table = toml::Table::deserialize(deserializer)?;
        let known = || {
            SOURCES
                .iter()
                .map(|entry| format!("\"{}\"", entry.name))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let kind = match table.remove("type") {
            Some(toml::Value::String(kind)) => kind,
            Some(_) => return Err(D::Error::custom("type of a connector must be a text")),
            None => {
                return Err(D::Error::custom(format!(
                    "a connector needs a type; there are {}",
                    known()
                )));
            }
        };
        let Some(entry) = SOURCES.iter().find(|entry| entry.name == kind) else {
            return Err(D::Error::custom(format!(
                "unknown connector type \"{kind}\"; there are {}",
                known()
            )));
        };
        (entry.parse)(table)
            .map_err(|error| D::Error::custom(format!("connector of type \"{kind}\": {}", error.message().trim_end())))
    }
}

/// What a source is set up with besides its own options.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// The source's name, unique within the deployment.
    pub name: &'a str,
    /// The columns to yield.
    pub columns: &'a [Column],
    /// The declared format.
    pub format: &'a FormatConfig,
    /// The place of the declared time column; without one, `simulate` takes the
    /// first timestamp.
    pub time_column: Option<usize>,
    /// The deployment's time zone.
    pub time_zone: &'a str,
    /// The deployment's folder, which relative paths start from.
    pub directory: &'a Path,
    /// When the deployment starts, in microseconds since 1970.
    pub start_us: i64,
}

/// What a reader has at the moment.
#[derive(Debug)]
pub enum Read {
    /// Some rows, in their order.
    Rows(Batch),
    /// Nothing yet; ask again after this time.
    Wait(Duration),
    /// Nothing, and nothing will follow.
    End,
}

/// Rows that were read together, and what is to be logged with them.
#[derive(Debug)]
pub struct Batch {
    /// The rows, and what could not become one.
    pub decoded: Decoded,
    /// Where to go on after these rows, as far as it has moved; logged in one write with them.
    pub position: Position,
    /// How the rows divide among partitions, in their order: each with how many of them. A partition without rows
    /// is told once it is read from: until it has some, or counts as idle, it holds the watermark. Empty: the
    /// source has no partitions.
    pub partitions: Vec<(Arc<str>, usize)>,
}

/// Where reading goes on, by what the source knows it by: a partition's next offset, say.
pub type Position = BTreeMap<String, i64>;

impl From<Decoded> for Batch {
    fn from(decoded: Decoded) -> Batch {
        Batch {
            decoded,
            position: Position::new(),
            partitions: Vec::new(),
        }
    }
}

/// Yields the rows of one source; blocks on files, never on time.
pub trait Reader: Send {
    /// Reads on. `now_us` is the time by the deployment's clock (`i64::MAX` under
    /// the event clock): what is made up for later stays unmade.
    fn read(&mut self, now_us: i64) -> Result<Read, ReadError>;

    /// Whether every run yields the same rows from the first on: then whoever reads it counts them, passes over those
    /// that an earlier run has logged, and never calls [`resume`](Self::resume).
    fn repeats(&self) -> bool {
        true
    }

    /// Goes on where an earlier run has logged that it was. Called once, before anything is read, with the
    /// positions of all its batches put together; with none, where nothing was logged.
    fn resume(&mut self, position: &Position) -> Result<(), ReadError> {
        let _ = position;
        Ok(())
    }

    /// Hears that the first `batches` batches it yielded since its start can be lost no more: now the other side
    /// may forget them.
    fn acknowledge(&mut self, batches: u64) -> Result<(), ReadError> {
        let _ = batches;
        Ok(())
    }
}

impl ConnectorConfig {
    /// The source's name in [`SOURCES`].
    pub fn name(&self) -> &'static str {
        match self {
            ConnectorConfig::Http(_) => "http",
            ConnectorConfig::File(_) => "file",
            ConnectorConfig::Kafka(_) => "kafka",
            ConnectorConfig::Mqtt(_) => "mqtt",
            ConnectorConfig::MqttListener(_) => "mqtt_listener",
            ConnectorConfig::Simulate(_) => "simulate",
            ConnectorConfig::Nexmark(_) => "nexmark",
        }
    }

    /// Whether rows may be posted to it.
    pub fn takes_posts(&self) -> bool {
        matches!(self, ConnectorConfig::Http(_) | ConnectorConfig::Simulate(_))
    }

    /// Lists what cannot work, without reading any rows.
    pub fn check(&self, setting: &Setting<'_>) -> Vec<ConfigError> {
        match self {
            ConnectorConfig::Http(config) => config.check(setting),
            ConnectorConfig::File(config) => config.check(setting),
            ConnectorConfig::Kafka(config) => config.check(setting),
            ConnectorConfig::Mqtt(config) => config.check(setting),
            ConnectorConfig::MqttListener(config) => config.check(setting),
            ConnectorConfig::Simulate(config) => config.check(setting),
            ConnectorConfig::Nexmark(config) => config.check(setting),
        }
    }

    /// Makes the reader, or none where rows come by themselves.
    pub fn reader(&self, setting: &Setting<'_>) -> Result<Option<Box<dyn Reader>>, ConfigError> {
        match self {
            ConnectorConfig::Http(_) => Ok(None),
            ConnectorConfig::File(config) => Ok(Some(Box::new(config.reader(setting)?))),
            ConnectorConfig::Kafka(config) => Ok(Some(Box::new(config.reader(setting)?))),
            ConnectorConfig::Mqtt(config) => Ok(Some(Box::new(config.reader(setting)?))),
            ConnectorConfig::MqttListener(config) => Ok(Some(Box::new(config.reader(setting)?))),
            ConnectorConfig::Simulate(config) => Ok(Some(Box::new(config.reader(setting)?))),
            ConnectorConfig::Nexmark(config) => Ok(Some(Box::new(config.reader(setting)?))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        toml::from_str::<ConnectorConfig>(text)
            .unwrap_err()
            .message()
            .to_owned()
    }

    #[test]
    fn errors_speak_to_newcomers() {
        assert_eq!(
            message("type = \"htp\""),
            "unknown connector type \"htp\"; there are \"http\", \"file\", \"kafka\", \"mqtt\", \"mqtt_listener\", \"simulate\", \"nexmark\""
        );
        assert_eq!(
            message(""),
            "a connector needs a type; there are \"http\", \"file\", \"kafka\", \"mqtt\", \"mqtt_listener\", \"simulate\", \"nexmark\""
        );
        assert_eq!(message("type = 1"), "type of a connector must be a text");
        let unknown = message("type = \"file\"\npath = \"a\"\nfolow = true");
        assert!(
            unknown.starts_with("connector of type \"file\": unknown field `folow`, expected one of"),
            "{unknown}"
        );
        assert!(message("type = \"file\"").contains("missing field `path`"));
        assert!(message("type = \"http\"\nport = 1").contains("unknown field `port`"));
    }

    #[test]
    fn names_match_the_list() {
        assert_eq!(
            toml::from_str::<ConnectorConfig>("type = \"http\"").unwrap().name(),
            SOURCES[0].name
        );
        let file = toml::from_str::<ConnectorConfig>("type = \"file\"\npath = \"a.csv\"").unwrap();
        assert_eq!(file.name(), SOURCES[1].name);
        assert!(!file.takes_posts());
    }
}
