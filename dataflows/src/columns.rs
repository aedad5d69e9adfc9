//! Rows kept in growable columns and addressed by slot: the storage under every stateful operator.
//!
//! Slots are dense `u32`s that are reused once freed, so a row costs its values
//! and nothing else; nothing is allocated a row. Reading back is one gather a column.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, BinaryViewArray, StringViewArray, make_array, new_null_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, DataType, IntervalUnit};
use arrow::row::{RowConverter, SortField};

use crate::arena::Arena;

/// The slot that stands for "no row": gathering it gives NULL.
pub const NO_SLOT: u32 = u32::MAX;

/// A set of rows of fixed column types, addressed by slot.
pub struct Rows {
    columns: Vec<Column>,
    free: Vec<u32>,
    slots: u32,
}

/// The columns of one batch, prepared for being written to or compared with [`Rows`].
pub struct Incoming {
    columns: Vec<IncomingColumn>,
}

impl Rows {
    /// Holds no rows of the given column types.
    pub fn new(types: &[DataType]) -> Self {
        Rows {
            columns: types.iter().map(Column::new).collect(),
            free: Vec::new(),
            slots: 0,
        }
    }

    /// Returns one more than the largest slot ever handed out.
    pub fn slots(&self) -> usize {
        self.slots as usize
    }

    /// Returns how many slots hold a row.
    pub fn len(&self) -> usize {
        self.slots as usize - self.free.len()
    }

    /// Tells whether no slot holds a row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands out a slot whose values must be written next.
    pub fn allocate(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            let slot = self.slots;
            assert!(slot < NO_SLOT, "an operator holds at most 2^32 - 1 rows");
            self.slots += 1;
            slot
        })
    }

    /// Makes room for slots `0..slots` that are handed out elsewhere.
    pub fn cover(&mut self, slots: usize) {
        self.slots = self.slots.max(u32::try_from(slots).expect("slots are u32"));
    }

    /// Takes a slot back.
    pub fn free(&mut self, slot: u32) {
        self.clear(slot);
        self.free.push(slot);
    }

    /// Prepares the columns of a batch.
    pub fn incoming(&self, arrays: &[ArrayRef]) -> Incoming {
        Incoming {
            columns: self
                .columns
                .iter()
                .zip(arrays)
                .map(|(column, array)| column.incoming(array))
                .collect(),
        }
    }

    /// Writes row `rows[i]` of the batch to slot `slots[i]`.
    pub fn write(&mut self, incoming: &Incoming, rows: &[u32], slots: &[u32]) {
        let end = self.slots();
        for (column, input) in self.columns.iter_mut().zip(&incoming.columns) {
            column.write(input, rows, slots, end);
        }
    }

    /// Clears `equal[i]` where row `rows[i]` of the batch differs from slot `slots[i]`.
    ///
    /// NULL equals NULL here, and floats are compared by their bits.
    pub fn compare(&self, incoming: &Incoming, rows: &[u32], slots: &[u32], equal: &mut [bool]) {
        for (column, input) in self.columns.iter().zip(&incoming.columns) {
            column.compare(input, rows, slots, equal);
        }
    }

    /// Tells whether one row of the batch equals one slot.
    pub fn equals(&self, incoming: &Incoming, row: u32, slot: u32) -> bool {
        let mut equal = [true];
        self.compare(incoming, &[row], &[slot], &mut equal);
        equal[0]
    }

    /// Forgets the values of a slot that was handed out elsewhere; see [`Rows::cover`].
    pub fn clear(&mut self, slot: u32) {
        for column in &mut self.columns {
            column.clear(slot);
        }
    }

    /// Reads slots back as columns; [`NO_SLOT`] reads as NULL in every column.
    pub fn gather(&self, slots: &[u32]) -> Vec<ArrayRef> {
        self.columns.iter().map(|column| column.gather(slots)).collect()
    }

    /// Reads some columns of slots back; see [`Rows::gather`].
    pub fn gather_columns(&self, columns: &[usize], slots: &[u32]) -> Vec<ArrayRef> {
        columns
            .iter()
            .map(|&column| self.columns[column].gather(slots))
            .collect()
    }

    /// Compares two slots column by column, ascending, NULL first: the one byte order.
    pub fn order(&self, left: u32, right: u32) -> Ordering {
        let orders = self
            .columns
            .iter()
            .map(|column| column.order(left as usize, right as usize));
        orders
            .into_iter()
            .find(|order| *order != Ordering::Equal)
            .unwrap_or(Ordering::Equal)
    }

    /// Returns the 8-byte values of a column, whatever they are where there is NULL; none of a column of another width.
    pub(crate) fn words(&self, column: usize) -> &[u64] {
        match &self.columns[column].values {
            Values::Eight(values) => values,
            _ => &[],
        }
    }

    /// Returns the 8-byte values of the only column when rows are one such column without any NULL.
    pub(crate) fn single_words(&self) -> Option<&[u64]> {
        match &self.columns[..] {
            [
                Column {
                    values: Values::Eight(values),
                    valid,
                    ..
                },
            ] if valid.is_empty() => Some(values),
            _ => None,
        }
    }

    /// Writes plain 8-byte values of the only column; see [`Rows::single_words`].
    pub(crate) fn write_word(&mut self, slot: u32, word: u64) {
        if let [
            Column {
                values: Values::Eight(values),
                ..
            },
        ] = &mut self.columns[..]
        {
            let slot = slot as usize;
            if slot >= values.len() {
                values.resize(slot + 1, 0);
            }
            values[slot] = word;
        }
    }

    /// Returns the memory it holds, in bytes.
    pub fn bytes(&self) -> usize {
        self.free.capacity() * 4 + self.columns.iter().map(Column::bytes).sum::<usize>()
    }
}

/// One column of slots.
struct Column {
    data_type: DataType,
    values: Values,
    /// One flag a slot; empty as long as no NULL was ever written.
    valid: Vec<bool>,
}

enum Values {
    One(Vec<u8>),
    Two(Vec<u16>),
    Four(Vec<u32>),
    Eight(Vec<u64>),
    Sixteen(Vec<[u64; 2]>),
    Bytes(Arena),
    /// Types without a layout of their own here: each value as its arrow-row bytes.
    Encoded(RowConverter, Arena),
    Null,
}

/// What a column type is stored as.
fn width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Boolean => Some(1),
        other => other.primitive_width().filter(|width| *width <= 16),
    }
}

fn is_bytes(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(
        data_type,
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView
    )
}

struct IncomingColumn {
    values: IncomingValues,
    nulls: Option<NullBuffer>,
}

enum IncomingValues {
    One(Vec<u8>),
    Two(ScalarBuffer<u16>),
    Four(ScalarBuffer<u32>),
    Eight(ScalarBuffer<u64>),
    Sixteen(ScalarBuffer<u64>),
    Bytes(ArrayRef),
    Encoded(arrow::row::Rows),
    Null,
}

fn words<T: ArrowNativeType>(data: &ArrayData, per_row: usize) -> ScalarBuffer<T> {
    ScalarBuffer::new(data.buffers()[0].clone(), data.offset() * per_row, data.len() * per_row)
}

impl Column {
    fn new(data_type: &DataType) -> Self {
        let values = match width(data_type) {
            _ if *data_type == DataType::Null => Values::Null,
            Some(1) => Values::One(Vec::new()),
            Some(2) => Values::Two(Vec::new()),
            Some(4) => Values::Four(Vec::new()),
            Some(8) => Values::Eight(Vec::new()),
            Some(16) => Values::Sixteen(Vec::new()),
            _ if is_bytes(data_type) => Values::Bytes(Arena::default()),
            _ => {
                let converter = RowConverter::new(vec![SortField::new(data_type.clone())])
                    .expect("queries refuses column types that arrow-row cannot encode");
                Values::Encoded(converter, Arena::default())
            }
        };
        Column {
            data_type: data_type.clone(),
            values,
            valid: Vec::new(),
        }
    }

    fn incoming(&self, array: &ArrayRef) -> IncomingColumn {
        let values = match &self.values {
            Values::One(_) if self.data_type == DataType::Boolean => {
                IncomingValues::One(array.as_boolean().values().iter().map(u8::from).collect())
            }
            Values::One(_) => IncomingValues::One(words::<u8>(&array.to_data(), 1).to_vec()),
            Values::Two(_) => IncomingValues::Two(words(&array.to_data(), 1)),
            Values::Four(_) => IncomingValues::Four(words(&array.to_data(), 1)),
            Values::Eight(_) => IncomingValues::Eight(words(&array.to_data(), 1)),
            Values::Sixteen(_) => IncomingValues::Sixteen(words(&array.to_data(), 2)),
            Values::Bytes(_) => IncomingValues::Bytes(Arc::clone(array)),
            Values::Encoded(converter, _) => IncomingValues::Encoded(
                converter
                    .convert_columns(std::slice::from_ref(array))
                    .expect("the column has the declared type"),
            ),
            Values::Null => IncomingValues::Null,
        };
        // Encoded values carry their own NULLs.
        let nulls = match &values {
            IncomingValues::Encoded(_) | IncomingValues::Null => None,
            _ => array.nulls().filter(|nulls| nulls.null_count() > 0).cloned(),
        };
        IncomingColumn { values, nulls }
    }

    fn write(&mut self, input: &IncomingColumn, rows: &[u32], slots: &[u32], end: usize) {
        match (&mut self.values, &input.values) {
            (Values::One(values), IncomingValues::One(input)) => {
                write_fixed(values, end, rows, slots, |row| input[row])
            }
            (Values::Two(values), IncomingValues::Two(input)) => {
                write_fixed(values, end, rows, slots, |row| input[row])
            }
            (Values::Four(values), IncomingValues::Four(input)) => {
                write_fixed(values, end, rows, slots, |row| input[row])
            }
            (Values::Eight(values), IncomingValues::Eight(input)) => {
                write_fixed(values, end, rows, slots, |row| input[row])
            }
            (Values::Sixteen(values), IncomingValues::Sixteen(input)) => {
                write_fixed(values, end, rows, slots, |row| [input[2 * row], input[2 * row + 1]])
            }
            (Values::Bytes(arena), IncomingValues::Bytes(array)) => {
                let (nulls, values) = (input.nulls.as_ref(), ByteValues::new(array));
                for (&row, &slot) in rows.iter().zip(slots) {
                    let present = nulls.is_none_or(|nulls| nulls.is_valid(row as usize));
                    arena.write(slot as usize, if present { values.value(row as usize) } else { &[] });
                }
            }
            (Values::Encoded(_, arena), IncomingValues::Encoded(encoded)) => {
                for (&row, &slot) in rows.iter().zip(slots) {
                    arena.write(slot as usize, encoded.row(row as usize).data());
                }
            }
            (Values::Null, _) => {}
            _ => unreachable!("incoming columns are prepared by the column they are written to"),
        }
        match &input.nulls {
            Some(nulls) => {
                if self.valid.len() < end {
                    self.valid.resize(end, true);
                }
                for (&row, &slot) in rows.iter().zip(slots) {
                    self.valid[slot as usize] = nulls.is_valid(row as usize);
                }
            }
            None if !self.valid.is_empty() => {
                self.valid.resize(end.max(self.valid.len()), true);
                for &slot in slots {
                    self.valid[slot as usize] = true;
                }
            }
            None => {}
        }
    }

    fn compare(&self, input: &IncomingColumn, rows: &[u32], slots: &[u32], equal: &mut [bool]) {
        if input.nulls.is_some() || !self.valid.is_empty() {
            for ((&row, &slot), equal) in rows.iter().zip(slots).zip(equal.iter_mut()) {
                let incoming = input.nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row as usize));
                let stored = self.valid.get(slot as usize).is_none_or(|valid| *valid);
                if incoming != stored {
                    *equal = false;
                } else if !incoming {
                    // Both are NULL: whatever stands in the value buffers does not count.
                    continue;
                } else if *equal {
                    *equal = self.equal_values(input, row as usize, slot as usize);
                }
            }
            return;
        }
        match (&self.values, &input.values) {
            (Values::One(values), IncomingValues::One(input)) => {
                compare_fixed(values, rows, slots, equal, |row| input[row])
            }
            (Values::Two(values), IncomingValues::Two(input)) => {
                compare_fixed(values, rows, slots, equal, |row| input[row])
            }
            (Values::Four(values), IncomingValues::Four(input)) => {
                compare_fixed(values, rows, slots, equal, |row| input[row])
            }
            (Values::Eight(values), IncomingValues::Eight(input)) => {
                compare_fixed(values, rows, slots, equal, |row| input[row])
            }
            (Values::Sixteen(values), IncomingValues::Sixteen(input)) => {
                compare_fixed(values, rows, slots, equal, |row| [input[2 * row], input[2 * row + 1]])
            }
            (Values::Bytes(arena), IncomingValues::Bytes(array)) => {
                let values = ByteValues::new(array);
                for ((&row, &slot), equal) in rows.iter().zip(slots).zip(equal.iter_mut()) {
                    *equal &= arena.read(slot as usize) == values.value(row as usize);
                }
            }
            _ => {
                for ((&row, &slot), equal) in rows.iter().zip(slots).zip(equal.iter_mut()) {
                    *equal = *equal && self.equal_values(input, row as usize, slot as usize);
                }
            }
        }
    }

    fn equal_values(&self, input: &IncomingColumn, row: usize, slot: usize) -> bool {
        match (&self.values, &input.values) {
            (Values::One(values), IncomingValues::One(input)) => values[slot] == input[row],
            (Values::Two(values), IncomingValues::Two(input)) => values[slot] == input[row],
            (Values::Four(values), IncomingValues::Four(input)) => values[slot] == input[row],
            (Values::Eight(values), IncomingValues::Eight(input)) => values[slot] == input[row],
            (Values::Sixteen(values), IncomingValues::Sixteen(input)) => {
                values[slot] == [input[2 * row], input[2 * row + 1]]
            }
            (Values::Bytes(arena), IncomingValues::Bytes(array)) => {
                arena.read(slot) == ByteValues::new(array).value(row)
            }
            (Values::Encoded(_, arena), IncomingValues::Encoded(encoded)) => {
                arena.read(slot) == encoded.row(row).data()
            }
            (Values::Null, _) => true,
            _ => unreachable!("incoming columns are prepared by the column they are compared with"),
        }
    }

    fn order(&self, left: usize, right: usize) -> Ordering {
        let valid = |slot: usize| self.valid.get(slot).is_none_or(|valid| *valid);
        match (valid(left), valid(right)) {
            (true, true) => self.order_values(left, right),
            (left, right) => left.cmp(&right),
        }
    }

    fn order_values(&self, left: usize, right: usize) -> Ordering {
        use DataType::*;
        match &self.values {
            Values::One(values) => match self.data_type {
                Int8 => (values[left] as i8).cmp(&(values[right] as i8)),
                _ => values[left].cmp(&values[right]),
            },
            Values::Two(values) => match self.data_type {
                Int16 => (values[left] as i16).cmp(&(values[right] as i16)),
                _ => values[left].cmp(&values[right]),
            },
            Values::Four(values) => match self.data_type {
                UInt32 => values[left].cmp(&values[right]),
                Float32 => f32::from_bits(values[left]).total_cmp(&f32::from_bits(values[right])),
                _ => (values[left] as i32).cmp(&(values[right] as i32)),
            },
            Values::Eight(values) => match self.data_type {
                UInt64 => values[left].cmp(&values[right]),
                Float64 => f64::from_bits(values[left]).total_cmp(&f64::from_bits(values[right])),
                Interval(IntervalUnit::DayTime) => day_time(values[left]).cmp(&day_time(values[right])),
                _ => (values[left] as i64).cmp(&(values[right] as i64)),
            },
            Values::Sixteen(values) => match self.data_type {
                Interval(_) => month_day_nano(values[left]).cmp(&month_day_nano(values[right])),
                _ => wide(values[left]).cmp(&wide(values[right])),
            },
            Values::Bytes(arena) | Values::Encoded(_, arena) => arena.read(left).cmp(arena.read(right)),
            Values::Null => Ordering::Equal,
        }
    }

    fn clear(&mut self, slot: u32) {
        if let Values::Bytes(arena) | Values::Encoded(_, arena) = &mut self.values {
            arena.write(slot as usize, &[]);
        }
    }

    fn gather(&self, slots: &[u32]) -> ArrayRef {
        let nulls = self.gather_nulls(slots);
        let fixed = |buffer: Buffer| {
            let data = ArrayData::builder(self.data_type.clone())
                .len(slots.len())
                .add_buffer(buffer)
                .nulls(nulls.clone())
                .align_buffers(true)
                .build()
                .expect("buffers have the width of their type");
            make_array(data)
        };
        match &self.values {
            Values::One(values) if self.data_type == DataType::Boolean => {
                let bits = BooleanBuffer::from_iter(
                    slots
                        .iter()
                        .map(|&slot| values.get(slot as usize).is_some_and(|v| *v != 0)),
                );
                Arc::new(arrow::array::BooleanArray::new(bits, nulls))
            }
            Values::One(values) => fixed(gather_fixed(values, slots)),
            Values::Two(values) => fixed(gather_fixed(values, slots)),
            Values::Four(values) => fixed(gather_fixed(values, slots)),
            Values::Eight(values) => fixed(gather_fixed(values, slots)),
            Values::Sixteen(values) => {
                let mut out: Vec<u64> = Vec::with_capacity(2 * slots.len());
                for &slot in slots {
                    out.extend(values.get(slot as usize).copied().unwrap_or_default());
                }
                fixed(Buffer::from_vec(out))
            }
            Values::Bytes(arena) => arena.gather(slots, &self.data_type, nulls),
            Values::Encoded(converter, arena) => {
                let parser = converter.parser();
                let absent = converter
                    .convert_columns(&[new_null_array(&self.data_type, 1)])
                    .expect("NULL can be encoded in every type");
                let rows = slots.iter().map(|&slot| match slot {
                    NO_SLOT => parser.parse(absent.row(0).data()),
                    slot => parser.parse(arena.read(slot as usize)),
                });
                converter
                    .convert_rows(rows)
                    .expect("bytes this converter wrote")
                    .remove(0)
            }
            Values::Null => new_null_array(&DataType::Null, slots.len()),
        }
    }

    fn gather_nulls(&self, slots: &[u32]) -> Option<NullBuffer> {
        if self.valid.is_empty() && !slots.contains(&NO_SLOT) {
            return None;
        }
        let valid = slots
            .iter()
            .map(|&slot| slot != NO_SLOT && self.valid.get(slot as usize).is_none_or(|valid| *valid));
        Some(NullBuffer::from_iter(valid)).filter(|nulls| nulls.null_count() > 0)
    }

    fn bytes(&self) -> usize {
        let values = match &self.values {
            Values::One(values) => values.capacity(),
            Values::Two(values) => values.capacity() * 2,
            Values::Four(values) => values.capacity() * 4,
            Values::Eight(values) => values.capacity() * 8,
            Values::Sixteen(values) => values.capacity() * 16,
            Values::Bytes(arena) | Values::Encoded(_, arena) => arena.bytes(),
            Values::Null => 0,
        };
        values + self.valid.capacity()
    }
}

/// Days, then milliseconds.
fn day_time(word: u64) -> (i32, i32) {
    (word as i32, (word >> 32) as i32)
}

/// Months, days, then nanoseconds.
fn month_day_nano(words: [u64; 2]) -> (i32, i32, i64) {
    (words[0] as i32, (words[0] >> 32) as i32, words[1] as i64)
}

fn wide(words: [u64; 2]) -> i128 {
    i128::from(words[1] as i64) << 64 | i128::from(words[0])
}

fn write_fixed<T: Copy + Default>(
    values: &mut Vec<T>,
    end: usize,
    rows: &[u32],
    slots: &[u32],
    input: impl Fn(usize) -> T,
) {
    if values.len() < end {
        values.resize(end, T::default());
    }
    for (&row, &slot) in rows.iter().zip(slots) {
        values[slot as usize] = input(row as usize);
    }
}

fn compare_fixed<T: Copy + PartialEq>(
    values: &[T],
    rows: &[u32],
    slots: &[u32],
    equal: &mut [bool],
    input: impl Fn(usize) -> T,
) {
    for ((&row, &slot), equal) in rows.iter().zip(slots).zip(equal.iter_mut()) {
        *equal &= values[slot as usize] == input(row as usize);
    }
}

fn gather_fixed<T: ArrowNativeType>(values: &[T], slots: &[u32]) -> Buffer {
    // `get`, because NO_SLOT reads as any value under a NULL.
    let out: Vec<T> = slots
        .iter()
        .map(|&slot| values.get(slot as usize).copied().unwrap_or_default())
        .collect();
    Buffer::from_vec(out)
}

/// The values of a text or binary array as bytes; which kind it is, a branch predictor learns at once.
enum ByteValues<'a> {
    Short(&'a [i32], &'a [u8]),
    Long(&'a [i64], &'a [u8]),
    Text(&'a StringViewArray),
    Binary(&'a BinaryViewArray),
}

impl<'a> ByteValues<'a> {
    fn new(array: &'a ArrayRef) -> Self {
        match array.data_type() {
            DataType::Utf8 => {
                let array = array.as_string::<i32>();
                ByteValues::Short(array.value_offsets(), array.value_data())
            }
            DataType::LargeUtf8 => {
                let array = array.as_string::<i64>();
                ByteValues::Long(array.value_offsets(), array.value_data())
            }
            DataType::Binary => {
                let array = array.as_binary::<i32>();
                ByteValues::Short(array.value_offsets(), array.value_data())
            }
            DataType::LargeBinary => {
                let array = array.as_binary::<i64>();
                ByteValues::Long(array.value_offsets(), array.value_data())
            }
            DataType::Utf8View => ByteValues::Text(array.as_string_view()),
            _ => ByteValues::Binary(array.as_binary_view()),
        }
    }

    #[inline]
    fn value(&self, row: usize) -> &'a [u8] {
        match self {
            ByteValues::Short(offsets, data) => &data[offsets[row] as usize..offsets[row + 1] as usize],
            ByteValues::Long(offsets, data) => &data[offsets[row] as usize..offsets[row + 1] as usize],
            ByteValues::Text(array) => array.value(row).as_bytes(),
            ByteValues::Binary(array) => array.value(row),
        }
    }
}
