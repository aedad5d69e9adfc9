//! Says `GROUPING SETS`, `ROLLUP` and `CUBE` by a `UNION ALL` of one aggregation a set.
//!
//! Keys and arguments are computed once, below all sets, so that a row on which
//! one fails is in none of them. A set without keys is one row, also over no
//! rows; a set that is written twice is there twice.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::functions_aggregate::count::count;
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet, LogicalPlan, Union, lit};

use super::canonical::is_bare_float;
use super::columns::{Computed, calls, over_columns};
use super::{changed, column_of, restore};
use crate::functions::canonical::canonical;

pub(crate) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::Aggregate(aggregate) => match aggregate.group_expr.as_slice() {
            [Expr::GroupingSet(sets)] => {
                let sets = sets.clone();
                union(aggregate, &sets)
            }
            _ => Ok(Transformed::no(LogicalPlan::Aggregate(aggregate))),
        },
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

fn union(aggregate: Aggregate, sets: &GroupingSet) -> Result<Transformed<LogicalPlan>> {
    let (Some(calls), true) = (calls(&aggregate), count_of(sets) <= SETS_MAX) else {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    };
    let schema = &aggregate.schema;
    let input_schema = aggregate.input.schema().clone();
    let distinct: Vec<Expr> = sets.distinct_expr().into_iter().cloned().collect();
    let mut computed = Computed::new("__column_");
    let mut keys = Vec::with_capacity(distinct.len());
    for key in &distinct {
        let bare = key.clone().unalias();
        keys.push(computed.column(&match is_bare_float(&bare, &input_schema)? {
            true => canonical(bare),
            false => bare,
        }));
    }
    let mut calls: Vec<Expr> = calls
        .into_iter()
        .enumerate()
        .map(|(index, call)| over_columns(call, &mut computed, &input_schema).alias(format!("__call_{index}")))
        .collect();
    let shown = calls.len();
    if calls.is_empty() {
        // An aggregation needs something to do; a set without keys has nothing else.
        calls.push(count(lit(1_i64)).alias("__rows"));
    }
    let input = computed.over(aggregate.input.clone())?;
    let mut seen: Vec<Vec<bool>> = Vec::new();
    let mut parts = Vec::new();
    for absent in absences(sets, &distinct) {
        let twin = seen.iter().filter(|other| **other == absent).count();
        let mut own: Vec<Expr> = Vec::with_capacity(keys.len());
        for (key, _) in keys.iter().zip(&absent).filter(|(_, absent)| !**absent) {
            if !own.contains(key) {
                own.push(key.clone());
            }
        }
        let one = LogicalPlan::Aggregate(Aggregate::try_new(Arc::clone(&input), own.clone(), calls.clone())?);
        let mut columns = Vec::with_capacity(schema.fields().len());
        for (index, key) in keys.iter().enumerate() {
            columns.push(match own.iter().position(|other| other == key) {
                Some(at) if !absent[index] => column_of(one.schema(), at),
                _ => lit(ScalarValue::try_from(schema.field(index).data_type())?),
            });
        }
        let id = ScalarValue::UInt64(Some(id(&absent, twin)));
        columns.push(lit(id.cast_to(schema.field(absent.len()).data_type())?));
        columns.extend((own.len()..own.len() + shown).map(|index| column_of(one.schema(), index)));
        parts.push(Arc::new(restore(one, schema, columns)?));
        seen.push(absent);
    }
    changed(LogicalPlan::Union(Union {
        inputs: parts,
        schema: Arc::clone(schema),
    }))
}

/// How many sets are said by one each: a `CUBE` over eight keys.
pub(crate) const SETS_MAX: usize = 256;

/// Returns how many groupings are asked for.
pub(crate) fn count_of(sets: &GroupingSet) -> usize {
    match sets {
        GroupingSet::GroupingSets(sets) => sets.len(),
        GroupingSet::Rollup(keys) => keys.len() + 1,
        GroupingSet::Cube(keys) => u32::try_from(keys.len())
            .ok()
            .and_then(|keys| 1usize.checked_shl(keys))
            .unwrap_or(usize::MAX),
    }
}

/// For each set, which of all keys it is without.
fn absences(sets: &GroupingSet, distinct: &[Expr]) -> Vec<Vec<bool>> {
    let without = |own: &[Expr]| distinct.iter().map(|key| !own.contains(key)).collect();
    match sets {
        GroupingSet::GroupingSets(sets) => sets.iter().map(|own| without(own)).collect(),
        GroupingSet::Rollup(keys) => (0..=keys.len()).map(|count| without(&keys[..count])).collect(),
        GroupingSet::Cube(keys) => {
            let subsets = 0..count_of(sets);
            let chosen = |subset: usize| {
                let own = keys.iter().enumerate().filter(|(at, _)| subset >> at & 1 == 1);
                own.map(|(_, key)| key.clone()).collect::<Vec<Expr>>()
            };
            subsets.map(|subset| without(&chosen(subset))).collect()
        }
    }
}

/// The `__grouping_id` of DataFusion: a bit for each key, set where it is absent, and above
/// them how often the same set stood before.
fn id(absent: &[bool], twin: usize) -> u64 {
    let bits = absent.iter().fold(0u64, |bits, absent| bits << 1 | u64::from(*absent));
    let shift = u32::try_from(absent.len()).unwrap_or(u32::MAX);
    bits | (twin as u64).checked_shl(shift).unwrap_or(0)
}
