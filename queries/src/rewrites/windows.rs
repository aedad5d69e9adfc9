//! Has window functions refer to plain columns of rows in a total order.
//!
//! Partition and order keys, arguments and filters are computed by a projection
//! below, float keys in their one form. Each combination of partition and order
//! becomes a node of its own, over rows ordered by all columns: where the written order
//! leaves open which row is the next, both engines read the same one.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Sort as Key, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::{
    Distinct, DistinctOn, Expr, ExprSchemable, Filter, LogicalPlan, Projection, Window, WindowFrame,
    WindowFunctionDefinition, lit,
};

use super::columns::{Computed, columns, counts_rows};
use super::ordered::Ordered;
use super::{changed, column_of, order, restore};
use crate::functions::canonical::canonical;
use crate::functions::kinds::window;

pub(crate) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::Window(window) => rewrite_window(window),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

fn rewrite_window(window: Window) -> Result<Transformed<LogicalPlan>> {
    let calls: Option<Vec<WindowFunction>> = window
        .window_expr
        .iter()
        .map(|call| match call.clone().unalias() {
            Expr::WindowFunction(call) => Some(*call),
            _ => None,
        })
        .collect();
    let Some(calls) = calls else {
        return Ok(Transformed::no(LogicalPlan::Window(window)));
    };
    let input = window.input.schema().clone();
    let mut computed = Computed::new("__window_column_");
    let calls = calls
        .into_iter()
        .map(|call| over_columns(call, &mut computed, &input))
        .collect::<Result<Vec<_>>>()?;
    let mut columns: Vec<Expr> = (0..input.fields().len())
        .map(|index| column_of(&input, index))
        .collect();
    let mut plan = Arc::unwrap_or_clone(window.input);
    if !computed.is_empty() {
        columns.extend(computed.named());
        plan = LogicalPlan::Projection(Projection::try_new(columns, Arc::new(plan))?);
    }
    let mut waiting: Vec<(usize, WindowFunction)> = calls.into_iter().enumerate().collect();
    while let Some((_, first)) = waiting.first() {
        let (partition, order) = (first.params.partition_by.clone(), first.params.order_by.clone());
        let (ours, others): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|(_, call)| call.params.partition_by == partition && call.params.order_by == order);
        waiting = others;
        let ours = ours
            .into_iter()
            .map(|(index, call)| Expr::from(call).alias(name(index)))
            .collect();
        let mut keys: Vec<Key> = partition.into_iter().map(|column| column.sort(true, true)).collect();
        for key in order {
            if !keys.iter().any(|known| known.expr == key.expr) {
                keys.push(key);
            }
        }
        order::complete(&mut keys, plan.schema());
        let ordered = Ordered { keys, input: plan };
        plan = LogicalPlan::Window(Window::try_new(ours, Arc::new(ordered.plan()))?);
    }
    let columns = (0..window.schema.fields().len())
        .map(|index| match index.checked_sub(input.fields().len()) {
            None => column_of(&input, index),
            Some(call) => Expr::Column(Column::new_unqualified(name(call))),
        })
        .collect();
    changed(restore(plan, &window.schema, columns)?)
}

fn name(call: usize) -> String {
    format!("__window_{call}")
}

/// Rewrites one call over computed columns.
fn over_columns(call: WindowFunction, computed: &mut Computed, schema: &DFSchema) -> Result<WindowFunction> {
    let mut key = |expression: &Expr| -> Result<Expr> {
        Ok(match expression {
            column @ Expr::Column(_) if !column.get_type(schema)?.is_floating() => column.clone(),
            float if float.get_type(schema)?.is_floating() => computed.column(&canonical(float.clone().unalias())),
            other => computed.column(other),
        })
    };
    let WindowFunction { fun, params } = call;
    let partition_by = params.partition_by.iter().map(&mut key).collect::<Result<Vec<_>>>()?;
    let order_by = params
        .order_by
        .iter()
        .map(|order| {
            Ok(Key {
                expr: key(&order.expr)?,
                ..order.clone()
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let counts = matches!(&fun, WindowFunctionDefinition::AggregateUDF(function)
        if !params.distinct && counts_rows(function, &params.args));
    let mut plain = |expression: &Expr| match expression {
        Expr::Column(_) => expression.clone(),
        other => computed.column(other),
    };
    let constants = match &fun {
        own if window::own(own).is_some() => window::own(own).map_or(0, |own| own.columns),
        WindowFunctionDefinition::WindowUDF(_) if params.args.len() == 1 && fun.name() == "ntile" => 0,
        WindowFunctionDefinition::WindowUDF(_) => 1,
        _ if counts => 0,
        WindowFunctionDefinition::AggregateUDF(function) => columns(function, &params.args),
    };
    // How far, and what else: constants for all rows.
    let args = params
        .args
        .iter()
        .enumerate()
        .map(|(index, argument)| {
            if index < constants {
                plain(argument)
            } else {
                argument.clone()
            }
        })
        .collect();
    let filter = params.filter.as_deref().map(|filter| Box::new(plain(filter)));
    Ok(WindowFunction {
        fun,
        params: WindowFunctionParams {
            args,
            partition_by,
            order_by,
            filter,
            ..params
        },
    })
}

/// Reads `DISTINCT ON (keys)` as the first row of each key, before rules make an aggregate of each column.
pub(crate) fn first_rows(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::Distinct(Distinct::On(distinct)) => changed(first_row(distinct)?),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

fn first_row(distinct: DistinctOn) -> Result<LogicalPlan> {
    // Within a key its own columns tell nothing apart.
    let mut order_by = distinct.sort_expr.clone().unwrap_or_default();
    order_by.retain(|key| !distinct.on_expr.contains(&key.expr));
    let number = Expr::from(WindowFunction {
        fun: WindowFunctionDefinition::WindowUDF(datafusion::functions_window::row_number::row_number_udwf()),
        params: WindowFunctionParams {
            args: Vec::new(),
            partition_by: distinct.on_expr.clone(),
            window_frame: WindowFrame::new((!order_by.is_empty()).then_some(true)),
            order_by,
            filter: None,
            null_treatment: None,
            distinct: false,
        },
    });
    const NUMBER: &str = "__place";
    let window = LogicalPlan::Window(Window::try_new(vec![number.alias(NUMBER)], distinct.input)?);
    let is_first = Expr::Column(Column::new_unqualified(NUMBER)).eq(lit(1u64));
    let first = LogicalPlan::Filter(Filter::try_new(is_first, Arc::new(window))?);
    restore(first, &distinct.schema, distinct.select_expr)
}
