//! A copy of the definitions that ran last, in the data folder: what a backtest compares with.
//!
//! It is taken from what was read when they were checked, not from the folder, which may have been edited since.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::{Deployment, FileProblem, load_copy};

/// The copy's folder in a data folder, and its name while it is made and while it is replaced.
pub(crate) const FOLDER: &str = "deployment";
const NEW: &str = "deployment.new";
const OLD: &str = "deployment.old";

/// The file in a data folder that says where the deployment's own folder was: its sources may name files there.
pub(crate) const PLACE: &str = "deployment.from";

/// Copies the definitions of a deployment into a data folder; the copy before stays until this one is whole.
///
/// What runs does not depend on it, so a copy that cannot be made stops nothing.
pub(super) fn keep(deployment: &Deployment, data: &Path) {
    if let Err(error) = write(deployment, data) {
        tracing::warn!(%error, data = %data.display(), "the definitions that run could not be copied");
    }
}

fn write(deployment: &Deployment, data: &Path) -> io::Result<()> {
    let (new, old, folder) = (data.join(NEW), data.join(OLD), data.join(FOLDER));
    let place = std::path::absolute(&deployment.dir).unwrap_or_else(|_| deployment.dir.clone());
    let mut files: Vec<(PathBuf, &str)> = deployment
        .files
        .iter()
        .map(|(path, text)| (path.clone(), text.as_str()))
        .collect();
    files.sort();
    if fs::read_to_string(data.join(PLACE)).is_ok_and(|was| Path::new(&was) == place) && is_same(&folder, &files) {
        return Ok(());
    }
    remove(&new)?;
    fs::create_dir_all(&new)?;
    for (path, text) in files {
        let file = new.join(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&file, text)?;
        fs::File::open(&file)?.sync_all()?;
    }
    let placed = data.join(format!("{PLACE}.new"));
    fs::write(&placed, place.to_string_lossy().as_bytes())?;
    fs::rename(placed, data.join(PLACE))?;
    if folder.exists() {
        remove(&old)?;
        fs::rename(&folder, &old)?;
    }
    fs::rename(&new, &folder)?;
    fs::File::open(data)?.sync_all()?;
    remove(&old)
}

/// Tells whether a folder holds these files, in the order of their paths, and no other.
fn is_same(folder: &Path, files: &[(PathBuf, &str)]) -> bool {
    fn listed(folder: &Path, below: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(folder.join(below))? {
            let path = below.join(entry?.file_name());
            match folder.join(&path).is_dir() {
                true => listed(folder, &path, found)?,
                false => found.push(path),
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    if listed(folder, Path::new(""), &mut found).is_err() {
        return false;
    }
    found.sort();
    let same = |path: &PathBuf, text: &str| fs::read_to_string(folder.join(path)).is_ok_and(|was| was == text);
    found.len() == files.len()
        && found
            .iter()
            .zip(files)
            .all(|(found, (path, text))| found == path && same(path, text))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn write_all(dir: &Path, alert: &str) {
        let source = "columns = { station = \"text not null\", level = \"double\" }\nkey = [\"station\"]\n\
                      [connector]\ntype = \"http\"\n";
        let alert = format!("--! key = [\"station\"]\n--! priority = \"high\"\n{alert}");
        for (path, text) in [("sources/levels.toml", source), ("alerts/high.sql", &alert)] {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
    }

    fn alert(data: &Path) -> String {
        let loaded = load(data).expect("it is right").expect("there is a copy");
        loaded.views[0].view.sql.clone()
    }

    #[test]
    fn what_was_read_is_kept_whatever_the_folder_says_since() {
        let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert!(load(data.path()).unwrap().is_none());
        write_all(dir.path(), "SELECT station, level FROM levels WHERE level > 5");
        let first = config::load(dir.path()).unwrap();
        write_all(dir.path(), "SELECT station, level FROM levels WHERE level > 6");
        keep(&first, data.path());
        assert!(alert(data.path()).ends_with("level > 5"));
        let second = config::load(dir.path()).unwrap();
        keep(&second, data.path());
        assert!(alert(data.path()).ends_with("level > 6"));
        assert!(!data.path().join(NEW).exists() && !data.path().join(OLD).exists());
        // A file that is declared no more goes.
        fs::remove_dir_all(dir.path().join("alerts")).unwrap();
        keep(&config::load(dir.path()).unwrap(), data.path());
        assert!(load(data.path()).unwrap().unwrap().views.is_empty());
    }

    #[test]
    fn a_crash_between_two_names_leaves_the_copy_before() {
        let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_all(dir.path(), "SELECT station, level FROM levels WHERE level > 5");
        let deployment = config::load(dir.path()).unwrap();
        keep(&deployment, data.path());
        // Half of a new one is there, and the one before has its other name already.
        fs::create_dir_all(data.path().join(NEW).join("alerts")).unwrap();
        fs::rename(data.path().join(FOLDER), data.path().join(OLD)).unwrap();
        assert!(alert(data.path()).ends_with("level > 5"));
        keep(&deployment, data.path());
        assert!(alert(data.path()).ends_with("level > 5"));
    }
}
