//! Where reading begins in a partition, and what is missing there.
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::sources::kafka::Start;
use crate::sources::kafka::assignment::{Assignment, Key};
use crate::sources::kafka::context::Context;

/// How long brokers are waited for when they are asked something.
pub(super) const ANSWER: Duration = Duration::from_secs(2);

/// A place in a partition to begin at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) next: i64,
    pub(super) identity: Option<i64>,
    /// What is told of messages that are gone.
    pub(super) letter: Option<String>,
}

/// An offset that the group has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) next: i64,
    /// Who did.
    pub(super) by: String,
}

/// Decides where to begin in one partition; `joined` says that a group gave it to us, as whose member `own` is known.
pub(super) fn place(
    consumer: &BaseConsumer<Context>,
    assignment: &Assignment,
    key: Key,
    start: Start,
    committed: Option<&Committed>,
    own: Option<&str>,
) -> Result<Place, KafkaError> {
    let identity = assignment.identity(key);
    let at = |next: i64, identity: Option<i64>| Place {
        next,
        identity,
        letter: None,
    };
    if let Some(known) = assignment.known(key) {
        if let (Some(now), Some(then)) = (identity, known.identity)
            && now != then
        {
            return anew(consumer, assignment, key, known.next);
        }
        // Where another member of the group went on from where this one was, so does this one. What it has committed
        // itself says nothing new: its own log is ahead of it, unless it was restored from an older one.
        let others = committed.filter(|committed| {
            own.is_some_and(|own| committed.by != own && committed.by.starts_with(MEMBER))
                && committed.next > known.next
        });
        return Ok(at(
            others.map_or(known.next, |committed| committed.next),
            known.identity,
        ));
    }
    if let Some(committed) = committed.filter(|_| own.is_some() || start == Start::Stored) {
        return Ok(at(committed.next, identity));
    }
    // All messages of a partition that was added later came later.
    let start = match start {
        Start::Latest if assignment.knows_topic(key.0) => Start::Earliest,
        start => start,
    };
    let topic = assignment.topic(key);
    let next = match start {
        Start::Earliest | Start::Stored => consumer.fetch_watermarks(topic, key.1, ANSWER)?.0,
        Start::Latest => consumer.fetch_watermarks(topic, key.1, ANSWER)?.1,
        Start::Time(time) => {
            let mut times = TopicPartitionList::new();
            times.add_partition_offset(topic, key.1, Offset::Offset(time))?;
            let found = consumer.offsets_for_times(times, ANSWER)?;
            let found = found
                .elements()
                .first()
                .map(|element| (element.error(), element.offset()));
            match found {
                Some((Err(error), _)) => return Err(error),
                Some((Ok(()), Offset::Offset(next))) => next,
                _ => consumer.fetch_watermarks(topic, key.1, ANSWER)?.1,
            }
        }
    };
    Ok(at(next, identity))
}

/// What begins the note of a member of ours beside an offset it commits.
pub(super) const MEMBER: &str = "sangam:";

/// Looks whether the next message of a partition can still be there; if not, tells where to go on.
pub(super) fn amend(
    consumer: &BaseConsumer<Context>,
    assignment: &Assignment,
    key: Key,
) -> Result<Option<Place>, KafkaError> {
    let Some(partition) = assignment.get(key) else {
        return Ok(None);
    };
    let (low, high) = consumer.fetch_watermarks(assignment.topic(key), key.1, ANSWER)?;
    let letter = if partition.next < low {
        format!(
            "messages of {} from offset {} to {} are gone, by retention or deleted, before they were read",
            partition.name,
            partition.next,
            low - 1
        )
    } else if partition.next > high {
        format!(
            "{} ends at offset {high}, before offset {}, which was to be read next: its topic was created anew, or its \
             end was lost; reading goes on at its first message, offset {low}",
            partition.name, partition.next
        )
    } else {
        return Ok(None);
    };
    Ok(Some(Place {
        next: low,
        identity: assignment.identity(key),
        letter: Some(letter),
    }))
}

/// Begins at the first message of a topic that was created anew.
pub(super) fn anew(
    consumer: &BaseConsumer<Context>,
    assignment: &Assignment,
    key: Key,
    next: i64,
) -> Result<Place, KafkaError> {
    let (low, _) = consumer.fetch_watermarks(assignment.topic(key), key.1, ANSWER)?;
    Ok(Place {
        next: low,
        identity: assignment.identity(key),
        letter: Some(format!(
            "the topic of {} was deleted and created anew: messages of the old one from offset {next} on are gone, if \
             there were any; reading goes on at the first message of the new one, offset {low}",
            assignment.name(key)
        )),
    })
}

/// Asks what the group has committed for some partitions, in their order.
pub(super) fn committed(
    consumer: &BaseConsumer<Context>,
    assignment: &Assignment,
    keys: &[Key],
) -> Result<Vec<Option<Committed>>, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(keys.len());
    for &key in keys {
        list.add_partition(assignment.topic(key), key.1);
    }
    let list = consumer.committed_offsets(list, ANSWER)?;
    keys.iter()
        .map(|&key| {
            let Some(found) = list.find_partition(assignment.topic(key), key.1) else {
                return Ok(None);
            };
            found.error()?;
            Ok(match found.offset() {
                Offset::Offset(next) => Some(Committed {
                    next,
                    by: found.metadata().to_owned(),
                }),
                _ => None,
            })
        })
        .collect()
}

/// Whether a partition, or its topic, is not there at all.
pub(super) fn is_absent(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
        )
    )
}
