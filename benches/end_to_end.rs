//! How long is it from a reading being due to its change arriving over the WebSocket, and up to what rate?
//!
//! `cargo bench --bench end_to_end`. The built program runs the water deployment,
//! all views of it, on the processors it finds; the load is an open loop over
//! keep-alive connections, at most 100 rows a POST, measured from the time each
//! reading was due. Beside it in the same run, a bare server that hands each POST
//! on to the WebSocket. Both take turns, three each, and of their figures the
//! median counts, for a machine is never quiet. `SANGAM_BENCH_SECONDS` shortens the
//! 30 seconds a rate; `-- 1000 10000` runs these rates alone.

#[path = "support/echo.rs"]
mod echo;
#[path = "support/load.rs"]
mod load;
#[path = "support/program.rs"]
mod program;

use std::process::{Command, ExitCode};
use std::time::Duration;

use program::Program;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Readings a second.
const RATES: [usize; 4] = [1_000, 10_000, 50_000, 100_000];
/// The rate that the floor and the aims are for.
const JUDGED: usize = 10_000;
/// Turns each server takes at a rate.
const TURNS: u32 = 3;
/// A rate is held while nearly every reading is seen within this time.
const HELD_MS: f64 = 1_000.0;

fn main() -> ExitCode {
    if std::env::var_os("SANGAM_BENCH_ECHO").is_some() {
        echo::serve();
        return ExitCode::SUCCESS;
    }
    let seconds = std::env::var("SANGAM_BENCH_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(30);
    let duration = Duration::from_secs(seconds);
    let stations = stations();
    println!("POST to WebSocket on config/water, {seconds} s a rate in {TURNS} turns, medians; milliseconds");
    println!(
        "{:>10}  {:<8} {:>9} {:>9} {:>9} {:>10} {:>7} {:>9}",
        "events/s", "", "p50", "p99", "p99.9", "seen/s", "cores", "MiB"
    );
    // What `cargo bench` passes to every bench means nothing here; a number picks a rate.
    let wanted: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let picked = |rate: &usize| wanted.is_empty() || wanted.contains(rate);
    let (mut held, mut ok) = (0, true);
    for rate in RATES.into_iter().filter(picked) {
        let (mut echoes, mut sangams) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            echoes.push(measure(rate, duration / TURNS, &stations, &echo()));
            sangams.push(measure(rate, duration / TURNS, &stations, &Program::water(true)));
        }
        let (echo, sangam) = (Figures::median(&echoes), Figures::median(&sangams));
        echo.print(rate, "echo");
        sangam.print(rate, "sangam");
        if sangam.p99 < HELD_MS && sangam.all_seen {
            held = rate;
        }
        if rate == JUDGED {
            let floor = (3.0 * echo.p99).max(20.0);
            ok = sangam.p99 <= floor;
            println!(
                "            p99 {:.1}x the echo's; floor {floor:.1} ms {}; aim p50 < 2 ms{}, p99 < 10 ms{}",
                sangam.p99 / echo.p99,
                if ok { "holds" } else { "BROKEN" },
                if sangam.p50 < 2.0 { "" } else { " missed" },
                if sangam.p99 < 10.0 { "" } else { " missed" },
            );
        }
    }
    println!("highest rate held: {held} events/s");
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What one turn came to; latencies in milliseconds.
struct Figures {
    p50: f64,
    p99: f64,
    p999: f64,
    rate: f64,
    cores: f64,
    resident_mib: f64,
    all_seen: bool,
}

impl Figures {
    /// Each figure's median, and whether all was seen in every turn.
    fn median(turns: &[Figures]) -> Figures {
        let of = |figure: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = turns.iter().map(figure).collect();
            values.sort_unstable_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Figures {
            p50: of(|turn| turn.p50),
            p99: of(|turn| turn.p99),
            p999: of(|turn| turn.p999),
            rate: of(|turn| turn.rate),
            cores: of(|turn| turn.cores),
            resident_mib: of(|turn| turn.resident_mib),
            all_seen: turns.iter().all(|turn| turn.all_seen),
        }
    }

    fn print(&self, rate: usize, name: &str) {
        println!(
            "{rate:>10}  {name:<8} {:>9.2} {:>9.2} {:>9.2} {:>10.0} {:>7.2} {:>9.0}",
            self.p50, self.p99, self.p999, self.rate, self.cores, self.resident_mib
        );
    }
}

fn measure(rate: usize, duration: Duration, stations: &[String], program: &Program) -> Figures {
    let before = program.processor_time();
    let outcome = load::run(program.address(), rate, duration, stations);
    Figures {
        p50: outcome.quantile(0.5),
        p99: outcome.quantile(0.99),
        p999: outcome.quantile(0.999),
        rate: outcome.rate(),
        cores: (program.processor_time() - before).as_secs_f64() / outcome.took.as_secs_f64(),
        resident_mib: program.resident_mib(),
        all_seen: outcome.latencies.len() == outcome.sent,
    }
}

/// Runs the echo in a process of its own, as Sangam is.
fn echo() -> Program {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env("SANGAM_BENCH_ECHO", "1");
    Program::start(command, tempfile::tempdir().expect("a folder"))
}

fn stations() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/water/data/stations.csv");
    let text = std::fs::read_to_string(path).expect("the stations");
    text.lines()
        .skip(1)
        .filter_map(|line| Some(line.split_once(',')?.0.to_owned()))
        .collect()
}
