//! Makes one row of those of a tick that are equal, their diffs added. Stateless.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};

use super::ticked::TickOperator;
use crate::faults::{self, Fault};
use crate::group_index::GroupIndex;
use crate::parts::Part;
use crate::update::{Tick, Updates};

/// A tick of at least so many rows tells whether it was worth the while.
const TELLING_ROWS: usize = 1024;
/// After a tick that was not, so many go by as they are.
const TICKS_PASSED_BY: u32 = 15;

/// Keeps nothing from one tick to the next but whether the last was worth the while.
pub(crate) struct Consolidate {
    schema: SchemaRef,
    types: Vec<DataType>,
    passing_by: u32,
}

impl Consolidate {
    pub(crate) fn new(schema: SchemaRef) -> Self {
        let types = schema.fields().iter().map(|field| field.data_type().clone()).collect();
        Consolidate {
            schema,
            types,
            passing_by: 0,
        }
    }
}

impl TickOperator for Consolidate {
    fn apply(&mut self, _tick: Tick, inputs: &mut [Vec<Part>]) -> Vec<Part> {
        let parts = std::mem::take(&mut inputs[0]);
        let rows: usize = parts.iter().map(Part::len).sum();
        if rows < 2 || self.passing_by > 0 {
            self.passing_by = self.passing_by.saturating_sub(1);
            return parts;
        }
        let columns: Vec<usize> = (0..self.types.len()).collect();
        let mut index = GroupIndex::new(&self.types);
        let (mut groups, mut sums) = (Vec::new(), Vec::<i64>::new());
        for part in &parts {
            index.intern(&part.columns(&columns), part.len(), &mut groups);
            sums.resize(index.groups(), 0);
            for (&group, &diff) in groups.iter().zip(&part.diffs()) {
                let sum = &mut sums[group as usize];
                let forgotten = *sum != 0 && faults::active(Fault::ForgottenTwin);
                *sum += if forgotten { 0 } else { diff };
            }
        }
        if rows >= TELLING_ROWS && sums.len() > rows / 2 {
            self.passing_by = TICKS_PASSED_BY;
        }
        let (distinct, diffs): (Vec<u32>, Vec<i64>) = (0..).zip(sums).filter(|(_, sum)| *sum != 0).unzip();
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), index.keys(&distinct));
        vec![Part::whole(Updates::new(
            rows.expect("rows of this schema went in"),
            diffs,
        ))]
    }

    fn state_rows(&self) -> usize {
        0
    }

    fn state_bytes(&self) -> usize {
        0
    }
}
