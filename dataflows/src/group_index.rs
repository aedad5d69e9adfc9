//! Maps key columns to dense group ids: the index every keyed state is built on.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType, UInt64Type};
use datafusion::common::hash_utils::{RandomState, create_hashes};
use hashbrown::HashTable;

use crate::columns::{NO_SLOT, Rows};

/// Fixed, so that all workers and both sides of a join agree on the owner of a key.
const SEED: u64 = 0x73_61_6e_67_61_6d;

/// Dense ids for distinct keys; an id is reused once its key was removed.
///
/// Work is done a batch at a time: hash all rows, probe all rows, then compare
/// the keys of all hits column by column.
pub struct GroupIndex {
    table: HashTable<u32>,
    /// The hash of each slot's key, for growing the table without reading keys.
    hashes: Vec<u64>,
    keys: Rows,
    scratch: Scratch,
}

#[derive(Default)]
struct Scratch {
    hashes: Vec<u64>,
    new_rows: Vec<u32>,
    new_slots: Vec<u32>,
    all_rows: Vec<u32>,
    equal: Vec<bool>,
}

impl GroupIndex {
    /// Holds no keys of the given column types.
    pub fn new(types: &[DataType]) -> Self {
        GroupIndex {
            table: HashTable::new(),
            hashes: Vec::new(),
            keys: Rows::new(types),
            scratch: Scratch::default(),
        }
    }

    /// Returns how many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Tells whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns one more than the largest id in use.
    pub fn groups(&self) -> usize {
        self.keys.slots()
    }

    /// Fills `groups` with the id of each row's key, adding keys that are new.
    pub fn intern(&mut self, keys: &[ArrayRef], length: usize, groups: &mut Vec<u32>) {
        groups.clear();
        let mut scratch = std::mem::take(&mut self.scratch);
        hash_keys(keys, length, &mut scratch.hashes);
        match (single_words(keys), self.keys.single_words().is_some()) {
            (Some(words), true) => self.intern_words(&words, &scratch.hashes, groups),
            _ => self.intern_rows(keys, length, &mut scratch, groups),
        }
        self.scratch = scratch;
    }

    /// One 8-byte key without NULL: the key itself is compared while probing.
    fn intern_words(&mut self, words: &[u64], hashes: &[u64], groups: &mut Vec<u32>) {
        groups.reserve(words.len());
        let (mut words, mut hashes) = (words.iter(), hashes.iter());
        loop {
            // Known keys go through here: nothing in this loop changes the index.
            let stored = self.keys.single_words().unwrap_or_default();
            let new = loop {
                let (Some(&word), Some(&hash)) = (words.next(), hashes.next()) else {
                    return;
                };
                match self.table.find(hash, |&slot| stored[slot as usize] == word) {
                    Some(&slot) => groups.push(slot),
                    None => break (word, hash),
                }
            };
            let slot = self.keys.allocate();
            self.keys.write_word(slot, new.0);
            self.insert(new.1, slot);
            groups.push(slot);
        }
    }

    fn intern_rows(&mut self, keys: &[ArrayRef], length: usize, scratch: &mut Scratch, groups: &mut Vec<u32>) {
        scratch.new_rows.clear();
        scratch.new_slots.clear();
        for (row, &hash) in scratch.hashes.iter().enumerate() {
            let found = self
                .table
                .find(hash, |&slot| self.hashes[slot as usize] == hash)
                .copied();
            let slot = found.unwrap_or_else(|| {
                let slot = self.keys.allocate();
                self.insert(hash, slot);
                scratch.new_rows.push(row as u32);
                scratch.new_slots.push(slot);
                slot
            });
            groups.push(slot);
        }
        let incoming = self.keys.incoming(keys);
        self.keys.write(&incoming, &scratch.new_rows, &scratch.new_slots);

        // Equal hashes are all but always equal keys; this pass makes "all but" exact.
        scratch.all_rows.clear();
        scratch.all_rows.extend(0..length as u32);
        scratch.equal.clear();
        scratch.equal.resize(length, true);
        self.keys
            .compare(&incoming, &scratch.all_rows, groups, &mut scratch.equal);
        let unequal = scratch.equal.iter().enumerate().filter(|(_, equal)| !**equal);
        for (row, _) in unequal {
            let hash = scratch.hashes[row];
            let found = self
                .table
                .iter_hash(hash)
                .copied()
                .find(|&slot| self.hashes[slot as usize] == hash && self.keys.equals(&incoming, row as u32, slot));
            groups[row] = found.unwrap_or_else(|| {
                let slot = self.keys.allocate();
                self.insert(hash, slot);
                self.keys.write(&incoming, &[row as u32], &[slot]);
                slot
            });
        }
    }

    /// Fills `groups` with the id of each row's key, [`NO_SLOT`] where there is none.
    pub fn find(&self, keys: &[ArrayRef], length: usize, groups: &mut Vec<u32>) {
        groups.clear();
        let mut hashes = Vec::new();
        hash_keys(keys, length, &mut hashes);
        if let (Some(words), Some(stored)) = (single_words(keys), self.keys.single_words()) {
            groups.extend(words.iter().zip(&hashes).map(|(&word, &hash)| {
                self.table
                    .find(hash, |&slot| stored[slot as usize] == word)
                    .copied()
                    .unwrap_or(NO_SLOT)
            }));
            return;
        }
        let incoming = self.keys.incoming(keys);
        groups.extend(hashes.iter().enumerate().map(|(row, &hash)| {
            let found = self.table.find(hash, |&slot| {
                self.hashes[slot as usize] == hash && self.keys.equals(&incoming, row as u32, slot)
            });
            found.copied().unwrap_or(NO_SLOT)
        }));
    }

    fn insert(&mut self, hash: u64, slot: u32) {
        if self.hashes.len() <= slot as usize {
            self.hashes.resize(slot as usize + 1, 0);
        }
        self.hashes[slot as usize] = hash;
        let hashes = &self.hashes;
        self.table.insert_unique(hash, slot, |&slot| hashes[slot as usize]);
    }

    /// Removes a key; its id may be handed out again.
    pub fn remove(&mut self, group: u32) {
        if let Ok(entry) = self
            .table
            .find_entry(self.hashes[group as usize], |&slot| slot == group)
        {
            entry.remove();
            self.keys.free(group);
        }
    }

    /// Reads keys back as columns.
    pub fn keys(&self, groups: &[u32]) -> Vec<ArrayRef> {
        self.keys.gather(groups)
    }

    /// Reads one column of keys back.
    pub fn key_column(&self, column: usize, groups: &[u32]) -> ArrayRef {
        self.keys.gather_columns(&[column], groups).swap_remove(0)
    }

    /// Returns the memory it holds, in bytes.
    pub fn bytes(&self) -> usize {
        // A control byte and the id for each bucket of the table.
        self.table.capacity() * 8 / 7 * 5 + self.hashes.capacity() * 8 + self.keys.bytes()
    }
}

/// Returns the values of a single 8-byte key column without NULL, as plain words.
fn single_words(keys: &[ArrayRef]) -> Option<arrow::buffer::ScalarBuffer<u64>> {
    let [key] = keys else { return None };
    if key.null_count() > 0 || key.data_type().primitive_width() != Some(8) {
        return None;
    }
    let data = key.to_data();
    Some(arrow::buffer::ScalarBuffer::new(
        data.buffers()[0].clone(),
        data.offset(),
        data.len(),
    ))
}

/// Fills `hashes` with a hash of each row over the given columns, the same on every worker.
pub fn hash_keys(keys: &[ArrayRef], length: usize, hashes: &mut Vec<u64>) {
    hashes.clear();
    if let [key] = keys {
        let integers = match key.data_type() {
            DataType::Int64 => Some(key.as_primitive::<Int64Type>().values().inner().clone()),
            DataType::UInt64 => Some(key.as_primitive::<UInt64Type>().values().inner().clone()),
            DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, _) => {
                Some(key.as_primitive::<TimestampMicrosecondType>().values().inner().clone())
            }
            _ => None,
        };
        if let Some(buffer) = integers {
            hashes.extend(buffer.typed_data::<u64>().iter().map(|&word| mix(word)));
            if let Some(nulls) = key.nulls() {
                for (row, hash) in hashes.iter_mut().enumerate() {
                    if nulls.is_null(row) {
                        *hash = mix(SEED);
                    }
                }
            }
            return;
        }
    }
    hashes.resize(length, SEED);
    create_hashes(keys, &RandomState::with_seed(SEED), hashes)
        .expect("queries refuses key types that cannot be hashed");
}

/// A folded multiplication: every input bit reaches every output bit.
fn mix(word: u64) -> u64 {
    let product = u128::from(word ^ SEED).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    (product as u64) ^ ((product >> 64) as u64)
}
