//! Why history could not be written or read, and the way out.

use std::error::Error;
use std::io;

/// What callers do differently about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryErrorKind {
    /// An operator has to change an address, a permission or a key: trying again is of no use.
    Setting,
    /// The store does not answer, or is full: try again later.
    Unavailable,
    /// A file is not what was written.
    Damaged,
    /// A file that the manifest names is not there.
    Missing,
    /// Something is there under the name of a new file.
    Taken,
    /// It was written by a later version.
    Version,
    /// These rows cannot be kept in files.
    Unsupported,
}

/// Why history could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{what}\n    Hint: {hint}")]
pub struct HistoryError {
    /// What callers may act on.
    pub kind: HistoryErrorKind,
    /// What was attempted, on what.
    pub what: String,
    /// The way out, in full sentences.
    pub hint: String,
    /// The cause, if another library told one.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

/// The hint where the network, or the server, is what is wrong.
const LATER: &str = "Nothing is lost: it is tried again. See whether the store can be reached from here.";

impl HistoryError {
    pub(super) fn new(kind: HistoryErrorKind, what: impl Into<String>, hint: impl Into<String>) -> Self {
        HistoryError {
            kind,
            what: what.into(),
            hint: hint.into(),
            source: None,
        }
    }

    pub(super) fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(super) fn damaged(path: &str, how: impl std::fmt::Display) -> Self {
        HistoryError::new(
            HistoryErrorKind::Damaged,
            format!("history file \"{path}\" is damaged: {how}"),
            "Restore the file from a backup, under the same name. Without one, its rows are lost: drop it from the \
             history by an explicit command.",
        )
    }

    pub(super) fn missing(path: &str) -> Self {
        HistoryError::new(
            HistoryErrorKind::Missing,
            format!("history file \"{path}\" is missing"),
            "Restore the file from a backup, under the same name. Without one, its rows are lost: drop it from the \
             history by an explicit command.",
        )
    }

    pub(super) fn taken(path: &str) -> Self {
        HistoryError::new(
            HistoryErrorKind::Taken,
            format!("history file \"{path}\" exists already, and files are never written over"),
            "A file that no manifest names is left from before a crash: remove orphans before writing.",
        )
    }

    pub(super) fn unsupported(what: impl Into<String>, hint: impl Into<String>) -> Self {
        HistoryError::new(HistoryErrorKind::Unsupported, what, hint)
    }

    /// Says what an I/O error of the local folder means.
    pub(super) fn io(what: impl Into<String>, error: io::Error) -> Self {
        use HistoryErrorKind::{Setting, Unavailable};
        let (kind, hint) = match error.kind() {
            io::ErrorKind::PermissionDenied => (Setting, "Give the user that runs sangam the right to write there."),
            io::ErrorKind::ReadOnlyFilesystem => (Setting, "The file system is mounted read-only. Choose another."),
            io::ErrorKind::NotADirectory => (Setting, "A file is in the way. Name a folder."),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
                Unavailable,
                "The disk is full. Free some space; nothing is lost meanwhile.",
            ),
            _ => (
                Unavailable,
                "The disk did not do what it was told. See the system's log.",
            ),
        };
        let what = format!("{}: {error}", what.into());
        HistoryError::new(kind, what, hint).because(error)
    }

    /// Says what an object store's error means.
    pub(super) fn store(what: impl Into<String>, error: object_store::Error) -> Self {
        use HistoryErrorKind::{Setting, Unavailable};
        use object_store::Error as E;
        let what = what.into();
        let text = chain(&error);
        if let Some(io) = io_error(&error) {
            return HistoryError::io(what, io);
        }
        let (kind, hint) = match &error {
            E::NotFound { path, .. } => return HistoryError::missing(path).because(error),
            E::AlreadyExists { path, .. } | E::Precondition { path, .. } => {
                return HistoryError::taken(path).because(error);
            }
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => (
                Setting,
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key that may s3:ListBucket, s3:GetObject, \
                 s3:PutObject and s3:DeleteObject there, and AWS_REGION to the bucket's region.",
            ),
            _ if text.contains("URL scheme is not allowed") => (
                Setting,
                "The endpoint is plain HTTP. Set AWS_ALLOW_HTTP=true if that is what you want.",
            ),
            _ if text.contains("credential") || text.contains("metadata") => (
                Setting,
                "No key was found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of sangam.",
            ),
            _ => (Unavailable, LATER),
        };
        HistoryError::new(kind, format!("{what}: {text}"), hint).because(error)
    }

    /// Says that Parquet could not take or give rows.
    pub(super) fn parquet(what: impl Into<String>, error: impl Error + Send + Sync + 'static) -> Self {
        let what = format!("{}: {error}", what.into());
        HistoryError::unsupported(what, "This is a bug of Sangam. Please report it with the view's text.")
            .because(error)
    }
}

/// Joins what an error and its causes say, on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        // Some repeat their cause.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Finds the I/O error of a local folder behind a store's.
fn io_error(error: &object_store::Error) -> Option<io::Error> {
    let object_store::Error::Generic {
        store: "LocalFileSystem",
        source,
    } = error
    else {
        return None;
    };
    let mut next: Option<&(dyn Error + 'static)> = Some(source.as_ref());
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io::Error::new(io.kind(), io.to_string()));
        }
        next = cause.source();
    }
    None
}
