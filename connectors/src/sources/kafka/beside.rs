//! What comes beside the value of a message, as columns.
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimeUnit};
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers};

use crate::column::Column;
use crate::error::ConfigError;
use crate::messages::Filling;
use crate::sources::kafka::MetadataColumns;
use crate::times::{TIME_MAX_US, TIME_MIN_US};

/// The columns that are filled with it.
pub(crate) struct Beside {
    columns: Vec<usize>,
    fields: Vec<Field>,
}

#[derive(Debug, Clone)]
enum Field {
    Key,
    Topic,
    Partition(DataType),
    Offset,
    /// With the zone of the column.
    Timestamp(Option<Arc<str>>),
    Headers,
}

impl Beside {
    pub(crate) fn new(metadata: &MetadataColumns, columns: &[Column]) -> Result<Beside, ConfigError> {
        let mut beside = Beside {
            columns: Vec::new(),
            fields: Vec::new(),
        };
        let wanted = [
            ("key", &metadata.key),
            ("topic", &metadata.topic),
            ("partition", &metadata.partition),
            ("offset", &metadata.offset),
            ("timestamp", &metadata.timestamp),
            ("headers", &metadata.headers),
        ];
        for (what, name) in wanted {
            let Some(name) = name else { continue };
            let Some(column) = columns.iter().position(|column| column.field.name() == name) else {
                return Err(
                    ConfigError::new(format!("metadata.{what} = \"{name}\" is no column of the source"))
                        .with_hint("Declare it among the `columns`, with its type."),
                );
            };
            if beside.columns.contains(&column) {
                return Err(ConfigError::new(format!(
                    "column \"{name}\" is named twice in metadata"
                )));
            }
            let data_type = columns[column].field.data_type();
            let field = match (what, data_type) {
                ("key", _) => Field::Key,
                ("topic", DataType::Utf8) => Field::Topic,
                ("partition", DataType::Int32 | DataType::Int64) => Field::Partition(data_type.clone()),
                ("offset", DataType::Int64) => Field::Offset,
                ("timestamp", DataType::Timestamp(TimeUnit::Microsecond, zone)) => Field::Timestamp(zone.clone()),
                ("headers", DataType::Utf8) => Field::Headers,
                _ => {
                    let type_name = match what {
                        "topic" | "headers" => "text",
                        "partition" => "integer or bigint",
                        "offset" => "bigint",
                        _ => "timestamp",
                    };
                    return Err(ConfigError::new(format!(
                        "column \"{name}\" cannot hold metadata.{what}, which needs type {type_name}"
                    )));
                }
            };
            beside.columns.push(column);
            beside.fields.push(field);
        }
        Ok(beside)
    }

    /// Which columns are filled.
    pub(crate) fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// Fills them, one value a message.
    pub(crate) fn fill<'a>(&self, messages: &[&'a BorrowedMessage<'_>]) -> Vec<Filling<'a>> {
        let fields = self.fields.iter();
        fields.map(|field| fill(field, messages)).collect()
    }
}

fn fill<'a>(field: &Field, messages: &[&'a BorrowedMessage<'_>]) -> Filling<'a> {
    let array: ArrayRef = match field {
        Field::Key => return Filling::Bytes(messages.iter().map(|message| message.key()).collect()),
        Field::Topic => Arc::new(StringArray::from_iter_values(
            messages.iter().map(|message| message.topic()),
        )),
        Field::Partition(DataType::Int32) => Arc::new(Int32Array::from_iter_values(
            messages.iter().map(|message| message.partition()),
        )),
        Field::Partition(_) => Arc::new(Int64Array::from_iter_values(
            messages.iter().map(|message| i64::from(message.partition())),
        )),
        Field::Offset => Arc::new(Int64Array::from_iter_values(
            messages.iter().map(|message| message.offset()),
        )),
        Field::Timestamp(zone) => {
            let time = |message: &&BorrowedMessage<'_>| {
                let time = message.timestamp().to_millis()?.checked_mul(1000)?;
                (TIME_MIN_US..=TIME_MAX_US).contains(&time).then_some(time)
            };
            let times: TimestampMicrosecondArray = messages.iter().map(time).collect();
            Arc::new(times.with_timezone_opt(zone.clone()))
        }
        Field::Headers => Arc::new(StringArray::from_iter_values(
            messages.iter().map(|message| headers(message)),
        )),
    };
    Filling::Values(array)
}

/// The headers of a message as a JSON object.
fn headers(message: &BorrowedMessage<'_>) -> String {
    let mut object = serde_json::Map::new();
    for header in message.headers().iter().flat_map(|headers| headers.iter()) {
        let value = match header.value {
            None => serde_json::Value::Null,
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => text.into(),
                Err(_) => {
                    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
                    format!("\\x{}", digits.collect::<String>()).into()
                }
            },
        };
        match object.get_mut(header.key) {
            None => {
                object.insert(header.key.to_owned(), value);
            }
            // A text is never an array of its own accord: an array stands for several of one name.
            Some(serde_json::Value::Array(values)) => values.push(value),
            Some(known) => *known = vec![known.take(), value].into(),
        }
    }
    serde_json::Value::Object(object).to_string()
}
