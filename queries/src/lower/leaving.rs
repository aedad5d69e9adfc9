//! Has groups leave whole, where a filter by `now()` below them reads only their key.
//!
//! `GROUP BY window_start … WHERE window_start > now() - INTERVAL '1 hour'` lets go of all rows of a
//! group at once: then nobody need remember the rows, only when each group leaves, and what is
//! computed of them sees none taken back but those that their source takes back.

use std::sync::Arc;

use dataflows::plan::{AggregateCall, AggregateFunction, Node, NodeId, Operator, Plan, TemporalBound, TemporalMemory};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator as Sign;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};

use super::{column_index, readers};
use crate::explain::leaves;

/// Finds such groups in a plan.
pub(super) fn let_groups_leave(plan: &mut Plan) {
    let readers = readers(plan);
    for id in 0..plan.nodes.len() {
        if let Some((filter, bounds)) = leaving(plan, &readers, id) {
            let mut between = plan.nodes[id].inputs[0];
            let Operator::TemporalFilter { memory, .. } = &mut plan.nodes[filter].operator else {
                continue;
            };
            let append_only = *memory == TemporalMemory::Arrival;
            *memory = TemporalMemory::Groups;
            // Nothing on the way takes a row back any more, unless it comes from further down.
            plan.nodes[filter].append_only = append_only;
            while between != filter {
                plan.nodes[between].append_only = append_only;
                between = plan.nodes[between].inputs[0];
            }
            if let Operator::Aggregate { leaves, .. } = &mut plan.nodes[id].operator {
                *leaves = bounds;
            }
        }
    }
}

/// Returns the filter below an aggregation by whose bounds whole groups leave, and these over the groups' keys.
fn leaving(plan: &Plan, readers: &[usize], id: NodeId) -> Option<(NodeId, Vec<TemporalBound>)> {
    let Operator::Aggregate { keys, calls, .. } = &plan.nodes[id].operator else {
        return None;
    };
    if calls.iter().any(looks_at_all) {
        return None;
    }
    let mut filter = plan.nodes[id].inputs[0];
    let bounds = loop {
        if readers[filter] != 1 {
            return None;
        }
        match &plan.nodes[filter].operator {
            Operator::TemporalFilter { bounds, .. } if bounds.iter().all(leaves) => break bounds,
            Operator::Filter { .. } | Operator::Project { .. } => filter = plan.nodes[filter].inputs[0],
            _ => return None,
        }
    };
    let is_bound = |column: usize| bounds.iter().any(|bound| bound.column == column);
    let mut between = plan.nodes[id].inputs[0];
    while between != filter {
        let node = &plan.nodes[between];
        let read = |column: usize| below(plan, node.inputs[0], filter, column).is_some_and(is_bound);
        // An error stands as long as its row is there: a row that leaves unseen must not have one.
        if !cannot_fail(node, read) {
            return None;
        }
        between = node.inputs[0];
    }
    let of_keys = bounds.iter().map(|bound| {
        let input = plan.nodes[id].inputs[0];
        let column = keys
            .iter()
            .position(|key| below(plan, input, filter, *key) == Some(bound.column))?;
        Some(TemporalBound {
            column,
            ..bound.clone()
        })
    });
    Some((filter, of_keys.collect::<Option<_>>()?))
}

/// Tells whether an aggregate would have to look at the values of all groups to let go of those of one.
fn looks_at_all(call: &AggregateCall) -> bool {
    call.distinct || call.function == AggregateFunction::ApproxDistinct
}

/// Follows a column of `from` down to `to`; none where it is computed on the way.
fn below(plan: &Plan, mut from: NodeId, to: NodeId, mut column: usize) -> Option<usize> {
    while from != to {
        if let Operator::Project { expressions } = &plan.nodes[from].operator {
            column = column_index(&expressions[column])?;
        }
        from = plan.nodes[from].inputs[0];
    }
    Some(column)
}

fn cannot_fail(node: &Node, is_bound: impl Fn(usize) -> bool) -> bool {
    match &node.operator {
        Operator::Filter { predicate } => predicate.cannot_fail(),
        Operator::Project { expressions } => expressions
            .iter()
            .all(|expression| expression.cannot_fail() || is_shifted(&expression.physical, &is_bound)),
        _ => false,
    }
}

/// Tells whether an expression is a time that decides when its row leaves, and some hours more or less: what is too
/// early to be added to has left long ago, and what is too late never leaves.
fn is_shifted(expression: &Arc<dyn PhysicalExpr>, is_bound: impl Fn(usize) -> bool) -> bool {
    let Some(sum) = expression.downcast_ref::<BinaryExpr>() else {
        return false;
    };
    let time = sum.left().downcast_ref::<Column>();
    let by = sum.right().downcast_ref::<Literal>().map(Literal::value);
    matches!(sum.op(), Sign::Plus | Sign::Minus)
        && time.is_some_and(|time| is_bound(time.index()))
        && matches!(by, Some(ScalarValue::IntervalMonthDayNano(Some(by))) if by.months == 0 && by.days == 0)
}
