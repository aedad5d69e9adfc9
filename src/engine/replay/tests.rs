//! A replay shows what the live engine showed, at every tick that somebody looked.
//!
//! Random rows come and are taken back under the wall clock; at many ticks the live engine is looked at. The log is
//! then played, and each relation compared bit by bit with what it was; sources also with a ledger that the test
//! keeps, views with DataFusion's answer over it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use connectors::{Batch, Decoded, Position};
use dataflows::json::rows as json;
use dataflows::{Tick, Updates};
use queries::Relations;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::Value;
use tokio::sync::oneshot;

use super::super::audit::difference;
use super::super::coordinator::{Arrival, Request, Seen};
use super::super::storage::Take;
use super::super::tape::{Known, Recorded, Tape};
use super::super::travel::TravelError;
use super::super::{Accepted, Data, Engine, Operation};
use super::{Event, Replay, Wanted};
use crate::config::{self, Deployment};
use crate::log::{Durability, TickRecord, Transition};

const STEPS: usize = 120;
const PATIENCE: Duration = Duration::from_secs(60);

/// Longer than rows stay in the shortest window.
const LONG: Duration = Duration::from_secs(1);

/// Where rows are read of, and whether they are kept.
#[derive(Clone, Copy, Debug)]
enum Input {
    /// The log has all of them.
    Logged,
    /// Little is in the log at a time, the rest in history.
    Kept,
    /// The same of partitions, for the slowest of which the watermark waits.
    KeptByPartition,
}

/// Every kind of source, and views with timers, keys, closed buckets, a failing row and an alert.
fn deployment(dir: &Path, input: Input) -> Deployment {
    let kept = !matches!(input, Input::Logged);
    let idle = match input {
        Input::KeptByPartition => ", idle = \"60ms\"",
        _ => "",
    };
    let keep = if kept { "keep = \"forever\"\n" } else { "" };
    let options = if kept { "checkpoint_bytes = 3000\n" } else { "" };
    let http = format!("{keep}[connector]\ntype = \"http\"\n");
    let files = [
        ("deployment.toml", format!("workers = 2\n{options}")),
        (
            "sources/readings.toml",
            format!(
                "columns = {{ at = \"timestamp not null\", item = \"text not null\", ph = \"bigint\" }}\n\
                 time = {{ column = \"at\", lateness = \"100ms\"{idle} }}\nretain = \"1 sec\"\n{http}"
            ),
        ),
        (
            "sources/stock.toml",
            format!("columns = {{ item = \"text not null\", amount = \"bigint\" }}\nkey = [\"item\"]\n{http}"),
        ),
        (
            "sources/marks.toml",
            format!("columns = {{ item = \"text not null\", mark = \"bigint\" }}\nretractions = true\n{http}"),
        ),
        (
            "views/totals.sql",
            "--! key = [\"item\"]\nSELECT item, count(*) AS marks, sum(mark) AS total FROM marks GROUP BY item".to_owned(),
        ),
        (
            "views/named.sql",
            "SELECT t.item, t.total, s.amount, 100 / t.total AS share FROM totals t LEFT JOIN stock s ON s.item = t.item"
                .to_owned(),
        ),
        (
            "views/recent.sql",
            "--! key = [\"item\"]\nSELECT item, count(*) AS readings, avg(ph) AS ph FROM readings \
             WHERE at > now() - INTERVAL '100 milliseconds' GROUP BY item"
                .to_owned(),
        ),
        (
            "views/closed.sql",
            "--! emit = \"on close\"\nSELECT date_bin(INTERVAL '40 milliseconds', at) AS bucket, count(*) AS readings \
             FROM readings GROUP BY bucket"
                .to_owned(),
        ),
        ("views/everything.sql", "SELECT count(*) AS rows FROM readings".to_owned()),
        (
            "alerts/busy.sql",
            "--! key = [\"item\"]\n--! priority = \"high\"\nSELECT item, readings FROM recent WHERE readings >= 2".to_owned(),
        ),
    ];
    for (path, text) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    config::load(dir).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// What was seen live, and what is known by hand.
struct Lived {
    engine: Engine,
    _folders: [tempfile::TempDir; 2],
    looks: Vec<Look>,
}

struct Look {
    tick: Tick,
    relations: Relations,
    /// The rows of `stock` and `marks`, as JSON, sorted.
    ledger: BTreeMap<&'static str, Vec<String>>,
}

/// The rows of the sources from which nothing leaves by itself.
#[derive(Default)]
struct Ledger {
    stock: BTreeMap<i64, i64>,
    marks: Vec<(i64, i64)>,
}

impl Ledger {
    fn written(&self) -> BTreeMap<&'static str, Vec<String>> {
        let row = |item: i64, name: &str, value: i64| serde_json::json!({"item": self::item(item), name: value});
        let sorted = |rows: Vec<Value>| {
            let mut rows: Vec<String> = rows.iter().map(Value::to_string).collect();
            rows.sort();
            rows
        };
        let stock = self.stock.iter().map(|(one, value)| row(*one, "amount", *value));
        let marks = self.marks.iter().map(|(one, value)| row(*one, "mark", *value));
        BTreeMap::from([("stock", sorted(stock.collect())), ("marks", sorted(marks.collect()))])
    }
}

fn item(number: i64) -> String {
    format!("item {number}")
}

fn numbers(deployment: &Deployment, source: &str, rows: &[(i64, i64)]) -> Decoded {
    let items: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| item(row.0))));
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
    decoded(deployment, source, |name| match name {
        "item" => Arc::clone(&items),
        _ => Arc::clone(&values),
    })
}

fn decoded(deployment: &Deployment, source: &str, column: impl Fn(&str) -> ArrayRef) -> Decoded {
    let source = deployment
        .sources
        .iter()
        .find(|known| known.name == source)
        .expect("a source");
    let columns = source.schema.fields().iter().map(|field| {
        let values = column(field.name());
        arrow::compute::cast(&values, field.data_type()).expect("values of its type")
    });
    Decoded {
        rows: RecordBatch::try_new(Arc::clone(&source.schema), columns.collect()).expect("its columns"),
        rejected: Vec::new(),
    }
}

fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("after 1970").as_micros() as i64
}

/// Lets random rows come and go, and looks at everything after each.
async fn live(seed: u64, input: Input) -> Lived {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let (folder, data) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let deployment = deployment(folder.path(), input);
    let opened = Engine::open(
        deployment.clone(),
        Data {
            history: deployment.history(data.path()),
            dir: data.path().to_owned(),
            durability: Durability::Interval,
            forget: Vec::new(),
            reads: true,
        },
    );
    let engine = opened.expect("it starts");
    let mut progress = engine.progress();
    while engine.recovery().is_some() || engine.acknowledged() == 0 {
        progress.changed().await.expect("it runs");
    }
    let names: Vec<String> = engine.relations().into_iter().map(|relation| relation.name).collect();
    let mut ledger = Ledger::default();
    let mut looks = Vec::new();
    for _ in 0..STEPS {
        let one = random.random_range(0..4);
        let value = random.random_range(-2..3);
        let (source, operation, rows) = match random.random_range(0..8) {
            0..3 => {
                let times =
                    TimestampMicrosecondArray::from_iter_values([now_us(), now_us() - random.random_range(0..160_000)]);
                let (times, items): (ArrayRef, ArrayRef) = (
                    Arc::new(times.with_timezone("UTC")),
                    Arc::new(StringArray::from_iter_values([item(one), item(one)])),
                );
                let values: ArrayRef = Arc::new(Int64Array::from_iter_values([value, value + 1]));
                let rows = decoded(&deployment, "readings", |name| match name {
                    "at" => Arc::clone(&times),
                    "item" => Arc::clone(&items),
                    _ => Arc::clone(&values),
                });
                ("readings", Operation::Insert, rows)
            }
            3 => {
                ledger.stock.insert(one, value);
                (
                    "stock",
                    Operation::Insert,
                    numbers(&deployment, "stock", &[(one, value)]),
                )
            }
            4 if ledger.stock.remove(&one).is_some() => {
                ("stock", Operation::Delete, numbers(&deployment, "stock", &[(one, 0)]))
            }
            5 if !ledger.marks.is_empty() => {
                let gone = ledger.marks.swap_remove(random.random_range(0..ledger.marks.len()));
                ("marks", Operation::Delete, numbers(&deployment, "marks", &[gone]))
            }
            _ => {
                ledger.marks.push((one, value));
                (
                    "marks",
                    Operation::Insert,
                    numbers(&deployment, "marks", &[(one, value)]),
                )
            }
        };
        let is_timed = source == "readings";
        let accepted = match (is_timed, input) {
            (true, Input::KeptByPartition) => by_partition(&engine, rows, &mut random).await,
            _ => engine.ingest(source, operation, rows).await.expect("it runs"),
        };
        let mut ticks = vec![accepted.tick];
        if is_timed && random.random_bool(0.3) {
            // The rows leave by the clock alone, at a tick that nobody asks for.
            ticks.push(accepted.tick + 80_000);
        }
        for tick in ticks {
            // On a slow machine the rows may have left before they were in, and there is no such tick.
            let Ok(snapshot) = tokio::time::timeout(LONG, engine.snapshot(&names, tick)).await else {
                continue;
            };
            let snapshot = snapshot.expect("it runs");
            looks.push(Look {
                tick: snapshot.tick,
                relations: snapshot.relations,
                ledger: ledger.written(),
            });
        }
    }
    looks.dedup_by_key(|look| look.tick);
    Lived {
        engine,
        _folders: [folder, data],
        looks,
    }
}

/// Brings rows as a reader of partitions does: some partitions are told of before they have rows, some fall behind and
/// come again, and two batches may come with one tick.
async fn by_partition(engine: &Engine, decoded: Decoded, random: &mut Pcg64Mcg) -> Accepted {
    let position = |source: &config::Source| source.name == "readings";
    let source = engine.deployment().sources.iter().position(position).expect("a source");
    let name = |number: usize| -> Arc<str> { format!("partition {number}").into() };
    let mut answers = Vec::new();
    for (row, more) in [(0, random.random_bool(0.2)), (1, random.random_bool(0.1))] {
        let mut partitions = vec![(name(random.random_range(0..3)), 1)];
        if more {
            partitions.insert(0, (name(random.random_range(3..6)), 0));
        }
        let (reply, answer) = oneshot::channel();
        let batch = Batch {
            decoded: Decoded {
                rows: decoded.rows.slice(row, 1),
                rejected: Vec::new(),
            },
            position: Position::new(),
            partitions,
        };
        let arrival = Arrival {
            source,
            operation: Operation::Insert,
            batch,
            idempotency_key: None,
            arrived: Instant::now(),
            reply: Some(reply),
            permit: None,
        };
        assert!(engine.send(Request::Ingest(arrival)).is_ok(), "it runs");
        answers.push(answer);
    }
    let mut last = None;
    for answer in answers {
        last = Some(answer.await.expect("it runs"));
    }
    last.expect("two answers")
}

impl Lived {
    fn tape(&self) -> Recorded {
        let kept = self.engine.inner.kept.as_ref().expect("a data folder");
        let holdings = Arc::clone(&self.engine.inner.shared.holdings);
        let newest = self.looks.last().map_or(0, |look| look.tick);
        Recorded::running(Arc::clone(&kept.store), holdings, &self.engine.deployment(), newest).expect("a log")
    }

    fn ticks(&self) -> Vec<Tick> {
        self.looks.iter().map(|look| look.tick).collect()
    }

    /// Plays a tape, and compares at each tick that was looked at; says what is wrong first.
    fn compare(&self, tape: &dyn Tape, workers: usize, only: Option<&[&str]>) -> Result<Told, String> {
        let deployment = self.engine.deployment();
        let wanted = Wanted {
            relations: only.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
            watched: HashSet::from(["recent".to_owned(), "marks".to_owned()]),
            workers,
            ..Wanted::default()
        };
        let mut replay = Replay::start(&deployment, wanted).map_err(|error| format!("{error:#}"))?;
        let mut looks = self.looks.iter();
        let mut told = Told::default();
        let mut look = |replay: &mut Replay, event: Event| {
            match event {
                Event::Passed => told.ticks += 1,
                Event::Seen(Seen::Transitions(transitions)) => told.transitions.extend(transitions),
                Event::Seen(Seen::Changes(entry, tick, updates)) => {
                    let of = told.changes.entry(entry.relation.name.clone()).or_default();
                    anyhow::ensure!(
                        of.last().is_none_or(|(before, _)| *before < tick),
                        "changes out of order"
                    );
                    of.push((tick, updates));
                }
                Event::Reached(stop) => {
                    let look = looks.next().ok_or_else(|| anyhow::anyhow!("one stop too many"))?;
                    anyhow::ensure!(look.tick == stop, "it stopped at {stop} and not at {}", look.tick);
                    let names: Vec<&String> = match only {
                        Some(only) => look
                            .relations
                            .keys()
                            .filter(|name| only.contains(&name.as_str()))
                            .collect(),
                        None => look.relations.keys().collect(),
                    };
                    told.reached.push(replay.last());
                    let shown = replay.snapshot(names.iter().copied())?;
                    for name in names {
                        let (live, played) = (&look.relations[name], &shown[name]);
                        let wrong = difference(&live.schema, &live.batches, &played.batches);
                        anyhow::ensure!(wrong.is_none(), "{name} at {stop}: {}", wrong.unwrap_or_default());
                    }
                }
            }
            Ok(())
        };
        // A tape is waited for.
        let played = tokio::task::block_in_place(|| replay.play(tape, &self.ticks(), &mut look));
        match played {
            Ok(()) => Ok(told),
            Err(error) => Err(format!("{error:#}")),
        }
    }
}

#[derive(Default)]
struct Told {
    ticks: usize,
    transitions: Vec<Transition>,
    changes: BTreeMap<String, Vec<(Tick, Vec<Updates>)>>,
    /// At each stop, the tick that went by last: what is due by the time goes at ticks, not between them.
    reached: Vec<Tick>,
}

fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let rows: Vec<Value> = serde_json::from_slice(&json(batches)).expect("an array");
    let mut rows: Vec<String> = rows.iter().map(Value::to_string).collect();
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_shows_what_was_shown() {
    for (seed, input) in [
        (1, Input::Logged),
        (2, Input::Logged),
        (3, Input::Kept),
        (4, Input::Kept),
        (6, Input::KeptByPartition),
        (7, Input::KeptByPartition),
    ] {
        println!("seed {seed}, {input:?}");
        let lived = live(seed, input).await;
        let deployment = lived.engine.deployment();
        let tape = lived.tape();
        let files = lived.engine.inner.shared.holdings.lock().inventory.entries().count();
        assert_eq!(
            files > 3,
            !matches!(input, Input::Logged),
            "seed {seed}: {files} files of history"
        );
        let last = lived.looks.last().expect("it was looked at");
        let mut all = None;
        for workers in [1, 2] {
            all = Some(
                lived
                    .compare(&tape, workers, None)
                    .unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}")),
            );
        }
        let told = all.expect("it was played");
        assert!(told.ticks >= lived.looks.len(), "{} ticks", told.ticks);

        // A part of it shows the same as the whole.
        lived
            .compare(&tape, 1, Some(&["named", "busy", "readings"]))
            .unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));

        // The sources are those of the ledger, and the views are the batch answer over them.
        for (look, tick) in lived.looks.iter().zip(&told.reached) {
            for (source, rows) in &look.ledger {
                assert_eq!(
                    lines(&look.relations[*source].batches),
                    *rows,
                    "seed {seed}: {source} at {}",
                    look.tick
                );
            }
            for view in deployment.views.iter().filter(|view| view.view.closing.is_none()) {
                let name = &view.view.name;
                let batch = deployment
                    .catalog
                    .batch(&view.view, &look.relations, *tick)
                    .await
                    .expect("an answer");
                let held = &look.relations[name];
                assert_eq!(
                    difference(&held.schema, &held.batches, &batch),
                    None,
                    "seed {seed}: {name} at {}",
                    look.tick
                );
            }
        }

        // What happened to alerts is what was told of them.
        let events = lived
            .engine
            .snapshot(&["sangam.alert_events".to_owned()], 0)
            .await
            .expect("it runs");
        let live: Vec<Transition> = events.relations["sangam.alert_events"]
            .batches
            .iter()
            .flat_map(super::super::alerts::transitions)
            .filter(|event| event.tick <= last.tick)
            .collect();
        assert_eq!(told.transitions, live, "seed {seed}");
        assert!(
            live.iter().any(|event| &*event.transition == "cleared"),
            "seed {seed}: nothing was cleared"
        );

        // Changes come to what there is.
        for (relation, changes) in &told.changes {
            let rows: i64 = changes
                .iter()
                .flat_map(|(_, updates)| updates)
                .flat_map(|updates| updates.diffs().iter())
                .sum();
            let held: usize = last.relations[relation].batches.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(rows, held as i64, "seed {seed}: {relation}");
        }
        lived.engine.shutdown();
    }
}

/// A tape that does not say of which partition a row was.
struct Unpartitioned<'t>(&'t Recorded);

impl Tape for Unpartitioned<'_> {
    fn since(&self) -> BTreeMap<String, Known> {
        self.0.since()
    }

    fn through(&self) -> Tick {
        self.0.through()
    }

    fn play(
        &self,
        through: Tick,
        sources: Option<&BTreeSet<String>>,
        take: Take<'_, TickRecord>,
    ) -> anyhow::Result<()> {
        self.0.play(through, sources, &mut |mut record| {
            record.entries.iter_mut().for_each(|entry| entry.partitions.clear());
            take(record)
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_are_forgotten_are_found() {
    let lived = live(6, Input::KeptByPartition).await;
    let tape = lived.tape();
    let wrong = lived.compare(&Unpartitioned(&tape), 1, None).err();
    println!(
        "without partitions: {}",
        wrong.expect("nobody noticed that no watermark waits")
    );
    lived.engine.shutdown();
}

/// A tape on which one tick is missing.
struct Dropping<'t> {
    tape: &'t Recorded,
    dropped: usize,
}

impl Tape for Dropping<'_> {
    fn since(&self) -> BTreeMap<String, Known> {
        self.tape.since()
    }

    fn through(&self) -> Tick {
        self.tape.through()
    }

    fn play(
        &self,
        through: Tick,
        sources: Option<&BTreeSet<String>>,
        take: Take<'_, TickRecord>,
    ) -> anyhow::Result<()> {
        let mut with_rows = 0;
        self.tape.play(through, sources, &mut |record| {
            with_rows += usize::from(!record.entries.is_empty());
            match !record.entries.is_empty() && with_rows == self.dropped {
                true => Ok(()),
                false => take(record),
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_that_is_missing_is_found() {
    let lived = live(4, Input::Logged).await;
    let tape = lived.tape();
    let mut found = 0;
    for dropped in [1, 5, 20, 40, 80] {
        let dropping = Dropping { tape: &tape, dropped };
        if let Err(wrong) = lived.compare(&dropping, 1, None) {
            println!("tick {dropped} dropped: {wrong}");
            found += 1;
        }
    }
    assert!(
        found >= 4,
        "a tick was dropped five times and only {found} were noticed"
    );
    lived.engine.shutdown();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_tells_what_it_showed() {
    let lived = live(5, Input::Logged).await;
    let engine = &lived.engine;
    // Later ones first, then earlier ones, then later again from the replay that was kept.
    let looks = [100, 10, 50].map(|at| &lived.looks[at.min(lived.looks.len() - 1)]);
    for look in looks {
        let asked = ["recent", "stock"].map(|name| (name.to_owned(), look.tick));
        let found = engine.as_of(&asked, PATIENCE).await.expect("it is known");
        for ((name, tick), found) in asked.iter().zip(found) {
            let live = &look.relations[name];
            assert_eq!(
                difference(&live.schema, &live.batches, &found.batches),
                None,
                "{name} at {tick}"
            );
        }
    }
    // Several times in one question.
    let asked: Vec<(String, Tick)> = [70, 20, 40]
        .map(|at| ("totals".to_owned(), lived.looks[at].tick))
        .into();
    let found = engine.as_of(&asked, PATIENCE).await.expect("it is known");
    for (at, found) in [70, 20, 40].into_iter().zip(found) {
        let live = &lived.looks[at].relations["totals"];
        assert_eq!(difference(&live.schema, &live.batches, &found.batches), None);
    }

    let as_of = async |name: &str, tick: Tick| engine.as_of(&[(name.to_owned(), tick)], PATIENCE).await.err();
    assert!(matches!(as_of("nowhere", 1).await, Some(TravelError::Unknown(_))));
    assert!(matches!(
        as_of("stock", Tick::MAX).await,
        Some(TravelError::Future { .. })
    ));
    let before = as_of("stock", 1).await.expect("it is not known");
    assert!(
        matches!(before, TravelError::NotKnown { from: Some(_), .. }),
        "{before}"
    );
    assert!(
        before.hint().is_some_and(|hint| hint.starts_with("Ask for 2")),
        "{before}"
    );
    let late = engine
        .as_of(&[("stock".to_owned(), lived.looks[3].tick)], Duration::ZERO)
        .await;
    assert!(late.is_err(), "it took no time");
    lived.engine.shutdown();
}
