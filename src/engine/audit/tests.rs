//! What an audit finds of views that close, and what it must not take for a mistake.
//!
//! Rows of ten hours come, an hour at a time, of which three are retained: so some buckets are open, some closed with all
//! their rows there, and of some the rows are gone.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use connectors::Decoded;
use dataflows::{Tick, Updates};

use super::super::store::Run;
use super::super::{Data, Engine, Operation};
use super::{Audit, Audited};
use crate::config::{self, Deployment};
use crate::log::Durability;

const MINUTE_US: i64 = 60_000_000;
const HOUR_US: i64 = 60 * MINUTE_US;
/// 2026-03-01T00:00:00Z.
const START_US: i64 = 1_772_323_200_000_000;
const STATIONS: i64 = 5;

const READINGS: &str = "columns = { station = \"text not null\", at = \"timestamp not null\", level = \"bigint\" }\n\
                        time = { column = \"at\", lateness = \"10 minutes\" }\nretain = \"3 hours\"\n";
const HOURLY: &str = "--! keep = \"2 days\"\nSELECT station, date_bin(INTERVAL '1 hour', at) AS hour, \
                      count(*) AS n, max(level) AS most FROM readings GROUP BY station, hour";

const FILES: &[(&str, &str)] = &[
    ("deployment.toml", "clock = \"event\"\nworkers = 2\n"),
    ("sources/readings.toml", READINGS),
    (
        "sources/stations.toml",
        "columns = { station = \"text not null\", level = \"bigint\" }\nkey = [\"station\"]\n",
    ),
    (
        "sources/dated.toml",
        "columns = { station = \"text not null\", at = \"timestamp not null\", level = \"bigint\" }\n\
         time = { column = \"at\" }\nkey = [\"station\", \"at\"]\n",
    ),
    ("views/hourly.sql", HOURLY),
    (
        "views/finished.sql",
        "--! emit = \"on close\"\n--! keep = \"2 days\"\nSELECT date_bin(INTERVAL '1 hour', at) AS hour, \
         count(*) AS n FROM readings GROUP BY hour",
    ),
    // Of a view whose rows stay longer than those of the source.
    (
        "views/halves.sql",
        "--! keep = \"3 days\"\nSELECT date_bin(INTERVAL '2 hours', hour) AS hours, sum(n) AS n FROM finished \
         GROUP BY hours",
    ),
    // Of tables and rows that may change when a bucket is closed.
    (
        "views/placed.sql",
        "--! keep = \"2 days\"\nSELECT date_bin(INTERVAL '1 hour', r.at) AS hour, count(*) AS n, max(s.level) AS most \
         FROM readings r JOIN stations s ON s.station = r.station GROUP BY hour",
    ),
    (
        "views/met.sql",
        "--! keep = \"2 days\"\nSELECT date_bin(INTERVAL '1 hour', r.at) AS hour, count(*) AS n, max(d.level) AS most \
         FROM readings r JOIN dated d ON d.station = r.station AND d.at = r.at GROUP BY hour",
    ),
    (
        "views/plain.sql",
        "SELECT station, count(*) AS n FROM readings GROUP BY station",
    ),
];

/// Writes a deployment, some of its files otherwise.
fn deployment(dir: &Path, other: &[(&str, &str)]) -> Deployment {
    for (path, text) in FILES {
        let text = other
            .iter()
            .find(|(name, _)| name == path)
            .map_or(*text, |(_, text)| text);
        let text = match path.starts_with("sources/") {
            true => format!("{text}[connector]\ntype = \"http\"\n"),
            false => text.to_owned(),
        };
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    config::load(dir).unwrap_or_else(|problems| panic!("{problems:?}"))
}

async fn open(dir: &Path, data: &Path, other: &[(&str, &str)]) -> Engine {
    let deployment = deployment(dir, other);
    let data = Data {
        history: deployment.history(data),
        dir: data.to_owned(),
        durability: Durability::Interval,
        forget: Vec::new(),
        reads: true,
    };
    let engine = Engine::open(deployment, data).expect("it starts");
    let mut progress = engine.progress();
    while engine.recovery().is_some() || engine.acknowledged() == 0 {
        progress.changed().await.expect("it runs");
    }
    engine
}

/// Stops it as at a restart.
async fn close(engine: Engine) {
    let stopping = tokio::task::spawn_blocking(move || engine.shutdown());
    stopping.await.expect("it stops");
}

/// Brings a row of each of some minutes.
async fn feed(engine: &Engine, source: &str, minutes: impl Iterator<Item = i64>, level: i64) -> usize {
    let minutes: Vec<i64> = minutes.collect();
    let deployment = engine.deployment();
    let found = deployment.sources.iter().find(|known| known.name == source);
    let schema = &found.expect("a source").schema;
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        let values: ArrayRef = match field.name().as_str() {
            "at" => {
                let times = minutes.iter().map(|minute| START_US + minute * MINUTE_US);
                Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
            }
            "level" => Arc::new(Int64Array::from_iter_values(
                minutes.iter().map(|minute| minute % 97 + level),
            )),
            _ => {
                let names = minutes.iter().map(|minute| format!("K{}", minute % STATIONS));
                Arc::new(StringArray::from_iter_values(names))
            }
        };
        arrow::compute::cast(&values, field.data_type()).expect("values of its type")
    });
    let rows = RecordBatch::try_new(Arc::clone(schema), columns.collect()).expect("its columns");
    let rejected = Vec::new();
    let accepted = engine
        .ingest(source, Operation::Insert, Decoded { rows, rejected })
        .await;
    accepted.expect("it runs").accepted
}

async fn hours(engine: &Engine, hours: std::ops::Range<i64>) {
    for hour in hours {
        feed(engine, "dated", (hour * 60..hour * 60 + 60).step_by(7), 0).await;
        assert_eq!(feed(engine, "readings", hour * 60..hour * 60 + 60, 0).await, 60);
    }
}

/// Ten hours, and a tick after them: nine are closed by then, and seven are not retained, at least not wholly.
async fn ten_hours(engine: &Engine) {
    feed(engine, "stations", 0..STATIONS, 0).await;
    hours(engine, 0..10).await;
}

/// Cuts one more tick and audits it.
async fn audit(engine: &Engine) -> Audit {
    tick(engine).await;
    engine.audit().await.expect("it runs")
}

async fn tick(engine: &Engine) -> Tick {
    engine
        .advance(engine.acknowledged() + 1)
        .await
        .expect("the event clock")
}

fn of<'a>(audit: &'a Audit, view: &str) -> &'a Audited {
    audit.views.iter().find(|audited| audited.view == view).expect("a view")
}

/// How many rows a view has, and how many were compared; all that were compared must be right.
fn right(when: &str, audit: &Audit) -> Vec<(String, usize, usize)> {
    for audited in &audit.views {
        assert_eq!(audited.difference, None, "{when}: {}", audited.view);
        let all = audited.rows == audited.compared;
        assert_eq!(audited.passed_over.is_none(), all, "{when}: {audited:?}");
    }
    let views = audit.views.iter();
    views
        .map(|audited| (audited.view.clone(), audited.rows, audited.compared))
        .collect()
}

/// Lets a view hold another number in one row of an hour than it should, and audits that. Returns what is said of the
/// view; then all is as it was.
async fn corrupted(engine: &Engine, view: &str, hour: i64) -> Option<String> {
    let names = [view.to_owned()];
    let snapshot = engine.snapshot(&names, tick(engine).await).await.expect("it runs");
    let relation = &snapshot.relations[view];
    let row = relation.batches.iter().find_map(|rows| {
        let times = rows
            .column_by_name("hour")
            .expect("hours")
            .as_primitive::<TimestampMicrosecondType>();
        let row = times.values().iter().position(|at| *at == START_US + hour * HOUR_US)?;
        Some(rows.slice(row, 1))
    });
    let row = row.expect("a row of the hour");
    let number = row.schema().index_of("n").expect("a number");
    let mut columns = row.columns().to_vec();
    let n = columns[number].as_primitive::<Int64Type>().value(0);
    columns[number] = Arc::new(Int64Array::from(vec![n + 1]));
    let wrong = RecordBatch::try_new(row.schema(), columns).expect("a row");
    let entry = engine.entry(view).expect("a view");
    let put = |at: Tick, out: &RecordBatch, into: &RecordBatch| {
        let changes = vec![Updates::deletes(out.clone()), Updates::inserts(into.clone())];
        entry.store.complete(Run::new(at, changes, Vec::new()));
    };
    put(tick(engine).await, &row, &wrong);
    let found = engine.audit().await.expect("it runs");
    put(tick(engine).await, &wrong, &row);
    right("as it was", &engine.audit().await.expect("it runs"));
    for audited in found.views.iter().filter(|audited| audited.view != view) {
        // Views that read it are held to what it shows; their own rows were made before.
        assert!(audited.difference.is_none() || audited.view == "halves", "{audited:?}");
    }
    of(&found, view).difference.clone()
}

/// What there is to compare once ten hours have come: of 9:00 on all is open, of 7:00 on all is there.
fn usual() -> Vec<(String, usize, usize)> {
    let line = |view: &str, rows, compared| (view.to_owned(), rows, compared);
    vec![
        line("finished", 9, 2),
        line("halves", 5, 5),
        line("hourly", 50, 15),
        line("met", 10, 1),
        line("placed", 10, 1),
        line("plain", 5, 5),
    ]
}

fn sorted(mut lines: Vec<(String, usize, usize)>) -> Vec<(String, usize, usize)> {
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_buckets_and_whole_closed_ones_are_compared() {
    let (folder, data) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let engine = open(folder.path(), data.path(), &[]).await;
    ten_hours(&engine).await;
    assert_eq!(sorted(right("after ten hours", &audit(&engine).await)), usual());
    for (view, hour, is_found) in [
        ("hourly", 9, true),
        ("hourly", 8, true),
        ("hourly", 7, true),
        // Rows of it are gone: nothing tells any more.
        ("hourly", 6, false),
        ("finished", 8, true),
        ("finished", 7, true),
        ("finished", 6, false),
        ("placed", 9, true),
        ("placed", 8, false),
    ] {
        let said = corrupted(&engine, view, hour).await;
        assert_eq!(said.is_some(), is_found, "{view} at {hour}: {said:?}");
    }
    // What is shown before it is closed is wrong, whatever it says.
    let entry = engine.entry("finished").expect("a view");
    let names = ["finished".to_owned()];
    let snapshot = engine.snapshot(&names, tick(&engine).await).await.expect("it runs");
    let row = snapshot.relations["finished"].batches[0].slice(0, 1);
    let hour: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![START_US + 9 * HOUR_US]).with_timezone("UTC"));
    let early = RecordBatch::try_new(row.schema(), vec![hour, Arc::clone(row.column(1))]).expect("a row");
    let at = tick(&engine).await;
    entry
        .store
        .complete(Run::new(at, vec![Updates::inserts(early)], Vec::new()));
    let found = engine.audit().await.expect("it runs");
    assert!(of(&found, "finished").difference.is_some(), "{found:?}");
    close(engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_after_closing_is_no_mistake() {
    let (folder, data) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let engine = open(folder.path(), data.path(), &[]).await;
    ten_hours(&engine).await;
    right("before", &audit(&engine).await);
    // Late for its source; late for the view alone; a table that says something else now.
    assert_eq!(feed(&engine, "readings", 8 * 60..8 * 60 + 3, 0).await, 0);
    assert_eq!(
        feed(&engine, "dated", (7 * 60..8 * 60 + 50).step_by(5), 1_000).await,
        22
    );
    feed(&engine, "stations", 0..STATIONS, 1_000).await;
    assert_eq!(sorted(right("after all that", &audit(&engine).await)), usual());
    let late = engine.snapshot(&["sangam.late".to_owned()], 0).await.expect("it runs");
    let late: usize = late.relations["sangam.late"]
        .batches
        .iter()
        .map(RecordBatch::num_rows)
        .sum();
    assert_eq!(late, 25, "all of it was late");
    close(engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_compares_what_was_compared_before() {
    let (folder, data) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let engine = open(folder.path(), data.path(), &[]).await;
    ten_hours(&engine).await;
    let before = sorted(right("before", &audit(&engine).await));
    close(engine).await;
    // Its finished rows are in files from now on.
    let engine = open(folder.path(), data.path(), &[]).await;
    assert_eq!(sorted(right("after", &audit(&engine).await)), before);
    assert!(engine.inner.shared.holdings.lock().inventory.entries().count() > 0);
    hours(&engine, 10..12).await;
    let after = right("and when it has gone on", &audit(&engine).await);
    assert!(after.contains(&("hourly".to_owned(), 60, 15)), "{after:?}");
    close(engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_closed_by_other_rules_are_passed_over() {
    for (rule, was, is) in [
        ("lateness", "10 minutes", "2 hours"),
        ("retain", "retain = \"3 hours\"", "retain = \"30 hours\""),
    ] {
        let (folder, data) = (
            tempfile::tempdir().expect("a folder"),
            tempfile::tempdir().expect("a folder"),
        );
        let engine = open(folder.path(), data.path(), &[]).await;
        ten_hours(&engine).await;
        right("before", &audit(&engine).await);
        close(engine).await;
        let other = READINGS.replace(was, is);
        let engine = open(folder.path(), data.path(), &[("sources/readings.toml", &other)]).await;
        let accepted = feed(&engine, "readings", 8 * 60 + 30..8 * 60 + 33, 0).await;
        assert_eq!(
            accepted == 3,
            rule == "lateness",
            "{accepted} rows that would have been late"
        );
        let after = right(rule, &audit(&engine).await);
        assert!(after.contains(&("hourly".to_owned(), 50, 5)), "{rule}: {after:?}");
        hours(&engine, 10..15).await;
        let after = right(rule, &audit(&engine).await);
        let compared = if rule == "lateness" { 3 } else { 6 };
        assert!(
            after.contains(&("hourly".to_owned(), 75, compared * 5)),
            "{rule}: {after:?}"
        );
        close(engine).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_closed_by_another_definition_are_passed_over() {
    let (folder, data) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let engine = open(folder.path(), data.path(), &[]).await;
    ten_hours(&engine).await;
    right("before", &audit(&engine).await);
    let anew = HOURLY.replace("max(level)", "max(level + 1000)");
    let changed = engine
        .change(deployment(folder.path(), &[("views/hourly.sql", &anew)]))
        .await;
    assert_eq!(changed.expect("it can be").changed, ["hourly"]);
    let after = right("declared anew", &audit(&engine).await);
    assert!(after.contains(&("hourly".to_owned(), 50, 5)), "{after:?}");
    hours(&engine, 10..11).await;
    let after = right("an hour later", &audit(&engine).await);
    assert!(after.contains(&("hourly".to_owned(), 55, 10)), "{after:?}");
    close(engine).await;
    // The same between two runs.
    let engine = open(folder.path(), data.path(), &[]).await;
    let after = right("declared anew between two runs", &audit(&engine).await);
    assert!(after.contains(&("hourly".to_owned(), 55, 5)), "{after:?}");
    close(engine).await;
}
