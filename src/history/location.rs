//! Where an archive is: a local folder, or a bucket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, RetryConfig};

use super::error::{HistoryError, HistoryErrorKind};
use super::local::LocalFolder;

/// How long an answer is waited for, with the pauses between attempts.
const PATIENCE: Duration = Duration::from_secs(30);
/// Attempts of one request.
const RETRIES_MAX: usize = 6;

/// A place for files.
#[derive(Clone, Debug)]
pub(super) struct Location {
    /// As it was named.
    pub(super) name: String,
    pub(super) store: Arc<dyn ObjectStore>,
    /// The folder, where it is one: the store alone does not sync.
    pub(super) folder: Option<LocalFolder>,
}

impl Location {
    /// Reads a path, `file:///folder` or `s3://bucket/prefix`.
    pub(super) fn open(name: &str) -> Result<Self, HistoryError> {
        let Some((scheme, rest)) = name.split_once("://") else {
            return Location::folder(name, PathBuf::from(name));
        };
        match scheme {
            "file" => Location::folder(name, PathBuf::from(rest)),
            "s3" | "s3a" => Location::bucket(name, rest),
            _ => Err(HistoryError::new(
                HistoryErrorKind::Setting,
                format!("\"{name}\" is no place for history: \"{scheme}\" is not known"),
                "Name a folder, or a bucket as in s3://bucket/prefix.",
            )),
        }
    }

    fn folder(name: &str, path: PathBuf) -> Result<Self, HistoryError> {
        if path.as_os_str().is_empty() {
            return Err(HistoryError::new(
                HistoryErrorKind::Setting,
                "the place for history is empty",
                "Name a folder, or a bucket as in s3://bucket/prefix.",
            ));
        }
        let folder = LocalFolder::open(&path)?;
        let store = LocalFileSystem::new_with_prefix(folder.root())
            .map_err(|error| HistoryError::store(format!("could not open the folder of history \"{name}\""), error))?;
        Ok(Location {
            name: name.to_owned(),
            store: Arc::new(store),
            folder: Some(folder),
        })
    }

    fn bucket(name: &str, rest: &str) -> Result<Self, HistoryError> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(HistoryError::new(
                HistoryErrorKind::Setting,
                format!("\"{name}\" names no bucket"),
                "Write s3://bucket/prefix.",
            ));
        }
        let retry = RetryConfig {
            max_retries: RETRIES_MAX,
            retry_timeout: PATIENCE,
            ..RetryConfig::default()
        };
        let store = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_retry(retry)
            .build()
            .map_err(|error| HistoryError::store(format!("could not open \"{name}\""), error))?;
        let prefix = prefix.trim_matches('/');
        Ok(Location {
            name: name.to_owned(),
            store: if prefix.is_empty() {
                Arc::new(store)
            } else {
                Arc::new(PrefixStore::new(store, prefix))
            },
            folder: None,
        })
    }
}
