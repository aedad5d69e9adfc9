//! How fast are the answers for which rows have an order: extremes, distinct rows, top rows, window functions?
//!
//! `cargo bench --bench orders`. 100k keys, 10,000 rows a tick of which 30 % of all that is sent are retractions;
//! and a partition of 100k rows that grows at its end, one row in a hundred late. Compared with typed
//! differential dataflow, whose `reduce` computes a key again whenever it changes.

#[path = "support/churn.rs"]
mod churn;
#[path = "support/facts.rs"]
mod facts;
#[path = "support/rounds.rs"]
mod rounds;
#[path = "support/views.rs"]
mod views;

use std::process::ExitCode;
use std::time::Duration;

use churn::{Rival, Tick};
use rounds::{Contender, compete};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DIFFERENTIAL: &str = "typed differential";

fn main() -> ExitCode {
    // What `cargo bench` passes to every bench means nothing here; a word picks contests.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let picked = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
    let churning = churn::retracting(100_000, 1_000_000);
    let mut held = true;
    for (name, sql, rival) in [
        (
            "extremes",
            "SELECT key, min(amount) AS low, max(amount) AS high FROM facts GROUP BY key",
            Rival::Extremes,
        ),
        ("distinct", "SELECT DISTINCT key, amount FROM facts", Rival::Distinct),
        (
            "top",
            "SELECT key, amount FROM (SELECT key, amount, row_number() OVER (PARTITION BY key ORDER BY amount DESC) \
             AS place FROM facts) f WHERE place <= 3",
            Rival::Top,
        ),
    ] {
        if picked(name) {
            held &= contest(name, sql, rival, &churning, 0, 2.0);
        }
    }
    if picked("window") {
        let sql = "SELECT key, amount, sum(amount) OVER (ORDER BY key ROWS 99 PRECEDING) AS total FROM facts";
        let ticks = churn::long_partition(100_000, 50);
        held &= contest("window", sql, Rival::MovingSum, &ticks, 1, 2.0);
    }
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn contest(name: &str, sql: &str, rival: Rival, ticks: &[Tick], timed: usize, floor: f64) -> bool {
    let rows = ticks[timed..].iter().map(Vec::len).sum();
    let (_, expected) = churn::differential(rival, ticks, timed);
    let checked = |(took, rows): (Duration, i64)| {
        assert_eq!(rows, expected, "as many rows as differential has");
        took
    };
    compete(
        &format!("{name}: {sql}"),
        rows,
        vec![
            Contender::new(DIFFERENTIAL, || checked(churn::differential(rival, ticks, timed))),
            Contender::new(name, || checked(churn::view(sql, ticks, timed, 1))).at_least(floor, DIFFERENTIAL),
            Contender::new("2 workers", || checked(churn::view(sql, ticks, timed, 2))).against(name),
        ],
    )
}
