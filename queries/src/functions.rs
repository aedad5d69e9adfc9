//! Sangam's own SQL functions: one file a subject, one line in a list.
//!
//! `kinds` says what a function of each kind must be, and how it meets DataFusion. `water` and `geo` hold
//! scalar functions, `mode` an aggregate, `ewma` a window function, `cascade` one that stands in `FROM`, and
//! `time_windows` and `asof` those that become plain plans there; `now`, `canonical`, `date_bin` and `aggregates` replace
//! or complete DataFusion's, `json` brings the functions of texts that hold JSON, `calls` reads what stands
//! between the parentheses.
pub(crate) mod aggregates;
mod asof;
mod calls;
pub(crate) mod canonical;
mod cascade;
pub(crate) mod date_bin;
mod ewma;
pub mod geo;
pub(crate) mod json;
pub(crate) mod kinds;
mod mode;
pub(crate) mod now;
pub(crate) mod time_windows;
pub mod water;

use std::sync::Arc;

use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::planner::RelationPlanner;
use datafusion::logical_expr::{ScalarUDF, WindowUDF};
use datafusion::sql::sqlparser::ast::TableFactor;

use kinds::Function::{self, *};

/// Every function of ours, in views and queries alike.
///
/// To add one: write it in a file of its subject and add its line here. A window function, an aggregate
/// and a table function are one thing that both engines run; a relation's call becomes a plain plan.
pub(crate) static FUNCTIONS: &[Function] = &[
    Scalar(water::wqi_cpcb),
    Scalar(water::wqi_do),
    Scalar(water::wqi_fc),
    Scalar(water::wqi_ph),
    Scalar(water::wqi_bod),
    Scalar(water::wqi_class),
    Scalar(geo::great_circle_km),
    Aggregate(&mode::MODE),
    Window(&ewma::EWMA),
    Table(&cascade::CASCADE),
    Relation(time_windows::planner),
    Relation(asof::planner),
];

/// Registers all of them in a session.
pub(crate) fn register(session: &mut SessionState) -> datafusion::error::Result<()> {
    for function in FUNCTIONS {
        match function {
            Scalar(function) => drop(session.register_udf(Arc::new(function()))?),
            Aggregate(aggregate) => drop(session.register_udaf(Arc::new(aggregates::own(aggregate)))?),
            Window(window) => drop(session.register_udwf(Arc::new(WindowUDF::from(window.function())))?),
            Table(_) => {}
            Relation(planner) => session.register_relation_planner(planner())?,
        }
    }
    session.register_relation_planner(kinds::table::planner())
}

/// Tells whether a scalar function is one of ours, none of which fails on any row.
pub(crate) fn is_scalar(name: &str) -> bool {
    let scalars = FUNCTIONS.iter().filter_map(|function| match function {
        Scalar(function) => Some(function()),
        _ => None,
    });
    scalars.into_iter().any(|function| function.name() == name)
}

/// Returns what a call of ours in `FROM` reads; none where it is something else.
pub(crate) fn read_by(factor: &TableFactor) -> Option<TableFactor> {
    time_windows::read_by(factor)
        .or_else(|| asof::read_by(factor))
        .or_else(|| kinds::table::read_by(factor))
}

/// The functions of each kind, as they are written.
pub(crate) type ScalarFunction = fn() -> ScalarUDF;
pub(crate) type RelationFunction = fn() -> Arc<dyn RelationPlanner>;
