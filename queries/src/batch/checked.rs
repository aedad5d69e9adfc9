//! Executes `Checked`: passes rows on in pieces over which every expression succeeds.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use dataflows::evaluate::pieces;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use futures_util::{StreamExt, TryStreamExt, stream};

#[derive(Clone, Debug)]
pub(super) struct CheckedExec {
    pub(super) expressions: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) texts: Vec<String>,
    pub(super) input: Arc<dyn ExecutionPlan>,
}

impl CheckedExec {
    /// Splits a batch; what fails is left out.
    fn split(&self, batch: &RecordBatch) -> Vec<RecordBatch> {
        let (pieces, _) = pieces(&self.expressions, &self.texts, batch);
        pieces
            .into_iter()
            .map(|piece| batch.slice(piece.start, piece.length))
            .collect()
    }
}

impl DisplayAs for CheckedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "CheckedExec: {}", self.texts.join(", "))
    }
}

impl ExecutionPlan for CheckedExec {
    fn name(&self) -> &str {
        "CheckedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for expression in &self.expressions {
            if f(expression)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(CheckedExec {
            input: children.swap_remove(0),
            ..CheckedExec::clone(&self)
        }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let checked = self.clone();
        let batches = input
            .map_ok(move |batch| stream::iter(checked.split(&batch)).map(Ok))
            .try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.input.schema(), batches)))
    }
}
