//! Lowers filters by time.

use dataflows::plan::{NodeId, Operator, TemporalMemory};
use datafusion::logical_expr::Filter;

use super::Lowering;
use crate::expiry;
use crate::explain::leaves;
use crate::rewrites::temporal;

impl Lowering<'_> {
    /// Lowers a filter that the rewrite of `now()` made; none where it is another one.
    pub(super) fn temporal(&mut self, filter: &Filter, input: NodeId) -> Option<NodeId> {
        let below = filter.input.schema();
        let (operator, leaves) = if let Some(bounds) = temporal::bounds(&filter.predicate, below) {
            let leaves = bounds.iter().any(leaves);
            let memory = match expiry::in_order(&self.nodes, input, &bounds, self.catalog) {
                true => TemporalMemory::Arrival,
                false => TemporalMemory::Content,
            };
            (Operator::TemporalFilter { bounds, memory }, leaves)
        } else {
            let alternatives = temporal::read(&filter.predicate, below)?;
            let leaves = alternatives
                .iter()
                .flat_map(|alternative| &alternative.bounds)
                .any(leaves);
            (Operator::TemporalAny { alternatives }, leaves)
        };
        let append_only = self.nodes[input].append_only && !leaves;
        let (schema, key) = (self.nodes[input].schema.clone(), self.keys[input].clone());
        Some(self.node(operator, vec![input], schema, append_only, key))
    }
}
