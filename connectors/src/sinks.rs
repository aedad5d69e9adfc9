//! The one list of sinks, and what they have in common.
//!
//! A sink is told what a view changed, tick by tick, from an outbox that survives the program: each delivery is
//! repeated until the other side has it for good.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

/// What a view changed at one tick.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The tick, in microseconds since 1970; deliveries of a sink come in its order.
    pub tick: u64,
    /// The rows that came or went, of the view's schema; equal rows are one.
    pub rows: RecordBatch,
    /// How often each came; less than nothing where it went.
    pub diffs: Vec<i64>,
}

/// What a sink is set up with besides its own options.
#[derive(Debug, Clone)]
pub struct SinkSetting {
    /// The sink's name, unique within the deployment.
    pub name: String,
    /// The deployment's name.
    pub deployment: String,
    /// The columns of the view.
    pub schema: SchemaRef,
    /// Positions of the view's key columns, if it has a key.
    pub key: Option<Vec<usize>>,
}

/// Why the other side did not take a delivery.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It may work another time: the same deliveries are tried again, after a while.
    #[error("{0}")]
    Retry(String),
    /// Somebody else writes in this sink's place, or it is refused for good: an operator has to look.
    #[error("{0}")]
    Fatal(String),
}

/// Tells another system what a view changes.
pub trait Sink: Send {
    /// The newest tick that the other side has whole, where it remembers that itself, in one write with the rows:
    /// what is older is not told again, so each change counts exactly once. None where it does not: then what was
    /// not known to be delivered is told again after a crash, at least once in all.
    fn delivered(&mut self) -> Result<Option<u64>, SinkError>;

    /// Tells what changed at some ticks, in their order; returns once the other side can lose it no more.
    fn deliver(&mut self, deliveries: &[Delivery]) -> Result<(), SinkError>;
}
