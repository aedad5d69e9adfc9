//! The thread that writes checkpoints, where it takes rows to history: finished rows of views, raw input of sources.
//!
//! Files are written before the checkpoint that names them, and removed once none that counts does and nobody reads
//! them. What cannot be written (a bucket that does not answer) stays where it is, and goes with the next checkpoint.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use anyhow::Context;
use arrow::array::RecordBatch;
use futures_util::TryStreamExt;
use queries::cold::{Cold, ColdFile, Span};
use tokio::runtime::{Builder, Runtime};

use super::raw::Raw;
use crate::history::{Archive, FileEntry, HistoryError, Inventory, KeptView, Stored, expired, plan_compaction};
use crate::log::{Checkpoint, KeepView, LogStore, Manifest, Rows};

/// History, and a place to wait for it: it may be far away.
pub(super) struct Door {
    pub(super) archive: Archive,
    /// Taken on drop only: a runtime may not be waited for inside another.
    runtime: Option<Runtime>,
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.context("could not start the runtime of history")
}

/// Waits for what history is asked, outside of any runtime.
///
/// # Errors
/// When no runtime can be started.
pub(super) fn wait<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    Ok(runtime()?.block_on(future))
}

impl Door {
    /// Opens the history of a data folder, and removes files that are left from a crash if it is to be written to.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub(super) fn open(place: &str, owner: &str, swept: Option<&Inventory>) -> anyhow::Result<Door> {
        // Whoever starts an engine may be inside a runtime of its own, where none can be waited for.
        let opened = std::thread::scope(|scope| {
            let opening = scope.spawn(|| -> anyhow::Result<Door> {
                let runtime = runtime()?;
                let archive = runtime.block_on(Archive::open(place, owner))?;
                let door = Door {
                    archive,
                    runtime: Some(runtime),
                };
                if let Some(inventory) = swept {
                    let orphans = door.sweep(inventory)?;
                    if orphans > 0 {
                        tracing::info!(files = orphans, "removed files of history that were left from a crash");
                    }
                }
                Ok(door)
            });
            opening.join()
        });
        opened.unwrap_or_else(|_| Err(anyhow::anyhow!("opening the history panicked")))
    }

    /// Returns another way into the same history.
    pub(super) fn again(&self) -> anyhow::Result<Door> {
        Ok(Door {
            archive: self.archive.clone(),
            runtime: Some(runtime()?),
        })
    }

    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let runtime = self.runtime.as_ref().expect("it is taken on drop only");
        runtime.block_on(future)
    }

    /// Reads rows of a view whose bucket is in a span, in microseconds.
    pub(super) fn rows(
        &self,
        cold: &Cold,
        schema: &arrow::datatypes::SchemaRef,
        span: &Span,
        take: &mut dyn FnMut(RecordBatch) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.wait(async {
            let mut rows = cold.stream(schema, Some(span))?;
            while let Some(batch) = rows.try_next().await? {
                take(batch)?;
            }
            Ok(())
        })
    }

    /// Removes files that no manifest names: they are left from a crash.
    fn sweep(&self, inventory: &Inventory) -> Result<usize, HistoryError> {
        let entries: Vec<FileEntry> = inventory.entries().cloned().collect();
        self.wait(async {
            let orphans = self.archive.orphans(&entries).await?;
            self.archive.remove(&orphans).await?;
            Ok(orphans.len())
        })
    }
}

/// Copies files of history into a folder of a backup, or out of one; tells whether all were there.
///
/// # Errors
/// When either place cannot be used, or a file is damaged.
pub fn copy_history(from: &str, to: &str, owner: &str, inventory: &Inventory) -> anyhow::Result<bool> {
    if inventory.entries().next().is_none() {
        return Ok(true);
    }
    let to = Door::open(to, owner, None)?;
    let from = Door::open(from, owner, None)?;
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| from.wait(from.archive.copy(inventory.entries(), &to.archive)));
        let copied = copying
            .join()
            .map_err(|_| anyhow::anyhow!("copying the history panicked"))?;
        Ok(copied?)
    })
}

/// Reads every file of history and compares it with its checksums; returns how many rows and bytes they hold.
///
/// # Errors
/// Names what is damaged or missing.
pub fn verify_history(place: &str, owner: &str, inventory: &Inventory) -> anyhow::Result<(u64, u64)> {
    let door = Door::open(place, owner, None)?;
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| -> anyhow::Result<(u64, u64)> {
            let (mut rows, mut bytes) = (0, 0);
            for entry in inventory.entries() {
                door.wait(door.archive.verify(entry))?;
                rows += entry.rows;
                bytes += entry.bytes;
            }
            Ok((rows, bytes))
        });
        reading
            .join()
            .map_err(|_| anyhow::anyhow!("reading the history panicked"))?
    })
}

/// What there is of history now, for whoever reads it.
#[derive(Default)]
pub(super) struct Holdings(Mutex<Held>);

#[derive(Default)]
pub(super) struct Held {
    pub(super) inventory: Inventory,
    /// The files of each source's raw input.
    pub(super) sources: BTreeMap<String, Cold>,
    /// Files that others than the keeper handed to readers.
    pub(super) watched: Vec<Weak<[ColdFile]>>,
    /// Why rows could not be taken there last, if they could not.
    pub(super) failure: Option<String>,
}

impl Holdings {
    pub(super) fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes rows to history, on the thread that writes checkpoints.
pub(super) struct Keeper {
    door: Door,
    store: Arc<LogStore>,
    data: PathBuf,
    inventory: Inventory,
    holdings: Arc<Holdings>,
    /// Files that count no more, and all that readers may hold.
    retired: Vec<String>,
    held: Vec<Weak<[ColdFile]>>,
}

impl Keeper {
    pub(super) fn new(
        door: Door,
        store: Arc<LogStore>,
        data: PathBuf,
        inventory: Inventory,
        holdings: Arc<Holdings>,
    ) -> Keeper {
        let mut keeper = Keeper {
            door,
            store,
            data,
            inventory: inventory.clone(),
            holdings,
            retired: Vec::new(),
            held: Vec::new(),
        };
        keeper.counts(inventory, None);
        keeper
    }

    /// Takes what a checkpoint holds of finished rows, and the input that the log forgets with it, to history. What
    /// went there is taken out of the checkpoint.
    pub(super) fn keep(&mut self, checkpoint: &mut Checkpoint, last: Option<&Manifest>) -> Keeping {
        let mut inventory = self.inventory.clone();
        let (mut stored, mut failure) = (Vec::new(), None);
        let views = std::mem::take(&mut checkpoint.keep.views);
        let before = std::mem::take(&mut inventory.views);
        for (name, keep) in views {
            // One that was dropped and declared anew begins anew.
            let known = before
                .get(&name)
                .filter(|known| known.fingerprint == keep.layout.fingerprint() && keep.stored >= known.stored);
            match self.view(&name, &keep, known.cloned(), &mut inventory.sequence) {
                Ok((view, moved)) => {
                    inventory.views.insert(name.clone(), view);
                    checkpoint.rows[1].insert(name, Rows::Any(Vec::new()));
                    stored.push(moved);
                }
                Err(error) => {
                    tracing::warn!(
                        view = name,
                        error = format!("{error:#}"),
                        "could not take rows to history; they stay in memory"
                    );
                    failure = Some(format!("{name}: {error:#}"));
                    let open: u64 = keep.rows.iter().map(|rows| rows.num_rows() as u64).sum();
                    inventory.views.extend(known.cloned().map(|known| {
                        let known = KeptView {
                            gone: keep.gone,
                            limit: keep.limit,
                            horizon: keep.limit,
                            rows: keep.count.saturating_sub(open),
                            ..known
                        };
                        (name, known)
                    }));
                }
            }
        }
        let raw = Raw {
            door: &self.door,
            store: &self.store,
            data: &self.data,
        };
        if let Err(error) = raw.keep(checkpoint, last, &mut inventory) {
            tracing::warn!(
                error = format!("{error:#}"),
                "could not take raw input to history; it stays in the log"
            );
            failure = Some(format!("{error:#}"));
        }
        Keeping {
            inventory,
            stored,
            failure,
        }
    }

    fn view(
        &mut self,
        name: &str,
        keep: &KeepView,
        known: Option<KeptView>,
        sequence: &mut u64,
    ) -> anyhow::Result<(KeptView, Stored)> {
        let us = |value: i64| value.saturating_mul(keep.unit_us);
        let mut entries = known.map_or_else(Vec::new, |known| known.entries);
        for some in pieces(&keep.rows) {
            *sequence += 1;
            let written = self.door.wait(self.door.archive.write(&keep.layout, some, *sequence))?;
            entries.extend(written);
        }
        let over = expired(&entries, us(keep.gone));
        entries.retain(|entry| !over.iter().any(|over| over.path == entry.path));
        let cold = self.cold(&entries);
        // What is to leave next, of what was in files only.
        let (from, to) = (keep.limit.min(keep.stored), keep.horizon.min(keep.stored));
        let mut held = Vec::new();
        if from < to && !entries.is_empty() {
            let span = Span {
                column: keep.layout.time().unwrap_or_default().to_owned(),
                from_us: Some(us(from.max(keep.gone))),
                to_us: Some(us(to)),
            };
            self.door.rows(&cold, keep.layout.schema(), &span, &mut |rows| {
                held.push(rows);
                Ok(())
            })?;
        }
        let view = KeptView {
            entries,
            stored: keep.below,
            gone: keep.gone,
            limit: keep.limit,
            horizon: keep.horizon,
            rows: keep.count,
            fingerprint: keep.layout.fingerprint().to_owned(),
        };
        let stored = Stored {
            view: name.to_owned(),
            stored: keep.below,
            horizon: keep.horizon,
            cold,
            held,
        };
        Ok((view, stored))
    }

    /// Hands files to readers, and remembers that it did.
    fn cold(&mut self, entries: &[FileEntry]) -> Cold {
        let cold = self.door.archive.cold(entries);
        self.held.push(cold.watch());
        cold
    }

    /// Hears that an inventory counts from now on.
    pub(super) fn counts(&mut self, inventory: Inventory, failure: Option<String>) {
        let named: Vec<&str> = inventory.entries().map(|entry| entry.path.as_str()).collect();
        let gone = self.inventory.entries().map(|entry| &entry.path);
        self.retired
            .extend(gone.filter(|path| !named.contains(&path.as_str())).cloned());
        let mut sources = BTreeMap::new();
        for (name, kept) in &inventory.sources {
            sources.insert(name.clone(), self.cold(&kept.entries));
        }
        self.inventory = inventory.clone();
        {
            let mut holdings = self.holdings.lock();
            self.held.append(&mut holdings.watched);
            holdings.inventory = inventory;
            holdings.sources = sources;
            holdings.failure = failure;
        }
        self.remove();
    }

    /// Removes files that count no more and that nobody reads.
    fn remove(&mut self) {
        self.held.retain(|held| held.strong_count() > 0);
        let held: Vec<Arc<[ColdFile]>> = self.held.iter().filter_map(Weak::upgrade).collect();
        let is_read = |path: &String| held.iter().any(|files| files.iter().any(|file| file.path == *path));
        let (stay, go): (Vec<String>, Vec<String>) = std::mem::take(&mut self.retired).into_iter().partition(is_read);
        self.retired = stay;
        if go.is_empty() {
            return;
        }
        if let Err(error) = self.door.wait(self.door.archive.remove(&go)) {
            // What cannot be removed now is an orphan of the next start.
            tracing::warn!(error = format!("{error:#}"), "could not remove files of history");
        }
    }

    /// Merges small files, group by group; each time `name` makes sure that the new ones count.
    pub(super) fn merge(&mut self, name: &dyn Fn(Inventory) -> bool) -> Vec<(String, Cold)> {
        let mut merged: BTreeMap<String, Cold> = BTreeMap::new();
        for (relation, is_view) in self.relations() {
            let mut group = 0;
            loop {
                let entries = self.entries_of(&relation, is_view);
                let Some(files) = plan_compaction(entries).into_iter().nth(group) else {
                    break;
                };
                let mut inventory = self.inventory.clone();
                inventory.sequence += 1;
                let file = match self.door.wait(self.door.archive.compact(&files, inventory.sequence)) {
                    Ok(file) => file,
                    Err(error) => {
                        tracing::warn!(
                            relation,
                            error = format!("{error:#}"),
                            "could not merge files of history"
                        );
                        // The others may be whole.
                        group += 1;
                        continue;
                    }
                };
                let entries = match is_view {
                    true => inventory.views.get_mut(&relation).map(|view| &mut view.entries),
                    false => inventory.sources.get_mut(&relation).map(|source| &mut source.entries),
                };
                let Some(entries) = entries else { break };
                entries.retain(|entry| !files.iter().any(|gone| gone.path == entry.path));
                entries.push(file);
                if !name(inventory.clone()) {
                    return merged.into_iter().collect();
                }
                let cold = is_view.then(|| self.door.archive.cold(&inventory.views[&relation].entries));
                if let Some(cold) = cold {
                    self.held.push(cold.watch());
                    merged.insert(relation.clone(), cold);
                }
                let failure = self.holdings.lock().failure.clone();
                self.counts(inventory, failure);
            }
        }
        merged.into_iter().collect()
    }

    fn relations(&self) -> Vec<(String, bool)> {
        let views = self.inventory.views.keys().map(|name| (name.clone(), true));
        views
            .chain(self.inventory.sources.keys().map(|name| (name.clone(), false)))
            .collect()
    }

    fn entries_of(&self, relation: &str, is_view: bool) -> &[FileEntry] {
        let entries = match is_view {
            true => self.inventory.views.get(relation).map(|view| &view.entries),
            false => self.inventory.sources.get(relation).map(|source| &source.entries),
        };
        entries.map_or(&[], Vec::as_slice)
    }
}

/// What a checkpoint took to history.
pub(super) struct Keeping {
    pub(super) inventory: Inventory,
    pub(super) stored: Vec<Stored>,
    pub(super) failure: Option<String>,
}

/// Rows written at once, about.
const WRITE_ROWS: usize = 1_000_000;

/// Cuts batches into runs of not too many rows.
fn pieces(batches: &[RecordBatch]) -> Vec<&[RecordBatch]> {
    let mut pieces = Vec::new();
    let (mut from, mut rows) = (0, 0);
    for (place, batch) in batches.iter().enumerate() {
        if rows > 0 && rows + batch.num_rows() > WRITE_ROWS {
            pieces.push(&batches[from..place]);
            (from, rows) = (place, 0);
        }
        rows += batch.num_rows();
    }
    if rows > 0 {
        pieces.push(&batches[from..]);
    }
    pieces
}
