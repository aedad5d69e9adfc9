//! The way out: the end of each dataflow, and what it has to say until it is said.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::{Completed, FlowId, FlowSpec, Response};
use crate::faults::{self, Fault};
use crate::operators::SharedCell;
use crate::operators::ticked::TickOperator;
use crate::parts::Part;
use crate::relations::OutletCell;
use crate::update::Tick;

/// Answers held back this long are sent although more may follow.
const HELD_BACK_MAX: Duration = Duration::from_micros(200);

/// Collects what dataflows complete while there is more to do: to wake the coordinator costs
/// more than many a tick of a small view. One operator that takes longer than
/// that holds answers back until it is done.
pub(super) struct Outbox {
    responses: Sender<Response>,
    waiting: RefCell<(Vec<Completed>, Option<Instant>)>,
}

impl Outbox {
    pub(super) fn new(responses: Sender<Response>) -> Self {
        Outbox {
            responses,
            waiting: RefCell::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().0.is_empty()
    }

    pub(super) fn is_due(&self) -> bool {
        let since = self.waiting.borrow().1;
        since.is_some_and(|since| since.elapsed() > HELD_BACK_MAX)
    }

    fn push(&self, completed: Completed) {
        {
            let (waiting, since) = &mut *self.waiting.borrow_mut();
            waiting.push(completed);
            since.get_or_insert_with(Instant::now);
        }
        if self.is_due() {
            self.send();
        }
    }

    pub(super) fn send(&self) {
        let (waiting, _) = self.waiting.take();
        if !waiting.is_empty() {
            // The engine may be gone already; then nobody waits for these ticks.
            let _ = self.responses.send(Response::Completed(waiting));
        }
    }
}

/// The end of a dataflow: says what each tick changed, to the store and to the dataflows that read the view.
pub(super) struct Terminal {
    flow: FlowId,
    worker: usize,
    shared: SharedCell,
    outlet: OutletCell,
    outbox: Rc<Outbox>,
    /// Whether only other dataflows want its rows.
    is_part: bool,
    /// What was there before the first tick, told with it.
    initial: Vec<Part>,
}

impl Terminal {
    pub(super) fn new(
        spec: &FlowSpec,
        worker: usize,
        shared: &SharedCell,
        outlet: &OutletCell,
        outbox: &Rc<Outbox>,
    ) -> Self {
        Terminal {
            flow: spec.id,
            is_part: spec.is_part,
            worker,
            shared: Rc::clone(shared),
            outlet: Rc::clone(outlet),
            outbox: Rc::clone(outbox),
            initial: Vec::new(),
        }
    }
}

impl TickOperator for Terminal {
    fn apply(&mut self, tick: Tick, inputs: &mut [Vec<Part>]) -> Vec<Part> {
        let mut parts = std::mem::take(&mut inputs[0]);
        if tick == 0 {
            self.initial.append(&mut parts);
            return Vec::new();
        }
        parts.splice(0..0, self.initial.drain(..));
        self.outlet.borrow().publish(tick, &parts);
        let (errors, due) = {
            let mut shared = self.shared.borrow_mut();
            while shared.ticks.front().is_some_and(|oldest| *oldest <= tick) {
                shared.ticks.pop_front();
            }
            shared.forget_closed(tick);
            let later = shared.errors.split_off(&(tick + 1));
            let errors = std::mem::replace(&mut shared.errors, later);
            let due = shared.due.iter().flatten().min().copied();
            (errors.into_values().flatten().collect(), due)
        };
        self.outlet.borrow().refresh();
        if self.is_part {
            parts.clear();
        }
        self.outbox.push(Completed {
            worker: self.worker,
            flow: self.flow,
            tick,
            rows: parts.into_iter().map(Part::into_updates).collect(),
            errors,
            due,
        });
        Vec::new()
    }

    fn reads_early(&self) -> bool {
        faults::active(Fault::EarlyTick)
    }

    fn state_rows(&self) -> usize {
        0
    }

    fn state_bytes(&self) -> usize {
        0
    }
}
