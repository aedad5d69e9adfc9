//! Builds a deployment's parts and tells each what it reaches, before anything runs.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use anyhow::Context;
use connectors::{ConnectorConfig, Setting};
use crossbeam_channel::Sender;
use dataflows::error_schema;
use dataflows::workers::{FlowId, Workers};

use super::alerts::AlertState;
use super::base::Told;
use super::closing::Closings;
use super::coordinator::Parts;
use super::feed::Feed;
use super::keys::KeyCounts;
use super::shared::{RelationEntry, Shared, SourceEntry};
use super::source::SourceState;
use super::store::RelationStore;
use super::{Relation, RelationKind};
use crate::config::{Deployment, ViewKind};

/// Opens every source that is read.
pub(super) fn feeds(deployment: &Deployment, start_us: i64) -> anyhow::Result<Vec<Feed>> {
    let mut feeds = Vec::new();
    for (position, source) in deployment.sources.iter().enumerate() {
        let time = source.time.map(|time| time.column);
        let setting = Setting {
            columns: &source.columns,
            format: &source.format,
            time_column: time,
            time_zone: &deployment.options.time_zone,
            directory: &deployment.dir,
            start_us,
        };
        let reader = source
            .connector
            .reader(&setting)
            .with_context(|| format!("could not open source \"{}\"", source.name))?;
        let speed = match &source.connector {
            ConnectorConfig::File(file) => file.speed,
            _ => None,
        };
        if let Some(reader) = reader {
            feeds.push(Feed {
                source: position,
                name: source.name.clone(),
                reader,
                time,
                speed,
            });
        }
    }
    Ok(feeds)
}

/// Builds what the doors read and what the coordinator starts with.
pub(super) fn wire(deployment: Deployment, workers: &Arc<Workers>, keeper: Sender<usize>) -> (Arc<Shared>, Parts) {
    let mut relations = Vec::new();
    let mut sources = Vec::new();
    for source in &deployment.sources {
        let state = SourceState::new(source, source.time.and_then(|time| time.ahead_us));
        let relation = Relation {
            name: source.name.clone(),
            kind: RelationKind::Source,
            schema: Arc::clone(&source.schema),
            key: source.key.clone(),
            definition: hashed(&format!("{:?}", source.schema)),
        };
        let told = match &source.key {
            Some(key) => Told::Key(key.clone()),
            None if state.is_appended() => Told::Chunks,
            None => Told::Content,
        };
        let store = RelationStore::new(Arc::clone(&source.schema), told);
        relations.push(RelationEntry::new(relation, store, None));
        sources.push(state);
    }
    let mut alerts = Vec::new();
    let mut keys = Vec::new();
    for definition in &deployment.views {
        let view = &definition.view;
        let kind = match definition.kind {
            ViewKind::View => RelationKind::View,
            ViewKind::Alert { .. } => RelationKind::Alert,
        };
        let relation = Relation {
            name: view.name.clone(),
            kind,
            schema: Arc::clone(&view.schema),
            key: definition.key.clone(),
            definition: hashed(&(&view.sql, &definition.key)),
        };
        // A key that is only declared may be violated, and then every row must be seen.
        let implied = view.implied_key.as_ref().and_then(|names| {
            names
                .iter()
                .map(|name| view.schema.index_of(name).ok())
                .collect::<Option<Vec<usize>>>()
        });
        let told = match implied {
            _ if view.plan.nodes[view.plan.root].append_only => Told::Grows,
            Some(key) => Told::Key(key),
            None => Told::Content,
        };
        let store = RelationStore::new(Arc::clone(&view.schema), told);
        let errors = RelationStore::new(error_schema(), Told::Content);
        relations.push(RelationEntry::new(relation, store, Some(errors)));
        let key = definition.key.as_deref();
        alerts.push(match definition.kind {
            ViewKind::Alert { priority } => Some(AlertState::new(
                &view.name,
                priority.as_str(),
                &view.schema,
                key.unwrap_or_default(),
            )),
            ViewKind::View => None,
        });
        keys.push(
            key.filter(|_| !definition.key_is_implied)
                .map(|key| KeyCounts::new(&view.schema, key)),
        );
    }
    let views = &deployment.views;
    let readers = |name: &str| -> Vec<FlowId> {
        (0..views.len())
            .filter(|&flow| views[flow].view.plan.relations().contains(&name))
            .collect()
    };
    // Views come after all they read: going backwards, what each reaches is known when it is asked for.
    let mut reach_flows: Vec<Vec<FlowId>> = vec![Vec::new(); views.len()];
    for flow in (0..views.len()).rev() {
        let mut reached = vec![flow];
        for reader in readers(&views[flow].view.name) {
            reached.extend(&reach_flows[reader]);
        }
        reach_flows[flow] = sorted(reached);
    }
    let reach = deployment
        .sources
        .iter()
        .map(|source| {
            sorted(
                readers(&source.name)
                    .iter()
                    .flat_map(|&reader| reach_flows[reader].clone())
                    .collect(),
            )
        })
        .collect();
    for (flow, reached) in reach_flows.iter().enumerate() {
        for &reader in reached {
            relations[deployment.sources.len() + reader]
                .upstream
                .push(deployment.sources.len() + flow);
        }
    }
    let entries = deployment
        .sources
        .iter()
        .map(|source| SourceEntry::new(&source.name))
        .collect();
    let closings = Closings::new(&deployment);
    let shared = Arc::new(Shared::new(deployment, relations, entries));
    let parts = Parts {
        shared: Arc::clone(&shared),
        workers: Arc::clone(workers),
        sources,
        reach,
        reach_flows,
        closings,
        alerts,
        keys,
        keeper,
    };
    (shared, parts)
}

fn sorted(mut flows: Vec<FlowId>) -> Vec<FlowId> {
    flows.sort_unstable();
    flows.dedup();
    flows
}

fn hashed(value: &impl Hash) -> u64 {
    // Without random keys: the same definition has the same number in every run of one program.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
