//! The test's own books: which rows each source holds at each tick, by the rules and not by the engine.
//!
//! A row is accepted, late, or rejected by the clock as it stood before the
//! tick. By key the last row wins, or the one of the highest version. Rows
//! expire in segments of `retain` / 32 aligned to the epoch: at the first tick
//! before which the source's clock had passed their segment's end plus
//! `retain`, the tick itself being the clock where rows have no time.

use super::sources::{Kind, Spec};
use super::values::{Row, Value};

const SEGMENTS: i64 = 32;

/// What a reply must say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) accepted: usize,
    pub(crate) late: usize,
    pub(crate) rejected: usize,
}

/// A row that is there.
#[derive(Clone, Debug)]
struct Held {
    /// Its key, or all of it.
    name: String,
    row: Row,
    /// When it leaves.
    leaves_us: Option<i64>,
}

/// One source.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) spec: Spec,
    held: Vec<Held>,
    clock_us: Option<i64>,
    clock_before_us: Option<i64>,
    /// Rows gone and come, so that who depends on them knows.
    pub(crate) changed: bool,
    pub(crate) total: Verdict,
}

impl Book {
    pub(crate) fn new(spec: Spec) -> Self {
        Book {
            spec,
            held: Vec::new(),
            clock_us: None,
            clock_before_us: None,
            changed: true,
            total: Verdict::default(),
        }
    }

    /// Returns the watermark at the end of the tick before.
    pub(crate) fn watermark_before_us(&self) -> Option<i64> {
        let (_, lateness) = self.spec.time?;
        Some(self.clock_before_us? - lateness?)
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        self.held.iter().map(|held| held.row.clone()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn row(&self, at: usize) -> &Row {
        &self.held[at].row
    }

    /// Begins a tick: what is over goes.
    pub(crate) fn begin(&mut self, tick: u64) {
        self.clock_before_us = self.clock_us;
        let clock = match self.spec.time {
            Some(_) => self.clock_before_us,
            None => Some(tick as i64),
        };
        let Some(clock) = clock else { return };
        let before = self.held.len();
        self.held
            .retain(|held| held.leaves_us.is_none_or(|leaves| leaves > clock));
        self.changed |= self.held.len() != before;
    }

    pub(crate) fn insert(&mut self, tick: u64, rows: &[Row]) -> Verdict {
        let mut verdict = Verdict::default();
        for row in rows {
            let time = self
                .spec
                .time
                .map(|(column, _)| row[column].time().expect("a time is never NULL"));
            if let (Some(time), Some(before)) = (time, self.clock_before_us) {
                let lateness = self.spec.time.and_then(|(_, lateness)| lateness);
                if lateness.is_some_and(|lateness| time < before - lateness) {
                    verdict.late += 1;
                    continue;
                }
                if self.leaves(time).is_some_and(|leaves| leaves <= before) {
                    verdict.rejected += 1;
                    continue;
                }
            }
            verdict.accepted += 1;
            self.clock_us = self.clock_us.max(time);
            let leaves_us = self.leaves(time.unwrap_or(tick as i64));
            self.enter(row, leaves_us);
        }
        self.changed |= verdict.accepted > 0;
        self.add(verdict);
        verdict
    }

    /// Takes rows in as all that there is; what is missing is taken back, unless some could not be read.
    pub(crate) fn replace(&mut self, tick: u64, rows: &[Row], partial: bool) -> Verdict {
        let before = std::mem::take(&mut self.held);
        let verdict = self.insert(tick, rows);
        self.changed = true;
        if partial {
            let mut there: Vec<String> = self.held.iter().map(|held| held.name.clone()).collect();
            for held in before {
                match there.iter().position(|name| *name == held.name) {
                    Some(at) => drop(there.swap_remove(at)),
                    None => self.held.push(held),
                }
            }
        }
        verdict
    }

    fn leaves(&self, time: i64) -> Option<i64> {
        let retain = self.spec.retain_us?;
        let width = (retain / SEGMENTS).max(1);
        Some((time.div_euclid(width) + 1) * width + retain)
    }

    fn enter(&mut self, row: &Row, leaves_us: Option<i64>) {
        let name = self.spec.key(row).unwrap_or_else(|| format!("{row:?}"));
        let entering = Held {
            name,
            row: row.clone(),
            leaves_us,
        };
        let version = match &self.spec.kind {
            Kind::Keyed { version, .. } => *version,
            Kind::Snapshot { key: Some(_) } => None,
            _ => {
                self.held.push(entering);
                return;
            }
        };
        match self.held.iter_mut().find(|held| held.name == entering.name) {
            None => self.held.push(entering),
            Some(held) => {
                let order = |row: &Row| {
                    version.map(|at| match row[at] {
                        Value::Big(number) | Value::Time(number) => number,
                        _ => unreachable!("versions are numbers or times"),
                    })
                };
                if order(row) >= order(&held.row) {
                    *held = entering;
                }
            }
        }
    }

    /// Takes rows back: by key, or whole; of equal ones the first to leave anyway.
    pub(crate) fn delete(&mut self, rows: &[Row]) -> Verdict {
        let mut verdict = Verdict::default();
        for row in rows {
            let name = self.spec.key(row).unwrap_or_else(|| format!("{row:?}"));
            let equal = (0..self.held.len()).filter(|&at| self.held[at].name == name);
            let found = match self.spec.kind {
                Kind::Append => None,
                _ => equal.min_by_key(|&at| self.held[at].leaves_us),
            };
            match found {
                Some(at) => {
                    self.held.remove(at);
                    verdict.accepted += 1;
                }
                None => verdict.rejected += 1,
            }
        }
        self.changed |= verdict.accepted > 0;
        self.add(verdict);
        verdict
    }

    /// Counts rows that were refused before they got here.
    pub(crate) fn refuse(&mut self, rows: usize) {
        self.total.rejected += rows;
    }

    fn add(&mut self, verdict: Verdict) {
        self.total.accepted += verdict.accepted;
        self.total.late += verdict.late;
        self.total.rejected += verdict.rejected;
    }
}
