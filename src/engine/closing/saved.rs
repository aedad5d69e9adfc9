//! How far views are closed, as it is written down, and the rows that go with it.

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use dataflows::plan::{Bucket, times_of};
use dataflows::workers::Closed;
use serde::{Deserialize, Serialize};

use super::Closings;
use crate::log::KeepView;

/// How far a view is closed, as it is written down.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(in crate::engine) struct SavedClosing {
    watermark_us: Option<i64>,
    below: i64,
    gone: i64,
    /// Absent where an older program wrote it.
    #[serde(default)]
    since: Option<i64>,
}

impl SavedClosing {
    /// Returns how far the view is closed.
    fn closed(&self) -> Closed {
        Closed {
            below: self.below,
            gone: self.gone,
            ..Closed::default()
        }
    }
}

/// A view that closes, and how far it is closed.
pub(in crate::engine) struct Saved {
    pub(in crate::engine) name: String,
    pub(in crate::engine) closing: SavedClosing,
    /// What goes to history, but for the rows.
    pub(in crate::engine) keep: Option<KeepView>,
    bucket: usize,
    below: i64,
}

impl Saved {
    /// Picks closed rows.
    pub(in crate::engine) fn closed(&self, batches: &[RecordBatch]) -> Vec<RecordBatch> {
        let bucket = Bucket {
            column: self.bucket,
            of: None,
        };
        let closed = batches.iter().map(|rows| {
            let times = times_of(&bucket, rows);
            let closed: BooleanArray = times
                .iter()
                .map(|time| Some(time.is_some_and(|time| time < self.below)))
                .collect();
            filter_record_batch(rows, &closed).expect("one verdict a row")
        });
        closed.filter(|rows| rows.num_rows() > 0).collect()
    }
}

impl Closings {
    /// Returns what is to be written down of every view that closes.
    pub(in crate::engine) fn save(&self) -> Vec<Saved> {
        let views = self.views.iter().map(|state| {
            let keep = state
                .kept
                .as_ref()
                .filter(|_| state.closing.keep_us.is_some())
                .map(|kept| KeepView {
                    layout: kept.layout.clone(),
                    unit_us: kept.unit_us,
                    stored: kept.stored,
                    below: state.closed.below,
                    gone: state.closed.gone,
                    limit: kept.limit,
                    horizon: kept
                        .wanted
                        .max(state.closed.gone)
                        .saturating_add(kept.ahead(&state.closing)),
                    rows: Vec::new(),
                    count: 0,
                });
            Saved {
                name: state.name.to_string(),
                closing: SavedClosing {
                    watermark_us: state.watermark_us,
                    below: state.closed.below,
                    gone: state.closed.gone,
                    since: Some(state.since),
                },
                keep,
                bucket: state.closing.bucket,
                below: state.closed.below,
            }
        });
        views.collect()
    }

    /// Goes on where a view was before a restart. `by_the_same` says whether what it closed then it closed by the
    /// definitions and rules that hold now.
    pub(in crate::engine) fn restore(&mut self, view: &str, saved: &SavedClosing, by_the_same: bool) {
        for state in self.views.iter_mut().filter(|state| &*state.name == view) {
            state.watermark_us = saved.watermark_us;
            state.since = saved.since.filter(|_| by_the_same).unwrap_or(saved.below);
            state.closed = Closed {
                stored: state.closed.stored,
                held: state.closed.held,
                ..saved.closed()
            };
        }
    }
}
