//! All that is retained as of one tick, in files; a manifest names them.
//!
//! A file is written once and never changed. What has not changed since the last checkpoint keeps its files; a
//! segment that grew gets one more. Once the store has the new manifest, files that it does not name are of no use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use connectors::Position;
use dataflows::Tick;
use serde::{Deserialize, Serialize};

use super::blocks::{BlockReader, BlockWriter};
use super::codec::{self, Compress, Encoder};
use super::error::LogError;
use super::store::{make_folder, sync_folder};
use crate::history::Layout;

/// The folder of checkpoints in the data folder.
pub(super) const FOLDER: &str = "checkpoint";

/// Rows in one block, at most.
const BLOCK_ROWS_MAX: usize = 32 * 1024;

/// Files that one segment grows by before it is written anew.
const PARTS_MAX: usize = 16;

/// What a checkpoint consists of, by name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// How many checkpoints there were before: no two write files of the same name.
    #[serde(default)]
    pub sequence: u64,
    /// The tick as of which everything is.
    pub tick: Tick,
    /// The number of the first record that is not part of it.
    pub log_from: u64,
    /// The sources, by name.
    pub sources: BTreeMap<String, SourceManifest>,
    /// The views that hold what cannot be computed again, by name.
    pub views: BTreeMap<String, ViewManifest>,
    /// Tables of the engine itself, by name.
    pub tables: BTreeMap<String, Vec<Part>>,
    /// What else the engine knows.
    pub state: serde_json::Value,
    /// Bytes of the files that were written for it; others are those of the one before.
    #[serde(default)]
    pub written: u64,
}

/// What is known of a source.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SourceManifest {
    /// What its rows are, in words that change when they would mean something else.
    pub shape: serde_json::Value,
    /// Its clock, partitions, counts: as the engine wrote them.
    pub state: serde_json::Value,
    /// Where its reader goes on.
    pub position: Position,
    /// Its rows.
    pub parts: Vec<Part>,
}

/// What is known of a view that closes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ViewManifest {
    /// How far it is closed: as the engine wrote it.
    pub state: serde_json::Value,
    /// Its closed rows.
    pub parts: Vec<Part>,
}

/// Rows in one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The segment of time they expire with; 0 where nothing does.
    pub segment: i64,
    /// How many there are.
    pub rows: u64,
    /// Where they stand.
    pub file: FileRef,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Its name in the folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// Rows to be written.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// The segment of time they expire with.
    pub segment: i64,
    /// The rows, in their order.
    pub batches: Vec<RecordBatch>,
}

/// The rows of a source or table, and how they can differ from those of the last checkpoint.
#[derive(Clone, Debug)]
pub enum Rows {
    /// They are those of the last checkpoint.
    Same,
    /// Of each segment the rows of the last checkpoint come first, in their order, if there were any.
    Grown(Vec<Stretch>),
    /// They may be any.
    Any(Vec<RecordBatch>),
}

/// All that is to be written.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// What it will say but for the files.
    pub manifest: Manifest,
    /// The rows of sources, views and tables, in that order, by name.
    pub rows: [BTreeMap<String, Rows>; 3],
    /// What goes to history with it.
    pub keep: Keep,
}

/// What goes to history with a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// Views whose finished rows go there, by name.
    pub views: BTreeMap<String, KeepView>,
    /// Sources whose raw input goes there, by name.
    pub sources: BTreeMap<String, KeepSource>,
}

/// The finished rows of a view that are not in history yet.
#[derive(Clone, Debug)]
pub struct KeepView {
    /// How its files are laid out.
    pub layout: Layout,
    /// How many microseconds one of its bucket's column is.
    pub unit_us: i64,
    /// Rows below this are in history.
    pub stored: i64,
    /// Rows below this are final.
    pub below: i64,
    /// Rows below this have left.
    pub gone: i64,
    /// Of rows in history, those below this are in memory, too, and can leave.
    pub limit: i64,
    /// What `limit` is to be, as far as rows are in history then.
    pub horizon: i64,
    /// The rows from `stored` to `below`.
    pub rows: Vec<RecordBatch>,
    /// How many closed rows the view shows.
    pub count: u64,
}

/// A source whose raw input is kept.
#[derive(Clone, Debug)]
pub struct KeepSource {
    /// How its files are laid out.
    pub layout: Layout,
    /// How long its rows are kept, in microseconds of ticks; without an end where it says nothing.
    pub keep_us: Option<i64>,
    /// Rows older than this, by their time or else their tick, are retained no more; none where rows stay for ever.
    pub retained_from_us: Option<i64>,
    /// How long rows are retained at most, in microseconds of their time, or else of ticks.
    pub retain_us: i64,
    /// How far past its tick a row may be dated; none where it may be any.
    pub ahead_us: Option<i64>,
}

impl Checkpoint {
    /// Writes what has changed since `last`, and returns what names all of it; nothing names it yet.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(self, data: &Path, last: Option<&Manifest>) -> Result<Manifest, LogError> {
        let dir = folder(data)?;
        let Checkpoint { mut manifest, rows, .. } = self;
        manifest.sequence = last.map_or(0, |last| last.sequence + 1);
        let [sources, views, tables] = rows;
        let mut writing = Writing {
            dir: &dir,
            sequence: manifest.sequence,
            files: 0,
            encoder: Encoder::new(Compress::All),
            bytes: Vec::new(),
            written: 0,
        };
        for (name, rows) in sources {
            let before = last
                .and_then(|last| last.sources.get(&name))
                .map(|source| &source.parts);
            let parts = writing.parts(rows, before)?;
            manifest.sources.entry(name).or_default().parts = parts;
        }
        for (name, rows) in views {
            let before = last.and_then(|last| last.views.get(&name)).map(|view| &view.parts);
            let parts = writing.parts(rows, before)?;
            manifest.views.entry(name).or_default().parts = parts;
        }
        for (name, rows) in tables {
            let before = last.and_then(|last| last.tables.get(&name));
            let parts = writing.parts(rows, before)?;
            manifest.tables.insert(name, parts);
        }
        manifest.written = writing.written;
        sync_folder(&dir)?;
        Ok(manifest)
    }
}

impl Manifest {
    /// Returns all its rows.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        let sources = self.sources.values().flat_map(|source| &source.parts);
        let views = self.views.values().flat_map(|view| &view.parts);
        let tables = self.tables.values().flatten();
        sources.chain(views).chain(tables)
    }

    /// Returns the files it names.
    pub(super) fn files(&self) -> impl Iterator<Item = &FileRef> {
        self.parts().map(|part| &part.file)
    }

    /// Returns how many bytes its files have.
    pub fn bytes(&self) -> u64 {
        self.files().map(|file| file.bytes).sum()
    }

    /// Deletes the files of other checkpoints, and of those that were never finished.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn sweep(&self, data: &Path) -> Result<(), LogError> {
        let dir = folder(data)?;
        let named: BTreeSet<&str> = self.files().map(|file| file.name.as_str()).collect();
        let entries = std::fs::read_dir(&dir).map_err(|error| LogError::io("list", &dir, error))?;
        for entry in entries.flatten() {
            if !named.contains(entry.file_name().to_string_lossy().as_ref()) {
                // What cannot be deleted now can be at the next checkpoint.
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

impl Part {
    /// Reads the rows, batch by batch.
    ///
    /// # Errors
    /// When the file is missing, damaged, or cannot be read; and whatever `take` fails with.
    pub fn read<E: From<LogError>>(
        &self,
        data: &Path,
        mut take: impl FnMut(RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = data.join(FOLDER).join(&self.file.name);
        let mut reader = BlockReader::open(&path)?;
        let damaged = |what: &dyn std::fmt::Display| LogError::damaged(&path, what);
        let first = reader.next()?.ok_or_else(|| damaged(&"it holds nothing"))?;
        let schema = codec::schema(&first).map_err(|error| damaged(&error))?;
        let mut rows = 0;
        while let Some(block) = reader.next()? {
            let batch = codec::batch(&mut block.as_slice(), &schema).map_err(|error| damaged(&error))?;
            rows += batch.num_rows() as u64;
            take(batch)?;
        }
        if rows != self.rows {
            return Err(damaged(&format!("it holds {rows} rows of {}", self.rows)).into());
        }
        Ok(())
    }
}

/// Tells whether there are files of checkpoints.
pub(super) fn exists(data: &Path) -> bool {
    std::fs::read_dir(data.join(FOLDER)).is_ok_and(|mut entries| entries.next().is_some())
}

fn folder(data: &Path) -> Result<PathBuf, LogError> {
    let dir = data.join(FOLDER);
    make_folder(&dir)?;
    Ok(dir)
}

/// A checkpoint that is being written.
struct Writing<'a> {
    dir: &'a Path,
    sequence: u64,
    files: usize,
    encoder: Encoder,
    bytes: Vec<u8>,
    written: u64,
}

impl Writing<'_> {
    fn parts(&mut self, rows: Rows, last: Option<&Vec<Part>>) -> Result<Vec<Part>, LogError> {
        let last = last.map_or(&[] as &[Part], Vec::as_slice);
        match rows {
            Rows::Same => Ok(last.to_vec()),
            Rows::Any(batches) => Ok(self.part(0, &batches, 0)?.into_iter().collect()),
            Rows::Grown(stretches) => {
                let mut parts = Vec::new();
                for Stretch { segment, batches } in stretches {
                    let known = || last.iter().filter(|part| part.segment == segment);
                    let saved: u64 = match known().count() {
                        count if count < PARTS_MAX => known().map(|part| part.rows).sum(),
                        _ => 0,
                    };
                    if saved > 0 {
                        parts.extend(known().cloned());
                    }
                    parts.extend(self.part(segment, &batches, saved)?);
                }
                Ok(parts)
            }
        }
    }

    /// Writes rows but for the first `saved`; none, where there are no more.
    fn part(&mut self, segment: i64, batches: &[RecordBatch], saved: u64) -> Result<Option<Part>, LogError> {
        let total: u64 = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        let Some(first) = batches.first().filter(|_| total > saved) else {
            return Ok(None);
        };
        let name = format!("{:012}-{}.blocks", self.sequence, self.files);
        self.files += 1;
        let path = self.dir.join(&name);
        let fault =
            |error: arrow::error::ArrowError| LogError::io("encode rows for", &path, std::io::Error::other(error));
        let mut writer = BlockWriter::create(&path)?;
        writer.write(&codec::schema_bytes(first.schema_ref()).map_err(fault)?)?;
        let mut skip = saved as usize;
        for batch in batches {
            let from = skip.min(batch.num_rows());
            skip -= from;
            let mut rest = batch.slice(from, batch.num_rows() - from);
            while rest.num_rows() > 0 {
                let rows = rest.num_rows().min(BLOCK_ROWS_MAX);
                self.bytes.clear();
                self.encoder
                    .batch(&rest.slice(0, rows), &mut self.bytes)
                    .map_err(fault)?;
                writer.write(&self.bytes)?;
                rest = rest.slice(rows, rest.num_rows() - rows);
            }
        }
        let bytes = writer.finish()?;
        self.written += bytes;
        Ok(Some(Part {
            segment,
            rows: total - saved,
            file: FileRef { name, bytes },
        }))
    }
}
