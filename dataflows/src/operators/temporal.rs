//! Temporal filters: a row is present from the first tick at which its bounds hold to the last.

mod any;
mod by_content;
mod in_order;

use std::rc::Rc;

use arrow::array::{Array, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;

use super::SharedCell;
use super::ticked::TickOperator;
use crate::parts::Part;
use crate::plan::{TemporalBound, TemporalComparison, TemporalMemory};
use crate::update::{Tick, Updates};
pub(crate) use any::TemporalAny;
use by_content::ByContent;
use in_order::InOrder;

/// Keeps a row while every bound holds at `now()`, and takes it back by itself.
///
/// State: each row that has still to enter or leave; bounded by the rows
/// within the widest interval.
pub(crate) struct Temporal {
    bounds: Vec<TemporalBound>,
    /// None where rows leave further up.
    memory: Option<Box<dyn Memory>>,
    shared: SharedCell,
    /// This operator's place among the dataflow's timers.
    due: usize,
}

/// The rows that have still to enter or leave.
trait Memory {
    /// Adds the rows at `kept`, which can still change after `tick`.
    fn remember(&mut self, tick: Tick, updates: &Updates, spans: &[Span], kept: &[u32]);

    /// Returns the rows that enter and leave, all due by `tick`.
    fn fire(&mut self, tick: Tick) -> Vec<Updates>;

    /// Returns the first tick at which something is due.
    fn due(&self) -> Option<Tick>;

    fn rows(&self) -> usize;

    fn bytes(&self) -> usize;
}

/// A row is present at the ticks `enter..leave`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) enter: Tick,
    pub(super) leave: Tick,
}

/// A tick that never comes.
pub(super) const NEVER: Tick = Tick::MAX;

impl Temporal {
    pub(crate) fn new(
        bounds: Vec<TemporalBound>,
        memory: TemporalMemory,
        schema: SchemaRef,
        shared: &SharedCell,
    ) -> Self {
        let due = shared.borrow_mut().timer();
        Temporal {
            memory: match memory {
                TemporalMemory::Arrival => Some(Box::new(InOrder::new(bounds.clone()))),
                TemporalMemory::Content => Some(Box::new(ByContent::new(schema))),
                TemporalMemory::Groups => None,
            },
            bounds,
            shared: Rc::clone(shared),
            due,
        }
    }

    /// Returns the rows of a batch that are present, after remembering those that can still change.
    fn take(&mut self, tick: Tick, updates: &Updates) -> Vec<u32> {
        let spans = spans_of(&self.bounds, updates.rows());
        let (mut present, mut kept) = (Vec::new(), Vec::new());
        for (row, span) in spans.iter().enumerate() {
            if span.enter <= tick && tick < span.leave {
                present.push(row as u32);
            }
            let next = if tick < span.enter { span.enter } else { span.leave };
            if span.enter < span.leave && next > tick && next != NEVER {
                kept.push(row as u32);
            }
        }
        if let Some(memory) = &mut self.memory
            && !kept.is_empty()
        {
            memory.remember(tick, updates, &spans, &kept);
        }
        present
    }
}

/// Returns when each row is present, by its bounds alone.
fn spans_of(bounds: &[TemporalBound], rows: &RecordBatch) -> Vec<Span> {
    let mut spans = vec![Span { enter: 0, leave: NEVER }; rows.num_rows()];
    for bound in bounds {
        let column = rows.column(bound.column);
        let times: &TimestampMicrosecondArray = column.as_primitive();
        for (row, span) in spans.iter_mut().enumerate() {
            let bound = if times.is_null(row) {
                Span::default()
            } else {
                bound.span(times.value(row))
            };
            span.enter = span.enter.max(bound.enter);
            span.leave = span.leave.min(bound.leave);
        }
    }
    spans
}

impl TemporalBound {
    pub(super) fn span(&self, time: i64) -> Span {
        // `time <comparison> now + offset` is `now <opposite> time - offset`.
        let edge = time.saturating_sub(self.offset_us);
        let at = |tick: i64| Tick::try_from(tick).unwrap_or(0);
        match self.comparison {
            TemporalComparison::Greater => Span {
                enter: 0,
                leave: at(edge),
            },
            TemporalComparison::GreaterOrEqual => Span {
                enter: 0,
                leave: at(edge.saturating_add(1)),
            },
            TemporalComparison::Less => Span {
                enter: at(edge.saturating_add(1)),
                leave: NEVER,
            },
            TemporalComparison::LessOrEqual => Span {
                enter: at(edge),
                leave: NEVER,
            },
        }
    }
}

impl TickOperator for Temporal {
    fn apply(&mut self, tick: Tick, inputs: &mut [Vec<Part>]) -> Vec<Part> {
        // Timers first: rows of this tick are judged by this tick's `now()` themselves.
        let fired = self.memory.as_mut().map_or_else(Vec::new, |memory| memory.fire(tick));
        let mut changes: Vec<Part> = fired.into_iter().map(Part::whole).collect();
        for part in std::mem::take(&mut inputs[0]) {
            let updates = part.into_updates();
            let rows = self.take(tick, &updates);
            if rows.len() == updates.len() {
                changes.push(Part::whole(updates));
            } else if !rows.is_empty() {
                changes.push(Part::whole(updates).select(rows));
            }
        }
        self.shared.borrow_mut().due[self.due] = self.memory.as_ref().and_then(|memory| memory.due());
        changes
    }

    fn state_rows(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.rows())
    }

    fn state_bytes(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.bytes())
    }
}
