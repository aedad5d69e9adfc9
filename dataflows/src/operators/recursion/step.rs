//! Filters, projections and keys inside a loop, over whole batches of its rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use differential_dataflow::AsCollection;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator as _;

use super::errors::Errors;
use super::row::{Codec, Row};
use super::{LoopRows, Pair, Round};
use crate::evaluate::evaluate;
use crate::faults::{self, Fault};
use crate::operators::linear::{Prepared, Stage};
use crate::update::Tick;

/// Rows decoded at a time: enough to pay for a kernel's start.
const BATCH_ROWS_MAX: usize = 8_192;

/// How rows leave a step.
#[derive(Clone, Copy)]
pub(super) enum Shape<'a> {
    /// Without a key.
    Rows,
    /// These columns under the values of those of `key`, without the rows that have NULL among the latter
    /// unless `nulls` are kept.
    Keyed {
        key: &'a [usize],
        columns: &'a [usize],
        nulls: bool,
    },
}

/// Encodes batches of one schema in a shape.
pub(super) struct Encoder {
    rows: Chosen,
    key: Option<(Chosen, bool)>,
}

/// Some columns, as rows.
struct Chosen {
    columns: Vec<usize>,
    codec: Codec,
}

impl Chosen {
    fn new(schema: &SchemaRef, columns: impl IntoIterator<Item = usize>) -> Chosen {
        let columns: Vec<usize> = columns.into_iter().collect();
        let fields = columns.iter().map(|&column| Arc::clone(&schema.fields()[column]));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Chosen {
            columns,
            codec: Codec::new(schema).expect("the plan was checked before it was sent"),
        }
    }

    fn of(&self, batch: &RecordBatch) -> Vec<ArrayRef> {
        self.columns
            .iter()
            .map(|&column| Arc::clone(batch.column(column)))
            .collect()
    }
}

impl Encoder {
    pub(super) fn new(schema: &SchemaRef, shape: Shape<'_>) -> Encoder {
        let (rows, key) = match shape {
            Shape::Rows => (Chosen::new(schema, 0..schema.fields().len()), None),
            Shape::Keyed { key, columns, nulls } => (
                Chosen::new(schema, columns.iter().copied()),
                Some((Chosen::new(schema, key.iter().copied()), nulls)),
            ),
        };
        Encoder { rows, key }
    }

    /// Hands out the position of each row that leaves, and what it leaves as.
    pub(super) fn encode(&self, batch: &RecordBatch, mut each: impl FnMut(usize, Pair)) {
        let rows = self.rows.codec.encode(&self.rows.of(batch), batch.num_rows());
        let Some((key, nulls)) = &self.key else {
            for (position, row) in rows.into_iter().enumerate() {
                each(position, (Row::EMPTY, row));
            }
            return;
        };
        let columns = key.of(batch);
        let keys = key.codec.encode(&columns, batch.num_rows());
        let gaps: Vec<_> = columns
            .iter()
            .filter(|column| !nulls && column.null_count() > 0)
            .collect();
        for (position, pair) in keys.into_iter().zip(rows).enumerate() {
            if gaps.iter().all(|column| column.is_valid(position)) {
                each(position, pair);
            }
        }
    }
}

/// Some filters and projections, and what evaluating them needs.
struct Step {
    input: Codec,
    stages: Vec<Prepared>,
    output: Encoder,
}

/// Applies `stages` in order to rows of `schema`, and brings what is left into the shape of `output`.
///
/// A row on which an expression fails stands among the errors instead, with the same diff.
pub(super) fn step<'scope>(
    rows: LoopRows<'scope>,
    schema: &SchemaRef,
    stages: Vec<Stage>,
    output: Encoder,
    errors: &Errors,
) -> LoopRows<'scope> {
    let step = Step {
        input: Codec::new(Arc::clone(schema)).expect("the plan was checked before it was sent"),
        stages: stages.into_iter().map(Prepared::new).collect(),
        output,
    };
    let errors = errors.clone();
    type Out = CapacityContainerBuilder<Vec<(Pair, Round, i64)>>;
    let stepped = rows.inner.unary::<Out, _, _, _>(Pipeline, "step", move |_, _| {
        let mut gathered: Vec<(Pair, Round, i64)> = Vec::new();
        move |input, output| {
            input.for_each_time(|capability, containers| {
                let mut session = output.session(&capability);
                let mut pass = |gathered: &mut Vec<(Pair, Round, i64)>| {
                    step.apply(gathered, &errors, |update| session.give(update));
                    gathered.clear();
                };
                for container in containers {
                    gathered.append(container);
                    if gathered.len() >= BATCH_ROWS_MAX {
                        pass(&mut gathered);
                    }
                }
                pass(&mut gathered);
            });
        }
    });
    stepped.as_collection()
}

impl Step {
    fn apply(&self, updates: &mut Vec<(Pair, Round, i64)>, errors: &Errors, mut out: impl FnMut((Pair, Round, i64))) {
        if faults::active(Fault::StaleReach) {
            updates.retain(|(_, _, diff)| *diff > 0);
        }
        if updates.is_empty() {
            return;
        }
        let mut batch = self.input.decode(updates.iter().map(|((_, row), ..)| row));
        // Where each row of the batch stands among the updates; none while all are there.
        let mut origins: Option<UInt32Array> = None;
        let origin = |origins: &Option<UInt32Array>, row: usize| match origins {
            None => row,
            Some(origins) => origins.value(row) as usize,
        };
        for stage in &self.stages {
            let (left, kept) = stage.left_of(&batch, |row, failure| {
                let (_, round, diff) = &updates[origin(&origins, row)];
                errors.add(round.outer, failure, *diff);
            });
            batch = left;
            if let Some(kept) = kept {
                origins = Some(match origins {
                    None => kept,
                    Some(outer) => kept
                        .values()
                        .iter()
                        .map(|&row| outer.value(row as usize))
                        .collect::<Vec<u32>>()
                        .into(),
                });
            }
        }
        self.output.encode(&batch, |row, pair| {
            let (_, round, diff) = &updates[origin(&origins, row)];
            out((pair, *round, *diff));
        });
    }
}

impl Prepared {
    /// Returns what is left of a batch and, unless that is all, which rows; tells of each row that fails.
    fn left_of(
        &self,
        batch: &RecordBatch,
        mut fails: impl FnMut(usize, [String; 3]),
    ) -> (RecordBatch, Option<UInt32Array>) {
        let evaluated = evaluate(&self.physical, &self.texts, batch);
        for failed in evaluated.failed {
            let row = super::errors::row_text(batch, failed.row);
            fails(failed.row, [failed.expression, row, failed.reason]);
        }
        match &self.stage {
            Stage::Filter(_) => {
                let passes = evaluated.columns[0].as_boolean();
                let passed = (0..passes.len()).filter(|&row| passes.is_valid(row) && passes.value(row));
                let kept: UInt32Array = match &evaluated.rows {
                    None => passed.map(|row| row as u32).collect::<Vec<_>>().into(),
                    Some(rows) => passed.map(|row| rows.value(row)).collect::<Vec<_>>().into(),
                };
                let left = take_record_batch(batch, &kept).expect("kept rows are in range");
                (left, Some(kept))
            }
            Stage::Project(_, schema) => {
                let count = evaluated.rows.as_ref().map_or(batch.num_rows(), UInt32Array::len);
                let options = RecordBatchOptions::new().with_row_count(Some(count));
                let left = RecordBatch::try_new_with_options(Arc::clone(schema), evaluated.columns, &options)
                    .expect("planned expressions have the planned types");
                (left, evaluated.rows)
            }
        }
    }
}

/// Brings rows of the dataflow around into a shape, to enter the loop.
pub(super) fn encoded<'scope>(
    rows: crate::operators::Rows<'scope>,
    encoder: Encoder,
    mut entered: impl FnMut(usize) + 'static,
) -> differential_dataflow::VecCollection<'scope, Tick, Pair, i64> {
    type Out = CapacityContainerBuilder<Vec<(Pair, Tick, i64)>>;
    let updates = rows.unary::<Out, _, _, _>(Pipeline, "enter", move |_, _| {
        move |input, output| {
            input.for_each(|capability, parts| {
                let tick = *capability.time();
                let mut session = output.session(&capability);
                for part in parts.0.drain(..) {
                    let (rows, diffs) = part.into_updates().into_parts();
                    entered(rows.num_rows());
                    encoder.encode(&rows, |row, pair| session.give((pair, tick, diffs[row])));
                }
            });
        }
    });
    updates.as_collection()
}
