//! `as_of('relation', time)` in a query: what a source or view held at an earlier time.
//!
//! A call is settled before anything is planned: it becomes the name of a relation that no file can have, such as
//! `readings@1763690000123000`, with the relation's columns. Whoever runs the query brings its rows along.

use std::ops::ControlFlow;

use arrow::datatypes::{DataType, TimeUnit};
use dataflows::Tick;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, TableAlias, TableFactor, Value, VisitMut,
    VisitorMut,
};

use crate::catalog::{Catalog, Relation};
use crate::functions::now::mentions_now;
use crate::problem::Problem;
use crate::rewrites::temporal;
use crate::view::optimise;

/// The function's name.
pub(crate) const NAME: &str = "as_of";
const CALL: &str = "as_of('readings', TIMESTAMP '2026-03-01 10:00:00') or as_of('readings', now() - INTERVAL '1 hour')";

/// A relation at an earlier tick, as a query reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsOf {
    /// The name by which the query asks for its rows.
    pub name: String,
    /// The source, view or alert.
    pub relation: String,
    /// The time asked for: of its ticks, the newest that is not after this.
    pub tick: Tick,
}

/// Returns the relation that a settled name speaks of.
pub(crate) fn relation_of(name: &str) -> Option<&str> {
    let (relation, tick) = name.rsplit_once('@')?;
    tick.parse::<Tick>().ok()?;
    Some(relation)
}

/// Says what is wrong with a call in a view.
pub(crate) fn refused() -> Problem {
    Problem::new(format!(
        "{NAME}() stands in a view, which is kept current by what comes"
    ))
    .hint("Ask for earlier times in a query: POST /sql, or `sangam query`.")
}

fn misused(what: &str) -> Problem {
    Problem::new(format!("{NAME}() {what}")).hint(format!("Write {CALL}."))
}

impl Catalog {
    /// Settles every call in a statement, with `now()` at `now`; returns what is read so.
    pub(crate) fn settle(&self, statement: &mut Statement, now: Option<Tick>) -> Result<Vec<AsOf>, Problem> {
        let mut settling = Settling {
            catalog: self,
            now,
            found: Vec::new(),
        };
        let Statement::Statement(statement) = statement else {
            return Ok(Vec::new());
        };
        match statement.visit(&mut settling) {
            ControlFlow::Break(problem) => Err(problem),
            ControlFlow::Continue(()) => Ok(settling.found),
        }
    }

    /// Reads a time.
    fn tick(&self, written: &ast::Expr, now: Option<Tick>) -> Result<Tick, Problem> {
        let session = self.session();
        let statement = self.parse(&format!("SELECT {written}"))?;
        let LogicalPlan::Projection(projection) = self.logical(&session, statement)? else {
            return Err(misused("needs a time that does not depend on any row"));
        };
        let [expression] = projection.expr.as_slice() else {
            return Err(misused("needs one time"));
        };
        if mentions_now(expression) && now.is_none() {
            return Err(misused("cannot tell what time it is now"));
        }
        let data_type = DataType::Timestamp(TimeUnit::Microsecond, Some(self.zone().clone()));
        let plan = LogicalPlanBuilder::empty(true)
            .project([cast(expression.clone().unalias(), data_type)])?
            .build()?;
        let plan = temporal::at_tick(plan, now.unwrap_or(0) as i64, self.zone())?;
        let LogicalPlan::Projection(projection) = optimise(&session, plan)? else {
            return Err(misused("needs a time that does not depend on any row"));
        };
        let literal = projection.expr.first().cloned().map(Expr::unalias);
        match literal {
            Some(Expr::Literal(ScalarValue::TimestampMicrosecond(Some(us), _), _)) => {
                Tick::try_from(us).map_err(|_| misused("needs a time after 1970"))
            }
            Some(Expr::Literal(..)) => Err(misused("needs a time, and this is NULL")),
            // What cannot be computed is left as it was written.
            _ if matches!(written, ast::Expr::Value(_) | ast::Expr::TypedString(_)) => {
                Err(misused(&format!("cannot read {written} as a time")))
            }
            _ => Err(misused("needs a time that does not depend on any row")),
        }
    }
}

struct Settling<'a> {
    catalog: &'a Catalog,
    now: Option<Tick>,
    found: Vec<AsOf>,
}

impl Settling<'_> {
    /// Settles the arguments of a call; returns the relation's name, and the one that stands for it.
    fn settled(&mut self, args: &[FunctionArg]) -> Result<(String, Ident), Problem> {
        let written = |argument: &FunctionArg| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression.clone()),
            _ => None,
        };
        let written: Option<Vec<ast::Expr>> = args.iter().map(written).collect();
        let Some([relation, time]) = written.as_deref() else {
            return Err(misused("needs the name of a relation and a time"));
        };
        let relation = match relation {
            ast::Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(name) => name.clone(),
                _ => return Err(misused("needs the name of a relation first")),
            },
            ast::Expr::Identifier(name) => name.value.clone(),
            ast::Expr::CompoundIdentifier(names) => {
                let names: Vec<&str> = names.iter().map(|name| name.value.as_str()).collect();
                names.join(".")
            }
            _ => return Err(misused("needs the name of a relation first")),
        };
        match self.catalog.relation(&relation).map(AsRef::as_ref) {
            Some(Relation::Source(_) | Relation::View(_)) => {}
            Some(Relation::System(_)) => {
                return Err(
                    Problem::new(format!("what {relation} held at earlier times is not kept"))
                        .hint("Sources, views and alerts can be asked for as of an earlier time."),
                );
            }
            None => return Err(self.catalog.unknown_relation(&relation)),
        }
        let tick = self.catalog.tick(time, self.now)?;
        let name = format!("{relation}@{tick}");
        if !self.found.iter().any(|found| found.name == name) {
            self.found.push(AsOf {
                name: name.clone(),
                relation: relation.clone(),
                tick,
            });
        }
        Ok((relation, Ident::with_quote('"', name)))
    }
}

impl VisitorMut for Settling<'_> {
    type Break = Problem;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Problem> {
        let TableFactor::Table { name, args, alias, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let Some(called) = args.as_ref().filter(|_| is_ours(name)) else {
            return ControlFlow::Continue(());
        };
        let (relation, settled) = match self.settled(&called.args) {
            Ok(settled) => settled,
            Err(problem) => return ControlFlow::Break(problem),
        };
        *name = ObjectName::from(vec![settled]);
        *args = None;
        if alias.is_none() {
            // Its columns go by the name that was asked for.
            *alias = Some(TableAlias {
                explicit: false,
                name: Ident::with_quote('"', relation),
                columns: Vec::new(),
                at: None,
            });
        }
        ControlFlow::Continue(())
    }

    /// A call may be what another of ours in `FROM` reads, and is an expression there.
    fn pre_visit_expr(&mut self, expression: &mut ast::Expr) -> ControlFlow<Problem> {
        let ast::Expr::Function(function) = expression else {
            return ControlFlow::Continue(());
        };
        let FunctionArguments::List(list) = &function.args else {
            return ControlFlow::Continue(());
        };
        if is_ours(&function.name) {
            match self.settled(&list.args) {
                Ok((_, settled)) => *expression = ast::Expr::Identifier(settled),
                Err(problem) => return ControlFlow::Break(problem),
            }
        }
        ControlFlow::Continue(())
    }
}

fn is_ours(name: &ObjectName) -> bool {
    let [part] = name.0.as_slice() else { return false };
    part.as_ident()
        .is_some_and(|name| name.value.eq_ignore_ascii_case(NAME))
}
