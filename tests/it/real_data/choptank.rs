//! The Choptank River's daily flow (USGS), by days written the American way.

use arrow::datatypes::SchemaRef;
use queries::Relations;

use super::recorded;
use super::recording::{Recording, Totals, compare, compare_answers, deployment, load, post, replay, rows};
use crate::program::Program;

const SOURCE: &str = r#"
columns = { day = { type = "timestamp not null", from = "date" }, flow = { type = "double not null", from = "Qdaily" } }
time = { column = "day", lateness = "10 days" }
"#;

const FORMAT: &str = "[format]\ntype = \"csv\"\ndelimiter = \"\\t\"\ntimestamp = \"%m/%d/%Y\"\n";

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

fn recording() -> Option<Recording> {
    let path = recorded("water/usgs_choptank/ChoptankRiverFlow.txt")?;
    let text = std::fs::read_to_string(path).expect("the recording is text");
    let damage = |line: &str, draw: u64| match draw % 2 {
        0 => format!("{line}x"),
        _ => line.replacen('/', "-", 1),
    };
    Some(Recording::shuffled(&text, 1999, 500, damage))
}

fn files<'a>(source: &'a str, text: &'a str) -> Vec<(&'static str, &'a str)> {
    let mut files = vec![
        ("deployment.toml", "clock = \"event\"\ntick_rows = 200"),
        ("sources/flows.toml", source),
        ("data/flow.txt", text),
    ];
    files.extend(VIEWS);
    files
}

fn ledger(recording: &Recording, schema: SchemaRef) -> Relations {
    // The American dates, turned into the form arrow reads.
    let iso = |line: &String| {
        let (date, flow) = line.split_once('\t').expect("two cells");
        let mut parts = date.split('/').map(|part| part.parse::<u32>().expect("a number"));
        let (month, day, year) = (
            parts.next().expect("m"),
            parts.next().expect("d"),
            parts.next().expect("y"),
        );
        format!("{year:04}-{month:02}-{day:02}T00:00:00Z\t{flow}")
    };
    let accepted: Vec<String> = recording.accepted.iter().map(iso).collect();
    let rows = rows("day\tflow", &accepted, &schema, b'\t');
    Relations::from([("flows".to_owned(), (schema, vec![rows]).into())])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_river_through_a_file() {
    let Some(recording) = recording() else { return };
    let _honest = crate::HONEST.read().await;
    let source = format!("{SOURCE}\n[connector]\ntype = \"file\"\npath = \"data/flow.txt\"\n{FORMAT}");
    let folder = deployment(&files(&source, &recording.text()));
    let (engine, snapshot) = replay(folder.path(), "flows", recording.lines.len() as u64).await;
    assert_eq!(Totals::of(&engine), Totals::expected(&recording));
    let schema = engine.relation("flows").expect("the source").schema.clone();
    compare(&load(folder.path()), ledger(&recording, schema), &snapshot).await;
    engine.shutdown();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_river_through_http() {
    let Some(recording) = recording() else { return };
    let source = format!("{SOURCE}\n[connector]\ntype = \"http\"\n{FORMAT}");
    let folder = deployment(&files(&source, ""));
    let program = Program::start(folder.path());
    assert_eq!(post(&program, "flows", &recording, 200), Totals::expected(&recording));
    let deployment = load(folder.path());
    let schema = deployment.sources[0].schema.clone();
    compare_answers(&deployment, ledger(&recording, schema), &program).await;
}
