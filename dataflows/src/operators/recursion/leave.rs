//! Where rows leave a loop: a tick's changes added up, and what a loop without an end left undone.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use differential_dataflow::consolidation::consolidate;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator as _;

use super::errors::Errors;
use super::row::{Codec, Row};
use super::{Held, Pair, Round};
use crate::operators::{Rows, SharedCell};
use crate::parts::{Part, Parts};
use crate::plan::ROUNDS_MAX;
use crate::update::{Tick, Updates};

/// What one tick changed, in the rounds that count and in the first that does not.
#[derive(Default)]
struct Changes {
    capability: Option<Capability<Tick>>,
    rows: Vec<(Row, i64)>,
    cut: Vec<(Row, i64)>,
}

/// What the end of a loop reports to, beside its stream.
pub(super) struct Report {
    pub(super) shared: SharedCell,
    pub(super) stats: usize,
    pub(super) held: Rc<Cell<Held>>,
    pub(super) errors: Errors,
    /// The name its author gave the recursion.
    pub(super) name: String,
}

/// Emits each tick's changes, and keeps an error row while rows still change in the round after the last.
pub(super) fn leave<'scope>(
    updates: Stream<'scope, Tick, Vec<(Pair, Round, i64)>>,
    codec: Codec,
    report: Report,
) -> Rows<'scope> {
    let here = updates.scope().index() as u64;
    // Rows stay; what was cut is counted in one place.
    let route = move |(_, round, _): &(Pair, Round, i64)| if round.inner > ROUNDS_MAX { 0 } else { here };
    updates.unary_frontier::<CapacityContainerBuilder<Parts>, _, _, _>(Exchange::new(route), "leave", move |held, _| {
        // Nothing downstream takes a tick for complete before its errors are handed over.
        let mut held = Some(held);
        let mut waiting: BTreeMap<Tick, Changes> = BTreeMap::new();
        let mut undone: HashMap<Row, i64> = HashMap::new();
        move |(input, frontier), output| {
            input.for_each(|capability, updates| {
                let capability = capability.retain(0);
                for ((_, row), round, diff) in updates.drain(..) {
                    // One message may carry changes of several ticks, none before its own.
                    let changes = waiting.entry(round.outer).or_default();
                    changes
                        .capability
                        .get_or_insert_with(|| capability.delayed(&round.outer));
                    match round.inner > ROUNDS_MAX {
                        true => changes.cut.push((row, diff)),
                        false => changes.rows.push((row, diff)),
                    }
                }
            });
            // A closed input no longer holds anything back.
            let frontier = frontier.frontier().first().copied();
            let mut rows_out = 0;
            while let Some(entry) = waiting.first_entry() {
                let tick = *entry.key();
                if frontier.is_some_and(|frontier| frontier <= tick) {
                    break;
                }
                let Changes {
                    capability,
                    mut rows,
                    cut,
                } = entry.remove();
                let without_end = !undone.is_empty();
                for (row, diff) in cut {
                    let count = undone.entry(row.clone()).or_default();
                    *count += diff;
                    if *count == 0 {
                        undone.remove(&row);
                    }
                }
                match (without_end, !undone.is_empty()) {
                    (false, true) => report.errors.add(tick, report.without_end(), 1),
                    (true, false) => report.errors.add(tick, report.without_end(), -1),
                    _ => {}
                }
                consolidate(&mut rows);
                if let Some(capability) = capability
                    && !rows.is_empty()
                {
                    rows_out += rows.len();
                    let batch = codec.decode(rows.iter().map(|(row, _)| row));
                    let diffs: Vec<i64> = rows.iter().map(|(_, diff)| *diff).collect();
                    let part = Part::whole(Updates::new(batch, diffs));
                    output.session(&capability).give_container(&mut Parts(vec![part]));
                }
            }
            let mut shared = report.shared.borrow_mut();
            for (tick, errors) in report.errors.before(frontier.unwrap_or(Tick::MAX)) {
                shared.errors.entry(tick).or_default().push(errors);
            }
            match (frontier, &mut held) {
                (Some(frontier), Some(held)) if *held.time() < frontier => held.downgrade(&frontier),
                (None, _) => held = None,
                _ => {}
            }
            let stats = &mut shared.stats[report.stats];
            let Held { rows, bytes } = report.held.get();
            stats.rows_out += rows_out as u64;
            stats.state_rows = u64::try_from(rows).unwrap_or(0) + undone.len() as u64;
            stats.state_bytes = u64::try_from(bytes).unwrap_or(0);
        }
    })
}

impl Report {
    fn without_end(&self) -> [String; 3] {
        [
            format!("WITH RECURSIVE {}", self.name),
            "{}".to_owned(),
            format!("did not end within {ROUNDS_MAX} rounds"),
        ]
    }
}
