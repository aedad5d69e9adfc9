//! What a manifest says of a file, and how files are named.

use arrow::datatypes::{DataType, Field, Schema};
use chrono::{DateTime, Datelike};
use queries::cold::ColdFile;
use serde::{Deserialize, Serialize};

use super::error::{HistoryError, HistoryErrorKind};

/// The version of what is written now. A later one is refused.
pub const FORMAT_VERSION: u32 = 1;

/// Checksums of a file, at most: blocks grow with it.
const BLOCKS_MAX: usize = 128;

/// One file of history, as its manifest keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The version of the format it was written in.
    pub version: u32,
    /// Where it is in the archive.
    pub path: String,
    /// The view or source its rows are of.
    pub relation: String,
    /// The day it holds, `2026-11-29`, or the month, `2026-11`.
    pub date: String,
    /// The number that makes its name one of its own.
    pub sequence: u64,
    /// Its rows.
    pub rows: u64,
    /// Its length.
    pub bytes: u64,
    /// The CRC-32 of the whole file.
    pub crc32: u32,
    /// Bytes that each of `blocks` is of; the last may be shorter.
    pub block_bytes: u64,
    /// The CRC-32 of each block.
    pub blocks: Vec<u32>,
    /// The column of times, if there is one.
    pub time: Option<String>,
    /// The earliest time in it, in microseconds since 1970.
    pub time_min_us: Option<i64>,
    /// The latest.
    pub time_max_us: Option<i64>,
    /// The first tick in it, of raw input.
    pub tick_min: Option<u64>,
    /// The last.
    pub tick_max: Option<u64>,
    /// The columns that rows of one kind share, by which they are laid together.
    pub key: Vec<String>,
    /// Names the columns and types: files are merged only with their like.
    pub fingerprint: String,
}

impl FileEntry {
    /// Refuses what a later version has written.
    ///
    /// # Errors
    /// When the version is unknown.
    pub fn check_version(&self) -> Result<(), HistoryError> {
        if self.version <= FORMAT_VERSION {
            return Ok(());
        }
        Err(HistoryError::new(
            HistoryErrorKind::Version,
            format!(
                "history file \"{}\" has format version {}, and this program knows {FORMAT_VERSION} at most",
                self.path, self.version
            ),
            "It was written by a later version of sangam. Run that one, or a later one still.",
        ))
    }

    /// Returns the first and last moment it has rows of: by tick, else by time.
    pub fn span_us(&self) -> (i64, i64) {
        let tick = |tick: u64| i64::try_from(tick).unwrap_or(i64::MAX);
        match (self.tick_min, self.tick_max) {
            (Some(min), Some(max)) => (tick(min), tick(max)),
            _ => (
                self.time_min_us.unwrap_or(i64::MIN),
                self.time_max_us.unwrap_or(i64::MAX),
            ),
        }
    }

    /// Returns the month it is in, `2026-11`.
    pub(super) fn month(&self) -> &str {
        self.date.get(..7).unwrap_or(&self.date)
    }

    /// Returns what queries need to know to read it.
    pub fn cold(&self) -> ColdFile {
        ColdFile {
            path: self.path.clone(),
            bytes: self.bytes,
            rows: self.rows,
            time_us: self.time_min_us.zip(self.time_max_us),
            ticks: self.tick_min.zip(self.tick_max),
            block_bytes: self.block_bytes,
            blocks: self.blocks.clone(),
        }
    }
}

/// Returns the day of a moment, `2026-11-29`; none outside the years 1 to 9999.
pub(super) fn day(at_us: i64) -> Option<String> {
    let date = DateTime::from_timestamp_micros(at_us)?;
    (1..=9999)
        .contains(&date.year())
        .then(|| date.format("%Y-%m-%d").to_string())
}

/// Names a file: `readings/date=2026-11-29/20261129T100000-20261129T110000-17.parquet`, or `…-17-merged.parquet`.
pub(super) fn path(
    relation: &str,
    date: &str,
    (first_us, last_us): (i64, i64),
    sequence: u64,
    is_merged: bool,
) -> String {
    let moment = |at_us: i64| {
        DateTime::from_timestamp_micros(at_us).map_or_else(
            || at_us.to_string(),
            |moment| moment.format("%Y%m%dT%H%M%S").to_string(),
        )
    };
    let (first, last) = (moment(first_us), moment(last_us));
    let how = if is_merged { "-merged" } else { "" };
    format!("{relation}/date={date}/{first}-{last}-{sequence}{how}.parquet")
}

/// Names columns and their types, the same in every version of the program.
pub(super) fn fingerprint(schema: &Schema) -> String {
    let mut text = String::new();
    for field in schema.fields() {
        describe(field, &mut text);
    }
    // FNV-1a: short, and defined for ever.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn describe(field: &Field, text: &mut String) {
    use std::fmt::Write;
    // Writing to a String does not fail.
    let _ = write!(text, "{:?}", field.name());
    text.push_str(if field.is_nullable() { "?" } else { "!" });
    match field.data_type() {
        DataType::Timestamp(unit, zone) => {
            let _ = write!(text, "timestamp {unit:?} {zone:?}");
        }
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            let _ = write!(text, "decimal {precision} {scale}");
        }
        DataType::List(item) | DataType::LargeList(item) => {
            text.push('[');
            describe(item, text);
            text.push(']');
        }
        DataType::FixedSizeList(item, length) => {
            let _ = write!(text, "{length}[");
            describe(item, text);
            text.push(']');
        }
        DataType::Struct(fields) => {
            text.push('{');
            fields.iter().for_each(|field| describe(field, text));
            text.push('}');
        }
        DataType::Map(entries, _) => {
            text.push('<');
            describe(entries, text);
            text.push('>');
        }
        plain => {
            let _ = write!(text, "{plain:?}");
        }
    }
    text.push(';');
}

/// The checksums of a file as it is written.
#[derive(Debug)]
pub(super) struct Checksums {
    block_bytes: u64,
    blocks: Vec<u32>,
    open: crc32fast::Hasher,
    open_bytes: u64,
}

impl Checksums {
    pub(super) fn new() -> Self {
        Checksums {
            block_bytes: 64 << 10,
            blocks: Vec::new(),
            open: crc32fast::Hasher::new(),
            open_bytes: 0,
        }
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(self.block_bytes - self.open_bytes).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.open.update(now);
            self.open_bytes += now.len() as u64;
            bytes = rest;
            if self.open_bytes == self.block_bytes {
                self.blocks.push(std::mem::take(&mut self.open).finalize());
                self.open_bytes = 0;
                if self.blocks.len() > BLOCKS_MAX {
                    self.widen();
                }
            }
        }
    }

    /// Makes one block of two. The last of an odd number becomes the open one.
    fn widen(&mut self) {
        let bytes = self.block_bytes;
        let merged = |pair: &[u32]| {
            let mut first = crc32fast::Hasher::new_with_initial_len(pair[0], bytes);
            first.combine(&crc32fast::Hasher::new_with_initial_len(pair[1], bytes));
            first.finalize()
        };
        let pairs = self.blocks.chunks_exact(2);
        let odd = pairs.remainder().first().copied();
        self.blocks = pairs.map(merged).collect();
        if let Some(odd) = odd {
            self.open = crc32fast::Hasher::new_with_initial_len(odd, bytes);
            self.open_bytes = bytes;
        }
        self.block_bytes *= 2;
    }

    /// Returns the CRC-32 of everything, the bytes of a block and the CRC-32 of each.
    pub(super) fn finish(mut self) -> (u32, u64, Vec<u32>) {
        let mut whole = crc32fast::Hasher::new();
        for block in &self.blocks {
            whole.combine(&crc32fast::Hasher::new_with_initial_len(*block, self.block_bytes));
        }
        if self.open_bytes > 0 {
            let open = self.open.finalize();
            whole.combine(&crc32fast::Hasher::new_with_initial_len(open, self.open_bytes));
            self.blocks.push(open);
        }
        (whole.finalize(), self.block_bytes, self.blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_blocks() {
        for length in [0, 1, 65_536, 65_537, 8_388_608, 8_454_144, 20_000_001_usize] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 31 % 251) as u8).collect();
            let mut checksums = Checksums::new();
            bytes.chunks(70_001).for_each(|piece| checksums.update(piece));
            let (whole, block_bytes, blocks) = checksums.finish();
            assert_eq!(whole, crc32fast::hash(&bytes));
            let expected: Vec<u32> = bytes.chunks(block_bytes as usize).map(crc32fast::hash).collect();
            assert_eq!(blocks, expected, "{length} bytes in blocks of {block_bytes}");
            assert!(blocks.len() <= BLOCKS_MAX + 1);
        }
    }

    #[test]
    fn files_are_named_by_what_they_hold() {
        let at = 1_795_946_400_000_000;
        assert_eq!(day(at).as_deref(), Some("2026-11-29"));
        assert_eq!(
            path("readings", "2026-11-29", (at, at + 3_600_000_000), 17, false),
            "readings/date=2026-11-29/20261129T100000-20261129T110000-17.parquet"
        );
        assert_eq!(day(i64::MAX), None);
        assert_eq!(day(-62_135_596_800_000_000 - 1), None);
    }

    #[test]
    fn fingerprints_tell_columns_apart() {
        let one = |name: &str, data_type: DataType, nullable: bool| {
            fingerprint(&Schema::new(vec![Field::new(name, data_type, nullable)]))
        };
        let first = one("a", DataType::Int64, true);
        // It stands in manifests: it must never change.
        assert_eq!(first, "46718c3f493ed19b");
        assert_ne!(first, one("b", DataType::Int64, true));
        assert_ne!(first, one("a", DataType::Int64, false));
        assert_ne!(first, one("a", DataType::Int32, true));
    }
}
