//! The rows of each partition in their order, and what a tick changes of them.

use std::cmp::Ordering;
use std::ops::Range;

use arrow::array::ArrayRef;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, SortField};

use super::sequence::{Place, Sequence};
use crate::arena::Arena;
use crate::columns::Rows;
use crate::group_index::GroupIndex;
use crate::operators::leaders::Leaders;
use crate::operators::release::{Times, split};
use crate::parts::Part;

/// Rows by partition, ordered by the order columns and then by all columns.
///
/// State: each row once, however many calls read it, with its order columns as bytes.
pub(super) struct Partitions {
    keys: Vec<usize>,
    order: Vec<usize>,
    index: GroupIndex,
    sequences: Vec<Sequence>,
    pub(super) rows: Rows,
    width: usize,
    /// Encodes the order columns; none without an order.
    converter: Option<RowConverter>,
    /// Whether the first of them is a byte that says whether it is NULL, and then its value.
    fixed: bool,
    orders: Arena,
    /// How many rows of a partition can be wanted, where rows beyond so many never will be.
    ranks: Option<usize>,
    leaders: Leaders,
}

/// A row that came or went.
pub(super) struct Change {
    /// Where it stands now, or where what came after it stands now.
    pub(super) position: usize,
    pub(super) slot: u32,
    pub(super) came: bool,
}

/// What a tick changed.
#[derive(Default)]
pub(super) struct Changes {
    /// By partition, then by position.
    changes: Vec<Change>,
    touched: Vec<(u32, Range<usize>)>,
}

impl Changes {
    /// Returns the partitions touched, ascending, and their changes, by position.
    pub(super) fn by_partition(&self) -> impl Iterator<Item = (u32, &[Change])> + '_ {
        self.touched
            .iter()
            .map(|(partition, range)| (*partition, &self.changes[range.clone()]))
    }

    /// Returns the slots of the rows that came (true) or went.
    pub(super) fn slots(&self, came: bool) -> Vec<u32> {
        let changes = self.changes.iter().filter(|change| change.came == came);
        changes.map(|change| change.slot).collect()
    }
}

/// One row of a tick.
struct Entry {
    partition: u32,
    place: Place,
    diff: i64,
}

impl Partitions {
    pub(super) fn new(keys: Vec<usize>, order: &[(usize, SortOptions)], input: &SchemaRef) -> Self {
        let type_of = |column: usize| input.field(column).data_type().clone();
        let types: Vec<DataType> = input.fields().iter().map(|field| field.data_type().clone()).collect();
        let fields: Vec<SortField> = order
            .iter()
            .map(|(column, options)| SortField::new_with_options(type_of(*column), *options))
            .collect();
        Partitions {
            index: GroupIndex::new(&keys.iter().map(|&key| type_of(key)).collect::<Vec<_>>()),
            keys,
            order: order.iter().map(|(column, _)| *column).collect(),
            fixed: order
                .first()
                .is_some_and(|(column, _)| type_of(*column).primitive_width().is_some()),
            sequences: Vec::new(),
            rows: Rows::new(&types),
            width: types.len(),
            converter: (!fields.is_empty())
                .then(|| RowConverter::new(fields).expect("queries refuses orders that arrow-row cannot encode")),
            orders: Arena::default(),
            ranks: None,
            leaders: Leaders::default(),
        }
    }

    /// Has rows that so many others precede be passed over: none is ever taken back.
    pub(super) fn keep_first(&mut self, ranks: Option<usize>) {
        self.ranks = ranks;
    }

    /// Returns one more than the largest partition in use.
    pub(super) fn count(&self) -> usize {
        self.sequences.len()
    }

    pub(super) fn sequence(&self, partition: u32) -> &Sequence {
        &self.sequences[partition as usize]
    }

    /// Returns the order columns of a row as bytes.
    pub(super) fn order(&self, slot: u32) -> &[u8] {
        self.orders.read(slot as usize)
    }

    fn compare(&self, left: &Place, right: &Place) -> Ordering {
        left.prefix.cmp(&right.prefix).then_with(|| {
            let orders = self.order(left.slot).cmp(self.order(right.slot));
            orders.then_with(|| self.rows.order(left.slot, right.slot))
        })
    }

    /// Takes a tick's rows in. What went keeps its slot until [`Partitions::forget`].
    pub(super) fn apply(&mut self, parts: Vec<Part>) -> Changes {
        let mut entries = Vec::new();
        for part in parts {
            self.store(part, &mut entries);
        }
        entries.sort_unstable_by(|left, right| {
            let partitions = left.partition.cmp(&right.partition);
            partitions.then_with(|| self.compare(&left.place, &right.place))
        });
        let mut changes = Changes::default();
        let mut entries = entries.as_slice();
        while let Some(first) = entries.first() {
            let alike = |entry: &Entry| {
                entry.partition == first.partition && self.compare(&entry.place, &first.place) == Ordering::Equal
            };
            let (same, rest) = entries.split_at(entries.iter().take_while(|entry| alike(entry)).count());
            entries = rest;
            let start = match changes.touched.last() {
                Some((partition, range)) if *partition == first.partition => range.start,
                _ => {
                    changes.touched.push((first.partition, changes.changes.len()..0));
                    changes.changes.len()
                }
            };
            self.settle(first.partition, same, &mut changes.changes);
            let last = changes.touched.len() - 1;
            changes.touched[last].1 = start..changes.changes.len();
        }
        for (partition, _) in &changes.touched {
            self.sequences[*partition as usize].settle();
        }
        changes
    }

    /// Gives each row of a part a slot, those to be taken back, too.
    fn store(&mut self, part: Part, entries: &mut Vec<Entry>) {
        let (batch, diffs) = part.into_updates().into_parts();
        let mut partitions = Vec::new();
        match self.keys.as_slice() {
            [] => partitions.resize(batch.num_rows(), 0),
            keys => {
                let keys: Vec<ArrayRef> = keys.iter().map(|&key| batch.column(key).clone()).collect();
                self.index.intern(&keys, batch.num_rows(), &mut partitions);
            }
        }
        let count = if self.keys.is_empty() { 1 } else { self.index.groups() };
        self.sequences
            .resize_with(count.max(self.sequences.len()), Sequence::default);
        let encoded = self.converter.as_ref().map(|converter| {
            let columns: Vec<ArrayRef> = self.order.iter().map(|&column| batch.column(column).clone()).collect();
            converter
                .convert_columns(&columns)
                .expect("the columns have the planned types")
        });
        let leading = match (self.ranks, &encoded) {
            (Some(ranks), Some(encoded)) if diffs.iter().all(|diff| *diff > 0) => {
                let (sequences, orders) = (&self.sequences, &self.orders);
                let beats = |partition: u32, order: &[u8]| match sequences[partition as usize].get(ranks - 1) {
                    Some(last) => order <= orders.read(last as usize),
                    None => true,
                };
                Some(self.leaders.find(&partitions, encoded, ranks, beats))
            }
            _ => None,
        };
        let (mut rows, mut slots) = (Vec::new(), Vec::new());
        for (row, (&partition, &diff)) in partitions.iter().zip(&diffs).enumerate() {
            if leading.as_ref().is_some_and(|leading| !leading[row]) {
                continue;
            }
            // Equal rows have a place each.
            let copies = if diff > 0 { diff } else { diff.signum().abs() };
            for _ in 0..copies {
                let slot = self.rows.allocate();
                rows.push(row as u32);
                slots.push(slot);
                entries.push(Entry {
                    partition,
                    place: Place { prefix: 0, slot },
                    diff: diff.min(1),
                });
            }
        }
        let incoming = self.rows.incoming(batch.columns());
        self.rows.write(&incoming, &rows, &slots);
        if let Some(encoded) = encoded {
            let start = entries.len() - rows.len();
            for ((&row, &slot), entry) in rows.iter().zip(&slots).zip(&mut entries[start..]) {
                let encoded = encoded.row(row as usize).data();
                self.orders.write(slot as usize, encoded);
                entry.place.prefix = prefix(encoded, self.fixed);
            }
        }
    }

    /// Puts what equal rows come to into their partition's order.
    fn settle(&mut self, partition: u32, same: &[Entry], changes: &mut Vec<Change>) {
        let mut net: i64 = same.iter().map(|entry| entry.diff).sum();
        let place = same[0].place;
        if net < 0 {
            let sequence = &self.sequences[partition as usize];
            let position = sequence.search(|other| self.compare(other, &place) == Ordering::Less);
            while net < 0 {
                let held = self.sequences[partition as usize].get(position);
                let alike = |slot: &u32| {
                    self.order(*slot) == self.order(place.slot) && self.rows.order(*slot, place.slot).is_eq()
                };
                if held.filter(alike).is_none() {
                    tracing::error!(net, "a window was told to take back a row it does not hold");
                    break;
                }
                let slot = self.sequences[partition as usize].remove(position);
                changes.push(Change {
                    position,
                    slot,
                    came: false,
                });
                net += 1;
            }
            net = 0;
        }
        for Entry { place, diff, .. } in same {
            if *diff < 0 || net == 0 {
                self.free(place.slot);
                continue;
            }
            net -= 1;
            let sequence = &self.sequences[partition as usize];
            let position = sequence.search(|other| self.compare(other, place) != Ordering::Greater);
            self.sequences[partition as usize].insert(position, *place);
            changes.push(Change {
                position,
                slot: place.slot,
                came: true,
            });
        }
    }

    fn free(&mut self, slot: u32) {
        self.orders.write(slot as usize, &[]);
        self.rows.free(slot);
    }

    /// Returns how many columns a row has.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Returns the rows of the partitions below a time, and the least time of the others.
    pub(super) fn below(&self, times: &Times, below: i64) -> (Vec<u32>, Option<i64>) {
        let Some(position) = self.keys.iter().position(|key| *key == times.column) else {
            return (Vec::new(), None);
        };
        let held: Vec<u32> = (0..self.sequences.len() as u32)
            .filter(|&partition| self.sequences[partition as usize].len() > 0)
            .collect();
        let (gone, least) = split(&held, &times.of(&self.index.key_column(position, &held)), below);
        let rows = gone
            .into_iter()
            .flat_map(|partition| self.sequences[partition as usize].from(0));
        (rows.collect(), least)
    }

    /// Frees the slots of rows that went.
    pub(super) fn forget(&mut self, slots: &[u32]) {
        slots.iter().for_each(|&slot| self.free(slot));
    }

    /// Drops a partition's rows from a position on, for good, and returns their freed slots.
    pub(super) fn truncate(&mut self, partition: u32, position: usize) -> Vec<u32> {
        let dropped = self.sequences[partition as usize].truncate(position);
        self.forget(&dropped);
        dropped
    }

    /// Forgets a partition without rows; its number may be handed out again.
    pub(super) fn drop_empty(&mut self, partition: u32) {
        self.sequences[partition as usize] = Sequence::default();
        if !self.keys.is_empty() {
            self.index.remove(partition);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        // Chunks are about three quarters full.
        let places = self.rows.len() * size_of::<Place>() * 4 / 3;
        let sequences = self.sequences.capacity() * size_of::<Sequence>();
        self.index.bytes() + self.rows.bytes() + self.orders.bytes() + places + sequences
    }
}

/// Returns a number that orders rows as the first bytes of their order do.
fn prefix(order: &[u8], fixed: bool) -> u64 {
    let value = match (fixed, order) {
        (true, [0, ..]) => return 0,
        (true, [u8::MAX, ..]) => return u64::MAX,
        (true, [_, value @ ..]) => value,
        _ => order,
    };
    let mut bytes = [0; 8];
    let length = value.len().min(8);
    bytes[..length].copy_from_slice(&value[..length]);
    u64::from_be_bytes(bytes)
}
