//! Sangam's own SQL functions: one file a subject, one line in a list.
//!
//! `water` holds the domain's functions; `now`, `canonical`, `date_bin` and
//! `aggregates` replace or complete DataFusion's.
pub(crate) mod aggregates;
pub(crate) mod canonical;
pub(crate) mod date_bin;
pub(crate) mod now;
pub mod water;

use datafusion::logical_expr::ScalarUDF;

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
];
