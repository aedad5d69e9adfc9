//! What do the queries of the Nexmark benchmark cost, from JSON lines to the view store, compared with hand-written
//! typed differential dataflow?
//!
//! `cargo bench --bench nexmark`. Persons, auctions and bids are three files, a query reads those it needs, ticks are
//! of 40,000 events; each run has a process of its own and one worker. Processor time is counted per million events
//! of all three files, parsing included. `SANGAM_BENCH_EVENTS=1000000` is another size; a word picks queries.

#[path = "support/auction_rivals.rs"]
mod auction_rivals;
#[path = "support/auctions.rs"]
mod auctions;
#[path = "support/rounds.rs"]
mod rounds;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use auction_rivals::WRITTEN;
use auctions::{House, Run, queries, tables};
use rounds::number;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: usize = 2_000_000;
/// How much of the hand-written program's processor time a view may take.
const CEILINGS: [(&str, f64); 7] = [
    ("q0", 1.5),
    ("q3", 1.2),
    ("q4", 0.5),
    ("q5", 0.7),
    ("q8", 2.0),
    ("q9", 0.5),
    ("count", 0.95),
];
/// Names the one run that this process is for: whose, which query and over which files.
const ALONE: &str = "SANGAM_BENCH_NEXMARK";

fn main() -> ExitCode {
    if let Ok(wanted) = std::env::var(ALONE) {
        // As the program does, and for the rival, too: to clear 2 MiB for each 4 KiB wanted is most of what is measured
        // on a machine that has to get its memory back from others.
        #[cfg(target_os = "linux")]
        let _ = rustix::thread::disable_transparent_huge_pages(true);
        alone(&wanted);
        return ExitCode::SUCCESS;
    }
    // What `cargo bench` passes to every bench means nothing here.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let picked = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    let events = number("SANGAM_BENCH_EVENTS").unwrap_or(EVENTS);
    let dir = tempfile::tempdir().expect("a folder");
    // For a profiler, which is better off with one run: the files stay.
    let kept = std::env::var_os("SANGAM_BENCH_KEEP").map(PathBuf::from);
    let (house, bid_bytes) = House::write(kept.as_deref().unwrap_or(dir.path()), events);
    println!(
        "Nexmark over {} events, {bid_bytes} bytes a bid, one worker",
        house.events
    );
    let mut names: Vec<String> = queries().into_keys().filter(|name| picked(name)).collect();
    names.sort_by_key(|name| (name == "count", name[1..].parse::<u32>().unwrap_or(0)));
    let held = contests(&house, &names);
    println!(
        "\n{:<7} {:>11} {:>11} {:>9} {:>9} {:>10} {:>10} {:>9} {:>9}",
        "", "events/s", "CPU s/M", "ms a tick", "p99", "state MiB", "grown MiB", "rows", "reads"
    );
    for name in &names {
        let run = spawn(&house, "view", name);
        println!(
            "{name:<7} {:>11.0} {:>11.3} {:>9.1} {:>9.1} {:>10.1} {:>10.0} {:>9}  {}",
            house.events as f64 / run.wall,
            per_million(&house, &run),
            run.tick.0 * 1e3,
            run.tick.1 * 1e3,
            run.state_bytes as f64 / f64::from(1 << 20),
            run.resident as f64 / f64::from(1 << 20),
            run.rows,
            tables(&queries()[name]).join(", "),
        );
    }
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the queries that were also written by hand, both in turns; returns whether every ceiling held.
fn contests(house: &House, names: &[String]) -> bool {
    let rounds = rounds::rounds();
    println!("\nprocessor seconds per million events, the least of {rounds} rounds");
    println!(
        "{:<7} {:>8} {:>12} {:>7} {:>9}",
        "", "view", "differential", "ratio", "ceiling"
    );
    let mut held = true;
    for (name, ceiling) in CEILINGS
        .iter()
        .filter(|(name, _)| names.iter().any(|wanted| wanted == name))
    {
        assert!(WRITTEN.contains(name));
        // Neighbours only ever add to it.
        let (mut ours, mut theirs) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..rounds {
            let (rival, view) = (spawn(house, "rival", name), spawn(house, "view", name));
            assert_eq!(view.rows, rival.rows, "rows of {name}");
            ours = ours.min(per_million(house, &view));
            theirs = theirs.min(per_million(house, &rival));
        }
        let ratio = ours / theirs;
        let holds = ratio <= *ceiling;
        held &= holds;
        println!(
            "{name:<7} {ours:>8.3} {theirs:>12.3} {ratio:>7.2} {ceiling:>9} {}",
            if holds { "holds" } else { "BROKEN" }
        );
    }
    held
}

fn per_million(house: &House, run: &Run) -> f64 {
    run.processor / (house.events as f64 / 1e6)
}

/// Does one run in a process of its own: memory and allocator are those of a fresh start.
fn spawn(house: &House, whose: &str, name: &str) -> Run {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .env(
            ALONE,
            format!("{whose} {name} {} {}", house.events, house.dir.display()),
        )
        .output()
        .expect("a program");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{whose} {name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut figures = text
        .split_whitespace()
        .map(|figure| figure.parse::<f64>().expect("a figure"));
    let mut next = || figures.next().expect("all figures");
    Run {
        processor: next(),
        wall: next(),
        rows: next() as i64,
        state_bytes: next() as u64,
        resident: next() as usize,
        tick: (next(), next()),
    }
}

fn alone(wanted: &str) {
    let mut words = wanted.splitn(4, ' ');
    let mut next = || words.next().expect("four words");
    let (whose, name, events, dir) = (next(), next(), next(), next());
    let house = House {
        dir: PathBuf::from(dir),
        events: events.parse().expect("a number"),
    };
    let run = match whose {
        "rival" => auction_rivals::run(&house, name),
        _ => auctions::run(&house, name, &queries()[name]),
    };
    println!(
        "{} {} {} {} {} {} {}",
        run.processor, run.wall, run.rows, run.state_bytes, run.resident, run.tick.0, run.tick.1
    );
}
