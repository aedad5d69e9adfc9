//! What a join need not emit: pairs that a filter above drops, or that cannot be among the rows a window keeps.
//!
//! The operators above do their work all the same; here the columns that decide are read first, and the others only of
//! pairs that are left. A row of many columns meets many partners, and most pairs may come to nothing.

use std::cell::RefCell;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;

use crate::operators::leaders::Contest;
use crate::plan::{JoinKind, NodeId, Operator, Plan, cannot_fail};

/// Tells of pairs whether they are of use.
pub(crate) struct Narrow {
    filters: Vec<Condition>,
    contest: Option<RefCell<Contest>>,
}

/// A predicate over a few of the join's columns.
struct Condition {
    predicate: Arc<dyn PhysicalExpr>,
    columns: Vec<usize>,
    schema: SchemaRef,
}

impl Narrow {
    /// Reads what stands above a join whose rows only it reads; none where nothing there narrows them.
    pub(crate) fn above(plan: &Plan, join: NodeId, readers: &[usize]) -> Option<Narrow> {
        if !matches!(
            plan.nodes[join].operator,
            Operator::Join {
                kind: JoinKind::Inner,
                ..
            }
        ) {
            return None;
        }
        let schema = &plan.nodes[join].schema;
        // Where each column of a node above stands among the join's, if it does.
        let mut places: Vec<Option<usize>> = (0..schema.fields().len()).map(Some).collect();
        let mut narrow = Narrow {
            filters: Vec::new(),
            contest: None,
        };
        let mut below = join;
        // Past an expression that may fail nothing is known: a row on which it fails is told among the errors, whatever
        // comes after, and beats no other.
        while readers[below] == 1 {
            let Some(id) = plan.nodes.iter().position(|node| node.inputs.contains(&below)) else {
                break;
            };
            match &plan.nodes[id].operator {
                Operator::Filter { predicate } => match Condition::new(&predicate.physical, &places, schema) {
                    Some(condition) => narrow.filters.push(condition),
                    None => break,
                },
                Operator::Project { expressions } if expressions.iter().all(|expression| expression.cannot_fail()) => {
                    let place = |physical: &Arc<dyn PhysicalExpr>| places[physical.downcast_ref::<Column>()?.index()];
                    let moved = expressions.iter().map(|expression| place(&expression.physical));
                    places = moved.collect();
                }
                Operator::Window {
                    partition,
                    order,
                    keep: Some(keep),
                    ..
                } if plan.nodes[below].append_only => {
                    let partition = partition
                        .iter()
                        .map(|&column| places[column])
                        .collect::<Option<Vec<_>>>();
                    let order = order.iter().map(|(column, options)| Some((places[*column]?, *options)));
                    if let (Some(partition), Some(order)) = (partition, order.collect::<Option<Vec<_>>>()) {
                        narrow.contest = Contest::new(partition, &order, keep, schema).map(RefCell::new);
                    }
                    break;
                }
                _ => break,
            }
            below = id;
        }
        (!narrow.filters.is_empty() || narrow.contest.is_some()).then_some(narrow)
    }

    /// Returns the positions of the pairs that are of use, ascending; none where all are. `column` reads a column of
    /// the join for some of the pairs.
    pub(super) fn narrow(
        &self,
        pairs: usize,
        diffs: &[i64],
        column: &dyn Fn(usize, Option<&[u32]>) -> ArrayRef,
    ) -> Option<Vec<u32>> {
        let mut left: Option<Vec<u32>> = None;
        for filter in &self.filters {
            let count = left.as_ref().map_or(pairs, Vec::len);
            let Some(passes) = filter.passes(count, |place| column(place, left.as_deref())) else {
                continue;
            };
            keep(&mut left, &passes);
        }
        let positive = |left: &Option<Vec<u32>>| match left {
            Some(left) => left.iter().all(|&pair| diffs[pair as usize] > 0),
            None => diffs.iter().all(|diff| *diff > 0),
        };
        if let Some(contest) = self.contest.as_ref().filter(|_| positive(&left)) {
            let count = left.as_ref().map_or(pairs, Vec::len);
            let leading = contest
                .borrow_mut()
                .leading(count, |place| column(place, left.as_deref()));
            if let Some(leading) = leading {
                keep(&mut left, &leading);
            }
        }
        left
    }
}

fn keep(left: &mut Option<Vec<u32>>, passes: &[bool]) {
    if passes.iter().all(|passes| *passes) {
        return;
    }
    let before = left.take();
    let pairs = passes.iter().enumerate().filter(|(_, passes)| **passes);
    *left = Some(match before {
        Some(before) => pairs.map(|(at, _)| before[at]).collect(),
        None => pairs.map(|(at, _)| at as u32).collect(),
    });
}

impl Condition {
    /// None for a predicate that may fail, or reads what the join does not have.
    fn new(predicate: &Arc<dyn PhysicalExpr>, places: &[Option<usize>], schema: &SchemaRef) -> Option<Condition> {
        if !cannot_fail(predicate) {
            return None;
        }
        let mut columns: Vec<usize> = Vec::new();
        let mut known = true;
        let moved = Arc::clone(predicate).transform(|part| {
            let Some(read) = part.downcast_ref::<Column>() else {
                return Ok(Transformed::no(part));
            };
            let Some(place) = places[read.index()] else {
                known = false;
                return Ok(Transformed::no(part));
            };
            let at = columns.iter().position(|column| *column == place);
            let at = at.unwrap_or_else(|| {
                columns.push(place);
                columns.len() - 1
            });
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(read.name(), at));
            Ok(Transformed::yes(column))
        });
        if !known || columns.is_empty() {
            return None;
        }
        Some(Condition {
            predicate: moved.ok()?.data,
            schema: Arc::new(Schema::new(
                columns
                    .iter()
                    .map(|&column| schema.field(column).clone())
                    .collect::<Vec<_>>(),
            )),
            columns,
        })
    }

    fn passes(&self, pairs: usize, column: impl Fn(usize) -> ArrayRef) -> Option<Vec<bool>> {
        let columns = self.columns.iter().map(|&place| column(place)).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).ok()?;
        let mask = self.predicate.evaluate(&batch).ok()?.into_array(pairs).ok()?;
        let mask = mask.as_boolean_opt()?;
        Some(
            (0..mask.len())
                .map(|pair| mask.is_valid(pair) && mask.value(pair))
                .collect(),
        )
    }
}
