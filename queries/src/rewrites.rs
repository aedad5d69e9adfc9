//! The rewrites of a shared plan, each `LogicalPlan -> LogicalPlan`.
//!
//! They settle what SQL leaves open, once, for both engines: `plain_types`
//! chooses the types that leave a view, `temporal` reads comparisons with
//! `now()`, `joins` says every join by a few, `order` says which rows a limit keeps,
//! `windows` puts rows in a total order for window functions, `canonical` gives float
//! keys one form, `ties` completes the orders inside aggregates,
//! `grouping_sets` says several groupings by one each, `columns` has aggregates and joins refer to plain columns, and
//! `checked` drops the rows on which an expression fails.
pub(crate) mod canonical;
pub(crate) mod checked;
pub(crate) mod columns;
pub(crate) mod grouping_sets;
pub(crate) mod joins;
pub(crate) mod order;
pub(crate) mod ordered;
pub(crate) mod plain_types;
pub(crate) mod temporal;
pub(crate) mod ties;
pub(crate) mod windows;

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};

/// Applies all rewrites of a view, in their order.
pub(crate) fn view(plan: LogicalPlan, time_zone: &Arc<str>) -> Result<LogicalPlan> {
    let plan = plain_types::rewrite(plan, time_zone)?;
    let plan = temporal::rewrite(plan, time_zone)?;
    let plan = joins::rewrite(plan)?;
    let plan = order::rewrite(plan)?;
    let plan = windows::rewrite(plan)?;
    let plan = canonical::rewrite(plan)?;
    let plan = ties::rewrite(plan)?;
    let plan = grouping_sets::rewrite(plan)?;
    let plan = columns::rewrite(plan)?;
    checked::rewrite(plan)
}

/// Applies the rewrites that also hold for plans with nodes we do not maintain.
pub(crate) fn query(plan: LogicalPlan, time_zone: &Arc<str>) -> Result<LogicalPlan> {
    let plan = plain_types::rewrite(plan, time_zone)?;
    let plan = order::complete_ties(plan)?;
    let plan = windows::rewrite(plan)?;
    let plan = canonical::rewrite(plan)?;
    let plan = ties::rewrite(plan)?;
    grouping_sets::rewrite(plan)
}

/// Returns a reference to the column at `index` of a schema, by its whole name.
fn column_of(schema: &DFSchema, index: usize) -> Expr {
    let (qualifier, field) = schema.qualified_field(index);
    Expr::Column(Column::new(qualifier.cloned(), field.name()))
}

/// Gives an expression the name, and qualifier, of the column at `index` of a schema.
fn named_as(expression: Expr, schema: &DFSchema, index: usize) -> Expr {
    let (qualifier, field) = schema.qualified_field(index);
    if let Expr::Column(column) = &expression
        && column.relation.as_ref() == qualifier
        && column.name == *field.name()
    {
        return expression;
    }
    expression.alias_qualified(qualifier.cloned(), field.name().clone())
}

/// Puts a projection over `input` that shows the columns of `schema` under their names.
fn restore(input: LogicalPlan, schema: &DFSchema, expressions: Vec<Expr>) -> Result<LogicalPlan> {
    let expressions = expressions
        .into_iter()
        .enumerate()
        .map(|(index, expression)| named_as(expression, schema, index))
        .collect();
    Ok(LogicalPlan::Projection(Projection::try_new(
        expressions,
        Arc::new(input),
    )?))
}

/// Marks a plan as changed.
fn changed(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    Ok(Transformed::yes(plan))
}
