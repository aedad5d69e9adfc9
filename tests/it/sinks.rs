//! A sink whose other side is down for long: rows come in all the same, and in the end it has what the view holds.
//!
//! `broker` is the other side: as much of a broker of Kafka as a producer needs, which can be away. What is written to
//! a real one is tested beside the connector.
mod broker;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::program::folder::deployment;
use crate::program::{PATIENCE, Program};
use broker::Broker;

/// Ticks that may wait.
const WAITING_TICKS_MAX: i64 = 40;

fn shop(broker: &Broker, when_full: &str) -> tempfile::TempDir {
    let readings = "columns = { station = \"text not null\", value = \"bigint\" }\nkey = [\"station\"]\n\
                    [connector]\ntype = \"http\"\n";
    // Rows below 0 are in no view: so keys come and go.
    let latest = "--! key = [\"station\"]\nSELECT station, value FROM readings WHERE value >= 0";
    let out = format!(
        "from = \"latest\"\nwaiting_ticks_max = {WAITING_TICKS_MAX}\nwhen_full = \"{when_full}\"\n[connector]\n\
         type = \"kafka\"\nbrokers = \"{}\"\ntopic = \"latest\"\nexactly_once = false\n[connector.options]\n\
         compression.type = \"none\"\nmessage.timeout.ms = 1000\nreconnect.backoff.max.ms = 200\n",
        broker.address()
    );
    deployment(&[
        ("deployment.toml", "workers = 1\n"),
        ("sources/readings.toml", readings),
        ("views/latest.sql", latest),
        ("sinks/out.toml", &out),
    ])
}

fn start(dir: &Path, data: &Path) -> Program {
    Program::start_with(dir, &["--data", data.to_str().expect("a path")])
}

/// Posts one row, which is a tick of its own; the keys come round again and again.
fn row(number: i64) -> String {
    let value = if number % 7 == 3 { -number } else { number };
    json!({"station": format!("K{}", number % 11), "value": value}).to_string()
}

fn feed(program: &Program, numbers: std::ops::Range<i64>) {
    for number in numbers {
        program.ingest("readings", row(number));
    }
}

fn status(program: &Program) -> Value {
    let mut rows = program.sql("SELECT * FROM sangam.sinks");
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

fn number(program: &Program, column: &str) -> i64 {
    status(program)[column].as_i64().expect("a number")
}

/// What the view holds, as one who reads the topic knows it: key and row as JSON.
fn view(program: &Program) -> BTreeMap<String, Value> {
    let rows = program.sql("SELECT station, value FROM latest");
    rows.into_iter()
        .map(|row| (json!({"station": row["station"]}).to_string(), row))
        .collect()
}

/// What one who reads the topic knows in the end.
fn known(broker: &Broker) -> BTreeMap<String, Value> {
    let mut known = BTreeMap::new();
    for (key, value) in broker.messages() {
        match value {
            Some(value) => known.insert(key, serde_json::from_str(&value).expect("JSON")),
            None => known.remove(&key),
        };
    }
    known
}

/// Tells whether a row is taken at once.
fn is_taken(program: &Program, row: &str) -> bool {
    let mut stream = program.connect();
    stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .expect("a timeout");
    let request = format!(
        "POST /ingest/readings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{row}",
        row.len()
    );
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = [0; 15];
    match stream.read_exact(&mut answer) {
        Ok(()) => answer.starts_with(b"HTTP/1.1 200"),
        Err(error) => {
            assert!(
                matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ),
                "{error}"
            );
            false
        }
    }
}

#[test]
fn ticks_give_way_to_their_net_change_while_the_other_side_is_down() {
    let broker = Broker::start();
    let dir = shop(&broker, "conflate");
    let data = tempfile::tempdir().expect("a folder");
    let mut program = start(dir.path(), data.path());
    feed(&program, 0..20);
    program.until("it is delivered", || known(&broker) == view(&program));
    let before = broker.messages().len();

    broker.go_away();
    // Three lives, of which none ends by itself, each with many times the ticks that may wait.
    let mut fed = 20;
    for life in 1..=3 {
        feed(&program, fed..fed + 300);
        fed += 300;
        let so_far = number(&program, "conflated");
        assert!(so_far > 100 * life, "life {life}: {so_far} ticks gave way");
        let waiting = number(&program, "waiting");
        // Those that may wait, and some that were tried when the other side went away.
        assert!(waiting <= 2 * WAITING_TICKS_MAX, "life {life}: {waiting} ticks wait");
        program.until("it says why", || status(&program)["failure"].is_string());
        program.kill();
        program = start(dir.path(), data.path());
        // Counted for good.
        assert!(number(&program, "conflated") >= so_far);
    }
    let metrics = program.get("/metrics");
    let metric = "sangam_sink_conflated_ticks_total{sink=\"out\"} ";
    assert!(metrics.text().contains(metric), "{}", metrics.text());
    assert!(metrics.text().contains("sangam_sink_waiting_ticks{sink=\"out\"} "));
    assert_eq!(broker.messages().len(), before, "the other side was down");

    broker.come_back();
    program.until("everything is delivered", || {
        number(&program, "waiting") == 0 && known(&broker) == view(&program)
    });
    let told = broker.messages().len() - before;
    println!("{fed} rows, {told} messages after the other side came back");
    assert!(
        told < 200,
        "{told} messages for 900 rows that hardly anyone was to be told"
    );
    // And it goes on as before.
    feed(&program, fed..fed + 30);
    program.until("the rest is delivered", || known(&broker) == view(&program));
    assert_eq!(status(&program)["failure"], Value::Null);
}

#[test]
fn sources_wait_where_that_is_declared() {
    let broker = Broker::start();
    let dir = shop(&broker, "block");
    let data = tempfile::tempdir().expect("a folder");
    let program = start(dir.path(), data.path());
    feed(&program, 0..3);
    program.until("it is delivered", || known(&broker) == view(&program));
    broker.go_away();
    let taken = (3..200).take_while(|number| is_taken(&program, &row(*number))).count() as i64;
    // A few ticks are under way when the doors close.
    assert!(
        (WAITING_TICKS_MAX - 1..WAITING_TICKS_MAX + 20).contains(&taken),
        "{taken} rows were taken"
    );
    assert_eq!(number(&program, "conflated"), 0);
    // It can be stopped all the same, and is as full when it starts again.
    program.stop();
    let program = start(dir.path(), data.path());
    assert!(!is_taken(&program, &row(499)));
    broker.come_back();
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_taken(&program, &row(500)) {
        assert!(std::time::Instant::now() < deadline, "the doors stay closed");
    }
    program.until("it is delivered", || known(&broker) == view(&program));
}
