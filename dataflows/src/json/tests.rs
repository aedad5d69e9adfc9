use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float32Array,
    Float64Array, Int64Array, ListArray, NullArray, RecordBatch, StringArray, StructArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};

use super::{RowEncoder, rows};

fn encoded(array: impl Array + 'static) -> Vec<String> {
    let batch = RecordBatch::try_from_iter_with_nullable([("x", Arc::new(array) as ArrayRef, true)]).unwrap();
    let encoder = RowEncoder::new(&batch.schema());
    let bound = encoder.bind(&batch);
    (0..batch.num_rows())
        .map(|row| {
            let mut out = Vec::new();
            bound.object(row, &mut out);
            let text = String::from_utf8(out).unwrap();
            text.strip_prefix("{\"x\":")
                .unwrap()
                .strip_suffix('}')
                .unwrap()
                .to_owned()
        })
        .collect()
}

#[test]
fn floats_are_shortest_and_what_is_no_number_is_a_string() {
    let doubles = Float64Array::from(vec![
        Some(0.1),
        Some(-0.0),
        Some(7.0),
        Some(1e300),
        Some(5e-324),
        Some(f64::NAN),
        Some(f64::INFINITY),
        Some(f64::NEG_INFINITY),
        None,
    ]);
    assert_eq!(
        encoded(doubles),
        [
            "0.1",
            "-0.0",
            "7.0",
            "1e300",
            "5e-324",
            "\"NaN\"",
            "\"Infinity\"",
            "\"-Infinity\"",
            "null"
        ]
    );
    assert_eq!(encoded(Float32Array::from(vec![0.1])), ["0.1"]);
}

#[test]
fn integers_beyond_the_doubles_are_strings() {
    let edge = 1i64 << 53;
    assert_eq!(
        encoded(Int64Array::from(vec![
            0,
            -7,
            edge,
            edge + 1,
            -edge,
            -edge - 1,
            i64::MIN
        ])),
        [
            "0",
            "-7",
            "9007199254740992",
            "\"9007199254740993\"",
            "-9007199254740992",
            "\"-9007199254740993\"",
            "\"-9223372036854775808\""
        ]
    );
    assert_eq!(encoded(UInt64Array::from(vec![u64::MAX])), ["\"18446744073709551615\""]);
}

#[test]
fn decimals_keep_the_digits_of_their_scale() {
    let decimals = |values: Vec<i128>, scale| {
        encoded(
            Decimal128Array::from(values)
                .with_precision_and_scale(38, scale)
                .unwrap(),
        )
    };
    assert_eq!(
        decimals(vec![0, 5, -5, 12_345, i128::from(i64::MAX)], 2),
        [
            "\"0.00\"",
            "\"0.05\"",
            "\"-0.05\"",
            "\"123.45\"",
            "\"92233720368547758.07\""
        ]
    );
    assert_eq!(decimals(vec![12, 0], 0), ["\"12\"", "\"0\""]);
    assert_eq!(decimals(vec![12, 0], -2), ["\"1200\"", "\"0\""]);
}

#[test]
fn timestamps_are_rfc_3339_in_utc() {
    let at = TimestampMicrosecondArray::from(vec![0, 1_763_690_000_123_000, 1_763_690_000_000_001, -1])
        .with_timezone("Asia/Kolkata");
    assert_eq!(
        encoded(at),
        [
            "\"1970-01-01T00:00:00Z\"",
            "\"2025-11-21T01:53:20.123Z\"",
            "\"2025-11-21T01:53:20.000001Z\"",
            "\"1969-12-31T23:59:59.999999Z\""
        ]
    );
    assert_eq!(
        encoded(TimestampNanosecondArray::from(vec![1])),
        ["\"1970-01-01T00:00:00.000000001Z\""]
    );
    assert_eq!(
        encoded(TimestampMicrosecondArray::from(vec![i64::MAX, i64::MIN])),
        [
            "\"+294247-01-10T04:00:54.775807Z\"",
            "\"-290308-12-21T19:59:05.224192Z\""
        ]
    );
}

#[test]
fn days_follow_the_calendar() {
    assert_eq!(
        encoded(Date32Array::from(vec![
            0, 11_016, 20_454, -719_468, -719_529, 2_932_897
        ])),
        [
            "\"1970-01-01\"",
            "\"2000-02-29\"",
            "\"2026-01-01\"",
            "\"0000-03-01\"",
            "\"-0001-12-31\"",
            "\"+10000-01-01\""
        ]
    );
    assert_eq!(
        encoded(Time64MicrosecondArray::from(vec![45_296_500_000])),
        ["\"12:34:56.500\""]
    );
}

#[test]
fn text_is_escaped() {
    assert_eq!(
        encoded(StringArray::from(vec!["", "a\"b\\c", "\n\t\r\u{1}", "नदी </script>"])),
        ["\"\"", r#""a\"b\\c""#, r#""\n\t\r\u0001""#, "\"नदी </script>\""]
    );
}

#[test]
fn the_other_types_have_one_form_each() {
    assert_eq!(
        encoded(BooleanArray::from(vec![Some(true), Some(false), None])),
        ["true", "false", "null"]
    );
    assert_eq!(
        encoded(BinaryArray::from(vec![&b"\x00\xff"[..], b""])),
        ["\"00ff\"", "\"\""]
    );
    assert_eq!(encoded(NullArray::new(1)), ["null"]);
    let words: DictionaryArray<Int32Type> = vec![Some("a"), None].into_iter().collect();
    assert_eq!(encoded(words), ["\"a\"", "null"]);
}

#[test]
fn lists_and_structs_nest() {
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
        Some(vec![Some(1), None]),
        None,
        Some(vec![]),
        Some(vec![Some(1 << 60)]),
    ]);
    assert_eq!(encoded(lists), ["[1,null]", "null", "[]", "[\"1152921504606846976\"]"]);
    let structs = StructArray::from(vec![(
        Arc::new(Field::new("a b", DataType::Utf8, true)),
        Arc::new(StringArray::from(vec![Some("v"), None])) as ArrayRef,
    )]);
    assert_eq!(encoded(structs), [r#"{"a b":"v"}"#, r#"{"a b":null}"#]);
}

#[test]
fn columns_are_chosen_and_repeated_names_told_apart() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("x", DataType::Int64, false),
        Field::new("y", DataType::Int64, false),
        Field::new("x", DataType::Int64, false),
    ]));
    let column = |value| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
    let batch = RecordBatch::try_new(schema.clone(), vec![column(1), column(2), column(3)]).unwrap();
    let mut out = Vec::new();
    RowEncoder::with_columns(&schema, &[2, 1]).object(&batch, 0, &mut out);
    assert_eq!(out, br#"{"x":3,"y":2}"#);
    assert_eq!(
        rows(&[batch.clone(), batch]),
        br#"[{"x":1,"y":2,"x_2":3},{"x":1,"y":2,"x_2":3}]"#
    );
    assert_eq!(rows(&[]), b"[]");
}
