//! Ticks of earlier times, as they came: what a replay plays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::bail;
use dataflows::Tick;

use super::storage::Take;
use crate::log::{LogError, LogStore, Manifest, Record, TickRecord};

/// Ticks that are still known, as they came.
pub(in crate::engine) trait Tape: Send {
    /// Since which tick each source's rows are all known, by source: 0 where all that ever came are. A source that
    /// is not there is not kept.
    fn since(&self) -> BTreeMap<String, Tick>;

    /// The newest tick.
    fn through(&self) -> Tick;

    /// Hands every tick up to one, oldest first; of sources not in `sources` (where given) no rows are handed.
    fn play(&self, through: Tick, sources: Option<&BTreeSet<String>>, take: Take<'_, TickRecord>)
    -> anyhow::Result<()>;
}

/// The ticks that the log holds: those since the last checkpoint.
pub(in crate::engine) struct LogTape {
    store: Arc<LogStore>,
    /// The number of the first record.
    from: u64,
    since: BTreeMap<String, Tick>,
    through: Tick,
}

impl LogTape {
    /// Looks at what a log holds of these sources. Without `through`, all of it is read to find its end.
    ///
    /// # Errors
    /// When the log cannot be read or is damaged.
    pub(in crate::engine) fn new(
        store: Arc<LogStore>,
        sources: impl IntoIterator<Item = String>,
        through: Option<Tick>,
    ) -> Result<LogTape, LogError> {
        let manifest = store.meta::<Manifest>("checkpoint")?;
        let (from, since) = match &manifest {
            Some(manifest) => (manifest.log_from, manifest.tick + 1),
            None => (1, 0),
        };
        let through = match through {
            Some(through) => through,
            None => {
                let mut newest = manifest.as_ref().map_or(0, |manifest| manifest.tick);
                store.replay(from, |_, record, _| -> Result<(), LogError> {
                    newest = newest.max(record.tick());
                    Ok(())
                })?;
                newest
            }
        };
        Ok(LogTape {
            store,
            from,
            since: sources.into_iter().map(|source| (source, since)).collect(),
            through,
        })
    }

    /// Tells whether a checkpoint has taken the place of the records since this was made.
    fn is_gone(&self) -> bool {
        let manifest = self.store.meta::<Manifest>("checkpoint");
        manifest.is_ok_and(|manifest| manifest.is_some_and(|manifest| manifest.log_from > self.from))
    }
}

impl Tape for LogTape {
    fn since(&self) -> BTreeMap<String, Tick> {
        self.since.clone()
    }

    fn through(&self) -> Tick {
        self.through
    }

    fn play(
        &self,
        through: Tick,
        sources: Option<&BTreeSet<String>>,
        take: Take<'_, TickRecord>,
    ) -> anyhow::Result<()> {
        let mut begun = false;
        let played = self.store.replay(self.from, |_, record, _| -> Result<(), Ended> {
            begun = true;
            let Record::Tick(mut record) = record else {
                return Ok(());
            };
            if record.tick > through {
                return Err(Ended::There);
            }
            if let Some(sources) = sources {
                record.entries.retain(|entry| sources.contains(&*entry.source));
            }
            take(record).map_err(Ended::Failed)
        });
        match played {
            Ok(()) | Err(Ended::There) => Ok(()),
            Err(Ended::Failed(_)) if !begun && self.is_gone() => bail!(
                "a checkpoint was written at this moment, and the ticks before it are known no more\n  \
                 hint: Ask again, for a time after it."
            ),
            Err(Ended::Failed(error)) => Err(error),
        }
    }
}

/// Why the log was not read any further.
enum Ended {
    /// What follows was not asked for.
    There,
    Failed(anyhow::Error),
}

impl From<LogError> for Ended {
    fn from(error: LogError) -> Self {
        Ended::Failed(error.into())
    }
}
