//! A client that sends and reads packets byte by byte.
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use crate::broker::DEADLINE;
use crate::tap::packet_length;

/// What a client says of itself.
#[derive(Clone, Copy)]
pub(crate) struct Hello<'a> {
    pub(crate) version: u8,
    pub(crate) client: &'a str,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    pub(crate) login: Option<(&'a str, &'a str)>,
    pub(crate) will: Option<(&'a str, &'a str)>,
}

/// Version 3.1.1, a session of the connection's length.
pub(crate) const CLEAN: Hello<'static> = Hello {
    version: 4,
    client: "raw",
    clean: true,
    keep_alive: 0,
    login: None,
    will: None,
};

fn text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// Makes a packet of a first byte and a body.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let more = length >= 128;
        packet.push((length % 128) as u8 | if more { 128 } else { 0 });
        length /= 128;
        if !more {
            break;
        }
    }
    packet.extend(body);
    packet
}

pub(crate) fn connect(hello: &Hello<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    text("MQTT", &mut body);
    let flags = u8::from(hello.clean) << 1
        | if hello.login.is_some() { 0xc0 } else { 0 }
        | if hello.will.is_some() { 4 } else { 0 };
    body.extend([hello.version, flags]);
    body.extend(hello.keep_alive.to_be_bytes());
    if hello.version == 5 {
        // Its session outlives the connection by a minute, unless it is clean.
        match hello.clean {
            true => body.push(0),
            false => body.extend([5, 0x11, 0, 0, 0, 60]),
        }
    }
    text(hello.client, &mut body);
    if let Some((topic, payload)) = hello.will {
        if hello.version == 5 {
            body.push(0);
        }
        text(topic, &mut body);
        text(payload, &mut body);
    }
    if let Some((username, password)) = hello.login {
        text(username, &mut body);
        text(password, &mut body);
    }
    packet(0x10, &body)
}

pub(crate) fn publish(version: u8, qos: u8, again: bool, id: u16, topic: &str, payload: &str) -> Vec<u8> {
    let mut body = Vec::new();
    text(topic, &mut body);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    if version == 5 {
        body.push(0);
    }
    body.extend(payload.as_bytes());
    packet(0x30 | qos << 1 | u8::from(again) << 3, &body)
}

/// A connection.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    version: u8,
    read: Vec<u8>,
}

impl Raw {
    pub(crate) fn open(port: u16, version: u8) -> Raw {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_nodelay(true).unwrap();
        Raw {
            stream,
            version,
            read: Vec::new(),
        }
    }

    /// Connects and returns the answer's flags and code.
    pub(crate) fn hello(port: u16, hello: &Hello<'_>) -> (Raw, u8, u8) {
        let mut raw = Raw::open(port, hello.version);
        raw.send(&connect(hello));
        let ack = raw.next().expect("an answer to CONNECT");
        assert_eq!(ack[0], 0x20);
        (raw, ack[2], ack[3])
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn publish(&mut self, qos: u8, again: bool, id: u16, topic: &str, payload: &str) {
        let packet = publish(self.version, qos, again, id, topic, payload);
        self.send(&packet);
    }

    /// Reads the next packet; none once the connection is closed.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        self.next_within(DEADLINE).expect("a packet, or the end")
    }

    /// Reads the next packet, if one comes in this time.
    pub(crate) fn next_within(&mut self, time: Duration) -> Option<Option<Vec<u8>>> {
        self.stream.set_read_timeout(Some(time)).unwrap();
        loop {
            if let Some(length) = packet_length(&self.read) {
                return Some(Some(self.read.drain(..length).collect()));
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Some(None),
                Ok(read) => self.read.extend_from_slice(&chunk[..read]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
                Err(_) => return Some(None),
            }
        }
    }

    /// Reads answers of one kind until so many came, and returns their ids.
    pub(crate) fn answers(&mut self, first: u8, count: usize) -> Vec<u16> {
        let answers = (0..count).map(|_| {
            let packet = self.next().expect("an answer");
            assert_eq!(packet[0], first, "{packet:?}");
            u16::from_be_bytes([packet[2], packet[3]])
        });
        answers.collect()
    }

    /// Says that nothing comes for a while.
    pub(crate) fn silent(&mut self) {
        let came = self.next_within(Duration::from_millis(200));
        assert_eq!(came, None);
    }
}
