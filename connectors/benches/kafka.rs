//! How much of librdkafka's own speed a reader of Kafka keeps, decoding and all.
//!
//! A real broker holds messages of JSON of about 150 bytes. They are polled bare, and read by the reader, in turns, so
//! that whatever else the machine does concerns both. Exits with an error below the floor.
#[path = "../tests/kafka/broker.rs"]
mod broker;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, Field, TimeUnit};
use broker::Broker;
use connectors::{Column, ConnectorConfig, FormatConfig, Read, Setting};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const MESSAGES: usize = 1_000_000;
const PARTITIONS: i32 = 4;
const TURNS: usize = 3;
/// The reader's share of the bare speed.
const FLOOR: f64 = 0.4;

fn main() {
    let broker = Broker::start();
    broker.create_topic("readings", PARTITIONS, &[]);
    let bytes = fill(&broker);
    println!(
        "{MESSAGES} messages of {} bytes in {PARTITIONS} partitions",
        bytes / MESSAGES
    );
    let mut bare: Vec<f64> = Vec::new();
    let mut read: Vec<f64> = Vec::new();
    for turn in 1..=TURNS {
        bare.push(MESSAGES as f64 / poll(&broker).as_secs_f64());
        read.push(MESSAGES as f64 / decode(&broker).as_secs_f64());
        println!(
            "turn {turn}: polled {:.0}/s, read {:.0}/s",
            bare[turn - 1],
            read[turn - 1]
        );
    }
    // Whatever else the machine does only slows a turn down.
    let best = |speeds: &[f64]| speeds.iter().copied().fold(0.0, f64::max);
    let share = best(&read) / best(&bare);
    println!("the reader keeps {share:.2} of what librdkafka does (floor {FLOOR})");
    if share < FLOOR {
        std::process::exit(1);
    }
}

/// Writes the messages; returns how many bytes they are.
fn fill(broker: &Broker) -> usize {
    let producer: BaseProducer = broker.client().set("linger.ms", "20").create().expect("a producer");
    let mut bytes = 0;
    for partition in 0..PARTITIONS {
        let mut rows = Vec::new();
        for n in 0..MESSAGES / PARTITIONS as usize {
            let row = format!(
                "{{\"station\":\"station-{}\",\"at\":\"2026-03-0{}T{:02}:{:02}:{:02}.250Z\",\"ph\":{}.{},\"turbidity\":{},\
                 \"battery\":{},\"status\":\"ok, as it was before\",\"sequence\":{n}}}",
                n % 1000,
                1 + partition,
                n / 3600 % 24,
                n / 60 % 60,
                n % 60,
                6 + n % 3,
                n % 100,
                n % 977,
                100 - n % 100
            );
            bytes += row.len();
            rows.push(row);
        }
        broker::write(
            &producer,
            "readings",
            partition,
            rows.iter().map(|row| broker::value(row)),
        );
        producer.flush(Duration::from_secs(60)).expect("written");
    }
    bytes
}

/// Polls all messages, and looks at each.
fn poll(broker: &Broker) -> Duration {
    let consumer: BaseConsumer = broker
        .client()
        .set("group.id", "bare")
        .set("enable.auto.commit", "false")
        .set("queued.max.messages.kbytes", "32768")
        .set("fetch.queue.backoff.ms", "10")
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset("readings", partition, Offset::Beginning)
            .expect("a partition");
    }
    consumer.assign(&list).expect("assigned");
    let (mut count, mut bytes, mut began) = (0, 0, None);
    while count < MESSAGES {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            began.get_or_insert_with(Instant::now);
            bytes += message.expect("a message").payload_len();
            count += 1;
        }
    }
    assert!(bytes > 100 * MESSAGES);
    began.expect("messages").elapsed()
}

/// Reads all messages as a source does.
fn decode(broker: &Broker) -> Duration {
    let connector = format!(
        "type = \"kafka\"\nbrokers = \"{}\"\ntopic = \"readings\"",
        broker.address()
    );
    let connector: ConnectorConfig = toml::from_str(&connector).expect("a connector");
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns = [
        ("station", DataType::Utf8),
        ("at", time),
        ("ph", DataType::Float64),
        ("turbidity", DataType::Float64),
        ("battery", DataType::Int64),
        ("status", DataType::Utf8),
        ("sequence", DataType::Int64),
    ];
    let columns = columns.map(|(name, data_type)| Column::new(Arc::new(Field::new(name, data_type, false))));
    let setting = Setting {
        name: "bench",
        columns: &columns,
        format: &FormatConfig::default(),
        time_column: Some(1),
        time_zone: "UTC",
        directory: Path::new("."),
        start_us: 0,
    };
    let mut reader = connector
        .reader(&setting)
        .expect("a reader")
        .expect("a source that is read");
    let (mut count, mut batches, mut began) = (0, 0, None);
    while count < MESSAGES {
        match reader.read(i64::MAX).expect("reading on") {
            Read::Rows(batch) => {
                assert!(batch.decoded.rejected.is_empty(), "{:?}", batch.decoded.rejected);
                if batch.decoded.rows.num_rows() > 0 {
                    began.get_or_insert_with(Instant::now);
                }
                count += batch.decoded.rows.num_rows();
                batches += 1;
                reader.acknowledge(batches).expect("acknowledged");
            }
            Read::Wait(time) => std::thread::sleep(time),
            Read::End => panic!("it never ends"),
        }
    }
    began.expect("messages").elapsed()
}
