//! `median` and the percentiles: a sorted multiset a group, read at a rank.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Decimal128Type, Float32Type, Float64Type};

use super::extremes::Keyed;
use super::tree::{Mass, Tree};
use super::{Accumulator, each};
use crate::faults::{self, Fault};

/// Where between all values the result lies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// In the middle: the mean of two values where there is none.
    Middle,
    /// At this part of the way from the smallest to the largest.
    Part(f64),
}

/// How fine the way between two values is divided, as DataFusion does.
const PRECISION: f64 = 1_000_000.0;

/// A weight of one: weights are kept to 2^-30.
const ONE: i128 = 1 << 30;

/// Numbers between which others lie.
pub(super) trait Ranked: Keyed {
    fn mean(left: Self::Native, right: Self::Native) -> Self::Native;
    fn between(left: Self::Native, right: Self::Native, part: f64) -> Self::Native;
}

macro_rules! ranked_float {
    ($type:ty, $float:ty) => {
        impl Ranked for $type {
            fn mean(left: $float, right: $float) -> $float {
                let sum = left + right;
                if sum.is_infinite() && left.is_finite() && right.is_finite() {
                    return left / 2.0 + right / 2.0;
                }
                sum / 2.0
            }

            fn between(left: $float, right: $float, part: f64) -> $float {
                let (left, right) = (f64::from(left), f64::from(right));
                (left + (right - left) * part) as $float
            }
        }
    };
}

ranked_float!(Float64Type, f64);
ranked_float!(Float32Type, f32);

impl Ranked for Decimal128Type {
    fn mean(left: i128, right: i128) -> i128 {
        match left.checked_add(right) {
            Some(sum) => sum / 2,
            None => left / 2 + right / 2 + (left % 2 + right % 2) / 2,
        }
    }

    /// Percentiles of decimals are those of doubles.
    fn between(left: i128, _: i128, _: f64) -> i128 {
        left
    }
}

/// Reads one place out of a multiset in which `one` is the mass of a value that is there once.
fn read<T: Ranked, M: Mass>(
    tree: &Tree<T::Key, M>,
    place: Place,
    count: f64,
    rank: impl Fn(f64) -> M,
) -> Option<T::Native> {
    let value = |at: f64| tree.at(rank(at + 1.0)).map(T::value);
    match place {
        Place::Middle => {
            let middle = (count / 2.0).floor();
            let high = value(middle)?;
            if count % 2.0 == 1.0 {
                return Some(high);
            }
            Some(T::mean(value(middle - 1.0)?, high))
        }
        Place::Part(part) => {
            let at = part * (count - 1.0).max(0.0);
            let (lower, upper) = (at.floor(), at.ceil());
            let low = value(lower)?;
            if lower == upper {
                return Some(low);
            }
            let part = ((at - lower) * PRECISION).floor() / PRECISION;
            Some(T::between(low, value(upper)?, part))
        }
    }
}

/// `median`, `percentile_cont` and their approximate kin, all exact.
///
/// State: one entry for each distinct value of a group.
pub(super) struct Quantiles<T: Ranked> {
    place: Place,
    groups: Vec<Tree<T::Key, i64>>,
    entries: isize,
    output: DataType,
}

impl<T: Ranked> Quantiles<T> {
    pub(super) fn new(place: Place, output: DataType) -> Self {
        Quantiles {
            place,
            groups: Vec::new(),
            entries: 0,
            output,
        }
    }
}

impl<T: Ranked> Accumulator for Quantiles<T> {
    fn resize(&mut self, groups: usize) {
        if self.groups.len() < groups {
            self.groups.resize_with(groups, Tree::default);
        }
    }

    fn update(&mut self, groups: &[u32], arguments: &[ArrayRef], filter: Option<&BooleanArray>, diffs: &[i64]) {
        let argument = arguments[0].as_primitive::<T>();
        let values = argument.values();
        let stale = faults::active(Fault::StaleMedian);
        each(argument.nulls(), filter, diffs.len(), |row| {
            if stale && diffs[row] < 0 {
                return;
            }
            let tree = &mut self.groups[groups[row] as usize];
            self.entries += tree.add(T::key(values[row]), diffs[row]);
        });
    }

    fn output(&self, groups: &[u32]) -> ArrayRef {
        let results = groups.iter().map(|&group| {
            let tree = &self.groups[group as usize];
            // Of 2^53 rows and more the rank is near enough.
            read::<T, i64>(tree, self.place, tree.total() as f64, |rank| rank as i64)
        });
        Arc::new(PrimitiveArray::<T>::from_iter(results).with_data_type(self.output.clone()))
    }

    fn reset(&mut self, group: u32) {
        if let Some(tree) = self.groups.get_mut(group as usize) {
            self.entries -= std::mem::take(tree).len() as isize;
        }
    }

    fn bytes(&self) -> usize {
        // A node is about two thirds full.
        self.groups.capacity() * size_of::<Tree<T::Key, i64>>()
            + self.entries.max(0) as usize * size_of::<(T::Key, i64)>() * 3 / 2
    }
}

/// `approx_percentile_cont_with_weight`: a value of weight 3 counts as three rows.
///
/// Weights are kept to 2^-30 and up to 2^60, so that their sums are exact; a row
/// whose weight is not more than nothing has none.
pub(super) struct WeightedQuantiles<T: Ranked, W: Ranked> {
    part: f64,
    groups: Vec<Tree<T::Key, i128>>,
    entries: isize,
    output: DataType,
    weight: std::marker::PhantomData<fn() -> W>,
}

impl<T: Ranked, W: Ranked> WeightedQuantiles<T, W> {
    pub(super) fn new(part: f64, output: DataType) -> Self {
        WeightedQuantiles {
            part,
            groups: Vec::new(),
            entries: 0,
            output,
            weight: std::marker::PhantomData,
        }
    }
}

fn mass(weight: f64) -> i128 {
    // NaN becomes nothing, and infinity the heaviest.
    let scaled = weight.clamp(0.0, (1u64 << 60) as f64) * ONE as f64;
    scaled.round() as i128
}

impl<T: Ranked, W: Ranked<Native: Into<f64>>> Accumulator for WeightedQuantiles<T, W> {
    fn resize(&mut self, groups: usize) {
        if self.groups.len() < groups {
            self.groups.resize_with(groups, Tree::default);
        }
    }

    fn update(&mut self, groups: &[u32], arguments: &[ArrayRef], filter: Option<&BooleanArray>, diffs: &[i64]) {
        let (argument, weights) = (arguments[0].as_primitive::<T>(), arguments[1].as_primitive::<W>());
        let nulls = NullBuffer::union(argument.nulls(), weights.nulls());
        each(nulls.as_ref(), filter, diffs.len(), |row| {
            let mass = mass(weights.values()[row].into());
            let tree = &mut self.groups[groups[row] as usize];
            self.entries += tree.add(T::key(argument.values()[row]), mass * i128::from(diffs[row]));
        });
    }

    fn output(&self, groups: &[u32]) -> ArrayRef {
        let results = groups.iter().map(|&group| {
            let tree = &self.groups[group as usize];
            let count = tree.total() as f64 / ONE as f64;
            read::<T, i128>(tree, Place::Part(self.part), count, |rank| (rank * ONE as f64) as i128)
        });
        Arc::new(PrimitiveArray::<T>::from_iter(results).with_data_type(self.output.clone()))
    }

    fn reset(&mut self, group: u32) {
        if let Some(tree) = self.groups.get_mut(group as usize) {
            self.entries -= std::mem::take(tree).len() as isize;
        }
    }

    fn bytes(&self) -> usize {
        self.groups.capacity() * size_of::<Tree<T::Key, i128>>()
            + self.entries.max(0) as usize * size_of::<(T::Key, i128)>() * 3 / 2
    }
}
