//! Functions that fetch a value from another row: `lag`, `lead`, `first_value`, `last_value`, `nth_value`.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute::kernels::zip::zip;
use datafusion::common::ScalarValue;

use super::Span;
use super::partitions::Partitions;
use super::sequence::Sequence;
use crate::columns::NO_SLOT;

/// `lag(x, rows, default)`, or `lead` where rows are negative.
pub(super) struct Shift {
    argument: usize,
    rows: i64,
    default: ScalarValue,
    ignore_nulls: bool,
}

impl Shift {
    pub(super) fn new(argument: usize, rows: i64, default: ScalarValue, ignore_nulls: bool) -> Self {
        Shift {
            argument,
            rows,
            default,
            ignore_nulls,
        }
    }

    fn distance(&self) -> usize {
        usize::try_from(self.rows.unsigned_abs()).unwrap_or(usize::MAX)
    }

    /// Returns the rows that a change at `position` may reach.
    pub(super) fn reach(&self, position: usize, length: usize) -> Range<usize> {
        match (self.rows >= 0, self.ignore_nulls) {
            (true, true) => position..length,
            (true, false) => position..position.saturating_add(self.distance()).saturating_add(1).min(length),
            (false, true) => 0..(position + 1).min(length),
            (false, false) => position.saturating_sub(self.distance())..(position + 1).min(length),
        }
    }

    pub(super) fn compute(&self, partitions: &Partitions, spans: &[Span]) -> ArrayRef {
        let mut slots = Vec::new();
        for span in spans {
            let sequence = partitions.sequence(span.partition);
            match self.ignore_nulls && self.rows != 0 {
                true => self.among_values(partitions, sequence, &span.rows, &mut slots),
                false => {
                    let source = |row: usize| match self.rows >= 0 {
                        true => row.checked_sub(self.distance()),
                        false => row.checked_add(self.distance()),
                    };
                    let found = |row: usize| source(row).and_then(|row| sequence.get(row));
                    slots.extend(span.rows.clone().map(|row| found(row).unwrap_or(NO_SLOT)));
                }
            }
        }
        let values = partitions.rows.gather_columns(&[self.argument], &slots).remove(0);
        if self.default.is_null() || !slots.contains(&NO_SLOT) {
            return values;
        }
        let absent: BooleanArray = slots.iter().map(|slot| Some(*slot == NO_SLOT)).collect();
        let default = self.default.to_scalar().expect("a default is a plain value");
        zip(&absent, &default, &values).expect("the default has the argument's type")
    }

    fn among_values(&self, partitions: &Partitions, sequence: &Sequence, rows: &Range<usize>, slots: &mut Vec<u32>) {
        let (valid, valid_slots) = values_of(partitions, sequence, self.argument, 0..sequence.len());
        slots.extend(rows.clone().map(|row| {
            let found = match self.rows >= 0 {
                true => valid
                    .partition_point(|position| *position < row)
                    .checked_sub(self.distance()),
                false => valid
                    .partition_point(|position| *position <= row)
                    .checked_add(self.distance() - 1),
            };
            found.and_then(|at| valid_slots.get(at)).copied().unwrap_or(NO_SLOT)
        }));
    }
}

/// One row of the frame: the first is 1, the last -1.
pub(super) struct Nth {
    argument: usize,
    nth: i64,
    ignore_nulls: bool,
    pub(super) frame: usize,
}

impl Nth {
    pub(super) fn new(argument: usize, nth: i64, ignore_nulls: bool, frame: usize) -> Self {
        Nth {
            argument,
            nth,
            ignore_nulls,
            frame,
        }
    }

    pub(super) fn compute(&self, partitions: &Partitions, spans: &[Span], bounds: &[Vec<Range<usize>>]) -> ArrayRef {
        let mut slots = Vec::new();
        for (span, bounds) in spans.iter().zip(bounds) {
            let sequence = partitions.sequence(span.partition);
            if !self.ignore_nulls {
                let found = |frame: &Range<usize>| self.pick(frame).and_then(|row| sequence.get(row));
                slots.extend(bounds.iter().map(|frame| found(frame).unwrap_or(NO_SLOT)));
                continue;
            }
            let start = bounds.iter().map(|frame| frame.start).min().unwrap_or(0);
            let end = bounds.iter().map(|frame| frame.end).max().unwrap_or(0);
            let (valid, valid_slots) = values_of(partitions, sequence, self.argument, start..end.max(start));
            slots.extend(bounds.iter().map(|frame| {
                let among =
                    valid.partition_point(|row| *row < frame.start)..valid.partition_point(|row| *row < frame.end);
                let found = self.pick(&(among.start..among.end.max(among.start)));
                found.and_then(|at| valid_slots.get(at)).copied().unwrap_or(NO_SLOT)
            }));
        }
        partitions.rows.gather_columns(&[self.argument], &slots).remove(0)
    }

    /// Returns the position wanted of a run of positions.
    fn pick(&self, run: &Range<usize>) -> Option<usize> {
        let distance = usize::try_from(self.nth.unsigned_abs()).ok()?;
        let found = match self.nth {
            0 => None,
            1.. => run.start.checked_add(distance - 1),
            _ => run.end.checked_sub(distance),
        };
        found.filter(|position| run.contains(position))
    }
}

/// Returns the positions, and slots, at which a column is not NULL.
fn values_of(
    partitions: &Partitions,
    sequence: &Sequence,
    column: usize,
    rows: Range<usize>,
) -> (Vec<usize>, Vec<u32>) {
    let slots: Vec<u32> = sequence.from(rows.start).take(rows.len()).collect();
    let values = partitions.rows.gather_columns(&[column], &slots).remove(0);
    let nulls = values.logical_nulls();
    let valid = |row: &usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(*row));
    (0..slots.len())
        .filter(valid)
        .map(|row| (rows.start + row, slots[row]))
        .unzip()
}
