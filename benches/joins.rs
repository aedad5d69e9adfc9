//! How fast are joins whose rows are taken back, and those of keys that thousands of rows share?
//!
//! `cargo bench --bench joins`. Facts, of which 30 % of all that is sent are retractions, meet a table of one row a
//! key, 10,000 rows a tick: 100,000 keys, then 200 of which each holds thousands of rows, among which the one to be
//! taken back has to be found. Compared with typed differential dataflow, both sides arranged.

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

use rounds::{Contender, compete};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const JOIN: &str = "SELECT f.key, f.amount, t.weight FROM facts f JOIN weights t ON f.key = t.key";
const DIFFERENTIAL: &str = "typed differential";

fn main() -> ExitCode {
    let mut held = contest("100k keys, 30 % retractions", 100_000, 3.0);
    held &= contest("200 keys of thousands of rows, 30 % retractions", 200, 1.0);
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn contest(title: &str, keys: u64, floor: f64) -> bool {
    let ticks = churn::retracting(keys, 1_000_000);
    let table = facts::table(keys);
    // What stays, each with its one weight.
    let expected: i64 = ticks.iter().flatten().map(|(_, diff)| diff).sum();
    let checked = |(took, rows): (Duration, i64)| {
        assert_eq!(rows, expected, "every fact that stays has one weight");
        took
    };
    compete(
        title,
        ticks.iter().map(Vec::len).sum(),
        vec![
            Contender::new(DIFFERENTIAL, || checked(churn::joined_by_differential(&ticks, keys))),
            Contender::new("join", || checked(churn::joined(JOIN, &ticks, &table))).at_least(floor, DIFFERENTIAL),
        ],
    )
}
