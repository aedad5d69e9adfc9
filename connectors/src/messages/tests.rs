use arrow::array::{AsArray, Int64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Int64Type};
use rand::{RngExt, SeedableRng};

use super::*;
use crate::format::Decoder;

fn column(name: &str, data_type: DataType, nullable: bool) -> Column {
    Column::new(Arc::new(Field::new(name, data_type, nullable)))
}

fn key(name: &str, data_type: DataType) -> Column {
    Column {
        key: true,
        ..column(name, data_type, false)
    }
}

/// `id` comes beside the message, `name` and `n` from its bytes.
fn columns() -> Vec<Column> {
    vec![
        column("name", DataType::Utf8, false),
        column("id", DataType::Int64, false),
        column("n", DataType::Int64, true),
    ]
}

fn decoder(format: &str, columns: &[Column], filled: &[usize]) -> MessageDecoder {
    MessageDecoder::new(&toml::from_str(format).unwrap(), columns, filled, "UTC").unwrap()
}

fn bytes<'a>(messages: &[&'a str]) -> Vec<Option<&'a [u8]>> {
    let null = |text: &&'a str| (*text != "NULL").then_some(text.as_bytes());
    messages.iter().map(null).collect()
}

/// Rows as JSON, with the message of each; then the reasons, with theirs.
fn told(found: &FromMessages) -> Vec<String> {
    let rows = &found.decoded.rows;
    assert_eq!(rows.num_rows(), found.rows_of.len());
    assert_eq!(found.decoded.rejected.len(), found.rejected_of.len());
    let encoder = dataflows::json::RowEncoder::new(&rows.schema());
    let mut told = Vec::new();
    for (row, message) in found.rows_of.iter().enumerate() {
        let mut text = Vec::new();
        encoder.object(rows, row, &mut text);
        told.push(format!("{message} {}", String::from_utf8(text).unwrap()));
    }
    for (rejected, message) in found.decoded.rejected.iter().zip(&found.rejected_of) {
        told.push(format!("{message} {} | {}", rejected.reason, rejected.raw));
    }
    told
}

fn decode(format: &str, messages: &[&str]) -> Vec<String> {
    let ids = Int64Array::from_iter_values(100..100 + messages.len() as i64);
    told(&decoder(format, &columns(), &[1]).decode(&Messages {
        keys: &[],
        values: &bytes(messages),
        filled: vec![Filling::Values(Arc::new(ids))],
    }))
}

#[test]
fn bad_messages_disturb_no_others() {
    let found = decode(
        "",
        &[
            r#"{"name":"a","n":1}"#,
            r#"{"name":"b","n":2"#,
            r#"{"name":"c","n":3}"#,
            r#"{"name":"d","n":"x"}"#,
            "",
            r#"{"n":6,"name":"f"} {"n":7}"#,
            "NULL",
            "\n",
            r#"{"n":9,"name":"i","id":5}"#,
            r#""name"#,
            r#"{"name":"k"}"#,
        ],
    );
    assert_eq!(
        found,
        [
            r#"0 {"name":"a","id":100,"n":1}"#,
            r#"2 {"name":"c","id":102,"n":3}"#,
            r#"8 {"name":"i","id":108,"n":9}"#,
            r#"10 {"name":"k","id":110,"n":null}"#,
            r#"1 the object is cut off | {"name":"b","n":2"#,
            r#"3 column "n": "x" is not an integer of 64 bits | {"name":"d","n":"x"}"#,
            r#"5 text follows the object on its line | {"n":6,"name":"f"} {"n":7}"#,
            "6 a message without a value, which takes rows back only with envelope = \"upsert\" | ",
            r#"9 expected an object at byte 1 of the row | "name"#,
        ]
    );
}

#[test]
fn a_message_may_hold_many_rows_and_line_ends() {
    let found = decode(
        "",
        &[
            "{\"name\":\"a\",\n \"n\":1\n}\n",
            "[{\"name\":\"b\"},\n{\"name\":\"c\",\"n\":[]},{\"name\":\"d\"}]",
            "{\"name\":\"e\"}\n{\"name\":\"f\"}\nx\n{\"name\":\"g\"}",
            "[]",
            "\u{feff}{\"name\":\"h\"}",
            "[{\"name\":\"i\"}",
            "{\"name\":\"j\"}",
        ],
    );
    assert_eq!(
        found,
        [
            r#"0 {"name":"a","id":100,"n":1}"#,
            r#"1 {"name":"b","id":101,"n":null}"#,
            r#"1 {"name":"d","id":101,"n":null}"#,
            r#"2 {"name":"e","id":102,"n":null}"#,
            r#"2 {"name":"f","id":102,"n":null}"#,
            r#"2 {"name":"g","id":102,"n":null}"#,
            r#"4 {"name":"h","id":104,"n":null}"#,
            r#"5 {"name":"i","id":105,"n":null}"#,
            r#"6 {"name":"j","id":106,"n":null}"#,
            r#"1 column "n": an object or array, not a plain value | {"name":"c","n":[]}"#,
            "2 expected an object at byte 1 of the row | x",
            "5 the array is never closed | ",
        ]
    );
}

#[test]
fn lines_of_csv() {
    let messages = ["a,1", "b", "c,3\nd,4\r\n", "\"e\n,\",5", "\"f,6", "g,x", "", "h,"];
    assert_eq!(
        decode("type = \"csv\"", &messages),
        [
            r#"0 {"name":"a","id":100,"n":1}"#,
            r#"2 {"name":"c","id":102,"n":3}"#,
            r#"2 {"name":"d","id":102,"n":4}"#,
            r#"3 {"name":"e\n,","id":103,"n":5}"#,
            r#"7 {"name":"h","id":107,"n":null}"#,
            "1 the line has 1 fields, expected 2 | b",
            "4 a quote is never closed | \"f,6",
            r#"5 column "n": "x" is not an integer of 64 bits | g,x"#,
        ]
    );
    let headed = ["n;name\n1;a\n2;b", "name;n\nc;3"];
    assert_eq!(
        decode("type = \"csv\"\nheader = true\ndelimiter = \";\"", &headed),
        [
            r#"0 {"name":"a","id":100,"n":1}"#,
            r#"0 {"name":"b","id":100,"n":2}"#,
            r#"1 {"name":"c","id":101,"n":3}"#,
        ]
    );
}

#[test]
fn what_is_filled_is_judged_like_any_value() {
    let columns = [
        column("n", DataType::Int64, true),
        column("level", DataType::Int64, false),
        column("raw", DataType::Binary, true),
        column("text", DataType::Utf8, true),
    ];
    let mut decoder = decoder("", &columns, &[1, 2, 3]);
    let values = bytes(&[
        r#"{"n":0}"#,
        r#"{"n":1}"#,
        r#"{"n":2}"#,
        r#"{"n":3}"#,
        "{",
        r#"{"n":5}"#,
    ]);
    let levels = bytes(&["7", "x", "NULL", "9", "10", "11"]);
    let raw: Vec<Option<&[u8]>> = vec![Some(&[0xff]), None, None, None, None, Some(b"a")];
    let texts: Vec<Option<&[u8]>> = vec![Some(b"t"), None, None, Some(&[0xff]), None, None];
    let found = decoder.decode(&Messages {
        keys: &[],
        values: &values,
        filled: vec![Filling::Bytes(levels), Filling::Bytes(raw), Filling::Bytes(texts)],
    });
    assert_eq!(
        told(&found),
        [
            r#"0 {"n":0,"level":7,"raw":"ff","text":"t"}"#,
            r#"5 {"n":5,"level":11,"raw":"61","text":null}"#,
            r#"1 column "level": "x" is not an integer of 64 bits | {"n":1}"#,
            r#"2 column "level": missing, but declared not null | {"n":2}"#,
            r#"3 column "text": not valid UTF-8 | {"n":3}"#,
            "4 the object is cut off | {",
        ]
    );
}

#[test]
fn all_columns_may_be_filled() {
    let columns = [column("level", DataType::Utf8, false)];
    let found = decoder("", &columns, &[0]).decode(&Messages {
        keys: &[],
        values: &bytes(&["{}", r#"{"a":1}"#, "x"]),
        filled: vec![Filling::Bytes(bytes(&["a", "b", "c"]))],
    });
    let expected = [
        r#"0 {"level":"a"}"#,
        r#"1 {"level":"b"}"#,
        "2 expected an object at byte 1 of the row | x",
    ];
    assert_eq!(told(&found), expected);
}

#[test]
fn debezium_envelopes() {
    let columns = [
        key("id", DataType::Int64),
        column("n", DataType::Int64, false),
        column("at", DataType::Int64, false),
    ];
    let mut decoder = decoder("envelope = \"debezium\"", &columns, &[2]);
    let found = decoder.decode(&Messages {
        keys: &[],
        values: &bytes(&[
            r#"{"op":"c","before":null,"after":{"id":1,"n":1}}"#,
            r#"{"op":"u","before":{"id":1,"n":1},"after":{"id":2,"n":2}}"#,
            "NULL",
            r#"{"op":"u","before":{"id":2,"n":2},"after":{"id":2}}"#,
            r#"{"schema":{},"payload":{"op":"d","before":{"id":2},"after":null}}"#,
            r#"{"op":"c","after":{"id":3,"n":3}}"#,
        ]),
        filled: vec![Filling::Values(Arc::new(Int64Array::from(vec![
            Some(0),
            Some(1),
            Some(2),
            Some(3),
            None,
            None,
        ])))],
    });
    assert_eq!(
        told(&found),
        [
            r#"0 {"id":1,"n":1,"at":0,"__taken_back":false}"#,
            r#"1 {"id":1,"n":1,"at":1,"__taken_back":true}"#,
            r#"1 {"id":2,"n":2,"at":1,"__taken_back":false}"#,
            r#"4 {"id":2,"n":null,"at":null,"__taken_back":true}"#,
            concat!(
                r#"3 column "n": missing, but declared not null | "#,
                r#"{"op":"u","before":{"id":2,"n":2},"after":{"id":2}}"#
            ),
            r#"5 column "at": missing, but declared not null | {"op":"c","after":{"id":3,"n":3}}"#,
        ]
    );
}

#[test]
fn upserts_and_tombstones() {
    let columns = [
        column("n", DataType::Int64, false),
        key("id", DataType::Int64),
        key("sub", DataType::Utf8),
    ];
    let mut two = decoder("envelope = \"upsert\"", &columns, &[]);
    let keys = bytes(&[
        r#"{"id":1,"sub":"a"}"#,
        r#"{"id":1,"sub":"a"}"#,
        r#"{"sub":"b"}"#,
        "NULL",
        "7",
        r#"{"id":3,"sub":"c","other":1}"#,
        r#"{"id":4,"sub":"d"}"#,
    ]);
    let values = bytes(&[
        r#"{"n":1,"id":99}"#,
        "NULL",
        "NULL",
        r#"{"n":4}"#,
        r#"{"n":5}"#,
        r#"{"n":6}"#,
        r#"{}"#,
    ]);
    let found = two.decode(&Messages {
        keys: &keys,
        values: &values,
        filled: Vec::new(),
    });
    assert_eq!(
        told(&found),
        [
            r#"0 {"n":1,"id":1,"sub":"a","__taken_back":false}"#,
            r#"1 {"n":null,"id":1,"sub":"a","__taken_back":true}"#,
            r#"5 {"n":6,"id":3,"sub":"c","__taken_back":false}"#,
            r#"2 key of the message: column "id": missing, but declared not null | {"sub":"b"}"#,
            r#"3 a message without a key, which says which row is meant | {"n":4}"#,
            r#"4 key of the message: expected an object at byte 1 of the row | {"n":5}"#,
            r#"6 column "n": missing, but declared not null | {}"#,
        ]
    );

    for (data_type, keys, shown) in [
        (DataType::Int64, ["{\"id\":5}", "6", "\"7\""], ["5", "6", "7"]),
        (
            DataType::Utf8,
            ["{\"id\":\"a\"}", "b\"\\c", "\"d\\n\""],
            ["\"a\"", "\"b\\\"\\\\c\"", "\"d\\n\""],
        ),
    ] {
        let columns = [column("n", DataType::Int64, true), key("id", data_type)];
        let found = decoder("type = \"csv\"\nenvelope = \"upsert\"", &columns, &[]).decode(&Messages {
            keys: &bytes(&keys),
            values: &bytes(&["1", "NULL", "3"]),
            filled: Vec::new(),
        });
        let row = |at: usize, n: &str| {
            format!(
                "{at} {{\"n\":{n},\"id\":{},\"__taken_back\":{}}}",
                shown[at],
                n == "null"
            )
        };
        assert_eq!(told(&found), [row(0, "1"), row(1, "null"), row(2, "3")]);
    }
}

#[test]
fn a_declaration_that_cannot_work() {
    let error = |format: &str, columns: &[Column]| {
        MessageDecoder::new(&toml::from_str(format).unwrap(), columns, &[], "UTC")
            .unwrap_err()
            .what
    };
    assert_eq!(
        error("envelope = \"upsert\"", &columns()),
        "envelope = \"upsert\" needs to know which columns stand in the key of a message"
    );
    assert_eq!(
        error("type = \"parquet\"", &columns()),
        "parquet is read from files only"
    );
    let plain = Decoder::new(
        &toml::from_str("envelope = \"upsert\"").unwrap(),
        &[key("a", DataType::Int64)],
        "UTC",
    );
    assert_eq!(
        plain.unwrap_err().what,
        "envelope = \"upsert\" is of messages that have a key"
    );
}

#[test]
fn text_that_is_not_utf8() {
    let columns = [column("name", DataType::Utf8, false)];
    let values: Vec<Option<&[u8]>> = vec![
        Some(b"{\"name\":\"a\"}"),
        Some(b"{\"name\":\"\xe9\"}"),
        Some(b"{\"name\":\"b\xe9"),
        Some("{\"name\":\"é\"}".as_bytes()),
    ];
    let messages = Messages {
        keys: &[],
        values: &values,
        filled: Vec::new(),
    };
    let strict = told(&decoder("", &columns, &[]).decode(&messages));
    assert_eq!(
        strict,
        [
            r#"0 {"name":"a"}"#,
            r#"3 {"name":"é"}"#,
            "1 not valid UTF-8 at byte 10 of the row | {\"name\":\"\u{fffd}\"}",
            "2 not valid UTF-8 at byte 11 of the row | {\"name\":\"b\u{fffd}",
        ]
    );
    let latin1 = told(&decoder("encoding = \"latin1\"", &columns, &[]).decode(&messages));
    assert_eq!(
        latin1[..3],
        [r#"0 {"name":"a"}"#, r#"1 {"name":"é"}"#, r#"3 {"name":"é"}"#]
    );
}

/// Messages together come to what each comes to alone, as the body of a request.
#[test]
fn together_as_each_alone() {
    let seed = 5;
    println!("seed {seed}");
    let mut random = rand_pcg::Pcg64::seed_from_u64(seed);
    let alphabet = b"{}[]\",:\\ue0123-+.tfn\n \t\rx";
    for format in ["", "type = \"csv\"\nheader = false"] {
        let read = [
            column("name", DataType::Utf8, false),
            column("n", DataType::Int64, true),
        ];
        let mut together = decoder(format, &columns(), &[1]);
        let mut alone = Decoder::new(&toml::from_str(format).unwrap(), &read, "UTC").unwrap();
        let (mut good, mut bad) = (0, 0);
        for _ in 0..40 {
            let messages: Vec<Vec<u8>> = (0..random.random_range(1..700))
                .map(|at| {
                    let long = "x".repeat(if random.random_range(0..50) == 0 { 40_000 } else { 3 });
                    let mut message = match (format.is_empty(), random.random_range(0..6)) {
                        (true, 0) => format!("[{{\"n\":{at},\"name\":\"p\"}},{{\"name\":\"q\",\"n\":{at}}}]"),
                        (true, 1) => format!("{{\"n\":{at},\n\"name\":\"p\"}}\n"),
                        (true, _) => format!("{{\"name\":\"{long}\",\"other\":true,\"n\":{at}}}"),
                        (false, 0) => format!("a,{at}\n\"b\nb\",{at}\n"),
                        (false, _) => format!("{long},{at}"),
                    }
                    .into_bytes();
                    for _ in 0..random.random_range(0..3_usize).saturating_sub(1) {
                        let at = random.random_range(0..message.len());
                        message[at] = alphabet[random.random_range(0..alphabet.len())];
                    }
                    message
                })
                .collect();
            let values: Vec<Option<&[u8]>> = messages.iter().map(|message| Some(message.as_slice())).collect();
            let ids = Int64Array::from_iter_values(0..messages.len() as i64);
            let found = together.decode(&Messages {
                keys: &[],
                values: &values,
                filled: vec![Filling::Values(Arc::new(ids))],
            });
            let each: Vec<Decoded> = messages.iter().map(|message| alone.decode(message)).collect();
            let rows = concat_batches(alone.schema(), each.iter().map(|decoded| &decoded.rows)).unwrap();
            assert_eq!(found.decoded.rows.project(&[0, 2]).unwrap(), rows);
            let expected: Vec<Rejected> = each.iter().flat_map(|decoded| decoded.rejected.clone()).collect();
            assert_eq!(found.decoded.rejected, expected);
            let of = |count: &dyn Fn(&Decoded) -> usize| -> Vec<u32> {
                let each = each.iter().zip(0..);
                each.flat_map(|(decoded, message)| std::iter::repeat_n(message, count(decoded)))
                    .collect()
            };
            assert_eq!(found.rows_of, of(&|decoded| decoded.rows.num_rows()));
            assert_eq!(found.rejected_of, of(&|decoded| decoded.rejected.len()));
            let filled = found.decoded.rows.column(1).as_primitive::<Int64Type>();
            assert!(
                filled
                    .values()
                    .iter()
                    .zip(&found.rows_of)
                    .all(|(id, message)| *id == i64::from(*message))
            );
            good += rows.num_rows();
            bad += expected.len();
        }
        assert!(good > 5_000 && bad > 1_000, "{good} good, {bad} bad");
    }
}

#[test]
fn many_bytes_are_read_in_pieces() {
    let long = format!("{{\"name\":\"{}\",\"n\":1}}", "x".repeat(900_000));
    let count = 3 * JOINED_BYTES / long.len();
    let mut messages = vec![long.as_str(); count];
    messages[count / 2] = "x";
    messages[count - 1] = "y";
    let ids = Int64Array::from_iter_values(0..count as i64);
    let mut decoder = decoder("", &columns(), &[1]);
    let found = decoder.decode(&Messages {
        keys: &[],
        values: &bytes(&messages),
        filled: vec![Filling::Values(Arc::new(ids))],
    });
    assert_eq!(found.decoded.rows.num_rows(), count - 2);
    assert_eq!(found.rejected_of, [count as u32 / 2, count as u32 - 1]);
    let ids = found.decoded.rows.column(1).as_primitive::<Int64Type>();
    assert_eq!(ids.value(count / 2), count as i64 / 2 + 1);
}
