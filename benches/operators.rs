//! How many updates a second do grouped SUM/COUNT, an equi-join and a recursion sustain, from the SQL text, compared
//! with hand-written typed differential dataflow?
//!
//! `cargo bench --bench operators`. Batches in, the operator's delta batches out,
//! 10,000 rows a tick, four ticks in flight. Every run's result is checked.

#[path = "support/facts.rs"]
mod facts;
#[path = "support/reach.rs"]
mod reach;
#[path = "support/rivals.rs"]
mod rivals;
#[path = "support/rounds.rs"]
mod rounds;
#[path = "support/store.rs"]
mod store;
#[path = "support/views.rs"]
mod views;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use dataflows::Updates;
use queries::View;

use facts::{Facts, TICK_ROWS};
use reach::{Graph, Took};
use rounds::{Contender, compete};
use views::Running;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const GROUPS: &str = "SELECT key, sum(amount) AS total, count(*) AS n FROM facts GROUP BY key";
const JOIN: &str = "SELECT f.key, f.amount, t.weight FROM facts f JOIN weights t ON f.key = t.key";
const DIFFERENTIAL: &str = "typed differential";

fn main() -> ExitCode {
    // What `cargo bench` passes to every bench means nothing here; a word picks contests.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let picked = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
    let mut held = true;
    if picked("groups-100k") {
        held &= groups_100k();
    }
    if picked("groups-1m") {
        held &= groups_1m();
    }
    if picked("join") {
        held &= join();
    }
    if picked("recursion") {
        held &= recursion();
    }
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn groups_100k() -> bool {
    let facts = Arc::new(Facts::generate(100_000, 3_000_000));
    let (integers, texts, doubles) = (facts.integers(), facts.texts(), facts.doubles());
    check_groups(&integers);
    compete(
        "grouped SUM/COUNT, 100k keys, 3M updates",
        facts.rows(),
        vec![
            Contender::new(DIFFERENTIAL, || rivals::differential_groups(&facts)),
            Contender::new("bare hash map", || rivals::hash_map_groups(&facts)).against(DIFFERENTIAL),
            Contender::new("bigint key", || groups(&integers, 1)).at_least_aiming(4.0, 8.0, DIFFERENTIAL),
            Contender::new("bigint key, 2 workers", || groups(&integers, 2)).at_least(1.3, "bigint key"),
            Contender::new("text key", || groups(&texts, 1)).at_least(1.5, DIFFERENTIAL),
            Contender::new("text key, 2 workers", || groups(&texts, 2)).against("text key"),
            Contender::new("bigint key, double sum", || groups(&doubles, 1)).against(DIFFERENTIAL),
            Contender::new("bigint key, through the store", || store::time(GROUPS, &integers)).at_least_aiming(
                2.0,
                4.0,
                DIFFERENTIAL,
            ),
        ],
    )
}

fn groups_1m() -> bool {
    let facts = Arc::new(Facts::generate(1_000_000, 3_000_000));
    let (integers, texts) = (facts.integers(), facts.texts());
    compete(
        "grouped SUM/COUNT, 1M keys, 3M updates",
        facts.rows(),
        vec![
            Contender::new(DIFFERENTIAL, || rivals::differential_groups(&facts)),
            Contender::new("bare hash map", || rivals::hash_map_groups(&facts)).against(DIFFERENTIAL),
            Contender::new("bigint key", || groups(&integers, 1)).against(DIFFERENTIAL),
            Contender::new("bigint key, 2 workers", || groups(&integers, 2)).against("bigint key"),
            Contender::new("text key", || groups(&texts, 1)).against(DIFFERENTIAL),
        ],
    )
}

fn join() -> bool {
    let keys = 100_000;
    let facts = Arc::new(Facts::generate(keys, 1_000_000));
    let integers = facts.integers();
    let table = facts::table(keys);
    compete(
        "1M facts joined with a table of 100k rows",
        facts.rows(),
        vec![
            Contender::new(DIFFERENTIAL, || rivals::differential_join(&facts, keys)),
            Contender::new("join", || joined(&integers, &table, 1)).at_least_aiming(4.0, 6.0, DIFFERENTIAL),
            Contender::new("join, 2 workers", || joined(&integers, &table, 2)).against("join"),
        ],
    )
}

/// What is reached over 100k edges: while they come, and while one of them goes and comes back.
fn recursion() -> bool {
    let graph = Graph::generate(100_000, 200);
    let reached = graph.reached() as i64;
    let checked = |took: Took| {
        assert_eq!(took.reached, reached, "the nodes that can be reached");
        took
    };
    let contenders = |of: fn(&Took) -> Duration, floor: f64| {
        let graph = &graph;
        vec![
            Contender::new(DIFFERENTIAL, move || of(&checked(reach::differential(graph)))),
            Contender::new("WITH RECURSIVE", move || of(&checked(reach::view(graph, 1)))).at_least(floor, DIFFERENTIAL),
            Contender::new("WITH RECURSIVE, 2 workers", move || of(&checked(reach::view(graph, 2))))
                .against("WITH RECURSIVE"),
        ]
    };
    let loads = compete(
        "reach over 100k edges",
        graph.edges.len(),
        contenders(|took| took.loading, 0.3),
    );
    let title = "reach over 100k edges, one taken back and sent again";
    let follows = compete(title, 2 * graph.changed.len(), contenders(|took| took.changing, 0.3));
    loads && follows
}

fn planned_groups(ticks: &[RecordBatch]) -> View {
    views::plan(&[("facts", ticks[0].schema())], GROUPS)
}

/// Runs the grouping once; the deltas must come to as many rows as went in.
fn groups(ticks: &[RecordBatch], workers: usize) -> Duration {
    let mut running = Running::start(&planned_groups(ticks), workers);
    let mut rows = 0;
    let took = running.time("facts", ticks, |updates| rows += weighed(updates, 2));
    assert_eq!(
        rows,
        (ticks.len() * TICK_ROWS) as i64,
        "every row is counted in one group"
    );
    took
}

/// Runs the join once; every fact must find its weight.
fn joined(ticks: &[RecordBatch], table: &RecordBatch, workers: usize) -> Duration {
    let sources = [("facts", ticks[0].schema()), ("weights", table.schema())];
    let mut running = Running::start(&views::plan(&sources, JOIN), workers);
    running.send(&"weights".into(), table, &mut |_| {});
    running.finish(&mut |_| {});
    let (mut rows, mut weights) = (0, 0);
    let took = running.time("facts", ticks, |updates| {
        rows += updates.len();
        weights += weighed(updates, 2);
    });
    assert_eq!(rows, ticks.len() * TICK_ROWS, "every fact has one weight");
    let keys = ticks
        .iter()
        .flat_map(|tick| tick.column(0).as_primitive::<Int64Type>().values().iter());
    assert_eq!(
        weights,
        keys.map(|key| facts::weight(*key)).sum::<i64>(),
        "it is the key's own"
    );
    took
}

/// Sums a column of counts times the diffs.
fn weighed(updates: &Updates, column: usize) -> i64 {
    let values = updates.rows().column(column).as_primitive::<Int64Type>().values();
    values
        .iter()
        .zip(updates.diffs().iter())
        .map(|(value, diff)| value * diff)
        .sum()
}

/// Adds up every delta of one run and compares each group with the facts.
fn check_groups(ticks: &[RecordBatch]) {
    let mut expected: HashMap<i64, (i64, i64)> = HashMap::new();
    for tick in ticks {
        let columns = [0, 1].map(|column| tick.column(column).as_primitive::<Int64Type>().values());
        for (key, amount) in columns[0].iter().zip(columns[1]) {
            let (total, count) = expected.entry(*key).or_default();
            *total += amount;
            *count += 1;
        }
    }
    let mut found: HashMap<(i64, i64, i64), i64> = HashMap::new();
    Running::start(&planned_groups(ticks), 2).time("facts", ticks, |updates| {
        let columns = [0, 1, 2].map(|column| updates.rows().column(column).as_primitive::<Int64Type>().values());
        for (row, diff) in updates.diffs().iter().enumerate() {
            let entry = found
                .entry((columns[0][row], columns[1][row], columns[2][row]))
                .or_default();
            *entry += diff;
        }
    });
    found.retain(|_, diff| *diff != 0);
    assert_eq!(found.len(), expected.len(), "one row a group");
    for ((key, total, count), diff) in found {
        assert_eq!((diff, expected.get(&key)), (1, Some(&(total, count))), "group {key}");
    }
}
