//! What of `WITH RECURSIVE` is kept current: recursive terms that may be applied to a round's rows alone.
//!
//! A batch engine applies the recursive term to the rows of the last round, not to all there are.
//! Both come to the same where the term is linear: what follows from some rows and others follows
//! from some or from others. All else is refused by name, before rewrites make other joins of joins.

use datafusion::catalog::cte_worktable::CteWorkTable;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::logical_expr::{Join, JoinType, LogicalPlan, RecursiveQuery, TableScan};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;

use crate::functions::now::mentions_now;
use crate::problem::Problem;

/// Returns the name of the recursion whose rows are scanned.
pub(crate) fn work_table(scan: &TableScan) -> Option<String> {
    let provider = source_as_provider(&scan.source).ok()?;
    let table = provider.downcast_ref::<CteWorkTable>()?;
    Some(table.name().to_owned())
}

/// Counts the scans of a recursion's rows in a plan.
pub(crate) fn reads(plan: &LogicalPlan, name: &str) -> usize {
    let mut count = 0;
    let walked = plan.apply_with_subqueries(|plan| {
        if let LogicalPlan::TableScan(scan) = plan
            && work_table(scan).is_some_and(|table| table == name)
        {
            count += 1;
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.map(|_| count).unwrap_or_default()
}

/// Names what stands at the end of a recursion's text, where DataFusion passes it over.
pub(crate) fn passed_over(statement: &Statement) -> Option<Problem> {
    let Statement::Statement(statement) = statement else {
        return None;
    };
    let ast::Statement::Query(query) = statement.as_ref() else {
        return None;
    };
    let with = query.with.as_ref().filter(|with| with.recursive)?;
    with.cte_tables.iter().find_map(|table| {
        let query = &table.query;
        let is_union = matches!(query.body.as_ref(), ast::SetExpr::SetOperation { .. });
        let what = match (&query.limit_clause, &query.fetch, &query.order_by) {
            _ if !is_union => return None,
            (None, None, None) => return None,
            (None, None, Some(_)) => "ORDER BY",
            _ => "LIMIT",
        };
        let name = &table.alias.name.value;
        Some(
            Problem::not_maintained(format!("{what} of the recursion \"{name}\""))
                .hint("A recursion is a set of rows: order and limit them when you read them."),
        )
    })
}

/// Collects what stands in recursive terms of an optimised plan and is not linear.
pub(crate) fn refused(plan: &LogicalPlan) -> Result<Vec<Problem>> {
    let mut problems: Vec<Problem> = Vec::new();
    plan.apply_with_subqueries(|plan| {
        if let LogicalPlan::RecursiveQuery(query) = plan
            && let Some(problem) = term(query)
            && problems.iter().all(|other| other.what != problem.what)
        {
            problems.push(problem);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(problems)
}

fn term(query: &RecursiveQuery) -> Option<Problem> {
    let name = &query.name;
    match reads(&query.recursive_term, name) {
        1 => place(&query.recursive_term, query),
        0 if is_empty(&query.recursive_term) => None,
        0 => Some(
            Problem::not_maintained(format!("a recursive term that says the same whatever \"{name}\" holds"))
                .hint(format!("Join \"{name}\" in it, or write a plain UNION.")),
        ),
        _ => Some(
            Problem::not_maintained(format!("a recursive term that reads \"{name}\" twice")).hint(format!(
                "A round sees the rows of the last round only, which is not all there are: read \"{name}\" once and \
                 join it with the relation of single steps."
            )),
        ),
    }
}

fn is_empty(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::EmptyRelation(empty) => !empty.produce_one_row,
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => plan.inputs().iter().all(|input| is_empty(input)),
        _ => false,
    }
}

/// Walks from the top of a recursive term down to the scan of the recursion's rows.
fn place(plan: &LogicalPlan, query: &RecursiveQuery) -> Option<Problem> {
    let name = &query.name;
    let refuse = |what: &str, hint: String| {
        Some(Problem::not_maintained(format!("{what} inside the recursive term of \"{name}\"")).hint(hint))
    };
    if plan.expressions().iter().any(mentions_now) {
        return refuse(
            "now()",
            format!("Compare with now() where \"{name}\" starts, or in a subquery that \"{name}\" is joined with."),
        );
    }
    let below = |plan: &LogicalPlan| {
        let inputs = plan.inputs();
        let next = inputs.into_iter().find(|input| reads(input, name) > 0)?;
        place(next, query)
    };
    match plan {
        LogicalPlan::TableScan(_) => None,
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => below(plan),
        LogicalPlan::Join(join) => {
            let left = reads(&join.left, name) > 0;
            if let Some((what, hint)) = nonlinear(join, left, query) {
                return refuse(&what, hint);
            }
            below(plan)
        }
        LogicalPlan::Aggregate(aggregate) if aggregate.aggr_expr.is_empty() => match query.is_distinct {
            true => below(plan),
            false => refuse(
                "DISTINCT",
                "A round sees the rows of the last round only: write UNION instead of UNION ALL.".into(),
            ),
        },
        LogicalPlan::Aggregate(_) => refuse(
            "an aggregate",
            format!(
                "A round sees the rows of the last round only, not all of a group: aggregate the rows of \"{name}\" \
                 outside of it."
            ),
        ),
        LogicalPlan::Union(_) => refuse(
            "UNION",
            format!("Join \"{name}\" with the UNION of the relations that it goes on by."),
        ),
        LogicalPlan::RecursiveQuery(inner) => refuse(
            "WITH RECURSIVE",
            format!(
                "Let \"{}\" start from a relation of its own, outside of \"{name}\".",
                inner.name
            ),
        ),
        other => refuse(
            &other.display().to_string(),
            format!("Use it on the rows of \"{name}\" outside of it."),
        ),
    }
}

/// Names a join that looks at more than one row of the recursion.
fn nonlinear(join: &Join, on_left: bool, query: &RecursiveQuery) -> Option<(String, String)> {
    let join_type = match on_left {
        true => join.join_type,
        false => join.join_type.swap(),
    };
    let name = &query.name;
    let words = match join_type {
        JoinType::Inner => return None,
        JoinType::Left => "an outer join with a condition other than equalities",
        JoinType::LeftSemi => "EXISTS or IN with a condition other than equalities",
        JoinType::LeftAnti | JoinType::LeftMark => "EXISTS, NOT EXISTS or IN with a condition other than equalities",
        JoinType::RightSemi if query.is_distinct => return None,
        JoinType::RightSemi => {
            return Some((
                format!("EXISTS or IN over \"{name}\""),
                "A round sees the rows of the last round only: write UNION instead of UNION ALL, or a join.".into(),
            ));
        }
        JoinType::Right | JoinType::Full => {
            return Some((
                format!("an outer join that keeps rows without a partner in \"{name}\""),
                format!("A row may yet get a partner in a later round: do it outside of \"{name}\"."),
            ));
        }
        JoinType::RightAnti | JoinType::RightMark => {
            return Some((
                format!("NOT EXISTS or NOT IN over \"{name}\""),
                format!("A row may yet follow in a later round: ask outside of \"{name}\" what it does not hold."),
            ));
        }
    };
    // `joins` says these with the pairs, and the rows of the recursion once more.
    let own = match on_left {
        true => &join.left,
        false => &join.right,
    };
    let of_its_own = |filter: &datafusion::logical_expr::Expr| {
        let columns = filter.column_refs();
        columns.iter().all(|column| own.schema().has_column(column))
    };
    let simple = match &join.filter {
        None => true,
        Some(filter) => join_type == JoinType::Left && !join.on.is_empty() && of_its_own(filter),
    };
    match simple {
        true => None,
        false => Some((
            words.to_owned(),
            format!("Let the condition stand in WHERE, or join \"{name}\" with a subquery that meets it."),
        )),
    }
}
