//! What the log and history say: what is safe, what a checkpoint took to files, and from which tick on it is read there.

use dataflows::Tick;
use dataflows::workers::Seed;

use super::Coordinator;
use crate::history::Stored;
use crate::log::LogEvent;

impl Coordinator {
    /// Hears from the log.
    pub(in crate::engine) fn logged(&mut self, event: LogEvent) {
        match event {
            LogEvent::Durable { through, bytes } => {
                self.durable = self.durable.max(through);
                self.saving.wrote(bytes);
                self.reveal();
            }
            LogEvent::Named(written) => {
                self.saving.named(written);
                if let Some(log) = &mut self.log {
                    log.named();
                }
            }
            LogEvent::Stored(stored) => self.storing = Some(stored),
            LogEvent::Merged(views) => {
                for (view, cold) in views {
                    if let Some(entry) = self.topology.relation(&view) {
                        entry.store.merged(cold);
                    }
                }
            }
            LogEvent::Failed(error) => self.shared.fail(format!("{:#}", anyhow::Error::from(error))),
        }
    }

    /// Has rows be read in history from the tick that was begun on, which went there with the last checkpoint.
    pub(super) fn store(&mut self, tick: Tick, stored: Vec<Stored>) {
        self.stores = true;
        for moved in stored {
            let Some((flow, closed, rows)) = self.closings.stored(&moved) else {
                continue;
            };
            self.closed.push((flow, closed));
            self.in_files.insert((flow, tick), rows);
            let held = moved.held.into_iter();
            self.held.extend(held.map(|rows| Seed {
                flow,
                rows,
                told: false,
            }));
        }
        if let Some(log) = &mut self.log {
            log.stored();
        }
    }
}
