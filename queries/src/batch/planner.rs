//! Plans the nodes that the rewrites add.

use std::sync::Arc;

use arrow::compute::SortOptions;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::error::Result;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};

use super::checked::CheckedExec;
use super::ordered::OrderedExec;
use super::table::TableExec;
use crate::functions::kinds::table::Call;
use crate::rewrites::checked::Checked;
use crate::rewrites::ordered::Ordered;
use crate::text::text;

/// Plans `Checked`, `Ordered` and calls of table functions.
pub(super) struct Planner;

#[async_trait]
impl ExtensionPlanner for Planner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if let Some(call) = node.as_any().downcast_ref::<Call>() {
            return Ok(Some(Arc::new(TableExec::new(call, physical_inputs.to_vec()))));
        }
        let [logical, ..] = logical_inputs else { return Ok(None) };
        let physical = |expression| planner.create_physical_expr(expression, logical.schema(), session, context);
        let input = Arc::clone(&physical_inputs[0]);
        if let Some(checked) = node.as_any().downcast_ref::<Checked>() {
            let expressions = checked.expressions.iter().map(physical).collect::<Result<Vec<_>>>()?;
            return Ok(Some(Arc::new(CheckedExec {
                expressions,
                texts: checked.expressions.iter().map(text).collect(),
                input,
            })));
        }
        let Some(ordered) = node.as_any().downcast_ref::<Ordered>() else {
            return Ok(None);
        };
        let mut keys = Vec::with_capacity(ordered.keys.len());
        for key in &ordered.keys {
            let options = SortOptions {
                descending: !key.asc,
                nulls_first: key.nulls_first,
            };
            keys.push(PhysicalSortExpr::new(physical(&key.expr)?, options));
        }
        Ok(match LexOrdering::new(keys) {
            Some(ordering) => Some(Arc::new(OrderedExec::new(ordering, input))),
            None => Some(input),
        })
    }
}
