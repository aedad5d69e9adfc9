//! Reads files whole and compares them with their manifest.

use std::ops::Range;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt};
use parquet::file::metadata::ParquetMetaDataReader;

use super::archive::Archive;
use super::entry::FileEntry;
use super::error::HistoryError;

/// The end of a Parquet file: the length of its metadata, and a word.
const TAIL_BYTES: u64 = 8;

impl Archive {
    /// Reads a whole file and compares length, checksum and rows with its entry.
    ///
    /// # Errors
    /// Names the file that is damaged or missing, where in it, and the way out.
    pub async fn verify(&self, entry: &FileEntry) -> Result<(), HistoryError> {
        entry.check_version()?;
        let got = self.location.store.get(&Path::from(entry.path.as_str())).await;
        let got = got.map_err(|error| unread(entry, error))?;
        if got.meta.size != entry.bytes {
            return Err(length(entry, got.meta.size));
        }
        let mut blocks = Blocks::new(entry);
        let mut pieces = got.into_stream();
        while let Some(piece) = pieces.try_next().await.map_err(|error| unread(entry, error))? {
            blocks.update(&piece)?;
        }
        blocks.finish()?;
        let rows = self.rows_in(entry).await?;
        if rows != entry.rows {
            let how = format!("it has {rows} rows, and {} are expected", entry.rows);
            return Err(HistoryError::damaged(&entry.path, how));
        }
        Ok(())
    }

    /// Returns what a file's own metadata says of its rows.
    async fn rows_in(&self, entry: &FileEntry) -> Result<u64, HistoryError> {
        let broken = |error: &dyn std::fmt::Display| HistoryError::damaged(&entry.path, error);
        let tail_at = entry.bytes.saturating_sub(TAIL_BYTES);
        let tail = self.range(entry, tail_at..entry.bytes).await?;
        let length = tail
            .first_chunk::<4>()
            .map_or(0, |length| u64::from(u32::from_le_bytes(*length)));
        let at = tail_at.checked_sub(length);
        let at = at.ok_or_else(|| broken(&"its end does not say where its metadata is"))?;
        let metadata = self.range(entry, at..tail_at).await?;
        let metadata = ParquetMetaDataReader::decode_metadata(&metadata).map_err(|error| broken(&error))?;
        Ok(u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0))
    }

    async fn range(&self, entry: &FileEntry, range: Range<u64>) -> Result<Bytes, HistoryError> {
        let path = Path::from(entry.path.as_str());
        let got = self.location.store.get_range(&path, range).await;
        got.map_err(|error| unread(entry, error))
    }

    /// Reads a whole file, which is what was written, or says that it is not.
    pub(super) async fn checked_bytes(&self, entry: &FileEntry) -> Result<Bytes, HistoryError> {
        let got = match self.location.store.get(&Path::from(entry.path.as_str())).await {
            Ok(got) => got.bytes().await,
            Err(error) => Err(error),
        };
        let bytes = got.map_err(|error| unread(entry, error))?;
        if bytes.len() as u64 != entry.bytes {
            return Err(length(entry, bytes.len() as u64));
        }
        let mut blocks = Blocks::new(entry);
        blocks.update(&bytes)?;
        blocks.finish()?;
        Ok(bytes)
    }
}

fn unread(entry: &FileEntry, error: Error) -> HistoryError {
    match error {
        Error::NotFound { .. } => HistoryError::missing(&entry.path).because(error),
        error => HistoryError::store(format!("could not read history file \"{}\"", entry.path), error),
    }
}

fn length(entry: &FileEntry, found: u64) -> HistoryError {
    let how = format!("it is {found} bytes long, and {} were written", entry.bytes);
    HistoryError::damaged(&entry.path, how)
}

/// Compares a file with its checksums as it comes.
struct Blocks<'a> {
    entry: &'a FileEntry,
    place: usize,
    open: crc32fast::Hasher,
    open_bytes: u64,
    whole: crc32fast::Hasher,
}

impl<'a> Blocks<'a> {
    fn new(entry: &'a FileEntry) -> Self {
        Blocks {
            entry,
            place: 0,
            open: crc32fast::Hasher::new(),
            open_bytes: 0,
            whole: crc32fast::Hasher::new(),
        }
    }

    fn update(&mut self, mut bytes: &[u8]) -> Result<(), HistoryError> {
        while !bytes.is_empty() {
            let room = self.entry.block_bytes.max(1) - self.open_bytes;
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.open.update(now);
            self.open_bytes += now.len() as u64;
            bytes = rest;
            if self.open_bytes == self.entry.block_bytes.max(1) {
                self.close()?;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), HistoryError> {
        let found = std::mem::take(&mut self.open);
        self.whole.combine(&found);
        let from = self.place as u64 * self.entry.block_bytes;
        if self.entry.blocks.get(self.place) != Some(&found.finalize()) {
            let how = format!("bytes {from} to {} are not what was written", from + self.open_bytes);
            return Err(HistoryError::damaged(&self.entry.path, how));
        }
        self.place += 1;
        self.open_bytes = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<(), HistoryError> {
        if self.open_bytes > 0 {
            self.close()?;
        }
        let is_whole = self.place == self.entry.blocks.len() && self.whole.finalize() == self.entry.crc32;
        if is_whole {
            return Ok(());
        }
        Err(HistoryError::damaged(
            &self.entry.path,
            "its checksum is not that of what was written",
        ))
    }
}
