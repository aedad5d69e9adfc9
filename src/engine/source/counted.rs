//! A source whose rows are taken back whole, as often as they were sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use dataflows::Updates;
use dataflows::columns::NO_SLOT;
use dataflows::group_index::GroupIndex;

use super::take;

/// Whole rows, each as often as it was sent and not taken back.
pub(super) struct Counted {
    index: GroupIndex,
    counts: Vec<i64>,
    /// How often each row is there by segment, where segments expire.
    segments: BTreeMap<(u32, i64), i64>,
    by_segment: BTreeMap<(i64, u32), ()>,
    scratch: Vec<u32>,
}

impl Counted {
    /// Returns the first segment that holds rows.
    pub(super) fn oldest_segment(&self) -> Option<i64> {
        self.by_segment.first_key_value().map(|((segment, _), ())| *segment)
    }

    pub(super) fn new(types: &[DataType]) -> Self {
        Counted {
            index: GroupIndex::new(types),
            counts: Vec::new(),
            segments: BTreeMap::new(),
            by_segment: BTreeMap::new(),
            scratch: Vec::new(),
        }
    }

    pub(super) fn insert(&mut self, rows: &RecordBatch, segments: Option<&[i64]>) {
        let mut groups = std::mem::take(&mut self.scratch);
        self.index.intern(rows.columns(), rows.num_rows(), &mut groups);
        self.counts.resize(self.index.groups().max(self.counts.len()), 0);
        for (row, &group) in groups.iter().enumerate() {
            self.counts[group as usize] += 1;
            if let Some(segments) = segments {
                *self.segments.entry((group, segments[row])).or_default() += 1;
                self.by_segment.insert((segments[row], group), ());
            }
        }
        self.scratch = groups;
    }

    pub(super) fn delete(
        &mut self,
        rows: &RecordBatch,
        reject: &mut impl FnMut(&RecordBatch, usize, &str),
    ) -> Vec<Updates> {
        let mut groups = std::mem::take(&mut self.scratch);
        self.index.find(rows.columns(), rows.num_rows(), &mut groups);
        let mut gone = Vec::new();
        let mut emptied = Vec::new();
        for (row, &group) in groups.iter().enumerate() {
            if group == NO_SLOT || self.counts[group as usize] == 0 {
                reject(rows, row, "no retained row is equal to it");
                continue;
            }
            gone.push(row as u32);
            self.counts[group as usize] -= 1;
            // Of equal rows the oldest goes: it would have expired first.
            let oldest = self
                .segments
                .range((group, i64::MIN)..=(group, i64::MAX))
                .next()
                .map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                self.lower(oldest, 1);
            }
            if self.counts[group as usize] == 0 {
                emptied.push(group);
            }
        }
        emptied.into_iter().for_each(|group| self.index.remove(group));
        self.scratch = groups;
        if gone.is_empty() {
            Vec::new()
        } else {
            vec![Updates::deletes(take(rows, gone))]
        }
    }

    /// Takes rows in as all that there is, as often as they are there, and every other back unless `partial`.
    pub(super) fn replace(&mut self, rows: &RecordBatch, partial: bool, schema: &SchemaRef) -> Vec<Updates> {
        let mut groups = std::mem::take(&mut self.scratch);
        self.index.intern(rows.columns(), rows.num_rows(), &mut groups);
        self.counts.resize(self.index.groups().max(self.counts.len()), 0);
        let mut wanted = vec![0; self.counts.len()];
        let mut new = Vec::new();
        for (row, &group) in groups.iter().enumerate() {
            wanted[group as usize] += 1;
            if wanted[group as usize] > self.counts[group as usize] {
                new.push(row as u32);
            }
        }
        self.scratch = groups;
        let (mut gone, mut diffs) = (Vec::new(), Vec::new());
        for (group, (count, &wanted)) in self.counts.iter_mut().zip(&wanted).enumerate() {
            if wanted < *count && !partial {
                gone.push(group as u32);
                diffs.push(wanted - *count);
                *count = wanted;
            }
            *count = wanted.max(*count);
        }
        let mut changes = Vec::new();
        if !gone.is_empty() {
            let rows = RecordBatch::try_new(Arc::clone(schema), self.index.keys(&gone)).expect("rows of this schema");
            changes.push(Updates::new(rows, diffs));
            for group in gone {
                if self.counts[group as usize] == 0 {
                    self.index.remove(group);
                }
            }
        }
        if !new.is_empty() {
            changes.push(Updates::inserts(take(rows, new)));
        }
        changes
    }

    /// Returns every row as often as it is there, and the segment it expires with.
    pub(super) fn all(&self, schema: &SchemaRef) -> (RecordBatch, Vec<i64>) {
        let copies = self.segments.iter().flat_map(|(&(group, segment), &count)| {
            std::iter::repeat_n((group, segment), usize::try_from(count).unwrap_or(0))
        });
        let (groups, segments): (Vec<u32>, Vec<i64>) = copies.unzip();
        let rows = RecordBatch::try_new(Arc::clone(schema), self.index.keys(&groups)).expect("rows of this schema");
        (rows, segments)
    }

    fn lower(&mut self, (group, segment): (u32, i64), by: i64) {
        if let Some(count) = self.segments.get_mut(&(group, segment)) {
            *count -= by;
            if *count == 0 {
                self.segments.remove(&(group, segment));
                self.by_segment.remove(&(segment, group));
            }
        }
    }

    pub(super) fn expire(&mut self, segment: i64, schema: &SchemaRef) -> Vec<Updates> {
        let groups: Vec<u32> = self
            .by_segment
            .range((segment, 0)..=(segment, u32::MAX))
            .map(|((_, group), ())| *group)
            .collect();
        let counts: Vec<i64> = groups.iter().map(|group| self.segments[&(*group, segment)]).collect();
        let rows = RecordBatch::try_new(Arc::clone(schema), self.index.keys(&groups)).expect("rows of this schema");
        for (&group, &count) in groups.iter().zip(&counts) {
            self.lower((group, segment), count);
            self.counts[group as usize] -= count;
            if self.counts[group as usize] == 0 {
                self.index.remove(group);
            }
        }
        let diffs: Vec<i64> = counts.into_iter().map(|count| -count).collect();
        if diffs.is_empty() {
            Vec::new()
        } else {
            vec![Updates::new(rows, diffs)]
        }
    }
}
