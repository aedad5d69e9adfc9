//! What a client of a broker is sent, and how it gets in.
use std::path::Path;
use std::time::Duration;

use crate::broker::{Broker, Publisher, publish, run, until};
use crate::certificates::{authority, signed};
use crate::source::{numbered, open, open_as, problem};

fn declared(broker: &Broker, more: &str) -> String {
    format!("type = \"mqtt\"\nurl = \"{}\"\n{more}\n", broker.url())
}

/// Waits until a client has subscribed, as the broker tells.
fn subscribed(broker: &Broker, times: usize) {
    until("a client subscribes", || {
        broker.log().matches("Sending SUBACK").count() >= times
    });
}

#[test]
fn messages_of_every_quality_come_once_by_either_version() {
    let broker = Broker::start("");
    let mut subscriptions = 0;
    for (name, version) in [("mqttv5", "5"), ("mqttv311", "\"3.1.1\"")] {
        for qos in 0..3 {
            let topic = format!("{name}/q{qos}");
            let mut source = open(&declared(
                &broker,
                &format!("topic = \"{topic}/{{station}}\"\nqos = {qos}\nversion = {version}"),
            ))
            .unwrap();
            source.read();
            subscriptions += 1;
            subscribed(&broker, subscriptions);
            let publisher = Publisher {
                port: broker.port,
                version: name,
                qos,
                more: &[],
                directory: Path::new("."),
            };
            publisher.lines(&format!("{topic}/K1"), numbered(0..500)).unwrap();
            publisher.lines(&format!("{topic}/ä b"), numbered(500..502)).unwrap();
            source.follow("all come", |source| source.rows.len() >= 502);
            assert_eq!(source.sorted(), (0..502).collect::<Vec<i64>>());
            assert_eq!(source.rows.iter().filter(|row| row.starts_with("ä b ")).count(), 2);
            assert_eq!(source.read_for(Duration::from_millis(100)), 502);
        }
    }
}

#[test]
fn columns_tell_what_comes_beside_a_message() {
    let broker = Broker::start("");
    let retain = Publisher {
        port: broker.port,
        version: "mqttv5",
        qos: 1,
        more: &["-r"],
        directory: Path::new("."),
    };
    retain.lines("plants/P1/tanks/a", numbered(1..2)).unwrap();
    let mut source = open(&declared(
        &broker,
        "topic = [\"plants/{station}/#\", \"others/+/x\"]\n\
         metadata = { topic = \"topic\", retained = \"retained\", qos = \"qos\", received = \"received\" }",
    ))
    .unwrap();
    source.follow("the retained one comes", |source| source.rows.len() == 1);
    publish(broker.port, 0, "plants/P2", numbered(2..3));
    publish(broker.port, 2, "others/o/x", numbered(3..4));
    publish(broker.port, 1, "others/o/y", numbered(4..5));
    publish(broker.port, 1, "plants/P3/a/b/c", numbered(5..6));
    publish(broker.port, 1, "plants/P4", ["{\"n\":\"x\"}".to_owned()]);
    source.follow("the others come", |source| {
        source.rows.len() == 4 && source.rejected.len() == 1
    });
    let received = "2023-11-14T22:13:20Z";
    assert_eq!(
        source.rows,
        [
            format!("P1 1 plants/P1/tanks/a true 1 - {received}"),
            format!("P2 2 plants/P2 false 0 - {received}"),
            format!("- 3 others/o/x false 1 - {received}"),
            format!("P3 5 plants/P3/a/b/c false 1 - {received}"),
        ]
    );
    assert_eq!(
        source.rejected,
        ["column \"n\": \"x\" is not an integer of 64 bits: {\"n\":\"x\"}"]
    );
}

#[test]
fn members_of_a_group_share_messages() {
    let broker = Broker::start("");
    let options = declared(&broker, "topic = \"$share/g/s/{station}\"");
    let mut one = open(&format!("{options}client_id = \"one\"")).unwrap();
    let mut two = open(&format!("{options}client_id = \"two\"")).unwrap();
    one.read();
    two.read();
    subscribed(&broker, 2);
    publish(broker.port, 1, "s/K1", numbered(0..100));
    until("all come to one or the other", || {
        for source in [&mut one, &mut two] {
            source.read();
            source.acknowledge();
        }
        one.rows.len() + two.rows.len() >= 100
    });
    let mut all = [one.sorted(), two.sorted()].concat();
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<i64>>());
    assert!(!one.rows.is_empty() && !two.rows.is_empty());
}

#[test]
fn a_password_lets_in() {
    let mut broker = Broker::prepared("allow_anonymous false\npassword_file passwords", |directory| {
        let made = run(
            "mosquitto_passwd",
            "mosquitto",
            &["-b", "-c", "passwords", "u1", "p1"],
            directory,
        );
        assert!(made.status.success(), "{made:?}");
    });
    broker.run();
    for (version, said) in [("5", "not authorised"), ("\"3.1.1\"", "not authorised")] {
        let options = declared(
            &broker,
            &format!("topic = \"t\"\nversion = {version}\nusername = \"u1\""),
        );
        let mut wrong = open(&format!("{options}password = \"p2\"\nclient_id = \"wrong\"")).unwrap();
        wrong.read();
        let told = || broker.log().matches(said).count();
        let before = told();
        until("the broker turns it away", || told() > before);
        let mut right = open(&format!("{options}password = \"p1\"\nclient_id = \"right\"")).unwrap();
        right.read();
        let publisher = Publisher {
            port: broker.port,
            version: "mqttv311",
            qos: 1,
            more: &["-u", "u1", "-P", "p1", "-r"],
            directory: Path::new("."),
        };
        publisher.lines("t", numbered(1..2)).unwrap();
        right.follow("the right one reads", |source| source.numbers.contains(&1));
        assert_eq!(wrong.read_for(Duration::from_millis(50)), 0);
    }
}

#[test]
fn tls_trusts_whom_it_is_told_to() {
    let mut broker = Broker::prepared("cafile ca.crt\ncertfile s.crt\nkeyfile s.key", |directory| {
        authority("ca", directory);
        authority("other", directory);
        signed("s", "DNS:localhost,IP:127.0.0.1", "ca", directory);
    });
    broker.run();
    let directory = broker.directory.path().to_owned();
    let url = |host: &str| {
        format!(
            "type = \"mqtt\"\nurl = \"mqtts://{host}:{}\"\ntopic = \"t\"\n",
            broker.port
        )
    };
    let publisher = Publisher {
        port: broker.port,
        version: "mqttv5",
        qos: 1,
        more: &["--cafile", "ca.crt", "-r"],
        directory: &directory,
    };
    publisher.lines("t", numbered(1..2)).unwrap();
    for host in ["127.0.0.1", "localhost"] {
        let mut source = open_as(host, &format!("{}ca = \"ca.crt\"", url(host)), &directory).unwrap();
        source.follow("it reads by TLS", |source| source.numbers == [1]);
    }
    // Who is not vouched for, and who has another name.
    let mut wrong = [
        open_as("a", &format!("{}ca = \"other.crt\"", url("127.0.0.1")), &directory).unwrap(),
        open_as("b", &format!("{}ca = \"ca.crt\"", url("127.0.0.2")), &directory).unwrap(),
    ];
    for source in &mut wrong {
        assert_eq!(source.read_for(Duration::from_secs(1)), 0);
    }
    until("the broker hears why", || broker.log().contains("alert"));
}

#[test]
fn what_cannot_work_is_said_at_once() {
    let with = |more: &str| {
        problem(&format!(
            "type = \"mqtt\"\nurl = \"mqtt://127.0.0.1\"\ntopic = \"t\"\n{more}"
        ))
    };
    assert!(with("qos = 3").contains("qos is 0, 1 or 2, not 3"));
    assert!(with("version = 4").contains("4 is not a version of MQTT; there are 5 and \"3.1.1\""));
    assert!(with("ca = \"ca.crt\"").contains("are for TLS"));
    assert!(with("password = \"p\"").contains("password needs a username"));
    assert!(
        with("metadata = { topic = \"t\" }").contains("metadata.topic names the column \"t\", which is not declared")
    );
    assert!(with("metadata = { topic = \"n\" }").contains("which is of another type"));
    assert!(with("metadata = { client = \"client\" }").contains("known to a listener only"));
    assert!(with("session = \"long\"").contains("unknown variant `long`"));
    let missing = problem("type = \"mqtt\"\nurl = \"mqtts://a\"\nca = \"none.crt\"\ntopic = \"t\"");
    assert!(
        missing.contains("could not use certificate \"./none.crt\""),
        "{missing}"
    );
}
