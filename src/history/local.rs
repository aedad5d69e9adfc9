//! A local folder whose files are there, whole, once they were said to be: through a power cut, too.
//!
//! A file is written under another name, synced, renamed, and the folder that names it synced;
//! so is every folder made on the way.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::HistoryError;

/// How a file is called while it is written.
pub(super) const UNFINISHED: &str = ".tmp";

/// A folder that holds an archive.
#[derive(Clone, Debug)]
pub(super) struct LocalFolder {
    root: PathBuf,
    /// The folders known to be there after a power cut. Held while one is made or removed, so
    /// that none is removed under a new file.
    folders: Arc<Mutex<HashSet<PathBuf>>>,
}

/// A file that is not there yet.
#[derive(Debug)]
pub(super) struct NewFile {
    file: File,
    unfinished: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl LocalFolder {
    /// Makes the folder if there is none.
    pub(super) fn open(root: &Path) -> Result<Self, HistoryError> {
        let what = || format!("could not open the folder of history \"{}\"", root.display());
        let root = std::path::absolute(root).map_err(|error| HistoryError::io(what(), error))?;
        fs::create_dir_all(&root).map_err(|error| {
            // A file in the way is told as one that exists already.
            let in_the_way = error.kind() == io::ErrorKind::AlreadyExists;
            HistoryError::io(
                what(),
                if in_the_way {
                    io::ErrorKind::NotADirectory.into()
                } else {
                    error
                },
            )
        })?;
        // Folders above may not be ours to open: whoever made them has synced them.
        for above in root.ancestors().skip(1) {
            if sync_folder(above).is_err() {
                break;
            }
        }
        Ok(LocalFolder {
            folders: Arc::new(Mutex::new(HashSet::from([root.clone()]))),
            root,
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Begins a file.
    pub(super) fn create(&self, path: &str) -> io::Result<NewFile> {
        let path = self.root.join(path);
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if path.exists() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let unfinished = folder.join(format!(".{}{UNFINISHED}", name.to_string_lossy()));
        let mut known = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        make(folder, &mut known)?;
        // What a crash left under this name was never a file.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&unfinished)?;
        Ok(NewFile {
            file,
            unfinished,
            path,
            finished: false,
        })
    }

    /// Removes a file, and its folder if nothing else is in it.
    pub(super) fn remove(&self, path: &str) -> io::Result<()> {
        let path = self.root.join(path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut known = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let mut folder = path.parent();
        // A folder with something in it refuses, which ends the climb.
        while let Some(empty) = folder.filter(|folder| *folder != self.root && fs::remove_dir(folder).is_ok()) {
            known.remove(empty);
            folder = empty.parent();
        }
        Ok(())
    }
}

impl NewFile {
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Makes the file be there.
    pub(super) fn commit(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if self.path.exists() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(&self.unfinished, &self.path)?;
        self.finished = true;
        match self.path.parent() {
            Some(folder) => sync_folder(folder),
            None => Ok(()),
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed now is found by `orphans` later.
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}

/// Makes a folder and those above it, each named in the one above when this returns.
fn make(folder: &Path, known: &mut HashSet<PathBuf>) -> io::Result<()> {
    if known.contains(folder) {
        return Ok(());
    }
    let above = folder.parent();
    if let Some(above) = above {
        make(above, known)?;
    }
    // One that was there already may have been made by a program that was killed before it synced.
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    above.map_or(Ok(()), sync_folder)?;
    known.insert(folder.to_owned());
    Ok(())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
