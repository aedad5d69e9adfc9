//! Rows from messages: some columns are read from a message's bytes, others are filled with what came beside them (its
//! key, its place, parts of its topic).
//!
//! Messages are joined to one text, a line each, so that nearly all of them are read as lines are; what is more or
//! less than one object a message is read within its bounds. A bad message disturbs no other.
mod keys;

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, SchemaRef};

use crate::cells::{Cell, Kind};
use crate::column::{Column, schema};
use crate::decoded::{Decoded, Rejected};
use crate::error::ConfigError;
use crate::format::sifting::{Invalid, RowValues, Sifted, batch, enveloped_schema, read_utf8, reading};
use crate::format::{
    Encoding, Envelope, FormatConfig, FormatKind, REJECTED_MAX, Rows, SEGMENT_BYTES, SEGMENT_ROWS, Step, latin1,
};
use crate::messages::keys::Keys;
use crate::times::Times;
use crate::values::{ColumnBuilder, Nulls};

/// Bytes of messages that are read together.
const JOINED_BYTES: usize = 16 << 20;

/// The longest message that is read, in bytes.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Messages that came together, in their order.
#[derive(Debug)]
pub(crate) struct Messages<'a> {
    /// What tells of each which row is meant: looked at for `envelope = "upsert"` only, empty elsewhere.
    pub(crate) keys: &'a [Option<&'a [u8]>],
    /// The bytes of each.
    pub(crate) values: &'a [Option<&'a [u8]>],
    /// What came beside each, one for each filled column.
    pub(crate) filled: Vec<Filling<'a>>,
}

/// What fills a column, one value a message.
#[derive(Debug)]
pub(crate) enum Filling<'a> {
    /// Bytes of text to be read as the column's type, and as they are for `bytea`.
    Bytes(Vec<Option<&'a [u8]>>),
    /// Values of the column's type.
    Values(ArrayRef),
}

/// Rows of messages.
#[derive(Debug)]
pub(crate) struct FromMessages {
    /// The rows, and what could not become one, in the order of the messages.
    pub(crate) decoded: Decoded,
    /// The message that each good row came from.
    pub(crate) rows_of: Vec<u32>,
    /// The message that each rejected row came from.
    pub(crate) rejected_of: Vec<u32>,
}

/// Decodes messages into rows of the declared columns.
///
/// What a line or a body is elsewhere, a message is here: JSON (one object, one array of objects, or lines of objects)
/// or CSV (lines of fields in the order of the columns; with `header = true` each message begins with the names). An
/// empty message holds no rows.
pub(crate) struct MessageDecoder {
    schema: SchemaRef,
    columns: Vec<Column>,
    /// Where each column comes from.
    places: Vec<Place>,
    fillers: Vec<ColumnBuilder>,
    keys: Option<Keys>,
    envelope: Option<Envelope>,
    keyed: bool,
    latin1: bool,
    rows: Rows,
    values: RowValues,
    /// Messages that are joined, a line each.
    joined: Vec<u8>,
    segment: Segment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The bytes of the message: which of the columns that are read from there.
    Read(usize),
    /// What came beside it: which of the filled ones, first those that are given, then those of the key.
    Filled(usize),
}

/// Rows that were split and whose values are to be read.
#[derive(Default)]
struct Segment {
    start: usize,
    ranges: Vec<(usize, usize)>,
    /// The message of each.
    of: Vec<u32>,
}

/// What is wrong with whole messages; mostly nothing is.
#[derive(Default)]
struct Faults(Vec<Option<String>>);

impl Faults {
    fn add(&mut self, message: usize, reason: String) {
        if self.0.len() <= message {
            self.0.resize(message + 1, None);
        }
        self.0[message].get_or_insert(reason);
    }

    fn of(&self, message: usize) -> Option<&str> {
        self.0.get(message)?.as_deref()
    }
}

impl fmt::Debug for MessageDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageDecoder")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl MessageDecoder {
    /// Decodes `format` into `columns`, of which those `filled` come beside the messages; `time_zone` is that of
    /// zoneless times.
    pub(crate) fn new(
        format: &FormatConfig,
        columns: &[Column],
        filled: &[usize],
        time_zone: &str,
    ) -> Result<MessageDecoder, ConfigError> {
        let kind = format.kind.unwrap_or(FormatKind::Json);
        format.check(kind)?;
        if columns.is_empty() {
            return Err(ConfigError::new("no columns are declared"));
        }
        let keyed = columns.iter().any(|column| column.key);
        let upsert = format.envelope == Some(Envelope::Upsert);
        if upsert && !keyed {
            return Err(ConfigError::new(
                "envelope = \"upsert\" needs to know which columns stand in the key of a message",
            )
            .with_hint("Name them in `key` of the source."));
        }
        let times = Times::new(time_zone, format.timestamp.as_deref())?;
        let plain = Nulls {
            tokens: Vec::new(),
            delimited: false,
        };
        let fillers = filled
            .iter()
            .map(|&column| {
                // Whether it may be NULL is judged once it is known whether the row is taken back.
                let field = Arc::new(columns[column].field.as_ref().clone().with_nullable(true));
                ColumnBuilder::new(&field, plain.clone(), times.clone())
            })
            .collect::<Result<Vec<_>, _>>()?;
        let in_key: Vec<usize> = (0..columns.len())
            .filter(|column| upsert && columns[*column].key && !filled.contains(column))
            .collect();
        let keys = match in_key.as_slice() {
            [] => None,
            in_key => {
                let columns: Vec<Column> = in_key.iter().map(|&column| columns[column].clone()).collect();
                Some(Keys::new(format, columns, time_zone)?)
            }
        };
        let all_filled = [filled, &in_key].concat();
        let mut read = 0;
        let places = (0..columns.len()).map(|column| match all_filled.iter().position(|filled| *filled == column) {
            Some(at) => Place::Filled(at),
            None => {
                read += 1;
                Place::Read(read - 1)
            }
        });
        let places = places.collect();
        let format = FormatConfig {
            header: (kind == FormatKind::Csv).then(|| format.header.unwrap_or(false)),
            ..format.clone()
        };
        let (rows, values) = reading(&format, columns, &all_filled, time_zone)?;
        Ok(MessageDecoder {
            schema: match format.envelope {
                Some(_) => enveloped_schema(columns),
                None => schema(columns),
            },
            columns: columns.to_vec(),
            places,
            fillers,
            keys,
            envelope: format.envelope,
            keyed,
            latin1: format.encoding == Some(Encoding::Latin1),
            rows,
            values,
            joined: Vec::new(),
            segment: Segment::default(),
        })
    }

    /// The schema of every batch.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes messages; each good row, and each rejected one, knows its message.
    pub(crate) fn decode(&mut self, messages: &Messages<'_>) -> FromMessages {
        let mut faults = Faults::default();
        let mut filled = self.fill(messages, &mut faults);
        if let Some(keys) = &mut self.keys {
            filled.extend(
                keys.decode(messages.keys, messages.values.len(), &mut |message, reason| {
                    faults.add(message, reason);
                }),
            );
        }
        let mut sifted = Sifted::default();
        let mut rows_of = Vec::with_capacity(messages.values.len());
        // Where each message begins, if all were joined.
        let mut starts = Vec::with_capacity(messages.values.len());
        let mut joined = std::mem::take(&mut self.joined);
        while starts.len() < messages.values.len() {
            let from = starts.len();
            joined.clear();
            for value in &messages.values[from..] {
                starts.push(sifted.base + joined.len());
                if let Some(value) = value.filter(|value| value.len() <= MESSAGE_BYTES_MAX) {
                    match self.latin1 {
                        true => joined.extend_from_slice(&latin1(value)),
                        false => joined.extend_from_slice(value),
                    }
                }
                joined.push(b'\n');
                if joined.len() > JOINED_BYTES {
                    break;
                }
            }
            self.read(
                &joined,
                from,
                &starts,
                messages,
                &faults,
                &filled,
                &mut sifted,
                &mut rows_of,
            );
            sifted.base += joined.len();
        }
        joined.shrink_to(2 * JOINED_BYTES);
        self.joined = joined;
        self.finish(sifted, rows_of, &starts, &filled)
    }

    /// Reads the joined messages from number `from` on, as far as `starts` goes.
    #[expect(clippy::too_many_arguments, reason = "they are parts of one loop")]
    fn read(
        &mut self,
        joined: &[u8],
        from: usize,
        starts: &[usize],
        messages: &Messages<'_>,
        faults: &Faults,
        filled: &[ArrayRef],
        sifted: &mut Sifted,
        rows_of: &mut Vec<u32>,
    ) {
        let (text, invalid) = read_utf8(joined);
        let mut invalid = Invalid::new(&invalid);
        self.values.cells.clear();
        self.segment.start = 0;
        for message in from..starts.len() {
            let start = starts[message] - sifted.base;
            let end = starts.get(message + 1).map_or(joined.len(), |next| next - sifted.base) - 1;
            let refuse = |sifted: &mut Sifted, reason: &str| {
                let raw = messages.values[message].or(messages.keys.get(message).copied().flatten());
                sifted.reject(start, Rejected::new(raw.unwrap_or_default(), reason));
            };
            if let Some(reason) = faults.of(message) {
                refuse(sifted, reason);
                continue;
            }
            match (messages.values[message], self.envelope) {
                (Some(value), _) if value.len() > MESSAGE_BYTES_MAX => {
                    refuse(sifted, &format!("the message is longer than {MESSAGE_BYTES_MAX} bytes"));
                }
                (Some(_), _) => {
                    let parts = (text.as_ref(), joined, &mut invalid);
                    self.message(parts, start, end, message as u32, filled, sifted, rows_of);
                }
                (None, Some(Envelope::Upsert)) => {
                    self.values.cells.add_row();
                    self.values.cells.take_back();
                    self.segment.ranges.push((start, start));
                    self.segment.of.push(message as u32);
                }
                // Debezium writes one after each deletion, so that compaction forgets the key.
                (None, Some(Envelope::Debezium)) => {}
                (None, None) => refuse(
                    sifted,
                    "a message without a value, which takes rows back only with envelope = \"upsert\"",
                ),
            }
            if self.segment.ranges.len() >= SEGMENT_ROWS || end - self.segment.start > SEGMENT_BYTES {
                self.read_segment(&text, joined, end, filled, sifted, rows_of);
            }
        }
        self.read_segment(&text, joined, joined.len(), filled, sifted, rows_of);
    }

    /// Splits one message at `start..end`.
    #[expect(clippy::too_many_arguments, reason = "they are parts of one loop")]
    #[inline]
    fn message(
        &mut self,
        (text, raw, invalid): (&str, &[u8], &mut Invalid<'_>),
        start: usize,
        end: usize,
        message: u32,
        filled: &[ArrayRef],
        sifted: &mut Sifted,
        rows_of: &mut Vec<u32>,
    ) {
        let MessageDecoder {
            rows, values, segment, ..
        } = self;
        if let Rows::Json(rows) = rows
            && rows.known_message(text, start, end, &mut values.cells)
        {
            let step = Step::Row {
                start,
                end,
                next: end,
                rows: 1,
            };
            values.take(step, raw, invalid, &mut segment.ranges, sifted);
            segment.of.resize(segment.ranges.len(), message);
            return;
        }
        rows.restart();
        let told = sifted.rejected.len();
        let mut at = start;
        if text[at..end].starts_with('\u{feff}') {
            at += '\u{feff}'.len_utf8();
        }
        loop {
            let step = match self.rows.next(&text[..end], at, true, &mut self.values.cells) {
                Step::More => return,
                step => step,
            };
            at = self.values.take(step, raw, invalid, &mut self.segment.ranges, sifted);
            self.segment.of.resize(self.segment.ranges.len(), message);
            if self.segment.ranges.len() >= SEGMENT_ROWS || at - self.segment.start > SEGMENT_BYTES {
                self.read_segment(text, raw, at, filled, sifted, rows_of);
            }
            if sifted.rejected.len() - told >= REJECTED_MAX {
                let reason = format!("more than {REJECTED_MAX} bad rows in one message; the rest of it is refused");
                sifted.reject(at, Rejected::new(&raw[at..end], reason));
                return;
            }
        }
    }

    /// Reads the values of the rows that were split; the next begin at `next`.
    fn read_segment(
        &mut self,
        text: &str,
        raw: &[u8],
        next: usize,
        filled: &[ArrayRef],
        sifted: &mut Sifted,
        rows_of: &mut Vec<u32>,
    ) {
        let missing = self.missing(filled);
        self.values.read(text, raw, &self.segment.ranges, missing, sifted);
        self.values.cells.clear();
        rows_of.append(&mut self.segment.of);
        self.segment.ranges.clear();
        self.segment.start = next;
    }

    /// Says of the rows that were split what they miss of what is filled; nothing at all, mostly.
    fn missing(&self, filled: &[ArrayRef]) -> Vec<Option<String>> {
        let mut missing = Vec::new();
        for (column, place) in self.columns.iter().zip(&self.places) {
            let Place::Filled(at) = place else { continue };
            let array = &filled[*at];
            if column.field.is_nullable() || array.null_count() == 0 {
                continue;
            }
            let taken_back = self.values.cells.taken_back();
            for (row, &message) in self.segment.of.iter().enumerate() {
                let looked_at = column.key || !self.keyed || !taken_back[row];
                if looked_at && array.is_null(message as usize) {
                    missing.resize(self.segment.of.len(), None);
                    missing[row].get_or_insert_with(|| {
                        format!("column \"{}\": missing, but declared not null", column.field.name())
                    });
                }
            }
        }
        missing
    }

    /// Makes the columns that are filled, one value a message.
    fn fill(&mut self, messages: &Messages<'_>, faults: &mut Faults) -> Vec<ArrayRef> {
        let fillers = self.fillers.iter_mut().zip(&messages.filled);
        fillers
            .map(|(filler, filling)| match filling {
                Filling::Values(values) => Arc::clone(values),
                Filling::Bytes(bytes) if *filler.data_type() == DataType::Binary => {
                    Arc::new(BinaryArray::from_iter(bytes.iter().copied()))
                }
                Filling::Bytes(bytes) => {
                    let name = filler.name().to_owned();
                    let mut wrong = Vec::new();
                    let cells = bytes.iter().enumerate().map(|(message, bytes)| {
                        let text = bytes.map(std::str::from_utf8).transpose().unwrap_or_else(|_| {
                            wrong.push((message, format!("column \"{name}\": not valid UTF-8")));
                            None
                        });
                        Cell {
                            kind: if text.is_some() { Kind::Quoted } else { Kind::Missing },
                            text: text.unwrap_or_default(),
                        }
                    });
                    filler.append(cells, &mut |message, reason| faults.add(message, reason));
                    for (message, reason) in wrong {
                        faults.add(message, reason);
                    }
                    filler.finish()
                }
            })
            .collect()
    }

    fn finish(&mut self, sifted: Sifted, mut rows_of: Vec<u32>, starts: &[usize], filled: &[ArrayRef]) -> FromMessages {
        let (read, good, rejected) = self.values.finish(sifted);
        let message_at = |place: usize| starts.partition_point(|start| *start <= place) as u32 - 1;
        let (rejected_of, rejected) = rejected
            .into_iter()
            .map(|(place, rejected)| (message_at(place), rejected))
            .unzip();
        let whole = rows_of.len() == starts.len() && rows_of.iter().zip(0..).all(|(message, at)| *message == at);
        let all = UInt32Array::from(rows_of.clone());
        let filled: Vec<ArrayRef> = filled
            .iter()
            .map(|array| match whole {
                true => Arc::clone(array),
                // Each of `rows_of` is a message, and so has a value.
                false => take(array, &all, None).unwrap_or_else(|_| array.slice(0, 0)),
            })
            .collect();
        let mut arrays: Vec<ArrayRef> = self
            .places
            .iter()
            .map(|place| match *place {
                Place::Read(at) => Arc::clone(&read[at]),
                Place::Filled(at) => Arc::clone(&filled[at]),
            })
            .collect();
        if self.envelope.is_some() {
            arrays.extend(read.last().cloned());
        }
        let rows = batch(&self.schema, arrays, good.len(), good.some());
        if let Some(good) = good.some() {
            let mut row = 0;
            rows_of.retain(|_| {
                row += 1;
                good.value(row - 1)
            });
        }
        FromMessages {
            decoded: Decoded { rows, rejected },
            rows_of,
            rejected_of,
        }
    }
}

#[cfg(test)]
mod tests;
