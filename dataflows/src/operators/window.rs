//! Window functions and top-k: rows in order, and beside each what its neighbours come to.
//!
//! A tick puts its rows in their places, finds the rows whose results it may have
//! altered, computes those again in whole columns, and emits the ones that differ.

mod frames;
mod partitions;
mod ranks;
mod runs;
mod sequence;
mod shifts;
mod slides;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{SortOptions, take};
use arrow::datatypes::{Schema, SchemaRef};

use super::leaders;
use super::release::{Released, Times};
use super::ticked::TickOperator;
use crate::aggregates::Unsupported;
use crate::columns::Rows;
use crate::faults::{self, Fault};
use crate::parts::Part;
use crate::plan::{Frame, Keep, Ranking, WindowCall, WindowFunction};
use crate::update::{Tick, Updates};
use frames::Frames;
use partitions::{Changes, Partitions};
use slides::Slides;

/// Rows of one output batch, at most.
const OUTPUT_ROWS: usize = 32 * 1024;

/// Keeps the rows of each partition in order, with the result of each call.
///
/// State: each row once, its order as bytes and its results. Where only some ranks
/// are wanted and nothing is ever taken back, no rows beyond them are kept.
pub(crate) struct Window {
    partitions: Partitions,
    calls: Vec<Call>,
    frames: Vec<Frames>,
    keep: Option<Keep>,
    /// Whether rows beyond the wanted ranks are of no more use.
    prunes: bool,
    /// The results of each row.
    results: Rows,
    /// Whether each row, by slot, is part of the output.
    shown: Vec<bool>,
    /// Of each partition, how many rows from the first on are computed, where only some are wanted and
    /// a function goes on from row to row.
    known: Vec<usize>,
    schema: SchemaRef,
}

/// A call, its frame as a position in `frames`.
enum Call {
    Ranking(Ranking),
    PercentRank,
    CumeDist,
    Ntile(u64),
    Shift(shifts::Shift),
    Nth(shifts::Nth),
    Aggregate(Slides),
    Running(runs::Runs),
}

/// Rows of one partition to be computed again.
struct Span {
    partition: u32,
    rows: Range<usize>,
}

impl Window {
    pub(crate) fn new(
        partition: Vec<usize>,
        order: &[(usize, SortOptions)],
        calls: &[WindowCall],
        keep: Option<Keep>,
        input: &SchemaRef,
        schema: SchemaRef,
        append_only: bool,
    ) -> Result<Self, Unsupported> {
        let mut frames: Vec<Frames> = Vec::new();
        let ordered = order.first().map(|(column, _)| input.field(*column).data_type());
        let mut frame_of = |frame: &Frame| {
            let known = frames.iter().position(|other| other.frame() == frame);
            known.unwrap_or_else(|| {
                frames.push(Frames::new(frame.clone(), order, ordered));
                frames.len() - 1
            })
        };
        let types: Vec<_> = calls.iter().map(|call| call.field.data_type().clone()).collect();
        let calls = calls
            .iter()
            .map(|call| {
                Ok(match &call.function {
                    WindowFunction::Ranking(ranking) => Call::Ranking(*ranking),
                    WindowFunction::PercentRank => Call::PercentRank,
                    WindowFunction::CumeDist => Call::CumeDist,
                    WindowFunction::Ntile(tiles) => Call::Ntile(*tiles),
                    WindowFunction::Shift {
                        argument,
                        rows,
                        default,
                        ignore_nulls,
                    } => Call::Shift(shifts::Shift::new(*argument, *rows, default.clone(), *ignore_nulls)),
                    WindowFunction::Nth {
                        argument,
                        nth,
                        ignore_nulls,
                        frame,
                    } => Call::Nth(shifts::Nth::new(*argument, *nth, *ignore_nulls, frame_of(frame))),
                    WindowFunction::Aggregate { call, frame } => {
                        Call::Aggregate(Slides::new(call, input, frame_of(frame))?)
                    }
                    WindowFunction::Running {
                        function, arguments, ..
                    } => Call::Running(runs::Runs::new(Arc::clone(function), arguments.clone())),
                })
            })
            .collect::<Result<Vec<_>, Unsupported>>()?;
        let ranks_only = calls.iter().all(|call| matches!(call, Call::Ranking(_)));
        let prunes = append_only && ranks_only && keep.is_some();
        let mut partitions = Partitions::new(partition, order, input);
        partitions.keep_first(keep.as_ref().filter(|_| prunes).and_then(leaders::ranks));
        Ok(Window {
            partitions,
            prunes,
            calls,
            frames,
            keep,
            results: Rows::new(&types),
            shown: Vec::new(),
            known: Vec::new(),
            schema,
        })
    }

    /// Finds the rows whose results, or whose being shown, the changes may have altered.
    fn spans(&mut self, changes: &Changes) -> Vec<Span> {
        let continues = |call: &Call| matches!(call, Call::Ranking(Ranking::DenseRank) | Call::Running(_));
        let continues = self.keep.is_some() && self.calls.iter().any(continues);
        let mut spans = Vec::new();
        let mut reached: Vec<Range<usize>> = Vec::new();
        for (partition, changes) in changes.by_partition() {
            let sequence = self.partitions.sequence(partition);
            reached.clear();
            for change in changes {
                // The row itself, and for a row that went nothing.
                reached.push(change.position..change.position + usize::from(change.came));
                if self.keep.is_some() {
                    reached.push(change.position..sequence.len());
                }
                reached.extend(self.calls.iter().map(|call| match call {
                    Call::Ranking(_) | Call::Running(_) => change.position..sequence.len(),
                    Call::PercentRank | Call::CumeDist | Call::Ntile(_) => 0..sequence.len(),
                    Call::Shift(shift) => shift.reach(change.position, sequence.len()),
                    Call::Nth(nth) => self.frames[nth.frame].reach(&self.partitions, sequence, change),
                    Call::Aggregate(slides) => self.frames[slides.frame].reach(&self.partitions, sequence, change),
                }));
            }
            let came = changes.iter().filter(|change| change.came).count();
            let end = match &self.keep {
                Some(keep) => ranks::end(&self.partitions, sequence, keep, came),
                None => sequence.len(),
            };
            reached.sort_unstable_by_key(|rows| rows.start);
            if continues {
                // What goes on from the row before must find it computed: rows past the end were not.
                self.known.resize(self.known.len().max(partition as usize + 1), 0);
                let known = &mut self.known[partition as usize];
                let first = changes.iter().map(|change| change.position).min();
                *known = (*known).min(first.unwrap_or(0));
                let start = reached.first().map_or(*known, |rows| rows.start.min(*known));
                if start < end {
                    spans.push(Span {
                        partition,
                        rows: start..end,
                    });
                    *known = end;
                }
                reached.clear();
            }
            let mut last: Option<Range<usize>> = None;
            for rows in reached.drain(..) {
                let rows = rows.start..rows.end.min(end);
                if rows.is_empty() {
                    continue;
                }
                match &mut last {
                    Some(last) if rows.start <= last.end => last.end = last.end.max(rows.end),
                    _ => {
                        let done = last.replace(rows);
                        spans.extend(done.map(|rows| Span { partition, rows }));
                    }
                }
            }
            spans.extend(last.map(|rows| Span { partition, rows }));
        }
        spans
    }

    /// Computes every call for the rows of the spans, in their order.
    fn compute(&mut self, changes: &Changes, spans: &[Span]) -> Vec<ArrayRef> {
        let (partitions, frames) = (&self.partitions, &self.frames);
        let bounds: Vec<Vec<Vec<Range<usize>>>> = frames
            .iter()
            .map(|frames| {
                let of =
                    |span: &Span| frames.bounds(partitions, partitions.sequence(span.partition), span.rows.clone());
                spans.iter().map(of).collect()
            })
            .collect();
        let results = &self.results;
        let mut columns = Vec::with_capacity(self.calls.len());
        for (position, call) in self.calls.iter_mut().enumerate() {
            columns.push(match call {
                Call::Ranking(ranking) => ranks::ranks(partitions, spans, *ranking, results, position),
                Call::PercentRank => ranks::percent_ranks(partitions, spans),
                Call::CumeDist => ranks::cumulated(partitions, spans),
                Call::Ntile(tiles) => ranks::tiles(partitions, spans, *tiles),
                Call::Shift(shift) => shift.compute(partitions, spans),
                Call::Nth(nth) => nth.compute(partitions, spans, &bounds[nth.frame]),
                Call::Aggregate(slides) => slides.compute(partitions, changes, spans, &bounds[slides.frame]),
                Call::Running(runs) => runs.compute(partitions, spans),
            });
        }
        columns
    }

    /// Tells which rows of the spans are wanted.
    fn wanted(&self, spans: &[Span], computed: &[ArrayRef], rows: usize) -> Vec<bool> {
        let Some(keep) = &self.keep else {
            return vec![true; rows];
        };
        let known = self
            .calls
            .iter()
            .position(|call| matches!(call, Call::Ranking(ranking) if *ranking == keep.by));
        let ranks = match known {
            Some(position) => Arc::clone(&computed[position]),
            None => ranks::ranks(&self.partitions, spans, keep.by, &self.results, usize::MAX),
        };
        ranks::values(&ranks)
            .iter()
            .map(|rank| *rank > keep.skip && *rank - keep.skip <= keep.fetch)
            .collect()
    }

    /// Builds the batches of what is taken back and what is new, and remembers the new results.
    fn emit(&mut self, changes: &Changes, spans: &[Span], computed: &[ArrayRef]) -> Vec<Part> {
        let mut slots: Vec<u32> = Vec::with_capacity(spans.iter().map(|span| span.rows.len()).sum());
        for span in spans {
            let sequence = self.partitions.sequence(span.partition);
            slots.extend(sequence.from(span.rows.start).take(span.rows.len()));
        }
        let wanted = self.wanted(spans, computed, slots.len());
        let all: Vec<u32> = (0..slots.len() as u32).collect();
        let incoming = self.results.incoming(computed);
        self.results.cover(self.partitions.rows.slots());
        self.shown.resize(self.partitions.rows.slots(), false);
        let mut same: Vec<bool> = slots.iter().map(|&slot| self.shown[slot as usize]).collect();
        let (mut known, mut known_slots) = (Vec::new(), Vec::new());
        for (&row, &slot) in all.iter().zip(&slots) {
            if same[row as usize] {
                known.push(row);
                known_slots.push(slot);
            }
        }
        let mut equal = vec![true; known.len()];
        self.results.compare(&incoming, &known, &known_slots, &mut equal);
        for (&row, equal) in known.iter().zip(equal) {
            same[row as usize] = equal;
        }
        let mut minus: Vec<u32> = changes.slots(false);
        minus.retain(|&slot| std::mem::take(&mut self.shown[slot as usize]));
        let (mut plus, mut written, mut written_slots) = (Vec::new(), Vec::new(), Vec::new());
        for (row, (&slot, &wanted)) in slots.iter().zip(&wanted).enumerate() {
            let was = self.shown[slot as usize];
            if !same[row] {
                written.push(row as u32);
                written_slots.push(slot);
            }
            if was && wanted && same[row] {
                continue;
            }
            if was {
                minus.push(slot);
            }
            if wanted {
                plus.push(row as u32);
            }
            self.shown[slot as usize] = wanted;
        }
        if faults::active(Fault::StaleWindow) && plus.len() > 1 && minus.len() > 1 {
            minus.pop();
        }
        let mut parts = Vec::new();
        for slots in minus.chunks(OUTPUT_ROWS) {
            let mut columns = self.partitions.rows.gather(slots);
            columns.extend(self.results.gather(slots));
            parts.push(self.batch(columns, slots.len(), -1));
        }
        for rows in plus.chunks(OUTPUT_ROWS) {
            let taken: Vec<u32> = rows.iter().map(|&row| slots[row as usize]).collect();
            let mut columns = self.partitions.rows.gather(&taken);
            let rows = UInt32Array::from(rows.to_vec());
            columns.extend(
                computed
                    .iter()
                    .map(|column| take(column, &rows, None).expect("rows are in range")),
            );
            parts.push(self.batch(columns, taken.len(), 1));
        }
        self.results.write(&incoming, &written, &written_slots);
        parts
    }

    fn batch(&self, columns: Vec<ArrayRef>, rows: usize, diff: i64) -> Part {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .expect("a window emits the planned columns");
        Part::whole(Updates::new(batch, vec![diff; rows]))
    }

    /// Frees what the tick left without use.
    fn forget(&mut self, changes: &Changes) {
        let gone = changes.slots(false);
        self.frames.iter_mut().for_each(|frames| frames.forget(&gone));
        gone.iter().for_each(|&slot| self.results.clear(slot));
        self.partitions.forget(&gone);
        let touched: Vec<u32> = changes.by_partition().map(|(partition, _)| partition).collect();
        for partition in touched {
            if let Some(keep) = self.keep.filter(|_| self.prunes) {
                let end = ranks::end(&self.partitions, self.partitions.sequence(partition), &keep, 0);
                for slot in self.partitions.truncate(partition, end) {
                    self.results.clear(slot);
                }
            }
            // Also of those that are pruned: a view that closes its buckets lets go of them.
            if self.partitions.sequence(partition).len() == 0 {
                for call in &mut self.calls {
                    if let Call::Aggregate(slides) = call {
                        slides.reset(partition);
                    }
                }
                self.partitions.drop_empty(partition);
            }
        }
    }
}

impl TickOperator for Window {
    fn apply(&mut self, _tick: Tick, inputs: &mut [Vec<Part>]) -> Vec<Part> {
        let changes = self.partitions.apply(std::mem::take(&mut inputs[0]));
        let came = changes.slots(true);
        for frames in &mut self.frames {
            frames.take_in(&self.partitions, &came);
        }
        let spans = self.spans(&changes);
        let computed = self.compute(&changes, &spans);
        let parts = self.emit(&changes, &spans, &computed);
        self.forget(&changes);
        parts
    }

    fn release(&mut self, _input: usize, times: &Times, below: i64) -> Released {
        let (gone, least) = self.partitions.below(times, below);
        let schema = Arc::new(Schema::new(self.schema.fields()[..self.partitions.width()].to_vec()));
        let rows = (!gone.is_empty()).then(|| {
            let rows = RecordBatch::try_new(schema, self.partitions.rows.gather(&gone));
            Updates::deletes(rows.expect("a window shows the rows it reads"))
        });
        Released {
            rows,
            parts: Vec::new(),
            least,
        }
    }

    fn state_rows(&self) -> usize {
        self.partitions.rows.len()
    }

    fn state_bytes(&self) -> usize {
        let slides: usize = self
            .calls
            .iter()
            .map(|call| match call {
                Call::Aggregate(slides) => slides.bytes(),
                Call::Running(runs) => runs.bytes(),
                _ => 0,
            })
            .sum();
        let frames: usize = self.frames.iter().map(Frames::bytes).sum();
        self.partitions.bytes() + self.results.bytes() + self.shown.capacity() + slides + frames
    }
}
