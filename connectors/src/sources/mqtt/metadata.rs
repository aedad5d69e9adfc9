//! Columns that are filled with what comes beside a message's bytes.

use arrow::datatypes::{DataType, TimeUnit};
use serde::Deserialize;

use crate::column::Column;
use crate::error::ConfigError;

/// Which columns tell what of a message: `metadata = { topic = "topic" }`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttMetadata {
    /// The whole topic; a text.
    pub topic: Option<String>,
    /// Whether the broker had kept the message for those who subscribe later; a boolean.
    pub retained: Option<String>,
    /// The quality of service it came with: 0, 1 or 2.
    pub qos: Option<String>,
    /// The id of the client it came from, which only a listener knows; a text.
    pub client: Option<String>,
    /// When it was read here, by the deployment's clock; a timestamp.
    pub received: Option<String>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Topic,
    Retained,
    Qos,
    Client,
    Received,
}

impl MqttMetadata {
    /// The columns that are filled, as places among the declared ones, and what with. Levels of the topic fill others.
    pub(crate) fn columns(&self, columns: &[Column], levels: &[usize]) -> Result<(Vec<usize>, Vec<Part>), ConfigError> {
        let declared = [
            ("topic", &self.topic, Part::Topic),
            ("retained", &self.retained, Part::Retained),
            ("qos", &self.qos, Part::Qos),
            ("client", &self.client, Part::Client),
            ("received", &self.received, Part::Received),
        ];
        let (mut places, mut parts) = (Vec::new(), Vec::new());
        for (key, name, part) in declared {
            let Some(name) = name else { continue };
            let Some(place) = columns.iter().position(|column| column.field.name() == name) else {
                return Err(ConfigError::new(format!(
                    "metadata.{key} names the column \"{name}\", which is not declared"
                ))
                .with_hint("Declare it in columns."));
            };
            if levels.contains(&place) || places.contains(&place) {
                return Err(ConfigError::new(format!(
                    "metadata.{key} names the column \"{name}\", which is filled already"
                )));
            }
            let data_type = columns[place].field.data_type();
            let (fits, wanted) = match part {
                Part::Topic | Part::Client => (matches!(data_type, DataType::Utf8), "text"),
                Part::Retained => (matches!(data_type, DataType::Boolean), "boolean"),
                Part::Qos => (data_type.is_integer(), "smallint"),
                Part::Received => (
                    matches!(data_type, DataType::Timestamp(TimeUnit::Microsecond, _)),
                    "timestamp",
                ),
            };
            if !fits {
                return Err(ConfigError::new(format!(
                    "metadata.{key} names the column \"{name}\", which is of another type"
                ))
                .with_hint(format!("Declare it as \"{wanted}\".")));
            }
            places.push(place);
            parts.push(part);
        }
        Ok((places, parts))
    }
}
