//! Writes one file: windows in, a file that is durable and its entry out.

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;

use super::encoding::properties;
use super::entry::{Checksums, FORMAT_VERSION, FileEntry, path};
use super::error::HistoryError;
use super::layout::Layout;
use super::local::NewFile;
use super::location::Location;
use super::remote::NewObject;

/// A file that is being written, a row group at a time.
pub(super) struct Writing<'a> {
    layout: &'a Layout,
    date: String,
    sequence: u64,
    path: String,
    target: Target,
    writer: ArrowWriter<Vec<u8>>,
    checksums: Checksums,
    bytes: u64,
    rows: u64,
    times: Option<(i64, i64)>,
    ticks: Option<(u64, u64)>,
}

enum Target {
    File(NewFile),
    Object(NewObject),
}

impl<'a> Writing<'a> {
    /// Begins the file for rows of a day or month from `span_us.0` to `span_us.1`, merged from others or not; `first`
    /// is what encodings are chosen by.
    pub(super) fn begin(
        location: &Location,
        layout: &'a Layout,
        date: &str,
        span_us: (i64, i64),
        (sequence, is_merged): (u64, bool),
        first: &RecordBatch,
    ) -> Result<Self, HistoryError> {
        let path = path(&layout.relation, date, span_us, sequence, is_merged);
        let properties = properties(layout, first).map_err(|error| unwritten(&path, error))?;
        let writer = ArrowWriter::try_new(Vec::new(), layout.schema.clone(), Some(properties))
            .map_err(|error| unwritten(&path, error))?;
        let target = match &location.folder {
            Some(folder) => Target::File(folder.create(&path).map_err(|error| failed(&path, error))?),
            None => Target::Object(NewObject::new(location.store.clone(), &path)),
        };
        Ok(Writing {
            layout,
            date: date.to_owned(),
            sequence,
            path,
            target,
            writer,
            checksums: Checksums::new(),
            bytes: 0,
            rows: 0,
            times: None,
            ticks: None,
        })
    }

    /// Writes a window as a row group.
    pub(super) async fn window(&mut self, rows: &RecordBatch) -> Result<(), HistoryError> {
        self.rows += rows.num_rows() as u64;
        self.times = wider(self.times, self.layout.times(rows));
        self.ticks = wider(self.ticks, self.layout.ticks(rows));
        let written = self.writer.write(rows).and_then(|()| self.writer.flush());
        written.map_err(|error| unwritten(&self.path, error))?;
        self.pass_on().await
    }

    /// Hands what is encoded to the store.
    async fn pass_on(&mut self) -> Result<(), HistoryError> {
        let bytes = std::mem::take(self.writer.inner_mut());
        self.bytes += bytes.len() as u64;
        self.checksums.update(&bytes);
        match &mut self.target {
            Target::File(file) => file.append(&bytes).map_err(|error| failed(&self.path, error)),
            Target::Object(object) => object.append(bytes).await.map_err(|error| refused(&self.path, error)),
        }
    }

    /// Ends the file: it is durable, or an error and not there.
    pub(super) async fn finish(mut self) -> Result<FileEntry, HistoryError> {
        if let Err(error) = self.end().await {
            return Err(self.abandon(error).await);
        }
        let Writing { target, path, .. } = self;
        match target {
            Target::File(file) => file.commit().map_err(|error| failed(&path, error))?,
            Target::Object(object) => object.commit().await.map_err(|error| refused(&path, error))?,
        }
        let (crc32, block_bytes, blocks) = self.checksums.finish();
        Ok(FileEntry {
            version: FORMAT_VERSION,
            path,
            relation: self.layout.relation.clone(),
            date: self.date,
            sequence: self.sequence,
            rows: self.rows,
            bytes: self.bytes,
            crc32,
            block_bytes,
            blocks,
            time: self.layout.time.clone(),
            time_min_us: self.times.map(|times| times.0),
            time_max_us: self.times.map(|times| times.1),
            tick_min: self.ticks.map(|ticks| ticks.0),
            tick_max: self.ticks.map(|ticks| ticks.1),
            key: self.layout.key.clone(),
            fingerprint: self.layout.fingerprint.clone(),
        })
    }

    async fn end(&mut self) -> Result<(), HistoryError> {
        self.writer.finish().map_err(|error| unwritten(&self.path, error))?;
        self.pass_on().await
    }

    /// Leaves nothing behind where that can be helped.
    pub(super) async fn abandon(self, error: HistoryError) -> HistoryError {
        if let Target::Object(object) = self.target {
            object.abandon().await;
        }
        error
    }
}

fn wider<T: Ord + Copy>(a: Option<(T, T)>, b: Option<(T, T)>) -> Option<(T, T)> {
    match (a, b) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (a, b) => a.or(b),
    }
}

fn unwritten(path: &str, error: ParquetError) -> HistoryError {
    HistoryError::parquet(format!("could not encode history file \"{path}\""), error)
}

fn failed(path: &str, error: std::io::Error) -> HistoryError {
    if error.kind() == std::io::ErrorKind::AlreadyExists {
        return HistoryError::taken(path).because(error);
    }
    HistoryError::io(format!("could not write history file \"{path}\""), error)
}

fn refused(path: &str, error: object_store::Error) -> HistoryError {
    HistoryError::store(format!("could not write history file \"{path}\""), error)
}
