//! Counts, sums, means and variances: plain columns of state, one tight loop a batch.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, PrimitiveArray, UInt64Array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal128Type, DurationMicrosecondType, DurationMillisecondType,
    DurationNanosecondType, DurationSecondType, Float64Type, Int64Type, UInt64Type,
};

use super::exact::{ExactSums, spread};
use super::{Accumulator, Steps, counts_all, each, no_nulls, slide};

/// `count(*)` and `count(x, …)`: the rows in which no argument is NULL.
#[derive(Default)]
pub(super) struct Counts {
    counts: Vec<i64>,
    /// Whether the count is told as an unsigned number.
    unsigned: bool,
}

impl Counts {
    pub(super) fn new(output: &DataType) -> Self {
        Counts {
            counts: Vec::new(),
            unsigned: *output == DataType::UInt64,
        }
    }
}

impl Accumulator for Counts {
    fn resize(&mut self, groups: usize) {
        if self.counts.len() < groups {
            self.counts.resize(groups, 0);
        }
    }

    fn update(&mut self, groups: &[u32], arguments: &[ArrayRef], filter: Option<&BooleanArray>, diffs: &[i64]) {
        let nulls = no_nulls(arguments);
        if counts_all(nulls.as_ref(), filter) {
            for (&group, &diff) in groups.iter().zip(diffs) {
                self.counts[group as usize] += diff;
            }
            return;
        }
        each(nulls.as_ref(), filter, diffs.len(), |row| {
            self.counts[groups[row] as usize] += diffs[row];
        });
    }

    fn output(&self, groups: &[u32]) -> ArrayRef {
        let counts = groups.iter().map(|&group| self.counts[group as usize]);
        if self.unsigned {
            return Arc::new(UInt64Array::from_iter_values(counts.map(|count| count.max(0) as u64)));
        }
        Arc::new(Int64Array::from_iter_values(counts))
    }

    fn slide(&mut self, steps: &Steps, arguments: &[ArrayRef], filter: Option<&BooleanArray>) -> ArrayRef {
        let nulls = no_nulls(arguments);
        let unsigned = self.unsigned;
        let counts = slide(
            &mut self.counts,
            steps,
            (nulls.as_ref(), filter),
            |counts, group| counts[group as usize] = 0,
            |counts, group, _, diff| counts[group as usize] += diff,
            |counts, group| counts[group as usize],
        );
        if unsigned {
            return Arc::new(UInt64Array::from_iter_values(
                counts.into_iter().map(|count| count.max(0) as u64),
            ));
        }
        Arc::new(Int64Array::from(counts))
    }

    fn reset(&mut self, group: u32) {
        if let Some(count) = self.counts.get_mut(group as usize) {
            *count = 0;
        }
    }

    fn bytes(&self) -> usize {
        self.counts.capacity() * 8
    }
}

/// Addition that can be undone exactly because it wraps.
pub(super) trait Wrapping: ArrowPrimitiveType<Native: Default> {
    fn add_times(total: Self::Native, value: Self::Native, count: i64) -> Self::Native;
}

impl Wrapping for Int64Type {
    #[inline]
    fn add_times(total: i64, value: i64, count: i64) -> i64 {
        total.wrapping_add(value.wrapping_mul(count))
    }
}

impl Wrapping for UInt64Type {
    #[inline]
    fn add_times(total: u64, value: u64, count: i64) -> u64 {
        total.wrapping_add(value.wrapping_mul(count as u64))
    }
}

macro_rules! wrapping_durations {
    ($($type:ty),*) => {
        $(impl Wrapping for $type {
            #[inline]
            fn add_times(total: i64, value: i64, count: i64) -> i64 {
                Int64Type::add_times(total, value, count)
            }
        })*
    };
}

wrapping_durations!(
    DurationSecondType,
    DurationMillisecondType,
    DurationMicrosecondType,
    DurationNanosecondType
);

impl Wrapping for Decimal128Type {
    #[inline]
    fn add_times(total: i128, value: i128, count: i64) -> i128 {
        total.wrapping_add(value.wrapping_mul(i128::from(count)))
    }
}

/// `sum(x)` over integers and decimals; NULL over no rows.
pub(super) struct WrappingSums<T: Wrapping> {
    sums: Vec<WrappingSum<T::Native>>,
    output: DataType,
}

/// Side by side, for an update touches both.
#[derive(Clone, Copy, Default)]
struct WrappingSum<N> {
    total: N,
    count: i64,
}

impl<T: Wrapping> WrappingSums<T> {
    pub(super) fn new(output: DataType) -> Self {
        WrappingSums {
            sums: Vec::new(),
            output,
        }
    }
}

impl<T: Wrapping> Accumulator for WrappingSums<T> {
    fn resize(&mut self, groups: usize) {
        if self.sums.len() < groups {
            self.sums.resize(groups, WrappingSum::default());
        }
    }

    fn update(&mut self, groups: &[u32], arguments: &[ArrayRef], filter: Option<&BooleanArray>, diffs: &[i64]) {
        let argument = arguments[0].as_primitive::<T>();
        let values = argument.values();
        let sums = &mut self.sums;
        let mut add = |group: u32, value: T::Native, diff: i64| {
            let sum = &mut sums[group as usize];
            sum.total = T::add_times(sum.total, value, diff);
            sum.count += diff;
        };
        if counts_all(argument.nulls(), filter) {
            for ((&group, &value), &diff) in groups.iter().zip(values).zip(diffs) {
                add(group, value, diff);
            }
            return;
        }
        each(argument.nulls(), filter, diffs.len(), |row| {
            add(groups[row], values[row], diffs[row])
        });
    }

    fn output(&self, groups: &[u32]) -> ArrayRef {
        let mut present = true;
        let totals: Vec<T::Native> = groups
            .iter()
            .map(|&group| {
                let sum = &self.sums[group as usize];
                present &= sum.count != 0;
                sum.total
            })
            .collect();
        // A NULL is rare; only then are the counts looked at again.
        let nulls = (!present).then(|| {
            NullBuffer::new(BooleanBuffer::collect_bool(groups.len(), |at| {
                self.sums[groups[at] as usize].count != 0
            }))
        });
        Arc::new(PrimitiveArray::<T>::new(totals.into(), nulls).with_data_type(self.output.clone()))
    }

    fn slide(&mut self, steps: &Steps, arguments: &[ArrayRef], filter: Option<&BooleanArray>) -> ArrayRef {
        let argument = arguments[0].as_primitive::<T>();
        let values = argument.values();
        let sums = slide(
            &mut self.sums,
            steps,
            (argument.nulls(), filter),
            |sums, group| sums[group as usize] = WrappingSum::default(),
            |sums, group, row, diff| {
                let sum = &mut sums[group as usize];
                sum.total = T::add_times(sum.total, values[row], diff);
                sum.count += diff;
            },
            |sums, group| {
                Some(sums[group as usize])
                    .filter(|sum| sum.count != 0)
                    .map(|sum| sum.total)
            },
        );
        let sums: PrimitiveArray<T> = sums.into_iter().collect();
        Arc::new(sums.with_data_type(self.output.clone()))
    }

    fn reset(&mut self, group: u32) {
        if let Some(sum) = self.sums.get_mut(group as usize) {
            *sum = WrappingSum::default();
        }
    }

    fn bytes(&self) -> usize {
        self.sums.capacity() * size_of::<WrappingSum<T::Native>>()
    }
}

pub(super) type IntegerSums = WrappingSums<Int64Type>;
pub(super) type UnsignedSums = WrappingSums<UInt64Type>;
pub(super) type DecimalSums = WrappingSums<Decimal128Type>;

/// How many values of a group are not finite; they decide the result alone.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Specials {
    nans: i64,
    infinities: i64,
    negative_infinities: i64,
}

impl Specials {
    pub(super) fn add(&mut self, value: f64, count: i64) {
        if value.is_nan() {
            self.nans += count;
        } else if value > 0.0 {
            self.infinities += count;
        } else {
            self.negative_infinities += count;
        }
    }

    /// Returns the sum they decide.
    pub(super) fn sum(self) -> f64 {
        match (self.nans, self.infinities, self.negative_infinities) {
            (0, _, 0) => f64::INFINITY,
            (0, 0, _) => f64::NEG_INFINITY,
            _ => f64::NAN,
        }
    }
}

/// What a double accumulator reads out of its sums.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Sum,
    Mean,
    /// Divided by `n - 1`, or by `n` for a population; the root taken for a deviation.
    Variance {
        population: bool,
        root: bool,
    },
}

/// Sums of doubles and of their squares, exact whatever the order.
///
/// A square that overflows makes the variance NaN; one below 2^-1022 counts
/// with the precision of a subnormal.
pub(super) struct Moments {
    moment: Moment,
    counts: Vec<i64>,
    sums: ExactSums,
    squares: ExactSums,
    specials: HashMap<u32, Specials>,
}

impl Moments {
    pub(super) fn new(moment: Moment) -> Self {
        Moments {
            moment,
            counts: Vec::new(),
            sums: ExactSums::default(),
            squares: ExactSums::default(),
            specials: HashMap::new(),
        }
    }

    fn squared(&self) -> bool {
        matches!(self.moment, Moment::Variance { .. })
    }

    #[inline]
    fn add(&mut self, group: u32, value: f64, diff: i64) {
        self.counts[group as usize] += diff;
        if !value.is_finite() {
            self.special(group, value, diff);
            return;
        }
        self.sums.add_times(group, value, diff);
        if self.squared() {
            let square = value * value;
            if square.is_finite() {
                self.squares.add_times(group, square, diff);
                self.squares.add_times(group, f64::mul_add(value, value, -square), diff);
            } else {
                self.special(group, f64::NAN, diff);
            }
        }
    }

    #[cold]
    fn special(&mut self, group: u32, value: f64, count: i64) {
        let specials = self.specials.entry(group).or_default();
        specials.add(value, count);
        if *specials == Specials::default() {
            self.specials.remove(&group);
        }
    }

    fn value(&self, group: u32) -> Option<f64> {
        let count = self.counts[group as usize];
        if count == 0 {
            return None;
        }
        let special = if self.specials.is_empty() {
            None
        } else {
            self.specials.get(&group)
        };
        match self.moment {
            Moment::Sum => Some(special.map_or_else(|| self.sums.sum(group), |special| special.sum())),
            Moment::Mean => Some(special.map_or_else(|| self.sums.sum(group) / count as f64, |special| special.sum())),
            Moment::Variance { population, root } => {
                let divisor = if population { count } else { count - 1 };
                if divisor == 0 {
                    return None;
                }
                if special.is_some() {
                    return Some(f64::NAN);
                }
                let spread = spread(&self.sums, &self.squares, group, count);
                let variance = spread / divisor as f64;
                Some(if root { variance.sqrt() } else { variance })
            }
        }
    }
}

impl Accumulator for Moments {
    fn resize(&mut self, groups: usize) {
        if self.counts.len() < groups {
            self.counts.resize(groups, 0);
        }
        self.sums.resize(groups);
        if self.squared() {
            self.squares.resize(groups);
        }
    }

    fn update(&mut self, groups: &[u32], arguments: &[ArrayRef], filter: Option<&BooleanArray>, diffs: &[i64]) {
        let argument = arguments[0].as_primitive::<Float64Type>();
        let values = argument.values();
        each(argument.nulls(), filter, diffs.len(), |row| {
            self.add(groups[row], values[row], diffs[row]);
        });
    }

    fn slide(&mut self, steps: &Steps, arguments: &[ArrayRef], filter: Option<&BooleanArray>) -> ArrayRef {
        let argument = arguments[0].as_primitive::<Float64Type>();
        let values = argument.values();
        let results = slide(
            self,
            steps,
            (argument.nulls(), filter),
            |moments, group| moments.reset(group),
            |moments, group, row, diff| moments.add(group, values[row], diff),
            |moments, group| moments.value(group),
        );
        Arc::new(Float64Array::from(results))
    }

    fn output(&self, groups: &[u32]) -> ArrayRef {
        Arc::new(Float64Array::from_iter(groups.iter().map(|&group| self.value(group))))
    }

    fn reset(&mut self, group: u32) {
        if let Some(count) = self.counts.get_mut(group as usize) {
            *count = 0;
            self.sums.reset(group);
            self.squares.reset(group);
            self.specials.remove(&group);
        }
    }

    fn bytes(&self) -> usize {
        self.counts.capacity() * 8
            + self.sums.bytes()
            + self.squares.bytes()
            + self.specials.capacity() * size_of::<(u32, Specials)>()
    }
}
