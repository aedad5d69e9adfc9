//! Rows nobody takes back before their time: they wait in runs sorted by it, and leave a batch at a time.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};

use super::{Memory, NEVER, Span, spans_of};
use crate::faults::{self, Fault};
use crate::plan::TemporalBound;
use crate::tiers;
use crate::update::{Tick, Updates};

/// Remembers rows as the batches they came in, small ones merged, without hashing any.
///
/// What is taken back after it left is passed over: that is what expiry of the source does.
pub(super) struct InOrder {
    bounds: Vec<TemporalBound>,
    entering: Waiting,
    leaving: Waiting,
}

impl InOrder {
    pub(super) fn new(bounds: Vec<TemporalBound>) -> Self {
        InOrder {
            bounds,
            entering: Waiting::default(),
            leaving: Waiting::default(),
        }
    }
}

impl Memory for InOrder {
    fn remember(&mut self, tick: Tick, updates: &Updates, spans: &[Span], kept: &[u32]) {
        let enters = |row: &&u32| tick < spans[**row as usize].enter;
        let (entering, leaving): (Vec<u32>, Vec<u32>) = kept.iter().partition(enters);
        self.entering.push(updates, &entering, |row| spans[row].enter);
        self.leaving.push(updates, &leaving, |row| spans[row].leave);
    }

    fn fire(&mut self, tick: Tick) -> Vec<Updates> {
        let mut changes = Vec::new();
        for entered in self.entering.fire(tick) {
            let spans = spans_of(&self.bounds, entered.rows());
            // A row whose whole time passed between two ticks was never there.
            let rows = 0..spans.len() as u32;
            let present: Vec<u32> = rows.filter(|row| tick < spans[*row as usize].leave).collect();
            let leaves = |row: &&u32| spans[**row as usize].leave != NEVER;
            let leaving: Vec<u32> = present.iter().filter(leaves).copied().collect();
            self.leaving.push(&entered, &leaving, |row| spans[row].leave);
            changes.push(selected(&entered, &present));
        }
        let left = self.leaving.fire(tick);
        if !faults::active(Fault::MissedExpiry) {
            changes.extend(left.into_iter().map(|left| {
                let (rows, diffs) = left.into_parts();
                Updates::new(rows, diffs.iter().map(|diff| -diff).collect::<Vec<_>>())
            }));
        }
        changes
    }

    fn due(&self) -> Option<Tick> {
        self.entering.due().into_iter().chain(self.leaving.due()).min()
    }

    fn rows(&self) -> usize {
        self.entering.rows + self.leaving.rows
    }

    fn bytes(&self) -> usize {
        self.entering.bytes + self.leaving.bytes
    }
}

/// Rows by the tick each waits for.
#[derive(Default)]
struct Waiting {
    runs: Vec<Run>,
    rows: usize,
    bytes: usize,
}

/// A batch, and its rows in the order they are due.
struct Run {
    updates: Updates,
    due: Vec<(Tick, u32)>,
    /// Those before this one are gone.
    next: usize,
    bytes: usize,
}

impl Run {
    fn new(updates: Updates, mut due: Vec<(Tick, u32)>) -> Self {
        // Rows mostly come in the order of their time.
        if !due.is_sorted() {
            due.sort_unstable();
        }
        Run {
            bytes: updates.bytes() + due.len() * size_of::<(Tick, u32)>(),
            updates,
            due,
            next: 0,
        }
    }

    fn waiting(&self) -> &[(Tick, u32)] {
        &self.due[self.next..]
    }
}

impl Waiting {
    /// Adds some rows of a batch.
    fn push(&mut self, updates: &Updates, rows: &[u32], due: impl Fn(usize) -> Tick) {
        if rows.is_empty() {
            return;
        }
        self.rows += rows.len();
        let numbered = rows.iter().zip(0..).map(|(&row, at)| (due(row as usize), at)).collect();
        let mut run = Run::new(selected(updates, rows), numbered);
        let merged = tiers::merged(self.runs.iter().map(|run| run.waiting().len()), rows.len());
        if merged > 0 {
            let mut parts = self.runs.split_off(self.runs.len() - merged);
            self.bytes -= parts.iter().map(|run| run.bytes).sum::<usize>();
            parts.push(run);
            run = concatenated(&parts);
        }
        self.bytes += run.bytes;
        self.runs.push(run);
    }

    fn due(&self) -> Option<Tick> {
        self.runs.iter().map(|run| run.due[run.next].0).min()
    }

    /// Hands out every row due by `tick`.
    fn fire(&mut self, tick: Tick) -> Vec<Updates> {
        let mut fired = Vec::new();
        for run in &mut self.runs {
            let count = run.waiting().partition_point(|(due, _)| *due <= tick);
            if count > 0 {
                let rows: Vec<u32> = run.waiting()[..count].iter().map(|(_, row)| *row).collect();
                fired.push(selected(&run.updates, &rows));
                run.next += count;
                self.rows -= count;
            }
        }
        if !fired.is_empty() {
            let bytes = &mut self.bytes;
            self.runs.retain(|run| {
                let done = run.waiting().is_empty();
                *bytes -= if done { run.bytes } else { 0 };
                !done
            });
        }
        fired
    }
}

/// Returns some rows, all of a batch without a copy.
fn selected(updates: &Updates, rows: &[u32]) -> Updates {
    if rows.len() == updates.len() && rows.is_sorted() {
        return updates.clone();
    }
    let diffs: Vec<i64> = rows.iter().map(|&row| updates.diffs()[row as usize]).collect();
    let rows = UInt32Array::from(rows.to_vec());
    let rows = take_record_batch(updates.rows(), &rows).expect("rows are in range");
    Updates::new(rows, diffs)
}

/// Makes one run of what still waits in several.
fn concatenated(runs: &[Run]) -> Run {
    let mut due = Vec::with_capacity(runs.iter().map(|run| run.waiting().len()).sum());
    let mut parts = Vec::with_capacity(runs.len());
    for run in runs {
        let before = due.len() as u32;
        match run.next {
            0 => {
                due.extend(run.due.iter().map(|(tick, row)| (*tick, before + row)));
                parts.push(run.updates.clone());
            }
            _ => {
                due.extend(run.waiting().iter().zip(before..).map(|((tick, _), at)| (*tick, at)));
                let rows: Vec<u32> = run.waiting().iter().map(|(_, row)| *row).collect();
                parts.push(selected(&run.updates, &rows));
            }
        }
    }
    let batches: Vec<&RecordBatch> = parts.iter().map(Updates::rows).collect();
    let rows = concat_batches(&batches[0].schema(), batches).expect("runs of one operator have one schema");
    let diffs: Vec<i64> = parts.iter().flat_map(|updates| updates.diffs()).copied().collect();
    Run::new(Updates::new(rows, diffs), due)
}
