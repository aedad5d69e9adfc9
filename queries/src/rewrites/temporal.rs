//! Reads comparisons with `now()` as bounds in time.
//!
//! A conjunct `expression < now() + interval` (or `<=`, `>`, `>=`, the sides in
//! either order, `BETWEEN`) becomes a filter of its own, above the other
//! conjuncts, of the one form `column < now() + nanoseconds`. A day is 24 hours
//! here, in both engines. A conjunct with `now()` under `OR` becomes another one
//! above that (`alternatives`). Anything else with `now()` changes for every row at
//! every tick and is refused.

mod alternatives;

use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use dataflows::plan::{TemporalBound, TemporalComparison};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DFSchemaRef, JoinType, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::Between;
use datafusion::logical_expr::utils::{conjunction, disjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Cast, Expr, ExprSchemable, Filter, Join, LogicalPlan, Operator, Projection, binary_expr, cast, lit,
};

pub(crate) use alternatives::read;
use alternatives::{alternatives, without_not};

use super::{changed, column_of, restore};
use crate::functions::now::{self, is_now, mentions_now};
use crate::problem::Problem;
use crate::text::text;

const NANOSECONDS_PER_DAY: i64 = 86_400_000_000_000;

/// What to write instead.
const HINT: &str = "Compare a time column with it in WHERE: at > now() - INTERVAL '10 minutes'. Use <, <=, > or >=, joined by AND, OR and NOT.";

pub(crate) fn rewrite(plan: LogicalPlan, time_zone: &Arc<str>) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::Filter(filter) if mentions_now(&filter.predicate) => changed(split(filter, time_zone)?),
        // A condition over both sides was brought into the join.
        LogicalPlan::Join(join)
            if join.join_type == JoinType::Inner && join.filter.as_ref().is_some_and(mentions_now) =>
        {
            changed(split(above(join)?, time_zone)?)
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

/// Takes what an inner join says of `now()` as a filter over its pairs.
fn above(mut join: Join) -> Result<Filter> {
    let conjuncts = join.filter.take().map(split_conjunction_owned).unwrap_or_default();
    let (temporal, plain): (Vec<_>, Vec<_>) = conjuncts.into_iter().partition(mentions_now);
    join.filter = conjunction(plain);
    let predicate = conjunction(temporal).unwrap_or_else(|| lit(true));
    Filter::try_new(predicate, Arc::new(LogicalPlan::Join(join)))
}

/// Replaces `now()` by the tick's time.
pub(crate) fn at_tick(plan: LogicalPlan, tick_us: i64, time_zone: &Arc<str>) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|plan| {
        plan.map_expressions(|expression| {
            expression.transform_down(|expression| {
                // The sum first: a literal on its own needs no evaluation.
                if let Some(offset_us) = bound_offset(&expression) {
                    let at = tick_us.saturating_add(offset_us);
                    return Ok(Transformed::yes(now::literal(at, time_zone)));
                }
                if is_now(&expression) {
                    return Ok(Transformed::yes(now::literal(tick_us, time_zone)));
                }
                Ok(Transformed::no(expression))
            })
        })
    })?;
    Ok(plan.data)
}

/// Reads a predicate back that `rewrite` made; none where it is another one.
pub(crate) fn bounds(predicate: &Expr, schema: &DFSchema) -> Option<Vec<TemporalBound>> {
    let conjuncts = split_conjunction_owned(predicate.clone()).into_iter();
    conjuncts.map(|conjunct| bound(&conjunct, schema)).collect()
}

/// Tells whether a predicate is one that `rewrite` made.
pub(crate) fn is_maintained(predicate: &Expr, schema: &DFSchema) -> bool {
    bounds(predicate, schema).is_some() || read(predicate, schema).is_some()
}

fn bound(conjunct: &Expr, schema: &DFSchema) -> Option<TemporalBound> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = conjunct else {
        return None;
    };
    let Expr::Column(column) = left.as_ref() else {
        return None;
    };
    Some(TemporalBound {
        column: schema.index_of_column(column).ok()?,
        comparison: comparison(*op)?,
        offset_us: bound_offset(right)?,
    })
}

/// One comparison, the time on its left: `time <op> now() + offset_ns`.
#[derive(Clone)]
struct Comparison {
    time: Expr,
    op: Operator,
    offset_ns: i64,
}

fn split(filter: Filter, time_zone: &Arc<str>) -> Result<LogicalPlan> {
    let (temporal, plain): (Vec<_>, Vec<_>) = split_conjunction_owned(without_not(filter.predicate, false))
        .into_iter()
        .partition(mentions_now);
    let mut input = Arc::unwrap_or_clone(filter.input);
    if let Some(predicate) = conjunction(plain) {
        input = LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(input))?);
    }
    let mut below = Below::new(input.schema(), time_zone);
    let (mut bounds, mut choices) = (Vec::new(), Vec::new());
    for conjunct in temporal {
        if !is_or(&conjunct) {
            for comparison in comparisons(conjunct)? {
                bounds.push(below.bound(comparison)?);
            }
            continue;
        }
        let mut choice = Vec::new();
        for alternative in alternatives(conjunct)? {
            let flag = alternative.flag().map(|flag| below.column(flag, "__holds"));
            let mut parts = Vec::new();
            for comparison in alternative.comparisons {
                parts.push(below.bound(comparison)?);
            }
            choice.extend(conjunction(parts.into_iter().chain(flag)));
        }
        choices.extend(disjunction(choice));
    }
    let (schema, computes) = (below.schema, below.computed > 0);
    if computes {
        input = LogicalPlan::Projection(Projection::try_new(below.columns, Arc::new(input))?);
    }
    for predicate in conjunction(bounds).into_iter().chain(choices) {
        input = LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(input))?);
    }
    if !computes {
        return Ok(input);
    }
    let columns = (0..schema.fields().len())
        .map(|index| column_of(&schema, index))
        .collect();
    restore(input, &schema, columns)
}

fn is_or(conjunct: &Expr) -> bool {
    matches!(conjunct, Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }))
}

/// The columns below a temporal filter: the input's, then what its bounds compare.
struct Below<'a> {
    schema: DFSchemaRef,
    time_zone: &'a Arc<str>,
    columns: Vec<Expr>,
    computed: usize,
}

impl<'a> Below<'a> {
    fn new(schema: &DFSchemaRef, time_zone: &'a Arc<str>) -> Self {
        Below {
            schema: schema.clone(),
            time_zone,
            columns: (0..schema.fields().len())
                .map(|index| column_of(schema, index))
                .collect(),
            computed: 0,
        }
    }

    /// Returns the column that holds an expression, adding it once: both bounds of a BETWEEN share one.
    fn column(&mut self, expression: Expr, prefix: &str) -> Expr {
        if matches!(expression, Expr::Column(_)) {
            return expression;
        }
        let known = self.columns[self.schema.fields().len()..]
            .iter()
            .find_map(|column| match column {
                Expr::Alias(alias) if *alias.expr == expression => Some(alias.name.clone()),
                _ => None,
            });
        let name = known.unwrap_or_else(|| {
            let name = format!("{prefix}_{}", self.computed);
            self.computed += 1;
            self.columns.push(expression.alias(&name));
            name
        });
        Expr::Column(Column::new_unqualified(name))
    }

    fn bound(&mut self, comparison: Comparison) -> Result<Expr> {
        let wanted = DataType::Timestamp(TimeUnit::Microsecond, Some(self.time_zone.clone()));
        let time = unwiden(comparison.time, &self.schema, &wanted)?;
        let time = self.column(time, "__time");
        let interval = ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(0, 0, comparison.offset_ns)));
        let bound = binary_expr(
            now::function(self.time_zone).call(vec![]),
            Operator::Plus,
            Expr::Literal(interval, None),
        );
        Ok(binary_expr(time, comparison.op, bound))
    }
}

fn comparisons(conjunct: Expr) -> Result<Vec<Comparison>> {
    match conjunct {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => Ok(vec![compare(*left, op, *right)?]),
        Expr::Between(Between {
            expr,
            negated: false,
            low,
            high,
        }) => Ok(vec![
            compare((*expr).clone(), Operator::GtEq, *low)?,
            compare(*expr, Operator::LtEq, *high)?,
        ]),
        other => Err(refused(&other).into()),
    }
}

fn compare(left: Expr, op: Operator, right: Expr) -> Result<Comparison> {
    let whole = binary_expr(left.clone(), op, right.clone());
    let (time, op, now_side) = if mentions_now(&right) {
        (left, Some(op), right)
    } else {
        (right, op.swap(), left)
    };
    let op = op
        .filter(|op| comparison(*op).is_some())
        .ok_or_else(|| refused(&whole))?;
    if mentions_now(&time) {
        return Err(refused(&whole).into());
    }
    let mut offset_ns = now_offset(&now_side)?.ok_or_else(|| refused(&whole))?;
    // `at + interval > now()` looks back as `at > now() - interval` does.
    let mut time = time;
    while let Expr::BinaryExpr(BinaryExpr { left, op, right }) = &time {
        let Some(interval_ns) = interval(right)? else { break };
        offset_ns = match op {
            Operator::Plus => offset_ns.checked_sub(interval_ns),
            Operator::Minus => offset_ns.checked_add(interval_ns),
            _ => break,
        }
        .ok_or_else(|| refused(&whole))?;
        time = left.as_ref().clone();
    }
    if offset_ns % 1_000 != 0 {
        return Err(
            Problem::not_maintained("now() with an interval finer than a microsecond")
                .hint("Times are kept in microseconds.")
                .into(),
        );
    }
    Ok(Comparison { time, op, offset_ns })
}

/// Returns how far an expression is from `now()`, in nanoseconds; none where it is something else.
fn now_offset(expression: &Expr) -> Result<Option<i64>> {
    let sum = |base: &Expr, interval_ns: Option<i64>, sign: i64| -> Result<Option<i64>> {
        let (Some(base), Some(interval_ns)) = (now_offset(base)?, interval_ns) else {
            return Ok(None);
        };
        Ok(interval_ns
            .checked_mul(sign)
            .and_then(|interval_ns| base.checked_add(interval_ns)))
    };
    match expression {
        _ if is_now(expression) => Ok(Some(0)),
        Expr::Cast(Cast { expr, field })
            if matches!(
                field.data_type(),
                DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, Some(_))
            ) =>
        {
            now_offset(expr)
        }
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Plus,
            right,
        }) => {
            if mentions_now(left) {
                sum(left, interval(right)?, 1)
            } else {
                sum(right, interval(left)?, 1)
            }
        }
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Minus,
            right,
        }) => sum(left, interval(right)?, -1),
        _ => Ok(None),
    }
}

/// Returns a literal interval in nanoseconds, a day being 24 hours.
fn interval(expression: &Expr) -> Result<Option<i64>> {
    let Expr::Literal(value, _) = expression else {
        return Ok(None);
    };
    let (months, days, nanoseconds) = match value {
        ScalarValue::IntervalMonthDayNano(Some(interval)) => (interval.months, interval.days, interval.nanoseconds),
        ScalarValue::IntervalDayTime(Some(interval)) => {
            (0, interval.days, i64::from(interval.milliseconds) * 1_000_000)
        }
        ScalarValue::IntervalYearMonth(Some(months)) => (*months, 0, 0),
        _ => return Ok(None),
    };
    if months != 0 {
        return Err(Problem::not_maintained("now() with an interval of months or years")
            .hint("Months differ in length: count in days, INTERVAL '30 days'.")
            .into());
    }
    i64::from(days)
        .checked_mul(NANOSECONDS_PER_DAY)
        .and_then(|days| days.checked_add(nanoseconds))
        .map(Some)
        .ok_or_else(|| {
            Problem::new("an interval beside now() is too long")
                .hint("At most 292 years fit.")
                .into()
        })
}

/// Drops a cast that only made a time finer, and casts what is not a time of ours.
fn unwiden(time: Expr, schema: &DFSchema, wanted: &DataType) -> Result<Expr> {
    if let Expr::Cast(Cast { expr, field }) = &time
        && matches!(
            field.data_type(),
            DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, Some(_))
        )
        && expr.get_type(schema)? == *wanted
    {
        return Ok(expr.as_ref().clone());
    }
    Ok(if time.get_type(schema)? == *wanted {
        time
    } else {
        cast(time, wanted.clone())
    })
}

fn comparison(op: Operator) -> Option<TemporalComparison> {
    match op {
        Operator::Lt => Some(TemporalComparison::Less),
        Operator::LtEq => Some(TemporalComparison::LessOrEqual),
        Operator::Gt => Some(TemporalComparison::Greater),
        Operator::GtEq => Some(TemporalComparison::GreaterOrEqual),
        _ => None,
    }
}

/// Reads `now() + nanoseconds` back, in microseconds.
fn bound_offset(expression: &Expr) -> Option<i64> {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Plus,
        right,
    }) = expression
    else {
        return None;
    };
    match (is_now(left), right.as_ref()) {
        (true, Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _))
            if interval.months == 0 && interval.days == 0 =>
        {
            Some(interval.nanoseconds / 1_000)
        }
        _ => None,
    }
}

pub(crate) fn refused(expression: &Expr) -> Problem {
    Problem::not_maintained(format!("now() in {}", text(expression))).hint(HINT)
}
