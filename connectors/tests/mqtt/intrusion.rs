//! What nobody should send to a listener, and what slow or many clients do.
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::broker::free_port;
use crate::raw::{CLEAN, Hello, Raw, connect, packet, publish};
use crate::source::{Source, open};

fn listening(port: u16, more: &str) -> Source {
    let options = format!("type = \"mqtt_listener\"\nlisten = \"127.0.0.1:{port}\"\ntopic = \"t\"\n{more}\n");
    let mut source = open(&options).unwrap();
    source.read();
    source
}

/// Says that honest clients are served.
#[track_caller]
fn still_serves(source: &mut Source, port: u16) {
    let before = source.rows.len();
    let (mut raw, _, code) = Raw::hello(
        port,
        &Hello {
            client: "honest",
            ..CLEAN
        },
    );
    assert_eq!(code, 0);
    raw.publish(1, false, 1, "t", "{\"n\":1}");
    source.follow("an honest message comes", |source| source.rows.len() == before + 1);
    assert_eq!(raw.answers(0x40, 1), [1]);
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let seed = 5;
    println!("seed {seed}");
    let mut random = Pcg64::seed_from_u64(seed);
    let port = free_port();
    let mut source = listening(port, "");
    for round in 0..200 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if round % 2 == 0 {
            stream.write_all(&connect(&CLEAN)).unwrap();
        }
        let length = random.random_range(1..300);
        let bytes: Vec<u8> = (0..length).map(|_| random.random()).collect();
        // It may be turned away in the midst of it.
        let _ = stream.write_all(&bytes);
    }
    still_serves(&mut source, port);
    // Garbage may be a message by chance, which no source wants.
    assert!(
        source.rejected.iter().all(|said| said.starts_with("no source takes")),
        "{:?}",
        source.rejected
    );
}

#[test]
fn rules_that_are_broken_end_a_connection_with_a_reason() {
    let port = free_port();
    let mut source = listening(port, "packet_bytes_max = 1000");
    let five = Hello { version: 5, ..CLEAN };
    let large = publish(5, 1, false, 1, "t", &"x".repeat(1000));
    let cases: [(&str, Vec<u8>, u8); 7] = [
        ("too large", large[..10].to_vec(), 0x95),
        ("a topic with a wildcard", publish(5, 1, false, 1, "t/+", "{}"), 0x90),
        ("a topic of nothing", publish(5, 1, false, 1, "", "{}"), 0x90),
        (
            "an alias that was not offered",
            packet(0x30, b"\x00\x01t\x03\x23\x00\x99{}"),
            0x94,
        ),
        (
            "an alias that stands for nothing",
            packet(0x30, b"\x00\x00\x03\x23\x00\x01{}"),
            0x94,
        ),
        ("what a broker sends", packet(0x20, b"\x00\x00\x00"), 0x82),
        ("an unknown property", packet(0x30, b"\x00\x01t\x02\x77\x00{}"), 0x81),
    ];
    for (what, bytes, reason) in cases {
        let (mut raw, _, _) = Raw::hello(port, &five);
        // What came before still counts.
        let before = source.rows.len();
        raw.publish(1, false, 9, "t", "{\"n\":9}");
        raw.send(&bytes);
        assert_eq!(raw.next().unwrap(), [0xe0, 2, reason, 0], "{what}");
        assert_eq!(raw.next(), None, "{what}");
        source.follow("it counts", |source| source.rows.len() == before + 1);
    }
    let (mut raw, _, _) = Raw::hello(port, &five);
    raw.send(b"\x82\x07\x00\x05\x00\x00\x01t\x00");
    let refused = raw.next().unwrap();
    assert_eq!(
        (refused[0], refused[2], refused[3], refused.last()),
        (0x90, 0, 5, Some(&0x8f))
    );
    raw.send(b"\xa2\x06\x00\x06\x00\x00\x01t");
    assert_eq!(raw.next().unwrap(), [0xb0, 4, 0, 6, 0, 0x11]);
    let (mut raw, _, _) = Raw::hello(port, &CLEAN);
    raw.send(b"\x82\x06\x00\x05\x00\x01t\x00");
    assert_eq!(raw.next().unwrap(), [0x90, 3, 0, 5, 0x80]);
    // An alias that was offered is as good as its topic.
    let (mut raw, _, _) = Raw::hello(port, &five);
    let before = source.rows.len();
    raw.send(&packet(0x30, b"\x00\x01t\x03\x23\x00\x01{\"n\":1}"));
    raw.send(&packet(0x30, b"\x00\x00\x03\x23\x00\x01{\"n\":2}"));
    source.follow("both come", |source| source.rows.len() == before + 2);
    let mut old = Raw::open(port, 3);
    old.send(b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x0a\x00\x00");
    assert_eq!(old.next().unwrap(), [0x20, 2, 0, 1]);
    assert_eq!(old.next(), None);
    let mut web = Raw::open(port, 3);
    web.send(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(web.next(), None);
    still_serves(&mut source, port);
}

#[test]
fn slow_clients_are_waited_for_and_silent_ones_are_not() {
    let port = free_port();
    let mut source = listening(port, "");
    let mut slow = Raw::open(port, 4);
    let bytes = [connect(&CLEAN), publish(4, 1, false, 1, "t", "{\"n\":1}")].concat();
    for byte in bytes {
        slow.send(&[byte]);
        source.read_for(Duration::from_millis(3));
    }
    source.follow("it comes", |source| source.rows.len() == 1);
    assert_eq!(slow.next().unwrap()[0], 0x20);
    assert_eq!(slow.answers(0x40, 1), [1]);
    let begun = Instant::now();
    let hello = |client, keep_alive| Hello {
        version: 5,
        client,
        keep_alive,
        ..CLEAN
    };
    let (mut silent, _, _) = Raw::hello(port, &hello("silent", 1));
    let (mut pings, _, _) = Raw::hello(port, &hello("pings", 1));
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(500));
        pings.send(&[0xc0, 0]);
        assert_eq!(pings.next().unwrap(), [0xd0, 0]);
    }
    assert_eq!(silent.next().unwrap(), [0xe0, 2, 0x8d, 0]);
    assert!(begun.elapsed() < Duration::from_secs(5));
    // Half a packet is no life sign.
    let (mut half, _, _) = Raw::hello(port, &hello("half", 1));
    half.send(&[0x30, 100, 0, 1]);
    assert_eq!(half.next().unwrap(), [0xe0, 2, 0x8d, 0]);
}

#[test]
fn a_thousand_clients_are_served_and_more_are_turned_away() {
    let port = free_port();
    let mut source = listening(port, "connections_max = 1000");
    let names: Vec<String> = (0..1000).map(|n| format!("sensor-{n}")).collect();
    let mut clients: Vec<Raw> = names
        .iter()
        .map(|client| {
            let (raw, _, code) = Raw::hello(port, &Hello { client, ..CLEAN });
            assert_eq!(code, 0);
            raw
        })
        .collect();
    let mut one_more = Raw::open(port, 4);
    let _ = one_more.stream.write_all(&connect(&CLEAN));
    assert_eq!(one_more.next(), None);
    for (n, client) in clients.iter_mut().enumerate() {
        for id in 1..=3 {
            client.publish(1, false, id, "t", &format!("{{\"n\":{}}}", 3 * n as u16 + id));
        }
    }
    source.follow("all come", |source| source.rows.len() == 3000);
    assert_eq!(source.sorted(), (1..=3000).collect::<Vec<i64>>());
    for client in &mut clients {
        assert_eq!(client.answers(0x40, 3), [1, 2, 3]);
    }
    drop(clients);
    crate::broker::until("there is room again", || {
        let mut raw = Raw::open(port, 4);
        raw.stream.write_all(&connect(&CLEAN)).is_ok() && raw.next().is_some()
    });
}
