//! The incremental plan as data, and the operators that keep it current.
//!
//! `update` is what travels, `plan` what is to be done, `aggregates` how groups
//! add up, `json` how rows leave.
pub mod aggregates;
pub mod json;
pub mod plan;
pub mod update;

pub use update::{Tick, Updates};
