//! Compiles the `where` of a subscription: one boolean expression over a relation's columns.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use dataflows::evaluate::evaluate;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::{Expr, ExprSchemable, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;

use crate::catalog::Catalog;
use crate::parsing;
use crate::problem::Problem;
use crate::view::deep;

/// A filter that can be asked again for every batch.
#[derive(Clone, Debug)]
pub struct Predicate {
    expressions: [Arc<dyn PhysicalExpr>; 1],
    texts: [String; 1],
    schema: SchemaRef,
}

impl Predicate {
    /// Tells for each row of a batch whether it passes.
    ///
    /// A row does not pass when the answer is NULL or the expression fails on it:
    /// so a row that leaves is judged as it was when it came.
    pub fn evaluate(&self, batch: &RecordBatch) -> BooleanArray {
        let batch = batch
            .clone()
            .with_schema(self.schema.clone())
            .unwrap_or_else(|_| batch.clone());
        let evaluated = evaluate(&self.expressions, &self.texts, &batch);
        let passes = evaluated.columns[0].as_boolean();
        let passes = if passes.null_count() > 0 {
            prep_null_mask_filter(passes)
        } else {
            passes.clone()
        };
        let Some(rows) = evaluated.rows else { return passes };
        let mut all = vec![false; batch.num_rows()];
        for (row, passes) in rows.values().iter().zip(passes.values()) {
            all[*row as usize] = passes;
        }
        all.into()
    }
}

impl Catalog {
    /// Compiles a boolean expression over the columns of `schema`.
    ///
    /// # Errors
    /// When it is no single boolean expression of these columns whose value is the
    /// same at every time.
    pub fn compile_predicate(&self, schema: &SchemaRef, sql: &str) -> Result<Predicate, Problem> {
        deep(|| self.predicate(schema, sql)).map_err(|problem| {
            // The text stands one line lower than its author wrote it; in a single line there is nothing to find.
            let line = problem
                .line
                .filter(|_| sql.trim().contains('\n'))
                .map(|line| (line - 1).max(1));
            Problem { line, ..problem }
        })
    }

    fn predicate(&self, schema: &SchemaRef, sql: &str) -> Result<Predicate, Problem> {
        let parsed = parse(sql)?;
        let session = self.session();
        // Nothing is promised not to be NULL here, or comparisons with it would be folded away.
        let fields: Vec<Field> = schema
            .fields()
            .iter()
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let names = DFSchema::try_from(schema.clone()).map_err(Problem::from)?;
        let alone = ast::ExprWithAlias {
            expr: parsed,
            alias: None,
        };
        let expression = session
            .create_logical_expr_from_sql_expr(alone, &names)
            .map_err(Problem::from)?;
        refuse(&expression)?;
        let data_type = expression.get_type(&names).map_err(Problem::from)?;
        if data_type != DataType::Boolean {
            return Err(
                Problem::new(format!("the condition is not true or false but {data_type}"))
                    .hint("Write a comparison, as in: score >= 50 AND station = 'K1'"),
            );
        }
        let physical = session
            .create_physical_expr(expression, &names)
            .map_err(Problem::from)?;
        Ok(Predicate {
            expressions: [physical],
            texts: [sql.to_owned()],
            schema,
        })
    }
}

/// Parses exactly one expression: a parser of expressions alone stops where one ends.
fn parse(sql: &str) -> Result<ast::Expr, Problem> {
    let statements = parsing::statements(&format!("SELECT 1 WHERE (\n{sql}\n)")).map_err(Problem::from)?;
    let [Statement::Statement(statement)] = statements.iter().collect::<Vec<_>>()[..] else {
        return Err(not_one());
    };
    let ast::Statement::Query(query) = statement.as_ref() else {
        return Err(not_one());
    };
    let ast::SetExpr::Select(select) = query.body.as_ref() else {
        return Err(not_one());
    };
    match &select.selection {
        // Whatever else the text smuggled in shows when it is all written out.
        Some(ast::Expr::Nested(inner)) if query.to_string() == format!("SELECT 1 WHERE ({inner})") => {
            Ok(inner.as_ref().clone())
        }
        _ => Err(not_one()),
    }
}

/// Refuses what has no value for one row alone, or another one later.
fn refuse(expression: &Expr) -> Result<(), Problem> {
    let mut problem = None;
    let found = expression.exists(|part| {
        problem = match part {
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) => {
                Some("a subquery".to_owned())
            }
            Expr::AggregateFunction(call) => Some(format!("{}()", call.func.name())),
            Expr::WindowFunction(call) => Some(format!("{}()", call.fun.name())),
            Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                Some(format!("{}()", call.func.name()))
            }
            _ => None,
        };
        Ok(problem.is_some())
    });
    found.map_err(Problem::from)?;
    match problem {
        Some(part) => Err(
            Problem::new(format!("{part} is not allowed in the condition of a subscription"))
                .hint("The condition may look at the columns of one row only. Declare a view for more."),
        ),
        None => Ok(()),
    }
}

fn not_one() -> Problem {
    Problem::new("the condition is more than one expression")
        .hint("Write one comparison, or several joined by AND and OR.")
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringArray};

    use super::*;

    fn batch() -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([
            (
                "station",
                Arc::new(StringArray::from(vec!["K1", "K2", "K3"])) as _,
                false,
            ),
            (
                "score",
                Arc::new(Float64Array::from(vec![Some(71.5), None, Some(20.0)])) as _,
                true,
            ),
            ("n", Arc::new(Int64Array::from(vec![0, 2, 5])) as _, false),
        ])
        .unwrap()
    }

    fn passing(sql: &str) -> Vec<bool> {
        let batch = batch();
        let predicate = Catalog::new("UTC")
            .unwrap()
            .compile_predicate(&batch.schema(), sql)
            .unwrap();
        predicate.evaluate(&batch).values().iter().collect()
    }

    fn problem(sql: &str) -> Problem {
        Catalog::new("UTC")
            .unwrap()
            .compile_predicate(&batch().schema(), sql)
            .unwrap_err()
    }

    #[test]
    fn rows_pass_when_the_answer_is_true() {
        assert_eq!(passing("score >= 50"), [true, false, false]);
        assert_eq!(passing("score IS NULL OR station = 'K3'"), [false, true, true]);
        assert_eq!(
            passing("station IN ('K1', 'K2') AND n + 1 > 1 -- why not"),
            [false, true, false]
        );
        assert_eq!(passing("n > '1'"), [false, true, true]);
        assert_eq!(passing("true"), [true, true, true]);
    }

    #[test]
    fn a_row_on_which_it_fails_does_not_pass() {
        assert_eq!(passing("10 / n > 1"), [false, true, true]);
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for sql in [
            "",
            "score",
            "scor > 1",
            "score > ",
            "score > 1; SELECT 1",
            "score > 1) OR (true",
            "true) ORDER BY (1",
            "true) LIMIT (1",
            "true) UNION (SELECT 1",
            "sum(n) > 1",
            "random() > 0.5",
            "now() > now()",
            "n IN (SELECT 1)",
            "nosuch(n) > 1",
            "score > 1 AS x",
        ] {
            let _ = problem(sql);
        }
        assert!(problem("scor > 1").hint.is_some());
        assert_eq!(problem("scor > 1").line, None);
        assert_eq!(problem("score > 1\nAND scor < 2").line, Some(2));
        assert!(problem("random() > 0.5").what.contains("random()"));
    }
}
