use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float64Type, Int32Type, Int64Type, IntervalUnit, TimeUnit,
    TimestampMicrosecondType,
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::*;

fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn column(name: &str, data_type: DataType, nullable: bool) -> Column {
    Column::new(Arc::new(Field::new(name, data_type, nullable)))
}

/// A station's reading, as most tests here know it.
fn columns() -> Vec<Column> {
    vec![
        column("station", DataType::Utf8, false),
        column("at", time(), false),
        column("ph", DataType::Float64, true),
        column("count", DataType::Int64, true),
        column("ok", DataType::Boolean, true),
    ]
}

fn decoder(format: &str, columns: &[Column]) -> Decoder {
    Decoder::new(&toml::from_str(format).unwrap(), columns, "UTC").unwrap()
}

fn decode(format: &str, columns: &[Column], input: impl AsRef<[u8]>) -> Decoded {
    let decoded = decoder(format, columns).decode(input.as_ref());
    assert_eq!(decoded.rows.schema(), schema(columns));
    decoded
}

fn json(input: impl AsRef<[u8]>) -> Decoded {
    decode("type = \"json\"", &columns(), input)
}

fn csv(input: impl AsRef<[u8]>) -> Decoded {
    decode("type = \"csv\"", &columns(), input)
}

fn stations(decoded: &Decoded) -> Vec<&str> {
    decoded
        .rows
        .column(0)
        .as_string::<i32>()
        .iter()
        .map(|text| text.unwrap_or("NULL"))
        .collect()
}

fn floats(decoded: &Decoded, column: usize) -> Vec<Option<f64>> {
    decoded
        .rows
        .column(column)
        .as_primitive::<Float64Type>()
        .iter()
        .collect()
}

fn reasons(decoded: &Decoded) -> Vec<&str> {
    decoded
        .rejected
        .iter()
        .map(|rejected| rejected.reason.as_str())
        .collect()
}

fn config_error(format: &str) -> String {
    let error = Decoder::new(&toml::from_str(format).unwrap(), &columns(), "UTC").unwrap_err();
    format!("{error} {}", error.hint.clone().unwrap_or_default())
}

const GOOD: &str = r#"{"station":"K1","at":"2026-01-01T00:00:00Z","ph":7.5,"count":1,"ok":true}"#;

#[test]
fn json_lines_and_arrays_mean_the_same() {
    let rows = [
        GOOD,
        r#"{"ok":null,"extra":{"a":[1,{"b":"}"}]},"count":"12","ph":"7.25","at":"2026-01-01 05:30:00+05:30","station":"K\u00e9\n2"}"#,
        r#"{"station":"K3","at":"2026-01-02","ph":1,"ok":"false"}"#,
    ];
    let array = format!(" [{}] \n", rows.join(" ,\n"));
    let lines = rows.join("\r\n\n") + "\n";
    for input in [array, lines, format!("\u{feff}{}", rows.join("\n"))] {
        let decoded = json(&input);
        assert_eq!(reasons(&decoded), Vec::<&str>::new(), "{input}");
        assert_eq!(stations(&decoded), ["K1", "Ké\n2", "K3"]);
        assert_eq!(floats(&decoded, 2), [Some(7.5), Some(7.25), Some(1.0)]);
        let counts: Vec<_> = decoded.rows.column(3).as_primitive::<Int64Type>().iter().collect();
        assert_eq!(counts, [Some(1), Some(12), None]);
        let ok: Vec<_> = decoded.rows.column(4).as_boolean().iter().collect();
        assert_eq!(ok, [Some(true), None, Some(false)]);
        let at = decoded.rows.column(1).as_primitive::<TimestampMicrosecondType>();
        assert_eq!(at.value(0), at.value(1));
        assert_eq!(at.value(2) - at.value(1), 86_400_000_000);
    }
}

#[test]
fn each_bad_json_line_is_rejected_alone() {
    for (line, reason) in [
        ("x", "expected an object at byte 1 of the row"),
        ("5", "expected an object at byte 1 of the row"),
        ("[1]", "expected an object at byte 1 of the row"),
        (r#"{"station":"K1""#, "the object is cut off"),
        (r#"{"station":"K1"#, "the object is cut off"),
        (r#"{"station":"K1","#, "the object is cut off"),
        (
            r#"{"station":"K1" "ph":1}"#,
            "expected a comma or a closing brace at byte 17 of the row",
        ),
        (r#"{"station":"K1"}}"#, "text follows the object on its line"),
        (
            r#"{"station":"K1"}{"station":"K2"}"#,
            "text follows the object on its line",
        ),
        (
            r#"{"at":"2026-01-01"}"#,
            "column \"station\": missing, but declared not null",
        ),
        (
            r#"{"station":null,"at":"2026-01-01"}"#,
            "column \"station\": missing, but declared not null",
        ),
        (
            r#"{"station":5,"at":"2026-01-01"}"#,
            "column \"station\": 5 is not a text; texts stand between quotes",
        ),
        (r#"{"station":"K1"}"#, "column \"at\": missing, but declared not null"),
        (
            r#"{"station":"K1","at":"yesterday"}"#,
            "column \"at\": \"yesterday\" is not a time like 2026-01-31T12:00:00Z",
        ),
        (
            r#"{"station":"K1","at":1767225600}"#,
            "column \"at\": \"1767225600\" is a number, not a time; a format may declare timestamp = \"epoch seconds\"",
        ),
        (
            r#"{"station":"K1","at":"1969-12-31T23:59:59Z"}"#,
            "column \"at\": \"1969-12-31T23:59:59Z\" is outside the years 1970 to 9999",
        ),
        (
            r#"{"station":"K1","at":"2026-01-01","ph":"abc"}"#,
            "column \"ph\": \"abc\" is not a number",
        ),
        (
            r#"{"station":"K1","at":"2026-01-01","ph":""}"#,
            "column \"ph\": \"\" is not a number",
        ),
        (
            r#"{"station":"K1","at":"2026-01-01","ph":true}"#,
            "column \"ph\": \"true\" is not a number",
        ),
        (
            r#"{"station":"K1","at":"2026-01-01","ph":[7]}"#,
            "column \"ph\": an object or array, not a plain value",
        ),
        (
            r#"{"station":"K1","at":"2026-01-01","ph":1e999}"#,
            "column \"ph\": \"1e999\" is too large for a double",
        ),
        (
            r#"{"station":"K1","at":"2026-01-01","count":1.5}"#,
            "column \"count\": \"1.5\" is not an integer of 64 bits",
        ),
        (
            r#"{"station":"K1","at":"2026-01-01","count":9223372036854775808}"#,
            "column \"count\": \"9223372036854775808\" is not an integer of 64 bits",
        ),
        (
            r#"{"station":"K1","at":"2026-01-01","ok":1}"#,
            "column \"ok\": \"1\" is neither true nor false",
        ),
        (
            r#"{"station":"\ud800","at":"2026-01-01"}"#,
            "half of a surrogate pair in the text at byte 13 of the row",
        ),
    ] {
        let decoded = json(format!("{GOOD}\n{line}\n{GOOD}"));
        assert_eq!(stations(&decoded), ["K1", "K1"], "{line}");
        assert_eq!(
            decoded.rejected,
            [Rejected {
                raw: line.to_owned(),
                reason: reason.to_owned()
            }]
        );
        // The same at the end, and as the only line.
        assert_eq!(reasons(&json(format!("{GOOD}\n{line}"))), [reason], "{line}");
        assert_eq!(json(line).rejected.len(), 1, "{line}");
    }
}

#[test]
fn bytes_that_are_not_utf8_reject_their_row_or_are_latin1() {
    let mut input = format!("{GOOD}\n{{\"station\":\"K").into_bytes();
    input.extend(b"\xe9\",\"at\":\"2026-01-01\"}\n");
    input.extend(GOOD.as_bytes());
    let decoded = json(&input);
    assert_eq!(decoded.rows.num_rows(), 2);
    assert_eq!(reasons(&decoded), ["not valid UTF-8 at byte 14 of the row"]);
    assert!(decoded.rejected[0].raw.contains("K\u{fffd}"));
    let decoded = decode("encoding = \"latin1\"", &columns(), &input);
    assert_eq!(stations(&decoded), ["K1", "Ké", "K1"]);

    // Two rows of one line are judged apart.
    let input = [
        b"[".as_slice(),
        b"{\"station\":\"\xff\"},",
        GOOD.as_bytes(),
        b",{\"station\":\"\xff\"}]",
    ]
    .concat();
    let decoded = json(&input);
    assert_eq!((decoded.rows.num_rows(), decoded.rejected.len()), (1, 2));

    let decoded = csv(b"station,at\nK1,2026-01-01\nK\xff2,2026-01-01\nK3,2026-01-01\n");
    assert_eq!(stations(&decoded), ["K1", "K3"]);
    assert_eq!(reasons(&decoded), ["not valid UTF-8 at byte 2 of the row"]);
    // Garbage is one rejection a line, whatever it is.
    let garbage: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    assert!(!json(&garbage).rejected.is_empty());
    assert!(!csv(&garbage).rejected.is_empty());
}

#[test]
fn broken_arrays() {
    let rejected = |input: String, rows: usize, reason: &str| {
        let decoded = json(&input);
        assert_eq!(decoded.rows.num_rows(), rows, "{input}");
        assert_eq!(reasons(&decoded), [reason], "{input}");
    };
    rejected(
        format!("[{GOOD},5,{GOOD}]"),
        2,
        "expected an object at byte 1 of the row",
    );
    let decoded = json(format!("[{GOOD},{{\"a\":[1,\"]\"]}}x,{GOOD}]"));
    assert_eq!(decoded.rows.num_rows(), 2);
    assert_eq!(
        reasons(&decoded),
        [
            "column \"station\": missing, but declared not null",
            "expected a comma between two rows at byte 1 of the row",
        ]
    );
    rejected(
        format!("[{GOOD},{{\"a\":tru}},{GOOD}]"),
        2,
        "expected a value at byte 6 of the row",
    );
    rejected(format!("[{GOOD},{GOOD}"), 2, "the array is never closed");
    rejected(
        format!("[{GOOD},{{\"station\":\"K"),
        1,
        "the object is cut off; the rest of the array is refused",
    );
    rejected(format!("[{GOOD}] {GOOD}"), 1, "text follows the end of the array");
    assert_eq!(json("[]").rows.num_rows(), 0);
    assert!(json("[]").is_empty() && json("").is_empty() && json(" \n ").is_empty());
}

#[test]
fn one_object_may_span_lines_when_it_is_all_there_is() {
    let decoded = json("{\n \"station\": \"K1\",\n \"at\": \"2026-01-01\"\n}\n");
    assert_eq!(stations(&decoded), ["K1"]);
    assert!(decoded.rejected.is_empty());
    // Two halves never make a row.
    let decoded = json("{\"station\":\"K1\",\n\"at\":\"2026-01-01\"}\n{}\n");
    assert_eq!((decoded.rows.num_rows(), decoded.rejected.len()), (0, 3));
}

#[test]
fn names_may_differ_repeat_and_be_shared() {
    let mut columns = columns();
    columns[2].from = Some("D.O. (mg/l)".to_owned());
    columns.push(Column {
        from: Some("D.O. (mg/l)".to_owned()),
        ..column("again", DataType::Utf8, true)
    });
    let input = "{\"station\":\"old\",\"at\":\"2026-01-01\",\"D\\u002eO. (mg/l)\":\"6.7\",\"station\":\"new\"}";
    let decoded = decode("", &columns, input);
    assert_eq!(stations(&decoded), ["new"]);
    assert_eq!(floats(&decoded, 2), [Some(6.7)]);
    assert_eq!(decoded.rows.column(5).as_string::<i32>().value(0), "6.7");
    let decoded = decode(
        "type = \"csv\"",
        &columns,
        "at,D.O. (mg/l),x,station\n2026-01-01,6.7,,K1\n",
    );
    assert_eq!(floats(&decoded, 2), [Some(6.7)]);
    assert_eq!(decoded.rows.column(5).as_string::<i32>().value(0), "6.7");
}

#[test]
fn csv_reads_what_people_write() {
    let decoded = csv(
        "\u{feff}count , ok,ph,at,\"station\"\r\n 1 ,True, 7.5 ,2026-01-01 00:00:00,K1\r\n\r\n,,,2026-01-01,\"K \"\"2\"\", x\"\r\n\
         27.0,0,,\"2026-01-01\",\"multi\nline\"\r\n2,no,\"8\",2026-01-01,\"\"",
    );
    assert_eq!(reasons(&decoded), Vec::<&str>::new());
    assert_eq!(stations(&decoded), ["K1", "K \"2\", x", "multi\nline", ""]);
    assert_eq!(floats(&decoded, 2), [Some(7.5), None, None, Some(8.0)]);
    let counts: Vec<_> = decoded.rows.column(3).as_primitive::<Int64Type>().iter().collect();
    assert_eq!(counts, [Some(1), None, Some(27), Some(2)]);
    let ok: Vec<_> = decoded.rows.column(4).as_boolean().iter().collect();
    assert_eq!(ok, [Some(true), None, Some(false), Some(false)]);
}

#[test]
fn each_bad_csv_line_is_rejected_alone() {
    for (line, reason) in [
        ("K1,2026-01-01,7", "the line has 3 fields, the header has 5"),
        ("K1,2026-01-01,7,1,true,", "the line has 6 fields, the header has 5"),
        (
            ",2026-01-01,7,1,true",
            "column \"station\": missing, but declared not null",
        ),
        ("K1,,7,1,true", "column \"at\": missing, but declared not null"),
        (
            "K1,31/12/2026,7,1,true",
            "column \"at\": \"31/12/2026\" is not a time like 2026-01-31T12:00:00Z",
        ),
        ("K1,2026-01-01,NA,1,true", "column \"ph\": \"NA\" is not a number"),
        (
            "K1,2026-01-01,7,x,maybe",
            "column \"count\": \"x\" is not an integer of 64 bits",
        ),
        (
            "K1,2026-01-01,7,1,maybe",
            "column \"ok\": \"maybe\" is neither true nor false",
        ),
        ("\"K\"1,2026-01-01,7,1,true", "text follows a closing quote"),
    ] {
        let good = "K0,2026-01-01,7,1,true";
        let decoded = csv(format!("station,at,ph,count,ok\n{good}\n{line}\n{good}\n"));
        assert_eq!(stations(&decoded), ["K0", "K0"], "{line}");
        assert_eq!(
            decoded.rejected,
            [Rejected {
                raw: line.to_owned(),
                reason: reason.to_owned()
            }]
        );
    }
}

#[test]
fn a_quote_that_never_closes_costs_one_line() {
    let decoded = csv("station,at\nK1,2026-01-01\n\"K2,2026-01-01\nK3,2026-01-01\nK4,2026-01-01\n");
    assert_eq!(stations(&decoded), ["K1", "K3", "K4"]);
    assert_eq!(reasons(&decoded), ["a quote is never closed"]);
    assert_eq!(decoded.rejected[0].raw, "\"K2,2026-01-01");
}

#[test]
fn csv_headers() {
    // A column that the header lacks is NULL, or refuses every row.
    assert_eq!(csv("station,at\nK1,2026-01-01\n").rows.column(2).null_count(), 1);
    let decoded = csv("station,ph\nK1,7\nK2,8\n");
    assert_eq!(reasons(&decoded), ["column \"at\": missing, but declared not null"; 2]);
    // No header at all: the first line is not lost.
    let decoded = csv("K1,2026-01-01\nK2,2026-01-01\n");
    assert_eq!((decoded.rows.num_rows(), decoded.rejected.len()), (0, 2));
    assert_eq!(
        reasons(&decoded)[0],
        "no declared column in the header \"K1, 2026-01-01\""
    );
    let headless = "type = \"csv\"\nheader = false\ndelimiter = \"\\t\"";
    let decoded = decode(headless, &columns(), "K1\t2026-01-01\t\t\t\nK2\t2026-01-01\t1\n");
    assert_eq!(stations(&decoded), ["K1"]);
    assert_eq!(reasons(&decoded), ["the line has 3 fields, expected 5"]);
}

#[test]
fn null_tokens() {
    let format = "type = \"csv\"\nnull = [\"NAN\", \"-\"]";
    let decoded = decode(
        format,
        &columns(),
        "station,at,ph\nK1,2026-01-01,NAN \n,2026-01-01,\n\"-\",2026-01-01,-\n-,2026-01-01,1\n",
    );
    // With tokens declared, an empty text is a text; a quoted one always is.
    assert_eq!(stations(&decoded), ["K1", "", "-"]);
    assert_eq!(floats(&decoded, 2), [None; 3]);
    assert_eq!(
        reasons(&decoded),
        ["column \"station\": \"-\" means NULL, but the column is declared not null"]
    );
    let decoded = decode(
        "null = [\"NA\"]",
        &columns(),
        "{\"station\":\"K1\",\"at\":\"2026-01-01\",\"ph\":\"NA\"}",
    );
    assert_eq!(floats(&decoded, 2), [None]);
}

#[test]
fn all_types() {
    let columns = [
        column("d", DataType::Date32, true),
        column("m", DataType::Decimal128(10, 2), true),
        column("b", DataType::Binary, true),
        column("r", DataType::Float32, true),
        column("i", DataType::Int32, true),
        column("s", DataType::Int16, true),
    ];
    let from_json = decode(
        "",
        &columns,
        r#"{"d":"2026-01-31","m":12.345,"b":"\\x00ff","r":0.1,"i":-5,"s":"7"}"#,
    );
    let from_csv = decode(
        "type = \"csv\"",
        &columns,
        "d,m,b,r,i,s\n2026-01-31,12.345,00ff,0.1,-5,7\n",
    );
    for decoded in [&from_json, &from_csv] {
        assert_eq!(reasons(decoded), Vec::<&str>::new());
        assert_eq!(decoded.rows.column(0).as_primitive::<Date32Type>().value(0), 20_484);
        assert_eq!(decoded.rows.column(1).as_primitive::<Decimal128Type>().value(0), 1235);
        assert_eq!(decoded.rows.column(2).as_binary::<i32>().value(0), [0, 255]);
        assert_eq!(decoded.rows.column(4).as_primitive::<Int32Type>().value(0), -5);
    }
    assert_eq!(from_json.rows, from_csv.rows);
    let interval = column("l", DataType::Interval(IntervalUnit::MonthDayNano), true);
    assert!(Decoder::new(&FormatConfig::default(), &[interval], "UTC").is_err());
}

/// The kinds of mess in the yearly table of Indian rivers.
#[test]
fn the_indian_river_table() {
    let columns = [
        column("code", DataType::Utf8, true),
        column("place", DataType::Utf8, true),
        column("oxygen", DataType::Float64, true),
        column("coliform", DataType::Float64, true),
        column("year", DataType::Int32, false),
    ];
    let from = [
        "STATION CODE",
        "LOCATIONS",
        "D.O. (mg/l)",
        "FECAL COLIFORM (MPN/100ml)",
        "year",
    ];
    let columns: Vec<Column> = columns
        .into_iter()
        .zip(from)
        .map(|(column, from)| Column {
            from: Some(from.to_owned()),
            ..column
        })
        .collect();
    let mut input =
        "STATION CODE,LOCATIONS,STATE,D.O. (mg/l),CONDUCTIVITY (µmhos/cm),FECAL COLIFORM (MPN/100ml),year\r\n"
            .as_bytes()
            .to_vec();
    input.extend(b"1393,\"DAMANGANGA AT D/S OF MADHUBAN, DAMAN\",DAMAN & DIU,6.7,203,11,2014\r\n");
    input.extend(b"1475,ZUARI AT PANCHAWADI ,GOA,NAN,179,3243 ,2014\r\n");
    input.extend(b"NAN,R\xcdO AT X,GOA, 5.7 ,NAN,NAN,2013\r\n");
    input.extend(b"17,\"PERIYAR\xa0AT Y\",KERALA,6.4(avg),1,2,2013\r\n");
    input.extend(b"18,Z,KERALA,6.4,1,2\r\n");
    let format = "type = \"csv\"\nnull = [\"NAN\", \"\"]";
    let decoded = decode(format, &columns, &input);
    assert_eq!(stations(&decoded), ["1393", "1475"]);
    assert_eq!(floats(&decoded, 2), [Some(6.7), None]);
    assert_eq!(
        reasons(&decoded),
        [
            "not valid UTF-8 at byte 6 of the row",
            "not valid UTF-8 at byte 12 of the row",
            "the line has 6 fields, the header has 7"
        ]
    );
    let decoded = decode(&format!("{format}\nencoding = \"latin1\""), &columns, &input);
    assert_eq!(stations(&decoded), ["1393", "1475", "NULL"]);
    assert_eq!(decoded.rows.column(1).as_string::<i32>().value(2), "RÍO AT X");
    assert_eq!(floats(&decoded, 3), [Some(11.0), Some(3243.0), None]);
    assert_eq!(reasons(&decoded)[0], "column \"oxygen\": \"6.4(avg)\" is not a number");
}

#[test]
fn times_are_read_in_the_zone_of_the_deployment() {
    let columns = [column(
        "at",
        DataType::Timestamp(TimeUnit::Microsecond, Some("Asia/Kolkata".into())),
        false,
    )];
    let format = "type = \"csv\"\ntimestamp = \"%m/%d/%Y %H:%M\"";
    let mut decoder = Decoder::new(&toml::from_str(format).unwrap(), &columns, "Asia/Kolkata").unwrap();
    let decoded = decoder.decode(b"at\n01/02/1970 05:30\n1970-01-02T00:00:00Z\n");
    let at: Vec<_> = decoded
        .rows
        .column(0)
        .as_primitive::<TimestampMicrosecondType>()
        .values()
        .to_vec();
    assert_eq!(at, [86_400_000_000; 2]);
    assert_eq!(decoded.rows.schema(), schema(&columns));
}

#[test]
fn everything_is_bounded() {
    let long = "x".repeat(ROW_BYTES_MAX);
    let decoded = json(format!("{GOOD}\n{{\"station\":\"{long}\"}}\n{GOOD}"));
    assert_eq!(decoded.rows.num_rows(), 2);
    assert_eq!(
        reasons(&decoded),
        [format!("the row is longer than {ROW_BYTES_MAX} bytes")]
    );
    assert_eq!(decoded.rejected[0].raw.len(), crate::decoded::RAW_BYTES_MAX);
    let decoded = csv(format!("station,at\n{long},2026-01-01\nK1,2026-01-01\n"));
    assert_eq!((decoded.rows.num_rows(), decoded.rejected.len()), (1, 1));
    let decoded = json(format!("{GOOD}\n{}{GOOD}", "x\n".repeat(200_000)));
    assert_eq!(decoded.rejected.len(), REJECTED_MAX + 1);
    assert_eq!(decoded.rows.num_rows(), 1);
    assert!(
        decoded.rejected[REJECTED_MAX]
            .reason
            .contains("the rest of it is refused")
    );
}

#[test]
fn declarations_that_cannot_work() {
    assert!(config_error("type = \"json\"\ndelimiter = \";\"").contains("delimiter is an option of csv, not of json"));
    assert!(config_error("header = false").contains("header is an option of csv"));
    assert!(config_error("type = \"csv\"\ndelimiter = \"→\"").contains("Use one ASCII character"));
    assert!(config_error("type = \"parquet\"").contains("files only"));
    assert!(config_error("timestamp = \"%Q\"").contains("strftime"));
    for unknown in [
        "typ = \"csv\"",
        "type = \"xml\"",
        "encoding = \"utf-16\"",
        "delimiter = \"ab\"",
    ] {
        assert!(toml::from_str::<FormatConfig>(unknown).is_err(), "{unknown}");
    }
    assert_eq!(
        FormatConfig::default().kind_of(Path::new("a/B.CSV.gz")),
        Ok(FormatKind::Csv)
    );
    assert_eq!(
        FormatConfig::default().kind_of(Path::new("b.jsonl.zst")),
        Ok(FormatKind::Json)
    );
    assert!(FormatConfig::default().kind_of(Path::new("data")).is_err());
}

/// Decodes in pieces, as a file that arrives in chunks is decoded.
fn in_pieces(decoder: &mut Decoder, input: &[u8], random: &mut Pcg64) -> Decoded {
    decoder.restart();
    let mut batches = Vec::new();
    let mut rejected = Vec::new();
    let (mut start, mut end) = (0, 0);
    loop {
        end = (end + random.random_range(0..60)).min(input.len());
        let last = end == input.len() && random.random_bool(0.7);
        let rows_max = random.random_range(1..9);
        let (taken, decoded) = decoder.decode_some(&input[start..end], last, rows_max);
        assert!(decoded.rows.num_rows() <= rows_max);
        start += taken;
        let none = decoded.is_empty();
        batches.push(decoded.rows);
        rejected.extend(decoded.rejected);
        if last && none && (taken == 0 || start == input.len()) {
            break;
        }
    }
    Decoded {
        rows: concat_batches(decoder.schema(), &batches).unwrap(),
        rejected,
    }
}

#[test]
fn pieces_of_any_size_make_the_same_rows() {
    for seed in 0..300 {
        let mut random = Pcg64::seed_from_u64(seed);
        let lines: Vec<String> = (0..random.random_range(0..40))
            .map(|row| match random.random_range(0..12) {
                0 => "{\"station\":\"K".to_owned(),
                1 => format!("{{\"station\":\"É{row}\",\"at\":\"2026-01-01\",\"ph\":\"x\"}}"),
                2 => "garbage, \"quoted".to_owned(),
                _ => format!("{{\"station\":\"É\\\"{row}\",\"at\":\"2026-01-01\",\"ph\":{row}.5, \"x\":[{{}}]}}"),
            })
            .collect();
        let end = ["", "\n", "\r\n"][random.random_range(0..3)];
        let mut csv = "station,at,ph\n".to_owned();
        for row in 0..random.random_range(0..40) {
            csv += &match random.random_range(0..12) {
                0 => "K,2026-01-01\n".to_owned(),
                1 => format!("K{row},2026-01-01,x\r\n"),
                2 => "\n".to_owned(),
                3 => format!("\"a \"\"b\"\"\nÉ,{row}\",2026-01-01,{row}\n"),
                4 => format!("\"\",\"2026-01-01\",\"{row}\"\r\n"),
                _ => format!("É{row},2026-01-01,{row}.5\n"),
            };
        }
        if random.random_bool(0.2) {
            csv += "\"open,2026-01-01,5\nK9,2026-01-01,5\n";
        }
        let inputs = [
            ("type = \"json\"", lines.join("\n") + end),
            (
                "type = \"json\"",
                format!("[{}]{end}", lines[..lines.len().min(9)].join(",")),
            ),
            ("type = \"csv\"", csv),
        ];
        for (format, input) in inputs {
            let mut decoder = decoder(format, &columns());
            let whole = decoder.decode(input.as_bytes());
            let pieces = in_pieces(&mut decoder, input.as_bytes(), &mut random);
            assert_eq!(pieces.rows, whole.rows, "seed {seed} {input}");
            assert_eq!(pieces.rejected, whole.rejected, "seed {seed} {input}");
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let alphabet = b"{}[]\",:\\ue01-.\n\r\xff\xc3 K;";
    for seed in 0..3000 {
        let mut random = Pcg64::seed_from_u64(seed);
        let input: Vec<u8> = (0..random.random_range(0..80))
            .map(|_| alphabet[random.random_range(0..alphabet.len())])
            .collect();
        for format in [
            "type = \"json\"",
            "type = \"csv\"",
            "type = \"csv\"\nheader = false",
            "encoding = \"latin1\"",
        ] {
            let mut decoder = decoder(format, &columns());
            let whole = decoder.decode(&input);
            if !format.contains("latin1") {
                let pieces = in_pieces(&mut decoder, &input, &mut random);
                assert_eq!(pieces.rows, whole.rows, "seed {seed}");
            }
        }
    }
}

/// Exact counts over a shuffled mixture, in the order of the input.
#[test]
fn counts_are_exact_and_order_is_kept() {
    let seed = 11;
    println!("seed {seed}");
    let mut random = Pcg64::seed_from_u64(seed);
    let mut input = String::new();
    let (mut good, mut bad) = (Vec::new(), 0);
    for row in 0..20_000 {
        match random.random_range(0..300) {
            0 => input += "{\"station\":\n",
            1 => input += "{\"station\":\"K\",\"at\":\"x\"}\n",
            2 => input += "{\"station\":\"K\",\"at\":\"2026-01-01\",\"ph\":{}}\n",
            _ => {
                input += &format!("{{\"station\":\"K\",\"at\":\"2026-01-01\",\"count\":{row}}}\n");
                good.push(row);
                continue;
            }
        }
        bad += 1;
    }
    let decoded = json(&input);
    assert_eq!(
        decoded.rows.column(3).as_primitive::<Int64Type>().values(),
        good.as_slice()
    );
    assert_eq!(decoded.rejected.len(), bad);
}

#[test]
fn lists_are_json_arrays_in_every_format() {
    let item = |data_type| DataType::List(Arc::new(Field::new("item", data_type, true)));
    let columns = [
        column("id", DataType::Int64, false),
        column("x", item(DataType::Float64), true),
        column("tags", item(DataType::Utf8), false),
    ];
    let input = r#"{"id": 1, "x": [1, null, 2.5], "tags": ["a", "b\"c", null]}
{"id": 2, "x": null, "tags": []}
{"id": 3, "x": [1, "y"], "tags": []}
{"id": 4, "x": 3, "tags": []}
{"id": 5, "x": [], "tags": null}
{"id": 6, "x": [[1]], "tags": []}
"#;
    let decoded = decode("type = \"json\"", &columns, input);
    assert_eq!(decoded.rows.num_rows(), 2);
    let x = decoded.rows.column(1).as_list::<i32>();
    let first = x.value(0);
    assert_eq!(
        first.as_primitive::<Float64Type>().iter().collect::<Vec<_>>(),
        [Some(1.0), None, Some(2.5)]
    );
    assert!(x.is_null(1));
    let tags = decoded.rows.column(2).as_list::<i32>();
    let first = tags.value(0);
    assert_eq!(
        first.as_string::<i32>().iter().collect::<Vec<_>>(),
        [Some("a"), Some("b\"c"), None]
    );
    let reasons: Vec<&str> = decoded
        .rejected
        .iter()
        .map(|rejected| rejected.reason.as_str())
        .collect();
    assert_eq!(
        reasons,
        [
            "column \"x\": element 2: \"y\" is not a number",
            "column \"x\": not a list, which stands between square brackets",
            "column \"tags\": missing, but declared not null",
            "column \"x\": element 1: an object or array, not a plain value",
        ]
    );
    let decoded = decode(
        "type = \"csv\"",
        &columns,
        "id,x,tags\n1,\"[1, 2]\",\"[\"\"a\"\"]\"\n2,,[]\n",
    );
    assert_eq!(decoded.rows.num_rows(), 2, "{:?}", decoded.rejected);
    assert_eq!(
        decoded
            .rows
            .column(2)
            .as_list::<i32>()
            .value(0)
            .as_string::<i32>()
            .value(0),
        "a"
    );
}

#[test]
fn envelopes_say_what_becomes_of_rows() {
    let mut columns = columns();
    columns[0].key = true;
    let mut decoder = decoder("envelope = \"debezium\"", &columns);
    let at = "\"at\": \"2026-01-01T00:00:00Z\"";
    let input = [
        format!(r#"{{"op": "c", "after": {{"station": "a", {at}}}}}"#),
        "null".to_owned(),
        format!(
            r#"{{"payload": {{"after": {{"station": "b", {at}}}, "op": "u", "before": {{"station": "\u0062"}}}}}}"#
        ),
        format!(r#"{{"op": "u", "before": {{"station": "b"}}, "after": {{"station": "c", {at}}}}}"#),
        r#"{"op": "d", "before": {"station": "c", "at": "?"}}"#.to_owned(),
        format!(r#"{{"op": "u", "before": {{"station": "c"}}, "after": {{"station": "d", {at}, "ph": "x"}}}}"#),
        r#"{"op": "d", "before": {"at": "2026-01-01T00:00:00Z"}}"#.to_owned(),
    ];
    let told = |decoded: &Decoded| -> Vec<(String, bool)> {
        let marks = decoded.rows.column(columns.len()).as_boolean().iter();
        let marks = marks.map(|mark| mark.unwrap_or_default());
        stations(decoded).into_iter().map(str::to_owned).zip(marks).collect()
    };
    // However a key is written, it is the same.
    let expected = [("a", false), ("b", false), ("b", true), ("c", false), ("c", true)];
    let expected = expected.map(|(station, mark)| (station.to_owned(), mark));
    let lines = decoder.decode(input.join("\n").as_bytes());
    assert_eq!(told(&lines), expected);
    assert_eq!(lines.rejected.len(), 2);
    assert!(
        lines.rejected[0].reason.starts_with("column \"ph\""),
        "{:?}",
        lines.rejected
    );
    assert_eq!(
        lines.rejected[1].reason,
        "column \"station\": missing, but declared not null"
    );
    // As an array, and one over several lines.
    let array = decoder.decode(format!("[{}]", input[..5].join(",")).as_bytes());
    assert_eq!(told(&array), expected);
    let spread = decoder.decode(input[3].replace(", ", ",\n").as_bytes());
    assert_eq!(told(&spread), expected[2..4]);
    let csv = toml::from_str::<FormatConfig>("type = \"csv\"\nenvelope = \"debezium\"").unwrap();
    assert!(Decoder::new(&csv, &columns, "UTC").is_err());
}
