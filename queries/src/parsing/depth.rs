//! Keeps texts shallow: what is written in a row must not stand in each other, for all that walks a plan
//! takes a step of the stack at each depth.
//!
//! The parser bounds brackets by itself. What it makes of a row of operators is as deep as the row is long:
//! of `AND` and `OR` it does not matter which come first, so those rows become balanced trees; any other row,
//! of set operations and of joins too, is bounded.

use std::ops::ControlFlow;

use datafusion::common::DataFusionError;
use datafusion::error::Result;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Query, Select, SetExpr, Values, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::problem::Problem;

/// Words between two commas or brackets, at most: while the parser works, and should it give up, nothing is
/// balanced yet.
const WORDS_MAX: usize = 50_000;

/// Operators in a row that are not `AND` or `OR`, at most.
const OPERATORS_MAX: usize = 128;

/// Set operations in a row, at most, and joins in one `FROM`.
const RELATIONS_MAX: usize = 256;

/// Operands in a row that stay as they were written.
const ROW_LEFT_ALONE: usize = 16;

/// Refuses a text that the parser could not take.
pub(super) fn bounded(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut words = vec![0usize];
    for token in tokens {
        match token.token {
            Token::Whitespace(_) => continue,
            Token::LParen | Token::LBracket | Token::LBrace => words.push(0),
            Token::RParen | Token::RBracket | Token::RBrace if words.len() > 1 => drop(words.pop()),
            _ => {}
        }
        let Some(last) = words.last_mut() else { continue };
        *last = if token.token == Token::Comma { 0 } else { *last + 1 };
        if *last > WORDS_MAX {
            return Err(refused(
                &format!("more than {WORDS_MAX} words without a comma"),
                "Ask in smaller pieces, or compare with a list: x IN (1, 2, 3).",
            ));
        }
    }
    Ok(())
}

/// Makes a statement shallow, or refuses it.
pub(super) fn shallow(statement: &mut Statement) -> Result<()> {
    match statement {
        Statement::Statement(statement) => match statement.visit(&mut Shallow) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => Err(error),
        },
        // What is no query is refused by whoever asked.
        _ => Ok(()),
    }
}

fn refused(what: &str, hint: &str) -> DataFusionError {
    Problem::new(what).hint(hint).into()
}

struct Shallow;

impl VisitorMut for Shallow {
    type Break = DataFusionError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<DataFusionError> {
        let mut depth = 0;
        let mut body = query.body.as_ref();
        while let SetExpr::SetOperation { left, .. } = body {
            depth += 1;
            body = left.as_ref();
        }
        if depth <= RELATIONS_MAX {
            return ControlFlow::Continue(());
        }
        let nothing = || {
            SetExpr::Values(Values {
                explicit_row: false,
                value_keyword: false,
                rows: vec![],
            })
        };
        // Taken apart piece by piece: dropping it whole would be as deep.
        let mut rest = std::mem::replace(query.body.as_mut(), nothing());
        while let SetExpr::SetOperation { left, .. } = &mut rest {
            let next = std::mem::replace(left.as_mut(), nothing());
            rest = next;
        }
        ControlFlow::Break(refused(
            &format!("more than {RELATIONS_MAX} set operations in a row"),
            "Unite some in a view, and those views in another.",
        ))
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<DataFusionError> {
        let joins: usize = select.from.iter().map(|from| from.joins.len() + 1).sum();
        match joins > RELATIONS_MAX {
            false => ControlFlow::Continue(()),
            true => ControlFlow::Break(refused(
                &format!("more than {RELATIONS_MAX} relations in one FROM"),
                "Join some in a view, and that view with the others.",
            )),
        }
    }

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<DataFusionError> {
        if is_row(expression)
            && let Expr::BinaryOp { op, .. } = expression
        {
            let op = op.clone();
            balance(expression, &op);
        }
        if !is_deep(expression) {
            return ControlFlow::Continue(());
        }
        let mut rest = std::mem::replace(expression, nothing());
        while let Some(inner) = first(&mut rest) {
            let next = std::mem::replace(inner, nothing());
            rest = next;
        }
        ControlFlow::Break(refused(
            &format!("more than {OPERATORS_MAX} operators in a row"),
            "Write a part of it in a subquery or a view, or use a function of many arguments, such as concat().",
        ))
    }
}

/// Tells whether an expression is a row of `AND` or of `OR`.
fn is_row(expression: &Expr) -> bool {
    matches!(
        expression,
        Expr::BinaryOp {
            op: BinaryOperator::And | BinaryOperator::Or,
            ..
        }
    )
}

fn nothing() -> Expr {
    Expr::Tuple(vec![])
}

/// Tells whether expressions that begin with each other go too deep.
fn is_deep(expression: &mut Expr) -> bool {
    let mut inner = expression;
    for _ in 0..OPERATORS_MAX {
        // Rows of these are balanced, or will be once it is their turn.
        if is_row(inner) {
            return false;
        }
        match first(inner) {
            Some(next) => inner = next,
            None => return false,
        }
    }
    true
}

/// Returns the expression that stands first in another, as the parser nests them without a bracket.
fn first(expression: &mut Expr) -> Option<&mut Expr> {
    Some(match expression {
        Expr::BinaryOp { left, .. } | Expr::AnyOp { left, .. } | Expr::AllOp { left, .. } => left,
        Expr::IsDistinctFrom(left, _) | Expr::IsNotDistinctFrom(left, _) => left,
        Expr::IsFalse(inner)
        | Expr::IsNotFalse(inner)
        | Expr::IsTrue(inner)
        | Expr::IsNotTrue(inner)
        | Expr::IsNull(inner)
        | Expr::IsNotNull(inner)
        | Expr::IsUnknown(inner)
        | Expr::IsNotUnknown(inner)
        | Expr::Nested(inner) => inner,
        Expr::IsNormalized { expr, .. }
        | Expr::InList { expr, .. }
        | Expr::InSubquery { expr, .. }
        | Expr::InUnnest { expr, .. }
        | Expr::Between { expr, .. }
        | Expr::Like { expr, .. }
        | Expr::ILike { expr, .. }
        | Expr::SimilarTo { expr, .. }
        | Expr::RLike { expr, .. }
        | Expr::UnaryOp { expr, .. }
        | Expr::Cast { expr, .. }
        | Expr::Collate { expr, .. } => expr,
        Expr::AtTimeZone { timestamp, .. } => timestamp,
        Expr::CompoundFieldAccess { root, .. } => root,
        Expr::JsonAccess { value, .. } => value,
        _ => return None,
    })
}

/// Makes a balanced tree of a row of `AND` or of `OR`.
fn balance(expression: &mut Expr, row: &BinaryOperator) {
    let mut length = 0;
    let mut inner = &*expression;
    while let Expr::BinaryOp { left, op, .. } = inner
        && op == row
    {
        length += 1;
        inner = left;
    }
    if length <= ROW_LEFT_ALONE {
        return;
    }
    let mut operands = Vec::with_capacity(length + 1);
    let mut rest = std::mem::replace(expression, nothing());
    loop {
        match rest {
            Expr::BinaryOp { left, op, right } if op == *row => {
                operands.push(Some(*right));
                rest = *left;
            }
            other => {
                operands.push(Some(other));
                break;
            }
        }
    }
    operands.reverse();
    *expression = tree(&mut operands, row);
}

/// Joins operands, keeping their order.
fn tree(operands: &mut [Option<Expr>], op: &BinaryOperator) -> Expr {
    match operands {
        [] => nothing(),
        [one] => one.take().unwrap_or_else(nothing),
        many => {
            let (left, right) = many.split_at_mut(many.len() / 2);
            Expr::BinaryOp {
                left: Box::new(tree(left, op)),
                op: op.clone(),
                right: Box::new(tree(right, op)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::statement;

    fn said(sql: &str) -> String {
        match statement(sql) {
            Ok(_) => "fine".into(),
            Err(error) => crate::Problem::from(error).what,
        }
    }

    #[test]
    fn rows_of_operators_are_shallow_or_refused() {
        let row = |what: &str, by: &str, times: usize| vec![what; times].join(by);
        for (sql, expected) in [
            (format!("SELECT {}", row("a", " OR ", 10_000)), "fine"),
            (format!("SELECT {}", row("a = 1 AND b", " OR ", 5_000)), "fine"),
            (format!("SELECT NOT ({}) IS NULL", row("a", " AND ", 5_000)), "fine"),
            (format!("SELECT {}", row("a", " + ", 100)), "fine"),
            (format!("SELECT {}", row("a", " + ", 10_000)), "operators in a row"),
            (format!("SELECT a{}", " IS NULL".repeat(10_000)), "operators in a row"),
            (format!("SELECT a{}", "::text".repeat(10_000)), "operators in a row"),
            (format!("SELECT {}", row("a", " OR ", 100_000)), "words without a comma"),
            (format!("SELECT {}", row("a", ", ", 100_000)), "fine"),
            (row("SELECT 1", " UNION ALL ", 100), "fine"),
            (row("SELECT 1", " UNION ALL ", 5_000), "set operations in a row"),
            (
                format!("SELECT 1 FROM t{}", " CROSS JOIN t".repeat(300)),
                "relations in one FROM",
            ),
            (
                format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000)),
                "brackets",
            ),
            // The parser gives this up for another reason.
            (format!("SELECT {} a", "NOT ".repeat(10_000)), "could not parse"),
            (format!("SELECT {}1", "(".repeat(100_000)), "brackets"),
            (
                format!("{}SELECT 1{}", "SELECT * FROM (".repeat(5_000), ") t".repeat(5_000)),
                "",
            ),
        ] {
            let said = said(&sql);
            assert!(said.contains(expected), "{}: {said}", &sql[..60]);
            assert_eq!(said == "fine", expected == "fine", "{}", &sql[..60]);
        }
    }
}
