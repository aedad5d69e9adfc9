//! Prints a view's incremental plan: operators, keys, what state each keeps and what bounds it.

mod recursion;
mod texts;

use std::collections::HashMap;
use std::fmt::Write;

use arrow::compute::SortOptions;
use dataflows::plan::{
    AbsentList, AggregateFunction as Function, JoinKind, Keep, NodeId, Operator, Plan, Ranking, TemporalMemory,
    WindowCall,
};

use crate::catalog::{Catalog, Relation};
use crate::closing::{Closing, Passing};
use crate::lower::column_index;
use crate::view::View;
use texts::*;

pub(crate) use texts::leaves;

impl View {
    /// Returns the plan as indented text, the view's last operator first.
    pub fn explain(&self, catalog: &Catalog) -> String {
        self.explained(catalog, None)
    }

    /// Returns the same, with the names of the views that a node's work is shared with.
    pub fn explain_shared(&self, catalog: &Catalog, shared: &HashMap<NodeId, Vec<String>>) -> String {
        self.explained(catalog, Some(shared))
    }

    fn explained(&self, catalog: &Catalog, shared: Option<&HashMap<NodeId, Vec<String>>>) -> String {
        let explaining = Explaining {
            plan: &self.plan,
            catalog,
            shared,
            around: None,
            closing: self.closing.as_ref(),
            passing: self.passing.as_ref(),
        };
        let mut text = format!("view {}\n", self.name);
        let columns: Vec<String> = self
            .schema
            .fields()
            .iter()
            .map(|field| format!("{} {}", field.name(), sql_type(field.data_type())))
            .collect();
        let _ = writeln!(text, "  columns: {}", columns.join(", "));
        if let Some(key) = &self.implied_key {
            let _ = writeln!(text, "  key: {} (implied by the plan)", key.join(", "));
        }
        if let Some(look_back_us) = self.look_back_us {
            let _ = writeln!(text, "  looks back: {}", duration(look_back_us));
        }
        explaining.node(self.plan.root, 1, &mut text);
        for warning in &self.warnings {
            let _ = writeln!(text, "  warning: {warning}");
        }
        for unbounded in explaining.unbounded() {
            let _ = writeln!(text, "  warning: {unbounded}");
        }
        text
    }

    /// Returns what nothing bounds, a line each, for `check` to say.
    pub fn unbounded(&self, catalog: &Catalog) -> Vec<String> {
        Explaining {
            plan: &self.plan,
            catalog,
            shared: None,
            around: None,
            closing: self.closing.as_ref(),
            passing: self.passing.as_ref(),
        }
        .unbounded()
    }
}

struct Explaining<'a> {
    plan: &'a Plan,
    catalog: &'a Catalog,
    /// The views that share what a node computes.
    shared: Option<&'a HashMap<NodeId, Vec<String>>>,
    /// Where the plan is the body of a recursion: what explains its inputs, and their nodes there.
    around: Option<(&'a Explaining<'a>, &'a [NodeId])>,
    /// How the view closes its buckets.
    closing: Option<&'a Closing>,
    /// What its joins by time forget.
    passing: Option<&'a Passing>,
}

impl Explaining<'_> {
    fn node(&self, id: NodeId, depth: usize, text: &mut String) {
        let node = &self.plan.nodes[id];
        if let Operator::Outer { input } = &node.operator
            && let Some((around, node)) = self.outer(*input)
        {
            return around.node(node, depth, text);
        }
        let indent = "  ".repeat(depth);
        let (what, state) = self.describe(id);
        let note = if node.append_only { " [append-only]" } else { "" };
        let shared = match self.shared.and_then(|shared| shared.get(&id)) {
            Some(views) => format!(" [shared with {}]", views.join(", ")),
            None => String::new(),
        };
        let _ = writeln!(text, "{indent}{what}{note}{shared}");
        for line in state {
            let _ = writeln!(text, "{indent}  - {line}");
        }
        if let Operator::Recursive { body, .. } = &node.operator {
            return self.recursion_inputs(&node.inputs, body, depth + 1, text);
        }
        for input in &node.inputs {
            self.node(*input, depth + 1, text);
        }
    }

    /// Returns an operator's line, and what is to be said about its state.
    fn describe(&self, id: NodeId) -> (String, Vec<String>) {
        let node = &self.plan.nodes[id];
        let input = node.inputs.first().copied();
        let name = |column: usize| input.map_or_else(String::new, |input| self.name(input, column));
        match &node.operator {
            Operator::Get { relation } => (format!("get {relation}"), self.relation(relation)),
            Operator::Constant { rows } => (format!("constant: {} rows", rows.num_rows()), vec![]),
            Operator::Filter { predicate } => (format!("filter: {predicate}"), vec![]),
            Operator::Project { expressions } => {
                let columns: Vec<String> = expressions
                    .iter()
                    .map(|expression| {
                        let text = match column_index(expression) {
                            Some(column) => name(column),
                            None => expression.text.clone(),
                        };
                        let field = expression.field.name();
                        // What a rewrite named is known by what it holds.
                        if text == *field || field.starts_with("__") {
                            text
                        } else {
                            format!("{text} AS {field}")
                        }
                    })
                    .collect();
                (format!("project: {}", columns.join(", ")), vec![])
            }
            Operator::TemporalFilter { bounds, memory } => {
                let bounds: Vec<String> = bounds.iter().map(|bound| temporal_bound(bound, &name)).collect();
                let state = match memory {
                    TemporalMemory::Content => Some(""),
                    TemporalMemory::Arrival => Some(", as they came"),
                    TemporalMemory::Groups => None,
                };
                let state = state.map(|how| {
                    format!(
                        "state: rows that have yet to enter or leave{how}; bound: {}",
                        self.bound(id)
                    )
                });
                (
                    format!("temporal filter: {}", bounds.join(" AND ")),
                    state.into_iter().collect(),
                )
            }
            Operator::TemporalAny { alternatives } => {
                let alternatives: Vec<String> = alternatives
                    .iter()
                    .map(|alternative| {
                        let bounds = alternative.bounds.iter().map(|bound| temporal_bound(bound, &name));
                        let flags = alternative.flags.iter().map(|flag| name(*flag));
                        bounds.chain(flags).collect::<Vec<_>>().join(" AND ")
                    })
                    .collect();
                (
                    format!("temporal filter: {}", alternatives.join(" OR ")),
                    vec![format!(
                        "state: rows that have yet to enter or leave; bound: {}",
                        self.bound(id)
                    )],
                )
            }
            Operator::Consolidate => ("consolidate: one of each of a tick's equal rows".to_owned(), vec![]),
            Operator::Unnest { lists, absent } => {
                let lists: Vec<String> = lists
                    .iter()
                    .map(|list| match list.depth {
                        1 => name(list.column),
                        depth => format!("{}, {depth} deep", name(list.column)),
                    })
                    .collect();
                let kept = match absent {
                    AbsentList::Drop => "",
                    AbsentList::KeepNull => ", a row where it is NULL",
                    AbsentList::KeepEmpty => ", a row where it is NULL or empty",
                };
                (format!("unnest: {}{kept}", lists.join("; ")), vec![])
            }
            Operator::Aggregate { keys, calls, leaves } => {
                let whole = match leaves.is_empty() {
                    true => "",
                    false => ", and a group leaves as a whole",
                };
                let keys: Vec<String> = keys.iter().map(|key| name(*key)).collect();
                let by = if keys.is_empty() {
                    "one group".to_owned()
                } else {
                    format!("by {}", keys.join(", "))
                };
                if calls.is_empty() {
                    let state = format!("state: a count for each distinct row; bound: {}{whole}", self.bound(id));
                    return (format!("distinct {}", keys.join(", ")), vec![state]);
                }
                let texts: Vec<String> = calls.iter().map(|call| call_text(call, &name)).collect();
                let mut state = vec![if keys.is_empty() {
                    "state: one group".to_owned()
                } else {
                    format!("state: one entry a group; bound: {}{whole}", self.bound(id))
                }];
                let retracts = input.is_some_and(|input| !self.plan.nodes[input].append_only);
                if calls.iter().any(|call| {
                    call.distinct && call.function.minds_duplicates() || call.function == Function::ApproxDistinct
                }) {
                    state.push("DISTINCT keeps a count for every present value of a group".into());
                }
                if retracts && calls.iter().any(keeps_values) {
                    state.push("min, max, first_value and last_value keep every present value of a group, in order, since rows may leave".into());
                }
                let keep: Vec<String> = calls
                    .iter()
                    .filter(|call| keeps_all(call))
                    .map(|call| call.function.to_string())
                    .collect();
                if !keep.is_empty() {
                    state.push(format!(
                        "{} keep every present value of a group, in order",
                        keep.join(", ")
                    ));
                }
                (format!("aggregate {by}: {}", texts.join(", ")), state)
            }
            Operator::Join {
                kind,
                on,
                null_equals_null,
                band,
            } => {
                let right = node.inputs.get(1).copied();
                let right_name = |column: usize| right.map_or_else(String::new, |right| self.name(right, column));
                let equals = if *null_equals_null { "IS NOT DISTINCT FROM" } else { "=" };
                let on: Vec<String> = on
                    .iter()
                    .map(|(left, right)| format!("{} {equals} {}", name(*left), right_name(*right)))
                    .collect();
                let (what, keeps) = match kind {
                    JoinKind::Inner if on.is_empty() => ("cross join", "the rows of both sides"),
                    JoinKind::Inner => ("inner join", "the rows of both sides"),
                    JoinKind::Left => ("left join", "the rows of both sides"),
                    JoinKind::Full => ("full join", "the rows of both sides"),
                    JoinKind::Semi => ("semi join", "the left rows, and a count a key of the right"),
                    JoinKind::Anti => ("anti join", "the left rows, and a count a key of the right"),
                    JoinKind::Mark => ("mark join", "the left rows, and a count a key of the right"),
                };
                let mut keys = if on.is_empty() {
                    String::new()
                } else {
                    format!(" on {}", on.join(" AND "))
                };
                let what = if band.is_some() && on.is_empty() {
                    "inner join"
                } else {
                    what
                };
                if let Some(band) = band {
                    let _ = write!(keys, ", {}", distance(band, &name(band.left), &right_name(band.right)));
                }
                (
                    format!("{what}{keys}"),
                    vec![format!("state: {keeps}; bound: {}", self.bound(id))],
                )
            }
            Operator::Window {
                partition,
                order,
                calls,
                keep,
            } => self.window(id, partition, order, calls, keep.as_ref(), &name),
            Operator::Union => ("union all".to_owned(), vec![]),
            Operator::Close { bucket, on_close, .. } => self.close(&name(*bucket), *on_close),
            Operator::Recursive { name, distinct, .. } => self.recursion(id, name, *distinct),
            Operator::Table { text, .. } => (
                text.clone(),
                vec![format!(
                    "state: what it reads, and its rows, on one worker; bound: {}",
                    self.bound(id)
                )],
            ),
            Operator::Loop => ("the rows of the round before".to_owned(), vec![]),
            Operator::Outer { .. } => ("what is around".to_owned(), vec![]),
        }
    }

    fn window(
        &self,
        id: NodeId,
        partition: &[usize],
        order: &[(usize, SortOptions)],
        calls: &[WindowCall],
        keep: Option<&Keep>,
        name: &impl Fn(usize) -> String,
    ) -> (String, Vec<String>) {
        let mut what = Vec::new();
        if !partition.is_empty() {
            let keys: Vec<String> = partition.iter().map(|key| name(*key)).collect();
            what.push(format!("by {}", keys.join(", ")));
        }
        if !order.is_empty() {
            what.push(format!("in order of {}", order_text(order, name)));
        }
        if let Some(keep) = keep {
            let ranks = match keep.by {
                Ranking::RowNumber => "rows",
                Ranking::Rank => "ranks",
                Ranking::DenseRank => "dense ranks",
            };
            what.push(match (keep.skip, keep.fetch) {
                (0, fetch) => format!("the first {fetch} {ranks}"),
                (skip, u64::MAX) => format!("all but the first {skip} {ranks}"),
                (skip, fetch) => format!("{fetch} {ranks} after the first {skip}"),
            });
        }
        let texts: Vec<&str> = calls.iter().map(|call| call.text.as_str()).collect();
        let (title, texts) = match texts.is_empty() {
            true => ("top", String::new()),
            false => ("window", format!(": {}", texts.join(", "))),
        };
        let bounded = keep
            .is_some_and(|keep| keep.fetch < u64::MAX && self.plan.nodes[self.plan.nodes[id].inputs[0]].append_only);
        let closes = self.plan.nodes[id].closes.iter().any(Option::is_some);
        let state = match bounded {
            true if closes => format!("state: the rows of these ranks, in order; bound: {}", self.closed_by()),
            true => "state: the rows of these ranks, in order".to_owned(),
            false => format!("state: every row, in order, and its results; bound: {}", self.bound(id)),
        };
        (format!("{title} {}{texts}", what.join(", ")), vec![state])
    }

    /// Returns what a node's column is known by: its name, or what it holds where only a rewrite named it.
    fn name(&self, id: NodeId, column: usize) -> String {
        let node = &self.plan.nodes[id];
        let below = |column: usize| self.name(node.inputs[0], column);
        let field = node.schema.field(column).name();
        match &node.operator {
            Operator::Project { expressions } if field.starts_with("__") => {
                let expression = &expressions[column];
                column_index(expression).map_or_else(|| expression.text.clone(), below)
            }
            Operator::Filter { .. }
            | Operator::TemporalFilter { .. }
            | Operator::TemporalAny { .. }
            | Operator::Consolidate
            | Operator::Close { .. } => below(column),
            Operator::Window { calls, .. } => {
                let width = node.schema.fields().len() - calls.len();
                match column.checked_sub(width) {
                    None => below(column),
                    Some(call) => calls[call].text.clone(),
                }
            }
            Operator::Outer { input } => match self.outer(*input) {
                Some((around, node)) => around.name(node, column),
                None => field.clone(),
            },
            Operator::Aggregate { keys, calls, .. } => match column.checked_sub(keys.len()) {
                None => below(keys[column]),
                Some(call) => call_text(&calls[call], &below),
            },
            Operator::Join { kind, .. } => {
                let width = self.plan.nodes[node.inputs[0]].schema.fields().len();
                match column.checked_sub(width) {
                    None => below(column),
                    Some(_) if *kind == JoinKind::Mark => field.clone(),
                    Some(column) => self.name(node.inputs[1], column),
                }
            }
            _ => field.clone(),
        }
    }

    fn relation(&self, name: &str) -> Vec<String> {
        match self.catalog.relation(name).map(AsRef::as_ref) {
            Some(Relation::Source(source)) => {
                let mut lines = Vec::new();
                if let Some(key) = &source.key {
                    lines.push(format!("one row for each {}", key.join(", ")));
                }
                if let Some(retain_us) = source.retain_us {
                    lines.push(format!("rows leave after {}", duration(retain_us)));
                }
                lines
            }
            _ => vec![],
        }
    }

    /// Says what bounds the state of a stateful node.
    fn bound(&self, id: NodeId) -> String {
        let mut bounds = Vec::new();
        let node = &self.plan.nodes[id];
        let (left, right) = self.passing.map_or((false, false), |passing| passing.forgets(id));
        for (position, input) in node.inputs.iter().enumerate() {
            match node.closes.get(position) {
                Some(Some(_)) => bounds.push(self.closed_by()),
                _ if [left, right].get(position) == Some(&true) => {
                    let side = if position == 0 { "left" } else { "right" };
                    bounds.push(format!("the watermark: {side} rows go once none to come can meet them"));
                }
                _ => self.bounds(*input, &mut bounds),
            }
        }
        if let Operator::TemporalFilter { bounds: own, .. } = &self.plan.nodes[id].operator
            && own.iter().any(leaves)
        {
            bounds = vec![now_bound(own)];
        }
        if let Operator::TemporalAny { alternatives } = &self.plan.nodes[id].operator
            && let Some(bound) = all_leave(alternatives)
        {
            bounds = vec![bound];
        }
        bounds.dedup();
        bounds.join("; ")
    }

    /// Says that rows are let go of by the watermark.
    fn closed_by(&self) -> String {
        let bucket = self
            .closing
            .map(|closing| self.plan.schema().field(closing.bucket).name());
        format!(
            "the watermark: let go of once {} is closed",
            bucket.map_or("their bucket", String::as_str)
        )
    }

    /// Describes the operator that finishes a view's rows.
    fn close(&self, bucket: &str, on_close: bool) -> (String, Vec<String>) {
        let shown = if on_close {
            "rows are shown once"
        } else {
            "rows are final once"
        };
        let Some(closing) = self.closing else {
            return (format!("close: {shown} {bucket} is closed"), vec![]);
        };
        let inputs: Vec<&str> = closing
            .sources
            .iter()
            .chain(&closing.views)
            .map(String::as_str)
            .collect();
        let mut state = vec![
            format!("closed by the watermark of {}", inputs.join(", ")),
            "state: the rows of open buckets; bound: the watermark".to_owned(),
        ];
        if let Some(keep_us) = closing.keep_us {
            state.push(format!(
                "state: the rows of closed buckets; bound: keep, {}",
                duration(keep_us)
            ));
        }
        (format!("close: {shown} {bucket} is closed"), state)
    }

    fn bounds(&self, id: NodeId, found: &mut Vec<String>) {
        let node = &self.plan.nodes[id];
        match &node.operator {
            Operator::TemporalFilter { bounds, .. } if bounds.iter().any(leaves) => found.push(now_bound(bounds)),
            Operator::TemporalAny { alternatives } if all_leave(alternatives).is_some() => {
                found.extend(all_leave(alternatives));
            }
            Operator::Aggregate { keys, .. } if keys.is_empty() => found.push("one row".to_owned()),
            Operator::Constant { .. } => found.push("constant rows".to_owned()),
            Operator::Get { relation } => found.push(match self.catalog.relation(relation).map(AsRef::as_ref) {
                Some(Relation::Source(source)) => match (&source.key, source.retain_us) {
                    (_, Some(retain_us)) => format!("retain of source {relation}, {}", duration(retain_us)),
                    (Some(key), None) => format!("one row for each {} of source {relation}", key.join(", ")),
                    (None, None) => format!("nothing: add retain to source {relation}"),
                },
                _ => format!("the rows of view {relation}"),
            }),
            Operator::Outer { input } => {
                if let Some((around, node)) = self.outer(*input) {
                    around.bounds(node, found);
                }
            }
            _ => node.inputs.iter().for_each(|input| self.bounds(*input, found)),
        }
    }

    /// Lists the state that grows without end.
    fn unbounded(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (id, node) in self.plan.nodes.iter().enumerate() {
            let what = match &node.operator {
                Operator::Join { .. } => "a join keeps all its rows",
                Operator::Window { keep: Some(keep), .. }
                    if keep.fetch < u64::MAX && self.plan.nodes[node.inputs[0]].append_only =>
                {
                    continue;
                }
                Operator::Window { .. } => "a window keeps all its rows",
                Operator::Recursive { .. } => "a recursion keeps all its rows",
                Operator::Table { .. } => "a table function keeps all it reads",
                Operator::TemporalFilter { bounds, .. } if !bounds.iter().any(leaves) => continue,
                // It keeps no row for longer than it has still to enter or leave.
                Operator::TemporalAny { .. } => continue,
                Operator::Aggregate { keys, calls, .. } if !keys.is_empty() && calls.is_empty() => {
                    "DISTINCT keeps every distinct row"
                }
                Operator::Aggregate { keys, .. } if !keys.is_empty() => "a group is kept for every key ever seen",
                _ => continue,
            };
            let bound = self.bound(id);
            for part in bound.split("; ") {
                if let Some(way_out) = part.strip_prefix("nothing: ") {
                    let line = format!("nothing bounds the state: {what}; {way_out}");
                    if !lines.contains(&line) {
                        lines.push(line);
                    }
                }
            }
        }
        lines
    }
}
