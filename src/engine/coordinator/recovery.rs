//! How a start goes on where the last run ended: with the newest checkpoint, and the ticks that followed it.
//!
//! The ticks of the log go the way they went, through the same code: nothing is decided anew by a clock. What was
//! told of them outside stands in the log, too, and is not told again; what was not is told now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use arrow::array::RecordBatch;
use connectors::Position;
use dataflows::Tick;
use dataflows::plan::Reach;
use dataflows::workers::{FlowId, Seed};
use queries::cold::Span;
use serde_json::Value;
use tokio::sync::oneshot;

use super::super::alerts;
use super::super::closing::{self, SavedClosing};
use super::super::filling::{Contents, Fill, Filling};
use super::super::flows::Running;
use super::super::readers;
use super::super::shared::Recovery;
use super::super::storage::Past;
use super::super::store::Run;
use super::super::{idempotency, letters};
use super::playing::Again;
use super::{Coordinator, Inbox};
use crate::history::{KeptView, Stored};
use crate::log::{Manifest, Part, Record};

/// How long a worker may take for one tick of the past before the start is given up.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// What earlier runs have written down, and what of it may go.
pub(in crate::engine) struct Recovered {
    pub(in crate::engine) past: Box<dyn Past>,
    /// Sources whose rows may be forgotten where they are declared no more.
    pub(in crate::engine) forget: Vec<String>,
}

impl Coordinator {
    /// Brings everything to where the last run ended; the doors are closed meanwhile.
    ///
    /// # Errors
    /// When the data folder is damaged or does not fit the deployment, or a worker dies.
    pub(in crate::engine) fn recover(&mut self, recovered: Recovered, inbox: &Inbox) -> anyhow::Result<Vec<Position>> {
        let mut progress = Recovery::default();
        let (manifest, extent) = (recovered.past.manifest().cloned(), recovered.past.extent());
        if let Some((_, last, bytes)) = extent {
            self.durable = last;
            progress.bytes.1 = bytes;
        }
        self.saving.found(
            progress.bytes.1,
            manifest.as_ref().map_or(0, |manifest| manifest.log_from),
        );
        match &manifest {
            Some(manifest) => self.load(manifest, &recovered, &mut progress, inbox)?,
            None => self.shared.set_recovery(Some(progress)),
        }
        let from = match (&manifest, extent) {
            (Some(manifest), _) => manifest.log_from,
            (None, Some((first, ..))) => first,
            (None, None) => 1,
        };
        self.replay(from, &recovered, &mut progress, inbox)?;
        self.wait(inbox, |coordinator| coordinator.is_settled())?;
        self.greet(manifest.as_ref(), &recovered)?;
        // Ticks that were told before need not be known any more.
        self.tell_what_differs();
        self.wait(inbox, |coordinator| coordinator.is_settled())?;
        // The last run did not get to say that history is read: the next tick does.
        let waiting = std::mem::take(&mut self.after_load);
        if !waiting.is_empty() {
            self.storing = Some(waiting);
        }
        if self.clock.last() == 0 {
            self.first_tick();
        }
        self.shared.acknowledged.fetch_max(self.clock.last(), Ordering::SeqCst);
        self.shared.set_recovery(None);
        Ok(self.positions.clone())
    }

    /// Takes a checkpoint in.
    fn load(
        &mut self,
        manifest: &Manifest,
        recovered: &Recovered,
        progress: &mut Recovery,
        inbox: &Inbox,
    ) -> anyhow::Result<()> {
        let tick = manifest.tick;
        let parts = manifest.sources.values().flat_map(|source| &source.parts);
        // Each row is read, and then fed.
        progress.rows.1 = 2 * parts.map(|part| part.rows).sum::<u64>();
        self.shared.set_recovery(Some(*progress));
        self.clock.resume(tick);
        for (name, saved) in &manifest.sources {
            let Some(position) = self.topology.source(name) else {
                let rows: u64 = saved.parts.iter().map(|part| part.rows).sum();
                if rows == 0 || recovered.forget.contains(name) {
                    tracing::warn!(
                        source = name,
                        rows,
                        "a source is declared no more; its rows are forgotten"
                    );
                    continue;
                }
                bail!(
                    "the data folder holds {rows} rows of source \"{name}\", which the deployment declares no more\n  \
                     hint: Put sources/{name}.toml back, or start with `--forget {name}` to drop them."
                );
            };
            let shape = self.sources[position].shape();
            if let Some(what) = misfit(&saved.shape, &shape) {
                bail!(
                    "source \"{name}\" is declared differently from what {} holds: {what}\n  \
                     hint: Put it back as it was. Columns that may be NULL can be added. To begin anew, name another \
                     folder with --data.",
                    recovered.past.place()
                );
            }
            let state = &saved.state["relation"];
            let fits = self.sources[position]
                .restore(state)
                .context("could not read a source's clock")?;
            if !fits {
                tracing::info!(source = name, "retain has changed: rows expire by it from now on");
            }
            for part in &saved.parts {
                recovered.past.part(part, &mut |rows| {
                    progress.rows.0 += rows.num_rows() as u64;
                    self.shared.set_recovery(Some(*progress));
                    let loaded = self.sources[position].load(part.segment, rows, state);
                    loaded.map_err(|what| anyhow::anyhow!("could not take in rows of source \"{name}\": {what}"))
                })?;
            }
            let entry = &self.topology.sources[position];
            let changes = self.sources[position].take_changes();
            self.sources[position]
                .restore(state)
                .context("could not read a source's clock")?;
            entry
                .relation
                .store
                .complete(Run::new(tick, changes.updates, changes.steps));
            entry.observe(self.sources[position].clock_us(), self.sources[position].watermark_us());
            if let Ok(counts) = serde_json::from_value(saved.state["counts"].clone()) {
                entry.set_counts(counts);
            }
            self.positions[position] = saved.position.clone();
        }
        for source in &self.topology.sources {
            source.relation.cut(tick, false);
            source.relation.store.told_from(tick);
        }
        let seeds = self.load_views(manifest, recovered)?;
        self.load_tables(manifest, recovered)?;
        self.feed(tick, seeds, progress, inbox)
    }

    /// Takes in how far views are closed, and the rows of closed buckets that are to be in memory.
    fn load_views(&mut self, manifest: &Manifest, recovered: &Recovered) -> anyhow::Result<Vec<Seed>> {
        let mut seeds = Vec::new();
        let mut inventory = recovered.past.inventory();
        for (name, saved) in &manifest.views {
            let history = inventory.views.remove(name);
            let flows = self.topology.flows.values();
            let flow = flows.filter(|flow| flow.name() == name);
            let flow = flow.into_iter().find_map(|flow| Some((flow, flow.view.as_ref()?)));
            let Some((flow, definition)) = flow.filter(|(_, definition)| definition.view.closing.is_some()) else {
                if history.is_some_and(|history| history.rows > 0) && !recovered.forget.contains(name) {
                    bail!(
                        "the data folder holds history of view \"{name}\", which the deployment does not keep any more\n  \
                         hint: Put it back with its `keep`, or start with `--forget {name}` to drop its history."
                    );
                }
                tracing::warn!(view = name, "a view is declared no more; its closed rows are forgotten");
                continue;
            };
            let (id, relation) = (flow.spec.id, Arc::clone(&flow.relation));
            let is_same = saved.state["definition"].as_u64() == Some(relation.relation.definition);
            let layout = closing::layout(&definition.view);
            let fits = |history: &KeptView| {
                layout
                    .as_ref()
                    .is_ok_and(|layout| layout.fingerprint() == history.fingerprint)
            };
            match &history {
                // Finished rows stay as they were made, where they are rows of the same columns.
                Some(history) if fits(history) => {}
                Some(history) if history.rows > 0 && !recovered.forget.contains(name) => bail!(
                    "view \"{name}\" has other columns than its history, which holds {} rows\n  \
                     hint: Give the new view another name, or start with `--forget {name}` to drop the history.",
                    history.rows
                ),
                _ if is_same => {}
                _ => {
                    tracing::warn!(view = name, "a view is another now; its closed rows are forgotten");
                    continue;
                }
            }
            let closing: SavedClosing = serde_json::from_value(saved.state["closed"].clone())
                .context("could not read how far a view is closed")?;
            let rules = closing::rules(&self.topology.deployment, name);
            let by_the_same = is_same && saved.state["rules"].as_u64() == rules && recovered.forget.is_empty();
            self.closings.restore(name, &closing, by_the_same);
            for part in &saved.parts {
                recovered.past.part(part, &mut |rows| {
                    seeds.push(Seed {
                        flow: id,
                        rows,
                        told: true,
                    });
                    Ok(())
                })?;
            }
            if let Some(history) = history.filter(fits) {
                self.load_history(manifest.tick, name, &history, recovered, &mut seeds)?;
            }
        }
        Ok(seeds)
    }

    /// Takes in of a view's history what it and its readers hold in memory; the rest is read where it is.
    fn load_history(
        &mut self,
        tick: Tick,
        name: &str,
        history: &KeptView,
        recovered: &Recovered,
        seeds: &mut Vec<Seed>,
    ) -> anyhow::Result<()> {
        let Some(entry) = self.topology.relation(name).map(Arc::clone) else {
            return Ok(());
        };
        let (Some((held, mut rows)), Some(cold)) =
            (self.closings.restore_history(name, history), recovered.past.cold(name))
        else {
            return Ok(());
        };
        rows.cold = Some(cold.clone());
        let shown = match rows.from_us {
            Some(from_us) => cold.clone().with_from(from_us),
            None => cold.clone(),
        };
        entry.store.begin_with(shown, history.rows);
        let Some((flow, unit_us)) = self.closings.place(name) else {
            return Ok(());
        };
        let readers = readers::look_back(&self.topology.deployment.views, name, rows.bucket);
        let us = |value: i64| value.saturating_mul(unit_us);
        let (stored_us, held_us) = (us(history.stored), us(held));
        let from_us = match readers {
            Reach::None => stored_us,
            Reach::Back(back_us) => i64::try_from(tick).unwrap_or(i64::MAX).saturating_sub(back_us),
            Reach::All => i64::MIN,
        };
        let column = entry.relation.schema.field(rows.bucket).name().clone();
        let gone_us = rows.from_us.unwrap_or(i64::MIN);
        // Those that leave next, and those that readers look back to.
        let spans = match from_us <= held_us {
            true => vec![(gone_us, stored_us)],
            false => vec![(gone_us, held_us.min(stored_us)), (from_us, stored_us)],
        };
        for (from_us, to_us) in spans.into_iter().filter(|(from_us, to_us)| from_us < to_us) {
            let span = Span {
                column: column.clone(),
                from_us: (from_us > i64::MIN).then_some(from_us),
                to_us: Some(to_us),
            };
            recovered
                .past
                .finished(name, &entry.relation.schema, &span, &mut |rows| {
                    seeds.push(Seed { flow, rows, told: true });
                    Ok(())
                })?;
        }
        let moved = Stored {
            view: name.to_owned(),
            stored: history.stored,
            horizon: history.horizon,
            cold,
            held: Vec::new(),
        };
        self.reread.push((entry, rows));
        self.after_load.push(moved);
        Ok(())
    }

    /// Takes in what the engine itself keeps: letters, what happened to alerts, answers by key.
    fn load_tables(&mut self, manifest: &Manifest, recovered: &Recovered) -> anyhow::Result<()> {
        let read = |name: &str| -> anyhow::Result<Vec<RecordBatch>> {
            let mut batches = Vec::new();
            for part in manifest.tables.get(name).map_or(&[] as &[Part], Vec::as_slice) {
                recovered.past.part(part, &mut |rows| {
                    batches.push(rows);
                    Ok(())
                })?;
            }
            Ok(batches)
        };
        for rows in read(letters::LATE)? {
            self.shared
                .restore_late(&rows, manifest.state["late"].as_u64().unwrap_or(0));
        }
        for rows in read(letters::REJECTED)? {
            self.shared
                .restore_rejected(&rows, manifest.state["rejected"].as_u64().unwrap_or(0));
        }
        for rows in read(alerts::EVENTS)? {
            self.shared.restore_events(alerts::transitions(&rows));
        }
        for rows in read(idempotency::TABLE)? {
            self.answered.restore(&rows);
        }
        for running in self.flows.values().filter(|running| running.is_alert()) {
            self.told.knows(&running.relation.relation.name, manifest.tick);
        }
        for rows in read(alerts::STANDING)? {
            for standing in alerts::transitions(&rows) {
                self.told.stood(manifest.tick, standing);
            }
        }
        Ok(())
    }

    /// Feeds all views what sources retain.
    fn feed(&mut self, tick: Tick, seeds: Vec<Seed>, progress: &mut Recovery, inbox: &Inbox) -> anyhow::Result<()> {
        let mut contents: Vec<(Arc<str>, Vec<RecordBatch>)> = Vec::new();
        for source in &self.topology.sources {
            let rows = source.relation.store.snapshot(tick).unwrap_or_default();
            contents.push((Arc::clone(&source.name), rows));
        }
        // The smallest first: a row that comes late meets all its partners at once.
        contents.sort_by_key(|(_, batches)| batches.iter().map(RecordBatch::num_rows).sum::<usize>());
        let batches = contents
            .into_iter()
            .flat_map(|(name, batches)| batches.into_iter().map(move |rows| (Arc::clone(&name), rows)));
        let closed: Vec<_> = self.closings.closed();
        let running: BTreeMap<FlowId, Running> = std::mem::take(&mut self.flows);
        let mut filling = Filling::alone(running, seeds);
        let (reply, _filled) = oneshot::channel();
        let fill = Fill {
            through: tick,
            contents: Contents::new(batches),
            seeds: Vec::new(),
            closed: Vec::new(),
            topology: Arc::clone(&self.topology),
            sources: Vec::new(),
            remove: Vec::new(),
            reply,
        };
        filling.begin(Box::new(fill), closed);
        self.filling = Some(filling);
        self.fill();
        let read = progress.rows.0;
        while let Some(filling) = &self.filling {
            let left = filling.rows_left() as u64;
            progress.rows.0 = read.max(progress.rows.1.saturating_sub(left));
            self.shared.set_recovery(Some(*progress));
            self.hear(inbox)?;
            // No checkpoint: it would say that it holds the records that are still to come.
            self.fill();
            self.let_go();
        }
        // What is in files was in memory only to be fed.
        for (entry, rows) in std::mem::take(&mut self.reread) {
            entry.store.let_go(&rows);
        }
        Ok(())
    }

    /// Lets the ticks of the log go by again.
    fn replay(
        &mut self,
        from: u64,
        recovered: &Recovered,
        progress: &mut Recovery,
        inbox: &Inbox,
    ) -> anyhow::Result<()> {
        // What was told comes behind the tick of which it was: so it must be known before.
        let mut told = Vec::new();
        recovered.past.told(from, &mut |record| told.push(record))?;
        for told in told {
            self.told.note(&told);
            self.shared.restore_events(told.transitions);
        }
        let again = Again {
            passes_over: &|source| recovered.forget.iter().any(|name| name == source),
            place: &|| recovered.past.place(),
        };
        recovered.past.records(from, &mut |(record, bytes)| {
            progress.bytes.0 += bytes as u64;
            self.shared.set_recovery(Some(*progress));
            let Record::Tick(record) = record else { return Ok(()) };
            self.wait(inbox, |coordinator| {
                coordinator.in_flight.len() < coordinator.in_flight_max
            })?;
            self.play(record, &again)
        })
    }

    /// Waits for workers and the log until something holds.
    pub(super) fn wait(&mut self, inbox: &Inbox, holds: impl Fn(&Coordinator) -> bool) -> anyhow::Result<()> {
        while !holds(self) {
            self.hear(inbox)?;
        }
        Ok(())
    }

    /// Hears from a worker or from the log.
    pub(super) fn hear(&mut self, inbox: &Inbox) -> anyhow::Result<()> {
        crossbeam_channel::select! {
            recv(inbox.responses) -> response => match response {
                Ok(response) => self.answered(response),
                Err(_) => bail!("the workers have ended"),
            },
            recv(inbox.events) -> event => if let Ok(event) = event {
                self.logged(event);
            },
            default(PATIENCE) => bail!("a tick of the log was not answered within an hour"),
        }
        match self.shared.failure() {
            Some(reason) => bail!(reason),
            None => Ok(()),
        }
    }
}

/// Says how a source's rows differ from what is declared, where they cannot be taken in as they are.
fn misfit(was: &Value, is: &Value) -> Option<String> {
    for (word, before) in was.as_object()? {
        let now = &is[word];
        if word == "columns" {
            let columns = |value: &Value| -> BTreeMap<String, (Value, Value)> {
                let columns = value.as_array().into_iter().flatten();
                columns
                    .map(|column| {
                        (
                            column[0].as_str().unwrap_or_default().to_owned(),
                            (column[1].clone(), column[2].clone()),
                        )
                    })
                    .collect()
            };
            let (was, is) = (columns(before), columns(now));
            for (name, (data_type, nullable)) in &was {
                match is.get(name) {
                    None => return Some(format!("column \"{name}\" is gone")),
                    Some((now, _)) if now != data_type => {
                        return Some(format!("column \"{name}\" was {data_type} and is {now}"));
                    }
                    Some((_, now)) if nullable == true && now == false => {
                        return Some(format!("column \"{name}\" may be NULL no more"));
                    }
                    Some(_) => {}
                }
            }
            let added = is
                .iter()
                .find(|(name, (_, nullable))| !was.contains_key(*name) && nullable == false);
            if let Some((name, _)) = added {
                return Some(format!("column \"{name}\" is new and not NULL"));
            }
        } else if before != now {
            return Some(format!("{word} was {before} and is {now}"));
        }
    }
    None
}
