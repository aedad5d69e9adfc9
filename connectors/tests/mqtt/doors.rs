//! What a listener promises, packet by packet, and how sources share one.
use crate::broker::{free_port, until};
use crate::raw::{CLEAN, Hello, Raw};
use crate::source::{Source, open, problem};

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;

fn listen(port: u16, topic: &str, more: &str) -> String {
    format!("type = \"mqtt_listener\"\nlisten = \"127.0.0.1:{port}\"\ntopic = \"{topic}\"\n{more}\n")
}

/// A source on a port, which is read from.
fn listening(port: u16, topic: &str, more: &str) -> Source {
    let mut source = open(&listen(port, topic, more)).unwrap();
    source.read();
    source
}

fn number(n: i64) -> String {
    format!("{{\"n\":{n}}}")
}

const KEPT: Hello<'static> = Hello {
    client: "sensor",
    clean: false,
    ..CLEAN
};

fn release(id: u16) -> Vec<u8> {
    vec![0x62, 2, (id >> 8) as u8, id as u8]
}

#[test]
fn nothing_is_answered_before_it_is_durable() {
    let port = free_port();
    let mut source = listening(port, "t", "");
    for version in [4, 5] {
        let (mut raw, _, code) = Raw::hello(port, &Hello { version, ..CLEAN });
        assert_eq!(code, 0);
        let before = source.rows.len();
        for id in 1..=5 {
            raw.publish(1, false, id, "t", &number(id.into()));
            raw.publish(2, false, 100 + id, "t", &number(100 + i64::from(id)));
        }
        source.read_to(before + 10);
        raw.silent();
        source.acknowledge();
        let mut ids = Vec::new();
        for _ in 0..10 {
            let answer = raw.next().unwrap();
            assert_eq!(answer[0], if answer[3] < 100 { PUBACK } else { PUBREC });
            ids.push(answer[3]);
        }
        assert_eq!(ids, [1, 101, 2, 102, 3, 103, 4, 104, 5, 105]);
        // A session that ends with its connection logs no ids.
        raw.send(&release(101));
        assert_eq!(raw.answers(PUBCOMP, 1), [101]);
        assert!(source.position.is_empty());
        raw.send(&[0xc0, 0]);
        assert_eq!(raw.next().unwrap(), [0xd0, 0]);
    }
}

#[test]
fn what_comes_again_counts_once() {
    let port = free_port();
    let mut source = listening(port, "t", "");
    for version in [4, 5] {
        let hello = Hello { version, ..KEPT };
        source.rows.clear();
        let (mut raw, flags, _) = Raw::hello(port, &Hello { clean: true, ..hello });
        assert_eq!(flags, 0);
        drop(raw);
        (raw, _, _) = Raw::hello(port, &hello);
        raw.publish(1, false, 7, "t", &number(1));
        raw.publish(2, false, 8, "t", &number(2));
        source.read_to(2);
        drop(raw);
        let (mut raw, flags, _) = Raw::hello(port, &hello);
        assert_eq!(flags, 1);
        raw.publish(1, true, 7, "t", &number(1));
        raw.publish(2, true, 8, "t", &number(2));
        raw.publish(1, false, 9, "t", &number(3));
        source.read_to(3);
        raw.silent();
        source.acknowledge();
        assert_eq!(raw.answers(PUBACK, 1), [7]);
        assert_eq!(raw.answers(PUBREC, 1), [8]);
        assert_eq!(raw.answers(PUBACK, 1), [9]);
        // The answer to 8 is lost, so it comes again, now with another beside it.
        drop(raw);
        let (mut raw, _, _) = Raw::hello(port, &hello);
        raw.publish(2, true, 8, "t", &number(2));
        assert_eq!(raw.answers(PUBREC, 1), [8]);
        raw.send(&release(8));
        let batches = source.batches;
        source.follow("it is logged that 8 is free", |source| source.batches > batches);
        assert_eq!(raw.answers(PUBCOMP, 1), [8]);
        // Ids that begin anew are other messages, even if they look alike.
        raw.publish(2, false, 8, "t", &number(2));
        source.read_to(4);
        source.acknowledge();
        assert_eq!(raw.answers(PUBREC, 1), [8]);
        assert_eq!(source.rows.len(), 4);
    }
}

#[test]
fn qos_2_is_known_again_after_a_restart() {
    let port = free_port();
    let mut source = listening(port, "t", "");
    let (mut raw, _, _) = Raw::hello(port, &KEPT);
    for id in 1..=4 {
        raw.publish(2, false, id, "t", &number(id.into()));
    }
    source.read_to(4);
    source.acknowledge();
    assert_eq!(raw.answers(PUBREC, 4), [1, 2, 3, 4]);
    raw.send(&release(4));
    let batches = source.batches;
    source.follow("it is logged that 4 is free", |source| source.batches > batches);
    assert_eq!(raw.answers(PUBCOMP, 1), [4]);
    raw.publish(2, false, 5, "t", &number(5));
    source.read_to(5);
    // Number 5 is logged, and everything stops before it is answered.
    let position = source.position.clone();
    drop(source);
    until("the client hears the end", || raw.next().is_none());
    let mut source = open(&listen(port, "t", "")).unwrap().resume(&position);
    source.read();
    let (mut raw, flags, _) = Raw::hello(port, &KEPT);
    assert_eq!(flags, 1);
    for id in [1, 2, 5] {
        raw.publish(2, true, id, "t", &number(id.into()));
    }
    assert_eq!(raw.answers(PUBREC, 3), [1, 2, 5]);
    raw.send(&[release(1), release(2), release(3), release(5)].concat());
    source.follow("all are free", |source| source.position.values().all(|slot| *slot == 0));
    assert_eq!(raw.answers(PUBCOMP, 4), [1, 2, 3, 5]);
    assert!(source.rows.is_empty());
    // A client that has forgotten everything is believed.
    raw.publish(2, false, 1, "t", &number(9));
    source.read_to(1);
    let position = source.position.clone();
    drop(source);
    let mut source = open(&listen(port, "t", "")).unwrap().resume(&position);
    source.read();
    let (mut raw, flags, _) = Raw::hello(port, &Hello { clean: true, ..KEPT });
    assert_eq!(flags, 0);
    source.follow("its ids are forgotten", |source| {
        source.position.values().all(|slot| *slot == 0)
    });
    raw.publish(2, true, 1, "t", &number(9));
    source.read_to(1);
}

#[test]
fn a_client_that_sends_faster_than_rows_are_durable_waits() {
    let port = free_port();
    let mut source = listening(port, "t", "in_flight = 5");
    let (mut raw, _, _) = Raw::hello(port, &CLEAN);
    for id in 1..=50 {
        raw.publish(1, false, id, "t", &number(id.into()));
    }
    source.read_to(5);
    assert_eq!(source.read_for(std::time::Duration::from_millis(200)), 5);
    source.acknowledge();
    assert_eq!(raw.answers(PUBACK, 5), [1, 2, 3, 4, 5]);
    source.read_to(10);
    assert_eq!(source.read_for(std::time::Duration::from_millis(200)), 10);
    source.follow("the rest comes", |source| source.rows.len() == 50);
    assert_eq!(raw.answers(PUBACK, 45).len(), 45);
}

#[test]
fn sources_share_a_port() {
    let port = free_port();
    let mut one = open(&listen(port, "one/{station}", "")).unwrap();
    let mut both = open(&listen(port, "+/{station}", "")).unwrap();
    one.read();
    // The door opens once every source is read from.
    let mut early = Raw::open(port, 5);
    early.send(&crate::raw::connect(&Hello { version: 5, ..CLEAN }));
    early.silent();
    both.read();
    assert_eq!(early.next().unwrap()[0], 0x20);
    let (mut raw, _, _) = Raw::hello(
        port,
        &Hello {
            version: 5,
            client: "b",
            ..CLEAN
        },
    );
    raw.publish(1, false, 1, "one/K1", &number(1));
    raw.publish(1, false, 2, "two/K2", &number(2));
    raw.publish(1, false, 3, "two/K2/x", "lost?");
    one.read_to(2);
    both.read_to(2);
    one.acknowledge();
    // Nobody wanted the third, which is durable among the rejected of the first.
    assert_eq!(one.rejected, ["no source takes the topic \"two/K2/x\": lost?"]);
    assert_eq!(raw.next().unwrap(), [0x40, 3, 0, 3, 0x10]);
    raw.silent();
    both.acknowledge();
    assert_eq!(raw.answers(PUBACK, 2), [1, 2]);
    assert_eq!((one.numbers.clone(), both.numbers.clone()), (vec![1], vec![1, 2]));
    // One that goes leaves the port to the other.
    drop(one);
    raw.publish(1, false, 4, "one/K1", &number(4));
    both.follow("it still reads", |source| source.numbers.len() == 3);
    assert_eq!(raw.answers(PUBACK, 1), [4]);
    let said = problem(&listen(port, "three", "username = \"u\""));
    assert!(
        said.contains("is shared with another source, which declares it otherwise"),
        "{said}"
    );
    drop(both);
    assert_eq!(raw.next().map(|packet| packet[0]), None);
    // The last one closes the door, and the next opens it again.
    let mut again = listening(port, "again", "");
    let (mut raw, _, _) = Raw::hello(port, &CLEAN);
    raw.publish(1, false, 1, "again", &number(5));
    again.follow("it reads", |source| source.numbers == [5]);
}

#[test]
fn what_a_lost_source_had_not_logged_comes_again() {
    let port = free_port();
    let mut lost = listening(port, "t/{station}", "");
    let _stays = listening(port, "u", "");
    let (mut raw, _, _) = Raw::hello(port, &KEPT);
    raw.publish(1, false, 1, "t/K1", &number(1));
    lost.read_to(1);
    drop(lost);
    // It is told by the end of its connection that it has to send again.
    assert_eq!(raw.next(), None);
    let mut next = listening(port, "t/{station}", "");
    let (mut raw, _, _) = Raw::hello(port, &KEPT);
    raw.publish(1, true, 1, "t/K1", &number(1));
    next.follow("it comes", |source| source.numbers == [1]);
    assert_eq!(raw.answers(PUBACK, 1), [1]);
}

#[test]
fn a_client_that_comes_again_takes_its_place() {
    let port = free_port();
    let mut source = listening(port, "t", "");
    let hello = Hello { version: 5, ..KEPT };
    let (mut first, _, _) = Raw::hello(port, &hello);
    first.publish(1, false, 1, "t", &number(1));
    source.read_to(1);
    let (mut second, flags, _) = Raw::hello(port, &hello);
    assert_eq!(flags, 1);
    assert_eq!(first.next().unwrap(), [0xe0, 2, 0x8e, 0]);
    assert_eq!(first.next(), None);
    second.publish(1, true, 1, "t", &number(1));
    second.silent();
    source.acknowledge();
    assert_eq!(second.answers(PUBACK, 1), [1]);
    assert_eq!(source.read_for(std::time::Duration::from_millis(50)), 1);
}

#[test]
fn a_will_is_told_of_clients_that_break_off() {
    let port = free_port();
    let mut source = listening(port, "gone/{station}", "");
    for version in [4, 5] {
        let hello = |client| Hello {
            version,
            client,
            will: Some(("gone/K1", "{\"n\":1}")),
            ..CLEAN
        };
        let (mut leaves, _, _) = Raw::hello(port, &hello("leaves"));
        leaves.send(&[0xe0, 0]);
        assert_eq!(leaves.next(), None);
        let (breaks_off, _, _) = Raw::hello(port, &hello("breaks off"));
        drop(breaks_off);
        let wanted = if version == 4 { 1 } else { 2 };
        source.follow("its will comes", |source| source.rows.len() == wanted);
    }
    assert_eq!(source.read_for(std::time::Duration::from_millis(100)), 2);
}

#[test]
fn what_cannot_work_is_said_at_once() {
    let with = |more: &str| problem(&listen(1, "t", more));
    assert!(with("password = \"p\"").contains("password needs a username"));
    assert!(with("certificate = \"a\"").contains("certificate and key go together"));
    assert!(with("in_flight = 0").contains("at least 1"));
    assert!(with("packet_bytes_max = 1").contains("between 64 and"));
    assert!(problem(&listen(1, "$share/g/t", "")).contains("$share"));
    assert!(problem(&listen(1, "t/{x}", "")).contains("names the column \"x\", which is not declared"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let said = problem(&listen(taken.local_addr().unwrap().port(), "t", ""));
    assert!(said.contains("could not listen on 127.0.0.1"), "{said}");
}
