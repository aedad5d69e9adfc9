//! Turns a shared logical plan into the incremental plan.

mod aggregates;
mod band;
mod constants;
mod held;
mod leaving;
mod recursive;
mod temporal;
mod unnest;
mod windows;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::SortOptions;
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use dataflows::nested;
use dataflows::plan::{Expression, JoinKind, Node, NodeId, Operator, Plan};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, JoinType, NullEquality};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, Filter, Join, LogicalPlan, Projection, TableScan};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

use crate::catalog::{Catalog, relation_name};
use crate::functions::kinds::table;
use crate::problem::Problem;
use crate::recursion::work_table;
use crate::refusals;
use crate::rewrites::checked::checked;
use crate::text::text;
use constants::constant_columns;

/// A lowered view.
pub(crate) struct Lowered {
    pub(crate) plan: Plan,
    /// The root's columns that tell its rows apart.
    pub(crate) key: Option<Vec<usize>>,
    pub(crate) warnings: Vec<String>,
}

/// Lowers a plan that `refusals` found nothing in.
pub(crate) fn lower(plan: &LogicalPlan, catalog: &Catalog, session: &SessionState) -> Result<Lowered, Problem> {
    let mut lowering = Lowering {
        catalog,
        session,
        nodes: Vec::new(),
        keys: Vec::new(),
        repeated: repeated(plan)?,
        around: None,
        warnings: Vec::new(),
    };
    let mut root = lowering.plan(plan)?;
    let schema = nullable(plan.schema());
    if !same_names(&lowering.nodes[root].schema, &schema) {
        root = lowering.rename(root, &schema);
    }
    if let Some(problem) = held::refused(&lowering.nodes, root) {
        return Err(problem);
    }
    let key = lowering.keys[root].clone();
    let mut plan = Plan {
        nodes: lowering.nodes,
        root,
    };
    windows::keep_ranks(&mut plan);
    leaving::let_groups_leave(&mut plan);
    Ok(Lowered {
        plan,
        key,
        warnings: lowering.warnings,
    })
}

struct Lowering<'a> {
    catalog: &'a Catalog,
    session: &'a SessionState,
    nodes: Vec<Node>,
    /// For each node, the columns that tell its rows apart.
    keys: Vec<Option<Vec<usize>>>,
    /// The plans that stand more than once, and their nodes once there are some: each is computed once.
    repeated: HashMap<LogicalPlan, Option<NodeId>>,
    /// What stands around the recursive term that is being lowered.
    around: Option<recursive::Around>,
    warnings: Vec<String>,
}

impl Lowering<'_> {
    fn plan(&mut self, plan: &LogicalPlan) -> Result<NodeId, Problem> {
        if let Some(outer) = self.outer(plan) {
            return outer;
        }
        if self.around.is_some() {
            // A recursion's rows are its own, even if another reads some of the same name.
            return self.operator(plan);
        }
        if let Some(Some(node)) = self.repeated.get(plan) {
            return Ok(*node);
        }
        let node = self.operator(plan)?;
        if let Some(known) = self.repeated.get_mut(plan)
            // A constant may yet be folded into what reads it.
            && !matches!(self.nodes[node].operator, Operator::Constant { .. })
        {
            *known = Some(node);
        }
        Ok(node)
    }

    fn operator(&mut self, plan: &LogicalPlan) -> Result<NodeId, Problem> {
        if let Some(node) = checked(plan) {
            return self.plan(&node.input);
        }
        if let Some(call) = table::call(plan) {
            return self.call_of_table(call);
        }
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => self.plan(&alias.input),
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => {
                let schema = nullable(&union.schema);
                let mut inputs = Vec::with_capacity(union.inputs.len());
                for input in &union.inputs {
                    let input = self.plan(input)?;
                    // Batches pass through as they are, names included.
                    inputs.push(if same_names(&self.nodes[input].schema, &schema) {
                        input
                    } else {
                        self.rename(input, &schema)
                    });
                }
                let append_only = inputs.iter().all(|input| self.nodes[*input].append_only);
                Ok(self.node(Operator::Union, inputs, schema, append_only, None))
            }
            LogicalPlan::EmptyRelation(empty) => {
                let options = RecordBatchOptions::new().with_row_count(Some(usize::from(empty.produce_one_row)));
                let schema = nullable(&empty.schema);
                let columns = schema
                    .fields()
                    .iter()
                    .map(|field| arrow::array::new_null_array(field.data_type(), usize::from(empty.produce_one_row)))
                    .collect();
                let rows = RecordBatch::try_new_with_options(schema, columns, &options).map_err(unexpected)?;
                Ok(self.constant(rows))
            }
            LogicalPlan::Values(values) => self.values(values),
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Sort(sort) if sort.fetch.is_some() => self.top(sort, 0, sort.fetch),
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::RecursiveQuery(query) => self.recursive(query),
            LogicalPlan::Unnest(unnest) => self.unnest(unnest),
            other => Err(match refusals::construct(other) {
                Some((problem, _)) => problem,
                None => {
                    Problem::not_maintained(format!("{}", other.display())).hint("Ask for it with a query instead.")
                }
            }),
        }
    }

    fn node(
        &mut self,
        operator: Operator,
        inputs: Vec<NodeId>,
        schema: SchemaRef,
        append_only: bool,
        key: Option<Vec<usize>>,
    ) -> NodeId {
        self.nodes.push(Node {
            operator,
            inputs,
            schema,
            append_only,
            closes: Vec::new(),
        });
        self.keys.push(key);
        self.nodes.len() - 1
    }

    fn constant(&mut self, rows: RecordBatch) -> NodeId {
        let schema = rows.schema();
        self.node(Operator::Constant { rows }, vec![], schema, true, None)
    }

    fn scan(&mut self, scan: &TableScan) -> Result<NodeId, Problem> {
        let name = relation_name(&scan.table_name);
        let (get, schema) = if let Some(table) = work_table(scan) {
            if self.around.as_ref().is_none_or(|around| around.name != table) {
                // DataFusion takes a term that reads it in a subquery only for a plain one.
                return Err(Problem::not_maintained(format!(
                    "a subquery over \"{table}\" inside its own recursive term"
                ))
                .hint(format!("Join \"{table}\" in FROM.")));
            }
            let schema = scan.source.schema();
            (self.node(Operator::Loop, vec![], schema.clone(), true, None), schema)
        } else {
            let Some(relation) = self.catalog.relation(&name) else {
                // A table function scans what the catalog does not know.
                return Err(Problem::not_maintained(format!("the table function {name}()"))
                    .hint("Write its rows out with VALUES, or send them to a source."));
            };
            let schema = relation.schema().clone();
            let key = relation.key().and_then(|key| {
                key.iter()
                    .map(|column| schema.index_of(column).ok())
                    .collect::<Option<Vec<_>>>()
            });
            let operator = Operator::Get { relation: name };
            let get = self.node(operator, vec![], schema.clone(), relation.append_only(), key);
            (get, schema)
        };
        match &scan.projection {
            Some(columns) if !columns.iter().copied().eq(0..schema.fields().len()) => {
                let expressions = columns
                    .iter()
                    .map(|column| column_expression(&schema, *column))
                    .collect();
                Ok(self.project(get, expressions))
            }
            _ => Ok(get),
        }
    }

    /// Adds a projection, straight over the input of one that only chooses columns.
    fn project(&mut self, input: NodeId, mut expressions: Vec<Expression>) -> NodeId {
        let mut input = input;
        if input + 1 == self.nodes.len()
            && !self.repeated.values().any(|known| *known == Some(input))
            && let Operator::Project { expressions: chosen } = &self.nodes[input].operator
            && let Some(chosen) = chosen.iter().map(column_index).collect::<Option<Vec<_>>>()
        {
            let below = self.nodes[input].inputs[0];
            let schema = &self.nodes[below].schema;
            for expression in &mut expressions {
                expression.physical = moved(&expression.physical, &chosen, schema);
            }
            self.nodes.pop();
            self.keys.pop();
            input = below;
        }
        let schema = Arc::new(Schema::new(
            expressions
                .iter()
                .map(|expression| expression.field.clone())
                .collect::<Vec<_>>(),
        ));
        let columns: Vec<Option<usize>> = expressions.iter().map(column_index).collect();
        let key = self.keys[input].as_ref().and_then(|key| {
            key.iter()
                .map(|column| columns.iter().position(|chosen| *chosen == Some(*column)))
                .collect()
        });
        let append_only = self.nodes[input].append_only;
        self.node(Operator::Project { expressions }, vec![input], schema, append_only, key)
    }

    /// Gives a node's columns other names, by a projection only where it must be.
    fn rename(&mut self, node: NodeId, schema: &SchemaRef) -> NodeId {
        if passes_through(&self.nodes[node].operator) {
            let from = self.nodes[node].schema.clone();
            let expressions = schema
                .fields()
                .iter()
                .enumerate()
                .map(|(index, field)| Expression {
                    field: field.clone(),
                    ..column_expression(&from, index)
                })
                .collect();
            return self.project(node, expressions);
        }
        if let Operator::Window { calls, .. } = &mut self.nodes[node].operator {
            let width = schema.fields().len() - calls.len();
            for (call, field) in calls.iter_mut().zip(&schema.fields()[width..]) {
                call.field = field.clone();
            }
        }
        let renamed = &mut self.nodes[node];
        renamed.schema = schema.clone();
        match &mut renamed.operator {
            Operator::Project { expressions } => {
                for (expression, field) in expressions.iter_mut().zip(schema.fields()) {
                    expression.field = field.clone();
                }
            }
            Operator::Aggregate { keys, calls, .. } => {
                for (call, field) in calls.iter_mut().zip(&schema.fields()[keys.len()..]) {
                    call.field = field.clone();
                }
            }
            Operator::Constant { rows } => {
                if let Ok(renamed) = RecordBatch::try_new_with_options(
                    schema.clone(),
                    rows.columns().to_vec(),
                    &RecordBatchOptions::new().with_row_count(Some(rows.num_rows())),
                ) {
                    *rows = renamed;
                }
            }
            _ => {}
        }
        node
    }

    fn projection(&mut self, projection: &Projection) -> Result<NodeId, Problem> {
        let input = self.plan(&projection.input)?;
        let below = projection.input.schema();
        let schema = nullable(&projection.schema);
        let columns: Vec<Option<usize>> = projection
            .expr
            .iter()
            .map(|expression| match expression.clone().unalias() {
                Expr::Column(column) => below.index_of_column(&column).ok(),
                _ => None,
            })
            .collect();
        let width = self.nodes[input].schema.fields().len();
        let is_identity = columns.iter().copied().eq((0..width).map(Some));
        let is_computed = !passes_through(&self.nodes[input].operator);
        if is_identity && (is_computed || same_names(&self.nodes[input].schema, &schema)) {
            return Ok(if is_computed {
                self.rename(input, &schema)
            } else {
                input
            });
        }
        let mut expressions = Vec::with_capacity(projection.expr.len());
        for (expression, field) in projection.expr.iter().zip(schema.fields()) {
            expressions.push(self.expression(expression, below, field.clone())?);
        }
        if let Operator::Constant { rows } = &self.nodes[input].operator {
            let (columns, count) = constant_columns(&expressions, rows)?;
            let options = RecordBatchOptions::new().with_row_count(Some(count));
            let rows = RecordBatch::try_new_with_options(schema, columns, &options).map_err(unexpected)?;
            self.nodes.pop();
            self.keys.pop();
            return Ok(self.constant(rows));
        }
        Ok(self.project(input, expressions))
    }

    fn filter(&mut self, filter: &Filter) -> Result<NodeId, Problem> {
        let input = self.plan(&filter.input)?;
        let (schema, key) = (self.nodes[input].schema.clone(), self.keys[input].clone());
        let append_only = self.nodes[input].append_only;
        if let Some(node) = self.temporal(filter, input) {
            return Ok(node);
        }
        self.near(filter, input);
        let field = Arc::new(Field::new("predicate", arrow::datatypes::DataType::Boolean, true));
        let predicate = self.expression(&filter.predicate, filter.input.schema(), field)?;
        if let Operator::Constant { rows } = &self.nodes[input].operator {
            let (columns, _) = constant_columns(std::slice::from_ref(&predicate), rows)?;
            let mask = arrow::array::AsArray::as_boolean_opt(columns[0].as_ref())
                .ok_or_else(|| Problem::new("a WHERE condition is not boolean"))?;
            let rows = arrow::compute::filter_record_batch(rows, mask).map_err(unexpected)?;
            self.nodes.pop();
            self.keys.pop();
            return Ok(self.constant(rows));
        }
        Ok(self.node(Operator::Filter { predicate }, vec![input], schema, append_only, key))
    }

    fn join(&mut self, join: &Join) -> Result<NodeId, Problem> {
        let (left, right) = (self.plan(&join.left)?, self.plan(&join.right)?);
        let kind = match join.join_type {
            JoinType::Inner => JoinKind::Inner,
            JoinType::Left => JoinKind::Left,
            JoinType::Full => JoinKind::Full,
            JoinType::LeftSemi => JoinKind::Semi,
            JoinType::LeftAnti => JoinKind::Anti,
            JoinType::LeftMark => JoinKind::Mark,
            other => return Err(Problem::not_maintained(format!("{other} JOIN"))),
        };
        let on = join
            .on
            .iter()
            .map(|(l, r)| Ok((position(l, join.left.schema())?, position(r, join.right.schema())?)))
            .collect::<Result<Vec<_>, Problem>>()?;
        let width = self.nodes[left].schema.fields().len();
        let key = match kind {
            JoinKind::Inner | JoinKind::Left => joined_key(
                &on,
                width,
                self.keys[left].as_deref(),
                self.keys[right].as_deref(),
                kind,
            ),
            // A row of NULLs beside a key may stand beside another such row.
            JoinKind::Full => None,
            JoinKind::Semi | JoinKind::Anti | JoinKind::Mark => self.keys[left].clone(),
        };
        let grows = matches!(kind, JoinKind::Inner | JoinKind::Semi);
        let append_only = grows && self.nodes[left].append_only && self.nodes[right].append_only;
        let null_equals_null = join.null_equality == NullEquality::NullEqualsNull;
        let operator = Operator::Join {
            kind,
            on,
            null_equals_null,
            band: None,
        };
        Ok(self.node(operator, vec![left, right], nullable(&join.schema), append_only, key))
    }

    /// Lowers a table function of ours.
    fn call_of_table(&mut self, call: &table::Call) -> Result<NodeId, Problem> {
        let inputs = call.inputs.iter().map(|input| self.plan(input));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let operator = Operator::Table {
            text: call.text.clone(),
            function: Arc::clone(&call.function),
        };
        Ok(self.node(operator, inputs, nullable(&call.schema), false, call.key.clone()))
    }

    fn expression(&self, expression: &Expr, schema: &DFSchema, field: FieldRef) -> Result<Expression, Problem> {
        let properties = self.session.execution_props();
        let physical = create_physical_expr(expression, schema, properties, &PhysicalPlanningContext::default())?;
        let text = text(expression);
        Ok(Expression { physical, text, field })
    }
}

/// Finds the parts of a plan that stand in it more than once.
fn repeated(plan: &LogicalPlan) -> Result<HashMap<LogicalPlan, Option<NodeId>>, Problem> {
    let (mut seen, mut repeated) = (HashSet::new(), HashMap::new());
    plan.apply(|part| {
        if seen.insert(part) {
            return Ok(TreeNodeRecursion::Continue);
        }
        repeated.insert(part.clone(), None);
        // What is in it stands twice only because of it.
        Ok(TreeNodeRecursion::Jump)
    })?;
    Ok(repeated)
}

/// Returns a plan's columns, each of which may be NULL.
///
/// DataFusion's claims of "never NULL" are promises of functions, not facts;
/// a worker must not stop over a broken one.
pub(crate) fn nullable(schema: &DFSchema) -> SchemaRef {
    let fields: Vec<FieldRef> = schema
        .fields()
        .iter()
        .map(|field| {
            let data_type = nested::nullable(field.data_type());
            Arc::new(field.as_ref().clone().with_data_type(data_type).with_nullable(true))
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// Returns how many operators read each.
fn readers(plan: &Plan) -> Vec<usize> {
    let mut readers = vec![0usize; plan.nodes.len()];
    let read = plan.nodes.iter().flat_map(|node| &node.inputs);
    read.for_each(|&input| readers[input] += 1);
    readers
}

/// Tells whether an operator's batches are its inputs', names included.
fn passes_through(operator: &Operator) -> bool {
    matches!(
        operator,
        Operator::Get { .. }
            | Operator::Filter { .. }
            | Operator::TemporalFilter { .. }
            | Operator::TemporalAny { .. }
            | Operator::Consolidate
            | Operator::Union
            | Operator::Loop
            | Operator::Outer { .. }
    )
}

fn same_names(left: &SchemaRef, right: &SchemaRef) -> bool {
    left.fields()
        .iter()
        .map(|field| field.name())
        .eq(right.fields().iter().map(|field| field.name()))
}

fn column_expression(schema: &SchemaRef, index: usize) -> Expression {
    let field = schema.field(index);
    Expression {
        physical: Arc::new(Column::new(field.name(), index)),
        text: field.name().clone(),
        field: Arc::new(field.clone().with_nullable(true)),
    }
}

/// Returns the column an expression is, if it is nothing else.
pub(crate) fn column_index(expression: &Expression) -> Option<usize> {
    expression.physical.downcast_ref::<Column>().map(Column::index)
}

/// Lets an expression read `chosen[i]` of a schema where it read column `i`.
pub(crate) fn moved(physical: &Arc<dyn PhysicalExpr>, chosen: &[usize], schema: &SchemaRef) -> Arc<dyn PhysicalExpr> {
    let transformed = physical.clone().transform(|part| {
        Ok(match part.downcast_ref::<Column>() {
            Some(column) => {
                let index = chosen[column.index()];
                Transformed::yes(Arc::new(Column::new(schema.field(index).name(), index)) as Arc<dyn PhysicalExpr>)
            }
            None => Transformed::no(part),
        })
    });
    transformed
        .map(|transformed| transformed.data)
        .unwrap_or_else(|_| physical.clone())
}

fn sort_options(key: &Sort) -> SortOptions {
    SortOptions {
        descending: !key.asc,
        nulls_first: key.nulls_first,
    }
}

fn position(expression: &Expr, schema: &DFSchema) -> Result<usize, Problem> {
    match expression {
        Expr::Column(column) => Ok(schema.index_of_column(column)?),
        other => Err(Problem::not_maintained(text(other))),
    }
}

/// Returns the columns that tell the rows of a join apart.
fn joined_key(
    on: &[(usize, usize)],
    width: usize,
    left: Option<&[usize]>,
    right: Option<&[usize]>,
    kind: JoinKind,
) -> Option<Vec<usize>> {
    let (left, right) = (left?, right?);
    let at_most_one_right = right.iter().all(|column| on.iter().any(|(_, r)| r == column));
    let at_most_one_left = left.iter().all(|column| on.iter().any(|(l, _)| l == column));
    if at_most_one_right {
        return Some(left.to_vec());
    }
    if at_most_one_left && kind == JoinKind::Inner {
        return Some(right.iter().map(|column| width + column).collect());
    }
    Some(
        left.iter()
            .copied()
            .chain(right.iter().map(|column| width + column))
            .collect(),
    )
}

fn unexpected(error: arrow::error::ArrowError) -> Problem {
    Problem::new(error.to_string())
}
