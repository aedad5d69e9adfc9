//! Yearly means of Indian rivers, as messy as they were published: two kinds of missing, spaces, Latin-1.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use queries::Relations;

use super::recording::{compare, deployment, load, replay};
use super::recorded;

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
[connector]
type = "file"
path = "data/rivers.csv"
[format]
type = "csv"
encoding = "latin1"
null = ["NAN", "", " "]
"#;

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
const COLUMNS: [usize; 8] = [0, 1, 2, 3, 4, 5, 7, 11];

#[tokio::test(flavor = "multi_thread")]
async fn the_messy_rivers_through_a_file() {
    let Some(path) = recorded("water/india_river_quality_2003_2014.csv") else { return };
    let bytes = std::fs::read(path).expect("the recording");
    // Latin-1 is the first 256 characters, byte by byte.
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let cells = cells(&text);
    let missing = |cell: &str| ["NAN", ""].contains(&cell.trim());
    let number = |cell: &str| missing(cell) || cell.trim().parse::<f64>().is_ok();
    let readable = |row: &&Vec<String>| COLUMNS[3..7].iter().all(|column| number(&row[*column])) && {
        let year = row[11].trim();
        missing(year) || year.parse::<i64>().is_ok()
    };
    let accepted: Vec<&Vec<String>> = cells.iter().filter(readable).collect();
    let rejected = cells.len() - accepted.len();

    let mut files =
        vec![("deployment.toml", "clock = \"event\""), ("sources/rivers.toml", SOURCE), ("data/rivers.csv", "")];
    files.extend(VIEWS);
    let folder = deployment(&files);
    std::fs::write(folder.path().join("data/rivers.csv"), &bytes).expect("the recording");
    let (engine, snapshot) = replay(folder.path(), "rivers", cells.len() as u64).await;
    let counts = engine.sources().remove(0);
    println!("accepted {}, rejected {}", counts.accepted, counts.rejected);
    assert_eq!(counts.accepted, accepted.len() as u64);
    assert_eq!(counts.rejected, rejected as u64);

    let schema = engine.relation("rivers").expect("the source").schema.clone();
    let text = |column: usize| -> ArrayRef {
        let cell = |row: &&Vec<String>| (!["NAN", "", " "].contains(&row[column].as_str())).then(|| row[column].clone());
        Arc::new(accepted.iter().map(cell).collect::<StringArray>())
    };
    let double = |column: usize| -> ArrayRef {
        Arc::new(accepted.iter().map(|row| row[column].trim().parse::<f64>().ok().filter(|_| !missing(&row[column]))).collect::<Float64Array>())
    };
    let year: ArrayRef = Arc::new(accepted.iter().map(|row| row[11].trim().parse::<i64>().ok()).collect::<Int64Array>());
    let columns = vec![text(0), text(1), text(2), double(3), double(4), double(5), double(7), year];
    let ledger = RecordBatch::try_new(schema.clone(), columns).expect("a column each");
    let ledger = Relations::from([("rivers".to_owned(), (schema, vec![ledger]))]);
    compare(&load(folder.path()), ledger, &snapshot).await;
    engine.shutdown();
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
