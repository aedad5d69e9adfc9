//! Ticks that go by again: when a start goes on where the last run ended, and when a replay looks back.
//!
//! They go the way they went, through the same code; nothing is decided anew by a clock.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::bail;
use connectors::{Batch, Decoded};
use crossbeam_channel::Sender;
use dataflows::{Tick, Updates};

use super::super::Operation;
use super::super::shared::RelationEntry;
use super::{Coordinator, Cut, Inbox};
use crate::log::{TickRecord, Transition};

/// What holds for ticks that go by again.
pub(in crate::engine) struct Again<'a> {
    /// Tells whether rows of a source that is not declared are passed over.
    pub(in crate::engine) passes_over: &'a dyn Fn(&str) -> bool,
    /// Says where the ticks are written down.
    pub(in crate::engine) place: &'a dyn Fn() -> String,
}

/// What one who watches is told of a tick, once it may be seen.
pub(in crate::engine) enum Seen {
    /// What it changed in a relation.
    Changes(Arc<RelationEntry>, Tick, Vec<Updates>),
    /// What happened to alerts.
    Transitions(Vec<Transition>),
}

/// One who watches some relations, and all alerts.
pub(in crate::engine) struct Witness {
    pub(in crate::engine) watched: HashSet<String>,
    pub(in crate::engine) door: Sender<Seen>,
}

impl Witness {
    /// Hears what a tick changed in a relation.
    pub(super) fn changed(&self, relation: &Arc<RelationEntry>, tick: Tick, updates: &[Updates]) {
        if self.watched.contains(&relation.relation.name) && updates.iter().any(|updates| !updates.is_empty()) {
            self.tell(Seen::Changes(Arc::clone(relation), tick, updates.to_vec()));
        }
    }

    /// Hears what happened to alerts.
    pub(super) fn transitions(&self, transitions: &[Transition]) {
        if !transitions.is_empty() {
            self.tell(Seen::Transitions(transitions.to_vec()));
        }
    }

    fn tell(&self, seen: Seen) {
        // Whoever watched may have gone away.
        let _ = self.door.send(seen);
    }
}

impl Coordinator {
    /// Lets one tick go by again. Its record is there already, so none is written.
    pub(super) fn play(&mut self, record: TickRecord, again: &Again<'_>) -> anyhow::Result<()> {
        self.clock.resume(record.tick);
        let mut cut = Cut {
            everything: record.everything,
            ..Cut::at(record.tick)
        };
        let log = self.log.take();
        if record.stored {
            self.storing = Some(std::mem::take(&mut self.after_load));
        }
        self.begin(record.tick);
        for entry in record.entries {
            let Some(source) = self.topology.source(&entry.source) else {
                if (again.passes_over)(&entry.source) {
                    continue;
                }
                self.log = log;
                bail!(
                    "the log holds rows of source \"{0}\", which the deployment declares no more\n  \
                     hint: Put sources/{0}.toml back, or start with `--forget {0}` to drop them.",
                    entry.source
                );
            };
            let rows = match entry.delete {
                // It names its key, and nothing else of it is looked at.
                true => Ok(entry.rows),
                false => self.sources[source].adapted(entry.rows),
            };
            let rows = match rows {
                Ok(rows) => rows,
                Err(what) => {
                    self.log = log;
                    bail!(
                        "source \"{}\" is declared differently from what {} holds: {what}\n  \
                         hint: Put it back as it was. Columns that may be NULL can be added.",
                        entry.source,
                        (again.place)()
                    );
                }
            };
            let operation = match entry.delete {
                true => Operation::Delete,
                false => Operation::Insert,
            };
            let batch = Batch {
                decoded: Decoded {
                    rows,
                    rejected: entry.rejected,
                },
                position: entry.position,
                partitions: entry.partitions,
            };
            self.take(source, operation, batch, entry.idempotency_key, None, &mut cut);
        }
        self.finish(cut);
        self.log = log;
        Ok(())
    }

    /// Lets one tick go by again, once few enough are unfinished.
    ///
    /// # Errors
    /// As `play`, and when a worker dies.
    pub(in crate::engine) fn look_back(
        &mut self,
        record: TickRecord,
        again: &Again<'_>,
        inbox: &Inbox,
    ) -> anyhow::Result<()> {
        self.wait(inbox, |coordinator| {
            coordinator.in_flight.len() < coordinator.in_flight_max
        })?;
        self.play(record, again)
    }

    /// Waits until every tick is finished and seen.
    ///
    /// # Errors
    /// When a worker dies.
    pub(in crate::engine) fn settle(&mut self, inbox: &Inbox) -> anyhow::Result<()> {
        self.wait(inbox, Coordinator::is_settled)
    }

    /// Has somebody told of what may be seen from now on.
    pub(in crate::engine) fn watched_by(&mut self, witness: Witness) {
        self.witness = Some(witness);
    }

    /// Returns the tick that went by last; 0 before the first.
    pub(in crate::engine) fn last_tick(&self) -> Tick {
        self.clock.last()
    }
}
