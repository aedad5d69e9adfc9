//! What the source and the sink of Kafka have in common: how a client of librdkafka is declared.
//!
//! Its options keep librdkafka's own names, and its own checks: what it does not know, it says itself.
use std::collections::BTreeMap;
use std::fmt;

use rdkafka::config::{ClientConfig, FromClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::error::ConfigError;

/// Options under librdkafka's own names: `security.protocol = "SASL_SSL"`, whether written with dots or between quotes.
#[derive(Clone, Default, PartialEq)]
pub struct Options(BTreeMap<String, String>);

// Some of the values are secrets.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl<'de> Deserialize<'de> for Options {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Options, D::Error> {
        let mut options = BTreeMap::new();
        flatten("", toml::Table::deserialize(deserializer)?, &mut options).map_err(D::Error::custom)?;
        Ok(Options(options))
    }
}

/// Names what stands in tables by its path: a dotted key of TOML is one.
fn flatten(path: &str, table: toml::Table, options: &mut BTreeMap<String, String>) -> Result<(), String> {
    for (key, value) in table {
        let name = if path.is_empty() { key } else { format!("{path}.{key}") };
        let text = match value {
            toml::Value::Table(table) => {
                flatten(&name, table, options)?;
                continue;
            }
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(yes) => yes.to_string(),
            _ => return Err(format!("option {name} must be a text, a number, true or false")),
        };
        if options.insert(name.clone(), text).is_some() {
            return Err(format!("option {name} is given twice"));
        }
    }
    Ok(())
}

/// Options that are decided here, each with what to do instead.
pub(crate) type Owned = [(&'static str, &'static str)];

impl Options {
    /// The value of an option, if it is given.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The options whose names are wanted.
    pub(crate) fn only(&self, wanted: impl Fn(&str) -> bool) -> Options {
        let options = self.0.iter().filter(|(name, _)| wanted(name));
        Options(options.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    /// Lists what librdkafka, or this program, does not take.
    pub(crate) fn check(&self, owned: &Owned) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        for (name, value) in &self.0 {
            if let Some((_, instead)) = owned.iter().find(|(own, _)| own == name) {
                problems.push(
                    ConfigError::new(format!("option \"{name}\" is not for [connector.options]")).with_hint(*instead),
                );
                continue;
            }
            let mut alone = ClientConfig::new();
            alone.set(name, value);
            if let Err(KafkaError::ClientConfig(_, reason, ..)) = alone.create_native_config() {
                problems.push(
                    ConfigError::new(format!("option \"{name}\" is not taken by librdkafka: {reason}"))
                        .with_hint("Its options are listed in librdkafka's CONFIGURATION.md."),
                );
            }
        }
        problems
    }
}

/// Declares a client: `defaults` give way to the options, which give way to what is `ours`.
pub(crate) fn client(
    brokers: &str,
    options: &Options,
    defaults: &[(&str, &str)],
    ours: &[(&str, &str)],
) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in defaults {
        config.set(*name, *value);
    }
    for (name, value) in &options.0 {
        config.set(name, value);
    }
    for (name, value) in ours {
        config.set(*name, *value);
    }
    config.set("bootstrap.servers", brokers);
    // The `log` crate, which decides otherwise, is not in use.
    config.set_log_level(RDKafkaLogLevel::Info);
    config
}

/// Makes the client once, without brokers to connect to: what its options come to together is found wrong at once.
pub(crate) fn try_out<T: FromClientConfig>(config: &ClientConfig) -> Result<(), ConfigError> {
    let mut config = config.clone();
    config.remove("bootstrap.servers");
    match config.create::<T>() {
        Ok(_) => Ok(()),
        Err(error) => Err(
            ConfigError::new(format!("librdkafka refuses these options: {}", reason(&error)))
                .with_hint("Its options are listed in librdkafka's CONFIGURATION.md."),
        ),
    }
}

/// What librdkafka says of an error, without the words that are put around it.
pub(crate) fn reason(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientCreation(reason) => reason.clone(),
        KafkaError::ClientConfig(_, reason, ..) => reason.clone(),
        KafkaError::Transaction(error) => error.string(),
        other => match other.rdkafka_error_code() {
            Some(code) => code.to_string(),
            None => other.to_string(),
        },
    }
}

/// Checks the names of brokers.
pub(crate) fn check_brokers(brokers: &str) -> Result<(), ConfigError> {
    if brokers.split(',').any(|broker| broker.trim().is_empty()) {
        return Err(ConfigError::new(format!("brokers = \"{brokers}\" names no broker"))
            .with_hint("List one or more, as in \"kafka1:9092,kafka2:9092\"."));
    }
    Ok(())
}

/// Checks the name of a topic.
pub(crate) fn check_topic(topic: &str) -> Result<(), ConfigError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if topic.is_empty() || topic.len() > 249 || matches!(topic, "." | "..") || !topic.bytes().all(legal) {
        return Err(
            ConfigError::new(format!("topic \"{topic}\" cannot be the name of a topic"))
                .with_hint("Names are letters, digits, \".\", \"_\" and \"-\", up to 249; patterns are not known."),
        );
    }
    Ok(())
}

/// Hands a line of librdkafka's log on.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::error!(target: "librdkafka", facility, "{line}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{line}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(target: "librdkafka", facility, "{line}"),
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{line}"),
    }
}
