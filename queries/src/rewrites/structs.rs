//! Takes `unnest` of a struct as reading its fields: only lists are left to unnest.
//!
//! A field of a struct that is NULL is NULL, whatever stands beneath.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::Column;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::expr::Case;
use datafusion::logical_expr::{Expr, LogicalPlan, Unnest};

use super::{changed, column_of, restore};

pub(crate) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::Unnest(unnest) if !unnest.struct_type_columns.is_empty() => changed(fields(unnest)?),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

fn fields(unnest: Unnest) -> Result<LogicalPlan> {
    let input = unnest.input.schema().clone();
    let lists: Vec<Column> = unnest
        .exec_columns
        .iter()
        .filter(|column| {
            let index = input.maybe_index_of_column(column);
            index.is_none_or(|index| !unnest.struct_type_columns.contains(&index))
        })
        .cloned()
        .collect();
    let below = match lists.is_empty() {
        true => Arc::unwrap_or_clone(unnest.input),
        false => LogicalPlan::Unnest(Unnest::try_new(unnest.input, lists, unnest.options)?),
    };
    let mut expressions = Vec::with_capacity(unnest.dependency_indices.len());
    // Structs take one column below and several here.
    let (mut position, mut field) = (0, 0);
    for index in &unnest.dependency_indices {
        let own = column_of(below.schema(), position);
        let DataType::Struct(fields) = input.field(*index).data_type() else {
            expressions.push(own);
            position += 1;
            continue;
        };
        if !unnest.struct_type_columns.contains(index) {
            expressions.push(own);
            position += 1;
            continue;
        }
        let value = get_field(own.clone(), fields[field].name().as_str());
        expressions.push(Expr::Case(Case {
            expr: None,
            when_then_expr: vec![(Box::new(own.is_not_null()), Box::new(value))],
            else_expr: None,
        }));
        field += 1;
        if field == fields.len() {
            (position, field) = (position + 1, 0);
        }
    }
    restore(below, &unnest.schema, expressions)
}
