//! Has aggregates and joins refer to plain columns.
//!
//! A projection below computes keys, arguments, filters and join keys, so that
//! only filters and projections evaluate expressions, and only there can a row
//! fail. Arguments are evaluated only where their `FILTER` holds.

use std::sync::Arc;

use dataflows::plan::AggregateFunction as Function;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, JoinType};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, Case, Sort};
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::{Aggregate, Expr, Filter, Join, LogicalPlan, Projection, lit};

use super::{changed, checked, column_of, restore};
use crate::functions::aggregates::function_of;

/// Stands in for the columns of rows that have none, so that rows can be counted.
const ROW: &str = "__row";

pub(crate) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::Aggregate(aggregate) => rewrite_aggregate(aggregate),
        LogicalPlan::Join(join) => rewrite_join(join),
        LogicalPlan::TableScan(scan) if scan.projection.as_ref().is_some_and(Vec::is_empty) => {
            let scan = TableScanBuilder::from(scan).with_projection(Some(vec![0])).build()?;
            changed(one_column(LogicalPlan::TableScan(scan))?)
        }
        LogicalPlan::Projection(projection) if projection.expr.is_empty() => {
            changed(one_column(Arc::unwrap_or_clone(projection.input))?)
        }
        LogicalPlan::EmptyRelation(empty) if empty.schema.fields().is_empty() => {
            changed(one_column(LogicalPlan::EmptyRelation(empty))?)
        }
        LogicalPlan::SubqueryAlias(_) | LogicalPlan::Union(_) | LogicalPlan::Window(_)
            if plan
                .inputs()
                .iter()
                .any(|input| input.schema().has_column_with_unqualified_name(ROW)) =>
        {
            changed(plan.recompute_schema()?)
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

fn one_column(input: LogicalPlan) -> Result<LogicalPlan> {
    Ok(LogicalPlan::Projection(Projection::try_new(
        vec![lit(true).alias(ROW)],
        Arc::new(input),
    )?))
}

/// The columns a projection computes for the node above it.
pub(super) struct Computed {
    prefix: &'static str,
    expressions: Vec<Expr>,
}

impl Computed {
    pub(super) fn new(prefix: &'static str) -> Self {
        Computed {
            prefix,
            expressions: Vec::new(),
        }
    }

    /// Returns the column that holds an expression, adding it once.
    pub(super) fn column(&mut self, expression: &Expr) -> Expr {
        let expression = expression.clone().unalias();
        let known = self.expressions.iter().position(|other| *other == expression);
        let index = known.unwrap_or_else(|| {
            self.expressions.push(expression);
            self.expressions.len() - 1
        });
        Expr::Column(Column::new_unqualified(format!("{}{index}", self.prefix)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.expressions.is_empty()
    }

    /// Puts the projection over a plan, where there is anything to compute.
    pub(super) fn over(self, input: Arc<LogicalPlan>) -> Result<Arc<LogicalPlan>> {
        if self.expressions.is_empty() {
            return Ok(input);
        }
        let projection = Projection::try_new(self.named().collect(), input)?;
        Ok(Arc::new(LogicalPlan::Projection(projection)))
    }

    pub(super) fn named(self) -> impl Iterator<Item = Expr> {
        let prefix = self.prefix;
        self.expressions
            .into_iter()
            .enumerate()
            .map(move |(index, expression)| expression.alias(format!("{prefix}{index}")))
    }
}

/// Returns the calls of an aggregation; none where one is something else.
pub(super) fn calls(aggregate: &Aggregate) -> Option<Vec<AggregateFunction>> {
    let calls = aggregate.aggr_expr.iter().map(|call| match call.clone().unalias() {
        Expr::AggregateFunction(call) => Some(call),
        _ => None,
    });
    calls.collect()
}

fn rewrite_aggregate(aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
    let Some(calls) = calls(&aggregate) else {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    };
    let plain = aggregate.group_expr.iter().all(is_column) && calls.iter().all(is_plain);
    if plain {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let input_schema = aggregate.input.schema().clone();
    let mut computed = Computed::new("__column_");
    let keys: Vec<Expr> = aggregate.group_expr.iter().map(|key| computed.column(key)).collect();
    let calls: Vec<Expr> = calls
        .into_iter()
        .enumerate()
        .map(|(index, call)| over_columns(call, &mut computed, &input_schema).alias(format!("__call_{index}")))
        .collect();
    let input = computed.over(aggregate.input)?;
    let narrow = LogicalPlan::Aggregate(Aggregate::try_new(input, keys, calls)?);
    let columns = (0..narrow.schema().fields().len())
        .map(|index| column_of(narrow.schema(), index))
        .collect();
    changed(restore(narrow, &aggregate.schema, columns)?)
}

/// Rewrites one call over computed columns.
pub(super) fn over_columns(call: AggregateFunction, computed: &mut Computed, schema: &DFSchema) -> Expr {
    let guarded = |expression: &Expr, filter: Option<&Expr>| match filter {
        // Where an argument cannot fail, evaluating it everywhere is cheaper.
        Some(filter) if checked::can_fail(expression, schema) => Expr::Case(Case {
            expr: None,
            when_then_expr: vec![(Box::new(filter.clone()), Box::new(expression.clone()))],
            else_expr: None,
        }),
        _ => expression.clone(),
    };
    let AggregateFunction { func, params } = call;
    let filter = params.filter.as_deref();
    let args = if !params.distinct && counts_rows(&func, &params.args) {
        params.args.clone()
    } else {
        let columns = columns(&func, &params.args);
        let read = params.args[..columns]
            .iter()
            .map(|argument| computed.column(&guarded(argument, filter)));
        read.chain(params.args[columns..].iter().cloned()).collect()
    };
    let order_by = params
        .order_by
        .iter()
        .map(|order| Sort {
            expr: computed.column(&guarded(&order.expr, filter)),
            ..order.clone()
        })
        .collect();
    let filter = filter.map(|filter| Box::new(computed.column(filter)));
    Expr::AggregateFunction(AggregateFunction {
        func,
        params: AggregateFunctionParams {
            args,
            order_by,
            filter,
            ..params
        },
    })
}

/// Tells whether a count counts rows: its argument is a literal other than NULL.
pub(crate) fn counts_rows(function: &datafusion::logical_expr::AggregateUDF, args: &[Expr]) -> bool {
    function_of(function) == Some(Function::Count) && matches!(args, [Expr::Literal(value, _)] if !value.is_null())
}

/// Returns how many of a call's arguments are read from rows; those after them are constants.
pub(crate) fn columns(function: &datafusion::logical_expr::AggregateUDF, args: &[Expr]) -> usize {
    function_of(function)
        .map_or(usize::MAX, Function::columns)
        .min(args.len())
}

fn is_column(expression: &Expr) -> bool {
    matches!(expression, Expr::Column(_))
}

fn is_plain(call: &AggregateFunction) -> bool {
    let params = &call.params;
    let read = &params.args[..columns(&call.func, &params.args)];
    ((!params.distinct && counts_rows(&call.func, &params.args)) || read.iter().all(is_column))
        && params.filter.as_deref().is_none_or(is_column)
        && params.order_by.iter().all(|order| is_column(&order.expr))
}

fn rewrite_join(mut join: Join) -> Result<Transformed<LogicalPlan>> {
    let has_row = |side: &LogicalPlan| side.schema().has_column_with_unqualified_name(ROW);
    let grown = has_row(&join.left) || has_row(&join.right);
    if has_row(&join.right) {
        // Both sides may have been without columns, and each column has a name of its own.
        let renamed = column_of(join.right.schema(), 0).alias("__row_right");
        join.right = Arc::new(LogicalPlan::Projection(Projection::try_new(vec![renamed], join.right)?));
    }
    let plain = join.filter.is_none() && join.on.iter().all(|(left, right)| is_column(left) && is_column(right));
    if plain && !grown {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    }
    let schema = join.schema.clone();
    let (mut residual, mut on) = (join.filter.clone(), join.on.clone());
    if join.join_type == JoinType::Left
        && let Some(condition) = &residual
    {
        // `joins` left no other condition here. A left row that fails the condition matches nothing, as a NULL key does.
        let key = Case {
            expr: None,
            when_then_expr: vec![(Box::new(condition.clone()), Box::new(on[0].0.clone()))],
            else_expr: None,
        };
        on[0].0 = Expr::Case(key);
        residual = None;
    }
    let (left, left_keys) = with_keys(join.left, on.iter().map(|(left, _)| left), "__left_")?;
    let (right, right_keys) = with_keys(join.right, on.iter().map(|(_, right)| right), "__right_")?;
    let (pushed, above) = match join.join_type {
        JoinType::Inner => (None, residual),
        _ => (residual, None),
    };
    let mut plan = LogicalPlan::Join(Join::try_new(
        left,
        right,
        left_keys.into_iter().zip(right_keys).collect(),
        pushed,
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?);
    if let Some(predicate) = above {
        plan = LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(plan))?);
    }
    if plan.schema().fields().len() > schema.fields().len() {
        let columns = (0..schema.fields().len())
            .map(|index| column_of(&schema, index))
            .collect();
        plan = restore(plan, &schema, columns)?;
    }
    changed(plan)
}

/// Adds the keys that are not columns yet and returns a column for each key.
fn with_keys<'a>(
    input: Arc<LogicalPlan>,
    keys: impl Iterator<Item = &'a Expr>,
    prefix: &'static str,
) -> Result<(Arc<LogicalPlan>, Vec<Expr>)> {
    let mut computed = Computed::new(prefix);
    let keys = keys
        .map(|key| {
            if is_column(key) {
                key.clone()
            } else {
                computed.column(key)
            }
        })
        .collect();
    if computed.is_empty() {
        return Ok((input, keys));
    }
    let schema = input.schema().clone();
    let columns = (0..schema.fields().len())
        .map(|index| column_of(&schema, index))
        .chain(computed.named())
        .collect();
    Ok((
        Arc::new(LogicalPlan::Projection(Projection::try_new(columns, input)?)),
        keys,
    ))
}
