//! One change of a deployment folder, checked as a whole before it is written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::folder::{ComponentFile, Folder, Kind};
use super::problem::FileProblem;
use super::{ALERT, Deployment, VIEW, load_edited};

/// A change of a deployment folder.
#[derive(Clone, Debug)]
pub enum Edit {
    /// None of ours: the files have been changed by hand.
    Reload,
    /// One view or alert says this from now on.
    Put {
        /// [`VIEW`] or [`ALERT`].
        kind: &'static Kind,
        /// Its name.
        name: String,
        /// All that its file is to say.
        text: String,
    },
    /// There is no view or alert of this name any more.
    Drop {
        /// Its name.
        name: String,
    },
}

/// A file as it is to be, next to the one it replaces.
#[derive(Debug)]
pub(crate) enum Written {
    Nothing,
    Put { new: PathBuf, file: PathBuf },
    Drop { file: PathBuf },
}

impl Edit {
    /// Reads the folder as it will be.
    ///
    /// # Errors
    /// Everything that would be wrong with it.
    pub fn load(&self, dir: &Path) -> Result<Deployment, Vec<FileProblem>> {
        load_edited(dir, self)
    }

    /// Applies the change to what was read.
    pub(super) fn apply(&self, folder: &mut Folder, problems: &mut Vec<FileProblem>) {
        match self {
            Edit::Reload => {}
            Edit::Put { kind, name, text } => {
                let path = path(kind, name);
                let text = text.clone();
                let name = name.clone();
                folder.put(kind, ComponentFile { name, path, text }, problems);
            }
            Edit::Drop { name } => {
                if !folder.drop_file(&VIEW, name) && !folder.drop_file(&ALERT, name) {
                    problems.push(FileProblem::new("", format!("there is no view or alert \"{name}\"")));
                }
            }
        }
    }

    /// Prepares the change on disk, so that little is left that may fail.
    pub(crate) fn prepare(&self, dir: &Path) -> io::Result<Written> {
        match self {
            Edit::Reload => Ok(Written::Nothing),
            Edit::Put { kind, name, text } => {
                let file = dir.join(path(kind, name));
                // Hidden files are none of the deployment's.
                let new = file.with_file_name(format!(".{name}.{}.new", kind.extension));
                if let Some(folder) = file.parent() {
                    fs::create_dir_all(folder)?;
                }
                fs::write(&new, text)?;
                fs::File::open(&new)?.sync_all()?;
                Ok(Written::Put { new, file })
            }
            Edit::Drop { name } => {
                let files = [&VIEW, &ALERT].map(|kind| dir.join(path(kind, name)));
                match files.into_iter().find(|file| file.exists()) {
                    Some(file) => Ok(Written::Drop { file }),
                    None => Ok(Written::Nothing),
                }
            }
        }
    }
}

impl Written {
    /// Makes the change visible in the folder.
    pub(crate) fn keep(self) -> io::Result<()> {
        match self {
            Written::Nothing => Ok(()),
            Written::Put { new, file } => fs::rename(new, file),
            Written::Drop { file } => fs::remove_file(file),
        }
    }

    /// Leaves the folder as it was.
    pub(crate) fn discard(self) {
        if let Written::Put { new, .. } = self {
            // What is left is a hidden file, which nobody reads.
            let _ = fs::remove_file(new);
        }
    }
}

fn path(kind: &Kind, name: &str) -> PathBuf {
    Path::new(kind.folder).join(format!("{name}.{}", kind.extension))
}
