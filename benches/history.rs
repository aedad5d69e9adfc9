//! Does a tick cost more, or hold more, once there is a long history that is no longer needed?
//!
//! `cargo bench --bench history`. Events of keys that come and go, through a source that retains a few seconds of them,
//! into groups with extremes, the top three of each key, and a join; 10,000 events a tick. The processor time of the
//! last tenth of all ticks and what is held then, compared with the second tenth. `SANGAM_BENCH_EVENTS=50000000` is a
//! longer history.

#[path = "support/rounds.rs"]
mod rounds;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::Schema;
use connectors::Decoded;
use sangam::engine::{Engine, Operation};

use rounds::{number, processor_seconds, resident_bytes};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: usize = 10_000_000;
const TICK_ROWS: usize = 10_000;
/// Events that one key has, before it is never seen again.
const KEY_ROWS: usize = 500;
/// Microseconds between two events: 100,000 of them in a second.
const APART_US: i64 = 10;
const START_US: i64 = 1_767_254_340_000_000;
/// What the last tenth may take, and hold, over the second one.
const GROWTH_MAX: f64 = 1.25;

const VIEWS: [(&str, &str); 3] = [
    (
        "groups",
        "SELECT key, count(*) AS n, sum(amount) AS total, max(amount) AS most FROM facts GROUP BY key",
    ),
    (
        "top",
        "SELECT key, amount FROM (SELECT key, amount, row_number() OVER (PARTITION BY key ORDER BY amount DESC) AS \
         place FROM facts) f WHERE place <= 3",
    ),
    (
        "joined",
        "SELECT f.key, f.amount, g.n FROM facts f JOIN groups g ON f.key = g.key AND f.amount = g.most",
    ),
];

fn main() -> ExitCode {
    let ticks = number("SANGAM_BENCH_EVENTS").unwrap_or(EVENTS) / TICK_ROWS;
    let (engine, schema) = start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut tenths: Vec<Tenth> = Vec::new();
    println!("{} events, {} seconds of which are retained", ticks * TICK_ROWS, 4);
    println!(
        "{:<8} {:>14} {:>14} {:>12} {:>12}",
        "tenth", "CPU ms a tick", "ms a tick", "state MiB", "resident MiB"
    );
    runtime.block_on(async {
        for tenth in 0..10 {
            let (processor, begin) = (processor_seconds(), Instant::now());
            let share = tenth * ticks / 10..(tenth + 1) * ticks / 10;
            let count = share.len() as f64;
            for tick in share {
                let decoded = Decoded {
                    rows: rows(&schema, tick),
                    rejected: Vec::new(),
                };
                let accepted = engine.ingest("facts", Operation::Insert, decoded).await;
                assert_eq!(accepted.expect("an open source").accepted, TICK_ROWS);
            }
            let last = engine.acknowledged();
            let names: Vec<String> = VIEWS.iter().map(|(name, _)| (*name).to_owned()).collect();
            let snapshot = engine.snapshot(&names, last).await.expect("views");
            for (name, _) in VIEWS {
                let rows: usize = snapshot.relations[name].batches.iter().map(RecordBatch::num_rows).sum();
                assert!(rows > 0, "{name} is empty");
            }
            drop(snapshot);
            let state: u64 = engine
                .operators()
                .iter()
                .map(|operator| operator.stats.state_bytes)
                .sum();
            let figures = Tenth {
                processor: (processor_seconds() - processor) * 1e3 / count,
                state: state as f64,
                resident: resident_bytes() as f64,
            };
            let mib = f64::from(1 << 20);
            println!(
                "{:<8} {:>14.2} {:>14.2} {:>12.1} {:>12.0}",
                tenth + 1,
                figures.processor,
                begin.elapsed().as_secs_f64() * 1e3 / count,
                figures.state / mib,
                figures.resident / mib
            );
            tenths.push(figures);
        }
    });
    engine.shutdown();
    let growth = |of: fn(&Tenth) -> f64| of(&tenths[9]) / of(&tenths[1]);
    let (processor, state, resident) = (
        growth(|tenth| tenth.processor),
        growth(|tenth| tenth.state),
        growth(|tenth| tenth.resident),
    );
    let holds = processor.max(state).max(resident) <= GROWTH_MAX;
    println!(
        "last tenth over the second: processor time {processor:.2}x, state {state:.2}x, resident {resident:.2}x; ceiling \
         {GROWTH_MAX}x {}",
        if holds { "holds" } else { "BROKEN" }
    );
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a tenth of the history came to.
struct Tenth {
    processor: f64,
    state: f64,
    resident: f64,
}

fn start() -> (Engine, Arc<Schema>) {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    write("deployment.toml", "clock = \"event\"\nworkers = 1\n");
    write(
        "sources/facts.toml",
        "columns = { key = \"bigint not null\", amount = \"bigint not null\", at = \"timestamp not null\" }\n\
         time = { column = \"at\", lateness = \"1 second\" }\nretain = \"4 seconds\"\n[connector]\ntype = \"http\"\n\
         [format]\ntype = \"json\"\n",
    );
    for (name, sql) in VIEWS {
        write(&format!("views/{name}.sql"), sql);
    }
    let deployment = sangam::config::load(dir.path()).expect("a good deployment");
    let schema = Arc::clone(&deployment.sources[0].schema);
    (Engine::start(deployment).expect("an engine"), schema)
}

/// The events of one tick: keys in turn, each for a while.
fn rows(schema: &Arc<Schema>, tick: usize) -> RecordBatch {
    let events = tick * TICK_ROWS..(tick + 1) * TICK_ROWS;
    // Keys of one stretch of time are mixed.
    let key = |event: usize| event / (KEY_ROWS * 20) * 20 + event % 20;
    let keys = Int64Array::from_iter_values(events.clone().map(|event| key(event) as i64));
    let amounts = Int64Array::from_iter_values(events.clone().map(|event| (event as i64).wrapping_mul(7919) % 10_007));
    let times = TimestampMicrosecondArray::from_iter_values(events.map(|event| START_US + event as i64 * APART_US));
    let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(amounts), Arc::new(times.with_timezone("UTC"))];
    RecordBatch::try_new(Arc::clone(schema), columns).expect("the declared columns")
}
