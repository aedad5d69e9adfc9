//! Lists, structs and maps as column types: what state can hold, and one form for what may be NULL within.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};

/// Returns a type in which everything within may be NULL.
///
/// Functions promise "never NULL" of elements in one place and not in another;
/// types that differ in nothing else must be one type. The keys of a map are
/// never NULL.
pub fn nullable(data_type: &DataType) -> DataType {
    let item = |field: &FieldRef| -> FieldRef {
        let within = nullable(field.data_type());
        Arc::new(Field::new(field.name(), within, true).with_metadata(field.metadata().clone()))
    };
    match data_type {
        DataType::List(field) => DataType::List(item(field)),
        DataType::LargeList(field) => DataType::LargeList(item(field)),
        DataType::FixedSizeList(field, length) => DataType::FixedSizeList(item(field), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(item).collect()),
        DataType::Map(entries, sorted) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                let fields = vec![Arc::clone(&fields[0]), item(&fields[1])];
                let entries = Field::new(entries.name(), DataType::Struct(fields.into()), false);
                DataType::Map(Arc::new(entries), *sorted)
            }
            _ => data_type.clone(),
        },
        other => other.clone(),
    }
}

/// Returns columns as a schema's types, which may differ in what is said about NULL within them.
pub fn fitting(mut columns: Vec<ArrayRef>, schema: &SchemaRef) -> Vec<ArrayRef> {
    for (column, field) in columns.iter_mut().zip(schema.fields()) {
        if field.data_type().is_nested()
            && column.data_type() != field.data_type()
            && let Ok(fitting) = cast(column, field.data_type())
        {
            *column = fitting;
        }
    }
    columns
}

/// Tells whether stateful operators and the view store can hold values of a type, and tell them apart.
pub fn is_held(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            is_held(field.data_type())
        }
        DataType::Map(entries, _) => is_held(entries.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| is_held(field.data_type())),
        DataType::Union(..)
        | DataType::Dictionary(..)
        | DataType::RunEndEncoded(..)
        | DataType::ListView(_)
        | DataType::LargeListView(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, Int64Array, ListArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Int64Type, Schema};

    use super::*;

    #[test]
    fn lists_that_promise_more_fit() {
        let strict = Arc::new(Field::new("element", DataType::Int64, false));
        let list = ListArray::new(
            strict.clone(),
            OffsetBuffer::from_lengths([2, 0]),
            Arc::new(Int64Array::from(vec![1, 2])),
            None,
        );
        let wanted = nullable(&DataType::List(strict));
        assert_eq!(
            wanted,
            DataType::List(Arc::new(Field::new("element", DataType::Int64, true)))
        );
        let schema = Arc::new(Schema::new(vec![Field::new("x", wanted.clone(), true)]));
        let fitted = fitting(vec![Arc::new(list)], &schema);
        assert_eq!(fitted[0].data_type(), &wanted);
        assert_eq!(
            fitted[0].as_list::<i32>().value(0).as_primitive::<Int64Type>().values(),
            &[1, 2]
        );
    }

    #[test]
    fn unions_and_dictionaries_are_not_held() {
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        assert!(!is_held(&dictionary));
        assert!(!is_held(&DataType::List(Arc::new(Field::new(
            "item", dictionary, true
        )))));
        assert!(is_held(&DataType::List(Arc::new(Field::new(
            "item",
            DataType::Utf8,
            true
        )))));
        assert!(is_held(&DataType::Decimal256(50, 3)));
    }
}
