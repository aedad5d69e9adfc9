//! A recording as lines of text, shuffled and damaged, and what must become of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use dataflows::json;
use queries::Relations;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use sangam::config;
use sangam::engine::{Engine, Snapshot};
use serde_json::Value;

use crate::program::Program;

/// Lines of a recording, and which of them are late or damaged.
pub struct Recording {
    /// The head line.
    pub head: String,
    /// Every line in the order it is sent.
    pub lines: Vec<String>,
    /// The lines that are accepted, in that order.
    pub accepted: Vec<String>,
    /// How many come too late.
    pub late: usize,
    /// How many cannot be read.
    pub rejected: usize,
}

impl Recording {
    /// Takes each hundredth line or so out of its place and sends it `delay` lines later, and damages as many others.
    pub fn shuffled(text: &str, seed: u64, delay: usize, damage: impl Fn(&str, u64) -> String) -> Self {
        let mut random = Pcg64::seed_from_u64(seed);
        let mut lines = text.lines().map(str::to_owned).filter(|line| !line.is_empty());
        let head = lines.next().expect("a recording has a head line");
        let lines: Vec<String> = lines.collect();
        // By the place a line is sent at: its own, or later.
        let mut sent: BTreeMap<(usize, bool), Vec<(String, Fate)>> = BTreeMap::new();
        let (mut late, mut rejected) = (0, 0);
        for (at, line) in lines.iter().enumerate() {
            let draw = random.random_range(0..100u32);
            let (place, fate, line) = match draw {
                0 if at > delay && at + 2 * delay < lines.len() => ((at + delay, true), Fate::Late, line.clone()),
                1 => (
                    (at, false),
                    Fate::Damaged,
                    damage(line, random.random_range(0..u64::MAX)),
                ),
                _ => ((at, false), Fate::Accepted, line.clone()),
            };
            late += usize::from(fate == Fate::Late);
            rejected += usize::from(fate == Fate::Damaged);
            sent.entry(place).or_default().push((line, fate));
        }
        let order: Vec<(String, Fate)> = sent.into_values().flatten().collect();
        let accepted = order
            .iter()
            .filter(|(_, fate)| *fate == Fate::Accepted)
            .map(|(line, _)| line.clone())
            .collect();
        let lines = order.into_iter().map(|(line, _)| line).collect();
        Recording {
            head,
            lines,
            accepted,
            late,
            rejected,
        }
    }

    /// Returns the whole as text.
    pub fn text(&self) -> String {
        let mut text = self.head.clone();
        for line in &self.lines {
            text.push('\n');
            text.push_str(line);
        }
        text.push('\n');
        text
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Accepted,
    Late,
    Damaged,
}

/// Reads accepted lines by arrow's own reader, which shares no code with the decoder under test.
pub fn rows(head: &str, accepted: &[String], schema: &SchemaRef, delimiter: u8) -> RecordBatch {
    let mut text = head.to_owned();
    for line in accepted {
        text.push('\n');
        text.push_str(line);
    }
    let reader = arrow::csv::ReaderBuilder::new(schema.clone())
        .with_header(true)
        .with_delimiter(delimiter)
        .with_batch_size(accepted.len().max(1))
        .with_null_regex("^(NA|NAN|)$".parse().expect("a pattern"))
        .build(text.as_bytes())
        .expect("a reader over text");
    let batches: Vec<RecordBatch> = reader.map(|batch| batch.expect("accepted lines can be read")).collect();
    arrow::compute::concat_batches(schema, &batches).expect("one schema")
}

/// Writes a deployment folder.
pub fn deployment(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    folder
}

/// Loads a deployment; whatever is wrong with it fails the test.
pub fn load(folder: &Path) -> config::Deployment {
    config::load(folder).unwrap_or_else(|problems| {
        panic!(
            "{}",
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        )
    })
}

/// Longest wait for a recording to run through.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a deployment until its source has seen `rows` rows; returns every view as of then.
pub async fn replay(folder: &Path, source: &str, rows: u64) -> (Engine, Snapshot) {
    let engine = Engine::start(load(folder)).expect("the deployment runs");
    let mut progress = engine.progress();
    let seen = async {
        loop {
            progress.borrow_and_update();
            let counts = engine
                .sources()
                .into_iter()
                .find(|counts| counts.source == source)
                .expect("the source");
            if counts.accepted + counts.late + counts.rejected >= rows {
                return;
            }
            progress.changed().await.expect("the engine runs");
        }
    };
    tokio::time::timeout(PATIENCE, seen)
        .await
        .expect("the recording runs through in time");
    let names: Vec<String> = engine
        .relations()
        .iter()
        .map(|relation| relation.name.clone())
        .collect();
    let snapshot = engine
        .snapshot(&names, engine.acknowledged())
        .await
        .expect("a snapshot");
    (engine, snapshot)
}

/// Posts a recording to a running program, `rows` lines a request; returns what the replies add up to.
pub fn post(program: &Program, source: &str, recording: &Recording, rows: usize) -> Totals {
    let mut totals = Totals::default();
    for lines in recording.lines.chunks(rows) {
        let body = format!("{}\n{}\n", recording.head, lines.join("\n"));
        let reply = program.post(source, "text/csv", body).json();
        let count = |name: &str| reply[name].as_u64().unwrap_or_else(|| panic!("no {name} in {reply}"));
        totals.accepted += count("accepted");
        totals.late += count("late");
        totals.rejected += count("rejected");
    }
    totals
}

/// What became of the rows of a recording.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows that entered.
    pub accepted: u64,
    /// Rows behind the watermark.
    pub late: u64,
    /// Rows that cannot be read.
    pub rejected: u64,
}

impl Totals {
    /// What must become of a recording's rows.
    pub fn expected(recording: &Recording) -> Self {
        assert!(
            recording.late > 10 && recording.rejected > 10,
            "about one in a hundred each"
        );
        Totals {
            accepted: recording.accepted.len() as u64,
            late: recording.late as u64,
            rejected: recording.rejected as u64,
        }
    }

    /// What an engine counted of its first source.
    pub fn of(engine: &Engine) -> Self {
        let counts = engine.sources().remove(0);
        Totals {
            accepted: counts.accepted,
            late: counts.late,
            rejected: counts.rejected,
        }
    }
}

/// Holds what a program answers for every view to DataFusion's batch answer over the test's own rows.
pub async fn compare_answers(deployment: &config::Deployment, mut ledger: Relations, program: &Program) {
    let normal = |row: &Value| serde_json::to_string(row).expect("JSON");
    for definition in &deployment.views {
        let view = &definition.view;
        let tick = program
            .query("SELECT count(*) AS n FROM sangam.views", "application/json")
            .tick();
        let answer = deployment
            .catalog
            .batch(view, &ledger, tick)
            .await
            .expect("a batch answer");
        let mut expected: Vec<String> = sorted(&answer)
            .iter()
            .map(|row| normal(&serde_json::from_str(row).expect("JSON")))
            .collect();
        let mut found: Vec<String> = program
            .sql(&format!("SELECT * FROM {}", view.name))
            .iter()
            .map(normal)
            .collect();
        expected.sort();
        found.sort();
        assert!(
            !expected.is_empty(),
            "view {} is empty, which proves nothing",
            view.name
        );
        assert_eq!(found, expected, "view {}", view.name);
        ledger.insert(view.name.clone(), (view.schema.clone(), answer).into());
    }
}

/// Holds every view of a deployment to DataFusion's batch answer over the test's own rows.
pub async fn compare(deployment: &config::Deployment, mut ledger: Relations, snapshot: &Snapshot) {
    for definition in &deployment.views {
        let view = &definition.view;
        let answer = deployment
            .catalog
            .batch(view, &ledger, snapshot.tick)
            .await
            .expect("a batch answer");
        let expected = sorted(&answer);
        let found = sorted(&snapshot.relations[&view.name].batches);
        assert!(
            !expected.is_empty(),
            "view {} is empty, which proves nothing",
            view.name
        );
        assert_eq!(found, expected, "view {}", view.name);
        ledger.insert(view.name.clone(), (view.schema.clone(), answer).into());
    }
}

/// Rows as JSON text in one order.
fn sorted(batches: &[RecordBatch]) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in batches {
        let encoder = json::RowEncoder::new(&batch.schema());
        for row in 0..batch.num_rows() {
            let mut text = Vec::new();
            encoder.object(batch, row, &mut text);
            rows.push(String::from_utf8(text).expect("JSON is UTF-8"));
        }
    }
    rows.sort();
    rows
}
