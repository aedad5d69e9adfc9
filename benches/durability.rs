//! What does it cost that nothing is lost, and how long does it take until everything is there again?
//!
//! `cargo bench --bench durability`. First, rows are posted by four to 32 clients at a time, in turns with and without a
//! log: events a second, and how long a client waits for its answer; the most of each that comes in time is compared.
//! Then many rows are retained for twenty views, the program
//! is killed and starts again: how long until it is ready, and how much memory it takes at most, against what it
//! took before. `SANGAM_BENCH_EVENTS` is another number of rows for that.

#[path = "support/facts.rs"]
mod facts;
#[path = "support/rounds.rs"]
mod rounds;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use connectors::Decoded;
use sangam::engine::{Data, Engine, Operation};
use sangam::log::Durability;

use facts::{Facts, TICK_ROWS};
use rounds::{median, number};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 10_000;
/// Clients at a time.
const CLIENTS: [usize; 5] = [4, 8, 16, 24, 32];
/// Rows of one request, and requests of all clients in one turn.
const REQUEST_ROWS: usize = 1_000;
const REQUESTS: usize = 3_200;
const TURNS: usize = 5;
/// Within this and one sync 99 of 100 answers must come.
const WAIT_MAX: Duration = Duration::from_millis(10);
/// The least of the events a second without a log that must be left with one.
const FLOOR: f64 = 0.5;
/// Rows retained, and the most seconds until they are there again.
const RETAINED: usize = 10_000_000;
const READY_MAX: Duration = Duration::from_secs(60);
/// The most memory while it starts, over what it took before.
const MEMORY_MAX: f64 = 1.5;

fn main() -> ExitCode {
    if let Ok(folder) = std::env::var("SANGAM_BENCH_START") {
        return again(Path::new(&folder));
    }
    let cost = cost();
    let start = start();
    if cost && start {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Writes a deployment of `views` views over one source.
fn deployment(dir: &Path, views: usize) {
    let put = |path: &str, text: &str| {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    put("deployment.toml", "workers = 2\n");
    put(
        "sources/facts.toml",
        "columns = { key = \"bigint\", amount = \"bigint\" }\n[connector]\ntype = \"http\"\n",
    );
    for view in 0..views {
        let text = format!(
            "SELECT key % {} AS key, sum(amount) AS total, count(*) AS n FROM facts GROUP BY 1",
            100 + view
        );
        put(&format!("views/v{view}.sql"), &text);
    }
}

fn open(dir: &Path, data: &Path, durability: Durability) -> Engine {
    let deployment = sangam::config::load(dir).unwrap_or_else(|problems| panic!("{problems:?}"));
    let data = Data {
        history: deployment.history(data),
        dir: data.to_owned(),
        durability,
        forget: Vec::new(),
        reads: true,
    };
    let engine = Engine::open(deployment, data).expect("an engine");
    while engine.recovery().is_some() {
        assert_eq!(engine.failure(), None);
        std::thread::sleep(Duration::from_millis(5));
    }
    engine
}

/// Brings rows, and waits until nothing of them can be lost.
async fn ingest(engine: &Engine, rows: RecordBatch) -> u64 {
    let decoded = Decoded {
        rows,
        rejected: Vec::new(),
    };
    let accepted = engine
        .ingest("facts", Operation::Insert, decoded)
        .await
        .expect("an open source");
    accepted.tick
}

/// Compares posting with and without a log: the most events a second of any number of clients whose answers come in time.
fn cost() -> bool {
    let rows = Facts::generate(KEYS, TICK_ROWS).integers()[0].slice(0, REQUEST_ROWS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut posted: [[Posted; CLIENTS.len()]; 2] = Default::default();
    let mut syncs = Vec::new();
    for _ in 0..TURNS {
        for (at, clients) in CLIENTS.into_iter().enumerate() {
            for (place, durability) in [Durability::None, Durability::Sync].into_iter().enumerate() {
                runtime.block_on(posted[place][at].post(clients, durability, &rows));
            }
        }
        syncs.push(sync());
    }
    let sync = median(syncs);
    let allowed = WAIT_MAX.as_secs_f64() + sync;
    println!(
        "one sync takes {:.1} ms; 99 % of the answers may take {:.1} ms",
        sync * 1e3,
        allowed * 1e3
    );
    println!("clients   without a log                with a log                   ratio");
    let mut best = [0.0_f64; 2];
    for (at, clients) in CLIENTS.into_iter().enumerate() {
        let figures = [0, 1].map(|place: usize| posted[place][at].figures());
        for (best, (rate, late)) in best.iter_mut().zip(figures) {
            if late <= allowed {
                *best = best.max(rate);
            }
        }
        let [(without, waited), (with, waited_logged)] = figures;
        println!(
            "{clients:7}   {without:8.0} events/s, {:5.1} ms   {with:8.0} events/s, {:5.1} ms   {:.2}",
            waited * 1e3,
            waited_logged * 1e3,
            with / without
        );
    }
    let ratio = best[1] / best[0];
    println!(
        "in time: {:.0} events/s with a log, {:.0} without, ratio {ratio:.2} (floor {FLOOR})",
        best[1], best[0]
    );
    ratio >= FLOOR
}

/// What so many clients saw in all turns.
#[derive(Default)]
struct Posted {
    rates: Vec<f64>,
    waits: Vec<f64>,
}

impl Posted {
    /// Has clients post the same rows for one turn, each again once it was answered.
    async fn post(&mut self, clients: usize, durability: Durability, rows: &RecordBatch) {
        let dir = tempfile::tempdir().expect("a folder");
        deployment(dir.path(), 3);
        let engine = open(dir.path(), &dir.path().join("data"), durability);
        let begin = Instant::now();
        let posting = (0..clients).map(|_| {
            let (engine, rows) = (engine.clone(), rows.clone());
            tokio::spawn(async move {
                let mut waits = Vec::with_capacity(REQUESTS / clients);
                for _ in 0..REQUESTS / clients {
                    let begin = Instant::now();
                    ingest(&engine, rows.clone()).await;
                    waits.push(begin.elapsed().as_secs_f64());
                }
                waits
            })
        });
        for client in posting.collect::<Vec<_>>() {
            self.waits.extend(client.await.expect("a client"));
        }
        let posted = (REQUESTS / clients * clients * rows.num_rows()) as f64;
        self.rates.push(posted / begin.elapsed().as_secs_f64());
        tokio::task::block_in_place(|| engine.shutdown());
    }

    /// Returns the events a second, and within how many seconds 99 of 100 answers came.
    fn figures(&mut self) -> (f64, f64) {
        self.waits.sort_unstable_by(f64::total_cmp);
        let late = self.waits[self.waits.len() * 99 / 100];
        (median(self.rates.clone()), late)
    }
}

/// Measures one write of 64 KiB with `fdatasync`.
fn sync() -> f64 {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let mut took = Vec::new();
    for _ in 0..20 {
        file.write_all(&[1; 64 << 10]).expect("a write");
        let begin = Instant::now();
        file.as_file().sync_data().expect("a sync");
        took.push(begin.elapsed().as_secs_f64());
    }
    median(took)
}

/// Fills a deployment, and has another process begin where it was.
fn start() -> bool {
    let rows = number("SANGAM_BENCH_EVENTS").unwrap_or(RETAINED);
    let dir = tempfile::tempdir().expect("a folder");
    deployment(dir.path(), 20);
    let data = dir.path().join("data");
    let steady = {
        let facts = Facts::generate(KEYS, 1_000_000.min(rows));
        let ticks = facts.integers();
        let engine = open(dir.path(), &data, Durability::Interval);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let mut left = rows;
            let mut tick = 0;
            while left > 0 {
                for batch in ticks.chunks(10) {
                    let batch = arrow::compute::concat_batches(&ticks[0].schema(), batch).expect("one schema");
                    let batch = batch.slice(0, batch.num_rows().min(left));
                    left -= batch.num_rows();
                    tick = ingest(&engine, batch).await;
                }
            }
            engine
                .snapshot(&["v0".to_owned(), "facts".to_owned()], tick)
                .await
                .expect("views");
        });
        drop((facts, ticks));
        let steady = memory("VmRSS");
        engine.shutdown();
        steady
    };
    let bytes = size(&data);
    println!(
        "{rows} rows take {bytes} bytes on disk, {:.1} a row",
        bytes as f64 / rows as f64
    );
    let again = Command::new(std::env::current_exe().expect("a program"))
        .env("SANGAM_BENCH_START", dir.path())
        .stdout(Stdio::piped())
        .output()
        .expect("a process");
    let said = String::from_utf8_lossy(&again.stdout);
    let figures: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [ready, peak, after] = figures[..] else {
        println!("it did not start: {said}");
        return false;
    };
    println!(
        "ready after {ready:.1} s (at most {} s), {:.2} s a million rows; memory {peak:.0} MiB at most, {after:.0} MiB then, {steady:.0} MiB before: {:.2} x (at most {MEMORY_MAX})",
        READY_MAX.as_secs(),
        ready / (rows as f64 / 1e6),
        peak / after.max(1.0)
    );
    ready <= READY_MAX.as_secs_f64() && peak / after <= MEMORY_MAX
}

/// Begins where another process was; prints seconds, and MiB at most and then.
fn again(dir: &Path) -> ExitCode {
    let begin = Instant::now();
    let engine = open(dir, &dir.join("data"), Durability::Sync);
    let ready = begin.elapsed().as_secs_f64();
    println!("{ready} {} {}", memory("VmHWM"), memory("VmRSS"));
    engine.shutdown();
    ExitCode::SUCCESS
}

/// What the system says of this process's memory, in MiB.
fn memory(line: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|said| said.strip_prefix(line)?.strip_prefix(':'));
    let number = line.unwrap_or("0 kB").trim().trim_end_matches(" kB").parse::<f64>();
    number.unwrap_or(0.0) / 1024.0
}

fn size(dir: &Path) -> u64 {
    let entries: Vec<PathBuf> = std::fs::read_dir(dir).map_or_else(
        |_| Vec::new(),
        |entries| entries.flatten().map(|entry| entry.path()).collect(),
    );
    let sizes = entries.iter().map(|path| match path.is_dir() {
        true => size(path),
        false => path.metadata().map_or(0, |data| data.len()),
    });
    sizes.sum()
}
