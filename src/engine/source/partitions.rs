//! The clocks of a source's partitions: its watermark waits for the slowest, but not for those that are idle.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, TimestampMicrosecondArray};
use dataflows::Tick;
use serde::{Deserialize, Serialize};

/// The partitions a source was read from. What is decided goes by ticks alone, so that a replay decides the same.
pub(super) struct Partitions {
    idle_us: i64,
    tick: Tick,
    clocks: BTreeMap<Arc<str>, Partition>,
    /// The least clock of those that were waited for, as far as it ever was at the end of a tick.
    least_us: Option<i64>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Partition {
    /// The largest event time of its rows.
    clock_us: Option<i64>,
    /// When it last had rows, or was first told of.
    seen: Tick,
}

/// What is written down of partitions.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct SavedPartitions {
    least_us: Option<i64>,
    clocks: Vec<(String, Option<i64>, Tick)>,
}

impl Partitions {
    pub(super) fn new(idle_us: i64) -> Self {
        Partitions {
            idle_us,
            tick: 0,
            clocks: BTreeMap::new(),
            least_us: None,
        }
    }

    /// Begins a tick: some may be idle from now on.
    pub(super) fn begin(&mut self, tick: Tick) {
        // A tick counts as a whole: history does not say what came in it together, and what by itself.
        self.least_us = self.least_us();
        self.tick = tick;
        self.least_us = self.least_us();
    }

    /// Takes note of rows, partition by partition. Rows dated past `newest` move nothing.
    pub(super) fn take(
        &mut self,
        tick: Tick,
        partitions: &[(Arc<str>, usize)],
        times: &TimestampMicrosecondArray,
        newest_us: Option<i64>,
    ) {
        let mut from = 0;
        for (name, rows) in partitions {
            let to = (from + rows).min(times.len());
            let counted = (from..to)
                .filter(|&row| times.is_valid(row))
                .map(|row| times.value(row));
            let clock = counted.filter(|at| newest_us.is_none_or(|newest| *at <= newest)).max();
            from = to;
            let partition = self.clocks.entry(Arc::clone(name)).or_insert(Partition {
                clock_us: None,
                seen: tick,
            });
            if *rows > 0 {
                partition.clock_us = partition.clock_us.max(clock);
                partition.seen = tick;
            }
        }
    }

    /// Returns the clock that a watermark goes by, if no more comes with the tick; `whole` is the source's own, for one
    /// without partitions.
    pub(super) fn clock_us(&self, whole: Option<i64>) -> Option<i64> {
        match self.clocks.is_empty() {
            true => whole,
            false => self.least_us(),
        }
    }

    /// Returns the first tick at which one more is idle.
    pub(super) fn due(&self) -> Option<Tick> {
        let waited_for = self.clocks.values().filter(|partition| !self.is_idle(partition));
        // Only one that is behind the others holds anything.
        let least_us = self.least_us();
        let behind = waited_for.filter(|partition| partition.clock_us.is_none() || partition.clock_us == least_us);
        behind
            .map(|partition| partition.seen.saturating_add(self.idle_us as u64))
            .min()
            .filter(|_| self.clocks.len() > 1)
    }

    fn is_idle(&self, partition: &Partition) -> bool {
        partition.seen.saturating_add(self.idle_us as u64) <= self.tick
    }

    /// Returns the least clock of those that are waited for; it never falls.
    fn least_us(&self) -> Option<i64> {
        let waited_for = self.clocks.values().filter(|partition| !self.is_idle(partition));
        // Where all are idle, nothing moves. One that has had no rows yet holds all others.
        let least = waited_for.map(|partition| partition.clock_us).min().flatten();
        self.least_us.max(least)
    }

    pub(super) fn save(&self) -> SavedPartitions {
        let clocks = self.clocks.iter();
        SavedPartitions {
            least_us: self.least_us(),
            clocks: clocks
                .map(|(name, partition)| (name.to_string(), partition.clock_us, partition.seen))
                .collect(),
        }
    }

    pub(super) fn restore(&mut self, saved: SavedPartitions) {
        self.least_us = saved.least_us;
        let clocks = saved.clocks.into_iter();
        self.clocks = clocks
            .map(|(name, clock_us, seen)| (name.into(), Partition { clock_us, seen }))
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times of rows, by partition.
    type Rows<'a> = &'a [(&'a str, &'a [i64])];

    fn come(partitions: &mut Partitions, tick: Tick, rows: Rows<'_>) {
        let times = rows.iter().flat_map(|(_, times)| times.iter().copied());
        let times: TimestampMicrosecondArray = times.map(Some).collect();
        let rows = rows.iter().map(|(name, times)| ((*name).into(), times.len()));
        partitions.take(tick, &rows.collect::<Vec<_>>(), &times, Some(1_000));
    }

    #[test]
    fn the_slowest_holds_until_it_is_idle() {
        let mut partitions = Partitions::new(100);
        let take = |partitions: &mut Partitions, tick: Tick, rows: Rows<'_>| {
            partitions.begin(tick);
            come(partitions, tick, rows);
            partitions.clock_us(None)
        };
        assert_eq!(take(&mut partitions, 1, &[("a", &[]), ("b", &[])]), None);
        assert_eq!(take(&mut partitions, 2, &[("a", &[50, 40])]), None);
        assert_eq!(take(&mut partitions, 3, &[("b", &[30, 5_000])]), Some(30));
        assert_eq!(partitions.due(), Some(103));
        assert_eq!(take(&mut partitions, 90, &[("a", &[80])]), Some(30));
        // What b says later does not take back what was decided without it.
        partitions.begin(103);
        assert_eq!(partitions.clock_us(None), Some(80));
        assert_eq!(take(&mut partitions, 110, &[("b", &[31])]), Some(80));
        assert_eq!(take(&mut partitions, 111, &[("b", &[99])]), Some(80));
    }

    /// Rows of a tick come at once in history, where they came one after the other.
    #[test]
    fn within_a_tick_it_is_all_the_same_what_comes_first() {
        let least = |ticks: &[&[Rows<'_>]]| {
            let mut partitions = Partitions::new(100);
            let mut clocks = Vec::new();
            for (tick, batches) in (0..).step_by(60).zip(ticks) {
                partitions.begin(tick);
                batches.iter().for_each(|rows| come(&mut partitions, tick, rows));
                clocks.push(partitions.clock_us(None));
            }
            clocks
        };
        // New ones, and one that comes back when it was waited for no more.
        let after: &[Rows<'_>] = &[&[("a", &[70])]];
        let one_by_one = least(&[
            &[&[("a", &[50])], &[("b", &[30])]],
            after,
            &[&[("a", &[90])], &[("b", &[40])]],
        ]);
        let at_once = least(&[
            &[&[("a", &[50]), ("b", &[30])]],
            after,
            &[&[("b", &[40]), ("a", &[90])]],
        ]);
        let reversed = least(&[
            &[&[("b", &[30])], &[("a", &[50])]],
            after,
            &[&[("b", &[40])], &[("a", &[90])]],
        ]);
        assert_eq!(one_by_one, [Some(30), Some(30), Some(70)]);
        assert_eq!((at_once, reversed), (one_by_one.clone(), one_by_one));
    }
}
