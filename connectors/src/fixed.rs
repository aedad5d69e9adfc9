//! Columns of values that all have one width, and how much room to make for the next batch.

use std::sync::Arc;

use arrow::array::builder::NullBufferBuilder;
use arrow::array::{ArrayRef, ArrowPrimitiveType, PrimitiveArray};
use arrow::datatypes::DataType;

/// The values of a column so far.
pub(crate) struct Fixed<T: ArrowPrimitiveType> {
    data_type: DataType,
    values: Vec<T::Native>,
    nulls: NullBufferBuilder,
    room: Room,
}

impl<T: ArrowPrimitiveType> Fixed<T> {
    /// Holds no values of a type that `T` stores.
    pub(crate) fn new(data_type: &DataType) -> Fixed<T> {
        Fixed {
            data_type: data_type.clone(),
            values: Vec::new(),
            nulls: NullBufferBuilder::new(0),
            room: Room::default(),
        }
    }

    #[inline]
    pub(crate) fn append(&mut self, value: Option<T::Native>) {
        self.values.push(value.unwrap_or_default());
        match value {
            Some(_) => self.nulls.append_non_null(),
            None => self.nulls.append_null(),
        }
    }

    /// Returns what was appended, and starts anew.
    pub(crate) fn finish(&mut self) -> ArrayRef {
        let next = Vec::with_capacity(self.room.after(self.values.len()));
        let values = std::mem::replace(&mut self.values, next);
        let array = PrimitiveArray::<T>::new(values.into(), self.nulls.finish());
        Arc::new(array.with_data_type(self.data_type.clone()))
    }
}

/// What the last batch took: the next is likely as large, and to grow by copying is dear.
#[derive(Default)]
pub(crate) struct Room {
    last: usize,
}

impl Room {
    /// Returns the room to make after a batch that took so much: a little more than it and the one before did, where
    /// they are alike. Else the smaller, for a batch keeps the room that was made for it.
    pub(crate) fn after(&mut self, took: usize) -> usize {
        let before = std::mem::replace(&mut self.last, took);
        let (less, more) = (before.min(took), before.max(took));
        match more <= less + less / 2 {
            true => more + more / 16,
            false => less,
        }
    }
}
