//! One side of a join: its rows in columns, chained by key.
//!
//! As long as no row is taken back, none has to be found by what it holds: hashes, and links to the row before, are
//! made once the first is.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef, TimestampMicrosecondType};
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
    /// What lets a row leave its chain; none before the first does.
    links: Option<Links>,
    /// What finds a row to take back; none before the first is.
    found: Option<Found>,
    /// What finds rows by their time, where pairs are found by it.
    pub(super) timed: Option<Timed>,
}

/// Where the rows of a side stand in their chains.
#[derive(Default)]
struct Links {
    previous: Vec<u32>,
    group_of: Vec<u32>,
}

/// Finds the rows of a side by what they hold.
#[derive(Default)]
struct Found {
    hashes: Vec<u64>,
    /// Rows of long chains, by hash.
    long: HashTable<u32>,
}

/// The time of rows, none of which is NULL.
pub(super) struct Timed {
    /// Position of the time's column.
    pub(super) column: usize,
    /// Rows by group and time, where both ends of what is looked for are known: it pays for what it
    /// costs where a few rows are wanted of many.
    order: Option<BTreeSet<(u32, i64, u32)>>,
}

impl Links {
    fn resize(&mut self, slots: usize) {
        if self.previous.len() < slots {
            self.previous.resize(slots, NO_SLOT);
            self.group_of.resize(slots, NO_SLOT);
        }
    }

    fn bytes(&self) -> usize {
        (self.previous.capacity() + self.group_of.capacity()) * 4
    }
}

impl Found {
    fn bytes(&self) -> usize {
        self.hashes.capacity() * 8 + self.long.capacity() * 5
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
    /// Holds no rows; `time` is a column of times to find them by, and whether they stand in its order.
    pub(super) fn new(keys: Vec<usize>, schema: &SchemaRef, keeps_rows: bool, time: Option<(usize, bool)>) -> Self {
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
            links: None,
            found: None,
            timed: time.map(|(column, ordered)| Timed {
                column,
                order: ordered.then(BTreeSet::new),
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

    /// Shows the slots under a key from one time to another, and how often each row is there.
    pub(super) fn within(&self, group: u32, from: i64, to: i64, mut see: impl FnMut(u32, i64)) {
        let Some(timed) = self.timed.as_ref().filter(|_| group != NO_SLOT && from <= to) else {
            return;
        };
        if let Some(order) = &timed.order {
            for &(_, _, slot) in order.range((group, from, 0)..=(group, to, u32::MAX)) {
                see(slot, self.counts[slot as usize]);
            }
            return;
        }
        let times = self.rows.words(timed.column);
        for (slot, count) in self.chain(group) {
            if (from..=to).contains(&(times[slot as usize] as i64)) {
                see(slot, count);
            }
        }
    }

    /// Forgets, without a word, the rows before a time; returns their groups.
    pub(super) fn forget_before(&mut self, time: i64) -> Vec<u32> {
        let Some(timed) = &self.timed else { return Vec::new() };
        let times = self.rows.words(timed.column);
        let is_over = |slot: &u32| self.counts[*slot as usize] != 0 && (times[*slot as usize] as i64) < time;
        let over: Vec<u32> = (0..self.counts.len() as u32).filter(is_over).collect();
        if over.is_empty() {
            return Vec::new();
        }
        let mut links = self.links.take().unwrap_or_else(|| self.linked());
        for &slot in &over {
            let group = links.group_of[slot as usize];
            self.totals[group as usize] -= self.counts[slot as usize];
            self.counts[slot as usize] = 0;
            self.unlink(&mut links, slot);
        }
        let groups = over.iter().map(|&slot| links.group_of[slot as usize]).collect();
        self.links = Some(links);
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
            let mut links = self.links.take().unwrap_or_else(|| self.linked());
            if self.found.is_none() {
                self.found = Some(self.index(&links));
            }
            self.retract(&mut links, delta);
            self.links = Some(links);
        }
    }

    /// Makes every row know its place.
    fn linked(&self) -> Links {
        let mut links = Links::default();
        links.resize(self.next.len());
        for (group, &(head, _)) in self.heads.iter().enumerate() {
            let (mut slot, mut before) = (head, NO_SLOT);
            while slot != NO_SLOT {
                links.previous[slot as usize] = before;
                links.group_of[slot as usize] = group as u32;
                (before, slot) = (slot, self.next[slot as usize]);
            }
        }
        links
    }

    /// Makes every row be found by what it holds.
    fn index(&self, links: &Links) -> Found {
        let mut found = Found::default();
        found.hashes.resize(self.next.len(), 0);
        let mut hashes = Vec::new();
        let held = self.held();
        for slots in held.chunks(INDEXED_ROWS) {
            hash_keys(&self.rows.gather(slots), slots.len(), &mut hashes);
            for (&slot, &hash) in slots.iter().zip(&hashes) {
                found.hashes[slot as usize] = hash;
            }
        }
        for slot in held {
            let (_, length) = self.heads[links.group_of[slot as usize] as usize];
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
        let incoming = self.rows.incoming(&batch.columns);
        self.rows.write(&incoming, &rows, &slots);
        if let Some(Timed {
            column,
            order: Some(order),
        }) = &mut self.timed
        {
            let times = self.rows.words(*column);
            let placed = rows.iter().zip(&slots);
            order.extend(placed.map(|(&row, &slot)| (batch.groups[row as usize], times[slot as usize] as i64, slot)));
        }
    }

    fn retract(&mut self, links: &mut Links, batch: &Delta) {
        let incoming = self.rows.incoming(&batch.columns);
        for (row, &diff) in batch.diffs.iter().enumerate() {
            let group = batch.groups[row];
            let mut owed = -diff;
            while owed > 0 && group != NO_SLOT {
                let Some(slot) = self.find(links, group, batch.hashes[row], &incoming, row as u32) else {
                    tracing::error!(row, "a join was told to take back a row it does not hold");
                    break;
                };
                let taken = owed.min(self.counts[slot as usize]);
                owed -= taken;
                self.counts[slot as usize] -= taken;
                self.totals[group as usize] -= taken;
                if self.counts[slot as usize] == 0 {
                    self.unlink(links, slot);
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
        if let Some(links) = &mut self.links {
            links.resize(self.next.len());
            links.previous[at] = NO_SLOT;
            links.group_of[at] = group;
            if head != NO_SLOT {
                links.previous[head as usize] = slot;
            }
        }
        if let Some(found) = &mut self.found {
            found.hashes.resize(self.next.len(), 0);
            found.hashes[at] = hash;
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

    fn unlink(&mut self, links: &mut Links, slot: u32) {
        let at = slot as usize;
        let group = links.group_of[at] as usize;
        if let Some(Timed {
            column,
            order: Some(order),
        }) = &mut self.timed
        {
            order.remove(&(group as u32, self.rows.words(*column)[at] as i64, slot));
        }
        let (previous, next) = (links.previous[at], self.next[at]);
        let (head, length) = self.heads[group];
        if let Some(found) = self.found.as_mut().filter(|_| length > CHAIN_INDEXED) {
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
            links.previous[next as usize] = previous;
        }
        self.heads[group] = (if head == slot { next } else { head }, length - 1);
        self.rows.free(slot);
    }

    fn find(&self, links: &Links, group: u32, hash: u64, incoming: &Incoming, row: u32) -> Option<u32> {
        let found = self.found.as_ref()?;
        let (head, length) = self.heads[group as usize];
        let matches = |slot: u32| found.hashes[slot as usize] == hash && self.rows.equals(incoming, row, slot);
        if length > CHAIN_INDEXED {
            return found
                .long
                .find(hash, |&slot| links.group_of[slot as usize] == group && matches(slot))
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
            + self.links.as_ref().map_or(0, Links::bytes)
            + self.found.as_ref().map_or(0, Found::bytes)
            // A node of the tree is about two thirds full.
            + self
                .timed
                .as_ref()
                .and_then(|timed| timed.order.as_ref())
                .map_or(0, |order| order.len() * 24 * 3 / 2)
    }
}

/// The changes of one side in one part: columns, diffs, and each row's group and hash.
pub(super) struct Delta {
    pub(super) columns: Vec<ArrayRef>,
    pub(super) diffs: Vec<i64>,
    /// [`NO_SLOT`] where a NULL in the key, or for a time, means the row pairs with nothing.
    pub(super) groups: Vec<u32>,
    /// Empty where rows need not be found.
    pub(super) hashes: Vec<u64>,
}

impl Delta {
    /// Returns the times of rows; of those that belong to no key they mean nothing.
    pub(super) fn times(&self, timed: &Timed) -> &[i64] {
        self.columns[timed.column]
            .as_primitive::<TimestampMicrosecondType>()
            .values()
    }

    /// Lets rows without a time belong to no key.
    pub(super) fn pass_over_timeless(&mut self, timed: &Timed) {
        let Some(nulls) = self.columns[timed.column].nulls() else {
            return;
        };
        for (row, group) in self.groups.iter_mut().enumerate() {
            if nulls.is_null(row) {
                *group = NO_SLOT;
            }
        }
    }

    /// Lets rows that come and are before a time belong to no key.
    pub(super) fn pass_over(&mut self, timed: &Timed, time: i64) {
        let times = self.columns[timed.column]
            .as_primitive::<TimestampMicrosecondType>()
            .values();
        for ((group, diff), at) in self.groups.iter_mut().zip(&self.diffs).zip(times) {
            if *diff > 0 && *at < time {
                *group = NO_SLOT;
            }
        }
    }
}
