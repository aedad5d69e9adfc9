//! Table functions that are written elsewhere: whole relations in, one out, on one worker.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;

use super::ticked::TickOperator;
use crate::faults::{self, Fault};
use crate::functions::{Table, TableState};
use crate::nested;
use crate::parts::Part;
use crate::update::{Tick, Updates};

/// Runs the state of a table function tick by tick.
pub(crate) struct TableFunction {
    state: Box<dyn TableState>,
    schema: SchemaRef,
}

impl TableFunction {
    pub(crate) fn new(function: &dyn Table, schema: SchemaRef) -> Self {
        TableFunction {
            state: function.state(),
            schema,
        }
    }
}

impl TableFunction {
    /// Gives the function's columns the names they have in the plan.
    fn named(&self, updates: Updates) -> Updates {
        let (rows, diffs) = updates.into_parts();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let columns = nested::fitting(rows.columns().to_vec(), &self.schema);
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .expect("a table function tells the planned columns");
        Updates::new(rows, diffs)
    }
}

impl TickOperator for TableFunction {
    fn apply(&mut self, _tick: Tick, inputs: &mut [Vec<Part>]) -> Vec<Part> {
        let changes: Vec<Vec<Updates>> = inputs
            .iter_mut()
            .map(|parts| parts.drain(..).map(Part::into_updates).collect())
            .collect();
        let mut out = self.state.apply(&changes);
        if faults::active(Fault::StaleTable)
            && let Some(last) = out
                .iter_mut()
                .find(|updates| updates.diffs().iter().any(|diff| *diff < 0))
        {
            *last = last.slice(0, last.len() - 1);
        }
        out.into_iter()
            .map(|updates| Part::whole(self.named(updates)))
            .collect()
    }

    fn state_rows(&self) -> usize {
        self.state.rows()
    }

    fn state_bytes(&self) -> usize {
        self.state.bytes()
    }
}
