//! Lowers `WITH RECURSIVE`: the recursive term becomes a plan of its own, inside the operator.
//!
//! What of it does not depend on the recursion is planned outside, once, as its inputs.

use dataflows::can_recur;
use dataflows::plan::{JoinKind, Node, NodeId, Operator, Plan, ROUNDS_MAX};
use datafusion::logical_expr::{LogicalPlan, RecursiveQuery};

use super::{Lowering, column_index, nullable, same_names};
use crate::problem::Problem;
use crate::recursion::reads;

/// What stands around a recursive term while it is lowered.
pub(super) struct Around {
    /// The recursion's name.
    pub(super) name: String,
    nodes: Vec<Node>,
    keys: Vec<Option<Vec<usize>>>,
    /// The recursion's inputs so far.
    inputs: Vec<NodeId>,
}

impl Lowering<'_> {
    pub(super) fn recursive(&mut self, query: &RecursiveQuery) -> Result<NodeId, Problem> {
        if self.around.is_some() {
            return Err(Problem::not_maintained(format!(
                "WITH RECURSIVE \"{}\" inside another recursive term",
                query.name
            )));
        }
        let schema = nullable(&query.schema);
        let mut start = self.plan(&query.static_term)?;
        if !same_names(&self.nodes[start].schema, &schema) {
            start = self.rename(start, &schema);
        }
        self.around = Some(Around {
            name: query.name.clone(),
            nodes: std::mem::take(&mut self.nodes),
            keys: std::mem::take(&mut self.keys),
            inputs: vec![start],
        });
        let root = self.plan(&query.recursive_term);
        let Some(around) = self.around.take() else {
            return root;
        };
        let nodes = std::mem::replace(&mut self.nodes, around.nodes);
        self.keys = around.keys;
        let body = Plan { nodes, root: root? };
        let inputs = around.inputs.iter().map(|input| &self.nodes[*input].schema);
        for field in inputs
            .chain(body.nodes.iter().map(|node| &node.schema))
            .flat_map(|schema| schema.fields())
        {
            if !can_recur(field.data_type()) {
                return Err(Problem::not_maintained(format!(
                    "the column \"{}\" of type {} in WITH RECURSIVE",
                    field.name(),
                    field.data_type()
                ))
                .hint("Cast it to a plain type."));
            }
        }
        let types_differ = |(start, follows): (&std::sync::Arc<_>, &std::sync::Arc<arrow::datatypes::Field>)| {
            arrow::datatypes::Field::data_type(start) != follows.data_type()
        };
        if schema.fields().iter().zip(body.schema().fields()).any(types_differ) {
            return Err(Problem::not_maintained(format!(
                "other types in the recursive term of \"{}\" than where it starts",
                query.name
            ))
            .hint("Cast the columns of both to the same types."));
        }
        if !ends(&body, query.is_distinct) {
            self.warnings.push(format!(
                "nothing in the recursive term of \"{}\" ends it but the rows themselves, and it is cut off after \
                 {ROUNDS_MAX} rounds: count them and stop, as in WHERE hops < 10",
                query.name
            ));
        }
        // What takes no row back at any input takes none back here, unless rows are asked for that have no partner.
        let append_only = around.inputs.iter().all(|input| self.nodes[*input].append_only)
            && body.nodes.iter().all(|node| match node.operator {
                Operator::Join { kind, .. } => matches!(kind, JoinKind::Inner | JoinKind::Semi),
                _ => true,
            });
        let key = query.is_distinct.then(|| (0..schema.fields().len()).collect());
        let operator = Operator::Recursive {
            name: query.name.clone(),
            distinct: query.is_distinct,
            body: Box::new(body),
        };
        Ok(self.node(operator, around.inputs, schema, append_only, key))
    }

    /// Lowers a part of a recursive term that does not read the recursion; none where it does, or
    /// where this is no recursive term.
    pub(super) fn outer(&mut self, plan: &LogicalPlan) -> Option<Result<NodeId, Problem>> {
        if reads(plan, &self.around.as_ref()?.name) > 0 {
            return None;
        }
        let mut around = self.around.take()?;
        std::mem::swap(&mut self.nodes, &mut around.nodes);
        std::mem::swap(&mut self.keys, &mut around.keys);
        let lowered = self.plan(plan);
        std::mem::swap(&mut self.nodes, &mut around.nodes);
        std::mem::swap(&mut self.keys, &mut around.keys);
        let lowered = lowered.map(|node| {
            let Node {
                schema, append_only, ..
            } = around.nodes[node].clone();
            around.inputs.push(node);
            let input = around.inputs.len() - 1;
            let key = around.keys[node].clone();
            self.node(Operator::Outer { input }, vec![], schema, append_only, key)
        });
        self.around = Some(around);
        Some(lowered)
    }
}

/// Tells whether a recursion looks as if it ended: by a condition, or since only values come up that are there.
fn ends(body: &Plan, distinct: bool) -> bool {
    let computes = |node: &Node| match &node.operator {
        Operator::Project { expressions } => expressions.iter().any(|expression| column_index(expression).is_none()),
        _ => false,
    };
    let filters = |node: &Node| matches!(node.operator, Operator::Filter { .. });
    body.nodes.iter().any(filters) || (distinct && !body.nodes.iter().any(computes))
}
