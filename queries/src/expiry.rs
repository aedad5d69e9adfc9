//! Which rows leave a temporal filter by themselves before their source expires them.

use dataflows::plan::{Node, NodeId, Operator, TemporalBound};

use crate::catalog::{Catalog, Relation};
use crate::explain::leaves;
use crate::lower::column_index;

/// Tells whether no row of `input` is taken back before it has left through one of `bounds`.
pub(crate) fn in_order(nodes: &[Node], input: NodeId, bounds: &[TemporalBound], catalog: &Catalog) -> bool {
    let leaves_first = |bound: &TemporalBound| {
        leaves(bound)
            && expires_after_us(nodes, input, bound.column, catalog)
                .is_some_and(|after_us| bound.offset_us.saturating_neg() <= after_us)
    };
    nodes[input].append_only || bounds.iter().any(leaves_first)
}

/// Returns the least age, by this column and the tick's time, at which a row is taken back; none
/// where rows may be taken back for another reason.
fn expires_after_us(nodes: &[Node], id: NodeId, column: usize, catalog: &Catalog) -> Option<i64> {
    let node = &nodes[id];
    match &node.operator {
        Operator::Filter { .. } => expires_after_us(nodes, node.inputs[0], column, catalog),
        Operator::Project { expressions } => {
            let column = column_index(&expressions[column])?;
            expires_after_us(nodes, node.inputs[0], column, catalog)
        }
        Operator::Get { relation } => match catalog.relation(relation)?.as_ref() {
            Relation::Source(source) => {
                let time = source.time_column.as_ref()?;
                (node.schema.field(column).name() == time)
                    .then_some(source.expires_after_us)
                    .flatten()
            }
            Relation::View(view) => expires_after_us(&view.plan.nodes, view.plan.root, column, catalog),
            Relation::System(_) => None,
        },
        _ => None,
    }
}
