//! Streams the rows of cold files without a plan: to fill a view, or to replay what came in.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr, conjunction};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::prelude::SessionConfig;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};

use super::{Cold, SEQUENCE_COLUMN, TICK_COLUMN};
use crate::batch::failed;
use crate::problem::QueryError;

/// Rows as they are read.
pub type RowStream = BoxStream<'static, Result<RecordBatch, QueryError>>;

/// Rows whose time, or tick, lies in `from..to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// A column of times, dates or ticks.
    pub column: String,
    /// The first microsecond that counts.
    pub from_us: Option<i64>,
    /// The first that does not any more.
    pub to_us: Option<i64>,
}

impl Cold {
    /// Streams the rows of a span, in no particular order, with the columns of `schema`.
    ///
    /// What the files have beside, such as the tick of a row, is read if `schema` names it.
    ///
    /// # Errors
    /// When `span` names no column of `schema`; the stream tells what is damaged or missing.
    pub fn stream(&self, schema: &SchemaRef, span: Option<&Span>) -> Result<RowStream, QueryError> {
        let predicate = span.map(|span| predicate(schema, span)).transpose()?.flatten();
        let files = self.kept(schema, predicate.as_ref());
        let plan = self.filtered(schema, files, predicate).map_err(failed)?;
        let rows = plan.execute(0, Arc::new(TaskContext::default())).map_err(failed)?;
        Ok(rows.map_err(failed).boxed())
    }

    /// Streams raw input in the order it came, tick by tick, sorting in at most `bytes_max` of memory.
    ///
    /// Files hold ticks one after the other, so one is sorted at a time; one that does not
    /// fit is sorted with the help of a temporary file.
    ///
    /// # Errors
    /// When `schema` lacks [`TICK_COLUMN`] or [`SEQUENCE_COLUMN`].
    pub fn replay(&self, schema: &SchemaRef, span: Option<&Span>, bytes_max: usize) -> Result<RowStream, QueryError> {
        let predicate = span.map(|span| predicate(schema, span)).transpose()?.flatten();
        let order = [TICK_COLUMN, SEQUENCE_COLUMN]
            .into_iter()
            .map(|name| Ok(PhysicalSortExpr::new_default(column(schema, name)?)))
            .collect::<Result<Vec<_>, QueryError>>()?;
        let order = LexOrdering::new(order).ok_or_else(|| QueryError::Execution("nothing to sort by".to_owned()))?;
        let pool = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(bytes_max)));
        let mut config = SessionConfig::new();
        // Kept for merging what was put aside; by itself DataFusion keeps ten megabytes.
        config.options_mut().execution.sort_spill_reservation_bytes = bytes_max / 4;
        let context = TaskContext::default()
            .with_session_config(config)
            .with_runtime(pool.build_arc().map_err(failed)?);
        let context = Arc::new(context);
        let mut runs = Vec::new();
        for run in self.runs(self.kept(schema, predicate.as_ref())) {
            let plan = self.filtered(schema, run, predicate.clone()).map_err(failed)?;
            runs.push(SortExec::new(order.clone(), plan));
        }
        // A run is opened when the one before it has been read.
        let rows = stream::iter(runs)
            .map(move |run| run.execute(0, Arc::clone(&context)))
            .try_flatten();
        Ok(rows.map_err(failed).boxed())
    }

    fn filtered(
        &self,
        schema: &SchemaRef,
        files: Vec<usize>,
        predicate: Option<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let scan = self.shown(schema, files, None, predicate.clone(), None)?;
        match predicate {
            Some(predicate) => Ok(Arc::new(FilterExec::try_new(predicate, scan)?)),
            None => Ok(scan),
        }
    }

    /// Groups files so that every tick of a group comes before every tick of the next.
    fn runs(&self, mut files: Vec<usize>) -> Vec<Vec<usize>> {
        let ticks = |file: usize| self.files[file].ticks.unwrap_or((0, u64::MAX));
        files.sort_by_key(|file| ticks(*file));
        let mut runs: Vec<(Vec<usize>, u64)> = Vec::new();
        for file in files {
            let (first, last) = ticks(file);
            match runs.last_mut() {
                Some((run, end)) if first <= *end => {
                    run.push(file);
                    *end = last.max(*end);
                }
                _ => runs.push((vec![file], last)),
            }
        }
        runs.into_iter().map(|(run, _)| run).collect()
    }
}

fn column(schema: &SchemaRef, name: &str) -> Result<Arc<dyn PhysicalExpr>, QueryError> {
    let index = schema
        .index_of(name)
        .map_err(|_| QueryError::Execution(format!("history has no column \"{name}\"")))?;
    Ok(Arc::new(Column::new(name, index)))
}

/// Says a span as an expression; none where it has no end.
fn predicate(schema: &SchemaRef, span: &Span) -> Result<Option<Arc<dyn PhysicalExpr>>, QueryError> {
    let time = column(schema, &span.column)?;
    let data_type = time.data_type(schema).map_err(failed)?;
    let value = |time_us: i64| match &data_type {
        DataType::UInt64 => Ok(ScalarValue::UInt64(Some(u64::try_from(time_us).unwrap_or(0)))),
        other => super::from(time_us, other)
            .ok_or_else(|| QueryError::Execution(format!("column \"{}\" holds no times", span.column))),
    };
    let mut bounds: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
    for (op, bound) in [(Operator::GtEq, span.from_us), (Operator::Lt, span.to_us)] {
        if let Some(bound) = bound {
            let value = Arc::new(Literal::new(value(bound)?));
            bounds.push(Arc::new(BinaryExpr::new(Arc::clone(&time), op, value)));
        }
    }
    Ok((!bounds.is_empty()).then(|| conjunction(bounds)))
}
