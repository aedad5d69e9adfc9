//! How late a row may still come: the least value a column can have in rows yet to come, by the watermark.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use chrono::{Offset, TimeZone};
use dataflows::plan::{AggregateFunction, FrameBound, JoinKind, NodeId, Operator, Plan, WindowFunction};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator as Sign;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

use super::is_time;
use crate::catalog::{Catalog, Relation};
use crate::functions::time_windows;
use crate::lower::moved;

const HOUR_US: i64 = 3_600_000_000;
const DAY_US: i64 = 24 * HOUR_US;

/// The least value of a column in rows yet to come, as a function of the watermark that never falls.
#[derive(Clone, Debug)]
pub(super) enum Floor {
    /// The watermark itself: it is the column that rows are late by.
    Watermark,
    /// What an expression over one column, which never falls, makes of a floor.
    Mapped {
        of: Arc<Floor>,
        expression: Arc<dyn PhysicalExpr>,
        /// That column.
        schema: SchemaRef,
    },
    /// The first edge of the windows that a function finds for a floor, or the coarsest time in the same ones.
    Edge {
        of: Arc<Floor>,
        function: Arc<dyn PhysicalExpr>,
    },
    /// Just past a floor.
    Past(Arc<Floor>),
    /// The least of several.
    Least(Vec<Floor>),
}

impl Floor {
    /// Returns the floor at a watermark; none where there is no such time.
    pub(super) fn at(&self, watermark_us: i64) -> Option<i64> {
        match self {
            Floor::Watermark => Some(watermark_us),
            Floor::Mapped { of, expression, schema } => {
                let at = of.at(watermark_us)?;
                let column = times(at, schema.field(0).data_type())?;
                let batch = RecordBatch::try_new(Arc::clone(schema), vec![column]).ok()?;
                number(&expression.evaluate(&batch).ok()?.into_array(1).ok()?)
            }
            Floor::Edge { of, function } => {
                let function = function.downcast_ref::<ScalarFunctionExpr>()?.fun();
                let at = of.at(watermark_us)?;
                time_windows::first_edge(function, at).or_else(|| time_windows::grain_of(function, at))
            }
            Floor::Past(of) => of.at(watermark_us)?.checked_add(1),
            Floor::Least(floors) => {
                let floors = floors.iter().map(|floor| floor.at(watermark_us));
                floors.collect::<Option<Vec<i64>>>()?.into_iter().min()
            }
        }
    }
}

/// Writes a number of microseconds, or of days, as a time.
pub(super) fn times(at: i64, data_type: &DataType) -> Option<ArrayRef> {
    let numbers: ArrayRef = Arc::new(Int64Array::from_value(at, 1));
    match data_type {
        DataType::Date32 => cast(&cast(&numbers, &DataType::Int32).ok()?, data_type).ok(),
        _ => cast(&numbers, data_type).ok(),
    }
}

fn number(time: &ArrayRef) -> Option<i64> {
    let numbers = cast(time, &DataType::Int64).ok()?;
    let numbers = numbers.as_primitive::<Int64Type>();
    numbers.is_valid(0).then(|| numbers.value(0))
}

/// A column that follows a source's time.
pub(super) struct Timed {
    pub(super) floor: Floor,
    /// How long after a row's time it is over, at most.
    pub(super) size_us: i64,
    /// Whether the times of many rows make one value of it.
    pub(super) is_bucket: bool,
}

impl Timed {
    fn past(self, size_us: i64) -> Timed {
        Timed {
            floor: Floor::Past(Arc::new(self.floor)),
            size_us: self.size_us.saturating_add(size_us),
            is_bucket: true,
        }
    }
}

/// Finds the floor of a node's column; none where rows of any value may yet come.
///
/// Only what the watermarks of sources say counts: what else changes a row, such as a row
/// of a table it is joined with, is passed over once the row is final.
pub(super) fn floor(catalog: &Catalog, plan: &Plan, id: NodeId, column: usize) -> Option<Timed> {
    let node = &plan.nodes[id];
    let below = |position: usize, column: usize| floor(catalog, plan, node.inputs[position], column);
    match &node.operator {
        Operator::Get { relation } => match catalog.relation(relation)?.as_ref() {
            Relation::Source(source) => {
                let holds = source.key.is_none() && source.lateness_us.is_some();
                let is_time = source.time_column.as_ref() == Some(node.schema.field(column).name());
                (holds && is_time).then_some(Timed {
                    floor: Floor::Watermark,
                    size_us: 0,
                    is_bucket: false,
                })
            }
            Relation::View(view) => {
                let timed = floor(catalog, &view.plan, view.plan.root, column)?;
                Some(Timed {
                    // What it has closed it keeps itself: nothing under it need wait.
                    size_us: if view.closing.is_some() { 0 } else { timed.size_us },
                    ..timed
                })
            }
            Relation::System(_) => None,
        },
        Operator::Filter { .. }
        | Operator::TemporalFilter { .. }
        | Operator::TemporalAny { .. }
        | Operator::Close { .. }
        | Operator::Consolidate
        // Where a list stood, its elements stand, and none is less than the list's floor.
        | Operator::Unnest { .. } => below(0, column),
        Operator::Project { expressions } => mapped(catalog, plan, node.inputs[0], &expressions[column].physical),
        Operator::Aggregate { keys, .. } => below(0, *keys.get(column)?),
        Operator::Window { .. } => {
            let width = plan.nodes[node.inputs[0]].schema.fields().len();
            (column < width).then(|| below(0, column)).flatten()
        }
        Operator::Join { kind, .. } => {
            let width = plan.nodes[node.inputs[0]].schema.fields().len();
            match column.checked_sub(width) {
                None if *kind != JoinKind::Full => below(0, column),
                Some(column) if *kind == JoinKind::Inner => below(1, column),
                // Beside NULLs a row has no time.
                _ => None,
            }
        }
        Operator::Union => {
            let inputs = (0..node.inputs.len()).map(|position| below(position, column));
            let inputs = inputs.collect::<Option<Vec<Timed>>>()?;
            Some(Timed {
                size_us: inputs.iter().map(|timed| timed.size_us).max()?,
                is_bucket: inputs.iter().all(|timed| timed.is_bucket),
                floor: Floor::Least(inputs.into_iter().map(|timed| timed.floor).collect()),
            })
        }
        Operator::Constant { .. }
        | Operator::Recursive { .. }
        | Operator::Table { .. }
        | Operator::Loop
        | Operator::Outer { .. } => None,
    }
}

/// Finds the floor of what an expression makes of a node's columns.
fn mapped(catalog: &Catalog, plan: &Plan, input: NodeId, physical: &Arc<dyn PhysicalExpr>) -> Option<Timed> {
    if let Some(column) = physical.downcast_ref::<Column>() {
        return floor(catalog, plan, input, column.index());
    }
    if let Some(session) = session_end(catalog, plan, input, physical) {
        return Some(session);
    }
    if let Some(function) = physical.downcast_ref::<ScalarFunctionExpr>()
        && let Some(size_us) = time_windows::edge_size_us(function.fun())
    {
        let timed = mapped(catalog, plan, input, function.args().first()?)?;
        return Some(Timed {
            floor: Floor::Edge {
                of: Arc::new(timed.floor),
                function: Arc::clone(physical),
            },
            size_us: timed.size_us.saturating_add(size_us),
            is_bucket: true,
        });
    }
    if let Some(function) = physical.downcast_ref::<ScalarFunctionExpr>()
        && time_windows::grain_of(function.fun(), 0).is_some()
    {
        let timed = mapped(catalog, plan, input, function.args().first()?)?;
        // By how much it is coarser, the windows over it know.
        return Some(Timed {
            floor: Floor::Edge {
                of: Arc::new(timed.floor),
                function: Arc::clone(physical),
            },
            ..timed
        });
    }
    let (column, size_us) = rising(physical, catalog.time_zone())?;
    let timed = floor(catalog, plan, input, column)?;
    let field = plan.nodes[input].schema.field(column);
    if !is_time(field.data_type()) {
        return None;
    }
    let schema = Arc::new(Schema::new(vec![Field::new(
        field.name(),
        field.data_type().clone(),
        true,
    )]));
    Some(Timed {
        floor: Floor::Mapped {
            of: Arc::new(timed.floor),
            expression: moved(physical, &vec![0; column + 1], &schema),
            schema,
        },
        size_us: timed.size_us.saturating_add(size_us),
        is_bucket: timed.is_bucket || size_us > 0,
    })
}

/// Returns the one column that an expression reads and never falls with, and how far below it may be.
pub(super) fn rising(physical: &Arc<dyn PhysicalExpr>, time_zone: &str) -> Option<(usize, i64)> {
    if let Some(column) = physical.downcast_ref::<Column>() {
        return Some((column.index(), 0));
    }
    if let Some(cast) = physical.downcast_ref::<CastExpr>() {
        let (column, size_us) = rising(cast.expr(), time_zone)?;
        let own_us = match cast.cast_type() {
            DataType::Date32 => DAY_US + jump_us(time_zone),
            other if is_time(other) => 0,
            _ => return None,
        };
        return Some((column, size_us + own_us));
    }
    if let Some(binary) = physical.downcast_ref::<BinaryExpr>() {
        let (time, interval) = match binary.op() {
            Sign::Plus if binary.right().downcast_ref::<Literal>().is_some() => (binary.left(), binary.right()),
            Sign::Plus => (binary.right(), binary.left()),
            Sign::Minus => (binary.left(), binary.right()),
            _ => return None,
        };
        interval_us(interval, false)?;
        return rising(time, time_zone);
    }
    let function = physical.downcast_ref::<ScalarFunctionExpr>()?;
    let (length, time) = (function.args().first()?, function.args().get(1)?);
    let own_us = match function.fun().name() {
        "date_bin" => {
            let others = function.args().iter().skip(2);
            if !others
                .into_iter()
                .all(|other| other.downcast_ref::<Literal>().is_some())
            {
                return None;
            }
            interval_us(length, true)?
        }
        "date_trunc" => {
            let unit = length.downcast_ref::<Literal>()?.value().try_as_str()??;
            match unit.to_lowercase().as_str() {
                "microsecond" | "millisecond" | "second" => 1_000_000,
                "minute" => 60_000_000,
                "hour" => HOUR_US,
                "day" => DAY_US + jump_us(time_zone),
                "week" => 7 * DAY_US + jump_us(time_zone),
                "month" => 31 * DAY_US + jump_us(time_zone),
                "quarter" => 92 * DAY_US + jump_us(time_zone),
                "year" => 366 * DAY_US + jump_us(time_zone),
                _ => return None,
            }
        }
        _ => return None,
    };
    let (column, size_us) = rising(time, time_zone)?;
    Some((column, size_us.saturating_add(own_us)))
}

/// Returns by how much a civil day may be longer than another: nothing where clocks are never turned.
fn jump_us(time_zone: &str) -> i64 {
    let Ok(zone) = time_zone.parse::<Tz>() else {
        return HOUR_US;
    };
    let offsets = (1..=12).filter_map(|month| {
        let day = chrono::NaiveDate::from_ymd_opt(2026, month, 1)?.and_hms_opt(0, 0, 0)?;
        Some(zone.offset_from_utc_datetime(&day).fix().local_minus_utc())
    });
    let (least, most) = offsets.fold((i32::MAX, i32::MIN), |(least, most), offset| {
        (least.min(offset), most.max(offset))
    });
    i64::from(most.saturating_sub(least).max(0)) * 1_000_000
}

/// Returns a literal interval in microseconds; months count as their longest where they may stand.
fn interval_us(physical: &Arc<dyn PhysicalExpr>, months: bool) -> Option<i64> {
    let (m, days, us) = match physical.downcast_ref::<Literal>()?.value() {
        ScalarValue::IntervalMonthDayNano(Some(interval)) => {
            (interval.months, interval.days, interval.nanoseconds / 1_000)
        }
        ScalarValue::IntervalDayTime(Some(interval)) => (0, interval.days, i64::from(interval.milliseconds) * 1_000),
        ScalarValue::IntervalYearMonth(Some(interval)) => (*interval, 0, 0),
        _ => return None,
    };
    if m != 0 && !months {
        return None;
    }
    let days = i64::from(m).checked_mul(31)?.checked_add(i64::from(days))?;
    days.checked_mul(DAY_US)?.checked_add(us)
}

/// Finds the floor of a session's end: the last time of its rows and then the gap, after which none can follow.
///
/// A row that follows comes within the gap, so that the session ends, as does every one
/// it joins with it, after the watermark.
fn session_end(catalog: &Catalog, plan: &Plan, input: NodeId, physical: &Arc<dyn PhysicalExpr>) -> Option<Timed> {
    let sum = physical.downcast_ref::<BinaryExpr>()?;
    let column = sum.left().downcast_ref::<Column>()?.index();
    let gap_us = interval_us(sum.right(), false)?;
    let (window, call) = session_last(plan, input, column)?;
    let node = &plan.nodes[window];
    let Operator::Window { calls, .. } = &node.operator else {
        return None;
    };
    let WindowFunction::Aggregate { call, .. } = &calls[call].function else {
        return None;
    };
    let time = floor(catalog, plan, node.inputs[0], *call.arguments.first()?)?;
    (*sum.op() == Sign::Plus).then(|| time.past(gap_us))
}

/// Finds the call that a column is, where it is the last time of a session.
fn session_last(plan: &Plan, id: NodeId, column: usize) -> Option<(NodeId, usize)> {
    let node = &plan.nodes[id];
    match &node.operator {
        Operator::Filter { .. } => session_last(plan, node.inputs[0], column),
        Operator::Project { expressions } => {
            let column = expressions[column].physical.downcast_ref::<Column>()?.index();
            session_last(plan, node.inputs[0], column)
        }
        Operator::Window { calls, .. } => {
            let width = plan.nodes[node.inputs[0]].schema.fields().len();
            let Some(call) = column.checked_sub(width) else {
                return session_last(plan, node.inputs[0], column);
            };
            let is_last = match &calls[call].function {
                WindowFunction::Aggregate { call: max, frame } => {
                    max.function == AggregateFunction::Max
                        && frame.start == FrameBound::Unbounded
                        && frame.end == FrameBound::Unbounded
                        && calls[call].field.name() == time_windows::SESSION_LAST
                }
                _ => false,
            };
            is_last.then_some((id, call))
        }
        _ => None,
    }
}
