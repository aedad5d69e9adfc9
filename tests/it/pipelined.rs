//! Ticks in flight: each says what it changed and nothing of the ticks behind it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use crossbeam_channel::unbounded;
use dataflows::Updates;
use dataflows::workers::{FlowSpec, Response, TickInput, Workers};
use queries::{Catalog, Relations, SourceRelation};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

const TICKS: u64 = 300;

const VIEWS: [&str; 3] = [
    "WITH RECURSIVE reach AS (SELECT a, b FROM edges UNION SELECT r.a, e.b FROM reach r JOIN edges e ON e.a = r.b)
     SELECT a, b FROM reach",
    "WITH RECURSIVE walk AS (SELECT a, b, 0 AS hops FROM edges UNION ALL
       SELECT w.a, e.b, w.hops + 1 FROM walk w JOIN edges e ON e.a = w.b WHERE w.hops < 2 AND 100 / (e.b - 3) < 60)
     SELECT a, b, hops FROM walk",
    "WITH RECURSIVE open AS (SELECT a, b FROM edges WHERE a = 0 UNION
       SELECT o.a, e.b FROM open o JOIN edges e ON e.a = o.b WHERE NOT EXISTS (SELECT 1 FROM edges s WHERE s.b = e.a AND s.a = s.b))
     SELECT a, b FROM open",
];

#[test]
fn a_worker_that_dies_says_so_and_holds_up_nobody() {
    for workers in [1, 2] {
        let (catalog, _) = edges();
        let view = catalog.plan_view("view", VIEWS[0]).expect("a supported view");
        let (responses, answers) = unbounded();
        let running = Workers::start(workers, responses).expect("threads");
        running.install(&Arc::new(FlowSpec::new(0, &view.name, view.plan.clone())));
        // There is no dataflow 7.
        running.tick(TickInput::new(1, Vec::new(), vec![7]));
        assert!(matches!(answers.recv(), Ok(Response::Died { .. })));
        let (ended, end) = unbounded();
        std::thread::spawn(move || {
            drop(running);
            ended.send(()).expect("somebody waits");
        });
        end.recv_timeout(Duration::from_secs(60)).expect("it ends");
    }
}

#[test]
fn recursions_change_tick_by_tick() {
    let _honest = crate::HONEST.blocking_read();
    for sql in VIEWS {
        for workers in [1, 2] {
            play(sql, workers);
        }
    }
}

/// A catalog of one source.
fn edges() -> (Catalog, SchemaRef) {
    let fields = ["a", "b"].map(|name| Field::new(name, DataType::Int64, false));
    let schema: SchemaRef = Arc::new(Schema::new(fields.to_vec()));
    let mut catalog = Catalog::new("UTC").expect("a time zone");
    let source = SourceRelation {
        name: "edges".into(),
        schema: Arc::clone(&schema),
        append_only: false,
        key: None,
        retain_us: None,
        expires_after_us: None,
        time_column: None,
        lateness_us: None,
    };
    catalog.add_source(source).expect("a new name");
    (catalog, schema)
}

fn play(sql: &str, workers: usize) {
    let (catalog, schema) = edges();
    let view = catalog.plan_view("view", sql).expect("a supported view");

    // All ticks at once, so that many are under way together.
    let (responses, answers) = unbounded();
    let running = Workers::start(workers, responses).expect("threads");
    running.install(&Arc::new(FlowSpec::new(0, &view.name, view.plan.clone())));
    let mut random = Pcg64::seed_from_u64(5);
    let mut edges: Vec<(i64, i64)> = Vec::new();
    let mut held: Vec<Vec<(i64, i64)>> = Vec::new();
    for tick in 1..=TICKS {
        let gone = (random.random_bool(0.5) || edges.len() > 14) && !edges.is_empty();
        let (edge, diff) = match gone {
            true => (edges.swap_remove(random.random_range(0..edges.len())), -1),
            false => {
                let edge = (random.random_range(0..7), random.random_range(0..7));
                edges.push(edge);
                (edge, 1)
            }
        };
        held.push(edges.clone());
        let rows = batch(&schema, &[edge]);
        let inputs = vec![("edges".into(), Updates::new(rows, vec![diff]))];
        running.tick(TickInput::new(tick, inputs, vec![0]));
    }
    let mut changes: BTreeMap<u64, Vec<Updates>> = BTreeMap::new();
    let mut missing = TICKS as usize * workers;
    while missing > 0 {
        match answers.recv().expect("workers answer") {
            Response::Completed(completed) => {
                missing -= completed.len();
                for completed in completed {
                    changes.entry(completed.tick).or_default().extend(completed.rows);
                }
            }
            Response::Died { reason, .. } => panic!("a worker died: {reason}"),
        }
    }

    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let mut found: HashMap<String, i64> = HashMap::new();
    for (tick, edges) in (1..).zip(&held) {
        for updates in changes.remove(&tick).unwrap_or_default() {
            for (row, diff) in texts(updates.rows()).into_iter().zip(updates.diffs().iter()) {
                *found.entry(row).or_default() += diff;
            }
        }
        found.retain(|_, count| *count != 0);
        let inputs = Relations::from([(
            "edges".to_owned(),
            (Arc::clone(&schema), vec![batch(&schema, edges)]).into(),
        )]);
        let rows = runtime
            .block_on(catalog.batch(&view, &inputs, tick))
            .expect("an answer");
        let rows = concat_batches(&view.schema, &rows).expect("batches of one view");
        let mut expected: HashMap<String, i64> = HashMap::new();
        for row in texts(&rows) {
            *expected.entry(row).or_default() += 1;
        }
        assert_eq!(
            found, expected,
            "tick {tick} on {workers} workers, over {edges:?}: {sql}"
        );
    }
}

fn batch(schema: &SchemaRef, edges: &[(i64, i64)]) -> RecordBatch {
    let column = |of: fn(&(i64, i64)) -> i64| Arc::new(Int64Array::from_iter_values(edges.iter().map(of)));
    RecordBatch::try_new(Arc::clone(schema), vec![column(|edge| edge.0), column(|edge| edge.1)]).expect("two columns")
}

fn texts(rows: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default();
    let columns = rows
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
    let columns: Vec<ArrayFormatter> = columns.collect::<Result<_, _>>().expect("plain types");
    let row = |row| {
        columns
            .iter()
            .map(|column| column.value(row).to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    (0..rows.num_rows()).map(row).collect()
}
