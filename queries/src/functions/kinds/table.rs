//! Table functions of ours: relations in, a relation out, by a state that takes changes in.
//!
//! A call becomes a node of the shared plan. Batch execution hands the state all rows at once
//! (`batch::table`), the incremental operator those of each tick.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::Field;
use dataflows::functions;
use datafusion::common::{DFSchema, DFSchemaRef, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNodeCore};
use datafusion::sql::sqlparser::ast::{Join, JoinConstraint, JoinOperator, TableFactor, TableWithJoins};

use super::super::FUNCTIONS;
use super::super::calls::{alias_of, called, expression, relation};
use super::Function;
use crate::problem::Problem;

/// A table function: how it is called, and what both engines run.
pub(crate) struct Table {
    /// Its SQL name.
    pub(crate) name: &'static str,
    /// How it is written.
    pub(crate) call: &'static str,
    /// How many relations it reads; they come first, constants after them.
    pub(crate) relations: usize,
    /// Plans a call over relations of these columns.
    pub(crate) plan: fn(&[DFSchemaRef], &[ScalarValue]) -> Result<Planned, Problem>,
}

/// A call that was found right.
pub(crate) struct Planned {
    /// What is handed over of each relation, over its columns.
    pub(crate) inputs: Vec<Vec<Expr>>,
    /// The columns of the result.
    pub(crate) columns: Vec<Field>,
    /// The columns of the result that tell its rows apart.
    pub(crate) key: Option<Vec<usize>>,
    /// What is run.
    pub(crate) function: Arc<dyn functions::Table>,
}

impl Table {
    /// Says what is wrong with a call, and how it is written.
    pub(crate) fn misused(&self, what: &str) -> Problem {
        Problem::new(format!("{}() {what}", self.name)).hint(format!("Write {}.", self.call))
    }
}

/// A call as a node of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Its name and its constants: what tells it from other calls over the same relations.
    pub(crate) text: String,
    pub(crate) inputs: Vec<LogicalPlan>,
    pub(crate) schema: DFSchemaRef,
    pub(crate) key: Option<Vec<usize>>,
    pub(crate) function: Arc<dyn functions::Table>,
}

/// Returns the call that a plan is, if it is one.
pub(crate) fn call(plan: &LogicalPlan) -> Option<&Call> {
    match plan {
        LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref::<Call>(),
        _ => None,
    }
}

/// Plans the calls in `FROM`.
pub(crate) fn planner() -> Arc<dyn RelationPlanner> {
    Arc::new(Planner)
}

/// Returns what a call reads, one relation or several side by side.
pub(crate) fn read_by(factor: &TableFactor) -> Option<TableFactor> {
    let (table, args) = ours(factor)?;
    let mut read = args.iter().take(table.relations).filter_map(relation);
    let first = read.next()?;
    let others = read.map(|relation| Join {
        relation,
        global: false,
        join_operator: JoinOperator::CrossJoin(JoinConstraint::None),
    });
    Some(TableFactor::NestedJoin {
        table_with_joins: Box::new(TableWithJoins {
            relation: first,
            joins: others.collect(),
        }),
        alias: None,
    })
}

fn ours(factor: &TableFactor) -> Option<(&'static Table, &[datafusion::sql::sqlparser::ast::FunctionArg])> {
    let (name, args) = called(factor)?;
    let table = FUNCTIONS.iter().find_map(|function| match function {
        Function::Table(table) if table.name == name => Some(*table),
        _ => None,
    })?;
    Some((table, args))
}

#[derive(Debug)]
struct Planner;

impl RelationPlanner for Planner {
    fn plan_relation(&self, factor: TableFactor, context: &mut dyn RelationPlannerContext) -> Result<RelationPlanning> {
        let Some((table, args)) = ours(&factor) else {
            return Ok(RelationPlanning::Original(Box::new(factor)));
        };
        if args.len() < table.relations {
            return Err(table.misused("reads more relations than are given").into());
        }
        let (relations, constants) = args.split_at(table.relations);
        let mut inputs = Vec::with_capacity(relations.len());
        for argument in relations {
            let written = relation(argument)
                .ok_or_else(|| table.misused("needs the name of a relation, or a subquery, for each it reads"))?;
            inputs.push(context.plan(written)?);
        }
        let mut values = Vec::with_capacity(constants.len());
        for argument in constants {
            let written = expression(argument)
                .ok_or_else(|| table.misused("takes its arguments by their place, without names"))?;
            let value = constant(context.sql_to_expr(written.clone(), &DFSchema::empty())?);
            values.push(value.ok_or_else(|| table.misused("takes plain numbers and texts after its relations"))?);
        }
        let schemas: Vec<DFSchemaRef> = inputs.iter().map(|input| Arc::clone(input.schema())).collect();
        let planned = (table.plan)(&schemas, &values)?;
        let inputs = inputs
            .into_iter()
            .zip(planned.inputs)
            .map(|(input, columns)| LogicalPlanBuilder::from(input).project(columns)?.build())
            .collect::<Result<Vec<_>>>()?;
        let constants: String = values.iter().map(|value| format!(", {value}")).collect();
        let call = Call {
            text: format!("{}(…{constants})", table.name),
            inputs,
            schema: Arc::new(DFSchema::from_unqualified_fields(
                planned.columns.into(),
                Default::default(),
            )?),
            key: planned.key,
            function: planned.function,
        };
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(call) });
        let (plan, alias) = match alias_of(factor) {
            None => (LogicalPlanBuilder::from(plan).alias(table.name)?.build()?, None),
            alias => (plan, alias),
        };
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// Reads a literal, negative ones included.
fn constant(expression: Expr) -> Option<ScalarValue> {
    match expression {
        Expr::Literal(value, _) => Some(value),
        Expr::Negative(inner) => constant(*inner)?.arithmetic_negate().ok(),
        _ => None,
    }
}

impl PartialEq for Call {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.inputs == other.inputs && self.schema == other.schema
    }
}

impl Eq for Call {}

impl Hash for Call {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
        self.inputs.hash(state);
    }
}

impl PartialOrd for Call {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for Call {
    fn name(&self) -> &str {
        "Call"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.inputs.iter().collect()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        Ok(Call { inputs, ..self.clone() })
    }
}
