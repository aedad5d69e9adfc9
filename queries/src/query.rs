//! Answers ad-hoc SQL over one tick of sources, views and system tables.
//!
//! A query shares the views' rules, functions and rewrites. A row on which an
//! expression fails fails the query: nobody would see that it is missing.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use dataflows::Tick;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;

use crate::batch::{Relations, execute_within, failed, over, with_schema};
use crate::catalog::{Catalog, relation_name};
use crate::problem::{Problem, QueryError};
use crate::rewrites::{self, temporal, windows};
use crate::travel::AsOf;
use crate::view::{deep, located, optimise};

/// A checked query, ready to run over any tick.
#[derive(Clone, Debug)]
pub struct Query {
    logical: LogicalPlan,
    relations: Vec<String>,
    as_of: Vec<AsOf>,
}

impl Query {
    /// Returns the relations it reads, system tables by their whole names.
    pub fn relations(&self) -> &[String] {
        &self.relations
    }

    /// Returns the relations it reads as they were at earlier times.
    pub fn as_of(&self) -> &[AsOf] {
        &self.as_of
    }
}

impl Catalog {
    /// Checks a query.
    ///
    /// # Errors
    /// When it is not one `SELECT`, or cannot be planned.
    pub fn plan_query(&self, sql: &str) -> Result<Query, Problem> {
        deep(|| self.planned_query(sql, None))
    }

    /// The same, where earlier times may be told by how long before `now` they were.
    ///
    /// # Errors
    /// As [`plan_query`](Self::plan_query).
    pub fn plan_query_at(&self, sql: &str, now: Tick) -> Result<Query, Problem> {
        deep(|| self.planned_query(sql, Some(now)))
    }

    fn planned_query(&self, sql: &str, now: Option<Tick>) -> Result<Query, Problem> {
        let mut statement = self.parse(sql)?;
        let as_of = self
            .settle(&mut statement, now)
            .map_err(|problem| located(problem, sql))?;
        let session = self.session();
        let planned = self.logical_query(&session, statement).and_then(windows::first_rows);
        let logical = planned.map_err(|error| located(error.into(), sql))?;
        // The tick decides the plan that runs; this one says whether there will be one.
        optimise(&session, logical.clone())
            .and_then(|plan| rewrites::query(plan, self.zone()))
            .map_err(|error| located(error.into(), sql))?;
        let mut relations = Vec::new();
        logical
            .apply_with_subqueries(|plan| {
                if let LogicalPlan::TableScan(scan) = plan {
                    let name = relation_name(&scan.table_name);
                    if self.relation(&name).is_some() && !relations.contains(&name) {
                        relations.push(name);
                    }
                }
                Ok(TreeNodeRecursion::Continue)
            })
            .map_err(Problem::from)?;
        Ok(Query {
            logical,
            relations,
            as_of,
        })
    }

    /// Runs a query over the rows of its relations, with `now()` at `tick`, in at most `bytes_max` of memory.
    ///
    /// # Errors
    /// When a relation is missing, an expression fails or the result is too large.
    pub async fn run_query(
        &self,
        query: &Query,
        relations: &Relations,
        tick: Tick,
        bytes_max: usize,
    ) -> Result<(SchemaRef, Vec<RecordBatch>), QueryError> {
        let mut session = self.session();
        // The functions of the moment that are not ours, such as current_date.
        session.execution_props_mut().query_execution_start_time = chrono::DateTime::from_timestamp_micros(tick as i64);
        let plan = temporal::at_tick(query.logical.clone(), tick as i64, self.zone())
            .and_then(|plan| optimise(&session, plan))
            .and_then(|plan| rewrites::query(plan, self.zone()))
            .map_err(failed)?;
        let plan = over(plan, relations)?;
        let schema = unique(plan.schema().as_arrow());
        let batches = execute_within(&session, &plan, bytes_max).await?;
        let batches = batches
            .into_iter()
            .map(|batch| with_schema(batch, &schema))
            .collect::<Result<_, _>>()?;
        Ok((schema, batches))
    }
}

/// Numbers columns of one name, so that each can be told: `x`, `x_2`.
fn unique(schema: &Schema) -> SchemaRef {
    let mut names: Vec<String> = Vec::new();
    let fields = schema.fields().iter().map(|field| {
        let mut name = field.name().clone();
        let mut count = 1;
        while names.contains(&name) {
            count += 1;
            name = format!("{}_{count}", field.name());
        }
        names.push(name.clone());
        field.as_ref().clone().with_name(name).with_nullable(true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
