//! The door: opens a place for history, writes rows into it, hands queries what they read.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutMode};
use queries::cold::{Cold, ColdStore};
use serde::{Deserialize, Serialize};

use super::entry::{FORMAT_VERSION, FileEntry};
use super::error::{HistoryError, HistoryErrorKind};
use super::layout::Layout;
use super::location::Location;
use super::windows::{cut, unfit};
use super::writing::Writing;

/// Says whose archive it is.
const OWNER: &str = "sangam-history.json";
/// Written and removed when an archive is opened.
const PROBE: &str = "sangam-probe";

/// A place for history.
///
/// Its functions are asynchronous because a bucket is, yet encoding, and writing to a local
/// folder, happen on the thread that polls them: give history a thread of its own.
#[derive(Clone, Debug)]
pub struct Archive {
    pub(super) location: Location,
    cold: ColdStore,
}

/// What [`OWNER`] holds.
#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    version: u32,
    owner: String,
}

impl Archive {
    /// Opens a folder, or a bucket as in `s3://bucket/prefix`, for the deployment `owner`.
    ///
    /// Whoever opens it first is its owner from then on: two deployments in one place would
    /// take each other's files for orphans. Keys and endpoint of a bucket come from the standard
    /// variables `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`
    /// and `AWS_ALLOW_HTTP`.
    ///
    /// # Errors
    /// When it cannot be written, belongs to another deployment or was written by a later version.
    pub async fn open(place: &str, owner: &str) -> Result<Archive, HistoryError> {
        let location = Location::open(place)?;
        let archive = Archive {
            cold: ColdStore::new(Arc::clone(&location.store)),
            location,
        };
        archive.own(owner).await?;
        archive.probe().await?;
        Ok(archive)
    }

    /// Returns the place, as it was named.
    pub fn place(&self) -> &str {
        &self.location.name
    }

    async fn own(&self, owner: &str) -> Result<(), HistoryError> {
        let place = self.place();
        let what = || format!("could not read whose history \"{place}\" is");
        let path = Path::from(OWNER);
        let found = match self.location.store.get(&path).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        let bytes = match found {
            Ok(bytes) => bytes,
            Err(Error::NotFound { .. }) => return self.claim(owner).await,
            Err(error) => return Err(HistoryError::store(what(), error)),
        };
        let found: Owner = serde_json::from_slice(&bytes).map_err(|error| {
            HistoryError::new(
                HistoryErrorKind::Damaged,
                format!("{}: \"{OWNER}\" is damaged: {error}", what()),
                format!(
                    "If it is this deployment's, replace it by {{\"version\":{FORMAT_VERSION},\"owner\":\"{owner}\"}}."
                ),
            )
        })?;
        if found.version > FORMAT_VERSION {
            return Err(HistoryError::new(
                HistoryErrorKind::Version,
                format!(
                    "\"{place}\" has format version {}, and this program knows {FORMAT_VERSION} at most",
                    found.version
                ),
                "It was written by a later version of sangam. Run that one, or a later one still.",
            ));
        }
        if found.owner != owner {
            return Err(HistoryError::new(
                HistoryErrorKind::Setting,
                format!("\"{place}\" holds the history of another deployment, or of another data folder"),
                format!(
                    "Choose another folder or prefix. If the data folder of this history is lost, its files are plain \
                     Parquet and stay as they are; to give the place up to this deployment, remove \"{OWNER}\" and \
                     they are deleted."
                ),
            ));
        }
        Ok(())
    }

    async fn claim(&self, owner: &str) -> Result<(), HistoryError> {
        let owner = Owner {
            version: FORMAT_VERSION,
            owner: owner.to_owned(),
        };
        let bytes = serde_json::to_vec(&owner).unwrap_or_default();
        self.put(OWNER, bytes).await
    }

    /// Writes a small file.
    pub(super) async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<(), HistoryError> {
        let place = self.place();
        match &self.location.folder {
            Some(folder) => folder
                .create(path)
                .and_then(|mut file| {
                    file.append(&bytes)?;
                    file.commit()
                })
                .map_err(|error| HistoryError::io(format!("could not write to \"{place}\""), error)),
            None => {
                let path = Path::from(path);
                let put = self
                    .location
                    .store
                    .put_opts(&path, bytes.into(), PutMode::Overwrite.into());
                match put.await {
                    Ok(_) => Ok(()),
                    Err(Error::NotFound { .. }) => Err(HistoryError::new(
                        HistoryErrorKind::Setting,
                        format!("could not write to \"{place}\": there is no such bucket"),
                        "Make the bucket, or correct its name; AWS_ENDPOINT_URL says on which server, AWS_REGION where.",
                    )),
                    Err(error) => Err(HistoryError::store(format!("could not write to \"{place}\""), error)),
                }
            }
        }
    }

    /// Finds out now, not at the first closed bucket, that nothing can be written.
    async fn probe(&self) -> Result<(), HistoryError> {
        self.delete(PROBE).await?;
        self.put(PROBE, b"sangam".to_vec()).await?;
        self.delete(PROBE).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<(), HistoryError> {
        let what = || format!("could not remove \"{path}\" from \"{}\"", self.place());
        match &self.location.folder {
            Some(folder) => folder.remove(path).map_err(|error| HistoryError::io(what(), error)),
            None => match self.location.store.delete(&Path::from(path)).await {
                Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(HistoryError::store(what(), error)),
            },
        }
    }

    /// Writes rows, a file for each day among them; they are durable when this returns.
    ///
    /// `sequence` makes the files' names new: no two calls of this, or of
    /// [`compact`](Archive::compact), may ever say the same for a relation. The rows are held in
    /// memory twice meanwhile, so write a million at most at once.
    ///
    /// # Errors
    /// When the rows do not fit the layout, or the store fails. Files of some days may be there
    /// then; they are orphans.
    pub async fn write(
        &self,
        layout: &Layout,
        batches: &[RecordBatch],
        sequence: u64,
    ) -> Result<Vec<FileEntry>, HistoryError> {
        let fitting = batches.iter().map(|batch| layout.fit(batch));
        let fitting = fitting.collect::<Result<Vec<_>, _>>()?;
        let rows = concat_batches(&layout.schema, &fitting).map_err(|error| unfit(layout, error))?;
        if rows.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let mut entries = Vec::new();
        for day in cut(layout, &rows)? {
            entries.push(self.put_windows(layout, &day.date, &day.windows, sequence).await?);
        }
        Ok(entries)
    }

    async fn put_windows(
        &self,
        layout: &Layout,
        date: &str,
        windows: &[RecordBatch],
        sequence: u64,
    ) -> Result<FileEntry, HistoryError> {
        let mut span_us = (i64::MAX, i64::MIN);
        for window in windows {
            for moment in layout.moments(window)? {
                span_us = (span_us.0.min(moment), span_us.1.max(moment));
            }
        }
        let mut writing = Writing::begin(&self.location, layout, date, span_us, (sequence, false), &windows[0])?;
        for window in windows {
            if let Err(error) = writing.window(window).await {
                return Err(writing.abandon(error).await);
            }
        }
        writing.finish().await
    }

    /// Hands the files in force to queries: all of one relation.
    pub fn cold<'a>(&self, entries: impl IntoIterator<Item = &'a FileEntry>) -> Cold {
        let mut time = None;
        let files = entries.into_iter().map(|entry| {
            time = entry.time.clone();
            entry.cold()
        });
        let cold = Cold::new(&self.cold, files.collect());
        match time {
            Some(time) => cold.with_time(time),
            None => cold,
        }
    }
}
