//! `sinks/NAME.toml`: what another system is told of a view or alert.

use connectors::{SinkConfig, SinkSetting};
use serde::Deserialize;

use super::document::Document;
use super::problem::FileProblem;
use super::spelling;
use super::view::ViewDef;

/// A sink file.
///
/// ```toml
/// from = "critical"
/// [connector]
/// type = "kafka"
/// brokers = "127.0.0.1:9092"
/// topic = "critical"
/// ```
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SinkFile {
    /// The view or alert whose changes are told. Required.
    from: Option<String>,
    /// Ticks with changes that may wait to be delivered. Default 100000.
    #[serde(default = "waiting_ticks_max")]
    waiting_ticks_max: usize,
    /// What happens when so many wait. `"block"`: sources wait until the other side takes some. `"conflate"`: the oldest
    /// that wait give way to their net change, so the other side misses what came and went meanwhile; for sinks that
    /// tell the newest row of each key. Default "block".
    #[serde(default)]
    when_full: WhenFull,
    /// Where they are told. Required.
    connector: Option<SinkConfig>,
}

fn waiting_ticks_max() -> usize {
    100_000
}

/// What happens when as many ticks wait for a sink as may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenFull {
    /// Sources wait.
    #[default]
    Block,
    /// The oldest ticks give way to their net change.
    Conflate,
}

/// A sink, checked.
#[derive(Clone, Debug)]
pub struct SinkDef {
    /// The file's name.
    pub name: String,
    /// The view or alert whose changes are told.
    pub from: String,
    /// Ticks with changes that may wait to be delivered.
    pub waiting_ticks_max: usize,
    /// What happens when so many wait.
    pub when_full: WhenFull,
    /// Where they are told.
    pub connector: SinkConfig,
    /// What it is set up with.
    pub setting: SinkSetting,
}

/// Checks a sink file; adds what is wrong and gives the sink only if nothing is.
pub(crate) fn build(
    name: &str,
    file: SinkFile,
    document: &Document<'_>,
    (deployment, views): (&str, &[ViewDef]),
    problems: &mut Vec<FileProblem>,
) -> Option<SinkDef> {
    let before = problems.len();
    let mut refuse = |path: &[&str], what: String, hint: Option<String>| {
        problems.push(document.problem(path, what).hint_maybe(hint));
    };
    let from = match &file.from {
        None => {
            let hint = "Name the view or alert whose changes are told, for example `from = \"critical\"`.";
            refuse(&["from"], "a sink needs `from`".to_owned(), Some(hint.to_owned()));
            None
        }
        Some(from) => {
            let view = views.iter().find(|definition| definition.view.name == *from);
            if view.is_none() {
                let known = views.iter().map(|definition| definition.view.name.as_str());
                let what = format!("there is no view or alert \"{from}\"");
                refuse(&["from"], what, spelling::hint(from, known, "view"));
            }
            view
        }
    };
    if file.connector.is_none() && !document.is_broken(&["connector"]) {
        let known: Vec<String> = connectors::SINKS
            .iter()
            .map(|entry| format!("\"{}\"", entry.name))
            .collect();
        let hint = format!(
            "Write `[connector]` and below it its `type`; the types there are: {}.",
            known.join(", ")
        );
        refuse(&["connector"], "a sink needs a `[connector]`".to_owned(), Some(hint));
    }
    if file.waiting_ticks_max == 0 {
        let hint = "Leave it out to take the default.".to_owned();
        refuse(
            &["waiting_ticks_max"],
            "`waiting_ticks_max` must be at least 1".to_owned(),
            Some(hint),
        );
    }
    let (view, connector) = (from?, file.connector?);
    let setting = SinkSetting {
        name: name.to_owned(),
        deployment: deployment.to_owned(),
        schema: view.view.schema.clone(),
        key: view.key.clone(),
    };
    for error in connector.check(&setting) {
        problems.push(
            document
                .problem(&["connector"], error.what.as_str())
                .hint_maybe(error.hint),
        );
    }
    if file.when_full == WhenFull::Conflate
        && let Some(error) = connector.check_conflation(&setting)
    {
        let problem = document.problem(&["when_full"], error.what.as_str());
        problems.push(problem.hint_maybe(error.hint));
    }
    (problems.len() == before).then(|| SinkDef {
        name: name.to_owned(),
        from: view.view.name.clone(),
        waiting_ticks_max: file.waiting_ticks_max,
        when_full: file.when_full,
        connector,
        setting,
    })
}
