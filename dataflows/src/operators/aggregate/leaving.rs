//! Groups that leave whole, once `now()` has passed a time in their key.
//!
//! What a filter by that time would have to remember row by row, and take back row by row, is
//! here one number a group.

use std::collections::BTreeMap;
use std::rc::Rc;

use arrow::array::{Array, AsArray, TimestampMicrosecondArray};

use crate::faults::{self, Fault};
use crate::group_index::GroupIndex;
use crate::operators::SharedCell;
use crate::operators::temporal::NEVER;
use crate::plan::TemporalBound;
use crate::update::Tick;

/// When each group leaves.
pub(super) struct Leaving {
    /// Over the group's key.
    bounds: Vec<TemporalBound>,
    by_tick: BTreeMap<Tick, Vec<u32>>,
    /// For each group, the tick it is listed under, or was: a list may also hold groups that are gone since.
    listed: Vec<Tick>,
    entries: usize,
    shared: SharedCell,
    /// Its place among the dataflow's timers.
    due: usize,
}

impl Leaving {
    pub(super) fn new(bounds: Vec<TemporalBound>, shared: &SharedCell) -> Self {
        let due = shared.borrow_mut().timer();
        Leaving {
            bounds,
            by_tick: BTreeMap::new(),
            listed: Vec::new(),
            entries: 0,
            shared: Rc::clone(shared),
            due,
        }
    }

    /// Notes when groups leave that have just come to be.
    pub(super) fn list(&mut self, groups: &[u32], index: &GroupIndex) {
        if groups.is_empty() {
            return;
        }
        let mut leave = vec![NEVER; groups.len()];
        for bound in &self.bounds {
            let column = index.key_column(bound.column, groups);
            let times: &TimestampMicrosecondArray = column.as_primitive();
            for (row, leave) in leave.iter_mut().enumerate() {
                // NULL never passes the filter below.
                if times.is_valid(row) {
                    *leave = bound.span(times.value(row)).leave.min(*leave);
                }
            }
        }
        self.listed.resize(index.groups().max(self.listed.len()), 0);
        // Groups of a window leave together: its list is looked up once for all that stand side by side.
        let mut next = 0;
        while next < groups.len() {
            let tick = leave[next];
            let alike = leave[next..].iter().take_while(|other| **other == tick).count();
            let run = &groups[next..next + alike];
            next += alike;
            if tick == NEVER {
                continue;
            }
            let list = self.by_tick.entry(tick).or_default();
            for &group in run {
                let listed = &mut self.listed[group as usize];
                if *listed != tick {
                    *listed = tick;
                    list.push(group);
                    self.entries += 1;
                }
            }
        }
    }

    /// Tells whether a group may leave at this tick.
    pub(super) fn is_due(&self, tick: Tick) -> bool {
        self.by_tick.first_key_value().is_some_and(|(first, _)| *first <= tick)
    }

    /// Returns the groups that leave at this tick, and some that have left already.
    pub(super) fn fire(&mut self, tick: Tick) -> Vec<u32> {
        let mut fired = Vec::new();
        while let Some(first) = self.by_tick.first_entry()
            && *first.key() <= tick
        {
            let (due, groups) = first.remove_entry();
            self.entries -= groups.len();
            for group in groups {
                let listed = &mut self.listed[group as usize];
                if *listed == due {
                    *listed = 0;
                    fired.push(group);
                }
            }
        }
        if faults::active(Fault::StayingGroup) {
            fired.pop();
        }
        fired
    }

    /// Tells the dataflow when it wants to be woken.
    pub(super) fn tell(&self) {
        let first = self.by_tick.first_key_value().map(|(tick, _)| *tick);
        self.shared.borrow_mut().due[self.due] = first;
    }

    pub(super) fn bytes(&self) -> usize {
        self.entries * size_of::<u32>() + self.listed.capacity() * size_of::<Tick>()
    }
}
