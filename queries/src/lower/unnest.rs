//! Lowers `unnest` of lists; structs are read field by field by now.

use dataflows::plan::{AbsentList, ListUnnest, NodeId, Operator};
use datafusion::common::NullHandling;
use datafusion::logical_expr::Unnest;

use super::{Lowering, nullable};
use crate::problem::Problem;

impl Lowering<'_> {
    pub(super) fn unnest(&mut self, unnest: &Unnest) -> Result<NodeId, Problem> {
        let input = self.plan(&unnest.input)?;
        let lists = unnest
            .list_type_columns
            .iter()
            .map(|(column, list)| ListUnnest {
                column: *column,
                depth: list.depth,
            })
            .collect();
        let absent = match unnest.options.null_handling {
            NullHandling::Drop => AbsentList::Drop,
            NullHandling::Preserve => AbsentList::KeepNull,
            NullHandling::PreserveAndExpandEmpty => AbsentList::KeepEmpty,
        };
        let append_only = self.nodes[input].append_only;
        let schema = nullable(&unnest.schema);
        // A list may hold a value twice.
        Ok(self.node(
            Operator::Unnest { lists, absent },
            vec![input],
            schema,
            append_only,
            None,
        ))
    }
}
