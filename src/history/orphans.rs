//! Finds files that no manifest names, and removes files.

use std::collections::HashSet;

use futures_util::TryStreamExt;
use object_store::path::Path;

use super::archive::Archive;
use super::entry::FileEntry;
use super::error::HistoryError;
use super::local::UNFINISHED;

impl Archive {
    /// Lists the files of history that `manifest`, the entries of all relations, does not name.
    ///
    /// They are left from writes that a crash cut short, or from before a merge. Nothing may be
    /// written meanwhile: a file that is there before its manifest would be listed, too. What
    /// does not look like a file of history is never listed.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn orphans(&self, manifest: &[FileEntry]) -> Result<Vec<String>, HistoryError> {
        let named: HashSet<&str> = manifest.iter().map(|entry| entry.path.as_str()).collect();
        let mut found = Vec::new();
        let mut listed = self.location.store.list(None);
        loop {
            let next = listed.try_next().await;
            let next = next.map_err(|error| {
                HistoryError::store(format!("could not list the files of \"{}\"", self.place()), error)
            })?;
            let Some(file) = next else { break };
            let path = file.location.to_string();
            if is_history(&file.location) && !named.contains(path.as_str()) {
                found.push(path);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes files; one that is gone already is no error.
    ///
    /// Only files that no manifest names, and that no query reads: those, whose
    /// [`Cold`](queries::cold::Cold) nobody holds any more.
    ///
    /// # Errors
    /// When the store fails; some may be removed then.
    pub async fn remove<S: AsRef<str>>(&self, paths: &[S]) -> Result<(), HistoryError> {
        for path in paths {
            self.delete(path.as_ref()).await?;
        }
        Ok(())
    }
}

/// Tells whether a file is one that history writes: `relation/date=…/….parquet`, finished or not.
fn is_history(path: &Path) -> bool {
    let parts: Vec<String> = path.parts().map(|part| part.as_ref().to_owned()).collect();
    let [relation, date, name] = parts.as_slice() else {
        return false;
    };
    let is_unfinished = name.starts_with('.') && name.ends_with(UNFINISHED);
    crate::config::is_identifier(relation) && date.starts_with("date=") && (name.ends_with(".parquet") || is_unfinished)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_history_are_taken_for_such() {
        for (path, expected) in [
            (
                "readings/date=2026-11-29/20261129T100000-20261129T110000-17.parquet",
                true,
            ),
            ("readings/date=2026-11/20261129T100000-20261129T110000-17.parquet", true),
            (
                "readings/date=2026-11-29/.20261129T100000-20261129T110000-17.parquet.tmp",
                true,
            ),
            ("sangam-history.json", false),
            ("readings/notes.txt", false),
            ("readings/date=2026-11-29/notes.txt", false),
            ("Backups/date=2026-11-29/a.parquet", false),
            ("a/b/date=2026-11-29/a.parquet", false),
        ] {
            assert_eq!(is_history(&Path::from(path)), expected, "{path}");
        }
    }
}
