//! What joins by time may forget: the watermark has passed what could still meet it.

use dataflows::plan::{NodeId, Operator, Plan};
use dataflows::workers::Passed;

use super::Inputs;
use super::floor::{Floor, floor};
use crate::catalog::Catalog;

/// The joins of a view that forget rows by the watermark.
#[derive(Clone, Debug)]
pub struct Passing {
    /// The sources whose watermarks the view's is the least of.
    pub sources: Vec<String>,
    /// The views that emit on close it reads.
    pub views: Vec<String>,
    joins: Vec<Join>,
}

/// One join, and what the times of its inputs' rows to come are not below.
#[derive(Clone, Debug)]
struct Join {
    node: NodeId,
    left: Option<Floor>,
    right: Option<Floor>,
}

impl Passing {
    /// Returns what rows to come are not below, at a watermark.
    pub fn at(&self, watermark_us: i64) -> Vec<Passed> {
        let at = |floor: &Option<Floor>| floor.as_ref().and_then(|floor| floor.at(watermark_us));
        let passed = |join: &Join| Passed {
            node: join.node,
            left: at(&join.left).unwrap_or(i64::MIN),
            right: at(&join.right).unwrap_or(i64::MIN),
        };
        self.joins.iter().map(passed).collect()
    }

    /// Tells whether a join forgets left rows, and right ones.
    pub(crate) fn forgets(&self, node: NodeId) -> (bool, bool) {
        let join = self.joins.iter().find(|join| join.node == node);
        join.map_or((false, false), |join| (join.right.is_some(), join.left.is_some()))
    }
}

impl Catalog {
    /// Finds the joins that may forget what the watermark has passed.
    ///
    /// Only where neither input ever takes a row back: its pairs would have to be known.
    pub(crate) fn passing(&self, plan: &Plan) -> Option<Passing> {
        let join = |(node, join): (NodeId, &dataflows::plan::Node)| {
            let Operator::Join { band: Some(band), .. } = &join.operator else {
                return None;
            };
            if !join.inputs.iter().all(|input| plan.nodes[*input].append_only) {
                return None;
            }
            let of = |input: usize, column: usize, bounded: bool| {
                let timed = floor(self, plan, join.inputs[input], column);
                timed.filter(|_| bounded).map(|timed| timed.floor)
            };
            let left = of(0, band.left, band.low_us > i64::MIN);
            let right = of(1, band.right, band.high_us < i64::MAX);
            (left.is_some() || right.is_some()).then_some(Join { node, left, right })
        };
        let joins: Vec<Join> = plan.nodes.iter().enumerate().filter_map(join).collect();
        let mut inputs = Inputs::default();
        if joins.is_empty() || self.inputs_of(plan, &mut inputs).is_err() {
            return None;
        }
        Some(Passing {
            sources: inputs.sources,
            views: inputs.views,
            joins,
        })
    }
}
