//! A source's format as declared, and the decoder that it makes.
//!
//! A decoder splits its input into rows ([`formats`](crate::formats)), reads the
//! values of one column after another ([`values`](crate::values)) and sets bad
//! rows aside with the reason; the good ones go on in their order.
use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::Deserialize;

use crate::cells::Cells;
use crate::column::{Column, schema};
use crate::decoded::{Decoded, Rejected, TAKEN_BACK};
use crate::error::ConfigError;
use crate::formats::csv::CsvRows;
use crate::formats::json::JsonRows;
use crate::times::Times;
use crate::values::{ColumnBuilder, Nulls};

/// The longest row that is read, in bytes; longer ones are rejected.
pub const ROW_BYTES_MAX: usize = 1 << 20;

/// The longest input that [`Decoder::decode`] takes at once, in bytes.
pub const INPUT_BYTES_MAX: usize = 1 << 30;

/// Bad rows told one by one in one piece of input; past them the rest of the
/// piece is refused as a whole, so that garbage cannot fill the memory.
pub const REJECTED_MAX: usize = 100_000;

/// Rows split, and bytes of theirs, before their values are read: each column reads all of them again, so that
/// both must stay in the cache nearest to the core.
const SEGMENT_ROWS: usize = 256;
const SEGMENT_BYTES: usize = 32 * 1024;

/// How the bytes of a source are to be read.
///
/// ```
/// let format: connectors::FormatConfig = toml::from_str(r#"
///     type = "csv"
///     delimiter = ";"
///     null = ["NAN", ""]
///     timestamp = "%m/%d/%Y"
/// "#)?;
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormatConfig {
    /// `"json"` (one object a line, or one array of objects), `"csv"` or
    /// `"parquet"` (files only). Default: by the file's name; `"json"` elsewhere.
    #[serde(rename = "type")]
    pub kind: Option<FormatKind>,
    /// CSV: the one character between fields. Default: `","`.
    pub delimiter: Option<char>,
    /// CSV: whether the first line names the fields, in any order; without it
    /// they stand in the order of the columns. Default: true.
    pub header: Option<bool>,
    /// Texts that mean NULL, spaces around them aside. Default: none, and `[""]`
    /// for CSV, where an empty field is NULL in all columns but text anyway.
    pub null: Option<Vec<String>>,
    /// How times and dates are written: a strftime pattern (a time without a zone
    /// is read in the deployment's), or `"epoch seconds"` (`milliseconds`,
    /// `microseconds`, `nanoseconds`). RFC 3339 is always understood.
    pub timestamp: Option<String>,
    /// `"utf-8"`, or `"latin1"`: what is not valid UTF-8 is read as Latin-1.
    /// Default: `"utf-8"`, where such a row is rejected.
    pub encoding: Option<Encoding>,
    /// JSON: `"debezium"`, where each object says what became of a row: `op`, `before` and `after`, by
    /// themselves or as the `payload` beside a `schema`. Default: objects are rows.
    pub envelope: Option<Envelope>,
}

/// What rows may stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Envelope {
    /// Debezium's, as change-data capture writes it.
    Debezium,
}

/// The formats there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FormatKind {
    /// One object a line, or one array of objects.
    Json,
    /// Lines of delimited fields.
    Csv,
    /// Apache Parquet files.
    Parquet,
}

impl fmt::Display for FormatKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FormatKind::Json => "json",
            FormatKind::Csv => "csv",
            FormatKind::Parquet => "parquet",
        })
    }
}

/// How bytes stand for characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Encoding {
    /// UTF-8; a row that is not is rejected.
    #[serde(rename = "utf-8")]
    Utf8,
    /// UTF-8, and Latin-1 for what is not.
    #[serde(rename = "latin1")]
    Latin1,
}

impl FormatConfig {
    /// The same options for another format: for a body whose type its sender
    /// names. Options that the format does not know are dropped.
    pub fn with_kind(&self, kind: FormatKind) -> FormatConfig {
        let mut format = self.clone();
        if kind != FormatKind::Csv {
            format.delimiter = None;
            format.header = None;
        }
        if kind != FormatKind::Json {
            format.envelope = None;
        }
        // What a source declares as NULL for its own format holds for others
        // too, but for the default of CSV.
        format.kind = Some(kind);
        format
    }

    /// The declared format, or the one that the name of `path` tells, with or
    /// without `.gz` or `.zst`.
    pub fn kind_of(&self, path: &Path) -> Result<FormatKind, ConfigError> {
        if let Some(kind) = self.kind {
            return Ok(kind);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let name = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
        match name.rsplit('.').next() {
            Some("csv" | "tsv") => Ok(FormatKind::Csv),
            Some("json" | "ndjson" | "jsonl") => Ok(FormatKind::Json),
            Some("parquet") => Ok(FormatKind::Parquet),
            _ => Err(ConfigError::new(format!(
                "the name of file \"{}\" does not tell its format",
                path.display()
            ))
            .with_hint("Add [format] with type = \"csv\", \"json\" or \"parquet\".")),
        }
    }

    pub(crate) fn check(&self, kind: FormatKind) -> Result<(), ConfigError> {
        let only_csv = |set: bool, key: &str| {
            if set && kind != FormatKind::Csv {
                return Err(ConfigError::new(format!("{key} is an option of csv, not of {kind}"))
                    .with_hint(format!("Remove {key}, or set type = \"csv\".")));
            }
            Ok(())
        };
        only_csv(self.delimiter.is_some(), "delimiter")?;
        only_csv(self.header.is_some(), "header")?;
        if self.envelope.is_some() && kind != FormatKind::Json {
            return Err(
                ConfigError::new(format!("envelope is an option of json, not of {kind}"))
                    .with_hint("Remove envelope, or set type = \"json\"."),
            );
        }
        if let Some(delimiter) = self.delimiter
            && (!delimiter.is_ascii() || matches!(delimiter, '"' | '\n' | '\r'))
        {
            return Err(ConfigError::new(format!("{delimiter:?} cannot be a delimiter"))
                .with_hint("Use one ASCII character, such as \",\", \";\" or \"\\t\"."));
        }
        Ok(())
    }

    pub(crate) fn nulls(&self, kind: FormatKind) -> Nulls {
        let delimited = kind == FormatKind::Csv;
        let default = || {
            if delimited { vec![String::new()] } else { Vec::new() }
        };
        let tokens = self.null.clone().unwrap_or_else(default);
        Nulls {
            tokens: tokens.iter().map(|token| token.trim().to_owned()).collect(),
            delimited,
        }
    }
}

/// What a splitter made of the input at one place. Positions are bytes of it.
pub(crate) enum Step {
    /// A row, or both rows of a change; their cells were added.
    Row {
        start: usize,
        end: usize,
        next: usize,
        rows: usize,
    },
    /// A row that cannot be read; it has no cells.
    Bad {
        start: usize,
        end: usize,
        next: usize,
        reason: String,
    },
    /// Nothing up to `next`.
    Skip { next: usize },
    /// The row is not complete yet; at the end of the input: there are no more.
    More,
}

enum Rows {
    Json(JsonRows),
    Csv(CsvRows),
}

impl Rows {
    fn next(&mut self, text: &str, from: usize, last: bool, cells: &mut Cells) -> Step {
        match self {
            Rows::Json(rows) => rows.next(text, from, last, cells),
            Rows::Csv(rows) => rows.next(text, from, last, cells),
        }
    }
}

/// Decodes bytes into rows of the declared columns.
///
/// ```
/// # use std::sync::Arc;
/// # use arrow::datatypes::{DataType, Field};
/// use connectors::{Column, Decoder, FormatConfig};
///
/// let columns = [
///     Column::new(Arc::new(Field::new("station", DataType::Utf8, false))),
///     Column::new(Arc::new(Field::new("ph", DataType::Float64, true))),
/// ];
/// let mut decoder = Decoder::new(&FormatConfig::default(), &columns, "UTC")?;
/// let decoded = decoder.decode(b"{\"station\":\"K1\",\"ph\":7.1}\n{\"ph\":7.2}\n");
/// assert_eq!(decoded.rows.num_rows(), 1);
/// assert_eq!(decoded.rejected[0].reason, "column \"station\": missing, but declared not null");
/// # Ok::<(), connectors::ConfigError>(())
/// ```
pub struct Decoder {
    schema: SchemaRef,
    rows: Rows,
    latin1: bool,
    /// At the very start of the input, where a byte-order mark may stand.
    fresh: bool,
    cells: Cells,
    /// The slot that each column is read from.
    slots: Vec<usize>,
    builders: Vec<ColumnBuilder>,
    /// Of rows in an envelope: the columns of their key, and which rows so far are taken back.
    enveloped: Option<(Vec<usize>, Vec<bool>)>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl Decoder {
    /// Decodes `format` into `columns`; `time_zone` is that of zoneless times.
    pub fn new(format: &FormatConfig, columns: &[Column], time_zone: &str) -> Result<Decoder, ConfigError> {
        let kind = format.kind.unwrap_or(FormatKind::Json);
        format.check(kind)?;
        if columns.is_empty() {
            return Err(ConfigError::new("no columns are declared"));
        }
        let header = format.header.unwrap_or(true);
        let mut names: Vec<String> = Vec::new();
        let mut slots = Vec::new();
        for column in columns {
            let name = column.input_name();
            // Columns may share one field of the input, unless it goes by place.
            let known = names.iter().position(|known| known == name).filter(|_| header);
            slots.push(known.unwrap_or(names.len()));
            if known.is_none() {
                names.push(name.to_owned());
            }
        }
        let cells = Cells::new(names.len());
        let key = || -> Vec<usize> { (0..columns.len()).filter(|&column| columns[column].key).collect() };
        let enveloped = format.envelope.map(|_| (key(), Vec::new()));
        let rows = match kind {
            FormatKind::Json => Rows::Json(match &enveloped {
                Some((key, _)) => JsonRows::new(names).enveloped(key.iter().map(|&column| slots[column]).collect()),
                None => JsonRows::new(names),
            }),
            FormatKind::Csv => {
                let delimiter = format.delimiter.unwrap_or(',') as u8;
                Rows::Csv(CsvRows::new(delimiter, header, names))
            }
            FormatKind::Parquet => {
                return Err(ConfigError::new("parquet is read from files only")
                    .with_hint("Use json or csv, or a connector of type \"file\"."));
            }
        };
        let times = Times::new(time_zone, format.timestamp.as_deref())?;
        let nulls = format.nulls(kind);
        let builders = columns
            .iter()
            .map(|column| ColumnBuilder::new(&column.field, nulls.clone(), times.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Decoder {
            schema: match enveloped {
                Some(_) => enveloped_schema(columns),
                None => schema(columns),
            },
            enveloped,
            rows,
            latin1: format.encoding == Some(Encoding::Latin1),
            fresh: true,
            cells,
            slots,
            builders,
        })
    }

    /// The schema of every batch.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes a whole input, such as the body of a request.
    pub fn decode(&mut self, bytes: &[u8]) -> Decoded {
        self.restart();
        let bytes = if self.latin1 {
            latin1(bytes)
        } else {
            Cow::Borrowed(bytes)
        };
        let (taken, mut decoded) = self.decode_some(&bytes, true, usize::MAX);
        if taken < bytes.len() {
            let reason = format!("more than {REJECTED_MAX} bad rows in one input; the rest of it is refused");
            decoded.rejected.push(Rejected::new(&bytes[taken..], reason));
        }
        decoded
    }

    /// Decodes complete rows from the start of `bytes`, at most `rows_max` good and
    /// about as many bad ones, and tells how many bytes they took: the next call's input begins
    /// there. `last` says that nothing follows `bytes`. Without a complete row in
    /// them nothing is taken, unless a row is longer than [`ROW_BYTES_MAX`].
    /// Latin-1 is to be made UTF-8 before ([`latin1`]).
    pub(crate) fn decode_some(&mut self, bytes: &[u8], last: bool, rows_max: usize) -> (usize, Decoded) {
        if bytes.len() > INPUT_BYTES_MAX {
            let mut decoded = Decoded::empty(self.schema.clone());
            let reason = format!("the input is longer than {INPUT_BYTES_MAX} bytes");
            decoded.rejected.push(Rejected::new(bytes, reason));
            return (bytes.len(), decoded);
        }
        let (text, invalid) = read_utf8(bytes);
        self.decode_text(&text, bytes, &invalid, last, rows_max)
    }

    /// Starts with a new input: a CSV header or an array is expected again.
    pub fn restart(&mut self) {
        self.fresh = true;
        match &mut self.rows {
            Rows::Json(rows) => rows.restart(),
            Rows::Csv(rows) => rows.restart(),
        }
    }

    /// `text` stands for `raw`, byte by byte, but for those at `invalid`.
    fn decode_text(
        &mut self,
        text: &str,
        raw: &[u8],
        invalid: &[usize],
        last: bool,
        rows_max: usize,
    ) -> (usize, Decoded) {
        let mut at = 0;
        if self.fresh && text.starts_with('\u{feff}') {
            at = '\u{feff}'.len_utf8();
        }
        let mut invalid = invalid.iter().copied().peekable();
        let mut rows = 0;
        // Bad rows with the place where they begin, to be sorted at the end.
        let mut rejected: Vec<(usize, Rejected)> = Vec::new();
        let mut good: Option<Vec<bool>> = None;
        let mut ranges = Vec::with_capacity(SEGMENT_ROWS.min(rows_max));
        let rejected_max = rows_max.min(REJECTED_MAX);
        let mut more = true;
        while more && rows < rows_max {
            self.cells.clear();
            ranges.clear();
            let segment_start = at;
            while ranges.len() < SEGMENT_ROWS.min(rows_max - rows) {
                if at - segment_start > SEGMENT_BYTES {
                    break;
                }
                match self.rows.next(text, at, last, &mut self.cells) {
                    Step::Row { start, end, next, rows } => {
                        at = next;
                        while invalid.next_if(|place| *place < start).is_some() {}
                        if let Some(place) = invalid.next_if(|place| *place < end) {
                            (0..rows).for_each(|_| self.cells.drop_row());
                            let reason = format!("not valid UTF-8 at byte {} of the row", place - start + 1);
                            rejected.push((start, Rejected::new(&raw[start..end], reason)));
                        } else {
                            ranges.extend(std::iter::repeat_n((start, end), rows));
                        }
                    }
                    Step::Bad {
                        start,
                        end,
                        next,
                        reason,
                    } => {
                        at = next;
                        while invalid.next_if(|place| *place < start).is_some() {}
                        let reason = match invalid.next_if(|place| *place < end) {
                            Some(place) => {
                                format!("not valid UTF-8 at byte {} of the row", place - start + 1)
                            }
                            None => reason,
                        };
                        rejected.push((start, Rejected::new(&raw[start..end], reason)));
                    }
                    Step::Skip { next } => at = next,
                    Step::More => {
                        more = false;
                        break;
                    }
                }
                if rejected.len() >= rejected_max {
                    more = false;
                    break;
                }
            }
            let mut bad: Vec<Option<String>> = Vec::new();
            let taken_back = self.cells.taken_back();
            for (at, (builder, slot)) in self.builders.iter_mut().zip(&self.slots).enumerate() {
                // Where a key says which row is meant, the rest of one that is taken back is not looked at.
                let only_keys = self
                    .enveloped
                    .as_ref()
                    .is_some_and(|(key, _)| !key.is_empty() && !key.contains(&at));
                builder.append(self.cells.column(text, *slot), &mut |row, reason| {
                    if only_keys && taken_back[row] {
                        return;
                    }
                    bad.resize(ranges.len(), None);
                    bad[row].get_or_insert(reason);
                });
            }
            if let Some((_, marks)) = &mut self.enveloped {
                marks.extend_from_slice(taken_back);
            }
            if !bad.is_empty() {
                let good = good.get_or_insert_with(|| vec![true; rows]);
                good.resize(rows, true);
                // Both rows of a change are good, or neither.
                let mut bad = bad.as_mut_slice();
                for change in ranges.chunk_by(|one, other| one == other) {
                    let (these, rest) = bad.split_at_mut(change.len());
                    bad = rest;
                    let reason = these.iter_mut().find_map(Option::take);
                    good.resize(good.len() + change.len(), reason.is_none());
                    if let Some(reason) = reason {
                        let (start, end) = change[0];
                        rejected.push((start, Rejected::new(&raw[start..end], reason)));
                    }
                }
            }
            rows += ranges.len();
        }
        if at > 0 {
            self.fresh = false;
        }
        rejected.sort_by_key(|(start, _)| *start);
        let good = good.map(|mut good| {
            good.resize(rows, true);
            BooleanArray::from(good)
        });
        let rows = self.finish(rows, good);
        (
            at,
            Decoded {
                rows,
                rejected: rejected.into_iter().map(|(_, rejected)| rejected).collect(),
            },
        )
    }

    fn finish(&mut self, rows: usize, good: Option<BooleanArray>) -> RecordBatch {
        let mut arrays: Vec<ArrayRef> = self.builders.iter_mut().map(ColumnBuilder::finish).collect();
        if let Some((_, marks)) = &mut self.enveloped {
            arrays.push(Arc::new(BooleanArray::from(std::mem::take(marks))));
        }
        let (arrays, rows) = match good {
            None => (arrays, rows),
            Some(good) => {
                // Same lengths: every column got one value a row.
                let kept = arrays
                    .iter()
                    .map(|array| filter(array, &good))
                    .collect::<Result<Vec<_>, _>>();
                (kept.unwrap_or_default(), good.true_count())
            }
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options).unwrap_or_else(|error| {
            // Unreachable: types and nullability were upheld value by value.
            tracing::error!(%error, "decoded rows do not fit their schema");
            RecordBatch::new_empty(self.schema.clone())
        })
    }
}

/// The schema of rows in an envelope.
fn enveloped_schema(columns: &[Column]) -> SchemaRef {
    let fields = columns
        .iter()
        .map(|column| column.field.as_ref().clone().with_nullable(true));
    let mark = Field::new(TAKEN_BACK, DataType::Boolean, false);
    Arc::new(Schema::new(fields.chain([mark]).collect::<Vec<_>>()))
}

/// Reads `bytes` as UTF-8; what is not valid becomes as many `?`, and the first
/// such place of each row is told.
fn read_utf8(bytes: &[u8]) -> (Cow<'_, str>, Vec<usize>) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return (Cow::Borrowed(text), Vec::new());
    }
    let mut text = String::with_capacity(bytes.len());
    let mut invalid = Vec::new();
    let mut told = false;
    for chunk in bytes.utf8_chunks() {
        // Rows end with a line or with an object.
        told &= !chunk.valid().contains(['\n', '}']);
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            if !told {
                invalid.push(text.len());
                told = true;
            }
            text.extend(chunk.invalid().iter().map(|_| '?'));
        }
    }
    (Cow::Owned(text), invalid)
}

/// Makes UTF-8 of text in which Latin-1 stands, perhaps beside UTF-8.
pub(crate) fn latin1(bytes: &[u8]) -> Cow<'_, [u8]> {
    if std::str::from_utf8(bytes).is_ok() {
        return Cow::Borrowed(bytes);
    }
    let mut text = String::with_capacity(bytes.len() + bytes.len() / 8);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| char::from(*byte)));
    }
    Cow::Owned(text.into_bytes())
}

#[cfg(test)]
mod tests;
