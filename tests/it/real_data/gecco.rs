//! A waterworks, minute by minute (GECCO 2018 industrial challenge).

use std::io::Read;

use queries::Relations;

use super::recording::{Recording, compare, deployment, load, replay, rows};
use super::recorded;

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
         WHERE r.turbidity > 0.5 AND h.readings > 30",
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
        _ => line.split(',').enumerate().map(|(at, cell)| if at == 3 { "acid" } else { cell }).collect::<Vec<_>>().join(","),
    };
    Some(Recording::shuffled(&text, 2018, DELAY, damage))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_waterworks_through_a_file() {
    let Some(recording) = recording() else { return };
    let source = format!("{SOURCE}\n[connector]\ntype = \"file\"\npath = \"data/recording.csv\"\n[format]\ntype = \"csv\"\nnull = [\"NA\", \"\"]\n");
    let text = recording.text();
    let mut files = vec![
        ("deployment.toml", "clock = \"event\""),
        ("sources/readings.toml", source.as_str()),
        ("data/recording.csv", text.as_str()),
    ];
    files.extend(VIEWS);
    let folder = deployment(&files);
    let (engine, snapshot) = replay(folder.path(), "readings", recording.lines.len() as u64).await;
    check(&engine, &recording);
    let schema = engine.relation("readings").expect("the source").schema.clone();
    let ledger = rows(&recording.head, &recording.accepted, &schema, b',');
    let deployment = load(folder.path());
    let ledger = Relations::from([("readings".to_owned(), (schema, vec![ledger]))]);
    compare(&deployment, ledger, &snapshot).await;
    engine.shutdown();
}

fn check(engine: &sangam::engine::Engine, recording: &Recording) {
    let counts = engine.sources().remove(0);
    println!("accepted {}, late {}, rejected {}", counts.accepted, counts.late, counts.rejected);
    assert!(recording.late > 1_000 && recording.rejected > 1_000, "about one in a hundred each");
    assert_eq!(counts.accepted, recording.accepted.len() as u64);
    assert_eq!(counts.late, recording.late as u64);
    assert_eq!(counts.rejected, recording.rejected as u64);
}
