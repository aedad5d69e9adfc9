//! When a client of a broker answers, and what comes again.
use std::time::Duration;

use crate::broker::{Broker, publish, until};
use crate::source::{Source, numbered, open};
use crate::tap::Tap;

const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBCOMP: u8 = 7;

const VERSIONS: [&str; 2] = ["5", "\"3.1.1\""];

fn declared(port: u16, version: &str, qos: u8, more: &str) -> String {
    format!(
        "type = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{port}\"\ntopic = \"t\"\nversion = {version}\nqos = {qos}\n\
         session = \"persistent\"\nclient_id = \"engine\"\n{more}"
    )
}

fn connected(broker: &Broker, source: &mut Source) {
    let subscribed = || broker.log().matches("Sending SUBACK to engine").count();
    let before = subscribed();
    source.read();
    until("it subscribes", || subscribed() > before);
}

#[test]
fn nothing_is_answered_before_it_is_durable() {
    for version in VERSIONS {
        let broker = Broker::start("");
        let tap = Tap::to(broker.address());
        for (qos, answer) in [(1, PUBACK), (2, PUBREC)] {
            let mut source = open(&declared(tap.port, version, qos, "")).unwrap();
            connected(&broker, &mut source);
            publish(broker.port, 2, "t", numbered(0..50));
            source.read_to(50);
            source.read_for(Duration::from_millis(200));
            assert_eq!(tap.sent(answer), 0, "version {version}, qos {qos}");
            source.acknowledge();
            until("all are answered", || tap.sent(answer) == 50);
            if qos == 2 {
                // Ids are free once that is logged, too.
                until("the broker lets go", || {
                    broker.log().matches("Sending PUBREL to engine").count() == 50
                });
                let batches = source.batches;
                while source.batches == batches {
                    source.read();
                }
                source.read_for(Duration::from_millis(100));
                assert_eq!(tap.sent(PUBCOMP), 0);
                source.follow("they are free", |_| tap.sent(PUBCOMP) == 50);
            }
            assert_eq!(source.sorted(), (0..50).collect::<Vec<i64>>());
        }
    }
}

#[test]
fn what_was_not_acknowledged_comes_again_to_the_next_run() {
    for version in VERSIONS {
        for qos in [1, 2] {
            let broker = Broker::start("");
            let options = declared(broker.port, version, qos, "");
            let mut first = open(&options).unwrap();
            connected(&broker, &mut first);
            publish(broker.port, qos, "t", numbered(0..30));
            first.read_to(30);
            first.acknowledge();
            // The answers are on their way once the broker has heard them.
            let answered = if qos == 1 {
                "Received PUBACK from engine"
            } else {
                "Received PUBCOMP from engine"
            };
            first.follow("the broker hears", |_| broker.log().matches(answered).count() == 30);
            publish(broker.port, qos, "t", numbered(30..80));
            first.read_to(80);
            // None of the 50 was logged when it was lost.
            let position = first.position.clone();
            drop(first);
            publish(broker.port, qos, "t", numbered(80..90));
            let mut second = open(&options).unwrap();
            if qos == 1 {
                second = second.resume(&position);
            }
            second.follow("all come again", |source| source.rows.len() >= 60);
            assert_eq!(
                second.sorted(),
                (30..90).collect::<Vec<i64>>(),
                "version {version}, qos {qos}"
            );
            assert_eq!(second.read_for(Duration::from_millis(100)), 60);
        }
    }
}

#[test]
fn qos_2_is_exactly_once_whenever_the_run_is_lost() {
    for version in VERSIONS {
        let broker = Broker::start("");
        let options = declared(broker.port, version, 2, "");
        let mut lost = open(&options).unwrap();
        connected(&broker, &mut lost);
        let mut numbers = Vec::new();
        for round in 0..6_i64 {
            publish(broker.port, 2, "t", numbered(round * 40..(round + 1) * 40));
            let wanted = (round as usize + 1) * 40;
            let before = numbers.len();
            lost.read_to(wanted - before);
            match round % 3 {
                // Logged, and never answered.
                0 => {}
                // Answered: the broker lets go of some ids, which is not logged.
                1 => {
                    lost.acknowledge();
                    until("it lets go", || broker.log().contains("Sending PUBREL to engine"));
                }
                // It is logged of some that they are free.
                _ => {
                    lost.acknowledge();
                    lost.read_for(Duration::from_millis(50));
                }
            }
            numbers.append(&mut lost.numbers);
            let position = lost.position.clone();
            drop(lost);
            lost = open(&options).unwrap().resume(&position);
        }
        lost.follow("the broker has let go of all", |_| {
            broker.log().matches("Received PUBCOMP from engine").count() >= 240
        });
        numbers.append(&mut lost.numbers);
        numbers.sort_unstable();
        assert_eq!(numbers, (0..240).collect::<Vec<i64>>(), "version {version}");
        assert!(lost.position.values().all(|slot| *slot == 0));
        assert!(lost.position.len() <= 240);
    }
}

#[test]
fn a_cut_wire_brings_nothing_twice() {
    for version in VERSIONS {
        for (qos, answer) in [(1, PUBACK), (2, PUBREC)] {
            let broker = Broker::start("");
            let tap = Tap::to(broker.address());
            let mut source = open(&declared(tap.port, version, qos, "")).unwrap();
            connected(&broker, &mut source);
            publish(broker.port, qos, "t", numbered(0..60));
            source.read_to(60);
            let resent = || broker.log().matches("Sending PUBLISH to engine (d1").count();
            tap.cut();
            until("the broker sends them again", || {
                source.read();
                resent() >= 60
            });
            source.read_for(Duration::from_millis(100));
            // They are durable while there is no connection, and that is known.
            tap.hold(true);
            tap.cut();
            until("it finds the wire cut", || tap.refused() > 0);
            source.acknowledge();
            tap.hold(false);
            source.follow("all are answered on the new one", |_| tap.sent(answer) >= 60);
            publish(broker.port, qos, "t", numbered(60..70));
            source.follow("more come", |source| source.rows.len() >= 70);
            assert_eq!(
                source.sorted(),
                (0..70).collect::<Vec<i64>>(),
                "version {version}, qos {qos}"
            );
        }
    }
}

#[test]
fn only_so_many_messages_are_in_flight() {
    for version in VERSIONS {
        let broker = Broker::start("");
        let mut source = open(&declared(broker.port, version, 1, "in_flight = 7\n")).unwrap();
        connected(&broker, &mut source);
        publish(broker.port, 1, "t", numbered(0..50));
        source.read_to(7);
        assert_eq!(source.read_for(Duration::from_millis(300)), 7, "version {version}");
        source.acknowledge();
        source.read_to(14);
        assert_eq!(source.read_for(Duration::from_millis(300)), 14, "version {version}");
        source.follow("the rest comes", |source| source.rows.len() == 50);
        assert_eq!(source.numbers, (0..50).collect::<Vec<i64>>());
    }
}
