//! How far back a plan reads a relation.

use datafusion::physical_expr::expressions::Column;

use super::{NodeId, Operator, Plan, TemporalComparison};

/// How far back rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Not at all.
    None,
    /// Rows whose time is at most so many microseconds before `now()`.
    Back(i64),
    /// However old they are.
    All,
}

impl Reach {
    /// Returns the further of two.
    #[must_use]
    pub fn max(self, other: Reach) -> Reach {
        match (self, other) {
            (Reach::All, _) | (_, Reach::All) => Reach::All,
            (Reach::Back(one), Reach::Back(other)) => Reach::Back(one.max(other)),
            (Reach::None, reach) | (reach, Reach::None) => reach,
        }
    }
}

impl Plan {
    /// Returns how far back the plan reads a relation, by one of its columns of times.
    ///
    /// Rows count as bounded where a filter by `now()` stands above every place that reads them, with nothing between
    /// but filters and choices of columns.
    pub fn reach(&self, relation: &str, column: usize) -> Reach {
        let nodes = self.nodes.iter().enumerate();
        let places =
            nodes.filter(|(_, node)| matches!(&node.operator, Operator::Get { relation: read } if read == relation));
        places.fold(Reach::None, |reach, (place, _)| reach.max(self.above(place, column)))
    }

    fn above(&self, place: NodeId, column: usize) -> Reach {
        if place == self.root {
            return Reach::All;
        }
        let nodes = self.nodes.iter().enumerate();
        let above = nodes.filter(|(_, node)| node.inputs.contains(&place));
        above.fold(Reach::None, |reach, (parent, node)| {
            let further = match &node.operator {
                Operator::TemporalFilter { bounds, .. } => {
                    let back = bounds.iter().filter(|bound| bound.column == column);
                    let back = back.filter(|bound| {
                        matches!(
                            bound.comparison,
                            TemporalComparison::Greater | TemporalComparison::GreaterOrEqual
                        )
                    });
                    match back.map(|bound| bound.offset_us.saturating_neg()).min() {
                        Some(back_us) => Reach::Back(back_us),
                        None => self.above(parent, column),
                    }
                }
                Operator::Filter { .. } | Operator::Consolidate | Operator::Union => self.above(parent, column),
                Operator::Project { expressions } => {
                    let shown = expressions.iter().position(|expression| {
                        let read = expression.physical.downcast_ref::<Column>();
                        read.is_some_and(|read| read.index() == column)
                    });
                    shown.map_or(Reach::All, |shown| self.above(parent, shown))
                }
                _ => Reach::All,
            };
            reach.max(further)
        })
    }
}
