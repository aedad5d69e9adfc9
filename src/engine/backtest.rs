//! A backtest: the known ticks go by under two deployments, and what they show is compared.
//!
//! Alerts are compared by what happened to each, views by their rows at the end. One deployment after the other, so
//! that never more than one holds its state.

mod compare;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use anyhow::Context;
use dataflows::Tick;
use queries::Relations;
use serde::Serialize;

use super::coordinator::Seen;
use super::replay::{Event, Needed, Patience, Replay, Wanted};
use super::tape::{Known, Recorded, Tape};
use super::travel::{time, whole_from};
use crate::config::{Deployment, ViewKind};
use crate::log::Transition;

pub use compare::{AlertDifference, ChangedRow, Declared, Difference, Happened, Listed, RowsDifference, Transitions};

/// Transitions of one deployment that are compared, at most.
const TRANSITIONS_MAX: usize = 2_000_000;

/// Ticks after which it is told how far a replay has come.
const TOLD_EVERY: u64 = 10_000;

/// What is compared of two deployments.
pub struct Span<'a> {
    /// The definitions that ran.
    pub old: &'a Deployment,
    /// The definitions that are to be tried.
    pub new: &'a Deployment,
    /// The first tick that counts. Default: the first that is known.
    pub from: Option<Tick>,
    /// The last tick. Default: the last that is known.
    pub to: Option<Tick>,
    /// Threads that compute.
    pub workers: usize,
}

/// What would have been different.
#[derive(Debug, Serialize)]
pub struct Backtest {
    /// The first tick that counts.
    pub from: Tick,
    /// The last one.
    pub to: Tick,
    /// Ticks that were played, those before `from` included.
    pub ticks: u64,
    /// Rows that were played.
    pub rows: u64,
    /// Sources of the new definitions that did not run: they are empty.
    pub new_sources: Vec<String>,
    /// Sources that ran and are declared no more: their rows were passed over.
    pub gone_sources: Vec<String>,
    /// What of the beginning is not as it was, because earlier rows are known no more.
    pub incomplete: Vec<String>,
    /// Alerts, by name.
    pub alerts: Vec<AlertDifference>,
    /// Views, by name.
    pub views: Vec<RowsDifference>,
}

/// What one deployment showed.
struct Shown {
    relations: Relations,
    transitions: BTreeMap<String, Vec<Transition>>,
}

impl Backtest {
    /// Plays what a data folder knows under both deployments.
    ///
    /// # Errors
    /// When the folder cannot be read, its rows do not fit a deployment, or the span holds no tick.
    pub fn run(data: &Path, span: &Span<'_>, told: &mut dyn FnMut(&str, u64)) -> anyhow::Result<Backtest> {
        let names = |deployment: &Deployment| -> BTreeSet<String> {
            deployment.sources.iter().map(|source| source.name.clone()).collect()
        };
        let sources = (names(span.old), names(span.new));
        let tape = Recorded::stopped(data, [span.old, span.new])?;
        Backtest::compared(&tape, span, sources, told)
    }

    fn compared(
        tape: &dyn Tape,
        span: &Span<'_>,
        (old, new): (BTreeSet<String>, BTreeSet<String>),
        told: &mut dyn FnMut(&str, u64),
    ) -> anyhow::Result<Backtest> {
        let known_ticks = Extent::of(tape, span.to)?;
        let Some(first) = known_ticks.first else {
            anyhow::bail!(
                "no tick is known{}\n  hint: The log holds ticks since the last checkpoint, and a stop writes one: \
                 compare while the deployment runs, with --url.",
                span.to.map_or_else(String::new, |to| format!(" up to {}", time(to)))
            );
        };
        let to = span.to.unwrap_or_else(|| tape.through());
        let from = span.from.unwrap_or(first).max(first);
        anyhow::ensure!(
            from <= to,
            "the span from {} to {} is empty\n  hint: Ticks are known from {} to {}.",
            time(from),
            time(to),
            time(first),
            time(tape.through())
        );
        let since = tape.since();
        let mut incomplete = Vec::new();
        for (which, deployment) in [("old", span.old), ("new", span.new)] {
            let whole = whole_from(
                deployment,
                &Needed::of(deployment, Some(&known(deployment, &since))),
                &since,
            );
            if whole.tick > from {
                incomplete.push(format!("{which} definitions: {}", whole.why));
            }
        }
        incomplete.dedup_by(|one, other| {
            one.split_once(": ").map(|(_, why)| why) == other.split_once(": ").map(|(_, why)| why)
        });
        let before = play(tape, span.old, (from, to), span.workers, &mut |ticks| {
            told("the definitions that ran", ticks)
        })
        .context("could not play the ticks through the definitions that ran")?;
        let after = play(tape, span.new, (from, to), span.workers, &mut |ticks| {
            told("the new definitions", ticks)
        })
        .context("could not play the ticks through the new definitions")?;
        let ran: BTreeSet<&String> = old.iter().chain(&known_ticks.sources).collect();
        let (alerts, views) = compare::all((span.old, &before), (span.new, &after));
        Ok(Backtest {
            from,
            to,
            ticks: known_ticks.ticks,
            rows: known_ticks.rows,
            new_sources: new.iter().filter(|source| !ran.contains(source)).cloned().collect(),
            gone_sources: ran
                .iter()
                .filter(|source| !new.contains(**source))
                .map(|source| (*source).clone())
                .collect(),
            incomplete,
            alerts,
            views,
        })
    }

    /// Tells whether anything would have been different.
    pub fn differs(&self) -> bool {
        self.alerts.iter().any(Difference::differs) || self.views.iter().any(Difference::differs)
    }
}

/// Returns the relations of a deployment that read no source of which nothing is known: those begin empty anyway.
fn known(deployment: &Deployment, since: &BTreeMap<String, Known>) -> BTreeSet<String> {
    let names = deployment.views.iter().map(|view| view.view.name.clone());
    let are_known = |name: &String| {
        let alone = BTreeSet::from([name.clone()]);
        let needed = Needed::of(deployment, Some(&alone));
        needed.sources.iter().all(|source| since.contains_key(source))
    };
    names.filter(are_known).collect()
}

/// What a tape holds up to some tick.
#[derive(Default)]
struct Extent {
    first: Option<Tick>,
    ticks: u64,
    rows: u64,
    sources: BTreeSet<String>,
}

impl Extent {
    fn of(tape: &dyn Tape, to: Option<Tick>) -> anyhow::Result<Extent> {
        let mut extent = Extent::default();
        tape.play(to.unwrap_or(Tick::MAX), None, &mut |record| {
            extent.first = extent.first.or(Some(record.tick));
            extent.ticks += 1;
            for entry in &record.entries {
                extent.rows += entry.rows.num_rows() as u64;
                if !extent.sources.contains(&*entry.source) {
                    extent.sources.insert(entry.source.to_string());
                }
            }
            Ok(())
        })?;
        Ok(extent)
    }
}

/// Plays the ticks through one deployment.
fn play(
    tape: &dyn Tape,
    deployment: &Deployment,
    (from, to): (Tick, Tick),
    workers: usize,
    told: &mut dyn FnMut(u64),
) -> anyhow::Result<Shown> {
    let names: Vec<String> = deployment
        .views
        .iter()
        .filter(|view| view.kind == ViewKind::View)
        .map(|view| view.view.name.clone())
        .collect();
    let all = deployment.views.iter().map(|view| view.view.name.clone());
    let mut replay = Replay::start(
        deployment,
        Wanted {
            relations: Some(all.collect()),
            watched: HashSet::new(),
            workers,
            passes_over: true,
            patience: Patience::default(),
        },
    )?;
    let mut transitions: BTreeMap<String, Vec<Transition>> = BTreeMap::new();
    let (mut count, mut ticks) = (0, 0);
    let mut hear = |_: &mut Replay, event: Event| {
        match event {
            Event::Passed => {
                ticks += 1;
                if ticks % TOLD_EVERY == 0 {
                    told(ticks);
                }
            }
            Event::Seen(Seen::Transitions(seen)) => {
                for transition in seen.into_iter().filter(|seen| seen.tick >= from) {
                    count += 1;
                    anyhow::ensure!(
                        count <= TRANSITIONS_MAX,
                        "more than {TRANSITIONS_MAX} things happened to alerts\n  \
                         hint: Narrow the span with --from and --to."
                    );
                    let alert = transition.alert.to_string();
                    transitions.entry(alert).or_default().push(transition);
                }
            }
            Event::Seen(Seen::Changes(..)) | Event::Reached(_) => {}
        }
        Ok(())
    };
    replay.play(tape, &[to], &mut hear)?;
    replay.end_at(to, &mut hear)?;
    Ok(Shown {
        relations: replay.snapshot(&names)?,
        transitions,
    })
}
