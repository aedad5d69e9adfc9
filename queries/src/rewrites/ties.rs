//! Completes the order inside `first_value`, `array_agg` and their kin by their own argument.
//!
//! Two rows that tie in the written order then have one winner whatever order
//! they came in; equal arguments need no winner.

use dataflows::plan::AggregateFunction as Function;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, Sort};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};

use super::{changed, named_as};
use crate::functions::aggregates::function_of;

pub(crate) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|plan| {
        let LogicalPlan::Aggregate(aggregate) = plan else {
            return Ok(Transformed::no(plan));
        };
        let groups = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
        let mut touched = false;
        let mut calls = Vec::with_capacity(aggregate.aggr_expr.len());
        for (index, call) in aggregate.aggr_expr.iter().enumerate() {
            let completed = call.clone().transform_up(|expression| {
                Ok(match complete(&expression) {
                    Some(completed) => Transformed::yes(completed),
                    None => Transformed::no(expression),
                })
            })?;
            touched |= completed.transformed;
            // The name of a call spells its order out: keep the one it had.
            calls.push(if completed.transformed {
                named_as(completed.data.unalias(), &aggregate.schema, groups + index)
            } else {
                completed.data
            });
        }
        if !touched {
            return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
        }
        changed(LogicalPlan::Aggregate(Aggregate::try_new_with_schema(
            aggregate.input,
            aggregate.group_expr,
            calls,
            aggregate.schema,
        )?))
    })?;
    Ok(plan.data)
}

/// Returns the call with a total order; none where it has one or needs none.
fn complete(expression: &Expr) -> Option<Expr> {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = expression else {
        return None;
    };
    if !function_of(func).is_some_and(Function::is_ordered) {
        return None;
    }
    let argument = params.args.first()?;
    if params.order_by.iter().any(|order| order.expr == *argument) {
        return None;
    }
    let mut order_by = params.order_by.clone();
    order_by.push(Sort {
        expr: argument.clone(),
        asc: true,
        nulls_first: true,
    });
    Some(Expr::AggregateFunction(AggregateFunction {
        func: func.clone(),
        params: AggregateFunctionParams {
            order_by,
            ..params.clone()
        },
    }))
}
