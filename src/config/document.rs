//! A TOML text that knows the line of every key and survives its own mistakes.
//!
//! Serde stops at the first mistake; an operator wants all of them. So a
//! document is read, the key that was wrong is noted and taken out, and it is
//! read again until nothing more is wrong.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::{self, Environment, Secret};
use super::problem::FileProblem;
use super::spelling;

/// The text of a file, parsed.
pub(crate) struct Document<'t> {
    file: PathBuf,
    text: &'t str,
    table: DeTable<'t>,
    secrets: Vec<Secret>,
    /// Keys already complained about; what hangs on them is not worth a second word.
    broken: Vec<Vec<String>>,
}

impl<'t> Document<'t> {
    /// Parses `text`; a text that is not TOML adds its problems and gives none.
    pub(crate) fn parse(file: &Path, text: &'t str, problems: &mut Vec<FileProblem>) -> Option<Self> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Some(Document {
                file: file.to_owned(),
                text,
                table: table.into_inner(),
                secrets: Vec::new(),
                broken: Vec::new(),
            });
        }
        for error in errors {
            let line = error.span().map(|span| line_at(text, span.start));
            problems.push(FileProblem::new(file, format!("not valid TOML: {}", error.message())).line(line));
        }
        None
    }

    /// Replaces `${VAR}` in every string by the variable's value.
    pub(crate) fn substitute(&mut self, environment: Environment<'_>, problems: &mut Vec<FileProblem>) {
        for (offset, what) in environment::substitute(&mut self.table, environment, &mut self.secrets) {
            let line = Some(line_at(self.text, offset));
            problems.push(
                FileProblem::new(&self.file, what)
                    .line(line)
                    .hint("Set it in the environment of the program, for example `export NAME=value`."),
            );
        }
    }

    /// Reads the document into a struct, adding every mistake to `problems`.
    ///
    /// What could not be read is left at its default; none when not even that is possible.
    pub(crate) fn read<T: DeserializeOwned>(&mut self, problems: &mut Vec<FileProblem>) -> Option<T> {
        let mut table = self.table.clone();
        loop {
            let error = match try_read::<T>(&table) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let path = error
                .span()
                .and_then(|span| locate(&table, &span))
                .map(|path| blame::<T>(&table, path, error.message()));
            let missing_of_broken = missing(error.message()).is_some_and(|key| {
                let mut missing = path.clone().unwrap_or_default();
                missing.push(key.to_owned());
                self.broken.contains(&missing)
            });
            // Without its type nothing can be said of a table.
            let tag_is_broken = path.as_ref().is_some_and(|path| {
                let tag: Vec<String> = path.iter().cloned().chain(["type".to_owned()]).collect();
                self.broken.contains(&tag)
            });
            if !missing_of_broken && !tag_is_broken {
                problems.push(self.explain(&table, path.as_deref(), &error));
            }
            let path = path?;
            remove(&mut table, &path);
            self.broken.push(path);
        }
    }

    /// Returns the line of a key, or of the nearest table around it.
    pub(crate) fn line(&self, path: &[&str]) -> Option<usize> {
        (1..=path.len())
            .rev()
            .find_map(|length| key_span(&self.table, &path[..length]))
            .map(|span| line_at(self.text, span.start))
    }

    /// Returns where a key begins, which gives keys their order in the file.
    pub(crate) fn offset(&self, path: &[&str]) -> usize {
        key_span(&self.table, path).map_or(usize::MAX, |span| span.start)
    }

    /// Tells whether a key is there at all.
    pub(crate) fn has(&self, path: &[&str]) -> bool {
        key_span(&self.table, path).is_some()
    }

    /// Tells whether a key, or one below it, was wrong and has been told.
    pub(crate) fn is_broken(&self, path: &[&str]) -> bool {
        self.broken
            .iter()
            .any(|broken| broken.len() >= path.len() && broken.iter().zip(path).all(|(b, p)| b == p))
    }

    /// Names a problem at a key.
    pub(crate) fn problem(&self, path: &[&str], what: impl Into<String>) -> FileProblem {
        FileProblem::new(&self.file, environment::mask(&what.into(), &self.secrets)).line(self.line(path))
    }

    /// Puts serde's words into an operator's.
    fn explain(&self, table: &DeTable<'_>, path: Option<&[String]>, error: &toml::de::Error) -> FileProblem {
        let message = environment::mask(error.message(), &self.secrets);
        let path_text = path.map(readable).unwrap_or_default();
        let line = match (path, error.span()) {
            (Some(path), _) => {
                let keys: Vec<&str> = path.iter().map(String::as_str).collect();
                key_span(table, &keys).map(|span| line_at(self.text, span.start))
            }
            (None, Some(span)) if span.start > 0 => Some(line_at(self.text, span.start)),
            _ => None,
        };
        let problem = |what: String| FileProblem::new(&self.file, what).line(line);
        if let Some((word, known)) = unknown(&message, "unknown field `") {
            return problem(format!("unknown key \"{word}\"")).hint_maybe(spelling::hint(word, known, "key"));
        }
        if let Some((word, known)) = unknown(&message, "unknown variant `") {
            return problem(format!("`{path_text}` cannot be \"{word}\""))
                .hint_maybe(spelling::hint(word, known, "choice"));
        }
        if let Some(key) = missing(&message) {
            let what = match path {
                Some(_) => format!("`{path_text}` needs a key `{key}`"),
                None => format!("key `{key}` is missing"),
            };
            return problem(what);
        }
        // Connectors word their own: `unknown … "word"; there are "a", "b"`.
        let quoted: Vec<&str> = message.split('"').skip(1).step_by(2).collect();
        let near = match quoted.split_first() {
            Some((word, known)) if message.contains("; there are ") => spelling::nearest(word, known.iter().copied()),
            _ => None,
        };
        let hint = near.map(|near| format!("Did you mean \"{near}\"?"));
        match path {
            Some(_) => problem(format!("`{path_text}`: {message}")).hint_maybe(hint),
            None => problem(message).hint_maybe(hint),
        }
    }
}

/// Returns the line of an offset, counted from one.
pub(crate) fn line_at(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Writes a path as one would in TOML, positions in arrays left out.
fn readable(path: &[String]) -> String {
    let keys: Vec<&str> = path
        .iter()
        .map(String::as_str)
        .filter(|key| key.parse::<usize>().is_err())
        .collect();
    keys.join(".")
}

/// Splits serde's "unknown … `word`, expected one of `a`, `b`", whatever was put before it.
fn unknown<'m>(message: &'m str, prefix: &str) -> Option<(&'m str, Vec<&'m str>)> {
    let (_, rest) = message.split_once(prefix)?;
    let (word, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).collect();
    Some((word, known))
}

/// Takes the key out of serde's "missing field `key`", whatever was put before it.
fn missing(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("missing field `")?;
    rest.split('`').next()
}

/// Finds the key whose name or value an error points at. Elements of arrays go by position.
fn locate(table: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<String>> {
    for (key, value) in table {
        let name = || key.get_ref().to_string();
        if key.span() == *span {
            return Some(vec![name()]);
        }
        let inside = match value.get_ref() {
            DeValue::Table(table) => locate(table, span),
            DeValue::Array(array) => array.iter().enumerate().find_map(|(position, element)| {
                let DeValue::Table(table) = element.get_ref() else {
                    return None;
                };
                let mut path = vec![position.to_string()];
                match locate(table, span) {
                    Some(rest) => path.extend(rest),
                    None if element.span() == *span => {}
                    None => return None,
                }
                Some(path)
            }),
            _ => None,
        };
        if let Some(rest) = inside {
            let mut path = vec![name()];
            path.extend(rest);
            return Some(path);
        }
        let around = value.span();
        if around.start <= span.start && span.end <= around.end && !around.is_empty() {
            return Some(vec![name()]);
        }
    }
    None
}

/// Finds the key to blame where the error only knows a table around it.
///
/// Tagged enums and buffered tables lose the place of their keys. The key to
/// blame is the one without which something else is said.
fn blame<T: DeserializeOwned>(table: &DeTable<'_>, mut path: Vec<String>, message: &str) -> Vec<String> {
    // What is missing is missing from the table itself.
    while missing(message).is_none() {
        let Some(DeValue::Table(inside)) = value_at(table, &path) else {
            break;
        };
        let mut keys: Vec<String> = inside.keys().map(|key| key.get_ref().to_string()).collect();
        // Without its tag no table makes sense, so the tag is the last to suspect.
        keys.sort_by_key(|key| key == "type");
        let culprit = keys.into_iter().find(|key| {
            let mut without = table.clone();
            let path: Vec<String> = path.iter().cloned().chain([key.clone()]).collect();
            remove(&mut without, &path);
            try_read::<T>(&without)
                .err()
                .is_none_or(|error| error.message() != message)
        });
        match culprit {
            Some(key) => path.push(key),
            None => break,
        }
    }
    path
}

fn try_read<T: DeserializeOwned>(table: &DeTable<'_>) -> Result<T, toml::de::Error> {
    T::deserialize(toml::de::Deserializer::from(Spanned::new(0..0, table.clone())))
}

fn value_at<'a, 't>(table: &'a DeTable<'t>, path: &[String]) -> Option<&'a DeValue<'t>> {
    let (first, rest) = path.split_first()?;
    let mut value = table.get(first.as_str())?.get_ref();
    for step in rest {
        value = match value {
            DeValue::Table(table) => table.get(step.as_str())?.get_ref(),
            DeValue::Array(array) => array.get(step.parse::<usize>().ok()?)?.get_ref(),
            _ => return None,
        };
    }
    Some(value)
}

/// Returns the span of the last key of a path.
fn key_span(table: &DeTable<'_>, path: &[&str]) -> Option<Range<usize>> {
    let (first, rest) = path.split_first()?;
    let (key, value) = table.get_key_value(*first)?;
    if rest.is_empty() {
        return Some(key.span());
    }
    match value.get_ref() {
        DeValue::Table(table) => key_span(table, rest),
        DeValue::Array(array) => {
            let (position, rest) = rest.split_first()?;
            let element = array.get(position.parse::<usize>().ok()?)?;
            match element.get_ref() {
                DeValue::Table(table) if !rest.is_empty() => key_span(table, rest),
                _ => Some(element.span()),
            }
        }
        _ => None,
    }
}

fn remove(table: &mut DeTable<'_>, path: &[String]) {
    let [first, rest @ ..] = path else { return };
    if rest.is_empty() {
        table.remove(first.as_str());
        return;
    }
    let Some(value) = table.get_mut(first.as_str()) else {
        return;
    };
    match value.get_mut() {
        DeValue::Table(table) => remove(table, rest),
        DeValue::Array(array) => {
            let element = rest[0]
                .parse::<usize>()
                .ok()
                .and_then(|position| array.get_mut(position));
            match (element.map(Spanned::get_mut), &rest[1..]) {
                (Some(DeValue::Table(table)), rest) if !rest.is_empty() => remove(table, rest),
                // An element that is wrong as a whole takes its array with it.
                _ => {
                    table.remove(first.as_str());
                }
            }
        }
        _ => {
            table.remove(first.as_str());
        }
    }
}

#[cfg(test)]
#[expect(dead_code, reason = "these structs are only read into")]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Outer {
        name: String,
        count: u32,
        inner: Inner,
        step: Vec<Step>,
        choice: Option<Choice>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        size: u8,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Step {
        at: String,
        #[serde(default)]
        rows: u32,
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
    enum Choice {
        One { url: String },
    }

    fn problems(text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(mut document) = Document::parse(Path::new("a.toml"), text, &mut problems) {
            document.substitute(&|name| (name == "SECRET").then(|| "hunter2".to_owned()), &mut problems);
            let _: Option<Outer> = document.read(&mut problems);
        }
        problems.sort();
        problems.iter().map(|problem| problem.to_string()).collect()
    }

    #[test]
    fn every_mistake_of_a_file_is_told_with_its_line() {
        let text = "nam = \"x\"\ncount = \"many\"\n[inner]\nsize = 300\nsise = 1\n[[step]]\nat = \"now\"\nrow = 1\n";
        assert_eq!(
            problems(text),
            [
                "a.toml:1: unknown key \"nam\"\n    Hint: Did you mean \"name\"?",
                "a.toml:2: `count`: invalid type: string \"many\", expected u32",
                "a.toml:4: `inner.size`: invalid value: integer `300`, expected u8",
                "a.toml:5: unknown key \"sise\"\n    Hint: Did you mean \"size\"?",
                "a.toml:8: unknown key \"row\"\n    Hint: Did you mean \"rows\"?",
            ]
        );
    }

    #[test]
    fn a_key_of_a_tagged_table_is_still_found() {
        let text = "[choice]\ntype = \"one\"\nurl = \"x\"\nurll = \"y\"\n";
        assert_eq!(
            problems(text),
            ["a.toml:4: unknown key \"urll\"\n    Hint: Did you mean \"url\"?"]
        );
        let text = "[choice]\ntype = \"ones\"\n";
        assert_eq!(
            problems(text),
            ["a.toml:2: `choice.type` cannot be \"ones\"\n    Hint: Did you mean \"one\"?"]
        );
        let text = "[choice]\nurl = 3\ntype = \"one\"\n";
        assert_eq!(
            problems(text),
            ["a.toml:2: `choice.url`: invalid type: integer `3`, expected a string"]
        );
        let text = "[choice]\ntype = \"one\"\n";
        assert_eq!(problems(text), ["a.toml:1: `choice` needs a key `url`"]);
    }

    #[test]
    fn a_text_that_is_not_toml_is_told_by_line() {
        let found = problems("name = \"x\"\ncount = = 3\n");
        assert!(found[0].starts_with("a.toml:2: not valid TOML: "), "{found:?}");
    }

    #[test]
    fn secrets_are_taken_from_the_environment_and_never_printed() {
        assert_eq!(
            problems("name = \"${ABSENT}\""),
            [
                "a.toml:1: environment variable ABSENT is not set\n    Hint: Set it in the environment of the program, for example `export NAME=value`."
            ]
        );
        assert_eq!(
            problems("count = \"${SECRET}\""),
            ["a.toml:1: `count`: invalid type: string \"${SECRET}\", expected u32"]
        );
    }
}
