//! Joins whose pairs are near each other in time: `a.at BETWEEN b.at - INTERVAL '5 minutes' AND b.at`.

use arrow::datatypes::{DataType, TimeUnit};
use dataflows::plan::{Band, JoinKind, NodeId, Operator};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::Between;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Filter, Operator as Sign};

use super::Lowering;
use crate::rewrites::checked::can_fail;

impl Lowering<'_> {
    /// Tells a join how far apart in time the filter over it lets pairs be.
    ///
    /// The filter stays: it decides. The join only passes over pairs that it would drop, so
    /// nothing else in the filter may fail on them.
    pub(super) fn near(&mut self, filter: &Filter, input: NodeId) {
        let is_alone = input + 1 == self.nodes.len()
            && self.around.is_none()
            && !self.repeated.values().any(|known| *known == Some(input));
        let schema = filter.input.schema();
        let Some(width) = self.nodes[input].inputs.first() else {
            return;
        };
        let width = self.nodes[*width].schema.fields().len();
        let Operator::Join {
            kind: JoinKind::Inner,
            band,
            ..
        } = &mut self.nodes[input].operator
        else {
            return;
        };
        if is_alone {
            *band = found(&filter.predicate, schema, width);
        }
    }
}

/// A time of a row and what is added to it.
struct Moved {
    column: usize,
    us: i64,
}

fn found(predicate: &Expr, schema: &DFSchema, width: usize) -> Option<Band> {
    let mut found: Option<Band> = None;
    for conjunct in split_conjunction(predicate) {
        let bounds = bounds(conjunct, schema, width);
        if bounds.is_empty() && can_fail(conjunct, schema) {
            return None;
        }
        for bound in bounds {
            match &mut found {
                None => found = Some(bound),
                Some(band) if (band.left, band.right) == (bound.left, bound.right) => {
                    band.low_us = band.low_us.max(bound.low_us);
                    band.high_us = band.high_us.min(bound.high_us);
                }
                // Of several pairs of columns the first decides; the filter sees to the others.
                Some(_) => {}
            }
        }
    }
    found
}

/// Reads a condition as bounds on the distance between a time of the left and one of the right.
fn bounds(conjunct: &Expr, schema: &DFSchema, width: usize) -> Vec<Band> {
    match conjunct {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            bound(left, *op, right, schema, width).into_iter().collect()
        }
        Expr::Between(Between {
            expr,
            negated: false,
            low,
            high,
        }) => {
            let low = bound(expr, Sign::GtEq, low, schema, width);
            let high = bound(expr, Sign::LtEq, high, schema, width);
            match (low, high) {
                (Some(low), Some(high)) => vec![low, high],
                _ => vec![],
            }
        }
        _ => vec![],
    }
}

fn bound(this: &Expr, sign: Sign, that: &Expr, schema: &DFSchema, width: usize) -> Option<Band> {
    let (mut this, mut that) = (moved(this, schema)?, moved(that, schema)?);
    let mut sign = sign;
    if this.column >= width {
        std::mem::swap(&mut this, &mut that);
        sign = sign.swap()?;
    }
    let right = that.column.checked_sub(width)?;
    if this.column >= width {
        return None;
    }
    // left + l <sign> right + r: how far the right is after the left, compared with l - r.
    let distance = this.us.checked_sub(that.us)?;
    let (low_us, high_us) = match sign {
        Sign::LtEq => (distance, i64::MAX),
        Sign::Lt => (distance.checked_add(1)?, i64::MAX),
        Sign::GtEq => (i64::MIN, distance),
        Sign::Gt => (i64::MIN, distance.checked_sub(1)?),
        Sign::Eq => (distance, distance),
        _ => return None,
    };
    Some(Band {
        left: this.column,
        right,
        low_us,
        high_us,
    })
}

/// Reads a column of times, or one and an interval.
fn moved(expression: &Expr, schema: &DFSchema) -> Option<Moved> {
    match expression {
        Expr::Column(column) => {
            let column = schema.index_of_column(column).ok()?;
            let is_time = matches!(
                schema.field(column).data_type(),
                DataType::Timestamp(TimeUnit::Microsecond, _)
            );
            is_time.then_some(Moved { column, us: 0 })
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (time, by) = match (op, interval_us(left), interval_us(right)) {
                (Sign::Plus, _, Some(us)) => (left, us),
                (Sign::Plus, Some(us), _) => (right, us),
                (Sign::Minus, _, Some(us)) => (left, us.checked_neg()?),
                _ => return None,
            };
            let time = moved(time, schema)?;
            Some(Moved {
                us: time.us.checked_add(by)?,
                ..time
            })
        }
        _ => None,
    }
}

/// Returns a literal interval without months, in whole microseconds.
fn interval_us(expression: &Expr) -> Option<i64> {
    let (months, days, ns) = match expression {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) => {
            (interval.months, interval.days, interval.nanoseconds)
        }
        Expr::Literal(ScalarValue::IntervalDayTime(Some(interval)), _) => {
            (0, interval.days, i64::from(interval.milliseconds) * 1_000_000)
        }
        _ => return None,
    };
    if months != 0 || ns % 1_000 != 0 {
        return None;
    }
    i64::from(days).checked_mul(86_400_000_000)?.checked_add(ns / 1_000)
}
