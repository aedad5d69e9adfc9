//! Rows from the topics of Kafka.
//!
//! `reader` polls messages and makes batches of them, `assignment` knows the partitions that are read and how far,
//! `upkeep` takes partitions up and gives them away, `start` decides where reading begins, `context` hears what
//! librdkafka has to tell beside messages, `beside` fills columns with what comes beside a message's value.
mod assignment;
mod beside;
mod context;
mod reader;
mod start;
mod upkeep;

use std::collections::BTreeSet;

use chrono::DateTime;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::error::ConfigError;
use crate::format::{FormatConfig, FormatKind};
use crate::kafka::{self, Options, Owned};
use crate::messages::MessageDecoder;
use crate::sources::Setting;
use crate::sources::kafka::beside::Beside;
pub(crate) use crate::sources::kafka::reader::KafkaReader;

/// Reads messages of one topic or several: each holds rows in the declared format (JSON or CSV, in Debezium's envelope,
/// or as upserts by the message's key).
///
/// What was read is logged with the offset it was read up to, in one write: after a crash reading goes on exactly
/// there, so each message counts once.
///
/// ```toml
/// [connector]
/// type = "kafka"
/// brokers = "kafka1:9092,kafka2:9092"
/// topic = "readings"
/// start = "earliest"
/// metadata = { key = "station", timestamp = "at" }
/// [connector.options]
/// security.protocol = "SASL_SSL"
/// sasl.mechanism = "SCRAM-SHA-512"
/// sasl.username = "sangam"
/// sasl.password = "${KAFKA_PASSWORD}"
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Brokers to begin with, as "host:port", separated by commas.
    pub brokers: String,
    /// A topic, or a list of topics.
    pub topic: Topics,
    /// A consumer group. Its members share the partitions among them, and offsets are committed in its name once they
    /// are safe, for tools that show the lag. Default: none; then this source reads all partitions and commits nothing.
    pub group: Option<String>,
    /// Whether to join the group. If not, this source reads all partitions, and only commits in the group's name.
    /// Default: true.
    #[serde(default = "yes")]
    pub join: bool,
    /// Where to begin in a partition of which nothing is known: `"earliest"`, `"latest"`, a time (RFC 3339; its first
    /// message of then or later), or `"stored"`, which is what the group has committed. Members of a group always
    /// begin there first. Default: "earliest".
    #[serde(default)]
    pub start: Start,
    /// Columns that are filled with what comes beside a message's value. Default: none.
    #[serde(default)]
    pub metadata: MetadataColumns,
    /// Further options under librdkafka's own names.
    #[serde(default)]
    pub options: Options,
}

fn yes() -> bool {
    true
}

/// One topic or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected the name of a topic, or a list of names")]
pub enum Topics {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl Topics {
    /// The topics, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        match self {
            Topics::One(topic) => std::slice::from_ref(topic),
            Topics::Several(topics) => topics,
        }
        .iter()
        .map(String::as_str)
    }
}

/// Where to begin in a partition of which nothing is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// At its first message.
    #[default]
    Earliest,
    /// After its last message.
    Latest,
    /// At the first message of this time or later, in milliseconds since 1970.
    Time(i64),
    /// Where the group has committed.
    Stored,
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Start, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "earliest" => Ok(Start::Earliest),
            "latest" => Ok(Start::Latest),
            "stored" => Ok(Start::Stored),
            time => match DateTime::parse_from_rfc3339(time) {
                Ok(time) => Ok(Start::Time(time.timestamp_millis())),
                Err(_) => Err(D::Error::custom(format!(
                    "start = \"{time}\" is none of \"earliest\", \"latest\", \"stored\" and a time like \
                     \"2026-01-31T00:00:00Z\""
                ))),
            },
        }
    }
}

/// Columns that are filled with what comes beside a message's value, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetadataColumns {
    /// The message's key, read as the column's type; `bytea` takes it as it is.
    pub key: Option<String>,
    /// The topic, a text.
    pub topic: Option<String>,
    /// The partition's number, an integer or bigint.
    pub partition: Option<String>,
    /// The offset in the partition, a bigint.
    pub offset: Option<String>,
    /// The message's time, a timestamp.
    pub timestamp: Option<String>,
    /// The headers as a JSON object of texts, a text. A header that is not UTF-8 is given as `\x` and hexadecimals,
    /// several of one name as an array.
    pub headers: Option<String>,
}

/// Options that are decided here.
const OWNED: &Owned = &[
    ("bootstrap.servers", "Use `brokers`."),
    ("metadata.broker.list", "Use `brokers`."),
    ("group.id", "Use `group`."),
    (
        "auto.offset.reset",
        "Use `start`; messages that are gone are told, never passed over.",
    ),
    (
        "topic.auto.offset.reset",
        "Use `start`; messages that are gone are told, never passed over.",
    ),
    ("enable.auto.commit", "Offsets are committed once their rows are safe."),
    ("auto.commit.enable", "Offsets are committed once their rows are safe."),
    (
        "auto.commit.interval.ms",
        "Offsets are committed once their rows are safe.",
    ),
    (
        "enable.auto.offset.store",
        "Offsets are committed once their rows are safe.",
    ),
    (
        "enable.partition.eof",
        "The end of a partition needs no telling: leave it out.",
    ),
    ("transactional.id", "It is an option of sinks."),
];

/// How often partitions that are new are looked for, unless `topic.metadata.refresh.interval.ms` says otherwise.
const REFRESH_MS: &str = "10000";

const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "sangam"),
    // What was fetched and not yet read is held in memory, however slow the engine is.
    ("queued.max.messages.kbytes", "32768"),
    ("topic.metadata.refresh.interval.ms", REFRESH_MS),
    ("isolation.level", "read_committed"),
    ("reconnect.backoff.max.ms", "2000"),
];

impl KafkaConfig {
    pub(crate) fn check(&self, setting: &Setting<'_>) -> Vec<ConfigError> {
        let mut problems = self.options.check(OWNED);
        problems.extend(kafka::check_brokers(&self.brokers).err());
        let mut topics = BTreeSet::new();
        for topic in self.topic.iter() {
            problems.extend(kafka::check_topic(topic).err());
            if !topics.insert(topic) {
                problems.push(ConfigError::new(format!("topic \"{topic}\" is listed twice")));
            }
        }
        if topics.is_empty() {
            problems.push(ConfigError::new("topic lists no topics"));
        }
        if self.group.as_deref() == Some("") {
            problems.push(ConfigError::new("group = \"\" names no group"));
        }
        if self.group.is_none() && self.start == Start::Stored {
            problems.push(
                ConfigError::new("start = \"stored\" without a group, which would have stored it")
                    .with_hint("Name the `group`, with join = false if its partitions are not to be shared."),
            );
        }
        if self.group.is_none() && !self.join {
            problems.push(
                ConfigError::new("join = false without a group, which is not to be joined")
                    .with_hint("Name the `group` to commit for, or leave `join` out."),
            );
        }
        problems.extend(self.decoder(setting).err());
        if problems.is_empty() {
            problems.extend(kafka::try_out::<BaseConsumer>(&self.client()).err());
        }
        problems
    }

    /// The decoder, and what fills the columns that it does not read.
    fn decoder(&self, setting: &Setting<'_>) -> Result<(MessageDecoder, Beside), ConfigError> {
        let beside = Beside::new(&self.metadata, setting.columns)?;
        let kind = setting.format.kind.unwrap_or(FormatKind::Json);
        let format = FormatConfig {
            kind: Some(kind),
            ..setting.format.clone()
        };
        let decoder = MessageDecoder::new(&format, setting.columns, beside.columns(), setting.time_zone)?;
        Ok((decoder, beside))
    }

    fn client(&self) -> ClientConfig {
        let joins = self.group.is_some() && self.join;
        // Without a group of this name, only its coordinator is asked for; nothing is ever committed to it.
        let group = self.group.as_deref().unwrap_or("sangam");
        let mut defaults = DEFAULTS.to_vec();
        if joins && self.options.get("group.protocol") != Some("consumer") {
            defaults.push(("partition.assignment.strategy", "cooperative-sticky"));
        }
        // Lines of its log tell the identity of topics, which nothing else does.
        let debug = match self.options.get("debug") {
            Some(debug) => format!("{debug},metadata"),
            None => "metadata".to_owned(),
        };
        let ours = [
            ("group.id", group),
            ("auto.offset.reset", "error"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("debug", &debug),
        ];
        let mut client = kafka::client(&self.brokers, &self.options, &defaults, &ours);
        client.set_log_level(rdkafka::config::RDKafkaLogLevel::Debug);
        client
    }

    pub(crate) fn reader(&self, setting: &Setting<'_>) -> Result<KafkaReader, ConfigError> {
        let (decoder, beside) = self.decoder(setting)?;
        Ok(KafkaReader::new(self.clone(), self.client(), decoder, beside))
    }
}
