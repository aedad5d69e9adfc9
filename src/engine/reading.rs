//! What readers ask: all rows of some relations at one tick, and what changed since one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dataflows::{Tick, Updates};
use queries::Relations;
use tokio::sync::watch;

use super::shared::RelationEntry;
use super::store::RelationStore;
use super::tables::{self, TABLES};
use super::{Engine, EngineError};

/// All rows of some relations at one tick.
#[derive(Debug)]
pub struct Snapshot {
    /// The tick.
    pub tick: Tick,
    /// The rows by relation.
    pub relations: Relations,
}

/// What changed in a relation since a tick.
#[derive(Clone, Debug)]
pub enum Changes {
    /// The changes in order of ticks; rows that came and went stand in both.
    Runs(Vec<Updates>),
    /// The changes right after that tick are no longer kept: take a snapshot.
    TooOld,
}

impl Engine {
    /// Returns the newest tick whose rows were answered for.
    pub fn acknowledged(&self) -> Tick {
        self.inner.shared.acknowledged.load(Ordering::SeqCst)
    }

    /// Reads relations and system tables at one tick: the newest complete for all, and at least `at_least`.
    ///
    /// # Errors
    /// When a name is unknown, or the engine stops while waiting.
    pub async fn snapshot(&self, names: &[String], at_least: Tick) -> Result<Snapshot, EngineError> {
        let mut progress = self.progress();
        loop {
            progress.borrow_and_update();
            if let Some(snapshot) = self.try_snapshot(names, at_least)? {
                return Ok(snapshot);
            }
            if self.failure().is_some() || progress.changed().await.is_err() {
                return Err(EngineError::Stopped);
            }
        }
    }

    /// Reads at once, or not at all where a relation is not complete yet.
    pub(super) fn try_snapshot(&self, names: &[String], at_least: Tick) -> Result<Option<Snapshot>, EngineError> {
        let shared = &self.inner.shared;
        let topology = shared.topology();
        let mut entries = Vec::new();
        let mut system = Vec::new();
        for name in names {
            match (topology.relation(name), TABLES.iter().find(|table| table.name == *name)) {
                (Some(entry), _) => entries.push(entry),
                (None, Some(table)) => system.push(table),
                (None, None) => return Err(EngineError::UnknownRelation(name.clone())),
            }
        }
        // A table of the whole is of the tick at which the whole is complete.
        let everything = !system.is_empty();
        let watched: Vec<&Arc<RelationEntry>> = if everything {
            let sources = topology.sources.iter().map(|source| &source.relation);
            sources
                .chain(topology.flows.values().map(|flow| &flow.relation))
                .collect()
        } else {
            entries.clone()
        };
        let stores = || {
            watched
                .iter()
                .flat_map(|entry| std::iter::once(&entry.store).chain(&entry.errors))
        };
        let tick = stores()
            .map(RelationStore::complete_through)
            .min()
            .unwrap_or_else(|| self.acknowledged());
        let folded = stores().map(RelationStore::folded_through).max().unwrap_or(0);
        if tick < at_least || tick < folded {
            return Ok(None);
        }
        let mut relations = Relations::new();
        for entry in entries {
            // Another reader may have moved a relation on meanwhile: then this one looks again.
            let Ok((batches, cold)) = entry.store.whole(tick) else {
                return Ok(None);
            };
            let schema = Arc::clone(&entry.relation.schema);
            relations.insert(entry.relation.name.clone(), queries::Relation { schema, batches, cold });
        }
        for table in system {
            let reading = tables::Reading {
                shared,
                topology: &topology,
                workers: &self.inner.workers,
                tick,
            };
            let Ok(batches) = (table.read)(&reading) else {
                return Ok(None);
            };
            relations.insert(table.name.to_owned(), ((table.schema)(), batches).into());
        }
        Ok(Some(Snapshot { tick, relations }))
    }

    /// Returns a receiver that changes whenever a tick is cut or a view completes one.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.inner.shared.progress()
    }

    /// Returns the newest tick whose changes of a relation are all there; 0 for an unknown one.
    pub fn completed(&self, relation: &str) -> Tick {
        self.entry(relation).map_or(0, |entry| entry.store.complete_through())
    }

    /// Returns what changed in a relation in `after < tick <= through`.
    pub fn changes(&self, relation: &str, after: Tick, through: Tick) -> Changes {
        match self.entry(relation).and_then(|entry| entry.store.told(after, through)) {
            Some(runs) => Changes::Runs(runs.iter().flat_map(|run| run.updates.iter().cloned()).collect()),
            None => Changes::TooOld,
        }
    }
}
