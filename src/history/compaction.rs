//! Merges files: reads one after the other, row group by row group, and writes windows anew.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::archive::Archive;
use super::entry::FileEntry;
use super::error::HistoryError;
use super::layout::Layout;
use super::windows::{WINDOW_BYTES, WINDOW_ROWS, arranged, unfit};
use super::writing::Writing;

impl Archive {
    /// Merges files of one relation and of the same columns into one, which is durable when this returns.
    ///
    /// Each file is compared with its checksums before its rows are taken. One file and about
    /// two windows of rows are in memory at a time. The merged files are not removed: that is for
    /// after the manifest names the new one.
    ///
    /// # Errors
    /// When the group is empty or mixed, a file is damaged or missing, or the store fails.
    pub async fn compact(&self, group: &[FileEntry], sequence: u64) -> Result<FileEntry, HistoryError> {
        let mut files: Vec<&FileEntry> = group.iter().collect();
        files.sort_by_key(|file| (file.span_us(), file.sequence));
        let (Some(first), Some(last)) = (files.first(), files.last()) else {
            return Err(mixed("there is no file to merge"));
        };
        let is_one_day = files.iter().all(|file| file.date == first.date);
        let date = if is_one_day { first.date.as_str() } else { first.month() };
        for file in &files {
            file.check_version()?;
            let is_like = file.relation == first.relation
                && file.fingerprint == first.fingerprint
                && file.month() == first.month();
            if !is_like {
                return Err(mixed(format!(
                    "\"{}\" cannot be merged with \"{}\"",
                    file.path, first.path
                )));
            }
        }
        let end = files
            .iter()
            .map(|file| file.span_us().1)
            .max()
            .unwrap_or(last.span_us().1);
        let span_us = (first.span_us().0, end);

        // The columns are those of the first file, which knows them exactly.
        let opened = self.opened(first).await?;
        // What the file says of itself beside is written anew.
        let schema = Arc::new(Schema::new(opened.metadata.schema().fields().clone()));
        let mut opened = Some(opened);
        let layout = Layout::new(first.relation.as_str(), schema, first.time.as_deref(), &first.key)?;
        let mut merging = Merging {
            archive: self,
            layout: &layout,
            date,
            span_us,
            sequence,
            window: Window::default(),
            writing: None,
        };
        for file in files.iter().copied() {
            let taken = match opened.take() {
                Some(opened) => merging.take(file, &opened).await,
                None => match self.opened(file).await {
                    Ok(opened) => merging.take(file, &opened).await,
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = taken {
                return Err(merging.abandon(error).await);
            }
        }
        merging.finish().await
    }

    /// Reads a file whole, compares it with its checksum and opens it.
    async fn opened(&self, file: &FileEntry) -> Result<Opened, HistoryError> {
        let bytes = self.checked_bytes(file).await?;
        let metadata = ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::default());
        let metadata = metadata.map_err(|error| HistoryError::damaged(&file.path, error))?;
        Ok(Opened { bytes, metadata })
    }
}

/// A file in memory.
struct Opened {
    bytes: Bytes,
    metadata: ArrowReaderMetadata,
}

fn mixed(what: impl Into<String>) -> HistoryError {
    HistoryError::unsupported(what, "This is a bug of Sangam. Please report it.")
}

/// Rows for the next row group.
#[derive(Default)]
struct Window {
    rows: Vec<RecordBatch>,
    count: usize,
    bytes: usize,
}

impl Window {
    fn push(&mut self, rows: RecordBatch) {
        self.count += rows.num_rows();
        self.bytes += rows.get_array_memory_size();
        self.rows.push(rows);
    }

    fn is_full(&self) -> bool {
        self.count >= WINDOW_ROWS || self.bytes >= WINDOW_BYTES
    }
}

/// A merge that goes on.
struct Merging<'a> {
    archive: &'a Archive,
    layout: &'a Layout,
    date: &'a str,
    span_us: (i64, i64),
    sequence: u64,
    window: Window,
    writing: Option<Writing<'a>>,
}

impl Merging<'_> {
    /// Takes a file's rows over.
    async fn take(&mut self, file: &FileEntry, opened: &Opened) -> Result<(), HistoryError> {
        // Windows end where row groups end, so that their times hardly overlap.
        for row_group in 0..opened.metadata.metadata().num_row_groups() {
            let reader =
                ParquetRecordBatchReaderBuilder::new_with_metadata(opened.bytes.clone(), opened.metadata.clone())
                    .with_row_groups(vec![row_group])
                    .with_batch_size(WINDOW_ROWS)
                    .build();
            for rows in reader.map_err(|error| HistoryError::damaged(&file.path, error))? {
                let rows = rows.map_err(|error| HistoryError::damaged(&file.path, error))?;
                self.window.push(self.layout.fit(&rows)?);
            }
            if self.window.is_full() {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Writes what is in the window, if anything is.
    async fn flush(&mut self) -> Result<(), HistoryError> {
        let Window { rows, count, .. } = std::mem::take(&mut self.window);
        if count == 0 {
            return Ok(());
        }
        let rows = concat_batches(&self.layout.schema, &rows).and_then(|rows| arranged(self.layout, &rows));
        let rows = rows.map_err(|error| unfit(self.layout, error))?;
        let writing = match &mut self.writing {
            Some(writing) => writing,
            none => none.insert(Writing::begin(
                &self.archive.location,
                self.layout,
                self.date,
                self.span_us,
                (self.sequence, true),
                &rows,
            )?),
        };
        writing.window(&rows).await
    }

    async fn finish(mut self) -> Result<FileEntry, HistoryError> {
        if let Err(error) = self.flush().await {
            return Err(self.abandon(error).await);
        }
        match self.writing {
            Some(writing) => writing.finish().await,
            None => Err(mixed(format!(
                "there are no rows of \"{}\" to merge",
                self.layout.relation
            ))),
        }
    }

    async fn abandon(self, error: HistoryError) -> HistoryError {
        match self.writing {
            Some(writing) => writing.abandon(error).await,
            None => error,
        }
    }
}
