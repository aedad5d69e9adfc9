//! Makes a case that fails smaller: fewer views, steps and rows, and simpler SQL, as long as it fails alike.
//!
//! Greedy, by data alone: what was sent is replayed, so that no dice are thrown.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use datafusion::sql::sqlparser::ast::{Distinct, Expr, GroupByExpr, Query, Select, SetExpr, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use sangam::engine::Operation;

use super::case::{Played, Settings, play};
use super::deployment::{Made, Meant, Text, remake};
use super::sources::Spec;
use super::traffic::Step;
use super::values::{Row, Taste, Value};

/// A case as data.
#[derive(Clone)]
pub(crate) struct Script {
    zone: String,
    workers: usize,
    taste: Taste,
    specs: Vec<Spec>,
    texts: Vec<Text>,
    /// Whether views come, change and go while it runs.
    changes: bool,
    views: Vec<Meant>,
    steps: Vec<Step>,
}

impl Script {
    /// What was played, up to where it failed.
    pub(crate) fn new(made: &Made, workers: usize, steps: Vec<Step>) -> Script {
        Script {
            zone: made.deployment.options.time_zone.clone(),
            workers,
            taste: made.taste,
            specs: made.specs.clone(),
            texts: made.texts.clone(),
            changes: made.changes,
            views: made.views.clone(),
            steps,
        }
    }

    /// Returns a smaller case that fails alike; what was found in time.
    pub(crate) async fn shrunk(self, what: &str, settings: Settings, patience: Duration) -> Script {
        let mut shrinking = Shrinking {
            best: self,
            kind: kind(what),
            settings: Settings {
                patience: Duration::from_secs(5),
                ..settings
            },
            until: Instant::now() + patience,
        };
        let mut size = usize::MAX;
        // What became simpler may need less again.
        let mut still = shrinking.best.clone();
        still.changes = false;
        shrinking.takes(still).await;
        while shrinking.best.size() < size && shrinking.goes_on() {
            size = shrinking.best.size();
            shrinking.fewer_views().await;
            shrinking.fewer_steps().await;
            shrinking.simpler_texts().await;
            shrinking.fewer_rows().await;
        }
        shrinking.best
    }

    fn size(&self) -> usize {
        let rows = self.steps.iter().map(|step| 1 + rows_of(step).len());
        rows.sum::<usize>() + self.texts.iter().map(|text| 10 + text.sql.len()).sum::<usize>()
    }

    /// Writes it as SQL and rows, for a script of `slt/`.
    pub(crate) fn print(&self) -> String {
        let mut text = format!("time_zone = \"{}\", workers = {}\n", self.zone, self.workers);
        for spec in &self.specs {
            let _ = write!(text, "\nCREATE SOURCE {}\n{}", spec.name, spec.toml());
        }
        for Text { name, sql, options } in &self.texts {
            let options = options.map_or_else(String::new, |options| format!(" -- {options:?}"));
            let _ = write!(text, "\nCREATE VIEW {name} AS{options}\n{sql}\n");
        }
        if self.changes {
            text.push_str("\nViews come, change and go meanwhile.\n");
        }
        for step in &self.steps {
            match step {
                Step::Advance { to } => drop(writeln!(text, "\nADVANCE TO {to}")),
                Step::Post {
                    source,
                    operation,
                    rows,
                    refused,
                    ..
                } => {
                    let word = match operation {
                        Operation::Insert => "INSERT INTO",
                        Operation::Delete => "DELETE FROM",
                    };
                    let _ = write!(text, "\n{word} {}", self.specs[*source].name);
                    if *refused > 0 {
                        let _ = write!(text, ", and {refused} that cannot be read");
                    }
                    for row in rows {
                        let values: Vec<String> = row.iter().map(literal).collect();
                        let _ = write!(text, "\n    ({})", values.join(", "));
                    }
                    text.push('\n');
                }
            }
        }
        text
    }
}

/// What kind of failure a story tells: a smaller case must fail alike.
fn kind(what: &str) -> &'static str {
    let kinds = [
        "no answer",
        "still holds",
        "its changes add up",
        "sangam.errors was to have",
        "differs from plain",
        "differs",
        "was to answer",
        "implies the key",
        "failed",
    ];
    kinds.into_iter().find(|kind| what.contains(kind)).unwrap_or("")
}

fn rows_of(step: &Step) -> &[Row] {
    match step {
        Step::Advance { .. } => &[],
        Step::Post { rows, .. } => rows,
    }
}

fn literal(value: &Value) -> String {
    let time =
        |us: i64| chrono::DateTime::from_timestamp_micros(us).map_or_else(|| us.to_string(), |at| at.to_rfc3339());
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Big(number) => number.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Double(number) => format!("{number:?}"),
        Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Bool(truth) => truth.to_string(),
        Value::Time(us) => format!("'{}'", time(*us)),
        Value::Date(days) => format!("'{}'", &time(i64::from(*days) * 86_400_000_000)[..10]),
        Value::Decimal(hundredths) => format!("{hundredths}e-2"),
    }
}

struct Shrinking {
    best: Script,
    kind: &'static str,
    settings: Settings,
    until: Instant,
}

impl Shrinking {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Takes a script if it fails alike.
    async fn takes(&mut self, script: Script) -> bool {
        let Ok(dir) = tempfile::tempdir() else { return false };
        let Ok(made) = remake(
            &script.specs,
            &script.texts,
            &script.views,
            (script.taste, script.changes),
            (&script.zone, script.workers),
            dir.path(),
        ) else {
            return false;
        };
        let mut steps = script.steps.iter();
        let played = play(&made, self.settings, |_, _, _| steps.next().cloned()).await;
        let Played::Wrong { what, count, .. } = played else {
            return false;
        };
        let alike = kind(&what) == self.kind;
        if alike {
            self.best = script;
            self.best.steps.truncate(count);
        }
        alike
    }

    async fn fewer_views(&mut self) {
        for at in (0..self.best.texts.len()).rev() {
            if self.best.texts.len() > 1 && self.goes_on() {
                let mut script = self.best.clone();
                script.texts.remove(at);
                script.views.remove(at);
                self.takes(script).await;
            }
        }
    }

    /// Leaves out ever smaller pieces of what is sent.
    async fn fewer_steps(&mut self) {
        let mut length = self.best.steps.len().div_ceil(2);
        while length > 0 {
            let mut from = self.best.steps.len();
            while from > 0 && self.goes_on() {
                from = from.saturating_sub(length);
                let mut script = self.best.clone();
                let end = (from + length).min(script.steps.len());
                if from < end {
                    script.steps.drain(from..end);
                    self.takes(script).await;
                }
            }
            length = if length == 1 { 0 } else { length.div_ceil(2) };
        }
    }

    async fn fewer_rows(&mut self) {
        for step in (0..self.best.steps.len()).rev() {
            let mut length = self
                .best
                .steps
                .get(step)
                .map_or(0, |step| rows_of(step).len().div_ceil(2));
            while length > 0 {
                let mut from = self.best.steps.get(step).map_or(0, |step| rows_of(step).len());
                while from > 0 && self.goes_on() {
                    from = from.saturating_sub(length);
                    let mut script = self.best.clone();
                    if let Some(Step::Post { rows, .. }) = script.steps.get_mut(step) {
                        let end = (from + length).min(rows.len());
                        if from < end {
                            rows.drain(from..end);
                            self.takes(script).await;
                        }
                    }
                }
                length = if length == 1 { 0 } else { length.div_ceil(2) };
            }
        }
    }

    async fn simpler_texts(&mut self) {
        for at in (0..self.best.texts.len()).rev() {
            if self.best.views[at].known.is_some() {
                continue;
            }
            let mut place = 0;
            while self.goes_on() {
                let Some(sql) = simpler(&self.best.texts[at].sql, place) else {
                    break;
                };
                let mut script = self.best.clone();
                let shorter = sql.len() < script.texts[at].sql.len();
                script.texts[at].sql = sql;
                // What was made simpler there may be made simpler there again.
                if !shorter || !self.takes(script).await {
                    place += 1;
                }
            }
        }
    }
}

/// Makes a text simpler at one place; nothing where there is no such place.
fn simpler(sql: &str, place: usize) -> Option<String> {
    let mut statements = Parser::parse_sql(&GenericDialect {}, sql).ok()?;
    let mut simplifier = Simplifier { left: place };
    match statements.visit(&mut simplifier) {
        ControlFlow::Break(()) => Some(statements.first()?.to_string()),
        ControlFlow::Continue(()) => None,
    }
}

/// Simplifies the place it is sent to.
struct Simplifier {
    left: usize,
}

impl Simplifier {
    /// Tells whether this is the place.
    fn here(&mut self, possible: bool) -> bool {
        if possible && self.left > 0 {
            self.left -= 1;
            return false;
        }
        possible
    }
}

impl VisitorMut for Simplifier {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if self.here(query.order_by.is_some() && query.limit_clause.is_none()) {
            query.order_by = None;
            return ControlFlow::Break(());
        }
        for side in 0..2 {
            if let SetExpr::SetOperation { left, right, .. } = query.body.as_ref()
                && query.with.is_none()
                && self.here(true)
            {
                query.body = if side == 0 { left.clone() } else { right.clone() };
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for at in (0..select.projection.len()).rev() {
            if self.here(select.projection.len() > 1) {
                select.projection.remove(at);
                return ControlFlow::Break(());
            }
        }
        if self.here(select.selection.is_some()) {
            select.selection = None;
            return ControlFlow::Break(());
        }
        if self.here(select.having.is_some()) {
            select.having = None;
            return ControlFlow::Break(());
        }
        if self.here(matches!(select.distinct, Some(Distinct::Distinct))) {
            select.distinct = None;
            return ControlFlow::Break(());
        }
        if let GroupByExpr::Expressions(keys, _) = &mut select.group_by {
            for at in (0..keys.len()).rev() {
                if self.here(keys.len() > 1) {
                    keys.remove(at);
                    return ControlFlow::Break(());
                }
            }
        }
        for from in &mut select.from {
            if self.here(!from.joins.is_empty()) {
                from.joins.pop();
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        for part in parts(expression) {
            if self.here(true) {
                *expression = part;
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

/// Returns what may stand instead of an expression.
fn parts(expression: &Expr) -> Vec<Expr> {
    match expression {
        Expr::BinaryOp { left, right, .. } => vec![left.as_ref().clone(), right.as_ref().clone()],
        Expr::Nested(inner)
        | Expr::UnaryOp { expr: inner, .. }
        | Expr::Cast { expr: inner, .. }
        | Expr::IsNull(inner)
        | Expr::IsNotNull(inner) => vec![inner.as_ref().clone()],
        Expr::Case {
            conditions,
            else_result,
            ..
        } => {
            let results = conditions.iter().map(|when| when.result.clone());
            results.chain(else_result.as_deref().cloned()).collect()
        }
        _ => vec![],
    }
}
