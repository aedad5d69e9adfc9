//! Copies of a data folder, made while it is written to, and put back.

use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;

use super::checkpoint::{FOLDER, Manifest};
use super::error::LogError;
use super::store::{FILE, LogStore, META, OUTBOX, RECORDS, SCHEMAS, checked, sync_folder};
use crate::history::Inventory;

/// How often a copy is begun anew because a checkpoint took the place of the one that was being copied.
const ATTEMPTS: usize = 5;

/// Bytes copied to the store in one transaction.
const COPIED_BYTES_MAX: usize = 32 << 20;

impl LogStore {
    /// Copies everything as of one moment into a folder that is not there yet; writing goes on meanwhile. `history`
    /// copies the files of history that go with it into that folder, and tells whether all were there still.
    ///
    /// # Errors
    /// When the folder is there, or something cannot be read or written.
    pub fn backup(
        &self,
        data: &Path,
        to: &Path,
        history: impl Fn(&Inventory, &Path) -> Result<bool, LogError>,
    ) -> Result<(), LogError> {
        if to.exists() {
            let error = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "it is there already");
            return Err(LogError::io("make the folder", to, error));
        }
        let part = to.with_extension("part");
        for _ in 0..ATTEMPTS {
            if part.exists() {
                std::fs::remove_dir_all(&part).map_err(|error| LogError::io("remove", &part, error))?;
            }
            std::fs::create_dir_all(part.join(FOLDER))
                .map_err(|error| LogError::io("make the folder", &part, error))?;
            let (manifest, inventory) = self.copy(&part.join(FILE))?;
            let kept = inventory.unwrap_or_default();
            let files = copy_files(manifest.as_ref(), data, &part)?;
            if files && copy_definitions(data, &part)? && history(&kept, &part)? {
                sync_folder(&part.join(FOLDER))?;
                sync_folder(&part)?;
                std::fs::rename(&part, to).map_err(|error| LogError::io("rename", &part, error))?;
                return to.parent().map_or(Ok(()), sync_folder);
            }
        }
        let error = std::io::Error::other("checkpoints follow each other faster than they can be copied");
        Err(LogError::io("copy", data, error))
    }

    /// Copies the store into a new file; returns the checkpoint and the history that the copy names.
    fn copy(&self, to: &Path) -> Result<(Option<Manifest>, Option<Inventory>), LogError> {
        let read = |error: redb::Error| LogError::redb("read", self.path(), error);
        let write = |error: redb::Error| LogError::redb("write", to, error);
        let from = self.database().begin_read().map_err(|error| read(error.into()))?;
        let into = Database::create(to).map_err(|error| write(error.into()))?;
        copy_table(&from, &into, RECORDS).map_err(write)?;
        copy_table(&from, &into, SCHEMAS).map_err(write)?;
        copy_table(&from, &into, META).map_err(write)?;
        copy_table(&from, &into, OUTBOX).map_err(write)?;
        let table = from.open_table(META).map_err(|error| read(error.into()))?;
        let value = |name| table.get(name).map_err(|error| read(error.into()));
        let manifest = value("checkpoint")?
            .map(|value| self.parsed(value.value()))
            .transpose()?;
        let inventory = value("history")?.map(|value| self.parsed(value.value())).transpose()?;
        Ok((manifest, inventory))
    }

    fn parsed<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, LogError> {
        checked(bytes).map_err(|what| LogError::damaged(self.path(), what))
    }
}

/// Copies a table, some entries a transaction.
fn copy_table<K, V>(
    from: &redb::ReadTransaction,
    into: &Database,
    table: TableDefinition<'_, K, V>,
) -> Result<(), redb::Error>
where
    K: redb::Key + 'static,
    V: redb::Value + 'static,
{
    let source = from.open_table(table)?;
    let mut entries = source.iter()?;
    loop {
        let transaction = into.begin_write()?;
        let mut done = true;
        {
            let mut target = transaction.open_table(table)?;
            let mut bytes = 0;
            for entry in entries.by_ref() {
                let (key, value) = entry?;
                bytes += V::as_bytes(&value.value()).as_ref().len();
                target.insert(key.value(), value.value())?;
                if bytes >= COPIED_BYTES_MAX {
                    done = false;
                    break;
                }
            }
        }
        transaction.commit()?;
        if done {
            return Ok(());
        }
    }
}

/// Copies the files of a checkpoint; tells whether all were there still.
fn copy_files(manifest: Option<&Manifest>, data: &Path, part: &Path) -> Result<bool, LogError> {
    for file in manifest.into_iter().flat_map(Manifest::files) {
        let (from, to) = (data.join(FOLDER).join(&file.name), part.join(FOLDER).join(&file.name));
        match std::fs::copy(&from, &to) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(LogError::io("copy", &from, error)),
        }
        let synced = std::fs::File::open(&to).and_then(|file| file.sync_all());
        synced.map_err(|error| LogError::io("sync", &to, error))?;
    }
    Ok(true)
}

/// What lies beside the log and is copied as it is: the definitions that ran last.
const BESIDE: [&str; 2] = ["deployment", "deployment.from"];

/// Copies the definitions that ran last, where there is a copy of them; tells whether they stayed as they were.
fn copy_definitions(data: &Path, part: &Path) -> Result<bool, LogError> {
    for name in BESIDE {
        let (from, to) = (data.join(name), part.join(name));
        match copy_all(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !from.exists() => {}
            // They are being replaced.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(LogError::io("copy", &from, error)),
        }
    }
    Ok(true)
}

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    if !from.is_dir() {
        std::fs::copy(from, to)?;
        return std::fs::File::open(to)?.sync_all();
    }
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let name = entry?.file_name();
        copy_all(&from.join(&name), &to.join(&name))?;
    }
    std::fs::File::open(to)?.sync_all()
}

/// What was read to see whether a data folder is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// Records of the log.
    pub records: u64,
    /// Rows of the checkpoint.
    pub rows: u64,
    /// Bytes of both.
    pub bytes: u64,
}

impl LogStore {
    /// Reads everything, and compares each checksum.
    ///
    /// # Errors
    /// When something is damaged or missing, by file and place.
    pub fn verify(&self, data: &Path) -> Result<Whole, LogError> {
        let mut whole = Whole::default();
        let manifest: Option<Manifest> = self.meta("checkpoint")?;
        // What is in the checkpoint may be there still, where it has yet to go to history.
        let first = self.extent()?.map_or(u64::MAX, |(first, ..)| first);
        self.replay(first, |_, _, bytes| -> Result<(), LogError> {
            whole.records += 1;
            whole.bytes += bytes as u64;
            Ok(())
        })?;
        for part in manifest.iter().flat_map(Manifest::parts) {
            part.read(data, |rows| -> Result<(), LogError> {
                whole.rows += rows.num_rows() as u64;
                Ok(())
            })?;
            whole.bytes += part.file.bytes;
        }
        Ok(whole)
    }
}
