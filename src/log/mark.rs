//! How far the log was safe, in a file of its own.
//!
//! After a crash the store takes the newer of its two last commits whose checksum is right: so a byte that changed in
//! the newest looks like a commit the power was cut in, and would take what was acknowledged with it. This file tells
//! them apart. It is written after each commit that was synced, and not synced itself: it is never ahead of what the
//! disk holds, and behind only by what the system has not written yet.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::error::LogError;

/// The file's name in the data folder.
const FILE: &str = "log.mark";

/// The number of a record, and a checksum of it.
const BYTES: usize = 12;

/// The file.
pub(super) struct Mark {
    path: PathBuf,
    file: Mutex<File>,
}

impl Mark {
    /// Tells whether a folder has one.
    pub(super) fn exists(dir: &Path) -> bool {
        dir.join(FILE).exists()
    }

    /// Opens it, or makes one that says nothing.
    pub(super) fn open(dir: &Path) -> Result<Mark, LogError> {
        let path = dir.join(FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = file.map_err(|error| LogError::io("open", &path, error))?;
        Ok(Mark {
            path,
            file: Mutex::new(file),
        })
    }

    /// Returns the number of the newest record that was safe; none where nothing legible is said.
    pub(super) fn read(&self) -> Result<Option<u64>, LogError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = [0; BYTES];
        let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut bytes));
        match read {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(LogError::io("read", &self.path, error)),
        }
        let (number, checksum) = bytes.split_at(8);
        // A power cut may have left any of it.
        if crc32fast::hash(number).to_le_bytes() != checksum {
            return Ok(None);
        }
        Ok(number.try_into().ok().map(u64::from_le_bytes))
    }

    /// Says that records up to this number are safe.
    pub(super) fn write(&self, number: u64) -> Result<(), LogError> {
        let mut bytes = [0; BYTES];
        let number = number.to_le_bytes();
        bytes[..8].copy_from_slice(&number);
        bytes[8..].copy_from_slice(&crc32fast::hash(&number).to_le_bytes());
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&bytes));
        written.map_err(|error| LogError::io("write", &self.path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_was_written_last_or_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(!Mark::exists(dir.path()));
        let mark = Mark::open(dir.path()).expect("a file");
        assert_eq!(mark.read().expect("a file"), None);
        for number in [7, u64::MAX, 3] {
            mark.write(number).expect("a file");
            let again = Mark::open(dir.path()).expect("a file");
            assert_eq!(again.read().expect("a file"), Some(number));
        }
        std::fs::write(dir.path().join(FILE), b"no number of ours").expect("a file");
        assert_eq!(mark.read().expect("a file"), None);
    }
}
