//! What can go wrong with the data folder.

use std::io;
use std::path::{Path, PathBuf};

/// Why the log cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another program has it open.
    #[error(
        "the data folder \"{}\" is in use by another program\n  hint: Two programs cannot share one. Stop the other, or name another folder with --data.",
        .0.display()
    )]
    InUse(PathBuf),
    /// It was written in a format that this program does not know.
    #[error(
        "the data folder \"{}\" has format {found}, and this program reads format {known}\n  hint: Use the program that wrote it, or name another folder with --data.",
        path.display()
    )]
    Format {
        /// The folder.
        path: PathBuf,
        /// The format it says.
        found: u32,
        /// The format this program writes.
        known: u32,
    },
    /// What was read is not what was written.
    #[error(
        "\"{}\" is damaged: {what}\n  hint: Nothing was changed. Restore the data folder from a backup (`sangam restore`), or move it away to begin anew.",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The disk is full.
    #[error(
        "no space is left to write \"{}\"\n  hint: All that was acknowledged is safe. Make room on its volume, then start again.",
        .0.display()
    )]
    Full(PathBuf),
    /// The system refused.
    #[error("could not {what} \"{}\"", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl LogError {
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> LogError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LogError::Full(path),
            _ => LogError::Io { what, path, source },
        }
    }

    /// Says that files of history could not be read or copied.
    pub fn history(what: &'static str, place: &str, error: anyhow::Error) -> LogError {
        LogError::io(what, Path::new(place), io::Error::other(format!("{error:#}")))
    }

    pub(super) fn damaged(path: &Path, what: impl ToString) -> LogError {
        LogError::Damaged {
            path: path.to_owned(),
            what: what.to_string(),
        }
    }

    pub(super) fn redb(what: &'static str, path: &Path, error: impl Into<redb::Error>) -> LogError {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => LogError::InUse(path.to_owned()),
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => LogError::damaged(path, source),
            redb::Error::Io(source) => LogError::io(what, path, source),
            redb::Error::Corrupted(what) => LogError::damaged(path, what),
            // Whatever wrote a file of that name, it was not this program.
            upgrade @ redb::Error::UpgradeRequired(_) => LogError::damaged(path, upgrade),
            other => LogError::io(what, path, io::Error::other(other.to_string())),
        }
    }
}
