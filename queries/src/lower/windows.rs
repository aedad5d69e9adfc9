//! Lowers window functions, limits, and filters on ranks.

use arrow::compute::SortOptions;
use dataflows::plan::{Frame, FrameBound, FrameUnits, Keep, Operator, Plan, Ranking, WindowCall, WindowFunction};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{
    AggregateFunction, AggregateFunctionParams, NullTreatment, Sort as Key, WindowFunction as Call,
};
use datafusion::logical_expr::{
    Expr, Limit, LogicalPlan, Operator as Comparison, Sort, Window, WindowFrame, WindowFrameBound, WindowFrameUnits,
    WindowFunctionDefinition,
};
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, split_conjunction};

use super::{Lowering, NodeId, column_index, nullable, position, readers, sort_options};
use crate::functions::kinds;
use crate::problem::Problem;
use crate::refusals;
use crate::rewrites::order;
use crate::rewrites::ordered::ordered;
use crate::text::text;

impl Lowering<'_> {
    /// Lowers a limit, which `order` has put over its order.
    pub(super) fn limit(&mut self, limit: &Limit) -> Result<NodeId, Problem> {
        match (order::numbers(limit), limit.input.as_ref()) {
            (Some((skip, fetch)), LogicalPlan::Sort(sort)) => self.top(sort, skip, fetch),
            // Only rows of which nothing is wanted were left without an order, and need none.
            (Some((skip, fetch)), _) => {
                let any = Sort {
                    expr: Vec::new(),
                    input: limit.input.clone(),
                    fetch: None,
                };
                self.top(&any, skip, fetch)
            }
            _ => Err(refusals::computed_limit()),
        }
    }

    /// Lowers an order of which only the first rows are wanted.
    pub(super) fn top(&mut self, sort: &Sort, skip: usize, fetch: Option<usize>) -> Result<NodeId, Problem> {
        let input = self.plan(&sort.input)?;
        let order = written_order(&sort.expr, sort.input.schema())?;
        let schema = self.nodes[input].schema.clone();
        let key = self.keys[input].clone();
        let keep = Keep {
            by: Ranking::RowNumber,
            skip: skip as u64,
            fetch: fetch.map_or(u64::MAX, |fetch| fetch as u64),
        };
        let operator = Operator::Window {
            partition: vec![],
            order,
            calls: vec![],
            keep: Some(keep),
        };
        Ok(self.node(operator, vec![input], schema, false, key))
    }

    /// Lowers window functions, which `windows` has put over one order.
    pub(super) fn window(&mut self, window: &Window) -> Result<NodeId, Problem> {
        // The order is the window's own business.
        let Some(ordered) = ordered(&window.input) else {
            return Err(Problem::not_maintained("this window function"));
        };
        let input = self.plan(&ordered.input)?;
        let below = ordered.input.schema();
        let width = self.nodes[input].schema.fields().len();
        let schema = nullable(&window.schema);
        let mut calls = Vec::with_capacity(window.window_expr.len());
        let mut partition = Vec::new();
        let mut order = Vec::new();
        for (expression, field) in window.window_expr.iter().zip(&schema.fields()[width..]) {
            let Expr::WindowFunction(call) = expression.clone().unalias() else {
                return Err(Problem::not_maintained(text(expression)));
            };
            partition = call
                .params
                .partition_by
                .iter()
                .map(|key| position(key, below))
                .collect::<Result<_, _>>()?;
            order = call
                .params
                .order_by
                .iter()
                .map(|key| Ok((position(&key.expr, below)?, sort_options(key))))
                .collect::<Result<Vec<_>, Problem>>()?;
            calls.push(WindowCall {
                function: self.window_function(&call, below, field)?,
                text: call_text(&call),
                field: field.clone(),
            });
        }
        let numbered = calls
            .iter()
            .position(|call| matches!(call.function, WindowFunction::Ranking(Ranking::RowNumber)));
        let key = self.keys[input].clone().or_else(|| {
            let number = width + numbered?;
            Some(partition.iter().copied().chain([number]).collect())
        });
        let operator = Operator::Window {
            partition,
            order,
            calls,
            keep: None,
        };
        // Names of the rows' own columns come from below.
        let fields: Vec<_> = self.nodes[input]
            .schema
            .fields()
            .iter()
            .chain(&schema.fields()[width..])
            .cloned()
            .collect();
        let schema = std::sync::Arc::new(arrow::datatypes::Schema::new(fields));
        Ok(self.node(operator, vec![input], schema, false, key))
    }

    fn window_function(
        &mut self,
        call: &Call,
        below: &DFSchema,
        field: &arrow::datatypes::FieldRef,
    ) -> Result<WindowFunction, Problem> {
        let params = &call.params;
        let name = call.fun.name().to_owned();
        let ignore_nulls = params.null_treatment == Some(NullTreatment::IgnoreNulls);
        let number = |index: usize, default: i64| match params.args.get(index) {
            None => Ok(default),
            Some(Expr::Literal(value, _)) => match value.cast_to(&arrow::datatypes::DataType::Int64) {
                Ok(ScalarValue::Int64(Some(number))) => Ok(number),
                _ => Err(refusals::computed_argument(&name)),
            },
            Some(_) => Err(refusals::computed_argument(&name)),
        };
        let argument = || match params.args.first() {
            Some(argument) => position(argument, below),
            None => Err(refusals::computed_argument(&name)),
        };
        if let Some(own) = kinds::window::own(&call.fun) {
            let (columns, constants) = params.args.split_at(own.columns.min(params.args.len()));
            let constants = constants.iter().map(|constant| match constant {
                Expr::Literal(value, _) => Ok(value.clone()),
                _ => Err(refusals::computed_constant(&name)),
            });
            return Ok(WindowFunction::Running {
                function: (own.build)(&constants.collect::<Result<Vec<_>, _>>()?)?,
                arguments: columns
                    .iter()
                    .map(|column| position(column, below))
                    .collect::<Result<_, _>>()?,
            });
        }
        if let WindowFunctionDefinition::AggregateUDF(function) = &call.fun {
            let aggregate = AggregateFunction {
                func: function.clone(),
                params: AggregateFunctionParams {
                    args: params.args.clone(),
                    distinct: params.distinct,
                    filter: params.filter.clone(),
                    order_by: vec![],
                    null_treatment: params.null_treatment,
                },
            };
            return Ok(WindowFunction::Aggregate {
                call: self.call(&aggregate, below, field.clone(), false)?,
                frame: frame(&params.window_frame)?,
            });
        }
        Ok(match name.as_str() {
            "row_number" => WindowFunction::Ranking(Ranking::RowNumber),
            "rank" => WindowFunction::Ranking(Ranking::Rank),
            "dense_rank" => WindowFunction::Ranking(Ranking::DenseRank),
            "percent_rank" => WindowFunction::PercentRank,
            "cume_dist" => WindowFunction::CumeDist,
            "ntile" => match u64::try_from(number(0, 0)?) {
                Ok(tiles @ 1..) => WindowFunction::Ntile(tiles),
                _ => return Err(Problem::new("ntile() takes a positive number")),
            },
            "lag" | "lead" => {
                let argument = argument()?;
                let rows = number(1, 1)?;
                let default = match params.args.get(2) {
                    None => ScalarValue::Null,
                    Some(Expr::Literal(value, _)) => value.clone(),
                    Some(_) => return Err(refusals::computed_argument(&name)),
                };
                WindowFunction::Shift {
                    argument,
                    rows: if name == "lag" { rows } else { rows.wrapping_neg() },
                    default: default.cast_to(below.field(argument).data_type())?,
                    ignore_nulls,
                }
            }
            "first_value" | "last_value" | "nth_value" => WindowFunction::Nth {
                argument: argument()?,
                nth: match name.as_str() {
                    "first_value" => 1,
                    "last_value" => -1,
                    _ => number(1, 1)?,
                },
                ignore_nulls,
                frame: frame(&params.window_frame)?,
            },
            other => return Err(refusals::window_function(other)),
        })
    }
}

/// Returns the part of an order that its author wrote: rows that tie there are ordered by all columns anyway.
fn written_order(keys: &[Key], schema: &DFSchema) -> Result<Vec<(usize, SortOptions)>, Problem> {
    keys[..order::written(keys, schema)]
        .iter()
        .map(|key| Ok((position(&key.expr, schema)?, sort_options(key))))
        .collect()
}

fn call_text(call: &Call) -> String {
    let shown = Expr::from(call.clone());
    text(&shown)
}

/// Returns the rows a function looks at.
pub(crate) fn frame(frame: &WindowFrame) -> Result<Frame, Problem> {
    let bound = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::CurrentRow => FrameBound::CurrentRow,
        WindowFrameBound::Preceding(value) | WindowFrameBound::Following(value) if value.is_null() => {
            FrameBound::Unbounded
        }
        WindowFrameBound::Preceding(value) => FrameBound::Preceding(value.clone()),
        WindowFrameBound::Following(value) => FrameBound::Following(value.clone()),
    };
    let lowered = Frame {
        units: match frame.units {
            WindowFrameUnits::Rows => FrameUnits::Rows,
            WindowFrameUnits::Range => FrameUnits::Range,
            WindowFrameUnits::Groups => FrameUnits::Groups,
        },
        start: bound(&frame.start_bound),
        end: bound(&frame.end_bound),
    };
    let backwards = match (&lowered.start, &lowered.end) {
        (FrameBound::Preceding(start), FrameBound::Preceding(end)) => start < end,
        (FrameBound::Following(start), FrameBound::Following(end)) => start > end,
        (FrameBound::Following(_), FrameBound::CurrentRow | FrameBound::Preceding(_)) => true,
        (FrameBound::CurrentRow, FrameBound::Preceding(_)) => true,
        _ => false,
    };
    match backwards {
        true => Err(Problem::new("a window frame ends before it starts").hint("Write the earlier bound first.")),
        false => Ok(lowered),
    }
}

/// Tells windows which ranks the filters over them want.
pub(super) fn keep_ranks(plan: &mut Plan) {
    let readers = readers(plan);
    for id in 0..plan.nodes.len() {
        let Operator::Filter { predicate } = &plan.nodes[id].operator else {
            continue;
        };
        let conjuncts = split_conjunction(&predicate.physical);
        // A row that is never told cannot fail either: nothing here may.
        if !conjuncts.iter().all(|conjunct| compares_column(conjunct)) {
            continue;
        }
        let limits: Vec<(usize, u64)> = conjuncts.into_iter().filter_map(at_most).collect();
        for (column, fetch) in limits {
            if let Some((window, by)) = ranking(plan, &readers, plan.nodes[id].inputs[0], column)
                && let Operator::Window { keep, .. } = &mut plan.nodes[window].operator
                && keep.is_none()
            {
                *keep = Some(Keep { by, skip: 0, fetch });
            }
        }
    }
}

/// Tells whether a conjunct compares columns and constants, which no row fails.
fn compares_column(conjunct: &std::sync::Arc<dyn PhysicalExpr>) -> bool {
    let plain = |side: &std::sync::Arc<dyn PhysicalExpr>| side.is::<Column>() || side.is::<Literal>();
    conjunct.downcast_ref::<BinaryExpr>().is_some_and(|comparison| {
        use Comparison::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
        matches!(comparison.op(), Eq | NotEq | Lt | LtEq | Gt | GtEq)
            && plain(comparison.left())
            && plain(comparison.right())
    })
}

/// Reads `column <= number` and kin.
fn at_most(conjunct: &std::sync::Arc<dyn PhysicalExpr>) -> Option<(usize, u64)> {
    let comparison = conjunct.downcast_ref::<BinaryExpr>()?;
    let (left, right) = (comparison.left(), comparison.right());
    let (column, number, op) = match (left.downcast_ref::<Column>(), right.downcast_ref::<Literal>()) {
        (Some(column), Some(number)) => (column, number, *comparison.op()),
        _ => {
            let (number, column) = (left.downcast_ref::<Literal>()?, right.downcast_ref::<Column>()?);
            (column, number, comparison.op().swap()?)
        }
    };
    let ScalarValue::UInt64(Some(number)) = number.value().cast_to(&arrow::datatypes::DataType::UInt64).ok()? else {
        return None;
    };
    match op {
        Comparison::LtEq | Comparison::Eq => Some((column.index(), number)),
        Comparison::Lt => Some((column.index(), number.saturating_sub(1))),
        _ => None,
    }
}

/// Follows a column down to the ranking that computes it, where nobody else reads what is on the way.
fn ranking(plan: &Plan, readers: &[usize], mut id: NodeId, mut column: usize) -> Option<(NodeId, Ranking)> {
    loop {
        let node = &plan.nodes[id];
        if readers[id] != 1 || id == plan.root {
            return None;
        }
        match &node.operator {
            Operator::Project { expressions } => column = column_index(&expressions[column])?,
            Operator::Window { calls, .. } => {
                let width = plan.nodes[node.inputs[0]].schema.fields().len();
                let call = calls.get(column.checked_sub(width)?)?;
                return match call.function {
                    WindowFunction::Ranking(by) => Some((id, by)),
                    _ => None,
                };
            }
            _ => return None,
        }
        id = node.inputs[0];
    }
}
