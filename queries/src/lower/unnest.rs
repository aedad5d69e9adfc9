//! Lowers `unnest` of lists; structs are read field by field by now.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use dataflows::plan::{AbsentList, ListUnnest, NodeId, Operator};
use datafusion::common::{Column, DFSchema, NullHandling};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, LogicalPlan, Unnest};

use super::{Lowering, column_expression, moved, nullable, text};
use crate::functions::time_windows;
use crate::problem::Problem;

impl Lowering<'_> {
    pub(super) fn unnest(&mut self, unnest: &Unnest) -> Result<NodeId, Problem> {
        let input = match self.in_windows(unnest)? {
            Some(input) => input,
            None => self.plan(&unnest.input)?,
        };
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

    /// Lowers rows beside the list of the windows they are in; none where there is no such list.
    ///
    /// Of a tick's rows many are in the same windows, and once the time is as coarse as the windows have it, they are
    /// equal but for what else is read of them: one of each is enough to be told once for every window.
    fn in_windows(&mut self, unnest: &Unnest) -> Result<Option<NodeId>, Problem> {
        let (LogicalPlan::Projection(made), [(list, _)]) = (unnest.input.as_ref(), &unnest.list_type_columns[..])
        else {
            return Ok(None);
        };
        let Expr::ScalarFunction(edges) = made.expr[*list].clone().unalias() else {
            return Ok(None);
        };
        let schema = nullable(&made.schema);
        let mut others = schema.fields().iter().enumerate().filter(|(column, _)| column != list);
        let (Some(grain), Some((time, rest))) = (time_windows::grain_of_edges(&edges.func), edges.args.split_first())
        else {
            return Ok(None);
        };
        if self.around.is_some() || others.any(|(_, field)| field.data_type().is_nested()) {
            return Ok(None);
        }
        let input = self.plan(&made.input)?;
        let below = made.input.schema();
        let coarse = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(grain), vec![time.clone()]));
        let name = text(time);
        let mut expressions = Vec::with_capacity(made.expr.len());
        for (column, (expression, field)) in made.expr.iter().zip(schema.fields()).enumerate() {
            expressions.push(match column == *list {
                true => {
                    let field = Field::new(&name, time_type(field), true);
                    self.expression(&coarse, below, Arc::new(field))?
                }
                false => self.expression(expression, below, Arc::clone(field))?,
            });
        }
        let projected = self.project(input, expressions);
        let coarse = Arc::clone(&self.nodes[projected].schema);
        let append_only = self.nodes[projected].append_only;
        let node = self.node(
            Operator::Consolidate,
            vec![projected],
            Arc::clone(&coarse),
            append_only,
            None,
        );
        let mut expressions: Vec<_> = (0..made.expr.len())
            .map(|column| column_expression(&coarse, column))
            .collect();
        let alone = Schema::new(vec![Arc::clone(&coarse.fields()[*list])]);
        let time = Expr::Column(Column::new_unqualified(name));
        let arguments = [&[time][..], rest].concat();
        let edges = Expr::ScalarFunction(ScalarFunction::new_udf(edges.func, arguments));
        let mut edges = self.expression(&edges, &DFSchema::try_from(alone)?, Arc::clone(&schema.fields()[*list]))?;
        edges.physical = moved(&edges.physical, &[*list], &coarse);
        expressions[*list] = edges;
        Ok(Some(self.project(node, expressions)))
    }
}

/// The type of the times in a list.
fn time_type(list: &Field) -> DataType {
    match list.data_type() {
        DataType::List(item) => item.data_type().clone(),
        other => other.clone(),
    }
}
