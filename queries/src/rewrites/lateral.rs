//! Takes `FROM t, unnest(t.list)` and `LATERAL (SELECT …)` over one row as projections over `t`.
//!
//! What stands to the right makes its rows of one row of the left and nothing
//! else: the same steps over the left give the same rows, beside that row. It is
//! done before anything is optimised, since DataFusion's rules know no join for it.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, JoinType, NullHandling, RecursionUnnestOption, ScalarValue, UnnestOptions};
use datafusion::error::Result;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, Filter, Join, LogicalPlan, Operator, Projection, Subquery, Unnest, binary_expr};

use super::{changed, column_of, named_as};
use crate::problem::Problem;

pub(crate) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::Join(join) => match over_left(&join)? {
            Some(plan) => changed(plan),
            None => Ok(Transformed::no(LogicalPlan::Join(join))),
        },
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

/// The steps of the right over the left, and the columns that now hold the right's.
struct Steps {
    plan: LogicalPlan,
    columns: Vec<Column>,
}

struct Replay<'a> {
    left: &'a Arc<LogicalPlan>,
    /// Whether a left row without any right one stays.
    keeps: bool,
    names: usize,
}

fn over_left(join: &Join) -> Result<Option<LogicalPlan>> {
    let Some(subquery) = lateral(&join.right) else {
        return Ok(None);
    };
    let mut conditions: Vec<Expr> = join
        .on
        .iter()
        .map(|(left, right)| binary_expr(left.clone(), Operator::Eq, right.clone()))
        .collect();
    let always = |filter: &Expr| matches!(filter, Expr::Literal(ScalarValue::Boolean(Some(true)), _));
    conditions.extend(join.filter.iter().filter(|filter| !always(filter)).cloned());
    let keeps = match join.join_type {
        JoinType::Inner => false,
        JoinType::Left if conditions.is_empty() => true,
        _ => return Ok(None),
    };
    let mut replay = Replay {
        left: &join.left,
        keeps,
        names: 0,
    };
    let Some(Steps { plan, columns }) = replay.steps(&subquery.subquery)? else {
        return Ok(None);
    };
    let left = join.left.schema();
    let shown = (0..left.fields().len())
        .map(|index| column_of(left, index))
        .chain(columns.into_iter().map(Expr::Column))
        .enumerate()
        .map(|(index, expression)| named_as(expression, &join.schema, index))
        .collect();
    let plan = LogicalPlan::Projection(Projection::try_new(shown, Arc::new(plan))?);
    Ok(Some(match conjunction(conditions) {
        Some(condition) => LogicalPlan::Filter(Filter::try_new(condition, Arc::new(plan))?),
        None => plan,
    }))
}

/// Tells whether a join is one that the rewrite would have taken apart and could not.
pub(crate) fn is_left(join: &Join) -> bool {
    let unnests = |subquery: &Subquery| {
        let found = subquery
            .subquery
            .exists(|plan| Ok(matches!(plan, LogicalPlan::Unnest(_))));
        found.unwrap_or(false)
    };
    lateral(&join.right).is_some_and(unnests)
}

pub(crate) fn refused() -> Problem {
    Problem::not_maintained("this LATERAL subquery")
        .hint("Keep it to unnest, WHERE and expressions over the columns before it, or join with the subquery instead.")
}

/// Returns the subquery of a plan that refers to the relations before it.
fn lateral(plan: &LogicalPlan) -> Option<&Subquery> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => lateral(&alias.input),
        LogicalPlan::Subquery(subquery) => Some(subquery),
        _ => None,
    }
}

impl Replay<'_> {
    fn name(&mut self) -> Column {
        self.names += 1;
        Column::new_unqualified(format!("__lateral_{}", self.names))
    }

    fn left_columns(&self) -> impl Iterator<Item = Expr> {
        let schema = self.left.schema();
        (0..schema.fields().len()).map(|index| column_of(schema, index))
    }

    /// Takes the steps of `node` over the left; none where it is more than steps over one row.
    fn steps(&mut self, node: &LogicalPlan) -> Result<Option<Steps>> {
        match node {
            LogicalPlan::EmptyRelation(empty) if empty.produce_one_row && empty.schema.fields().is_empty() => {
                Ok(Some(Steps {
                    plan: self.left.as_ref().clone(),
                    columns: vec![],
                }))
            }
            LogicalPlan::SubqueryAlias(alias) => self.steps(&alias.input),
            LogicalPlan::Projection(projection) => {
                let Some(below) = self.steps(&projection.input)? else {
                    return Ok(None);
                };
                let mut columns = Vec::with_capacity(projection.expr.len());
                let mut expressions: Vec<Expr> = self.left_columns().collect();
                for expression in &projection.expr {
                    let Some(expression) = self.over(expression, &projection.input, &below)? else {
                        return Ok(None);
                    };
                    // NULL stands for a row that is not there only in what is read from it.
                    if self.keeps && below.is_unnested(self.left) && !matches!(expression, Expr::Column(_)) {
                        return Ok(None);
                    }
                    let name = self.name();
                    expressions.push(expression.alias(name.name.clone()));
                    columns.push(name);
                }
                let plan = LogicalPlan::Projection(Projection::try_new(expressions, Arc::new(below.plan))?);
                Ok(Some(Steps { plan, columns }))
            }
            LogicalPlan::Filter(filter) if !self.keeps => {
                let Some(below) = self.steps(&filter.input)? else {
                    return Ok(None);
                };
                let Some(predicate) = self.over(&filter.predicate, &filter.input, &below)? else {
                    return Ok(None);
                };
                let plan = LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(below.plan))?);
                Ok(Some(Steps {
                    plan,
                    columns: below.columns,
                }))
            }
            LogicalPlan::Unnest(unnest) if unnest.struct_type_columns.is_empty() => self.unnest(unnest),
            _ => Ok(None),
        }
    }

    fn unnest(&mut self, unnest: &Unnest) -> Result<Option<Steps>> {
        let Some(below) = self.steps(&unnest.input)? else {
            return Ok(None);
        };
        if self.keeps && below.is_unnested(self.left) {
            return Ok(None);
        }
        let handling = match unnest.options.null_handling {
            NullHandling::Drop if self.keeps => NullHandling::PreserveAndExpandEmpty,
            // These keep rows of their own accord.
            _ if self.keeps => return Ok(None),
            handling => handling,
        };
        let mut options = UnnestOptions::new().with_null_handling(handling);
        let mut made: Vec<(usize, Column)> = Vec::new();
        for (index, list) in &unnest.list_type_columns {
            let name = self.name();
            options = options.with_recursions(RecursionUnnestOption {
                input_column: below.columns[*index].clone(),
                output_column: name.clone(),
                depth: list.depth,
            });
            made.push((*index, name));
        }
        let mut lists: Vec<Column> = Vec::new();
        for (index, _) in &made {
            if !lists.contains(&below.columns[*index]) {
                lists.push(below.columns[*index].clone());
            }
        }
        let is_made = |index: &usize| made.iter().any(|(list, _)| list == index);
        if self.keeps && !unnest.dependency_indices.iter().all(is_made) {
            // What is beside the elements would stand beside no elements, too.
            return Ok(None);
        }
        let mut columns = Vec::with_capacity(unnest.dependency_indices.len());
        for index in &unnest.dependency_indices {
            columns.push(match made.iter().position(|(list, _)| list == index) {
                Some(at) => made.remove(at).1,
                None => below.columns[*index].clone(),
            });
        }
        let plan = LogicalPlan::Unnest(Unnest::try_new(Arc::new(below.plan), lists, options)?);
        Ok(Some(Steps { plan, columns }))
    }

    /// Lets an expression over a step's input read where its columns are now.
    fn over(&self, expression: &Expr, input: &LogicalPlan, below: &Steps) -> Result<Option<Expr>> {
        let (schema, left) = (input.schema(), self.left.schema());
        let mut is_known = true;
        let over = expression.clone().unalias().transform_up(|part| {
            Ok(match part {
                Expr::Column(column) => match schema.maybe_index_of_column(&column) {
                    Some(index) => Transformed::yes(Expr::Column(below.columns[index].clone())),
                    None => {
                        is_known = false;
                        Transformed::no(Expr::Column(column))
                    }
                },
                Expr::OuterReferenceColumn(_, column) if left.has_column(&column) => {
                    Transformed::yes(Expr::Column(column))
                }
                Expr::OuterReferenceColumn(..)
                | Expr::ScalarSubquery(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_) => {
                    is_known = false;
                    Transformed::no(part)
                }
                other => Transformed::no(other),
            })
        })?;
        Ok(is_known.then_some(over.data))
    }
}

impl Steps {
    /// Tells whether a step so far made several rows of one, or none.
    fn is_unnested(&self, left: &LogicalPlan) -> bool {
        let mut found = false;
        let mut plan = &self.plan;
        while plan != left {
            found |= matches!(plan, LogicalPlan::Unnest(_));
            match plan.inputs().first() {
                Some(input) => plan = input,
                None => break,
            }
        }
        found
    }
}
