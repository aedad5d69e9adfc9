//! Byte strings by slot.

use std::sync::Arc;

use arrow::array::{ArrayData, ArrayRef, BinaryViewArray, StringViewArray, make_array};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::DataType;

/// Arenas below this size are not worth compacting.
const COMPACT_BYTES_MIN: usize = 64 * 1024;

/// Byte strings by slot in one buffer, compacted once half of it is garbage.
#[derive(Default)]
pub(crate) struct Arena {
    buffer: Vec<u8>,
    spans: Vec<Span>,
    garbage: usize,
}

/// Where a slot's bytes are. What is no longer than the room left by those before it takes their place.
#[derive(Clone, Copy, Default)]
struct Span {
    start: u64,
    length: u32,
    room: u32,
}

impl Span {
    fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.start as usize + self.length as usize
    }
}

impl Arena {
    pub(crate) fn read(&self, slot: usize) -> &[u8] {
        match self.spans.get(slot) {
            Some(span) => &self.buffer[span.range()],
            None => &[],
        }
    }

    pub(crate) fn write(&mut self, slot: usize, value: &[u8]) {
        if slot >= self.spans.len() {
            self.spans.resize(slot + 1, Span::default());
        }
        let length = u32::try_from(value.len()).expect("a value is shorter than 4 GiB");
        let span = &mut self.spans[slot];
        self.garbage += span.length as usize;
        span.length = length;
        if length <= span.room {
            self.garbage -= length as usize;
            self.buffer[span.range()].copy_from_slice(value);
        } else {
            (span.start, span.room) = (self.buffer.len() as u64, length);
            self.buffer.extend_from_slice(value);
        }
        if self.garbage > COMPACT_BYTES_MIN && self.garbage * 2 > self.buffer.len() {
            self.compact();
        }
    }

    fn compact(&mut self) {
        let mut buffer = Vec::with_capacity(self.buffer.len() - self.garbage);
        for span in &mut self.spans {
            let bytes = &self.buffer[span.range()];
            (span.start, span.room) = (buffer.len() as u64, span.length);
            buffer.extend_from_slice(bytes);
        }
        self.buffer = buffer;
        self.garbage = 0;
    }

    /// Reads slots back as a text or binary column.
    pub(crate) fn gather(&self, slots: &[u32], data_type: &DataType, nulls: Option<NullBuffer>) -> ArrayRef {
        let valid = |i: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(i));
        match data_type {
            DataType::Utf8View => {
                let text = slots.iter().enumerate().map(|(i, &slot)| {
                    valid(i).then(|| str::from_utf8(self.read(slot as usize)).expect("UTF-8 went in"))
                });
                return Arc::new(StringViewArray::from_iter(text));
            }
            DataType::BinaryView => {
                let bytes = slots
                    .iter()
                    .enumerate()
                    .map(|(i, &slot)| valid(i).then(|| self.read(slot as usize)));
                return Arc::new(BinaryViewArray::from_iter(bytes));
            }
            _ => {}
        }
        let lengths = slots
            .iter()
            .map(|&slot| self.spans.get(slot as usize).map_or(0, |span| span.length as usize));
        let total: usize = lengths.clone().sum();
        let mut values = Vec::with_capacity(total);
        for &slot in slots {
            values.extend_from_slice(self.read(slot as usize));
        }
        let offsets = match data_type {
            DataType::LargeUtf8 | DataType::LargeBinary => {
                OffsetBuffer::<i64>::from_lengths(lengths).into_inner().into_inner()
            }
            _ => OffsetBuffer::<i32>::from_lengths(lengths).into_inner().into_inner(),
        };
        let data = ArrayData::builder(data_type.clone())
            .len(slots.len())
            .add_buffer(offsets)
            .add_buffer(Buffer::from_vec(values))
            .nulls(nulls)
            .build()
            .expect("bytes that were valid when they went in");
        make_array(data)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.buffer.capacity() + self.spans.capacity() * size_of::<Span>()
    }
}
