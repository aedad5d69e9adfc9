//! Which rows further down can only concern closed buckets.

use std::sync::Arc;

use arrow::datatypes::{Field, IntervalMonthDayNano, Schema, SchemaRef};
use dataflows::plan::{Bucket, Expression, JoinKind, Node, NodeId, Operator, Plan};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::Operator as Sign;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::utils::collect_columns;

use super::floor::rising;
use crate::lower::{column_index, moved};

/// By what time all readers of a node close its rows.
#[derive(Clone)]
enum Demand {
    /// Nobody reads it so far.
    Unread,
    /// By this.
    By(Bucket),
    /// One of them needs every row, or they close by different times.
    Always,
}

/// Says for each operator of a plan that keeps rows by what time those of its inputs are closed.
///
/// From the root, whose rows are closed by `column`, down: where an operator tells rows
/// apart by that time, rows of closed buckets are of no more use to it. Returns the same of
/// the relations that are read.
pub(super) fn closes(plan: &mut Plan, column: usize, time_zone: &str) -> Vec<(String, Bucket)> {
    let mut relations = Vec::new();
    let mut demands = vec![Demand::Unread; plan.nodes.len()];
    demands[plan.root] = Demand::By(Bucket { column, of: None });
    for id in (0..plan.nodes.len()).rev() {
        let wanted = match std::mem::replace(&mut demands[id], Demand::Unread) {
            Demand::Unread => continue,
            Demand::By(bucket) => {
                if let Operator::Get { relation } = &plan.nodes[id].operator {
                    relations.push((relation.clone(), bucket.clone()));
                }
                of_inputs(plan, id, &bucket, time_zone)
            }
            Demand::Always => vec![None; plan.nodes[id].inputs.len()],
        };
        if keeps_rows(&plan.nodes[id]) {
            plan.nodes[id].closes.clone_from(&wanted);
        }
        for (&input, bucket) in plan.nodes[id].inputs.iter().zip(wanted) {
            let known = &mut demands[input];
            *known = match (&*known, bucket) {
                (Demand::Unread, Some(bucket)) => Demand::By(bucket),
                (Demand::By(known), Some(bucket)) if same(known, &bucket) => continue,
                _ => Demand::Always,
            };
        }
    }
    relations
}

fn same(left: &Bucket, right: &Bucket) -> bool {
    let alike = match (&left.of, &right.of) {
        (None, None) => true,
        (Some(left), Some(right)) => left.physical.as_ref() == right.physical.as_ref(),
        _ => false,
    };
    left.column == right.column && alike
}

fn keeps_rows(node: &Node) -> bool {
    matches!(
        node.operator,
        Operator::Aggregate { .. } | Operator::Join { .. } | Operator::Window { .. }
    )
}

/// Returns by what time the rows of each input are closed, if a node's are closed by `bucket`.
fn of_inputs(plan: &Plan, id: NodeId, bucket: &Bucket, time_zone: &str) -> Vec<Option<Bucket>> {
    let node = &plan.nodes[id];
    let at = |column: usize| {
        Some(Bucket {
            column,
            of: bucket.of.clone(),
        })
    };
    let width = || plan.nodes[node.inputs[0]].schema.fields().len();
    match &node.operator {
        Operator::Filter { .. }
        | Operator::TemporalFilter { .. }
        | Operator::TemporalAny { .. }
        | Operator::Consolidate => vec![at(bucket.column)],
        Operator::Project { expressions } => vec![through(plan, id, &expressions[bucket.column], bucket)],
        Operator::Unnest { lists, .. } => {
            let is_element = lists.iter().any(|list| list.column == bucket.column);
            vec![(!is_element).then(|| at(bucket.column)).flatten()]
        }
        Operator::Aggregate { keys, .. } => vec![keys.get(bucket.column).and_then(|key| at(*key))],
        Operator::Window { partition, .. } => {
            vec![partition.contains(&bucket.column).then(|| at(bucket.column)).flatten()]
        }
        Operator::Join { kind, on, band, .. } => {
            let near = |column: usize, by_us: Option<i64>| {
                let schema = &plan.nodes[node.inputs[usize::from(bucket.column < width())]].schema;
                moved_by(schema, column, by_us?, bucket, time_zone)
            };
            let (left, right) = match bucket.column.checked_sub(width()) {
                None => {
                    let equal = on.iter().find(|(left, _)| *left == bucket.column);
                    // A right row's partners are at most `low` before it.
                    let other = match (equal, band) {
                        (Some((_, right)), _) => at(*right),
                        (None, Some(band)) if band.left == bucket.column => near(band.right, band.low_us.checked_neg()),
                        _ => None,
                    };
                    (at(bucket.column), other)
                }
                Some(column) => {
                    let equal = on.iter().find(|(_, right)| *right == column);
                    let other = match (equal, band) {
                        (Some((left, _)), _) => at(*left),
                        (None, Some(band)) if band.right == column => {
                            near(band.left, Some(band.high_us).filter(|us| *us < i64::MAX))
                        }
                        _ => None,
                    };
                    (
                        other,
                        Some(Bucket {
                            column,
                            of: bucket.of.clone(),
                        }),
                    )
                }
            };
            match kind {
                // Beside a row without a partner stand NULLs, which are in no bucket.
                JoinKind::Full => vec![None, None],
                _ if bucket.column >= width() && *kind != JoinKind::Inner => vec![None, None],
                _ => vec![left, right],
            }
        }
        Operator::Union => vec![at(bucket.column); node.inputs.len()],
        _ => vec![None; node.inputs.len()],
    }
}

/// Reads the time through an expression of a projection, where that is made of one column.
fn through(plan: &Plan, id: NodeId, expression: &Expression, bucket: &Bucket) -> Option<Bucket> {
    if let Some(column) = column_index(expression) {
        return Some(Bucket {
            column,
            of: bucket.of.clone(),
        });
    }
    let read: Vec<usize> = collect_columns(&expression.physical)
        .iter()
        .map(Column::index)
        .collect();
    let [column] = read.as_slice() else { return None };
    let field = plan.nodes[plan.nodes[id].inputs[0]].schema.field(*column);
    let alone = Arc::new(Schema::new(vec![Field::new(
        field.name(),
        field.data_type().clone(),
        true,
    )]));
    let inner = moved(&expression.physical, &vec![0; column + 1], &alone);
    let of = match &bucket.of {
        None => Expression {
            physical: inner,
            ..expression.clone()
        },
        Some(outer) => Expression {
            physical: over(&outer.physical, &inner)?,
            ..outer.clone()
        },
    };
    Some(Bucket {
        column: *column,
        of: Some(of),
    })
}

/// Closes the rows of a join's other side, whose times are near those that `bucket` is made
/// of: by the latest time their partners can have.
fn moved_by(schema: &SchemaRef, column: usize, by_us: i64, bucket: &Bucket, time_zone: &str) -> Option<Bucket> {
    if let Some(of) = &bucket.of {
        // What falls while time goes on says nothing of earlier rows.
        rising(&of.physical, time_zone)?;
    }
    let field = schema.field(column);
    let interval = IntervalMonthDayNano::new(0, 0, by_us.checked_mul(1_000)?);
    let latest: Arc<dyn PhysicalExpr> = Arc::new(BinaryExpr::new(
        Arc::new(Column::new(field.name(), 0)),
        Sign::Plus,
        Arc::new(Literal::new(ScalarValue::IntervalMonthDayNano(Some(interval)))),
    ));
    let physical = match &bucket.of {
        Some(of) => over(&of.physical, &latest)?,
        None => latest,
    };
    let text = match &bucket.of {
        Some(of) => of.text.clone(),
        None => field.name().clone(),
    };
    Some(Bucket {
        column,
        of: Some(Expression {
            physical,
            text,
            field: Arc::new(field.clone()),
        }),
    })
}

/// Puts an expression where another reads its one column.
fn over(outer: &Arc<dyn PhysicalExpr>, inner: &Arc<dyn PhysicalExpr>) -> Option<Arc<dyn PhysicalExpr>> {
    let placed = Arc::clone(outer).transform_up(|part| {
        Ok(match part.downcast_ref::<Column>() {
            Some(_) => Transformed::yes(Arc::clone(inner)),
            None => Transformed::no(part),
        })
    });
    placed.map(|placed| placed.data).ok()
}
