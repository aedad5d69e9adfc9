//! A sink whose other side is down for long: rows come in all the same, and in the end it has what the view holds.
//!
//! The other side is a broker that is killed; what it has, another program knows that reads the topic.
#[path = "../../connectors/tests/kafka/broker.rs"]
mod broker;

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::program::folder::deployment;
use crate::program::{PATIENCE, Program};
use broker::Broker;

/// Ticks that may wait.
const WAITING_TICKS_MAX: i64 = 40;

const READINGS: &str = "columns = { station = \"text not null\", value = \"bigint\" }\nkey = [\"station\"]\n";

/// Options of a client that is back soon after the broker is.
const OPTIONS: &str = "[connector.options]\nreconnect.backoff.max.ms = 200\n";

/// A view that a sink is told of.
fn shop(broker: &Broker, when_full: &str) -> tempfile::TempDir {
    // Rows below 0 are in no view: so keys come and go.
    let latest = "--! key = [\"station\"]\nSELECT station, value FROM readings WHERE value >= 0";
    let out = format!(
        "from = \"latest\"\nwaiting_ticks_max = {WAITING_TICKS_MAX}\nwhen_full = \"{when_full}\"\n[connector]\n\
         type = \"kafka\"\nbrokers = \"{}\"\ntopic = \"latest\"\nexactly_once = false\n{OPTIONS}\
         message.timeout.ms = 1000\n",
        broker.address()
    );
    deployment(&[
        ("deployment.toml", "workers = 1\n"),
        (
            "sources/readings.toml",
            &format!("{READINGS}[connector]\ntype = \"http\"\n"),
        ),
        ("views/latest.sql", latest),
        ("sinks/out.toml", &out),
    ])
}

/// Starts a broker that has the sink's topic, and a program that reads it.
fn broker_and_reader() -> (Broker, Program, tempfile::TempDir) {
    let broker = Broker::start();
    broker.create_topic("latest", 1, &[]);
    let latest = format!(
        "{READINGS}[format]\nenvelope = \"upsert\"\n[connector]\ntype = \"kafka\"\nbrokers = \"{}\"\n\
         topic = \"latest\"\nstart = \"earliest\"\n{OPTIONS}",
        broker.address()
    );
    let dir = deployment(&[("deployment.toml", "workers = 1\n"), ("sources/latest.toml", &latest)]);
    let reader = Program::start(dir.path());
    (broker, reader, dir)
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

/// What a program holds under the name: the view, or what one who reads the topic knows of it.
fn latest(program: &Program) -> Vec<Value> {
    program.sql("SELECT station, value FROM latest ORDER BY station")
}

/// How many messages the topic has brought.
fn messages(reader: &Program) -> i64 {
    reader.number("SELECT accepted + rejected FROM sangam.sources WHERE name = 'latest'")
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
    let (mut broker, reader, _dir) = broker_and_reader();
    let dir = shop(&broker, "conflate");
    let data = tempfile::tempdir().expect("a folder");
    let mut program = start(dir.path(), data.path());
    feed(&program, 0..20);
    program.until("it is delivered", || latest(&reader) == latest(&program));
    let before = messages(&reader);

    broker.kill();
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

    broker.restart();
    program.until("everything is delivered", || {
        number(&program, "waiting") == 0 && latest(&reader) == latest(&program)
    });
    let told = messages(&reader) - before;
    println!("{fed} rows, {told} messages after the other side came back");
    assert!(
        told < 200,
        "{told} messages for 900 rows that hardly anyone was to be told"
    );
    // And it goes on as before.
    feed(&program, fed..fed + 30);
    program.until("the rest is delivered", || latest(&reader) == latest(&program));
    assert_eq!(status(&program)["failure"], Value::Null);
}

#[test]
fn sources_wait_where_that_is_declared() {
    let (mut broker, reader, _dir) = broker_and_reader();
    let dir = shop(&broker, "block");
    let data = tempfile::tempdir().expect("a folder");
    let program = start(dir.path(), data.path());
    feed(&program, 0..3);
    program.until("it is delivered", || latest(&reader) == latest(&program));
    broker.kill();
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
    broker.restart();
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_taken(&program, &row(500)) {
        assert!(std::time::Instant::now() < deadline, "the doors stay closed");
    }
    program.until("it is delivered", || latest(&reader) == latest(&program));
}
