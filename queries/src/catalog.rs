//! The names SQL may use, and the one session that all planning shares.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::TableFunctionArgs;
use datafusion::catalog::cte_worktable::CteWorkTable;
use datafusion::common::TableReference;
use datafusion::config::ConfigOptions;
use datafusion::datasource::provider_as_source;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::context::ExecutionProps;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner};
use datafusion::logical_expr::{AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF};
use datafusion::optimizer::{OptimizerRule, *};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::combine_partial_final_agg::CombinePartialFinalAggregate;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement;
use datafusion::sql::planner::{NullOrdering, ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast;

use crate::batch::session_for_views;
use crate::functions::{self, aggregates, canonical, date_bin, json, now};
use crate::parsing;
use crate::problem::{Problem, ProblemKind, listed, nearest};
use crate::rewrites;
use crate::travel;
use crate::types::{self, ColumnType};
use crate::view::View;

/// What a source offers to SQL.
#[derive(Clone, Debug)]
pub struct SourceRelation {
    /// The name views read it by.
    pub name: String,
    /// Its columns.
    pub schema: SchemaRef,
    /// Whether its rows are never taken back: no key, no retractions, no `retain`.
    pub append_only: bool,
    /// The columns by which a row replaces another.
    pub key: Option<Vec<String>>,
    /// How long rows stay, in microseconds.
    pub retain_us: Option<i64>,
    /// Where rows are taken back by expiry alone: the least age, by the time column and the
    /// tick's time, at which one is, in microseconds.
    pub expires_after_us: Option<i64>,
    /// The column that holds the event time.
    pub time_column: Option<String>,
    /// How far rows may be behind the newest one and still come in, in microseconds; none: as far as they like.
    pub lateness_us: Option<i64>,
}

/// Every relation SQL may name, and how SQL is planned over them.
///
/// Cloning is cheap; clones do not see each other's later relations.
#[derive(Clone, Debug)]
pub struct Catalog {
    session: Arc<SessionState>,
    /// The same, as views' plans run in batch.
    running: Arc<SessionState>,
    time_zone: Arc<str>,
    relations: BTreeMap<String, Arc<Relation>>,
}

/// A relation and where its rows come from.
#[derive(Debug)]
pub(crate) enum Relation {
    Source(SourceRelation),
    View(Box<View>),
    System(SchemaRef),
}

impl Relation {
    pub(crate) fn schema(&self) -> &SchemaRef {
        match self {
            Relation::Source(source) => &source.schema,
            Relation::View(view) => &view.schema,
            Relation::System(schema) => schema,
        }
    }

    /// Tells whether its rows are never taken back.
    pub(crate) fn append_only(&self) -> bool {
        match self {
            Relation::Source(source) => source.append_only,
            Relation::View(view) => view.plan.nodes[view.plan.root].append_only,
            Relation::System(_) => false,
        }
    }

    /// Returns the columns that tell its rows apart.
    pub(crate) fn key(&self) -> Option<&[String]> {
        match self {
            Relation::Source(source) => source.key.as_deref(),
            Relation::View(view) => view.implied_key.as_deref(),
            Relation::System(_) => None,
        }
    }
}

impl Catalog {
    /// Starts without relations, reading zoneless times in `time_zone`.
    ///
    /// # Errors
    /// When the time zone is not known.
    pub fn new(time_zone: &str) -> Result<Catalog, Problem> {
        time_zone.parse::<arrow::array::timezone::Tz>().map_err(|_| {
            Problem::new(format!("unknown time zone \"{time_zone}\""))
                .hint("Use a name of the IANA database, such as \"UTC\" or \"Asia/Kolkata\".")
        })?;
        let session = session(time_zone);
        Ok(Catalog {
            running: Arc::new(session_for_views(session.clone())),
            session: Arc::new(session),
            time_zone: Arc::from(time_zone),
            relations: BTreeMap::new(),
        })
    }

    /// Returns the deployment's time zone.
    pub fn time_zone(&self) -> &str {
        &self.time_zone
    }

    /// Reads a column type such as `text not null` or `decimal(10, 2)`.
    ///
    /// # Errors
    /// When the type is unknown or not supported.
    pub fn column_type(&self, sql: &str) -> Result<ColumnType, Problem> {
        types::column_type(sql, &self.time_zone)
    }

    /// Adds a source.
    ///
    /// # Errors
    /// When its name is taken, or a column name appears twice.
    pub fn add_source(&mut self, source: SourceRelation) -> Result<(), Problem> {
        let mut names: Vec<&str> = source
            .schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Problem::new(format!("column \"{}\" is declared twice", twice[0])));
        }
        self.add(source.name.clone(), Relation::Source(source))
    }

    /// Adds a view that this catalog planned.
    ///
    /// # Errors
    /// When its name is taken.
    pub fn add_view(&mut self, view: View) -> Result<(), Problem> {
        self.add(view.name.clone(), Relation::View(Box::new(view)))
    }

    /// Adds a table of the system, under its whole name (`sangam.late`), for queries.
    ///
    /// # Errors
    /// When its name is taken.
    pub fn add_system_table(&mut self, name: &str, schema: SchemaRef) -> Result<(), Problem> {
        self.add(name.to_owned(), Relation::System(schema))
    }

    fn add(&mut self, name: String, relation: Relation) -> Result<(), Problem> {
        if self.relations.contains_key(&name) {
            return Err(Problem::new(format!("the name \"{name}\" is taken"))
                .hint("Sources, views and alerts share one set of names: rename one of the files."));
        }
        self.relations.insert(name, Arc::new(relation));
        Ok(())
    }

    /// Returns the names that a text reads, without planning it.
    ///
    /// # Errors
    /// When the text does not parse.
    pub fn references(sql: &str) -> Result<Vec<String>, Problem> {
        let mut names = Vec::new();
        for mut statement in parsing::statements(sql)? {
            parsing::reveal_relations(&mut statement);
            let (references, _) = datafusion::sql::resolve::resolve_table_references(&statement, true)?;
            for reference in references {
                let name = relation_name(&reference);
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        Ok(names)
    }

    pub(crate) fn relation(&self, name: &str) -> Option<&Arc<Relation>> {
        self.relations.get(name)
    }

    /// Says that there is no relation of a name, and which there are.
    pub(crate) fn unknown_relation(&self, name: &str) -> Problem {
        let known: Vec<&str> = self.relations.keys().map(String::as_str).collect();
        let problem = Problem {
            kind: ProblemKind::UnknownRelation(name.to_owned()),
            ..Problem::new(format!("unknown relation \"{name}\""))
        };
        match nearest(name, &known) {
            Some(near) => problem.hint(format!("Did you mean \"{near}\"?")),
            None if known.is_empty() => problem.hint("There are no sources or views yet."),
            None => problem.hint(format!("Known are {}.", listed(&known))),
        }
    }

    pub(crate) fn zone(&self) -> &Arc<str> {
        &self.time_zone
    }

    /// Returns a session that numbers its aliases from one, so that plans repeat exactly.
    pub(crate) fn session(&self) -> SessionState {
        let mut session = SessionState::clone(&self.session);
        let mut properties = ExecutionProps::new();
        properties.config_options = Some(session.config_options().clone());
        *session.execution_props_mut() = properties;
        session
    }

    /// Returns the session that runs views' plans in batch.
    pub(crate) fn session_for_views(&self) -> &SessionState {
        &self.running
    }

    /// Parses one `SELECT`.
    pub(crate) fn parse(&self, sql: &str) -> Result<Statement, Problem> {
        let statement = match parsing::statement(sql) {
            Ok(statement) => statement,
            Err(error) => {
                let mut problem = Problem::from(error);
                if problem.what.ends_with("found: EOF") {
                    problem.line = Some(sql.lines().count().max(1));
                }
                return Err(match problem.what.as_str() {
                    what if what.contains("only supports a single SQL statement") => {
                        Problem::new("more than one statement").hint("Write a single SELECT.")
                    }
                    what if what.starts_with("no SQL statements") => {
                        Problem::new("no statement").hint("Write a single SELECT.")
                    }
                    _ => problem,
                });
            }
        };
        match &statement {
            Statement::Statement(inner) if matches!(inner.as_ref(), ast::Statement::Query(_)) => Ok(statement),
            other => {
                let text = other.to_string();
                let word = text.split_whitespace().next().unwrap_or_default().to_uppercase();
                Err(Problem::new(format!("{word} is not allowed here"))
                    .hint("Only SELECT reads data; rows enter through sources and their connectors."))
            }
        }
    }

    /// Turns a statement into DataFusion's logical plan, neither analysed nor optimised.
    pub(crate) fn logical(&self, session: &SessionState, statement: Statement) -> DataFusionResult<LogicalPlan> {
        self.planned(session, statement, false)
    }

    /// The same for a query, which may read what relations held at earlier times.
    pub(crate) fn logical_query(&self, session: &SessionState, statement: Statement) -> DataFusionResult<LogicalPlan> {
        self.planned(session, statement, true)
    }

    fn planned(&self, session: &SessionState, statement: Statement, looks_back: bool) -> DataFusionResult<LogicalPlan> {
        let names = Names {
            catalog: self,
            session,
            looks_back,
        };
        let parser = &session.config_options().sql_parser;
        let options = ParserOptions {
            parse_float_as_decimal: parser.parse_float_as_decimal,
            enable_ident_normalization: parser.enable_ident_normalization,
            support_varchar_with_length: parser.support_varchar_with_length,
            map_string_types_to_utf8view: parser.map_string_types_to_utf8view,
            collect_spans: parser.collect_spans,
            default_null_ordering: NullOrdering::from(parser.default_null_ordering.as_str()),
            ..ParserOptions::new()
        };
        let plan = SqlToRel::new_with_options(&names, options).statement_to_plan(statement)?;
        rewrites::lateral::rewrite(plan)
    }
}

/// Returns a relation's name as the catalog spells it.
pub(crate) fn relation_name(reference: &TableReference) -> String {
    match reference.schema() {
        Some(schema) if schema != "public" => format!("{schema}.{}", reference.table()),
        _ => reference.table().to_owned(),
    }
}

/// Builds the session that views, audits and queries share.
fn session(time_zone: &str) -> SessionState {
    let mut config = SessionConfig::new().with_target_partitions(1);
    let options = config.options_mut();
    options.execution.time_zone = Some(time_zone.to_owned());
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.collect_spans = true;
    // Functions promise "never NULL" in one place and not in another; rows are what counts.
    options.execution.skip_physical_aggregate_schema_check = true;
    // As joins, uncorrelated scalar subqueries can be maintained.
    options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    let mut session = SessionStateBuilder::new_with_default_features()
        .with_config(config)
        .with_optimizer_rules(rules())
        .with_physical_optimizer_rules(physical_rules())
        .build();
    register(&mut session);
    for function in [
        now::function(&Arc::from(time_zone)),
        canonical::function(),
        date_bin::function(),
    ] {
        session
            .register_udf(Arc::new(function))
            .expect("a session takes every function");
    }
    for function in aggregates::functions() {
        session
            .register_udaf(Arc::new(function))
            .expect("a session takes every aggregate");
    }
    session
}

/// Registers what views, queries and plain DataFusion have in common.
pub(crate) fn register(session: &mut SessionState) {
    json::register(session)
        .and_then(|()| functions::register(session))
        .expect("a session takes every function");
}

/// The one list of optimiser rules for views, audits and queries.
///
/// DataFusion's, in its order, without those that
/// - fold a view's meaning into the moment it is planned or its data
///   (`filter_null_join_keys` drops rows before a left join counts them, says
///   nothing new elsewhere and doubles the filters to maintain);
/// - move failing expressions to where they were not written
///   (`common_sub_expression_eliminate`, `unions_to_filter`, the two for leaves
///   of nested columns), so that an error names what its author wrote;
/// - turn one aggregation into another (`single_distinct_aggregation_to_group_by`,
///   `eliminate_group_by_constant`).
fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    vec![
        Arc::new(rewrite_set_comparison::RewriteSetComparison::new()),
        Arc::new(optimize_unions::OptimizeUnions::new()),
        Arc::new(simplify_expressions::SimplifyExpressions::new()),
        Arc::new(replace_distinct_aggregate::ReplaceDistinctWithAggregate::new()),
        Arc::new(eliminate_join::EliminateJoin::new()),
        Arc::new(decorrelate_predicate_subquery::DecorrelatePredicateSubquery::new()),
        Arc::new(scalar_subquery_to_join::ScalarSubqueryToJoin::new()),
        Arc::new(decorrelate_lateral_join::DecorrelateLateralJoin::new()),
        Arc::new(extract_equijoin_predicate::ExtractEquijoinPredicate::new()),
        Arc::new(eliminate_duplicated_expr::EliminateDuplicatedExpr::new()),
        Arc::new(eliminate_filter::EliminateFilter::new()),
        Arc::new(eliminate_cross_join::EliminateCrossJoin::new()),
        Arc::new(eliminate_limit::EliminateLimit::new()),
        Arc::new(propagate_empty_relation::PropagateEmptyRelation::new()),
        Arc::new(eliminate_outer_join::EliminateOuterJoin::new()),
        // Filters cannot pass limits, so limits go first.
        Arc::new(push_down_limit::PushDownLimit::new()),
        Arc::new(push_down_filter::PushDownFilter::new()),
        Arc::new(optimize_projections::OptimizeProjections::new()),
    ]
}

/// DataFusion's physical rules, after one that merges the two phases of every aggregation.
///
/// Partial states would depend on partitions; ours have none. DataFusion merges
/// them too, but only after it may have put an exchange in between.
fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> =
        vec![Arc::new(CombinePartialFinalAggregate::new())];
    rules.extend(PhysicalOptimizer::new().rules);
    rules
}

/// The columns of a relation, without its rows: those come when a plan runs.
///
/// Filters stay in the plan, where both engines find them.
struct Columns(SchemaRef);

impl TableSource for Columns {
    fn schema(&self) -> SchemaRef {
        self.0.clone()
    }
}

/// What DataFusion's SQL planner asks for.
struct Names<'a> {
    catalog: &'a Catalog,
    session: &'a SessionState,
    /// Whether names may stand for what a relation held at an earlier time.
    looks_back: bool,
}

impl ContextProvider for Names<'_> {
    fn get_table_source(&self, reference: TableReference) -> DataFusionResult<Arc<dyn TableSource>> {
        let name = relation_name(&reference);
        let earlier = || travel::relation_of(&name).filter(|_| self.looks_back);
        let relation = self
            .catalog
            .relation(&name)
            .or_else(|| self.catalog.relation(earlier()?));
        let Some(relation) = relation else {
            return Err(self.catalog.unknown_relation(&name).into());
        };
        Ok(Arc::new(Columns(relation.schema().clone())))
    }

    fn get_table_function_source(&self, name: &str, args: Vec<Expr>) -> DataFusionResult<Arc<dyn TableSource>> {
        let function =
            self.session
                .table_functions()
                .get(name)
                .ok_or_else(|| match name.eq_ignore_ascii_case(travel::NAME) {
                    true => travel::refused(),
                    false => Problem::new(format!("unknown table function \"{name}\"")),
                })?;
        let provider = function.create_table_provider_with_args(TableFunctionArgs::new(&args, self.session))?;
        Ok(provider_as_source(provider))
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> DataFusionResult<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.session.expr_planners()
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        self.session.relation_planners()
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.session.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.session.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.session.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.session.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.session.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        // Names that start with an underscore are the rewrites' own.
        self.session
            .scalar_functions()
            .keys()
            .filter(|name| !name.starts_with('_'))
            .cloned()
            .collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.session.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.session.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.session.window_functions().keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_a_text_reads() {
        let sql = "WITH a AS (SELECT * FROM readings) SELECT * FROM a JOIN sangam.late l ON l.x = a.x, readings r";
        assert_eq!(Catalog::references(sql).unwrap(), ["readings", "sangam.late"]);
    }

    #[test]
    fn refuses_what_is_not_a_select() {
        let catalog = Catalog::new("UTC").unwrap();
        for (sql, what) in [
            ("DROP TABLE x", "DROP is not allowed here"),
            ("INSERT INTO x VALUES (1)", "INSERT is not allowed here"),
            ("SET a = 1", "SET is not allowed here"),
            ("COPY (SELECT 1) TO 'x.csv'", "COPY is not allowed here"),
            ("SELECT 1; SELECT 2", "more than one statement"),
            ("", "no statement"),
        ] {
            assert_eq!(catalog.parse(sql).unwrap_err().what, what, "{sql}");
        }
        assert!(Catalog::new("Mars/Base").unwrap_err().hint.is_some());
    }
}
