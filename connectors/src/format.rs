//! A source's format as declared, and the decoder that it makes.
//!
//! A decoder splits its input into rows ([`formats`](crate::formats)), reads the
//! values of one column after another ([`values`](crate::values)) and sets bad
//! rows aside with the reason (`sifting`); the good ones go on in their order.
pub(crate) mod sifting;

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use arrow::datatypes::SchemaRef;
use serde::Deserialize;

use crate::cells::Cells;
use crate::column::{Column, schema};
use crate::decoded::{Decoded, Rejected};
use crate::error::ConfigError;
use crate::format::sifting::{Invalid, RowValues, Sifted, batch, enveloped_schema, read_utf8, reading};
use crate::formats::csv::CsvRows;
use crate::formats::json::JsonRows;
use crate::values::Nulls;

/// The longest row that is read, in bytes; longer ones are rejected.
pub const ROW_BYTES_MAX: usize = 1 << 20;

/// The longest input that [`Decoder::decode`] takes at once, in bytes.
pub const INPUT_BYTES_MAX: usize = 1 << 30;

/// Bad rows told one by one in one piece of input; past them the rest of the
/// piece is refused as a whole, so that garbage cannot fill the memory.
pub const REJECTED_MAX: usize = 100_000;

/// Rows split, and bytes of theirs, before their values are read: each column reads all of them again, so that
/// both must stay in the cache nearest to the core.
pub(crate) const SEGMENT_ROWS: usize = 256;
pub(crate) const SEGMENT_BYTES: usize = 32 * 1024;

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
    /// themselves or as the `payload` beside a `schema`. JSON and CSV of messages that have a key: `"upsert"`,
    /// where the message's key holds the key columns, and no value takes the row back. Default: objects are rows.
    pub envelope: Option<Envelope>,
}

/// What rows may stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Envelope {
    /// Debezium's, as change-data capture writes it.
    Debezium,
    /// A message's key says which row is meant, its value what the row is.
    Upsert,
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
        let fits = match self.envelope {
            None => true,
            Some(Envelope::Debezium) => kind == FormatKind::Json,
            Some(Envelope::Upsert) => kind != FormatKind::Parquet,
        };
        if !fits {
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

pub(crate) enum Rows {
    Json(JsonRows),
    Csv(CsvRows),
}

impl Rows {
    pub(crate) fn next(&mut self, text: &str, from: usize, last: bool, cells: &mut Cells) -> Step {
        match self {
            Rows::Json(rows) => rows.next(text, from, last, cells),
            Rows::Csv(rows) => rows.next(text, from, last, cells),
        }
    }

    pub(crate) fn restart(&mut self) {
        match self {
            Rows::Json(rows) => rows.restart(),
            Rows::Csv(rows) => rows.restart(),
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
    values: RowValues,
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
        if format.envelope == Some(Envelope::Upsert) {
            return Err(
                ConfigError::new("envelope = \"upsert\" is of messages that have a key").with_hint(
                    "Use it with a connector of type \"kafka\"; elsewhere a `key` makes rows replace each other.",
                ),
            );
        }
        let (rows, values) = reading(format, columns, &[], time_zone)?;
        Ok(Decoder {
            schema: match format.envelope {
                Some(_) => enveloped_schema(columns),
                None => schema(columns),
            },
            rows,
            latin1: format.encoding == Some(Encoding::Latin1),
            fresh: true,
            values,
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
        self.rows.restart();
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
        let mut invalid = Invalid::new(invalid);
        let mut sifted = Sifted::default();
        let mut ranges = Vec::with_capacity(SEGMENT_ROWS.min(rows_max));
        let rejected_max = rows_max.min(REJECTED_MAX);
        let mut more = true;
        while more && sifted.rows < rows_max {
            self.values.cells.clear();
            ranges.clear();
            let segment_start = at;
            while ranges.len() < SEGMENT_ROWS.min(rows_max - sifted.rows) {
                if at - segment_start > SEGMENT_BYTES {
                    break;
                }
                match self.rows.next(text, at, last, &mut self.values.cells) {
                    Step::More => {
                        more = false;
                        break;
                    }
                    step => at = self.values.take(step, raw, &mut invalid, &mut ranges, &mut sifted),
                }
                if sifted.rejected.len() >= rejected_max {
                    more = false;
                    break;
                }
            }
            self.values.read(text, raw, &ranges, Vec::new(), &mut sifted);
        }
        if at > 0 {
            self.fresh = false;
        }
        let (arrays, good, rejected) = self.values.finish(sifted);
        let rows = batch(&self.schema, arrays, good.len(), good.some());
        let rejected = rejected.into_iter().map(|(_, rejected)| rejected).collect();
        (at, Decoded { rows, rejected })
    }
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
