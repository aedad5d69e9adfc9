//! Marks where rows may fail: a `Checked` node below each filter and projection.
//!
//! It drops a row if and only if an expression fails on a batch of that one
//! row. The incremental plan fuses it into the operator above; batch executes
//! it (`batch::checked`).

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Between, Case, InList};
use datafusion::logical_expr::{
    BinaryExpr, Cast, Expr, ExprSchemable, Extension, Filter, LogicalPlan, Operator, Projection,
    UserDefinedLogicalNodeCore,
};

use super::{changed, temporal};
use crate::functions::{canonical, is_scalar, time_windows};
use crate::text::text;

/// Drops the rows of its input on which one of its expressions fails.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Checked {
    pub(crate) expressions: Vec<Expr>,
    pub(crate) input: LogicalPlan,
}

impl PartialOrd for Checked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.expressions.partial_cmp(&other.expressions)
    }
}

impl UserDefinedLogicalNodeCore for Checked {
    fn name(&self) -> &str {
        "Checked"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        self.expressions.clone()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let texts: Vec<String> = self.expressions.iter().map(text).collect();
        write!(f, "Checked: {}", texts.join(", "))
    }

    fn with_exprs_and_inputs(&self, expressions: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        Ok(Checked {
            expressions,
            input: inputs.swap_remove(0),
        })
    }
}

/// Returns the node itself where a plan is `Checked`.
pub(crate) fn checked(plan: &LogicalPlan) -> Option<&Checked> {
    match plan {
        LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref::<Checked>(),
        _ => None,
    }
}

pub(crate) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::Projection(projection)
            if projection
                .expr
                .iter()
                .any(|expression| can_fail(expression, projection.input.schema())) =>
        {
            let expressions = projection
                .expr
                .iter()
                .map(|expression| expression.clone().unalias())
                .collect();
            let input = below(expressions, projection.input);
            changed(LogicalPlan::Projection(Projection::try_new_with_schema(
                projection.expr,
                input,
                projection.schema,
            )?))
        }
        LogicalPlan::Filter(filter)
            if !temporal::is_maintained(&filter.predicate, filter.input.schema())
                && can_fail(&filter.predicate, filter.input.schema()) =>
        {
            let input = below(vec![filter.predicate.clone()], filter.input);
            changed(LogicalPlan::Filter(Filter::try_new(filter.predicate, input)?))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

fn below(expressions: Vec<Expr>, input: Arc<LogicalPlan>) -> Arc<LogicalPlan> {
    let node = Checked {
        expressions,
        input: Arc::unwrap_or_clone(input),
    };
    Arc::new(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
}

/// Tells whether evaluating an expression may fail on some row.
///
/// It says yes unless it knows better.
pub(crate) fn can_fail(expression: &Expr, schema: &DFSchema) -> bool {
    let fails = |expression: &Expr| can_fail(expression, schema);
    let type_of = |expression: &Expr| expression.get_type(schema).ok();
    let same_type = |left: &Expr, right: &Expr| type_of(left).is_some() && type_of(left) == type_of(right);
    match expression {
        Expr::Column(_) | Expr::Literal(..) => false,
        Expr::Alias(alias) => fails(&alias.expr),
        Expr::Not(inner)
        | Expr::IsNull(inner)
        | Expr::IsNotNull(inner)
        | Expr::IsTrue(inner)
        | Expr::IsNotTrue(inner)
        | Expr::IsFalse(inner)
        | Expr::IsNotFalse(inner)
        | Expr::IsUnknown(inner)
        | Expr::IsNotUnknown(inner) => fails(inner),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let safe = match op {
                Operator::And | Operator::Or => true,
                Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => {
                    same_type(left, right)
                }
                Operator::IsDistinctFrom | Operator::IsNotDistinctFrom => same_type(left, right),
                // Integers wrap around; floats have infinities.
                Operator::Plus | Operator::Minus | Operator::Multiply => {
                    same_type(left, right) && type_of(left).is_some_and(|t| t.is_integer() || is_float(&t))
                }
                Operator::Divide => same_type(left, right) && type_of(left).is_some_and(|t| is_float(&t)),
                _ => false,
            };
            !safe || fails(left) || fails(right)
        }
        Expr::Between(Between { expr, low, high, .. }) => {
            !same_type(expr, low) || !same_type(expr, high) || fails(expr) || fails(low) || fails(high)
        }
        Expr::InList(InList { expr, list, .. }) => {
            fails(expr) || list.iter().any(|item| !same_type(expr, item) || fails(item))
        }
        Expr::Case(Case {
            expr,
            when_then_expr,
            else_expr,
        }) => {
            expr.is_some()
                || when_then_expr.iter().any(|(when, then)| fails(when) || fails(then))
                || else_expr.as_deref().is_some_and(fails)
        }
        Expr::Cast(Cast { expr, field }) => {
            fails(expr) || !type_of(expr).is_some_and(|from| cast_is_total(&from, field.data_type()))
        }
        Expr::ScalarFunction(call) => {
            let name = call.func.name();
            let ours = name == canonical::NAME || time_windows::is_edge(&call.func) || is_scalar(name);
            !ours || call.args.iter().any(fails)
        }
        _ => true,
    }
}

fn is_float(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Float32 | DataType::Float64)
}

/// Tells whether every value of one type has one in the other.
fn cast_is_total(from: &DataType, to: &DataType) -> bool {
    use DataType::*;
    use arrow::datatypes::TimeUnit::{Microsecond, Nanosecond};
    from == to
        || match (from, to) {
            (Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float32, Float64) => true,
            (Int8 | UInt8, Int16 | Int32 | Int64) | (Int16 | UInt16, Int32 | Int64) | (Int32 | UInt32, Int64) => true,
            (UInt8, UInt16 | UInt32 | UInt64) | (UInt16, UInt32 | UInt64) | (UInt32, UInt64) => true,
            // Finer times lose digits, never range.
            (Timestamp(Microsecond | Nanosecond, from), Timestamp(Microsecond, to)) => from.is_some() == to.is_some(),
            (Utf8 | Utf8View | LargeUtf8, Utf8 | Utf8View | LargeUtf8) => true,
            (Int8 | Int16 | Int32 | Int64 | Boolean, Utf8 | Utf8View | LargeUtf8) => true,
            _ => false,
        }
}
