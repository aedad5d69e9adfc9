//! The incremental plan, as data: parsed, checked and printed before a worker sees it.

mod aggregate;
mod reach;

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::SortOptions;
use arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, IsNotNullExpr, IsNullExpr, Literal, NotExpr};

use crate::functions;
pub use crate::operators::release::times_of;
pub use aggregate::{AggregateCall, AggregateFunction};
pub use reach::Reach;

/// The position of a node in [`Plan::nodes`].
pub type NodeId = usize;

/// How often a recursive term is applied at most: rows that still follow then are cut off, and an
/// error row says so.
pub const ROUNDS_MAX: u32 = 1_000;

/// One view's dataflow: nodes in topological order, every input before its reader.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The nodes; a node's inputs have smaller positions than its own.
    pub nodes: Vec<Node>,
    /// The node whose output is the view.
    pub root: NodeId,
}

/// One operator, what it reads and the shape of what it emits.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it does.
    pub operator: Operator,
    /// What it reads, in the operator's own order (a join: left, right).
    pub inputs: Vec<NodeId>,
    /// The columns it emits.
    pub schema: SchemaRef,
    /// Whether nothing at or above this node ever takes a row back.
    pub append_only: bool,
    /// For each input, by what time the view closes its rows: those below what a tick says is
    /// closed are passed over, and let go of. Empty where nothing closes.
    pub closes: Vec<Option<Bucket>>,
}

/// The time of a row that decides when it is closed: a column, or what an expression makes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    /// Position of the column.
    pub column: usize,
    /// An expression over a batch of that column alone.
    pub of: Option<Expression>,
}

/// What a node does to its inputs.
///
/// Only [`Operator::Filter`] and [`Operator::Project`] evaluate expressions;
/// all others refer to columns by position. A row on which an expression fails
/// is absent from the output and stands among the view's errors.
#[derive(Clone, Debug, PartialEq)]
pub enum Operator {
    /// Reads a source or another view by name.
    Get {
        /// The relation's name.
        relation: String,
    },
    /// Holds these rows from the first tick on.
    Constant {
        /// The rows.
        rows: RecordBatch,
    },
    /// Keeps the rows for which the predicate is true.
    Filter {
        /// A boolean expression over the input's columns.
        predicate: Expression,
    },
    /// Computes one column for each expression.
    Project {
        /// The expressions, over the input's columns.
        expressions: Vec<Expression>,
    },
    /// Keeps a row while every bound holds at the tick's `now()`.
    TemporalFilter {
        /// The bounds, all of which must hold.
        bounds: Vec<TemporalBound>,
        /// What is remembered of rows that are present, so that they leave.
        memory: TemporalMemory,
    },
    /// Keeps a row while one of several conditions holds at the tick's `now()`.
    TemporalAny {
        /// The conditions, one of which must hold.
        alternatives: Vec<TemporalAlternative>,
    },
    /// Makes one row of those of a tick that are equal. What is asked of the rows stays the same;
    /// an operator above that makes many of each has fewer to do.
    Consolidate,
    /// Emits a row for each element of a list, the other columns repeated. Where there are
    /// several lists, the longest says how many rows there are and NULL fills the others up.
    Unnest {
        /// The lists. Where a list's column stood, its elements stand, in this order.
        lists: Vec<ListUnnest>,
        /// What becomes of a row without elements.
        absent: AbsentList,
    },
    /// Groups by `keys` and emits the keys, then one column a call.
    ///
    /// Without calls this is `DISTINCT` over the keys. Without keys there is
    /// one group, which exists also over no rows.
    Aggregate {
        /// Positions of the grouping columns.
        keys: Vec<usize>,
        /// The aggregates.
        calls: Vec<AggregateCall>,
        /// Bounds over the keys' output columns, all of which look back: a group leaves once one of
        /// them no longer holds, with all its rows. A filter below keeps rows of such groups out.
        leaves: Vec<TemporalBound>,
    },
    /// Pairs rows with equal keys and emits the left's columns, then the right's; or says
    /// which left rows have a partner. Without keys every left row meets every right one.
    Join {
        /// What becomes of rows with and without a partner.
        kind: JoinKind,
        /// Pairs of positions: left, right.
        on: Vec<(usize, usize)>,
        /// Whether NULL equals NULL in a key (`IS NOT DISTINCT FROM`).
        null_equals_null: bool,
        /// How far apart in time the rows of a pair may be: others are passed over, which
        /// a filter above would drop. Inner joins only.
        band: Option<Band>,
    },
    /// Orders each partition's rows, by all columns where the order leaves it open, and
    /// emits them with one more column a call; or only those of some ranks.
    Window {
        /// Positions of the partitioning columns.
        partition: Vec<usize>,
        /// Positions of the order columns.
        order: Vec<(usize, SortOptions)>,
        /// The window functions.
        calls: Vec<WindowCall>,
        /// The ranks that are wanted; all when absent.
        keep: Option<Keep>,
    },
    /// Adds its inputs up, multiplicities included (`UNION ALL`).
    Union,
    /// Finishes rows by their bucket: once a tick says that it is closed, they stay as they are.
    Close {
        /// Position of the bucket's column.
        bucket: usize,
        /// Whether rows are shown only then.
        on_close: bool,
        /// Whether closed rows leave again, once a tick says that they are kept no longer.
        keeps: bool,
    },
    /// Holds the rows of its first input, and what `body` makes of them, of that, and so on
    /// (`WITH RECURSIVE`).
    Recursive {
        /// The name its author gave it.
        name: String,
        /// Whether each row counts once (`UNION`), or as often as it follows (`UNION ALL`).
        distinct: bool,
        /// The recursive term: linear in [`Operator::Loop`], which it reads once. Beside that and
        /// [`Operator::Outer`], it filters, projects, joins, and makes distinct.
        body: Box<Plan>,
    },
    /// A table function of others over its inputs, on one worker.
    Table {
        /// Its call, for plans.
        text: String,
        /// What it makes of its inputs.
        function: Arc<dyn functions::Table>,
    },
    /// Inside a recursion's body: the rows of the recursion.
    Loop,
    /// Inside a recursion's body: an input of the recursion, the same in every round.
    Outer {
        /// Its position among the recursion's inputs.
        input: usize,
    },
}

/// Two columns of microseconds of which the right's is at least `low_us` and at most `high_us` after the left's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Band {
    /// Position of the left's time; NULL pairs with nothing.
    pub left: usize,
    /// Position of the right's time; NULL pairs with nothing.
    pub right: usize,
    /// The least distance; negative where the right's row may come first.
    pub low_us: i64,
    /// The largest distance.
    pub high_us: i64,
}

impl Band {
    /// Tells whether the distance is bounded both ways.
    pub fn has_ends(&self) -> bool {
        self.low_us > i64::MIN && self.high_us < i64::MAX
    }
}

/// One window function over the rows of a partition.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowCall {
    /// What it computes.
    pub function: WindowFunction,
    /// The SQL text, for plans.
    pub text: String,
    /// The name, type and nullability of the result.
    pub field: FieldRef,
}

/// The window functions Sangam maintains.
#[derive(Clone, Debug, PartialEq)]
pub enum WindowFunction {
    /// `row_number()`, `rank()` or `dense_rank()`
    Ranking(Ranking),
    /// `percent_rank()`
    PercentRank,
    /// `cume_dist()`
    CumeDist,
    /// `ntile(n)`
    Ntile(u64),
    /// `lag(x, n, default)`, or `lead` with negative rows.
    Shift {
        /// Position of `x`.
        argument: usize,
        /// How many rows earlier the value stands.
        rows: i64,
        /// The value where there is no such row, of the argument's type.
        default: ScalarValue,
        /// Whether rows with NULL are passed over.
        ignore_nulls: bool,
    },
    /// `first_value(x)`, `last_value(x)` or `nth_value(x, n)` of the frame.
    Nth {
        /// Position of `x`.
        argument: usize,
        /// Which row of the frame: the first is 1, the last -1.
        nth: i64,
        /// Whether rows with NULL are passed over.
        ignore_nulls: bool,
        /// The rows looked at.
        frame: Frame,
    },
    /// An aggregate over the frame.
    Aggregate {
        /// The aggregate; its own order is that of the partition.
        call: AggregateCall,
        /// The rows looked at.
        frame: Frame,
    },
    /// A function of others, continued from the row before.
    Running {
        /// What it computes, its constants included.
        function: Arc<dyn functions::Running>,
        /// Positions of what it reads of each row.
        arguments: Vec<usize>,
    },
}

/// How rows are numbered within a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranking {
    /// Each row its own number.
    RowNumber,
    /// Rows of equal order share the number of the first.
    Rank,
    /// Rows of equal order share a number, the next have the next.
    DenseRank,
}

/// The ranks of the rows that are wanted: those after `skip`, `fetch` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How rows are ranked.
    pub by: Ranking,
    /// Ranks passed over (`OFFSET`).
    pub skip: u64,
    /// Ranks kept (`LIMIT`).
    pub fetch: u64,
}

/// The rows around one that a window function looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// What the bounds count.
    pub units: FrameUnits,
    /// The first row.
    pub start: FrameBound,
    /// The last row.
    pub end: FrameBound,
}

/// What the bounds of a frame count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameUnits {
    /// Rows.
    Rows,
    /// The value of the one order column, or rows of equal order.
    Range,
    /// Runs of rows of equal order.
    Groups,
}

/// One end of a frame.
#[derive(Clone, Debug, PartialEq)]
pub enum FrameBound {
    /// The partition's end on this side.
    Unbounded,
    /// This far before the row: a count, or what is taken from the order's value.
    Preceding(ScalarValue),
    /// The row; under RANGE and GROUPS all rows of equal order.
    CurrentRow,
    /// This far behind the row.
    Following(ScalarValue),
}

/// A vectorised expression with the text an operator of the system knows it by.
#[derive(Clone, Debug)]
pub struct Expression {
    /// Evaluates the expression over a batch of the input's columns.
    pub physical: Arc<dyn PhysicalExpr>,
    /// The SQL text, for plans and error rows.
    pub text: String,
    /// The name, type and nullability of the result.
    pub field: FieldRef,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.physical.as_ref() == other.physical.as_ref() && self.text == other.text && self.field == other.field
    }
}

impl Expression {
    /// Tells whether it has a value on every row, being of kinds that always do: it compares columns and constants.
    pub fn cannot_fail(&self) -> bool {
        cannot_fail(&self.physical)
    }
}

/// As [`Expression::cannot_fail`].
pub(crate) fn cannot_fail(physical: &Arc<dyn PhysicalExpr>) -> bool {
    use datafusion::logical_expr::Operator::*;
    let is_plain = match physical.downcast_ref::<BinaryExpr>() {
        Some(binary) => matches!(
            binary.op(),
            Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom | And | Or
        ),
        None => {
            physical.is::<Column>()
                || physical.is::<Literal>()
                || physical.is::<NotExpr>()
                || physical.is::<IsNullExpr>()
                || physical.is::<IsNotNullExpr>()
        }
    };
    is_plain && physical.children().into_iter().all(cannot_fail)
}

/// A comparison of a timestamp column with `now()`: `column <comparison> now() + offset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemporalBound {
    /// Position of a `Timestamp(Microsecond, _)` column; NULL never passes.
    pub column: usize,
    /// How it is compared.
    pub comparison: TemporalComparison,
    /// Microseconds added to `now()`; negative looks back.
    pub offset_us: i64,
}

/// The comparisons that are monotone in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemporalComparison {
    /// `column < now() + offset`: enters once the time has passed, stays.
    Less,
    /// `column <= now() + offset`: enters once the time has come, stays.
    LessOrEqual,
    /// `column > now() + offset`: present until the time has come.
    Greater,
    /// `column >= now() + offset`: present until the time has passed.
    GreaterOrEqual,
}

/// What a temporal filter remembers of the rows that are present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TemporalMemory {
    /// Each, by what it holds: any may be taken back before it leaves.
    Content,
    /// Each, as it came: none is taken back before it has left by itself.
    Arrival,
    /// None: they leave with their group, further up.
    Groups,
}

/// Bounds and flags that must hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemporalAlternative {
    /// The bounds, all of which must hold.
    pub bounds: Vec<TemporalBound>,
    /// Positions of boolean columns, all of which must be true.
    pub flags: Vec<usize>,
}

/// A list whose elements become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListUnnest {
    /// Position of the list.
    pub column: usize,
    /// How many lists within lists are taken apart; at least one.
    pub depth: usize,
}

/// What `unnest` makes of NULL and of a list without elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbsentList {
    /// No row.
    Drop,
    /// A row with NULL for a list that is NULL, none for an empty one.
    KeepNull,
    /// A row with NULL for either.
    KeepEmpty,
}

/// Which rows without a partner a join keeps, or what else it says of partners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// None.
    Inner,
    /// The left's, with NULL for every right column.
    Left,
    /// Both sides', each with NULL for every column of the other.
    Full,
    /// None; left rows that have a partner stand alone, once each.
    Semi,
    /// None; left rows that have no partner stand alone.
    Anti,
    /// None; every left row, with a column that says whether it has a partner.
    Mark,
}

impl WindowFunction {
    /// Returns the aggregate a function computes over its frame, if it is one.
    pub fn aggregate(&self) -> Option<&AggregateCall> {
        match self {
            WindowFunction::Aggregate { call, .. } => Some(call),
            _ => None,
        }
    }
}

impl Plan {
    /// Tells whether rows come or go as time passes, without any input.
    pub fn has_timers(&self) -> bool {
        self.nodes.iter().any(|node| match &node.operator {
            Operator::TemporalFilter { .. } | Operator::TemporalAny { .. } => true,
            Operator::Aggregate { leaves, .. } => !leaves.is_empty(),
            _ => false,
        })
    }

    /// Returns the names of the relations the plan reads, each once, in plan order.
    pub fn relations(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for node in &self.nodes {
            if let Operator::Get { relation } = &node.operator
                && !names.contains(&relation.as_str())
            {
                names.push(relation);
            }
        }
        names
    }

    /// Returns the columns of the view.
    pub fn schema(&self) -> &SchemaRef {
        &self.nodes[self.root].schema
    }
}

impl Operator {
    /// Tells whether it remembers rows from one tick to the next.
    pub fn keeps_state(&self) -> bool {
        use Operator::*;
        match self {
            TemporalFilter { memory, .. } => *memory != TemporalMemory::Groups,
            Close { .. }
            | TemporalAny { .. }
            | Aggregate { .. }
            | Join { .. }
            | Window { .. }
            | Table { .. }
            | Recursive { .. } => true,
            Get { .. }
            | Constant { .. }
            | Filter { .. }
            | Project { .. }
            | Consolidate
            | Unnest { .. }
            | Union
            | Loop
            | Outer { .. } => false,
        }
    }

    /// Returns every comparison with `now()`.
    pub fn temporal_bounds(&self) -> Vec<&TemporalBound> {
        match self {
            Operator::TemporalFilter { bounds, .. } => bounds.iter().collect(),
            Operator::TemporalAny { alternatives } => alternatives
                .iter()
                .flat_map(|alternative| &alternative.bounds)
                .collect(),
            _ => vec![],
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
