//! Writes expressions as SQL, for plans and error rows.

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::Expr;
use datafusion::sql::unparser::Unparser;
use datafusion::sql::unparser::dialect::Dialect;

use crate::functions::canonical;

/// Returns an expression in SQL's words, without its alias.
///
/// Columns stand without the relation they came from, and without what only
/// the rewrites put around them.
pub(crate) fn text(expression: &Expr) -> String {
    let plain = expression.clone().unalias().transform_up(|part| {
        Ok(match part {
            Expr::Column(column) => Transformed::yes(Expr::Column(Column::new_unqualified(
                column.name.replace("count(Int64(1))", "count(*)"),
            ))),
            Expr::ScalarFunction(mut call) if call.func.name() == canonical::NAME && call.args.len() == 1 => {
                Transformed::yes(call.args.swap_remove(0))
            }
            other => Transformed::no(other),
        })
    });
    let Ok(plain) = plain else {
        return expression.to_string();
    };
    match Unparser::new(&Unquoted).with_pretty(true).expr_to_sql(&plain.data) {
        Ok(sql) => sql.to_string(),
        // Some expressions have no SQL form.
        Err(_) => plain.data.human_display().to_string(),
    }
}

/// Leaves names as they are: the text is for people, not for a parser.
struct Unquoted;

impl Dialect for Unquoted {
    fn identifier_quote_style(&self, _: &str) -> Option<char> {
        None
    }
}
