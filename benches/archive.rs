//! How much room does a year of one-minute readings of 1,000 stations take, how fast is it written and merged, and
//! what does a question about one hour of it cost?
//!
//! `cargo bench --bench archive`. Ten days of readings (`SANGAM_BENCH_DAYS` for more or fewer) are written as a running
//! engine would, a file each ten minutes, merged as the plan says, and scaled to a year; once as rows of a view, once as
//! raw input with ticks. Rows of the first day, or as many hours as `SANGAM_BENCH_HOURS` says, also go through an engine:
//! what they take in its log and in a checkpoint, and as one plain Parquet file, to which all is compared.
//! The same rows go into a PostgreSQL 15 of this machine, a table with the primary key (station, at); without one, that
//! comparison is left out.

#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/room.rs"]
mod room;
#[path = "support/rounds.rs"]
mod rounds;
#[path = "support/stations.rs"]
mod stations;

use std::fmt::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{Field, Float64Type, Schema, TimestampMicrosecondType};
use queries::{Catalog, Relation, Relations, SourceRelation};
use sangam::history::{Archive, FileEntry, Layout, plan_compaction};

use postgres::Postgres;
use rounds::{median, number, processor_seconds};
use stations::{COLUMNS, START_US, STATIONS, Stations, schema};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DAY_US: i64 = 86_400_000_000;
/// Minutes of readings in one write.
const WRITE_MINUTES: i64 = 10;
/// What our files may take of PostgreSQL's bytes.
const SHARE_MAX: f64 = 0.13;
const SHARE_AIM: f64 = 0.1;
/// How much faster a question about one hour of one station must be than one about all.
const PRUNED_MIN: f64 = 10.0;
/// Rows in a second of processor time, which hardly depends on what else the machine does.
const WRITTEN_MIN: f64 = 500_000.0;
const MERGED_MIN: f64 = 500_000.0;
/// How often a row may be written, its first time not counted.
const REWRITTEN_MAX: f64 = 4.0;

fn main() -> ExitCode {
    let days = number("SANGAM_BENCH_DAYS").unwrap_or(10) as i64;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let year = |bytes: u64| bytes as f64 * 365.0 / days as f64 / f64::from(1 << 30);
    println!(
        "{STATIONS} stations, a reading a minute, {days} days: {} rows",
        STATIONS as i64 * 1_440 * days
    );
    let hours = number("SANGAM_BENCH_HOURS").unwrap_or(24) as i64;
    let plain = room::as_parquet(hours * 60);
    let times = |each: f64| each / plain;
    let told = |name: &str, bytes: u64, rows: u64, files: usize| {
        let each = bytes as f64 / rows as f64;
        println!(
            "{name:<24} {each:>12.2} {:>12.2} {files:>8} {:>8.2}",
            year(bytes),
            times(each)
        );
    };
    println!(
        "{:<24} {:>12} {:>12} {:>8} {:>8}",
        "", "bytes a row", "GiB a year", "files", "x plain"
    );
    println!("{:<24} {plain:>12.2} {:>30.2}", "plain Parquet, zstd", 1.0);
    // The fewer rows come with a tick, the more it takes to say what it is.
    for (tick_rows, minutes) in [(STATIONS, hours * 60), (STATIONS / 100, hours * 6)] {
        let room = room::of_engine(minutes, tick_rows);
        for (name, each) in [
            ("log", room.log),
            ("checkpoint", room.checkpoint),
            ("empty log", room.rest),
        ] {
            let name = format!("{name}, ticks of {tick_rows}");
            println!("{name:<24} {each:>12.2} {:>30.2}", times(each));
        }
    }
    let mut held = true;
    let mut shares = Vec::new();
    for (name, is_raw) in [("view", false), ("raw input", true)] {
        let folder = tempfile::tempdir().expect("a folder");
        let run = runtime.block_on(fill(folder.path().to_str().expect("a path"), days, is_raw));
        told(&format!("{name}, as written"), run.bytes_before, run.rows, run.written);
        told(&format!("{name}, merged"), run.bytes, run.rows, run.entries.len());
        let written = run.writing.rate(run.rows);
        let merged = run.merging.rate(run.merged);
        let rewritten = run.merged as f64 / run.rows as f64;
        println!(
            "  rows/s by the clock, and a second of processor time: written {:.0}, {:.0}; merged {:.0}, {:.0}; each row \
             rewritten {rewritten:.2} times",
            written.0, written.1, merged.0, merged.1
        );
        held &= floor(
            "rows written in a second of processor time",
            written.1,
            WRITTEN_MIN,
            true,
        );
        held &= floor("rows merged in a second of processor time", merged.1, MERGED_MIN, true);
        held &= floor("times that each row is rewritten", rewritten, REWRITTEN_MAX, false);
        shares.push((name, run.bytes, run.rows));
        if !is_raw {
            held &= runtime.block_on(questions(&run, days));
        }
    }
    match Postgres::start() {
        Ok(server) => {
            let bytes = load(&server, days);
            told("PostgreSQL 15", bytes, shares[0].2, 1);
            for (name, ours, _) in shares {
                let share = ours as f64 / bytes as f64;
                println!(
                    "{name}: {share:.3} of it, aim {SHARE_AIM}{}",
                    if share > SHARE_AIM { " missed" } else { "" }
                );
                held &= floor(&format!("share of PostgreSQL's bytes, {name}"), share, SHARE_MAX, false);
            }
        }
        Err(reason) => println!("PostgreSQL is left out: {reason}"),
    }
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn floor(what: &str, found: f64, bound: f64, is_least: bool) -> bool {
    let holds = if is_least { found >= bound } else { found <= bound };
    if !holds {
        let word = if is_least { "at least" } else { "at most" };
        println!("BROKEN: {what} is {found:.2}, and must be {word} {bound}");
    }
    holds
}

/// Adds what raw input has beside: a tick for every ten milliseconds in which something came.
fn raw(rows: &RecordBatch) -> RecordBatch {
    let times = rows.column(1).as_primitive::<TimestampMicrosecondType>().values();
    let mut ticks: Vec<u64> = Vec::with_capacity(times.len());
    let mut sequences: Vec<u64> = Vec::with_capacity(times.len());
    for time in times {
        let last = ticks.last().copied().unwrap_or(0);
        // Twenty milliseconds on the way, and never before the one that came earlier.
        let arrived = (*time as u64 + 20_000).max(last);
        let is_same = arrived < last + 10_000;
        sequences.push(if is_same {
            sequences.last().map_or(0, |last| last + 1)
        } else {
            0
        });
        ticks.push(if is_same { last } else { arrived });
    }
    let mut fields = rows.schema().fields().to_vec();
    let mut columns = rows.columns().to_vec();
    for (name, column) in [
        ("__tick", Arc::new(UInt64Array::from(ticks)) as ArrayRef),
        ("__seq", Arc::new(UInt64Array::from(sequences))),
        ("__diff", Arc::new(Int64Array::from(vec![1; times.len()]))),
    ] {
        fields.push(Arc::new(Field::new(name, column.data_type().clone(), false)));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("raw readings")
}

/// What something took, by the clock and of the processors.
#[derive(Default)]
struct Effort {
    clock: Duration,
    processor: f64,
}

impl Effort {
    async fn of<T>(&mut self, work: impl Future<Output = T>) -> T {
        let (processor, start) = (processor_seconds(), Instant::now());
        let done = work.await;
        self.clock += start.elapsed();
        self.processor += processor_seconds() - processor;
        done
    }

    /// Returns how many rows it was a second, by the clock and of the processors.
    fn rate(&self, rows: u64) -> (f64, f64) {
        (rows as f64 / self.clock.as_secs_f64(), rows as f64 / self.processor)
    }
}

struct Run {
    archive: Archive,
    entries: Vec<FileEntry>,
    rows: u64,
    written: usize,
    writing: Effort,
    merged: u64,
    merging: Effort,
    bytes_before: u64,
    bytes: u64,
}

/// Writes all readings as they would come, and merges as they do.
async fn fill(place: &str, days: i64, is_raw: bool) -> Run {
    let archive = Archive::open(place, "bench").await.expect("an archive");
    let mut stations = Stations::new();
    let schema = if is_raw {
        raw(&RecordBatch::new_empty(schema())).schema()
    } else {
        schema()
    };
    let layout = Layout::new("readings", schema, Some("at"), &["station".to_owned()]).expect("a layout");
    let mut run = Run {
        archive,
        entries: Vec::new(),
        rows: 0,
        written: 0,
        writing: Effort::default(),
        merged: 0,
        merging: Effort::default(),
        bytes_before: 0,
        bytes: 0,
    };
    let mut sequence = 0;
    for begin in (0..days * 1_440).step_by(WRITE_MINUTES as usize) {
        let rows = stations.minutes(begin..begin + WRITE_MINUTES);
        let rows = if is_raw { raw(&rows) } else { rows };
        sequence += 1;
        let writing = run.archive.write(&layout, std::slice::from_ref(&rows), sequence);
        let written = run.writing.of(writing).await;
        let written = written.expect("written");
        run.rows += rows.num_rows() as u64;
        run.written += written.len();
        run.bytes_before += written.iter().map(|entry| entry.bytes).sum::<u64>();
        run.entries.extend(written);
        merge(&mut run, &mut sequence).await;
    }
    // The last day is over as soon as there is a reading of the next, which is not counted.
    let next = stations.minutes(days * 1_440..days * 1_440 + 1);
    let next = if is_raw { raw(&next) } else { next };
    let next = run
        .archive
        .write(&layout, std::slice::from_ref(&next), u64::MAX)
        .await
        .expect("written");
    run.entries.extend(next.clone());
    merge(&mut run, &mut sequence).await;
    run.entries.retain(|entry| !next.contains(entry));
    run.bytes = run.entries.iter().map(|entry| entry.bytes).sum();
    assert_eq!(run.entries.iter().map(|entry| entry.rows).sum::<u64>(), run.rows);
    run
}

async fn merge(run: &mut Run, sequence: &mut u64) {
    loop {
        let groups = plan_compaction(&run.entries);
        if groups.is_empty() {
            return;
        }
        for group in groups {
            *sequence += 1;
            let merging = run.archive.compact(&group, *sequence);
            let merged = run.merging.of(merging).await.expect("merged");
            run.merged += merged.rows;
            let gone: Vec<String> = group.into_iter().map(|entry| entry.path).collect();
            run.archive.remove(&gone).await.expect("removed");
            run.entries.retain(|entry| !gone.contains(&entry.path));
            run.entries.push(merged);
        }
    }
}

/// Asks about one hour of one station and about everything, in turns.
async fn questions(run: &Run, days: i64) -> bool {
    let mut catalog = Catalog::new("UTC").expect("a zone");
    let readings = SourceRelation {
        name: "readings".into(),
        schema: schema(),
        append_only: true,
        key: None,
        retain_us: None,
        expires_after_us: None,
        time_column: None,
        lateness_us: None,
    };
    catalog.add_source(readings).expect("a source");
    let hour = days / 2 * 24 + 12;
    let all = "SELECT count(ph), avg(ph) FROM readings";
    let part = "SELECT count(ph), avg(ph) FROM readings WHERE station = 'ST0500' AND at >= now() AND at < now() + \
                INTERVAL '1 hour'";
    let relation = Relation {
        schema: schema(),
        batches: Vec::new(),
        cold: Some(run.archive.cold(&run.entries)),
    };
    let relations = Relations::from([("readings".to_owned(), relation)]);
    let tick = (START_US + hour * DAY_US / 24) as u64;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds::rounds() {
        for (place, sql) in [all, part].into_iter().enumerate() {
            let query = catalog.plan_query(sql).expect("a query");
            let start = Instant::now();
            let (_, batches) = catalog
                .run_query(&query, &relations, tick, 1 << 30)
                .await
                .expect("an answer");
            times[place].push(start.elapsed().as_secs_f64() * 1e3);
            let average = batches[0].column(1).as_primitive::<Float64Type>();
            assert!((6.0..10.0).contains(&Float64Array::value(average, 0)), "{average:?}");
        }
    }
    let [all, part] = times.map(median);
    println!(
        "one hour of one station {part:.1} ms, everything {all:.1} ms: {:.1} times",
        all / part
    );
    floor("times faster for what is asked", all / part, PRUNED_MIN, true)
}

/// Copies the same rows into a table and returns what it takes on disk, its index counted.
fn load(server: &Postgres, days: i64) -> u64 {
    let columns = COLUMNS.map(|(name, ..)| format!("{name} double precision")).join(", ");
    server.sql(&format!(
        "CREATE TABLE readings (station text NOT NULL, at timestamptz NOT NULL, {columns}, PRIMARY KEY (station, at))"
    ));
    let mut stations = Stations::new();
    let mut copying = server.copy("COPY readings FROM STDIN");
    let mut text = String::new();
    for begin in (0..days * 1_440).step_by(WRITE_MINUTES as usize) {
        let rows = stations.minutes(begin..begin + WRITE_MINUTES);
        text.clear();
        let names = rows.column(0).as_string::<i32>();
        let times = rows.column(1).as_primitive::<TimestampMicrosecondType>();
        for row in 0..rows.num_rows() {
            let time = chrono::DateTime::from_timestamp_micros(times.value(row)).expect("a time");
            let _ = write!(
                text,
                "{}\t{}",
                names.value(row),
                time.format("%Y-%m-%d %H:%M:%S%.6f+00")
            );
            for column in &rows.columns()[2..] {
                let _ = match column.is_null(row) {
                    true => write!(text, "\t\\N"),
                    false => write!(text, "\t{}", column.as_primitive::<Float64Type>().value(row)),
                };
            }
            text.push('\n');
        }
        copying.send(text.as_bytes());
    }
    copying.finish();
    server.sql("VACUUM ANALYZE readings");
    let bytes = server.sql("SELECT pg_total_relation_size('readings')");
    bytes.parse().expect("a number of bytes")
}
