//! What is done between batches: partitions are taken up, given away and moved in, offsets are committed.
use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::decoded::{Decoded, Rejected};
use crate::error::ReadError;
use crate::kafka;
use crate::messages::MessageDecoder;
use crate::sources::Batch;
use crate::sources::kafka::Start;
use crate::sources::kafka::assignment::{Assignment, FORGOTTEN, Held, Key};
use crate::sources::kafka::context::{Context, Event};
use crate::sources::kafka::start::{self, ANSWER, MEMBER, Place};

/// How often what is safe is committed.
const COMMIT_EVERY: Duration = Duration::from_millis(500);
/// How long a partition that the group takes away is kept until what was read of it is safe.
const LEAVE_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait before brokers are asked again.
pub(super) const AGAIN: Duration = Duration::from_millis(200);

/// The log's name for the identity of this member of a group.
pub(super) const MEMBER_KEY: &str = "#member";

/// What does not change while it runs.
pub(super) struct Rules {
    pub(super) topics: Vec<Arc<str>>,
    pub(super) start: Start,
    /// Whether a group decides which partitions are read.
    pub(super) joined: bool,
    /// Whether offsets are committed.
    pub(super) commits: bool,
    pub(super) verbose: bool,
    /// How often partitions that are new are looked for.
    pub(super) refresh: Duration,
}

/// What is to be done between batches.
#[derive(Default)]
pub(super) struct Work {
    /// What a group gave or took, in order.
    pub(super) changes: VecDeque<Change>,
    /// Partitions that are to be read, once it is known from where.
    pub(super) found: BTreeSet<Key>,
    /// Partitions that begin anew, as their topics did.
    pub(super) anew: BTreeSet<Key>,
    /// Whether some partition's next message was not there.
    pub(super) adrift: bool,
    /// When partitions that are new were looked for last.
    pub(super) refreshed: Option<Instant>,
    pub(super) committed: Option<Instant>,
    /// Not before this, brokers are asked again.
    pub(super) not_before: Option<Instant>,
    /// What was told last of what is in the way.
    pub(super) told: Option<String>,
    /// What this member of a group is known by.
    pub(super) member: i64,
    pub(super) member_logged: bool,
}

/// What is to be told of what was done.
#[derive(Default)]
struct Notice {
    /// Partitions that begin, or begin elsewhere.
    begun: Vec<Key>,
    /// Partitions that are there no more.
    absent: Vec<String>,
    /// What became of messages that are not read.
    letters: Vec<String>,
}

/// What a group decided.
pub(super) enum Change {
    Assigned(Vec<Key>),
    Revoked(Vec<Key>, Instant),
}

/// Some number, never the same.
pub(super) fn random() -> i64 {
    RandomState::new().build_hasher().finish() as i64
}

impl Rules {
    pub(super) fn failed(&self, error: &KafkaError) -> ReadError {
        ReadError::Broker {
            what: format!("topic \"{}\" of kafka", self.topics.join("\", \"")),
            reason: kafka::reason(error),
        }
    }
}

/// What is done between batches, on all that it takes.
pub(super) struct Upkeep<'c, 'a> {
    pub(super) consumer: &'c BaseConsumer<Context>,
    pub(super) rules: &'a Rules,
    pub(super) assignment: &'a mut Assignment,
    pub(super) work: &'a mut Work,
}

impl Upkeep<'_, '_> {
    /// Takes up what was told beside messages; whatever it makes void is dropped from here on.
    pub(super) fn hear(&mut self) {
        if !self.consumer.context().has_events() {
            return;
        }
        for event in self.consumer.context().take_events() {
            match event {
                Event::Identity(topic, identity) => {
                    self.work.anew.extend(self.assignment.identify(&topic, identity));
                }
                Event::Assigned(list) => {
                    let keys = self.keys(&list);
                    self.work.changes.push_back(Change::Assigned(keys));
                }
                Event::Revoked(list) => {
                    let keys = self.keys(&list);
                    for key in &keys {
                        if let Some(partition) = self.assignment.get_mut(*key) {
                            partition.held = Some(Held::Leaving);
                        }
                    }
                    self.work.changes.push_back(Change::Revoked(keys, Instant::now()));
                }
            }
        }
    }

    fn keys(&self, list: &[(String, i32)]) -> Vec<Key> {
        list.iter()
            .filter_map(|(topic, partition)| self.assignment.key(topic, *partition))
            .collect()
    }

    /// Does what is to be done; returns what is to be told of it.
    pub(super) fn serve(&mut self, decoder: &MessageDecoder) -> Option<Batch> {
        self.commit_sometimes();
        if self.work.not_before.is_some_and(|time| Instant::now() < time) {
            return None;
        }
        self.work.not_before = None;
        let mut notice = Notice::default();
        let done = self.changes(&mut notice).and_then(|()| {
            self.refresh(&mut notice)?;
            self.begin_found(&mut notice)?;
            self.begin_anew(&mut notice)?;
            self.amend(&mut notice)
        });
        match done {
            Ok(()) => self.work.told = None,
            Err(error) => {
                self.work.not_before = Some(Instant::now() + AGAIN);
                let reason = kafka::reason(&error);
                if self.work.told.as_ref() != Some(&reason) {
                    tracing::warn!(
                        topics = self.rules.topics.join(","),
                        "kafka does not answer yet: {reason}"
                    );
                    self.work.told = Some(reason);
                }
            }
        }
        let Notice { begun, absent, letters } = notice;
        if begun.is_empty() && letters.is_empty() {
            return None;
        }
        for letter in &letters {
            tracing::error!("{letter}");
        }
        let partitions = begun
            .iter()
            .filter_map(|key| Some((Arc::clone(&self.assignment.get(*key)?.name), 0)))
            .collect();
        let mut decoded = Decoded::empty(decoder.schema().clone());
        decoded.rejected = letters.iter().map(|letter| Rejected::new(b"", letter)).collect();
        let mut position = self.assignment.hand_over(&begun);
        position.extend(absent.into_iter().map(|name| (name, FORGOTTEN)));
        // A member of a group always begins with a notice, and the log keeps what it is known by.
        if self.rules.joined && !std::mem::replace(&mut self.work.member_logged, true) {
            position.insert(MEMBER_KEY.to_owned(), self.work.member);
        }
        Some(Batch {
            decoded,
            position,
            partitions,
        })
    }

    /// Follows what a group decided, in order.
    fn changes(&mut self, notice: &mut Notice) -> Result<(), KafkaError> {
        while let Some(change) = self.work.changes.front() {
            match change {
                Change::Assigned(keys) => {
                    let keys = keys.clone();
                    let committed = start::committed(self.consumer, self.assignment, &keys)?;
                    let own = format!("{MEMBER}{:016x}", self.work.member);
                    let mut places = Vec::with_capacity(keys.len());
                    for (&key, committed) in keys.iter().zip(&committed) {
                        let committed = committed.as_ref();
                        let start = self.rules.start;
                        places.push(start::place(
                            self.consumer,
                            self.assignment,
                            key,
                            start,
                            committed,
                            Some(&own),
                        )?);
                    }
                    for (&key, place) in keys.iter().zip(places) {
                        self.begin(key, place, notice);
                    }
                    self.assign(&keys)?;
                }
                Change::Revoked(keys, since) => {
                    let lost = self.consumer.assignment_lost();
                    if !lost && !self.assignment.is_settled(keys) && since.elapsed() < LEAVE_WITHIN {
                        return Ok(());
                    }
                    let keys = keys.clone();
                    if !lost {
                        self.commit(CommitMode::Sync);
                    }
                    for key in &keys {
                        self.assignment.end(*key);
                        self.work.anew.remove(key);
                    }
                    notice.begun.retain(|key| !keys.contains(key));
                    match self.consumer.rebalance_protocol() {
                        RebalanceProtocol::Cooperative => {
                            self.consumer.incremental_unassign(&self.list(&keys))?;
                        }
                        _ => self.consumer.unassign()?,
                    }
                }
            }
            self.work.changes.pop_front();
        }
        Ok(())
    }

    /// Begins to read a partition at a place.
    fn begin(&mut self, key: Key, place: Place, notice: &mut Notice) {
        self.assignment.begin(key, place.next, place.identity);
        notice.begun.push(key);
        notice.letters.extend(place.letter);
    }

    /// Has these partitions fetched, which are read already as far as the assignment knows.
    fn assign(&self, keys: &[Key]) -> Result<(), KafkaError> {
        match (self.rules.joined, self.consumer.rebalance_protocol()) {
            // There, an assignment is always the whole of it.
            (true, RebalanceProtocol::Eager) => {
                let all: Vec<Key> = self.assignment.partitions().map(|(key, _)| key).collect();
                self.consumer.assign(&self.list(&all))
            }
            _ => self.consumer.incremental_assign(&self.list(keys)),
        }
    }

    /// Has a partition fetched from elsewhere.
    fn move_to(&mut self, key: Key, place: Place, notice: &mut Notice) -> Result<(), KafkaError> {
        if !(self.rules.joined && matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Eager)) {
            self.consumer.incremental_unassign(&self.list(&[key]))?;
        }
        self.begin(key, place, notice);
        self.assign(&[key])
    }

    fn list(&self, keys: &[Key]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(keys.len());
        for &key in keys {
            let mut element = list.add_partition(self.assignment.topic(key), key.1);
            if let Some(partition) = self.assignment.get(key) {
                // Only an offset that cannot be is refused.
                let _ = element.set_offset(Offset::Offset(partition.next));
            }
        }
        list
    }

    /// Looks for partitions, where no group gives them.
    fn refresh(&mut self, notice: &mut Notice) -> Result<(), KafkaError> {
        let due = self
            .work
            .refreshed
            .is_none_or(|time| time.elapsed() >= self.rules.refresh);
        if self.rules.joined || !due {
            return Ok(());
        }
        for (at, topic) in self.rules.topics.iter().enumerate() {
            let metadata = self.consumer.fetch_metadata(Some(topic), ANSWER)?;
            for found in metadata.topics() {
                if let Some(error) = found.error() {
                    return Err(KafkaError::MetadataFetch(error.into()));
                }
                for partition in found.partitions() {
                    let key = (at as u32, partition.id());
                    if self.assignment.get(key).is_none() {
                        self.work.found.insert(key);
                    }
                }
                if !found.partitions().is_empty() {
                    self.leave_absent(at as u32, found.partitions().len(), notice);
                }
            }
        }
        self.work.refreshed = Some(Instant::now());
        Ok(())
    }

    /// Forgets partitions that a topic does not have any more, once it was created anew.
    fn leave_absent(&mut self, topic: u32, count: usize, notice: &mut Notice) {
        for key in self.assignment.beyond(topic, count) {
            let name = self.assignment.name(key);
            if self.assignment.get(key).is_some()
                && let Err(error) = self.consumer.incremental_unassign(&self.list(&[key]))
            {
                tracing::debug!(%error, "{name} could not be let go of");
            }
            self.assignment.forget(key);
            self.work.anew.remove(&key);
            notice.letters.push(format!(
                "{name} is there no more, since its topic was created anew with {count} partitions: what was not read of it \
                 is gone, if there was anything"
            ));
            notice.absent.push(name);
        }
    }

    fn begin_found(&mut self, notice: &mut Notice) -> Result<(), KafkaError> {
        if self.work.found.is_empty() {
            return Ok(());
        }
        let keys: Vec<Key> = self.work.found.iter().copied().collect();
        let committed = match self.rules.start {
            Start::Stored => start::committed(self.consumer, self.assignment, &keys)?,
            _ => vec![None; keys.len()],
        };
        let mut failed = None;
        let mut places = Vec::new();
        for (&key, committed) in keys.iter().zip(&committed) {
            let committed = committed.as_ref();
            match start::place(self.consumer, self.assignment, key, self.rules.start, committed, None) {
                Ok(place) => places.push((key, place)),
                // One without a leader does not hold up the others.
                Err(error) => failed = Some(error),
            }
        }
        let ready: Vec<Key> = places.iter().map(|(key, _)| *key).collect();
        for (key, place) in places {
            self.work.found.remove(&key);
            self.begin(key, place, notice);
        }
        if !ready.is_empty() {
            self.assign(&ready)?;
        }
        failed.map_or(Ok(()), Err)
    }

    fn begin_anew(&mut self, notice: &mut Notice) -> Result<(), KafkaError> {
        while let Some(&key) = self.work.anew.first() {
            match self
                .assignment
                .get(key)
                .map(|partition| (partition.next, partition.held))
            {
                None | Some((_, Some(Held::Leaving))) => {}
                Some((next, _)) => {
                    let place = start::anew(self.consumer, self.assignment, key, next)?;
                    self.move_to(key, place, notice)?;
                }
            }
            self.work.anew.remove(&key);
        }
        Ok(())
    }

    /// Finds the partitions whose next message is not there, and goes on where there is one.
    fn amend(&mut self, notice: &mut Notice) -> Result<(), KafkaError> {
        if !self.work.adrift {
            return Ok(());
        }
        let keys: Vec<Key> = self
            .assignment
            .partitions()
            .filter(|(_, partition)| partition.held.is_none())
            .map(|(key, _)| key)
            .collect();
        let mut amended = 0;
        for &key in &keys {
            match start::amend(self.consumer, self.assignment, key) {
                Ok(None) => {}
                Ok(Some(place)) => {
                    self.move_to(key, place, notice)?;
                    amended += 1;
                }
                Err(error) if start::is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if amended == 0 {
            // Which partition came to a halt is not told: all are fetched again from where they are.
            for key in keys {
                let Some(partition) = self.assignment.get(key) else {
                    continue;
                };
                let place = Place {
                    next: partition.next,
                    identity: partition.identity,
                    letter: None,
                };
                self.move_to(key, place, notice)?;
            }
        }
        self.work.adrift = false;
        Ok(())
    }

    pub(super) fn commit_sometimes(&mut self) {
        if self.rules.commits && self.work.committed.is_none_or(|time| time.elapsed() >= COMMIT_EVERY) {
            if self.consumer.context().commit_failed() {
                self.assignment.commit_again();
            }
            self.commit(CommitMode::Async);
        }
    }

    /// Commits what is safe in the name of the group.
    pub(super) fn commit(&mut self, mode: CommitMode) {
        if !self.rules.commits {
            return;
        }
        self.work.committed = Some(Instant::now());
        let due = self.assignment.to_commit();
        if due.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::with_capacity(due.len());
        let note = format!("{MEMBER}{:016x}", self.work.member);
        for (key, next) in due {
            let mut element = list.add_partition(self.assignment.topic(key), key.1);
            element.set_metadata(&note);
            let _ = element.set_offset(Offset::Offset(next));
        }
        if let Err(error) = self.consumer.commit(&list, mode) {
            tracing::debug!(%error, "offsets could not be committed; they will be again");
            self.assignment.commit_again();
        }
    }
}
