//! How much memory does a key cost, over its raw key and values, and what does an idle program take?
//!
//! `cargo bench --bench memory`. A grouping is run over a million keys; then the
//! built program sits on the water deployment, with and without its simulation.

#[path = "support/facts.rs"]
mod facts;
#[path = "support/program.rs"]
mod program;
#[path = "support/views.rs"]
mod views;

use std::process::ExitCode;
use std::time::Duration;

use arrow::array::RecordBatch;

use facts::Facts;
use program::Program;
use views::Running;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 1_000_000;
/// What an operator may hold for a key, over the bytes of its key, sum and count.
const OVERHEAD_MAX: f64 = 4.0;
/// What an idle program may take of one processor.
const IDLE_CORES_MAX: f64 = 0.05;

fn main() -> ExitCode {
    let facts = Facts::generate(KEYS, 3 * KEYS as usize);
    println!("grouped SUM/COUNT over {KEYS} keys drawn 3 times each");
    println!(
        "{:<12} {:>9} {:>14} {:>12} {:>8} {:>14}",
        "", "raw bytes", "state a key", "over raw", "keys", "resident a key"
    );
    // The smaller first: memory once taken is not all given back.
    let bigint = key("bigint key", &facts.integers(), 24);
    let text = key("text key", &facts.texts(), 15 + 16);
    println!("\nidle on config/water");
    let simulated = idle("simulating", &Program::water(false));
    let still = idle("no input", &Program::water(true));
    let held = [bigint, text].iter().all(|over| *over <= OVERHEAD_MAX) && simulated.max(still) <= IDLE_CORES_MAX;
    println!(
        "floors: {OVERHEAD_MAX}x over raw, {IDLE_CORES_MAX} cores idle: {}",
        if held { "hold" } else { "BROKEN" }
    );
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns the memory an operator holds for each key over its raw bytes.
fn key(name: &str, ticks: &[RecordBatch], raw: usize) -> f64 {
    let sql = "SELECT key, sum(amount) AS total, count(*) AS n FROM facts GROUP BY key";
    let view = views::plan(&[("facts", ticks[0].schema())], sql);
    let before = resident_bytes();
    let mut running = Running::start(&view, 1);
    running.time("facts", ticks, |_| {});
    let (rows, bytes) = running.state();
    assert!(rows as f64 > KEYS as f64 * 0.9, "nearly every key was drawn");
    let each = bytes as f64 / rows as f64;
    let resident = resident_bytes().saturating_sub(before) as f64 / rows as f64;
    println!(
        "{name:<12} {raw:>9} {each:>14.1} {:>11.2}x {rows:>8} {resident:>14.1}",
        each / raw as f64
    );
    each / raw as f64
}

/// Returns the share of a processor a program takes that is left alone.
fn idle(name: &str, program: &Program) -> f64 {
    // The history it begins with has to be through.
    std::thread::sleep(Duration::from_secs(5));
    let before = program.processor_time();
    let seconds = 5;
    std::thread::sleep(Duration::from_secs(seconds));
    let cores = (program.processor_time() - before).as_secs_f64() / seconds as f64;
    println!(
        "{name:<12} {:.1} % of a core, {:.0} MiB resident",
        cores * 100.0,
        program.resident_mib()
    );
    cores
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok())
        .unwrap_or(0)
        * 4096
}
