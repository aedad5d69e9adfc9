//! What librdkafka tells beside messages: which partitions come and go, and what it logs.
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use crate::kafka;

/// Something to be acted upon before any message that follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The group gives these partitions to this member.
    Assigned(Vec<(String, i32)>),
    /// The group takes these partitions away.
    Revoked(Vec<(String, i32)>),
    /// A topic has this identity: it has another once it is created anew.
    Identity(String, i64),
}

/// Hears what is told on the thread that polls.
#[derive(Debug, Default)]
pub(super) struct Context {
    events: Mutex<VecDeque<Event>>,
    waiting: AtomicBool,
    /// Whether the consumer is about to be dropped.
    closing: AtomicBool,
    commit_failed: AtomicBool,
    /// Whether no broker could be reached.
    down: AtomicBool,
    /// Whether its log was asked for in full.
    verbose: bool,
}

impl Context {
    pub(super) fn new(verbose: bool) -> Context {
        Context {
            verbose,
            ..Context::default()
        }
    }

    /// Whether there are events.
    pub(super) fn has_events(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn take_events(&self) -> VecDeque<Event> {
        self.waiting.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets go of partitions at once from now on, so that the consumer can be dropped.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether a commit has failed since this was asked.
    pub(super) fn commit_failed(&self) -> bool {
        self.commit_failed.swap(false, Ordering::Relaxed)
    }

    /// Hears that a message came.
    pub(super) fn reached(&self) {
        if self.down.load(Ordering::Relaxed) {
            self.down.store(false, Ordering::Relaxed);
            tracing::info!("messages of kafka come again");
        }
    }

    fn push(&self, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push_back(event);
        self.waiting.store(true, Ordering::Relaxed);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        if facility == "METADATA"
            && let Some(event) = identity(line)
        {
            self.push(event);
        }
        if self.verbose || !matches!(level, RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info) {
            // Of brokers that cannot be reached, `error` tells.
            if !matches!(facility, "FAIL" | "ERROR") || self.verbose {
                kafka::log(level, facility, line);
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut,
            ) => {
                // It tries again by itself; that it does, is told once.
                if !self.down.swap(true, Ordering::Relaxed) {
                    tracing::warn!("kafka cannot be reached, trying again: {reason}");
                }
            }
            // The reader tells what becomes of it.
            Some(RDKafkaErrorCode::AutoOffsetReset) => tracing::debug!("kafka: {reason}"),
            _ => tracing::warn!("kafka: {reason}"),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        tracing::debug!(target: "librdkafka", "{}", String::from_utf8_lossy(statistics));
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Context>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let elements = list.elements();
        let partitions = elements
            .iter()
            .map(|element| (element.topic().to_owned(), element.partition()))
            .collect();
        let assigned = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if !self.closing.load(Ordering::Relaxed) {
            self.push(if assigned {
                Event::Assigned(partitions)
            } else {
                Event::Revoked(partitions)
            });
            return;
        }
        let left = match (assigned, consumer.rebalance_protocol()) {
            (true, RebalanceProtocol::Cooperative) => consumer.incremental_assign(list),
            (true, _) => consumer.assign(list),
            (false, RebalanceProtocol::Cooperative) => consumer.incremental_unassign(list),
            (false, _) => consumer.unassign(),
        };
        if let Err(error) = left {
            tracing::debug!(%error, "partitions could not be let go of in order");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        match result {
            Ok(()) => {}
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::NoOffset) => {}
            Err(error) => {
                tracing::debug!(%error, "offsets could not be committed; they will be again");
                self.commit_failed.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Finds the identity of a topic in a line of librdkafka's log, the only place where it tells it.
fn identity(line: &str) -> Option<Event> {
    let (_, rest) = line.split_once("Topic ")?;
    let (topic, rest) = rest.split_once(" changed id from ")?;
    let (_, identity) = rest.split_once(" to ")?;
    let identity = identity.trim();
    let is_code = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=');
    if identity.is_empty() || !identity.bytes().all(is_code) {
        return None;
    }
    // Sixty-four bits of it do: FNV-1a.
    let hash = identity.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Some(Event::Identity(topic.to_owned(), hash as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_found_in_the_log() {
        let of = |id: &str| {
            identity(&format!(
                "[thrd:main]: Topic a.b-c changed id from AAAAAAAAAAAAAAAAAAAAAA to {id}"
            ))
        };
        let Some(Event::Identity(topic, one)) = of("tUa5TzmhQpGpZ5s2wQOkWg") else {
            panic!("not found");
        };
        assert_eq!(topic, "a.b-c");
        assert_eq!(of("tUa5TzmhQpGpZ5s2wQOkWg"), Some(Event::Identity(topic.clone(), one)));
        assert_ne!(of("tUa5TzmhQpGpZ5s2wQOkWh"), Some(Event::Identity(topic, one)));
        assert_eq!(identity("[thrd:main]: Topic a [0] Leader 1 Epoch 0"), None);
        assert_eq!(of(""), None);
    }
}
