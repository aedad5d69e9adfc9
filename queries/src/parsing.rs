//! Reads texts as statements, and which relations they name.

mod depth;
mod dialect;
mod size;

use std::collections::VecDeque;
use std::ops::ControlFlow;

use datafusion::common::{not_impl_err, plan_datafusion_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{TableFactor, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::functions;
use dialect::OurDialect;

/// Reads every statement of a text.
pub(crate) fn statements(sql: &str) -> Result<VecDeque<Statement>> {
    let dialect = OurDialect;
    let mut tokens = Tokenizer::new(&dialect, sql)
        .tokenize_with_location()
        .map_err(|error| DataFusionError::from(ParserError::from(error)))?;
    depth::bounded(&tokens)?;
    // A lone question mark asks whether JSON has a key: no text here has places to be filled in.
    for token in &mut tokens {
        if matches!(&token.token, Token::Placeholder(text) if text == "?") {
            token.token = Token::Question;
        }
    }
    let mut parser = DFParserBuilder::new(tokens).with_dialect(&dialect).build()?;
    let mut statements = parser.parse_statements()?;
    for statement in &mut statements {
        depth::shallow(statement)?;
        if let Statement::Statement(statement) = statement {
            size::bounded(statement)?;
        }
    }
    Ok(statements)
}

/// Reads the one statement of a text.
pub(crate) fn statement(sql: &str) -> Result<Statement> {
    let mut statements = statements(sql)?;
    if statements.len() > 1 {
        return not_impl_err!("The context currently only supports a single SQL statement");
    }
    statements
        .pop_front()
        .ok_or_else(|| plan_datafusion_err!("no SQL statements were provided in the query string"))
}

/// Puts what our functions in `FROM` read in their place, so that it is found among the relations.
pub(crate) fn reveal_relations(statement: &mut Statement) {
    if let Statement::Statement(statement) = statement {
        let _ = statement.visit(&mut Reveal);
    }
}

struct Reveal;

impl VisitorMut for Reveal {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        while let Some(read) = functions::read_by(factor) {
            *factor = read;
        }
        ControlFlow::Continue(())
    }
}
