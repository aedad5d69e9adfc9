//! Makes every `LIMIT` say which rows: its order is completed by all columns.
//!
//! A view is a set of rows, so an order without a limit goes; a limit comes to
//! stand right over the order it counts in.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::expr::Sort as Key;
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::{Expr, FetchType, Limit, LogicalPlan, Projection, SkipType, Sort, SubqueryAlias, lit};

use super::{column_of, restore};

/// Rewrites a view's plan.
pub(crate) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(match plan {
        LogicalPlan::Limit(limit) => limited(limit)?,
        LogicalPlan::Sort(sort) => match sort.fetch {
            Some(_) => ordered(sort, |sort| Ok(LogicalPlan::Sort(sort)))?,
            None => rewrite(Arc::unwrap_or_clone(sort.input))?,
        },
        // Any rows would do for the author of the rule that put it there; not for two engines.
        LogicalPlan::TableScan(scan) if scan.fetch.is_some() => {
            LogicalPlan::TableScan(TableScanBuilder::from(scan).with_fetch(None).build()?)
        }
        other => other.map_children(|child| rewrite(child).map(Transformed::yes))?.data,
    })
}

/// Completes the orders under limits and leaves the rest of a query as it is.
pub(crate) fn complete_ties(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::Sort(mut sort)
            if sort.fetch.is_some() && sort.expr.iter().all(|key| matches!(key.expr, Expr::Column(_))) =>
        {
            complete(&mut sort.expr, sort.input.schema());
            Ok(Transformed::yes(LogicalPlan::Sort(sort)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

/// Returns how many rows a limit passes over and keeps, if it says so in plain numbers.
pub(crate) fn numbers(limit: &Limit) -> Option<(usize, Option<usize>)> {
    match (limit.get_skip_type().ok()?, limit.get_fetch_type().ok()?) {
        (SkipType::Literal(skip), FetchType::Literal(fetch)) => Some((skip, fetch)),
        _ => None,
    }
}

fn limited(limit: Limit) -> Result<LogicalPlan> {
    let Some((skip, fetch)) = numbers(&limit) else {
        // `refusals` names it.
        return Ok(LogicalPlan::Limit(limit));
    };
    let over = |input: Arc<LogicalPlan>| {
        LogicalPlan::Limit(Limit {
            skip: limit.skip.clone(),
            fetch: limit.fetch.clone(),
            input,
        })
    };
    match Arc::unwrap_or_clone(limit.input) {
        // They change no row's place.
        LogicalPlan::Projection(projection) => {
            let input = rewrite(over(projection.input))?;
            let projection = Projection::try_new_with_schema(projection.expr, Arc::new(input), projection.schema)?;
            Ok(LogicalPlan::Projection(projection))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let input = rewrite(over(alias.input))?;
            Ok(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(
                Arc::new(input),
                alias.alias,
            )?))
        }
        LogicalPlan::Sort(sort) => {
            // One of its own may be smaller than what the limit asks for.
            let own = sort.fetch;
            let wanted = fetch.map(|fetch| skip.saturating_add(fetch));
            let fetch = own.into_iter().chain(wanted).min();
            ordered(Sort { fetch, ..sort }, |sort| {
                let fetch = sort.fetch.map(|fetch| fetch.saturating_sub(skip));
                Ok(LogicalPlan::Limit(Limit {
                    skip: Some(Box::new(lit(skip as i64))),
                    fetch: fetch.map(|fetch| Box::new(lit(fetch as i64))),
                    input: Arc::new(LogicalPlan::Sort(sort)),
                }))
            })
        }
        // Rows without columns are all alike.
        input if input.schema().fields().is_empty() => Ok(over(Arc::new(rewrite(input)?))),
        input => {
            let fetch = fetch.map(|fetch| skip.saturating_add(fetch));
            let sort = Sort {
                expr: Vec::new(),
                input: Arc::new(input),
                fetch,
            };
            ordered(sort, |sort| Ok(over(Arc::new(LogicalPlan::Sort(sort)))))
        }
    }
}

/// Gives a sort a total order over plain columns, and puts `above` over it.
fn ordered(sort: Sort, above: impl FnOnce(Sort) -> Result<LogicalPlan>) -> Result<LogicalPlan> {
    let input = rewrite(Arc::unwrap_or_clone(sort.input))?;
    let schema = input.schema().clone();
    let mut columns: Vec<Expr> = (0..schema.fields().len())
        .map(|index| column_of(&schema, index))
        .collect();
    let mut keys = Vec::with_capacity(sort.expr.len());
    for key in sort.expr {
        let expr = match key.expr {
            column @ Expr::Column(_) => column,
            computed => {
                let name = format!("__order_{}", columns.len());
                columns.push(computed.alias(&name));
                Expr::Column(Column::new_unqualified(name))
            }
        };
        keys.push(Key { expr, ..key });
    }
    let computes = columns.len() > schema.fields().len();
    let input = match computes {
        true => LogicalPlan::Projection(Projection::try_new(columns, Arc::new(input))?),
        false => input,
    };
    complete(&mut keys, input.schema());
    let plan = above(Sort {
        expr: keys,
        input: Arc::new(input),
        fetch: sort.fetch,
    })?;
    if !computes {
        return Ok(plan);
    }
    let columns = (0..schema.fields().len())
        .map(|index| column_of(&schema, index))
        .collect();
    restore(plan, &schema, columns)
}

/// Appends all columns that a key does not name, ascending, NULL first.
pub(crate) fn complete(keys: &mut Vec<Key>, schema: &DFSchema) {
    let rest: Vec<Key> = completion(keys, schema);
    keys.extend(rest);
}

fn completion(keys: &[Key], schema: &DFSchema) -> Vec<Key> {
    let columns = (0..schema.fields().len()).map(|index| column_of(schema, index));
    columns
        .filter(|column| !keys.iter().any(|key| key.expr == *column))
        .map(|column| column.sort(true, true))
        .collect()
}

/// Returns how many of a completed order's keys stood there before it was completed.
pub(crate) fn written(keys: &[Key], schema: &DFSchema) -> usize {
    (0..keys.len())
        .find(|&length| keys[length..] == completion(&keys[..length], schema))
        .unwrap_or(keys.len())
}
