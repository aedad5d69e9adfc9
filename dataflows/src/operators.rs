//! The operators, one file each, over batches with diffs.
//!
//! `linear` filters and projects, `unnest` makes rows of lists, `temporal` lets rows go
//! as time passes, `aggregate` groups, `join` pairs, `window` orders, `recursion` goes round, `table` runs
//! table functions of others. Stateful ones run under `ticked`, which
//! hands them each tick once its inputs are complete; `exchange` brings equal
//! keys to one worker.
pub(crate) mod aggregate;
pub(crate) mod exchange;
pub(crate) mod join;
pub(crate) mod linear;
pub(crate) mod recursion;
pub(crate) mod table;
pub(crate) mod temporal;
pub(crate) mod ticked;
pub(crate) mod unnest;
pub(crate) mod window;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use timely::dataflow::Stream;
use timely::scheduling::activate::Activator;

use crate::parts::Parts;
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
    /// For each operator with timers, the first tick at which one is due.
    pub(crate) due: Vec<Option<Tick>>,
    /// Wake the operators that see every tick.
    pub(crate) activators: Vec<Activator>,
    /// What each operator did and holds.
    pub(crate) stats: Vec<OperatorStats>,
}

pub(crate) type SharedCell = Rc<RefCell<Shared>>;

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
