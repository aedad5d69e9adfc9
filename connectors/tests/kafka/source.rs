//! Where reading begins and goes on, and what messages become.
use std::time::Duration;

use connectors::Position;
use rdkafka::producer::{BaseProducer, Producer};

use crate::broker::{Message, value, write};
use crate::reading::Source;
use crate::{broker, fresh, mortal_broker, numbers, rows_of};

fn write_numbers(topic: &str, partition: i32, from: usize, to: usize) {
    let rows = rows_of(from..to);
    broker().write(topic, partition, rows.iter().map(|row| value(row)));
}

#[test]
fn reading_begins_where_it_is_told_to() {
    let topic = fresh("starts");
    broker().create_topic(&topic, 2, &[]);
    let times = [1_000_000, 2_000_000, 3_000_000];
    for partition in 0..2 {
        let rows = rows_of((0..3).map(|n| 10 * partition as usize + n));
        let messages = rows.iter().zip(times).map(|(row, time)| Message {
            time: Some(time),
            ..value(row)
        });
        broker().write(&topic, partition, messages);
    }
    let mut earliest = numbers(broker(), &topic, "start = \"earliest\"").read();
    earliest.rows(6);
    assert_eq!(earliest.sorted(), rows_of([0, 10, 11, 12, 1, 2]));
    assert_eq!(earliest.partitions.len(), 2);
    let position = [(format!("{topic}/0"), 3), (format!("{topic}/1"), 3)];
    assert!(
        position.iter().all(|(name, next)| earliest.position[name] == *next),
        "{:?}",
        earliest.position
    );

    let mut timed = numbers(broker(), &topic, "start = \"1970-01-01T00:33:20Z\"").read();
    timed.rows(4);
    assert_eq!(timed.sorted(), rows_of([11, 12, 1, 2]));

    // What comes after the last message is decided and logged at once, not with the first message that comes.
    let latest = numbers(broker(), &topic, "start = \"latest\"");
    let mut run = latest.read();
    run.until("it is told where it begins", |run| run.partitions.len() == 2);
    assert!(
        position.iter().all(|(name, next)| run.position[name] == *next),
        "{:?}",
        run.position
    );
    drop(run.reader);
    write_numbers(&topic, 1, 20, 22);
    let mut again = latest.read_from(&run.position);
    assert_eq!(again.rows(2), rows_of([20, 21]));
}

#[test]
fn reading_goes_on_where_it_was_logged() {
    let topic = fresh("resumed");
    broker().create_topic(&topic, 3, &[]);
    let source = numbers(broker(), &topic, "");
    let mut position = Position::new();
    let mut all = Vec::new();
    for round in 0..3 {
        for partition in 0..3 {
            let from = 1000 * round + 100 * partition as usize;
            write_numbers(&topic, partition, from, from + 50);
        }
        let mut run = source.read_from(&position);
        // Nothing is acknowledged: what was logged decides.
        run.acknowledges = false;
        all.extend_from_slice(run.rows(150));
        position = run.position;
    }
    all.sort();
    let mut expected = rows_of((0..9).flat_map(|at| {
        let from = 1000 * (at / 3) + 100 * (at % 3);
        from..from + 50
    }));
    expected.sort();
    assert_eq!(all, expected);
}

#[test]
fn partitions_that_are_added_are_read_from_their_first_message() {
    let topic = fresh("growing");
    broker().create_topic(&topic, 1, &[]);
    write_numbers(&topic, 0, 0, 5);
    let options = "start = \"latest\"\noptions = { topic.metadata.refresh.interval.ms = 300 }";
    let mut run = numbers(broker(), &topic, options).read();
    run.until("it is told where it begins", |run| run.partitions.len() == 1);
    broker().grow_topic(&topic, 3);
    write_numbers(&topic, 2, 10, 15);
    write_numbers(&topic, 0, 5, 8);
    run.rows(8);
    let mut expected = rows_of((10..15).chain(5..8));
    expected.sort();
    assert_eq!(run.sorted(), expected);
    assert_eq!(run.partitions[&format!("{topic}/1")], 0);
}

#[test]
fn what_comes_beside_a_message_fills_columns() {
    let topic = fresh("beside");
    broker().create_topic(&topic, 2, &[]);
    broker().write(
        &topic,
        1,
        [
            Message {
                key: Some("17"),
                value: Some("{\"v\":1.5}"),
                time: Some(1_700_000_000_123),
                headers: vec![
                    ("a", Some(b"x\"y")),
                    ("b", None),
                    ("a", Some(b"z")),
                    ("c", Some(&[0xff, 0x01])),
                ],
            },
            Message {
                key: Some("no number"),
                ..value("{\"v\":2}")
            },
            Message {
                key: None,
                time: Some(1_700_000_000_000),
                ..value("[{\"v\":3},{\"v\":4}]")
            },
        ],
    );
    let connector = format!(
        "type = \"kafka\"\nbrokers = \"{}\"\ntopic = [\"{topic}\"]\n\
         metadata = {{ key = \"id\", topic = \"t\", partition = \"p\", offset = \"o\", timestamp = \"at\", headers = \"h\" }}",
        broker().address()
    );
    let columns = [
        "id bigint",
        "v double",
        "t text!",
        "p integer!",
        "o bigint!",
        "at timestamp!",
        "h text!",
    ];
    let mut run = Source::new(&connector, "", &columns).read();
    let headers = r#""h":"{\"a\":[\"x\\\"y\",\"z\"],\"b\":null,\"c\":\"\\\\xff01\"}""#;
    let expected = [
        format!(r#"{{"id":17,"v":1.5,"t":"{topic}","p":1,"o":0,"at":"2023-11-14T22:13:20.123Z",{headers}}}"#),
        format!(r#"{{"id":null,"v":3.0,"t":"{topic}","p":1,"o":2,"at":"2023-11-14T22:13:20Z","h":"{{}}"}}"#),
        format!(r#"{{"id":null,"v":4.0,"t":"{topic}","p":1,"o":2,"at":"2023-11-14T22:13:20Z","h":"{{}}"}}"#),
    ];
    assert_eq!(run.rows(3), expected);
    assert_eq!(
        run.rejected,
        [format!(
            "column \"id\": \"no number\" is not an integer of 64 bits ({topic}/1, offset 1)"
        )]
    );
}

#[test]
fn bad_messages_are_told_with_their_place_and_disturb_no_others() {
    let topic = fresh("poison");
    broker().create_topic(&topic, 1, &[("max.message.bytes", "3000000")]);
    let long = format!("{{\"n\":3,\"x\":\"{}\"}}", "x".repeat(1_100_000));
    let producer: BaseProducer = broker()
        .client()
        .set("message.max.bytes", "3000000")
        .create()
        .expect("a producer");
    let messages = [
        "{\"n\":0}",
        "no JSON",
        "",
        long.as_str(),
        "{\"n\":4}",
        "{\"n\":\"x\"}",
        "{\"n\":6}",
    ];
    write(&producer, &topic, 0, messages.map(value));
    write(&producer, &topic, 0, [Message::default(), value("{\"n\":8}")]);
    producer.flush(Duration::from_secs(10)).expect("written");
    let mut run = numbers(broker(), &topic, "").read();
    assert_eq!(run.rows(4), rows_of([0, 4, 6, 8]));
    let at = |offset: usize, reason: &str| format!("{reason} ({topic}/0, offset {offset})");
    assert_eq!(
        run.rejected,
        [
            at(1, "expected an object at byte 1 of the row"),
            at(3, "the row is longer than 1048576 bytes"),
            at(5, "column \"n\": \"x\" is not an integer of 64 bits"),
            at(
                7,
                "a message without a value, which takes rows back only with envelope = \"upsert\""
            ),
        ]
    );
}

#[test]
fn csv_and_debezium() {
    let topic = fresh("csv");
    broker().create_topic(&topic, 1, &[]);
    broker().write(&topic, 0, ["1;a", "2;b\n3;c\n", "x;d"].map(value));
    let connector = format!(
        "type = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{topic}\"",
        broker().address()
    );
    let mut run = Source::new(
        &connector,
        "type = \"csv\"\ndelimiter = \";\"",
        &["n bigint!", "t text"],
    )
    .read();
    let expected = [r#"{"n":1,"t":"a"}"#, r#"{"n":2,"t":"b"}"#, r#"{"n":3,"t":"c"}"#];
    assert_eq!(run.rows(3), expected);
    assert_eq!(run.rejected.len(), 1);

    let topic = fresh("debezium");
    broker().create_topic(&topic, 1, &[]);
    let changes = [
        r#"{"op":"c","before":null,"after":{"id":1,"v":"a"}}"#,
        r#"{"schema":{},"payload":{"op":"u","before":{"id":1,"v":"a"},"after":{"id":1,"v":"b"}}}"#,
        r#"{"op":"d","before":{"id":1,"v":"b"},"after":null}"#,
    ];
    broker().write(&topic, 0, changes.map(value));
    broker().write(&topic, 0, [Message::default()]);
    let connector = format!(
        "type = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{topic}\"",
        broker().address()
    );
    let mut run = Source::new(&connector, "envelope = \"debezium\"", &["id bigint*", "v text"]).read();
    let expected = [
        r#"{"id":1,"v":"a","__taken_back":false}"#,
        r#"{"id":1,"v":"b","__taken_back":false}"#,
        r#"{"id":1,"v":"b","__taken_back":true}"#,
    ];
    assert_eq!(run.rows(3), expected);
    assert_eq!(run.rejected, Vec::<String>::new());
}

/// A topic that only keeps the newest message of each key is read as the table it stands for.
#[test]
fn upserts_of_a_compacted_topic() {
    let topic = fresh("compacted");
    let config = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "300"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "300"),
        ("delete.retention.ms", "600000"),
    ];
    broker().create_topic(&topic, 1, &config);
    let write_all = |rows: Vec<(usize, Option<usize>)>| {
        let rows: Vec<(String, Option<String>)> = rows
            .into_iter()
            .map(|(key, v)| (format!("{{\"id\":{key}}}"), v.map(|v| format!("{{\"v\":{v}}}"))))
            .collect();
        let messages = rows.iter().map(|(key, row)| Message {
            key: Some(key),
            value: row.as_deref(),
            ..Message::default()
        });
        broker().write(&topic, 0, messages);
    };
    write_all((0..200).map(|n| (n % 10, Some(n))).collect());
    write_all(vec![(3, None), (4, None)]);
    let connector = format!(
        "type = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{topic}\"",
        broker().address()
    );
    let source = Source::new(&connector, "envelope = \"upsert\"", &["id bigint*", "v bigint"]);
    let mut round = 0;
    let deadline = std::time::Instant::now() + crate::reading::SOON;
    loop {
        // Segments roll only as messages come.
        round += 1;
        write_all(vec![(9, Some(1000 + round))]);
        let mut run = source.read();
        run.until("the newest", |run| {
            run.rows
                .iter()
                .any(|row| row.contains(&format!("\"v\":{}", 1000 + round)))
        });
        let mut table = std::collections::BTreeMap::new();
        for row in &run.rows {
            let row: serde_json::Value = serde_json::from_str(row).expect("JSON");
            let id = row["id"].as_i64().expect("a key");
            match row["__taken_back"].as_bool() {
                Some(true) => table.remove(&id),
                _ => table.insert(id, row["v"].as_u64().expect("a value") as usize),
            };
        }
        let expected = (0..10).filter(|id| ![3, 4].contains(id)).map(|id| match id {
            9 => (9, 1000 + round),
            id => (id, 190 + id as usize),
        });
        assert!(table.into_iter().eq(expected), "{:?}", run.rows);
        if run.rows.len() < 150 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "it was never compacted");
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn what_a_transaction_took_back_is_not_read() {
    let topic = fresh("transactions");
    broker().create_topic(&topic, 1, &[]);
    let producer: BaseProducer = broker()
        .client()
        .set("transactional.id", &topic)
        .create()
        .expect("a producer");
    let patience = Duration::from_secs(20);
    producer.init_transactions(patience).expect("transactions");
    for (from, keep) in [(0, true), (10, false), (20, true), (30, false)] {
        producer.begin_transaction().expect("a transaction");
        let rows = rows_of(from..from + 5);
        write(&producer, &topic, 0, rows.iter().map(|row| value(row)));
        producer.flush(patience).expect("written");
        match keep {
            true => producer.commit_transaction(patience).expect("committed"),
            false => producer.abort_transaction(patience).expect("aborted"),
        }
    }
    let kept = rows_of((0..5).chain(20..25));
    let mut run = numbers(broker(), &topic, "").read();
    assert_eq!(run.rows(10), kept);
    // Whatever stands in between, it goes on where it was.
    drop(run.reader);
    write_numbers(&topic, 0, 40, 42);
    let mut again = numbers(broker(), &topic, "").read_from(&run.position);
    assert_eq!(again.rows(2), rows_of([40, 41]));
    let all = numbers(broker(), &topic, "options = { isolation.level = \"read_uncommitted\" }");
    assert_eq!(all.read().rows(22).len(), 22);
}

/// A broker that goes and comes again is a pause, in which nothing is lost or doubled.
#[test]
fn a_broker_that_is_killed_and_started_again() {
    let mut own = mortal_broker();
    let topic = fresh("killed");
    own.create_topic(&topic, 2, &[]);
    let source = numbers(&own, &topic, "");
    let mut run = source.read();
    let mut count = 0;
    for round in 0..2 {
        for partition in 0..2 {
            let rows = rows_of(count..count + 100);
            own.write(&topic, partition, rows.iter().map(|row| value(row)));
            count += 100;
        }
        // Mid-stream: some of it is read before, some after.
        run.until("some rows", |run| run.rows.len() > 200 * round);
        own.kill();
        for _ in 0..10 {
            run.step();
        }
        own.restart();
        run.rows(count);
    }
    let mut expected = rows_of(0..count);
    expected.sort();
    assert_eq!(run.sorted(), expected);
    assert_eq!(run.rejected, Vec::<String>::new());

    // It ends without a broker, too.
    own.kill();
    let since = std::time::Instant::now();
    drop(run.reader);
    assert!(
        since.elapsed() < Duration::from_secs(10),
        "it took {:?}",
        since.elapsed()
    );

    // One that is started while there is no broker waits for it.
    let mut late = source.read();
    for _ in 0..10 {
        assert!(!late.step());
    }
    own.restart();
    late.rows(count);
}

#[test]
fn declarations_that_cannot_work() {
    let problems = |options: &str, columns: &[&str]| {
        let connector = format!("type = \"kafka\"\nbrokers = \"127.0.0.1:1\"\ntopic = \"t\"\n{options}");
        Source::new(&connector, "", columns).problems().join("; ")
    };
    let one = |options: &str| problems(options, &["n bigint"]);
    assert_eq!(one(""), "");
    assert_eq!(
        one("[options]\nsecurity.protocol = \"PLAINTEXT\"\n\"fetch.max.bytes\" = 1000000"),
        ""
    );
    for (options, problem) in [
        (
            "[options]\nfetch.min.byte = 1",
            "option \"fetch.min.byte\" is not taken by librdkafka: No such configuration property: \"fetch.min.byte\" \
             Its options are listed in librdkafka's CONFIGURATION.md.",
        ),
        (
            "[options]\nenable.auto.commit = true",
            "option \"enable.auto.commit\" is not for [connector.options] Offsets are committed once their rows are safe.",
        ),
        (
            "[options]\nsecurity.protocol = \"tls\"",
            "option \"security.protocol\" is not taken by librdkafka: Invalid value \"tls\" for configuration property \
             \"security.protocol\" Its options are listed in librdkafka's CONFIGURATION.md.",
        ),
        (
            "start = \"stored\"",
            "start = \"stored\" without a group, which would have stored it Name the `group`, with join = false if its \
             partitions are not to be shared.",
        ),
        (
            "metadata = { offset = \"m\" }",
            "metadata.offset = \"m\" is no column of the source Declare it among the `columns`, with its type.",
        ),
        (
            "metadata = { timestamp = \"n\" }",
            "column \"n\" cannot hold metadata.timestamp, which needs type timestamp ",
        ),
    ] {
        assert_eq!(one(options), problem);
    }
    let no_file = one("[options]\nsecurity.protocol = \"SSL\"\nssl.ca.location = \"/no/such/file\"");
    assert!(
        no_file.starts_with("librdkafka refuses these options: ssl.ca.location failed"),
        "{no_file}"
    );
    let mechanism = one("[options]\nsecurity.protocol = \"SASL_SSL\"\nsasl.mechanism = \"NONE\"");
    assert!(mechanism.contains("Unsupported SASL mechanism"), "{mechanism}");
    let connector = "type = \"kafka\"\nbrokers = \"a,,b\"\ntopic = [\"t\", \"t\", \"a b\"]";
    let problems = Source::new(connector, "envelope = \"upsert\"", &["n bigint"]).problems();
    assert_eq!(problems.len(), 4, "{problems:?}");
    let error = toml::from_str::<connectors::ConnectorConfig>(
        "type = \"kafka\"\nbrokers = \"a\"\ntopic = \"t\"\nstart = \"yesterday\"",
    );
    assert!(
        error
            .unwrap_err()
            .message()
            .contains("start = \"yesterday\" is none of")
    );
}
