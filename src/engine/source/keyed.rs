//! A source with a key: a later row replaces an earlier one.

use std::collections::{BTreeMap, HashMap};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, SortField};
use dataflows::Updates;
use dataflows::columns::{NO_SLOT, Rows};
use dataflows::group_index::GroupIndex;

use super::{batch_of, columns, take};

/// One row a key; a later one replaces it.
pub(super) struct Keyed {
    key: Vec<usize>,
    index: GroupIndex,
    rows: Rows,
    /// The row of each key, and the segment it expires with.
    slots: Vec<(u32, i64)>,
    versions: Option<Versions>,
    /// Keys written in each segment; one that has moved on is passed over.
    segments: BTreeMap<i64, Vec<u32>>,
    scratch: Vec<u32>,
}

struct Versions {
    column: usize,
    converter: RowConverter,
    stored: Vec<Option<OwnedRow>>,
}

impl Keyed {
    /// Returns the first segment that may hold rows.
    pub(super) fn oldest_segment(&self) -> Option<i64> {
        self.segments.first_key_value().map(|(segment, _)| *segment)
    }

    pub(super) fn new(key: &[usize], version: Option<usize>, types: &[DataType]) -> Self {
        let key_types: Vec<DataType> = key.iter().map(|&column| types[column].clone()).collect();
        let versions = version.map(|column| Versions {
            column,
            converter: RowConverter::new(vec![SortField::new(types[column].clone())])
                .expect("every column type can be ordered"),
            stored: Vec::new(),
        });
        Keyed {
            key: key.to_vec(),
            index: GroupIndex::new(&key_types),
            rows: Rows::new(types),
            slots: Vec::new(),
            versions,
            segments: BTreeMap::new(),
            scratch: Vec::new(),
        }
    }

    /// Replaces; the last row of a key wins, or the one of the highest version.
    pub(super) fn upsert(&mut self, rows: &RecordBatch, segments: Option<&[i64]>, schema: &SchemaRef) -> Vec<Updates> {
        let mut groups = std::mem::take(&mut self.scratch);
        self.index
            .intern(&columns(rows, &self.key), rows.num_rows(), &mut groups);
        self.slots
            .resize(self.index.groups().max(self.slots.len()), (NO_SLOT, i64::MIN));
        let winners = self.winners(rows, &groups);
        let incoming = self.rows.incoming(rows.columns());
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let mut written = Vec::new();
        for (row, &group) in groups.iter().enumerate() {
            if !winners[row] {
                continue;
            }
            let (slot, segment) = &mut self.slots[group as usize];
            if let Some(segments) = segments
                && *segment != segments[row]
            {
                *segment = segments[row];
                self.segments.entry(segments[row]).or_default().push(group);
            }
            if *slot != NO_SLOT {
                if self.rows.equals(&incoming, row as u32, *slot) {
                    continue;
                }
                old.push(*slot);
            } else {
                *slot = self.rows.allocate();
            }
            new.push(row as u32);
            written.push(*slot);
        }
        let mut changes = Vec::new();
        if !old.is_empty() {
            changes.push(Updates::deletes(batch_of(schema, &self.rows, &old)));
        }
        self.rows.write(&incoming, &new, &written);
        if !new.is_empty() {
            changes.push(Updates::inserts(take(rows, new)));
        }
        self.scratch = groups;
        changes
    }

    /// Returns every row, and the segment it expires with.
    pub(super) fn all(&self, schema: &SchemaRef) -> (RecordBatch, Vec<i64>) {
        let there = self.slots.iter().filter(|(slot, _)| *slot != NO_SLOT);
        let (slots, segments): (Vec<u32>, Vec<i64>) = there.copied().unzip();
        (batch_of(schema, &self.rows, &slots), segments)
    }

    /// Marks the row of each key that wins.
    fn winners(&mut self, rows: &RecordBatch, groups: &[u32]) -> Vec<bool> {
        let mut winners = vec![false; groups.len()];
        let mut best: HashMap<u32, usize> = HashMap::with_capacity(groups.len());
        match &mut self.versions {
            None => best.extend(groups.iter().enumerate().map(|(row, &group)| (group, row))),
            Some(versions) => {
                let encoded = versions
                    .converter
                    .convert_columns(std::slice::from_ref(rows.column(versions.column)))
                    .expect("the column has its declared type");
                versions.stored.resize(self.slots.len(), None);
                for (row, &group) in groups.iter().enumerate() {
                    let stored = &mut versions.stored[group as usize];
                    if stored.as_ref().is_none_or(|stored| encoded.row(row) >= stored.row()) {
                        *stored = Some(encoded.row(row).owned());
                        best.insert(group, row);
                    }
                }
            }
        }
        best.into_values().for_each(|row| winners[row] = true);
        winners
    }

    pub(super) fn delete(
        &mut self,
        rows: &RecordBatch,
        schema: &SchemaRef,
        reject: &mut impl FnMut(&RecordBatch, usize, &str),
    ) -> Vec<Updates> {
        // A deletion names its key; whatever else it holds is not looked at.
        let key: Option<Vec<usize>> = self
            .key
            .iter()
            .map(|&column| rows.schema().index_of(schema.field(column).name()).ok())
            .collect();
        let mut groups = std::mem::take(&mut self.scratch);
        match key {
            Some(key) => self.index.find(&columns(rows, &key), rows.num_rows(), &mut groups),
            None => groups = vec![NO_SLOT; rows.num_rows()],
        }
        let mut gone = Vec::new();
        for (row, &group) in groups.iter().enumerate() {
            if group == NO_SLOT || self.slots[group as usize].0 == NO_SLOT {
                reject(rows, row, "no retained row has this key");
            } else {
                // The same key a second time finds nothing.
                gone.push((group, std::mem::replace(&mut self.slots[group as usize].0, NO_SLOT)));
            }
        }
        self.scratch = groups;
        self.forget(&gone, schema)
    }

    /// Takes rows in as all that there is, and every other back unless `partial`.
    pub(super) fn replace(&mut self, rows: &RecordBatch, partial: bool, schema: &SchemaRef) -> Vec<Updates> {
        let mut changes = self.upsert(rows, None, schema);
        if partial {
            return changes;
        }
        let mut there = vec![false; self.slots.len()];
        // What `upsert` has just looked up.
        self.scratch.iter().for_each(|&group| there[group as usize] = true);
        let mut gone = Vec::new();
        for (group, (slot, _)) in self.slots.iter_mut().enumerate() {
            if *slot != NO_SLOT && !there[group] {
                gone.push((group as u32, std::mem::replace(slot, NO_SLOT)));
            }
        }
        changes.extend(self.forget(&gone, schema));
        changes
    }

    pub(super) fn expire(&mut self, segment: i64, schema: &SchemaRef) -> Vec<Updates> {
        let groups = self.segments.remove(&segment).unwrap_or_default();
        let mut gone = Vec::new();
        for group in groups {
            let (slot, current) = &mut self.slots[group as usize];
            if *current == segment && *slot != NO_SLOT {
                gone.push((group, std::mem::replace(slot, NO_SLOT)));
            }
        }
        self.forget(&gone, schema)
    }

    fn forget(&mut self, gone: &[(u32, u32)], schema: &SchemaRef) -> Vec<Updates> {
        if gone.is_empty() {
            return Vec::new();
        }
        let slots: Vec<u32> = gone.iter().map(|(_, slot)| *slot).collect();
        let batch = batch_of(schema, &self.rows, &slots);
        for &(group, slot) in gone {
            self.rows.free(slot);
            self.index.remove(group);
            self.slots[group as usize] = (NO_SLOT, i64::MIN);
            if let Some(versions) = &mut self.versions {
                versions.stored[group as usize] = None;
            }
        }
        vec![Updates::deletes(batch)]
    }
}
