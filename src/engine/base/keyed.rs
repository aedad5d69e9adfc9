//! A relation with a key: one row a key, replaced where it stands.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use dataflows::Updates;
use dataflows::columns::Rows;
use dataflows::group_index::GroupIndex;

use super::{Counted, Pages};

/// Rows by key. A change costs one look-up by key instead of two by content.
///
/// A tick mostly takes back the row that stands and gives the next. Where it
/// says more of a key than that, in whatever order, its changes are added up.
pub(in crate::engine) struct Keyed {
    schema: SchemaRef,
    key: Vec<usize>,
    rest: Vec<usize>,
    index: GroupIndex,
    /// The other columns, in the slots of the index.
    values: Rows,
    entries: Vec<Entry>,
    pages: Pages,
    /// Counts the ticks applied.
    epoch: u64,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    /// Whether a row stands under this key.
    present: bool,
    /// The epoch of what follows.
    epoch: u64,
    given: bool,
    taken: bool,
    /// More was said than one row taken back, the one that stood, and one given.
    untidy: bool,
}

impl Keyed {
    pub(super) fn new(key: Vec<usize>, schema: &SchemaRef) -> Self {
        let rest: Vec<usize> = (0..schema.fields().len())
            .filter(|column| !key.contains(column))
            .collect();
        let types = |columns: &[usize]| -> Vec<DataType> {
            columns
                .iter()
                .map(|&column| schema.field(column).data_type().clone())
                .collect()
        };
        Keyed {
            index: GroupIndex::new(&types(&key)),
            values: Rows::new(&types(&rest)),
            schema: Arc::clone(schema),
            key,
            rest,
            entries: Vec::new(),
            pages: Pages::default(),
            epoch: 0,
        }
    }

    /// Applies the changes of one tick.
    pub(super) fn apply(&mut self, changes: &[Updates]) {
        self.epoch += 1;
        let slots: Vec<Vec<u32>> = changes.iter().map(|updates| self.look_up(updates)).collect();
        for (updates, slots) in changes.iter().zip(&slots) {
            self.compare_taken(updates, slots);
        }
        let mut untidy = Vec::new();
        for (updates, slots) in changes.iter().zip(&slots) {
            self.give_and_take(updates, slots, &mut untidy);
        }
        if !untidy.is_empty() {
            self.settle(&untidy);
        }
        for &slot in slots.iter().flatten() {
            // A key that is told of twice is removed once.
            let entry = &mut self.entries[slot as usize];
            if !entry.present && entry.epoch == self.epoch {
                entry.epoch -= 1;
                self.index.remove(slot);
                self.values.clear(slot);
            }
        }
    }

    /// Finds the slot of each row's key and notes what is said of it.
    fn look_up(&mut self, updates: &Updates) -> Vec<u32> {
        let mut slots = Vec::new();
        self.index
            .intern(&columns(updates, &self.key), updates.len(), &mut slots);
        let end = self.index.groups().max(self.entries.len());
        self.entries.resize(end, Entry::default());
        self.values.cover(end);
        self.pages.cover(end);
        for (&slot, &diff) in slots.iter().zip(updates.diffs()) {
            let entry = &mut self.entries[slot as usize];
            if entry.epoch != self.epoch {
                *entry = Entry {
                    present: entry.present,
                    epoch: self.epoch,
                    ..Entry::default()
                };
            }
            let said = if diff > 0 { &mut entry.given } else { &mut entry.taken };
            entry.untidy |= *said || diff.abs() != 1;
            *said = true;
            self.pages.touch(slot);
        }
        slots
    }

    /// A row taken back must be the one that stands.
    fn compare_taken(&mut self, updates: &Updates, slots: &[u32]) {
        let (mut rows, mut stand) = (Vec::with_capacity(slots.len()), Vec::with_capacity(slots.len()));
        for (row, (&slot, &diff)) in slots.iter().zip(updates.diffs()).enumerate() {
            let entry = &mut self.entries[slot as usize];
            if diff < 0 && entry.present {
                rows.push(row as u32);
                stand.push(slot);
            }
            entry.untidy |= diff < 0 && !entry.present;
        }
        let mut equal = vec![true; rows.len()];
        self.values.compare(
            &self.values.incoming(&columns(updates, &self.rest)),
            &rows,
            &stand,
            &mut equal,
        );
        for (&slot, equal) in stand.iter().zip(equal) {
            self.entries[slot as usize].untidy |= !equal;
        }
    }

    /// Writes the rows given and lets go those taken; collects what is untidy instead.
    fn give_and_take(&mut self, updates: &Updates, slots: &[u32], untidy: &mut Vec<Updates>) {
        let (mut rows, mut given) = (Vec::with_capacity(slots.len()), Vec::with_capacity(slots.len()));
        let mut aside = Vec::new();
        for (row, (&slot, &diff)) in slots.iter().zip(updates.diffs()).enumerate() {
            let entry = &mut self.entries[slot as usize];
            // A row that stands and is not taken back leaves no room for another.
            if entry.untidy || (entry.present && entry.given && !entry.taken) {
                entry.untidy = true;
                aside.push(row as u32);
            } else if diff > 0 {
                rows.push(row as u32);
                given.push(slot);
            }
        }
        self.values
            .write(&self.values.incoming(&columns(updates, &self.rest)), &rows, &given);
        if !aside.is_empty() {
            let diffs: Vec<i64> = aside.iter().map(|&row| updates.diffs()[row as usize]).collect();
            let rows = take_record_batch(updates.rows(), &UInt32Array::from(aside)).expect("rows are in range");
            untidy.push(Updates::new(rows, diffs));
        }
        for &slot in slots {
            let entry = &mut self.entries[slot as usize];
            if !entry.untidy {
                entry.present = entry.given;
            }
        }
    }

    /// Adds up all that was said of untidy keys, with what stands there.
    fn settle(&mut self, untidy: &[Updates]) {
        let mut sum = Counted::new(&self.schema);
        let mut slots = Vec::new();
        let mut standing = Vec::new();
        for updates in untidy {
            self.index
                .intern(&columns(updates, &self.key), updates.len(), &mut slots);
            for &slot in &slots {
                if std::mem::take(&mut self.entries[slot as usize].present) {
                    standing.push(slot);
                }
            }
        }
        sum.apply(std::iter::once(&Updates::inserts(self.rows(&standing))).chain(untidy));
        for left in sum.batches(&self.schema) {
            let left = Updates::inserts(left);
            self.index.intern(&columns(&left, &self.key), left.len(), &mut slots);
            let rows: Vec<u32> = (0..left.len() as u32).collect();
            self.values
                .write(&self.values.incoming(&columns(&left, &self.rest)), &rows, &slots);
            for &slot in &slots {
                if std::mem::replace(&mut self.entries[slot as usize].present, true) {
                    tracing::error!("two rows stand under one key of a relation whose plan implies that key");
                }
            }
        }
    }

    fn rows(&self, slots: &[u32]) -> RecordBatch {
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.schema.fields().len()];
        let keys = self.key.iter().zip(self.index.keys(slots));
        for (&column, values) in keys.chain(self.rest.iter().zip(self.values.gather(slots))) {
            columns[column] = Some(values);
        }
        let columns = columns.into_iter().flatten().collect();
        RecordBatch::try_new(Arc::clone(&self.schema), columns).expect("rows of this schema went in")
    }

    pub(super) fn batches(&mut self) -> Vec<RecordBatch> {
        let mut pages = std::mem::take(&mut self.pages);
        let batches = pages.batches(self.entries.len(), |range| {
            let slots = range.filter(|&slot| self.entries[slot].present);
            self.rows(&slots.map(|slot| slot as u32).collect::<Vec<_>>())
        });
        self.pages = pages;
        batches
    }
}

fn columns(updates: &Updates, positions: &[usize]) -> Vec<ArrayRef> {
    positions
        .iter()
        .map(|&position| Arc::clone(updates.rows().column(position)))
        .collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::datatypes::{Field, Int64Type, Schema};
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64;

    use super::*;

    fn schema() -> SchemaRef {
        let text = Field::new("v", DataType::Utf8, true);
        Arc::new(Schema::new(vec![text, Field::new("k", DataType::Int64, false)]))
    }

    fn updates(rows: &[(i64, Option<&str>, i64)]) -> Updates {
        let values: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<StringArray>());
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
        let diffs: Vec<i64> = rows.iter().map(|row| row.2).collect();
        Updates::new(RecordBatch::try_new(schema(), vec![values, keys]).unwrap(), diffs)
    }

    fn standing(batches: &[RecordBatch]) -> Vec<(i64, Option<String>)> {
        let mut rows = Vec::new();
        for batch in batches {
            let keys = batch.column(1).as_primitive::<Int64Type>();
            let values = batch.column(0).as_string::<i32>();
            rows.extend(
                keys.values()
                    .iter()
                    .zip(values)
                    .map(|(key, value)| (*key, value.map(str::to_owned))),
            );
        }
        rows.sort();
        rows
    }

    #[test]
    fn what_comes_and_goes_within_a_tick_leaves_no_trace() {
        let mut keyed = Keyed::new(vec![1], &schema());
        keyed.apply(&[updates(&[(1, Some("a"), 1), (2, None, 1)])]);
        // One transient row, one replaced twice in disorder, one that only passes through.
        keyed.apply(&[
            updates(&[
                (1, Some("x"), 1),
                (2, Some("c"), 1),
                (2, Some("b"), 1),
                (3, Some("y"), 1),
            ]),
            updates(&[
                (2, Some("b"), -1),
                (1, Some("x"), -1),
                (3, Some("y"), -1),
                (2, None, -1),
            ]),
        ]);
        let expected = [(1, Some("a".to_owned())), (2, Some("c".to_owned()))];
        assert_eq!(standing(&keyed.batches()), expected);
        assert_eq!(keyed.index.len(), 2);
        keyed.apply(&[updates(&[(1, Some("a"), -1), (2, Some("c"), -1)])]);
        assert!(keyed.batches().is_empty());
        assert!(keyed.index.is_empty());
    }

    #[test]
    fn it_holds_what_counting_by_content_holds() {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        println!("seed {seed}");
        let mut random = Pcg64::seed_from_u64(seed);
        let (mut keyed, mut counted) = (Keyed::new(vec![1], &schema()), Counted::new(&schema()));
        let texts = [None, Some(""), Some("a"), Some("b")];
        let mut current: Vec<Option<Option<&str>>> = vec![None; 20];
        for _ in 0..500 {
            let mut rows = Vec::new();
            for _ in 0..random.random_range(0..12) {
                let key = random.random_range(0..current.len());
                let next = random
                    .random_bool(0.7)
                    .then(|| texts[random.random_range(0..texts.len())]);
                rows.extend(current[key].map(|text| (key as i64, text, -1)));
                rows.extend(next.map(|text| (key as i64, text, 1)));
                current[key] = next;
            }
            // Within a tick, order says nothing.
            for at in (1..rows.len()).rev() {
                rows.swap(at, random.random_range(0..=at));
            }
            let changes: Vec<Updates> = rows.chunks(5).map(updates).collect();
            keyed.apply(&changes);
            counted.apply(changes.iter());
            let batches = keyed.batches();
            assert_eq!(standing(&batches), standing(&counted.batches(&schema())));
            assert_eq!(keyed.index.len(), standing(&batches).len());
        }
    }
}
