//! Window functions of ours: a state that is carried from row to row of a partition, in its order.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef};
use dataflows::functions::Running;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{PartitionEvaluator, Signature, Volatility, WindowFunctionDefinition, WindowUDFImpl};
use datafusion::physical_expr::expressions::Literal;

use crate::problem::Problem;
use crate::refusals;

/// Builds a function for one call.
pub(crate) type Build = fn(&[ScalarValue]) -> Result<Arc<dyn Running>, Problem>;

/// A window function: how it is called, and what both engines run.
pub(crate) struct Window {
    /// Its SQL name.
    pub(crate) name: &'static str,
    /// How many of its leading arguments are read from rows; those after them are constants.
    pub(crate) columns: usize,
    /// The types its arguments are brought to; an error where they cannot be.
    pub(crate) coerce: fn(&[DataType]) -> Result<Vec<DataType>, Problem>,
    /// The type of its result.
    pub(crate) output: DataType,
    /// Builds it for one call from the call's constants.
    pub(crate) build: Build,
}

impl Window {
    /// Says it to DataFusion.
    pub(crate) fn function(&'static self) -> WindowFunction {
        WindowFunction {
            window: self,
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
}

/// Returns the function of ours that is called, if it is one.
pub(crate) fn own(function: &WindowFunctionDefinition) -> Option<&'static Window> {
    match function {
        WindowFunctionDefinition::WindowUDF(function) => {
            Some(function.inner().downcast_ref::<WindowFunction>()?.window)
        }
        WindowFunctionDefinition::AggregateUDF(_) => None,
    }
}

/// A window function as DataFusion knows it.
pub(crate) struct WindowFunction {
    window: &'static Window,
    signature: Signature,
}

impl fmt::Debug for WindowFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.window.name)
    }
}

impl PartialEq for WindowFunction {
    fn eq(&self, other: &Self) -> bool {
        self.window.name == other.window.name
    }
}

impl Eq for WindowFunction {}

impl Hash for WindowFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.window.name.hash(state);
    }
}

impl WindowUDFImpl for WindowFunction {
    fn name(&self) -> &str {
        self.window.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        // What is wrong is told by `field`: DataFusion words what fails here anew.
        Ok((self.window.coerce)(arguments).unwrap_or_else(|_| arguments.to_vec()))
    }

    fn field(&self, arguments: WindowUDFFieldArgs) -> Result<FieldRef> {
        let types = arguments.input_fields().iter().map(|field| field.data_type().clone());
        (self.window.coerce)(&types.collect::<Vec<_>>())?;
        Ok(Arc::new(Field::new(arguments.name(), self.window.output.clone(), true)))
    }

    fn partition_evaluator(&self, arguments: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        let constants = arguments.input_exprs().iter().skip(self.window.columns);
        let constants = constants
            .map(|constant| match constant.downcast_ref::<Literal>() {
                Some(literal) => Ok(literal.value().clone()),
                None => Err(refusals::computed_constant(self.window.name)),
            })
            .collect::<Result<Vec<_>, Problem>>()?;
        Ok(Box::new(Evaluator {
            running: (self.window.build)(&constants)?,
            columns: self.window.columns,
        }))
    }
}

/// Runs a whole partition from its start.
#[derive(Debug)]
struct Evaluator {
    running: Arc<dyn Running>,
    columns: usize,
}

impl PartitionEvaluator for Evaluator {
    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let columns = &values[..self.columns.min(values.len())];
        let mut after = Vec::new();
        Ok(self.running.follow(columns, &[rows], &self.running.start(), &mut after))
    }
}
