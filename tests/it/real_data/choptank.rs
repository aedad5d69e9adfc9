//! The Choptank River's daily flow (USGS), by days written the American way.

use queries::Relations;

use super::recording::{Recording, compare, deployment, load, replay};
use super::recorded;

const SOURCE: &str = r#"
columns = { day = { type = "timestamp not null", from = "date" }, flow = { type = "double not null", from = "Qdaily" } }
time = { column = "day", lateness = "10 days" }
[connector]
type = "file"
path = "data/flow.txt"
[format]
type = "csv"
delimiter = "\t"
timestamp = "%m/%d/%Y"
"#;

const VIEWS: &[(&str, &str)] = &[
    (
        "views/years.sql",
        "SELECT date_part('year', day) AS year, count(*) AS days, avg(flow) AS mean, min(flow) AS low, max(flow) AS high
         FROM flows GROUP BY date_part('year', day)",
    ),
    (
        "views/floods.sql",
        "SELECT f.day, f.flow, y.mean FROM flows f JOIN years y ON date_part('year', f.day) = y.year WHERE f.flow > 10 * y.mean",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_river_through_a_file() {
    let Some(path) = recorded("water/usgs_choptank/ChoptankRiverFlow.txt") else { return };
    let text = std::fs::read_to_string(path).expect("the recording is text");
    let damage = |line: &str, draw: u64| match draw % 2 {
        0 => format!("{line}x"),
        _ => line.replacen('/', "-", 1),
    };
    let recording = Recording::shuffled(&text, 1999, 500, damage);
    let text = recording.text();
    let mut files = vec![
        ("deployment.toml", "clock = \"event\"\ntick_rows = 200"),
        ("sources/flows.toml", SOURCE),
        ("data/flow.txt", text.as_str()),
    ];
    files.extend(VIEWS);
    let folder = deployment(&files);
    let (engine, snapshot) = replay(folder.path(), "flows", recording.lines.len() as u64).await;
    let counts = engine.sources().remove(0);
    println!("accepted {}, late {}, rejected {}", counts.accepted, counts.late, counts.rejected);
    assert!(recording.late > 10 && recording.rejected > 10);
    assert_eq!(counts.accepted, recording.accepted.len() as u64);
    assert_eq!(counts.late, recording.late as u64);
    assert_eq!(counts.rejected, recording.rejected as u64);

    // The American dates, turned into the form arrow reads.
    let iso = |line: &String| {
        let (date, flow) = line.split_once('\t').expect("two cells");
        let mut parts = date.split('/').map(|part| part.parse::<u32>().expect("a number"));
        let (month, day, year) = (parts.next().expect("m"), parts.next().expect("d"), parts.next().expect("y"));
        format!("{year:04}-{month:02}-{day:02}T00:00:00Z\t{flow}")
    };
    let accepted: Vec<String> = recording.accepted.iter().map(iso).collect();
    let schema = engine.relation("flows").expect("the source").schema.clone();
    let ledger = super::recording::rows("day\tflow", &accepted, &schema, b'\t');
    let ledger = Relations::from([("flows".to_owned(), (schema, vec![ledger]))]);
    compare(&load(folder.path()), ledger, &snapshot).await;
    engine.shutdown();
}
