//! `session`: windows that end once nothing came for a while, said by window functions.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{
    AggregateUDF, Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, Operator, WindowFrame, WindowUDF,
    binary_expr, lit, when,
};

use super::{END, START, column, columns, plus};

/// The column of the last time of a row's session.
pub(crate) const LAST: &str = "__last";

/// What the plan is made of: the session's own, so that both engines run the same.
pub(super) struct Functions {
    pub(super) max: Arc<AggregateUDF>,
    pub(super) lag: Arc<WindowUDF>,
}

/// Adds the session each row is in.
///
/// A row opens a session where the one before it, by time within its keys, is
/// `gap` or more away. Rows of one time are in one session whatever their order:
/// whichever of them opens it, the running maximum includes them all.
pub(super) fn session(
    input: LogicalPlan,
    time: Expr,
    gap_ns: i64,
    keys: Vec<Expr>,
    functions: &Functions,
) -> Result<LogicalPlan> {
    let shown: Vec<Expr> = columns(input.schema()).collect();
    let order = || vec![Sort::new(time.clone(), true, false)];
    let before = Expr::from(datafusion::logical_expr::expr::WindowFunction::new(
        functions.lag.clone(),
        vec![time.clone()],
    ))
    .partition_by(keys.clone())
    .order_by(order())
    .window_frame(WindowFrame::new(Some(false)))
    .build()?
    .alias("__before");
    let plan = LogicalPlanBuilder::from(input)
        .filter(time.clone().is_not_null())?
        .window(vec![before])?
        .build()?;

    let follows = binary_expr(time.clone(), Operator::Lt, plus(column("__before"), gap_ns));
    let opened = when(follows.is_true(), lit(datafusion::common::ScalarValue::Null)).otherwise(time.clone())?;
    let opened = shown.iter().cloned().chain([opened.alias("__opened")]);
    let start = running_max(functions, column("__opened"))
        .partition_by(keys.clone())
        .order_by(order())
        .window_frame(WindowFrame::new(Some(false)))
        .build()?
        .alias(START);
    let plan = LogicalPlanBuilder::from(plan)
        .project(opened)?
        .window(vec![start])?
        .build()?;

    let last = running_max(functions, time)
        .partition_by(keys.into_iter().chain([column(START)]).collect())
        .window_frame(WindowFrame::new(None))
        .build()?
        .alias(LAST);
    let end = plus(column(LAST), gap_ns).alias(END);
    LogicalPlanBuilder::from(plan)
        .window(vec![last])?
        .project(shown.into_iter().chain([column(START), end]))?
        .build()
}

fn running_max(functions: &Functions, argument: Expr) -> Expr {
    Expr::from(datafusion::logical_expr::expr::WindowFunction::new(
        functions.max.clone(),
        vec![argument],
    ))
}
