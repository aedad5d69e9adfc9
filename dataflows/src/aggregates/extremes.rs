//! `min`, `max` and `any_value` over numbers and times: a sorted multiset a group, or the best alone.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray};
use arrow::datatypes::*;

use super::tree::Tree;
use super::{Accumulator, AggregateSpec, each};
use crate::faults::{self, Fault};
use crate::plan::AggregateFunction;

/// Numbers as keys of the same order: one NaN, which is the largest, and one zero.
pub(super) trait Keyed: ArrowPrimitiveType {
    type Key: Copy + Ord + Send;
    fn key(value: Self::Native) -> Self::Key;
    fn value(key: Self::Key) -> Self::Native;
}

macro_rules! keyed_floats {
    ($($type:ty, $float:ty, $key:ty, $unsigned:ty;)*) => {
        $(impl Keyed for $type {
            type Key = $key;

            #[inline]
            fn key(value: $float) -> $key {
                let one = if value.is_nan() { <$float>::NAN } else { value + 0.0 };
                let bits = one.to_bits() as $key;
                bits ^ ((bits >> (<$key>::BITS - 1)) as $unsigned >> 1) as $key
            }

            fn value(key: $key) -> $float {
                let bits = key ^ ((key >> (<$key>::BITS - 1)) as $unsigned >> 1) as $key;
                <$float>::from_bits(bits as $unsigned)
            }
        })*
    };
}

keyed_floats! {
    Float64Type, f64, i64, u64;
    Float32Type, f32, i32, u32;
}

macro_rules! keyed {
    ($($type:ty),*) => {
        $(impl Keyed for $type {
            type Key = Self::Native;
            #[inline]
            fn key(value: Self::Native) -> Self::Key {
                value
            }
            fn value(key: Self::Key) -> Self::Native {
                key
            }
        })*
    };
}

keyed!(
    Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type
);
keyed!(Date32Type, Date64Type, Decimal128Type);
keyed!(
    TimestampSecondType,
    TimestampMillisecondType,
    TimestampMicrosecondType,
    TimestampNanosecondType
);
keyed!(
    DurationSecondType,
    DurationMillisecondType,
    DurationMicrosecondType,
    DurationNanosecondType
);

/// Builds the accumulator of an extreme; none where the values have no key of a fixed size.
pub(super) fn extremes(spec: &AggregateSpec, argument: &DataType) -> Option<Box<dyn Accumulator>> {
    macro_rules! of {
        ($type:ty) => {
            Some(Box::new(Extremes::<$type>::new(spec)))
        };
    }
    match argument {
        DataType::Float64 => of!(Float64Type),
        DataType::Float32 => of!(Float32Type),
        DataType::Int8 => of!(Int8Type),
        DataType::Int16 => of!(Int16Type),
        DataType::Int32 => of!(Int32Type),
        DataType::Int64 => of!(Int64Type),
        DataType::UInt8 => of!(UInt8Type),
        DataType::UInt16 => of!(UInt16Type),
        DataType::UInt32 => of!(UInt32Type),
        DataType::UInt64 => of!(UInt64Type),
        DataType::Date32 => of!(Date32Type),
        DataType::Date64 => of!(Date64Type),
        DataType::Decimal128(..) => of!(Decimal128Type),
        DataType::Timestamp(TimeUnit::Second, _) => of!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => of!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => of!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => of!(TimestampNanosecondType),
        DataType::Duration(TimeUnit::Second) => of!(DurationSecondType),
        DataType::Duration(TimeUnit::Millisecond) => of!(DurationMillisecondType),
        DataType::Duration(TimeUnit::Microsecond) => of!(DurationMicrosecondType),
        DataType::Duration(TimeUnit::Nanosecond) => of!(DurationNanosecondType),
        _ => None,
    }
}

/// State: one entry for each distinct value of a group, or the best where nothing is ever taken back.
struct Extremes<T: Keyed> {
    least: bool,
    kept: Kept<T::Key>,
    entries: isize,
    output: DataType,
}

enum Kept<K> {
    Best(Vec<Option<K>>),
    All(Vec<Tree<K, i64>>),
}

impl<T: Keyed> Extremes<T> {
    fn new(spec: &AggregateSpec) -> Self {
        Extremes {
            least: spec.function != AggregateFunction::Max,
            kept: match spec.append_only {
                true => Kept::Best(Vec::new()),
                false => Kept::All(Vec::new()),
            },
            entries: 0,
            output: spec.output.clone(),
        }
    }
}

impl<T: Keyed> Accumulator for Extremes<T> {
    fn resize(&mut self, groups: usize) {
        match &mut self.kept {
            Kept::Best(best) if best.len() < groups => best.resize(groups, None),
            Kept::All(trees) if trees.len() < groups => trees.resize_with(groups, Tree::default),
            _ => {}
        }
    }

    fn update(&mut self, groups: &[u32], arguments: &[ArrayRef], filter: Option<&BooleanArray>, diffs: &[i64]) {
        let argument = arguments[0].as_primitive::<T>();
        let values = argument.values();
        let stale = self.least && faults::active(Fault::StaleMinimum);
        match &mut self.kept {
            Kept::Best(best) => each(argument.nulls(), filter, diffs.len(), |row| {
                let (best, key) = (&mut best[groups[row] as usize], T::key(values[row]));
                let better = best.is_none_or(|best| if self.least { key < best } else { key > best });
                if better {
                    *best = Some(key);
                }
            }),
            Kept::All(trees) => each(argument.nulls(), filter, diffs.len(), |row| {
                if !(stale && diffs[row] < 0) {
                    self.entries += trees[groups[row] as usize].add(T::key(values[row]), diffs[row]);
                }
            }),
        }
    }

    fn output(&self, groups: &[u32]) -> ArrayRef {
        let results = groups.iter().map(|&group| {
            let key = match &self.kept {
                Kept::Best(best) => best[group as usize],
                Kept::All(trees) if self.least => trees[group as usize].first(),
                Kept::All(trees) => trees[group as usize].last(),
            };
            key.map(T::value)
        });
        Arc::new(PrimitiveArray::<T>::from_iter(results).with_data_type(self.output.clone()))
    }

    fn reset(&mut self, group: u32) {
        let group = group as usize;
        match &mut self.kept {
            Kept::Best(best) if group < best.len() => best[group] = None,
            Kept::All(trees) if group < trees.len() => {
                self.entries -= std::mem::take(&mut trees[group]).len() as isize;
            }
            _ => {}
        }
    }

    fn bytes(&self) -> usize {
        let entries = self.entries.max(0) as usize;
        match &self.kept {
            Kept::Best(best) => best.capacity() * size_of::<Option<T::Key>>(),
            // A node is about two thirds full.
            Kept::All(trees) => {
                trees.capacity() * size_of::<Tree<T::Key, i64>>() + entries * size_of::<(T::Key, i64)>() * 3 / 2
            }
        }
    }
}
