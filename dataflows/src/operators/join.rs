//! Equi-joins over columnar state: one group index for both sides, rows in columns, chains by key.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, SchemaRef};
use hashbrown::HashTable;

use super::ticked::TickOperator;
use crate::columns::{NO_SLOT, Rows};
use crate::group_index::{GroupIndex, hash_keys};
use crate::parts::Part;
use crate::plan::JoinKind;
use crate::update::{Tick, Updates};

/// Chains longer than this find a row to take back by its hash.
const CHAIN_INDEXED: u32 = 32;

/// Rows of one output batch, at most.
const OUTPUT_ROWS: usize = 32 * 1024;

/// Pairs left and right rows with equal keys.
///
/// State: both sides' rows and one entry a key; a row taken back is forgotten,
/// and so is a key without rows.
pub(crate) struct Join {
    kind: JoinKind,
    null_equals_null: bool,
    schema: SchemaRef,
    index: GroupIndex,
    left: Side,
    right: Side,
}

/// The rows of one side, chained by key.
struct Side {
    keys: Vec<usize>,
    rows: Rows,
    /// The first row and the number of rows of each group's chain.
    heads: Vec<(u32, u32)>,
    /// How many rows of each group there are, multiplicities included.
    totals: Vec<i64>,
    next: Vec<u32>,
    previous: Vec<u32>,
    counts: Vec<i64>,
    hashes: Vec<u64>,
    group_of: Vec<u32>,
    /// Rows of long chains, by hash.
    long: HashTable<u32>,
}

impl Side {
    fn new(keys: Vec<usize>, schema: &SchemaRef) -> Self {
        let types: Vec<DataType> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
        Side {
            keys,
            rows: Rows::new(&types),
            heads: Vec::new(),
            totals: Vec::new(),
            next: Vec::new(),
            previous: Vec::new(),
            counts: Vec::new(),
            hashes: Vec::new(),
            group_of: Vec::new(),
            long: HashTable::new(),
        }
    }

    fn resize(&mut self, groups: usize) {
        if self.heads.len() < groups {
            self.heads.resize(groups, (NO_SLOT, 0));
            self.totals.resize(groups, 0);
        }
    }

    /// Applies changes of this side: additions first, for a row may precede its retraction within a tick.
    fn apply(&mut self, batch: &Delta) {
        let (mut rows, mut slots) = (Vec::new(), Vec::new());
        for (row, &diff) in batch.diffs.iter().enumerate() {
            if diff > 0 && batch.groups[row] != NO_SLOT {
                rows.push(row as u32);
                slots.push(self.link(batch.groups[row], batch.hashes[row], diff));
            }
        }
        let incoming = self.rows.incoming(&batch.columns);
        self.rows.write(&incoming, &rows, &slots);
    }

    fn retract(&mut self, batch: &Delta) {
        let incoming = self.rows.incoming(&batch.columns);
        for (row, &diff) in batch.diffs.iter().enumerate() {
            let group = batch.groups[row];
            let mut owed = -diff;
            while owed > 0 && group != NO_SLOT {
                let Some(slot) = self.find(group, batch.hashes[row], &incoming, row as u32) else {
                    tracing::error!(row, "a join was told to take back a row it does not hold");
                    break;
                };
                let taken = owed.min(self.counts[slot as usize]);
                owed -= taken;
                self.counts[slot as usize] -= taken;
                self.totals[group as usize] -= taken;
                if self.counts[slot as usize] == 0 {
                    self.unlink(slot);
                }
            }
        }
    }

    fn link(&mut self, group: u32, hash: u64, count: i64) -> u32 {
        let slot = self.rows.allocate();
        let at = slot as usize;
        if self.next.len() <= at {
            let length = at + 1;
            self.next.resize(length, NO_SLOT);
            self.previous.resize(length, NO_SLOT);
            self.counts.resize(length, 0);
            self.hashes.resize(length, 0);
            self.group_of.resize(length, NO_SLOT);
        }
        let (head, length) = self.heads[group as usize];
        self.next[at] = head;
        self.previous[at] = NO_SLOT;
        self.counts[at] = count;
        self.hashes[at] = hash;
        self.group_of[at] = group;
        if head != NO_SLOT {
            self.previous[head as usize] = slot;
        }
        self.heads[group as usize] = (slot, length + 1);
        self.totals[group as usize] += count;
        if length + 1 == CHAIN_INDEXED + 1 {
            self.index_chain(group);
        } else if length + 1 > CHAIN_INDEXED {
            let hashes = &self.hashes;
            self.long.insert_unique(hash, slot, |&slot| hashes[slot as usize]);
        }
        slot
    }

    fn index_chain(&mut self, group: u32) {
        let mut slot = self.heads[group as usize].0;
        while slot != NO_SLOT {
            let hashes = &self.hashes;
            self.long
                .insert_unique(hashes[slot as usize], slot, |&slot| hashes[slot as usize]);
            slot = self.next[slot as usize];
        }
    }

    fn unlink(&mut self, slot: u32) {
        let at = slot as usize;
        let group = self.group_of[at] as usize;
        let (previous, next) = (self.previous[at], self.next[at]);
        let (head, length) = self.heads[group];
        if length > CHAIN_INDEXED {
            self.unindex(slot);
            if length == CHAIN_INDEXED + 1 {
                let mut other = head;
                while other != NO_SLOT {
                    if other != slot {
                        self.unindex(other);
                    }
                    other = self.next[other as usize];
                }
            }
        }
        if previous != NO_SLOT {
            self.next[previous as usize] = next;
        }
        if next != NO_SLOT {
            self.previous[next as usize] = previous;
        }
        self.heads[group] = (if head == slot { next } else { head }, length - 1);
        self.rows.free(slot);
    }

    fn unindex(&mut self, slot: u32) {
        if let Ok(entry) = self.long.find_entry(self.hashes[slot as usize], |&other| other == slot) {
            entry.remove();
        }
    }

    fn find(&self, group: u32, hash: u64, incoming: &crate::columns::Incoming, row: u32) -> Option<u32> {
        let (head, length) = self.heads[group as usize];
        let matches = |slot: u32| self.hashes[slot as usize] == hash && self.rows.equals(incoming, row, slot);
        if length > CHAIN_INDEXED {
            return self
                .long
                .find(hash, |&slot| self.group_of[slot as usize] == group && matches(slot))
                .copied();
        }
        let mut slot = head;
        while slot != NO_SLOT {
            if matches(slot) {
                return Some(slot);
            }
            slot = self.next[slot as usize];
        }
        None
    }

    fn bytes(&self) -> usize {
        self.rows.bytes()
            + self.heads.capacity() * 8
            + self.totals.capacity() * 8
            + self.next.capacity() * (4 + 4 + 8 + 8 + 4)
            + self.long.capacity() * 5
    }
}

/// The changes of one side in one part: columns, diffs, and each row's group and hash.
struct Delta {
    columns: Vec<ArrayRef>,
    diffs: Vec<i64>,
    /// [`NO_SLOT`] where a NULL in the key means the row pairs with nothing.
    groups: Vec<u32>,
    hashes: Vec<u64>,
}

/// Pairs found so far: rows of the changed side, slots of the other, and diffs.
#[derive(Default)]
struct Pairs {
    rows: Vec<u32>,
    slots: Vec<u32>,
    diffs: Vec<i64>,
}

impl Join {
    pub(crate) fn new(
        kind: JoinKind,
        on: &[(usize, usize)],
        null_equals_null: bool,
        left: &SchemaRef,
        right: &SchemaRef,
        schema: SchemaRef,
    ) -> Self {
        let types: Vec<DataType> = on.iter().map(|(key, _)| left.field(*key).data_type().clone()).collect();
        Join {
            kind,
            null_equals_null,
            schema,
            index: GroupIndex::new(&types),
            left: Side::new(on.iter().map(|(left, _)| *left).collect(), left),
            right: Side::new(on.iter().map(|(_, right)| *right).collect(), right),
        }
    }

    fn delta(&mut self, part: Part, keys: &[usize]) -> Delta {
        let (rows, diffs) = part.into_updates().into_parts();
        let key_columns: Vec<ArrayRef> = keys.iter().map(|&key| Arc::clone(rows.column(key))).collect();
        let mut groups = Vec::new();
        self.index.intern(&key_columns, rows.num_rows(), &mut groups);
        self.left.resize(self.index.groups());
        self.right.resize(self.index.groups());
        let mut hashes = Vec::new();
        hash_keys(rows.columns(), rows.num_rows(), &mut hashes);
        if !self.null_equals_null {
            for key in &key_columns {
                if let Some(nulls) = key.logical_nulls().filter(|nulls| nulls.null_count() > 0) {
                    for (row, group) in groups.iter_mut().enumerate() {
                        if nulls.is_null(row) && *group != NO_SLOT {
                            self.forget(*group);
                            *group = NO_SLOT;
                        }
                    }
                }
            }
        }
        Delta {
            columns: rows.columns().to_vec(),
            diffs: diffs.to_vec(),
            groups,
            hashes,
        }
    }

    /// Frees a key neither side has rows for.
    fn forget(&mut self, group: u32) {
        let at = group as usize;
        if self.left.heads[at].1 == 0 && self.right.heads[at].1 == 0 {
            self.index.remove(group);
        }
    }

    fn forget_all(&mut self, deltas: &[Delta]) {
        for delta in deltas {
            for &group in &delta.groups {
                if group != NO_SLOT {
                    self.forget(group);
                }
            }
        }
    }

    fn batch(&self, left: Vec<ArrayRef>, right: Vec<ArrayRef>, diffs: Vec<i64>) -> Part {
        let columns: Vec<ArrayRef> = left.into_iter().chain(right).collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(diffs.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .expect("a join emits the columns of both sides");
        Part::whole(Updates::new(rows, diffs))
    }

    /// Emits the pairs of the left's changes with the right as it was before the tick.
    fn pair_left(&self, delta: &Delta, out: &mut Vec<Part>) {
        let mut pairs = Pairs::default();
        let mut flush = |pairs: &mut Pairs| {
            if !pairs.rows.is_empty() {
                let left = take_rows(&delta.columns, &pairs.rows);
                let right = self.right.rows.gather(&pairs.slots);
                out.push(self.batch(left, right, std::mem::take(&mut pairs.diffs)));
                pairs.rows.clear();
                pairs.slots.clear();
            }
        };
        for (row, (&group, &diff)) in delta.groups.iter().zip(&delta.diffs).enumerate() {
            let mut slot = if group == NO_SLOT {
                NO_SLOT
            } else {
                self.right.heads[group as usize].0
            };
            if slot == NO_SLOT && self.kind == JoinKind::Left {
                pairs.push(row as u32, NO_SLOT, diff);
            }
            while slot != NO_SLOT {
                pairs.push(row as u32, slot, diff * self.right.counts[slot as usize]);
                if pairs.rows.len() >= OUTPUT_ROWS {
                    flush(&mut pairs);
                }
                slot = self.right.next[slot as usize];
            }
        }
        flush(&mut pairs);
    }

    /// Emits the pairs of the right's changes with the left as it is after the tick.
    fn pair_right(&self, delta: &Delta, out: &mut Vec<Part>) {
        let mut pairs = Pairs::default();
        let mut flush = |pairs: &mut Pairs| {
            if !pairs.rows.is_empty() {
                let left = self.left.rows.gather(&pairs.slots);
                let right = take_rows(&delta.columns, &pairs.rows);
                out.push(self.batch(left, right, std::mem::take(&mut pairs.diffs)));
                pairs.rows.clear();
                pairs.slots.clear();
            }
        };
        for (row, (&group, &diff)) in delta.groups.iter().zip(&delta.diffs).enumerate() {
            let mut slot = if group == NO_SLOT {
                NO_SLOT
            } else {
                self.left.heads[group as usize].0
            };
            while slot != NO_SLOT {
                pairs.push(row as u32, slot, diff * self.left.counts[slot as usize]);
                if pairs.rows.len() >= OUTPUT_ROWS {
                    flush(&mut pairs);
                }
                slot = self.left.next[slot as usize];
            }
        }
        flush(&mut pairs);
    }

    /// For an outer join: left rows whose group went from no right rows to some, or back.
    fn repad(&self, groups: &[(u32, bool)], out: &mut Vec<Part>) {
        let (mut slots, mut diffs) = (Vec::new(), Vec::new());
        for &(group, had) in groups {
            let has = self.right.totals[group as usize] != 0;
            if had == has {
                continue;
            }
            let mut slot = self.left.heads[group as usize].0;
            while slot != NO_SLOT {
                let count = self.left.counts[slot as usize];
                slots.push(slot);
                diffs.push(if has { -count } else { count });
                slot = self.left.next[slot as usize];
            }
        }
        for (slots, diffs) in slots.chunks(OUTPUT_ROWS).zip(diffs.chunks(OUTPUT_ROWS)) {
            let left = self.left.rows.gather(slots);
            let right = self.right.rows.gather(&vec![NO_SLOT; slots.len()]);
            out.push(self.batch(left, right, diffs.to_vec()));
        }
    }
}

impl Pairs {
    fn push(&mut self, row: u32, slot: u32, diff: i64) {
        self.rows.push(row);
        self.slots.push(slot);
        self.diffs.push(diff);
    }
}

fn take_rows(columns: &[ArrayRef], rows: &[u32]) -> Vec<ArrayRef> {
    // Each row once, in order: the batch itself will do.
    let whole = columns.first().is_some_and(|column| column.len() == rows.len())
        && rows.iter().enumerate().all(|(at, &row)| at == row as usize);
    if whole {
        return columns.to_vec();
    }
    let rows = UInt32Array::from(rows.to_vec());
    columns
        .iter()
        .map(|column| take(column, &rows, None).expect("rows are in range"))
        .collect()
}

impl TickOperator for Join {
    fn apply(&mut self, _tick: Tick, inputs: &mut [Vec<Part>]) -> Vec<Part> {
        let mut out = Vec::new();
        let (left_keys, right_keys) = (self.left.keys.clone(), self.right.keys.clone());
        let left: Vec<Delta> = std::mem::take(&mut inputs[0])
            .into_iter()
            .map(|part| self.delta(part, &left_keys))
            .collect();
        for delta in &left {
            self.pair_left(delta, &mut out);
        }
        for delta in &left {
            self.left.apply(delta);
        }
        for delta in &left {
            self.left.retract(delta);
        }
        let right: Vec<Delta> = std::mem::take(&mut inputs[1])
            .into_iter()
            .map(|part| self.delta(part, &right_keys))
            .collect();
        for delta in &right {
            self.pair_right(delta, &mut out);
        }
        let mut before: Vec<(u32, bool)> = Vec::new();
        if self.kind == JoinKind::Left {
            let mut groups: Vec<u32> = right
                .iter()
                .flat_map(|delta| delta.groups.iter().copied())
                .filter(|group| *group != NO_SLOT)
                .collect();
            groups.sort_unstable();
            groups.dedup();
            before.extend(
                groups
                    .into_iter()
                    .map(|group| (group, self.right.totals[group as usize] != 0)),
            );
        }
        for delta in &right {
            self.right.apply(delta);
        }
        for delta in &right {
            self.right.retract(delta);
        }
        self.repad(&before, &mut out);
        self.forget_all(&left);
        self.forget_all(&right);
        out
    }

    fn state_rows(&self) -> usize {
        self.left.rows.len() + self.right.rows.len()
    }

    fn state_bytes(&self) -> usize {
        self.index.bytes() + self.left.bytes() + self.right.bytes()
    }
}
