//! Executes shared plans with DataFusion, over given rows at a given tick.

mod checked;
mod opaque;
mod ordered;
mod planner;
mod table;
mod windows;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use dataflows::{Tick, nested};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::Transformed;
use datafusion::datasource::{MemTable, provider_as_source, source_as_provider};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::combine_partial_final_agg::CombinePartialFinalAggregate;
use datafusion::physical_optimizer::ensure_requirements::EnsureRequirements;
use datafusion::physical_plan::{ExecutionPlan, collect, execute_stream};
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures_util::StreamExt;

use crate::catalog::{Catalog, register, relation_name};
use crate::cold::{Cold, HotAndCold, hints};
use crate::parsing;
use crate::problem::{Problem, QueryError};
use crate::rewrites::plain_types::plain;
use crate::rewrites::temporal;
use crate::view::View;
use windows::WholePartitions;

/// The rows of relations at one tick, by name.
pub type Relations = HashMap<String, Relation>;

/// The rows of one relation at one tick.
#[derive(Clone, Debug)]
pub struct Relation {
    /// Its columns.
    pub schema: SchemaRef,
    /// The rows in memory.
    pub batches: Vec<RecordBatch>,
    /// The rows that are in files, none of them in memory, too, but before [`Cold::with_hot_from`].
    pub cold: Option<Cold>,
}

impl From<(SchemaRef, Vec<RecordBatch>)> for Relation {
    fn from((schema, batches): (SchemaRef, Vec<RecordBatch>)) -> Self {
        Relation {
            schema,
            batches,
            cold: None,
        }
    }
}

impl Catalog {
    /// Executes a view's own shared plan over the rows of its inputs, with `now()` at `tick`.
    ///
    /// # Errors
    /// When an input is missing or DataFusion gives up; failing rows are no error.
    pub async fn batch(&self, view: &View, inputs: &Relations, tick: Tick) -> Result<Vec<RecordBatch>, QueryError> {
        let plan = temporal::at_tick(view.logical.clone(), tick as i64, self.zone()).map_err(failed)?;
        let plan = over(plan, inputs)?;
        let batches = execute(self.session_for_views(), &plan).await?;
        batches
            .into_iter()
            .map(|batch| with_schema(batch, &view.schema))
            .collect()
    }

    /// Executes a text with plain DataFusion, stock rules and aggregates, as a second oracle.
    ///
    /// # Errors
    /// When a relation is missing or DataFusion gives up, on failing rows too.
    pub async fn plain_batch(&self, sql: &str, inputs: &Relations, tick: Tick) -> Result<Vec<RecordBatch>, QueryError> {
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().execution.time_zone = Some(self.time_zone().to_owned());
        config.options_mut().sql_parser.map_string_types_to_utf8view = false;
        let context = SessionContext::new_with_config(config);
        let mut session = context.state();
        register(&mut session);
        session.execution_props_mut().query_execution_start_time = chrono::DateTime::from_timestamp_micros(tick as i64);
        let statement = parsing::statement(sql).map_err(failed)?;
        let plan = self.logical(&session, statement).map_err(failed)?;
        let plan = over(plan, inputs)?;
        let plan = session.create_physical_plan(&plan).await.map_err(failed)?;
        let batches = collect(plan, session.task_ctx()).await.map_err(failed)?;
        batches.into_iter().map(|batch| self.with_plain_types(batch)).collect()
    }

    /// Casts what DataFusion chose otherwise to the types that leave a view.
    fn with_plain_types(&self, batch: RecordBatch) -> Result<RecordBatch, QueryError> {
        let unfit = |error: arrow::error::ArrowError| QueryError::Execution(error.to_string());
        let mut fields = Vec::with_capacity(batch.num_columns());
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let data_type = plain(field.data_type(), self.zone()).unwrap_or_else(|| field.data_type().clone());
            let data_type = nested::nullable(&data_type);
            columns.push(arrow::compute::cast(column, &data_type).map_err(unfit)?);
            fields.push(Field::new(field.name(), data_type, true));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).map_err(unfit)
    }
}

/// Builds the session that runs views' plans.
pub(crate) fn session_for_views(session: SessionState) -> SessionState {
    SessionStateBuilder::new_from_existing(session)
        .with_physical_optimizer_rules(rules_for_views())
        .build()
}

/// What a view's plan needs to run, and nothing that moves expressions about.
fn rules_for_views() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    vec![
        Arc::new(CombinePartialFinalAggregate::new()),
        Arc::new(EnsureRequirements::new()),
        Arc::new(WholePartitions),
    ]
}

/// Puts the rows under the plan's scans.
pub(crate) fn over(plan: LogicalPlan, relations: &Relations) -> Result<LogicalPlan, QueryError> {
    let mut missing = None;
    let is_cold = relations.values().any(|relation| relation.cold.is_some());
    let plan = if is_cold {
        hints::hinted(plan).map_err(failed)?
    } else {
        plan
    };
    let plan = plan.transform_up_with_subqueries(|plan| {
        let LogicalPlan::TableScan(scan) = plan else {
            return Ok(Transformed::no(plan));
        };
        // Table functions and work tables bring their rows along.
        if source_as_provider(&scan.source).is_ok() {
            return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
        }
        let name = relation_name(&scan.table_name);
        let Some(relation) = relations.get(&name) else {
            missing = Some(name);
            return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
        };
        // The plan was made for the catalog's columns, nullability included.
        let table = table(&name, &scan.source.schema(), relation)
            .map_err(|error| datafusion::error::DataFusionError::Execution(error.to_string()))?;
        let builder = TableScanBuilder::new(scan.table_name, provider_as_source(table))
            .with_projection(scan.projection)
            .with_filters(scan.filters)
            .with_fetch(scan.fetch);
        Ok(Transformed::yes(LogicalPlan::TableScan(builder.build()?)))
    });
    match missing {
        Some(name) => Err(QueryError::MissingRelation(name)),
        None => Ok(plan.map_err(failed)?.data),
    }
}

fn table(name: &str, schema: &SchemaRef, relation: &Relation) -> Result<Arc<dyn TableProvider>, QueryError> {
    let unfit = |error: DataFusionError| {
        QueryError::Execution(format!(
            "the rows of \"{name}\" do not fit its columns: {}",
            Problem::from(error)
        ))
    };
    let mut batches = Vec::with_capacity(relation.batches.len());
    for batch in &relation.batches {
        let batch = with_schema(batch.clone(), schema)?;
        batches.push(match &relation.cold {
            Some(cold) => cold.hot(batch).map_err(|error| unfit(error.into()))?,
            None => batch,
        });
    }
    let hot = Arc::new(MemTable::try_new(schema.clone(), vec![batches]).map_err(unfit)?);
    Ok(match &relation.cold {
        Some(cold) => Arc::new(HotAndCold::new(hot, cold)),
        None => hot,
    })
}

/// Executes an optimised logical plan.
pub(crate) async fn execute(session: &SessionState, plan: &LogicalPlan) -> Result<Vec<RecordBatch>, QueryError> {
    let physical = physical(session, plan).await.map_err(failed)?;
    collect(physical, session.task_ctx()).await.map_err(failed)
}

pub(crate) async fn physical(
    session: &SessionState,
    plan: &LogicalPlan,
) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
    let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(planner::Planner)]);
    planner
        .create_physical_plan(&opaque::opaque(plan.clone())?, session)
        .await
}

/// Executes an optimised logical plan that may neither use nor return more than `bytes_max`.
pub(crate) async fn execute_within(
    session: &SessionState,
    plan: &LogicalPlan,
    bytes_max: usize,
) -> Result<Vec<RecordBatch>, QueryError> {
    let physical = physical(session, plan).await.map_err(failed)?;
    let memory = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(GreedyMemoryPool::new(bytes_max)));
    let context = TaskContext::from(session).with_runtime(memory.build_arc().map_err(failed)?);
    let exceeded = |error: DataFusionError| match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => QueryError::TooLarge { bytes_max },
        _ => failed(error),
    };
    let mut stream = execute_stream(physical, Arc::new(context)).map_err(failed)?;
    let mut batches: Vec<RecordBatch> = Vec::new();
    let mut bytes = 0;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(exceeded)?;
        // Counted as it comes: a result without an end must not fill the memory first.
        bytes += batch.get_array_memory_size();
        if bytes > bytes_max {
            return Err(QueryError::TooLarge { bytes_max });
        }
        batches.push(batch);
    }
    Ok(batches)
}

/// Puts a batch's columns under another schema of the same types.
pub(crate) fn with_schema(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, QueryError> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = nested::fitting(batch.columns().to_vec(), schema);
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .map_err(|error| QueryError::Execution(error.to_string()))
}

pub(crate) fn failed(error: datafusion::error::DataFusionError) -> QueryError {
    QueryError::Execution(Problem::from(error).what)
}
