//! Which rows may be among the first of their partition: what is surely beaten need not be carried further.

use arrow::array::ArrayRef;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};

use crate::group_index::GroupIndex;
use crate::plan::{Keep, Ranking};

/// More ranks than this are not looked for: each row is compared with as many.
const RANKS_MAX: usize = 64;

/// Returns how many rows of a partition can be wanted, where rows beyond so many are surely not.
pub(super) fn ranks(keep: &Keep) -> Option<usize> {
    let ranks = usize::try_from(keep.skip.saturating_add(keep.fetch)).ok()?;
    let counted = matches!(keep.by, Ranking::RowNumber | Ranking::Rank);
    (counted && (1..=RANKS_MAX).contains(&ranks)).then_some(ranks)
}

/// Finds the rows of a batch that fewer than so many others of their partition precede.
#[derive(Default)]
pub(super) struct Leaders {
    /// Of each partition: the batch that met it last, and where its best rows begin among `best`.
    met: Vec<(u64, u32)>,
    batch: u64,
    /// The best rows of each partition met, in order, in stretches of one length.
    best: Vec<u32>,
}

/// No row stands here yet.
const NONE: u32 = u32::MAX;

impl Leaders {
    /// Returns for each row whether it may be among the first `ranks`: rows of equal order all may. `beats` says
    /// of the rows whether what their partition holds leaves them a chance.
    pub(super) fn find(
        &mut self,
        partitions: &[u32],
        orders: &Rows,
        ranks: usize,
        beats: impl Fn(u32, &[u8]) -> bool,
    ) -> Vec<bool> {
        self.batch += 1;
        self.best.clear();
        let mut leading = vec![false; partitions.len()];
        for (row, &partition) in partitions.iter().enumerate() {
            let order = orders.row(row);
            leading[row] = beats(partition, order.data());
            if !leading[row] {
                continue;
            }
            let at = partition as usize;
            if self.met.len() <= at {
                self.met.resize(at + 1, (0, 0));
            }
            if self.met[at].0 != self.batch {
                self.met[at] = (self.batch, self.best.len() as u32);
                self.best.resize(self.best.len() + ranks, NONE);
            }
            let start = self.met[at].1 as usize;
            let best = &mut self.best[start..start + ranks];
            let last = best[ranks - 1];
            if last != NONE && orders.row(last as usize) <= order {
                continue;
            }
            let place = best.partition_point(|&other| other != NONE && orders.row(other as usize) <= order);
            best[place..].rotate_right(1);
            best[place] = row as u32;
        }
        for (row, &partition) in partitions.iter().enumerate() {
            if leading[row] {
                let last = self.best[self.met[partition as usize].1 as usize + ranks - 1];
                leading[row] = last == NONE || orders.row(row) <= orders.row(last as usize);
            }
        }
        leading
    }
}

/// The partitions and the order of a window that keeps only its first rows, as columns of what it is made from.
pub(crate) struct Contest {
    partition: Vec<usize>,
    types: Vec<DataType>,
    order: Vec<usize>,
    converter: RowConverter,
    ranks: usize,
    leaders: Leaders,
}

impl Contest {
    /// None where rows cannot be told to be beaten.
    pub(crate) fn new(
        partition: Vec<usize>,
        order: &[(usize, SortOptions)],
        keep: &Keep,
        schema: &SchemaRef,
    ) -> Option<Contest> {
        let ranks = ranks(keep)?;
        let type_of = |column: usize| schema.field(column).data_type().clone();
        let fields = order
            .iter()
            .map(|(column, options)| SortField::new_with_options(type_of(*column), *options))
            .collect::<Vec<_>>();
        if fields.is_empty() {
            return None;
        }
        Some(Contest {
            types: partition.iter().map(|&column| type_of(column)).collect(),
            partition,
            order: order.iter().map(|(column, _)| *column).collect(),
            converter: RowConverter::new(fields).ok()?,
            ranks,
            leaders: Leaders::default(),
        })
    }

    /// Returns the rows that may be among the first of their partition; `column` reads one.
    pub(crate) fn leading(&mut self, rows: usize, column: impl Fn(usize) -> ArrayRef) -> Option<Vec<bool>> {
        let orders: Vec<ArrayRef> = self.order.iter().map(|&order| column(order)).collect();
        let orders = self.converter.convert_columns(&orders).ok()?;
        let mut partitions = vec![0; rows];
        if !self.partition.is_empty() {
            let keys: Vec<ArrayRef> = self.partition.iter().map(|&key| column(key)).collect();
            GroupIndex::new(&self.types).intern(&keys, rows, &mut partitions);
        }
        Some(self.leaders.find(&partitions, &orders, self.ranks, |_, _| true))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use arrow::datatypes::{Field, Schema};

    use super::*;

    #[test]
    fn what_is_beaten_goes_and_what_is_equal_stays() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("key", DataType::Int64, false),
            Field::new("price", DataType::Int64, false),
        ]));
        let keep = Keep {
            by: Ranking::RowNumber,
            skip: 0,
            fetch: 2,
        };
        let descending = SortOptions {
            descending: true,
            nulls_first: true,
        };
        let mut contest = Contest::new(vec![0], &[(1, descending)], &keep, &schema).expect("two ranks");
        let columns: [ArrayRef; 2] = [
            Arc::new(Int64Array::from(vec![1, 2, 1, 1, 2, 1, 1])),
            Arc::new(Int64Array::from(vec![5, 1, 7, 5, 9, 4, 6])),
        ];
        for _ in 0..2 {
            let leading = contest.leading(7, |column| Arc::clone(&columns[column]));
            let expected = vec![false, true, true, false, true, false, true];
            assert_eq!(leading, Some(expected));
        }
        let equal: [ArrayRef; 2] = [
            Arc::new(Int64Array::from(vec![1, 1, 1, 1])),
            Arc::new(Int64Array::from(vec![5, 5, 5, 4])),
        ];
        let leading = contest.leading(4, |column| Arc::clone(&equal[column]));
        assert_eq!(leading, Some(vec![true, true, true, false]));
    }
}
