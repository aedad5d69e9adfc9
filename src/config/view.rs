//! `views/NAME.sql` and `alerts/NAME.sql`: one `SELECT`, under head lines `--!` that hold options in TOML.

use std::fmt;
use std::path::Path;

use queries::Emit;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::document::Document;
use super::duration::Span;
use super::problem::FileProblem;
use super::spelling;

/// The options of a view.
///
/// ```sql
/// --! key = ["station", "hour"]
/// SELECT station, date_bin(INTERVAL '1 hour', at) AS hour, avg(ph) AS ph
/// FROM readings GROUP BY station, hour
/// ```
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ViewOptions {
    /// The columns that identify a row: subscribers are sent whole rows by key
    /// instead of single insertions and deletions.
    pub(crate) key: Option<Vec<String>>,
    /// How long the rows of closed buckets of time are kept, by the watermark of
    /// the view: "2 years". They stay as they were when their bucket closed,
    /// although the rows they were made of leave. Default: as long as those do.
    keep: Option<Span>,
    /// When rows are shown: "on change", the default, or "on close": once the
    /// watermark has passed their bucket of time, and then as they are.
    emit: Option<EmitWord>,
}

/// When a view shows its rows.
#[derive(Clone, Copy, Debug, Deserialize)]
enum EmitWord {
    #[serde(rename = "on change")]
    Change,
    #[serde(rename = "on close")]
    Close,
}

/// The options of an alert: a view whose rows are the alerts now standing.
///
/// ```sql
/// --! key = ["station"]
/// --! priority = "critical"
/// SELECT station, score FROM risk WHERE score >= 70
/// ```
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AlertOptions {
    /// The columns that identify an alert. Required.
    key: Option<Vec<String>>,
    /// How urgent it is: "low", "medium", "high" or "critical". Required.
    priority: Option<Priority>,
    /// For views only: an alert that is over clears.
    keep: Option<IgnoredAny>,
    /// For views only: an alert that is over clears.
    emit: Option<IgnoredAny>,
}

/// How urgent an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// For the record.
    Low,
    /// To look at today.
    Medium,
    /// To look at now.
    High,
    /// To act on now.
    Critical,
}

impl Priority {
    /// Returns the word it is written with.
    pub fn as_str(self) -> &'static str {
        match self {
            Priority::Low => "low",
            Priority::Medium => "medium",
            Priority::High => "high",
            Priority::Critical => "critical",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a `SELECT` is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewKind {
    /// To be looked at.
    View,
    /// To raise alerts: a row in raises, a row out clears.
    Alert {
        /// How urgent they are.
        priority: Priority,
    },
}

/// A view or an alert, planned.
#[derive(Clone, Debug)]
pub struct ViewDef {
    /// The plan, the schema and the text.
    pub view: queries::View,
    /// What it is for.
    pub kind: ViewKind,
    /// Positions of the key columns.
    pub key: Option<Vec<usize>>,
    /// Whether the plan itself makes the key unique, so that nothing need be counted.
    pub key_is_implied: bool,
}

/// What the head of a file said, before the text is planned.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) kind: ViewKind,
    pub(crate) key: Option<Vec<String>>,
    /// The line of the key, for problems with its columns.
    pub(crate) key_line: Option<usize>,
    /// When its rows are shown, and how long closed ones are kept, where it closes any.
    pub(crate) closing: Option<(Emit, Option<i64>)>,
    /// The line that says so.
    pub(crate) closing_line: Option<usize>,
}

/// Reads the head of a view.
pub(crate) fn view_head(path: &Path, text: &str, problems: &mut Vec<FileProblem>) -> Head {
    let (options, lines) = read_head::<ViewOptions>(path, text, problems);
    let emit = match options.emit {
        Some(EmitWord::Close) => Emit::OnClose,
        Some(EmitWord::Change) | None => Emit::OnChange,
    };
    let keep_us = options.keep.map(|keep| keep.us);
    if keep_us == Some(0) {
        problems.push(
            FileProblem::new(path, "`keep` is zero")
                .line(lines.keep)
                .hint("Leave it out: then closed rows stay as long as those they are made of."),
        );
    }
    Head {
        kind: ViewKind::View,
        key: options.key,
        key_line: lines.key,
        closing: (emit == Emit::OnClose || keep_us.is_some()).then_some((emit, keep_us)),
        closing_line: if emit == Emit::OnClose { lines.emit } else { lines.keep },
    }
}

/// Reads the head of an alert, which must say more.
pub(crate) fn alert_head(path: &Path, text: &str, problems: &mut Vec<FileProblem>) -> Head {
    let before = problems.len();
    let (options, lines) = read_head::<AlertOptions>(path, text, problems);
    for (key, line, given) in [
        ("keep", lines.keep, options.keep.is_some()),
        ("emit", lines.emit, options.emit.is_some()),
    ] {
        if given {
            problems.push(
                FileProblem::new(path, format!("`{key}` is for views"))
                    .line(line)
                    .hint("An alert clears once its row is gone: let it read a view that says so."),
            );
        }
    }
    // A head with mistakes may well have meant to say it.
    let is_sound = problems.len() == before;
    if options.key.is_none() && is_sound {
        problems.push(
            FileProblem::new(path, "an alert needs a `key`")
                .line(Some(1))
                .hint("Say which columns identify an alert, for example `--! key = [\"station\"]`."),
        );
    }
    if options.priority.is_none() && is_sound {
        problems.push(
            FileProblem::new(path, "an alert needs a `priority`")
                .line(Some(1))
                .hint("Write `--! priority = \"high\"`; the choices are low, medium, high and critical."),
        );
    }
    let priority = options.priority.unwrap_or(Priority::Low);
    Head {
        kind: ViewKind::Alert { priority },
        key: options.key,
        key_line: lines.key,
        closing: None,
        closing_line: None,
    }
}

/// Where options stand.
#[derive(Default)]
struct Lines {
    key: Option<usize>,
    keep: Option<usize>,
    emit: Option<usize>,
}

/// Reads the options of a file's head.
fn read_head<T: Default + DeserializeOwned>(path: &Path, text: &str, problems: &mut Vec<FileProblem>) -> (T, Lines) {
    let toml = head_as_toml(path, text, problems);
    let Some(mut document) = Document::parse(path, &toml, problems) else {
        return (T::default(), Lines::default());
    };
    let options = document.read(problems).unwrap_or_default();
    let line = |key| document.line(&[key]);
    let lines = Lines {
        key: line("key"),
        keep: line("keep"),
        emit: line("emit"),
    };
    (options, lines)
}

/// Blanks everything but the options, so that lines keep their numbers.
fn head_as_toml(path: &Path, text: &str, problems: &mut Vec<FileProblem>) -> String {
    let mut toml = String::new();
    let mut in_head = true;
    for (position, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if let Some(option) = trimmed.strip_prefix("--!") {
            if in_head {
                toml.push_str(option);
            } else {
                problems.push(
                    FileProblem::new(path, "an option below the query")
                        .line(Some(position + 1))
                        .hint("Lines `--!` stand at the head of the file, before the SELECT."),
                );
            }
        } else if !trimmed.is_empty() && !trimmed.starts_with("--") {
            in_head = false;
        }
        toml.push('\n');
    }
    toml
}

/// Finds the declared key among a planned view's columns.
pub(crate) fn key_columns(
    path: &Path,
    head: &Head,
    view: &queries::View,
    problems: &mut Vec<FileProblem>,
) -> Option<Vec<usize>> {
    let Some(names) = head.key.as_ref() else {
        return implied_columns(view);
    };
    let problem = |what: String| FileProblem::new(path, what).line(head.key_line);
    if names.is_empty() {
        problems.push(
            problem("`key` names no column".to_owned())
                .hint("Leave `key` out, or name the columns that identify a row."),
        );
    }
    let mut key = Vec::new();
    for name in names {
        let fields = view.schema.fields();
        match fields.iter().position(|field| field.name() == name) {
            Some(position) if key.contains(&position) => {
                problems.push(problem(format!("`key` names \"{name}\" twice")).hint("Name each column once."));
            }
            Some(position) => key.push(position),
            None => {
                let known = fields.iter().map(|field| field.name().as_str());
                problems.push(
                    problem(format!("`key` names an unknown column \"{name}\""))
                        .hint_maybe(spelling::hint(name, known, "column")),
                );
            }
        }
    }
    Some(key)
}

/// Returns the columns the plan itself makes unique, where nothing else is declared.
fn implied_columns(view: &queries::View) -> Option<Vec<usize>> {
    let names = view.implied_key.as_ref().filter(|names| !names.is_empty())?;
    names.iter().map(|name| view.schema.index_of(name).ok()).collect()
}

/// Tells whether the plan makes the key unique: some of its columns already are.
pub(crate) fn is_implied(key: &[usize], view: &queries::View) -> bool {
    view.implied_key.as_ref().is_some_and(|implied| {
        implied
            .iter()
            .all(|name| key.iter().any(|position| view.schema.field(*position).name() == name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_of(read: fn(&Path, &str, &mut Vec<FileProblem>) -> Head, text: &str) -> (Head, Vec<String>) {
        let mut problems = Vec::new();
        let head = read(Path::new("v.sql"), text, &mut problems);
        (head, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn options_stand_in_the_head_and_may_span_lines() {
        let text = "-- A comment.\n--! key = [\n--!   \"a\",\n--! ]\n\nSELECT a FROM t\n";
        let (head, problems) = problems_of(view_head, text);
        assert_eq!(problems, [""; 0]);
        assert_eq!(head.key.unwrap(), ["a"]);
        assert_eq!(head.key_line, Some(2));
    }

    #[test]
    fn a_view_says_when_its_rows_are_shown_and_how_long_they_are_kept() {
        let (head, problems) = problems_of(view_head, "--! keep = \"2 days\"\n--! emit = \"on close\"\nSELECT 1");
        assert_eq!(problems, [""; 0]);
        assert_eq!(head.closing, Some((Emit::OnClose, Some(172_800_000_000))));
        let (head, _) = problems_of(view_head, "--! emit = \"on change\"\nSELECT 1");
        assert_eq!(head.closing, None);
        let (_, problems) = problems_of(view_head, "--! keep = \"0 days\"\n--! emit = \"on clsoe\"\nSELECT 1");
        assert!(
            problems[0].starts_with("v.sql:2: `emit` cannot be \"on clsoe\""),
            "{problems:?}"
        );
        let text = "--! key = [\"a\"]\n--! priority = \"low\"\n--! keep = \"1 day\"\nSELECT 1";
        let (_, problems) = problems_of(alert_head, text);
        assert!(problems[0].starts_with("v.sql:3: `keep` is for views"), "{problems:?}");
    }

    #[test]
    fn wrong_options_are_told_at_their_line() {
        let text = "--! keys = [\"a\"]\nSELECT 1\n--! key = [\"a\"]\n";
        let (_, problems) = problems_of(view_head, text);
        assert_eq!(
            problems,
            [
                "v.sql:3: an option below the query\n    Hint: Lines `--!` stand at the head of the file, before the SELECT.",
                "v.sql:1: unknown key \"keys\"\n    Hint: Did you mean \"key\"?",
            ]
        );
    }

    #[test]
    fn an_alert_must_say_its_key_and_priority() {
        let (_, problems) = problems_of(alert_head, "SELECT 1");
        assert_eq!(problems.len(), 2);
        assert!(problems[0].contains("an alert needs a `key`"));
        assert!(problems[1].contains("an alert needs a `priority`"));
        let (_, problems) = problems_of(alert_head, "--! key = [\"a\"]\n--! priority = \"hihg\"\nSELECT 1");
        assert_eq!(
            problems,
            ["v.sql:2: `priority` cannot be \"hihg\"\n    Hint: Did you mean \"high\"?"]
        );
        let (head, problems) = problems_of(alert_head, "--! key = [\"a\"]\n--! priority = \"critical\"\nSELECT 1");
        assert_eq!(problems, [""; 0]);
        assert_eq!(
            head.kind,
            ViewKind::Alert {
                priority: Priority::Critical
            }
        );
    }
}
