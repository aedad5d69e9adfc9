//! Which files of history there are, and what they mean: the manifest that changes in one step with the checkpoint.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use queries::cold::Cold;
use serde::{Deserialize, Serialize};

use super::entry::FileEntry;

/// All of history that counts. A file that it does not name does not exist.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// The last number that a file was named by.
    pub sequence: u64,
    /// Views whose finished rows are kept, by name.
    pub views: BTreeMap<String, KeptView>,
    /// Sources whose raw input is kept, by name.
    pub sources: BTreeMap<String, KeptSource>,
    /// The number of the first record of the log whose input is not among the files.
    pub records_from: u64,
}

/// The finished rows of a view. Places in time are values of its bucket's column.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptView {
    /// The files.
    pub entries: Vec<FileEntry>,
    /// Rows of buckets below this are in files, and nowhere else.
    pub stored: i64,
    /// Rows below this are in the view no more, as of the checkpoint.
    pub gone: i64,
    /// Rows before this can leave: others must be read first.
    pub limit: i64,
    /// What `limit` is from the first tick after the checkpoint on that says so.
    pub horizon: i64,
    /// How many rows are in files and in the view, as of the checkpoint.
    pub rows: u64,
    /// The columns; other columns are another history.
    pub fingerprint: String,
}

/// The raw input of a source.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KeptSource {
    /// The files.
    pub entries: Vec<FileEntry>,
    /// From this tick on, and with what stood there before it, all is known.
    pub since: u64,
    /// Of files that have expired, the latest time in them: a row as old may be missing while it is retained.
    #[serde(default)]
    pub expired_us: Option<i64>,
    /// Of files that have expired, the last tick in them.
    #[serde(default)]
    pub expired_tick: Option<u64>,
}

impl Inventory {
    /// Returns every file.
    pub fn entries(&self) -> impl Iterator<Item = &FileEntry> {
        let views = self.views.values().flat_map(|view| &view.entries);
        views.chain(self.sources.values().flat_map(|source| &source.entries))
    }
}

/// What the next checkpoint made of a view: from the first tick after it on, some rows are in files.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The view.
    pub view: String,
    /// Rows of buckets below this are in files.
    pub stored: i64,
    /// Of these, rows below this are in memory, too.
    pub horizon: i64,
    /// The files.
    pub cold: Cold,
    /// The rows that come to memory again.
    pub held: Vec<RecordBatch>,
}
