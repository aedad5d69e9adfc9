//! Filters and projections, fused into one stateless operator.

use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{filter, filter_record_batch, prep_null_mask_filter, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator as _;

use super::{Rows, SharedCell, register};
use crate::evaluate::{Evaluated, evaluate};
use crate::json::RowEncoder;
use crate::later::quickened;
use crate::nested;
use crate::parts::{Part, Parts};
use crate::plan::Expression;
use crate::update::{Tick, Updates};

/// One step over a batch.
#[derive(Clone)]
pub(crate) enum Stage {
    /// Keeps the rows for which the expression is true.
    Filter(Expression),
    /// Replaces the columns.
    Project(Vec<Expression>, SchemaRef),
}

/// A stage with what evaluating it needs, prepared once.
pub(super) struct Prepared {
    pub(super) stage: Stage,
    pub(super) physical: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) texts: Vec<String>,
}

/// Returns the columns of the error rows a dataflow emits.
pub fn error_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("expression", DataType::Utf8, false),
        Field::new("row", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, false),
    ]))
}

/// Applies stages in order.
///
/// State: none. A row on which an expression fails leaves the stream there and
/// stands among the errors with the same diff, so that taking the row back takes
/// the error back.
pub(crate) fn linear<'scope>(name: &str, input: Rows<'scope>, stages: Vec<Stage>, shared: &SharedCell) -> Rows<'scope> {
    let stats = register(shared, name);
    let shared = Rc::clone(shared);
    let stages: Vec<Prepared> = stages.into_iter().map(Prepared::new).collect();
    input.unary::<CapacityContainerBuilder<Parts>, _, _, _>(Pipeline, name, move |_, _| {
        move |input, output| {
            input.for_each(|capability, parts| {
                let mut rows_in = 0;
                let mut rows_out = 0;
                let mut changed = Vec::with_capacity(parts.0.len());
                for part in parts.0.drain(..) {
                    rows_in += part.len();
                    let updates = stages.iter().try_fold(part.into_updates(), |updates, stage| {
                        stage.apply(updates, *capability.time(), &shared)
                    });
                    if let Some(updates) = updates {
                        rows_out += updates.len();
                        changed.push(Part::whole(updates));
                    }
                }
                if !changed.is_empty() {
                    output.session(&capability).give_container(&mut Parts(changed));
                }
                let stats = &mut shared.borrow_mut().stats[stats];
                stats.rows_in += rows_in as u64;
                stats.rows_out += rows_out as u64;
            });
        }
    })
}

impl Prepared {
    pub(super) fn new(stage: Stage) -> Self {
        let expressions = match &stage {
            Stage::Filter(predicate) => std::slice::from_ref(predicate),
            Stage::Project(expressions, _) => expressions,
        };
        Prepared {
            physical: expressions
                .iter()
                .map(|expression| quickened(&expression.physical))
                .collect(),
            texts: expressions.iter().map(|expression| expression.text.clone()).collect(),
            stage,
        }
    }

    /// Returns what is left of the rows, if anything is.
    fn apply(&self, updates: Updates, tick: Tick, shared: &SharedCell) -> Option<Updates> {
        if updates.is_empty() {
            return None;
        }
        let (rows, diffs) = updates.into_parts();
        let Evaluated {
            columns,
            rows: kept,
            failed: failures,
        } = evaluate(&self.physical, &self.texts, &rows);
        if !failures.is_empty() {
            let failed: Vec<u32> = failures.iter().map(|failure| failure.row as u32).collect();
            let encoder = RowEncoder::new(&rows.schema());
            let texts = failures.iter().map(|failure| failure.expression.as_str());
            let reasons = failures.iter().map(|failure| failure.reason.as_str());
            let inputs = failed.iter().map(|&row| {
                let mut text = Vec::new();
                encoder.object(&rows, row as usize, &mut text);
                String::from_utf8(text).expect("JSON is UTF-8")
            });
            let columns: Vec<ArrayRef> = vec![
                Arc::new(StringArray::from_iter_values(texts)),
                Arc::new(StringArray::from_iter_values(inputs)),
                Arc::new(StringArray::from_iter_values(reasons)),
            ];
            let errors = RecordBatch::try_new(error_schema(), columns).expect("three texts a failure");
            let failed_diffs: Vec<i64> = failed.iter().map(|&row| diffs[row as usize]).collect();
            shared
                .borrow_mut()
                .errors
                .entry(tick)
                .or_default()
                .push(Updates::new(errors, failed_diffs));
        }
        let (rows, diffs): (RecordBatch, Int64Array) = match &kept {
            None => (rows, Int64Array::new(diffs, None)),
            Some(kept) => (
                take_record_batch(&rows, kept).expect("kept rows are in range"),
                Int64Array::new(diffs_at(&diffs, kept).into(), None),
            ),
        };
        if diffs.is_empty() {
            return None;
        }
        Some(match &self.stage {
            Stage::Filter(_) => {
                let mask = columns[0].as_boolean();
                let mask = if mask.null_count() > 0 {
                    prep_null_mask_filter(mask)
                } else {
                    mask.clone()
                };
                match mask.true_count() {
                    0 => return None,
                    all if all == mask.len() => return Some(Updates::new(rows, diffs.values().clone())),
                    _ => {}
                }
                let rows = filter_record_batch(&rows, &mask).expect("the mask has one bit a row");
                let diffs = filter(&diffs, &mask).expect("the mask has one bit a row");
                Updates::new(
                    rows,
                    diffs.as_primitive::<arrow::datatypes::Int64Type>().values().clone(),
                )
            }
            Stage::Project(_, schema) => {
                let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(diffs.len()));
                let columns = nested::fitting(columns, schema);
                let rows = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
                    .expect("planned expressions have the planned types");
                Updates::new(rows, diffs.values().clone())
            }
        })
    }
}

fn diffs_at(diffs: &[i64], rows: &UInt32Array) -> Vec<i64> {
    rows.values().iter().map(|&row| diffs[row as usize]).collect()
}
