//! Predicts the rows on which expressions fail, in two ways.
//!
//! For every view: below each place of its shared plan where a row may fail,
//! the rows that get there are computed in batch and each is evaluated alone by
//! DataFusion. For a family of views whose expressions the test knows by heart:
//! from the values themselves, with the expression's text, the row and the reason.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::prelude::{SessionConfig, SessionContext};
use queries::{Catalog, Relations, View};
use serde_json::{Value as Json, json};

use super::dice::Dice;
use super::sources::Spec;
use super::values::{Row, Ty, Value};

/// A place where rows of a view may fail.
pub(crate) struct Place {
    /// A view of the rows that get there.
    input: View,
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    converter: RowConverter,
    known: HashMap<OwnedRow, Option<String>>,
}

impl Place {
    /// Finds the places of a view.
    pub(crate) fn all(view: &View, time_zone: &str) -> Vec<Place> {
        let (mut places, mut seen) = (Vec::new(), HashSet::new());
        let recursions = recursions(&view.logical);
        let mut config = SessionConfig::new();
        config.options_mut().execution.time_zone = Some(time_zone.to_owned());
        let state = SessionContext::new_with_config(config).state();
        view.logical
            .apply(|plan| {
                let extension = match plan {
                    LogicalPlan::Extension(extension) if extension.node.name() == "Checked" => extension,
                    // What stands twice is computed once, and fails once.
                    other if !seen.insert(other.clone()) => return Ok(TreeNodeRecursion::Jump),
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                let input = extension.node.inputs()[0];
                let mut properties = state.execution_props().clone();
                properties.config_options = Some(Arc::clone(state.config_options()));
                let expressions = extension
                    .node
                    .expressions()
                    .iter()
                    .map(|expression| {
                        create_physical_expr(
                            expression,
                            input.schema(),
                            &properties,
                            &PhysicalPlanningContext::default(),
                        )
                    })
                    .collect::<Result<_, _>>()?;
                let schema = nullable(input.schema().as_arrow());
                let fields = schema
                    .fields()
                    .iter()
                    .map(|field| SortField::new(field.data_type().clone()))
                    .collect();
                places.push(Place {
                    input: View {
                        logical: whole(input.clone(), &recursions)?,
                        schema,
                        ..view.clone()
                    },
                    expressions,
                    converter: RowConverter::new(fields)?,
                    known: HashMap::new(),
                });
                Ok(TreeNodeRecursion::Continue)
            })
            .expect("plans can be walked");
        places
    }

    /// Returns the reason of each row that fails here, once a row.
    pub(crate) async fn reasons(
        &mut self,
        catalog: &Catalog,
        inputs: &Relations,
        tick: u64,
    ) -> Result<Vec<String>, String> {
        let batches = catalog
            .batch(&self.input, inputs, tick)
            .await
            .map_err(|error| format!("below a check: {error}"))?;
        let mut reasons = Vec::new();
        for batch in batches {
            let rows = self
                .converter
                .convert_columns(batch.columns())
                .map_err(|error| error.to_string())?;
            for row in 0..batch.num_rows() {
                let expressions = &self.expressions;
                let failure = self
                    .known
                    .entry(rows.row(row).owned())
                    .or_insert_with(|| alone(expressions, &batch.slice(row, 1)));
                reasons.extend(failure.clone());
            }
        }
        Ok(reasons)
    }
}

/// Finds the recursions of a plan, each with all it holds.
fn recursions(plan: &LogicalPlan) -> HashMap<String, LogicalPlan> {
    let mut found = HashMap::new();
    plan.apply(|plan| {
        if let LogicalPlan::RecursiveQuery(query) = plan {
            found.insert(query.name.clone(), plan.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .expect("plans can be walked");
    found
}

/// Has a part of a recursive term read all the rows of its recursion instead of a round's: each round's
/// meet the term once, and it is linear.
fn whole(plan: LogicalPlan, recursions: &HashMap<String, LogicalPlan>) -> Result<LogicalPlan, DataFusionError> {
    let replaced = plan.transform_down(|plan| {
        let scan = match &plan {
            LogicalPlan::TableScan(scan) => scan,
            // One that stands here as a whole reads its own rows round by round.
            LogicalPlan::RecursiveQuery(_) => return Ok(Transformed::new(plan, false, TreeNodeRecursion::Jump)),
            _ => return Ok(Transformed::no(plan)),
        };
        let (Ok(_), Some(recursion)) = (
            source_as_provider(&scan.source),
            recursions.get(scan.table_name.table()),
        ) else {
            return Ok(Transformed::no(plan));
        };
        let rows = LogicalPlanBuilder::from(recursion.clone()).alias(scan.table_name.clone())?;
        let columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
        let rows = rows.project(columns)?.build()?;
        Ok(Transformed::new(rows, true, TreeNodeRecursion::Jump))
    });
    Ok(replaced?.data)
}

/// Evaluates expressions over one row; returns why the first failing one does.
fn alone(expressions: &[Arc<dyn PhysicalExpr>], row: &RecordBatch) -> Option<String> {
    expressions.iter().find_map(|expression| {
        let result = catch_unwind(AssertUnwindSafe(|| {
            expression
                .evaluate(row)
                .and_then(|value| value.into_array(1))
                .map(|_| ())
        }));
        match result {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(dataflows::evaluate::reason(&error)),
            Err(_) => Some("the function panicked".to_owned()),
        }
    })
}

fn nullable(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    Arc::new(Schema::new(fields))
}

/// A view over one source whose failing rows are known by heart.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) source: usize,
    pub(crate) sql: String,
    expression: String,
    fails: Fails,
}

#[derive(Clone, Copy, Debug)]
enum Fails {
    Divide(usize, usize),
    TextToNumber(usize),
    DoubleToNumber(usize),
    Narrow(usize),
}

impl Known {
    /// Writes a view over a source: a projection of a failing expression, or a filter by one.
    pub(crate) fn random(dice: &mut Dice, source: usize, spec: &Spec) -> Known {
        let of = |ty: Ty| -> Vec<usize> {
            (0..spec.columns.len())
                .filter(|&at| spec.columns[at].ty == ty)
                .collect()
        };
        let (texts, doubles, numbers) = (of(Ty::Text), of(Ty::Double), of(Ty::Big));
        let fails = match dice.below(4) {
            0 if !texts.is_empty() => Fails::TextToNumber(*dice.pick(&texts)),
            1 if !doubles.is_empty() => Fails::DoubleToNumber(*dice.pick(&doubles)),
            2 => Fails::Narrow(*dice.pick(&numbers)),
            _ => Fails::Divide(*dice.pick(&numbers), *dice.pick(&numbers)),
        };
        let name = |at: usize| spec.columns[at].name.as_str();
        let value = match fails {
            Fails::Divide(over, under) => format!("({} / {})", name(over), name(under)),
            Fails::TextToNumber(at) | Fails::DoubleToNumber(at) => format!("CAST({} AS BIGINT)", name(at)),
            Fails::Narrow(at) => format!("CAST({} AS INTEGER)", name(at)),
        };
        let all: Vec<&str> = spec.columns.iter().map(|column| column.name.as_str()).collect();
        let narrows = matches!(fails, Fails::Narrow(_));
        let (sql, expression) = if narrows || dice.chance(60) {
            let expression = value.trim_start_matches('(').trim_end_matches(')').to_owned();
            let expression = if value.starts_with('(') {
                expression
            } else {
                value.clone()
            };
            (
                format!("SELECT {}, {value} AS failing FROM {}", all.join(", "), spec.name),
                expression,
            )
        } else {
            let expression = format!("{value} IS DISTINCT FROM {}", name(numbers[0]));
            (
                format!("SELECT {} FROM {} WHERE {expression}", all.join(", "), spec.name),
                format!("({expression})"),
            )
        };
        Known {
            source,
            sql,
            expression,
            fails,
        }
    }

    /// Returns expression, row and reason of every row that fails.
    pub(crate) fn errors(&self, spec: &Spec, rows: &[Row]) -> Vec<(String, Json, String)> {
        let reason = |row: &Row| -> Option<String> {
            match self.fails {
                Fails::Divide(over, under) => match (&row[over], &row[under]) {
                    (Value::Big(_), Value::Big(0)) => Some("divide by zero".to_owned()),
                    (Value::Big(i64::MIN), Value::Big(-1)) => {
                        Some("Overflow happened on: -9223372036854775808 / -1".to_owned())
                    }
                    _ => None,
                },
                Fails::TextToNumber(at) => match &row[at] {
                    Value::Text(text) if text.parse::<i64>().is_err() => {
                        Some(format!("Cannot cast string '{text}' to value of Int64 type"))
                    }
                    _ => None,
                },
                Fails::DoubleToNumber(at) => match row[at] {
                    Value::Double(number) if !(-9.3e18..9.3e18).contains(&number) => {
                        Some(format!("Can't cast value {number:?} to type Int64"))
                    }
                    _ => None,
                },
                Fails::Narrow(at) => match row[at] {
                    Value::Big(number) if i32::try_from(number).is_err() => {
                        Some(format!("Can't cast value {number} to type Int32"))
                    }
                    _ => None,
                },
            }
        };
        rows.iter()
            .filter_map(|row| reason(row).map(|reason| (self.expression.clone(), object(spec, row), reason)))
            .collect()
    }
}

/// A row as the JSON that leaves.
fn object(spec: &Spec, row: &Row) -> Json {
    let cells = spec
        .columns
        .iter()
        .zip(row)
        .map(|(column, value)| (column.name.clone(), cell(value)));
    Json::Object(cells.collect())
}

fn cell(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Big(number) if number.unsigned_abs() > 1 << 53 => json!(number.to_string()),
        Value::Big(number) => json!(number),
        Value::Int(number) => json!(number),
        Value::Double(number) if number.is_nan() => json!("NaN"),
        Value::Double(f64::INFINITY) => json!("Infinity"),
        Value::Double(f64::NEG_INFINITY) => json!("-Infinity"),
        Value::Double(number) => json!(number),
        Value::Text(text) => json!(text),
        Value::Bool(truth) => json!(truth),
        Value::Time(us) => {
            let time = chrono::DateTime::from_timestamp_micros(*us).expect("a time between 1970 and 9999");
            json!(time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
        }
        Value::Date(days) => {
            let day =
                chrono::DateTime::from_timestamp(i64::from(*days) * 86_400, 0).expect("a day between 1970 and 9999");
            json!(day.format("%Y-%m-%d").to_string())
        }
        Value::Decimal(hundredths) => {
            let sign = if *hundredths < 0 { "-" } else { "" };
            let digits = hundredths.unsigned_abs();
            json!(format!("{sign}{}.{:02}", digits / 100, digits % 100))
        }
    }
}

/// Makes numbers that are equal equal, however they were written.
pub(crate) fn normal(json: &Json) -> String {
    match json {
        Json::Object(cells) => {
            let cells: Vec<String> = cells
                .iter()
                .map(|(name, value)| format!("{name}: {}", normal(value)))
                .collect();
            format!("{{{}}}", cells.join(", "))
        }
        // The reader of JSON is off by a bit in the last place of some doubles, which must not decide how one is rounded.
        Json::Number(number) => format!("{:.9e}", number.as_f64().unwrap_or(f64::NAN)),
        other => other.to_string(),
    }
}
