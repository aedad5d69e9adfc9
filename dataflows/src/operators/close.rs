//! Finishes a view's rows by their bucket of time.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, SchemaRef};

use super::release::{Times, open_rows, split};
use super::ticked::TickOperator;
use super::{Closed, SharedCell};
use crate::faults::{self, Fault};
use crate::group_index::GroupIndex;
use crate::parts::Part;
use crate::plan::Bucket;
use crate::update::{Tick, Updates};

/// Lets a bucket's rows be as they stood before the tick that closed it: changes below what is closed are passed over.
///
/// With `on_close` rows are shown only then, else as they come. A row without a bucket
/// stays open. State: the rows of open buckets; with `keeps` those of closed ones,
/// too, until a tick says that they are gone, or kept elsewhere.
pub(crate) struct Close {
    times: Times,
    on_close: bool,
    keeps: bool,
    schema: SchemaRef,
    shared: SharedCell,
    /// The rows of open buckets, by content.
    index: GroupIndex,
    counts: Vec<i64>,
    /// The bucket of each row; none is less than `least`.
    buckets: Vec<Option<i64>>,
    least: i64,
    below: i64,
    closed: BTreeMap<i64, Vec<Updates>>,
    closed_rows: usize,
    slots: Vec<u32>,
}

impl Close {
    pub(crate) fn new(bucket: usize, on_close: bool, keeps: bool, schema: SchemaRef, shared: &SharedCell) -> Self {
        let types: Vec<DataType> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
        let column = Bucket {
            column: bucket,
            of: None,
        };
        Close {
            times: Times::new(&column, &schema),
            on_close,
            keeps,
            schema,
            shared: Rc::clone(shared),
            index: GroupIndex::new(&types),
            counts: Vec::new(),
            buckets: Vec::new(),
            least: i64::MAX,
            below: i64::MIN,
            closed: BTreeMap::new(),
            closed_rows: 0,
            slots: Vec::new(),
        }
    }

    /// Closes buckets; their rows are no longer among the open ones.
    fn close(&mut self, out: &mut Vec<Part>) {
        let held: Vec<u32> = (0..self.counts.len() as u32)
            .filter(|&slot| self.counts[slot as usize] != 0)
            .collect();
        let buckets: Int64Array = held.iter().map(|&slot| self.buckets[slot as usize]).collect();
        let (mut done, least) = split(&held, &buckets, self.below);
        self.least = least.unwrap_or(i64::MAX);
        if done.is_empty() {
            return;
        }
        done.sort_unstable_by_key(|&slot| self.buckets[slot as usize]);
        let diffs: Vec<i64> = done.iter().map(|&slot| self.counts[slot as usize]).collect();
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), self.index.keys(&done))
            .expect("rows of this schema went in");
        let updates = Updates::new(rows, diffs);
        if self.keeps {
            let mut start = 0;
            for run in done.chunk_by(|left, right| self.buckets[*left as usize] == self.buckets[*right as usize]) {
                let bucket = self.buckets[run[0] as usize].unwrap_or(i64::MAX);
                let rows = updates.slice(start, run.len());
                self.closed.entry(bucket).or_default().push(rows);
                self.closed_rows += run.len();
                start += run.len();
            }
        }
        if self.on_close {
            out.push(Part::whole(updates));
        }
        for slot in done {
            self.counts[slot as usize] = 0;
            self.index.remove(slot);
        }
    }

    /// Takes in rows of buckets that were closed before this dataflow was.
    fn seed(&mut self, tick: Tick, out: &mut Vec<Part>) {
        let seeds: Vec<(Updates, bool)> = {
            let mut shared = self.shared.borrow_mut();
            let due = shared.seeds.extract_if(.., |(at, ..)| *at <= tick);
            due.map(|(_, rows, told)| (rows, told)).collect()
        };
        for (updates, told) in seeds {
            if self.keeps {
                let buckets = self.times.of(updates.rows().column(self.times.column));
                let mut order: Vec<u32> = (0..updates.len() as u32).collect();
                order.sort_by_key(|&row| buckets.is_valid(row as usize).then(|| buckets.value(row as usize)));
                let sorted = take_record_batch(updates.rows(), &UInt32Array::from(order.clone()));
                let sorted = Updates::inserts(sorted.expect("rows of the batch"));
                let bucket = |row: u32| match buckets.is_valid(row as usize) {
                    true => buckets.value(row as usize),
                    false => i64::MAX,
                };
                let mut start = 0;
                for run in order.chunk_by(|left, right| bucket(*left) == bucket(*right)) {
                    let rows = sorted.slice(start, run.len());
                    self.closed.entry(bucket(run[0])).or_default().push(rows);
                    self.closed_rows += run.len();
                    start += run.len();
                }
            }
            if told {
                out.push(Part::whole(updates));
            }
        }
    }

    /// Forgets closed rows that are kept elsewhere and do not leave soon, without taking them back.
    fn forget(&mut self, closed: Closed) {
        if closed.held >= closed.stored {
            return;
        }
        let gone: Vec<i64> = self
            .closed
            .range(closed.held..closed.stored)
            .map(|(bucket, _)| *bucket)
            .collect();
        for bucket in gone {
            let rows = self.closed.remove(&bucket).unwrap_or_default();
            self.closed_rows -= rows.iter().map(Updates::len).sum::<usize>();
        }
    }

    /// Takes back closed rows that are kept no longer.
    fn leave(&mut self, gone: i64, out: &mut Vec<Part>) {
        while let Some(oldest) = self.closed.first_entry().filter(|oldest| *oldest.key() < gone) {
            for updates in oldest.remove() {
                self.closed_rows -= updates.len();
                let (rows, diffs) = updates.into_parts();
                let diffs: Vec<i64> = diffs.iter().map(|diff| -diff).collect();
                out.push(Part::whole(Updates::new(rows, diffs)));
            }
        }
    }

    /// Takes changes of open buckets in.
    fn take(&mut self, updates: &Updates) {
        let rows = updates.rows();
        let mut slots = std::mem::take(&mut self.slots);
        self.index.intern(rows.columns(), rows.num_rows(), &mut slots);
        let known = self.index.groups().max(self.counts.len());
        self.counts.resize(known, 0);
        self.buckets.resize(known, None);
        let buckets = self.times.of(rows.column(self.times.column));
        for ((&slot, &diff), bucket) in slots.iter().zip(updates.diffs()).zip(&buckets) {
            self.counts[slot as usize] += diff;
            self.buckets[slot as usize] = bucket;
        }
        self.slots = slots;
    }
}

impl TickOperator for Close {
    fn apply(&mut self, tick: Tick, inputs: &mut [Vec<Part>]) -> Vec<Part> {
        let closed = self.shared.borrow().closed_at(tick);
        let mut out = Vec::new();
        self.seed(tick, &mut out);
        if closed.below > self.below {
            self.below = closed.below;
            if self.least < self.below {
                self.close(&mut out);
            }
        }
        let below = match faults::active(Fault::ReopenedBucket) {
            true => i64::MIN,
            false => self.below,
        };
        let mut touched: Vec<u32> = Vec::new();
        for part in std::mem::take(&mut inputs[0]) {
            let part = open_rows(part, &self.times, below, &mut self.least);
            if part.is_empty() {
                continue;
            }
            let updates = part.into_updates();
            self.take(&updates);
            touched.extend(&self.slots);
            if !self.on_close {
                out.push(Part::whole(updates));
            }
        }
        // Only now: within a tick a row may be taken back before it comes.
        for slot in touched {
            if self.counts[slot as usize] == 0 {
                self.index.remove(slot);
            }
        }
        self.forget(closed);
        self.leave(closed.gone, &mut out);
        out
    }

    fn state_rows(&self) -> usize {
        self.index.len() + self.closed_rows
    }

    fn state_bytes(&self) -> usize {
        let closed: usize = self.closed.values().flatten().map(Updates::bytes).sum();
        self.index.bytes() + self.counts.capacity() * 8 + self.buckets.capacity() * 16 + closed
    }
}
