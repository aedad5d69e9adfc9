//! Tells scans what the filters above them will drop.
//!
//! Views' and queries' filters stay where they are: both engines find them there, and rows
//! on which they fail are told of. A hint only says that no row of a file, a row group or a
//! page can pass; where nothing can be said, everything is read.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, SubqueryAlias};

use crate::rewrites::checked::{Checked, can_fail, checked};

/// Gives each scan the conjuncts of the filters right above it that cannot fail.
pub(crate) fn hinted(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_down_with_subqueries(|plan| match plan {
        LogicalPlan::Filter(mut filter) if reaches_scan(&filter.input) => {
            let conjuncts = split_conjunction_owned(filter.predicate.clone());
            filter.input = Arc::new(below(Arc::unwrap_or_clone(filter.input), conjuncts)?);
            Ok(Transformed::yes(LogicalPlan::Filter(filter)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

/// Tells whether nothing but what `below` passes through is above a scan.
fn reaches_scan(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(_) => true,
        LogicalPlan::Filter(filter) => reaches_scan(&filter.input),
        LogicalPlan::Projection(projection) => reaches_scan(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => reaches_scan(&alias.input),
        other => checked(other).is_some_and(|checked| reaches_scan(&checked.input)),
    }
}

fn below(plan: LogicalPlan, conjuncts: Vec<Expr>) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::TableScan(mut scan) => {
            let schema = &scan.projected_schema;
            let told = conjuncts.into_iter().filter(|conjunct| {
                conjunct.column_refs().iter().all(|column| schema.has_column(column)) && !can_fail(conjunct, schema)
            });
            scan.filters.extend(told);
            Ok(LogicalPlan::TableScan(scan))
        }
        LogicalPlan::Filter(mut filter) => {
            filter.input = Arc::new(below(Arc::unwrap_or_clone(filter.input), conjuncts)?);
            Ok(LogicalPlan::Filter(filter))
        }
        LogicalPlan::Projection(mut projection) => {
            let inner: HashMap<Column, Expr> = projection
                .schema
                .columns()
                .into_iter()
                .zip(projection.expr.iter().map(|expression| expression.clone().unalias()))
                .collect();
            let conjuncts = replaced(conjuncts, &inner)?;
            projection.input = Arc::new(below(Arc::unwrap_or_clone(projection.input), conjuncts)?);
            Ok(LogicalPlan::Projection(projection))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let inner: HashMap<Column, Expr> = alias
                .schema
                .columns()
                .into_iter()
                .zip(alias.input.schema().columns().into_iter().map(Expr::Column))
                .collect();
            let input = below(Arc::unwrap_or_clone(alias.input), replaced(conjuncts, &inner)?)?;
            Ok(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(
                Arc::new(input),
                alias.alias,
            )?))
        }
        LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<Checked>() {
            Some(node) => {
                let node = Checked {
                    expressions: node.expressions.clone(),
                    input: below(node.input.clone(), conjuncts)?,
                };
                Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
            }
            None => Ok(LogicalPlan::Extension(extension)),
        },
        other => Ok(other),
    }
}

/// Says conjuncts by the columns below.
fn replaced(conjuncts: Vec<Expr>, inner: &HashMap<Column, Expr>) -> Result<Vec<Expr>> {
    let replaced = conjuncts.into_iter().map(|conjunct| {
        let conjunct = conjunct.transform_up(|expression| {
            Ok(match &expression {
                Expr::Column(column) => match inner.get(column) {
                    Some(inner) => Transformed::yes(inner.clone()),
                    None => Transformed::no(expression),
                },
                _ => Transformed::no(expression),
            })
        })?;
        Ok(conjunct.data)
    });
    replaced.collect()
}
