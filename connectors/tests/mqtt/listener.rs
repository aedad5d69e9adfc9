//! Real clients that publish to a listener.
use std::path::Path;
use std::time::Duration;

use rumqttc::v5;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};

use crate::broker::{Publisher, free_port};
use crate::certificates::{authority, signed};
use crate::source::{Source, numbered, open, open_as};

fn listen(port: u16, more: &str) -> String {
    format!("type = \"mqtt_listener\"\nlisten = \"127.0.0.1:{port}\"\ntopic = \"s/{{station}}/r\"\n{more}\n")
}

/// Publishes on a thread, for the answers come only while the source is followed.
fn publish_to(source: &mut Source, publisher: Publisher<'_>, lines: std::ops::Range<i64>) -> Result<(), String> {
    std::thread::scope(|scope| {
        let published = scope.spawn(|| publisher.lines("s/K1/r", numbered(lines)));
        source.follow("the client is done", |_| published.is_finished());
        published.join().unwrap()
    })
}

/// Publishes one message, and tells whether that was let to: with lines to read, the program would try for ever.
fn publishes(source: &mut Source, publisher: &Publisher<'_>) -> bool {
    let mut child = publisher.spawn("s/K1/r", &["-m", "{\"n\":1}"]);
    let mut status = None;
    source.follow("the client is done", |_| {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap().success()
}

#[test]
fn mosquitto_pub_publishes_in_every_way() {
    let port = free_port();
    let mut source = open(&listen(
        port,
        "metadata = { topic = \"topic\", client = \"client\", qos = \"qos\", retained = \"retained\" }",
    ))
    .unwrap();
    let mut sent = 0;
    for version in ["mqttv5", "mqttv311"] {
        for qos in 0..3 {
            let publisher = Publisher {
                port,
                version,
                qos,
                more: &["-i", "sensor"],
                directory: Path::new("."),
            };
            publish_to(&mut source, publisher, sent..sent + 400).unwrap();
            sent += 400;
            source.follow("all come", |source| source.rows.len() as i64 >= sent);
            assert_eq!(source.numbers, (0..sent).collect::<Vec<i64>>(), "{version}, qos {qos}");
            let last = format!("K1 {} s/K1/r false {qos} sensor -", sent - 1);
            assert_eq!(source.rows.last(), Some(&last));
        }
    }
}

#[test]
fn a_password_is_asked_for() {
    let port = free_port();
    let mut source = open(&listen(port, "username = \"u1\"\npassword = \"p1\"")).unwrap();
    source.read();
    for version in ["mqttv5", "mqttv311"] {
        let with = |more| Publisher {
            port,
            version,
            qos: 1,
            more,
            directory: Path::new("."),
        };
        let right = &["-u", "u1", "-P", "p1"];
        publish_to(&mut source, with(right), 0..1).unwrap();
        for wrong in [
            &["-u", "u1", "-P", "p2"][..],
            &["-u", "u2", "-P", "p1"],
            &["-u", "u1"],
            &[],
        ] {
            let said = publish_to(&mut source, with(wrong), 1..2).unwrap_err();
            let said = said.to_lowercase();
            assert!(
                said.contains("user name or password") || said.contains("authori"),
                "{wrong:?}: {said}"
            );
        }
    }
    assert_eq!(source.numbers, [0, 0]);
}

#[test]
fn tls_is_spoken_and_may_ask_for_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    authority("ca", path);
    authority("other", path);
    signed("s", "DNS:localhost,IP:127.0.0.1", "ca", path);
    signed("sensor", "DNS:sensor", "ca", path);
    let with = |port, more| Publisher {
        port,
        version: "mqttv5",
        qos: 1,
        more,
        directory: path,
    };
    let port = free_port();
    let certificate = "certificate = \"s.crt\"\nkey = \"s.key\"";
    let mut source = open_as("tls", &listen(port, certificate), path).unwrap();
    source.read();
    publish_to(&mut source, with(port, &["--cafile", "ca.crt"]), 0..300).unwrap();
    assert_eq!(source.numbers.len(), 300);
    assert!(!publishes(&mut source, &with(port, &["--cafile", "other.crt"])));
    // What speaks no TLS is turned away, and disturbs nobody.
    assert!(!publishes(&mut source, &with(port, &[])));
    assert!(publishes(&mut source, &with(port, &["--cafile", "ca.crt"])));
    let port = free_port();
    let mut source = open_as(
        "mutual",
        &listen(port, &format!("{certificate}\nca = \"ca.crt\"")),
        path,
    )
    .unwrap();
    source.read();
    let own = &["--cafile", "ca.crt", "--cert", "sensor.crt", "--key", "sensor.key"];
    publish_to(&mut source, with(port, own), 0..10).unwrap();
    assert_eq!(source.numbers.len(), 10);
    assert!(!publishes(&mut source, &with(port, &["--cafile", "ca.crt"])));
}

#[test]
fn rumqttc_publishes_by_3_1_1() {
    let port = free_port();
    let mut source = open(&listen(port, "in_flight = 20")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut options = MqttOptions::new("rumqttc", "127.0.0.1", port);
    options.set_clean_session(false).set_keep_alive(Duration::from_secs(5));
    let (client, mut events) = AsyncClient::new(options, 10);
    let done = runtime.spawn(async move {
        tokio::spawn(async move {
            for n in 0..1000 {
                let qos = if n % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
                let payload = format!("{{\"n\":{n}}}");
                client.publish("s/K1/r", qos, false, payload).await.unwrap();
            }
            // The event loop ends with its last client.
            std::future::pending::<()>().await;
        });
        let mut answered = 0;
        loop {
            if let Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) = events.poll().await.unwrap() {
                answered += 1;
            }
            if answered == 1000 {
                return;
            }
        }
    });
    source.follow("all are answered", |_| done.is_finished());
    runtime.block_on(done).unwrap();
    assert_eq!(source.sorted(), (0..1000).collect::<Vec<i64>>());
}

#[test]
fn rumqttc_publishes_by_5() {
    let port = free_port();
    let mut source = open(&listen(port, "in_flight = 20")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut options = v5::MqttOptions::new("rumqttc", "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut events) = v5::AsyncClient::new(options, 10);
    let done = runtime.spawn(async move {
        tokio::spawn(async move {
            for n in 0..1000 {
                let qos = match n % 2 {
                    0 => v5::mqttbytes::QoS::AtLeastOnce,
                    _ => v5::mqttbytes::QoS::ExactlyOnce,
                };
                let payload = format!("{{\"n\":{n}}}");
                client.publish("s/K1/r", qos, false, payload).await.unwrap();
            }
            // The event loop ends with its last client.
            std::future::pending::<()>().await;
        });
        let mut answered = 0;
        while answered < 1000 {
            let event = events.poll().await.unwrap();
            let packet = match event {
                v5::Event::Incoming(packet) => packet,
                v5::Event::Outgoing(_) => continue,
            };
            if matches!(packet, v5::Incoming::PubAck(_) | v5::Incoming::PubComp(_)) {
                answered += 1;
            }
        }
    });
    source.follow("all are answered", |_| done.is_finished());
    runtime.block_on(done).unwrap();
    assert_eq!(source.sorted(), (0..1000).collect::<Vec<i64>>());
}
