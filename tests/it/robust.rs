//! What must not bring it down: each gets a clear answer, nothing else stops,
//! nothing grows without bound.
//!
//! `bodies` sends what no row is, `clients` misbehave while others go on, `stop`
//! interrupts under load, `commands` are the subcommands and what they say, `extremes` brings SQL and
//! values to their limits.
mod bodies;
mod clients;
mod commands;
mod extremes;
mod stop;

use tempfile::TempDir;

use crate::program::folder::deployment;

const FACTS: &str = r#"
columns = { k = "bigint not null", v = "bigint not null" }
key = ["k"]
[connector]
type = "http"
"#;

/// A deployment of one keyed source and one view of all its rows.
fn facts() -> TempDir {
    deployment(&[
        ("sources/facts.toml", FACTS),
        ("views/values.sql", "SELECT k, v FROM facts WHERE v >= 0"),
        (
            "views/halves.sql",
            "SELECT v % 2 AS half, count(*) AS rows, sum(v) AS v FROM facts GROUP BY v % 2",
        ),
    ])
}

/// Writes `count` keys from `from` on with one value.
fn rows(from: usize, count: usize, keys: usize, v: usize) -> String {
    use std::fmt::Write;
    let mut body = String::with_capacity(count * 24);
    for k in from..from + count {
        writeln!(body, "{{\"k\":{},\"v\":{v}}}", k % keys).expect("text grows");
    }
    body
}
