//! Ticks of earlier times, as they came: what a replay plays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use dataflows::Tick;
use queries::cold::Cold;

use super::keeping::{Door, Holdings, wait};
use super::reels::{self, Played};
use super::storage::Take;
use super::{TICKS, raw};
use crate::config::{Deployment, Source};
use crate::history::{Inventory, KeptSource};
use crate::log::{LogError, LogStore, Manifest, Record, TickRecord};

/// Since when the rows of a source are all known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Known {
    /// From this tick on; 0 where all that ever came are.
    pub(in crate::engine) since: Tick,
    /// Whether what was there before, and mattered still, is played, too.
    pub(in crate::engine) whole: bool,
}

/// Ticks that are still known, as they came.
pub(in crate::engine) trait Tape: Send {
    /// Since when each source's rows are all known, by source. A source that is not there is not kept.
    fn since(&self) -> BTreeMap<String, Known>;

    /// The newest tick.
    fn through(&self) -> Tick;

    /// Hands every tick up to one, oldest first; of sources not in `sources` (where given) no rows are handed.
    fn play(&self, through: Tick, sources: Option<&BTreeSet<String>>, take: Take<'_, TickRecord>)
    -> anyhow::Result<()>;
}

/// Raw input in files of history.
#[derive(Clone, Default)]
struct Files {
    /// The number of the first record of the log whose input is not among them.
    records_from: u64,
    sources: BTreeMap<String, (KeptSource, Cold)>,
}

/// Where files are.
enum Shelf {
    /// A program runs, and more come.
    Held(Arc<Holdings>),
    /// They are what they are.
    Still(Files),
}

impl Shelf {
    fn files(&self) -> Files {
        match self {
            Shelf::Still(files) => files.clone(),
            Shelf::Held(holdings) => {
                let held = holdings.lock();
                let sources = held.inventory.sources.iter();
                let sources = sources.filter_map(|(name, kept)| {
                    let cold = held.sources.get(name)?.clone();
                    Some((name.clone(), (kept.clone(), cold)))
                });
                Files {
                    records_from: held.inventory.records_from,
                    sources: sources.collect(),
                }
            }
        }
    }
}

/// The ticks in history, and those that the log holds since.
pub(in crate::engine) struct Recorded {
    store: Arc<LogStore>,
    shelf: Shelf,
    sources: Vec<Source>,
    since: BTreeMap<String, Known>,
    through: Tick,
}

/// How often is looked again, where a checkpoint takes records from the log to files at the same moment.
const ATTEMPTS: usize = 100;

impl Recorded {
    /// Looks at what a running deployment holds of its sources, up to a tick.
    ///
    /// # Errors
    /// When the log cannot be read or is damaged.
    pub(in crate::engine) fn running(
        store: Arc<LogStore>,
        holdings: Arc<Holdings>,
        deployment: &Deployment,
        through: Tick,
    ) -> Result<Recorded, LogError> {
        Recorded::new(store, Shelf::Held(holdings), &deployment.sources, Some(through))
    }

    /// Looks at what a data folder holds of sources; all of its log is read to find the end.
    ///
    /// # Errors
    /// When the log cannot be read or is damaged, or the history cannot be opened.
    pub(in crate::engine) fn stopped(data: &Path, deployments: [&Deployment; 2]) -> anyhow::Result<Recorded> {
        let store = Arc::new(LogStore::open(data)?);
        let inventory: Inventory = store.meta("history")?.unwrap_or_default();
        let mut files = Files {
            records_from: inventory.records_from,
            sources: BTreeMap::new(),
        };
        if !inventory.sources.is_empty() {
            // A backup has its history beside it.
            let beside = data.join(super::BACKUP_HISTORY);
            let place = match beside.is_dir() {
                true => beside.display().to_string(),
                false => deployments[0].history(data),
            };
            let door = Door::open(&place, &store.owner(), None).context("could not open the history")?;
            for (name, kept) in inventory.sources {
                let cold = door.archive.cold(&kept.entries);
                files.sources.insert(name, (kept, cold));
            }
        }
        let mut sources: Vec<Source> = deployments[0].sources.clone();
        let more = deployments[1].sources.iter();
        sources.extend(
            more.filter(|more| !deployments[0].sources.iter().any(|one| one.name == more.name))
                .cloned(),
        );
        Ok(Recorded::new(store, Shelf::Still(files), &sources, None)?)
    }

    fn new(
        store: Arc<LogStore>,
        shelf: Shelf,
        sources: &[Source],
        through: Option<Tick>,
    ) -> Result<Recorded, LogError> {
        let manifest = store.meta::<Manifest>("checkpoint")?;
        let files = shelf.files();
        let of_log = match &manifest {
            Some(manifest) => Known {
                since: manifest.tick + 1,
                whole: false,
            },
            None => Known { since: 0, whole: true },
        };
        let since = sources.iter().map(|source| {
            let known = match files.sources.get(&source.name) {
                Some((kept, _)) => Known {
                    since: kept.since,
                    whole: true,
                },
                None => of_log,
            };
            (source.name.clone(), known)
        });
        let mut recorded = Recorded {
            store,
            since: since.collect(),
            shelf,
            sources: sources.to_vec(),
            through: through.unwrap_or(0),
        };
        if through.is_none() {
            let mut newest = manifest.as_ref().map_or(0, |manifest| manifest.tick);
            recorded
                .store
                .replay(recorded.from(&files)?, |_, record, _| -> Result<(), LogError> {
                    newest = newest.max(record.tick());
                    Ok(())
                })?;
            recorded.through = newest;
        }
        Ok(recorded)
    }

    /// Returns the number of the first record that is read of the log.
    fn from(&self, files: &Files) -> Result<u64, LogError> {
        let manifest = self.store.meta::<Manifest>("checkpoint")?;
        Ok(match (files.sources.is_empty(), manifest) {
            (false, _) => files.records_from,
            (true, Some(manifest)) => manifest.log_from,
            (true, None) => 1,
        })
    }

    /// Hands the ticks in files.
    fn play_files(
        &self,
        files: &Files,
        through: Tick,
        sources: Option<&BTreeSet<String>>,
        take: Take<'_, TickRecord>,
    ) -> anyhow::Result<()> {
        let mut played: Vec<Played> = Vec::new();
        for (name, (_, cold)) in &files.sources {
            if name == TICKS {
                played.push((name.as_str().into(), raw::layout_of_ticks()?, cold.clone()));
            } else if let Some(source) = self.sources.iter().find(|source| source.name == *name)
                && sources.is_none_or(|sources| sources.contains(name))
            {
                played.push((name.as_str().into(), raw::layout(source)?, cold.clone()));
            }
        }
        wait(reels::play(played, through, take))?
    }

    /// Tells whether records before one are in the log no more.
    fn is_gone(&self, from: u64) -> bool {
        let first = self.store.first();
        first.is_ok_and(|first| first.is_none_or(|first| first > from))
    }
}

impl Tape for Recorded {
    fn since(&self) -> BTreeMap<String, Known> {
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
        let mut last = None;
        for attempt in 1.. {
            let files = self.shelf.files();
            let from = self.from(&files)?;
            // Ticks that were handed are not handed again.
            self.play_files(&files, through, sources, &mut |record| {
                if last.is_some_and(|last| record.tick <= last) {
                    return Ok(());
                }
                last = Some(record.tick);
                take(record)
            })?;
            let mut begun = false;
            let played = self.store.replay(from, |_, record, _| -> Result<(), Ended> {
                begun = true;
                let Record::Tick(mut record) = record else {
                    return Ok(());
                };
                if record.tick > through {
                    return Err(Ended::There);
                }
                if last.is_some_and(|last| record.tick <= last) {
                    return Ok(());
                }
                if let Some(sources) = sources {
                    record.entries.retain(|entry| sources.contains(&*entry.source));
                }
                take(record).map_err(Ended::Failed)
            });
            match played {
                Ok(()) | Err(Ended::There) => return Ok(()),
                // A checkpoint took them to files a moment ago.
                Err(Ended::Failed(_)) if !begun && attempt < ATTEMPTS && self.is_gone(from) => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Err(Ended::Failed(error)) => return Err(error),
            }
        }
        Ok(())
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
