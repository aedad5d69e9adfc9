//! Clients that do not read, or go away in the middle, while others go on.

use std::collections::HashMap;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use super::{facts, rows};
use crate::program::Program;

const KEYS: usize = 10_000;
const POST_ROWS: usize = 1000;
/// Of one run.
const POSTS: usize = 300;
const EVERY: Duration = Duration::from_millis(10);
const PAIRS: usize = 5;
const ROUNDS: usize = 3;
const DEAF_UPDATES: usize = 2_000_000;

fn subscribed(program: &Program, view: &str) -> WebSocket<TcpStream> {
    let url = format!("ws://{}/ws", program.address);
    let (mut socket, _) = tungstenite::client(url, program.connect()).expect("a WebSocket");
    let message = format!(r#"{{"type":"subscribe","id":"x","view":"{view}"}}"#);
    socket.send(Message::text(message)).expect("it takes messages");
    socket
}

/// Posts at fixed times and returns each value's way, from when it was due until a reader had it.
fn run(program: &Program, first: usize) -> Vec<Duration> {
    let mut reader = subscribed(program, "values");
    loop {
        let frame = reader.read().expect("a snapshot").into_text().expect("text");
        if frame.contains("\"type\":\"progress\"") {
            break;
        }
    }
    let last = first + POSTS - 1;
    let reading = thread::spawn(move || {
        // Key 0 is in every POST, with the POST's number.
        let mut seen: HashMap<usize, Instant> = HashMap::new();
        while !seen.contains_key(&last) {
            let frame = reader
                .read()
                .expect("frames until the last value")
                .into_text()
                .expect("text");
            let at = Instant::now();
            if let Some((_, rest)) = frame.split_once("\"k\":0,\"v\":")
                && let Some((value, _)) = rest.split_once('}')
            {
                seen.insert(value.parse().expect("a number"), at);
            }
        }
        seen
    });
    let start = Instant::now();
    let mut due = Vec::new();
    for post in 0..POSTS {
        let at = start + EVERY * post as u32;
        thread::sleep(at.saturating_duration_since(Instant::now()));
        due.push(at);
        let mut body = format!("{{\"k\":0,\"v\":{}}}\n", first + post);
        body.push_str(&rows(
            1 + post * POST_ROWS % (KEYS - POST_ROWS),
            POST_ROWS - 1,
            KEYS,
            first + post,
        ));
        program.ingest("facts", body);
    }
    let seen = reading.join().expect("the reader reads");
    // A value that a later one overtook has arrived with that one.
    let mut arrived = seen[&last];
    let mut ways = Vec::new();
    for post in (0..POSTS).rev() {
        arrived = seen.get(&(first + post)).map_or(arrived, |at| arrived.min(*at));
        ways.push(arrived.saturating_duration_since(due[post]));
    }
    ways
}

fn p99(mut ways: Vec<Duration>) -> f64 {
    ways.sort();
    ways[ways.len() * 99 / 100].as_secs_f64() * 1e3
}

#[test]
fn a_subscriber_that_never_reads_disturbs_nobody() {
    let dir = facts();
    let program = Program::start(dir.path());
    for from in (0..KEYS).step_by(POST_ROWS) {
        program.ingest("facts", rows(from, POST_ROWS, KEYS, 0));
    }
    let mut runs = (0..).map(|run| 1 + run * POSTS);
    let mut next = || runs.next().expect("numbers do not end");
    run(&program, next());
    let before = program.resident_mib();

    // Other work on the machine may spoil five pairs, but not three times five.
    let mut ratio = f64::INFINITY;
    for _ in 0..ROUNDS {
        ratio = ratio.min(median_ratio(&program, &mut next));
        if ratio <= 1.5 {
            break;
        }
    }
    assert!(ratio <= 1.5, "the others' p99 is {ratio:.2} times as long");

    // One and the same that never reads, during two million updates.
    let mut deaf = subscribed(&program, "values");
    let mut highest = before;
    let first = next();
    for post in 0..DEAF_UPDATES / KEYS {
        program.ingest("facts", rows(0, KEYS, KEYS, first + post));
        highest = highest.max(program.resident_mib());
    }
    let grown = highest - before;
    println!("a subscriber that never read during {DEAF_UPDATES} updates over {KEYS} keys: {grown:.0} MiB more");
    assert!(grown <= 150.0, "memory grew by {grown:.0} MiB");

    // When it reads at last, it gets what was on its way and then the newest, not everything between.
    let last = first + DEAF_UPDATES / KEYS - 1;
    let mut frames = 0;
    loop {
        let frame = deaf.read().expect("frames until the newest").into_text().expect("text");
        frames += 1;
        if frame.contains(&format!("\"k\":0,\"v\":{last}}}")) {
            break;
        }
    }
    println!("it then had the newest after {frames} frames");
    assert!(frames < DEAF_UPDATES / KEYS, "{frames} frames");
    program.stop();
}

/// Measures pairs of runs, one without and one with a subscriber that never reads.
fn median_ratio(program: &Program, next: &mut impl FnMut() -> usize) -> f64 {
    let started = Instant::now();
    let pairs: Vec<(f64, f64)> = (0..PAIRS)
        .map(|_| {
            let without = p99(run(program, next()));
            let deaf = subscribed(program, "values");
            let with = p99(run(program, next()));
            drop(deaf);
            (without, with)
        })
        .collect();
    let mut ratios: Vec<f64> = pairs.iter().map(|(without, with)| with / without).collect();
    ratios.sort_by(f64::total_cmp);
    println!(
        "p99 in ms without and with a subscriber that never reads: {pairs:.1?}, median ratio {:.2} ({:.0?})",
        ratios[PAIRS / 2],
        started.elapsed()
    );
    ratios[PAIRS / 2]
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_snapshot_leaves_nothing_behind() {
    let dir = facts();
    let program = Program::start(dir.path());
    for part in 0..20 {
        program.ingest("facts", rows(part * 20_000, 20_000, 400_000, 1));
    }
    let mut steady = program.live();
    steady.subscribe("halves");
    let before = program.resident_mib();
    for round in 0..40 {
        let mut socket = subscribed(&program, "values");
        let frame: Value =
            serde_json::from_str(&socket.read().expect("a frame").into_text().expect("text")).expect("JSON");
        assert_eq!((&frame["type"], &frame["more"]), (&"snapshot".into(), &true.into()));
        if round % 2 == 0 {
            // Politely, in the middle of the next frame.
            socket.close(None).expect("a close frame");
        }
        drop(socket);
    }
    let reply = program.ingest("facts", rows(0, 10, 400_000, 2));
    steady.reach(reply["tick"].as_u64().expect("a tick"));
    program.until("every WebSocket but one is gone", || {
        let metrics = program.get("/metrics").text().to_owned();
        metrics.contains("sangam_websockets 1\n") && metrics.contains("sangam_subscribers{relation=\"values\"} 0\n")
    });
    let grown = program.resident_mib() - before;
    println!("40 snapshots of 400,000 rows broken off: {grown:.0} MiB more");
    assert!(grown < 150.0, "memory grew by {grown:.0} MiB");
    program.stop();
}

#[test]
fn a_heavy_query_holds_up_neither_rows_nor_views() {
    let dir = facts();
    let program = Program::start(dir.path());
    program.ingest("facts", rows(0, 20_000, 400_000, 1));
    let mut live = program.live();
    live.subscribe("halves");
    let mut longest = Duration::ZERO;
    thread::scope(|scope| {
        // Nobody waits for this: the caller hangs up, and the query stops.
        let mut connection = program.connect();
        let sql = "SELECT count(*) FROM facts a, facts b WHERE sqrt(a.v * b.k) + sin(a.k) > 1e9";
        let request = format!(
            "POST /sql HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{sql}",
            sql.len()
        );
        std::io::Write::write_all(&mut connection, request.as_bytes()).expect("it reads");
        scope.spawn(|| {
            for v in 0..100 {
                let start = Instant::now();
                let reply = program.ingest("facts", rows(v * 10, 10, 400_000, v + 2));
                live.reach(reply["tick"].as_u64().expect("a tick"));
                longest = longest.max(start.elapsed());
            }
        });
        scope.spawn(move || drop(connection));
    });
    println!("beside a heavy query a change took {longest:.1?} at most");
    assert!(longest < Duration::from_secs(2), "a change took {longest:?}");
    assert_eq!(program.number("SELECT 1"), 1);
    program.stop();
}
