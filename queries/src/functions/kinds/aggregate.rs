//! Aggregates of ours: a signed accumulator, and how it is called.

use std::hash::{Hash, Hasher};

use arrow::datatypes::DataType;
use dataflows::functions;
use datafusion::common::not_impl_err;
use datafusion::error::Result;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Signature};

/// An aggregate: what both engines run, and its types.
#[derive(Debug)]
pub(crate) struct Aggregate {
    /// Its name, and its state.
    pub(crate) shared: functions::Aggregate,
    /// The arguments it takes, constants included.
    pub(crate) signature: fn() -> Signature,
    /// The type of its result.
    pub(crate) output: fn(&[DataType]) -> DataType,
}

impl Aggregate {
    /// Says its name and types to DataFusion.
    pub(crate) fn declared(&'static self) -> Declared {
        Declared {
            aggregate: self,
            signature: (self.signature)(),
        }
    }
}

/// The name and the types of an aggregate, without its values.
#[derive(Debug)]
pub(crate) struct Declared {
    aggregate: &'static Aggregate,
    signature: Signature,
}

impl PartialEq for Declared {
    fn eq(&self, other: &Self) -> bool {
        self.aggregate.shared == other.aggregate.shared
    }
}

impl Eq for Declared {}

impl Hash for Declared {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.aggregate.shared.hash(state);
    }
}

impl AggregateUDFImpl for Declared {
    fn name(&self) -> &str {
        self.aggregate.shared.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok((self.aggregate.output)(arguments))
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("{} over these arguments", self.name())
    }
}
