//! Gives the float keys of aggregates and joins one form: `0.0` for `-0.0`, one NaN; and both keys of a join one type.
//!
//! Both engines compare keys by their bytes then; aggregates see to their arguments themselves. `DISTINCT` and `UNION` are
//! aggregates without calls by now. DataFusion reads a subquery before it knows what the inputs of a `UNION` around it
//! are cast to, so that a key may be of microseconds there and of nanoseconds here.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, Join, LogicalPlan, RecursiveQuery, cast};

use super::{changed, column_of, named_as, restore};
use crate::functions::canonical::canonical;

pub(crate) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(node)?.data)
}

fn node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => {
            // Grouping sets refer to their expressions by equality: `grouping_sets` does it there.
            if aggregate
                .group_expr
                .iter()
                .any(|key| matches!(key, Expr::GroupingSet(_)))
            {
                return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
            }
            let input = aggregate.input.schema().clone();
            let mut touched = false;
            let mut keys = Vec::with_capacity(aggregate.group_expr.len());
            for (index, key) in aggregate.group_expr.iter().enumerate() {
                keys.push(if is_bare_float(key, &input)? {
                    touched = true;
                    named_as(canonical(key.clone().unalias()), &aggregate.schema, index)
                } else {
                    key.clone()
                });
            }
            if !touched {
                return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
            }
            changed(LogicalPlan::Aggregate(Aggregate::try_new_with_schema(
                aggregate.input,
                keys,
                aggregate.aggr_expr,
                aggregate.schema,
            )?))
        }
        LogicalPlan::Join(join) => {
            let (left, right) = (join.left.schema().clone(), join.right.schema().clone());
            let mut touched = false;
            let mut on = Vec::with_capacity(join.on.len());
            for (l, r) in &join.on {
                let (mut l, mut r) = (l.clone(), r.clone());
                if let Some(common) = common_type(&l.get_type(&left)?, &r.get_type(&right)?) {
                    touched = true;
                    (l, r) = (cast(l, common.clone()), cast(r, common));
                }
                if is_bare_float(&l, &left)? && is_bare_float(&r, &right)? {
                    touched = true;
                    (l, r) = (canonical(l), canonical(r));
                }
                on.push((l, r));
            }
            let join = Join { on, ..join };
            if touched {
                changed(LogicalPlan::Join(join))
            } else {
                Ok(Transformed::no(LogicalPlan::Join(join)))
            }
        }
        // `UNION` tells rows apart by their bytes here, round by round.
        LogicalPlan::RecursiveQuery(query) if query.is_distinct => {
            let floats = query
                .schema
                .fields()
                .iter()
                .any(|field| field.data_type().is_floating());
            if !floats {
                return Ok(Transformed::no(LogicalPlan::RecursiveQuery(query)));
            }
            let term = |plan: &Arc<LogicalPlan>| -> Result<Arc<LogicalPlan>> {
                let schema = plan.schema();
                let columns = (0..schema.fields().len()).map(|index| {
                    let column = column_of(schema, index);
                    match schema.field(index).data_type().is_floating() {
                        true => canonical(column),
                        false => column,
                    }
                });
                Ok(Arc::new(restore(plan.as_ref().clone(), schema, columns.collect())?))
            };
            changed(LogicalPlan::RecursiveQuery(RecursiveQuery {
                static_term: term(&query.static_term)?,
                recursive_term: term(&query.recursive_term)?,
                ..query
            }))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// Returns the type that two plain ones are compared in; none where they are one.
fn common_type(left: &DataType, right: &DataType) -> Option<DataType> {
    match left == right || left.is_nested() || right.is_nested() {
        true => None,
        false => comparison_coercion(left, right),
    }
}

/// Tells whether an expression is a float that is not canonical yet.
pub(super) fn is_bare_float(expression: &Expr, schema: &DFSchema) -> Result<bool> {
    if let Expr::ScalarFunction(call) = expression.clone().unalias()
        && call.func.name() == crate::functions::canonical::NAME
    {
        return Ok(false);
    }
    Ok(expression.get_type(schema)?.is_floating())
}
