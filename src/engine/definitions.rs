//! A copy of the definitions that ran last, in the data folder: what a backtest compares with.
//!
//! It is taken from what was read when they were checked, not from the folder, which may have been edited since.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::config::{Deployment, FileProblem, load_copy};

/// The copy's folder in a data folder, and its name while it is made and while it is replaced.
pub(crate) const FOLDER: &str = "deployment";
const NEW: &str = "deployment.new";
const OLD: &str = "deployment.old";

/// The file in a data folder that says where the deployment's own folder was: its sources may name files there.
pub(crate) const PLACE: &str = "deployment.from";

/// Copies the definitions of a deployment into a data folder; the copy before stays until this one is whole.
///
/// # Errors
/// When it cannot be written.
pub(super) fn keep(deployment: &Deployment, data: &Path) -> anyhow::Result<()> {
    write(deployment, data).with_context(|| {
        format!(
            "could not copy the definitions into the data folder \"{}\"",
            data.display()
        )
    })
}

fn write(deployment: &Deployment, data: &Path) -> io::Result<()> {
    let (new, old, folder) = (data.join(NEW), data.join(OLD), data.join(FOLDER));
    let place = std::path::absolute(&deployment.dir).unwrap_or_else(|_| deployment.dir.clone());
    fs::write(data.join(PLACE), place.to_string_lossy().as_bytes())?;
    remove(&new)?;
    fs::create_dir_all(&new)?;
    for (path, text) in deployment.files.iter() {
        let file = new.join(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&file, text)?;
        fs::File::open(&file)?.sync_all()?;
    }
    if folder.exists() {
        remove(&old)?;
        fs::rename(&folder, &old)?;
    }
    fs::rename(&new, &folder)?;
    remove(&old)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns the folder with the definitions that ran last on a data folder, if there is one.
pub(crate) fn find(data: &Path) -> Option<PathBuf> {
    // A crash may have come between two names.
    [FOLDER, OLD]
        .into_iter()
        .map(|name| data.join(name))
        .find(|folder| folder.is_dir())
}

/// Reads the definitions that ran last on a data folder; none where no copy was made.
///
/// # Errors
/// Everything that is wrong with them by now, such as a variable that is not set.
pub(crate) fn load(data: &Path) -> Result<Option<Deployment>, Vec<FileProblem>> {
    let Some(folder) = find(data) else { return Ok(None) };
    let place = fs::read_to_string(data.join(PLACE)).map_or_else(|_| folder.clone(), PathBuf::from);
    load_copy(&folder, &place).map(Some)
}
