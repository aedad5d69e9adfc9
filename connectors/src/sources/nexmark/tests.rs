use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, TimeUnit, TimestampMicrosecondType};

use crate::column::Column;
use crate::format::FormatConfig;
use crate::sources::{Batch, ConnectorConfig, Read, Setting};

const NUMBERS: &[&str] = &[
    "id",
    "auction",
    "bidder",
    "price",
    "seller",
    "category",
    "initial_bid",
    "reserve",
];

fn columns(names: &[&str]) -> Vec<Column> {
    names
        .iter()
        .map(|name| {
            let data_type = match *name {
                "date_time" | "expires" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                name if NUMBERS.contains(&name) => DataType::Int64,
                _ => DataType::Utf8,
            };
            Column::new(Arc::new(Field::new(*name, data_type, false)))
        })
        .collect()
}

fn with<T>(columns: &[Column], then: impl FnOnce(&Setting<'_>) -> T) -> T {
    then(&Setting {
        name: "bids",
        columns,
        format: &FormatConfig::default(),
        time_column: None,
        time_zone: "UTC",
        directory: Path::new("."),
        start_us: 1_000_000_000,
    })
}

fn config(text: &str) -> ConnectorConfig {
    toml::from_str(&format!("type = \"nexmark\"\n{text}")).expect("a connector")
}

fn all(text: &str, names: &[&str]) -> RecordBatch {
    let columns = columns(names);
    with(&columns, |setting| {
        let mut reader = config(text).reader(setting).expect("a good one").expect("it reads");
        let mut batches = Vec::new();
        while let Ok(Read::Rows(Batch { decoded, .. })) = reader.read(i64::MAX) {
            batches.push(decoded.rows);
        }
        arrow::compute::concat_batches(&batches[0].schema(), &batches).expect("one schema")
    })
}

fn numbers(batch: &RecordBatch, name: &str) -> Vec<i64> {
    let column = batch.column_by_name(name).expect("a column");
    column.as_primitive::<Int64Type>().values().to_vec()
}

const BID: &[&str] = &["auction", "bidder", "price", "channel", "url", "date_time", "extra"];

#[test]
fn every_fifty_events_are_one_person_three_auctions_and_the_rest_bids() {
    let people = all("table = \"person\"\nevents = 100_000", &["id", "name", "state"]);
    let auctions = all(
        "table = \"auction\"\nevents = 100_000",
        &["id", "seller", "date_time", "expires"],
    );
    let bids = all("table = \"bid\"\nevents = 100_000", BID);
    assert_eq!(
        (people.num_rows(), auctions.num_rows(), bids.num_rows()),
        (2_000, 6_000, 92_000)
    );
    assert_eq!(numbers(&people, "id"), (1000..3000).collect::<Vec<_>>());
    assert_eq!(numbers(&auctions, "id"), (1000..7000).collect::<Vec<_>>());
    // Who sells and what is bid for is there, but for the few that are yet to come.
    assert!(numbers(&auctions, "seller").iter().all(|id| (1000..3010).contains(id)));
    assert!(numbers(&bids, "auction").iter().all(|id| (1000..7010).contains(id)));
    let hot = numbers(&bids, "auction").iter().filter(|id| *id % 100 == 0).count();
    assert!((44_000..49_000).contains(&hot), "{hot}");
    assert!(
        numbers(&bids, "price")
            .iter()
            .all(|price| (100..=100_000_000).contains(price))
    );
    let times = |batch: &RecordBatch, name: &str| {
        let column = Arc::clone(batch.column_by_name(name).expect("a column"));
        column.as_primitive::<TimestampMicrosecondType>().values().to_vec()
    };
    assert!(times(&bids, "date_time").is_sorted());
    assert_eq!(times(&bids, "date_time")[46], 1_000_000_000 + 54 * 100);
    let lasting = times(&auctions, "date_time")
        .into_iter()
        .zip(times(&auctions, "expires"))
        .all(|(from, to)| (1_000..1_000 + 2 * 166_700).contains(&(to - from)));
    assert!(lasting);
}

#[test]
fn a_row_is_a_function_of_the_seed_and_its_number() {
    let (short, long) = (
        all("table = \"bid\"\nevents = 5_000", BID),
        all("table = \"bid\"\nevents = 50_000", BID),
    );
    assert_eq!(short, long.slice(0, short.num_rows()));
    assert_eq!(
        all("table = \"bid\"\nevents = 100", &["price"]),
        all("table = \"bid\"\nevents = 100", BID).project(&[2]).unwrap()
    );
    assert_ne!(short, all("table = \"bid\"\nevents = 5_000\nseed = 2", BID));
    // Pinned: the same on every machine.
    assert_eq!(numbers(&short, "price")[..3], [1_346_399, 12_541, 2_434_930]);
    let url = short.column(4).as_string::<i32>().value(0);
    assert!(
        url.starts_with("https://www.nexmark.com/") && url.contains("/item.htm?query=1"),
        "{url}"
    );
}

#[test]
fn bids_weigh_what_the_benchmark_says() {
    let bids = all("table = \"bid\"\nevents = 20_000", BID);
    let mut bytes = Vec::new();
    let encoder = dataflows::json::RowEncoder::new(&bids.schema());
    for row in 0..bids.num_rows() {
        encoder.object(&bids, row, &mut bytes);
        bytes.push(b'\n');
    }
    let each = bytes.len() / bids.num_rows();
    assert!((232..=242).contains(&each), "{each} bytes a bid");
}

#[test]
fn rows_come_when_their_time_has() {
    let columns = columns(&["id"]);
    with(&columns, |setting| {
        let mut reader = config("table = \"person\"\nrate = 50")
            .reader(setting)
            .unwrap()
            .unwrap();
        let Read::Rows(Batch { decoded: first, .. }) = reader.read(setting.start_us + 2_500_000).unwrap() else {
            panic!("no rows")
        };
        assert_eq!(first.rows.num_rows(), 3);
        let Read::Wait(time) = reader.read(setting.start_us + 2_500_000).unwrap() else {
            panic!("no wait")
        };
        assert_eq!(time.as_micros(), 500_000);
    });
}

#[test]
fn what_cannot_work_is_told() {
    let told = |text: &str, names: &[&str]| {
        let columns = columns(names);
        with(&columns, |setting| {
            let problems = config(text).check(setting).into_iter();
            problems
                .map(|problem| format!("{problem} {}", problem.hint.clone().unwrap_or_default()))
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(told("table = \"bid\"", BID), Vec::<String>::new());
    let unknown = told("table = \"person\"\nrate = 0\nstart = \"noon\"", &["id", "price"]);
    assert_eq!(unknown.len(), 2, "{unknown:?}");
    assert!(unknown[0].starts_with("column \"price\" is not in the benchmark's table There are id, name"));
    assert!(unknown[1].starts_with("rate is not from 1 to 1000000"));
    assert!(told("table = \"bid\"\nstart = \"noon\"", BID)[0].starts_with("start: \"noon\""));
    assert!(toml::from_str::<ConnectorConfig>("type = \"nexmark\"\ntable = \"bids\"").is_err());
}
