//! Plans a view: text in, shared logical plan and incremental plan out.

use arrow::datatypes::SchemaRef;
use dataflows::plan::{Plan, TemporalComparison};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;

use crate::catalog::Catalog;
use crate::closing::{Closing, Passing};
use crate::problem::Problem;
use crate::{lower, recursion, refusals, rewrites};

/// A `SELECT` that is kept current.
#[derive(Clone, Debug)]
pub struct View {
    /// The name it is read by.
    pub name: String,
    /// Its text.
    pub sql: String,
    /// The plan that batch and incremental execution share.
    pub logical: LogicalPlan,
    /// The incremental plan.
    pub plan: Plan,
    /// Its columns.
    pub schema: SchemaRef,
    /// The relations it reads, each once.
    pub inputs: Vec<String>,
    /// The columns that its plan shows to tell its rows apart.
    pub implied_key: Option<Vec<String>>,
    /// How far back its widest comparison with `now()` looks, in microseconds.
    pub look_back_us: Option<i64>,
    /// How it closes its buckets of time, if it does.
    pub closing: Option<Closing>,
    /// What its joins by time forget, if they do.
    pub passing: Option<Passing>,
    /// What may surprise its author.
    pub warnings: Vec<String>,
}

impl Catalog {
    /// Plans the view `name` from its text.
    ///
    /// # Errors
    /// Lists what is wrong with the text, or what in it cannot be maintained.
    pub fn plan_view(&self, name: &str, sql: &str) -> Result<View, Vec<Problem>> {
        deep(|| self.planned_view(name, sql))
    }

    fn planned_view(&self, name: &str, sql: &str) -> Result<View, Vec<Problem>> {
        let one = |problem: Problem| vec![problem];
        let statement = self.parse(sql).map_err(one)?;
        if let Some(problem) = recursion::passed_over(&statement) {
            return Err(one(problem.on_line_of(sql, "recursive")));
        }
        let session = self.session();
        let written = self
            .logical(&session, statement)
            .map_err(|error| one(located(error.into(), sql)))?;
        let mut problems = refusals::written(&written, self, sql);
        problems.extend(named_twice(&written));
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut warnings = unnamed(&written);
        if matches!(written, LogicalPlan::Sort(_)) {
            warnings.push(
                "ORDER BY without LIMIT says nothing in a view, which is a set of rows: order them when you read them"
                    .to_owned(),
            );
        }
        let optimised = rewrites::windows::first_rows(written)
            .and_then(|plan| optimise(&session, plan))
            .map_err(|error| one(located(error.into(), sql)))?;
        let problems = recursion::refused(&optimised).map_err(|error| one(located(error.into(), sql)))?;
        if !problems.is_empty() {
            let line = |problem: Problem| problem.on_line_of(sql, "recursive");
            return Err(problems.into_iter().map(line).collect());
        }
        let shared = rewrites::view(optimised, self.zone()).map_err(|error| one(located(error.into(), sql)))?;
        let problems = refusals::shared(&shared, sql);
        if !problems.is_empty() {
            return Err(problems.into_iter().map(|problem| located(problem, sql)).collect());
        }
        let lowered = lower::lower(&shared, self, &session).map_err(|problem| one(located(problem, sql)))?;
        warnings.extend(lowered.warnings);
        let schema = lowered.plan.schema().clone();
        let implied_key = lowered.key.filter(|key| !key.is_empty()).map(|key| {
            key.into_iter()
                .map(|column| schema.field(column).name().clone())
                .collect()
        });
        let passing = self.passing(&lowered.plan);
        Ok(View {
            name: name.to_owned(),
            sql: sql.to_owned(),
            logical: shared,
            inputs: lowered.plan.relations().into_iter().map(str::to_owned).collect(),
            look_back_us: look_back_us(&lowered.plan),
            plan: lowered.plan,
            schema,
            implied_key,
            closing: None,
            passing,
            warnings,
        })
    }
}

/// The stack that planning may take: plans are walked by recursion, and nobody knows how much is left here.
const STACK_BYTES: usize = 64 << 20;

/// Does what may go deep on a stack of its own.
pub(crate) fn deep<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let planning = std::thread::Builder::new()
            .name("sangam-planning".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work);
        match planning.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(planned)) => planned,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => panic!("no thread to plan on: {error}"),
        }
    })
}

/// Analyses and optimises a plan by the shared rules.
pub(crate) fn optimise(session: &SessionState, plan: LogicalPlan) -> datafusion::error::Result<LogicalPlan> {
    let analysed = session
        .analyzer()
        .execute_and_check(plan, session.config_options(), |_, _| {})?;
    session.optimizer().optimize(analysed, session, |_, _| {})
}

/// Finds the line of a problem that names something of the text.
pub(crate) fn located(problem: Problem, sql: &str) -> Problem {
    if problem.line.is_some() {
        return problem;
    }
    // A refusal quotes SQL, so the function it names is the better mark.
    if let Some((function, _)) = problem.what.split_once("()")
        && function
            .chars()
            .all(|character| character.is_alphanumeric() || character == '_')
    {
        let function = function.to_owned();
        return problem.on_line_of(sql, &function);
    }
    let quoted = problem
        .what
        .split(['"', '\''])
        .nth(1)
        .map(|name| name.rsplit('.').next().unwrap_or(name).to_owned());
    match quoted {
        Some(word) if !word.is_empty() => problem.on_line_of(sql, &word),
        _ => problem,
    }
}

fn named_twice(plan: &LogicalPlan) -> Option<Problem> {
    let mut names: Vec<&str> = plan
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| {
        Problem::new(format!("two columns are named \"{}\"", pair[0])).hint("Give one of them another name with AS.")
    })
}

/// Warns of columns that have no name of their own.
fn unnamed(plan: &LogicalPlan) -> Vec<String> {
    plan.schema()
        .fields()
        .iter()
        .filter(|field| field.name().contains(['(', ' ']))
        .map(|field| format!("the column {} has no name of its own: add AS", field.name()))
        .collect()
}

fn look_back_us(plan: &Plan) -> Option<i64> {
    plan.nodes
        .iter()
        .flat_map(|node| node.operator.temporal_bounds())
        .filter(|bound| {
            matches!(
                bound.comparison,
                TemporalComparison::Greater | TemporalComparison::GreaterOrEqual
            )
        })
        .map(|bound| bound.offset_us.saturating_neg().max(0))
        .max()
}
