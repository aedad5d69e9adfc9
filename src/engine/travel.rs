//! What a running deployment showed at an earlier tick: found out by a replay.
//!
//! One replay goes on at a time, on a thread for work that blocks; others wait, and not for ever. The last one is kept
//! for a minute: who asks for a later tick next goes on from there. What came before all that is `known` may be missing.

mod known;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dataflows::{Tick, Updates};
use queries::Relations;
use tokio::sync::OwnedMutexGuard;

use super::Engine;
use super::coordinator::Seen;
use super::replay::{Event, Needed, Patience, Replay, TookTooLong, Wanted};
use super::tape::{Recorded, Tape};
use crate::config::{Clock, Deployment};

pub(super) use known::{WholeFrom, whole_from};

/// How long a replay is kept that nobody goes on from.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// Why nothing can be told of an earlier tick.
#[derive(Debug, thiserror::Error)]
pub enum TravelError {
    /// No source, view or alert has this name.
    #[error("there is no source or view \"{0}\"")]
    Unknown(String),
    /// Nothing is written down.
    #[error("nothing of this deployment survives, so nothing is known of earlier times")]
    NothingKept,
    /// It has not happened yet.
    #[error("{} has not come yet: it is {}", time(*.asked), time(*.now))]
    Future {
        /// What was asked for.
        asked: Tick,
        /// What time it is.
        now: Tick,
    },
    /// What came before is known no more.
    #[error("what \"{relation}\" was at {} is not known: {why}", time(*.asked))]
    NotKnown {
        /// What was asked for.
        relation: String,
        /// When.
        asked: Tick,
        /// What is missing.
        why: String,
        /// The first tick at which all is known, if there is one.
        from: Option<Tick>,
    },
    /// Others look back at this moment.
    #[error("others look back at this moment, and no more than one can")]
    Busy,
    /// It took too long.
    #[error("to play all that came until then took longer than {0} seconds, and was given up")]
    TooLong(u64),
    /// The engine has stopped, or is stopping.
    #[error("the engine has stopped")]
    Stopped,
    /// The ticks could not be read or played.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

impl TravelError {
    /// Returns what to do about it, in full sentences.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            TravelError::Unknown(_) | TravelError::Stopped | TravelError::Failed(_) => return None,
            TravelError::NothingKept => "Leave `durability = \"none\"` out of deployment.toml.".to_owned(),
            TravelError::Future { .. } => "Ask for a time that has passed.".to_owned(),
            TravelError::NotKnown { from: Some(from), .. } => format!("Ask for {} or later.", time(*from)),
            TravelError::NotKnown { from: None, .. } => {
                "Ask for what reads only sources of which all is known, or that `retain` rows for a time.".to_owned()
            }
            TravelError::Busy => "Ask again in a moment.".to_owned(),
            TravelError::TooLong(_) => "Ask for fewer relations, such as a view that reads few sources, or play the \
                                        ticks at leisure with `sangam backtest`."
                .to_owned(),
        })
    }
}

/// Writes a tick as people read times.
pub(crate) fn time(tick: Tick) -> String {
    let micros = i64::try_from(tick).unwrap_or(i64::MAX);
    match chrono::DateTime::from_timestamp_micros(micros) {
        Some(time) => time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
        None => tick.to_string(),
    }
}

/// Reads a tick as people or programs write one: a time of RFC 3339, or microseconds since 1970.
pub(crate) fn tick(text: &str) -> Option<Tick> {
    if let Ok(tick) = text.parse::<Tick>() {
        return Some(tick);
    }
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    Tick::try_from(time.timestamp_micros()).ok()
}

/// A replay that may be gone on from.
pub(super) struct Kept {
    replay: Replay,
    deployment: Arc<Deployment>,
    relations: BTreeSet<String>,
    used: Instant,
}

/// The one place for a replay.
pub(super) type Place = Arc<tokio::sync::Mutex<Option<Kept>>>;

impl Engine {
    /// Returns the time as ticks are dated: what is after it has not happened.
    pub fn now(&self) -> Tick {
        let acknowledged = self.acknowledged();
        match self.inner.shared.options.clock {
            Clock::Event => acknowledged,
            Clock::Wall => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                acknowledged.max(since.map_or(0, |since| since.as_micros() as Tick))
            }
        }
    }

    /// Returns what relations held at earlier ticks, each as of the newest tick that is not after the one asked for,
    /// in the order asked.
    ///
    /// # Errors
    /// When that is not known, has not happened, or takes longer than `patience`.
    pub async fn as_of(
        &self,
        asked: &[(String, Tick)],
        patience: Duration,
    ) -> Result<Vec<queries::Relation>, TravelError> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let relations: BTreeSet<String> = asked.iter().map(|(relation, _)| relation.clone()).collect();
        let stops: BTreeSet<Tick> = asked.iter().map(|(_, tick)| *tick).collect();
        let stops: Vec<Tick> = stops.into_iter().collect();
        let journey = self.journey(relations, asked, patience)?;
        let asked = asked.to_vec();
        self.set_out(journey, patience, move |replay, tape| {
            let mut found: BTreeMap<Tick, Relations> = BTreeMap::new();
            replay.play(tape, &stops, &mut |replay, event| {
                if let Event::Reached(stop) = event {
                    let names = asked.iter().filter(|(_, tick)| *tick == stop).map(|(name, _)| name);
                    found.insert(stop, replay.snapshot(names)?);
                }
                Ok(())
            })?;
            let each = asked.iter().map(|(name, tick)| {
                let relation = found.get(tick).and_then(|relations| relations.get(name)).cloned();
                relation.ok_or_else(|| anyhow::anyhow!("\"{name}\" was not reached"))
            });
            each.collect()
        })
        .await
    }

    /// Hands over what each tick in `from <= tick <= to` changed in a relation, oldest first, until `take` has enough.
    ///
    /// # Errors
    /// As [`as_of`](Self::as_of).
    pub async fn past_changes(
        &self,
        relation: &str,
        (from, to): (Tick, Tick),
        patience: Duration,
        mut take: impl FnMut(Tick, &[Updates]) -> anyhow::Result<bool> + Send + 'static,
    ) -> Result<(), TravelError> {
        let asked = [(relation.to_owned(), from), (relation.to_owned(), to)];
        let relations = BTreeSet::from([relation.to_owned()]);
        let mut journey = self.journey(relations, &asked, patience)?;
        journey.wanted.watched.insert(relation.to_owned());
        let relation = relation.to_owned();
        self.set_out(journey, patience, move |replay, tape| {
            let played = replay.play(tape, &[to], &mut |_, event| match event {
                Event::Seen(Seen::Changes(entry, tick, updates))
                    if tick >= from && entry.relation.name == relation && !take(tick, &updates)? =>
                {
                    Err(Enough.into())
                }
                _ => Ok(()),
            });
            match played {
                Err(error) if error.is::<Enough>() => Ok(()),
                other => other,
            }
        })
        .await
    }

    /// Sees whether a replay can tell what is asked.
    fn journey(
        &self,
        relations: BTreeSet<String>,
        asked: &[(String, Tick)],
        patience: Duration,
    ) -> Result<Journey, TravelError> {
        let deployment = self.deployment();
        let now = self.now();
        if let Some((unknown, _)) = asked.iter().find(|(name, _)| self.entry(name).is_none()) {
            return Err(TravelError::Unknown(unknown.clone()));
        }
        if let Some((_, asked)) = asked.iter().find(|(_, tick)| *tick > now) {
            return Err(TravelError::Future { asked: *asked, now });
        }
        let tape = self.tape(&deployment)?;
        let since = tape.since();
        let started = self.started();
        for (relation, asked) in asked {
            let alone = BTreeSet::from([relation.clone()]);
            let mut whole = whole_from(&deployment, &Needed::of(&deployment, Some(&alone)), &since);
            if whole.tick < started {
                let why = format!("the deployment first started at {}", time(started));
                whole = WholeFrom { tick: started, why };
            }
            if whole.tick > *asked {
                return Err(TravelError::NotKnown {
                    relation: relation.clone(),
                    asked: *asked,
                    from: (whole.tick < Tick::MAX).then_some(whole.tick),
                    why: whole.why,
                });
            }
        }
        let wanted = Wanted {
            relations: Some(relations),
            // What happens now comes first.
            workers: 1,
            patience: Patience {
                deadline: Some(Instant::now() + patience),
                ended: vec![Arc::clone(&self.inner.stopped)],
            },
            ..Wanted::default()
        };
        Ok(Journey {
            first: asked.iter().map(|(_, tick)| *tick).min().unwrap_or(0),
            deployment,
            tape,
            wanted,
        })
    }

    /// Returns when the deployment first started; 0 where ticks are dated by what they hold.
    fn started(&self) -> Tick {
        match (self.inner.shared.options.clock, &self.inner.kept) {
            (Clock::Wall, Some(kept)) => Tick::try_from(kept.store.identity().started_us).unwrap_or(0),
            _ => 0,
        }
    }

    /// Returns what is known of earlier ticks.
    fn tape(&self, deployment: &Deployment) -> Result<Box<dyn Tape>, TravelError> {
        let kept = self.inner.kept.as_ref().ok_or(TravelError::NothingKept)?;
        let holdings = Arc::clone(&self.inner.shared.holdings);
        let tape = Recorded::running(Arc::clone(&kept.store), holdings, deployment, self.acknowledged());
        Ok(Box::new(tape.map_err(|error| TravelError::Failed(error.into()))?))
    }

    /// Waits for the one place there is, and plays.
    async fn set_out<T: Send + 'static>(
        &self,
        mut journey: Journey,
        patience: Duration,
        play: impl FnOnce(&mut Replay, &dyn Tape) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, TravelError> {
        let waiting = Arc::clone(&self.inner.travels).lock_owned();
        let place = tokio::time::timeout(patience, waiting)
            .await
            .map_err(|_| TravelError::Busy)?;
        // Nobody plays on for one who has gone away.
        let gone = Gone::default();
        journey.wanted.patience.ended.push(Arc::clone(&gone.0));
        let travelling = tokio::task::spawn_blocking(move || {
            let (place, played) = journey.play(place, play);
            drop(place);
            played
        });
        let played = travelling.await.map_err(|_| TravelError::Stopped)?;
        self.let_go_of_replay();
        played.map_err(|error| match error.is::<TookTooLong>() {
            true => TravelError::TooLong(patience.as_secs()),
            false => TravelError::Failed(error),
        })
    }

    /// Lets the kept replay go once nobody has gone on from it for a while.
    fn let_go_of_replay(&self) {
        let place = Arc::clone(&self.inner.travels);
        tokio::spawn(async move {
            tokio::time::sleep(KEPT_FOR).await;
            let mut place = place.lock_owned().await;
            if place.as_ref().is_some_and(|kept| kept.used.elapsed() >= KEPT_FOR) {
                let gone = place.take();
                drop(place);
                // Its workers are waited for.
                let _ = tokio::task::spawn_blocking(move || drop(gone)).await;
            }
        });
    }
}

/// Set once whoever asked is there no more.
#[derive(Default)]
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A replay that is to be made.
struct Journey {
    deployment: Arc<Deployment>,
    tape: Box<dyn Tape>,
    wanted: Wanted,
    /// The first tick that is asked for.
    first: Tick,
}

impl Journey {
    /// Goes on from the replay that was kept, or from the beginning; keeps the replay where all went well.
    fn play<T>(
        self,
        mut place: OwnedMutexGuard<Option<Kept>>,
        play: impl FnOnce(&mut Replay, &dyn Tape) -> anyhow::Result<T>,
    ) -> (OwnedMutexGuard<Option<Kept>>, anyhow::Result<T>) {
        let relations = self.wanted.relations.clone().unwrap_or_default();
        let is_watched = !self.wanted.watched.is_empty();
        let since = self.tape.since();
        let known = place.take().filter(|kept| {
            let next = kept.replay.last() + 1;
            // What came after its last tick must be known from there on.
            since.values().all(|known| known.since <= next)
                && Arc::ptr_eq(&kept.deployment, &self.deployment)
                && !is_watched
                && kept.replay.last() <= self.first
                && relations.is_subset(&kept.relations)
        });
        let replay = match known {
            Some(kept) => {
                let replay = kept.replay.with_patience(self.wanted.patience);
                Ok((replay, kept.relations))
            }
            None => Replay::start(&self.deployment, self.wanted).map(|replay| (replay, relations)),
        };
        let played = replay.and_then(|(mut replay, relations)| {
            let played = play(&mut replay, &*self.tape)?;
            // One that is watched has gone past what was looked at.
            let kept = Kept {
                replay,
                deployment: self.deployment,
                relations,
                used: Instant::now(),
            };
            *place = (!is_watched).then_some(kept);
            Ok(played)
        });
        (place, played)
    }
}

/// Enough was seen.
#[derive(Debug, thiserror::Error)]
#[error("enough was seen")]
struct Enough;

#[cfg(test)]
mod tests {
    use super::*;

    const SINCE: Tick = 1_772_359_200_000_000;

    #[test]
    fn times_are_read_as_people_and_programs_write_them() {
        assert_eq!(tick("2026-03-01T10:00:00Z"), Some(SINCE));
        assert_eq!(tick("2026-03-01T15:30:00.000001+05:30"), Some(SINCE + 1));
        assert_eq!(tick(&SINCE.to_string()), Some(SINCE));
        assert_eq!(tick("yesterday"), None);
        assert_eq!(tick("1960-03-01T10:00:00Z"), None);
        assert_eq!(time(SINCE + 1), "2026-03-01T10:00:00.000001Z");
        assert_eq!(tick(&time(SINCE + 123_456)), Some(SINCE + 123_456));
    }
}
