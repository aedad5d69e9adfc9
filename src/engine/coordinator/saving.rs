//! When all that is retained is written down, and what that is.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use dataflows::Tick;
use serde_json::json;

use super::super::plants::{Plant, is_planted};
use super::super::{alerts, closing, idempotency, letters, raw};
use super::Coordinator;
use crate::log::{Checkpoint, Keep, KeepView, Manifest, Rows, SourceManifest, ViewManifest};

/// When the next checkpoint is due.
pub(super) struct Saving {
    /// Bytes of the log that make one due.
    every_bytes: u64,
    /// Bytes of the log at the start, those written since added, and those before the last checkpoint.
    found: u64,
    written: u64,
    before: u64,
    /// Bytes of files that the last one wrote: as many come to the log before the next.
    cost: u64,
    /// The number of the first record that the last one does not hold.
    saved: u64,
    wanted: bool,
    writing: bool,
}

impl Saving {
    pub(super) fn new(every_bytes: u64) -> Self {
        Saving {
            every_bytes,
            found: 0,
            written: 0,
            before: 0,
            cost: 0,
            saved: 0,
            wanted: false,
            writing: false,
        }
    }

    /// Hears how many bytes the log held at the start, and which record is the first that is in no checkpoint.
    pub(super) fn found(&mut self, bytes: u64, saved: u64) {
        self.found = bytes;
        self.saved = saved;
        self.wrote(0);
    }

    /// Hears how many bytes the log has written since the start.
    pub(super) fn wrote(&mut self, bytes: u64) {
        self.written = bytes + self.found;
        if self.written - self.before >= self.every_bytes.max(self.cost) {
            self.wanted = true;
        }
    }

    /// Asks for one at the next moment at which nothing is unfinished.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Tells whether the doors are closed until nothing is unfinished: for a few milliseconds.
    pub(super) fn closes_doors(&self) -> bool {
        self.wanted && !self.writing
    }

    pub(super) fn is_writing(&self) -> bool {
        self.writing
    }

    fn begin(&mut self, next: u64) {
        self.saved = next;
        self.wanted = false;
        self.writing = true;
        self.before = self.written;
    }

    /// Hears that a checkpoint has taken the place of the one before, and what it cost to write.
    pub(super) fn named(&mut self, cost: u64) {
        self.writing = false;
        self.cost = cost;
    }
}

impl Coordinator {
    /// Has all that is retained written down, if that is due and nothing is unfinished.
    ///
    /// What is handed over are pointers to what is immutable; rows of sources with a key are gathered where they
    /// have changed.
    pub(super) fn save(&mut self) {
        let is_settled = self.is_settled() || is_planted(Plant::SavedUnfinished);
        if !self.saving.closes_doors() || self.filling.is_some() || self.storing.is_some() || !is_settled {
            return;
        }
        let Some(next) = self.log.as_ref().map(|log| log.next()) else {
            self.saving.wanted = false;
            return;
        };
        if next == self.saving.saved {
            // Nothing has happened since the last one.
            self.saving.wanted = false;
            return;
        }
        let tick = self.clock.last();
        let checkpoint = self.checkpoint(tick, next);
        self.saving.begin(next);
        if let Some(log) = &mut self.log {
            log.checkpoint(checkpoint);
        }
    }

    /// Collects all that is retained as of a tick.
    fn checkpoint(&mut self, tick: Tick, log_from: u64) -> Checkpoint {
        let mut manifest = Manifest {
            tick,
            log_from,
            ..Manifest::default()
        };
        let [mut sources, mut views, mut tables] = [const { BTreeMap::new() }; 3];
        for (position, state) in self.sources.iter_mut().enumerate() {
            let entry = &self.topology.sources[position];
            let name = entry.name.to_string();
            let rows = state.save(|| entry.relation.store.snapshot(tick).unwrap_or_default());
            sources.insert(name.clone(), rows);
            let saved = SourceManifest {
                shape: state.shape(),
                state: json!({ "relation": state.state(), "counts": entry.counts() }),
                position: self.positions[position].clone(),
                parts: Vec::new(),
            };
            manifest.sources.insert(name, saved);
        }
        let mut keep = Keep::default();
        for saved in self.closings.save() {
            let name = &saved.name;
            let Some(entry) = self.topology.relation(name) else {
                continue;
            };
            let rows = entry.store.snapshot(tick).unwrap_or_default();
            let closed = saved.closed(&rows);
            let count = |batches: &[RecordBatch]| batches.iter().map(|rows| rows.num_rows() as i64).sum::<i64>();
            if let Some(view) = &saved.keep {
                let closed_rows = entry.store.rows() - count(&rows) + count(&closed);
                let view = KeepView {
                    rows: closed.clone(),
                    count: u64::try_from(closed_rows).unwrap_or(0),
                    ..view.clone()
                };
                keep.views.insert(name.clone(), view);
            }
            views.insert(name.clone(), Rows::Any(closed));
            let view = ViewManifest {
                state: json!({
                    "definition": entry.relation.definition,
                    "rules": closing::rules(&self.topology.deployment, name),
                    "closed": saved.closing,
                }),
                parts: Vec::new(),
            };
            manifest.views.insert(saved.name, view);
        }
        keep.sources = raw::kept(&self.topology.deployment, &self.sources, tick);
        let (late, rejected) = (self.shared.late_letters(tick), self.shared.rejected_letters(tick));
        let sinks: Vec<String> = self.shared.sinks.status().into_iter().map(|sink| sink.sink).collect();
        manifest.state = json!({ "late": late.1, "rejected": rejected.1, "sinks": sinks });
        let standing = self.flows.values().flat_map(|running| running.standing_rows());
        for (name, rows) in [
            (letters::LATE, late.0),
            (letters::REJECTED, rejected.0),
            (alerts::EVENTS, self.shared.alert_events(tick)),
            (alerts::STANDING, alerts::batch(standing.collect::<Vec<_>>().iter())),
            (idempotency::TABLE, self.answered.batch()),
        ] {
            tables.insert(name.to_owned(), Rows::Any(vec![rows]));
        }
        Checkpoint {
            manifest,
            rows: [sources, views, tables],
            keep,
        }
    }
}
