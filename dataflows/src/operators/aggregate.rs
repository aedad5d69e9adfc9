//! Grouped aggregation over columnar state.

mod leaving;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{SortOptions, concat, filter, or};
use arrow::datatypes::{DataType, SchemaRef};

use super::SharedCell;
use super::release::{Released, Times, split};
use super::ticked::TickOperator;
use crate::aggregates::{Accumulator, AggregateSpec, Unsupported, accumulator};
use crate::faults::{self, Fault};
use crate::group_index::GroupIndex;
use crate::parts::Part;
use crate::plan::{AggregateCall, AggregateFunction, TemporalBound};
use crate::update::{Tick, Updates};
use leaving::Leaving;

/// Groups rows and emits, for each group a tick touched, the old result taken back and the new one.
///
/// State: one entry a group, plus what its accumulators keep; a group without
/// rows is forgotten. Without keys there is one group, which always exists.
pub(crate) struct Aggregate {
    keys: Vec<usize>,
    calls: Vec<Call>,
    schema: SchemaRef,
    index: GroupIndex,
    groups: Vec<Group>,
    /// Counts the ticks applied.
    epoch: u64,
    /// Whether this worker owns the one group of an aggregation without keys.
    owns_global: bool,
    leaving: Option<Leaving>,
    scratch: Scratch,
}

/// What is known of a group beside its aggregates.
#[derive(Clone, Copy, Default)]
struct Group {
    /// Its rows, multiplicities included.
    rows: i64,
    /// The epoch that last touched it, so that a tick gathers it once.
    epoch: u64,
}

struct Call {
    /// None for a plain `count(*)`, which the group's own rows answer.
    state: Option<Box<dyn Accumulator>>,
    /// The arguments, then the order columns.
    arguments: Vec<usize>,
    filter: Option<usize>,
}

#[derive(Default)]
struct Scratch {
    groups: Vec<Vec<u32>>,
    touched: Vec<u32>,
    existed: Vec<bool>,
}

/// Describes a call to [`accumulator`].
pub(crate) fn spec(call: &AggregateCall, input: &SchemaRef, append_only: bool) -> AggregateSpec {
    let data_type = |column: usize| input.field(column).data_type().clone();
    AggregateSpec {
        function: call.function,
        arguments: call.arguments.iter().copied().map(data_type).collect(),
        parameters: call.parameters.clone(),
        distinct: call.distinct,
        order: order_columns(call)
            .map(|(column, options)| (data_type(column), options))
            .collect(),
        ignore_nulls: call.ignore_nulls,
        append_only,
        output: call.field.data_type().clone(),
    }
}

/// The order columns an accumulator needs: not those that only repeat the argument at the end.
fn order_columns(call: &AggregateCall) -> impl Iterator<Item = (usize, SortOptions)> + '_ {
    let repeated = match call.order.last() {
        Some((column, options)) => {
            let repeats = call.arguments.first() == Some(column);
            call.order.len() > 1 && repeats && !options.descending && options.nulls_first
        }
        None => false,
    };
    call.order
        .iter()
        .take(call.order.len() - usize::from(repeated))
        .copied()
}

impl Aggregate {
    pub(crate) fn new(
        keys: Vec<usize>,
        calls: &[AggregateCall],
        input: &SchemaRef,
        schema: SchemaRef,
        append_only: bool,
        first_worker: bool,
    ) -> Result<Self, Unsupported> {
        let types: Vec<DataType> = keys.iter().map(|&key| input.field(key).data_type().clone()).collect();
        let calls = calls
            .iter()
            .map(|call| {
                // `count(*)` reads no column; an argument it may have is only ever a constant.
                let arguments = match call.function {
                    AggregateFunction::CountRows => Vec::new(),
                    _ => call
                        .arguments
                        .iter()
                        .copied()
                        .chain(order_columns(call).map(|(column, _)| column))
                        .collect(),
                };
                let own = call.function != AggregateFunction::CountRows || call.filter.is_some();
                Ok(Call {
                    state: own.then(|| accumulator(&spec(call, input, append_only))).transpose()?,
                    arguments,
                    filter: call.filter,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Aggregate {
            owns_global: keys.is_empty() && first_worker,
            keys,
            calls,
            schema,
            index: GroupIndex::new(&types),
            groups: Vec::new(),
            epoch: 0,
            leaving: None,
            scratch: Scratch::default(),
        })
    }

    /// Lets groups leave once one of the bounds, if there are any, no longer holds.
    pub(crate) fn leaving(mut self, bounds: &[TemporalBound], shared: &SharedCell) -> Self {
        self.leaving = (!bounds.is_empty()).then(|| Leaving::new(bounds.to_vec(), shared));
        self
    }

    fn resize(&mut self, groups: usize) {
        if self.groups.len() < groups {
            self.groups.resize(groups, Group::default());
        }
        for state in self.calls.iter_mut().filter_map(|call| call.state.as_mut()) {
            state.resize(groups);
        }
    }

    fn rows(&self, group: u32) -> i64 {
        self.groups[group as usize].rows
    }

    fn outputs(&self, groups: &[u32]) -> Vec<ArrayRef> {
        let output = |call: &Call| match &call.state {
            Some(state) => state.output(groups),
            None => Arc::new(Int64Array::from_iter_values(
                groups.iter().map(|&group| self.rows(group)),
            )),
        };
        self.calls.iter().map(output).collect()
    }

    /// Finds the group of each row; returns the touched groups, each once.
    fn intern(&mut self, parts: &[Part], scratch: &mut Scratch) {
        self.epoch += 1;
        scratch.touched.clear();
        scratch
            .groups
            .resize_with(parts.len().max(scratch.groups.len()), Vec::new);
        for (part, groups) in parts.iter().zip(&mut scratch.groups) {
            if self.keys.is_empty() {
                groups.clear();
                groups.resize(part.len(), 0);
            } else {
                self.index.intern(&part.columns(&self.keys), part.len(), groups);
            }
            let known = if self.keys.is_empty() { 1 } else { self.index.groups() };
            if self.groups.len() < known {
                self.resize(known);
            }
            let epoch = self.epoch;
            for &group in groups.iter() {
                let state = &mut self.groups[group as usize];
                if state.epoch != epoch {
                    state.epoch = epoch;
                    scratch.touched.push(group);
                }
            }
        }
    }

    fn update(&mut self, part: &Part, groups: &[u32]) {
        let mut diffs = part.diffs();
        if faults::active(Fault::LostRetraction) {
            let mut lossy = diffs.to_vec();
            if let Some(lost) = lossy.iter_mut().find(|diff| **diff < 0) {
                *lost = 0;
            }
            diffs = lossy.into();
        }
        for (&group, &diff) in groups.iter().zip(&diffs) {
            self.groups[group as usize].rows += diff;
        }
        for call in &mut self.calls {
            let Some(state) = &mut call.state else { continue };
            let arguments = part.columns(&call.arguments);
            let passes: Option<BooleanArray> = call.filter.map(|column| part.column(column).as_boolean().clone());
            state.update(groups, &arguments, passes.as_ref(), &diffs);
        }
    }

    /// Takes groups back, whatever rows they have.
    fn let_go(&mut self, gone: &[u32]) -> Option<Part> {
        if gone.is_empty() {
            return None;
        }
        let columns = self.index.keys(gone).into_iter().chain(self.outputs(gone)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(gone.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .expect("the planned types are those of keys and accumulators");
        for state in self.calls.iter_mut().filter_map(|call| call.state.as_mut()) {
            state.release(gone);
        }
        for &group in gone {
            self.groups[group as usize].rows = 0;
            self.index.remove(group);
        }
        Some(Part::whole(Updates::deletes(rows)))
    }

    /// Lets groups go whose time is over.
    fn fire(&mut self, tick: Tick) -> Option<Part> {
        let mut gone = self.leaving.as_mut()?.fire(tick);
        gone.retain(|&group| self.rows(group) != 0);
        self.let_go(&gone)
    }

    /// Builds one batch: old results of changed groups at -1, new ones at +1.
    fn changes(&self, touched: &[u32], existed: &[bool], old: &[ArrayRef]) -> Option<Updates> {
        let new = self.outputs(touched);
        let global = self.keys.is_empty();
        let exists: Vec<bool> = touched.iter().map(|&group| global || self.rows(group) != 0).collect();
        let differs = old.iter().zip(&new).map(|(old, new)| distinct_rows(old, new));
        let differs = differs.reduce(|some, more| or(&some, &more).expect("both have one bit a group"));
        let differs = differs.as_ref().map(|differs| differs.values());
        let changed =
            |at: usize| existed[at] != exists[at] || (exists[at] && differs.is_some_and(|differs| differs.value(at)));
        let give = BooleanBuffer::collect_bool(touched.len(), |at| exists[at] && changed(at));
        let take_back = BooleanBuffer::collect_bool(touched.len(), |at| existed[at] && changed(at));
        let (minus, plus) = (take_back.count_set_bits(), give.count_set_bits());
        if minus + plus == 0 {
            return None;
        }
        let (take_back, give) = (BooleanArray::new(take_back, None), BooleanArray::new(give, None));
        let pick = |column: &ArrayRef, picked: &BooleanArray, count: usize| match count {
            all if all == touched.len() => Arc::clone(column),
            _ => filter(column, picked).expect("one bit a group"),
        };
        // Each key is read once and copied once more: reading goes all over the memory, copying does not.
        let keys = self.index.keys(touched);
        let columns = keys.iter().map(|key| (key, key)).chain(old.iter().zip(&new));
        let columns: Vec<ArrayRef> = columns
            .map(|(old, new)| {
                let (old, new) = (pick(old, &take_back, minus), pick(new, &give, plus));
                match (minus, plus) {
                    (0, _) => new,
                    (_, 0) => old,
                    _ => concat(&[&old, &new]).expect("old and new have one type"),
                }
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(minus + plus));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .expect("the planned types are those of keys and accumulators");
        let mut diffs = vec![-1; minus];
        diffs.resize(minus + plus, 1);
        Some(Updates::new(rows, diffs))
    }
}

/// Tells where two columns differ; NULL equals NULL, and floats are compared by their total order.
fn distinct_rows(old: &ArrayRef, new: &ArrayRef) -> BooleanArray {
    match distinct(old, new) {
        Ok(mask) => mask,
        // Nested types have no such kernel: compare them row by row.
        Err(_) => (0..old.len())
            .map(|row| Some(old.slice(row, 1).to_data() != new.slice(row, 1).to_data()))
            .collect(),
    }
}

impl TickOperator for Aggregate {
    fn initial(&mut self) -> Vec<Part> {
        if !self.keys.is_empty() {
            return Vec::new();
        }
        self.resize(1);
        if !self.owns_global {
            return Vec::new();
        }
        let columns = self.outputs(&[0]);
        let rows =
            RecordBatch::try_new(Arc::clone(&self.schema), columns).expect("accumulators have the planned types");
        vec![Part::whole(Updates::inserts(rows))]
    }

    fn apply(&mut self, tick: Tick, inputs: &mut [Vec<Part>]) -> Vec<Part> {
        // Timers first: of groups that leave now, no row comes any more.
        let left = self.fire(tick);
        let parts = std::mem::take(&mut inputs[0]);
        let mut scratch = std::mem::take(&mut self.scratch);
        self.intern(&parts, &mut scratch);
        let global = self.keys.is_empty();
        scratch.existed.clear();
        scratch
            .existed
            .extend(scratch.touched.iter().map(|&group| global || self.rows(group) != 0));
        let old = self.outputs(&scratch.touched);
        for (part, groups) in parts.iter().zip(&scratch.groups) {
            self.update(part, groups);
        }
        let changes = self.changes(&scratch.touched, &scratch.existed, &old);
        if !global {
            for &group in &scratch.touched {
                if self.rows(group) == 0 {
                    self.index.remove(group);
                    for state in self.calls.iter_mut().filter_map(|call| call.state.as_mut()) {
                        state.reset(group);
                    }
                }
            }
        }
        if let Some(leaving) = &mut self.leaving {
            let new = scratch.touched.iter().zip(&scratch.existed);
            let new = new.filter(|&(&group, &existed)| !existed && self.groups[group as usize].rows != 0);
            let new: Vec<u32> = new.map(|(group, _)| *group).collect();
            leaving.list(&new, &self.index);
            leaving.tell();
        }
        self.scratch = scratch;
        left.into_iter().chain(changes.map(Part::whole)).collect()
    }

    fn is_due(&self, tick: Tick) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.is_due(tick))
    }

    fn release(&mut self, _input: usize, times: &Times, below: i64) -> Released {
        let Some(position) = self.keys.iter().position(|key| *key == times.column) else {
            return Released::default();
        };
        let held: Vec<u32> = (0..self.groups.len() as u32)
            .filter(|&group| self.rows(group) != 0)
            .collect();
        let (gone, least) = split(&held, &times.of(&self.index.key_column(position, &held)), below);
        Released {
            rows: None,
            parts: self.let_go(&gone).into_iter().collect(),
            least,
        }
    }

    fn state_rows(&self) -> usize {
        self.index.len()
    }

    fn state_bytes(&self) -> usize {
        let accumulators: usize = self
            .calls
            .iter()
            .flat_map(|call| &call.state)
            .map(|state| state.bytes())
            .sum();
        let leaving = self.leaving.as_ref().map_or(0, Leaving::bytes);
        self.index.bytes() + self.groups.capacity() * size_of::<Group>() + accumulators + leaving
    }
}
