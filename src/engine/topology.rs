//! What runs: sources, and the dataflows that keep views and their shared parts current.
//!
//! Replaced as a whole when the deployment changes, so that every reader sees all of a change or none.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dataflows::sharing::SharedFlow;
use dataflows::workers::{FlowId, FlowSpec};

use super::shared::{RelationEntry, SourceEntry};
use crate::config::{Deployment, ViewDef};

pub(super) struct Topology {
    pub(super) deployment: Arc<Deployment>,
    pub(super) sources: Vec<Arc<SourceEntry>>,
    /// In the order of their numbers: each after all it reads.
    pub(super) flows: BTreeMap<FlowId, Arc<FlowEntry>>,
    /// The views in the order of the deployment.
    pub(super) views: Vec<Arc<FlowEntry>>,
    relations: HashMap<String, Arc<RelationEntry>>,
    /// For each source, the dataflows its rows can reach, ascending.
    pub(super) reach: Vec<Vec<FlowId>>,
    /// For each dataflow, those its own rows can reach, itself included.
    pub(super) reach_flows: HashMap<FlowId, Vec<FlowId>>,
    /// For each view by name, where rows may fail that are then missing from it: in itself, in the views
    /// it reads, and in what these share with others.
    failing: HashMap<String, Vec<Arc<RelationEntry>>>,
}

/// A running dataflow.
pub(super) struct FlowEntry {
    pub(super) spec: Arc<FlowSpec>,
    pub(super) relation: Arc<RelationEntry>,
    /// What it keeps current; none for a part that several views share.
    pub(super) view: Option<ViewDef>,
}

impl FlowEntry {
    pub(super) fn name(&self) -> &str {
        &self.spec.view
    }
}

/// The name of a part that several views share. It is no identifier, so that no view can have it.
pub(super) fn part_name(flow: FlowId) -> String {
    format!("shared {flow}")
}

/// Numbers dataflows from `first` on.
pub(super) fn specs(flows: Vec<SharedFlow>, first: FlowId) -> Vec<(FlowSpec, Option<usize>)> {
    let numbered = flows.into_iter().enumerate();
    let spec = |(position, flow): (usize, SharedFlow)| {
        let spec = FlowSpec {
            id: first + position,
            view: flow.name,
            plan: flow.plan,
            is_part: flow.view.is_none(),
        };
        (spec, flow.view)
    };
    numbered.map(spec).collect()
}

impl Topology {
    pub(super) fn new(
        deployment: Arc<Deployment>,
        sources: Vec<Arc<SourceEntry>>,
        flows: impl IntoIterator<Item = Arc<FlowEntry>>,
    ) -> Topology {
        let flows: BTreeMap<FlowId, Arc<FlowEntry>> = flows.into_iter().map(|flow| (flow.spec.id, flow)).collect();
        let by_name: HashMap<&str, &Arc<FlowEntry>> = flows.values().map(|flow| (flow.name(), flow)).collect();
        let views: Vec<Arc<FlowEntry>> = deployment
            .views
            .iter()
            .filter_map(|definition| by_name.get(definition.view.name.as_str()).map(|flow| Arc::clone(flow)))
            .collect();
        let mut readers: HashMap<&str, Vec<FlowId>> = HashMap::new();
        for (id, flow) in &flows {
            for relation in flow.spec.plan.relations() {
                readers.entry(relation).or_default().push(*id);
            }
        }
        // Going backwards, what each reader reaches is known when it is asked for.
        let mut reach_flows: HashMap<FlowId, Vec<FlowId>> = HashMap::new();
        let reached = |name: &str, reach_flows: &HashMap<FlowId, Vec<FlowId>>| -> Vec<FlowId> {
            let readers = readers.get(name).into_iter().flatten();
            readers.flat_map(|reader| reach_flows[reader].iter().copied()).collect()
        };
        for (id, flow) in flows.iter().rev() {
            let mut all = reached(flow.name(), &reach_flows);
            all.push(*id);
            reach_flows.insert(*id, sorted(all));
        }
        let reach = sources
            .iter()
            .map(|source| sorted(reached(&source.name, &reach_flows)))
            .collect();
        let mut failing: HashMap<String, Vec<Arc<RelationEntry>>> = HashMap::new();
        for flow in flows.values() {
            let mut relations: Vec<Arc<RelationEntry>> = Vec::new();
            for read in flow.spec.plan.relations() {
                for relation in failing.get(read).into_iter().flatten() {
                    if !relations.iter().any(|known| Arc::ptr_eq(known, relation)) {
                        relations.push(Arc::clone(relation));
                    }
                }
            }
            relations.push(Arc::clone(&flow.relation));
            failing.insert(flow.name().to_owned(), relations);
        }
        let relations = sources
            .iter()
            .map(|source| &source.relation)
            .chain(views.iter().map(|view| &view.relation))
            .map(|entry| (entry.relation.name.clone(), Arc::clone(entry)))
            .collect();
        Topology {
            relations,
            reach,
            reach_flows,
            failing,
            views,
            deployment,
            sources,
            flows,
        }
    }

    /// Returns a source, view or alert by name.
    pub(super) fn relation(&self, name: &str) -> Option<&Arc<RelationEntry>> {
        self.relations.get(name)
    }

    /// Returns every source, then every view and alert in the order of the deployment.
    pub(super) fn relations(&self) -> impl Iterator<Item = &Arc<RelationEntry>> {
        let sources = self.sources.iter().map(|source| &source.relation);
        sources.chain(self.views.iter().map(|view| &view.relation))
    }

    /// Returns the position of a source.
    pub(super) fn source(&self, name: &str) -> Option<usize> {
        self.sources.iter().position(|source| &*source.name == name)
    }

    /// Returns how many failing rows may be missing from a view.
    pub(super) fn errors(&self, view: &str) -> u64 {
        let relations = self.failing.get(view).into_iter().flatten();
        let errors = relations.filter_map(|relation| relation.errors.as_ref());
        errors.map(|errors| u64::try_from(errors.rows()).unwrap_or(0)).sum()
    }

    /// Returns where rows of a view fail: in its own operators and in those it shares, not in the views it reads.
    pub(super) fn own_errors<'a>(&'a self, view: &'a FlowEntry) -> Vec<&'a Arc<RelationEntry>> {
        let mut relations = vec![&view.relation];
        let mut rest = vec![&view.spec];
        while let Some(spec) = rest.pop() {
            for read in spec.plan.relations() {
                let part = self
                    .flows
                    .values()
                    .find(|flow| flow.view.is_none() && flow.name() == read);
                if let Some(part) = part
                    && !relations.iter().any(|known| Arc::ptr_eq(known, &part.relation))
                {
                    relations.push(&part.relation);
                    rest.push(&part.spec);
                }
            }
        }
        relations
    }
}

fn sorted(mut flows: Vec<FlowId>) -> Vec<FlowId> {
    flows.sort_unstable();
    flows.dedup();
    flows
}
