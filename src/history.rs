//! What outlives memory: rows that are final, in immutable Parquet files in an object store.
//!
//! Two kinds of rows come here: those of closed buckets of views that say `keep`, and the raw
//! input of sources that say so, each row with its tick, its place in the tick and its diff.
//! Both are appended once and never changed.
//!
//! `archive` is the door: a local folder or a bucket (`location`, `local`, `remote`), into which
//! rows are written (`layout`, `windows`, `encoding`, `writing`) as files that `entry` describes.
//! Which files there *are* says the caller's manifest, a list of entries kept where it keeps all
//! that must change in one step; a file that is in no manifest does not exist, and `orphans`
//! finds it; `inventory` is the manifest of a data folder. `copying` copies files for backups. `plan` says which files to merge and which have expired, `compaction` merges,
//! `verification` reads everything and compares. How files are read is in `queries::cold`.

mod archive;
mod compaction;
mod copying;
mod encoding;
mod entry;
mod error;
mod inventory;
mod layout;
mod local;
mod location;
mod orphans;
mod plan;
mod remote;
mod verification;
mod windows;
mod writing;

pub use archive::Archive;
pub use entry::{FORMAT_VERSION, FileEntry};
pub use error::{HistoryError, HistoryErrorKind};
pub use inventory::{Inventory, KeptSource, KeptView, Stored};
pub use layout::Layout;
pub use plan::{expired, plan_compaction};

#[cfg(test)]
mod tests;
