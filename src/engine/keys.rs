//! Checks a key that a view declares and its plan does not imply.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Schema};
use dataflows::Updates;
use dataflows::aggregates::canonical;
use dataflows::group_index::GroupIndex;

/// Counts the rows of each key.
pub(super) struct KeyCounts {
    key: Vec<usize>,
    names: Vec<String>,
    index: GroupIndex,
    counts: Vec<i64>,
    /// How many keys have more than one row.
    doubled: usize,
}

impl KeyCounts {
    pub(super) fn new(schema: &Schema, key: &[usize]) -> Self {
        let types: Vec<DataType> = key
            .iter()
            .map(|&column| schema.field(column).data_type().clone())
            .collect();
        KeyCounts {
            key: key.to_vec(),
            names: key.iter().map(|&column| schema.field(column).name().clone()).collect(),
            index: GroupIndex::new(&types),
            counts: Vec::new(),
            doubled: 0,
        }
    }

    /// Takes a tick's changes; says what is wrong while a key has several rows.
    pub(super) fn apply(&mut self, changes: &[Updates]) -> Option<String> {
        let mut groups = Vec::new();
        let mut emptied = Vec::new();
        for updates in changes {
            let keys: Vec<ArrayRef> = self
                .key
                .iter()
                .map(|&key| canonical(updates.rows().column(key)))
                .collect();
            self.index.intern(&keys, updates.len(), &mut groups);
            self.counts.resize(self.index.groups().max(self.counts.len()), 0);
            for (&group, &diff) in groups.iter().zip(updates.diffs().iter()) {
                let count = &mut self.counts[group as usize];
                let before = *count > 1;
                *count += diff;
                match (before, *count > 1) {
                    (false, true) => self.doubled += 1,
                    (true, false) => self.doubled -= 1,
                    _ => {}
                }
                if *count == 0 {
                    emptied.push(group);
                }
            }
        }
        for group in emptied {
            if self.counts[group as usize] == 0 {
                self.index.remove(group);
            }
        }
        (self.doubled > 0).then(|| {
            format!(
                "its key ({}) is not unique: {} keys have several rows",
                self.names.join(", "),
                self.doubled
            )
        })
    }
}
