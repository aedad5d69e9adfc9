//! Time windows in `FROM`: `tumble`, `hop`, `cumulate` and `session`.
//!
//! | call | windows |
//! |---|---|
//! | `tumble(relation, time, size [, offset])` | one after the other |
//! | `hop(relation, time, slide, size [, offset])` | of `size`, one every `slide`: a row is in each that covers its time |
//! | `cumulate(relation, time, step, size [, offset])` | from where `tumble`'s begin, ending every `step` up to `size` |
//! | `session(relation, time, gap [, key, …])` | from the first row of a key to `gap` after the last, where none was missing for `gap` |
//!
//! Each gives all columns of its relation (a source, a view, the name of a
//! `WITH`, a subquery), then `window_start`, which is in the window, and
//! `window_end`, which is not. Edges are counted from 1970 in UTC, as by
//! `date_bin`, moved by `offset`; a day is 24 hours. A row whose time is NULL is
//! in no window.
//!
//! The call becomes a plain plan before anything is optimised, so views,
//! batch and queries run the same.

mod edges;
mod grain;
mod session;

use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use datafusion::common::{Column, DFSchema, NullHandling, ScalarValue, UnnestOptions};
use datafusion::error::Result;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, binary_expr, cast};
use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, TableFactor};

use super::calls::{self, alias_of, relation};
use super::date_bin;
use crate::problem::Problem;

pub(crate) use edges::{edge_size_us, first_edge, grain_of_edges, is_edge};
pub(crate) use grain::grain_of;
pub(crate) use session::LAST as SESSION_LAST;

/// The columns that are added.
const START: &str = "window_start";
const END: &str = "window_end";

/// How many windows one row may be in.
const WINDOWS_MAX: i64 = 4_096;

/// The functions, and how each is called.
const CALLS: &[(&str, &str)] = &[
    ("tumble", "tumble(relation, time, INTERVAL '10 minutes')"),
    ("hop", "hop(relation, time, INTERVAL '5 minutes', INTERVAL '1 hour')"),
    (
        "cumulate",
        "cumulate(relation, time, INTERVAL '1 hour', INTERVAL '1 day')",
    ),
    ("session", "session(relation, time, INTERVAL '10 minutes', key)"),
];

/// Plans the calls in `FROM`.
pub(crate) fn planner() -> Arc<dyn RelationPlanner> {
    Arc::new(TimeWindows)
}

/// Returns what a call in `FROM` reads; none where it is something else.
pub(crate) fn read_by(factor: &TableFactor) -> Option<TableFactor> {
    relation(called(factor)?.1.first()?)
}

#[derive(Debug)]
struct TimeWindows;

impl RelationPlanner for TimeWindows {
    fn plan_relation(&self, factor: TableFactor, context: &mut dyn RelationPlannerContext) -> Result<RelationPlanning> {
        let Some((name, args)) = called(&factor) else {
            return Ok(RelationPlanning::Original(Box::new(factor)));
        };
        let written = relation(args.first().ok_or_else(|| misused(name, "needs a relation first"))?)
            .ok_or_else(|| misused(name, "needs the name of a relation, or a subquery, first"))?;
        let own_name = match &written {
            TableFactor::Table { name, args: None, .. } => Some(context.object_name_to_table_reference(name.clone())?),
            _ => None,
        };
        let input = context.plan(written)?;
        let mut call = Call {
            name,
            args: args[1..].iter(),
            context,
            schema: input.schema().clone(),
        };
        call.refuse_taken()?;
        let time = call.time()?;
        let plan = match name {
            "tumble" => {
                let size = call.length("size")?;
                let offset = call.offset(size)?;
                tumble(input, time, size, offset)?
            }
            "hop" => {
                let (slide, size) = (call.length("slide")?, call.length("size")?);
                let offset = call.offset(slide)?;
                call.refuse_many(size, slide)?;
                let starts = edges::hop_starts(slide, size, offset).call(vec![time, literal(slide), literal(size)]);
                let plan = unnested(input, vec![], starts, START)?;
                with_column(plan, plus(column(START), size), END)?
            }
            "cumulate" => {
                let (step, size) = (call.length("step")?, call.length("size")?);
                let offset = call.offset(size)?;
                if size % step != 0 {
                    return Err(misused(name, "needs a size that is a multiple of its step").into());
                }
                call.refuse_many(size, step)?;
                let start = bin(time.clone(), size, offset, &call.schema)?.alias(START);
                let ends = edges::cumulate_ends(step, size, offset).call(vec![time, literal(step), literal(size)]);
                unnested(input, vec![start], ends, END)?
            }
            _ => {
                let gap = call.length("gap")?;
                let keys = call.keys()?;
                let max = call.context.context_provider().get_aggregate_meta("max");
                let lag = call.context.context_provider().get_window_meta("lag");
                let (Some(max), Some(lag)) = (max, lag) else {
                    return Err(misused(name, "is not at hand").into());
                };
                session::session(input, time, gap, keys, &session::Functions { max, lag })?
            }
        };
        if call.args.next().is_some() {
            return Err(misused(name, "has more arguments than it takes").into());
        }
        let (plan, alias) = match (alias_of(factor), own_name) {
            (None, Some(own_name)) => (LogicalPlanBuilder::from(plan).alias(own_name)?.build()?, None),
            (alias, _) => (plan, alias),
        };
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// Returns the function's name and arguments where a relation is a call of one of ours.
fn called(factor: &TableFactor) -> Option<(&'static str, &[FunctionArg])> {
    let (name, args) = calls::called(factor)?;
    let (name, _) = CALLS.iter().find(|(known, _)| *known == name)?;
    Some((name, args))
}

/// Says what is wrong with a call, and how it is written.
fn misused(name: &str, what: &str) -> Problem {
    let call = CALLS
        .iter()
        .find(|(known, _)| *known == name)
        .map_or("", |(_, call)| call);
    Problem::new(format!("{name}() {what}")).hint(format!("Write {call}."))
}

/// The arguments of one call that are still to be read.
struct Call<'a> {
    name: &'static str,
    args: std::slice::Iter<'a, FunctionArg>,
    context: &'a mut dyn RelationPlannerContext,
    schema: Arc<DFSchema>,
}

impl Call<'_> {
    fn next(&mut self, what: &str) -> Result<ast::Expr> {
        match self.args.next() {
            Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(expression))) => Ok(expression.clone()),
            Some(_) => Err(misused(self.name, "takes its arguments by their place, without names").into()),
            None => Err(misused(self.name, &format!("needs a {what}")).into()),
        }
    }

    /// Refuses a relation whose own columns have the names of those that are added.
    fn refuse_taken(&self) -> Result<()> {
        for name in [START, END] {
            if self.schema.has_column_with_unqualified_name(name) {
                return Err(
                    Problem::new(format!("{}() would add a second column \"{name}\"", self.name))
                        .hint("Give the relation's own another name: (SELECT …, window_start AS opened FROM …).")
                        .into(),
                );
            }
        }
        Ok(())
    }

    /// Reads the time column, as microseconds.
    fn time(&mut self) -> Result<Expr> {
        let written = self.next("time column")?;
        let column = self.context.sql_to_expr(written, &self.schema)?;
        if !matches!(column, Expr::Column(_)) {
            return Err(misused(self.name, "needs the name of a time column second").into());
        }
        match column.get_type(self.schema.as_ref())? {
            DataType::Timestamp(TimeUnit::Microsecond, _) => Ok(column),
            DataType::Timestamp(_, zone) => Ok(cast(column, DataType::Timestamp(TimeUnit::Microsecond, zone))),
            other => Err(
                Problem::new(format!("{}() needs a column of timestamps, not of {other}", self.name))
                    .hint("Cast it in a subquery: (SELECT *, CAST(day AS timestamp) AS at FROM …).")
                    .into(),
            ),
        }
    }

    /// Reads an interval in nanoseconds.
    fn interval(&mut self, what: &str) -> Result<i64> {
        let written = self.next(what)?;
        let expression = self.context.sql_to_expr(written, &DFSchema::empty())?;
        interval_ns(&expression).map_err(|wrong| misused(self.name, &format!("needs {wrong} as its {what}")).into())
    }

    fn length(&mut self, what: &str) -> Result<i64> {
        match self.interval(what)? {
            length if length <= 0 => Err(misused(self.name, &format!("needs a {what} longer than nothing")).into()),
            length => Ok(length),
        }
    }

    /// Reads the offset, if there is one, as part of a window's length.
    fn offset(&mut self, length: i64) -> Result<i64> {
        match self.args.len() {
            0 => Ok(0),
            _ => Ok(self.interval("offset")?.rem_euclid(length)),
        }
    }

    fn refuse_many(&self, size: i64, slide: i64) -> Result<()> {
        if size.unsigned_abs().div_ceil(slide.unsigned_abs()) > WINDOWS_MAX.unsigned_abs() {
            return Err(misused(
                self.name,
                &format!("would put a row into more than {WINDOWS_MAX} windows"),
            )
            .into());
        }
        Ok(())
    }

    fn keys(&mut self) -> Result<Vec<Expr>> {
        let mut keys = Vec::new();
        while self.args.len() > 0 {
            let written = self.next("key")?;
            let key = self.context.sql_to_expr(written, &self.schema)?;
            if !matches!(key, Expr::Column(_)) {
                return Err(misused(self.name, "needs names of columns as its keys").into());
            }
            keys.push(key);
        }
        Ok(keys)
    }
}

/// Reads a literal interval, a day being 24 hours; the error says what is wanted instead.
fn interval_ns(expression: &Expr) -> std::result::Result<i64, String> {
    match expression {
        Expr::Negative(inner) => {
            interval_ns(inner).and_then(|ns| ns.checked_neg().ok_or_else(|| "a shorter interval".to_owned()))
        }
        Expr::Literal(value, _) => interval_of(value),
        _ => Err("a literal interval, such as INTERVAL '10 minutes',".to_owned()),
    }
}

/// Reads an interval in nanoseconds; the error says what is wanted instead.
pub(super) fn interval_of(value: &ScalarValue) -> std::result::Result<i64, String> {
    let (months, days, nanoseconds) = match value {
        ScalarValue::IntervalMonthDayNano(Some(interval)) => (interval.months, interval.days, interval.nanoseconds),
        ScalarValue::IntervalDayTime(Some(interval)) => {
            (0, interval.days, i64::from(interval.milliseconds) * 1_000_000)
        }
        ScalarValue::IntervalYearMonth(Some(months)) => (*months, 0, 0),
        value if value.is_null() => return Err("an interval, not NULL,".to_owned()),
        _ => return Err("an interval, such as INTERVAL '10 minutes',".to_owned()),
    };
    if months != 0 {
        return Err("days or less, since months differ in length,".to_owned());
    }
    if nanoseconds % 1_000 != 0 {
        return Err("whole microseconds".to_owned());
    }
    i64::from(days)
        .checked_mul(86_400_000_000_000)
        .and_then(|days| days.checked_add(nanoseconds))
        .ok_or_else(|| "an interval of at most 292 years".to_owned())
}

fn literal(nanoseconds: i64) -> Expr {
    let interval = IntervalMonthDayNano::new(0, 0, nanoseconds);
    Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), None)
}

pub(super) fn column(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

fn plus(time: Expr, nanoseconds: i64) -> Expr {
    binary_expr(time, Operator::Plus, literal(nanoseconds))
}

/// Returns all columns of a schema.
fn columns(schema: &DFSchema) -> impl Iterator<Item = Expr> {
    schema
        .iter()
        .map(|(qualifier, field)| Expr::Column(Column::new(qualifier.cloned(), field.name())))
}

fn with_column(plan: LogicalPlan, expression: Expr, name: &str) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = columns(plan.schema()).chain([expression.alias(name)]).collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

/// Returns where the window of a time begins.
fn bin(time: Expr, size: i64, offset: i64, schema: &DFSchema) -> Result<Expr> {
    let mut args = vec![literal(size), time.clone()];
    if offset != 0 {
        let DataType::Timestamp(_, zone) = time.get_type(schema)? else {
            return Err(Problem::new("a time window over what is no time").into());
        };
        args.push(Expr::Literal(
            ScalarValue::TimestampNanosecond(Some(offset), zone),
            None,
        ));
    }
    Ok(date_bin::function().call(args))
}

fn tumble(input: LogicalPlan, time: Expr, size: i64, offset: i64) -> Result<LogicalPlan> {
    let start = bin(time.clone(), size, offset, input.schema())?;
    let timed = LogicalPlanBuilder::from(input).filter(time.is_not_null())?.build()?;
    with_column(with_column(timed, start, START)?, plus(column(START), size), END)
}

/// Adds columns, the last by a row for each element of `list`.
fn unnested(input: LogicalPlan, added: Vec<Expr>, list: Expr, name: &str) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = columns(input.schema()).chain(added).chain([list.alias(name)]).collect();
    LogicalPlanBuilder::from(input)
        .project(columns)?
        .unnest_columns_with_options(
            vec![Column::new_unqualified(name)],
            UnnestOptions::new().with_null_handling(NullHandling::Drop),
        )?
        .build()
}
