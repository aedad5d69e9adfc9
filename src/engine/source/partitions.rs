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
    /// The least clock of those that are waited for, as far as it ever was.
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
        self.tick = tick;
        self.advance();
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
        if !partitions.is_empty() {
            self.advance();
        }
    }

    /// Returns the clock that a watermark goes by; `whole` is the source's own, for one without partitions.
    pub(super) fn clock_us(&self, whole: Option<i64>) -> Option<i64> {
        match self.clocks.is_empty() {
            true => whole,
            false => self.least_us,
        }
    }

    /// Returns the first tick at which one more is idle.
    pub(super) fn due(&self) -> Option<Tick> {
        let waited_for = self.clocks.values().filter(|partition| !self.is_idle(partition));
        // Only one that is behind the others holds anything.
        let behind = waited_for.filter(|partition| partition.clock_us.is_none() || partition.clock_us == self.least_us);
        behind
            .map(|partition| partition.seen.saturating_add(self.idle_us as u64))
            .min()
            .filter(|_| self.clocks.len() > 1)
    }

    fn is_idle(&self, partition: &Partition) -> bool {
        partition.seen.saturating_add(self.idle_us as u64) <= self.tick
    }

    fn advance(&mut self) {
        let waited_for: Vec<Option<i64>> = self
            .clocks
            .values()
            .filter(|partition| !self.is_idle(partition))
            .map(|partition| partition.clock_us)
            .collect();
        // Where all are idle, nothing moves. One that has had no rows yet holds all others.
        let least = waited_for.into_iter().min().flatten();
        self.least_us = self.least_us.max(least);
    }

    pub(super) fn save(&self) -> SavedPartitions {
        let clocks = self.clocks.iter();
        SavedPartitions {
            least_us: self.least_us,
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

    #[test]
    fn the_slowest_holds_until_it_is_idle() {
        let mut partitions = Partitions::new(100);
        let take = |partitions: &mut Partitions, tick: Tick, rows: &[(&str, &[i64])]| {
            partitions.begin(tick);
            let times: TimestampMicrosecondArray = rows
                .iter()
                .flat_map(|(_, times)| times.iter().copied())
                .map(Some)
                .collect();
            let parts: Vec<(Arc<str>, usize)> =
                rows.iter().map(|(name, times)| ((*name).into(), times.len())).collect();
            partitions.take(tick, &parts, &times, Some(1_000));
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
}
