//! The operators, one file each, over batches with diffs.
//!
//! `linear` filters and projects, `unnest` makes rows of lists, `consolidate` one of equal rows, `temporal` lets rows go
//! as time passes, `aggregate` groups, `join` pairs, `window` orders, `recursion` goes round, `table` runs
//! table functions of others. Stateful ones run under `ticked`, which
//! hands them each tick once its inputs are complete; `exchange` brings equal
//! keys to one worker. `close` finishes a view's buckets of time, and `release` lets the operators below go of them.
pub(crate) mod aggregate;
pub(crate) mod close;
pub(crate) mod consolidate;
pub(crate) mod exchange;
pub(crate) mod join;
pub(crate) mod leaders;
pub(crate) mod linear;
pub(crate) mod recursion;
pub(crate) mod release;
pub(crate) mod table;
pub(crate) mod temporal;
pub(crate) mod ticked;
pub(crate) mod unnest;
pub(crate) mod window;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::Stream;
use timely::scheduling::activate::Activator;

use crate::parts::Parts;
use crate::plan::NodeId;
use crate::update::{Tick, Updates};

/// A stream of updates.
pub(crate) type Rows<'scope> = Stream<'scope, Tick, Parts>;

/// What the operators of one dataflow on one worker share beside their streams.
#[derive(Default)]
pub(crate) struct Shared {
    /// The ticks this dataflow was advanced for and has not completed, oldest first.
    pub(crate) ticks: VecDeque<Tick>,
    /// The newest tick this dataflow was advanced for.
    pub(crate) latest: Tick,
    /// Rows on which an expression failed, by tick.
    pub(crate) errors: BTreeMap<Tick, Vec<Updates>>,
    /// Whether no tick will come any more: the dataflow is to go.
    pub(crate) ended: bool,
    /// How far the view is closed, from each tick on at which that moved.
    pub(crate) closed: VecDeque<(Tick, Closed)>,
    /// What the rows to come of joins by time are not below, from each tick on at which that moved.
    pub(crate) passed: VecDeque<(Tick, Arc<[Passed]>)>,
    /// Rows of closed buckets that the view takes in again, by tick, and whether they are told.
    pub(crate) seeds: Vec<(Tick, Updates, bool)>,
    /// For each operator with timers, the first tick at which one is due.
    pub(crate) due: Vec<Option<Tick>>,
    /// Wake the operators that see every tick.
    pub(crate) activators: Vec<Activator>,
    /// What each operator did and holds.
    pub(crate) stats: Vec<OperatorStats>,
}

pub(crate) type SharedCell = Rc<RefCell<Shared>>;

/// How far a view is closed, as values of its bucket's column (microseconds, or days of a date).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Rows of buckets below this are final.
    pub below: i64,
    /// Final rows of buckets below this leave.
    pub gone: i64,
    /// Final rows of buckets below this are kept elsewhere, too: they are forgotten, and stay in the view.
    pub stored: i64,
    /// But for those below this, which are held because they leave soon.
    pub held: i64,
}

/// The least times that rows to come of a join by time may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The join's node.
    pub node: NodeId,
    /// Of its left input.
    pub left: i64,
    /// Of its right input.
    pub right: i64,
}

impl Default for Closed {
    fn default() -> Self {
        Closed {
            below: i64::MIN,
            gone: i64::MIN,
            stored: i64::MIN,
            held: i64::MIN,
        }
    }
}

impl Shared {
    /// Gives an operator with timers its place in `due`.
    pub(crate) fn timer(&mut self) -> usize {
        self.due.push(None);
        self.due.len() - 1
    }

    /// Returns how far the view is closed at a tick.
    pub(crate) fn closed_at(&self, tick: Tick) -> Closed {
        let known = self.closed.iter().rev().find(|(since, _)| *since <= tick);
        known.map_or_else(Closed::default, |(_, closed)| *closed)
    }

    /// Returns what the rows to come of a node are not below after a tick.
    pub(crate) fn passed_at(&self, tick: Tick, node: NodeId) -> Option<Passed> {
        let (_, known) = self.passed.iter().rev().find(|(since, _)| *since <= tick)?;
        known.iter().find(|passed| passed.node == node).copied()
    }

    /// Forgets what held only before a tick that is complete.
    pub(crate) fn forget_closed(&mut self, tick: Tick) {
        while self.closed.get(1).is_some_and(|(since, _)| *since <= tick) {
            self.closed.pop_front();
        }
        while self.passed.get(1).is_some_and(|(since, _)| *since <= tick) {
            self.passed.pop_front();
        }
    }
}

/// What an operator did since the start, and holds now, on one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorStats {
    /// The operator's name.
    pub name: String,
    /// Updates read.
    pub rows_in: u64,
    /// Updates emitted.
    pub rows_out: u64,
    /// Rows, groups or timers held.
    pub state_rows: u64,
    /// Memory held for them, in bytes.
    pub state_bytes: u64,
}

/// Registers an operator for statistics and returns its place among them.
pub(crate) fn register(shared: &SharedCell, name: &str) -> usize {
    let mut shared = shared.borrow_mut();
    shared.stats.push(OperatorStats {
        name: name.to_owned(),
        ..OperatorStats::default()
    });
    shared.stats.len() - 1
}
