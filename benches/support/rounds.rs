//! Runs contenders in turns and compares them by the ratios of paired runs.
//!
//! A machine is never quiet. Runs of one round happen within seconds of each
//! other, so their ratio says more than either figure alone; the ratio of the
//! processor time they took, set-up included, hardly depends on the neighbours.
#![allow(dead_code, reason = "each bench uses its part of this")]

use std::time::Duration;

/// Something to be measured.
pub struct Contender<'a> {
    name: &'a str,
    run: Box<dyn FnMut() -> Duration + 'a>,
    bars: Vec<Bar<'a>>,
}

/// How many times faster than another contender it has to be.
struct Bar<'a> {
    against: &'a str,
    floor: Option<f64>,
    aim: Option<f64>,
}

impl<'a> Contender<'a> {
    /// Measures `run`, which says how long it took.
    pub fn new(name: &'a str, run: impl FnMut() -> Duration + 'a) -> Self {
        Contender {
            name,
            run: Box::new(run),
            bars: Vec::new(),
        }
    }

    /// Reports its speed relative to another one.
    pub fn against(self, other: &'a str) -> Self {
        self.bar(other, None, None)
    }

    /// Fails the bench below `floor` times the speed of another one.
    pub fn at_least(self, floor: f64, other: &'a str) -> Self {
        self.bar(other, Some(floor), None)
    }

    /// The same, and tells what is aimed at.
    pub fn at_least_aiming(self, floor: f64, aim: f64, other: &'a str) -> Self {
        self.bar(other, Some(floor), Some(aim))
    }

    fn bar(mut self, against: &'a str, floor: Option<f64>, aim: Option<f64>) -> Self {
        self.bars.push(Bar { against, floor, aim });
        self
    }
}

/// Runs every contender once a round over the same `updates`, prints a table
/// and returns whether every floor held, by the median ratio.
pub fn compete(title: &str, updates: usize, mut contenders: Vec<Contender>) -> bool {
    let rounds = rounds();
    println!("\n{title}; median of {rounds} rounds");
    println!("{:<34} {:>12}   ratios", "", "M updates/s");
    let mut seconds = vec![Vec::new(); contenders.len()];
    let mut processor = seconds.clone();
    for _ in 0..rounds {
        for (at, contender) in contenders.iter_mut().enumerate() {
            let before = processor_seconds();
            seconds[at].push((contender.run)().as_secs_f64());
            processor[at].push(processor_seconds() - before);
        }
    }
    let mut held = true;
    for (at, contender) in contenders.iter().enumerate() {
        let own = &seconds[at];
        let rates = own.iter().map(|seconds| updates as f64 / seconds / 1e6).collect();
        print!("{:<34} {:>12.2}  ", contender.name, median(rates));
        for bar in &contender.bars {
            let other = contenders
                .iter()
                .position(|other| other.name == bar.against)
                .expect("another contender");
            let ratio = ratio(own, &seconds[other]);
            let by_processor = self::ratio(&processor[at], &processor[other]);
            print!(" {ratio:.2}x {} ({by_processor:.2}x by processor time)", bar.against);
            if let Some(aim) = bar.aim {
                print!(", aim {aim}x{}", if ratio < aim { " missed" } else { "" });
            }
            if let Some(floor) = bar.floor {
                let holds = ratio >= floor;
                print!(", floor {floor}x {};", if holds { "holds" } else { "BROKEN" });
                held &= holds;
            }
        }
        println!();
    }
    held
}

/// How many rounds: `SANGAM_BENCH_ROUNDS`, else five.
pub fn rounds() -> usize {
    number("SANGAM_BENCH_ROUNDS").unwrap_or(5)
}

/// A number in the environment.
pub fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

/// How many times less of the other's, by the median of the rounds.
fn ratio(own: &[f64], other: &[f64]) -> f64 {
    median(own.iter().zip(other).map(|(own, other)| other / own).collect())
}

/// What all threads of this process have taken, to a hundredth of a second.
pub fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// What the machine holds for this process.
pub fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    resident.unwrap_or(0) * 4096
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
