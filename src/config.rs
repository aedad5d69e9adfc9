//! Reads a deployment folder.
//!
//! `folder` lists the files by kind of component, `document` reads TOML without
//! stopping at the first mistake (`environment` fills in `${VAR}`, `duration`
//! reads spans of time), `options`, `source`, `view` and `test` are what the
//! files say (`edit`: what one of them is to say), `order` sorts views by what they read, `retention` compares what
//! sources keep with what views need, and every `problem` ends in one list,
//! with a `spelling` hint where one helps.
mod document;
mod duration;
mod edit;
mod environment;
mod folder;
mod options;
mod order;
mod problem;
mod retention;
mod sink;
mod source;
mod spelling;
mod test;
mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use queries::Catalog;

pub use edit::Edit;
pub(crate) use folder::is_identifier;
pub use folder::{ALERT, KINDS, Kind, SINK, SOURCE, TEST, VIEW};
pub use options::{Clock, Options};
pub use problem::FileProblem;
pub use sink::{SinkDef, WhenFull};
pub use source::{KeepInput, Source, TimeColumn};
pub use test::{Expectation, Step, Test};
pub use view::{Priority, ViewDef, ViewKind};

use crate::log::Durability;
use document::Document;
use environment::Environment;
use folder::{ComponentFile, Folder};
use retention::Retained;
use source::Surroundings;
use view::Head;

type ReadHead = fn(&Path, &str, &mut Vec<FileProblem>) -> Head;

/// A deployment folder, read, checked and planned.
#[derive(Clone)]
pub struct Deployment {
    /// The folder's name.
    pub name: String,
    /// The folder.
    pub dir: PathBuf,
    /// What holds for all of it.
    pub options: Options,
    /// Knows every source and view by name.
    pub catalog: Catalog,
    /// Where rows come in, by name.
    pub sources: Vec<Source>,
    /// Views and alerts, each after all it reads.
    pub views: Vec<ViewDef>,
    /// What other systems are told, by name.
    pub sinks: Vec<SinkDef>,
    /// The deployment's own tests, by name.
    pub tests: Vec<Test>,
    /// What is allowed but worth knowing.
    pub warnings: Vec<FileProblem>,
    /// Every file as it was read, relative to the folder, with its text: `${VAR}` stands as it was written.
    pub files: Arc<[(PathBuf, String)]>,
}

impl Deployment {
    /// Says where history is kept, next to a data folder.
    pub fn history(&self, data: &Path) -> String {
        match &self.options.history {
            None => data.join("history").display().to_string(),
            Some(place) if place.contains("://") => place.clone(),
            Some(folder) => self.dir.join(folder).display().to_string(),
        }
    }
}

/// Reads the deployment in `dir`.
///
/// # Errors
/// Everything that is wrong with it, by file and line.
pub fn load(dir: &Path) -> Result<Deployment, Vec<FileProblem>> {
    load_edited(dir, &Edit::Reload)
}

/// Reads the deployment in `dir` as it will be once `edit` is made.
fn load_edited(dir: &Path, edit: &Edit) -> Result<Deployment, Vec<FileProblem>> {
    load_with(dir, edit, &|name| std::env::var(name).ok())
}

/// Reads a copy of the deployment that lies, or lay, in `dir`: files that its sources name are looked for there.
///
/// # Errors
/// Everything that is wrong with it, by file and line.
pub(crate) fn load_copy(copy: &Path, dir: &Path) -> Result<Deployment, Vec<FileProblem>> {
    load_from(copy, dir, &Edit::Reload, &|name| std::env::var(name).ok())
}

fn load_with(dir: &Path, edit: &Edit, environment: Environment<'_>) -> Result<Deployment, Vec<FileProblem>> {
    load_from(dir, dir, edit, environment)
}

fn load_from(
    read: &Path,
    dir: &Path,
    edit: &Edit,
    environment: Environment<'_>,
) -> Result<Deployment, Vec<FileProblem>> {
    let mut problems = Vec::new();
    let loaded = folder::read(read, &mut problems).and_then(|mut folder| {
        edit.apply(&mut folder, &mut problems);
        let mut loader = Loader {
            dir,
            environment,
            problems: &mut problems,
            broken: Vec::new(),
        };
        loader.deployment(&folder)
    });
    match loaded {
        Some(deployment) if problems.is_empty() => Ok(deployment),
        _ => {
            problems.sort();
            problems.dedup();
            Err(problems)
        }
    }
}

struct Loader<'a> {
    dir: &'a Path,
    environment: Environment<'a>,
    problems: &'a mut Vec<FileProblem>,
    /// Components that could not be built. What names one of them is passed
    /// over: its own problem has been told, the rest would be noise.
    broken: Vec<String>,
}

impl Loader<'_> {
    fn deployment(&mut self, folder: &Folder) -> Option<Deployment> {
        let dir = self.dir;
        let options = self.options(&folder.deployment);
        let mut catalog = self.catalog(&folder.deployment, &options)?;
        let sources = self.sources(folder, &options, &mut catalog);
        let views = self.views(folder, &mut catalog);
        let retained: Vec<Retained<'_>> = sources
            .iter()
            .map(|(source, line)| Retained {
                source,
                file: file_of(folder, &source.name),
                line: *line,
            })
            .collect();
        retention::check(&retained, &views, self.problems);
        retention::check_kept(&views, |name| file_of(folder, name), self.problems);
        let mut warnings = retention::warnings(&retained, &views);
        for view in &views {
            let file = file_of(folder, &view.view.name);
            warnings.extend(
                view.view
                    .warnings
                    .iter()
                    .map(|warning| FileProblem::new(&file, warning)),
            );
        }
        let sources: Vec<Source> = sources.into_iter().map(|(source, _)| source).collect();
        let tests = self.tests(folder, &options, &sources, &views);
        let absolute = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let name = absolute
            .file_name()
            .map_or_else(|| "deployment".into(), |name| name.to_string_lossy().into_owned());
        let sinks = self.sinks(folder, &options, &name, &views);
        Some(Deployment {
            name,
            dir: dir.to_owned(),
            options,
            catalog,
            sources,
            views,
            sinks,
            tests,
            warnings,
            files: folder.texts().into(),
        })
    }

    fn options(&mut self, text: &str) -> Options {
        let file = Path::new("deployment.toml");
        let Some(mut document) = Document::parse(file, text, self.problems) else {
            return Options::default();
        };
        document.substitute(self.environment, self.problems);
        let options: Options = document.read(self.problems).unwrap_or_default();
        for (key, what, hint) in options.check() {
            self.problems.push(document.problem(&[key], what).hint(hint));
        }
        options
    }

    fn catalog(&mut self, text: &str, options: &Options) -> Option<Catalog> {
        let problem = match Catalog::new(&options.time_zone) {
            Ok(catalog) => return Some(catalog),
            Err(problem) => problem,
        };
        let line = Document::parse(Path::new("deployment.toml"), text, &mut Vec::new())
            .and_then(|document| document.line(&["time_zone"]));
        self.problems.push(
            FileProblem::new("deployment.toml", problem.what)
                .line(line)
                .hint_maybe(problem.hint)
                .hint_or("Name a zone as in \"Asia/Kolkata\" or \"UTC\"."),
        );
        // The other files can still be checked, in another zone.
        Catalog::new("UTC").ok()
    }

    /// Reads the sources; each comes with the line of its `retain`.
    fn sources(&mut self, folder: &Folder, options: &Options, catalog: &mut Catalog) -> Vec<(Source, Option<usize>)> {
        let mut sources = Vec::new();
        for file in folder.files(&SOURCE) {
            match self.source(file, options, catalog) {
                Some(source) => sources.push(source),
                None => self.broken.push(file.name.clone()),
            }
        }
        sources
    }

    fn source(
        &mut self,
        file: &ComponentFile,
        options: &Options,
        catalog: &mut Catalog,
    ) -> Option<(Source, Option<usize>)> {
        let before = self.problems.len();
        let mut document = Document::parse(&file.path, &file.text, self.problems)?;
        document.substitute(self.environment, self.problems);
        let read = document.read(self.problems)?;
        let source = {
            let surroundings = Surroundings {
                dir: self.dir,
                catalog,
                clock: options.clock,
            };
            source::build(&file.name, read, &document, surroundings, self.problems)?
        };
        if self.problems.len() > before {
            // A key was unknown or unreadable. The columns stand, so views over the source can be checked.
            catalog.add_source(source.relation()).ok()?;
            return Some((source, None));
        }
        if let Err(problem) = catalog.add_source(source.relation()) {
            self.problems.push(FileProblem::in_sql(&file.path, problem));
            return None;
        }
        let line = document.line(&["retain"]);
        Some((source, line))
    }

    /// Plans views and alerts, each after all it reads.
    fn views(&mut self, folder: &Folder, catalog: &mut Catalog) -> Vec<ViewDef> {
        let mut files: BTreeMap<String, (&ComponentFile, Head)> = BTreeMap::new();
        let mut reads: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (kind, head) in [(&VIEW, view::view_head as ReadHead), (&ALERT, view::alert_head)] {
            for file in folder.files(kind) {
                let head = head(&file.path, &file.text, self.problems);
                match Catalog::references(&file.text) {
                    Ok(references) => {
                        reads.insert(file.name.clone(), references);
                        files.insert(file.name.clone(), (file, head));
                    }
                    Err(problem) => {
                        self.problems.push(FileProblem::in_sql(&file.path, problem));
                        self.broken.push(file.name.clone());
                    }
                }
            }
        }
        self.unknown_relations(folder, &files, &reads);
        let (order, cycles) = order::topological(&reads);
        for cycle in &cycles {
            let (file, _) = &files[&cycle[0]];
            self.problems.push(
                FileProblem::new(
                    &file.path,
                    format!("views read each other in a circle: {}", cycle.join(" → ")),
                )
                .hint("Break the circle: let one of them read a source instead."),
            );
            self.broken.extend(cycle.iter().cloned());
        }
        let mut views = Vec::new();
        for name in order {
            let (file, head) = &files[&name];
            let is_hopeless = reads[&name]
                .iter()
                .chain([&name])
                .any(|read| self.broken.contains(read));
            match (!is_hopeless).then(|| self.view(file, head, catalog)).flatten() {
                Some(view) => views.push(view),
                None => self.broken.push(name),
            }
        }
        views
    }

    /// Tells which names no component has.
    fn unknown_relations(
        &mut self,
        folder: &Folder,
        files: &BTreeMap<String, (&ComponentFile, Head)>,
        reads: &BTreeMap<String, Vec<String>>,
    ) {
        let known: Vec<&str> = KINDS
            .iter()
            .filter(|kind| kind.is_relation)
            .flat_map(|kind| folder.files(kind))
            .map(|file| file.name.as_str())
            .collect();
        for (name, references) in reads {
            let (file, _) = &files[name];
            for reference in references
                .iter()
                .filter(|reference| !known.contains(&reference.as_str()))
            {
                let problem = if reference.starts_with("sangam.") {
                    // What is measured is no part of the input.
                    let what = format!("the system table {reference} in a view cannot be kept current");
                    FileProblem::new(&file.path, what).hint("Ask for it with a query instead.")
                } else if reference == "as_of" {
                    let what = "as_of() stands in a view, which is kept current by what comes";
                    FileProblem::new(&file.path, what).hint("Ask for earlier times in a query: POST /sql.")
                } else {
                    let others = known.iter().copied().filter(|known| *known != name);
                    FileProblem::new(&file.path, format!("there is no source or view \"{reference}\""))
                        .hint_maybe(spelling::hint(reference, others, "relation"))
                };
                let word = reference.rsplit('.').next().unwrap_or(reference);
                self.problems.push(problem.line(line_of_word(&file.text, word)));
                self.broken.push(name.clone());
            }
        }
    }

    fn view(&mut self, file: &ComponentFile, head: &Head, catalog: &mut Catalog) -> Option<ViewDef> {
        let view = match catalog.plan_view(&file.name, &file.text) {
            Ok(view) => view,
            Err(problems) => {
                self.problems.extend(
                    problems
                        .into_iter()
                        .map(|problem| FileProblem::in_sql(&file.path, problem)),
                );
                return None;
            }
        };
        let view = match head.closing {
            None => view,
            Some((emit, keep_us)) => match catalog.closing(view, emit, keep_us) {
                Ok(view) => view,
                Err(problem) => {
                    let told = FileProblem::in_sql(&file.path, problem);
                    self.problems.push(told.line(head.closing_line));
                    return None;
                }
            },
        };
        if let Err(problem) = catalog.add_view(view.clone()) {
            self.problems.push(FileProblem::in_sql(&file.path, problem));
            return None;
        }
        let key = view::key_columns(&file.path, head, &view, self.problems);
        let key_is_implied = key.as_ref().is_some_and(|key| view::is_implied(key, &view));
        Some(ViewDef {
            view,
            kind: head.kind,
            key,
            key_is_implied,
        })
    }

    fn sinks(&mut self, folder: &Folder, options: &Options, deployment: &str, views: &[ViewDef]) -> Vec<SinkDef> {
        let mut sinks = Vec::new();
        for file in folder.files(&SINK) {
            let Some(mut document) = Document::parse(&file.path, &file.text, self.problems) else {
                continue;
            };
            document.substitute(self.environment, self.problems);
            if options.durability == Durability::None {
                let what = "a sink in a deployment of which nothing survives";
                let hint = "What is to be delivered is kept until it is: leave `durability = \"none\"` out of deployment.toml.";
                self.problems.push(FileProblem::new(&file.path, what).hint(hint));
            }
            let Some(read) = document.read(self.problems) else {
                continue;
            };
            sinks.extend(sink::build(
                &file.name,
                read,
                &document,
                (deployment, views),
                self.problems,
            ));
        }
        sinks
    }

    fn tests(&mut self, folder: &Folder, options: &Options, sources: &[Source], views: &[ViewDef]) -> Vec<Test> {
        let of_sources = sources
            .iter()
            .map(|source| (source.name.as_str(), source.schema.clone()));
        let of_views = views
            .iter()
            .map(|view| (view.view.name.as_str(), view.view.schema.clone()));
        let names = test::Names {
            sources,
            relations: of_sources.chain(of_views).collect(),
            broken: &self.broken,
            time_zone: &options.time_zone,
        };
        folder
            .files(&TEST)
            .iter()
            .filter_map(|file| test::read(file, &names, self.problems))
            .collect()
    }
}

/// Returns the file that declares a relation.
fn file_of(folder: &Folder, name: &str) -> PathBuf {
    KINDS
        .iter()
        .filter(|kind| kind.is_relation)
        .flat_map(|kind| folder.files(kind))
        .find(|file| file.name == name)
        .map(|file| file.path.clone())
        .unwrap_or_default()
}

/// Returns the first line outside comments where a word stands.
fn line_of_word(text: &str, word: &str) -> Option<usize> {
    let is_letter = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.lines()
        .position(|line| {
            let code = line.split("--").next().unwrap_or_default().to_lowercase();
            code.split(|letter| !is_letter(letter)).any(|found| found == word)
        })
        .map(|position| position + 1)
}

#[cfg(test)]
mod tests;
