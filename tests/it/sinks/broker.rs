//! As much of a broker of Kafka as an idempotent producer needs: one topic of one partition, in memory, which can be
//! away.
//!
//! Away, it breaks every connection and takes none; what it was sent before it has, also where nobody heard so.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// What it knows of Kafka's protocol: requests, each with the one version that is answered.
const PRODUCE: (i16, i16) = (0, 3);
/// Never asked for: a broker that knows it takes batches of the form that is read here.
const FETCH: (i16, i16) = (1, 4);
const METADATA: (i16, i16) = (3, 4);
const API_VERSIONS: (i16, i16) = (18, 3);
const INIT_PRODUCER_ID: (i16, i16) = (22, 0);

/// A message: its key and its value, which is none where the key is gone.
pub type Message = (String, Option<String>);

/// A broker that listens.
pub struct Broker {
    address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_away: bool,
    connections: Vec<TcpStream>,
    messages: Vec<Message>,
    producers: i64,
}

impl Broker {
    /// Starts one on a free port.
    pub fn start() -> Broker {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address").to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let broker = Broker {
            address: address.clone(),
            state: Arc::clone(&state),
        };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut at = lock(&state);
                let copy = stream.try_clone().expect("a handle");
                if at.is_away {
                    let _ = stream.shutdown(Shutdown::Both);
                    continue;
                }
                at.connections.push(copy);
                let (state, address) = (Arc::clone(&state), address.clone());
                // A connection that ends is the client's affair.
                thread::spawn(move || serve(stream, &address, &state));
            }
        });
        broker
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Breaks every connection, and takes none.
    pub fn go_away(&self) {
        let mut at = lock(&self.state);
        at.is_away = true;
        for connection in at.connections.drain(..) {
            // It may have ended by itself.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Takes connections again; what it had it has.
    pub fn come_back(&self) {
        lock(&self.state).is_away = false;
    }

    /// Returns what was written, in its order.
    pub fn messages(&self) -> Vec<Message> {
        lock(&self.state).messages.clone()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no panic under it")
}

/// Answers one client until it goes.
fn serve(mut stream: TcpStream, address: &str, state: &Mutex<State>) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut bytes)?;
        let mut request = Reading(&bytes);
        let asked = (request.i16(), request.i16());
        let correlation = request.i32();
        let _client = request.text();
        let mut answer = Answer::default();
        answer.i32(correlation);
        match asked {
            API_VERSIONS => api_versions(&mut answer),
            METADATA => metadata(&mut answer, address),
            INIT_PRODUCER_ID => {
                let mut at = lock(state);
                at.producers += 1;
                answer.i32(0).i16(0).i64(at.producers).i16(0);
            }
            PRODUCE => {
                let messages = produced(&mut request);
                let mut at = lock(state);
                if at.is_away {
                    return Ok(());
                }
                let offset = at.messages.len() as i64;
                at.messages.extend(messages);
                answer.i32(1).text("latest").i32(1);
                answer.i32(0).i16(0).i64(offset).i64(-1).i32(0);
            }
            other => panic!("a request that is not answered: {other:?}"),
        }
        let length = answer.0.len() as u32;
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(&answer.0)?;
    }
}

fn api_versions(answer: &mut Answer) {
    let known = [PRODUCE, FETCH, METADATA, API_VERSIONS, INIT_PRODUCER_ID];
    answer.i16(0).i8(known.len() as u8 + 1);
    for (request, version) in known {
        answer.i16(request).i16(version).i16(version).i8(0);
    }
    answer.i32(0).i8(0);
}

fn metadata(answer: &mut Answer, address: &str) {
    let (host, port) = address.split_once(':').expect("a host and a port");
    // One broker, number 1.
    answer
        .i32(0)
        .i32(1)
        .i32(1)
        .text(host)
        .i32(port.parse().expect("a port"));
    answer.i16(-1).i16(-1).i32(1);
    // One topic of one partition, which is there.
    answer.i32(1).i16(0).text("latest").i8(0).i32(1);
    answer.i16(0).i32(0).i32(1).i32(1).i32(1).i32(1).i32(1);
}

/// Reads what is to be written.
fn produced(request: &mut Reading<'_>) -> Vec<Message> {
    let _transaction = request.text();
    let (_acknowledgements, _patience) = (request.i16(), request.i32());
    let mut messages = Vec::new();
    for _ in 0..request.i32() {
        assert_eq!(request.text().as_deref(), Some("latest"));
        for _ in 0..request.i32() {
            assert_eq!(request.i32(), 0, "the partition");
            let length = request.i32() as usize;
            let mut batches = Reading(request.take(length));
            while !batches.0.is_empty() {
                batch(&mut batches, &mut messages);
            }
        }
    }
    messages
}

fn batch(batches: &mut Reading<'_>, messages: &mut Vec<Message>) {
    let _base = batches.i64();
    let length = batches.i32() as usize;
    let mut batch = Reading(batches.take(length));
    let _epoch = batch.i32();
    assert_eq!(batch.take(1), [2], "the form of a batch");
    let (_checksum, attributes) = (batch.i32(), batch.i16());
    assert_eq!(attributes & 7, 0, "a batch that is compressed");
    // Last offset, two times, producer, its epoch, first number.
    batch.take(4 + 8 + 8 + 8 + 2 + 4);
    for _ in 0..batch.i32() {
        let length = batch.varint() as usize;
        let mut record = Reading(batch.take(length));
        record.take(1);
        let (_time, _offset) = (record.varint(), record.varint());
        let mut part = || {
            let length = usize::try_from(record.varint()).ok()?;
            Some(String::from_utf8(record.take(length).to_vec()).expect("text"))
        };
        let (key, value) = (part().expect("a key"), part());
        messages.push((key, value));
    }
}

/// Bytes that are read from the front.
struct Reading<'a>(&'a [u8]);

impl<'a> Reading<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().expect("so many bytes")
    }

    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.array())
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.array())
    }

    fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.array())
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.i16()).ok()?;
        Some(String::from_utf8(self.take(length).to_vec()).expect("text"))
    }

    fn varint(&mut self) -> i64 {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let [byte] = self.array();
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return (value >> 1) as i64 ^ -((value & 1) as i64);
            }
        }
    }
}

/// Bytes of an answer.
#[derive(Default)]
struct Answer(Vec<u8>);

impl Answer {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn i8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    fn i16(&mut self, value: i16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    fn i32(&mut self, value: i32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    fn i64(&mut self, value: i64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.i16(text.len() as i16).bytes(text.as_bytes())
    }
}
