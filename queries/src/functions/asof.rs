//! `asof` in `FROM`: beside each row, the latest of another relation at that time.
//!
//! `asof(trades, at, quotes, at, symbol)` gives every row of `trades`, and of `quotes` the row
//! with the same `symbol` whose time is the latest that is not after the trade's; NULLs where
//! there is none. The keys stand once, as with `USING`. Of several rows of one key and time one is chosen, by all they hold.
//!
//! The call becomes a plain plan before anything is optimised: a running maximum of the
//! right's times over the rows of both, in the order of their times, says which row each
//! left row sees, and an equality fetches it. So an append costs a step, and a late row
//! no more than the rows of its key after it.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DFSchema, JoinType, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Sort, WindowFunction};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, ExprSchemable, LogicalPlan, LogicalPlanBuilder, WindowFrame, cast, lit, when,
};
use datafusion::sql::sqlparser::ast::{
    FunctionArg, FunctionArgExpr, Join, JoinConstraint, JoinOperator, TableFactor, TableWithJoins,
};

use super::calls::{self, alias_of, relation};
use super::time_windows::column;
use crate::problem::Problem;

const NAME: &str = "asof";
const CALL: &str = "asof(trades, at, quotes, at, symbol)";

/// Plans the calls in `FROM`.
pub(crate) fn planner() -> Arc<dyn RelationPlanner> {
    Arc::new(AsOf)
}

/// Returns what a call in `FROM` reads; none where it is something else.
pub(crate) fn read_by(factor: &TableFactor) -> Option<TableFactor> {
    let args = called(factor)?;
    let (left, right) = (relation(args.first()?)?, relation(args.get(2)?)?);
    Some(TableFactor::NestedJoin {
        table_with_joins: Box::new(TableWithJoins {
            relation: left,
            joins: vec![Join {
                relation: right,
                global: false,
                join_operator: JoinOperator::CrossJoin(JoinConstraint::None),
            }],
        }),
        alias: None,
    })
}

#[derive(Debug)]
struct AsOf;

impl RelationPlanner for AsOf {
    fn plan_relation(&self, factor: TableFactor, context: &mut dyn RelationPlannerContext) -> Result<RelationPlanning> {
        let Some(args) = called(&factor) else {
            return Ok(RelationPlanning::Original(Box::new(factor)));
        };
        let [left, left_time, right, right_time, keys @ ..] = args else {
            return Err(misused("needs two relations, each with its time").into());
        };
        let mut side = |relation_of: &FunctionArg, time: &FunctionArg| -> Result<Side> {
            let written = relation(relation_of)
                .ok_or_else(|| misused("needs the name of a relation, or a subquery, first and third"))?;
            let plan = context.plan(written)?;
            let time = named(time, plan.schema(), context)?;
            let keys = keys
                .iter()
                .map(|key| named(key, plan.schema(), context))
                .collect::<Result<Vec<Expr>>>()?;
            Side::new(plan, time, keys)
        };
        let (left, right) = (side(left, left_time)?, side(right, right_time)?);
        let provider = context.context_provider();
        let (Some(max), Some(row_number)) = (
            provider.get_aggregate_meta("max"),
            provider.get_window_meta("row_number"),
        ) else {
            return Err(misused("is not at hand").into());
        };
        for (one, other) in left.keys.iter().zip(&right.keys) {
            let types = (
                one.get_type(left.plan.schema().as_ref())?,
                other.get_type(right.plan.schema().as_ref())?,
            );
            if types.0 != types.1 {
                return Err(misused("needs keys of the same types on both sides").into());
            }
        }
        let latest = |plan: LogicalPlan, partition: Vec<Expr>| -> Result<LogicalPlan> {
            let number = Expr::from(WindowFunction::new(row_number.clone(), vec![]))
                .partition_by(partition)
                .window_frame(WindowFrame::new(None))
                .build()?
                .alias("__number");
            LogicalPlanBuilder::from(plan)
                .window(vec![number])?
                .filter(column("__number").eq(lit(1_u64)))?
                .build()
        };
        let running = |partition: Vec<Expr>| {
            let order = vec![
                Sort::new(column("__at"), true, false),
                Sort::new(column("__asks"), true, false),
            ];
            Expr::from(WindowFunction::new(max.clone(), vec![column("__seen")]))
                .partition_by(partition)
                .order_by(order)
                .window_frame(WindowFrame::new(Some(false)))
                .build()
        };
        let plan = plan(&left, &right, latest, running)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(
            plan,
            alias_of(factor),
        ))))
    }
}

/// Returns the arguments where a relation is a call of this.
fn called(factor: &TableFactor) -> Option<&[FunctionArg]> {
    let (name, args) = calls::called(factor)?;
    (name == NAME).then_some(args)
}

fn misused(what: &str) -> Problem {
    Problem::new(format!("{NAME}() {what}")).hint(format!("Write {CALL}."))
}

/// Reads an argument as a column of a relation.
fn named(argument: &FunctionArg, schema: &DFSchema, context: &mut dyn RelationPlannerContext) -> Result<Expr> {
    let FunctionArg::Unnamed(FunctionArgExpr::Expr(written)) = argument else {
        return Err(misused("takes its arguments by their place, without names").into());
    };
    match context.sql_to_expr(written.clone(), schema)? {
        column @ Expr::Column(_) => Ok(column),
        _ => Err(misused("needs names of columns after each relation").into()),
    }
}

/// One of the relations.
struct Side {
    plan: LogicalPlan,
    /// In microseconds.
    time: Expr,
    keys: Vec<Expr>,
}

impl Side {
    fn new(plan: LogicalPlan, time: Expr, keys: Vec<Expr>) -> Result<Side> {
        let time = match time.get_type(plan.schema().as_ref())? {
            DataType::Timestamp(TimeUnit::Microsecond, _) => time,
            DataType::Timestamp(_, zone) => cast(time, DataType::Timestamp(TimeUnit::Microsecond, zone)),
            other => {
                return Err(Problem::new(format!("{NAME}() needs columns of timestamps, not of {other}"))
                    .hint("Cast it in a subquery: (SELECT *, CAST(day AS timestamp) AS at FROM …).")
                    .into());
            }
        };
        Ok(Side { plan, time, keys })
    }

    fn columns(&self) -> impl Iterator<Item = Expr> + '_ {
        self.plan.schema().columns().into_iter().map(Expr::Column)
    }

    fn width(&self) -> usize {
        self.plan.schema().fields().len()
    }
}

fn numbered(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |index| format!("__{prefix}{index}"))
}

fn plan(
    left: &Side,
    right: &Side,
    latest: impl Fn(LogicalPlan, Vec<Expr>) -> Result<LogicalPlan>,
    running: impl Fn(Vec<Expr>) -> Result<Expr>,
) -> Result<LogicalPlan> {
    let keys = || numbered("key", left.keys.len());
    let key_columns = || keys().map(|name| column(&name)).collect::<Vec<Expr>>();
    let time_type = right.time.get_type(right.plan.schema().as_ref())?;
    let none = |data_type: &DataType| Ok::<_, datafusion::error::DataFusionError>(lit(ScalarValue::try_from(data_type)?));

    // What asks: the left's rows, which sort behind the right's of the same time.
    let mut asking: Vec<Expr> = left.keys.iter().cloned().zip(keys()).map(|(key, name)| key.alias(name)).collect();
    asking.extend([
        cast(left.time.clone(), time_type.clone()).alias("__at"),
        lit(true).alias("__asks"),
        none(&time_type)?.alias("__seen"),
    ]);
    let names: Vec<String> = numbered("left", left.width()).collect();
    asking.extend(left.columns().zip(&names).map(|(column, name)| column.alias(name)));
    let asking = LogicalPlanBuilder::from(left.plan.clone()).project(asking)?.build()?;

    // What is seen: the right's times.
    let timed = LogicalPlanBuilder::from(right.plan.clone())
        .filter(right.time.clone().is_not_null())?
        .build()?;
    let mut seen: Vec<Expr> = right.keys.iter().cloned().zip(keys()).map(|(key, name)| key.alias(name)).collect();
    seen.extend([
        right.time.clone().alias("__at"),
        lit(false).alias("__asks"),
        right.time.clone().alias("__seen"),
    ]);
    for (field, name) in left.plan.schema().fields().iter().zip(&names) {
        seen.push(none(field.data_type())?.alias(name));
    }
    let seen = LogicalPlanBuilder::from(timed.clone()).project(seen)?.build()?;

    let found = when(column("__at").is_not_null(), column("__found")).end()?;
    let asked = LogicalPlanBuilder::from(asking)
        .union(seen)?
        .window(vec![running(key_columns())?.alias("__found")])?
        .filter(column("__asks"))?
        .project(
            keys()
                .map(|name| column(&name))
                .chain([found.alias("__met")])
                .chain(names.iter().map(|name| column(name))),
        )?
        .build()?;

    // One row of the right for each key and time.
    let mut partition: Vec<Expr> = right.keys.clone();
    partition.push(right.time.clone());
    let mut answers: Vec<Expr> = Vec::new();
    for (index, key) in right.keys.iter().enumerate() {
        answers.push(key.clone().alias(format!("__of{index}")));
    }
    answers.push(right.time.clone().alias("__when"));
    // As with USING, a key stands once.
    let is_shown = |column: &Expr| !right.keys.contains(column);
    let shown: Vec<(Expr, String)> = right
        .columns()
        .zip(numbered("right", right.width()))
        .filter(|(column, _)| is_shown(column))
        .collect();
    answers.extend(shown.iter().map(|(column, name)| column.clone().alias(name)));
    let answers = LogicalPlanBuilder::from(latest(timed, partition)?).project(answers)?.build()?;

    let of = |index: usize| column(&format!("__of{index}"));
    let on = keys()
        .enumerate()
        .map(|(index, key)| column(&key).eq(of(index)))
        .chain([column("__met").eq(column("__when"))]);
    let left_columns = left.columns().zip(names);
    let shown = left_columns.chain(shown).filter_map(|(written, name)| match written {
        Expr::Column(written) => Some(column(&name).alias_qualified(written.relation, written.name)),
        _ => None,
    });
    LogicalPlanBuilder::from(asked)
        .join_on(answers, JoinType::Left, on)?
        .project(shown)?
        .build()
}
