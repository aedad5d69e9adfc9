//! Runs an operator tick by tick: input is stashed until its tick is complete everywhere.

use std::collections::BTreeMap;
use std::rc::Rc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::scheduling::activate::Activator;

use super::exchange::{Exchange, by_columns};
use super::release::{Released, Times};
use super::{Rows, SharedCell, register};
use crate::faults::{self, Fault};
use crate::parts::{Part, Parts};
use crate::update::Tick;

/// An operator that works on whole ticks, in tick order.
pub(crate) trait TickOperator {
    /// Returns what is there before the first tick.
    fn initial(&mut self) -> Vec<Part> {
        Vec::new()
    }

    /// Takes each input's parts of one tick and returns the changes of the output.
    fn apply(&mut self, tick: Tick, inputs: &mut [Vec<Part>]) -> Vec<Part>;

    /// Lets go of what it holds of an input's rows below a time; see [`super::release`].
    fn release(&mut self, _input: usize, _times: &Times, _below: i64) -> Released {
        Released::default()
    }

    /// Tells whether it has something to do at this tick although nothing comes.
    fn is_due(&self, _tick: Tick) -> bool {
        false
    }

    /// Tells whether a planted bug makes it apply ticks that are not complete.
    fn reads_early(&self) -> bool {
        false
    }

    /// Returns how many rows, groups or timers it holds.
    fn state_rows(&self) -> usize;

    /// Returns the memory it holds, in bytes.
    fn state_bytes(&self) -> usize;
}

/// Where the rows of an input must meet.
pub(crate) enum Route {
    /// Wherever they are.
    Here,
    /// Rows with equal values in these columns on one worker; without columns, all on the first.
    ByColumns(Vec<usize>),
}

type Pull = Box<dyn FnMut(&mut dyn FnMut(Capability<Tick>, &mut Parts))>;

/// Renders a [`TickOperator`].
///
/// With `every_tick`, the operator is applied at every tick its dataflow is
/// advanced for, input or not; else only where input came.
pub(crate) fn ticked<'scope>(
    scope: Scope<'scope, Tick>,
    name: &str,
    inputs: Vec<(Rows<'scope>, Route)>,
    shared: &SharedCell,
    every_tick: bool,
    mut operator: Box<dyn TickOperator>,
) -> Rows<'scope> {
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let count = inputs.len();
    // The output comes first, so that each input knows it may reach it.
    let (output, stream) = builder.new_output::<Parts>();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Parts>>::from(output);
    let exchanged: Vec<bool> = inputs
        .iter()
        .map(|(_, route)| matches!(route, Route::ByColumns(_)))
        .collect();
    let mut pulls: Vec<Pull> = Vec::with_capacity(count);
    for (input, route) in inputs {
        pulls.push(match route {
            Route::Here => {
                let mut handle = builder.new_input(input, Pipeline);
                Box::new(move |take| handle.for_each(|capability, parts| take(capability.retain(0), parts)))
            }
            Route::ByColumns(columns) => {
                let mut handle = builder.new_input(input, Exchange::new(move |_| by_columns(columns)));
                Box::new(move |take| handle.for_each(|capability, parts| take(capability.retain(0), parts)))
            }
        });
    }
    let stats = register(shared, name);
    if every_tick {
        let activator = Activator::new(builder.operator_info().address, scope.activations());
        shared.borrow_mut().activators.push(activator);
    }
    let shared = Rc::clone(shared);
    builder.build(move |mut capabilities| {
        let mut held = capabilities.pop();
        let mut first = true;
        let mut stash: BTreeMap<Tick, (Capability<Tick>, Vec<Vec<Part>>)> = BTreeMap::new();
        // The newest tick already applied, for operators that see every tick.
        let mut applied: Tick = 0;
        move |frontiers| {
            let mut rows_in = 0;
            for (position, pull) in pulls.iter_mut().enumerate() {
                pull(&mut |capability, parts| {
                    let tick = *capability.time();
                    let (_, parts_by_input) = stash
                        .entry(tick)
                        .or_insert_with(|| (capability, vec![Vec::new(); count]));
                    rows_in += parts.0.iter().map(Part::len).sum::<usize>();
                    if faults::active(Fault::DoubledRow) && exchanged[position] {
                        parts.0.push(parts.0[0].select(vec![0]));
                    }
                    parts_by_input[position].append(&mut parts.0);
                });
            }
            let mut rows_out = 0;
            let mut emit = |capability: &Capability<Tick>, parts: Vec<Part>| {
                let parts: Vec<Part> = parts.into_iter().filter(|part| !part.is_empty()).collect();
                rows_out += parts.iter().map(Part::len).sum::<usize>();
                if !parts.is_empty() {
                    output.activate().session(capability).give_container(&mut Parts(parts));
                }
            };
            if first {
                first = false;
                let initial = operator.initial();
                if let Some(capability) = &held {
                    emit(capability, initial);
                }
                if !every_tick {
                    held = None;
                }
            }
            // A closed input no longer holds anything back.
            let mut frontier = Tick::MAX;
            for input in frontiers {
                frontier = frontier.min(input.frontier().first().copied().unwrap_or(Tick::MAX));
            }
            let complete = if operator.reads_early() { Tick::MAX } else { frontier };
            loop {
                let with_input = stash
                    .first_key_value()
                    .map(|(tick, _)| *tick)
                    .filter(|tick| *tick < complete);
                let advanced = match every_tick {
                    true => shared
                        .borrow()
                        .ticks
                        .iter()
                        .copied()
                        .find(|tick| *tick > applied && *tick < complete),
                    false => None,
                };
                let Some(tick) = with_input.into_iter().chain(advanced).min() else {
                    break;
                };
                let (capability, mut parts) = match stash.remove(&tick) {
                    Some((capability, parts)) => (Some(capability), parts),
                    None => (None, vec![Vec::new(); count]),
                };
                let changes = operator.apply(tick, &mut parts);
                applied = applied.max(tick);
                match (capability, &held) {
                    (Some(capability), _) => emit(&capability, changes),
                    (None, Some(held)) => emit(&held.delayed(&tick), changes),
                    (None, None) => {}
                }
            }
            if shared.borrow().ended {
                held = None;
            }
            if every_tick && let Some(capability) = &mut held {
                // Ticks still come when every input has closed. The capability keeps the
                // dataflow alive for them, which would be dropped as soon as nothing can happen.
                let edge = if frontier == Tick::MAX {
                    shared.borrow().latest + 1
                } else {
                    frontier
                };
                if *capability.time() < edge {
                    capability.downgrade(&edge);
                }
            }
            let mut shared = shared.borrow_mut();
            let stats = &mut shared.stats[stats];
            stats.rows_in += rows_in as u64;
            stats.rows_out += rows_out as u64;
            stats.state_rows = operator.state_rows() as u64;
            stats.state_bytes = operator.state_bytes() as u64;
        }
    });
    stream
}
