//! Says every join by those there is an operator for: on equal columns, inner, left, full, or
//! asking whether there is a partner.
//!
//! A condition beside the equalities is a filter over the pairs; which rows have no pair left is
//! asked by joining them with the pairs, all columns equal, as `EXCEPT` would. The pairs stand
//! twice in the plan then and are computed once: `lower` sees that they are the same. Where a
//! row has one pair at most, it is the pair itself.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Dependency, JoinConstraint, JoinType, NullEquality, ScalarValue, TableReference};
use datafusion::error::Result;
use datafusion::functions_aggregate::count::count;
use datafusion::logical_expr::{Aggregate, Expr, Filter, Join, LogicalPlan, Projection, SubqueryAlias, Union, lit};

use super::{changed, column_of, restore};

pub(crate) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(node)?.data)
}

fn node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Join(join) = plan else {
        return Ok(Transformed::no(plan));
    };
    match join.join_type {
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => changed(swapped(join)?),
        JoinType::LeftAnti if join.null_aware => match join.on.as_slice() {
            [_] if join.filter.is_none() => changed(not_in(join)?),
            // `refusals` names it.
            _ => Ok(Transformed::no(LogicalPlan::Join(join))),
        },
        JoinType::Inner => Ok(Transformed::no(LogicalPlan::Join(join))),
        _ if join.filter.is_none() || over_left(&join) => Ok(Transformed::no(LogicalPlan::Join(join))),
        JoinType::Left | JoinType::Full => changed(padded(join)?),
        _ => changed(present(join)?),
    }
}

/// A condition on the left alone makes a key that matches nothing: see `columns`.
fn over_left(join: &Join) -> bool {
    let columns = |filter: &Expr| {
        filter
            .column_refs()
            .iter()
            .all(|column| join.left.schema().has_column(column))
    };
    join.join_type == JoinType::Left
        && !join.on.is_empty()
        && join.null_equality == NullEquality::NullEqualsNothing
        && join.filter.as_ref().is_some_and(columns)
}

/// Exchanges the sides of a join named after its right.
fn swapped(join: Join) -> Result<LogicalPlan> {
    let schema = join.schema.clone();
    let join_type = join.join_type.swap();
    let on = join.on.into_iter().map(|(left, right)| (right, left)).collect();
    let swapped = node(LogicalPlan::Join(Join::try_new(
        join.right,
        join.left,
        on,
        join.filter,
        join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?))?
    .data;
    if join_type != JoinType::Left {
        return Ok(swapped);
    }
    let columns = columns_of(&schema);
    restore(swapped, &schema, columns)
}

/// The pairs of a join's rows that meet all its conditions.
fn pairs(join: &Join) -> Result<LogicalPlan> {
    let inner = LogicalPlan::Join(Join::try_new(
        Arc::clone(&join.left),
        Arc::clone(&join.right),
        join.on.clone(),
        None,
        JoinType::Inner,
        JoinConstraint::On,
        join.null_equality,
        false,
    )?);
    Ok(match &join.filter {
        Some(filter) => LogicalPlan::Filter(Filter::try_new(filter.clone(), Arc::new(inner))?),
        None => inner,
    })
}

/// Asks of each row of `side` whether it is part of a pair.
fn among(side: &Arc<LogicalPlan>, pairs: &LogicalPlan, join_type: JoinType) -> Result<LogicalPlan> {
    let schema = side.schema();
    let name = |index: usize| format!("__paired_{index}");
    let columns = columns_of(schema);
    let paired = columns
        .iter()
        .enumerate()
        .map(|(index, column)| column.clone().alias(name(index)))
        .collect();
    let paired = LogicalPlan::Projection(Projection::try_new(paired, Arc::new(pairs.clone()))?);
    // A mark without a name before it would be taken for another's beside it.
    let (paired, alias) = match join_type {
        JoinType::LeftMark => {
            let alias = TableReference::bare("__pairs");
            let paired = SubqueryAlias::try_new(Arc::new(paired), alias.clone())?;
            (LogicalPlan::SubqueryAlias(paired), Some(alias))
        }
        _ => (paired, None),
    };
    let on = columns
        .into_iter()
        .enumerate()
        .map(|(index, column)| (column, Expr::Column(Column::new(alias.clone(), name(index)))))
        .collect();
    Ok(LogicalPlan::Join(Join::try_new(
        Arc::clone(side),
        Arc::new(paired),
        on,
        None,
        join_type,
        JoinConstraint::On,
        NullEquality::NullEqualsNull,
        false,
    )?))
}

/// An outer join: the pairs, and the rows that are in none beside NULLs.
fn padded(join: Join) -> Result<LogicalPlan> {
    let pairs = pairs(&join)?;
    let schema = &join.schema;
    let width = join.left.schema().fields().len();
    let mut parts = vec![Arc::new(restore(pairs.clone(), schema, columns_of(schema))?)];
    let sides = [(&join.left, 0..width), (&join.right, width..schema.fields().len())];
    for (side, own) in sides {
        if join.join_type == JoinType::Left && own.start > 0 {
            continue;
        }
        let alone = among(side, &pairs, JoinType::LeftAnti)?;
        let columns = (0..schema.fields().len())
            .map(|index| match own.contains(&index) {
                true => Ok(column_of(side.schema(), index - own.start)),
                false => Ok(lit(ScalarValue::try_from(schema.field(index).data_type())?)),
            })
            .collect::<Result<_>>()?;
        parts.push(Arc::new(restore(alone, schema, columns)?));
    }
    Ok(LogicalPlan::Union(Union {
        inputs: parts,
        schema: Arc::clone(schema),
    }))
}

/// `EXISTS` and its kin with a condition over both sides.
fn present(join: Join) -> Result<LogicalPlan> {
    let pairs = pairs(&join)?;
    if join.join_type == JoinType::LeftSemi && pairs_once(&join) {
        let columns = columns_of(&join.schema);
        return restore(pairs, &join.schema, columns);
    }
    let asked = among(&join.left, &pairs, join.join_type)?;
    match join.join_type {
        // Its last column goes by another name.
        JoinType::LeftMark => {
            let columns = columns_of(asked.schema());
            restore(asked, &join.schema, columns)
        }
        _ => Ok(asked),
    }
}

/// Tells whether the right has one row at most for each key, as an aggregation by nothing else does.
fn pairs_once(join: &Join) -> bool {
    let mut made = &join.right;
    loop {
        made = match made.as_ref() {
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            LogicalPlan::Projection(projection) => &projection.input,
            LogicalPlan::Filter(filter) => &filter.input,
            LogicalPlan::Aggregate(_) => break,
            _ => return false,
        };
    }
    let schema = join.right.schema();
    let place = |key: &Expr| schema.index_of_column(key.try_as_col()?).ok();
    let keys: Vec<usize> = join.on.iter().filter_map(|(_, key)| place(key)).collect();
    schema.functional_dependencies().iter().any(|known| {
        known.mode == Dependency::Single && known.source_indices.iter().all(|column| keys.contains(column))
    })
}

/// `NOT IN`: nothing at all once the subquery holds a NULL, and everything while it is empty.
fn not_in(join: Join) -> Result<LogicalPlan> {
    let (left_key, right_key) = join.on[0].clone();
    let schema = Arc::clone(&join.schema);
    let counts = LogicalPlan::Aggregate(Aggregate::try_new(
        Arc::clone(&join.right),
        vec![],
        vec![count(lit(1_i64)).alias("__rows"), count(right_key).alias("__known")],
    )?);
    let alone = LogicalPlan::Join(Join {
        null_aware: false,
        ..join
    });
    let judged = LogicalPlan::Join(Join::try_new(
        Arc::new(alone),
        Arc::new(counts),
        vec![],
        None,
        JoinType::Inner,
        JoinConstraint::On,
        NullEquality::NullEqualsNothing,
        false,
    )?);
    let column = |name: &str| Expr::Column(Column::new_unqualified(name));
    let none = column("__rows").eq(lit(0_i64));
    let all_known = column("__rows").eq(column("__known"));
    let condition = none.or(all_known.and(left_key.is_not_null()));
    let kept = LogicalPlan::Filter(Filter::try_new(condition, Arc::new(judged))?);
    let columns = columns_of(&schema);
    restore(kept, &schema, columns)
}

fn columns_of(schema: &datafusion::common::DFSchema) -> Vec<Expr> {
    (0..schema.fields().len())
        .map(|index| column_of(schema, index))
        .collect()
}
