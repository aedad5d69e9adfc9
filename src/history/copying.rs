//! Copies files from one place to another: for backups, and back.

use super::archive::Archive;
use super::entry::FileEntry;
use super::error::{HistoryError, HistoryErrorKind};

impl Archive {
    /// Copies files into another archive, under the same names; each is compared with its checksums first, and is
    /// durable there when this returns. Tells whether all were there: a merge may have replaced some meanwhile.
    ///
    /// # Errors
    /// When one is damaged, or a store fails.
    pub async fn copy<'a>(
        &self,
        entries: impl IntoIterator<Item = &'a FileEntry>,
        to: &Archive,
    ) -> Result<bool, HistoryError> {
        for entry in entries {
            match self.checked_bytes(entry).await {
                Ok(bytes) => to.put(&entry.path, bytes.to_vec()).await?,
                Err(error) if error.kind == HistoryErrorKind::Missing => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
