//! One entry of the log: what came in at a tick, or what was told of one.
//!
//! Its bytes are a version, a kind, the length of a JSON head, the head, the batches it speaks of, and a CRC-32 of
//! all before.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use connectors::{Position, Rejected};
use dataflows::Tick;
use serde::{Deserialize, Serialize};

use super::codec::{self, Encoder};

/// The version of a record's bytes.
const VERSION: u8 = 1;

/// An entry of the log.
#[derive(Clone, Debug)]
pub enum Record {
    /// What came in at a tick. It is written before anyone hears of the tick.
    Tick(TickRecord),
    /// What is to be told of a tick outside. It is written before it is told.
    Told(Told),
}

/// What came in at one tick, in the order it was taken.
#[derive(Clone, Debug, Default)]
pub struct TickRecord {
    /// The tick.
    pub tick: Tick,
    /// Whether it concerns every view: the first tick of a deployment does.
    pub everything: bool,
    /// Whether from here on what the last checkpoint took to history is read there.
    pub stored: bool,
    /// What came; nothing, where only time went by.
    pub entries: Vec<Entry>,
}

/// Rows that came in together.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The source.
    pub source: Arc<str>,
    /// Whether they are taken back.
    pub delete: bool,
    /// The rows as they were decoded.
    pub rows: RecordBatch,
    /// What could not become a row.
    pub rejected: Vec<Rejected>,
    /// Where the reader goes on.
    pub position: Position,
    /// How the rows divide among partitions.
    pub partitions: Vec<(Arc<str>, usize)>,
    /// The key by which a request is known that is sent again.
    pub idempotency_key: Option<String>,
}

/// What is told of one tick outside.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The tick.
    pub tick: Tick,
    /// What happened to alerts.
    pub transitions: Vec<Transition>,
    /// What sinks are to deliver.
    pub outgoing: Vec<Outgoing>,
}

/// One thing that happened to one alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// The alert's name.
    #[serde(with = "text")]
    pub alert: Arc<str>,
    /// Its key, as JSON.
    pub key: String,
    /// When it happened.
    pub tick: Tick,
    /// `raised`, `updated` or `cleared`.
    #[serde(with = "text")]
    pub transition: Arc<str>,
    /// How urgent the alert is.
    #[serde(with = "text")]
    pub priority: Arc<str>,
    /// When it was raised.
    pub raised: Tick,
    /// The row, as JSON.
    pub row: String,
}

/// What a sink is to deliver of one tick.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The sink.
    pub sink: Arc<str>,
    /// The rows that came or went.
    pub rows: RecordBatch,
    /// How often each came; less than nothing where it went.
    pub diffs: Vec<i64>,
}

#[derive(Serialize, Deserialize)]
struct TickHead {
    tick: Tick,
    #[serde(default, skip_serializing_if = "is_false")]
    everything: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    stored: bool,
    entries: Vec<EntryHead>,
}

#[derive(Serialize, Deserialize)]
struct EntryHead {
    #[serde(with = "text")]
    source: Arc<str>,
    schema: u64,
    #[serde(default, skip_serializing_if = "is_false")]
    delete: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rejected: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Position::is_empty")]
    position: Position,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    partitions: Vec<(String, usize)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ToldHead {
    tick: Tick,
    transitions: Vec<Transition>,
    outgoing: Vec<OutgoingHead>,
}

#[derive(Serialize, Deserialize)]
struct OutgoingHead {
    #[serde(with = "text")]
    sink: Arc<str>,
    schema: u64,
    diffs: Vec<i64>,
}

/// Shared texts are written as texts.
mod text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Arc::from)
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn named(partitions: &[(Arc<str>, usize)]) -> Vec<(String, usize)> {
    let partitions = partitions.iter();
    partitions.map(|(name, rows)| (name.to_string(), *rows)).collect()
}

/// Numbers schemas, and finds them again.
pub(super) trait Schemas {
    fn number(&mut self, schema: &SchemaRef) -> Result<u64, String>;
    fn schema(&mut self, number: u64) -> Result<SchemaRef, String>;
}

impl Record {
    /// Returns the tick it speaks of.
    pub fn tick(&self) -> Tick {
        match self {
            Record::Tick(record) => record.tick,
            Record::Told(told) => told.tick,
        }
    }

    /// Tells whether bytes are those of a record that says what was told.
    pub(super) fn is_told(bytes: &[u8]) -> bool {
        bytes.get(1) == Some(&1)
    }

    /// Gives it bytes.
    pub(super) fn encode(&self, encoder: &mut Encoder, schemas: &mut impl Schemas) -> Result<Vec<u8>, String> {
        let said = |error: serde_json::Error| error.to_string();
        let (kind, head, batches): (u8, Vec<u8>, Vec<&RecordBatch>) = match self {
            Record::Tick(record) => {
                let mut entries = Vec::with_capacity(record.entries.len());
                for entry in &record.entries {
                    let rejected = entry.rejected.iter();
                    entries.push(EntryHead {
                        source: Arc::clone(&entry.source),
                        schema: schemas.number(entry.rows.schema_ref())?,
                        delete: entry.delete,
                        rejected: rejected.map(|row| (row.raw.clone(), row.reason.clone())).collect(),
                        position: entry.position.clone(),
                        partitions: named(&entry.partitions),
                        idempotency_key: entry.idempotency_key.clone(),
                    });
                }
                let head = TickHead {
                    tick: record.tick,
                    everything: record.everything,
                    stored: record.stored,
                    entries,
                };
                let batches = record.entries.iter().map(|entry| &entry.rows).collect();
                (0, serde_json::to_vec(&head).map_err(said)?, batches)
            }
            Record::Told(told) => {
                let mut outgoing = Vec::with_capacity(told.outgoing.len());
                for out in &told.outgoing {
                    outgoing.push(OutgoingHead {
                        sink: Arc::clone(&out.sink),
                        schema: schemas.number(out.rows.schema_ref())?,
                        diffs: out.diffs.clone(),
                    });
                }
                let head = ToldHead {
                    tick: told.tick,
                    transitions: told.transitions.clone(),
                    outgoing,
                };
                let batches = told.outgoing.iter().map(|out| &out.rows).collect();
                (1, serde_json::to_vec(&head).map_err(said)?, batches)
            }
        };
        let length = u32::try_from(head.len()).map_err(|_| "a head of more than 4 GiB".to_owned())?;
        let mut bytes = vec![VERSION, kind];
        bytes.extend(length.to_le_bytes());
        bytes.extend(head);
        for batch in batches {
            encoder.batch(batch, &mut bytes).map_err(|error| error.to_string())?;
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        Ok(bytes)
    }

    /// Reads it from its bytes; says what is wrong with them.
    pub(super) fn decode(bytes: &[u8], schemas: &mut impl Schemas) -> Result<Record, String> {
        let cut_off = || "a record is cut off".to_owned();
        let (bytes, checksum) = bytes.split_last_chunk::<4>().ok_or_else(cut_off)?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*checksum) {
            return Err("the checksum of a record does not match".to_owned());
        }
        let ([version, kind], rest) = bytes.split_first_chunk::<2>().ok_or_else(cut_off)?;
        if *version != VERSION {
            return Err(format!(
                "a record of version {version}, and this program reads {VERSION}"
            ));
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
        let (head, mut rest) = rest
            .split_at_checked(u32::from_le_bytes(*length) as usize)
            .ok_or_else(cut_off)?;
        let said = |error: serde_json::Error| error.to_string();
        let mut batch = |schema: u64| -> Result<RecordBatch, String> {
            let schema = schemas.schema(schema)?;
            codec::batch(&mut rest, &schema).map_err(|error| error.to_string())
        };
        match kind {
            0 => {
                let head: TickHead = serde_json::from_slice(head).map_err(said)?;
                let mut entries = Vec::with_capacity(head.entries.len());
                for entry in head.entries {
                    let rejected = entry.rejected.into_iter();
                    entries.push(Entry {
                        rows: batch(entry.schema)?,
                        source: entry.source,
                        delete: entry.delete,
                        rejected: rejected.map(|(raw, reason)| Rejected { raw, reason }).collect(),
                        position: entry.position,
                        partitions: entry
                            .partitions
                            .into_iter()
                            .map(|(name, rows)| (name.into(), rows))
                            .collect(),
                        idempotency_key: entry.idempotency_key,
                    });
                }
                Ok(Record::Tick(TickRecord {
                    tick: head.tick,
                    everything: head.everything,
                    stored: head.stored,
                    entries,
                }))
            }
            1 => {
                let head: ToldHead = serde_json::from_slice(head).map_err(said)?;
                let mut outgoing = Vec::with_capacity(head.outgoing.len());
                for out in head.outgoing {
                    outgoing.push(Outgoing {
                        rows: batch(out.schema)?,
                        sink: out.sink,
                        diffs: out.diffs,
                    });
                }
                Ok(Record::Told(Told {
                    tick: head.tick,
                    transitions: head.transitions,
                    outgoing,
                }))
            }
            kind => Err(format!("a record of kind {kind}")),
        }
    }
}
