//! `avg` over decimals and durations: whole numbers, rounded towards zero once when read.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray};
use arrow::datatypes::{DataType, Decimal128Type, DecimalType, i256};

use super::{Accumulator, each};

/// Means of whole numbers; NULL over no rows, and where the mean does not fit its type.
pub(super) struct Means<T: ArrowPrimitiveType> {
    means: Vec<Mean>,
    /// How many units of the result one of the argument has.
    factor: i256,
    output: DataType,
    number: std::marker::PhantomData<fn() -> T>,
}

/// Side by side, for an update touches both.
#[derive(Clone, Copy, Default)]
struct Mean {
    /// 2^63 of the largest decimals fit.
    sum: i256,
    count: i64,
}

impl<T: ArrowPrimitiveType> Means<T> {
    pub(super) fn new(argument: &DataType, output: DataType) -> Self {
        let finer = match (argument, &output) {
            (DataType::Decimal128(_, from), DataType::Decimal128(_, to)) => u32::try_from(to - from).unwrap_or(0),
            _ => 0,
        };
        Means {
            means: Vec::new(),
            factor: i256::from_i128(10).wrapping_pow(finer),
            output,
            number: std::marker::PhantomData,
        }
    }

    fn value(&self, mean: &Mean) -> Option<i128> {
        let sum = mean.sum.wrapping_mul(self.factor);
        let value = sum.checked_div(i256::from_i128(mean.count.into()))?.to_i128()?;
        match self.output {
            DataType::Decimal128(precision, scale) => {
                let fits = Decimal128Type::validate_decimal_precision(value, precision, scale).is_ok();
                fits.then_some(value)
            }
            _ => Some(value),
        }
    }
}

impl<T: ArrowPrimitiveType<Native: Into<i128> + TryFrom<i128>>> Accumulator for Means<T> {
    fn resize(&mut self, groups: usize) {
        if self.means.len() < groups {
            self.means.resize(groups, Mean::default());
        }
    }

    fn update(&mut self, groups: &[u32], arguments: &[ArrayRef], filter: Option<&BooleanArray>, diffs: &[i64]) {
        let argument = arguments[0].as_primitive::<T>();
        let values = argument.values();
        each(argument.nulls(), filter, diffs.len(), |row| {
            let mean = &mut self.means[groups[row] as usize];
            let value = i256::from_i128(values[row].into());
            mean.sum = match diffs[row] {
                1 => mean.sum.wrapping_add(value),
                -1 => mean.sum.wrapping_sub(value),
                diff => mean.sum.wrapping_add(value.wrapping_mul(i256::from_i128(diff.into()))),
            };
            mean.count += diffs[row];
        });
    }

    fn output(&self, groups: &[u32]) -> ArrayRef {
        let results = groups.iter().map(|&group| {
            let value = self.value(&self.means[group as usize])?;
            T::Native::try_from(value).ok()
        });
        Arc::new(PrimitiveArray::<T>::from_iter(results).with_data_type(self.output.clone()))
    }

    fn reset(&mut self, group: u32) {
        if let Some(mean) = self.means.get_mut(group as usize) {
            *mean = Mean::default();
        }
    }

    fn bytes(&self) -> usize {
        self.means.capacity() * size_of::<Mean>()
    }
}
