//! What `array_agg` and `string_agg` make of the values of a group.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, LargeStringBuilder, ListArray, new_null_array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::DataType;

/// Makes a list of each run of values; NULL of none.
pub(super) fn lists(output: &DataType, values: ArrayRef, lengths: &[usize]) -> ArrayRef {
    let DataType::List(item) = output else {
        return new_null_array(output, lengths.len());
    };
    let nulls = NullBuffer::from_iter(lengths.iter().map(|length| *length > 0));
    let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
    let list = ListArray::try_new(Arc::clone(item), offsets, values, Some(nulls));
    list.map_or_else(|_| new_null_array(output, lengths.len()), |list| Arc::new(list))
}

/// Joins each run of texts; NULL of none.
pub(super) fn texts(values: &ArrayRef, lengths: &[usize], delimiter: &str) -> ArrayRef {
    let Ok(values) = cast(values, &DataType::LargeUtf8) else {
        return new_null_array(&DataType::LargeUtf8, lengths.len());
    };
    let values = values.as_string::<i64>();
    let mut joined = LargeStringBuilder::with_capacity(lengths.len(), values.value_data().len());
    let mut text = String::new();
    let mut at = 0;
    for &length in lengths {
        text.clear();
        for row in at..at + length {
            if row > at {
                text.push_str(delimiter);
            }
            if values.is_valid(row) {
                text.push_str(values.value(row));
            }
        }
        at += length;
        joined.append_option((length > 0).then_some(text.as_str()));
    }
    Arc::new(joined.finish())
}
