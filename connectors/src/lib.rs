//! Brings rows in, and changes out: sources that read bytes or make rows up, the formats that
//! decode them, and sinks.
//!
//! `sources` holds the one list of connectors and what they all do; `format` is
//! how a source's bytes are declared and decoded, with one file a format in
//! `formats`; those find the `cells` of each row, which `values`, `times` and `lists` read
//! into the declared `column`s; `messages` does so where bytes come in messages,
//! with something beside them; what comes out is `decoded`: rows, and rejected
//! rows with the reason. `error` is for declarations and files, never for rows.
mod cells;
mod column;
mod decoded;
mod durations;
mod error;
mod fixed;
mod format;
mod formats;
mod kafka;
mod lists;
mod messages;
mod sinks;
mod sources;
mod times;
mod values;

pub use column::{Column, schema};
pub use decoded::{Decoded, RAW_BYTES_MAX, Rejected, TAKEN_BACK};
pub use error::{ConfigError, ReadError};
pub use format::{Decoder, Encoding, Envelope, FormatConfig, FormatKind, INPUT_BYTES_MAX, REJECTED_MAX, ROW_BYTES_MAX};
pub use kafka::Options;
pub use sinks::kafka::{KafkaSinkConfig, Mode};
pub use sinks::{Delivery, SINKS, Sink, SinkConfig, SinkEntry, SinkError, SinkSetting};
pub use sources::file::{FileConfig, Paths};
pub use sources::http::HttpConfig;
pub use sources::kafka::{KafkaConfig, MetadataColumns, Start, Topics};
pub use sources::mqtt::metadata::MqttMetadata;
pub use sources::mqtt::packet::{Qos, Version};
pub use sources::mqtt::topic::TopicPatterns;
pub use sources::mqtt::{MqttConfig, SessionKind};
pub use sources::mqtt_listener::MqttListenerConfig;
pub use sources::nexmark::{NexmarkConfig, Table};
pub use sources::simulate::{Correlation, Diurnal, Entities, Model, Outages, SimulateConfig, Spikes, Walk};
pub use sources::{Batch, ConnectorConfig, Position, Read, Reader, SOURCES, Setting, SourceEntry};
pub use times::{TIME_MAX_US, TIME_MIN_US};
