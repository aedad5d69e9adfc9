use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::*;

fn framed(bytes: &[u8]) -> BytesMut {
    let mut buffer = BytesMut::from(bytes);
    let frame = frame(&mut buffer, usize::MAX).unwrap().unwrap();
    assert!(buffer.is_empty());
    frame
}

fn written(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    write(&mut out);
    framed(&out)
}

#[test]
fn frames_are_cut_where_packets_end() {
    let mut buffer = BytesMut::new();
    assert!(frame(&mut buffer, 100).unwrap().is_none());
    for &byte in &[0x30, 0x83, 0x00, b'a', b'b'] {
        buffer.put_u8(byte);
        assert!(frame(&mut buffer, 100).unwrap().is_none());
    }
    buffer.put_slice(b"c\xc0\x00\xd0");
    assert_eq!(&frame(&mut buffer, 100).unwrap().unwrap()[..], b"\x30\x83\x00abc");
    assert_eq!(&frame(&mut buffer, 100).unwrap().unwrap()[..], b"\xc0\x00");
    assert!(frame(&mut buffer, 100).unwrap().is_none());
    // Its length is enough to turn a packet away.
    let mut large = BytesMut::from(&b"\x30\xff\xff\xff\x7f"[..]);
    assert!(matches!(frame(&mut large, 1 << 20), Err(Fault::TooLarge { bytes, .. }) if bytes == (1 << 28) + 4));
    let mut endless = BytesMut::from(&b"\x30\xff\xff\xff\xff\x01"[..]);
    assert!(matches!(frame(&mut endless, usize::MAX), Err(Fault::Malformed(_))));
}

fn connect(version: Version) -> Connect {
    Connect {
        version,
        client_id: "sensor-1".to_owned(),
        clean: false,
        expiry: if version == Version::V3 { u32::MAX } else { 60 },
        keep_alive: 30,
        login: Some(("u".to_owned(), "p".to_owned())),
        will: None,
    }
}

#[test]
fn a_connect_is_read_as_it_was_written() {
    for version in [Version::V3, Version::V5] {
        let connect = connect(version);
        let frame = written(|out| connect.write(10, 1000, out).unwrap());
        assert_eq!(Connect::read(frame).unwrap(), Some(connect));
    }
    // MQTT 3.1, and a version still to come.
    let old = b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x0a\x00\x00";
    assert_eq!(Connect::read(framed(old)).unwrap(), None);
    let next = b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x0a\x00\x00\x00";
    assert_eq!(Connect::read(framed(next)).unwrap(), None);
    assert!(Connect::read(framed(b"\x10\x04\x00\x02HI")).is_err());
    assert!(Connect::read(framed(b"\xc0\x00")).is_err());
}

#[test]
fn an_end_may_come_without_a_reason() {
    for (bytes, reason) in [(&b"\xe0\x00"[..], 0), (b"\xe0\x01\x04", 4), (b"\xe0\x02\x8e\x00", 0x8e)] {
        let read = Packet::read(Version::V5, framed(bytes)).unwrap();
        assert_eq!(read, Packet::Disconnect(reason));
    }
    assert_eq!(
        Packet::read(Version::V3, framed(b"\xe0\x00")).unwrap(),
        Packet::Disconnect(0)
    );
}

#[test]
fn answers_to_a_connect() {
    let read = |version, bytes: &[u8]| Packet::read(version, framed(bytes)).unwrap();
    let ack = |session_present, code| {
        Packet::ConnAck(ConnAck {
            session_present,
            code,
            ..ConnAck::default()
        })
    };
    assert_eq!(read(Version::V3, b"\x20\x02\x01\x00"), ack(true, 0));
    assert_eq!(read(Version::V5, b"\x20\x03\x00\x00\x00"), ack(false, 0));
    // A broker of 3.1.1 refuses version 5 in its own words.
    assert_eq!(read(Version::V5, b"\x20\x02\x00\x01"), ack(false, 1));
    assert_eq!(read(Version::V5, b"\x20\x03\x00\x86\x00"), ack(false, 0x86));
    for version in [Version::V3, Version::V5] {
        let offer = Offer {
            in_flight: 7,
            packet_bytes_max: 1 << 20,
            aliases: 3,
            client_id: Some("client-18446744073709551615".to_owned()),
        };
        let frame = written(|out| write_conn_ack(version, true, 0, Some(&offer), out));
        assert_eq!(Packet::read(version, frame.clone()).unwrap(), ack(true, 0));
        if version == Version::V5 {
            let v5::Packet::ConnAck(read) = v5::Packet::read(&mut frame.clone(), None).unwrap() else {
                panic!("not a CONNACK");
            };
            let properties = read.properties.unwrap();
            assert_eq!(properties.receive_max, Some(7));
            assert_eq!(properties.max_packet_size, Some(1 << 20));
            assert_eq!(properties.topic_alias_max, Some(3));
            assert_eq!(properties.assigned_client_identifier, offer.client_id);
        }
    }
}

#[test]
fn a_refused_topic_is_refused_in_both_versions() {
    for (version, code) in [(Version::V3, 0x80), (Version::V5, 0x8f)] {
        let frame = written(|out| write_no_subscription(version, 9, 2, out).unwrap());
        assert_eq!(Packet::read(version, frame).unwrap(), Packet::SubAck(vec![code; 2]));
        let filters = ["a/+".to_owned(), "b/#".to_owned()];
        let frame = written(|out| write_subscribe(version, 9, &filters, Qos::ExactlyOnce, out).unwrap());
        assert_eq!(Packet::read(version, frame).unwrap(), Packet::Subscribe(9, 2));
    }
}

#[test]
fn unwanted_messages_are_answered_with_a_reason_that_version_5_knows() {
    let mut out = BytesMut::new();
    Answer::PubAck(0x0102).write_unwanted(Version::V5, &mut out);
    assert_eq!(&out[..], b"\x40\x03\x01\x02\x10");
    out.clear();
    Answer::PubRec(0x0102).write_unwanted(Version::V3, &mut out);
    assert_eq!(&out[..], b"\x50\x02\x01\x02");
}

/// Whatever comes, it is read or refused: no panic, no endless loop.
#[test]
fn garbage_is_refused() {
    let seed = 11;
    println!("seed {seed}");
    let mut random = Pcg64::seed_from_u64(seed);
    let mut good: Vec<Vec<u8>> = Vec::new();
    for version in [Version::V3, Version::V5] {
        good.push(written(|out| connect(version).write(10, 1000, out).unwrap()).to_vec());
        let filters = ["a/+".to_owned(), "b/#".to_owned()];
        good.push(written(|out| write_subscribe(version, 9, &filters, Qos::ExactlyOnce, out).unwrap()).to_vec());
        good.push(written(|out| write_no_subscription(version, 9, 2, out).unwrap()).to_vec());
        good.push(written(|out| write_unsubscribed(version, 9, 2, out).unwrap()).to_vec());
    }
    let mut out = BytesMut::new();
    let mut will = v4::Connect::new("c");
    will.last_will = Some(v4::LastWill::new("w", "gone", mqttbytes::QoS::AtLeastOnce, true));
    will.write(&mut out).unwrap();
    good.push(out.split().to_vec());
    let mut publish = v4::Publish::new("a/b", mqttbytes::QoS::AtLeastOnce, "payload");
    publish.pkid = 5;
    publish.write(&mut out).unwrap();
    good.push(out.split().to_vec());
    let properties = v5::PublishProperties {
        topic_alias: Some(3),
        content_type: Some("x".to_owned()),
        user_properties: vec![("k".to_owned(), "v".to_owned())],
        subscription_identifiers: vec![1, 300],
        ..v5::PublishProperties::default()
    };
    let mut publish = v5::Publish::new("a/b", mqttbytes5::QoS::ExactlyOnce, "payload", Some(properties));
    publish.pkid = 5;
    publish.write(&mut out).unwrap();
    good.push(out.split().to_vec());
    v4::Unsubscribe::new("a/b").write(&mut out).unwrap();
    good.push(out.split().to_vec());
    v5::Unsubscribe::new("a/b", None).write(&mut out).unwrap();
    good.push(out.split().to_vec());
    let (mut read, mut refused) = (0, 0);
    for round in 0..300_000 {
        let mut bytes = good[random.random_range(0..good.len())].clone();
        if round % 10 == 0 {
            let length = random.random_range(1..40);
            bytes = (0..length).map(|_| random.random()).collect();
        }
        for _ in 0..random.random_range(0..4) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..4) {
                0 if bytes.len() > 1 => drop(bytes.remove(at)),
                1 => bytes.insert(at, random.random()),
                2 => bytes.truncate(at.max(1)),
                _ => bytes[at] = random.random(),
            }
        }
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = frame(&mut buffer, 1 << 20) {
            for version in [Version::V3, Version::V5] {
                match Packet::read(version, frame.clone()) {
                    Ok(Packet::Publish(publish)) => {
                        assert!(std::str::from_utf8(&publish.topic).is_ok());
                        digest(&publish);
                        read += 1;
                    }
                    Ok(_) => read += 1,
                    Err(_) => refused += 1,
                }
            }
            let _ = Connect::read(frame);
        }
    }
    println!("{read} read, {refused} refused");
    assert!(read > 10_000 && refused > 10_000, "{read} {refused}");
}
