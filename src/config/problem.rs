//! What is wrong with a deployment folder, and where.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing an operator has to change, or should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileProblem {
    /// The file, relative to the deployment folder; empty for the folder itself.
    pub file: PathBuf,
    /// The line, counted from one, when the problem has a place.
    pub line: Option<usize>,
    /// What is wrong, without a full stop.
    pub what: String,
    /// What to do about it, in full sentences.
    pub hint: Option<String>,
}

impl FileProblem {
    /// Names a problem of a file as a whole.
    pub fn new(file: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        FileProblem {
            file: file.into(),
            line: None,
            what: what.into(),
            hint: None,
        }
    }

    /// Adds the line, where it is known.
    #[must_use]
    pub fn line(mut self, line: Option<usize>) -> Self {
        self.line = line;
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what to do about it, where something can be said.
    #[must_use]
    pub fn hint_maybe(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// Adds what to do about it, unless something better was said.
    #[must_use]
    pub fn hint_or(mut self, hint: &str) -> Self {
        self.hint.get_or_insert_with(|| hint.to_owned());
        self
    }

    /// Takes over a problem of a view's text, whose lines are those of the file.
    pub fn in_sql(file: &Path, problem: queries::Problem) -> Self {
        FileProblem {
            file: file.to_owned(),
            line: problem.line,
            what: problem.what,
            hint: problem.hint,
        }
    }

    /// Prints the problem with its file's path below `dir`, so that terminals can open it.
    pub fn under<'a>(&'a self, dir: &'a Path) -> impl fmt::Display + 'a {
        Located { dir, problem: self }
    }
}

struct Located<'a> {
    dir: &'a Path,
    problem: &'a FileProblem,
}

impl fmt::Display for Located<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = self.problem;
        let path = self.dir.join(&problem.file);
        let path = path.display().to_string();
        f.write_str(path.trim_end_matches('/'))?;
        if let Some(line) = problem.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", problem.what)?;
        if let Some(hint) = &problem.hint {
            write!(f, "\n    Hint: {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.under(Path::new("")).fmt(f)
    }
}
