//! Finds what several views compute alike, and makes a dataflow of its own of it.
//!
//! Equal operators over equal inputs are one class. Going from the views down, a class that more
//! than one dataflow asks for, and that keeps state, is cut out: it is computed once, and those
//! that ask take up its batches in the same worker, as they do those of a view. What keeps no state
//! is cheaper computed twice than handed over. Joins that differ only in the columns they
//! carry are made alike first (`widen`), as is what differs only in the names of results (`names`).
mod classes;
mod names;
mod widen;

use std::collections::{BTreeSet, HashMap};

use crate::plan::{Node, NodeId, Operator, Plan};
use classes::{ClassId, Classes};
use widen::Draft;

/// A dataflow to be run: a view, or a part of several.
#[derive(Clone, Debug)]
pub struct SharedFlow {
    /// The view's name, or that of the part, which SQL cannot say.
    pub name: String,
    /// The view's position among those given; none for a part.
    pub view: Option<usize>,
    /// What is left to compute, over sources, views and parts.
    pub plan: Plan,
}

/// What views share.
#[derive(Clone, Debug, Default)]
pub struct Sharing {
    /// The dataflows, each after all it reads.
    pub flows: Vec<SharedFlow>,
    /// For each view, the nodes of its own plan that are parts, with the part's name.
    pub cuts: Vec<Vec<(NodeId, String)>>,
}

/// A view to be divided.
#[derive(Clone, Copy, Debug)]
pub struct Shareable<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its plan.
    pub plan: &'a Plan,
    /// Whether it shares nothing, as its operators do things at a time of their own.
    pub alone: bool,
}

/// Divides views, each given after all it reads, into dataflows. `name` gives the parts names, by their number.
pub fn share(views: &[Shareable<'_>], name: impl Fn(usize) -> String) -> Sharing {
    let drafts: Vec<Draft> = alike(views);
    let mut classes = Classes::default();
    let of_views: Vec<Vec<ClassId>> = drafts
        .iter()
        .zip(views)
        .map(|(draft, view)| classes.add(&draft.plan, view.alone))
        .collect();
    let roots: Vec<ClassId> = of_views
        .iter()
        .zip(&drafts)
        .map(|(ids, view)| ids[view.plan.root])
        .collect();
    let users = users(&classes, &of_views);
    // Owners first: a class is asked for by what stands above it, which has a higher number.
    let mut owners: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); classes.len()];
    let mut flows: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); classes.len()];
    let mut parts: Vec<ClassId> = Vec::new();
    for (view, root) in roots.iter().enumerate() {
        owners[*root].insert(view);
    }
    for class in (0..classes.len()).rev() {
        flows[class] = owners[class].clone();
        if owners[class].len() > 1 && is_worth_it(&classes, &users, class) {
            flows[class] = BTreeSet::from([views.len() + parts.len()]);
            parts.push(class);
        }
        for &input in &classes.node(class).inputs {
            let asking = flows[class].clone();
            owners[input].extend(asking);
        }
    }
    let part_names: HashMap<ClassId, String> = parts
        .iter()
        .enumerate()
        .map(|(number, class)| (*class, name(number)))
        .collect();
    let carve = |root: ClassId, is_part: bool| Carving::carve(&classes, &part_names, root, is_part);
    let mut ordered = Ordering {
        parts: parts
            .iter()
            .map(|class| (part_names[class].clone(), carve(*class, true)))
            .collect(),
        flows: Vec::new(),
    };
    for (position, (view, root)) in views.iter().zip(&roots).enumerate() {
        ordered.push(SharedFlow {
            name: view.name.to_owned(),
            view: Some(position),
            plan: match view.alone {
                true => view.plan.clone(),
                false => carve(*root, false),
            },
        });
    }
    let cuts = drafts.iter().zip(&of_views).map(|(view, ids)| {
        let cut = |(node, class): (NodeId, &ClassId)| Some((view.origin[node], part_names.get(class)?.clone()));
        ids.iter().enumerate().filter_map(cut).collect()
    });
    Sharing {
        cuts: cuts.collect(),
        flows: ordered.flows,
    }
}

/// Operators nest: each round makes those alike whose inputs the last one made alike.
const ROUNDS_MAX: usize = 32;

/// Rewrites plans so that what can be computed together looks the same.
fn alike(views: &[Shareable<'_>]) -> Vec<Draft> {
    let mut plans: Vec<Draft> = views
        .iter()
        .map(|view| Draft {
            plan: view.plan.clone(),
            origin: (0..view.plan.nodes.len()).collect(),
            alone: view.alone,
        })
        .collect();
    for _ in 0..ROUNDS_MAX {
        if !(names::round(&mut plans) | widen::round(&mut plans)) {
            break;
        }
    }
    plans
}

/// Returns how many views each class stands in.
fn users(classes: &Classes, of_views: &[Vec<ClassId>]) -> Vec<usize> {
    let mut users = vec![0; classes.len()];
    for ids in of_views {
        let distinct: BTreeSet<ClassId> = ids.iter().copied().collect();
        distinct.into_iter().for_each(|class| users[class] += 1);
    }
    users
}

/// Tells whether a class asked for by several is better computed once: it keeps state, or it is all
/// that its askers want of something that does.
fn is_worth_it(classes: &Classes, users: &[usize], class: ClassId) -> bool {
    let node = classes.node(class);
    if matches!(node.operator, Operator::Get { .. } | Operator::Constant { .. }) {
        return false;
    }
    node.operator.keeps_state()
        || classes.keeps_state(class)
            && node
                .inputs
                .iter()
                .all(|&input| !classes.keeps_state(input) || users[input] == users[class])
}

/// Copies the classes of one dataflow into a plan of their own.
struct Carving<'a> {
    classes: &'a Classes,
    part_names: &'a HashMap<ClassId, String>,
    nodes: Vec<Node>,
    known: HashMap<ClassId, NodeId>,
}

impl<'a> Carving<'a> {
    fn carve(classes: &'a Classes, part_names: &'a HashMap<ClassId, String>, root: ClassId, is_part: bool) -> Plan {
        let mut carving = Carving {
            classes,
            part_names,
            nodes: Vec::new(),
            known: HashMap::new(),
        };
        let root = match is_part {
            true => carving.operator(root),
            false => carving.class(root),
        };
        Plan {
            nodes: carving.nodes,
            root,
        }
    }

    fn class(&mut self, class: ClassId) -> NodeId {
        if let Some(known) = self.known.get(&class) {
            return *known;
        }
        let Some(part) = self.part_names.get(&class) else {
            return self.operator(class);
        };
        let node = Node {
            operator: Operator::Get { relation: part.clone() },
            inputs: Vec::new(),
            ..self.classes.node(class).clone()
        };
        self.push(class, node)
    }

    fn operator(&mut self, class: ClassId) -> NodeId {
        let node = self.classes.node(class);
        let inputs = node.inputs.iter().map(|&input| self.class(input)).collect();
        let node = Node { inputs, ..node.clone() };
        self.push(class, node)
    }

    fn push(&mut self, class: ClassId, node: Node) -> NodeId {
        self.nodes.push(node);
        self.known.insert(class, self.nodes.len() - 1);
        self.nodes.len() - 1
    }
}

/// Puts parts before what reads them.
struct Ordering {
    /// Those that nothing has asked for yet.
    parts: HashMap<String, Plan>,
    flows: Vec<SharedFlow>,
}

impl Ordering {
    fn push(&mut self, flow: SharedFlow) {
        for relation in flow.plan.relations() {
            if let Some(plan) = self.parts.remove(relation) {
                self.push(SharedFlow {
                    name: relation.to_owned(),
                    view: None,
                    plan,
                });
            }
        }
        self.flows.push(flow);
    }
}
