//! Rows that come and, three in ten, go again; and a long partition with a few late rows.
#![allow(dead_code, reason = "each bench uses its part of this")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use dataflows::Updates;
use differential_dataflow::input::InputSession;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use timely::dataflow::ProbeHandle;

use super::facts::{Facts, TICK_ROWS, weight};
use super::views::{self, IN_FLIGHT, Running};

/// Ticks after which rows go again.
const STAY: usize = 5;

/// One tick's rows, and how often each comes.
pub type Tick = Vec<((u64, i64), i64)>;

/// Facts of which 30 % of what is sent are retractions.
pub fn retracting(keys: u64, rows: usize) -> Vec<Tick> {
    let facts = Facts::generate(keys, rows);
    let gone = TICK_ROWS * 3 / 7;
    let tick = |(at, rows): (usize, &Vec<(u64, i64)>)| {
        let back = at
            .checked_sub(STAY)
            .map(|at| &facts.ticks[at][..gone])
            .unwrap_or_default();
        let (came, went) = (rows.iter().map(|row| (*row, 1)), back.iter().map(|row| (*row, -1)));
        came.chain(went).collect()
    };
    facts.ticks.iter().enumerate().map(tick).collect()
}

/// A partition of `rows` rows in one tick, then ticks of 100 appends of which one comes late.
pub fn long_partition(rows: i64, ticks: usize) -> Vec<Tick> {
    let mut random = Pcg64::seed_from_u64(11);
    let mut next = rows;
    let first = (0..rows).map(|at| ((at as u64, at % 1000), 1)).collect();
    let rest = (0..ticks).map(|_| {
        let rows = (0..100).map(|row| {
            next += 1;
            let late = row == 99;
            let at = if late { random.random_range(0..next) } else { next };
            ((at as u64, next % 1000), 1)
        });
        rows.collect()
    });
    std::iter::once(first).chain(rest).collect()
}

fn updates(tick: &Tick) -> Updates {
    let fields = ["key", "amount"].map(|name| Field::new(name, DataType::Int64, false));
    let keys = Int64Array::from_iter_values(tick.iter().map(|((key, _), _)| *key as i64));
    let amounts = Int64Array::from_iter_values(tick.iter().map(|((_, amount), _)| *amount));
    let rows = RecordBatch::try_new(
        Arc::new(Schema::new(fields.to_vec())),
        vec![Arc::new(keys), Arc::new(amounts)],
    )
    .expect("two columns a tick");
    let diffs: Vec<i64> = tick.iter().map(|(_, diff)| *diff).collect();
    Updates::new(rows, diffs)
}

/// Runs a view over the ticks from `timed` on; returns the time and the sum of diffs of all that left.
pub fn view(sql: &str, ticks: &[Tick], timed: usize, workers: usize) -> (Duration, i64) {
    let ticks: Vec<Updates> = ticks.iter().map(updates).collect();
    let view = views::plan_retracting(&[("facts", ticks[0].rows().schema())], sql);
    let mut running = Running::start(&view, workers);
    let source: Arc<str> = "facts".into();
    let mut rows = 0;
    let mut see = |updates: &Updates| rows += updates.diffs().iter().sum::<i64>();
    let mut start = Instant::now();
    for (at, tick) in ticks.into_iter().enumerate() {
        if at == timed {
            running.finish(&mut see);
            start = Instant::now();
        }
        running.send_updates(&source, tick, &mut see);
    }
    running.finish(&mut see);
    (start.elapsed(), rows)
}

/// Runs a join of the ticks' rows, the facts, with a table of one weight a key; returns the time and the sum of diffs.
pub fn joined(sql: &str, ticks: &[Tick], table: &RecordBatch) -> (Duration, i64) {
    let ticks: Vec<Updates> = ticks.iter().map(updates).collect();
    let sources = [("facts", ticks[0].rows().schema()), ("weights", table.schema())];
    let mut running = Running::start(&views::plan_retracting(&sources, sql), 1);
    let mut rows = 0;
    let mut see = |updates: &Updates| rows += updates.diffs().iter().sum::<i64>();
    running.send(&"weights".into(), table, &mut see);
    running.finish(&mut see);
    let source: Arc<str> = "facts".into();
    let start = Instant::now();
    for tick in ticks {
        running.send_updates(&source, tick, &mut see);
    }
    running.finish(&mut see);
    (start.elapsed(), rows)
}

/// The same in typed differential, both sides arranged.
pub fn joined_by_differential(ticks: &[Tick], keys: u64) -> (Duration, i64) {
    let ticks = ticks.to_vec();
    timely::execute_directly(move |worker| {
        let probe = ProbeHandle::new();
        let mut left = InputSession::<u64, (u64, i64), isize>::new();
        let mut right = InputSession::<u64, (u64, i64), isize>::new();
        let rows = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = std::rc::Rc::clone(&rows);
        worker.dataflow(|scope| {
            let left = left.to_collection(scope).arrange_by_key();
            let right = right.to_collection(scope).arrange_by_key();
            left.join_core(right, |key, amount, weight| Some((*key, *amount, *weight)))
                .inspect(move |(_, _, diff)| counted.set(counted.get() + *diff as i64))
                .probe_with(&probe);
        });
        for key in 0..keys {
            right.update((key, weight(key as i64)), 1);
        }
        let mut close = |left: &mut InputSession<_, _, _>, next: u64| {
            left.advance_to(next);
            right.advance_to(next);
            left.flush();
            right.flush();
        };
        close(&mut left, 1);
        worker.step_while(|| probe.less_than(&1));
        let start = Instant::now();
        for (at, tick) in ticks.iter().enumerate() {
            for (row, diff) in tick {
                left.update(*row, *diff as isize);
            }
            let next = at as u64 + 2;
            close(&mut left, next);
            worker.step_while(|| probe.less_than(&next.saturating_sub(IN_FLIGHT as u64)));
        }
        let end = ticks.len() as u64 + 1;
        worker.step_while(|| probe.less_than(&end));
        (start.elapsed(), rows.get())
    })
}

/// What typed differential is to do.
#[derive(Clone, Copy)]
pub enum Rival {
    /// The least and the greatest amount of each key.
    Extremes,
    /// Each (key, amount) once.
    Distinct,
    /// The three greatest amounts of each key.
    Top,
    /// Sums over 100 rows of one partition, all of it again whenever it changes.
    MovingSum,
}

/// Runs the ticks through typed differential, by `reduce` and kin, in the same way.
pub fn differential(rival: Rival, ticks: &[Tick], timed: usize) -> (Duration, i64) {
    let ticks = ticks.to_vec();
    timely::execute_directly(move |worker| {
        let probe = ProbeHandle::new();
        let mut input = InputSession::<u64, (u64, i64), isize>::new();
        let rows = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = std::rc::Rc::clone(&rows);
        worker.dataflow(|scope| {
            let facts = input.to_collection(scope);
            let count = move |diff: isize| counted.set(counted.get() + diff as i64);
            match rival {
                Rival::Extremes => {
                    let ends = facts.reduce(|_, input, output| {
                        output.push(((*input[0].0, *input[input.len() - 1].0), 1));
                    });
                    ends.inspect(move |(_, _, diff)| count(*diff)).probe_with(&probe);
                }
                Rival::Distinct => {
                    facts
                        .distinct()
                        .inspect(move |(_, _, diff)| count(*diff))
                        .probe_with(&probe);
                }
                Rival::Top => {
                    let top = facts.reduce(|_, input, output| {
                        let mut wanted = 3;
                        for (amount, copies) in input.iter().rev() {
                            let taken = (*copies).min(wanted);
                            output.push((**amount, taken));
                            wanted -= taken;
                            if wanted == 0 {
                                break;
                            }
                        }
                    });
                    top.inspect(move |(_, _, diff)| count(*diff)).probe_with(&probe);
                }
                Rival::MovingSum => {
                    let sums = facts
                        .map(|(at, amount)| ((), (at, amount)))
                        .reduce(|(), input, output| {
                            let mut sum = 0;
                            for (row, ((at, amount), _)) in input.iter().enumerate() {
                                sum += amount;
                                if row >= 100 {
                                    sum -= input[row - 100].0.1;
                                }
                                output.push(((*at, *amount, sum), 1));
                            }
                        });
                    sums.inspect(move |(_, _, diff)| count(*diff)).probe_with(&probe);
                }
            }
        });
        let mut start = Instant::now();
        for (at, tick) in ticks.iter().enumerate() {
            if at == timed {
                worker.step_while(|| probe.less_than(&(at as u64)));
                start = Instant::now();
            }
            for (row, diff) in tick {
                input.update(*row, *diff as isize);
            }
            let next = at as u64 + 1;
            input.advance_to(next);
            input.flush();
            worker.step_while(|| probe.less_than(&next.saturating_sub(IN_FLIGHT as u64)));
        }
        let end = ticks.len() as u64;
        worker.step_while(|| probe.less_than(&end));
        (start.elapsed(), rows.get())
    })
}
