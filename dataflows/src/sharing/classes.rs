//! Equal operators over equal inputs are one class, whichever view they stand in.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::discriminant;

use crate::plan::{Node, NodeId, Operator, Plan};

/// The number of a class; larger than those of its inputs.
pub(super) type ClassId = usize;

/// Every class, as a node whose inputs are classes.
#[derive(Default)]
pub(super) struct Classes {
    nodes: Vec<Node>,
    /// Whether it, or what it reads short of a relation, keeps state.
    stateful: Vec<bool>,
    by_digest: HashMap<u64, Vec<ClassId>>,
}

impl Classes {
    /// Adds a plan; returns the class of each of its nodes, which are like no others where it stands alone.
    pub(super) fn add(&mut self, plan: &Plan, alone: bool) -> Vec<ClassId> {
        let mut ids: Vec<ClassId> = Vec::with_capacity(plan.nodes.len());
        for node in &plan.nodes {
            let inputs: Vec<NodeId> = node.inputs.iter().map(|&input| ids[input]).collect();
            let node = Node { inputs, ..node.clone() };
            ids.push(if alone { self.push(node) } else { self.intern(node) });
        }
        ids
    }

    /// Returns the class of a node whose inputs are classes.
    pub(super) fn intern(&mut self, node: Node) -> ClassId {
        let digest = digest(&node);
        let mut same = self.by_digest.get(&digest).into_iter().flatten();
        if let Some(known) = same.find(|known| self.nodes[**known] == node) {
            return *known;
        }
        let class = self.push(node);
        self.by_digest.entry(digest).or_default().push(class);
        class
    }

    fn push(&mut self, node: Node) -> ClassId {
        let stateful = node.operator.keeps_state() || node.inputs.iter().any(|&input| self.stateful[input]);
        self.stateful.push(stateful);
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn node(&self, class: ClassId) -> &Node {
        &self.nodes[class]
    }

    pub(super) fn keeps_state(&self, class: ClassId) -> bool {
        self.stateful[class]
    }
}

/// Tells apart what differs most often; the rest is compared.
fn digest(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    discriminant(&node.operator).hash(&mut hasher);
    node.inputs.hash(&mut hasher);
    match &node.operator {
        Operator::Get { relation } => relation.hash(&mut hasher),
        Operator::Filter { predicate } => predicate.text.hash(&mut hasher),
        Operator::Project { expressions } => {
            expressions
                .iter()
                .for_each(|expression| expression.text.hash(&mut hasher));
        }
        Operator::Aggregate { keys, .. } => keys.hash(&mut hasher),
        Operator::Join { on, .. } => on.hash(&mut hasher),
        _ => {}
    }
    hasher.finish()
}
