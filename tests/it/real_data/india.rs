//! Yearly means of Indian rivers, as messy as they were published: two kinds of missing, spaces, Latin-1.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use queries::Relations;

use super::recorded;
use super::recording::{Totals, compare, compare_answers, deployment, load, replay};
use crate::program::Program;

const SOURCE: &str = r#"
[columns]
station = { type = "text", from = "STATION CODE" }
location = { type = "text", from = "LOCATIONS" }
state = { type = "text", from = "STATE" }
temperature = { type = "double", from = "Temp" }
oxygen = { type = "double", from = "D.O. (mg/l)" }
ph = { type = "double", from = "PH" }
bod = { type = "double", from = "B.O.D. (mg/l)" }
year = "bigint"
"#;

const FORMAT: &str = "[format]\ntype = \"csv\"\nencoding = \"latin1\"\nnull = [\"NAN\", \"\", \" \"]\n";

const VIEWS: &[(&str, &str)] = &[
    (
        "views/years.sql",
        "SELECT year, count(*) AS stations, avg(oxygen) AS oxygen, stddev(ph) AS spread, max(bod) AS worst FROM rivers GROUP BY year",
    ),
    (
        "views/bathing.sql",
        "SELECT state, year, count(*) AS fit FROM rivers WHERE ph BETWEEN 6.5 AND 8.5 AND oxygen >= 5 AND bod <= 3 GROUP BY state, year",
    ),
];

/// Positions of the declared columns among the recording's.
const TEXTS: [usize; 3] = [0, 1, 2];
const DOUBLES: [usize; 4] = [3, 4, 5, 7];
const YEAR: usize = 11;

/// What the test itself makes of the recording.
struct Rivers {
    bytes: Vec<u8>,
    rows: usize,
    accepted: Vec<Vec<String>>,
}

fn missing(cell: &str) -> bool {
    ["NAN", ""].contains(&cell.trim())
}

fn recording() -> Option<Rivers> {
    let path = recorded("water/india_river_quality_2003_2014.csv")?;
    let bytes = std::fs::read(path).expect("the recording");
    // Latin-1 is the first 256 characters, byte by byte.
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let mut accepted = cells(&text);
    let rows = accepted.len();
    accepted.retain(|row| {
        let number = |cell: &String| missing(cell) || cell.trim().parse::<f64>().is_ok();
        let year = |cell: &String| missing(cell) || cell.trim().parse::<i64>().is_ok();
        DOUBLES.iter().all(|column| number(&row[*column])) && year(&row[YEAR])
    });
    Some(Rivers { bytes, rows, accepted })
}

impl Rivers {
    fn totals(&self) -> Totals {
        assert!(self.accepted.len() > 1_500, "most rows can be read");
        Totals {
            accepted: self.accepted.len() as u64,
            late: 0,
            rejected: (self.rows - self.accepted.len()) as u64,
        }
    }

    fn ledger(&self, schema: SchemaRef) -> Relations {
        let rows = &self.accepted;
        let text = |column: usize| -> ArrayRef {
            let cell =
                |row: &Vec<String>| (!["NAN", "", " "].contains(&row[column].as_str())).then(|| row[column].clone());
            Arc::new(rows.iter().map(cell).collect::<StringArray>())
        };
        let double = |column: &usize| -> ArrayRef {
            // Rust reads NAN as a number; here it means that there is none.
            let cell = |cell: &String| cell.trim().parse().ok().filter(|_| !missing(cell));
            Arc::new(rows.iter().map(|row| cell(&row[*column])).collect::<Float64Array>())
        };
        let year: ArrayRef = Arc::new(
            rows.iter()
                .map(|row| row[YEAR].trim().parse().ok())
                .collect::<Int64Array>(),
        );
        let mut columns: Vec<ArrayRef> = TEXTS.iter().map(|column| text(*column)).collect();
        columns.extend(DOUBLES.iter().map(double));
        columns.push(year);
        let batch = RecordBatch::try_new(schema.clone(), columns).expect("a column each");
        Relations::from([("rivers".to_owned(), (schema, vec![batch]).into())])
    }
}

fn files(source: &str) -> Vec<(&'static str, &str)> {
    let mut files = vec![
        ("deployment.toml", "clock = \"event\""),
        ("sources/rivers.toml", source),
        ("data/rivers.csv", ""),
    ];
    files.extend(VIEWS);
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn the_messy_rivers_through_a_file() {
    let Some(rivers) = recording() else { return };
    let _honest = crate::HONEST.read().await;
    let source = format!("{SOURCE}\n[connector]\ntype = \"file\"\npath = \"data/rivers.csv\"\n{FORMAT}");
    let folder = deployment(&files(&source));
    std::fs::write(folder.path().join("data/rivers.csv"), &rivers.bytes).expect("the recording");
    let (engine, snapshot) = replay(folder.path(), "rivers", rivers.rows as u64).await;
    assert_eq!(Totals::of(&engine), rivers.totals());
    let schema = engine.relation("rivers").expect("the source").schema.clone();
    compare(&load(folder.path()), rivers.ledger(schema), &snapshot).await;
    engine.shutdown();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_messy_rivers_through_http() {
    let Some(rivers) = recording() else { return };
    let source = format!("{SOURCE}\n[connector]\ntype = \"http\"\n{FORMAT}");
    let folder = deployment(&files(&source));
    let program = Program::start(folder.path());
    let reply = program.post("rivers", "text/csv", &rivers.bytes).json();
    let count = |name: &str| reply[name].as_u64().unwrap_or_else(|| panic!("no {name} in {reply}"));
    let totals = Totals {
        accepted: count("accepted"),
        late: count("late"),
        rejected: count("rejected"),
    };
    assert_eq!(totals, rivers.totals());
    let deployment = load(folder.path());
    let schema = deployment.sources[0].schema.clone();
    compare_answers(&deployment, rivers.ledger(schema), &program).await;
}

/// Splits CSV into cells by the letter of RFC 4180, skipping the head.
fn cells(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut cell)),
            '\n' if !quoted => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            '\r' if !quoted => {}
            other => cell.push(other),
        }
    }
    if !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push(row);
    }
    rows.remove(0);
    rows
}
