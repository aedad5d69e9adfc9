//! What can go wrong outside the data: a declaration, or a file.
//!
//! Bad *data* is never an error here: a bad row becomes a
//! [`Rejected`](crate::Rejected) and the rest goes on.
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A declaration that cannot work, found before anything runs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what}")]
pub struct ConfigError {
    /// What is wrong, in lower case, naming the key or column.
    pub what: String,
    /// What to do about it, in full sentences.
    pub hint: Option<String>,
}

impl ConfigError {
    /// An error that speaks for itself.
    pub fn new(what: impl Into<String>) -> ConfigError {
        ConfigError {
            what: what.into(),
            hint: None,
        }
    }

    /// Adds what the reader of the message may do.
    pub fn with_hint(mut self, hint: impl Into<String>) -> ConfigError {
        self.hint = Some(hint.into());
        self
    }
}

/// A source that could not go on reading; what it had yielded stays good.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file is absent or may not be read.
    #[error("could not open file \"{}\"", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file broke off, or its compression is damaged.
    #[error("could not read on in file \"{}\"", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A broker of messages refuses for good what is asked of it.
    #[error("could not read {what}: {reason}")]
    Broker {
        /// What was to be read.
        what: String,
        /// Why, in the broker's or its client's words.
        reason: String,
    },
    /// The file is not what its format says.
    #[error("could not read file \"{}\" as parquet: {reason}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What reads cannot be started.
    #[error("could not start {what}")]
    Start {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}
