//! How updates of sources and views reach the dataflows that read them, inside one worker.
//!
//! A source or view has an outlet; a dataflow that reads it has an inlet there.
//! A tick advances only the dataflows it concerns; for them, a relation that
//! the tick does not concern counts as complete.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::Scope;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::scheduling::activate::Activator;

use crate::faults::{self, Fault};
use crate::operators::{Rows, SharedCell};
use crate::parts::{Part, Parts};
use crate::update::Tick;

/// The readers of one relation, on one worker.
#[derive(Default)]
pub(crate) struct Outlet {
    readers: Vec<Rc<Inlet>>,
}

pub(crate) type OutletCell = Rc<RefCell<Outlet>>;

/// One reader's queue.
pub(crate) struct Inlet {
    state: RefCell<State>,
    /// The dataflow that reads.
    reader: SharedCell,
    /// The dataflow that writes; none for a source, whose ticks are complete once handed over.
    writer: Option<SharedCell>,
    /// What the relation changed up to this tick, the reader has got in another way.
    since: Cell<Tick>,
}

#[derive(Default)]
struct State {
    /// What the relation changed, by tick.
    queue: VecDeque<(Tick, Vec<Part>)>,
    /// What it held before, handed to this reader alone.
    filled: VecDeque<(Tick, Vec<Part>)>,
    frontier: Tick,
    activator: Option<Activator>,
    ended: bool,
}

impl Outlet {
    /// Adds a reader.
    pub(crate) fn subscribe(&mut self, reader: &SharedCell, writer: Option<&SharedCell>) -> Rc<Inlet> {
        let inlet = Rc::new(Inlet {
            state: RefCell::new(State::default()),
            reader: Rc::clone(reader),
            writer: writer.map(Rc::clone),
            since: Cell::new(0),
        });
        self.readers.push(Rc::clone(&inlet));
        inlet
    }

    /// Hands parts of one tick to every reader.
    pub(crate) fn publish(&self, tick: Tick, parts: &[Part]) {
        if parts.is_empty() {
            return;
        }
        let lost = usize::from(faults::active(Fault::ForgottenReader) && self.readers.len() > 1);
        let readers = &self.readers[..self.readers.len() - lost];
        for reader in readers.iter().filter(|reader| reader.since.get() < tick) {
            reader.state.borrow_mut().queue.push_back((tick, parts.to_vec()));
        }
    }

    /// Lets go of readers that have ended.
    pub(crate) fn forget_ended(&mut self) {
        self.readers.retain(|reader| !reader.state.borrow().ended);
    }

    /// Lets every reader see how far the relation is complete.
    pub(crate) fn refresh(&self) {
        self.readers.iter().for_each(|reader| reader.refresh());
    }
}

impl Inlet {
    /// Hands part of what the relation held to this reader alone.
    pub(crate) fn fill(&self, tick: Tick, parts: &[Part]) {
        self.state.borrow_mut().filled.push_back((tick, parts.to_vec()));
    }

    /// Takes what the reader is advanced for: what came before that is set aside. A reader that
    /// missed ticks takes what they changed at the one that stands for them.
    fn next(&self, state: &mut State) -> Option<(Tick, Vec<Part>)> {
        let reader = self.reader.borrow();
        let (tick, _) = state.queue.front().filter(|(tick, _)| *tick <= reader.latest)?;
        let at = reader
            .ticks
            .iter()
            .copied()
            .find(|advanced| advanced >= tick)
            .unwrap_or(*tick);
        let (_, parts) = state.queue.pop_front()?;
        Some((at, parts))
    }

    /// Passes over what the relation changed up to `through`, now and later.
    pub(crate) fn forget(&self, through: Tick) {
        if self.since.replace(through) < through {
            self.state.borrow_mut().queue.retain(|(tick, _)| *tick > through);
        }
    }

    /// Ends the stream: there will be no more.
    pub(crate) fn end(&self) {
        let mut state = self.state.borrow_mut();
        state.ended = true;
        state.queue.clear();
        if let Some(activator) = &state.activator {
            activator.activate();
        }
    }

    /// Advances to the end of the reader's newest tick, or as far as the writer got.
    pub(crate) fn refresh(&self) {
        let asked = self.reader.borrow().latest + 1;
        let pending = self
            .writer
            .as_ref()
            .and_then(|writer| writer.borrow().ticks.front().copied());
        let mut state = self.state.borrow_mut();
        state.frontier = state.frontier.max(asked.min(pending.unwrap_or(Tick::MAX)));
        if let Some(activator) = &state.activator {
            activator.activate();
        }
    }
}

/// Renders the stream of one inlet.
pub(crate) fn import<'scope>(scope: Scope<'scope, Tick>, name: &str, inlet: &Rc<Inlet>) -> Rows<'scope> {
    let mut builder = OperatorBuilder::new(format!("get {name}"), scope);
    let (output, stream) = builder.new_output::<Parts>();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Parts>>::from(output);
    let info = builder.operator_info();
    inlet.state.borrow_mut().activator = Some(Activator::new(info.address, scope.activations()));
    let inlet = Rc::clone(inlet);
    builder.build(move |mut capabilities| {
        let mut held = capabilities.pop();
        move |_frontiers| {
            let mut state = inlet.state.borrow_mut();
            if state.ended {
                held = None;
            }
            let Some(capability) = &mut held else { return };
            while let Some((tick, parts)) = state.filled.pop_front().or_else(|| inlet.next(&mut state)) {
                output
                    .activate()
                    .session(&capability.delayed(&tick))
                    .give_container(&mut Parts(parts));
            }
            if *capability.time() < state.frontier {
                capability.downgrade(&state.frontier);
            }
        }
    });
    stream
}
