//! What a function of each kind must be to stand in the list.
pub(crate) mod aggregate;
pub(crate) mod table;
pub(crate) mod window;

use super::{RelationFunction, ScalarFunction};

/// A function of ours.
pub(crate) enum Function {
    /// A value of a row's values, which fails on no row.
    Scalar(ScalarFunction),
    /// A value of a group's rows, in whatever order they come and go.
    Aggregate(&'static aggregate::Aggregate),
    /// A value that follows from the row before.
    Window(&'static window::Window),
    /// Rows of relations' rows.
    Table(&'static table::Table),
    /// Rows of a relation's rows, said by a plain plan.
    Relation(RelationFunction),
}
