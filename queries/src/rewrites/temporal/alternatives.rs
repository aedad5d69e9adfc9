//! Conditions with `now()` under `OR` and `NOT`, as alternatives.
//!
//! A filter keeps the rows for which its condition is true, and NULL is as good
//! as false once no `NOT` is left: so `NOT` is brought down to the comparisons,
//! where it turns each into its opposite, and what is left is `OR`s of `AND`s.
//! What is free of `now()` in an alternative is one flag, computed below; a row
//! on which it fails fails at every tick, whatever the bounds say.

use arrow::datatypes::DataType;
use dataflows::plan::TemporalAlternative;
use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::logical_expr::expr::Between;
use datafusion::logical_expr::utils::{conjunction, split_binary_owned, split_conjunction_owned};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, binary_expr};

use super::{Comparison, bound, comparisons};
use crate::functions::now::mentions_now;
use crate::problem::Problem;

/// How many alternatives one condition may come to.
const ALTERNATIVES_MAX: usize = 32;

/// Comparisons and conditions free of `now()` that must hold together.
#[derive(Clone, Default)]
pub(super) struct Alternative {
    pub(super) comparisons: Vec<Comparison>,
    pub(super) plain: Vec<Expr>,
}

impl Alternative {
    /// Returns what must hold beside the comparisons.
    pub(super) fn flag(&self) -> Option<Expr> {
        conjunction(self.plain.iter().cloned())
    }
}

/// Brings `NOT` down to the comparisons wherever `now()` is under it.
pub(super) fn without_not(expression: Expr, negated: bool) -> Expr {
    if !mentions_now(&expression) {
        return if negated {
            Expr::Not(Box::new(expression))
        } else {
            expression
        };
    }
    match expression {
        Expr::Not(inner) => without_not(*inner, !negated),
        Expr::IsTrue(inner) if !negated => without_not(*inner, false),
        Expr::IsFalse(inner) if !negated => without_not(*inner, true),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let opposite = match op {
                Operator::And => Some(Operator::Or),
                Operator::Or => Some(Operator::And),
                _ => None,
            };
            match (opposite, negated) {
                (Some(opposite), _) => binary_expr(
                    without_not(*left, negated),
                    if negated { opposite } else { op },
                    without_not(*right, negated),
                ),
                (None, true) => match op.negate() {
                    Some(negation) => binary_expr(*left, negation, *right),
                    None => Expr::Not(Box::new(binary_expr(*left, op, *right))),
                },
                (None, false) => binary_expr(*left, op, *right),
            }
        }
        Expr::Between(between) if between.negated != negated => {
            let Between { expr, low, high, .. } = between;
            let below = binary_expr((*expr).clone(), Operator::Lt, *low);
            binary_expr(below, Operator::Or, binary_expr(*expr, Operator::Gt, *high))
        }
        Expr::Between(between) => {
            let Between { expr, low, high, .. } = between;
            let above = binary_expr((*expr).clone(), Operator::GtEq, *low);
            binary_expr(above, Operator::And, binary_expr(*expr, Operator::LtEq, *high))
        }
        other if negated => Expr::Not(Box::new(other)),
        other => other,
    }
}

/// Reads a condition without `NOT` as alternatives.
pub(super) fn alternatives(expression: Expr) -> Result<Vec<Alternative>> {
    if !mentions_now(&expression) {
        return Ok(vec![Alternative {
            plain: vec![expression],
            ..Alternative::default()
        }]);
    }
    let found = match expression {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Or,
            right,
        }) => {
            let mut found = alternatives(*left)?;
            found.extend(alternatives(*right)?);
            found
        }
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::And,
            right,
        }) => {
            let (left, right) = (alternatives(*left)?, alternatives(*right)?);
            let mut found = Vec::with_capacity(left.len() * right.len());
            for left in &left {
                for right in &right {
                    let mut both = left.clone();
                    both.comparisons.extend(right.comparisons.iter().cloned());
                    both.plain.extend(right.plain.iter().cloned());
                    found.push(both);
                }
            }
            found
        }
        other => vec![Alternative {
            comparisons: comparisons(other)?,
            ..Alternative::default()
        }],
    };
    if found.len() > ALTERNATIVES_MAX {
        return Err(Problem::not_maintained(format!(
            "a condition with now() that comes to more than {ALTERNATIVES_MAX} alternatives"
        ))
        .hint("Write fewer ORs under AND, or a view for each part and UNION them.")
        .into());
    }
    Ok(found)
}

/// Reads a predicate back that `rewrite` made of alternatives; none where it is another one.
pub(crate) fn read(predicate: &Expr, schema: &DFSchema) -> Option<Vec<TemporalAlternative>> {
    if !mentions_now(predicate) {
        return None;
    }
    let alternatives = split_binary_owned(predicate.clone(), Operator::Or)
        .into_iter()
        .map(|alternative| {
            let mut read = TemporalAlternative {
                bounds: Vec::new(),
                flags: Vec::new(),
            };
            for conjunct in split_conjunction_owned(alternative) {
                match &conjunct {
                    Expr::Column(column) => {
                        let index = schema.index_of_column(column).ok()?;
                        if *schema.field(index).data_type() != DataType::Boolean {
                            return None;
                        }
                        read.flags.push(index);
                    }
                    _ => read.bounds.push(bound(&conjunct, schema)?),
                }
            }
            Some(read)
        });
    alternatives.collect()
}
