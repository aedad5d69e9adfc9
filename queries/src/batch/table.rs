//! Executes a table function: hands all rows of its relations to the state that the incremental operator keeps.

use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use dataflows::{Updates, functions, nested};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{Distribution, EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, InputDistributionRequirements, PlanProperties,
    SendableRecordBatchStream,
};
use futures_util::{TryStreamExt, stream};

use crate::functions::kinds::table::Call;

#[derive(Clone, Debug)]
pub(super) struct TableExec {
    text: String,
    function: Arc<dyn functions::Table>,
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl TableExec {
    pub(super) fn new(call: &Call, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Self {
        let schema = Arc::new(call.schema.as_arrow().clone());
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        TableExec {
            text: call.text.clone(),
            function: Arc::clone(&call.function),
            inputs,
            schema,
            properties: Arc::new(properties),
        }
    }
}

/// Runs a function once, over relations that are all there.
fn run(
    function: &dyn functions::Table,
    relations: Vec<Vec<RecordBatch>>,
    schema: &SchemaRef,
) -> Result<Vec<RecordBatch>> {
    let changes: Vec<Vec<Updates>> = relations
        .into_iter()
        .map(|batches| batches.into_iter().map(Updates::inserts).collect())
        .collect();
    let told = function.state().apply(&changes);
    told.into_iter().map(|updates| repeated(&updates, schema)).collect()
}

/// Writes each row as often as it is there.
fn repeated(updates: &Updates, schema: &SchemaRef) -> Result<RecordBatch> {
    let rows = updates.diffs().iter().zip(0u64..);
    let rows: UInt64Array = rows
        .flat_map(|(diff, row)| std::iter::repeat_n(row, usize::try_from(*diff).unwrap_or(0)))
        .collect();
    let columns = updates.rows().columns().iter();
    let columns = columns
        .map(|column| take(column, &rows, None))
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let columns = nested::fitting(columns, schema);
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}

impl DisplayAs for TableExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "TableExec: {}", self.text)
    }
}

impl ExecutionPlan for TableExec {
    fn name(&self) -> &str {
        "TableExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition; self.inputs.len()])
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(TableExec {
            inputs,
            ..TableExec::clone(&self)
        }))
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let inputs = self.inputs.iter();
        let inputs = inputs
            .map(|input| input.execute(0, Arc::clone(&context)))
            .collect::<Result<Vec<_>>>()?;
        let (function, schema) = (Arc::clone(&self.function), Arc::clone(&self.schema));
        let told = async move {
            let mut relations = Vec::with_capacity(inputs.len());
            for input in inputs {
                relations.push(input.try_collect::<Vec<_>>().await?);
            }
            let batches = run(function.as_ref(), relations, &schema)?;
            Ok::<_, datafusion::error::DataFusionError>(stream::iter(batches.into_iter().map(Ok)))
        };
        let batches = stream::once(told).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            batches,
        )))
    }
}
