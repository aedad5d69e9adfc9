//! How far each view is closed, by the watermarks of its sources at the end of the tick before.

use std::sync::Arc;

use dataflows::json::RowEncoder;
use dataflows::workers::{Closed, FlowId};
use dataflows::{Tick, Updates};
use queries::Closing;

use super::letters::Letter;
use super::source::SourceState;
use crate::config::Deployment;

/// Every view that closes its buckets of time.
pub(super) struct Closings {
    views: Vec<State>,
}

struct State {
    flow: FlowId,
    name: Arc<str>,
    closing: Closing,
    /// The sources whose watermarks it waits for.
    sources: Vec<usize>,
    /// The views it waits for, by their place here.
    views: Vec<usize>,
    /// Sources whose rows may come too late for it.
    unheld: Vec<usize>,
    watermark_us: Option<i64>,
    closed: Closed,
    /// A watermark to come, and whether it closes anything.
    next: Option<(i64, bool)>,
}

impl State {
    fn closed_at(&self, watermark_us: i64) -> Closed {
        Closed {
            // Neither ever falls: a time out of range closes nothing more.
            below: self
                .closing
                .below(watermark_us)
                .map_or(self.closed.below, |below| below.max(self.closed.below)),
            gone: self
                .closing
                .gone(watermark_us)
                .map_or(self.closed.gone, |gone| gone.max(self.closed.gone)),
        }
    }
}

impl Closings {
    pub(super) fn new(deployment: &Deployment) -> Self {
        let closing = deployment.views.iter().enumerate();
        let closing = closing.filter_map(|(flow, definition)| {
            let closing = definition.view.closing.clone()?;
            Some((flow, definition.view.name.clone(), closing))
        });
        let closing: Vec<(FlowId, String, Closing)> = closing.collect();
        let source = |name: &String| deployment.sources.iter().position(|source| source.name == *name);
        let view = |name: &String| closing.iter().position(|(_, view, _)| view == name);
        let views = closing
            .iter()
            .map(|(flow, name, closing)| State {
                flow: *flow,
                name: name.as_str().into(),
                sources: closing.sources.iter().filter_map(source).collect(),
                views: closing.views.iter().filter_map(view).collect(),
                unheld: closing.unheld.iter().filter_map(source).collect(),
                closing: closing.clone(),
                watermark_us: None,
                closed: Closed::default(),
                next: None,
            })
            .collect();
        Closings { views }
    }

    /// Returns a view's watermark, from what is known now; none while one of its inputs has none.
    fn watermark_us(&self, state: &State, sources: &[SourceState]) -> Option<i64> {
        let of_sources = state.sources.iter().map(|&source| sources[source].watermark_us());
        // What a view shows at a tick, others that read it have only then: for them it was as far before.
        let of_views = state.views.iter().map(|&view| self.views[view].watermark_us);
        let all: Option<Vec<i64>> = of_sources.chain(of_views).collect();
        all?.into_iter().min()
    }

    /// Begins a tick, before any row of it is taken: returns what is closed from now on.
    pub(super) fn begin(&mut self, sources: &[SourceState]) -> Vec<(FlowId, Closed)> {
        let watermarks: Vec<Option<i64>> = self
            .views
            .iter()
            .map(|state| self.watermark_us(state, sources))
            .collect();
        let mut moved = Vec::new();
        for (state, watermark_us) in self.views.iter_mut().zip(watermarks) {
            let Some(watermark_us) = watermark_us.filter(|_| watermark_us > state.watermark_us) else {
                continue;
            };
            state.watermark_us = Some(watermark_us);
            let closed = state.closed_at(watermark_us);
            if closed != state.closed {
                state.closed = closed;
                moved.push((state.flow, closed));
            }
        }
        moved
    }

    /// Tells whether a tick without input would close anything.
    pub(super) fn is_due(&mut self, sources: &[SourceState]) -> bool {
        let mut due = false;
        for position in 0..self.views.len() {
            let state = &self.views[position];
            let Some(watermark_us) = self.watermark_us(state, sources) else {
                continue;
            };
            let closes = match state.next {
                _ if Some(watermark_us) <= state.watermark_us => false,
                Some((known, closes)) if known == watermark_us => closes,
                _ => state.closed_at(watermark_us) != state.closed,
            };
            self.views[position].next = Some((watermark_us, closes));
            due |= closes;
        }
        due
    }

    /// Finds the rows that a source took in and that come too late for a view.
    pub(super) fn late(
        &self,
        (source, name): (usize, &str),
        tick: Tick,
        changes: &[Updates],
        letters: &mut Vec<Letter>,
    ) {
        for state in self.views.iter().filter(|state| state.unheld.contains(&source)) {
            for updates in changes {
                let rows = updates.rows();
                let late = state.closing.late(name, rows, state.closed.below);
                let encoder = RowEncoder::new(&rows.schema());
                for row in late.into_iter().filter(|&row| updates.diffs()[row] > 0) {
                    let mut raw = Vec::new();
                    encoder.object(rows, row, &mut raw);
                    letters.push(Letter {
                        source: Arc::clone(&state.name),
                        tick,
                        reason: "its bucket is closed".to_owned(),
                        raw: String::from_utf8_lossy(&raw).into_owned(),
                    });
                }
            }
        }
    }
}
