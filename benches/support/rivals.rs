//! What Sangam is compared with: typed differential dataflow written by hand, and a bare hash map.

use std::sync::Arc;
use std::time::{Duration, Instant};

use differential_dataflow::input::InputSession;
use differential_dataflow::operators::CountTotal;
use foldhash::HashMap;
use timely::dataflow::ProbeHandle;

use super::facts::{Facts, weight};
use super::views::IN_FLIGHT;

/// SUM and COUNT a key: accumulators in the diff, `count_total` over `u64` keys.
pub fn differential_groups(facts: &Arc<Facts>) -> Duration {
    let facts = Arc::clone(facts);
    timely::execute_directly(move |worker| {
        let probe = ProbeHandle::new();
        let mut input = InputSession::<u64, u64, (i64, i64)>::new();
        worker.dataflow(|scope| {
            input.to_collection(scope).count_total().probe_with(&probe);
        });
        let start = Instant::now();
        for (tick, rows) in facts.ticks.iter().enumerate() {
            for &(key, amount) in rows {
                input.update(key, (amount, 1));
            }
            let next = tick as u64 + 1;
            input.advance_to(next);
            input.flush();
            worker.step_while(|| probe.less_than(&next.saturating_sub(IN_FLIGHT as u64)));
        }
        let end = facts.ticks.len() as u64;
        worker.step_while(|| probe.less_than(&end));
        start.elapsed()
    })
}

/// Facts joined with a table of one weight a key, both sides arranged.
pub fn differential_join(facts: &Arc<Facts>, keys: u64) -> Duration {
    let facts = Arc::clone(facts);
    timely::execute_directly(move |worker| {
        let probe = ProbeHandle::new();
        let mut left = InputSession::<u64, (u64, i64), isize>::new();
        let mut right = InputSession::<u64, (u64, i64), isize>::new();
        worker.dataflow(|scope| {
            let left = left.to_collection(scope).arrange_by_key();
            let right = right.to_collection(scope).arrange_by_key();
            left.join_core(right, |key, amount, weight| Some((*key, *amount, *weight)))
                .probe_with(&probe);
        });
        for key in 0..keys {
            right.update((key, weight(key as i64)), 1);
        }
        left.advance_to(1);
        right.advance_to(1);
        left.flush();
        right.flush();
        worker.step_while(|| probe.less_than(&1));
        let start = Instant::now();
        for (tick, rows) in facts.ticks.iter().enumerate() {
            for &row in rows {
                left.update(row, 1);
            }
            let next = tick as u64 + 2;
            left.advance_to(next);
            right.advance_to(next);
            left.flush();
            right.flush();
            worker.step_while(|| probe.less_than(&next.saturating_sub(IN_FLIGHT as u64)));
        }
        let end = facts.ticks.len() as u64 + 1;
        worker.step_while(|| probe.less_than(&end));
        start.elapsed()
    })
}

/// The least that has to be done: one map entry a key, and the old and new result of each key a tick touched.
pub fn hash_map_groups(facts: &Facts) -> Duration {
    let start = Instant::now();
    let mut groups: HashMap<u64, Group> = HashMap::default();
    let mut touched: Vec<(u64, i64, i64)> = Vec::new();
    let mut deltas: Vec<(u64, i64, i64, i64)> = Vec::new();
    for (tick, rows) in facts.ticks.iter().enumerate() {
        for &(key, amount) in rows {
            let group = groups.entry(key).or_default();
            if group.tick != tick as u64 + 1 {
                group.tick = tick as u64 + 1;
                touched.push((key, group.sum, group.count));
            }
            group.sum += amount;
            group.count += 1;
        }
        for (key, sum, count) in touched.drain(..) {
            if count > 0 {
                deltas.push((key, sum, count, -1));
            }
            let group = &groups[&key];
            deltas.push((key, group.sum, group.count, 1));
        }
        std::hint::black_box(&deltas);
        deltas.clear();
    }
    start.elapsed()
}

#[derive(Default)]
struct Group {
    sum: i64,
    count: i64,
    tick: u64,
}
