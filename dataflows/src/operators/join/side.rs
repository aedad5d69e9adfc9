//! One side of a join: its rows in columns, chained by key.
//!
//! As long as no row is taken back, none has to be found by what it holds: hashes, and links to the row before, are
//! made once the first is.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, SchemaRef};
use hashbrown::HashTable;

use crate::columns::{Incoming, NO_SLOT, Rows};
use crate::group_index::hash_keys;
use crate::update::Updates;

/// Chains longer than this find a row to take back by its hash.
const CHAIN_INDEXED: u32 = 32;

/// Rows read back at once while a side is indexed.
const INDEXED_ROWS: usize = 8 * 1024;

/// The rows of one side, chained by key.
pub(super) struct Side {
    pub(super) keys: Vec<usize>,
    /// Whether rows are kept, or only how many there are of each key.
    pub(super) keeps_rows: bool,
    schema: SchemaRef,
    width: usize,
    pub(super) rows: Rows,
    /// The first row and the number of rows of each group's chain.
    heads: Vec<(u32, u32)>,
    /// How many rows of each group there are, multiplicities included.
    pub(super) totals: Vec<i64>,
    pub(super) next: Vec<u32>,
    pub(super) counts: Vec<i64>,
    /// What finds a row to take back; none before the first is.
    found: Option<Found>,
    /// Rows by their time, where pairs are found by it.
    pub(super) timed: Option<Timed>,
}

/// Finds the rows of a side by what they hold.
#[derive(Default)]
struct Found {
    previous: Vec<u32>,
    hashes: Vec<u64>,
    group_of: Vec<u32>,
    /// Rows of long chains, by hash.
    long: HashTable<u32>,
}

/// Rows by group and time.
pub(super) struct Timed {
    /// Position of the time's column.
    column: usize,
    order: BTreeSet<(u32, i64, u32)>,
    /// The time of each slot.
    times: Vec<Option<i64>>,
}

impl Timed {
    /// Returns the times of rows.
    pub(super) fn times<'a>(&self, columns: &'a [ArrayRef]) -> &'a TimestampMicrosecondArray {
        columns[self.column].as_primitive()
    }

    fn link(&mut self, group: u32, slot: u32, time: Option<i64>) {
        self.times.resize(self.times.len().max(slot as usize + 1), None);
        self.times[slot as usize] = time;
        self.order.extend(time.map(|time| (group, time, slot)));
    }

    fn unlink(&mut self, group: u32, slot: u32) {
        if let Some(time) = self.times[slot as usize].take() {
            self.order.remove(&(group, time, slot));
        }
    }
}

impl Found {
    fn resize(&mut self, slots: usize) {
        if self.previous.len() < slots {
            self.previous.resize(slots, NO_SLOT);
            self.hashes.resize(slots, 0);
            self.group_of.resize(slots, NO_SLOT);
        }
    }

    fn bytes(&self) -> usize {
        self.previous.capacity() * (4 + 8 + 4) + self.long.capacity() * 5
    }

    fn insert(&mut self, slot: u32) {
        let hashes = &self.hashes;
        self.long
            .insert_unique(hashes[slot as usize], slot, |&slot| hashes[slot as usize]);
    }

    fn remove(&mut self, slot: u32) {
        if let Ok(entry) = self.long.find_entry(self.hashes[slot as usize], |&other| other == slot) {
            entry.remove();
        }
    }
}

impl Side {
    pub(super) fn new(keys: Vec<usize>, schema: &SchemaRef, keeps_rows: bool, time: Option<usize>) -> Self {
        let types: Vec<DataType> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
        Side {
            keys,
            keeps_rows,
            schema: Arc::clone(schema),
            width: schema.fields().len(),
            rows: Rows::new(&types),
            heads: Vec::new(),
            totals: Vec::new(),
            next: Vec::new(),
            counts: Vec::new(),
            // Rows that are too old to meet any are forgotten without being taken back, and found for that.
            found: time.map(|_| Found::default()),
            timed: time.map(|column| Timed {
                column,
                order: BTreeSet::new(),
                times: Vec::new(),
            }),
        }
    }

    /// Returns the number of columns.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Tells whether rows are found by their hashes, as once one was taken back.
    pub(super) fn is_indexed(&self) -> bool {
        self.found.is_some()
    }

    pub(super) fn resize(&mut self, groups: usize) {
        if self.heads.len() < groups {
            self.heads.resize(groups, (NO_SLOT, 0));
            self.totals.resize(groups, 0);
        }
    }

    /// Tells whether there are no rows under a key.
    pub(super) fn is_empty(&self, group: u32) -> bool {
        match self.keeps_rows {
            true => self.heads[group as usize].1 == 0,
            false => self.totals[group as usize] == 0,
        }
    }

    /// Returns the slots under a key, and how often each row is there.
    pub(super) fn chain(&self, group: u32) -> impl Iterator<Item = (u32, i64)> + '_ {
        let head = match group {
            NO_SLOT => NO_SLOT,
            group => self.heads[group as usize].0,
        };
        let some = |slot: u32| (slot != NO_SLOT).then_some(slot);
        let slots = std::iter::successors(some(head), move |&slot| some(self.next[slot as usize]));
        slots.map(|slot| (slot, self.counts[slot as usize]))
    }

    /// Returns the slots under a key from one time to another, and how often each row is there.
    pub(super) fn within(&self, group: u32, from: i64, to: i64) -> impl Iterator<Item = (u32, i64)> + '_ {
        let timed = self.timed.as_ref().filter(|_| group != NO_SLOT && from <= to);
        let rows = timed.map(|timed| timed.order.range((group, from, 0)..=(group, to, u32::MAX)));
        let slots = rows.into_iter().flatten().map(|(_, _, slot)| *slot);
        slots.map(|slot| (slot, self.counts[slot as usize]))
    }

    /// Forgets, without a word, the rows before a time and those without any; returns their groups.
    pub(super) fn forget_before(&mut self, time: i64) -> Vec<u32> {
        let Some(timed) = &self.timed else { return Vec::new() };
        let is_over = |slot: &u32| timed.times[*slot as usize].is_none_or(|at| at < time);
        let Some(found) = &self.found else { return Vec::new() };
        let over: Vec<u32> = self.held().into_iter().filter(is_over).collect();
        let groups: Vec<u32> = over.iter().map(|&slot| found.group_of[slot as usize]).collect();
        for (&slot, &group) in over.iter().zip(&groups) {
            self.totals[group as usize] -= self.counts[slot as usize];
            self.counts[slot as usize] = 0;
            self.unlink(slot);
        }
        groups
    }

    /// Returns the slots that hold rows.
    pub(super) fn held(&self) -> Vec<u32> {
        let slots = 0..self.counts.len() as u32;
        slots.filter(|&slot| self.counts[slot as usize] != 0).collect()
    }

    /// Returns rows as taken back, as often as each is there; none of none.
    pub(super) fn taken_back(&self, slots: &[u32]) -> Option<Updates> {
        let diffs: Vec<i64> = slots.iter().map(|&slot| -self.counts[slot as usize]).collect();
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), self.rows.gather(slots));
        (!slots.is_empty()).then(|| Updates::new(rows.expect("rows of this schema went in"), diffs))
    }

    /// Applies all changes of a tick: additions first, for a row may precede its retraction.
    pub(super) fn apply(&mut self, deltas: &[Delta]) {
        if !self.keeps_rows {
            for delta in deltas {
                for (&group, &diff) in delta.groups.iter().zip(&delta.diffs) {
                    if group != NO_SLOT {
                        self.totals[group as usize] += diff;
                    }
                }
            }
            return;
        }
        deltas.iter().for_each(|delta| self.add(delta));
        let takes_back = |delta: &&Delta| delta.diffs.iter().any(|diff| *diff < 0);
        for delta in deltas.iter().filter(takes_back) {
            if self.found.is_none() {
                self.found = Some(self.index());
            }
            self.retract(delta);
        }
    }

    /// Makes every row be found by what it holds.
    fn index(&self) -> Found {
        let mut found = Found::default();
        found.resize(self.next.len());
        let mut hashes = Vec::new();
        for (group, &(head, _)) in self.heads.iter().enumerate() {
            let (mut slot, mut before) = (head, NO_SLOT);
            while slot != NO_SLOT {
                found.previous[slot as usize] = before;
                found.group_of[slot as usize] = group as u32;
                (before, slot) = (slot, self.next[slot as usize]);
            }
        }
        let held: Vec<u32> = (0..self.next.len() as u32)
            .filter(|&slot| found.group_of[slot as usize] != NO_SLOT)
            .collect();
        for slots in held.chunks(INDEXED_ROWS) {
            hash_keys(&self.rows.gather(slots), slots.len(), &mut hashes);
            for (&slot, &hash) in slots.iter().zip(&hashes) {
                found.hashes[slot as usize] = hash;
            }
        }
        for slot in held {
            let (_, length) = self.heads[found.group_of[slot as usize] as usize];
            if length > CHAIN_INDEXED {
                found.insert(slot);
            }
        }
        found
    }

    fn add(&mut self, batch: &Delta) {
        let (mut rows, mut slots) = (Vec::new(), Vec::new());
        for (row, &diff) in batch.diffs.iter().enumerate() {
            if diff > 0 && batch.groups[row] != NO_SLOT {
                rows.push(row as u32);
                let hash = batch.hashes.get(row).copied();
                slots.push(self.link(batch.groups[row], hash.unwrap_or_default(), diff));
            }
        }
        if let Some(timed) = &mut self.timed {
            let times = timed.times(&batch.columns);
            for (&row, &slot) in rows.iter().zip(&slots) {
                let row = row as usize;
                let time = times.is_valid(row).then(|| times.value(row));
                timed.link(batch.groups[row], slot, time);
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
            self.counts.resize(length, 0);
        }
        let (head, length) = self.heads[group as usize];
        self.next[at] = head;
        self.counts[at] = count;
        self.heads[group as usize] = (slot, length + 1);
        self.totals[group as usize] += count;
        if let Some(found) = &mut self.found {
            found.resize(self.next.len());
            found.previous[at] = NO_SLOT;
            found.hashes[at] = hash;
            found.group_of[at] = group;
            if head != NO_SLOT {
                found.previous[head as usize] = slot;
            }
            if length + 1 == CHAIN_INDEXED + 1 {
                let mut slot = slot;
                while slot != NO_SLOT {
                    found.insert(slot);
                    slot = self.next[slot as usize];
                }
            } else if length + 1 > CHAIN_INDEXED {
                found.insert(slot);
            }
        }
        slot
    }

    fn unlink(&mut self, slot: u32) {
        let at = slot as usize;
        let Some(found) = &mut self.found else { return };
        let group = found.group_of[at] as usize;
        if let Some(timed) = &mut self.timed {
            timed.unlink(group as u32, slot);
        }
        let (previous, next) = (found.previous[at], self.next[at]);
        let (head, length) = self.heads[group];
        if length > CHAIN_INDEXED {
            found.remove(slot);
            if length == CHAIN_INDEXED + 1 {
                let mut other = head;
                while other != NO_SLOT {
                    if other != slot {
                        found.remove(other);
                    }
                    other = self.next[other as usize];
                }
            }
        }
        if previous != NO_SLOT {
            self.next[previous as usize] = next;
        }
        if next != NO_SLOT {
            found.previous[next as usize] = previous;
        }
        self.heads[group] = (if head == slot { next } else { head }, length - 1);
        self.rows.free(slot);
    }

    fn find(&self, group: u32, hash: u64, incoming: &Incoming, row: u32) -> Option<u32> {
        let found = self.found.as_ref()?;
        let (head, length) = self.heads[group as usize];
        let matches = |slot: u32| found.hashes[slot as usize] == hash && self.rows.equals(incoming, row, slot);
        if length > CHAIN_INDEXED {
            return found
                .long
                .find(hash, |&slot| found.group_of[slot as usize] == group && matches(slot))
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

    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes()
            + self.heads.capacity() * 8
            + self.totals.capacity() * 8
            + self.next.capacity() * 4
            + self.counts.capacity() * 8
            + self.found.as_ref().map_or(0, Found::bytes)
            // A node of the tree is about two thirds full.
            + self
                .timed
                .as_ref()
                .map_or(0, |timed| timed.order.len() * 24 * 3 / 2 + timed.times.capacity() * 16)
    }
}

/// The changes of one side in one part: columns, diffs, and each row's group and hash.
pub(super) struct Delta {
    pub(super) columns: Vec<ArrayRef>,
    pub(super) diffs: Vec<i64>,
    /// [`NO_SLOT`] where a NULL in the key means the row pairs with nothing.
    pub(super) groups: Vec<u32>,
    /// Empty where rows need not be found.
    pub(super) hashes: Vec<u64>,
}
