//! Sees messages written: in transactions that also hold the tick, or at least once.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::kafka;
use crate::sinks::kafka::encode::Encoder;
use crate::sinks::{Delivery, Sink, SinkError};

/// How long the brokers are waited for in one step.
const STEP: Duration = Duration::from_secs(15);
/// How long to wait at a time for room in the queue of messages.
const ROOM: Duration = Duration::from_millis(20);

/// Writes to one topic.
pub(crate) struct KafkaSink {
    client: ClientConfig,
    /// What reads back the newest tick, where each is written exactly once.
    asking: Option<ClientConfig>,
    topic: String,
    /// What the sink is known by on the other side.
    name: String,
    encoder: Encoder,
    connected: Option<Connected>,
    /// Why this sink is over.
    over: Option<String>,
}

/// A producer, and what it knows of the other side.
struct Connected {
    producer: BaseProducer<Told>,
    /// In transactions, the group that holds the newest tick, and that tick.
    group: Option<(ConsumerGroupMetadata, Option<u64>)>,
}

/// Counts messages that were lost, and keeps what was said last.
#[derive(Debug, Default)]
struct Told {
    failed: AtomicU64,
    reason: Mutex<Option<String>>,
}

impl Told {
    fn say(&self, reason: String) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    /// What was said last.
    fn said(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Told {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // Of brokers that cannot be reached, errors tell.
        if !matches!(facility, "FAIL" | "ERROR") {
            kafka::log(level, facility, line);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, "kafka: {reason}");
        self.say(reason.to_owned());
    }
}

impl ConsumerContext for Told {}

impl ProducerContext for Told {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.say(kafka::reason(error));
        }
    }
}

/// Why something was not written.
enum Failure {
    Kafka(KafkaError),
    /// So many messages were not taken in time.
    Lost(u64),
}

impl From<KafkaError> for Failure {
    fn from(error: KafkaError) -> Failure {
        Failure::Kafka(error)
    }
}

impl KafkaSink {
    pub(super) fn new(
        client: ClientConfig,
        asking: Option<ClientConfig>,
        topic: String,
        name: String,
        encoder: Encoder,
    ) -> KafkaSink {
        KafkaSink {
            client,
            asking,
            topic,
            name,
            encoder,
            connected: None,
            over: None,
        }
    }

    /// Reaches the brokers, and learns how far this sink has come.
    fn connect(&mut self) -> Result<(), SinkError> {
        if let Some(over) = &self.over {
            return Err(SinkError::Fatal(over.clone()));
        }
        if self.connected.is_none() {
            let told = Told::default();
            let connected = self.reach(told);
            self.connected = Some(connected.map_err(|error| self.judge(&error.into(), "begin to write"))?);
        }
        Ok(())
    }

    fn reach(&self, told: Told) -> Result<Connected, KafkaError> {
        let producer: BaseProducer<Told> = self.client.create_with_context(told)?;
        let Some(asking) = &self.asking else {
            return Ok(Connected { producer, group: None });
        };
        // Whatever an earlier run has left open is over after this: written, or not at all.
        producer.init_transactions(STEP)?;
        let consumer: BaseConsumer<Told> = asking.create_with_context(Told::default())?;
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, 0);
        let list = consumer.committed_offsets(list, STEP)?;
        let mut newest = None;
        for element in list.elements() {
            element.error()?;
            if let Offset::Offset(tick) = element.offset() {
                newest = u64::try_from(tick).ok();
            }
        }
        let group = consumer.group_metadata().map(|group| (group, newest));
        Ok(Connected { producer, group })
    }

    /// What a failure comes to; the connection is given up, and what it has left open is settled by the next.
    fn judge(&mut self, failure: &Failure, what: &str) -> SinkError {
        let said = self
            .connected
            .take()
            .and_then(|connected| connected.producer.context().said());
        let (code, reason) = match failure {
            Failure::Kafka(error) => (error.rdkafka_error_code(), kafka::reason(error)),
            Failure::Lost(count) => (None, format!("{count} messages were not taken in time")),
        };
        use RDKafkaErrorCode as Code;
        if let Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) = code {
            let over = format!(
                "another program writes to topic \"{}\" of kafka in this sink's place, as \"{}\"; let one deployment of \
                 that name run at a time, and restart this one if it is to take over",
                self.topic, self.name
            );
            self.over = Some(over.clone());
            return SinkError::Fatal(over);
        }
        let mut text = format!("could not {what} to topic \"{}\" of kafka: {reason}", self.topic);
        if let Some(said) = said.filter(|said| *said != reason) {
            text = format!("{text} ({said})");
        }
        match code {
            Some(
                Code::TransactionalIdAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::TopicAuthorizationFailed,
            ) => SinkError::Fatal(text),
            _ => SinkError::Retry(text),
        }
    }

    fn write(&mut self, deliveries: &[Delivery]) -> Result<(), Failure> {
        let KafkaSink {
            encoder,
            connected: Some(connected),
            topic,
            ..
        } = self
        else {
            return Err(KafkaError::Canceled.into());
        };
        let producer = &connected.producer;
        let newest = connected.group.as_ref().and_then(|(_, newest)| *newest);
        let due = |delivery: &&Delivery| newest.is_none_or(|newest| delivery.tick > newest);
        let Some(last) = deliveries.iter().filter(due).map(|delivery| delivery.tick).max() else {
            return Ok(());
        };
        if connected.group.is_some() {
            producer.begin_transaction()?;
        }
        for delivery in deliveries.iter().filter(due) {
            let tick = delivery.tick.to_string();
            encoder.each(delivery, |message| {
                let headers = OwnedHeaders::new().insert(Header {
                    key: "tick",
                    value: Some(&tick),
                });
                let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).headers(headers);
                if let Some(key) = message.key {
                    record = record.key(key);
                }
                if let Some(value) = message.value {
                    record = record.payload(value);
                }
                send(producer, record)
            })?;
            producer.poll(Duration::ZERO);
        }
        match &mut connected.group {
            None => {
                let flushed = producer.flush(STEP);
                let failed = producer.context().failed.swap(0, Ordering::Relaxed);
                if failed > 0 {
                    return Err(Failure::Lost(failed));
                }
                flushed?;
            }
            Some((group, newest)) => {
                let mut list = TopicPartitionList::new();
                // Ticks count microseconds: they fit for 292,000 years.
                list.add_partition_offset(topic, 0, Offset::Offset(last as i64))?;
                producer.send_offsets_to_transaction(&list, group, STEP)?;
                producer.commit_transaction(STEP)?;
                *newest = Some(last);
            }
        }
        Ok(())
    }
}

/// Hands a message over, once there is room.
fn send(producer: &BaseProducer<Told>, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<(), KafkaError> {
    let since = Instant::now();
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) if since.elapsed() < STEP => {
                producer.poll(ROOM);
                record = again;
            }
            Err((error, _)) => return Err(error),
        }
    }
}

impl Sink for KafkaSink {
    fn delivered(&mut self) -> Result<Option<u64>, SinkError> {
        if self.asking.is_none() {
            return Ok(None);
        }
        self.connect()?;
        let group = self.connected.as_ref().and_then(|connected| connected.group.as_ref());
        Ok(group.and_then(|(_, newest)| *newest))
    }

    fn deliver(&mut self, deliveries: &[Delivery]) -> Result<(), SinkError> {
        self.connect()?;
        self.write(deliveries).map_err(|failure| self.judge(&failure, "write"))
    }
}
