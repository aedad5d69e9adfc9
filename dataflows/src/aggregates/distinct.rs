//! `agg(DISTINCT x, …)`: each value of a group counts once, however often it is there.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, UInt32Type};

use super::{Accumulator, canonical, each, no_nulls};
use crate::faults::{self, Fault};
use crate::group_index::GroupIndex;

/// Hands on a value when a group gets its first and when it loses its last.
///
/// State: a count for each distinct value of each group, beside the inner state.
pub(super) struct Distinct {
    inner: Box<dyn Accumulator>,
    /// By group and value.
    values: GroupIndex,
    counts: Vec<i64>,
    ids: Vec<u32>,
}

impl Distinct {
    pub(super) fn new(inner: Box<dyn Accumulator>, arguments: &[DataType]) -> Self {
        let types: Vec<DataType> = [DataType::UInt32].iter().chain(arguments).cloned().collect();
        Distinct {
            inner,
            values: GroupIndex::new(&types),
            counts: Vec::new(),
            ids: Vec::new(),
        }
    }
}

impl Accumulator for Distinct {
    fn resize(&mut self, groups: usize) {
        self.inner.resize(groups);
    }

    fn update(&mut self, groups: &[u32], arguments: &[ArrayRef], filter: Option<&BooleanArray>, diffs: &[i64]) {
        let arguments: Vec<ArrayRef> = arguments.iter().map(canonical).collect();
        let nulls = no_nulls(&arguments);
        let mut rows: Vec<u32> = Vec::with_capacity(groups.len());
        each(nulls.as_ref(), filter, groups.len(), |row| rows.push(row as u32));
        let columns = |rows: Vec<u32>| {
            let rows = UInt32Array::from(rows);
            let column = |argument: &ArrayRef| take(argument, &rows, None).expect("rows are in range");
            arguments.iter().map(column).collect::<Vec<ArrayRef>>()
        };
        let of_groups = rows.iter().map(|&row| groups[row as usize]);
        let mut keys: Vec<ArrayRef> = vec![Arc::new(UInt32Array::from_iter_values(of_groups))];
        keys.extend(columns(rows.clone()));
        let mut ids = std::mem::take(&mut self.ids);
        self.values.intern(&keys, rows.len(), &mut ids);
        self.counts.resize(self.values.groups().max(self.counts.len()), 0);
        let (mut turned, mut turned_groups, mut turned_diffs) = (Vec::new(), Vec::new(), Vec::new());
        let mut emptied = Vec::new();
        for (&row, &id) in rows.iter().zip(&ids) {
            let count = &mut self.counts[id as usize];
            let was = *count > 0;
            *count += diffs[row as usize];
            // Within a tick a row may be taken back before it comes: only presence counts.
            let mut is = *count > 0;
            if faults::active(Fault::ForgottenValue) && diffs[row as usize] < 0 {
                is = false;
            }
            if was != is {
                turned.push(row);
                turned_groups.push(groups[row as usize]);
                turned_diffs.push(if is { 1 } else { -1 });
            }
            if *count == 0 {
                emptied.push(id);
            }
        }
        if !turned.is_empty() {
            self.inner.update(&turned_groups, &columns(turned), None, &turned_diffs);
        }
        for id in emptied {
            if self.counts[id as usize] == 0 {
                self.values.remove(id);
            }
        }
        self.ids = ids;
    }

    fn output(&self, groups: &[u32]) -> ArrayRef {
        self.inner.output(groups)
    }

    fn reset(&mut self, group: u32) {
        // A group without rows has no values either.
        self.inner.reset(group);
    }

    fn release(&mut self, groups: &[u32]) {
        let held: Vec<u32> = (0..self.counts.len() as u32)
            .filter(|&id| self.counts[id as usize] != 0)
            .collect();
        let of_groups = self.values.key_column(0, &held);
        let gone: HashSet<u32> = groups.iter().copied().collect();
        for (&id, group) in held.iter().zip(of_groups.as_primitive::<UInt32Type>().values()) {
            if gone.contains(group) {
                self.values.remove(id);
                self.counts[id as usize] = 0;
            }
        }
        self.inner.release(groups);
    }

    fn bytes(&self) -> usize {
        self.inner.bytes() + self.values.bytes() + self.counts.capacity() * 8
    }
}
