//! How many readings a second can be decoded, by format, and decoded and ingested?
//!
//! `cargo bench --bench decode`. Bodies of 1,000 readings of the water deployment's
//! columns; ingesting goes into an engine without views, which keeps the rows.

#[path = "support/rounds.rs"]
mod rounds;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, TimeUnit};
use connectors::{Column, Decoder, FormatConfig};
use sangam::engine::{Engine, Operation};

use rounds::{Contender, compete};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROWS: usize = 1_000;
const BODIES: usize = 300;
/// Lines of JSON are what everything else is compared with.
const LINES: &str = "JSON lines";

fn main() -> ExitCode {
    let (mut lines, mut array, mut csv) = (
        String::new(),
        String::from("["),
        String::from("station,at,ph,bod,turbidity\n"),
    );
    for row in 0..ROWS {
        let (station, ph, bod, turbidity) = (row % 42, 6.0 + row as f64 * 0.003, row as f64 * 0.01, row as f64 * 0.1);
        let at = format!("2026-11-21T12:{:02}:{:02}.{:06}Z", row / 60 % 60, row % 60, row);
        let object = format!(
            "{{\"station\":\"GD{station:02}\",\"at\":\"{at}\",\"ph\":{ph:.3},\"bod\":{bod:.2},\"turbidity\":{turbidity:.1}}}"
        );
        let _ = writeln!(lines, "{object}");
        let _ = write!(array, "{}{object}", if row == 0 { "" } else { "," });
        let _ = writeln!(csv, "GD{station:02},{at},{ph:.3},{bod:.2},{turbidity:.1}");
    }
    array.push(']');
    println!(
        "{} bytes a row as {LINES}, {} as CSV",
        lines.len() / ROWS,
        csv.len() / ROWS
    );
    let held = compete(
        "decode, 1,000 rows a body",
        ROWS * BODIES,
        vec![
            Contender::new(LINES, || decoded("json", lines.as_bytes())),
            Contender::new("JSON array", || decoded("json", array.as_bytes())).at_least(0.4, LINES),
            Contender::new("CSV", || decoded("csv", csv.as_bytes())).at_least(0.4, LINES),
            Contender::new("JSON lines, ingested", || ingested("json", lines.as_bytes())).at_least(0.25, LINES),
            Contender::new("CSV, ingested", || ingested("csv", csv.as_bytes())).against(LINES),
        ],
    );
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn decoder(format: &str) -> Decoder {
    let format: FormatConfig = toml::from_str(&format!("type = \"{format}\"")).expect("a format");
    let double = |name| Column::new(Arc::new(Field::new(name, DataType::Float64, true)));
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns = [
        Column::new(Arc::new(Field::new("station", DataType::Utf8, false))),
        Column::new(Arc::new(Field::new("at", time, false))),
        double("ph"),
        double("bod"),
        double("turbidity"),
    ];
    Decoder::new(&format, &columns, "UTC").expect("a decoder")
}

fn decode(decoder: &mut Decoder, body: &[u8]) -> RecordBatch {
    let decoded = decoder.decode(body);
    assert_eq!(
        (decoded.rows.num_rows(), decoded.rejected.len()),
        (ROWS, 0),
        "{:?}",
        decoded.rejected.first()
    );
    decoder.restart();
    decoded.rows
}

fn decoded(format: &str, body: &[u8]) -> Duration {
    let mut decoder = decoder(format);
    let start = Instant::now();
    for _ in 0..BODIES {
        std::hint::black_box(decode(&mut decoder, body));
    }
    start.elapsed()
}

fn ingested(format: &str, body: &[u8]) -> Duration {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("sources")).expect("a folder");
    let source = "[columns]\nstation = \"text not null\"\nat = \"timestamp not null\"\nph = \"double\"\nbod = \"double\"\n\
                  turbidity = \"double\"\n[connector]\ntype = \"http\"\n[format]\ntype = \"json\"\n";
    std::fs::write(dir.path().join("sources/readings.toml"), source).expect("a file");
    let engine = Engine::start(sangam::config::load(dir.path()).expect("a good deployment")).expect("an engine");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut decoder = decoder(format);
    let start = Instant::now();
    runtime.block_on(async {
        for _ in 0..BODIES {
            let decoded = decoder.decode(body);
            decoder.restart();
            let accepted = engine
                .ingest("readings", Operation::Insert, decoded)
                .await
                .expect("an open source");
            assert_eq!(accepted.accepted, ROWS);
        }
    });
    let took = start.elapsed();
    engine.shutdown();
    took
}
