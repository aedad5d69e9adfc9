//! Builds a deployment's parts, before anything runs.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use anyhow::Context;
use connectors::{ConnectorConfig, Setting};
use dataflows::error_schema;
use dataflows::sharing::{Shareable, Sharing, share};
use dataflows::workers::{FlowId, FlowSpec};

use super::alerts::AlertState;
use super::base::Told;
use super::feed::{Count, Feed};
use super::flows::Running;
use super::keys::KeyCounts;
use super::shared::{RelationEntry, SourceEntry};
use super::source::SourceState;
use super::store::RelationStore;
use super::topology::{FlowEntry, part_name, specs};
use super::{Relation, RelationKind};
use crate::config::{Deployment, Source, ViewDef, ViewKind};

/// Opens every source that is read, of those at `from` and after it.
pub(super) fn feeds(deployment: &Deployment, from: usize, start_us: i64) -> anyhow::Result<Vec<Feed>> {
    let mut feeds = Vec::new();
    for (position, source) in deployment.sources.iter().enumerate().skip(from) {
        let time = source.time.map(|time| time.column);
        let setting = Setting {
            name: &source.name,
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
                snapshot: source.snapshot,
                skip: Count::default(),
                taken: Count::default(),
            });
        }
    }
    Ok(feeds)
}

/// Builds what is read of a source, and what decides which rows enter it.
pub(super) fn source(source: &Source) -> (Arc<SourceEntry>, SourceState) {
    let state = SourceState::new(source, source.time.and_then(|time| time.ahead_us));
    let relation = Relation {
        name: source.name.clone(),
        kind: RelationKind::Source,
        schema: Arc::clone(&source.schema),
        key: source.key.clone(),
        definition: source_definition(source),
    };
    let told = match &source.key {
        Some(key) => Told::Key(key.clone()),
        None if state.is_appended() => Told::Chunks,
        None => Told::Content,
    };
    let store = RelationStore::new(Arc::clone(&source.schema), told);
    (
        Arc::new(SourceEntry::new(RelationEntry::new(relation, store, None))),
        state,
    )
}

/// A dataflow to be installed.
pub(super) struct NewFlow {
    pub(super) entry: Arc<FlowEntry>,
    pub(super) running: Running,
}

/// Builds the dataflows of views, numbered from `first` on: what several compute alike is a dataflow of its own.
pub(super) fn flows(views: &[ViewDef], definitions: &HashMap<String, u64>, first: FlowId) -> Vec<NewFlow> {
    specs(sharing(views, first).flows, first)
        .into_iter()
        .map(|(spec, view)| flow(spec, view.map(|view| &views[view]), definitions))
        .collect()
}

/// Divides views into dataflows.
pub(super) fn sharing(views: &[ViewDef], first: FlowId) -> Sharing {
    let views: Vec<Shareable<'_>> = views
        .iter()
        .map(|definition| Shareable {
            name: &definition.view.name,
            plan: &definition.view.plan,
            // What goes by its own watermark lets go of rows that others may want.
            alone: definition.view.closing.is_some() || definition.view.passing.is_some(),
        })
        .collect();
    // Parts are numbered apart from dataflows: their names only have to differ.
    share(&views, |number| part_name(first + number))
}

fn flow(spec: FlowSpec, definition: Option<&ViewDef>, definitions: &HashMap<String, u64>) -> NewFlow {
    let schema = Arc::clone(spec.plan.schema());
    let relation = Relation {
        name: spec.view.clone(),
        kind: match definition.map(|definition| definition.kind) {
            Some(ViewKind::Alert { .. }) => RelationKind::Alert,
            _ => RelationKind::View,
        },
        schema: definition.map_or_else(|| Arc::clone(&schema), |definition| Arc::clone(&definition.view.schema)),
        key: definition.and_then(|definition| definition.key.clone()),
        definition: definitions.get(&spec.view).copied().unwrap_or_default(),
    };
    let schema = Arc::clone(&relation.schema);
    let store = RelationStore::new(Arc::clone(&schema), definition.map_or(Told::Content, told));
    let errors = RelationStore::new(error_schema(), Told::Content);
    let relation = Arc::new(RelationEntry::new(relation, store, Some(errors)));
    let key = definition.and_then(|definition| definition.key.as_deref());
    let alerts = definition.and_then(|definition| match definition.kind {
        ViewKind::Alert { priority } => Some(AlertState::new(
            &definition.view.name,
            priority.as_str(),
            &schema,
            key.unwrap_or_default(),
        )),
        ViewKind::View => None,
    });
    let is_counted = definition.is_some_and(|definition| !definition.key_is_implied);
    let keys = key.filter(|_| is_counted).map(|key| KeyCounts::new(&schema, key));
    NewFlow {
        running: Running::new(Arc::clone(&relation), alerts, keys).with_timers(spec.plan.has_timers()),
        entry: Arc::new(FlowEntry {
            spec: Arc::new(spec),
            relation,
            view: definition.cloned(),
        }),
    }
}

/// Returns how the rows of a view are told apart in its store.
fn told(definition: &ViewDef) -> Told {
    let view = &definition.view;
    // A key that is only declared may be violated, and then every row must be seen.
    let implied = view.implied_key.as_ref().and_then(|names| {
        names
            .iter()
            .map(|name| view.schema.index_of(name).ok())
            .collect::<Option<Vec<usize>>>()
    });
    match implied {
        _ if view.plan.nodes[view.plan.root].append_only => Told::Grows,
        Some(key) => Told::Key(key),
        None => Told::Content,
    }
}

/// Returns a number for each source and view that changes when its definition does, or that of what it reads.
pub(super) fn definitions(deployment: &Deployment) -> HashMap<String, u64> {
    let mut definitions: HashMap<String, u64> = deployment
        .sources
        .iter()
        .map(|source| (source.name.clone(), source_definition(source)))
        .collect();
    for definition in &deployment.views {
        let view = &definition.view;
        let reads: BTreeMap<&String, Option<&u64>> = view
            .inputs
            .iter()
            .map(|input| (input, definitions.get(input)))
            .collect();
        let own = (&view.sql, &definition.key, format!("{:?}", definition.kind));
        let number = hashed(&(own, reads));
        definitions.insert(view.name.clone(), number);
    }
    definitions
}

fn source_definition(source: &Source) -> u64 {
    hashed(&format!("{:?}", source.schema))
}

fn hashed(value: &impl Hash) -> u64 {
    // Without random keys: the same definition has the same number in every run of one program.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
