//! A relation's hot and cold rows as one table.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::config::TableParquetOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::{MemTable, TableType};
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, Operator};
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, conjunction};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::union::UnionExec;

use super::Cold;

/// Read last, so that one request mostly brings a file's footer and page index.
const FOOTER_BYTES: usize = 64 << 10;

/// What a plan scans: the files, then what is in memory.
#[derive(Debug)]
pub(crate) struct HotAndCold {
    schema: SchemaRef,
    hot: Arc<MemTable>,
    cold: Cold,
}

impl HotAndCold {
    pub(crate) fn new(hot: Arc<MemTable>, cold: &Cold) -> Self {
        HotAndCold {
            schema: hot.schema(),
            hot,
            cold: cold.clone(),
        }
    }
}

#[async_trait]
impl TableProvider for HotAndCold {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Filters are hints here: they stay in the plan above, and only pass over what they would drop.
    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = DFSchema::try_from(Arc::clone(&self.schema))?;
        let mut hints = Vec::with_capacity(filters.len());
        for filter in filters {
            hints.push(session.create_physical_expr(filter.clone(), &columns)?);
        }
        let predicate = (!hints.is_empty()).then(|| conjunction(hints));
        // Whoever filters needs more rows than are asked for.
        let limit = limit.filter(|_| predicate.is_none());
        let hot = self.hot.scan(session, projection, &[], limit).await?;
        let kept = self.cold.kept(&self.schema, predicate.as_ref());
        if kept.is_empty() {
            return Ok(hot);
        }
        let cold = self.cold.shown(&self.schema, kept, projection, predicate, limit)?;
        UnionExec::try_new(vec![cold, hot])
    }
}

impl Cold {
    /// Returns the places of the files in which a predicate may hold of some row.
    pub(super) fn kept(&self, schema: &SchemaRef, predicate: Option<&Arc<dyn PhysicalExpr>>) -> Vec<usize> {
        let is_over = |file: usize| match (self.from_us, self.files[file].time_us) {
            (Some(from), Some((_, last))) => last < from,
            _ => false,
        };
        let all = (0..self.files.len()).filter(|file| !is_over(*file));
        let Some(predicate) = predicate else {
            return all.collect();
        };
        let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema));
        let may_hold = builder
            .try_build(Arc::clone(predicate))
            .and_then(|pruning| pruning.prune(&self.prunable(schema)));
        match may_hold {
            Ok(may_hold) => all.filter(|file| may_hold[*file]).collect(),
            // It cannot be said of whole files; of row groups or pages, perhaps.
            Err(_) => all.collect(),
        }
    }

    /// Scans some of the files, but for rows that are kept no longer.
    pub(super) fn shown(
        &self,
        schema: &SchemaRef,
        files: Vec<usize>,
        projection: Option<&Vec<usize>>,
        predicate: Option<Arc<dyn PhysicalExpr>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let time = self.time.as_ref().and_then(|time| schema.index_of(time).ok());
        let (Some(from_us), Some(time)) = (self.from_us, time) else {
            return self.scan(schema, files, projection, predicate, limit);
        };
        let is_whole = |file: &usize| self.files[*file].time_us.is_some_and(|(first, _)| first >= from_us);
        if files.iter().all(is_whole) {
            return self.scan(schema, files, projection, predicate, limit);
        }
        let all = (0..schema.fields().len()).collect();
        let wanted = projection.unwrap_or(&all);
        let mut columns = wanted.clone();
        let place = columns.iter().position(|column| *column == time).unwrap_or_else(|| {
            columns.push(time);
            columns.len() - 1
        });
        let field = schema.field(time);
        let Some(from) = super::from(from_us, field.data_type()) else {
            return self.scan(schema, files, projection, predicate, limit);
        };
        let is_kept = |column: usize| -> Arc<dyn PhysicalExpr> {
            let column = Arc::new(Column::new(field.name(), column));
            Arc::new(BinaryExpr::new(
                column,
                Operator::GtEq,
                Arc::new(Literal::new(from.clone())),
            ))
        };
        let hint = conjunction(predicate.into_iter().chain([is_kept(time)]));
        let scan = self.scan(schema, files, Some(&columns), Some(hint), None)?;
        let kept = Arc::new(FilterExec::try_new(is_kept(place), scan)?);
        if columns.len() == wanted.len() {
            return Ok(kept);
        }
        let shown = wanted.iter().enumerate().map(|(place, column)| {
            let name = schema.field(*column).name();
            ProjectionExpr::new(
                Arc::new(Column::new(name, place)) as Arc<dyn PhysicalExpr>,
                name.clone(),
            )
        });
        Ok(Arc::new(ProjectionExec::try_new(shown.collect::<Vec<_>>(), kept)?))
    }

    /// Scans some of the files, in one partition, in their order.
    pub(super) fn scan(
        &self,
        schema: &SchemaRef,
        files: Vec<usize>,
        projection: Option<&Vec<usize>>,
        predicate: Option<Arc<dyn PhysicalExpr>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let statistics = self.statistics(schema);
        let files = files.into_iter().map(|file| {
            let statistics = Arc::clone(&statistics[file]);
            let file = &self.files[file];
            PartitionedFile::new(file.path.as_str(), file.bytes).with_statistics(statistics)
        });
        let mut options = TableParquetOptions::default();
        // Row filters would evaluate what only the plan above may: some expressions fail.
        options.global.pushdown_filters = false;
        options.global.pruning = true;
        options.global.enable_page_index = true;
        options.global.bloom_filter_on_read = false;
        let mut source = ParquetSource::new(Arc::clone(schema))
            .with_table_parquet_options(options)
            .with_metadata_size_hint(FOOTER_BYTES)
            .with_parquet_file_reader_factory(Arc::clone(&self.reader) as _);
        if let Some(predicate) = predicate {
            source = source.with_predicate(predicate);
        }
        // The reader knows its store; the address, which every session has, goes unused.
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
            .with_file_group(FileGroup::new(files.collect()))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}
