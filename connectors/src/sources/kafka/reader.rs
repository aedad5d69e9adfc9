//! Polls messages and makes batches of them.
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;

use crate::error::ReadError;
use crate::messages::{MessageDecoder, Messages};
use crate::sources::kafka::KafkaConfig;
use crate::sources::kafka::assignment::{Assignment, Key};
use crate::sources::kafka::beside::Beside;
use crate::sources::kafka::context::Context;
use crate::sources::kafka::upkeep::{AGAIN, MEMBER_KEY, Rules, Upkeep, Work, random};
use crate::sources::{Batch, Position, Read, Reader};

/// Messages in one batch, and bytes of theirs past which it is not made longer.
const BATCH_MESSAGES: usize = 8192;
const BATCH_BYTES: usize = 4 << 20;
/// How long the first message of a batch is waited for: whoever reads has other things to look after.
const FIRST: Duration = Duration::from_millis(20);
/// How long a batch of few messages waits for more.
const MORE: Duration = Duration::from_millis(1);
const FEW: usize = 256;

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
        let mut upkeep = Upkeep {
            consumer,
            rules: &self.rules,
            assignment: &mut self.assignment,
            work: &mut self.work,
        };
        upkeep.hear();
        if let Some(notice) = upkeep.serve(&self.decoder) {
            return Ok(Read::Rows(notice));
        }
        let taken = upkeep.take()?;
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

    fn repeats(&self) -> bool {
        false
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
            let mut upkeep = Upkeep {
                consumer,
                rules: &self.rules,
                assignment: &mut self.assignment,
                work: &mut self.work,
            };
            upkeep.commit_sometimes();
        }
        Ok(())
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        if let Some(consumer) = &self.consumer {
            consumer.context().close();
            let mut upkeep = Upkeep {
                consumer,
                rules: &self.rules,
                assignment: &mut self.assignment,
                work: &mut self.work,
            };
            upkeep.commit(CommitMode::Async);
        }
    }
}

/// Messages that were polled, with the partition of each.
struct Taken<'a> {
    messages: Vec<(Key, BorrowedMessage<'a>)>,
}

impl<'c> Upkeep<'c, '_> {
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
