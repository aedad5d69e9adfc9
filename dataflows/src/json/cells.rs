//! One column with its type resolved, so that a cell is written without asking again.

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray,
    Float32Array, Float64Array, LargeBinaryArray, LargeStringArray, PrimitiveArray, StringArray, StringViewArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Float16Type, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType, Time32SecondType,
    Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::array_value_to_string;

use super::text;

/// The cells of one column. Arrays are clones of pointers.
#[derive(Debug)]
pub(super) struct Cells {
    nulls: Option<NullBuffer>,
    values: Values,
}

#[derive(Debug)]
enum Values {
    /// A column of type NULL.
    Null,
    Boolean(BooleanArray),
    Int8(PrimitiveArray<Int8Type>),
    Int16(PrimitiveArray<Int16Type>),
    Int32(PrimitiveArray<Int32Type>),
    Int64(PrimitiveArray<Int64Type>),
    UInt8(PrimitiveArray<UInt8Type>),
    UInt16(PrimitiveArray<UInt16Type>),
    UInt32(PrimitiveArray<UInt32Type>),
    UInt64(PrimitiveArray<UInt64Type>),
    Float16(PrimitiveArray<Float16Type>),
    Float32(Float32Array),
    Float64(Float64Array),
    Decimal32(PrimitiveArray<Decimal32Type>, i8),
    Decimal64(PrimitiveArray<Decimal64Type>, i8),
    Decimal128(Decimal128Array, i8),
    Date32(PrimitiveArray<Date32Type>),
    Date64(PrimitiveArray<Date64Type>),
    /// Instants, and how many of their units make a second.
    Timestamp(PrimitiveArray<Int64Type>, i64),
    Time(PrimitiveArray<Int64Type>, i64),
    Utf8(StringArray),
    LargeUtf8(LargeStringArray),
    Utf8View(StringViewArray),
    Binary(BinaryArray),
    LargeBinary(LargeBinaryArray),
    BinaryView(BinaryViewArray),
    FixedSizeBinary(FixedSizeBinaryArray),
    List(OffsetBuffer<i32>, Box<Cells>),
    LargeList(OffsetBuffer<i64>, Box<Cells>),
    FixedSizeList(usize, Box<Cells>),
    /// A label and the cells of each field.
    Struct(Vec<(Vec<u8>, Cells)>),
    /// Where a row's entries start, the keys and the values.
    Map(OffsetBuffer<i32>, ArrayRef, Box<Cells>),
    /// Rare types, by Arrow's text form.
    Other(ArrayRef),
}

impl Cells {
    pub(super) fn new(array: &ArrayRef) -> Self {
        Cells {
            // A dictionary's NULL may stand among its values.
            nulls: array.logical_nulls(),
            values: Values::new(array),
        }
    }

    /// Appends the cell of `row`.
    pub(super) fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            out.extend_from_slice(b"null");
            return;
        }
        match &self.values {
            Values::Null => out.extend_from_slice(b"null"),
            Values::Boolean(array) => out.extend_from_slice(if array.value(row) { b"true" } else { b"false" }),
            Values::Int8(array) => text::signed(array.value(row).into(), out),
            Values::Int16(array) => text::signed(array.value(row).into(), out),
            Values::Int32(array) => text::signed(array.value(row).into(), out),
            Values::Int64(array) => text::signed(array.value(row), out),
            Values::UInt8(array) => text::unsigned(array.value(row).into(), out),
            Values::UInt16(array) => text::unsigned(array.value(row).into(), out),
            Values::UInt32(array) => text::unsigned(array.value(row).into(), out),
            Values::UInt64(array) => text::unsigned(array.value(row), out),
            Values::Float16(array) => text::real(array.value(row).to_f32(), out),
            Values::Float32(array) => text::real(array.value(row), out),
            Values::Float64(array) => text::double(array.value(row), out),
            Values::Decimal32(array, scale) => text::decimal(array.value(row).into(), *scale, out),
            Values::Decimal64(array, scale) => text::decimal(array.value(row).into(), *scale, out),
            Values::Decimal128(array, scale) => text::decimal(array.value(row), *scale, out),
            Values::Date32(array) => text::date(array.value(row).into(), out),
            Values::Date64(array) => text::date(array.value(row).div_euclid(86_400_000), out),
            Values::Timestamp(array, per_second) => text::timestamp(array.value(row), *per_second, out),
            Values::Time(array, per_second) => text::time(array.value(row), *per_second, out),
            Values::Utf8(array) => text::string(array.value(row), out),
            Values::LargeUtf8(array) => text::string(array.value(row), out),
            Values::Utf8View(array) => text::string(array.value(row), out),
            Values::Binary(array) => text::hexadecimal(array.value(row), out),
            Values::LargeBinary(array) => text::hexadecimal(array.value(row), out),
            Values::BinaryView(array) => text::hexadecimal(array.value(row), out),
            Values::FixedSizeBinary(array) => text::hexadecimal(array.value(row), out),
            Values::List(offsets, items) => {
                write_list(offsets[row] as usize..offsets[row + 1] as usize, items, out);
            }
            Values::LargeList(offsets, items) => {
                write_list(offsets[row] as usize..offsets[row + 1] as usize, items, out);
            }
            Values::FixedSizeList(length, items) => {
                write_list(row * length..(row + 1) * length, items, out);
            }
            Values::Struct(fields) => {
                out.push(b'{');
                for (position, (label, cells)) in fields.iter().enumerate() {
                    if position > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(label);
                    cells.write(row, out);
                }
                out.push(b'}');
            }
            Values::Map(offsets, keys, values) => {
                out.push(b'{');
                let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
                for entry in start..end {
                    if entry > start {
                        out.push(b',');
                    }
                    // Keys of objects are strings, whatever their type.
                    text::string(&array_value_to_string(keys, entry).unwrap_or_default(), out);
                    out.push(b':');
                    values.write(entry, out);
                }
                out.push(b'}');
            }
            Values::Other(array) => text::string(&array_value_to_string(array, row).unwrap_or_default(), out),
        }
    }
}

impl Values {
    fn new(array: &ArrayRef) -> Self {
        match array.data_type() {
            DataType::Null => Values::Null,
            DataType::Boolean => Values::Boolean(array.as_boolean().clone()),
            DataType::Int8 => Values::Int8(array.as_primitive().clone()),
            DataType::Int16 => Values::Int16(array.as_primitive().clone()),
            DataType::Int32 => Values::Int32(array.as_primitive().clone()),
            DataType::Int64 => Values::Int64(array.as_primitive().clone()),
            DataType::UInt8 => Values::UInt8(array.as_primitive().clone()),
            DataType::UInt16 => Values::UInt16(array.as_primitive().clone()),
            DataType::UInt32 => Values::UInt32(array.as_primitive().clone()),
            DataType::UInt64 => Values::UInt64(array.as_primitive().clone()),
            DataType::Float16 => Values::Float16(array.as_primitive().clone()),
            DataType::Float32 => Values::Float32(array.as_primitive::<Float32Type>().clone()),
            DataType::Float64 => Values::Float64(array.as_primitive::<Float64Type>().clone()),
            DataType::Decimal32(_, scale) => Values::Decimal32(array.as_primitive().clone(), *scale),
            DataType::Decimal64(_, scale) => Values::Decimal64(array.as_primitive().clone(), *scale),
            DataType::Decimal128(_, scale) => {
                Values::Decimal128(array.as_primitive::<Decimal128Type>().clone(), *scale)
            }
            DataType::Date32 => Values::Date32(array.as_primitive().clone()),
            DataType::Date64 => Values::Date64(array.as_primitive().clone()),
            DataType::Timestamp(unit, _) => {
                let values = match unit {
                    TimeUnit::Second => array.as_primitive::<TimestampSecondType>().reinterpret_cast(),
                    TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().reinterpret_cast(),
                    TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().reinterpret_cast(),
                    TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().reinterpret_cast(),
                };
                Values::Timestamp(values, per_second(*unit))
            }
            DataType::Time32(TimeUnit::Second) => {
                let values = array.as_primitive::<Time32SecondType>();
                Values::Time(values.unary(i64::from), 1)
            }
            DataType::Time32(_) => {
                let values = array.as_primitive::<Time32MillisecondType>();
                Values::Time(values.unary(i64::from), 1_000)
            }
            DataType::Time64(TimeUnit::Microsecond) => Values::Time(
                array.as_primitive::<Time64MicrosecondType>().reinterpret_cast(),
                1_000_000,
            ),
            DataType::Time64(_) => Values::Time(
                array.as_primitive::<Time64NanosecondType>().reinterpret_cast(),
                1_000_000_000,
            ),
            DataType::Utf8 => Values::Utf8(array.as_string().clone()),
            DataType::LargeUtf8 => Values::LargeUtf8(array.as_string().clone()),
            DataType::Utf8View => Values::Utf8View(array.as_string_view().clone()),
            DataType::Binary => Values::Binary(array.as_binary().clone()),
            DataType::LargeBinary => Values::LargeBinary(array.as_binary().clone()),
            DataType::BinaryView => Values::BinaryView(array.as_binary_view().clone()),
            DataType::FixedSizeBinary(_) => Values::FixedSizeBinary(array.as_fixed_size_binary().clone()),
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Values::List(list.offsets().clone(), Box::new(Cells::new(list.values())))
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                Values::LargeList(list.offsets().clone(), Box::new(Cells::new(list.values())))
            }
            DataType::FixedSizeList(_, length) => {
                let list = array.as_fixed_size_list();
                Values::FixedSizeList(
                    usize::try_from(*length).unwrap_or(0),
                    Box::new(Cells::new(list.values())),
                )
            }
            DataType::Struct(fields) => {
                let columns = array.as_struct();
                let columns = columns.columns();
                let labels = fields.iter().map(|field| text::label(field.name()));
                Values::Struct(labels.zip(columns.iter().map(Cells::new)).collect())
            }
            DataType::Map(_, _) => {
                let map = array.as_map();
                Values::Map(
                    map.offsets().clone(),
                    map.keys().clone(),
                    Box::new(Cells::new(map.values())),
                )
            }
            DataType::Dictionary(_, value) => match cast(array, value) {
                Ok(values) => Values::new(&values),
                Err(_) => Values::Other(array.clone()),
            },
            _ => Values::Other(array.clone()),
        }
    }
}

fn write_list(items_of_row: std::ops::Range<usize>, items: &Cells, out: &mut Vec<u8>) {
    out.push(b'[');
    let start = items_of_row.start;
    for item in items_of_row {
        if item > start {
            out.push(b',');
        }
        items.write(item, out);
    }
    out.push(b']');
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}
