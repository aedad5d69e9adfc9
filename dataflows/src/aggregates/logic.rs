//! `bool_and`, `bool_or` and the bitwise aggregates: counts of what was seen, so that rows can leave.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray};
use arrow::datatypes::{Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type};

use super::{Accumulator, each};
use crate::faults::{self, Fault};

/// Which of two truths, or of two bits, wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logic {
    And,
    Or,
    Xor,
}

/// `bool_and` and `bool_or`; NULL over no rows.
pub(super) struct Truths {
    logic: Logic,
    /// How many rows are false, and how many true.
    counts: Vec<[i64; 2]>,
}

impl Truths {
    pub(super) fn new(logic: Logic) -> Self {
        Truths {
            logic,
            counts: Vec::new(),
        }
    }
}

impl Accumulator for Truths {
    fn resize(&mut self, groups: usize) {
        if self.counts.len() < groups {
            self.counts.resize(groups, [0; 2]);
        }
    }

    fn update(&mut self, groups: &[u32], arguments: &[ArrayRef], filter: Option<&BooleanArray>, diffs: &[i64]) {
        let argument = arguments[0].as_boolean();
        let values = argument.values();
        let stale = faults::active(Fault::StaleTruth);
        each(argument.nulls(), filter, diffs.len(), |row| {
            if stale && diffs[row] < 0 {
                return;
            }
            self.counts[groups[row] as usize][usize::from(values.value(row))] += diffs[row];
        });
    }

    fn output(&self, groups: &[u32]) -> ArrayRef {
        let results = groups.iter().map(|&group| match self.counts[group as usize] {
            [0, 0] => None,
            [no, yes] => Some(match self.logic {
                Logic::And => no == 0,
                Logic::Or => yes != 0,
                Logic::Xor => yes % 2 != 0,
            }),
        });
        Arc::new(BooleanArray::from_iter(results))
    }

    fn reset(&mut self, group: u32) {
        if let Some(counts) = self.counts.get_mut(group as usize) {
            *counts = [0; 2];
        }
    }

    fn bytes(&self) -> usize {
        self.counts.capacity() * size_of::<[i64; 2]>()
    }
}

/// Integers as their bits.
pub(super) trait Bits: ArrowPrimitiveType {
    const WIDTH: usize;
    fn to_bits(value: Self::Native) -> u64;
    fn from_bits(bits: u64) -> Self::Native;
}

macro_rules! bits {
    ($($type:ty, $native:ty, $unsigned:ty;)*) => {
        $(impl Bits for $type {
            const WIDTH: usize = <$native>::BITS as usize;
            #[inline]
            fn to_bits(value: $native) -> u64 {
                u64::from(value as $unsigned)
            }
            fn from_bits(bits: u64) -> $native {
                bits as $native
            }
        })*
    };
}

bits! {
    Int8Type, i8, u8;
    Int16Type, i16, u16;
    Int32Type, i32, u32;
    Int64Type, i64, u64;
    UInt8Type, u8, u8;
    UInt16Type, u16, u16;
    UInt32Type, u32, u32;
    UInt64Type, u64, u64;
}

/// `bit_and`, `bit_or` and `bit_xor`; NULL over no rows.
///
/// State: for each group how many rows have each bit, but for `bit_xor` and
/// where nothing is ever taken back, which need no more than the result.
pub(super) struct Bitwise<T: Bits> {
    logic: Logic,
    append_only: bool,
    /// How many rows each group has.
    rows: Vec<i64>,
    /// The result itself, where that is enough.
    words: Vec<u64>,
    /// `WIDTH` counts a group.
    counts: Vec<i64>,
    integer: std::marker::PhantomData<fn() -> T>,
}

impl<T: Bits> Bitwise<T> {
    pub(super) fn new(logic: Logic, append_only: bool) -> Self {
        Bitwise {
            logic,
            append_only,
            rows: Vec::new(),
            words: Vec::new(),
            counts: Vec::new(),
            integer: std::marker::PhantomData,
        }
    }

    fn counts_bits(&self) -> bool {
        !self.append_only && self.logic != Logic::Xor
    }

    fn start(&self) -> u64 {
        if self.logic == Logic::And { u64::MAX } else { 0 }
    }

    fn word(&self, group: usize) -> u64 {
        if !self.counts_bits() {
            return self.words[group];
        }
        let rows = self.rows[group];
        let counts = &self.counts[group * T::WIDTH..][..T::WIDTH];
        let set = |count: i64| match self.logic {
            Logic::And => count == rows,
            _ => count != 0,
        };
        counts
            .iter()
            .enumerate()
            .fold(0, |word, (bit, &count)| word | u64::from(set(count)) << bit)
    }
}

impl<T: Bits> Accumulator for Bitwise<T> {
    fn resize(&mut self, groups: usize) {
        if self.rows.len() >= groups {
            return;
        }
        self.rows.resize(groups, 0);
        if self.counts_bits() {
            self.counts.resize(groups * T::WIDTH, 0);
        } else {
            self.words.resize(groups, self.start());
        }
    }

    fn update(&mut self, groups: &[u32], arguments: &[ArrayRef], filter: Option<&BooleanArray>, diffs: &[i64]) {
        let argument = arguments[0].as_primitive::<T>();
        let values = argument.values();
        let counts_bits = self.counts_bits();
        let stale = faults::active(Fault::StaleTruth);
        each(argument.nulls(), filter, diffs.len(), |row| {
            let (group, diff) = (groups[row] as usize, diffs[row]);
            if stale && diff < 0 {
                return;
            }
            let mut bits = T::to_bits(values[row]);
            self.rows[group] += diff;
            if counts_bits {
                let counts = &mut self.counts[group * T::WIDTH..][..T::WIDTH];
                while bits != 0 {
                    counts[bits.trailing_zeros() as usize] += diff;
                    bits &= bits - 1;
                }
                return;
            }
            let word = &mut self.words[group];
            match self.logic {
                Logic::And => *word &= bits,
                Logic::Or => *word |= bits,
                Logic::Xor if diff % 2 != 0 => *word ^= bits,
                Logic::Xor => {}
            }
        });
    }

    fn output(&self, groups: &[u32]) -> ArrayRef {
        let results = groups.iter().map(|&group| {
            let group = group as usize;
            (self.rows[group] != 0).then(|| T::from_bits(self.word(group)))
        });
        Arc::new(PrimitiveArray::<T>::from_iter(results))
    }

    fn reset(&mut self, group: u32) {
        let at = group as usize;
        let start = self.start();
        if let Some(rows) = self.rows.get_mut(at) {
            *rows = 0;
            if self.counts_bits() {
                self.counts[at * T::WIDTH..][..T::WIDTH].fill(0);
            } else {
                self.words[at] = start;
            }
        }
    }

    fn bytes(&self) -> usize {
        (self.rows.capacity() + self.words.capacity() + self.counts.capacity()) * 8
    }
}
