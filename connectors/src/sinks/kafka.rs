//! Changes of a view, written to a topic of Kafka.
//!
//! `encode` makes messages of what a view changed, `producer` sees them written: each once, by transactions, or at
//! least once.
mod encode;
mod producer;

use rdkafka::config::ClientConfig;
use rdkafka::producer::BaseProducer;
use serde::Deserialize;

use crate::error::ConfigError;
use crate::kafka::{self, Options, Owned};
use crate::sinks::SinkSetting;
use crate::sinks::kafka::encode::Encoder;
use crate::sinks::kafka::producer::KafkaSink;

/// Writes what a view changes to a topic, as JSON.
///
/// By default each change is written exactly once for consumers that read what is committed
/// (`isolation.level = "read_committed"`): a transaction of Kafka holds the messages, and the tick they belong to, which
/// is committed as an offset of a consumer group named after the deployment and the sink.
///
/// ```toml
/// from = "hourly"
/// [connector]
/// type = "kafka"
/// brokers = "kafka1:9092,kafka2:9092"
/// topic = "hourly"
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSinkConfig {
    /// Brokers to begin with, as "host:port", separated by commas.
    pub brokers: String,
    /// The topic, which must be there.
    pub topic: String,
    /// `"upsert"`: the newest row of each key of the view, and a message without a value where it goes (a tombstone), for
    /// topics that are compacted; `"changes"`: each row that comes or goes, in Debezium's envelope. Default: "upsert"
    /// where the view has a key, "changes" elsewhere.
    pub mode: Option<Mode>,
    /// Whether each change is written exactly once, by transactions; if not, it is written at least once: again after
    /// a crash, if it is not known to be there. Default: true.
    #[serde(default = "yes")]
    pub exactly_once: bool,
    /// Further options under librdkafka's own names.
    #[serde(default)]
    pub options: Options,
}

fn yes() -> bool {
    true
}

/// What messages say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The newest row of each key, or that there is none any more.
    Upsert,
    /// Each row that comes or goes.
    Changes,
}

/// Options that are decided here.
const OWNED: &Owned = &[
    ("bootstrap.servers", "Use `brokers`."),
    ("metadata.broker.list", "Use `brokers`."),
    (
        "transactional.id",
        "It is made of the names of the deployment and the sink.",
    ),
    (
        "enable.idempotence",
        "Messages are written in order and once by any one run: leave it out.",
    ),
    ("group.id", "It is made of the names of the deployment and the sink."),
];

/// How long a message may be on its way before it counts as lost, unless the options say otherwise.
const MESSAGE_TIMEOUT_MS: &str = "15000";

const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "sangam"),
    ("compression.type", "lz4"),
    ("linger.ms", "2"),
    // The partition that Java's clients choose for a key.
    ("partitioner", "murmur2_random"),
    ("reconnect.backoff.max.ms", "2000"),
];

impl KafkaSinkConfig {
    pub(crate) fn check(&self, setting: &SinkSetting) -> Vec<ConfigError> {
        let mut problems = self.options.check(OWNED);
        problems.extend(kafka::check_brokers(&self.brokers).err());
        problems.extend(kafka::check_topic(&self.topic).err());
        problems.extend(self.encoder(setting).err());
        if problems.is_empty() {
            problems.extend(kafka::try_out::<BaseProducer>(&self.client(setting)).err());
        }
        problems
    }

    /// Says why its ticks cannot give way to their net change. Where each key's newest row is told they can, also in
    /// transactions: what was tried once stays as it is, so the tick that the other side remembers is never among those
    /// that are merged.
    pub(crate) fn check_conflation(&self, setting: &SinkSetting) -> Option<ConfigError> {
        let needs = match (self.mode(setting).ok()?, key_of(setting)) {
            (Mode::Upsert, _) => return None,
            (Mode::Changes, Some(_)) => "use mode = \"upsert\"",
            (Mode::Changes, None) => "declare the `key` of the view",
        };
        let hint =
            format!("Only the newest row of a key can stand for those before: {needs}, or leave `when_full` out.");
        Some(ConfigError::new("when_full = \"conflate\" for a sink that tells of every change").with_hint(hint))
    }

    fn encoder(&self, setting: &SinkSetting) -> Result<Encoder, ConfigError> {
        Ok(Encoder::new(self.mode(setting)?, &setting.schema, key_of(setting)))
    }

    fn mode(&self, setting: &SinkSetting) -> Result<Mode, ConfigError> {
        match (self.mode, key_of(setting)) {
            (Some(Mode::Upsert), None) => Err(ConfigError::new("mode = \"upsert\" for a view without a key")
                .with_hint("Declare the `key` of the view, or use mode = \"changes\".")),
            (Some(mode), _) => Ok(mode),
            (None, Some(_)) => Ok(Mode::Upsert),
            (None, None) => Ok(Mode::Changes),
        }
    }

    fn client(&self, setting: &SinkSetting) -> ClientConfig {
        let mut defaults = DEFAULTS.to_vec();
        let given = |name: &str| self.options.get(name).is_some();
        if !given("message.timeout.ms") && !given("delivery.timeout.ms") {
            defaults.push(("message.timeout.ms", MESSAGE_TIMEOUT_MS));
        }
        if given("compression.codec") {
            defaults.retain(|(name, _)| *name != "compression.type");
        }
        if given("queue.buffering.max.ms") {
            defaults.retain(|(name, _)| *name != "linger.ms");
        }
        let name = name_of(setting);
        let mut ours = vec![("enable.idempotence", "true")];
        if self.exactly_once {
            ours.push(("transactional.id", &name));
        }
        kafka::client(&self.brokers, &self.options, &defaults, &ours)
    }

    /// The client that reads back what is committed; options of producers are none of consumers'.
    fn asking_client(&self, setting: &SinkSetting) -> ClientConfig {
        let name = name_of(setting);
        kafka::client(
            &self.brokers,
            &self.options.only(|name| {
                let families = [
                    "security.",
                    "sasl.",
                    "ssl.",
                    "broker.",
                    "socket.",
                    "reconnect.",
                    "client.",
                ];
                families.iter().any(|family| name.starts_with(family)) || name == "enable.ssl.certificate.verification"
            }),
            &[("client.id", "sangam"), ("reconnect.backoff.max.ms", "2000")],
            &[
                ("group.id", &name),
                ("enable.auto.commit", "false"),
                ("isolation.level", "read_committed"),
            ],
        )
    }

    pub(crate) fn sink(&self, setting: &SinkSetting) -> Result<KafkaSink, ConfigError> {
        Ok(KafkaSink::new(
            self.client(setting),
            self.exactly_once.then(|| self.asking_client(setting)),
            self.topic.clone(),
            name_of(setting),
            self.encoder(setting)?,
        ))
    }
}

/// The view's key, if there is one; one without columns is none.
fn key_of(setting: &SinkSetting) -> Option<&[usize]> {
    setting.key.as_deref().filter(|key| !key.is_empty())
}

/// What a sink is known by on the other side: its transactions, and the group whose offset is the newest tick.
fn name_of(setting: &SinkSetting) -> String {
    format!("sangam-{}-{}", setting.deployment, setting.name)
}
