//! How far each view is closed, by the watermarks of its sources at the end of the tick before; and what its joins by
//! time may forget when a tick is done, by the watermarks at its own end.
//!
//! `kept` says how far closed rows are in history, `saved` what is written down, `comparable` what can be computed again.

mod comparable;
mod kept;
mod saved;

use std::collections::HashMap;
use std::sync::Arc;

use dataflows::json::RowEncoder;
use dataflows::workers::{Closed, FlowId, Passed};
use dataflows::{Tick, Updates};
use queries::{Closing, Passing};

use super::letters::Letter;
use super::source::SourceState;
use super::store::StoredRows;
use super::topology::Topology;
pub(super) use comparable::{Comparable, rules};
use kept::Kept;
pub(crate) use kept::layout;
pub(super) use kept::unit_us;
pub(super) use saved::SavedClosing;

/// Every view that goes by a watermark.
#[derive(Default)]
pub(super) struct Closings {
    /// Whether closed rows that are kept go to history.
    has_history: bool,
    views: Vec<State>,
    joins: Vec<Joins>,
}

/// What a watermark is the least of.
struct Waits {
    sources: Vec<usize>,
    /// Views that emit on close, by their place among those that close.
    views: Vec<usize>,
}

/// A view that closes its buckets of time.
struct State {
    flow: FlowId,
    name: Arc<str>,
    closing: Closing,
    waits: Waits,
    /// Sources whose rows may come too late for it.
    unheld: Vec<usize>,
    watermark_us: Option<i64>,
    closed: Closed,
    /// Buckets below this were closed by another definition of the view, or by other rules of its sources.
    since: i64,
    /// A watermark to come, and whether it closes anything.
    next: Option<(i64, bool)>,
    /// Where its closed rows are kept, where that is not in memory.
    kept: Option<Kept>,
}

/// A view with joins by time.
struct Joins {
    flow: FlowId,
    passing: Passing,
    waits: Waits,
    watermark_us: Option<i64>,
    /// Whether the workers have yet to learn of it.
    moved: bool,
}

impl State {
    fn closed_at(&self, watermark_us: i64) -> Closed {
        // Neither ever falls, and a time out of range closes nothing more.
        let below = self.closing.below(watermark_us).unwrap_or(i64::MIN);
        let gone = self.closing.gone(watermark_us).unwrap_or(i64::MIN);
        // What is in files only cannot leave before it has been read.
        let limit = self.kept.as_ref().map_or(i64::MAX, |kept| kept.limit);
        Closed {
            below: below.max(self.closed.below),
            gone: gone.min(limit).max(self.closed.gone),
            ..self.closed
        }
    }
}

/// Returns how far new dataflows are closed before their first row: of a bucket that is not wholly among
/// the rows that its sources retain, nothing is told.
pub(super) fn starting(topology: &Topology, flows: &[FlowId], sources: &[SourceState]) -> Vec<(FlowId, Closed)> {
    let flows = flows.iter().filter_map(|flow| topology.flows.get(flow));
    let closing = flows.filter_map(|flow| Some((flow.spec.id, flow.view.as_ref()?.view.closing.as_ref()?)));
    let starting = closing.filter_map(|(flow, closing)| {
        let retained = closing.sources.iter().chain(&closing.unheld).filter_map(|name| {
            let source = &sources[topology.source(name)?];
            source.retained_from_us()
        });
        // The first whole bucket is the one that is not over before this.
        let whole_us = retained.max()?.saturating_add(closing.size_us - 1);
        let below = closing.below(whole_us)?;
        Some((
            flow,
            Closed {
                below,
                ..Closed::default()
            },
        ))
    });
    starting.collect()
}

/// What a tick changes of a view whose rows are in history.
pub(super) struct Moved {
    pub(super) flow: FlowId,
    pub(super) rows: StoredRows,
}

impl Closings {
    /// Returns how far each view is closed, by name.
    pub(super) fn by_name(&self) -> HashMap<String, Closed> {
        self.views
            .iter()
            .map(|state| (state.name.to_string(), state.closed))
            .collect()
    }

    /// Returns how far each view is closed.
    pub(super) fn closed(&self) -> Vec<(FlowId, Closed)> {
        self.views.iter().map(|state| (state.flow, state.closed)).collect()
    }

    /// Takes over from `old` what is known of dataflows that still run; `starting` says how far new ones are closed.
    pub(super) fn new(topology: &Topology, old: &Closings, starting: &[(FlowId, Closed)]) -> Self {
        let views = || {
            let flows = topology.flows.iter();
            flows.filter_map(|(flow, entry)| Some((*flow, &entry.view.as_ref()?.view)))
        };
        let closing: Vec<(FlowId, &str, &Closing)> = views()
            .filter_map(|(flow, view)| Some((flow, view.name.as_str(), view.closing.as_ref()?)))
            .collect();
        let source = |name: &String| topology.source(name);
        let view = |name: &String| closing.iter().position(|(_, view, _)| view == name);
        let waits = |sources: &[String], views: &[String]| Waits {
            sources: sources.iter().filter_map(source).collect(),
            views: views.iter().filter_map(view).collect(),
        };
        let joins = views().filter_map(|(flow, view)| {
            let passing = view.passing.as_ref()?;
            let known = old.joins.iter().find(|joins| joins.flow == flow);
            Some(Joins {
                flow,
                waits: waits(&passing.sources, &passing.views),
                passing: passing.clone(),
                watermark_us: known.and_then(|known| known.watermark_us),
                moved: known.is_some_and(|known| known.moved),
            })
        });
        let view_of = |flow: FlowId| Some(&topology.flows.get(&flow)?.view.as_ref()?.view);
        let state = |(flow, name, closing): &(FlowId, &str, &Closing)| {
            let known = old.views.iter().find(|state| state.flow == *flow);
            let start = starting.iter().find(|(new, _)| new == flow).map(|(_, closed)| *closed);
            let closed = known.map(|known| known.closed).or(start).unwrap_or_default();
            State {
                flow: *flow,
                name: (*name).into(),
                waits: waits(&closing.sources, &closing.views),
                unheld: closing.unheld.iter().filter_map(source).collect(),
                closing: (*closing).clone(),
                watermark_us: known.and_then(|known| known.watermark_us),
                closed,
                since: known.map_or(closed.below, |known| known.since),
                next: known.and_then(|known| known.next),
                kept: match known {
                    Some(known) => known.kept.clone(),
                    None => old
                        .has_history
                        .then(|| Kept::new(view_of(*flow)?, closing))
                        .flatten()
                        .map(|kept| {
                            // Finished rows stay where they are, and what they are.
                            let before = old.views.iter().filter(|state| state.name == (*name).into());
                            let before = before
                                .filter_map(|state| state.kept.clone())
                                .find(|before| before.layout.fingerprint() == kept.layout.fingerprint());
                            before.unwrap_or(kept)
                        }),
                },
            }
        };
        Closings {
            has_history: old.has_history,
            joins: joins.collect(),
            views: closing.iter().map(state).collect(),
        }
    }

    /// Returns a watermark, from what is known now; none while one of its inputs has none.
    fn watermark_us(&self, waits: &Waits, sources: &[SourceState]) -> Option<i64> {
        let of_sources = waits.sources.iter().map(|&source| sources[source].watermark_us());
        // What a view shows at a tick, others that read it have only then: for them it was as far before.
        let of_views = waits.views.iter().map(|&view| self.views[view].watermark_us);
        let all: Option<Vec<i64>> = of_sources.chain(of_views).collect();
        all?.into_iter().min()
    }

    /// Begins a tick, before any row of it is taken: returns what is closed from now on.
    /// And which rows in files are shown then, where that has changed.
    pub(super) fn begin(&mut self, sources: &[SourceState]) -> (Vec<(FlowId, Closed)>, Vec<Moved>) {
        let of = |waits: &Waits| self.watermark_us(waits, sources);
        let of_views: Vec<Option<i64>> = self.views.iter().map(|state| of(&state.waits)).collect();
        let (mut moved, mut left) = (Vec::new(), Vec::new());
        for (state, watermark_us) in self.views.iter_mut().zip(of_views) {
            let Some(watermark_us) = watermark_us.filter(|us| Some(*us) > state.watermark_us) else {
                continue;
            };
            state.watermark_us = Some(watermark_us);
            let closed = state.closed_at(watermark_us);
            if closed != state.closed {
                let leaves = closed.gone > state.closed.gone;
                state.closed = closed;
                moved.push((state.flow, closed));
                let rows = state.rows_in_files().filter(|rows| leaves && rows.stored > i64::MIN);
                left.extend(rows.map(|rows| Moved { flow: state.flow, rows }));
            }
        }
        (moved, left)
    }

    /// Returns what the joins of some dataflows may forget once the tick is done, all rows of which were taken:
    /// a row of a later tick that is before the watermark as it is now would be late.
    pub(super) fn passed(&mut self, flows: &[FlowId], sources: &[SourceState]) -> Vec<(FlowId, Arc<[Passed]>)> {
        let of_joins: Vec<Option<i64>> = self
            .joins
            .iter()
            .map(|joins| self.watermark_us(&joins.waits, sources))
            .collect();
        for (joins, watermark_us) in self.joins.iter_mut().zip(of_joins) {
            if watermark_us > joins.watermark_us {
                joins.watermark_us = watermark_us;
                joins.moved = true;
            }
        }
        let joins = self.joins.iter_mut();
        let told = joins.filter(|joins| joins.moved && flows.binary_search(&joins.flow).is_ok());
        let told = told.filter_map(|joins| {
            joins.moved = false;
            Some((joins.flow, joins.passing.at(joins.watermark_us?).into()))
        });
        told.collect()
    }

    /// Tells whether a tick without input would close anything.
    pub(super) fn is_due(&mut self, sources: &[SourceState]) -> bool {
        let mut due = false;
        for position in 0..self.views.len() {
            let state = &self.views[position];
            let Some(watermark_us) = self.watermark_us(&state.waits, sources) else {
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
