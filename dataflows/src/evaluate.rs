//! Evaluates expressions over a batch and sets the rows apart on which they fail.
//!
//! A row fails if and only if an expression fails on a batch of that one row.
//! DataFusion's short-circuiting looks at the whole batch, so a batch may fail
//! although none of its rows does: a failing batch is halved until its parts
//! succeed or are single rows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::concat;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;

/// What evaluating a list of expressions over a batch came to.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// One column an expression, over the rows that did not fail, in order.
    pub columns: Vec<ArrayRef>,
    /// The positions of the rows that did not fail; none when no row failed.
    pub rows: Option<UInt32Array>,
    /// The rows that failed, in order.
    pub failed: Vec<Failed>,
}

/// A row on which an expression fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The row's position in the batch.
    pub row: usize,
    /// The text of the first expression that fails on it.
    pub expression: String,
    /// Why, in one line: the error of evaluating the row alone.
    pub reason: String,
}

/// A stretch of rows over which every expression succeeds at once.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The first row.
    pub start: usize,
    /// The number of rows.
    pub length: usize,
    /// One column an expression.
    pub columns: Vec<ArrayRef>,
}

/// Evaluates `expressions`, which are known by `texts`, over `batch`.
///
/// Costs one evaluation of each expression when nothing fails.
pub fn evaluate(expressions: &[Arc<dyn PhysicalExpr>], texts: &[String], batch: &RecordBatch) -> Evaluated {
    let (mut pieces, failed) = pieces(expressions, texts, batch);
    if failed.is_empty() && pieces.len() == 1 {
        let columns = pieces.pop().map(|piece| piece.columns).unwrap_or_default();
        return Evaluated {
            columns,
            rows: None,
            failed,
        };
    }
    let columns = (0..expressions.len())
        .map(|column| {
            let parts: Vec<&dyn Array> = pieces.iter().map(|piece| piece.columns[column].as_ref()).collect();
            match parts.as_slice() {
                // The type is all that is asked for when every row failed.
                [] => empty(&expressions[column], batch),
                parts => concat(parts).expect("the pieces of a column have one type"),
            }
        })
        .collect();
    let rows = (!failed.is_empty()).then(|| {
        pieces
            .iter()
            .flat_map(|piece| piece.start as u32..(piece.start + piece.length) as u32)
            .collect::<Vec<_>>()
            .into()
    });
    Evaluated { columns, rows, failed }
}

/// Evaluates `expressions` over `batch` and keeps the pieces apart that succeeded as a whole.
///
/// Evaluating an expression over a piece's rows again succeeds again, which it
/// need not over several pieces together.
pub fn pieces(
    expressions: &[Arc<dyn PhysicalExpr>],
    texts: &[String],
    batch: &RecordBatch,
) -> (Vec<Piece>, Vec<Failed>) {
    let mut pieces = Vec::new();
    let mut failed = Vec::new();
    // Later halves wait on the stack, so that rows are met in order.
    let mut waiting = vec![(0, batch.num_rows())];
    while let Some((start, length)) = waiting.pop() {
        let part = if length == batch.num_rows() {
            batch.clone()
        } else {
            batch.slice(start, length)
        };
        match evaluate_all(expressions, &part) {
            Ok(columns) => pieces.push(Piece { start, length, columns }),
            Err((expression, reason)) if length <= 1 => {
                // Constants that fail do so without rows, too: then there is no row to blame.
                if length == 1 {
                    failed.push(Failed {
                        row: start,
                        expression: texts[expression].clone(),
                        reason,
                    });
                }
            }
            Err(_) => {
                let half = length / 2;
                waiting.push((start + half, length - half));
                waiting.push((start, half));
            }
        }
    }
    (pieces, failed)
}

/// Returns what went wrong in one line, without the noise around it.
pub fn reason(error: &DataFusionError) -> String {
    let text = match error.find_root() {
        // Debug formats of arrow errors are not for people.
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            ArrowError::DivideByZero => "divide by zero".to_owned(),
            ArrowError::ComputeError(text)
            | ArrowError::CastError(text)
            | ArrowError::ParseError(text)
            | ArrowError::ArithmeticOverflow(text)
            | ArrowError::InvalidArgumentError(text) => text.clone(),
            other => other.to_string(),
        },
        other => other.message().into_owned(),
    };
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// Evaluates all or tells which expression failed first and why.
fn evaluate_all(expressions: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Vec<ArrayRef>, (usize, String)> {
    let mut columns = Vec::with_capacity(expressions.len());
    for (position, expression) in expressions.iter().enumerate() {
        // A kernel that panics on some value must not take a worker with it.
        let result = catch_unwind(AssertUnwindSafe(|| {
            expression
                .evaluate(batch)
                .and_then(|value| value.into_array(batch.num_rows()))
        }));
        match result {
            Ok(Ok(column)) if column.len() == batch.num_rows() => columns.push(column),
            Ok(Ok(column)) => {
                let reason = format!("gave {} values for {} rows", column.len(), batch.num_rows());
                return Err((position, reason));
            }
            Ok(Err(error)) => return Err((position, reason(&error))),
            Err(panic) => return Err((position, panic_text(panic.as_ref()))),
        }
    }
    Ok(columns)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown".to_owned());
    format!("the function panicked: {}", text.lines().next().unwrap_or_default())
}

fn empty(expression: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> ArrayRef {
    let data_type = expression
        .data_type(&batch.schema())
        .unwrap_or(arrow::datatypes::DataType::Null);
    arrow::array::new_empty_array(&data_type)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, cast::AsArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{binary, col, lit};

    use super::*;

    fn batch(values: Vec<Option<i64>>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, true)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(values))]).unwrap()
    }

    fn inverse(schema: &Schema) -> Arc<dyn PhysicalExpr> {
        binary(lit(100i64), Operator::Divide, col("x", schema).unwrap(), schema).unwrap()
    }

    #[test]
    fn sets_failing_rows_apart() {
        let batch = batch(vec![Some(5), Some(0), None, Some(4), Some(0)]);
        let expressions = [inverse(&batch.schema())];
        let evaluated = evaluate(&expressions, &["100 / x".to_owned()], &batch);
        let values: Vec<_> = evaluated.columns[0].as_primitive::<Int64Type>().iter().collect();
        assert_eq!(values, [Some(20), None, Some(25)]);
        assert_eq!(evaluated.rows.unwrap().values(), &[0, 2, 3]);
        let failed: Vec<_> = evaluated.failed.iter().map(|failed| failed.row).collect();
        assert_eq!(failed, [1, 4]);
        assert_eq!(evaluated.failed[0].expression, "100 / x");
        assert_eq!(evaluated.failed[0].reason, "divide by zero");
    }

    #[test]
    fn a_guarded_row_does_not_fail_although_its_batch_does() {
        let batch = batch(vec![Some(0), Some(5), Some(0), Some(4), Some(3), Some(2)]);
        let schema = batch.schema();
        let guard = binary(col("x", &schema).unwrap(), Operator::NotEq, lit(0i64), &schema).unwrap();
        let over = binary(inverse(&schema), Operator::Gt, lit(1i64), &schema).unwrap();
        let predicate = binary(guard, Operator::And, over, &schema).unwrap();
        assert!(predicate.evaluate(&batch).is_err());
        let evaluated = evaluate(&[predicate], &["guarded".to_owned()], &batch);
        assert!(evaluated.failed.is_empty());
        assert!(evaluated.rows.is_none());
        assert_eq!(evaluated.columns[0].as_boolean().true_count(), 4);
    }

    #[test]
    fn all_rows_may_fail() {
        let batch = batch(vec![Some(0), Some(0)]);
        let evaluated = evaluate(&[inverse(&batch.schema())], &["inverse".to_owned()], &batch);
        assert_eq!(evaluated.columns[0].len(), 0);
        assert_eq!(evaluated.columns[0].data_type(), &DataType::Int64);
        assert_eq!(evaluated.failed.len(), 2);
    }
}
