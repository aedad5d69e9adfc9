//! Turns a plan into operators of one timely dataflow.

use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::Scope;
use timely::dataflow::operators::Concatenate;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::aggregates::{Unsupported, accumulator};
use crate::faults::{self, Fault};
use crate::operators::aggregate::{Aggregate, spec};
use crate::operators::close::Close;
use crate::operators::consolidate::Consolidate;
use crate::operators::join::{Join, Narrow};
use crate::operators::linear::{Stage, linear};
use crate::operators::recursion::recursion;
use crate::operators::release::{Releasing, Times};
use crate::operators::table::TableFunction;
use crate::operators::temporal::{Temporal, TemporalAny};
use crate::operators::ticked::{Route, TickOperator, ticked};
use crate::operators::unnest::{Unnest, unnest};
use crate::operators::window::Window;
use crate::operators::{Rows, SharedCell};
use crate::parts::{Part, Parts};
use crate::plan::{AggregateCall, Node, NodeId, Operator, Plan, TemporalMemory};
use crate::update::{Tick, Updates};

/// Checks what only rendering would find out, so that no worker ever meets it.
///
/// # Errors
/// When an aggregate is not maintained over its argument's type.
pub fn check(plan: &Plan) -> Result<(), Unsupported> {
    for node in &plan.nodes {
        let aggregates: Vec<&AggregateCall> = match &node.operator {
            Operator::Aggregate { calls, .. } => calls.iter().collect(),
            Operator::Window { calls, .. } => calls.iter().filter_map(|call| call.function.aggregate()).collect(),
            _ => continue,
        };
        for call in aggregates {
            accumulator(&spec(call, &plan.nodes[node.inputs[0]].schema, false))?;
        }
    }
    Ok(())
}

/// Renders every node a view needs and returns the stream of its rows.
///
/// `get` renders the stream of a relation read by name.
pub(crate) fn render<'scope>(
    scope: Scope<'scope, Tick>,
    plan: &Plan,
    shared: &SharedCell,
    mut get: impl FnMut(&str) -> Rows<'scope>,
) -> Result<Rows<'scope>, Unsupported> {
    let mut readers = vec![0usize; plan.nodes.len()];
    for node in &plan.nodes {
        for &input in &node.inputs {
            readers[input] += 1;
        }
    }
    let mut streams: Vec<Option<Rows<'scope>>> = vec![None; plan.nodes.len()];
    for (id, node) in plan.nodes.iter().enumerate() {
        // A filter or projection with one reader that is another is fused into it.
        let fused = is_linear(node)
            && readers[id] == 1
            && plan
                .nodes
                .iter()
                .any(|reader| is_linear(reader) && reader.inputs.contains(&id));
        if fused {
            continue;
        }
        let input = |position: usize| {
            streams[node.inputs[position]]
                .clone()
                .expect("inputs are rendered first")
        };
        let name = format!("{id} {}", title(&node.operator));
        let first_worker = scope.index() == 0;
        let stream = match &node.operator {
            Operator::Get { relation } => get(relation),
            Operator::Constant { rows } => constant(scope, &name, first_worker.then(|| rows.clone())),
            Operator::Filter { .. } | Operator::Project { .. } => {
                let (from, stages) = linear_stages(plan, id, &readers);
                linear(
                    &name,
                    streams[from].clone().expect("inputs are rendered first"),
                    stages,
                    shared,
                )
            }
            Operator::TemporalFilter { bounds, memory } => {
                let operator = Temporal::new(bounds.clone(), *memory, Arc::clone(&node.schema), shared);
                let route = match memory {
                    TemporalMemory::Arrival | TemporalMemory::Groups => Route::Here,
                    TemporalMemory::Content => Route::ByColumns((0..node.schema.fields().len()).collect()),
                };
                ticked(scope, &name, vec![(input(0), route)], shared, true, Box::new(operator))
            }
            Operator::TemporalAny { alternatives } => {
                let operator = TemporalAny::new(alternatives.clone(), Arc::clone(&node.schema), shared);
                let route = Route::ByColumns((0..node.schema.fields().len()).collect());
                ticked(scope, &name, vec![(input(0), route)], shared, true, Box::new(operator))
            }
            Operator::Consolidate => {
                let operator = Consolidate::new(Arc::clone(&node.schema));
                ticked(
                    scope,
                    &name,
                    vec![(input(0), Route::Here)],
                    shared,
                    false,
                    Box::new(operator),
                )
            }
            Operator::Unnest { lists, absent } => {
                let lists = Unnest::new(lists.clone(), *absent, Arc::clone(&node.schema));
                unnest(&name, input(0), lists, shared)
            }
            Operator::Aggregate { keys, calls, leaves } => {
                let reads = &plan.nodes[node.inputs[0]];
                let schema = Arc::clone(&node.schema);
                let operator = Aggregate::new(
                    keys.clone(),
                    calls,
                    &reads.schema,
                    schema,
                    reads.append_only,
                    first_worker,
                )?
                .leaving(leaves, shared);
                let (operator, every_tick) = releasing(Box::new(operator), plan, id, shared);
                let every_tick = every_tick || !leaves.is_empty();
                let route = Route::ByColumns(keys.clone());
                ticked(scope, &name, vec![(input(0), route)], shared, every_tick, operator)
            }
            Operator::Join {
                kind,
                on,
                null_equals_null,
                band,
            } => {
                let (left, right) = (&plan.nodes[node.inputs[0]].schema, &plan.nodes[node.inputs[1]].schema);
                let schema = Arc::clone(&node.schema);
                let operator = Join::new(*kind, on, *null_equals_null, *band, left, right, schema);
                let mut operator = operator.narrowed(Narrow::above(plan, id, &readers));
                if node.inputs.iter().all(|input| plan.nodes[*input].append_only) {
                    operator = operator.forgetting(id, shared);
                }
                let left = (input(0), Route::ByColumns(on.iter().map(|(left, _)| *left).collect()));
                let right = (input(1), Route::ByColumns(on.iter().map(|(_, right)| *right).collect()));
                let (operator, every_tick) = releasing(Box::new(operator), plan, id, shared);
                ticked(scope, &name, vec![left, right], shared, every_tick, operator)
            }
            Operator::Window {
                partition,
                order,
                calls,
                keep,
            } => {
                let reads = &plan.nodes[node.inputs[0]];
                let schema = Arc::clone(&node.schema);
                let operator = Window::new(
                    partition.clone(),
                    order,
                    calls,
                    *keep,
                    &reads.schema,
                    schema,
                    reads.append_only,
                )?;
                let (operator, every_tick) = releasing(Box::new(operator), plan, id, shared);
                let route = Route::ByColumns(partition.clone());
                ticked(scope, &name, vec![(input(0), route)], shared, every_tick, operator)
            }
            Operator::Close {
                bucket,
                on_close,
                keeps,
            } => {
                let operator = Close::new(*bucket, *on_close, *keeps, Arc::clone(&node.schema), shared);
                let route = Route::ByColumns((0..node.schema.fields().len()).collect());
                ticked(scope, &name, vec![(input(0), route)], shared, true, Box::new(operator))
            }
            Operator::Union => {
                let lost = usize::from(faults::active(Fault::LostGroupingSet));
                scope.concatenate((0..node.inputs.len() - lost).map(input))
            }
            Operator::Recursive {
                name: cte,
                distinct,
                body,
            } => {
                let schema_of = |position: usize| Arc::clone(&plan.nodes[node.inputs[position]].schema);
                let inputs = (0..node.inputs.len())
                    .map(|position| (input(position), schema_of(position)))
                    .collect();
                recursion(scope, &name, (cte, *distinct, body), inputs, &node.schema, shared)
            }
            Operator::Table { function, .. } => {
                let inputs = (0..node.inputs.len())
                    .map(|position| (input(position), Route::ByColumns(vec![])))
                    .collect();
                let operator = TableFunction::new(function.as_ref(), Arc::clone(&node.schema));
                ticked(scope, &name, inputs, shared, false, Box::new(operator))
            }
            Operator::Loop | Operator::Outer { .. } => unreachable!("these stand inside a recursion only"),
        };
        streams[id] = Some(stream);
    }
    Ok(streams[plan.root].clone().expect("the root is a node"))
}

/// Has an operator let go of what its view closes, where the plan says by what time; tells
/// whether it must see every tick for that.
fn releasing(
    operator: Box<dyn TickOperator>,
    plan: &Plan,
    id: NodeId,
    shared: &SharedCell,
) -> (Box<dyn TickOperator>, bool) {
    let node = &plan.nodes[id];
    if node.closes.iter().all(Option::is_none) {
        return (operator, false);
    }
    let inputs = node.closes.iter().zip(&node.inputs);
    let times = inputs
        .map(|(bucket, &input)| Some(Times::new(bucket.as_ref()?, &plan.nodes[input].schema)))
        .collect();
    (Box::new(Releasing::new(operator, times, shared)), true)
}

fn is_linear(node: &Node) -> bool {
    matches!(node.operator, Operator::Filter { .. } | Operator::Project { .. })
}

/// Returns the node a run of filters and projections reads, and the run in order.
fn linear_stages(plan: &Plan, last: NodeId, readers: &[usize]) -> (NodeId, Vec<Stage>) {
    let mut stages = Vec::new();
    let mut id = last;
    loop {
        let node = &plan.nodes[id];
        match &node.operator {
            Operator::Filter { predicate } => stages.push(Stage::Filter(predicate.clone())),
            Operator::Project { expressions } => {
                stages.push(Stage::Project(expressions.clone(), Arc::clone(&node.schema)));
            }
            _ => break,
        }
        id = node.inputs[0];
        if readers[id] != 1 {
            break;
        }
    }
    stages.reverse();
    (id, stages)
}

/// The name an operator goes by in statistics and logs.
fn title(operator: &Operator) -> &'static str {
    match operator {
        Operator::Get { .. } => "get",
        Operator::Constant { .. } => "constant",
        Operator::Filter { .. } | Operator::Project { .. } => "map",
        Operator::TemporalFilter { .. } | Operator::TemporalAny { .. } => "temporal filter",
        Operator::Consolidate => "consolidate",
        Operator::Unnest { .. } => "unnest",
        Operator::Aggregate { calls, .. } if calls.is_empty() => "distinct",
        Operator::Aggregate { .. } => "aggregate",
        Operator::Join { .. } => "join",
        Operator::Window { calls, .. } if calls.is_empty() => "top",
        Operator::Window { .. } => "window",
        Operator::Union => "union",
        Operator::Close { .. } => "close",
        Operator::Recursive { .. } => "recursion",
        Operator::Table { .. } => "table function",
        Operator::Loop => "loop",
        Operator::Outer { .. } => "outer",
    }
}

/// Emits rows once, before the first tick.
fn constant<'scope>(scope: Scope<'scope, Tick>, name: &str, rows: Option<arrow::array::RecordBatch>) -> Rows<'scope> {
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let (output, stream) = builder.new_output::<Parts>();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Parts>>::from(output);
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop();
        let mut rows = rows;
        move |_frontiers| {
            if let (Some(capability), Some(rows)) = (capability.take(), rows.take())
                && rows.num_rows() > 0
            {
                let part = Part::whole(Updates::inserts(rows));
                output
                    .activate()
                    .session(&capability)
                    .give_container(&mut Parts(vec![part]));
            }
        }
    });
    stream
}
