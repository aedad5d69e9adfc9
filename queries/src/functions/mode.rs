//! `mode(x)`: the value that most rows of a group have; of several, the smallest.
//!
//! Rows may leave again. NULL is no value; of doubles, NaN is one and zero is one. What most sensors of a
//! district say, or the warning colour that stood longest, is what one asks it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use dataflows::aggregates::{Accumulator, AggregateSpec, canonical};
use dataflows::functions;
use datafusion::logical_expr::{Signature, Volatility};

use super::kinds::aggregate::Aggregate;

/// The function, for the list.
pub(super) static MODE: Aggregate = Aggregate {
    shared: functions::Aggregate {
        name: "mode",
        columns: 1,
        minds_duplicates: true,
        accumulator,
    },
    signature: || Signature::any(1, Volatility::Immutable),
    output: |arguments| arguments[0].clone(),
};

fn accumulator(spec: &AggregateSpec) -> Option<Box<dyn Accumulator>> {
    let [argument] = spec.arguments.as_slice() else {
        return None;
    };
    let fields = vec![SortField::new(argument.clone())];
    if !RowConverter::supports_fields(&fields) {
        return None;
    }
    Some(Box::new(Modes {
        converter: RowConverter::new(fields).ok()?,
        argument: argument.clone(),
        groups: Vec::new(),
        bytes: 0,
    }))
}

/// State: for each group how often each value is there, and the values by that.
struct Modes {
    converter: RowConverter,
    argument: DataType,
    groups: Vec<Group>,
    bytes: usize,
}

/// The values of a group, as bytes in their order.
#[derive(Default)]
struct Group {
    counts: HashMap<Arc<[u8]>, i64>,
    /// Those that are there, most first.
    most: BTreeSet<(Reverse<i64>, Arc<[u8]>)>,
}

/// What a value costs beside its bytes: an entry of either collection, which are part empty.
const ENTRY_BYTES: usize = 112;

impl Group {
    /// Counts a value and returns by how many bytes the group grew.
    fn add(&mut self, value: &[u8], diff: i64) -> isize {
        let cost = (value.len() + ENTRY_BYTES) as isize;
        let (value, before) = match self.counts.get_key_value(value) {
            Some((value, count)) => (Arc::clone(value), *count),
            None => (Arc::from(value), 0),
        };
        let count = before + diff;
        if before > 0 {
            self.most.remove(&(Reverse(before), Arc::clone(&value)));
        }
        if count > 0 {
            self.most.insert((Reverse(count), Arc::clone(&value)));
        }
        match count {
            0 => self.counts.remove(&value).map_or(0, |_| -cost),
            count => self.counts.insert(value, count).map_or(cost, |_| 0),
        }
    }
}

impl Accumulator for Modes {
    fn resize(&mut self, groups: usize) {
        if self.groups.len() < groups {
            self.groups.resize_with(groups, Group::default);
        }
    }

    fn update(&mut self, groups: &[u32], arguments: &[ArrayRef], filter: Option<&BooleanArray>, diffs: &[i64]) {
        let values = canonical(&arguments[0]);
        let Ok(encoded) = self.converter.convert_columns(std::slice::from_ref(&values)) else {
            return;
        };
        let nulls = values.logical_nulls();
        for (row, (&group, &diff)) in groups.iter().zip(diffs).enumerate() {
            let passes = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if diff != 0 && passes && nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                let grown = self.groups[group as usize].add(encoded.row(row).data(), diff);
                self.bytes = self.bytes.saturating_add_signed(grown);
            }
        }
    }

    fn output(&self, groups: &[u32]) -> ArrayRef {
        let parser = self.converter.parser();
        let mut found = 0u32;
        let mut rows = Vec::with_capacity(groups.len());
        let places: UInt32Array = groups
            .iter()
            .map(|&group| {
                let (_, value) = self.groups[group as usize].most.first()?;
                rows.push(parser.parse(value));
                found += 1;
                Some(found - 1)
            })
            .collect();
        let values = self
            .converter
            .convert_rows(rows)
            .ok()
            .and_then(|mut columns| columns.pop());
        match values {
            Some(values) if found > 0 => take(&values, &places, None).unwrap_or_else(|_| self.nulls(groups.len())),
            _ => self.nulls(groups.len()),
        }
    }

    fn reset(&mut self, group: u32) {
        if let Some(group) = self.groups.get_mut(group as usize) {
            let held: usize = group.counts.keys().map(|value| value.len() + ENTRY_BYTES).sum();
            self.bytes = self.bytes.saturating_sub(held);
            *group = Group::default();
        }
    }

    fn bytes(&self) -> usize {
        self.bytes + self.groups.capacity() * size_of::<Group>()
    }
}

impl Modes {
    fn nulls(&self, length: usize) -> ArrayRef {
        new_null_array(&self.argument, length)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Float64Array};
    use arrow::datatypes::Float64Type;

    use super::*;

    #[test]
    fn rows_come_and_go() {
        let mut modes = accumulator(&AggregateSpec {
            function: dataflows::plan::AggregateFunction::Own(&MODE.shared),
            arguments: vec![DataType::Float64],
            parameters: vec![],
            distinct: false,
            order: vec![],
            ignore_nulls: true,
            append_only: false,
            output: DataType::Float64,
        })
        .unwrap();
        let column = |values: &[Option<f64>]| vec![Arc::new(Float64Array::from(values.to_vec())) as ArrayRef];
        modes.resize(2);
        let empty = modes.bytes();
        let told = |modes: &dyn Accumulator| {
            modes
                .output(&[0, 1])
                .as_primitive::<Float64Type>()
                .iter()
                .collect::<Vec<_>>()
        };
        assert_eq!(told(modes.as_ref()), [None, None]);
        let values = column(&[Some(0.0), Some(-0.0), Some(7.0), None, None, Some(3.0)]);
        modes.update(&[0, 0, 0, 0, 0, 0], &values, None, &[1, 1, 2, 1, 1, 1]);
        // Both zeros are one; of two that are as frequent, the smaller.
        assert_eq!(told(modes.as_ref()), [Some(0.0), None]);
        // What is taken back before it comes counts for nothing.
        modes.update(
            &[0, 0, 1, 1],
            &column(&[Some(0.0), Some(3.0), Some(5.0), Some(5.0)]),
            None,
            &[-1, 2, -1, 1],
        );
        assert_eq!(told(modes.as_ref()), [Some(3.0), None]);
        modes.update(
            &[0, 0, 0],
            &column(&[Some(3.0), Some(7.0), Some(0.0)]),
            None,
            &[-3, -2, -1],
        );
        assert_eq!(told(modes.as_ref()), [None, None]);
        modes.reset(0);
        assert_eq!(modes.bytes(), empty);
    }
}
