//! A waterworks, minute by minute (GECCO 2018 industrial challenge).

use std::io::Read;

use arrow::datatypes::SchemaRef;
use queries::Relations;

use super::recorded;
use super::recording::{Recording, Totals, compare, compare_answers, deployment, load, post, replay, rows};
use crate::program::Program;

const SOURCE: &str = r#"
columns = { at = { type = "timestamp not null", from = "Time" }, temperature = { type = "double", from = "Tp" }, chlorine = { type = "double", from = "Cl" }, ph = { type = "double", from = "pH" }, redox = { type = "double", from = "Redox" }, conductivity = { type = "double", from = "Leit" }, turbidity = { type = "double", from = "Trueb" }, chlorine_2 = { type = "double", from = "Cl_2" }, flow = { type = "double", from = "Fm" }, flow_2 = { type = "double", from = "Fm_2" }, event = { type = "boolean", from = "EVENT" } }
time = { column = "at", lateness = "30 minutes" }
"#;

const VIEWS: &[(&str, &str)] = &[
    (
        "views/hourly.sql",
        "SELECT date_bin(INTERVAL '1 hour', at) AS hour, count(*) AS readings, avg(ph) AS ph, min(chlorine) AS least,
                max(turbidity) AS most, stddev(redox) AS spread, last_value(conductivity ORDER BY at) AS latest
         FROM readings GROUP BY date_bin(INTERVAL '1 hour', at)",
    ),
    (
        "views/events.sql",
        "SELECT event, count(*) AS readings, sum(flow) AS flow, avg(temperature) AS temperature FROM readings GROUP BY event",
    ),
    (
        "views/odd_hours.sql",
        "SELECT h.hour, h.ph, r.at, r.turbidity FROM hourly h JOIN readings r ON h.hour = date_bin(INTERVAL '1 hour', r.at)
         WHERE r.turbidity > 0.03 AND h.readings > 30",
    ),
];

/// Longer than a tick, so that the line is behind the watermark of the tick before.
const DELAY: usize = 2_500;

fn recording() -> Option<Recording> {
    let path = recorded("water/geccoIC2018Train.csv.gz")?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).expect("the recording"))
        .read_to_string(&mut text)
        .expect("the recording is text");
    let damage = |line: &str, draw: u64| match draw % 3 {
        0 => line.replacen(',', ",seven,", 1),
        1 => line.replacen("20", "twenty-", 1),
        _ => line
            .split(',')
            .enumerate()
            .map(|(at, cell)| if at == 3 { "acid" } else { cell })
            .collect::<Vec<_>>()
            .join(","),
    };
    Some(Recording::shuffled(&text, 2018, DELAY, damage))
}

fn files<'a>(source: &'a str, text: &'a str) -> Vec<(&'static str, &'a str)> {
    let mut files = vec![
        ("deployment.toml", "clock = \"event\""),
        ("sources/readings.toml", source),
        ("data/recording.csv", text),
    ];
    files.extend(VIEWS);
    files
}

fn ledger(recording: &Recording, schema: SchemaRef) -> Relations {
    let rows = rows(&recording.head, &recording.accepted, &schema, b',');
    Relations::from([("readings".to_owned(), (schema, vec![rows]).into())])
}

const FORMAT: &str = "[format]\ntype = \"csv\"\nnull = [\"NA\", \"\"]\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_waterworks_through_a_file() {
    let Some(recording) = recording() else { return };
    let _honest = crate::HONEST.read().await;
    let source = format!("{SOURCE}\n[connector]\ntype = \"file\"\npath = \"data/recording.csv\"\n{FORMAT}");
    let folder = deployment(&files(&source, &recording.text()));
    let (engine, snapshot) = replay(folder.path(), "readings", recording.lines.len() as u64).await;
    assert_eq!(Totals::of(&engine), Totals::expected(&recording));
    let schema = engine.relation("readings").expect("the source").schema.clone();
    compare(&load(folder.path()), ledger(&recording, schema), &snapshot).await;
    engine.shutdown();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_waterworks_through_http() {
    let Some(recording) = recording() else { return };
    let source = format!("{SOURCE}\n[connector]\ntype = \"http\"\n{FORMAT}");
    let folder = deployment(&files(&source, ""));
    let program = Program::start(folder.path());
    assert_eq!(
        post(&program, "readings", &recording, 1_000),
        Totals::expected(&recording)
    );
    let deployment = load(folder.path());
    let schema = deployment.sources[0].schema.clone();
    compare_answers(&deployment, ledger(&recording, schema), &program).await;
}
