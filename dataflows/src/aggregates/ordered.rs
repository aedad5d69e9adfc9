//! `min`, `max`, `first_value` and their kin, `array_agg` and `string_agg`: an ordered multiset a group.
//!
//! A row is one string of arrow-row bytes, the `ORDER BY` columns first and the
//! argument last, so that equal orders are decided by the argument and there is
//! exactly one order of the values.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float32Array, Float64Array, new_null_array};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;

use super::collected::{lists, texts};
use super::{Accumulator, AggregateSpec, Unsupported, each};
use crate::faults::{self, Fault};
use crate::plan::AggregateFunction;

/// What of the multiset is the result.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pick {
    First,
    Last,
    /// The one at a position from 1 on, or from the end where negative.
    Nth(i64),
    /// All, as a list.
    List,
    /// All, with this between two.
    Text(String),
}

impl Pick {
    fn of(spec: &AggregateSpec) -> Result<Pick, Unsupported> {
        use AggregateFunction::*;
        Ok(match (spec.function, spec.parameters.first()) {
            (Min | AnyValue | FirstValue, _) => Pick::First,
            (Max | LastValue, _) => Pick::Last,
            (NthValue, Some(ScalarValue::Int64(Some(at)))) if *at != 0 => Pick::Nth(*at),
            (ArrayAgg, _) => Pick::List,
            (StringAgg, Some(delimiter)) => match delimiter.try_as_str() {
                Some(delimiter) => Pick::Text(delimiter.unwrap_or_default().to_owned()),
                None if delimiter.is_null() => Pick::Text(String::new()),
                None => return Err(Unsupported::new(spec)),
            },
            _ => return Err(Unsupported::new(spec)),
        })
    }

    fn is_end(&self) -> bool {
        matches!(self, Pick::First | Pick::Last)
    }
}

/// Keeps every row of a group in order, or only the best one where nothing is ever taken back.
///
/// State: one entry for each distinct (order, argument) of a group.
pub(super) struct Ordered<K> {
    pick: Pick,
    skip_nulls: bool,
    /// Whether a row counts once, however often it is there.
    distinct: bool,
    /// Whether the best row of a group is all that is kept.
    best_only: bool,
    converter: RowConverter,
    fields: usize,
    argument: DataType,
    output: DataType,
    /// For each (group, row), how often it is present.
    rows: BTreeMap<(u32, K), i64>,
    /// The best row of each group, where `best_only`.
    best: Vec<Option<K>>,
    key_bytes: usize,
}

/// Row bytes as a key: of fixed length without an allocation, else boxed.
pub(super) trait RowKey: Ord + Clone + Send + 'static {
    const MIN: Self;
    fn new(bytes: &[u8]) -> Self;
    fn bytes(&self, length: usize) -> &[u8];
}

/// Room for two 8-byte columns and a 4-byte one, each with its NULL byte.
const INLINE: usize = 24;

impl RowKey for [u8; INLINE] {
    const MIN: Self = [0; INLINE];
    fn new(bytes: &[u8]) -> Self {
        let mut key = [0; INLINE];
        key[..bytes.len()].copy_from_slice(bytes);
        key
    }
    fn bytes(&self, length: usize) -> &[u8] {
        &self[..length]
    }
}

impl RowKey for Vec<u8> {
    const MIN: Self = Vec::new();
    fn new(bytes: &[u8]) -> Self {
        bytes.to_vec()
    }
    fn bytes(&self, _length: usize) -> &[u8] {
        self
    }
}

/// Builds the accumulator for an aggregate that reads an order.
pub(super) fn ordered(spec: &AggregateSpec, argument: &DataType) -> Result<Box<dyn Accumulator>, Unsupported> {
    let fixed: Option<usize> = spec
        .order
        .iter()
        .map(|(data_type, _)| data_type)
        .chain([argument])
        .map(encoded_width)
        .sum();
    match fixed {
        Some(length) if length <= INLINE => Ok(Box::new(Ordered::<[u8; INLINE]>::new(spec, argument, length)?)),
        _ => Ok(Box::new(Ordered::<Vec<u8>>::new(spec, argument, 0)?)),
    }
}

/// The arrow-row length of a fixed-width type: its NULL byte and its value.
fn encoded_width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Boolean => Some(2),
        other => other.primitive_width().map(|width| width + 1),
    }
}

impl<K: RowKey> Ordered<K> {
    fn new(spec: &AggregateSpec, argument: &DataType, key_bytes: usize) -> Result<Self, Unsupported> {
        use AggregateFunction::*;
        let mut fields: Vec<SortField> = spec
            .order
            .iter()
            .map(|(data_type, options)| SortField::new_with_options(data_type.clone(), *options))
            .collect();
        fields.push(SortField::new(argument.clone()));
        let count = fields.len();
        let converter = RowConverter::new(fields).map_err(|_| Unsupported::new(spec))?;
        let pick = Pick::of(spec)?;
        Ok(Ordered {
            skip_nulls: matches!(spec.function, Min | Max | AnyValue | StringAgg) || spec.ignore_nulls,
            distinct: spec.distinct && !pick.is_end(),
            best_only: spec.append_only && pick.is_end(),
            pick,
            converter,
            fields: count,
            argument: argument.clone(),
            output: spec.output.clone(),
            rows: BTreeMap::new(),
            best: Vec::new(),
            key_bytes,
        })
    }

    fn add(&mut self, group: u32, key: K, diff: i64) {
        if self.best_only {
            let best = &mut self.best[group as usize];
            let better = match best {
                None => true,
                Some(best) if self.pick == Pick::First => key < *best,
                Some(best) => key > *best,
            };
            if better {
                *best = Some(key);
            }
            return;
        }
        if diff < 0 && faults::active(Fault::StaleMinimum) && self.pick == Pick::First {
            return;
        }
        match self.rows.entry((group, key)) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(diff);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                *entry.get_mut() += diff;
                if *entry.get() == 0 {
                    entry.remove();
                }
            }
        }
    }

    /// The rows of a group in order, each with how often it counts.
    fn rows(&self, group: u32) -> impl DoubleEndedIterator<Item = (&K, i64)> {
        let range = (group, K::MIN)..(group + 1, K::MIN);
        let distinct = self.distinct;
        self.rows
            .range(range)
            .map(move |((_, key), &count)| (key, if distinct { count.min(1) } else { count }))
    }

    fn result(&self, group: u32) -> Option<&K> {
        if self.best_only {
            return self.best[group as usize].as_ref();
        }
        match self.pick {
            Pick::Nth(at) if at < 0 => reached(self.rows(group).rev(), at.unsigned_abs()),
            Pick::Nth(at) => reached(self.rows(group), at.unsigned_abs()),
            Pick::Last => self.rows(group).next_back().map(|(key, _)| key),
            _ => self.rows(group).next().map(|(key, _)| key),
        }
    }

    /// The arguments of rows, in their order.
    fn arguments<'a>(&self, keys: impl Iterator<Item = &'a K>) -> ArrayRef {
        let parser = self.converter.parser();
        let rows = keys.map(|key| parser.parse(key.bytes(self.key_bytes)));
        let decoded = self.converter.convert_rows(rows).expect("bytes this converter wrote");
        decoded
            .into_iter()
            .next_back()
            .expect("the argument is the last column")
    }

    /// One argument a group, or NULL.
    fn singles(&self, groups: &[u32]) -> ArrayRef {
        let results: Vec<Option<&K>> = groups.iter().map(|&group| self.result(group)).collect();
        let values = self.arguments(results.iter().copied().flatten());
        if results.iter().all(Option::is_some) {
            return values;
        }
        if values.is_empty() {
            return new_null_array(&self.argument, groups.len());
        }
        let mut next = 0u32;
        let indices: arrow::array::UInt32Array = results
            .iter()
            .map(|result| {
                result.map(|_| {
                    next += 1;
                    next - 1
                })
            })
            .collect();
        arrow::compute::take(&values, &indices, None).expect("indices are in range")
    }

    /// All arguments of all groups, and how many each group has.
    fn all(&self, groups: &[u32]) -> (ArrayRef, Vec<usize>) {
        let (mut keys, mut lengths) = (Vec::new(), Vec::with_capacity(groups.len()));
        for &group in groups {
            let before = keys.len();
            for (key, count) in self.rows(group) {
                keys.extend(std::iter::repeat_n(key, usize::try_from(count).unwrap_or(0)));
            }
            lengths.push(keys.len() - before);
        }
        (self.arguments(keys.into_iter()), lengths)
    }
}

/// Returns the row with which `left` rows are reached.
fn reached<'a, K>(mut rows: impl Iterator<Item = (&'a K, i64)>, mut left: u64) -> Option<&'a K> {
    let found = rows.find(|(_, count)| {
        let here = count.unsigned_abs() >= left;
        left = left.saturating_sub(count.unsigned_abs());
        here
    });
    found.map(|(key, _)| key)
}

impl<K: RowKey> Accumulator for Ordered<K> {
    fn resize(&mut self, groups: usize) {
        if self.best_only && self.best.len() < groups {
            self.best.resize(groups, None);
        }
    }

    fn update(&mut self, groups: &[u32], arguments: &[ArrayRef], filter: Option<&BooleanArray>, diffs: &[i64]) {
        // The argument comes last in the bytes, and orders that only repeat it were dropped.
        let mut columns: Vec<ArrayRef> = arguments[1..].iter().map(canonical).collect();
        columns.truncate(self.fields - 1);
        columns.push(canonical(&arguments[0]));
        let encoded = self
            .converter
            .convert_columns(&columns)
            .expect("columns have the types the accumulator was built for");
        let nulls = arguments[0].logical_nulls().filter(|_| self.skip_nulls);
        each(nulls.as_ref(), filter, diffs.len(), |row| {
            self.add(groups[row], K::new(encoded.row(row).data()), diffs[row]);
        });
    }

    fn output(&self, groups: &[u32]) -> ArrayRef {
        match &self.pick {
            Pick::List => {
                let (values, lengths) = self.all(groups);
                lists(&self.output, values, &lengths)
            }
            Pick::Text(delimiter) => {
                let (values, lengths) = self.all(groups);
                texts(&values, &lengths, delimiter)
            }
            _ => self.singles(groups),
        }
    }

    fn reset(&mut self, group: u32) {
        if let Some(best) = self.best.get_mut(group as usize) {
            *best = None;
        }
        // A group without rows has no entries either, but for arguments its own state was told to forget.
        let range = (group, K::MIN)..(group + 1, K::MIN);
        while let Some(key) = self.rows.range(range.clone()).next().map(|(key, _)| key.clone()) {
            self.rows.remove(&key);
        }
    }

    fn bytes(&self) -> usize {
        // A B-tree node is about two thirds full.
        self.rows.len() * (size_of::<(u32, K)>() + 8) * 3 / 2 + self.best.capacity() * size_of::<Option<K>>()
    }
}

/// Folds -0.0 into 0.0 and every NaN into one, the largest value.
pub fn canonical(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float64 => {
            let canonical: Float64Array = array.as_primitive::<Float64Type>().unary(|value| match value {
                value if value.is_nan() => f64::NAN,
                value => value + 0.0,
            });
            Arc::new(canonical)
        }
        DataType::Float32 => {
            let canonical: Float32Array = array.as_primitive::<Float32Type>().unary(|value| match value {
                value if value.is_nan() => f32::NAN,
                value => value + 0.0,
            });
            Arc::new(canonical)
        }
        _ => Arc::clone(array),
    }
}
