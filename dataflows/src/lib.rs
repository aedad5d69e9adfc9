//! The incremental plan as data, and the operators that keep it current.
//!
//! `update` is what travels and `plan` what is to be done. `sharing` finds what
//! plans have in common, `workers` runs them:
//! `render` turns each into `operators`, which pass `parts` to each other and keep
//! their state in `columns` (byte strings in an `arena`) under a `group_index`, adding up by `aggregates` and
//! evaluating expressions by `evaluate`; `tiers` says when small batches become one. `nested` is
//! about lists, structs and maps in columns, `json` is how rows leave. `functions` says what aggregates,
//! window and table functions written elsewhere must be.
pub mod aggregates;
mod arena;
pub mod columns;
pub mod evaluate;
#[doc(hidden)]
pub mod faults;
pub mod functions;
pub mod group_index;
pub mod json;
mod later;
pub mod nested;
mod operators;
mod parts;
pub mod plan;
mod relations;
mod render;
pub mod sharing;
pub mod tiers;
pub mod update;
pub mod workers;

pub use operators::OperatorStats;
pub use operators::linear::error_schema;
pub use operators::recursion::can_recur;
pub use update::{Tick, Updates};
