//! The auction house of `config/nexmark`, written down as JSON lines, and each of its views in a whole engine.
#![allow(dead_code, reason = "each bench uses its part of this")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow::json::LineDelimitedWriter;
use connectors::{Batch, Read, Setting};
use sangam::engine::Engine;

use super::rounds::{processor_seconds, resident_bytes};

/// Events of all tables in a tick.
pub const TICK_EVENTS: usize = 40_000;
/// Events in a second of their own time.
const RATE: u64 = 10_000;
/// When the first event happens, as the sources of the deployment have it.
const START_US: u64 = 1_767_254_340_000_000;
/// Of every 50 events: the tables and their shares, in the order of the events.
const SHARES: [(&str, usize); 3] = [("person", 1), ("auction", 3), ("bid", 46)];
const EPOCH: usize = 50;

/// What is asked beside the views of the deployment: the plainest aggregate there is.
pub const COUNT: &str = "SELECT auction, count(*) AS n, sum(price) AS total FROM bid GROUP BY auction";

/// The events in files, one a table.
pub struct House {
    pub dir: PathBuf,
    pub events: usize,
}

/// What one run came to.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Processor time of all threads from the start until the last change was in the view store.
    pub processor: f64,
    /// The same by the clock on the wall.
    pub wall: f64,
    /// Rows in the answer at the end.
    pub rows: i64,
    /// What the operators hold.
    pub state_bytes: u64,
    /// What the process grew by, sources and answers included.
    pub resident: usize,
    /// How long a tick took, in seconds: the median and the 99th percentile.
    pub tick: (f64, f64),
}

fn deployed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/nexmark")
}

impl House {
    /// Writes `events` events into a folder; returns the mean length of a bid's line, too.
    pub fn write(dir: &Path, events: usize) -> (House, usize) {
        let house = House {
            dir: dir.to_owned(),
            events: events / EPOCH * EPOCH,
        };
        let events = format!("events = {}", house.events);
        copy_sources(dir, |name, text| {
            assert!(name == "side_input" || text.contains("events = 1_000_000"));
            text.replace("events = 1_000_000", &events)
        });
        fs::write(dir.join("deployment.toml"), "clock = \"event\"\n").expect("a file");
        let deployment = sangam::config::load(dir).expect("the sources alone");
        let mut bid_bytes = 0;
        for (name, share) in SHARES {
            let source = deployment.sources.iter().find(|source| source.name == name);
            let source = source.expect("a source");
            let setting = Setting {
                name: &source.name,
                columns: &source.columns,
                format: &source.format,
                time_column: source.time.map(|time| time.column),
                time_zone: "UTC",
                directory: dir,
                start_us: 0,
            };
            let reader = source.connector.reader(&setting).expect("a generator");
            let mut reader = reader.expect("a connector that reads");
            let file = File::create(house.file(name)).expect("a file");
            // Columns without a value are left out, as the time of arrival is.
            let mut writer = LineDelimitedWriter::new(BufWriter::new(file));
            while let Read::Rows(Batch { decoded, .. }) = reader.read(i64::MAX).expect("rows") {
                writer.write(&decoded.rows).expect("lines");
            }
            writer.finish().expect("lines");
            writer.into_inner().flush().expect("lines");
            let bytes = fs::metadata(house.file(name)).expect("a file").len() as usize;
            bid_bytes = bytes / (house.events / EPOCH * share);
        }
        (house, bid_bytes)
    }

    /// The lines of a table.
    pub fn file(&self, table: &str) -> PathBuf {
        self.dir.join(format!("{table}.ndjson"))
    }

    /// Rows of some tables in one tick.
    pub fn tick_rows(tables: &[&str]) -> usize {
        let read = SHARES.iter().filter(|(name, _)| tables.contains(name));
        TICK_EVENTS / EPOCH * read.map(|(_, share)| share).sum::<usize>()
    }

    /// When the last event of some tables happens.
    pub fn end_us(&self, tables: &[&str]) -> u64 {
        let mut last = self.events - EPOCH;
        for (name, share) in SHARES {
            if tables.contains(&name) {
                last = last.max(self.events - EPOCH + share_start(name) + share - 1);
            }
        }
        START_US + last as u64 * 1_000_000 / RATE
    }
}

fn share_start(table: &str) -> usize {
    let before = SHARES.iter().take_while(|(name, _)| *name != table);
    before.map(|(_, share)| share).sum()
}

/// The queries of the deployment by name, and one that counts.
pub fn queries() -> BTreeMap<String, String> {
    let mut queries = BTreeMap::from([("count".to_owned(), COUNT.to_owned())]);
    for entry in fs::read_dir(deployed().join("views")).expect("the deployment") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        queries.insert(name, fs::read_to_string(&path).expect("a view"));
    }
    queries
}

/// The tables of the auction house that a query reads.
pub fn tables(sql: &str) -> Vec<&'static str> {
    let read = |name: &str| {
        let forms = [format!("FROM {name}"), format!("JOIN {name}"), format!("({name},")];
        forms.iter().any(|form| {
            let mut found = sql.match_indices(form.as_str());
            found.any(|(at, _)| !sql[at + form.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_'))
        })
    };
    let tables = SHARES.iter().map(|(name, _)| *name);
    tables.filter(|name| read(name)).collect()
}

/// Runs one view over the files in an engine with one worker.
pub fn run(house: &House, name: &str, sql: &str) -> Run {
    let dir = tempfile::tempdir().expect("a folder");
    let tables = tables(sql);
    assert!(!tables.is_empty(), "{name} reads nothing");
    let lookup = sql.contains("side_input");
    copy_sources(dir.path(), |source, text| {
        if source == "side_input" {
            return if lookup { text } else { String::new() };
        }
        if !tables.contains(&source) {
            return String::new();
        }
        let (head, _) = text.split_once("\n[connector]\n").expect("its connector comes last");
        let path = house.file(source);
        format!("{head}\n[connector]\ntype = \"file\"\npath = \"{}\"\n", path.display())
    });
    let options = format!(
        "clock = \"event\"\nworkers = 1\ntick_rows = {}\n",
        House::tick_rows(&tables)
    );
    fs::write(dir.path().join("deployment.toml"), options).expect("a file");
    fs::create_dir_all(dir.path().join("views")).expect("a folder");
    fs::write(dir.path().join(format!("views/{name}.sql")), sql).expect("a file");
    let deployment = sangam::config::load(dir.path()).expect("a good deployment");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let end = house.end_us(&tables);
    runtime.block_on(async {
        let (resident, processor, begin) = (resident_bytes(), processor_seconds(), Instant::now());
        let engine = Engine::start(deployment).expect("an engine");
        let mut progress = engine.progress();
        while engine.completed(name) < end {
            assert!(engine.failure().is_none(), "{:?}", engine.failure());
            progress.changed().await.expect("a running engine");
        }
        let mut run = Run {
            processor: processor_seconds() - processor,
            wall: begin.elapsed().as_secs_f64(),
            resident: resident_bytes().saturating_sub(resident),
            tick: engine.tick_seconds(),
            ..Run::default()
        };
        let rejected: u64 = engine
            .sources()
            .iter()
            .map(|source| source.late + source.rejected)
            .sum();
        assert_eq!(rejected, 0, "every row is good");
        run.state_bytes = engine
            .operators()
            .iter()
            .map(|operator| operator.stats.state_bytes)
            .sum();
        let snapshot = engine.snapshot(&[name.to_owned()], end).await.expect("a view");
        run.rows = snapshot.relations[name]
            .batches
            .iter()
            .map(|batch| batch.num_rows() as i64)
            .sum();
        engine.shutdown();
        run
    })
}

/// Copies the sources and what they read; `change` gets a source's name and text, and an empty text leaves it out.
fn copy_sources(to: &Path, change: impl Fn(&str, String) -> String) {
    for folder in ["sources", "data"] {
        fs::create_dir_all(to.join(folder)).expect("a folder");
        for entry in fs::read_dir(deployed().join(folder)).expect("the deployment") {
            let path = entry.expect("an entry").path();
            let target = to.join(folder).join(path.file_name().expect("a name"));
            if folder == "data" {
                fs::copy(&path, target).expect("a copy");
                continue;
            }
            let name = path.file_stem().expect("a name").to_string_lossy();
            let text = change(&name, fs::read_to_string(&path).expect("a source"));
            if !text.is_empty() {
                fs::write(target, text).expect("a file");
            }
        }
    }
}
