//! Says what cannot be maintained: the construct's name and a way out.
//!
//! `written` looks at the plan as its author wrote it, before rules make one
//! construct out of another; `shared` at what is left to lower.

use std::collections::HashSet;

use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, SetComparison, WindowFunction};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Join, LogicalPlan, Operator, Volatility, WindowFunctionDefinition,
};

use crate::catalog::{Catalog, Relation, relation_name};
use crate::functions::aggregates::function_of;
use crate::functions::json;
use crate::functions::kinds::window;
use crate::functions::now::mentions_now;
use crate::problem::Problem;
use crate::rewrites::grouping_sets::{SETS_MAX, count_of};
use crate::rewrites::{lateral, temporal};
use crate::text::text;

/// Functions whose value is the moment's and that are not `now()`.
const MOMENTS: &[&str] = &["current_date", "current_time", "today"];

/// The window functions beside aggregates.
pub(crate) const WINDOW_FUNCTIONS: &[&str] = &[
    "row_number",
    "rank",
    "dense_rank",
    "percent_rank",
    "cume_dist",
    "ntile",
    "lag",
    "lead",
    "first_value",
    "last_value",
    "nth_value",
];

/// Collects every construct of a view's text that is not maintained.
pub(crate) fn written(plan: &LogicalPlan, catalog: &Catalog, sql: &str) -> Vec<Problem> {
    let mut problems = Problems {
        found: Vec::new(),
        seen: HashSet::new(),
        sql,
    };
    let walked = plan.apply_with_subqueries(|plan| {
        if let Some((problem, word)) = construct(plan) {
            problems.add(problem, word);
        }
        if let LogicalPlan::Join(join) = plan
            && lateral::is_left(join)
        {
            problems.add(lateral::refused(), "lateral");
        }
        if let LogicalPlan::TableScan(scan) = plan {
            let name = relation_name(&scan.table_name);
            if let Some(Relation::System(_)) = catalog.relation(&name).map(AsRef::as_ref) {
                let problem = Problem::not_maintained(format!("the system table {name} in a view"))
                    .hint("Ask for it with a query instead.");
                problems.add(problem, scan.table_name.table());
            }
        }
        plan.apply_expressions(|expression| {
            expression.apply(|part| {
                if let Some((problem, word)) = function(part) {
                    problems.add(problem, &word);
                }
                if let Expr::SetComparison(comparison) = part
                    && compares_itself(comparison, plan)
                {
                    problems.add(set_comparison(), "any");
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    if let Err(error) = walked {
        problems.found.push(error.into());
    }
    problems.found.sort_by_key(|problem| problem.line);
    problems.found
}

/// Collects what the shared plan still holds that has no operator.
pub(crate) fn shared(plan: &LogicalPlan, sql: &str) -> Vec<Problem> {
    let mut problems = Problems {
        found: Vec::new(),
        seen: HashSet::new(),
        sql,
    };
    let walked = plan.apply(|plan| {
        match plan {
            LogicalPlan::Subquery(_) => problems.add(lateral::refused(), "lateral"),
            LogicalPlan::Join(join) => join_kind(join)
                .into_iter()
                .for_each(|problem| problems.add(problem, "join")),
            LogicalPlan::Filter(filter) if temporal::is_maintained(&filter.predicate, filter.input.schema()) => {
                return Ok(TreeNodeRecursion::Continue);
            }
            _ => {}
        }
        let schema = merge_schema(&plan.inputs());
        plan.apply_expressions(|expression| {
            expression.apply(|part| {
                if let Some(problem) = subquery(part) {
                    problems.add(problem, "select");
                }
                if let Some(problem) = compares_json(part, &schema) {
                    problems.add(problem, "->");
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
            if mentions_now(expression) {
                problems.add(temporal::refused(expression), "now");
            }
            Ok(TreeNodeRecursion::Continue)
        })
    });
    if let Err(error) = walked {
        problems.found.push(error.into());
    }
    problems.found.sort_by_key(|problem| problem.line);
    problems.found
}

/// Names a node that has no operator, and the word it stands at.
pub(crate) fn construct(plan: &LogicalPlan) -> Option<(Problem, &'static str)> {
    let refuse = |what: &str| Problem::not_maintained(what);
    Some(match plan {
        LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.iter().any(has_many_sets) => (
            refuse(&format!("CUBE or GROUPING SETS of more than {SETS_MAX} groupings"))
                .hint("List those that are needed: GROUPING SETS ((a, b), (a), ())."),
            "group",
        ),
        _ => return None,
    })
}

fn has_many_sets(expression: &Expr) -> bool {
    matches!(expression, Expr::GroupingSet(sets) if count_of(sets) > SETS_MAX)
}

/// Names a function that is not maintained.
fn function(expression: &Expr) -> Option<(Problem, String)> {
    match expression {
        Expr::AggregateFunction(call) => aggregate(call).map(|problem| (problem, call.func.name().to_owned())),
        Expr::WindowFunction(call) => over(call).map(|problem| (problem, call.fun.name().to_owned())),
        Expr::ScalarFunction(call) => {
            let name = call.func.name();
            let problem = if MOMENTS.contains(&name) {
                Problem::not_maintained(format!("{name} in a view"))
                    .hint("Compare a time column with now() in WHERE: at > now() - INTERVAL '1 day'.")
            } else if call.func.signature().volatility == Volatility::Volatile {
                Problem::not_maintained(format!("the volatile function {name}()"))
                    .hint("It gives another value each time: let the source send the value.")
            } else {
                return None;
            };
            Some((problem, name.to_owned()))
        }
        // One that refers to the rows around it is checked where it becomes a join.
        Expr::ScalarSubquery(scalar) if scalar.outer_ref_columns.is_empty() && !one_row(&scalar.subquery) => Some((
            Problem::not_maintained("a subquery that may give several rows where one value is wanted")
                .hint("Aggregate it: (SELECT max(x) FROM …)."),
            "select".into(),
        )),
        _ => None,
    }
}

/// Tells whether a plan gives one row at most, whatever its inputs hold.
fn one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => {
            plan.inputs().iter().all(|input| one_row(input))
        }
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::EmptyRelation(_) => true,
        LogicalPlan::Values(values) => values.values.len() <= 1,
        _ => false,
    }
}

fn aggregate(call: &AggregateFunction) -> Option<Problem> {
    let name = call.func.name();
    let params = &call.params;
    // The analyser makes plain columns of it.
    if name == "grouping" {
        return None;
    }
    let Some(function) = function_of(&call.func) else {
        return Some(
            Problem::not_maintained(format!("the aggregate {name}()"))
                .hint("Use one of DataFusion's own aggregates, with FILTER where needed."),
        );
    };
    let by_argument = || matches!(params.order_by.as_slice(), [order] if params.args.first() == Some(&order.expr));
    if params.distinct && function.is_ordered() && !function.is_end() && !params.order_by.is_empty() && !by_argument() {
        let hint = "Order by the argument itself, or leave DISTINCT out: each value has one place only.";
        return Some(Problem::not_maintained(format!("{name}(DISTINCT … ORDER BY another expression)")).hint(hint));
    }
    None
}

/// Names what is wrong with a call that has an `OVER`.
fn over(call: &WindowFunction) -> Option<Problem> {
    match &call.fun {
        // The rows of a frame are in the window's order, which these do not know.
        WindowFunctionDefinition::AggregateUDF(function)
            if function_of(function).is_some_and(|function| function.is_ordered()) =>
        {
            let name = function.name();
            let hint = format!("Group by the key instead: {name}(x ORDER BY at).");
            Some(Problem::not_maintained(format!("{name}() OVER (…)")).hint(hint))
        }
        WindowFunctionDefinition::AggregateUDF(function) => aggregate(&AggregateFunction {
            func: function.clone(),
            params: AggregateFunctionParams {
                args: call.params.args.clone(),
                distinct: call.params.distinct,
                filter: call.params.filter.clone(),
                order_by: vec![],
                null_treatment: call.params.null_treatment,
            },
        }),
        own if window::own(own).is_some() => None,
        WindowFunctionDefinition::WindowUDF(function) => {
            (!WINDOW_FUNCTIONS.contains(&function.name())).then(|| window_function(function.name()))
        }
    }
}

/// Refuses a window function that is not known here.
pub(crate) fn window_function(name: &str) -> Problem {
    Problem::not_maintained(format!("the window function {name}()"))
        .hint(format!("Use {} or an aggregate.", WINDOW_FUNCTIONS.join(", ")))
}

/// Refuses an argument that differs from row to row where one number is wanted.
pub(crate) fn computed_argument(name: &str) -> Problem {
    Problem::not_maintained(format!("{name}() with a computed second argument")).hint("Write a number there.")
}

/// Refuses a constant of a window function that differs from row to row.
pub(crate) fn computed_constant(name: &str) -> Problem {
    Problem::not_maintained(format!("{name}() with a computed constant")).hint("Write it out: INTERVAL '1 hour'.")
}

/// Refuses a limit that is no number.
pub(crate) fn computed_limit() -> Problem {
    Problem::not_maintained("LIMIT by an expression").hint("Write a number, or filter by row_number() OVER (…).")
}

/// Tells whether `x = ANY (SELECT y …)` reads one column, by its whole name, within and without.
///
/// The rule that makes a condition of it would compare the column with itself.
fn compares_itself(comparison: &SetComparison, plan: &LogicalPlan) -> bool {
    let inner = comparison.subquery.subquery.schema().columns();
    let inputs = plan.inputs();
    inner
        .iter()
        .any(|column| inputs.iter().any(|input| input.schema().has_column(column)))
}

fn set_comparison() -> Problem {
    Problem::not_maintained("ANY or ALL over a subquery of the same relation under the same name")
        .hint("Give the relation another name inside: > ANY (SELECT s.x FROM t s).")
}

fn join_kind(join: &Join) -> Option<Problem> {
    join.null_aware.then(|| {
        Problem::not_maintained("NOT IN with a subquery that refers to the rows around it")
            .hint("Write NOT EXISTS (SELECT 1 FROM … WHERE s.x = t.x AND …).")
    })
}

fn subquery(expression: &Expr) -> Option<Problem> {
    match expression {
        Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) => {
            Some(Problem::not_maintained("this subquery").hint("Join with the subquery instead."))
        }
        _ => None,
    }
}

/// Refuses comparing what `->` takes out of JSON, which fails on every row.
fn compares_json(expression: &Expr, schema: &DFSchema) -> Option<Problem> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expression else {
        return None;
    };
    let is_any = |side: &Expr| side.get_type(schema).is_ok_and(|data_type| json::is_any(&data_type));
    let compares = matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    );
    (compares && (is_any(left) || is_any(right))).then(|| {
        Problem::not_maintained(format!("{}, whose sides are of no one type,", text(expression)))
            .hint("Take it out as what it is: data ->> 'name', json_get_int(data, 'n'), json_get_float(data, 'x').")
    })
}

/// Problems, each said once.
struct Problems<'a> {
    found: Vec<Problem>,
    seen: HashSet<String>,
    sql: &'a str,
}

impl Problems<'_> {
    fn add(&mut self, problem: Problem, word: &str) {
        if self.seen.insert(problem.what.clone()) {
            self.found.push(problem.on_line_of(self.sql, word));
        }
    }
}
