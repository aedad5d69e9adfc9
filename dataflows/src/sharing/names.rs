//! Makes aggregates and windows alike that differ only in what they call their results.
//!
//! The planner lets the last operator of a view give the columns the view's own names. Where several compute
//! the same under different names, all take those of the first, under a projection to their own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Schema};

use super::classes::{ClassId, Classes};
use super::widen::{Draft, choice};
use crate::plan::{Node, NodeId, Operator};

/// Makes nodes alike whose inputs are; tells whether any were not before.
pub(super) fn round(plans: &mut [Draft]) -> bool {
    let (mut classes, mut nameless) = (Classes::default(), Classes::default());
    let mut groups: BTreeMap<ClassId, Vec<(usize, NodeId, ClassId)>> = BTreeMap::new();
    let sharing = plans.iter().enumerate().filter(|(_, view)| !view.alone);
    for (view, Draft { plan, .. }) in sharing {
        let ids = classes.add(plan, false);
        for (id, node) in plan.nodes.iter().enumerate() {
            if is_named(&node.operator) {
                let inputs = node.inputs.iter().map(|&input| ids[input]).collect();
                let group = nameless.intern(without_names(node, inputs));
                groups.entry(group).or_default().push((view, id, ids[id]));
            }
        }
    }
    let mut wanted: BTreeMap<usize, HashMap<NodeId, Node>> = BTreeMap::new();
    for group in groups.into_values() {
        let different: BTreeSet<ClassId> = group.iter().map(|(.., class)| *class).collect();
        if different.len() < 2 {
            continue;
        }
        let (first, node, class) = group[0];
        let first = plans[first].plan.nodes[node].clone();
        for (view, id, _) in group.iter().filter(|(.., other)| *other != class) {
            wanted.entry(*view).or_default().insert(*id, first.clone());
        }
    }
    let changed = !wanted.is_empty();
    for (view, nodes) in wanted {
        plans[view] = rewritten(&plans[view], &nodes);
    }
    changed
}

fn is_named(operator: &Operator) -> bool {
    matches!(operator, Operator::Aggregate { .. } | Operator::Window { .. })
}

fn nameless(fields: &[FieldRef]) -> Vec<FieldRef> {
    let field = |(position, field): (usize, &FieldRef)| -> FieldRef {
        Arc::new(Field::clone(field).with_name(position.to_string()))
    };
    fields.iter().enumerate().map(field).collect()
}

/// The same node, its columns called by their positions.
fn without_names(node: &Node, inputs: Vec<NodeId>) -> Node {
    let schema = Arc::new(Schema::new(nameless(node.schema.fields())));
    let named = Node {
        operator: node.operator.clone(),
        inputs,
        schema: Arc::clone(&schema),
        append_only: node.append_only,
        closes: Vec::new(),
    };
    with_names(&named, schema.fields())
}

/// The same node under other names.
fn with_names(node: &Node, fields: &[FieldRef]) -> Node {
    let mut node = node.clone();
    node.schema = Arc::new(Schema::new(fields.to_vec()));
    let own = |calls: usize| fields[fields.len() - calls..].iter();
    match &mut node.operator {
        Operator::Aggregate { calls, .. } => {
            let fields = own(calls.len());
            calls
                .iter_mut()
                .zip(fields)
                .for_each(|(call, field)| call.field = Arc::clone(field));
        }
        Operator::Window { calls, .. } => {
            let fields = own(calls.len());
            calls
                .iter_mut()
                .zip(fields)
                .for_each(|(call, field)| call.field = Arc::clone(field));
        }
        _ => {}
    }
    node
}

/// Gives nodes the names of others, each under a projection to its own.
fn rewritten(view: &Draft, nodes: &HashMap<NodeId, Node>) -> Draft {
    let mut new = Draft::empty();
    let mut moved: Vec<NodeId> = Vec::with_capacity(view.plan.nodes.len());
    for (id, node) in view.plan.nodes.iter().enumerate() {
        let inputs = node.inputs.iter().map(|&input| moved[input]).collect();
        let node = Node { inputs, ..node.clone() };
        let Some(like) = nodes.get(&id) else {
            moved.push(new.push(node, view.origin[id]));
            continue;
        };
        let renamed = with_names(&node, like.schema.fields());
        let below = new.push(renamed.clone(), view.origin[id]);
        let all: Vec<usize> = (0..node.schema.fields().len()).collect();
        moved.push(new.push(choice(&renamed, below, &all, Some(&node)), view.origin[id]));
    }
    new.plan.root = moved[view.plan.root];
    new
}
