//! Compares what views hold with the batch answer over what their inputs hold, at one tick.
//!
//! A view that closes its buckets is compared in those that are open, and in closed ones all whose rows are still there
//! (`closing::comparable`). Both bounds only rise, so what holds after the rows were read held when they were.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Schema};
use arrow::row::{OwnedRow, RowConverter, SortField};
use dataflows::Tick;
use dataflows::plan::{Bucket, times_of};
use futures_util::TryStreamExt;
use queries::cold::Span;
use queries::{Closing, Emit, QueryError, Relation, View};
use tokio::sync::oneshot;

use super::closing::{Comparable, unit_us};
use super::filling::ChangeRequest;
use super::{Engine, EngineError};

/// What an audit found.
#[derive(Clone, Debug)]
pub struct Audit {
    /// The tick as of which everything was compared.
    pub tick: Tick,
    /// Each view and alert, in the order of the deployment.
    pub views: Vec<Audited>,
}

/// What an audit found of one view.
#[derive(Clone, Debug)]
pub struct Audited {
    /// Its name.
    pub view: String,
    /// Rows it holds, in memory and in files.
    pub rows: usize,
    /// How many of them were compared.
    pub compared: usize,
    /// How they differ from the batch answer, if they do.
    pub difference: Option<String>,
    /// Why others were not compared, if there are any.
    pub passed_over: Option<&'static str>,
}

/// Why closed rows cannot be compared where some could be.
const GONE: &str =
    "they are closed, and what they were made of is not all there any more, or went by other definitions";

/// Why no closed row of a view can be.
const MIXED: &str =
    "they are closed, and more decides about them than rows of their own bucket, which may have changed since";

/// What of a view can be compared, before its rows are read and after.
struct Bounds {
    before: Comparable,
    after: Comparable,
}

impl Engine {
    /// Compares each view with DataFusion's answer to its plan over the rows that its inputs hold, all at one tick.
    ///
    /// Of a view that closes, rows are compared as far as that answer still tells what they must be: those of open
    /// buckets, and of closed ones all whose input is retained.
    ///
    /// # Errors
    /// When the engine stops meanwhile.
    pub async fn audit(&self) -> Result<Audit, EngineError> {
        // Nothing may be declared anew between the questions.
        let unchanged = self.inner.changing.lock().await;
        let deployment = self.deployment();
        let names: Vec<String> = self.relations().into_iter().map(|relation| relation.name).collect();
        let (tick, before) = self.comparable().await?;
        let snapshot = self.snapshot(&names, tick.max(self.acknowledged())).await?;
        let (_, after) = self.comparable().await?;
        drop(unchanged);
        let mut views = Vec::new();
        for definition in &deployment.views {
            let view = &definition.view;
            let Some(relation) = snapshot.relations.get(&view.name) else {
                continue;
            };
            let batch = deployment.catalog.batch(view, &snapshot.relations, snapshot.tick).await;
            let mut audited = Audited {
                view: view.name.clone(),
                rows: count(&relation.batches),
                compared: 0,
                difference: None,
                passed_over: None,
            };
            let bounds = before.get(&view.name).zip(after.get(&view.name));
            let bounds = bounds.map(|(before, after)| Bounds {
                before: *before,
                after: *after,
            });
            match (batch, &view.closing, bounds) {
                (Err(error), ..) => audited.difference = Some(format!("batch failed: {error}")),
                (Ok(batch), None, _) => {
                    audited.compared = audited.rows;
                    audited.difference = difference(&relation.schema, &relation.batches, &batch);
                }
                (Ok(batch), Some(closing), Some(bounds)) => {
                    match bounds.held(view, closing, relation).await {
                        Ok(held) => {
                            audited.compared = count(&held);
                            let batch = bounds.expected(closing, &batch);
                            audited.difference = difference(&relation.schema, &held, &batch)
                                .map(|what| format!("in buckets that can be computed again {what}"));
                        }
                        Err(error) => audited.difference = Some(format!("its rows in files cannot be read: {error}")),
                    }
                    // Rows in files count, too, as of the newest change.
                    let rows = usize::try_from(self.rows(&view.name)).unwrap_or(usize::MAX);
                    audited.rows = rows.max(audited.compared);
                    let why = if bounds.after.closed { GONE } else { MIXED };
                    audited.passed_over = (audited.compared < audited.rows).then_some(why);
                }
                // Nobody says how far it is closed: it is not there.
                (Ok(_), Some(_), None) => continue,
            }
            views.push(audited);
        }
        Ok(Audit {
            tick: snapshot.tick,
            views,
        })
    }

    /// Asks what of views that close can be compared, as of the tick that was begun last.
    async fn comparable(&self) -> Result<(Tick, HashMap<String, Comparable>), EngineError> {
        let (reply, answer) = oneshot::channel();
        self.ask(ChangeRequest::Compare { reply })?;
        answer.await.map_err(|_| EngineError::Stopped)
    }
}

impl Bounds {
    /// Tells whether a row of a bucket is compared; one without a bucket is never closed.
    fn includes(&self, closing: &Closing, bucket: Option<i64>) -> bool {
        match closing.emit {
            Emit::OnChange => bucket.is_none_or(|bucket| bucket >= self.after.from),
            // In between it may be closed, or not yet.
            Emit::OnClose => bucket.is_some_and(|bucket| bucket >= self.after.from && bucket < self.before.below),
        }
    }

    /// Tells whether a row of a bucket must not be shown at all: it is not closed.
    fn is_early(&self, closing: &Closing, bucket: Option<i64>) -> bool {
        closing.emit == Emit::OnClose && bucket.is_none_or(|bucket| bucket >= self.after.below)
    }

    /// Picks what a view holds of the rows that are compared, in memory and in files.
    async fn held(&self, view: &View, closing: &Closing, relation: &Relation) -> Result<Vec<RecordBatch>, QueryError> {
        let is_held = |bucket| self.includes(closing, bucket) || self.is_early(closing, bucket);
        let mut held = picked(&relation.batches, closing.bucket, is_held);
        if let Some(cold) = &relation.cold {
            let from_us = self.after.from.saturating_mul(unit_us(view, closing.bucket));
            let span = Span {
                column: view.schema.field(closing.bucket).name().clone(),
                from_us: (self.after.from > i64::MIN).then_some(from_us),
                to_us: None,
            };
            let rows: Vec<RecordBatch> = cold.stream(&relation.schema, Some(&span))?.try_collect().await?;
            held.extend(picked(&rows, closing.bucket, is_held));
        }
        Ok(held)
    }

    /// Picks what it must hold of them.
    fn expected(&self, closing: &Closing, batch: &[RecordBatch]) -> Vec<RecordBatch> {
        picked(batch, closing.bucket, |bucket| self.includes(closing, bucket))
    }
}

fn count(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

/// Picks rows by their bucket.
fn picked(batches: &[RecordBatch], bucket: usize, is_wanted: impl Fn(Option<i64>) -> bool) -> Vec<RecordBatch> {
    let bucket = Bucket {
        column: bucket,
        of: None,
    };
    let picked = batches.iter().map(|rows| {
        let buckets = times_of(&bucket, rows);
        let wanted: BooleanArray = buckets.iter().map(|bucket| Some(is_wanted(bucket))).collect();
        filter_record_batch(rows, &wanted).expect("one verdict a row")
    });
    picked.filter(|rows| rows.num_rows() > 0).collect()
}

/// Makes all NaNs one: which bits one has is nobody's word. Every other bit counts.
fn one_nan(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>();
            Arc::new(values.unary::<_, Float64Type>(|value| if value.is_nan() { f64::NAN } else { value }))
        }
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>();
            Arc::new(values.unary::<_, Float32Type>(|value| if value.is_nan() { f32::NAN } else { value }))
        }
        _ => Arc::clone(column),
    }
}

/// Says how rows differ, as multisets.
pub(super) fn difference(schema: &Schema, held: &[RecordBatch], batch: &[RecordBatch]) -> Option<String> {
    let sorted = |batches: &[RecordBatch]| -> Result<Vec<OwnedRow>, String> {
        let fields = schema
            .fields()
            .iter()
            .map(|field| SortField::new(field.data_type().clone()));
        let converter = RowConverter::new(fields.collect()).map_err(|error| error.to_string())?;
        let mut rows = Vec::new();
        for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
            let columns: Vec<ArrayRef> = batch.columns().iter().map(one_nan).collect();
            let encoded = converter.convert_columns(&columns).map_err(|error| error.to_string())?;
            rows.extend(encoded.iter().map(|row| row.owned()));
        }
        rows.sort_unstable();
        Ok(rows)
    };
    match (sorted(held), sorted(batch)) {
        (Ok(held), Ok(batch)) if held == batch => None,
        (Ok(held), Ok(batch)) => {
            let missing = batch.iter().filter(|row| held.binary_search(row).is_err()).count();
            let too_many = held.iter().filter(|row| batch.binary_search(row).is_err()).count();
            Some(format!(
                "it holds {} rows, batch {}; {missing} are missing, {too_many} are too many",
                held.len(),
                batch.len()
            ))
        }
        (Err(error), _) | (_, Err(error)) => Some(format!("its rows cannot be compared: {error}")),
    }
}

#[cfg(test)]
mod tests;
