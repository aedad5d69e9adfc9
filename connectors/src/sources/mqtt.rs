//! Rows from an MQTT broker, by a client of it.
//!
//! `client` is the thread that converses with the broker in `packet`s; `session` knows what was sent and is not
//! finished; `inbox` carries messages to the reader and word of what is durable back; `intake` makes rows of them and
//! logs what has to be known after a restart. `topic` and `metadata` fill columns with what comes beside a message's
//! bytes. All but `client` and `address` serve [`mqtt_listener`](crate::sources::mqtt_listener), too.
mod address;
pub(crate) mod client;
pub(crate) mod inbox;
pub(crate) mod intake;
pub(crate) mod metadata;
pub(crate) mod packet;
pub(crate) mod session;
pub(crate) mod tls;
pub(crate) mod topic;

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::durations;
use crate::error::{ConfigError, ReadError};
use crate::sources::mqtt::address::Address;
use crate::sources::mqtt::client::{Client, Settings};
use crate::sources::mqtt::inbox::Held;
use crate::sources::mqtt::intake::Intake;
use crate::sources::mqtt::metadata::MqttMetadata;
use crate::sources::mqtt::packet::{Qos, Version};
use crate::sources::mqtt::topic::{Patterns, TopicPatterns};
use crate::sources::{Position, Read, Reader, Setting};

/// Subscribes to topics of an MQTT broker. A message is acknowledged once its row is durable.
///
/// ```toml
/// [connector]
/// type = "mqtt"
/// url = "mqtt://127.0.0.1:1883"
/// topic = "stations/{station}/readings"
/// session = "persistent"
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// The broker: `mqtt://host:port`, or `mqtts://` for TLS.
    pub url: String,
    /// The topics: `+` is any one level, `{column}` one that fills that column, `#` at the end all that follow;
    /// `$share/{group}/` before it shares them among the members of a group.
    pub topic: TopicPatterns,
    /// Columns filled with what comes beside a message: `{ topic = "…", qos = "…", retained = "…", received = "…" }`.
    #[serde(default)]
    pub metadata: MqttMetadata,
    /// How surely messages are delivered: 0, 1 or 2. Default: 1.
    #[serde(default = "qos")]
    pub qos: Qos,
    /// The version of the protocol: 5 or "3.1.1". Default: 5, and 3.1.1 with a broker that refuses it.
    pub version: Option<Version>,
    /// The name that the broker knows the session by. Default: made of the deployment's and the source's name.
    pub client_id: Option<String>,
    /// Whether the broker keeps what comes while nobody is connected: "persistent", else "clean". Default: "clean".
    #[serde(default)]
    pub session: SessionKind,
    /// How long it does, by version 5; by 3.1.1 it does for ever. Default: "7 days".
    #[serde(default = "session_expiry", deserialize_with = "durations::duration")]
    pub session_expiry: Duration,
    /// The name to give to the broker.
    pub username: Option<String>,
    /// The password to give.
    pub password: Option<String>,
    /// Who vouches for the broker, in PEM. Default: whom the system trusts.
    pub ca: Option<PathBuf>,
    /// A certificate to show to the broker, in PEM.
    pub certificate: Option<PathBuf>,
    /// Its key, in PEM.
    pub key: Option<PathBuf>,
    /// How often both sides hear of each other at least. Default: "30 seconds".
    #[serde(default = "keep_alive", deserialize_with = "durations::duration")]
    pub keep_alive: Duration,
    /// Messages that are not durable yet; further ones are not read until some are. Default: 1000.
    #[serde(default = "in_flight")]
    pub in_flight: u16,
    /// Bytes of the largest packet that is taken. Default: 16777216.
    #[serde(default = "packet_bytes_max")]
    pub packet_bytes_max: u32,
}

/// How long a broker keeps what is known of a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// As long as the connection.
    #[default]
    Clean,
    /// Beyond it.
    Persistent,
}

fn qos() -> Qos {
    Qos::AtLeastOnce
}

fn session_expiry() -> Duration {
    Duration::from_secs(7 * 86_400)
}

fn keep_alive() -> Duration {
    Duration::from_secs(30)
}

fn in_flight() -> u16 {
    1000
}

fn packet_bytes_max() -> u32 {
    16 << 20
}

impl MqttConfig {
    pub(crate) fn check(&self, setting: &Setting<'_>) -> Vec<ConfigError> {
        let mut problems: Vec<ConfigError> = self.settings(setting).err().into_iter().collect();
        problems.extend(self.intake(setting).err());
        problems
    }

    fn intake(&self, setting: &Setting<'_>) -> Result<Intake, ConfigError> {
        if self.metadata.client.is_some() {
            return Err(ConfigError::new("metadata.client is known to a listener only")
                .with_hint("A broker does not say whom a message came from."));
        }
        let patterns = Patterns::new(&self.topic, setting.columns)?;
        Intake::new(setting, patterns, &self.metadata)
    }

    fn settings(&self, setting: &Setting<'_>) -> Result<Settings, ConfigError> {
        let address = Address::parse(&self.url)?;
        if self.in_flight == 0 {
            return Err(ConfigError::new("in_flight is at least 1"));
        }
        if !(64..=256 << 20).contains(&self.packet_bytes_max) {
            return Err(ConfigError::new("packet_bytes_max is between 64 and 268435456"));
        }
        if !(1..=65_535).contains(&self.keep_alive.as_secs()) {
            return Err(ConfigError::new("keep_alive is between 1 second and 18 hours"));
        }
        let login = match (&self.username, &self.password) {
            (None, Some(_)) => {
                return Err(ConfigError::new("password needs a username").with_hint("Declare `username` beside it."));
            }
            (Some(username), password) => Some((username.clone(), password.clone().unwrap_or_default())),
            (None, None) => None,
        };
        let path = |path: &PathBuf| setting.directory.join(path);
        let own = match (self.certificate.as_ref().map(path), self.key.as_ref().map(path)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(ConfigError::new("certificate and key go together")),
        };
        let ca = self.ca.as_ref().map(path);
        let tls = match address.tls {
            true => {
                let own = own
                    .as_ref()
                    .map(|(certificate, key)| (certificate.as_path(), key.as_path()));
                Some(tls::client(ca.as_deref(), own)?)
            }
            false if ca.is_some() || own.is_some() => {
                return Err(ConfigError::new("ca, certificate and key are for TLS")
                    .with_hint("Write the url as \"mqtts://…\"."));
            }
            false => None,
        };
        let persistent = self.session == SessionKind::Persistent;
        let expiry = u32::try_from(self.session_expiry.as_secs()).unwrap_or(u32::MAX);
        Ok(Settings {
            source: setting.name.to_owned(),
            address,
            tls,
            version: self.version,
            client_id: match &self.client_id {
                Some(client_id) if client_id.is_empty() => {
                    return Err(ConfigError::new("client_id is empty").with_hint("Leave it out for a made one."));
                }
                Some(client_id) => client_id.clone(),
                None => client_id(setting),
            },
            login,
            session: persistent.then_some(expiry.max(1)),
            keep_alive: self.keep_alive,
            qos: self.qos,
            in_flight: self.in_flight,
            packet_bytes_max: self.packet_bytes_max,
        })
    }

    pub(crate) fn reader(&self, setting: &Setting<'_>) -> Result<MqttReader, ConfigError> {
        Ok(MqttReader {
            client: None,
            settings: self.settings(setting)?,
            intake: self.intake(setting)?,
            held: Vec::new(),
        })
    }
}

/// Makes a client's name of 23 letters and digits, which every broker takes: the same in every run.
fn client_id(setting: &Setting<'_>) -> String {
    let directory = setting.directory.canonicalize().unwrap_or_default();
    let deployment = directory.file_name().unwrap_or_default().to_string_lossy();
    let name = format!("{deployment}/{}", setting.name);
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let readable: String = "sangam".chars().chain(letters).take(15).collect();
    format!("{readable}{:08x}", client::client_number(&name))
}

/// Reads what a broker sends.
#[derive(Debug)]
pub(crate) struct MqttReader {
    // Dropped first: it leaves the broker before what it has handed over is given up.
    client: Option<Client>,
    settings: Settings,
    intake: Intake,
    /// The ids that an earlier run has logged.
    held: Vec<Held>,
}

impl Reader for MqttReader {
    fn read(&mut self, now_us: i64) -> Result<Read, ReadError> {
        if self.client.is_none() {
            let (patterns, inbox) = (self.intake.patterns().clone(), self.intake.inbox().clone());
            let client = Client::start(self.settings.clone(), patterns, inbox, &self.held);
            self.client = Some(client.map_err(|source| ReadError::Start {
                what: "a client of the broker",
                source,
            })?);
            self.held = Vec::new();
        }
        Ok(self.intake.read(now_us))
    }

    fn repeats(&self) -> bool {
        false
    }

    fn resume(&mut self, position: &Position) -> Result<(), ReadError> {
        self.held = self.intake.resume(position);
        Ok(())
    }

    fn acknowledge(&mut self, batches: u64) -> Result<(), ReadError> {
        self.intake.acknowledge(batches);
        Ok(())
    }
}
