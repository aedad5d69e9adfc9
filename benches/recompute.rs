//! Where does it pay to keep an answer current, compared with a batch engine that computes it again and again?
//!
//! `cargo bench --bench recompute`. 20 million rows are held; then 1,000 more come at a time. Measured is how long it
//! takes from the rows being posted until a reader has the new answer, and how long DataFusion takes to compute it over
//! the same batches in memory, on all processors. `SANGAM_BENCH_EVENTS` is another number of rows.

#[path = "support/facts.rs"]
mod facts;
#[path = "support/rounds.rs"]
mod rounds;
#[path = "support/store.rs"]
mod store;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use connectors::Decoded;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use sangam::engine::{Engine, Operation};

use facts::Facts;
use rounds::{median, number};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SQL: &str = "SELECT key, sum(amount) AS total, count(*) AS n, max(amount) AS most FROM facts GROUP BY key";
const KEYS: u64 = 10_000;
const ROWS: usize = 20_000_000;
/// Rows of one batch of those held.
const BATCH_ROWS: usize = 100_000;
/// Rows that come at a time, and how often.
const CHANGE_ROWS: usize = 1_000;
const CHANGES: usize = 50;
const RECOMPUTED: usize = 5;
/// How many times sooner the new answer has to be there.
const FLOOR: f64 = 20.0;

fn main() -> ExitCode {
    let rows = number("SANGAM_BENCH_EVENTS").unwrap_or(ROWS);
    let facts = Facts::generate(KEYS, rows + CHANGES * CHANGE_ROWS);
    let ticks = facts.integers();
    let schema = ticks[0].schema();
    let mut held: Vec<RecordBatch> = ticks[..rows / facts::TICK_ROWS]
        .chunks(BATCH_ROWS / facts::TICK_ROWS)
        .map(|ticks| concat_batches(&schema, ticks).expect("one schema"))
        .collect();
    let rest = concat_batches(&schema, &ticks[rows / facts::TICK_ROWS..]).expect("one schema");
    drop((facts, ticks));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let engine = store::start(SQL, &rest);
        for batch in &held {
            answer(&engine, batch.clone()).await;
        }
        let mut ours = Vec::new();
        let mut newest = Vec::new();
        for change in 0..rest.num_rows() / CHANGE_ROWS {
            let change = rest.slice(change * CHANGE_ROWS, CHANGE_ROWS);
            let begin = Instant::now();
            newest = answer(&engine, change.clone()).await;
            ours.push(begin.elapsed().as_secs_f64());
            held.push(change);
        }
        let mut theirs = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..RECOMPUTED {
            let context = SessionContext::new();
            let table = MemTable::try_new(Arc::clone(&schema), vec![held.clone()]).expect("a table");
            context.register_table("facts", Arc::new(table)).expect("a new name");
            let begin = Instant::now();
            let planned = context.sql(SQL).await.expect("a plan");
            expected = planned.collect().await.expect("an answer");
            theirs.push(begin.elapsed().as_secs_f64());
        }
        assert_eq!(sums(&newest), sums(&expected), "both engines have one answer");
        engine.shutdown();
        ours.sort_unstable_by(f64::total_cmp);
        let worst = ours[ours.len() * 99 / 100];
        let (ours, theirs) = (median(ours), median(theirs));
        let ratio = theirs / ours;
        println!("{rows} rows held, {KEYS} keys, {CHANGE_ROWS} more at a time");
        println!("kept current   {:>9.2} ms (99 %: {:.2} ms)", ours * 1e3, worst * 1e3);
        println!("computed again {:>9.2} ms by DataFusion", theirs * 1e3);
        let holds = ratio >= FLOOR;
        let verdict = if holds { "holds" } else { "BROKEN" };
        println!("{ratio:.0}x sooner, floor {FLOOR}x {verdict}");
        if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

/// Posts rows, and reads the view at the tick that holds them.
async fn answer(engine: &Engine, rows: RecordBatch) -> Vec<RecordBatch> {
    let decoded = Decoded {
        rows,
        rejected: Vec::new(),
    };
    let accepted = engine.ingest("facts", Operation::Insert, decoded).await;
    let tick = accepted.expect("an open source").tick;
    let mut snapshot = engine.snapshot(&["view".to_owned()], tick).await.expect("a view");
    snapshot.relations.remove("view").expect("the view").batches
}

/// Adds up what tells two answers apart: rows, totals, counts, and the greatest amounts with their keys.
fn sums(batches: &[RecordBatch]) -> (usize, i64, i64, i64) {
    let mut sums = (0, 0, 0, 0);
    for batch in batches {
        let column = |at: usize| batch.column(at).as_primitive::<Int64Type>().values();
        sums.0 += batch.num_rows();
        sums.1 += column(1).iter().sum::<i64>();
        sums.2 += column(2).iter().sum::<i64>();
        sums.3 += column(0)
            .iter()
            .zip(column(3))
            .map(|(key, most)| (key + 1) * most)
            .sum::<i64>();
    }
    sums
}
