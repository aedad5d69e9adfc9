//! Makes joins alike that differ only in the columns they carry.
//!
//! The planner lets every join carry what its own view needs and no more. Joins of the same rows by
//! the same columns become one over all the columns that one of them needs, under
//! a projection that gives each view its own: two columns more in one state are less than a second state.
//! Where one of them is over all rows, those of which the planner filters the inputs join it, and filter after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;

use super::classes::{ClassId, Classes};
use crate::plan::{Expression, JoinKind, Node, NodeId, Operator, Plan};

/// A plan on its way to be shared, and for each of its nodes the one of the view's plan it came of.
pub(super) struct Draft {
    pub(super) plan: Plan,
    pub(super) origin: Vec<NodeId>,
    pub(super) alone: bool,
}

impl Draft {
    pub(super) fn empty() -> Self {
        Draft {
            plan: Plan {
                nodes: Vec::new(),
                root: 0,
            },
            origin: Vec::new(),
            alone: false,
        }
    }

    pub(super) fn push(&mut self, node: Node, origin: NodeId) -> NodeId {
        self.plan.nodes.push(node);
        self.origin.push(origin);
        self.plan.nodes.len() - 1
    }
}

/// What joins must have in common: the rows of both sides and how they are paired.
type Shape = (ClassId, ClassId, Vec<(usize, usize)>, u8, bool);

/// The joins of one shape.
#[derive(Default)]
struct Alike {
    /// View and node of each.
    joins: Vec<(usize, NodeId)>,
    classes: BTreeSet<ClassId>,
    /// The columns of either side's rows that one of them carries.
    carried: [BTreeSet<usize>; 2],
    /// Whether one of them is over all rows of both sides.
    is_whole: bool,
}

/// What takes the place of a join.
#[derive(Clone)]
struct Wider {
    /// The columns of either side's rows, ascending.
    carried: [Vec<usize>; 2],
    /// Whether it is over rows that the join's own inputs filter away.
    unfiltered: bool,
}

/// Makes joins alike whose inputs are; tells whether any were not before.
pub(super) fn round(plans: &mut [Draft]) -> bool {
    let mut classes = Classes::default();
    let ids: Vec<Vec<ClassId>> = plans.iter().map(|view| classes.add(&view.plan, false)).collect();
    // The nodes to be replaced, by view.
    let mut wanted: BTreeMap<usize, BTreeMap<NodeId, Wider>> = BTreeMap::new();
    // A join over fewer rows has less state, unless there has to be one over all of them anyway.
    for unfiltered in [true, false] {
        for alike in shapes(plans, &ids, unfiltered).into_values() {
            let is_known = |(view, id): &(usize, NodeId)| wanted.get(view).is_some_and(|nodes| nodes.contains_key(id));
            if alike.classes.len() < 2 || unfiltered && !alike.is_whole || alike.joins.iter().any(is_known) {
                continue;
            }
            let wider = Wider {
                carried: alike.carried.map(|columns| columns.into_iter().collect()),
                unfiltered,
            };
            for (view, node) in alike.joins {
                wanted.entry(view).or_default().insert(node, wider.clone());
            }
        }
    }
    let changed = !wanted.is_empty();
    for (view, joins) in wanted {
        plans[view] = rewritten(&plans[view], &joins);
    }
    changed
}

/// Groups joins by shape, filters of their inputs taken for a part of it or not.
fn shapes(plans: &[Draft], ids: &[Vec<ClassId>], unfiltered: bool) -> BTreeMap<Shape, Alike> {
    let mut shapes: BTreeMap<Shape, Alike> = BTreeMap::new();
    let sharing = plans.iter().enumerate().filter(|(_, view)| !view.alone);
    for (view, Draft { plan, .. }) in sharing {
        for (id, node) in plan.nodes.iter().enumerate() {
            let Operator::Join {
                kind,
                on,
                null_equals_null,
                // Those by time let go of rows as their own watermark says.
                band: None,
            } = &node.operator
            else {
                continue;
            };
            let [left, right] = sides(plan, node, *kind, unfiltered);
            let on: Vec<(usize, usize)> = on.iter().map(|&(l, r)| (left.columns[l], right.columns[r])).collect();
            let shape = (
                ids[view][left.base],
                ids[view][right.base],
                on,
                rank(*kind),
                *null_equals_null,
            );
            let alike = shapes.entry(shape).or_default();
            alike.joins.push((view, id));
            alike.classes.insert(ids[view][id]);
            alike.is_whole |= left.predicates.is_empty() && right.predicates.is_empty();
            for (carried, side) in alike.carried.iter_mut().zip([&left, &right]) {
                carried.extend(&side.columns);
                carried.extend(
                    side.predicates
                        .iter()
                        .flat_map(|predicate| columns_of(&predicate.physical)),
                );
            }
        }
    }
    shapes
}

fn rank(kind: JoinKind) -> u8 {
    match kind {
        JoinKind::Inner => 0,
        JoinKind::Left => 1,
        JoinKind::Full => 2,
        JoinKind::Semi => 3,
        JoinKind::Anti => 4,
        JoinKind::Mark => 5,
    }
}

/// One input of a join: some columns of those of a node's rows that pass.
struct Side {
    base: NodeId,
    columns: Vec<usize>,
    /// Over the base's columns.
    predicates: Vec<Expression>,
}

/// Returns the inputs of a join; with `unfiltered`, before what may as well be filtered after it.
fn sides(plan: &Plan, join: &Node, kind: JoinKind, unfiltered: bool) -> [Side; 2] {
    let may = |is_right: bool| match kind {
        JoinKind::Inner => true,
        // A left row has its line, or none, whatever becomes of others.
        JoinKind::Left | JoinKind::Semi | JoinKind::Anti | JoinKind::Mark => !is_right,
        JoinKind::Full => false,
    };
    [false, true].map(|is_right| Side::of(plan, join.inputs[usize::from(is_right)], unfiltered && may(is_right)))
}

impl Side {
    /// Looks through projections that only choose columns, and through filters that never fail.
    fn of(plan: &Plan, input: NodeId, unfiltered: bool) -> Side {
        let mut side = Side {
            base: input,
            columns: (0..plan.nodes[input].schema.fields().len()).collect(),
            predicates: Vec::new(),
        };
        loop {
            let node = &plan.nodes[side.base];
            match &node.operator {
                Operator::Project { expressions } => {
                    let Some(chosen) = expressions.iter().map(column).collect::<Option<Vec<usize>>>() else {
                        return side;
                    };
                    let below = &plan.nodes[node.inputs[0]].schema;
                    side.columns.iter_mut().for_each(|column| *column = chosen[*column]);
                    for predicate in &mut side.predicates {
                        predicate.physical = moved(&predicate.physical, |column| chosen[column], below);
                    }
                }
                Operator::Filter { predicate } if unfiltered && predicate.cannot_fail() => {
                    side.predicates.push(predicate.clone());
                }
                _ => return side,
            }
            side.base = node.inputs[0];
        }
    }

    /// Returns whether the join gives this side's columns out.
    fn is_told(kind: JoinKind, is_right: bool) -> bool {
        !is_right || matches!(kind, JoinKind::Inner | JoinKind::Left | JoinKind::Full)
    }
}

fn column(expression: &Expression) -> Option<usize> {
    expression.physical.downcast_ref::<Column>().map(Column::index)
}

fn columns_of(physical: &Arc<dyn PhysicalExpr>) -> Vec<usize> {
    let own = physical.downcast_ref::<Column>().map(Column::index);
    let below = physical.children().into_iter().flat_map(columns_of);
    own.into_iter().chain(below).collect()
}

/// Lets an expression read other columns, which `schema` names.
fn moved(physical: &Arc<dyn PhysicalExpr>, to: impl Fn(usize) -> usize, schema: &Schema) -> Arc<dyn PhysicalExpr> {
    let transformed = Arc::clone(physical).transform(|part| {
        Ok(match part.downcast_ref::<Column>() {
            Some(column) => {
                let column = to(column.index());
                Transformed::yes(Arc::new(Column::new(schema.field(column).name(), column)) as Arc<dyn PhysicalExpr>)
            }
            None => Transformed::no(part),
        })
    });
    transformed.map_or_else(|_| Arc::clone(physical), |transformed| transformed.data)
}

/// Replaces joins by wider ones, each under what its inputs filtered and a projection to what it was.
fn rewritten(view: &Draft, joins: &BTreeMap<NodeId, Wider>) -> Draft {
    let mut new = Draft::empty();
    let mut moved_to: Vec<NodeId> = Vec::with_capacity(view.plan.nodes.len());
    for (id, node) in view.plan.nodes.iter().enumerate() {
        let origin = view.origin[id];
        let (
            Some(wider),
            Operator::Join {
                kind,
                on,
                null_equals_null,
                band: None,
            },
        ) = (joins.get(&id), &node.operator)
        else {
            let inputs = node.inputs.iter().map(|&input| moved_to[input]).collect();
            moved_to.push(new.push(Node { inputs, ..node.clone() }, origin));
            continue;
        };
        let sides = sides(&view.plan, node, *kind, wider.unfiltered);
        let place = |is_right: usize, column: usize| {
            wider.carried[is_right]
                .binary_search(&column)
                .expect("every column that is wanted is carried")
        };
        let (mut inputs, mut fields, mut chosen) = (Vec::new(), Vec::new(), Vec::new());
        let mut predicates: Vec<(usize, usize, Expression)> = Vec::new();
        for (is_right, side) in sides.iter().enumerate() {
            let (base, carried) = (&view.plan.nodes[side.base], &wider.carried[is_right]);
            inputs.push(if carried.iter().copied().eq(0..base.schema.fields().len()) {
                moved_to[side.base]
            } else {
                new.push(choice(base, moved_to[side.base], carried, None), origin)
            });
            if Side::is_told(*kind, is_right == 1) {
                let offset = fields.len();
                chosen.extend(side.columns.iter().map(|&column| offset + place(is_right, column)));
                fields.extend(carried.iter().map(|&column| nullable(&base.schema, column)));
                let own = side.predicates.iter().cloned();
                predicates.extend(own.map(|predicate| (is_right, offset, predicate)));
            }
        }
        if *kind == JoinKind::Mark {
            chosen.push(fields.len());
            fields.extend(node.schema.fields().last().cloned());
        }
        let on = on.iter().map(|&(l, r)| {
            let (l, r) = (sides[0].columns[l], sides[1].columns[r]);
            (place(0, l), place(1, r))
        });
        let mut top = Node {
            operator: Operator::Join {
                kind: *kind,
                on: on.collect(),
                null_equals_null: *null_equals_null,
                band: None,
            },
            inputs,
            schema: Arc::new(Schema::new(fields)),
            append_only: node.append_only,
            closes: Vec::new(),
        };
        let mut last = new.push(top.clone(), origin);
        for (is_right, offset, predicate) in predicates {
            let physical = moved(
                &predicate.physical,
                |column| offset + place(is_right, column),
                &top.schema,
            );
            top.operator = Operator::Filter {
                predicate: Expression { physical, ..predicate },
            };
            top.inputs = vec![last];
            last = new.push(top.clone(), origin);
        }
        moved_to.push(new.push(choice(&top, last, &chosen, Some(node)), origin));
    }
    new.plan.root = moved_to[view.plan.root];
    new
}

fn nullable(schema: &Schema, column: usize) -> arrow::datatypes::FieldRef {
    Arc::new(schema.field(column).clone().with_nullable(true))
}

/// A projection to some columns of `from`, under the names of `named` if there is one.
pub(super) fn choice(from: &Node, input: NodeId, columns: &[usize], named: Option<&Node>) -> Node {
    let expressions: Vec<Expression> = columns
        .iter()
        .enumerate()
        .map(|(position, &column)| {
            let name = from.schema.field(column).name();
            Expression {
                physical: Arc::new(Column::new(name, column)),
                text: name.clone(),
                field: match named {
                    Some(named) => Arc::clone(&named.schema.fields()[position]),
                    None => nullable(&from.schema, column),
                },
            }
        })
        .collect();
    let fields: Vec<_> = expressions
        .iter()
        .map(|expression| Arc::clone(&expression.field))
        .collect();
    Node {
        operator: Operator::Project { expressions },
        inputs: vec![input],
        schema: Arc::new(Schema::new(fields)),
        append_only: from.append_only,
        closes: Vec::new(),
    }
}
