//! An open loop of readings: each POST has its time, and is late if the answer to the one before was.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::{SinkExt, StreamExt};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde::Deserialize;
use tokio_tungstenite::tungstenite::Message;

/// Connections that send. Each has its own stations, so that a station's readings stay in order.
const CONNECTIONS: usize = 14;
const STATIONS: usize = 42;
/// Whoever is this late has lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Readings that were due and have not been seen, by station: their time and when they were due.
type Owed = Arc<Vec<Mutex<VecDeque<(i64, Instant)>>>>;

/// What came of a rate.
pub struct Outcome {
    pub sent: usize,
    /// In milliseconds, ascending; readings never seen are not among them.
    pub latencies: Vec<f64>,
    /// From the first reading due to the last one seen.
    pub took: Duration,
}

impl Outcome {
    /// A latency that this share of the readings stayed under; infinite where they were never seen.
    pub fn quantile(&self, share: f64) -> f64 {
        let at = ((self.sent as f64 * share) as usize).min(self.sent.saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or(f64::INFINITY)
    }

    /// Readings seen a second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }
}

/// Sends `rate` readings a second, at most 100 a POST, and watches `view` for each to be there.
///
/// A reading is there once its station's row is as new as the reading.
pub fn run(address: &str, rate: usize, duration: Duration, stations: &[String]) -> Outcome {
    let owed: Owed = Arc::new((0..STATIONS).map(|_| Mutex::default()).collect());
    let (ready, begin) = std::sync::mpsc::channel();
    let watcher = {
        let (address, owed, stations) = (address.to_owned(), owed.clone(), stations.to_vec());
        std::thread::spawn(move || watch(&address, &owed, &stations, duration, &ready))
    };
    begin.recv().expect("the subscription stands");
    let posts_a_second = rate.min(1000);
    let rows = rate / posts_a_second;
    let posts = (posts_a_second as f64 * duration.as_secs_f64()) as usize;
    let start = Instant::now() + Duration::from_millis(50);
    let start_us = Utc::now().timestamp_micros() + 50_000;
    let senders: Vec<_> = (0..CONNECTIONS)
        .map(|connection| {
            let mut sender = Sender::new(address, connection, &owed, stations);
            std::thread::spawn(move || {
                for post in (connection..posts).step_by(CONNECTIONS) {
                    let after = Duration::from_secs_f64(post as f64 / posts_a_second as f64);
                    sender.post(start + after, start_us + after.as_micros() as i64, rows);
                }
            })
        })
        .collect();
    senders.into_iter().for_each(|sender| sender.join().expect("a sender"));
    let (mut latencies, last) = watcher.join().expect("the watcher");
    latencies.sort_unstable_by(f64::total_cmp);
    Outcome {
        sent: posts * rows,
        latencies,
        took: last.saturating_duration_since(start),
    }
}

struct Sender {
    stream: TcpStream,
    host: String,
    owed: Owed,
    /// The stations of this connection: position and name.
    stations: Vec<(usize, String)>,
    next: usize,
    random: Pcg64,
    body: String,
    answer: Vec<u8>,
}

impl Sender {
    fn new(address: &str, connection: usize, owed: &Owed, stations: &[String]) -> Sender {
        let stream = TcpStream::connect(address).expect("the program listens");
        stream.set_nodelay(true).expect("a TCP stream");
        let own = (connection..STATIONS).step_by(CONNECTIONS);
        Sender {
            stream,
            host: address.to_owned(),
            owed: owed.clone(),
            stations: own.map(|station| (station, stations[station].clone())).collect(),
            next: 0,
            random: Pcg64::seed_from_u64(connection as u64),
            body: String::new(),
            answer: Vec::new(),
        }
    }

    fn post(&mut self, due: Instant, due_us: i64, rows: usize) {
        self.body.clear();
        for row in 0..rows {
            let (station, name) = &self.stations[self.next % self.stations.len()];
            self.next += 1;
            let at_us = due_us + row as i64;
            self.owed[*station].lock().expect("no panic").push_back((at_us, due));
            let at = DateTime::from_timestamp_micros(at_us)
                .expect("a time")
                .to_rfc3339_opts(SecondsFormat::Micros, true);
            let mut some = |low: f64, high: f64| self.random.random_range(low..high);
            let comma = if row == 0 { '[' } else { ',' };
            let (ph, oxygen, bod) = (some(6.5, 8.5), some(3.0, 8.0), some(1.0, 9.0));
            let (coliform, turbidity, temperature) = (some(100.0, 20_000.0), some(5.0, 90.0), some(15.0, 34.0));
            let _ = write!(
                self.body,
                "{comma}{{\"station\":\"{name}\",\"at\":\"{at}\",\"ph\":{ph:.2},\"dissolved_oxygen\":{oxygen:.2},\"bod\":{bod:.1},\
                 \"faecal_coliform\":{coliform:.0},\"turbidity\":{turbidity:.1},\"temperature\":{temperature:.1}}}"
            );
        }
        self.body.push(']');
        let head = format!(
            "POST /ingest/readings HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.host,
            self.body.len()
        );
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let request = [head.as_bytes(), self.body.as_bytes()].concat();
        self.stream.write_all(&request).expect("the program takes the request");
        self.read_answer(rows);
    }

    fn read_answer(&mut self, rows: usize) {
        self.answer.clear();
        let mut part = [0; 4096];
        loop {
            let read = self.stream.read(&mut part).expect("the program answers");
            assert!(read > 0, "the program closed the connection");
            self.answer.extend_from_slice(&part[..read]);
            let text = String::from_utf8_lossy(&self.answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.and_then(|length| length.parse().ok()).unwrap_or(0) {
                assert!(head.starts_with("HTTP/1.1 200"), "{text}");
                assert!(
                    body.is_empty() || body.contains(&format!("\"accepted\":{rows},")),
                    "{text}"
                );
                return;
            }
        }
    }
}

#[derive(Deserialize)]
struct Frame {
    #[serde(default)]
    upsert: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    station: String,
    at: String,
}

/// Subscribes to the newest readings and notes when each is seen.
fn watch(
    address: &str,
    owed: &Owed,
    stations: &[String],
    duration: Duration,
    ready: &std::sync::mpsc::Sender<()>,
) -> (Vec<f64>, Instant) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{address}/ws"))
            .await
            .expect("a socket");
        let ask = r#"{"type":"subscribe","id":"l","view":"latest","columns":["station","at"]}"#;
        socket.send(Message::text(ask)).await.expect("a request");
        // The snapshot, which is empty.
        socket.next().await;
        ready.send(()).expect("somebody waits");
        let end = Instant::now() + duration + PATIENCE;
        let mut latencies = Vec::new();
        let mut last = Instant::now();
        let sent_all = Instant::now() + duration + Duration::from_millis(200);
        while let Ok(Some(Ok(message))) = tokio::time::timeout_at(end.into(), socket.next()).await {
            let now = Instant::now();
            if let Message::Text(text) = message {
                let frame: Frame = serde_json::from_str(&text).expect("a frame");
                for row in frame.upsert {
                    let station = stations
                        .iter()
                        .position(|station| *station == row.station)
                        .expect("a station");
                    let at_us = DateTime::parse_from_rfc3339(&row.at)
                        .expect("a time")
                        .timestamp_micros();
                    let mut owed = owed[station].lock().expect("no panic");
                    while let Some((_, due)) = owed.pop_front_if(|(owed_us, _)| *owed_us <= at_us) {
                        latencies.push(now.saturating_duration_since(due).as_secs_f64() * 1e3);
                        last = now;
                    }
                }
            }
            if now > sent_all && owed.iter().all(|owed| owed.lock().expect("no panic").is_empty()) {
                break;
            }
        }
        (latencies, last)
    })
}
