//! Turns SQL into incremental plans, and answers queries in batch.
//!
//! `parsing` reads texts, `types` column types, `functions` are Sangam's own, `catalog` knows
//! the names and the one list of optimiser rules, `view` plans a view's text,
//! `refusals` says what cannot be maintained (`recursion` what of
//! `WITH RECURSIVE`), `rewrites` give both engines one
//! answer, `lower` produces the incremental plan (`expiry` knows
//! what leaves by itself, `closing` what a view finishes), `text` and `explain` print it;
//! `cold` reads rows that are out of memory, `batch` executes the same shared plan with
//! DataFusion and `query` answers ad-hoc SQL (`travel`: over earlier times, too), `predicate` is the condition of a subscription. `problem` is what all of them say when they cannot.
mod batch;
mod catalog;
mod closing;
pub mod cold;
mod expiry;
mod explain;
pub mod functions;
mod lower;
mod parsing;
mod predicate;
mod problem;
mod query;
mod recursion;
mod refusals;
mod rewrites;
mod text;
mod travel;
mod types;
mod view;

pub use batch::{Relation, Relations};
pub use catalog::{Catalog, SourceRelation};
pub use closing::{Closing, Emit, Passing};
pub use predicate::Predicate;
pub use problem::{Problem, ProblemKind, QueryError};
pub use query::Query;
pub use travel::AsOf;
pub use types::ColumnType;
pub use view::View;

#[cfg(test)]
mod tests;
