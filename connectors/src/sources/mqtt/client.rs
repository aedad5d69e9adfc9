//! A client of a broker: a thread that connects, subscribes, hands messages over and answers them once they are
//! durable; and begins anew, with growing pauses, whenever the connection breaks.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsConnector;
use tracing::{debug, info, warn};

use crate::sources::mqtt::address::Address;
use crate::sources::mqtt::inbox::{Done, Held, Inbox, Item, Message, Peer, Receipt};
use crate::sources::mqtt::packet::{self, ConnAck, Connect, Packet, Publish, Qos, Version};
use crate::sources::mqtt::session::{Arrival, Release, Session};
use crate::sources::mqtt::topic::Patterns;

/// How long a broker may take to let a client in.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// How long it may take to take in what it is sent.
const WRITE_WAIT: Duration = Duration::from_secs(30);
/// The first pause after a connection broke, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A connection that held so long was a good one: the next pause is the shortest again.
const HELD_LONG: Duration = Duration::from_secs(10);
/// Bytes read at once: of a side that is quiet, and of one that sends as fast as it can.
const CHUNK_BYTES_MIN: usize = 2 << 10;
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// The only packet of ours that has an id.
const SUBSCRIBE_ID: u16 = 1;

/// What a client is told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The source's name, for the log.
    pub(crate) source: String,
    pub(crate) address: Address,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// None: 5, and 3.1.1 with a broker that refuses it.
    pub(crate) version: Option<Version>,
    pub(crate) client_id: String,
    pub(crate) login: Option<(String, String)>,
    /// How long the broker keeps the session; none ends with its connection.
    pub(crate) session: Option<u32>,
    pub(crate) keep_alive: Duration,
    pub(crate) qos: Qos,
    pub(crate) in_flight: u16,
    pub(crate) packet_bytes_max: u32,
}

/// A client that runs; dropped, it leaves the broker.
#[derive(Debug)]
pub(crate) struct Client {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Starts it; `held` are the ids of QoS 2 that an earlier run has logged.
    pub(crate) fn start(
        settings: Settings,
        patterns: Patterns,
        inbox: Arc<Inbox>,
        held: &[Held],
    ) -> io::Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let own = client_number(&settings.client_id);
        let mut session = Session::default();
        // What was logged under another name of this client is of no more use.
        let mut strangers: Vec<u32> = Vec::new();
        for held in held {
            if held.client == own && settings.session.is_some() {
                session.restore(held.id, held.digest, Arc::clone(&inbox));
            } else if !strangers.contains(&held.client) {
                strangers.push(held.client);
            }
        }
        let run = Run {
            version: settings.version.unwrap_or(Version::V5),
            client: settings.client_id.as_str().into(),
            own,
            settings,
            patterns,
            inbox,
            session,
            peer: Arc::default(),
            items: strangers.into_iter().map(Item::Forget).collect(),
            subscribed: false,
            outage: None,
        };
        let thread = thread::Builder::new().name("mqtt".to_owned()).spawn(move || {
            runtime.block_on(run.until(stopped));
            // A name that is being looked up is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Client {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has said itself what went wrong.
            let _ = thread.join();
        }
    }
}

/// A number of a client's name, by which its ids are known in the log.
pub(crate) fn client_number(name: &str) -> u32 {
    let sum = name.bytes().fold(0x811c_9dc5_u32, |sum, byte| {
        (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    // The last bytes would change its last bits only.
    (sum ^ (sum >> 15)).wrapping_mul(0x85eb_ca6b)
}

struct Run {
    settings: Settings,
    version: Version,
    client: Arc<str>,
    own: u32,
    patterns: Patterns,
    inbox: Arc<Inbox>,
    session: Session,
    peer: Arc<Peer>,
    /// To be handed over.
    items: Vec<Item>,
    /// Whether this run has subscribed in the session that the broker keeps.
    subscribed: bool,
    outage: Option<Outage>,
}

/// The time without a connection, told of once.
struct Outage {
    since: Instant,
    told: String,
}

/// Why a connection ended.
enum Ended {
    /// The reader is gone.
    Closed,
    /// The broker does not know version 5.
    Version,
    Broken(String),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Ended {
        Ended::Broken(error.to_string())
    }
}

impl From<packet::Fault> for Ended {
    fn from(fault: packet::Fault) -> Ended {
        Ended::Broken(format!("the broker sent a {fault}"))
    }
}

impl Run {
    async fn until(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut pause = PAUSE_MIN;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut random = Pcg64::seed_from_u64(since_1970.as_nanos() as u64 ^ u64::from(self.own));
        loop {
            let started = Instant::now();
            let ended = tokio::select! {
                _ = &mut stopped => return,
                ended = self.connection() => ended,
            };
            self.session.disconnect();
            if self.settings.session.is_none() {
                self.begin_anew();
            }
            let reason = match ended {
                Ok(()) => "the reader asked for it".to_owned(),
                Err(Ended::Closed) => return,
                Err(Ended::Version) => {
                    info!(
                        source = self.settings.source,
                        "the broker does not know MQTT 5, going on with 3.1.1"
                    );
                    self.version = Version::V3;
                    continue;
                }
                Err(Ended::Broken(reason)) => reason,
            };
            if started.elapsed() >= HELD_LONG {
                pause = PAUSE_MIN;
            }
            self.tell(reason);
            // Many clients of a broker that was away are not to come back all at once.
            let jitter = random.random_range(0.5..1.0);
            tokio::select! {
                _ = &mut stopped => return,
                () = sleep(pause.mul_f64(jitter)) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Says why there is no connection, once for each reason.
    fn tell(&mut self, reason: String) {
        let source = &self.settings.source;
        let broker = format!("{}:{}", self.settings.address.host, self.settings.address.port);
        match &mut self.outage {
            Some(outage) if outage.told == reason => {
                debug!(source, broker, reason, "still no connection to the broker");
            }
            Some(outage) => {
                warn!(source, broker, reason, "still no connection to the broker, trying on");
                outage.told = reason;
            }
            None => {
                warn!(
                    source,
                    broker, reason, "no connection to the broker, trying on until there is one"
                );
                self.outage = Some(Outage {
                    since: Instant::now(),
                    told: reason,
                });
            }
        }
    }

    /// Forgets what the broker has forgotten.
    fn begin_anew(&mut self) {
        if !self.session.clear().is_empty() {
            self.items.push(Item::Forget(self.own));
        }
        self.peer = Arc::default();
        self.subscribed = false;
    }

    async fn connection(&mut self) -> Result<(), Ended> {
        let address = &self.settings.address;
        let connect = TcpStream::connect((address.host.as_str(), address.port));
        let stream = within(CONNECT_WAIT, "connect", connect).await?;
        stream.set_nodelay(true)?;
        match self.settings.tls.clone() {
            None => self.converse(stream).await,
            Some(tls) => {
                let name = address.server_name().map_err(|error| Ended::Broken(error.what))?;
                let connect = TlsConnector::from(tls).connect(name, stream);
                let stream = within(CONNECT_WAIT, "set up TLS", connect).await?;
                self.converse(stream).await
            }
        }
    }

    /// Introduces itself and goes on until the connection breaks.
    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(&mut self, mut stream: S) -> Result<(), Ended> {
        let max = self.settings.packet_bytes_max as usize;
        let (mut incoming, mut out) = (Incoming::default(), BytesMut::new());
        let connect = Connect {
            version: self.version,
            client_id: self.settings.client_id.clone(),
            clean: self.settings.session.is_none(),
            expiry: self.settings.session.unwrap_or(0),
            keep_alive: self.settings.keep_alive.as_secs() as u16,
            login: self.settings.login.clone(),
            will: None,
        };
        connect.write(self.settings.in_flight, self.settings.packet_bytes_max, &mut out)?;
        write(&mut stream, &mut out).await?;
        let first = async {
            loop {
                if let Some(frame) = packet::frame(&mut incoming.bytes, max)? {
                    return Ok(Packet::read(self.version, frame)?);
                }
                incoming.read(&mut stream).await?;
            }
        };
        let ack = match timeout(CONNECT_WAIT, first).await {
            Ok(Ok(Packet::ConnAck(ack))) => ack,
            Ok(Ok(_)) => return Err(Ended::Broken("the broker did not answer CONNECT".to_owned())),
            Ok(Err(ended)) => return Err(ended),
            Err(_) => return Err(Ended::Broken("the broker did not answer CONNECT in time".to_owned())),
        };
        self.let_in(&ack)?;
        let keep_alive = ack.keep_alive.map_or(self.settings.keep_alive, |seconds| {
            Duration::from_secs(u64::from(seconds.max(1)))
        });
        if !ack.session_present {
            self.begin_anew();
        }
        // Whoever subscribes again to a session that is there is sent all that is retained again, by 3.1.1.
        if !self.subscribed {
            let filters = self.patterns.filters();
            packet::write_subscribe(self.version, SUBSCRIBE_ID, &filters, self.settings.qos, &mut out)?;
        } else {
            self.connected();
        }
        self.serve(&mut stream, incoming, out, keep_alive).await
    }

    fn let_in(&self, ack: &ConnAck) -> Result<(), Ended> {
        match ack.code {
            0 => {}
            1 | 0x84 if self.version == Version::V5 && self.settings.version.is_none() => return Err(Ended::Version),
            code => {
                let mut reason = refusal(self.version, code);
                if let Some(said) = &ack.reason {
                    reason = format!("{reason}: {said}");
                }
                return Err(Ended::Broken(reason));
            }
        }
        if ack.qos_max.is_some_and(|max| max < self.settings.qos.level()) {
            let source = &self.settings.source;
            warn!(
                source,
                qos = ack.qos_max,
                "the broker knows no higher quality of service"
            );
        }
        Ok(())
    }

    fn connected(&mut self) {
        let source = &self.settings.source;
        match self.outage.take() {
            Some(outage) => {
                let away = humantime::format_duration(Duration::from_secs(outage.since.elapsed().as_secs()));
                info!(source, %away, "connected to the broker again");
            }
            None => info!(source, "connected to the broker"),
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        mut incoming: Incoming,
        mut out: BytesMut,
        keep_alive: Duration,
    ) -> Result<(), Ended> {
        let in_flight = usize::from(self.settings.in_flight);
        let max = self.settings.packet_bytes_max as usize;
        let mut ping = interval(keep_alive / 2);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        let mut heard = Instant::now();
        loop {
            while self.session.waiting() < in_flight {
                let Some(frame) = packet::frame(&mut incoming.bytes, max)? else {
                    break;
                };
                let packet = Packet::read(self.version, frame)?;
                self.take(packet, &mut out)?;
            }
            // While there is no room, the broker still hears that the client is there.
            loop {
                tokio::select! {
                    biased;
                    sent = self.inbox.send(&mut self.items) => {
                        sent.map_err(|_| Ended::Closed)?;
                        break;
                    }
                    () = self.peer.woken() => self.answer(&mut out),
                    _ = ping.tick() => packet::write_ping(&mut out),
                }
                write(stream, &mut out).await?;
            }
            let full = self.session.waiting() >= in_flight;
            self.answer(&mut out);
            write(stream, &mut out).await?;
            if full && self.session.waiting() < in_flight {
                heard = Instant::now();
                continue;
            }
            let reads = self.session.waiting() < in_flight;
            tokio::select! {
                read = incoming.read(stream), if reads => {
                    read?;
                    heard = Instant::now();
                }
                () = self.peer.woken() => {}
                _ = ping.tick() => {
                    if reads && heard.elapsed() > keep_alive * 3 / 2 {
                        return Err(Ended::Broken("the broker fell silent".to_owned()));
                    }
                    packet::write_ping(&mut out);
                }
            }
        }
    }

    /// Answers what has become durable.
    fn answer(&mut self, out: &mut BytesMut) {
        for done in self.peer.take() {
            if let Some((answer, _)) = self.session.settle(done) {
                answer.write(out);
            }
        }
    }

    fn take(&mut self, packet: Packet, out: &mut BytesMut) -> Result<(), Ended> {
        match packet {
            Packet::Publish(publish) => self.publish(publish, out),
            Packet::PubRel(id) => match self.session.release(id) {
                Release::Answer(answer) => answer.write(out),
                Release::Log(serial, _) => {
                    let receipt = self.receipt(id, serial, true);
                    self.items.push(Item::Release(self.own, id, receipt));
                }
                Release::Again => {}
            },
            Packet::SubAck(codes) => self.granted(&codes)?,
            Packet::Disconnect(0x8e) => {
                return Err(Ended::Broken(
                    "another client took over the session: the client_id is used twice".to_owned(),
                ));
            }
            Packet::Disconnect(reason) => return Err(Ended::Broken(refusal(Version::V5, reason))),
            _ => {}
        }
        Ok(())
    }

    fn granted(&mut self, codes: &[u8]) -> Result<(), Ended> {
        let source = &self.settings.source;
        for (filter, code) in self.patterns.filters().iter().zip(codes) {
            if *code >= 0x80 {
                let reason = refusal(Version::V5, *code);
                return Err(Ended::Broken(format!(
                    "the broker refused the topic \"{filter}\" ({reason})"
                )));
            }
            if *code < self.settings.qos.level() {
                warn!(
                    source,
                    filter,
                    qos = code,
                    "the broker grants a lower quality of service"
                );
            }
        }
        self.subscribed = true;
        self.connected();
        Ok(())
    }

    fn publish(&mut self, publish: Publish, out: &mut BytesMut) {
        let mut held = None;
        let receipt = match publish.qos {
            Qos::AtMostOnce => None,
            qos => {
                let digest = packet::digest(&publish);
                let serial = match self.session.arrive(&publish, digest) {
                    Arrival::New(serial, released) => {
                        if let Some(answer) = released {
                            answer.write(out);
                        }
                        serial
                    }
                    Arrival::Again => return,
                    Arrival::Answer(answer, _) => return answer.write(out),
                };
                if qos == Qos::ExactlyOnce && self.settings.session.is_some() {
                    self.session.held_by(publish.id, vec![Arc::clone(&self.inbox)]);
                    held = Some(Held {
                        client: self.own,
                        id: publish.id,
                        digest: digest as u16,
                    });
                }
                Some(self.receipt(publish.id, serial, false))
            }
        };
        let wanted = std::str::from_utf8(&publish.topic).is_ok_and(|topic| self.patterns.take(topic));
        let unwanted = (!wanted).then(|| {
            let topic = String::from_utf8_lossy(&publish.topic);
            format!("topic \"{topic}\" is none of the source: the broker remembers an earlier subscription").into()
        });
        let message = Message {
            topic: publish.topic,
            payload: publish.payload,
            qos: publish.qos.level(),
            retained: publish.retained,
            client: Arc::clone(&self.client),
            held,
            receipt,
        };
        self.items.push(match unwanted {
            Some(reason) => Item::Unwanted(message, reason),
            None => Item::Message(message),
        });
    }

    fn receipt(&self, id: u16, serial: u32, release: bool) -> Receipt {
        Receipt {
            peer: Arc::clone(&self.peer),
            done: Done { id, serial, release },
            sources: None,
        }
    }
}

async fn within<T>(wait: Duration, what: &str, step: impl Future<Output = io::Result<T>>) -> Result<T, Ended> {
    match timeout(wait, step).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Ended::Broken(format!("could not {what}: {error}"))),
        Err(_) => Err(Ended::Broken(format!("could not {what} in time"))),
    }
}

/// What was read and not taken yet, with room for as much again as is likely to come.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) bytes: BytesMut,
    chunk: usize,
}

impl Default for Incoming {
    fn default() -> Incoming {
        Incoming {
            bytes: BytesMut::new(),
            chunk: CHUNK_BYTES_MIN,
        }
    }
}

impl Incoming {
    /// Reads on; an end is an error.
    pub(crate) async fn read<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> io::Result<()> {
        if self.bytes.is_empty() && self.bytes.capacity() > 2 * self.chunk {
            self.bytes = BytesMut::new();
        }
        self.bytes.reserve(self.chunk);
        let read = stream.read_buf(&mut self.bytes).await?;
        if read == 0 {
            let end = "the other side closed the connection";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, end));
        }
        if read >= self.chunk {
            self.chunk = (4 * self.chunk).min(CHUNK_BYTES_MAX);
        } else if read < self.chunk / 8 {
            self.chunk = (self.chunk / 2).max(CHUNK_BYTES_MIN);
        }
        Ok(())
    }
}

/// Writes all there is.
pub(crate) async fn write<S: AsyncWrite + Unpin>(stream: &mut S, out: &mut BytesMut) -> io::Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let all = async {
        stream.write_all(out).await?;
        stream.flush().await
    };
    match timeout(WRITE_WAIT, all).await {
        Ok(done) => done?,
        Err(_) => {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the other side takes nothing in",
            ));
        }
    }
    out.clear();
    Ok(())
}

/// What a code of a refusal or of an end means.
fn refusal(version: Version, code: u8) -> String {
    let meaning = match (version, code) {
        (Version::V3, 1) | (_, 0x84) => "it does not know this version of MQTT",
        (Version::V3, 2) | (_, 0x85) => "it does not take the client_id",
        (Version::V3, 3) | (_, 0x88) => "it is unavailable",
        (Version::V3, 4) | (_, 0x86) => "bad username or password",
        (Version::V3, 5) | (_, 0x87) => "not authorized",
        (_, 0x89) => "it is busy",
        (_, 0x8a) => "the client is banned",
        (_, 0x8b) => "it is shutting down",
        (_, 0x8d) => "it heard nothing in time",
        (_, 0x8f) => "it does not take the topic",
        (_, 0x93) => "it was not answered in time",
        (_, 0x95) => "the packet is too large",
        (_, 0x97) => "a quota is exceeded",
        (_, 0x98) => "an administrator ended it",
        (_, 0x9c | 0x9d) => "another server is to be used",
        (_, 0x9e) => "it has no shared subscriptions",
        (_, 0x9f) => "connections come too often",
        _ => return format!("the broker refused or ended the connection with code 0x{code:02x}"),
    };
    format!("the broker refused or ended the connection: {meaning}")
}
