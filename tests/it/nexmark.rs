//! Nexmark: the 23 queries of `config/nexmark` over a deterministic auction house.
//!
//! `SANGAM_NEXMARK_EVENTS` is the number of events, always in 100 seconds of their own time; with
//! `SANGAM_NEXMARK_ALONE` each query is also run by itself and timed.
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use connectors::{Batch, ConnectorConfig, HttpConfig, Read, Setting};
use queries::Relations;
use sangam::config::{Deployment, Source};
use sangam::engine::{Engine, Operation, Snapshot};

use crate::oracle::bag::Reader;
use crate::proofs::{Post, Proof, block_on, load, number};

const EVENTS: usize = 1_000_000;
const SECONDS: usize = 100;
const CHECKPOINTS: usize = 5;

/// Events of the run in which the generators feed the engine themselves.
const EVENTS_BY_ITSELF: usize = 20_000;

/// Events between two ticks of bids, and between two of the replay.
const CHUNK: usize = 2_000;
const TICK_ROWS: usize = 1_000;

/// Of every 50 events: sources and their shares, in the order of the events.
const SHARES: [(&str, usize); 3] = [("person", 1), ("auction", 3), ("bid", 46)];
const EPOCH: usize = 50;

/// Queries whose text leaves open which of equal rows come first; plain DataFusion answers as it likes.
const TIES: &[&str] = &["q19"];

/// Queries over windows of time whose bounds are fixed: what they hold does not grow with the events.
/// Sessions (q11) are found among all rows that are retained.
const BOUNDED: &[&str] = &["q5", "q7", "q8", "q12"];

/// Queries over single rows: they hold nothing at all.
const STATELESS: &[&str] = &["q0", "q1", "q2", "q10", "q14", "q21", "q22"];

fn events() -> usize {
    let events = number("SANGAM_NEXMARK_EVENTS").map_or(EVENTS, |events| events as usize);
    events / (CHUNK * CHECKPOINTS) * CHUNK * CHECKPOINTS
}

/// Copies the deployment, at another size; leaves out what is refused, once it is known to be.
fn deployment(dir: &Path, events: usize) -> Deployment {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/nexmark");
    for folder in ["sources", "views", "data"] {
        std::fs::create_dir_all(dir.join(folder)).expect("a folder of our own");
        for entry in std::fs::read_dir(from.join(folder)).expect("the deployment") {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("a text");
            let text = text.replace(
                "events = 1_000_000",
                &format!("events = {events}\nrate = {}", events / SECONDS),
            );
            std::fs::write(dir.join(folder).join(path.file_name().expect("a name")), text).expect("our own folder");
        }
    }
    std::fs::copy(from.join("deployment.toml"), dir.join("deployment.toml")).expect("a folder of our own");
    let deployment = load(dir);
    assert_eq!(deployment.views.len(), 23);
    deployment
}

/// All rows of a source, read as the engine would.
fn rows(deployment: &Deployment, name: &str) -> RecordBatch {
    let source = source(deployment, name);
    let setting = Setting {
        name: &source.name,
        columns: &source.columns,
        format: &source.format,
        time_column: source.time.map(|time| time.column),
        time_zone: &deployment.options.time_zone,
        directory: &deployment.dir,
        start_us: 0,
    };
    let reader = source.connector.reader(&setting).expect("a connector that works");
    let mut reader = reader.expect("a connector that reads");
    let mut batches = Vec::new();
    while let Read::Rows(Batch { decoded, .. }) = reader.read(i64::MAX).expect("rows") {
        assert!(decoded.rejected.is_empty());
        batches.push(decoded.rows);
    }
    concat_batches(&source.schema, &batches).expect("one schema")
}

fn source<'a>(deployment: &'a Deployment, name: &str) -> &'a Source {
    let mut sources = deployment.sources.iter();
    sources.find(|source| source.name == name).expect("a source")
}

/// Fills in when bids arrived, which is the engine's to do, by the test's own reckoning.
fn arrived(bids: &RecordBatch, ticks: impl Iterator<Item = u64>) -> RecordBatch {
    let at = bids.schema().index_of("p_time").expect("a column");
    let times: TimestampMicrosecondArray = ticks.map(|tick| Some(tick as i64)).collect();
    let mut columns: Vec<ArrayRef> = bids.columns().to_vec();
    columns[at] = Arc::new(times.with_timezone("UTC"));
    assert_eq!(columns[at].data_type(), bids.column(at).data_type());
    RecordBatch::try_new(bids.schema(), columns).expect("the same columns")
}

#[test]
fn all_queries_are_right_at_every_checkpoint() {
    let (events, started) = (events(), Instant::now());
    let dir = tempfile::tempdir().expect("a folder of our own");
    let mut deployment = deployment(dir.path(), events);
    let tables: Vec<RecordBatch> = SHARES.iter().map(|(name, _)| rows(&deployment, name)).collect();
    let side_input = rows(&deployment, "side_input");
    println!("Nexmark: {events} events, made in {:.1?}", started.elapsed());
    for source in &mut deployment.sources {
        source.connector = ConnectorConfig::Http(HttpConfig::default());
    }
    if number("SANGAM_NEXMARK_ALONE").is_some() {
        alone(&deployment, &tables, &side_input);
    }
    let mut proof = Proof::start(deployment, &[1, 2], TIES);
    block_on(async {
        let _honest = crate::HONEST.read().await;
        proof.feed(&[looked_up(&side_input)]).await;
        let mut ticks: Vec<u64> = Vec::new();
        let mut state: Vec<Vec<u64>> = Vec::new();
        for checkpoint in 1..=CHECKPOINTS {
            let chunks = (checkpoint - 1) * events / CHECKPOINTS / CHUNK..checkpoint * events / CHECKPOINTS / CHUNK;
            let posts: Vec<Post> = chunks.flat_map(|chunk| posts(&tables, chunk)).collect();
            let mut last = proof.sides[0].tick;
            for post in &posts {
                last = proof.tick_of(post, last);
                if post.source == "bid" {
                    ticks.extend(std::iter::repeat_n(last, post.rows.num_rows()));
                }
            }
            proof.feed(&posts).await;
            let mut ledger = Relations::new();
            for ((name, share), rows) in SHARES.into_iter().zip(&tables) {
                let mut here = rows.slice(0, checkpoint * events / CHECKPOINTS / EPOCH * share);
                if name == "bid" {
                    here = arrived(&here, ticks.iter().copied());
                }
                ledger.insert(name.to_owned(), (here.schema(), vec![here]).into());
            }
            ledger.insert(
                "side_input".to_owned(),
                (side_input.schema(), vec![side_input.clone()]).into(),
            );
            let plain = checkpoint % 5 == 0;
            proof
                .check(
                    ledger,
                    plain,
                    &format!("after {checkpoint}/{CHECKPOINTS} of {events} events"),
                )
                .await;
            let of = |names: &[&str]| names.iter().map(|view| proof.state_rows(0, view)).collect::<Vec<_>>();
            state.push(of(BOUNDED));
            assert_eq!(of(STATELESS).iter().sum::<u64>(), 0, "rows that pass through are held");
        }
        for (at, view) in BOUNDED.iter().enumerate() {
            // Windows are let go after 40 of the 100 seconds.
            let (middle, end) = (state[CHECKPOINTS * 3 / 5 - 1][at], state[CHECKPOINTS - 1][at]);
            assert!(
                end <= middle + middle / 2,
                "{view} held {middle} rows after 60 seconds, {end} after 100"
            );
        }
    });
    let silent = proof.silent();
    assert!(silent.is_empty(), "{silent:?} never answered anything");
    proof.print(events, "events");
    println!("  {:.1?} in all", started.elapsed());
    proof.stop();
}

/// The rows of one chunk of events.
fn posts(tables: &[RecordBatch], chunk: usize) -> Vec<Post> {
    let parts = SHARES.into_iter().zip(tables);
    parts
        .map(|((source, share), rows)| {
            let count = CHUNK / EPOCH * share;
            Post {
                source,
                operation: Operation::Insert,
                rows: rows.slice(chunk * count, count),
            }
        })
        .collect()
}

fn looked_up(side_input: &RecordBatch) -> Post {
    Post {
        source: "side_input",
        operation: Operation::Insert,
        rows: side_input.clone(),
    }
}

/// Runs each query by itself, on one worker, and says how fast it was.
fn alone(deployment: &Deployment, tables: &[RecordBatch], side_input: &RecordBatch) {
    let chunks = tables[0].num_rows() * EPOCH / CHUNK;
    let posts: Vec<Post> = (0..chunks).flat_map(|chunk| posts(tables, chunk)).collect();
    for definition in &deployment.views {
        let mut only = deployment.clone();
        only.views = vec![definition.clone()];
        let mut proof = Proof::start(only, &[1], TIES);
        block_on(async {
            proof.feed(&[looked_up(side_input)]).await;
            proof.feed(&posts).await;
        });
        let (name, took) = (&definition.view.name, proof.sides[0].took);
        println!(
            "  {name}: {took:.2?}, {:.0} events/s, {} rows of state",
            (chunks * CHUNK) as f64 / took.as_secs_f64(),
            proof.state_rows(0, name)
        );
        proof.stop();
    }
}

/// The deployment as it stands, generators and all, is right when they have ended.
#[test]
fn the_deployment_runs_by_itself() {
    let events = EVENTS_BY_ITSELF;
    let dir = tempfile::tempdir().expect("a folder of our own");
    let deployment = deployment(dir.path(), events);
    let mut inputs = Relations::new();
    for (name, _) in SHARES {
        let mut rows = rows(&deployment, name);
        if name == "bid" {
            // A tick is cut after so many events, at the time of the last.
            let ticks = (0..events).filter(|event| event % EPOCH >= 4).map(|event| {
                let last = event / TICK_ROWS * TICK_ROWS + TICK_ROWS - 1;
                time_of(last, events)
            });
            rows = arrived(&rows, ticks);
        }
        inputs.insert(name.to_owned(), (rows.schema(), vec![rows]).into());
    }
    let side_input = rows(&deployment, "side_input");
    inputs.insert("side_input".to_owned(), (side_input.schema(), vec![side_input]).into());
    block_on(async {
        let _honest = crate::HONEST.read().await;
        let engine = Engine::start(deployment.clone()).expect("the engine starts");
        let tick = time_of(events - 1, events);
        let names: Vec<String> = deployment.views.iter().map(|view| view.view.name.clone()).collect();
        let ended = tokio::time::timeout(Duration::from_secs(120), engine.snapshot(&names, tick)).await;
        let Snapshot { tick: of, relations } = ended.expect("the generators end").expect("the engine runs");
        assert_eq!(of, tick);
        for definition in &deployment.views {
            let view = &definition.view;
            let expected = deployment
                .catalog
                .batch(view, &inputs, tick)
                .await
                .expect("a batch answer");
            let reader = Reader::new(&view.schema);
            let (want, have) = (
                reader.bag(&expected).expect("rows"),
                reader.bag(&relations[&view.name].batches).expect("rows"),
            );
            if let Some(difference) = reader.difference(&want, &have) {
                panic!("{}:\n{difference}", view.name);
            }
        }
        engine.shutdown();
    });
}

/// When an event happens.
fn time_of(event: usize, events: usize) -> u64 {
    const START_US: u64 = 1_767_254_340_000_000;
    START_US + event as u64 * 1_000_000 / (events / SECONDS) as u64
}
