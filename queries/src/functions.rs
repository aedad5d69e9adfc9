//! Sangam's own SQL functions: one file a subject, one line in a list.
//!
//! `water` and `geo` hold scalar functions, `time_windows` and `asof` what may stand in `FROM`;
//! `now`, `canonical`, `date_bin` and `aggregates` replace or complete DataFusion's,
//! `json` brings the functions of texts that hold JSON.
pub(crate) mod aggregates;
pub(crate) mod asof;
pub(crate) mod canonical;
pub(crate) mod date_bin;
pub mod geo;
pub(crate) mod json;
pub(crate) mod now;
pub(crate) mod time_windows;
pub mod water;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;
use datafusion::logical_expr::planner::RelationPlanner;

/// Every scalar function that views and queries may use beside DataFusion's.
///
/// To add one: write it in a file of its subject and add its line here.
pub const FUNCTIONS: &[fn() -> ScalarUDF] = &[
    water::wqi_cpcb,
    water::wqi_do,
    water::wqi_fc,
    water::wqi_ph,
    water::wqi_bod,
    water::wqi_class,
    geo::great_circle_km,
];

/// Every function of ours that may stand in `FROM`, in views and queries alike.
///
/// One plans its call into a plain plan, so there is nothing to keep current but
/// what plans are made of. To add one: write it in a file of its own and add its line here.
pub(crate) const RELATIONS: &[fn() -> Arc<dyn RelationPlanner>] = &[time_windows::planner, asof::planner];
