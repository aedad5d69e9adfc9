use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Float64Type, Int16Type, TimeUnit, TimestampMicrosecondType};

use super::*;
use crate::column::{Column, schema};
use crate::format::FormatConfig;
use crate::sources::Batch;
use crate::sources::ConnectorConfig;
use crate::sources::simulate::entities::texts;

const SECOND: i64 = 1_000_000;
/// 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600 * SECOND;

const STATIONS: &str = r#"
type = "simulate"
interval = "10 seconds"
seed = 7
entities = { column = "station", values = ["K1", "K2", "K3"] }
jitter = "4 seconds"
outages = { probability = 0.001, duration = "10 minutes" }
[columns.ph]
base = 7.6
spread = 0.3
diurnal = { amplitude = 0.4, peak_hour = 15 }
noise = 0.05
walk = { step = 0.02, pull = 0.01 }
correlate = { with = "temperature", factor = -0.03 }
spikes = { probability = 0.0005, size = -3, duration = "30 minutes" }
min = 0
max = 14
decimals = 2
[columns.temperature]
base = 18
diurnal = { amplitude = 5 }
noise = 0.2
missing = 0.1
[columns.count]
base = 100000
[columns.weather]
values = ["sun", "rain"]
"#;

fn columns() -> Vec<Column> {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("Asia/Kolkata".into()));
    [
        ("at", time, false),
        ("station", DataType::Utf8, false),
        ("ph", DataType::Float64, false),
        ("temperature", DataType::Float64, true),
        ("count", DataType::Int16, false),
        ("weather", DataType::Utf8, false),
        ("latitude", DataType::Float64, true),
        ("simulated", DataType::Boolean, false),
    ]
    .into_iter()
    .map(|(name, data_type, nullable)| Column::new(Arc::new(Field::new(name, data_type, nullable))))
    .collect()
}

fn reader(config: &str, start_us: i64, directory: &Path) -> Result<Box<dyn Reader>, Vec<String>> {
    let columns = columns();
    let format = FormatConfig::default();
    let setting = Setting {
        name: "readings",
        columns: &columns,
        format: &format,
        time_column: None,
        time_zone: "Asia/Kolkata",
        directory,
        start_us,
    };
    let connector: ConnectorConfig = toml::from_str(config).map_err(|error| vec![error.to_string()])?;
    let problems = connector.check(&setting);
    if problems.is_empty() {
        return Ok(connector.reader(&setting).unwrap().unwrap());
    }
    Err(problems.iter().map(ToString::to_string).collect())
}

fn simulate(config: &str, start_us: i64) -> Box<dyn Reader> {
    reader(config, start_us, Path::new(".")).unwrap()
}

/// All rows up to `now_us`, and how long to wait for the next, if there is one.
fn drain(reader: &mut dyn Reader, now_us: i64) -> (RecordBatch, Option<Duration>) {
    let schema = schema(&columns());
    let mut batches = Vec::new();
    loop {
        match reader.read(now_us).unwrap() {
            Read::Rows(Batch { decoded, .. }) => {
                assert!(decoded.rejected.is_empty() && decoded.rows.num_rows() <= BATCH_ROWS);
                batches.push(decoded.rows);
            }
            Read::Wait(wait) => return (concat_batches(&schema, &batches).unwrap(), Some(wait)),
            Read::End => return (concat_batches(&schema, &batches).unwrap(), None),
        }
    }
}

fn times(rows: &RecordBatch) -> Vec<i64> {
    rows.column(0)
        .as_primitive::<TimestampMicrosecondType>()
        .values()
        .to_vec()
}

fn with(extra: &str) -> String {
    STATIONS.replacen("seed = 7", &format!("seed = 7\n{extra}"), 1)
}

#[test]
fn the_same_rows_however_they_are_asked_for() {
    let day = START + 86_400 * SECOND;
    let (all, _) = drain(simulate(STATIONS, START).as_mut(), day);
    assert!(all.num_rows() > 24_000, "{}", all.num_rows());
    assert!(times(&all).is_sorted());
    // Bit by bit.
    let mut slowly = simulate(STATIONS, START);
    let mut pieces = Vec::new();
    let mut now_us = START;
    while now_us < day {
        pieces.push(drain(slowly.as_mut(), now_us).0);
        now_us += 7 * 60 * SECOND + 333_333;
    }
    pieces.push(drain(slowly.as_mut(), day).0);
    assert_eq!(concat_batches(&all.schema(), &pieces).unwrap(), all);
    // From a later start.
    let noon = START + 43_200 * SECOND;
    let (half, _) = drain(simulate(STATIONS, noon).as_mut(), day);
    assert_eq!(half, all.slice(all.num_rows() - half.num_rows(), half.num_rows()));
    // As history of a later start.
    let late = with("backfill = \"12 hours\"");
    assert_eq!(drain(simulate(&late, day).as_mut(), day).0, half);
    // Another seed is another river; one station more changes no other.
    assert_ne!(
        drain(simulate(&STATIONS.replace("seed = 7", "seed = 8"), START).as_mut(), day).0,
        all
    );
    let more = STATIONS.replace("\"K3\"]", "\"K3\", \"K4\"]");
    let (more, _) = drain(simulate(&more, START).as_mut(), day);
    let known: BooleanArray = more
        .column(1)
        .as_string::<i32>()
        .iter()
        .map(|key| Some(key != Some("K4")))
        .collect();
    assert_eq!(arrow::compute::filter_record_batch(&more, &known).unwrap(), all);
}

/// On every machine, in every version: deployments' tests rely on it.
#[test]
fn the_rows_never_change() {
    let (rows, _) = drain(simulate(&with("rows = 3"), START).as_mut(), i64::MAX);
    let text: Vec<String> = (0..rows.num_rows())
        .map(|row| {
            rows.columns()
                .iter()
                .map(|array| texts(&array.slice(row, 1)).join(""))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    assert_eq!(text, PINNED);
}

const PINNED: [&str; 3] = [
    "2026-01-01T05:30:00.422863+05:30 K3 4.5 13.994478067464195 32767 sun  true",
    "2026-01-01T05:30:00.655788+05:30 K2 7.17 14.08740951466953 32767 sun  true",
    "2026-01-01T05:30:03.252667+05:30 K1 7.64 13.868462740808155 32767 rain  true",
];

#[test]
fn values_follow_their_model() {
    let (rows, _) = drain(simulate(STATIONS, START).as_mut(), START + 20 * 86_400 * SECOND);
    let ph = rows.column(2).as_primitive::<Float64Type>();
    let temperature = rows.column(3).as_primitive::<Float64Type>();
    let mean = |hours: std::ops::Range<i64>, column: &arrow::array::Float64Array| {
        let at = times(&rows);
        let chosen = (0..rows.num_rows()).filter(|row| {
            // Kolkata is 5.5 hours ahead.
            let hour = (at[*row] / SECOND + 19_800) % 86_400 / 3600;
            hours.contains(&hour) && column.is_valid(*row)
        });
        let (sum, count) = chosen.fold((0.0, 0), |(sum, count), row| (sum + column.value(row), count + 1));
        sum / f64::from(count)
    };
    assert!((mean(0..24, temperature) - 18.0).abs() < 0.1);
    assert!((mean(14..16, temperature) - 23.0).abs() < 0.3);
    assert!((mean(2..4, temperature) - 13.0).abs() < 0.3);
    // The afternoon's 0.4, less 0.03 for each of five degrees.
    assert!((mean(14..16, ph) - mean(2..4, ph) - 0.5).abs() < 0.1);
    assert!(ph.values().iter().all(
        |value| (0.0..=14.0).contains(value) && (value * 100.0).fract().abs() < 1e-6
            || (value * 100.0).fract().abs() > 1.0 - 1e-6
    ));
    let spiked = ph.values().iter().filter(|value| **value < 5.5).count() as f64 / ph.len() as f64;
    assert!((0.04..0.13).contains(&spiked), "{spiked}");
    let missing = temperature.null_count() as f64 / temperature.len() as f64;
    assert!((missing - 0.1).abs() < 0.01, "{missing}");
    // A smallint ends where it ends; text is drawn evenly; all are marked.
    assert!(
        rows.column(4)
            .as_primitive::<Int16Type>()
            .values()
            .iter()
            .all(|value| *value == i16::MAX)
    );
    let rain = rows
        .column(5)
        .as_string::<i32>()
        .iter()
        .filter(|text| *text == Some("rain"))
        .count();
    assert!((rain as f64 / rows.num_rows() as f64 - 0.5).abs() < 0.01);
    assert_eq!(rows.column(7).as_boolean().true_count(), rows.num_rows());
    // Outages: a share of about 0.001 · 60 of the rows is missing.
    let share = 1.0 - rows.num_rows() as f64 / (20.0 * 8640.0 * 3.0);
    assert!((0.04..0.08).contains(&share), "{share}");
}

#[test]
fn waits_for_the_next_step_and_ends_where_declared() {
    let plain = "type = \"simulate\"\ninterval = \"10 seconds\"\n[columns.ph]\n[columns.count]\n[columns.weather]\nvalues = [\"x\"]\n[columns.station]\nvalues = [\"y\"]\n";
    let mut reader = simulate(plain, START + 1);
    let (rows, wait) = drain(reader.as_mut(), START + 2 * SECOND);
    assert_eq!((rows.num_rows(), wait), (0, Some(Duration::from_secs(8))));
    let (rows, wait) = drain(reader.as_mut(), START + 20 * SECOND);
    assert_eq!(
        (times(&rows), wait),
        (
            vec![START + 10 * SECOND, START + 20 * SECOND],
            Some(Duration::from_secs(10))
        )
    );

    let until = format!(
        "until = \"2026-01-01 05:31:00\"\nbackfill = \"1 minute\"\n{}",
        plain.replace("type = \"simulate\"", "")
    );
    let (rows, wait) = drain(
        simulate(&format!("type = \"simulate\"\n{until}"), START).as_mut(),
        i64::MAX,
    );
    assert_eq!((rows.num_rows(), wait), (12, None));
    let start = plain.replace("interval", "start = \"2026-01-01T00:00:00Z\"\nrows = 10000\ninterval");
    let mut reader = simulate(&start, 0);
    let (rows, wait) = drain(reader.as_mut(), i64::MAX);
    assert_eq!((rows.num_rows(), times(&rows)[0], wait), (10_000, START, None));
    assert!(matches!(reader.read(i64::MAX), Ok(Read::End)));
}

#[test]
fn entities_from_a_file_bring_their_columns() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("stations.csv"),
        "name,station,latitude\nx,K1,25.5\ny,\"K,2\",\n",
    )
    .unwrap();
    let config = with("rows = 4").replace("values = [\"K1\", \"K2\", \"K3\"]", "file = \"stations.csv\"");
    let (rows, _) = drain(reader(&config, START, directory.path()).unwrap().as_mut(), i64::MAX);
    let mut pairs: Vec<(String, Option<f64>)> = texts(rows.column(1))
        .into_iter()
        .zip(rows.column(6).as_primitive::<Float64Type>().iter())
        .collect();
    pairs.sort_by(|one, other| one.0.cmp(&other.0));
    pairs.dedup();
    assert_eq!(pairs, [("K,2".to_owned(), None), ("K1".to_owned(), Some(25.5))]);
    let absent = config.replace("stations.csv", "absent.csv");
    assert!(reader(&absent, START, directory.path()).err().unwrap()[0].contains("absent.csv"));
}

#[test]
fn declarations_that_cannot_work() {
    let problems = |from: &str, to: &str| {
        assert!(STATIONS.contains(from), "{from}");
        reader(&STATIONS.replace(from, to), START, Path::new("."))
            .err()
            .unwrap_or_default()
            .join("; ")
    };
    for (from, to, expected) in [
        (
            "jitter = \"4 seconds\"",
            "jitter = \"10 seconds\"",
            "jitter must be shorter than interval",
        ),
        (
            "interval = \"10 seconds\"",
            "interval = \"0 seconds\"",
            "interval must be at least a millisecond",
        ),
        (
            "interval = \"10 seconds\"",
            "interval = \"soon\"",
            "\"soon\" is not a duration",
        ),
        ("seed = 7", "sead = 7", "unknown field `sead`"),
        (
            "seed = 7",
            "simulated = \"made_up\"",
            "there is no boolean column \"made_up\"",
        ),
        ("seed = 7", "start = \"tomorrow\"", "start: \"tomorrow\" is not a time"),
        (
            "[columns.weather]",
            "[columns.wether]",
            "there is a model for column \"wether\", which is not declared",
        ),
        (
            "[columns.count]\nbase = 100000",
            "",
            "column \"count\" is not null, but has no model",
        ),
        ("with = \"temperature\"", "with = \"ph\"", "in a circle"),
        (
            "with = \"temperature\"",
            "with = \"x\"",
            "correlates with \"x\", which has no model",
        ),
        (
            "values = [\"sun\", \"rain\"]",
            "base = 1",
            "a text column is modelled by values",
        ),
        (
            "base = 100000",
            "missing = 0.5",
            "missing > 0, but the column is not null",
        ),
        (
            "base = 100000",
            "values = [\"a\"]",
            "values and probability are for text and boolean",
        ),
        (
            "probability = 0.0005",
            "probability = 1.5",
            "spikes.probability must lie between 0 and 1",
        ),
        ("noise = 0.05", "noise = -1", "noise must not be negative"),
        ("min = 0", "min = 15", "min must not lie above max"),
        ("pull = 0.01", "pull = 0", "walk.pull must lie above 0"),
        ("\"K3\"]", "\"K1\"]", "\"K1\" stands there twice"),
        (
            "values = [\"K1\", \"K2\", \"K3\"]",
            "values = []",
            "entities: there are none",
        ),
        (
            "column = \"station\"",
            "column = \"town\"",
            "column \"town\" is not declared",
        ),
        ("entities = {", "entities = { x = 1,", "expected a list of keys"),
    ] {
        let problems = problems(from, to);
        assert!(problems.contains(expected), "{to}: {problems}");
    }
    // All are told at once.
    let all = STATIONS
        .replace("noise = 0.05", "noise = -1")
        .replace("min = 0", "min = 15");
    assert_eq!(
        reader(&all, START, Path::new(".")).err().map(|problems| problems.len()),
        Some(2)
    );
}
