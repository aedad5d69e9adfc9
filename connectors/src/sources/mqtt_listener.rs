//! Rows from sensors that speak MQTT, with no broker between: a listener that takes messages in and passes none on.
//!
//! `door` is the listener of one address and what several sources of one deployment share of it; `connection` serves
//! one client. What a message is on its way to the engine, and back as an answer, is common to a client of a broker
//! and stands beside it in `mqtt`.
mod connection;
mod door;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::error::{ConfigError, ReadError};
use crate::sources::mqtt::intake::Intake;
use crate::sources::mqtt::metadata::MqttMetadata;
use crate::sources::mqtt::tls;
use crate::sources::mqtt::topic::{Patterns, TopicPatterns};
use crate::sources::mqtt_listener::door::{DoorSettings, Route};
use crate::sources::{Position, Read, Reader, Setting};

/// Takes messages that MQTT clients publish here, with no broker between: 3.1.1 and 5, QoS 0, 1 and 2. A message is
/// acknowledged once its row is durable. Several sources may share one address, each with topics of its own.
///
/// ```toml
/// [connector]
/// type = "mqtt_listener"
/// listen = "127.0.0.1:1883"
/// topic = "stations/{station}/readings"
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttListenerConfig {
    /// The address to listen on; port 0 takes a free one and logs it.
    pub listen: SocketAddr,
    /// The topics that are this source's: `+` is any one level, `{column}` one that fills that column, `#` at the
    /// end all that follow. A message that no source takes is rejected, which can be read in `sangam.rejected`.
    pub topic: TopicPatterns,
    /// Columns filled with what comes beside a message: `{ topic = "…", client = "…", qos = "…", retained = "…",
    /// received = "…" }`.
    #[serde(default)]
    pub metadata: MqttMetadata,
    /// The name that clients have to give. Default: none, anyone is let in.
    pub username: Option<String>,
    /// The password that they have to give.
    pub password: Option<String>,
    /// A certificate to show, in PEM: with it, clients speak TLS.
    pub certificate: Option<PathBuf>,
    /// Its key, in PEM.
    pub key: Option<PathBuf>,
    /// Who vouches for clients, in PEM: with it, they need a certificate.
    pub ca: Option<PathBuf>,
    /// Clients at one time; more are turned away. Default: 10000.
    #[serde(default = "connections_max")]
    pub connections_max: usize,
    /// Messages of one client that are not durable yet; its next are not read until some are. Default: 1000.
    #[serde(default = "in_flight")]
    pub in_flight: u16,
    /// Bytes of the largest packet that is taken. Default: 1048576.
    #[serde(default = "packet_bytes_max")]
    pub packet_bytes_max: u32,
}

fn connections_max() -> usize {
    10_000
}

fn in_flight() -> u16 {
    1000
}

fn packet_bytes_max() -> u32 {
    1 << 20
}

impl MqttListenerConfig {
    pub(crate) fn check(&self, setting: &Setting<'_>) -> Vec<ConfigError> {
        let mut problems: Vec<ConfigError> = self.door(setting).err().into_iter().collect();
        problems.extend(self.intake(setting).err());
        problems
    }

    fn intake(&self, setting: &Setting<'_>) -> Result<Intake, ConfigError> {
        let patterns = Patterns::new(&self.topic, setting.columns)?;
        if patterns.shared() {
            return Err(ConfigError::new("topic begins with $share, which only a broker knows")
                .with_hint("Leave \"$share/…/\" out: every message comes to this source."));
        }
        Intake::new(setting, patterns, &self.metadata)
    }

    fn door(&self, setting: &Setting<'_>) -> Result<DoorSettings, ConfigError> {
        if self.in_flight == 0 || self.connections_max == 0 {
            return Err(ConfigError::new("in_flight and connections_max are at least 1"));
        }
        if !(64..=32 << 20).contains(&self.packet_bytes_max) {
            return Err(ConfigError::new("packet_bytes_max is between 64 and 33554432"));
        }
        let login = match (&self.username, &self.password) {
            (None, Some(_)) => {
                return Err(ConfigError::new("password needs a username").with_hint("Declare `username` beside it."));
            }
            (Some(username), password) => Some((username.clone(), password.clone().unwrap_or_default())),
            (None, None) => None,
        };
        let path = |path: &PathBuf| setting.directory.join(path);
        let ca = self.ca.as_ref().map(path);
        let tls = match (self.certificate.as_ref().map(path), self.key.as_ref().map(path)) {
            (Some(certificate), Some(key)) => Some(tls::server(&certificate, &key, ca.as_deref())?),
            (None, None) if ca.is_none() => None,
            _ => {
                return Err(ConfigError::new("certificate and key go together")
                    .with_hint("TLS needs both; `ca` besides asks clients for certificates of their own."));
            }
        };
        Ok(DoorSettings {
            listen: self.listen,
            login,
            tls,
            tls_files: (self.certificate.clone(), self.key.clone(), self.ca.clone()),
            connections_max: self.connections_max,
            in_flight: self.in_flight,
            packet_bytes_max: self.packet_bytes_max,
        })
    }

    pub(crate) fn reader(&self, setting: &Setting<'_>) -> Result<MqttListenerReader, ConfigError> {
        let intake = self.intake(setting)?;
        let route = door::route(self.door(setting)?, intake.patterns().clone(), intake.inbox())?;
        Ok(MqttListenerReader {
            intake,
            route,
            read: false,
        })
    }
}

/// Reads what clients publish to the topics of one source.
#[derive(Debug)]
pub(crate) struct MqttListenerReader {
    // Dropped first: whatever is not durable then is given up while its clients are still there to hear of it.
    intake: Intake,
    route: Route,
    read: bool,
}

impl Reader for MqttListenerReader {
    fn read(&mut self, now_us: i64) -> Result<Read, ReadError> {
        if !self.read {
            self.read = true;
            self.route.ready();
        }
        Ok(self.intake.read(now_us))
    }

    fn repeats(&self) -> bool {
        false
    }

    fn resume(&mut self, position: &Position) -> Result<(), ReadError> {
        self.route.resume(&self.intake.resume(position));
        Ok(())
    }

    fn acknowledge(&mut self, batches: u64) -> Result<(), ReadError> {
        self.intake.acknowledge(batches);
        Ok(())
    }
}
