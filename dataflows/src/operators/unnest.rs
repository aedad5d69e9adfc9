//! `unnest`: a row for each element of a list, the other columns repeated. Stateless.

use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, SchemaRef};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator as _;

use super::{Rows, SharedCell, register};
use crate::faults::{self, Fault};
use crate::nested;
use crate::parts::{Part, Parts};
use crate::plan::{AbsentList, ListUnnest};
use crate::update::Updates;

/// How many rows a batch is made at a time, unless one row alone has more elements.
const EXPANDED_ROWS_MAX: u64 = 64 * 1024;

/// Which lists become rows.
pub(crate) struct Unnest {
    lists: Vec<ListUnnest>,
    absent: AbsentList,
    schema: SchemaRef,
    depth: usize,
}

/// Emits a row for each element, with the diff of the row it came from.
pub(crate) fn unnest<'scope>(name: &str, input: Rows<'scope>, unnest: Unnest, shared: &SharedCell) -> Rows<'scope> {
    let stats = register(shared, name);
    let shared = Rc::clone(shared);
    input.unary::<CapacityContainerBuilder<Parts>, _, _, _>(Pipeline, name, move |_, _| {
        move |input, output| {
            input.for_each(|capability, parts| {
                let (mut rows_in, mut rows_out) = (0, 0);
                let mut expanded = Vec::with_capacity(parts.0.len());
                for part in parts.0.drain(..) {
                    rows_in += part.len();
                    for updates in unnest.apply(&part.into_updates()) {
                        rows_out += updates.len();
                        expanded.push(Part::whole(updates));
                    }
                }
                if !expanded.is_empty() {
                    output.session(&capability).give_container(&mut Parts(expanded));
                }
                let stats = &mut shared.borrow_mut().stats[stats];
                stats.rows_in += rows_in as u64;
                stats.rows_out += rows_out as u64;
            });
        }
    })
}

impl Unnest {
    pub(crate) fn new(lists: Vec<ListUnnest>, absent: AbsentList, schema: SchemaRef) -> Self {
        Unnest {
            depth: lists.iter().map(|list| list.depth).max().unwrap_or(0),
            lists,
            absent,
            schema,
        }
    }

    /// Returns the rows of a batch's elements, in batches of bounded size.
    fn apply(&self, updates: &Updates) -> Vec<Updates> {
        let mut expanded = Vec::new();
        let mut start = 0;
        for length in self.stretches(updates.rows()) {
            expanded.extend(self.expand(&updates.slice(start, length)));
            start += length;
        }
        expanded
    }

    /// Cuts a batch where its elements would become too many.
    fn stretches(&self, rows: &RecordBatch) -> Vec<usize> {
        if self.depth != 1 {
            // How many elements inner lists have is known only once the outer ones are unnested.
            return vec![rows.num_rows()];
        }
        let columns: Vec<ArrayRef> = self
            .lists
            .iter()
            .map(|list| Arc::clone(rows.column(list.column)))
            .collect();
        let (mut stretches, mut length, mut elements) = (Vec::new(), 0, 0);
        for count in self.lengths(&columns.iter().map(Elements::new).collect::<Vec<_>>(), rows.num_rows()) {
            if length > 0 && elements + count > EXPANDED_ROWS_MAX {
                stretches.push(length);
                (length, elements) = (0, 0);
            }
            length += 1;
            elements += count;
        }
        stretches.push(length);
        stretches
    }

    /// Returns how many rows each row becomes: as many as its longest list has elements.
    fn lengths(&self, lists: &[Elements], rows: usize) -> Vec<u64> {
        let mut lengths = vec![0; rows];
        for list in lists {
            for (row, longest) in lengths.iter_mut().enumerate() {
                let length = match list.range(row) {
                    None => u64::from(self.absent != AbsentList::Drop),
                    Some((0, true)) => u64::from(self.absent == AbsentList::KeepEmpty),
                    Some((length, _)) => length,
                };
                *longest = length.max(*longest);
            }
        }
        lengths
    }

    fn expand(&self, updates: &Updates) -> Option<Updates> {
        let batch = updates.rows();
        // The row of the batch that each row made so far came from, and what each list has become.
        let mut rows: UInt32Array = (0..batch.num_rows() as u32).collect();
        let mut made: Vec<Option<ArrayRef>> = vec![None; self.lists.len()];
        for level in (1..=self.depth).rev() {
            let active: Vec<usize> = (0..self.lists.len())
                .filter(|at| self.lists[*at].depth >= level)
                .collect();
            let columns: Vec<ArrayRef> = active
                .iter()
                .map(|&at| match &made[at] {
                    Some(column) => Arc::clone(column),
                    None => taken(batch.column(self.lists[at].column), &rows),
                })
                .collect();
            let elements: Vec<Elements> = columns.iter().map(Elements::new).collect();
            let lengths = self.lengths(&elements, rows.len());
            let total = lengths.iter().sum::<u64>() as usize;
            if total == 0 {
                return None;
            }
            for ((&at, column), elements) in active.iter().zip(&columns).zip(&elements) {
                made[at] = Some(elements.flattened(column, &lengths, total));
            }
            let mut repeated = Vec::with_capacity(total);
            for (&row, &length) in rows.values().iter().zip(&lengths) {
                repeated.extend(std::iter::repeat_n(row, length as usize));
            }
            rows = repeated.into();
        }
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for at in 0..batch.num_columns() {
            let before = columns.len();
            for (list, made) in self.lists.iter().zip(&made) {
                if list.column == at {
                    columns.extend(made.clone());
                }
            }
            if columns.len() == before {
                columns.push(taken(batch.column(at), &rows));
            }
        }
        let mut diffs: Vec<i64> = rows.values().iter().map(|&row| updates.diffs()[row as usize]).collect();
        if faults::active(Fault::ShortList) && diffs.len() > 1 {
            diffs.pop();
            columns
                .iter_mut()
                .for_each(|column| *column = column.slice(0, diffs.len()));
        }
        let columns = nested::fitting(columns, &self.schema);
        let options = RecordBatchOptions::new().with_row_count(Some(diffs.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .expect("elements have the planned types");
        Some(Updates::new(rows, diffs))
    }
}

fn taken(column: &ArrayRef, rows: &UInt32Array) -> ArrayRef {
    take(column, rows, None).expect("rows are in range")
}

/// Where the elements of each list of a column stand.
struct Elements<'a> {
    column: &'a ArrayRef,
    offsets: Offsets<'a>,
}

enum Offsets<'a> {
    Short(&'a [i32]),
    Long(&'a [i64]),
    Fixed(u64),
    /// Nothing but NULL, or no list at all, which plans do not have.
    None,
}

impl<'a> Elements<'a> {
    fn new(column: &'a ArrayRef) -> Self {
        let offsets = match column.data_type() {
            DataType::List(_) => Offsets::Short(column.as_list::<i32>().value_offsets()),
            DataType::LargeList(_) => Offsets::Long(column.as_list::<i64>().value_offsets()),
            DataType::FixedSizeList(_, length) => Offsets::Fixed(u64::try_from(*length).unwrap_or(0)),
            _ => Offsets::None,
        };
        Elements { column, offsets }
    }

    /// Returns how many elements a row's list has, and whether that is known to be none; nothing for NULL.
    fn range(&self, row: usize) -> Option<(u64, bool)> {
        let (start, end) = self.span(row)?;
        Some((end - start, start == end))
    }

    fn span(&self, row: usize) -> Option<(u64, u64)> {
        if self.column.is_null(row) {
            return None;
        }
        match &self.offsets {
            Offsets::Short(offsets) => Some((offsets[row] as u64, offsets[row + 1] as u64)),
            Offsets::Long(offsets) => Some((offsets[row] as u64, offsets[row + 1] as u64)),
            Offsets::Fixed(length) => Some((row as u64 * length, (row as u64 + 1) * length)),
            Offsets::None => None,
        }
    }

    /// Returns the elements of all lists, each padded with NULL to its row's length.
    fn flattened(&self, column: &ArrayRef, lengths: &[u64], total: usize) -> ArrayRef {
        let mut indices: Vec<Option<u64>> = Vec::with_capacity(total);
        for (row, &length) in lengths.iter().enumerate() {
            let before = indices.len();
            if let Some((start, end)) = self.span(row) {
                indices.extend((start..end).map(Some));
            }
            indices.resize(before + length as usize, None);
        }
        let values = match &self.offsets {
            Offsets::Short(_) => Arc::clone(column.as_list::<i32>().values()),
            Offsets::Long(_) => Arc::clone(column.as_list::<i64>().values()),
            Offsets::Fixed(_) => Arc::clone(column.as_fixed_size_list().values()),
            Offsets::None => return arrow::array::new_null_array(&DataType::Null, total),
        };
        take(&values, &UInt64Array::from(indices), None).expect("elements are in range")
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, ListArray};
    use arrow::datatypes::{Field, Int64Type, Schema};

    use super::*;

    fn lists() -> ListArray {
        ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
            Some(vec![Some(1), None, Some(3)]),
            None,
            Some(vec![]),
            Some(vec![Some(7)]),
        ])
    }

    fn expanded(absent: AbsentList, slice: (usize, usize)) -> Vec<(i64, Option<i64>, i64)> {
        let lists = lists();
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("list", lists.data_type().clone(), true),
        ]));
        let output = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("x", DataType::Int64, true),
        ]));
        let ids = Arc::new(Int64Array::from(vec![10, 20, 30, 40]));
        let rows = RecordBatch::try_new(schema, vec![ids, Arc::new(lists)]).unwrap();
        let updates = Updates::new(rows, vec![1, -1, 2, -2]).slice(slice.0, slice.1);
        let unnest = Unnest::new(vec![ListUnnest { column: 1, depth: 1 }], absent, output);
        let mut found = Vec::new();
        for updates in unnest.apply(&updates) {
            let ids = updates.rows().column(0).as_primitive::<Int64Type>();
            let values = updates.rows().column(1).as_primitive::<Int64Type>();
            found.extend((0..updates.len()).map(|row| {
                let value = values.is_valid(row).then(|| values.value(row));
                (ids.value(row), value, updates.diffs()[row])
            }));
        }
        found
    }

    #[test]
    fn elements_have_the_diff_of_their_row() {
        assert_eq!(
            expanded(AbsentList::Drop, (0, 4)),
            [(10, Some(1), 1), (10, None, 1), (10, Some(3), 1), (40, Some(7), -2)]
        );
        assert_eq!(expanded(AbsentList::Drop, (2, 2)), [(40, Some(7), -2)]);
        assert_eq!(expanded(AbsentList::Drop, (1, 2)), []);
    }

    #[test]
    fn what_is_no_list_may_stay() {
        assert_eq!(
            expanded(AbsentList::KeepNull, (1, 3)),
            [(20, None, -1), (40, Some(7), -2)]
        );
        assert_eq!(
            expanded(AbsentList::KeepEmpty, (1, 3)),
            [(20, None, -1), (30, None, 2), (40, Some(7), -2)]
        );
    }
}
