//! Lowers rows that are written out, and evaluates what never changes.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::Schema;
use dataflows::evaluate::evaluate;
use dataflows::nested;
use dataflows::plan::{Expression, NodeId};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::Values;

use super::{Lowering, nullable, unexpected};
use crate::problem::Problem;

impl Lowering<'_> {
    pub(super) fn values(&mut self, values: &Values) -> Result<NodeId, Problem> {
        let schema = nullable(&values.schema);
        let one_row = RecordBatch::try_new_with_options(
            Arc::new(Schema::empty()),
            vec![],
            &RecordBatchOptions::new().with_row_count(Some(1)),
        )
        .map_err(unexpected)?;
        let mut columns = Vec::with_capacity(schema.fields().len());
        for (index, field) in schema.fields().iter().enumerate() {
            let mut column = Vec::with_capacity(values.values.len());
            for row in &values.values {
                let expression = self.expression(&row[index], &DFSchema::empty(), field.clone())?;
                let (value, _) = constant_columns(&[expression], &one_row)?;
                column.push(ScalarValue::try_from_array(&value[0], 0)?);
            }
            columns.push(ScalarValue::iter_to_array(column)?);
        }
        let rows = RecordBatch::try_new(schema, columns).map_err(unexpected)?;
        Ok(self.constant(rows))
    }
}

/// Evaluates expressions over rows that never change.
pub(super) fn constant_columns(
    expressions: &[Expression],
    rows: &RecordBatch,
) -> Result<(Vec<ArrayRef>, usize), Problem> {
    let physical: Vec<_> = expressions
        .iter()
        .map(|expression| expression.physical.clone())
        .collect();
    let texts: Vec<_> = expressions.iter().map(|expression| expression.text.clone()).collect();
    let evaluated = evaluate(&physical, &texts, rows);
    if let Some(failed) = evaluated.failed.first() {
        return Err(Problem::new(format!("{} fails: {}", failed.expression, failed.reason)));
    }
    let schema = Arc::new(Schema::new(
        expressions
            .iter()
            .map(|expression| expression.field.clone())
            .collect::<Vec<_>>(),
    ));
    Ok((nested::fitting(evaluated.columns, &schema), rows.num_rows()))
}
