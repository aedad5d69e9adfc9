//! Which columns of a join are read above it: the rest need not be kept, nor go round.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;

use crate::operators::linear::Stage;
use crate::plan::Expression;

/// The columns of rows that some stages read, and the stages over these columns alone.
pub(super) struct Pruned {
    /// Ascending.
    pub(super) columns: Vec<usize>,
    pub(super) schema: SchemaRef,
    pub(super) stages: Vec<Stage>,
}

/// Leaves out the columns of `schema` that no stage reads; none where all leave as they are.
pub(super) fn pruned(stages: &[Stage], schema: &SchemaRef) -> Option<Pruned> {
    let first = stages.iter().position(|stage| matches!(stage, Stage::Project(..)))?;
    let mut columns: Vec<usize> = stages[..=first]
        .iter()
        .flat_map(expressions)
        .flat_map(|expression| collect_columns(&expression.physical))
        .map(|column| column.index())
        .collect();
    columns.sort_unstable();
    columns.dedup();
    let kept = Arc::new(Schema::new(
        columns
            .iter()
            .map(|&column| Arc::clone(&schema.fields()[column]))
            .collect::<Vec<_>>(),
    ));
    let moved = |expression: &Expression| {
        Some(Expression {
            physical: moved(&expression.physical, &columns)?,
            ..expression.clone()
        })
    };
    let mut over = Vec::with_capacity(stages.len());
    for stage in &stages[..=first] {
        over.push(match stage {
            Stage::Filter(predicate) => Stage::Filter(moved(predicate)?),
            Stage::Project(expressions, schema) => {
                let expressions = expressions.iter().map(moved).collect::<Option<Vec<_>>>()?;
                Stage::Project(expressions, Arc::clone(schema))
            }
        });
    }
    let mut schema = kept;
    // One that shows all columns as they are has nothing left to do.
    if let [Stage::Project(expressions, shown)] = over.as_slice()
        && expressions.iter().map(column_index).eq((0..columns.len()).map(Some))
    {
        schema = Arc::clone(shown);
        over.clear();
    }
    over.extend(stages[first + 1..].iter().cloned());
    Some(Pruned {
        columns,
        schema,
        stages: over,
    })
}

fn expressions(stage: &Stage) -> &[Expression] {
    match stage {
        Stage::Filter(predicate) => std::slice::from_ref(predicate),
        Stage::Project(expressions, _) => expressions,
    }
}

fn column_index(expression: &Expression) -> Option<usize> {
    expression.physical.downcast_ref::<Column>().map(Column::index)
}

/// Lets an expression read column `i` of those kept where it read `kept[i]`.
fn moved(physical: &Arc<dyn PhysicalExpr>, kept: &[usize]) -> Option<Arc<dyn PhysicalExpr>> {
    let moved = Arc::clone(physical).transform(|part| {
        let Some(column) = part.downcast_ref::<Column>() else {
            return Ok(Transformed::no(part));
        };
        let index = kept.binary_search(&column.index()).unwrap_or_default();
        Ok(Transformed::yes(
            Arc::new(Column::new(column.name(), index)) as Arc<dyn PhysicalExpr>
        ))
    });
    moved.data().ok()
}
