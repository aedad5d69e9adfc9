//! The files of a deployment folder, by kind of component.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::problem::FileProblem;
use super::spelling;

/// A kind of component: one folder of files, each of which declares one component.
#[derive(Debug)]
pub struct Kind {
    /// What one is called.
    pub noun: &'static str,
    /// The folder its files lie in.
    pub folder: &'static str,
    /// How its files end.
    pub extension: &'static str,
    /// Whether SQL can name it, so that its name must be unique among all that SQL can name.
    pub is_relation: bool,
}

/// Sources: where rows come in (`source.rs`).
pub const SOURCE: Kind = Kind {
    noun: "source",
    folder: "sources",
    extension: "toml",
    is_relation: true,
};
/// Views: queries kept current (`view.rs`).
pub const VIEW: Kind = Kind {
    noun: "view",
    folder: "views",
    extension: "sql",
    is_relation: true,
};
/// Alerts: views whose rows are the alerts now standing (`view.rs`).
pub const ALERT: Kind = Kind {
    noun: "alert",
    folder: "alerts",
    extension: "sql",
    is_relation: true,
};
/// Sinks: what another system is told of a view (`sink.rs`).
pub const SINK: Kind = Kind {
    noun: "sink",
    folder: "sinks",
    extension: "toml",
    is_relation: false,
};
/// Tests: rows in, expected rows out (`test.rs`).
pub const TEST: Kind = Kind {
    noun: "test",
    folder: "tests",
    extension: "toml",
    is_relation: false,
};

/// Every kind there is; a new one is a line here, a struct of its own and a step in [`load`](super::load).
pub const KINDS: [&Kind; 5] = [&SOURCE, &VIEW, &ALERT, &SINK, &TEST];

/// Names beside the folders of components that a deployment folder may hold.
const OTHERS: [&str; 3] = ["deployment.toml", "data", "README.md"];

/// One file that declares a component.
#[derive(Debug)]
pub(crate) struct ComponentFile {
    /// The component's name: the file's, without its ending.
    pub(crate) name: String,
    /// Relative to the deployment folder.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) text: String,
}

/// What a deployment folder holds.
pub(crate) struct Folder {
    /// The text of `deployment.toml`; empty when there is none.
    pub(crate) deployment: String,
    files: BTreeMap<&'static str, Vec<ComponentFile>>,
}

impl Folder {
    /// Returns the files of a kind, by name.
    pub(crate) fn files(&self, kind: &Kind) -> &[ComponentFile] {
        self.files.get(kind.folder).map_or(&[], Vec::as_slice)
    }

    /// Returns every file with its text.
    pub(crate) fn texts(&self) -> Vec<(PathBuf, String)> {
        let options = (PathBuf::from("deployment.toml"), self.deployment.clone());
        let files = self.files.values().flatten();
        let files = files.map(|file| (file.path.clone(), file.text.clone()));
        std::iter::once(options).chain(files).collect()
    }

    /// Adds a file, or replaces the one of its name.
    pub(crate) fn put(&mut self, kind: &Kind, file: ComponentFile, problems: &mut Vec<FileProblem>) {
        if let Err(problem) = check_name(&file.name, kind) {
            problems.push(FileProblem {
                file: file.path.clone(),
                ..problem
            });
            return;
        }
        self.drop_file(kind, &file.name);
        let others = KINDS.iter().filter(|other| other.is_relation);
        let taken = others
            .flat_map(|other| self.files(other))
            .find(|other| other.name == file.name);
        if let Some(taken) = taken {
            problems.push(
                FileProblem::new(
                    &file.path,
                    format!("the name \"{}\" is taken by {}", file.name, taken.path.display()),
                )
                .hint("Sources, views and alerts share one space of names, that of SQL."),
            );
            return;
        }
        let files = self.files.entry(kind.folder).or_default();
        let place = files.partition_point(|other| other.name < file.name);
        files.insert(place, file);
    }

    /// Takes a file away; tells whether there was one.
    pub(crate) fn drop_file(&mut self, kind: &Kind, name: &str) -> bool {
        let Some(files) = self.files.get_mut(kind.folder) else {
            return false;
        };
        let before = files.len();
        files.retain(|file| file.name != name);
        files.len() < before
    }
}

/// Reads all files below `dir`, and refuses those that would silently mean nothing.
pub(crate) fn read(dir: &Path, problems: &mut Vec<FileProblem>) -> Option<Folder> {
    let entries = match entries(dir) {
        Ok(entries) => entries,
        Err(error) => {
            problems.push(
                FileProblem::new("", format!("could not read the deployment folder: {error}"))
                    .hint("A deployment is a folder; `sangam new NAME` writes one to start from."),
            );
            return None;
        }
    };
    let mut folder = Folder {
        deployment: String::new(),
        files: BTreeMap::new(),
    };
    for (name, is_dir) in entries {
        let kind = KINDS.iter().find(|kind| kind.folder == name);
        match kind {
            Some(kind) if is_dir => {
                let files = read_kind(dir, kind, problems);
                folder.files.insert(kind.folder, files);
            }
            _ if name == "deployment.toml" && !is_dir => {
                folder.deployment = read_text(dir, Path::new(&name), problems).unwrap_or_default();
            }
            _ if OTHERS.contains(&name.as_str()) && is_dir == (name == "data") => {}
            _ => {
                let known = KINDS.iter().map(|kind| kind.folder).chain(OTHERS);
                let what = if is_dir { "unknown folder" } else { "unknown file" };
                problems.push(
                    FileProblem::new(&name, what)
                        .hint_maybe(
                            spelling::nearest(&name, known).map(|nearest| format!("Did you mean \"{nearest}\"?")),
                        )
                        .hint_or("Files for sources to read belong into data/; notes into README.md."),
                );
            }
        }
    }
    unique(&mut folder, problems);
    Some(folder)
}

fn read_kind(dir: &Path, kind: &Kind, problems: &mut Vec<FileProblem>) -> Vec<ComponentFile> {
    let mut files = Vec::new();
    let listed = match entries(&dir.join(kind.folder)) {
        Ok(listed) => listed,
        Err(error) => {
            problems.push(FileProblem::new(
                kind.folder,
                format!("could not read the folder: {error}"),
            ));
            return files;
        }
    };
    for (file_name, is_dir) in listed {
        let path = Path::new(kind.folder).join(&file_name);
        let name = file_name
            .strip_suffix(kind.extension)
            .and_then(|name| name.strip_suffix('.'));
        let Some(name) = name.filter(|_| !is_dir) else {
            let what = if is_dir { "unknown folder" } else { "unknown file" };
            problems.push(FileProblem::new(path, what).hint(format!(
                "Each {} is one file {}/NAME.{}.",
                kind.noun, kind.folder, kind.extension
            )));
            continue;
        };
        let Some(text) = read_text(dir, &path, problems) else {
            continue;
        };
        if let Err(problem) = check_name(name, kind) {
            problems.push(FileProblem {
                file: path.clone(),
                ..problem
            });
        }
        files.push(ComponentFile {
            name: name.to_owned(),
            path,
            text,
        });
    }
    files
}

/// A name must read the same in SQL, in addresses and in file names.
fn check_name(name: &str, kind: &Kind) -> Result<(), FileProblem> {
    if kind.is_relation && (name == "sangam" || name == crate::engine::TICKS) {
        return Err(
            FileProblem::new("", format!("the name \"{name}\" is taken by the system's own tables"))
                .hint("Choose another file name."),
        );
    }
    if !is_identifier(name) {
        return Err(FileProblem::new("", format!("\"{name}\" cannot be the name of a {}", kind.noun)).hint(
            "The file's name is the component's name: a small letter, then small letters, digits and underscores, at most 63.",
        ));
    }
    Ok(())
}

/// Tells whether a name needs no quotes in SQL.
pub(crate) fn is_identifier(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .chars()
            .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
}

/// Sources, views and alerts share one space of names, that of SQL: the first keeps it.
fn unique(folder: &mut Folder, problems: &mut Vec<FileProblem>) {
    let mut taken: BTreeMap<String, PathBuf> = BTreeMap::new();
    for kind in KINDS.iter().filter(|kind| kind.is_relation) {
        let Some(files) = folder.files.get_mut(kind.folder) else {
            continue;
        };
        files.retain(|file| {
            let Some(other) = taken.get(&file.name) else {
                taken.insert(file.name.clone(), file.path.clone());
                return true;
            };
            let what = format!("the name \"{}\" is taken by {}", file.name, other.display());
            problems.push(
                FileProblem::new(&file.path, what)
                    .hint("Sources, views and alerts share one space of names, that of SQL."),
            );
            false
        });
    }
}

fn read_text(dir: &Path, path: &Path, problems: &mut Vec<FileProblem>) -> Option<String> {
    match fs::read_to_string(dir.join(path)) {
        Ok(text) => Some(text),
        Err(error) => {
            problems.push(FileProblem::new(path, format!("could not read the file: {error}")));
            None
        }
    }
}

/// Lists a folder in the order of names, hidden files left out.
fn entries(dir: &Path) -> std::io::Result<Vec<(String, bool)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            // Not the entry's own type: a link to a folder is a folder.
            entries.push((name, entry.path().is_dir()));
        }
    }
    entries.sort();
    Ok(entries)
}
