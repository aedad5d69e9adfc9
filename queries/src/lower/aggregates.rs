//! Lowers aggregations, and aggregates wherever they stand.

use arrow::datatypes::FieldRef;
use dataflows::aggregates::{self, AggregateSpec};
use dataflows::nested;
use dataflows::plan::{AggregateCall, AggregateFunction as Function, NodeId, Operator};
use datafusion::common::DFSchema;
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment};
use datafusion::logical_expr::{Aggregate, Expr};

use super::{Lowering, nullable, position, sort_options};
use crate::functions::aggregates::{function_of, parameters};
use crate::problem::{Problem, ProblemKind};
use crate::rewrites::columns::{columns, counts_rows};
use crate::text::text;

impl Lowering<'_> {
    pub(super) fn aggregate(&mut self, aggregate: &Aggregate) -> Result<NodeId, Problem> {
        let input = self.plan(&aggregate.input)?;
        let below = aggregate.input.schema();
        let schema = nullable(&aggregate.schema);
        let keys = aggregate
            .group_expr
            .iter()
            .map(|key| position(key, below))
            .collect::<Result<Vec<_>, _>>()?;
        let Some(fields) = schema.fields().get(keys.len()..) else {
            return Err(
                Problem::new("an aggregation groups by one column several times").hint("Group by each column once.")
            );
        };
        let mut calls = Vec::with_capacity(aggregate.aggr_expr.len());
        for (call, field) in aggregate.aggr_expr.iter().zip(fields) {
            let Expr::AggregateFunction(call) = call.clone().unalias() else {
                return Err(Problem::not_maintained(text(call)));
            };
            calls.push(self.call(&call, below, field.clone(), self.nodes[input].append_only)?);
        }
        let key = Some((0..keys.len()).collect());
        // A group's row is taken back whenever it changes; DISTINCT only ever adds to append-only rows.
        let append_only = calls.is_empty() && self.nodes[input].append_only;
        Ok(self.node(
            Operator::Aggregate {
                keys,
                calls,
                leaves: Vec::new(),
            },
            vec![input],
            schema,
            append_only,
            key,
        ))
    }

    pub(super) fn call(
        &mut self,
        call: &AggregateFunction,
        below: &DFSchema,
        field: FieldRef,
        append_only: bool,
    ) -> Result<AggregateCall, Problem> {
        let params = &call.params;
        let function = function_of(&call.func)
            .ok_or_else(|| Problem::not_maintained(format!("the aggregate {}()", call.func.name())))?;
        let counts_rows = !params.distinct && counts_rows(&call.func, &params.args);
        let (read, constants) = match counts_rows {
            true => (&[] as &[Expr], &[] as &[Expr]),
            false => params.args.split_at(columns(&call.func, &params.args)),
        };
        let arguments = read
            .iter()
            .map(|argument| position(argument, below))
            .collect::<Result<Vec<_>, _>>()?;
        let constants = constants.iter().map(|constant| match constant.clone().unalias() {
            Expr::Literal(value, _) => Ok(value),
            other => {
                Err(
                    Problem::not_maintained(format!("{}() with {} for a constant", call.func.name(), text(&other)))
                        .hint("Percentiles, delimiters and positions are written out, not computed from rows."),
                )
            }
        });
        let descending = params.order_by.first().is_some_and(|order| !order.asc);
        let constants = constants.collect::<Result<Vec<_>, _>>()?;
        let function = if counts_rows { Function::CountRows } else { function };
        let parameters = parameters(function, constants, descending)?;
        let ordered = function.is_ordered();
        // Only the argument itself, appended by the rewrite, orders the values.
        if matches!(function, Function::FirstValue | Function::LastValue)
            && params.order_by.len() == 1
            && params.order_by.first().map(|order| &order.expr) == params.args.first()
        {
            self.warnings.push(format!(
                "{} without ORDER BY takes the {} value: write {}(x ORDER BY at)",
                call.func.name(),
                if function == Function::FirstValue {
                    "smallest"
                } else {
                    "largest"
                },
                call.func.name()
            ));
        }
        let order = params
            .order_by
            .iter()
            .filter(|_| ordered)
            .map(|order| Ok((position(&order.expr, below)?, sort_options(order))))
            .collect::<Result<Vec<_>, Problem>>()?;
        let ignore_nulls = !ordered || params.null_treatment == Some(NullTreatment::IgnoreNulls);
        let type_at = |column: usize| nested::nullable(below.field(column).data_type());
        let distinct = params.distinct && !function.is_end();
        let spec = AggregateSpec {
            function,
            arguments: arguments.iter().copied().map(type_at).collect(),
            parameters: parameters.clone(),
            distinct,
            order: order
                .iter()
                .map(|(column, options)| (type_at(*column), *options))
                .collect(),
            ignore_nulls,
            append_only,
            output: field.data_type().clone(),
        };
        aggregates::accumulator(&spec).map_err(|unsupported| {
            Problem {
                kind: ProblemKind::NotMaintained,
                ..Problem::new(unsupported.to_string())
            }
            .hint("Cast the argument: sum(x::double), min(x::text).")
        })?;
        let filter = params
            .filter
            .as_deref()
            .map(|filter| position(filter, below))
            .transpose()?;
        Ok(AggregateCall {
            function,
            arguments,
            parameters,
            distinct,
            filter,
            order,
            ignore_nulls,
            field,
        })
    }
}
