//! Changes what runs: only what differs is touched, all else keeps its state and its subscribers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::array::RecordBatch;
use dataflows::Tick;
use dataflows::workers::{Closed, FlowId, Seed, check};
use queries::QueryError;
use tokio::sync::oneshot;

use super::carried::{Carried, carried, hydrate};
use super::feed::Feed;
use super::filling::{ChangeRequest, Contents, Fill};
use super::shared::SourceEntry;
use super::topology::{FlowEntry, Topology};
use super::wiring::{NewFlow, definitions, feeds, flows, source};
use super::{Engine, EngineError, Snapshot, add_tables, follow};
use crate::config::{Clock, Deployment, Edit, FileProblem, ViewDef};

/// What a change came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Sources, views and alerts there were none of before.
    pub added: Vec<String>,
    /// Views and alerts that are computed anew: their definition has changed, or that of what they read.
    pub changed: Vec<String>,
    /// Views and alerts that are gone.
    pub dropped: Vec<String>,
    /// The first tick from which on all of it holds.
    pub tick: Tick,
    /// Retained rows the new ones were filled with.
    pub rows: usize,
    /// How long that took.
    pub took: Duration,
}

/// Why a deployment cannot take the place of the one that runs.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The folder has mistakes, or would have.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<FileProblem>),
    /// The folder cannot be written to.
    #[error("could not write to the deployment folder: {0}")]
    Unwritten(#[from] std::io::Error),
    /// It differs in what is fixed as long as the program runs.
    #[error("{}", .0.join("; "))]
    NeedsRestart(Vec<String>),
    /// A plan that cannot be run.
    #[error("{0}")]
    Unsupported(String),
    /// The engine has stopped, or is stopping.
    #[error(transparent)]
    Stopped(#[from] EngineError),
}

impl Engine {
    /// Lets `deployment` take the place of the one that runs, and returns once all its views are current.
    ///
    /// Views that are new, changed, or read one that is, are filled from what their sources and views hold,
    /// in slices, while everything else goes on; views they replace answer until then. The change
    /// goes on when the caller goes away.
    ///
    /// # Errors
    /// When options or known sources differ, for which the program must be started anew, or the engine stops.
    pub async fn change(&self, deployment: Deployment) -> Result<Changed, ChangeError> {
        let engine = self.clone();
        // A task of its own: whoever asked may go away half way.
        let task = tokio::spawn(async move {
            let mut next = engine.inner.changing.lock().await;
            engine.change_all(&mut next, deployment).await
        });
        task.await.unwrap_or_else(|_| Err(EngineError::Stopped.into()))
    }

    /// Makes a change of the deployment folder, in the folder and in what runs, or in neither; the file is
    /// prepared before, and gets its name once the change runs. Should that last step fail, the change runs all the same.
    ///
    /// # Errors
    /// As [`change`](Self::change), and when the folder has mistakes or cannot be written to.
    pub async fn edit(&self, edit: Edit) -> Result<Changed, ChangeError> {
        let engine = self.clone();
        let task = tokio::spawn(async move {
            // One after the other: each sees the folder as the last one left it.
            let mut next = engine.inner.changing.lock().await;
            let dir = engine.deployment().dir.clone();
            let planning = tokio::task::spawn_blocking(move || -> Result<_, ChangeError> {
                let deployment = edit.load(&dir).map_err(ChangeError::Wrong)?;
                Ok((deployment, edit.prepare(&dir)?))
            });
            let (deployment, written) = planning.await.map_err(|_| EngineError::Stopped)??;
            match engine.change_all(&mut next, deployment).await {
                Ok(changed) => {
                    written.keep()?;
                    Ok(changed)
                }
                Err(error) => {
                    written.discard();
                    Err(error)
                }
            }
        });
        task.await.unwrap_or_else(|_| Err(EngineError::Stopped.into()))
    }

    pub(super) async fn change_all(
        &self,
        next: &mut FlowId,
        mut deployment: Deployment,
    ) -> Result<Changed, ChangeError> {
        let started = Instant::now();
        let old = self.inner.shared.topology();
        let fixed = fixed(&old.deployment, &deployment);
        if !fixed.is_empty() {
            return Err(ChangeError::NeedsRestart(fixed));
        }
        deployment.options = old.deployment.options.clone();
        // Who feeds a source knows it by its position.
        deployment
            .sources
            .sort_by_key(|source| old.source(&source.name).unwrap_or(usize::MAX));
        let known = old.sources.len();
        let start_us = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as i64);
        let feeds =
            feeds(&deployment, known, start_us).map_err(|error| ChangeError::Unsupported(format!("{error:#}")))?;
        let (entries, states): (Vec<_>, Vec<_>) = deployment.sources[known..].iter().map(source).unzip();
        let sources: Vec<Arc<SourceEntry>> = old.sources.iter().cloned().chain(entries).collect();
        add_tables(&mut deployment).map_err(|error| ChangeError::Unsupported(format!("{error:#}")))?;
        let (mut changed, numbers) = compare(&old.deployment, &deployment);
        let is_new = |name: &String| changed.added.contains(name) || changed.changed.contains(name);
        let new: Vec<ViewDef> = deployment
            .views
            .iter()
            .filter(|definition| is_new(&definition.view.name))
            .cloned()
            .collect();
        let new = flows(&new, &numbers, *next);
        let new: Vec<NewFlow> = new
            .into_iter()
            .map(|flow| {
                let sinks = self.inner.shared.sinks.of(flow.entry.name());
                NewFlow {
                    running: flow.running.with_sinks(sinks),
                    ..flow
                }
            })
            .collect();
        for flow in &new {
            check(&flow.entry.spec.plan)
                .map_err(|error| ChangeError::Unsupported(format!("view \"{}\": {error}", flow.entry.name())))?;
        }
        *next += new.len();
        let kept = kept(&old, |flow| {
            deployment.views.iter().any(|view| view.view.name == flow.name()) && !is_new(&flow.spec.view)
        });
        let stays: HashSet<FlowId> = kept.iter().map(|flow| flow.spec.id).collect();
        let remove = old.flows.keys().copied().filter(|flow| !stays.contains(flow)).collect();
        let mut inputs = inputs(&new);
        inputs.retain(|input| old.relation(input).is_some());
        let carried = carried(self, &old.deployment, &new, &deployment.views).map_err(ChangeError::Unsupported)?;
        inputs.extend(carried.iter().map(|carried| carried.name.clone()));
        let entries: Vec<_> = kept
            .into_iter()
            .chain(new.iter().map(|flow| Arc::clone(&flow.entry)))
            .collect();
        let readers: Vec<ViewDef> = new.iter().filter_map(|flow| flow.entry.view.clone()).collect();
        let topology = Arc::new(Topology::new(Arc::new(deployment), sources, entries));
        let (reply, installed) = oneshot::channel();
        self.ask(ChangeRequest::Install { flows: new, reply })?;
        let (installed, closed) = installed.await.map_err(|_| EngineError::Stopped)?;
        let read = match self.snapshot(&inputs, installed).await {
            Ok(snapshot) => fill_with(snapshot, &old.deployment, &readers, &carried, &closed).await,
            Err(error) => Err(error.into()),
        };
        let (snapshot, seeds, closed) = match read {
            Ok(read) => read,
            Err(error) => {
                self.ask(ChangeRequest::Abandon)?;
                return Err(error);
            }
        };
        let through = snapshot.tick;
        let contents = contents(snapshot);
        changed.rows = contents.rows();
        let (reply, filled) = oneshot::channel();
        self.ask(ChangeRequest::Fill(Box::new(Fill {
            through,
            contents,
            seeds,
            closed,
            topology,
            sources: states,
            remove,
            reply,
        })))?;
        changed.tick = filled.await.map_err(|_| EngineError::Stopped)?;
        self.follow(feeds, start_us)?;
        self.keep_definitions();
        changed.took = started.elapsed();
        Ok(changed)
    }

    /// Keeps a copy of what runs now.
    fn keep_definitions(&self) {
        if let Some(kept) = &self.inner.kept {
            super::definitions::keep(&self.deployment(), &kept.data);
        }
    }

    /// Reads sources that are new.
    fn follow(&self, feeds: Vec<Feed>, start_us: i64) -> Result<(), ChangeError> {
        for feed in feeds {
            let doors = self.inner.doors.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let thread = follow(feed, doors.ok_or(EngineError::Stopped)?, start_us)
                .map_err(|error| ChangeError::Unsupported(format!("{error:#}")))?;
            self.inner
                .threads
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(thread);
        }
        Ok(())
    }

    pub(super) fn ask(&self, request: ChangeRequest) -> Result<(), EngineError> {
        let doors = self.inner.doors.lock().unwrap_or_else(PoisonError::into_inner);
        let doors = doors.as_ref().ok_or(EngineError::Stopped)?;
        doors.changes.send(request).map_err(|_| EngineError::Stopped)
    }
}

/// Reads what new dataflows begin with: what their inputs hold, and finished rows of views they replace.
async fn fill_with(
    mut snapshot: Snapshot,
    old: &Deployment,
    readers: &[ViewDef],
    carried: &[Carried],
    closed: &HashMap<String, Closed>,
) -> Result<(Snapshot, Vec<Seed>, Vec<(FlowId, Closed)>), ChangeError> {
    let failed = |error: QueryError| ChangeError::Unsupported(format!("could not read the history: {error}"));
    let (mut seeds, mut from) = (Vec::new(), Vec::new());
    for view in carried {
        let closed = closed.get(&view.name).copied().unwrap_or_default();
        seeds.extend(view.seeds(&snapshot, closed).await.map_err(failed)?);
        from.push((view.flow, closed));
    }
    // What they show themselves is no input.
    snapshot
        .relations
        .retain(|name, _| !carried.iter().any(|view| view.name == *name));
    hydrate(&mut snapshot, old, readers).await.map_err(failed)?;
    Ok((snapshot, seeds, from))
}

/// Lists what differs although it is fixed as long as the program runs.
fn fixed(old: &Deployment, new: &Deployment) -> Vec<String> {
    let mut fixed = Vec::new();
    let (before, after) = (&old.options, &new.options);
    // Address and workers may have been given on the command line, which wins.
    if (
        before.clock,
        &before.time_zone,
        before.tick_rows,
        before.in_flight,
        before.body_bytes_max,
        &before.history,
    ) != (
        after.clock,
        &after.time_zone,
        after.tick_rows,
        after.in_flight,
        after.body_bytes_max,
        &after.history,
    ) {
        fixed.push("deployment.toml has other options".to_owned());
    }
    let text = |deployment: &Deployment| -> HashMap<String, String> {
        let sources = deployment.sources.iter();
        sources
            .map(|source| (source.name.clone(), format!("{source:?}")))
            .collect()
    };
    let (before, after) = (text(old), text(new));
    for source in &old.sources {
        match after.get(&source.name) {
            None => fixed.push(format!("source \"{}\" is gone", source.name)),
            Some(after) if *after != before[&source.name] => {
                fixed.push(format!("source \"{}\" is declared differently", source.name));
            }
            Some(_) => {}
        }
    }
    if format!("{:?}", old.sinks) != format!("{:?}", new.sinks) {
        fixed.push("sinks are declared differently".to_owned());
    }
    // Under the event clock, what is read is merged by its times from the first tick on.
    let added = new.sources.iter().filter(|source| !before.contains_key(&source.name));
    let merged = added.filter(|source| new.options.clock == Clock::Event && !source.connector.takes_posts());
    fixed.extend(merged.map(|source| format!("source \"{}\" is new and reads recorded rows", source.name)));
    fixed
}

/// Tells what differs among views, and gives each view the number of its definition.
fn compare(old: &Deployment, new: &Deployment) -> (Changed, HashMap<String, u64>) {
    let (before, after) = (definitions(old), definitions(new));
    let mut changed = Changed::default();
    let sources = new.sources.iter().map(|source| &source.name);
    changed.added = sources.filter(|name| !before.contains_key(*name)).cloned().collect();
    for definition in &new.views {
        let name = &definition.view.name;
        match before.get(name) {
            None => changed.added.push(name.clone()),
            Some(number) if *number != after[name] => changed.changed.push(name.clone()),
            Some(_) => {}
        }
    }
    let gone = old
        .views
        .iter()
        .filter(|definition| !after.contains_key(&definition.view.name));
    changed.dropped = gone.map(|definition| definition.view.name.clone()).collect();
    (changed, after)
}

/// Returns the dataflows of the views that stay, and of the parts these read.
fn kept(old: &Topology, stays: impl Fn(&FlowEntry) -> bool) -> Vec<Arc<FlowEntry>> {
    let mut kept: Vec<Arc<FlowEntry>> = Vec::new();
    let mut wanted: HashSet<&str> = HashSet::new();
    // Parts come before what reads them.
    for flow in old.flows.values().rev() {
        let is_kept = match flow.view {
            Some(_) => stays(flow),
            None => wanted.contains(flow.name()),
        };
        if is_kept {
            wanted.extend(flow.spec.plan.relations());
            kept.push(Arc::clone(flow));
        }
    }
    kept
}

/// Returns the relations that new dataflows read of those that run.
fn inputs(new: &[NewFlow]) -> Vec<String> {
    let own: HashSet<&str> = new.iter().map(|flow| flow.entry.name()).collect();
    let mut inputs: Vec<String> = Vec::new();
    for relation in new.iter().flat_map(|flow| flow.entry.spec.plan.relations()) {
        if !own.contains(relation) && !inputs.iter().any(|input| input == relation) {
            inputs.push(relation.to_owned());
        }
    }
    inputs
}

/// Lists what relations hold, the smallest first: a row that comes late meets all its partners at once.
fn contents(snapshot: Snapshot) -> Contents {
    let mut relations: Vec<(String, Vec<RecordBatch>)> = snapshot
        .relations
        .into_iter()
        .map(|(name, relation)| (name, relation.batches))
        .collect();
    relations.sort_by_key(|(name, batches)| (batches.iter().map(RecordBatch::num_rows).sum::<usize>(), name.clone()));
    let batches = relations.into_iter().flat_map(|(name, batches)| {
        let name: Arc<str> = name.into();
        batches.into_iter().map(move |batch| (Arc::clone(&name), batch))
    });
    Contents::new(batches)
}
