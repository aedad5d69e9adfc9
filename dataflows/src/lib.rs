//! The incremental plan as data, and the operators that keep it current.
//!
//! `update` is what travels, `plan` what is to be done; `columns` and
//! `group_index` hold state, `aggregates` says how groups add up.
pub mod aggregates;
pub mod columns;
#[doc(hidden)]
pub mod faults;
pub mod group_index;
pub mod plan;
pub mod update;

pub use update::{Tick, Updates};
