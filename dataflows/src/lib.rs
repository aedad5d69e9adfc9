//! The incremental plan as data, and the operators that keep it current.
//!
//! `update` is what travels, `plan` what is to be done, `evaluate` runs its
//! expressions, `aggregates` is how groups add up.
pub mod aggregates;
pub mod evaluate;
pub mod plan;
pub mod update;

pub use update::{Tick, Updates};
