//! What functions that are written elsewhere must be, so that operators and batch execution run the very same code.
//!
//! Each kind is one thing: an [`Aggregate`] is a signed accumulator, a [`Running`] is a state that is
//! carried from row to row of a window, a [`Table`] is a state that takes changes of relations in and
//! gives changes of one out. Batch execution is the same with every diff `+1`, in one step.

use std::fmt;
use std::hash::{Hash, Hasher};

use arrow::array::ArrayRef;

use crate::aggregates::{Accumulator, AggregateSpec};
use crate::update::Updates;

/// An aggregate beside DataFusion's. It is known by its name.
pub struct Aggregate {
    /// Its SQL name.
    pub name: &'static str,
    /// How many of its leading arguments are read from rows; those after them are constants.
    pub columns: usize,
    /// Whether it matters how often a value is there, so that `DISTINCT` makes a difference.
    pub minds_duplicates: bool,
    /// Builds its state; nothing where it is not maintained over these arguments.
    pub accumulator: fn(&AggregateSpec) -> Option<Box<dyn Accumulator>>,
}

impl PartialEq for Aggregate {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Aggregate {}

impl Hash for Aggregate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl fmt::Debug for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A window function whose result at a row follows from its state at the row before.
///
/// The state is a few words, kept for every row: whatever changes, what stands before it is not
/// computed again, and an append is one step.
pub trait Running: fmt::Debug + Send + Sync {
    /// Returns the state before the first row of a partition; its length is that of every state.
    fn start(&self) -> Vec<u64>;

    /// Returns the results of several runs of rows, which lie one behind the other in `arguments`.
    ///
    /// `before` holds a state for each run, that before its first row; the state after each row
    /// goes to the end of `after`.
    fn follow(&self, arguments: &[ArrayRef], runs: &[usize], before: &[u64], after: &mut Vec<u64>) -> ArrayRef;
}

/// Two are the same if they print the same: their `Debug` shows their constants.
impl PartialEq for dyn Running {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

/// A function in `FROM` whose rows follow from relations it is given.
pub trait Table: fmt::Debug + Send + Sync {
    /// Returns its state over nothing.
    fn state(&self) -> Box<dyn TableState>;
}

/// As with [`Running`].
impl PartialEq for dyn Table {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

/// What a [`Table`] keeps.
pub trait TableState {
    /// Takes the changes of one tick in, a list for each relation, and returns those of the result.
    ///
    /// Only what a tick comes to counts: a row may be taken back before it comes.
    fn apply(&mut self, changes: &[Vec<Updates>]) -> Vec<Updates>;

    /// Returns how many entries it holds; none once everything was taken back.
    fn rows(&self) -> usize;

    /// Returns the memory it holds, in bytes.
    fn bytes(&self) -> usize;
}
