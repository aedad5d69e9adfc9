//! Equi-joins over columnar state: one group index for both sides, rows in columns, chains by key.
//!
//! A tick takes the left's changes first and then the right's: each meets the
//! other side as it stands, then becomes part of its own. Where it is known how far the times of a pair
//! may be apart, both ways, a key's rows are found in their order. Where a side's rows
//! show whether the other has any, they are told again when that has changed.

mod narrow;
mod side;

use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, SchemaRef};

use super::SharedCell;
use super::release::{Released, Times, split};
use super::ticked::TickOperator;
use crate::columns::NO_SLOT;
use crate::faults::{self, Fault};
use crate::group_index::{GroupIndex, hash_keys};
use crate::parts::Part;
use crate::plan::{Band, JoinKind, NodeId};
use crate::update::{Tick, Updates};
pub(crate) use narrow::Narrow;
use side::{Delta, Side};

/// Rows of one output batch, at most.
const OUTPUT_ROWS: usize = 32 * 1024;

/// How often, while the watermark moves by as much as two rows of a pair may be apart, a join
/// looks for rows to forget; and how far it moves at least in between, in microseconds.
const LOOKS: i64 = 8;
const LOOKS_APART_US: i64 = 1_000_000;

/// Pairs left and right rows with equal keys, or says which left rows have a partner.
///
/// State: both sides' rows and one entry a key, but for the right of a join that
/// only asks whether there are any, of which it keeps a count a key. A row taken
/// back is forgotten, and so is a key without rows.
pub(crate) struct Join {
    kind: JoinKind,
    null_equals_null: bool,
    schema: SchemaRef,
    index: GroupIndex,
    left: Side,
    right: Side,
    band: Option<Band>,
    /// Its node, by which it learns how late rows may still come, where none is ever taken back.
    passed: Option<(NodeId, SharedCell)>,
    /// The time by which each side last forgot rows.
    forgotten: [i64; 2],
    /// Keys of which the right's count is let go of at the end of the tick.
    uncounted: Vec<u32>,
    /// Which pairs are of no use above.
    narrow: Option<Narrow>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Left,
    Right,
}

impl JoinKind {
    /// Tells whether pairs are emitted, and not left rows alone.
    fn pairs(self) -> bool {
        matches!(self, JoinKind::Inner | JoinKind::Left | JoinKind::Full)
    }

    /// Tells whether a row of this side without a partner is emitted, beside NULLs.
    fn pads(self, which: Which) -> bool {
        match which {
            Which::Left => matches!(self, JoinKind::Left | JoinKind::Full),
            Which::Right => self == JoinKind::Full,
        }
    }

    /// Tells whether it shows in the rows of this side if the other has any.
    fn shows_presence(self, which: Which) -> bool {
        self.pads(which) || (which == Which::Left && !self.pairs())
    }
}

/// Rows to be emitted: of the changed side by position or of the other by slot, and their diffs.
#[derive(Default)]
struct Pairs {
    rows: Vec<u32>,
    slots: Vec<u32>,
    diffs: Vec<i64>,
}

impl Pairs {
    fn push(&mut self, row: u32, slot: u32, diff: i64) {
        self.rows.push(row);
        self.slots.push(slot);
        self.diffs.push(diff);
    }
}

impl Join {
    pub(crate) fn new(
        kind: JoinKind,
        on: &[(usize, usize)],
        null_equals_null: bool,
        band: Option<Band>,
        left: &SchemaRef,
        right: &SchemaRef,
        schema: SchemaRef,
    ) -> Self {
        let types: Vec<DataType> = on.iter().map(|(key, _)| left.field(*key).data_type().clone()).collect();
        Join {
            kind,
            null_equals_null,
            schema,
            index: GroupIndex::new(&types),
            left: Side::new(
                on.iter().map(|(left, _)| *left).collect(),
                left,
                true,
                band.map(|band| (band.left, band.has_ends())),
            ),
            right: Side::new(
                on.iter().map(|(_, right)| *right).collect(),
                right,
                kind.pairs(),
                band.map(|band| (band.right, band.has_ends())),
            ),
            band,
            passed: None,
            forgotten: [i64::MIN; 2],
            uncounted: Vec::new(),
            narrow: None,
        }
    }

    /// Drops pairs that are of no use above.
    pub(crate) fn narrowed(mut self, narrow: Option<Narrow>) -> Self {
        self.narrow = narrow;
        self
    }

    /// Forgets rows that no row to come can meet. Only where no row is ever taken back: else
    /// what a row was paired with must be known for as long as it is there.
    pub(crate) fn forgetting(mut self, node: NodeId, shared: &SharedCell) -> Self {
        self.passed = Some((node, Rc::clone(shared)));
        self
    }

    /// Returns the times before which the rows of each side meet none to come, once a tick is over.
    fn over_after(&self, tick: Tick) -> [Option<i64>; 2] {
        let (Some(band), Some((node, shared))) = (self.band, &self.passed) else {
            return [None; 2];
        };
        let Some(passed) = shared.borrow().passed_at(tick, *node) else {
            return [None; 2];
        };
        // A left row's partners are at most `high` after it; a right row's at most `low` before.
        [
            (band.high_us < i64::MAX && passed.right > i64::MIN).then(|| passed.right.saturating_sub(band.high_us)),
            (band.low_us > i64::MIN && passed.left > i64::MIN).then(|| passed.left.saturating_add(band.low_us)),
        ]
    }

    /// Forgets what the watermark has passed, now and then: it looks at every row held.
    fn forget_passed(&mut self, over: [Option<i64>; 2]) -> Vec<u32> {
        let Some(band) = self.band else { return Vec::new() };
        let often = match band.has_ends() {
            true => (band.high_us.saturating_sub(band.low_us) / LOOKS).max(LOOKS_APART_US),
            false => LOOKS_APART_US,
        };
        let mut groups = Vec::new();
        let sides = [&mut self.left, &mut self.right].into_iter().zip(&mut self.forgotten);
        for ((side, forgotten), over) in sides.zip(over) {
            if let Some(over) = over.filter(|over| forgotten.saturating_add(often) <= *over) {
                *forgotten = over;
                groups.extend(side.forget_before(over));
            }
        }
        groups
    }

    fn side(&self, which: Which) -> &Side {
        match which {
            Which::Left => &self.left,
            Which::Right => &self.right,
        }
    }

    fn other(&self, which: Which) -> &Side {
        match which {
            Which::Left => &self.right,
            Which::Right => &self.left,
        }
    }

    fn delta(&mut self, which: Which, part: Part) -> Delta {
        let (rows, diffs) = part.into_updates().into_parts();
        let keys = &self.side(which).keys;
        let key_columns: Vec<ArrayRef> = keys.iter().map(|&key| Arc::clone(rows.column(key))).collect();
        let mut groups = Vec::new();
        self.index.intern(&key_columns, rows.num_rows(), &mut groups);
        self.left.resize(self.index.groups());
        self.right.resize(self.index.groups());
        let mut hashes = Vec::new();
        let keeps_rows = which == Which::Left || self.kind.pairs();
        if keeps_rows && (self.side(which).is_indexed() || diffs.iter().any(|diff| *diff < 0)) {
            hash_keys(rows.columns(), rows.num_rows(), &mut hashes);
        }
        if !self.null_equals_null {
            for key in &key_columns {
                if let Some(nulls) = key.logical_nulls().filter(|nulls| nulls.null_count() > 0) {
                    for (row, group) in groups.iter_mut().enumerate() {
                        if nulls.is_null(row) && *group != NO_SLOT {
                            self.forget(*group);
                            *group = NO_SLOT;
                        }
                    }
                }
            }
        }
        Delta {
            columns: rows.columns().to_vec(),
            diffs: diffs.to_vec(),
            groups,
            hashes,
        }
    }

    /// Frees a key neither side has rows for.
    fn forget(&mut self, group: u32) {
        if self.left.is_empty(group) && self.right.is_empty(group) {
            self.index.remove(group);
        }
    }

    /// Emits what a side's changes come to, with the other side as it stands.
    fn meet(&self, which: Which, delta: &Delta, out: &mut Vec<Part>) {
        if self.kind.pairs() {
            self.pair(which, delta, out);
        } else if which == Which::Left {
            self.judge(delta, out);
        }
    }

    fn pair(&self, which: Which, delta: &Delta, out: &mut Vec<Part>) {
        if let Some(band) = self.band {
            return self.pair_by_time(which, band, delta, out);
        }
        let other = self.other(which);
        let pads = self.kind.pads(which);
        let mut pairs = Pairs::default();
        let mut flush = |pairs: &mut Pairs| {
            self.drop_useless(which, delta, pairs);
            if !pairs.rows.is_empty() {
                let own = take_rows(&delta.columns, &pairs.rows);
                let theirs = other.rows.gather(&pairs.slots);
                out.push(self.batch(which, own, theirs, std::mem::take(&mut pairs.diffs)));
                pairs.rows.clear();
                pairs.slots.clear();
            }
        };
        for (row, (&group, &diff)) in delta.groups.iter().zip(&delta.diffs).enumerate() {
            let mut alone = true;
            for (slot, count) in other.chain(group) {
                alone = false;
                pairs.push(row as u32, slot, diff * count);
                if pairs.rows.len() >= OUTPUT_ROWS {
                    flush(&mut pairs);
                }
            }
            if alone && pads {
                pairs.push(row as u32, NO_SLOT, diff);
            }
        }
        flush(&mut pairs);
    }

    /// Emits the pairs whose times are not too far apart.
    fn pair_by_time(&self, which: Which, band: Band, delta: &Delta, out: &mut Vec<Part>) {
        let (own, other) = (self.side(which), self.other(which));
        let Some(timed) = &own.timed else { return };
        let times = delta.times(timed);
        let mut pairs = Pairs::default();
        let mut flush = |pairs: &mut Pairs| {
            self.drop_useless(which, delta, pairs);
            if !pairs.rows.is_empty() {
                let own = take_rows(&delta.columns, &pairs.rows);
                let theirs = other.rows.gather(&pairs.slots);
                out.push(self.batch(which, own, theirs, std::mem::take(&mut pairs.diffs)));
                pairs.rows.clear();
                pairs.slots.clear();
            }
        };
        for (row, (&group, &diff)) in delta.groups.iter().zip(&delta.diffs).enumerate() {
            let at = times[row];
            let (from, to) = match which {
                Which::Left => (at.saturating_add(band.low_us), at.saturating_add(band.high_us)),
                Which::Right => (at.saturating_sub(band.high_us), at.saturating_sub(band.low_us)),
            };
            other.within(group, from, to, |slot, count| {
                pairs.push(row as u32, slot, diff * count);
                if pairs.rows.len() >= OUTPUT_ROWS {
                    flush(&mut pairs);
                }
            });
        }
        if faults::active(Fault::MissedPair) {
            pairs.rows.pop();
            pairs.slots.pop();
            pairs.diffs.pop();
        }
        flush(&mut pairs);
    }

    /// Drops the pairs that are of no use above.
    fn drop_useless(&self, which: Which, delta: &Delta, pairs: &mut Pairs) {
        let Some(narrow) = &self.narrow else { return };
        let left = self.left.width();
        let column = |column: usize, wanted: Option<&[u32]>| {
            let of = |all: &[u32]| match wanted {
                Some(wanted) => wanted.iter().map(|&pair| all[pair as usize]).collect(),
                None => all.to_vec(),
            };
            let (side, place) = match column < left {
                true => (Which::Left, column),
                false => (Which::Right, column - left),
            };
            if side == which {
                take_rows(&delta.columns[place..=place], &of(&pairs.rows)).swap_remove(0)
            } else {
                self.side(side)
                    .rows
                    .gather_columns(&[place], &of(&pairs.slots))
                    .swap_remove(0)
            }
        };
        let Some(useful) = narrow.narrow(pairs.rows.len(), &pairs.diffs, &column) else {
            return;
        };
        let of = |all: &[u32]| useful.iter().map(|&pair| all[pair as usize]).collect();
        *pairs = Pairs {
            rows: of(&pairs.rows),
            slots: of(&pairs.slots),
            diffs: useful.iter().map(|&pair| pairs.diffs[pair as usize]).collect(),
        };
    }

    /// Emits left rows by whether the right has any under their key.
    fn judge(&self, delta: &Delta, out: &mut Vec<Part>) {
        let (mut rows, mut diffs, mut marks) = (Vec::new(), Vec::new(), Vec::new());
        for (row, (&group, &diff)) in delta.groups.iter().zip(&delta.diffs).enumerate() {
            let has = group != NO_SLOT && self.right.totals[group as usize] != 0;
            if self.kind == JoinKind::Mark || has == (self.kind == JoinKind::Semi) {
                rows.push(row as u32);
                diffs.push(diff);
                marks.push(has);
            }
        }
        if !rows.is_empty() {
            let left = take_rows(&delta.columns, &rows);
            out.push(self.batch(Which::Left, left, self.marks(marks), diffs));
        }
    }

    /// Makes changes part of their side; returns the keys that went from no rows to some (true) or back.
    fn settle(&mut self, which: Which, deltas: &[Delta]) -> Vec<(u32, bool)> {
        let opposite = match which {
            Which::Left => Which::Right,
            Which::Right => Which::Left,
        };
        let mut before = Vec::new();
        if self.kind.shows_presence(opposite) {
            let mut groups: Vec<u32> = deltas.iter().flat_map(|delta| &delta.groups).copied().collect();
            groups.sort_unstable();
            groups.dedup();
            let side = self.side(which);
            let known = groups.into_iter().filter(|group| *group != NO_SLOT);
            before.extend(known.map(|group| (group, side.totals[group as usize] != 0)));
        }
        let side = match which {
            Which::Left => &mut self.left,
            Which::Right => &mut self.right,
        };
        side.apply(deltas);
        let now = before
            .into_iter()
            .map(|(group, had)| (group, had, side.totals[group as usize] != 0));
        now.filter(|(_, had, has)| had != has)
            .map(|(group, _, has)| (group, has))
            .collect()
    }

    /// Tells the other side's rows again under keys of which `which` now has rows (true) or none.
    fn turn(&self, which: Which, turned: &[(u32, bool)], out: &mut Vec<Part>) {
        if faults::active(Fault::StalePresence) {
            return;
        }
        let other = self.other(which);
        let mut told = Pairs::default();
        let mut marks = Vec::new();
        for &(group, has) in turned {
            for (slot, count) in other.chain(group) {
                let diff = if has { -count } else { count };
                match self.kind {
                    JoinKind::Mark => {
                        told.push(0, slot, -count);
                        marks.push(!has);
                        told.push(0, slot, count);
                        marks.push(has);
                    }
                    JoinKind::Semi => told.push(0, slot, -diff),
                    _ => told.push(0, slot, diff),
                }
            }
        }
        let padding = self.side(which);
        for start in (0..told.slots.len()).step_by(OUTPUT_ROWS) {
            let range = start..(start + OUTPUT_ROWS).min(told.slots.len());
            let rows = other.rows.gather(&told.slots[range.clone()]);
            let diffs = told.diffs[range.clone()].to_vec();
            out.push(match self.kind.pairs() {
                true => self.batch(which, padding.rows.gather(&vec![NO_SLOT; range.len()]), rows, diffs),
                false => {
                    let marks = marks.get(range).unwrap_or_default().to_vec();
                    self.batch(Which::Left, rows, self.marks(marks), diffs)
                }
            });
        }
    }

    /// The column of a mark join that says whether there is a partner; others have none.
    fn marks(&self, marks: Vec<bool>) -> Vec<ArrayRef> {
        match self.kind {
            JoinKind::Mark => vec![Arc::new(BooleanArray::from(marks))],
            _ => Vec::new(),
        }
    }

    /// Puts the columns of one side, `own` being those of `which`, beside the other's.
    fn batch(&self, which: Which, own: Vec<ArrayRef>, theirs: Vec<ArrayRef>, diffs: Vec<i64>) -> Part {
        let (left, right) = match which {
            Which::Left => (own, theirs),
            Which::Right => (theirs, own),
        };
        let columns: Vec<ArrayRef> = left.into_iter().chain(right).collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(diffs.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .expect("a join emits the planned columns");
        Part::whole(Updates::new(rows, diffs))
    }
}

fn take_rows(columns: &[ArrayRef], rows: &[u32]) -> Vec<ArrayRef> {
    // Each row once, in order: the batch itself will do.
    let whole = columns.first().is_some_and(|column| column.len() == rows.len())
        && rows.iter().enumerate().all(|(at, &row)| at == row as usize);
    if whole {
        return columns.to_vec();
    }
    let rows = UInt32Array::from(rows.to_vec());
    columns
        .iter()
        .map(|column| take(column, &rows, None).expect("rows are in range"))
        .collect()
}

impl TickOperator for Join {
    fn apply(&mut self, tick: Tick, inputs: &mut [Vec<Part>]) -> Vec<Part> {
        let mut out = Vec::new();
        let mut touched = Vec::new();
        let over = self.over_after(tick);
        for (which, parts) in [Which::Left, Which::Right].into_iter().zip(inputs) {
            let parts = std::mem::take(parts);
            let mut deltas: Vec<Delta> = parts.into_iter().map(|part| self.delta(which, part)).collect();
            for delta in &mut deltas {
                touched.extend_from_slice(&delta.groups);
                if let Some(timed) = &self.side(which).timed {
                    delta.pass_over_timeless(timed);
                }
                self.meet(which, delta, &mut out);
            }
            if let (Which::Right, [_, Some(over)], Some(timed)) = (which, over, &self.right.timed) {
                // All that they could meet was there: they need not even be kept.
                deltas.iter_mut().for_each(|delta| delta.pass_over(timed, over));
            }
            let turned = self.settle(which, &deltas);
            self.turn(which, &turned, &mut out);
        }
        touched.extend(self.forget_passed(over));
        for group in std::mem::take(&mut self.uncounted) {
            self.right.totals[group as usize] = 0;
            touched.push(group);
        }
        for group in touched {
            if group != NO_SLOT {
                self.forget(group);
            }
        }
        out
    }

    fn release(&mut self, input: usize, times: &Times, below: i64) -> Released {
        let side = if input == 0 { &self.left } else { &self.right };
        if side.keeps_rows {
            let held = side.held();
            let column = side.rows.gather_columns(&[times.column], &held).swap_remove(0);
            let (gone, least) = split(&held, &times.of(&column), below);
            return Released {
                rows: side.taken_back(&gone),
                parts: Vec::new(),
                least,
            };
        }
        // Only counts are held here, by key: they go once the left rows under them have.
        let Some(position) = side.keys.iter().position(|key| *key == times.column) else {
            return Released::default();
        };
        let held: Vec<u32> = (0..side.totals.len() as u32)
            .filter(|&group| side.totals[group as usize] != 0)
            .collect();
        let (gone, least) = split(&held, &times.of(&self.index.key_column(position, &held)), below);
        self.uncounted = gone;
        Released {
            rows: None,
            parts: Vec::new(),
            least,
        }
    }

    fn state_rows(&self) -> usize {
        match self.kind.pairs() {
            true => self.left.rows.len() + self.right.rows.len(),
            false => self.left.rows.len() + self.index.len(),
        }
    }

    fn state_bytes(&self) -> usize {
        self.index.bytes() + self.left.bytes() + self.right.bytes()
    }
}
