//! Brokers that are away.
use std::time::{Duration, Instant};

use crate::broker::{Broker, publish, until};
use crate::source::{numbered, open};
use crate::tap::Tap;

#[test]
fn a_broker_may_come_later() {
    let mut broker = Broker::prepared("", |_| {});
    let options = format!(
        "type = \"mqtt\"\nurl = \"{}\"\ntopic = \"t/{{station}}\"\n",
        broker.url()
    );
    let mut source = open(&options).unwrap();
    assert_eq!(source.read_for(Duration::from_millis(700)), 0);
    broker.run();
    let subscribed = || broker.log().contains("Sending SUBACK");
    until("it subscribes", || {
        source.read();
        subscribed()
    });
    publish(broker.port, 1, "t/K1", numbered(0..10));
    source.follow("all come", |source| source.rows.len() == 10);
}

#[test]
fn a_killed_broker_sends_what_it_had_saved() {
    for version in ["5", "\"3.1.1\""] {
        for qos in [1, 2] {
            let mut broker = Broker::start("");
            let options = format!(
                "type = \"mqtt\"\nurl = \"{}\"\ntopic = \"t\"\nqos = {qos}\nversion = {version}\n\
                 session = \"persistent\"\nclient_id = \"engine\"\n",
                broker.url()
            );
            let mut source = open(&options).unwrap();
            source.read();
            until("it subscribes", || broker.log().contains("Sending SUBACK to engine"));
            publish(broker.port, qos, "t", numbered(0..40));
            // Some are in flight, none is acknowledged.
            source.read_to(40);
            broker.save();
            broker.kill();
            assert_eq!(source.read_for(Duration::from_millis(300)), 40);
            broker.run();
            publish(broker.port, qos, "t", numbered(40..60));
            // What is answered on a connection that is broken, and not known to be, would come again by QoS 1.
            until("it sends them again", || {
                source.read();
                broker.log().matches("Sending PUBLISH to engine (d1").count() >= 40
            });
            source.follow("all come", |source| source.rows.len() >= 60);
            assert_eq!(
                source.sorted(),
                (0..60).collect::<Vec<i64>>(),
                "version {version}, qos {qos}"
            );
            assert_eq!(source.read_for(Duration::from_millis(100)), 60);
        }
    }
}

#[test]
fn pauses_grow_while_a_broker_refuses() {
    let broker = Broker::start("allow_anonymous false");
    let tap = Tap::to(broker.address());
    let url = format!("mqtt://127.0.0.1:{}", tap.port);
    let mut source = open(&format!("type = \"mqtt\"\nurl = \"{url}\"\ntopic = \"t\"\n")).unwrap();
    let begun = Instant::now();
    let connects = || tap.sent(1);
    until("it tries four times", || {
        source.read();
        connects() >= 4
    });
    // At least half of 250, 500 and 1000 milliseconds.
    assert!(begun.elapsed() >= Duration::from_millis(875), "{:?}", begun.elapsed());
    let tried = connects();
    source.read_for(Duration::from_secs(1));
    assert!(connects() <= tried + 1);
}

#[test]
fn a_broker_that_knows_no_version_5_is_spoken_to_in_3_1_1() {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let broker = std::thread::spawn(move || {
        let mut levels = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().unwrap();
            let mut connect = [0; 256];
            let read = stream.read(&mut connect).unwrap();
            assert!(read > 9);
            levels.push(connect[8]);
            if connect[8] == 5 {
                stream.write_all(b"\x20\x02\x00\x01").unwrap();
                continue;
            }
            stream.write_all(b"\x20\x02\x00\x00").unwrap();
            let read = stream.read(&mut connect).unwrap();
            assert_eq!(connect[0], 0x82, "{read}");
            stream
                .write_all(b"\x90\x03\x00\x01\x00\x30\x0a\x00\x01t{\"n\":5}")
                .unwrap();
            return (levels, stream);
        }
    });
    let mut source = open(&format!(
        "type = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{port}\"\ntopic = \"t\"\n"
    ))
    .unwrap();
    source.read_to(1);
    assert_eq!(source.numbers, [5]);
    assert_eq!(broker.join().unwrap().0, [5, 4]);
}
