//! What is said when SQL cannot be planned or run: one clear line and a way out.

use std::fmt;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;

/// Something wrong with a text the operator wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What callers may act on.
    pub kind: ProblemKind,
    /// The line of the SQL text, counted from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong, in lower case, without a full stop.
    pub what: String,
    /// The way out, in full sentences.
    pub hint: Option<String>,
}

/// The kinds of problem that callers tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The text reads a relation that is not known (yet).
    UnknownRelation(String),
    /// A construct that Sangam does not maintain incrementally.
    NotMaintained,
    /// Anything else.
    Other,
}

/// Why a batch or a query gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The text cannot be planned.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The caller did not hand over a relation that the plan reads.
    #[error("relation \"{0}\" was not handed over")]
    MissingRelation(String),
    /// It needs, or returns, more than it may.
    #[error("the query needs or returns more than {} MiB", .bytes_max >> 20)]
    TooLarge {
        /// What it may.
        bytes_max: usize,
    },
    /// It failed while running.
    #[error("{0}")]
    Execution(String),
}

impl Problem {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Problem {
            kind: ProblemKind::Other,
            line: None,
            what: what.into(),
            hint: None,
        }
    }

    /// Says that a construct has no incremental operator.
    pub(crate) fn not_maintained(what: impl fmt::Display) -> Self {
        Problem {
            kind: ProblemKind::NotMaintained,
            ..Problem::new(format!("{what} cannot be kept current"))
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Fills the line in by looking for a word of the text, where none is known.
    pub(crate) fn on_line_of(mut self, sql: &str, word: &str) -> Self {
        self.line = self.line.or_else(|| line_of(sql, word));
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Problem {}

impl From<Problem> for DataFusionError {
    fn from(problem: Problem) -> Self {
        DataFusionError::External(Box::new(problem))
    }
}

impl From<DataFusionError> for Problem {
    fn from(error: DataFusionError) -> Self {
        let line = error
            .diagnostic()
            .and_then(|diagnostic| diagnostic.span)
            .map(|span| span.start.line as usize);
        let mut problem = plain(&error);
        problem.line = problem.line.or(line.filter(|line| *line > 0));
        problem
    }
}

/// Finds the root of an error and words it.
fn plain(error: &DataFusionError) -> Problem {
    match error {
        DataFusionError::External(inner) => match inner.downcast_ref::<Problem>() {
            Some(problem) => problem.clone(),
            None => Problem::new(first_line(&inner.to_string())),
        },
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => plain(inner),
        DataFusionError::Shared(inner) => plain(inner),
        DataFusionError::Collection(errors) => match errors.first() {
            Some(inner) => inner.diagnostic().map_or_else(
                || plain(inner),
                |diagnostic| Problem {
                    line: diagnostic.span.map(|span| span.start.line as usize),
                    ..plain(inner)
                },
            ),
            None => Problem::new("unknown error"),
        },
        DataFusionError::SQL(error, _) if matches!(**error, ParserError::RecursionLimitExceeded) => {
            Problem::new("brackets, subqueries or NOTs stand too deep in each other")
                .hint("Write the inner ones before the query, with WITH, or as views of their own.")
        }
        DataFusionError::SQL(error, _) => parser(&error.to_string()),
        DataFusionError::SchemaError(error, _) => schema(error),
        DataFusionError::ArrowError(..) => Problem::new(dataflows::evaluate::reason(error)),
        other => {
            let message = other.message().into_owned();
            if let Some(problem) = reworded(&message) {
                return problem;
            }
            let mut lines = message.lines();
            let what = trim(lines.next().unwrap_or_default());
            let problem = Problem::new(what);
            // DataFusion words its own "Did you mean" on the second line.
            match lines.next().map(str::trim) {
                Some(hint) if hint.starts_with("Did you mean") => problem.hint(hint),
                _ => problem,
            }
        }
    }
}

/// Rewords the messages of DataFusion's that speak to its developers.
fn reworded(message: &str) -> Option<Problem> {
    // Parquet and the store put their own names before it.
    if let Some(at) = message.find("history file \"") {
        return Some(Problem::new(first_line(&message[at..])));
    }
    let quoted = || {
        message
            .split('"')
            .nth(1)
            .map(|name| name.rsplit('.').next().unwrap_or(name))
    };
    if message.contains("require unique expression names") {
        return Some(
            Problem::new(format!("two columns are named \"{}\"", quoted()?))
                .hint("Give one of them another name with AS."),
        );
    }
    if message.contains("must appear in the GROUP BY clause") || message.contains("must be in GROUP BY") {
        let column = message.split("column \"").nth(1)?.split('"').next()?;
        return Some(
            Problem::new(format!("column \"{column}\" is neither grouped nor aggregated"))
                .hint("Add it to GROUP BY, or take last_value(x ORDER BY at) of it."),
        );
    }
    if message.contains("failed to match any signature") {
        let function = message.split('\'').nth(1)?;
        let received = message
            .split("but received ")
            .nth(1)
            .and_then(|rest| rest.split([' ', '.', ',']).next());
        let what = match received {
            Some("String") => format!("{function}() does not take text"),
            Some(received) => format!("{function}() does not take {}", received.to_lowercase()),
            None => format!("{function}() does not take these arguments"),
        };
        return Some(Problem::new(what).hint(format!("Cast the argument, as in {function}(x::double).")));
    }
    None
}

/// A parser's message: `sql parser error: Expected: …, found: … at Line: 1, Column: 8`.
fn parser(message: &str) -> Problem {
    let message = message.trim_start_matches("sql parser error: ");
    let (what, place) = match message.split_once(" at Line: ") {
        Some((what, place)) => (what, Some(place)),
        None => (message, None),
    };
    let line = place.and_then(|place| place.split(',').next()?.trim().parse().ok());
    Problem {
        line,
        ..Problem::new(format!("could not parse SQL: {}", lower_first(&first_line(what))))
    }
}

fn schema(error: &SchemaError) -> Problem {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let problem = Problem::new(format!("unknown column \"{}\"", field.flat_name()));
            let names: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
            match nearest(&field.name, &names) {
                Some(name) => problem.hint(format!("Did you mean \"{name}\"?")),
                None if names.is_empty() => problem,
                None => problem.hint(format!("The columns here are {}.", listed(&names))),
            }
        }
        SchemaError::AmbiguousReference { field } => {
            Problem::new(format!("column \"{}\" is ambiguous", field.flat_name()))
                .hint("Write the relation's name or alias before it.")
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            Problem::new(format!("column \"{name}\" appears twice")).hint("Give one of them another name with AS.")
        }
    }
}

/// Drops what DataFusion says to its own developers.
fn trim(message: &str) -> String {
    let mut text = message.trim();
    for noise in [
        "Error during planning: ",
        "Internal error: ",
        "Execution error: ",
        "This feature is not implemented: ",
    ] {
        text = text.strip_prefix(noise).unwrap_or(text);
    }
    for noise in [
        " This issue was likely caused by a bug",
        ". This issue was likely",
        " No function matches the given",
    ] {
        text = text.split(noise).next().unwrap_or(text);
    }
    lower_first(text.trim_end_matches('.'))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// Lowers the first letter, unless the word is an acronym or a name.
fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}

/// Names at most a dozen things.
pub(crate) fn listed(names: &[&str]) -> String {
    let mut text = names.iter().take(12).copied().collect::<Vec<_>>().join(", ");
    if names.len() > 12 {
        text.push_str(", …");
    }
    text
}

/// Returns the name that was probably meant: at most a third of its letters differ.
pub(crate) fn nearest<'a>(name: &str, among: &[&'a str]) -> Option<&'a str> {
    among
        .iter()
        .map(|candidate| {
            (
                datafusion::common::utils::datafusion_strsim::levenshtein(name, candidate),
                *candidate,
            )
        })
        .filter(|(distance, candidate)| *distance * 3 <= candidate.len().max(name.len()) + 1)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Returns the first line on which `word` stands as a word of its own.
fn line_of(sql: &str, word: &str) -> Option<usize> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    let word = word.to_lowercase();
    sql.lines()
        .position(|line| {
            let line = line.split("--").next().unwrap_or_default().to_lowercase();
            line.match_indices(&word).any(|(at, _)| {
                !line[..at].chars().next_back().is_some_and(is_word)
                    && !line[at + word.len()..].chars().next().is_some_and(is_word)
            })
        })
        .map(|line| line + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parser_errors_keep_the_line() {
        let problem = parser("sql parser error: Expected: an expression, found: FROM at Line: 2, Column: 3");
        assert_eq!(problem.line, Some(2));
        assert_eq!(
            problem.what,
            "could not parse SQL: expected: an expression, found: FROM"
        );
    }

    #[test]
    fn finds_what_was_meant() {
        assert_eq!(nearest("readngs", &["stations", "readings"]), Some("readings"));
        assert_eq!(nearest("x", &["stations", "readings"]), None);
    }

    #[test]
    fn finds_words_outside_comments() {
        assert_eq!(line_of("-- foo\nSELECT *\nFROM foo", "foo"), Some(3));
        assert_eq!(line_of("SELECT foo_bar", "foo"), None);
    }
}
