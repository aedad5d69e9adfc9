//! How far the closed rows of views are in history, and which of them are in memory because they leave next.

use std::sync::Arc;

use arrow::datatypes::DataType;
use dataflows::workers::{Closed, FlowId};
use queries::{Closing, View};

use super::super::source::SourceState;
use super::super::store::StoredRows;
use super::super::topology::Topology;
use super::{Closings, State};
use crate::history::{HistoryError, KeptView, Layout, Stored};

/// How far the closed rows of a view are in history.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) layout: Layout,
    /// Microseconds of one of the bucket's column.
    pub(super) unit_us: i64,
    /// Rows of buckets below this are there.
    pub(super) stored: i64,
    /// Of these, those below this are in memory, because they leave next; others cannot leave before they are.
    pub(super) limit: i64,
    /// Rows below this leave with the next tick, as the watermark stands that was looked at last.
    pub(super) wanted: i64,
    looked: Option<i64>,
    /// What `wanted` was when more rows were asked for.
    asked: i64,
}

impl Kept {
    pub(super) fn new(view: &View, closing: &Closing) -> Option<Kept> {
        Some(Kept {
            layout: layout(view).ok()?,
            unit_us: unit_us(view, closing.bucket),
            stored: i64::MIN,
            limit: i64::MAX,
            wanted: i64::MIN,
            looked: None,
            asked: i64::MIN,
        })
    }

    /// Returns how far ahead of what has left rows are held, in values of the bucket's column.
    pub(super) fn ahead(&self, closing: &Closing) -> i64 {
        let keep_us = closing.keep_us.unwrap_or(0);
        (keep_us / AHEAD_PART).max(AHEAD_BUCKETS.saturating_mul(closing.size_us)) / self.unit_us
    }
}

/// Rows are held in memory for this part of `keep` before they leave, or for as many buckets.
const AHEAD_PART: i64 = 128;
const AHEAD_BUCKETS: i64 = 8;

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// Returns how many microseconds one of a bucket's column is.
pub(in crate::engine) fn unit_us(view: &View, bucket: usize) -> i64 {
    match view.schema.field(bucket).data_type() {
        DataType::Date32 => DAY_US,
        _ => 1,
    }
}

/// Lays the finished rows of a view out.
///
/// # Errors
/// When a column is of a type that files cannot hold.
pub(crate) fn layout(view: &View) -> Result<Layout, HistoryError> {
    let bucket = view
        .closing
        .as_ref()
        .map(|closing| view.schema.field(closing.bucket).name().as_str());
    let key: Vec<String> = view
        .implied_key
        .iter()
        .flatten()
        .filter(|name| Some(name.as_str()) != bucket)
        .cloned()
        .collect();
    Layout::new(view.name.as_str(), Arc::clone(&view.schema), bucket, &key)
}

impl State {
    /// Says which of its rows are in files, and shown.
    pub(super) fn rows_in_files(&self) -> Option<StoredRows> {
        let kept = self.kept.as_ref()?;
        Some(StoredRows {
            bucket: self.closing.bucket,
            stored: kept.stored,
            from_us: (self.closed.gone > i64::MIN).then(|| self.closed.gone.saturating_mul(kept.unit_us)),
            cold: None,
        })
    }
}

impl Closings {
    /// Says whether closed rows are kept in history.
    pub(in crate::engine) fn with_history(mut self, topology: &Topology, has_history: bool) -> Self {
        self.has_history = has_history;
        for state in self.views.iter_mut().filter(|_| has_history) {
            let view = topology.flows.get(&state.flow).and_then(|flow| flow.view.as_ref());
            state.kept = view.and_then(|view| Kept::new(&view.view, &state.closing));
        }
        self
    }

    /// Hears what of a view is in history; from the tick that is begun on that holds.
    pub(in crate::engine) fn stored(&mut self, moved: &Stored) -> Option<(FlowId, Closed, StoredRows)> {
        let state = self.views.iter_mut().find(|state| *state.name == moved.view)?;
        let kept = state.kept.as_mut()?;
        kept.stored = moved.stored;
        kept.limit = if moved.horizon < moved.stored {
            moved.horizon
        } else {
            i64::MAX
        };
        (state.closed.stored, state.closed.held) = (moved.stored, moved.horizon);
        let mut rows = state.rows_in_files()?;
        rows.cold = Some(moved.cold.clone());
        Some((state.flow, state.closed, rows))
    }

    /// Goes on where the history of a view was at the checkpoint. Returns below what its rows are to be in memory.
    pub(in crate::engine) fn restore_history(&mut self, view: &str, known: &KeptView) -> Option<(i64, StoredRows)> {
        let state = self.views.iter_mut().find(|state| *state.name == *view)?;
        let kept = state.kept.as_mut()?;
        (kept.stored, kept.limit) = (known.stored, known.limit);
        // Until the tick that says so, rows may leave as far as they could before the checkpoint.
        (state.closed.stored, state.closed.held) = (known.stored, known.horizon.max(known.limit));
        let held = state.closed.held.min(known.stored);
        Some((held, state.rows_in_files()?))
    }

    /// Returns the dataflow of a view that closes, and how many microseconds one of its bucket's column is.
    pub(in crate::engine) fn place(&self, view: &str) -> Option<(FlowId, i64)> {
        let state = self.views.iter().find(|state| *state.name == *view)?;
        Some((state.flow, state.kept.as_ref()?.unit_us))
    }

    /// Says which rows of a view are in files, if some are.
    pub(in crate::engine) fn rows_in_files(&self, view: &str) -> Option<StoredRows> {
        let state = self.views.iter().find(|state| *state.name == *view)?;
        state.rows_in_files().filter(|rows| rows.stored > i64::MIN)
    }

    /// Returns before what time the rows in files of a view have left.
    pub(in crate::engine) fn shown_from_us(&self, view: &str) -> Option<i64> {
        self.rows_in_files(view)?.from_us
    }

    /// Looks at what is to leave next, at the end of a tick: whether any of it is in files only, and whether more
    /// should be read soon.
    pub(in crate::engine) fn wants_rows(&mut self, sources: &[SourceState]) -> (bool, bool) {
        let (mut is_short, mut wants) = (false, false);
        for place in 0..self.views.len() {
            let watermark_us = self.watermark_us(&self.views[place].waits, sources);
            let State { kept, closing, .. } = &mut self.views[place];
            let (Some(kept), Some(watermark_us)) = (kept, watermark_us) else {
                continue;
            };
            if kept.looked != Some(watermark_us) {
                kept.looked = Some(watermark_us);
                kept.wanted = kept.wanted.max(closing.gone(watermark_us).unwrap_or(i64::MIN));
            }
            let ahead = kept.ahead(closing);
            // Where history does not answer, it is not asked at each tick.
            let again = kept.asked.saturating_add(ahead / 8) < kept.wanted;
            is_short |= kept.wanted > kept.limit;
            if kept.limit < i64::MAX && kept.wanted.saturating_add(ahead / 2) > kept.limit && again {
                kept.asked = kept.wanted;
                wants = true;
            }
        }
        (is_short, wants)
    }
}
