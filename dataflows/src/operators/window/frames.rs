//! Which rows each row's frame holds, and whose frames a change reaches.

use std::ops::Range;

use arrow::array::{Array, ArrayRef};
use arrow::compute::kernels::numeric::{add, sub};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;

use super::partitions::{Change, Partitions};
use super::sequence::Sequence;
use crate::arena::Arena;
use crate::plan::{Frame, FrameBound, FrameUnits};

/// Arrow-row marks a value that is not NULL with this byte; NULL is below or above it.
const VALUE: u8 = 1;

/// A frame, and for RANGE with an offset the bounds of each row.
pub(super) struct Frames {
    frame: Frame,
    column: usize,
    options: SortOptions,
    converter: Option<RowConverter>,
    /// The order value at which each row's frame starts, as bytes.
    starts: Arena,
    /// The order value at which each row's frame ends, as bytes.
    ends: Arena,
}

impl Frames {
    /// Prepares a frame over rows in this order; `column` is the type of its first column.
    pub(super) fn new(frame: Frame, order: &[(usize, SortOptions)], column: Option<&DataType>) -> Self {
        let (position, options) = order.first().copied().unwrap_or_default();
        let offsets =
            frame.units == FrameUnits::Range && [&frame.start, &frame.end].iter().any(|bound| has_offset(bound));
        let converter = column.filter(|_| offsets).map(|data_type| {
            RowConverter::new(vec![SortField::new_with_options(data_type.clone(), options)])
                .expect("a column that takes an offset can be encoded")
        });
        Frames {
            frame,
            column: position,
            options,
            converter,
            starts: Arena::default(),
            ends: Arena::default(),
        }
    }

    pub(super) fn frame(&self) -> &Frame {
        &self.frame
    }

    /// Computes the bounds of rows that came.
    pub(super) fn take_in(&mut self, partitions: &Partitions, slots: &[u32]) {
        let Some(converter) = &self.converter else { return };
        let values = partitions.rows.gather_columns(&[self.column], slots).remove(0);
        for (bound, arena, start) in [
            (&self.frame.start, &mut self.starts, true),
            (&self.frame.end, &mut self.ends, false),
        ] {
            if has_offset(bound) {
                write_bounds(&values, bound, start, self.options, converter, slots, arena);
            }
        }
    }

    /// Forgets the bounds of rows that went.
    pub(super) fn forget(&mut self, slots: &[u32]) {
        if self.converter.is_some() {
            for &slot in slots {
                self.starts.write(slot as usize, &[]);
                self.ends.write(slot as usize, &[]);
            }
        }
    }

    /// Returns the positions of the rows whose frames a change may have altered.
    pub(super) fn reach(&self, partitions: &Partitions, sequence: &Sequence, change: &Change) -> Range<usize> {
        let (position, length) = (change.position, sequence.len());
        match self.frame.units {
            FrameUnits::Rows => {
                let start = match &self.frame.end {
                    FrameBound::Unbounded => 0,
                    FrameBound::Following(rows) => position.saturating_sub(count(rows)),
                    _ => position,
                };
                let end = match &self.frame.start {
                    FrameBound::Unbounded => length,
                    FrameBound::Preceding(rows) => position.saturating_add(count(rows)).saturating_add(1),
                    _ => position + 1,
                };
                start..end.min(length)
            }
            // A change alters the frames of the rows it is in sight of, and no others.
            FrameUnits::Range => {
                let key = partitions.order(change.slot);
                let start = match &self.frame.end {
                    FrameBound::Unbounded => 0,
                    _ => sequence.partition_point(|slot| self.end(partitions, slot) < key),
                };
                let end = match &self.frame.start {
                    FrameBound::Unbounded => length,
                    _ => sequence.partition_point(|slot| self.start(partitions, slot) <= key),
                };
                start..end
            }
            FrameUnits::Groups => 0..length,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.starts.bytes() + self.ends.bytes()
    }

    fn start<'a>(&'a self, partitions: &'a Partitions, slot: u32) -> &'a [u8] {
        match has_offset(&self.frame.start) {
            true => self.starts.read(slot as usize),
            false => partitions.order(slot),
        }
    }

    fn end<'a>(&'a self, partitions: &'a Partitions, slot: u32) -> &'a [u8] {
        match has_offset(&self.frame.end) {
            true => self.ends.read(slot as usize),
            false => partitions.order(slot),
        }
    }

    /// Returns the positions that the frame of each row of `rows` holds.
    pub(super) fn bounds(&self, partitions: &Partitions, sequence: &Sequence, rows: Range<usize>) -> Vec<Range<usize>> {
        match self.frame.units {
            FrameUnits::Rows => rows.map(|row| self.rows_around(row, sequence.len())).collect(),
            FrameUnits::Range => {
                let starts = match self.frame.start {
                    FrameBound::Unbounded => vec![0; rows.len()],
                    _ => search(partitions, sequence, &rows, |slot| self.start(partitions, slot), false),
                };
                let ends = match self.frame.end {
                    FrameBound::Unbounded => vec![sequence.len(); rows.len()],
                    _ => search(partitions, sequence, &rows, |slot| self.end(partitions, slot), true),
                };
                starts
                    .into_iter()
                    .zip(ends)
                    .map(|(start, end)| start..end.max(start))
                    .collect()
            }
            FrameUnits::Groups => self.groups_around(partitions, sequence, rows),
        }
    }

    fn rows_around(&self, row: usize, length: usize) -> Range<usize> {
        let start = match &self.frame.start {
            FrameBound::Unbounded => 0,
            FrameBound::Preceding(rows) => row.saturating_sub(count(rows)),
            FrameBound::CurrentRow => row,
            FrameBound::Following(rows) => row.saturating_add(count(rows)).min(length),
        };
        let end = match &self.frame.end {
            FrameBound::Unbounded => length,
            FrameBound::Preceding(rows) => (row + 1).saturating_sub(count(rows)),
            FrameBound::CurrentRow => row + 1,
            FrameBound::Following(rows) => row.saturating_add(count(rows)).saturating_add(1).min(length),
        };
        start..end.max(start)
    }

    fn groups_around(&self, partitions: &Partitions, sequence: &Sequence, rows: Range<usize>) -> Vec<Range<usize>> {
        // Where each run of equal order starts, and the run of each row.
        let (mut starts, mut run_of) = (Vec::new(), Vec::with_capacity(sequence.len()));
        let mut previous: Option<u32> = None;
        for (position, slot) in sequence.from(0).enumerate() {
            if previous.is_none_or(|previous| partitions.order(previous) != partitions.order(slot)) {
                starts.push(position);
            }
            run_of.push(starts.len() - 1);
            previous = Some(slot);
        }
        let start_of = |run: usize| starts.get(run).copied().unwrap_or(sequence.len());
        rows.map(|row| {
            let run = run_of[row];
            let start = match &self.frame.start {
                FrameBound::Unbounded => 0,
                FrameBound::Preceding(runs) => start_of(run.saturating_sub(count(runs))),
                FrameBound::CurrentRow => start_of(run),
                FrameBound::Following(runs) => start_of(run.saturating_add(count(runs))),
            };
            let end = match &self.frame.end {
                FrameBound::Unbounded => sequence.len(),
                FrameBound::Preceding(runs) => match run.checked_sub(count(runs)) {
                    Some(run) => start_of(run + 1),
                    None => 0,
                },
                FrameBound::CurrentRow => start_of(run + 1),
                FrameBound::Following(runs) => start_of(run.saturating_add(count(runs)).saturating_add(1)),
            };
            start..end.max(start)
        })
        .collect()
    }
}

/// Finds for each row the first position whose order is not below its bound, or above it where `past`.
///
/// Bounds only grow along the rows: after one search the rest is walking on.
fn search<'a>(
    partitions: &'a Partitions,
    sequence: &'a Sequence,
    rows: &Range<usize>,
    bound: impl Fn(u32) -> &'a [u8],
    past: bool,
) -> Vec<usize> {
    let below = |slot: u32, bound: &[u8]| match past {
        true => partitions.order(slot) <= bound,
        false => partitions.order(slot) < bound,
    };
    let mut found = Vec::with_capacity(rows.len());
    let mut position = 0;
    let mut ahead = sequence.from(0).peekable();
    for (nth, row) in sequence.from(rows.start).take(rows.len()).enumerate() {
        let bound = bound(row);
        if nth == 0 {
            position = sequence.partition_point(|slot| below(slot, bound));
            ahead = sequence.from(position).peekable();
        }
        while ahead.next_if(|slot| below(*slot, bound)).is_some() {
            position += 1;
        }
        found.push(position);
    }
    found
}

fn has_offset(bound: &FrameBound) -> bool {
    matches!(bound, FrameBound::Preceding(_) | FrameBound::Following(_))
}

fn count(rows: &ScalarValue) -> usize {
    match rows {
        ScalarValue::UInt64(Some(rows)) => usize::try_from(*rows).unwrap_or(usize::MAX),
        _ => usize::MAX,
    }
}

/// Writes `value ± offset` for each row; what leaves the type's range is beyond all values.
fn write_bounds(
    values: &ArrayRef,
    bound: &FrameBound,
    start: bool,
    options: SortOptions,
    converter: &RowConverter,
    slots: &[u32],
    arena: &mut Arena,
) {
    let (offset, preceding) = match bound {
        FrameBound::Preceding(offset) => (offset, true),
        FrameBound::Following(offset) => (offset, false),
        FrameBound::Unbounded | FrameBound::CurrentRow => return,
    };
    let adds = preceding == options.descending;
    let shifted = |values: &ArrayRef| -> Result<ArrayRef, ArrowError> {
        let offset = offset
            .to_scalar()
            .map_err(|error| ArrowError::ComputeError(error.to_string()))?;
        let moved = match adds {
            true => add(values, &offset)?,
            false => sub(values, &offset)?,
        };
        // The sum of decimals is wider than they are.
        cast(&moved, values.data_type())
    };
    let mut write = |slot: u32, values: &ArrayRef, row: usize, encoded: Option<&arrow::row::Rows>| match encoded {
        Some(encoded) => arena.write(slot as usize, encoded.row(row).data()),
        None if !adds && values.data_type().is_unsigned_integer() => {
            let zero = sub(values, values).expect("a value less itself is 0");
            let encoded = converter.convert_columns(&[zero]).expect("0 has the column's type");
            arena.write(slot as usize, encoded.row(0).data());
        }
        None if !preceding => arena.write(slot as usize, &[u8::MAX, u8::MAX]),
        None if start => arena.write(slot as usize, &[]),
        None => arena.write(slot as usize, &[VALUE]),
    };
    let encode = |values: &ArrayRef| {
        converter
            .convert_columns(std::slice::from_ref(values))
            .expect("the cast gave the column's type")
    };
    if let Ok(all) = shifted(values) {
        let encoded = encode(&all);
        for (row, &slot) in slots.iter().enumerate() {
            write(slot, values, row, Some(&encoded));
        }
        return;
    }
    for (row, &slot) in slots.iter().enumerate() {
        let value = values.slice(row, 1);
        match shifted(&value) {
            Ok(one) => write(slot, &value, 0, Some(&encode(&one))),
            Err(_) => write(slot, &value, 0, None),
        }
    }
}
