//! Polls messages and makes batches of them.
use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::decoded::{Decoded, Rejected};
use crate::error::ReadError;
use crate::kafka;
use crate::messages::{MessageDecoder, Messages};
use crate::sources::kafka::assignment::{Assignment, Held, Key};
use crate::sources::kafka::beside::Beside;
use crate::sources::kafka::context::{Context, Event};
use crate::sources::kafka::start::{self, ANSWER, MEMBER, Place};
use crate::sources::kafka::{KafkaConfig, Start};
use crate::sources::{Batch, Position, Read, Reader};

/// Messages in one batch, and bytes of theirs past which it is not made longer.
const BATCH_MESSAGES: usize = 8192;
const BATCH_BYTES: usize = 4 << 20;
/// How long the first message of a batch is waited for: whoever reads has other things to look after.
const FIRST: Duration = Duration::from_millis(20);
/// How long a batch of few messages waits for more.
const MORE: Duration = Duration::from_millis(1);
const FEW: usize = 256;
/// How often what is safe is committed.
const COMMIT_EVERY: Duration = Duration::from_millis(500);
/// How long a partition that the group takes away is kept until what was read of it is safe.
const LEAVE_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait before brokers are asked again.
const AGAIN: Duration = Duration::from_millis(200);

/// The log's name for the identity of this member of a group.
const MEMBER_KEY: &str = "#member";

/// Reads the partitions of one source.
pub(crate) struct KafkaReader {
    client: ClientConfig,
    decoder: MessageDecoder,
    beside: Beside,
    rules: Rules,
    assignment: Assignment,
    consumer: Option<BaseConsumer<Context>>,
    work: Work,
}

/// What does not change while it runs.
struct Rules {
    topics: Vec<Arc<str>>,
    start: Start,
    /// Whether a group decides which partitions are read.
    joined: bool,
    /// Whether offsets are committed.
    commits: bool,
    verbose: bool,
    /// How often partitions that are new are looked for.
    refresh: Duration,
}

/// What is to be done between batches.
#[derive(Default)]
struct Work {
    /// What a group gave or took, in order.
    changes: VecDeque<Change>,
    /// Partitions that are to be read, once it is known from where.
    found: BTreeSet<Key>,
    /// Partitions that begin anew, as their topics did.
    anew: BTreeSet<Key>,
    /// Whether some partition's next message was not there.
    adrift: bool,
    /// When partitions that are new were looked for last.
    refreshed: Option<Instant>,
    committed: Option<Instant>,
    /// Not before this, brokers are asked again.
    not_before: Option<Instant>,
    /// What was told last of what is in the way.
    told: Option<String>,
    /// What this member of a group is known by.
    member: i64,
    member_logged: bool,
}

enum Change {
    Assigned(Vec<Key>),
    Revoked(Vec<Key>, Instant),
}

impl KafkaReader {
    pub(super) fn new(
        config: KafkaConfig,
        client: ClientConfig,
        decoder: MessageDecoder,
        beside: Beside,
    ) -> KafkaReader {
        let topics: Vec<Arc<str>> = config.topic.iter().map(Arc::from).collect();
        let refresh = client.get("topic.metadata.refresh.interval.ms");
        let refresh_ms = refresh.and_then(|refresh| refresh.parse().ok()).unwrap_or(10_000);
        KafkaReader {
            rules: Rules {
                topics: topics.clone(),
                start: config.start,
                joined: config.group.is_some() && config.join,
                commits: config.group.is_some(),
                verbose: config.options.get("debug").is_some(),
                refresh: Duration::from_millis(refresh_ms).max(AGAIN),
            },
            client,
            decoder,
            beside,
            assignment: Assignment::new(topics),
            consumer: None,
            work: Work {
                member: random(),
                ..Work::default()
            },
        }
    }

    fn connect(&mut self) -> Result<(), ReadError> {
        if self.consumer.is_some() {
            return Ok(());
        }
        let context = Context::new(self.rules.verbose);
        let consumer: BaseConsumer<Context> = self
            .client
            .create_with_context(context)
            .map_err(|error| self.rules.failed(&error))?;
        if self.rules.joined {
            let topics: Vec<&str> = self.rules.topics.iter().map(AsRef::as_ref).collect();
            consumer.subscribe(&topics).map_err(|error| self.rules.failed(&error))?;
        }
        self.consumer = Some(consumer);
        Ok(())
    }
}

/// Some number, never the same.
fn random() -> i64 {
    RandomState::new().build_hasher().finish() as i64
}

impl Rules {
    fn failed(&self, error: &KafkaError) -> ReadError {
        ReadError::Broker {
            what: format!("topic \"{}\" of kafka", self.topics.join("\", \"")),
            reason: kafka::reason(error),
        }
    }
}

impl Reader for KafkaReader {
    fn read(&mut self, _now_us: i64) -> Result<Read, ReadError> {
        self.connect()?;
        let KafkaReader {
            consumer: Some(consumer),
            ..
        } = self
        else {
            return Ok(Read::Wait(AGAIN));
        };
        let mut tasks = Tasks {
            consumer,
            rules: &self.rules,
            assignment: &mut self.assignment,
            work: &mut self.work,
        };
        tasks.hear();
        if let Some(notice) = tasks.serve(&self.decoder) {
            return Ok(Read::Rows(notice));
        }
        let taken = tasks.take()?;
        if taken.messages.is_empty() {
            return Ok(Read::Wait(Duration::ZERO));
        }
        Ok(Read::Rows(batch(
            taken,
            &mut self.assignment,
            &mut self.decoder,
            &self.beside,
        )))
    }

    fn resume(&mut self, position: &Position) -> Result<(), ReadError> {
        self.assignment.recall(position);
        if let Some(member) = position.get(MEMBER_KEY) {
            self.work.member = *member;
            self.work.member_logged = true;
        }
        Ok(())
    }

    fn acknowledge(&mut self, batches: u64) -> Result<(), ReadError> {
        self.assignment.acknowledge(batches);
        if let Some(consumer) = &self.consumer {
            let mut tasks = Tasks {
                consumer,
                rules: &self.rules,
                assignment: &mut self.assignment,
                work: &mut self.work,
            };
            tasks.commit_sometimes();
        }
        Ok(())
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        if let Some(consumer) = &self.consumer {
            consumer.context().close();
            let mut tasks = Tasks {
                consumer,
                rules: &self.rules,
                assignment: &mut self.assignment,
                work: &mut self.work,
            };
            tasks.commit(CommitMode::Async);
        }
    }
}

/// Messages that were polled, with the partition of each.
struct Taken<'a> {
    messages: Vec<(Key, BorrowedMessage<'a>)>,
}

/// What is done between batches, on all that it takes.
struct Tasks<'c, 'a> {
    consumer: &'c BaseConsumer<Context>,
    rules: &'a Rules,
    assignment: &'a mut Assignment,
    work: &'a mut Work,
}

impl<'c> Tasks<'c, '_> {
    /// Takes up what was told beside messages; whatever it makes void is dropped from here on.
    fn hear(&mut self) {
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
    fn serve(&mut self, decoder: &MessageDecoder) -> Option<Batch> {
        self.commit_sometimes();
        if self.work.not_before.is_some_and(|time| Instant::now() < time) {
            return None;
        }
        self.work.not_before = None;
        let mut begun = Vec::new();
        let mut letters = Vec::new();
        let done = self.changes(&mut begun, &mut letters).and_then(|()| {
            self.refresh()?;
            self.begin_found(&mut begun, &mut letters)?;
            self.begin_anew(&mut begun, &mut letters)?;
            self.amend(&mut begun, &mut letters)
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
    fn changes(&mut self, begun: &mut Vec<Key>, letters: &mut Vec<String>) -> Result<(), KafkaError> {
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
                        self.begin(key, place, begun, letters);
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
                    begun.retain(|key| !keys.contains(key));
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
    fn begin(&mut self, key: Key, place: Place, begun: &mut Vec<Key>, letters: &mut Vec<String>) {
        self.assignment.begin(key, place.next, place.identity);
        begun.push(key);
        letters.extend(place.letter);
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
    fn move_to(
        &mut self,
        key: Key,
        place: Place,
        begun: &mut Vec<Key>,
        letters: &mut Vec<String>,
    ) -> Result<(), KafkaError> {
        if !(self.rules.joined && matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Eager)) {
            self.consumer.incremental_unassign(&self.list(&[key]))?;
        }
        self.begin(key, place, begun, letters);
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
    fn refresh(&mut self) -> Result<(), KafkaError> {
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
                self.leave_absent(at as u32, found.partitions().len());
            }
        }
        self.work.refreshed = Some(Instant::now());
        Ok(())
    }

    /// Lets go of partitions that a topic created anew does not have.
    fn leave_absent(&mut self, topic: u32, count: usize) {
        let absent: Vec<Key> = self
            .assignment
            .partitions()
            .map(|(key, _)| key)
            .filter(|key| key.0 == topic && key.1 as usize >= count)
            .collect();
        for key in absent {
            let name = self.assignment.name(key);
            tracing::error!("{name} is there no more; what was not read of it is gone");
            if let Err(error) = self.consumer.incremental_unassign(&self.list(&[key])) {
                tracing::debug!(%error, "{name} could not be let go of");
            }
            self.assignment.forget(key);
            self.work.anew.remove(&key);
        }
    }

    fn begin_found(&mut self, begun: &mut Vec<Key>, letters: &mut Vec<String>) -> Result<(), KafkaError> {
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
            self.begin(key, place, begun, letters);
        }
        if !ready.is_empty() {
            self.assign(&ready)?;
        }
        failed.map_or(Ok(()), Err)
    }

    fn begin_anew(&mut self, begun: &mut Vec<Key>, letters: &mut Vec<String>) -> Result<(), KafkaError> {
        while let Some(&key) = self.work.anew.first() {
            match self
                .assignment
                .get(key)
                .map(|partition| (partition.next, partition.held))
            {
                None | Some((_, Some(Held::Leaving))) => {}
                Some((next, _)) => {
                    let place = start::anew(self.consumer, self.assignment, key, next)?;
                    self.move_to(key, place, begun, letters)?;
                }
            }
            self.work.anew.remove(&key);
        }
        Ok(())
    }

    /// Finds the partitions whose next message is not there, and goes on where there is one.
    fn amend(&mut self, begun: &mut Vec<Key>, letters: &mut Vec<String>) -> Result<(), KafkaError> {
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
                    self.move_to(key, place, begun, letters)?;
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
                self.move_to(key, place, begun, letters)?;
            }
        }
        self.work.adrift = false;
        Ok(())
    }

    fn commit_sometimes(&mut self) {
        if self.rules.commits && self.work.committed.is_none_or(|time| time.elapsed() >= COMMIT_EVERY) {
            if self.consumer.context().commit_failed() {
                self.assignment.commit_again();
            }
            self.commit(CommitMode::Async);
        }
    }

    /// Commits what is safe in the name of the group.
    fn commit(&mut self, mode: CommitMode) {
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

    /// Polls messages, as many as make a batch.
    fn take(&mut self) -> Result<Taken<'c>, ReadError> {
        let mut taken = Taken { messages: Vec::new() };
        let mut bytes = 0;
        let mut recent: Option<Key> = None;
        while taken.messages.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let wait = match taken.messages.len() {
                0 => FIRST,
                1..FEW => MORE,
                _ => Duration::ZERO,
            };
            let polled = self.consumer.poll(wait);
            if self.consumer.context().has_events() {
                self.hear();
                recent = None;
            }
            let message = match polled {
                None => break,
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    self.stumble(&error)?;
                    break;
                }
            };
            let (topic, number) = (message.topic(), message.partition());
            let key = recent.filter(|key| key.1 == number && self.assignment.topic(*key) == topic);
            let Some(key) = key.or_else(|| self.assignment.key(topic, number)) else {
                continue;
            };
            recent = Some(key);
            let Some(partition) = self.assignment.get_mut(key) else {
                continue;
            };
            // What was fetched for another place is not wanted here.
            if partition.held.is_some() || message.offset() < partition.next {
                continue;
            }
            partition.next = message.offset() + 1;
            bytes += message.payload_len() + message.key_len();
            taken.messages.push((key, message));
        }
        if !taken.messages.is_empty() {
            self.consumer.context().reached();
        }
        Ok(taken)
    }

    fn stumble(&mut self, error: &KafkaError) -> Result<(), ReadError> {
        if let KafkaError::MessageConsumptionFatal(_) = error {
            return Err(self.rules.failed(error));
        }
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset) => self.work.adrift = true,
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                // The context has told it.
                self.work.refreshed = None;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Makes a batch of messages: rows of one partition stand together.
fn batch(mut taken: Taken<'_>, assignment: &mut Assignment, decoder: &mut MessageDecoder, beside: &Beside) -> Batch {
    // Fetched partition by partition, they mostly stand together already.
    if !taken.messages.is_sorted_by_key(|(key, _)| *key) {
        taken.messages.sort_by_key(|(key, _)| *key);
    }
    let messages: Vec<&BorrowedMessage<'_>> = taken.messages.iter().map(|(_, message)| message).collect();
    let keys: Vec<Option<&[u8]>> = messages.iter().map(|message| message.key()).collect();
    let values: Vec<Option<&[u8]>> = messages.iter().map(|message| message.payload()).collect();
    let found = decoder.decode(&Messages {
        keys: &keys,
        values: &values,
        filled: beside.fill(&messages),
    });
    let mut decoded = found.decoded;
    for (rejected, &message) in decoded.rejected.iter_mut().zip(&found.rejected_of) {
        let (key, message) = &taken.messages[message as usize];
        rejected.reason = format!(
            "{} ({}, offset {})",
            rejected.reason,
            assignment.name(*key),
            message.offset()
        );
    }
    let mut partitions: Vec<(Arc<str>, usize)> = Vec::new();
    let mut touched: Vec<Key> = Vec::new();
    let mut rows = found.rows_of.iter().peekable();
    let mut end = 0;
    for run in taken.messages.chunk_by(|one, other| one.0 == other.0) {
        end += run.len() as u32;
        let mut count = 0;
        while rows.next_if(|message| **message < end).is_some() {
            count += 1;
        }
        let key = run[0].0;
        touched.push(key);
        if let Some(partition) = assignment.get(key) {
            partitions.push((Arc::clone(&partition.name), count));
        }
    }
    Batch {
        decoded,
        position: assignment.hand_over(&touched),
        partitions,
    }
}
