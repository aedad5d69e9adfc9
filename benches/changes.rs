//! What do views cost that share their work, and what do others notice while one is added?
//!
//! `cargo bench --bench changes`. Twenty views over one join are held against one of them; then
//! a view is added over five million rows while readings come in, and how long each of these takes to
//! reach a view that stands is held against before.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Float64Array, Int64Array, RecordBatch};
use connectors::Decoded;
use sangam::config::{self, Deployment};
use sangam::engine::{Engine, Operation};
use tempfile::TempDir;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// State of twenty views over that of one.
const STATE_MAX: f64 = 1.2;
/// Latency while a view is filled over that of before, at the 99th percentile.
const LATENCY_MAX: f64 = 2.0;

const KEYS: i64 = 100_000;
const RETAINED: i64 = 5_000_000;
/// Between two readings.
const PAUSE: Duration = Duration::from_millis(2);
const ROUNDS: usize = 5;

const FACTS: &str = "columns = { key = \"bigint not null\", amount = \"bigint\", weight = \"double\", batch = \"bigint\" }\n[connector]\ntype = \"http\"\n";
const NAMES: &str = "columns = { key = \"bigint not null\", size = \"bigint\", rate = \"double\", part = \"bigint\" }\nkey = [\"key\"]\n[connector]\ntype = \"http\"\n";

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads");
    let held = runtime.block_on(async {
        let state = twenty().await;
        println!();
        let latency = added().await;
        println!("ceilings: {STATE_MAX}x of state, {LATENCY_MAX}x of latency");
        state <= STATE_MAX && latency <= LATENCY_MAX
    });
    match held {
        true => ExitCode::SUCCESS,
        false => {
            println!("BROKEN");
            ExitCode::FAILURE
        }
    }
}

/// Writes a deployment; the folder goes with it.
fn deployment(views: &[(String, String)]) -> (TempDir, Deployment) {
    let dir = tempfile::tempdir().expect("a folder of our own");
    for folder in ["sources", "views"] {
        std::fs::create_dir(dir.path().join(folder)).expect("a folder");
    }
    std::fs::write(dir.path().join("deployment.toml"), "workers = 1\n").expect("a file");
    for (name, text) in [("facts", FACTS), ("names", NAMES)] {
        std::fs::write(dir.path().join(format!("sources/{name}.toml")), text).expect("a file");
    }
    for (name, sql) in views {
        std::fs::write(dir.path().join(format!("views/{name}.sql")), sql).expect("a file");
    }
    let loaded = config::load(dir.path()).unwrap_or_else(|problems| panic!("{problems:?}"));
    (dir, loaded)
}

/// Returns the state of twenty views over one join, over that of the largest of them alone.
async fn twenty() -> f64 {
    let join = "FROM facts f JOIN names n ON f.key = n.key";
    let mut views: Vec<(String, String)> = Vec::new();
    for number in 0..5 {
        for (kind, sql) in [
            (
                "all",
                format!(
                    "SELECT f.key, f.amount, f.weight, f.batch, n.size, n.rate, n.part {join} WHERE f.amount > {number}00"
                ),
            ),
            (
                "parts",
                format!("SELECT n.part, sum(f.amount) AS amount {join} WHERE f.batch > {number} GROUP BY n.part"),
            ),
            ("sizes", format!("SELECT f.key, n.size + {number} AS size {join}")),
            (
                "total",
                format!("SELECT count(*) AS n, avg(f.weight + {number}) AS weight {join}"),
            ),
        ] {
            views.push((format!("{kind}_{number}"), sql));
        }
    }
    println!("twenty views over one join of 1,000,000 rows with {KEYS}");
    let one = state("one of them", &views[..1]).await;
    let all = state("twenty", &views).await;
    let ratio = all as f64 / one as f64;
    println!("  {ratio:.2}x the state");
    ratio
}

/// Runs views over the same rows; returns what their operators hold.
async fn state(name: &str, views: &[(String, String)]) -> u64 {
    let (_dir, deployment) = deployment(views);
    let engine = Engine::start(deployment).expect("an engine");
    send(&engine, "names", rows(&engine, "names", 0, KEYS)).await;
    for from in (0..1_000_000).step_by(50_000) {
        send(&engine, "facts", rows(&engine, "facts", from, 50_000)).await;
    }
    settled(&engine).await;
    let bytes = engine
        .operators()
        .iter()
        .map(|operator| operator.stats.state_bytes)
        .sum();
    println!(
        "  {name:<12} {:>7.1} MiB of state in {} operators",
        bytes as f64 / f64::from(1 << 20),
        engine.operators().len()
    );
    stop(engine).await;
    bytes
}

/// Returns how much longer readings take while a view is added.
async fn added() -> f64 {
    let standing = (
        "standing".to_owned(),
        "SELECT batch, count(*) AS n FROM facts GROUP BY batch".to_owned(),
    );
    let (_dir, deployment) = deployment(std::slice::from_ref(&standing));
    let engine = Engine::start(deployment).expect("an engine");
    for from in (0..RETAINED).step_by(100_000) {
        send(&engine, "facts", rows(&engine, "facts", from, 100_000)).await;
    }
    settled(&engine).await;
    println!("a view added over {RETAINED} rows, readings every {PAUSE:?}");
    // Of all rounds together: a round's own percentile is one of its two or three worst readings.
    let (mut all_before, mut all_during) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut quiet = latencies(&engine, |_, started| started.elapsed() > Duration::from_secs(3)).await;
        let sql = format!("SELECT key, sum(amount + {round}) AS amount, max(weight) AS weight FROM facts GROUP BY key");
        let (_other, mut wanted) = self::deployment(&[standing.clone(), (format!("added_{round}"), sql)]);
        wanted.dir = engine.deployment().dir.clone();
        let changing = tokio::spawn({
            let engine = engine.clone();
            async move { engine.change(wanted).await.expect("a change") }
        });
        let mut busy = latencies(&engine, |_, _| changing.is_finished()).await;
        let changed = changing.await.expect("no panic");
        println!(
            "  filled with {} rows in {:.2} s; p99 {:.2} ms before, {:.2} ms meanwhile",
            changed.rows,
            changed.took.as_secs_f64(),
            quantile(&mut quiet, 0.99) * 1e3,
            quantile(&mut busy, 0.99) * 1e3,
        );
        all_before.append(&mut quiet);
        all_during.append(&mut busy);
    }
    stop(engine).await;
    for share in [0.5, 0.9, 0.99] {
        let (before, during) = (quantile(&mut all_before, share), quantile(&mut all_during, share));
        println!(
            "  p{:.0} {:.2} ms before, {:.2} ms meanwhile: {:.2}x",
            share * 100.0,
            before * 1e3,
            during * 1e3,
            during / before
        );
    }
    quantile(&mut all_during, 0.99) / quantile(&mut all_before, 0.99)
}

/// Sends a reading every now and then until it is over; returns how long each took to reach the view.
async fn latencies(engine: &Engine, is_over: impl Fn(&Engine, Instant) -> bool) -> Vec<f64> {
    let started = Instant::now();
    let mut latencies = Vec::new();
    let mut every = tokio::time::interval(PAUSE);
    while !is_over(engine, started) {
        every.tick().await;
        let sent = Instant::now();
        let tick = send(engine, "facts", rows(engine, "facts", 1, 10)).await;
        let mut progress = engine.progress();
        while engine.completed("standing") < tick {
            progress.changed().await.expect("a running engine");
        }
        latencies.push(sent.elapsed().as_secs_f64());
    }
    latencies
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[((values.len() as f64 * share) as usize).min(values.len() - 1)]
}

/// Rows of either source, by number.
fn rows(engine: &Engine, source: &str, from: i64, count: i64) -> RecordBatch {
    let schema = engine.relation(source).expect("a source").schema;
    let numbers = || from..from + count;
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(
            numbers().map(|number| number * 7919 % KEYS),
        )),
        Arc::new(Int64Array::from_iter_values(numbers().map(|number| number % 1_000))),
        Arc::new(Float64Array::from_iter_values(
            numbers().map(|number| number as f64 / 8.0),
        )),
        Arc::new(Int64Array::from_iter_values(numbers().map(|number| number / 100_000))),
    ];
    RecordBatch::try_new(schema, columns).expect("the source's columns")
}

async fn send(engine: &Engine, source: &str, rows: RecordBatch) -> u64 {
    let decoded = Decoded {
        rows,
        rejected: Vec::new(),
    };
    let accepted = engine
        .ingest(source, Operation::Insert, decoded)
        .await
        .expect("a running engine");
    accepted.tick
}

/// Waits until every view has every row.
async fn settled(engine: &Engine) {
    let names: Vec<String> = engine.relations().into_iter().map(|relation| relation.name).collect();
    engine
        .snapshot(&names, engine.acknowledged())
        .await
        .expect("a running engine");
}

async fn stop(engine: Engine) {
    tokio::task::spawn_blocking(move || engine.shutdown())
        .await
        .expect("no panic");
}
