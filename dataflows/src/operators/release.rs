//! Lets the operators under a view that closes go of what it has closed.
//!
//! A row whose time is below what the tick says is closed can only concern rows of the
//! view that are final. It is passed over at the door of each operator that keeps rows, and
//! those an operator holds are taken back: what follows from them leaves the operators
//! above by the ordinary way, and the errors it caused with it.

use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;

use super::SharedCell;
use super::ticked::TickOperator;
use crate::parts::Part;
use crate::plan::Bucket;
use crate::update::{Tick, Updates};

/// Reads the time of rows that decides when they are closed.
pub(crate) struct Times {
    /// Position of the column it is read from.
    pub(crate) column: usize,
    of: Option<Arc<dyn PhysicalExpr>>,
    /// The column, alone.
    schema: SchemaRef,
}

impl Times {
    pub(crate) fn new(bucket: &Bucket, input: &SchemaRef) -> Self {
        Times {
            column: bucket.column,
            of: bucket.of.as_ref().map(|expression| Arc::clone(&expression.physical)),
            schema: Arc::new(Schema::new(vec![input.field(bucket.column).clone()])),
        }
    }

    /// Returns the times of rows by the column; NULL where a row has none.
    pub(crate) fn of(&self, column: &ArrayRef) -> Int64Array {
        let time = match &self.of {
            None => Some(Arc::clone(column)),
            // A row on which it fails fails above, too: it has no time, and stays.
            Some(of) => RecordBatch::try_new(Arc::clone(&self.schema), vec![Arc::clone(column)])
                .ok()
                .and_then(|batch| of.evaluate(&batch).ok()?.into_array(column.len()).ok()),
        };
        time.and_then(|time| as_numbers(&time))
            .unwrap_or_else(|| Int64Array::new_null(column.len()))
    }
}

/// Returns the times that close rows, as numbers; NULL where a row has none.
pub fn times_of(bucket: &Bucket, rows: &RecordBatch) -> Int64Array {
    Times::new(bucket, &rows.schema()).of(rows.column(bucket.column))
}

/// Returns times as plain numbers, and dates as days.
fn as_numbers(times: &ArrayRef) -> Option<Int64Array> {
    let numbers = cast(times, &DataType::Int64).ok()?;
    Some(numbers.as_primitive::<Int64Type>().clone())
}

/// What an operator let go of.
#[derive(Default)]
pub(crate) struct Released {
    /// Rows of the input, to be taken back by the operator itself.
    pub(crate) rows: Option<Updates>,
    /// Changes of the output.
    pub(crate) parts: Vec<Part>,
    /// The least time still held; none where nothing is.
    pub(crate) least: Option<i64>,
}

/// Passes over the rows of a part below a time; tells the least time of the others.
pub(crate) fn open_rows(part: Part, times: &Times, below: i64, least: &mut i64) -> Part {
    let values = times.of(&part.column(times.column));
    let mut open = Vec::with_capacity(part.len());
    for (row, value) in values.iter().enumerate() {
        match value {
            Some(value) if value < below => continue,
            Some(value) => *least = value.min(*least),
            None => {}
        }
        open.push(row as u32);
    }
    match open.len() == part.len() {
        true => part,
        false => part.select(open),
    }
}

/// Tells apart which of some rows are below a time, and the least time of the others.
pub(crate) fn split(slots: &[u32], values: &Int64Array, below: i64) -> (Vec<u32>, Option<i64>) {
    let mut gone = Vec::new();
    let mut least: Option<i64> = None;
    for (&slot, value) in slots.iter().zip(values) {
        match value {
            Some(value) if value < below => gone.push(slot),
            Some(value) => least = Some(least.map_or(value, |least| least.min(value))),
            None => {}
        }
    }
    (gone, least)
}

/// An operator under a view that closes.
///
/// To find what is closed it looks at all that is held, but only when something may be: once
/// the least time held is below.
pub(crate) struct Releasing {
    inner: Box<dyn TickOperator>,
    /// For each input.
    times: Vec<Option<Times>>,
    /// For each input, no time held is less.
    least: Vec<i64>,
    below: i64,
    shared: SharedCell,
}

impl Releasing {
    pub(crate) fn new(inner: Box<dyn TickOperator>, times: Vec<Option<Times>>, shared: &SharedCell) -> Self {
        Releasing {
            inner,
            least: vec![i64::MAX; times.len()],
            times,
            below: i64::MIN,
            shared: Rc::clone(shared),
        }
    }
}

impl TickOperator for Releasing {
    fn initial(&mut self) -> Vec<Part> {
        self.inner.initial()
    }

    fn apply(&mut self, tick: Tick, inputs: &mut [Vec<Part>]) -> Vec<Part> {
        let below = self.shared.borrow().closed_at(tick).below;
        let moved = below > self.below;
        self.below = below;
        let mut out = Vec::new();
        for (position, parts) in inputs.iter_mut().enumerate() {
            let Some(times) = &self.times[position] else { continue };
            let mut incoming = i64::MAX;
            let open = std::mem::take(parts)
                .into_iter()
                .map(|part| open_rows(part, times, below, &mut incoming));
            *parts = open.filter(|part| !part.is_empty()).collect();
            if moved && self.least[position] < below {
                let released = self.inner.release(position, times, below);
                out.extend(released.parts);
                parts.extend(released.rows.map(Part::whole));
                self.least[position] = released.least.unwrap_or(i64::MAX);
            }
            self.least[position] = self.least[position].min(incoming);
        }
        if inputs.iter().any(|parts| !parts.is_empty()) || self.inner.is_due(tick) {
            out.extend(self.inner.apply(tick, inputs));
        }
        out
    }

    fn reads_early(&self) -> bool {
        self.inner.reads_early()
    }

    fn is_due(&self, tick: Tick) -> bool {
        self.inner.is_due(tick)
    }

    fn state_rows(&self) -> usize {
        self.inner.state_rows()
    }

    fn state_bytes(&self) -> usize {
        self.inner.state_bytes()
    }
}
