//! Changes of a view, written and read back.
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use connectors::{Delivery, Sink, SinkConfig, SinkError, SinkSetting};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::broker::Broker;
use crate::reading::{Run, Source};
use crate::{broker, fresh, mortal_broker};

fn setting(name: &str, key: Option<Vec<usize>>) -> SinkSetting {
    SinkSetting {
        name: name.to_owned(),
        deployment: "water".to_owned(),
        schema: Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("v", DataType::Utf8, true),
        ])),
        key,
    }
}

fn config(broker: &Broker, topic: &str, options: &str) -> SinkConfig {
    let text = format!(
        "type = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{topic}\"\n{options}",
        broker.address()
    );
    toml::from_str(&text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

fn sink(topic: &str, options: &str, setting: &SinkSetting) -> Box<dyn Sink> {
    let config = config(broker(), topic, options);
    assert_eq!(config.check(setting), []);
    config.sink(setting).expect("a sink")
}

/// A change of some rows at a tick: the identifier, the value, and how often it came.
fn delivery(setting: &SinkSetting, tick: u64, rows: &[(i64, &str, i64)]) -> Delivery {
    let ids = Int64Array::from_iter_values(rows.iter().map(|row| row.0));
    let values = StringArray::from_iter_values(rows.iter().map(|row| row.1));
    let columns = vec![Arc::new(ids) as _, Arc::new(values) as _];
    Delivery {
        tick,
        rows: RecordBatch::try_new(Arc::clone(&setting.schema), columns).expect("rows"),
        diffs: rows.iter().map(|row| row.2).collect(),
    }
}

/// Reads a topic back as a source of ours.
fn read_back(topic: &str, format: &str) -> Run {
    let connector = format!(
        "type = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{topic}\"\nmetadata = {{ headers = \"h\" }}",
        broker().address()
    );
    Source::new(&connector, format, &["id bigint*", "v text", "h text"]).read()
}

fn row(id: i64, v: Option<&str>, tick: u64, taken_back: bool) -> String {
    let v = v.map_or("null".to_owned(), |v| format!("\"{v}\""));
    format!(r#"{{"id":{id},"v":{v},"h":"{{\"tick\":\"{tick}\"}}","__taken_back":{taken_back}}}"#)
}

/// Delivers as the engine does: again, as long as it may work another time.
fn persist(sink: &mut dyn Sink, deliveries: &[Delivery]) {
    let deadline = std::time::Instant::now() + crate::reading::SOON;
    while let Err(error) = sink.deliver(deliveries) {
        assert!(matches!(error, SinkError::Retry(_)), "{error}");
        assert!(std::time::Instant::now() < deadline, "{error}");
    }
}

/// Asks for the newest tick that is there, again, as long as it may work another time.
fn asked(sink: &mut dyn Sink) -> Option<u64> {
    let deadline = std::time::Instant::now() + crate::reading::SOON;
    loop {
        match sink.delivered() {
            Ok(tick) => return tick,
            Err(error) => {
                assert!(matches!(error, SinkError::Retry(_)), "{error}");
                assert!(std::time::Instant::now() < deadline, "{error}");
            }
        }
    }
}

#[test]
fn upserts_are_read_back_as_they_were() {
    for options in ["exactly_once = false", ""] {
        let topic = fresh("upserts");
        broker().create_topic(&topic, 1, &[]);
        let setting = setting(&fresh("sink"), Some(vec![0]));
        let mut sink = sink(&topic, options, &setting);
        assert_eq!(asked(sink.as_mut()), None);
        let first = delivery(&setting, 10, &[(1, "a", 1), (2, "b", 1)]);
        let second = delivery(&setting, 20, &[(1, "a", -1), (1, "c", 1), (2, "b", -1)]);
        persist(sink.as_mut(), &[first, second]);
        let expected = (options.is_empty()).then_some(20);
        assert_eq!(asked(sink.as_mut()), expected);
        let mut run = read_back(&topic, "envelope = \"upsert\"");
        run.rows(4);
        let rows = [
            row(1, Some("a"), 10, false),
            row(2, Some("b"), 10, false),
            row(1, Some("c"), 20, false),
            row(2, None, 20, true),
        ];
        assert_eq!(run.rows, rows);
    }
}

#[test]
fn changes_are_read_back_as_they_were() {
    let topic = fresh("changes");
    broker().create_topic(&topic, 1, &[]);
    let setting = setting(&fresh("sink"), None);
    let mut sink = sink(&topic, "", &setting);
    persist(
        sink.as_mut(),
        &[
            delivery(&setting, 10, &[(1, "a", 2)]),
            delivery(&setting, 20, &[(2, "b", 1), (1, "a", -1)]),
        ],
    );
    let mut run = read_back(&topic, "envelope = \"debezium\"");
    run.rows(4);
    let rows = [
        row(1, Some("a"), 10, false),
        row(1, Some("a"), 10, false),
        row(1, Some("a"), 20, true),
        row(2, Some("b"), 20, false),
    ];
    assert_eq!(run.rows, rows);
}

/// Whenever the program dies, what it tells again after it is there once.
#[test]
fn what_is_told_again_after_a_crash_is_written_once() {
    let topic = fresh("once");
    broker().create_topic(&topic, 2, &[]);
    let setting = setting(&fresh("sink"), Some(vec![0]));
    let tick = |tick: u64| delivery(&setting, tick, &[(tick as i64, "x", 1), (-(tick as i64), "y", 1)]);
    let mut one = sink(&topic, "", &setting);
    persist(one.as_mut(), &[tick(1)]);
    drop(one);

    // A crash in the middle of a transaction: another one under the same name has it taken back.
    let dying: BaseProducer = broker()
        .client()
        .set("transactional.id", format!("sangam-water-{}", setting.name))
        .create()
        .expect("a producer");
    let patience = Duration::from_secs(20);
    dying.init_transactions(patience).expect("transactions");
    dying.begin_transaction().expect("a transaction");
    dying
        .send(
            BaseRecord::<str, str>::to(&topic)
                .key("{\"id\":2}")
                .payload("{\"id\":2,\"v\":\"lost\"}"),
        )
        .expect("sent");
    dying.flush(patience).expect("written");

    let mut two = sink(&topic, "", &setting);
    assert_eq!(asked(two.as_mut()), Some(1));
    // The engine tells again what it does not know to be there; also what is.
    persist(two.as_mut(), &[tick(1), tick(2)]);
    persist(two.as_mut(), &[tick(1), tick(2)]);
    persist(two.as_mut(), &[tick(3)]);
    drop(two);
    let mut three = sink(&topic, "", &setting);
    persist(three.as_mut(), &[tick(2), tick(3), tick(4)]);
    assert_eq!(asked(three.as_mut()), Some(4));

    let mut run = read_back(&topic, "envelope = \"upsert\"");
    run.rows(8);
    let mut expected: Vec<String> = (1..=4)
        .flat_map(|tick| {
            let id = tick as i64;
            [row(id, Some("x"), tick, false), row(-id, Some("y"), tick, false)]
        })
        .collect();
    expected.sort();
    assert_eq!(run.sorted(), expected);
}

#[test]
fn one_program_at_a_time_writes_as_a_sink() {
    let topic = fresh("fenced");
    broker().create_topic(&topic, 1, &[]);
    let setting = setting(&fresh("sink"), Some(vec![0]));
    let mut old = sink(&topic, "", &setting);
    persist(old.as_mut(), &[delivery(&setting, 1, &[(1, "old", 1)])]);
    let mut new = sink(&topic, "", &setting);
    persist(new.as_mut(), &[delivery(&setting, 2, &[(1, "new", 1)])]);
    for tick in [2, 3] {
        let refused = old.deliver(&[delivery(&setting, tick, &[(1, "late", 1)])]);
        let Err(SinkError::Fatal(reason)) = refused else {
            panic!("{refused:?}");
        };
        assert!(reason.starts_with("another program writes to topic"), "{reason}");
    }
    persist(new.as_mut(), &[delivery(&setting, 3, &[(1, "newer", 1)])]);
    let mut run = read_back(&topic, "envelope = \"upsert\"");
    run.rows(3);
    let rows = [("old", 1), ("new", 2), ("newer", 3)].map(|(v, tick)| row(1, Some(v), tick, false));
    assert_eq!(run.rows, rows);
}

#[test]
fn a_sink_waits_for_its_broker() {
    let mut own = mortal_broker();
    let topic = fresh("waiting");
    own.create_topic(&topic, 1, &[]);
    let setting = setting(&fresh("sink"), Some(vec![0]));
    for options in [
        "options = { message.timeout.ms = 1500, transaction.timeout.ms = 2000 }",
        "exactly_once = false\noptions = { message.timeout.ms = 1500 }",
    ] {
        let mut sink = config(&own, &topic, options).sink(&setting).expect("a sink");
        let tick = |tick: u64| delivery(&setting, tick, &[(tick as i64, "x", 1)]);
        persist(sink.as_mut(), &[tick(1)]);
        own.kill();
        let refused = sink.deliver(&[tick(2)]);
        assert!(matches!(refused, Err(SinkError::Retry(_))), "{refused:?}");
        own.restart();
        persist(sink.as_mut(), &[tick(2), tick(3)]);
    }
}

#[test]
fn declarations_of_sinks_that_cannot_work() {
    let problems = |options: &str, key: Option<Vec<usize>>| {
        let problems = config(broker(), "t", options).check(&setting("s", key));
        problems
            .iter()
            .map(|problem| problem.what.clone())
            .collect::<Vec<_>>()
            .join("; ")
    };
    assert_eq!(problems("", None), "");
    assert_eq!(
        problems("mode = \"upsert\"", None),
        "mode = \"upsert\" for a view without a key"
    );
    assert_eq!(
        problems("options = { transactional.id = \"x\" }", None),
        "option \"transactional.id\" is not for [connector.options]"
    );
    let few = problems("options = { acks = 1 }", None);
    assert!(
        few.starts_with("librdkafka refuses these options: `acks` must be set to `all`"),
        "{few}"
    );
    let error = toml::from_str::<SinkConfig>("type = \"kafkaa\"").unwrap_err();
    assert_eq!(
        error.message(),
        "unknown type \"kafkaa\" for the connector of a sink; there are \"kafka\""
    );
}
