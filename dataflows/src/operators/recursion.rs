//! `WITH RECURSIVE`: a loop of differential dataflow inside the dataflow of a view.
//!
//! Time in here is a tick and a round. What a round derived at one tick is kept by round, so that
//! a later tick that takes a row back takes back what followed from it, and nothing else. Rows are
//! bytes (`row`), evaluated in batches (`step`); `leave` adds up what a tick changed over all
//! rounds. All other operators are differential's, over one type.

mod errors;
mod leave;
mod prune;
mod row;
mod step;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::operators::iterate::Variable;
use differential_dataflow::trace::implementations::{ValBuilder, ValSpine};
use differential_dataflow::trace::{Cursor, Navigable};
use differential_dataflow::{AsCollection, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Leave;
use timely::dataflow::operators::generic::Operator as _;
use timely::dataflow::operators::vec::Filter;
use timely::order::Product;

use self::errors::Errors;
use self::leave::Report;
use self::prune::pruned;
use self::row::{Codec, Row};
use self::step::{Encoder, Shape, encoded, step};
use super::linear::Stage;
use super::{Rows, SharedCell, register};
use crate::plan::{JoinKind, Node, NodeId, Operator, Plan, ROUNDS_MAX};
use crate::update::Tick;

/// A tick, and how often the recursive term was applied.
type Round = Product<Tick, u32>;

/// A key and a row; either may be empty.
type Pair = (Row, Row);

/// Rows inside the loop.
type LoopRows<'scope> = VecCollection<'scope, Round, Pair, i64>;

type Trace = TraceAgent<ValSpine<Row, Row, Round, i64>>;

/// What the loop's arrangements hold on one worker, net.
#[derive(Clone, Copy, Default)]
struct Held {
    rows: i64,
    bytes: i64,
}

/// Tells whether a column of this type can go round in a loop.
pub fn can_recur(data_type: &DataType) -> bool {
    row::comes_back(data_type)
}

/// Renders the rows of a recursion: those of the first input, and what `body` makes of them over and over.
pub(crate) fn recursion<'scope>(
    scope: Scope<'scope, Tick>,
    title: &str,
    (name, distinct, body): (&str, bool, &Plan),
    inputs: Vec<(Rows<'scope>, SchemaRef)>,
    schema: &SchemaRef,
    shared: &SharedCell,
) -> Rows<'scope> {
    let report = Report {
        shared: Rc::clone(shared),
        stats: register(shared, title),
        held: Rc::default(),
        errors: Errors::default(),
        name: name.to_owned(),
    };
    let updates = scope.iterative::<u32, _, _>(|inner| {
        let (variable, following) = Variable::new(inner, Product::new(Default::default(), 1));
        let mut body = Body {
            plan: body,
            inputs: &inputs,
            inner,
            rows: None,
            report: &report,
        };
        let mut rows = body.enter(0, Shape::Rows).concat(following);
        if distinct {
            rows = unkeyed(body.distinct(rows.map(|(_, row)| (row, Row::EMPTY))));
        }
        // The round after the last is looked at, not gone on from.
        let within = rows.inner.clone().filter(|(_, round, _)| round.inner <= ROUNDS_MAX);
        body.rows = Some(within.as_collection());
        variable.set(body.shaped(body.plan.root, Shape::Rows));
        rows.inner.leave(scope)
    });
    let codec = Codec::new(Arc::clone(schema)).expect("the plan was checked before it was sent");
    leave::leave(updates, codec, report)
}

/// The recursive term, being rendered.
struct Body<'a, 'outer, 'inner> {
    plan: &'a Plan,
    inputs: &'a [(Rows<'outer>, SchemaRef)],
    inner: Scope<'inner, Round>,
    /// The loop variable.
    rows: Option<LoopRows<'inner>>,
    report: &'a Report,
}

impl<'inner> Body<'_, '_, 'inner> {
    /// Renders a node and brings its rows into a shape.
    fn shaped(&self, id: NodeId, shape: Shape<'_>) -> LoopRows<'inner> {
        let (from, mut stages) = self.stages(id);
        let Node { operator, schema, .. } = &self.plan.nodes[from];
        if let (Operator::Outer { input }, true) = (operator, stages.is_empty()) {
            return self.enter(*input, shape);
        }
        let mut schema = Arc::clone(schema);
        let rows = match operator {
            // A mark is no column of either side.
            Operator::Join { kind, .. } if *kind != JoinKind::Mark => match pruned(&stages, &schema) {
                Some(less) => {
                    (schema, stages) = (less.schema, less.stages);
                    self.join(from, &less.columns)
                }
                None => self.rows(from),
            },
            _ => self.rows(from),
        };
        if stages.is_empty() && matches!(shape, Shape::Rows) {
            return rows;
        }
        let encoder = Encoder::new(&self.plan.nodes[id].schema, shape);
        step(rows, &schema, stages, encoder, &self.report.errors)
    }

    /// Returns the node a run of filters and projections reads, and the run in order.
    fn stages(&self, last: NodeId) -> (NodeId, Vec<Stage>) {
        let (mut id, mut stages) = (last, Vec::new());
        loop {
            let Node {
                operator,
                inputs,
                schema,
                ..
            } = &self.plan.nodes[id];
            match operator {
                Operator::Filter { predicate } => stages.push(Stage::Filter(predicate.clone())),
                Operator::Project { expressions } => {
                    stages.push(Stage::Project(expressions.clone(), Arc::clone(schema)));
                }
                _ => break,
            }
            id = inputs[0];
        }
        stages.reverse();
        (id, stages)
    }

    /// Renders a node that is neither a filter nor a projection.
    fn rows(&self, id: NodeId) -> LoopRows<'inner> {
        let node = &self.plan.nodes[id];
        match &node.operator {
            Operator::Loop => self.rows.clone().expect("the loop variable comes first"),
            Operator::Outer { input } => self.enter(*input, Shape::Rows),
            Operator::Aggregate { keys, .. } => {
                let keys = Shape::Keyed {
                    key: keys,
                    columns: &[],
                    nulls: true,
                };
                unkeyed(self.distinct(self.shaped(node.inputs[0], keys)))
            }
            Operator::Join { .. } => self.join(id, &(0..node.schema.fields().len()).collect::<Vec<_>>()),
            other => unreachable!("refused inside a loop: {other:?}"),
        }
    }

    /// Brings an input of the recursion into the loop.
    fn enter(&self, input: usize, shape: Shape<'_>) -> LoopRows<'inner> {
        let (rows, schema) = &self.inputs[input];
        let (shared, stats) = (Rc::clone(&self.report.shared), self.report.stats);
        let entered = move |rows: usize| shared.borrow_mut().stats[stats].rows_in += rows as u64;
        encoded(rows.clone(), Encoder::new(schema, shape), entered).enter(self.inner)
    }

    /// Renders a join of which these columns are wanted.
    fn join(&self, id: NodeId, wanted: &[usize]) -> LoopRows<'inner> {
        let node = &self.plan.nodes[id];
        let Operator::Join {
            kind,
            on,
            null_equals_null,
            ..
        } = &node.operator
        else {
            unreachable!("a join is asked for");
        };
        let width = self.plan.nodes[node.inputs[0]].schema.fields().len();
        let (left_key, right_key): (Vec<usize>, Vec<usize>) = on.iter().copied().unzip();
        let left_columns: Vec<usize> = wanted.iter().copied().filter(|column| *column < width).collect();
        let right_columns: Vec<usize> = wanted.iter().filter_map(|column| column.checked_sub(width)).collect();
        let left = |nulls: bool| {
            let (key, columns) = (&left_key, &left_columns);
            self.shaped(node.inputs[0], Shape::Keyed { key, columns, nulls })
        };
        let right = |columns: &[usize]| {
            let (key, nulls) = (&right_key, *null_equals_null);
            self.shaped(node.inputs[1], Shape::Keyed { key, columns, nulls })
        };
        let present = || self.distinct(right(&[]));
        match kind {
            JoinKind::Inner => {
                let (left, right) = (left(*null_equals_null), right(&right_columns));
                self.pairs(left, right)
            }
            JoinKind::Semi => {
                let left = self.arranged(left(*null_equals_null));
                left.join_core(present(), |_, row, _| Some((Row::EMPTY, row.clone())))
            }
            JoinKind::Anti => self.parted(left(true), present()).1,
            JoinKind::Mark => {
                let (with, without) = self.parted(left(true), present());
                let mark = |mark: bool| {
                    let schema = Arc::new(Schema::new(vec![Field::new("mark", DataType::Boolean, true)]));
                    one_row(schema, vec![Arc::new(BooleanArray::from(vec![mark]))])
                };
                beside(with, mark(true)).concat(beside(without, mark(false)))
            }
            JoinKind::Left => {
                let rows = left(true);
                let schema = &self.plan.nodes[node.inputs[1]].schema;
                let fields: Vec<_> = right_columns
                    .iter()
                    .map(|&column| Arc::clone(&schema.fields()[column]))
                    .collect();
                let nulls = fields
                    .iter()
                    .map(|field| new_null_array(field.data_type(), 1))
                    .collect();
                let nulls = one_row(Arc::new(Schema::new(fields)), nulls);
                let (_, without) = self.parted(rows.clone(), present());
                self.pairs(rows, right(&right_columns)).concat(beside(without, nulls))
            }
            JoinKind::Full => unreachable!("refused inside a loop: a full join"),
        }
    }

    fn pairs(&self, left: LoopRows<'inner>, right: LoopRows<'inner>) -> LoopRows<'inner> {
        let (left, right) = (self.arranged(left), self.arranged(right));
        left.join_core(right, |_, left, right| Some((Row::EMPTY, left.concat(right))))
    }

    /// Parts keyed rows into those whose key is present and those whose key is not.
    fn parted(&self, rows: LoopRows<'inner>, present: Arranged<'inner, Trace>) -> (LoopRows<'inner>, LoopRows<'inner>) {
        let with = self
            .arranged(rows.clone())
            .join_core(present, |_, row, _| Some((Row::EMPTY, row.clone())));
        let without = rows.map(|(_, row)| (Row::EMPTY, row)).concat(with.clone().negate());
        (with, without)
    }

    /// Keeps each key once, as long as there is a row with it.
    fn distinct(&self, keys: LoopRows<'inner>) -> Arranged<'inner, Trace> {
        self.arranged(keys)
            .reduce_abelian::<_, ValBuilder<Row, Row, Round, i64>, ValSpine<Row, Row, Round, i64>, _, _>(
                "distinct",
                |_, counts, output| {
                    if counts.iter().any(|(_, count)| *count > 0) {
                        output.push((Row::EMPTY, 1));
                    }
                },
                |updates, key, changes| {
                    updates.clear();
                    updates.extend(
                        changes
                            .drain(..)
                            .map(|(row, round, diff)| ((key.clone(), row), round, diff)),
                    );
                },
            )
    }

    /// Keeps rows by key and round, and a count of what is kept.
    fn arranged(&self, rows: LoopRows<'inner>) -> Arranged<'inner, Trace> {
        let arranged = rows.arrange_by_key_named("rows by key");
        let held: Rc<Cell<Held>> = Rc::clone(&self.report.held);
        let stream = arranged
            .stream
            .unary::<CapacityContainerBuilder<Vec<_>>, _, _, _>(Pipeline, "held", |_, _| {
                move |input, output| {
                    input.for_each(|capability, batches| {
                        let mut now = held.get();
                        for batch in batches.iter() {
                            let mut cursor = batch.cursor();
                            while let Some(key) = cursor.get_key(batch) {
                                while let Some(row) = cursor.get_val(batch) {
                                    let each = size_of::<(Pair, Round, i64)>() + key.heap_bytes() + row.heap_bytes();
                                    cursor.map_times(batch, |_, diff| {
                                        now.rows += diff;
                                        now.bytes += diff * each as i64;
                                    });
                                    cursor.step_val(batch);
                                }
                                cursor.step_key(batch);
                            }
                        }
                        held.set(now);
                        output.session(&capability).give_container(batches);
                    });
                }
            });
        Arranged {
            stream,
            trace: arranged.trace,
        }
    }
}

/// Takes the keys for rows.
fn unkeyed<'inner>(keys: Arranged<'inner, Trace>) -> LoopRows<'inner> {
    keys.as_collection(|key, _| (Row::EMPTY, key.clone()))
}

/// Puts the same columns beside every row.
fn beside<'inner>(rows: LoopRows<'inner>, columns: Row) -> LoopRows<'inner> {
    rows.map(move |(key, row)| (key, row.concat(&columns)))
}

fn one_row(schema: SchemaRef, columns: Vec<ArrayRef>) -> Row {
    let codec = Codec::new(schema).expect("the plan was checked before it was sent");
    codec.encode(&columns, 1).pop().unwrap_or(Row::EMPTY)
}
