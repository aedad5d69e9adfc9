//! Marks where rows must come in a total order: an `Ordered` node below each window function.
//!
//! A plain sort would not do: DataFusion replaces sorts under windows by the
//! weakest that the window asks for. The incremental plan orders rows by itself;
//! batch executes the node (`batch::ordered`).

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::common::DFSchemaRef;
use datafusion::error::Result;
use datafusion::logical_expr::expr::Sort as Key;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::text::text;

/// Puts its input in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ordered {
    pub(crate) keys: Vec<Key>,
    pub(crate) input: LogicalPlan,
}

impl Ordered {
    /// Makes a plan of the node.
    pub(crate) fn plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }
}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.keys.partial_cmp(&other.keys)
    }
}

impl UserDefinedLogicalNodeCore for Ordered {
    fn name(&self) -> &str {
        "Ordered"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys.iter().map(|key| key.expr.clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let texts: Vec<String> = self.keys.iter().map(|key| text(&key.expr)).collect();
        write!(f, "Ordered: {}", texts.join(", "))
    }

    fn with_exprs_and_inputs(&self, expressions: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let keys = self.keys.iter().zip(expressions);
        Ok(Ordered {
            keys: keys.map(|(key, expr)| Key { expr, ..key.clone() }).collect(),
            input: inputs.swap_remove(0),
        })
    }
}

/// Returns the node itself where a plan is `Ordered`.
pub(crate) fn ordered(plan: &LogicalPlan) -> Option<&Ordered> {
    match plan {
        LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref::<Ordered>(),
        _ => None,
    }
}
