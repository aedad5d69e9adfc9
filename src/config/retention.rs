//! Whether sources keep their rows long enough for the views over them, and not for ever by accident.

use std::collections::BTreeMap;
use std::path::PathBuf;

use connectors::ConnectorConfig;
use dataflows::plan::{NodeId, Operator, Plan};

use super::duration::readable;
use super::problem::FileProblem;
use super::source::Source;
use super::view::ViewDef;

/// A source with the place of its `retain`.
pub(crate) struct Retained<'a> {
    pub(crate) source: &'a Source,
    pub(crate) file: PathBuf,
    /// The line of `retain`; none without one.
    pub(crate) line: Option<usize>,
}

/// Refuses a `retain` that is shorter than a view over the source looks back.
pub(crate) fn check(sources: &[Retained<'_>], views: &[ViewDef], problems: &mut Vec<FileProblem>) {
    let look_backs = look_backs(views);
    for Retained { source, file, line } in sources {
        let Some(retain_us) = source.retain_us else { continue };
        let widest = look_backs
            .iter()
            .filter(|((relation, _), _)| *relation == source.name)
            .max_by_key(|(_, us)| **us);
        if let Some(((_, view), us)) = widest
            && *us > retain_us
        {
            let what = format!(
                "`retain` ({}) is shorter than \"{view}\" looks back ({})",
                readable(retain_us),
                readable(*us)
            );
            problems.push(FileProblem::new(file, what).line(*line).hint(format!(
                "Retain at least \"{}\", or narrow the view's interval.",
                readable(*us)
            )));
        }
    }
}

/// Refuses a `keep` that is shorter than a view over the view looks back; `file` is where a view is declared.
pub(crate) fn check_kept(views: &[ViewDef], file: impl Fn(&str) -> PathBuf, problems: &mut Vec<FileProblem>) {
    let look_backs = look_backs(views);
    for ViewDef { view, .. } in views {
        let Some(keep_us) = view.closing.as_ref().and_then(|closing| closing.keep_us) else {
            continue;
        };
        if let Err(error) = crate::engine::layout_of_rows(view) {
            problems.push(
                FileProblem::new(file(&view.name), error.what)
                    .line(Some(1))
                    .hint(error.hint),
            );
        }
        let asked = look_backs.iter().filter(|((relation, _), _)| *relation == view.name);
        if let Some(((_, reader), us)) = asked.max_by_key(|(_, us)| **us)
            && *us > keep_us
        {
            let what = format!(
                "`keep` ({}) is shorter than \"{reader}\" looks back ({})",
                readable(keep_us),
                readable(*us)
            );
            let hint = format!(
                "Keep at least \"{}\", or narrow the other view's interval.",
                readable(*us)
            );
            problems.push(FileProblem::new(file(&view.name), what).line(Some(1)).hint(hint));
        }
    }
}

/// Warns of sources whose rows, and with them the state of the views, grow for ever.
pub(crate) fn warnings(sources: &[Retained<'_>], views: &[ViewDef]) -> Vec<FileProblem> {
    let mut warnings = Vec::new();
    for Retained { source, file, .. } in sources {
        // An upsert is bounded by its keys, a file that is read once by its end.
        if source.retain_us.is_some() || source.key.is_some() || is_finite(&source.connector) {
            continue;
        }
        let readers: Vec<String> = views
            .iter()
            .filter(|view| view.view.inputs.contains(&source.name))
            .map(|view| format!("\"{}\"", view.view.name))
            .collect();
        let what = if readers.is_empty() {
            "rows are kept for ever".to_owned()
        } else {
            format!(
                "rows are kept for ever, and the state of {} may grow for ever",
                readers.join(", ")
            )
        };
        warnings.push(FileProblem::new(file, what).hint("Declare for example `retain = \"3 days\"`."));
    }
    warnings
}

fn is_finite(connector: &ConnectorConfig) -> bool {
    match connector {
        ConnectorConfig::Http(_)
        | ConnectorConfig::Kafka(_)
        | ConnectorConfig::Mqtt(_)
        | ConnectorConfig::MqttListener(_) => false,
        ConnectorConfig::File(file) => !file.follow,
        ConnectorConfig::Simulate(simulate) => simulate.is_bounded(),
        ConnectorConfig::Nexmark(nexmark) => nexmark.is_bounded(),
    }
}

/// How far each view makes each relation below it be remembered: (relation, view) → microseconds.
fn look_backs(views: &[ViewDef]) -> BTreeMap<(String, String), i64> {
    let mut widest: BTreeMap<(String, String), i64> = BTreeMap::new();
    // Readers come after what they read, so going backwards every view knows
    // all that is asked of it before it asks its own inputs.
    for view in views.iter().rev() {
        let name = &view.view.name;
        let asked: Vec<(String, i64)> = widest
            .iter()
            .filter(|((relation, _), _)| relation == name)
            .map(|((_, asker), us)| (asker.clone(), *us))
            // What a view has closed it keeps itself.
            .filter(|_| view.view.closing.is_none())
            .collect();
        let until_closed = view
            .view
            .closing
            .as_ref()
            .map(|closing| closing.size_us.saturating_add(closing.lateness_us));
        for relation in view.view.plan.relations() {
            let own = look_back(&view.view.plan, relation)
                .max(until_closed)
                .map(|us| (name.clone(), us));
            for (asker, us) in asked.iter().cloned().chain(own) {
                let entry = widest.entry((relation.to_owned(), asker)).or_insert(us);
                *entry = us.max(*entry);
            }
        }
    }
    widest
}

/// The widest look back at or above any place where the plan reads `relation`.
fn look_back(plan: &Plan, relation: &str) -> Option<i64> {
    plan.nodes
        .iter()
        .enumerate()
        .filter(|(node, _)| reads(plan, *node, relation))
        .flat_map(|(_, node)| node.operator.temporal_bounds())
        // Whichever way it compares: `at < now() - interval '2 hours'` needs
        // rows of two hours as much as `at > …` does.
        .map(|bound| bound.offset_us.saturating_neg())
        .filter(|us| *us > 0)
        .max()
}

fn reads(plan: &Plan, node: NodeId, relation: &str) -> bool {
    let node = &plan.nodes[node];
    match &node.operator {
        Operator::Get { relation: read } => read == relation,
        _ => node.inputs.iter().any(|input| reads(plan, *input, relation)),
    }
}
