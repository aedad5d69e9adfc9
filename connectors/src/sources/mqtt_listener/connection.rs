//! One client of a listener, from its CONNECT to its end.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use crate::sources::mqtt::client::{Incoming, write};
use crate::sources::mqtt::inbox::{Closed, Done, Held, Inbox, Item, Message, Peer, Receipt};
use crate::sources::mqtt::packet::{self, Connect, Fault, Offer, Packet, Publish, Qos, Version};
use crate::sources::mqtt::session::{Arrival, Release};
use crate::sources::mqtt::topic;
use crate::sources::mqtt_listener::door::{House, Kept};

/// How long a client may take to introduce itself, TLS and all.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// How long a packet may be on its way once it has begun, from clients that declare no keep-alive.
const PACKET_WAIT: Duration = Duration::from_secs(60);
/// Topics of one connection that stand for numbers.
const ALIASES: u16 = 32;
/// Bytes that a topic which stands for a number may have.
const ALIAS_BYTES_MAX: usize = 1024;
/// Ids that a client may hold of messages that are durable, besides those in flight.
const HELD_MAX: usize = 4096;

/// Why a connection ends.
enum Ended {
    /// The client said so; with version 5 it may want its will told all the same.
    Left {
        with_will: bool,
    },
    /// It came again by another connection.
    TakenOver,
    /// A source is gone: what it has not taken is to be sent again.
    GivenUp,
    /// The client broke the protocol; the reason is version 5's.
    Wrong(u8, String),
    Broken(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Ended {
        Ended::Broken(error)
    }
}

impl From<Closed> for Ended {
    fn from(_: Closed) -> Ended {
        Ended::GivenUp
    }
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Ended {
        match fault {
            Fault::TooLarge { .. } => Ended::Wrong(0x95, fault.to_string()),
            Fault::Malformed(_) => Ended::Wrong(0x81, fault.to_string()),
        }
    }
}

/// Serves one connection.
pub(super) async fn serve(house: Rc<House>, stream: TcpStream, address: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let served = match house.door.settings.tls.clone() {
        None => greet(&house, stream, address).await,
        Some(tls) => match timeout(CONNECT_WAIT, TlsAcceptor::from(tls).accept(stream)).await {
            Ok(Ok(stream)) => greet(&house, stream, address).await,
            Ok(Err(error)) => Err(format!("no TLS: {error}")),
            Err(_) => Err("no TLS in time".to_owned()),
        },
    };
    if let Err(reason) = served {
        house.turned_away(address, &reason);
    }
}

/// Hears who is there and serves it; an error is why it is turned away.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    house: &Rc<House>,
    mut stream: S,
    address: SocketAddr,
) -> Result<(), String> {
    let settings = &house.door.settings;
    let max = settings.packet_bytes_max as usize;
    let mut incoming = Incoming::default();
    let first = async {
        loop {
            if let Some(frame) = packet::frame(&mut incoming.bytes, max).map_err(|fault| fault.to_string())? {
                return Connect::read(frame).map_err(|fault| fault.to_string());
            }
            if incoming.bytes.first().is_some_and(|byte| *byte != 0x10) {
                return Err("the first packet is no CONNECT".to_owned());
            }
            incoming.read(&mut stream).await.map_err(|error| error.to_string())?;
        }
    };
    let connect = timeout(CONNECT_WAIT, first)
        .await
        .map_err(|_| "no CONNECT in time".to_owned())??;
    let mut out = BytesMut::new();
    let Some(connect) = connect else {
        packet::write_conn_ack(Version::V3, false, 1, None, &mut out);
        let _ = write(&mut stream, &mut out).await;
        return Err("it speaks neither MQTT 3.1.1 nor 5".to_owned());
    };
    if let Some((code3, code5, reason)) = refused(&connect, settings.login.as_ref()) {
        let code = if connect.version == Version::V5 { code5 } else { code3 };
        packet::write_conn_ack(connect.version, false, code, None, &mut out);
        let _ = write(&mut stream, &mut out).await;
        return Err(reason.to_owned());
    }
    let number = house.served.get();
    house.served.set(number + 1);
    let assigned = connect.client_id.is_empty().then(|| format!("client-{number}"));
    let client: Arc<str> = assigned.as_deref().unwrap_or(&connect.client_id).into();
    let (kept, present, tell) = house.session(&client, connect.clean, number);
    packet::write_conn_ack(
        connect.version,
        present,
        0,
        Some(&Offer {
            in_flight: settings.in_flight,
            packet_bytes_max: settings.packet_bytes_max,
            aliases: ALIASES,
            client_id: assigned,
        }),
        &mut out,
    );
    debug!(client = &*client, %address, "MQTT client connected");
    let mut served = Served {
        house: Rc::clone(house),
        version: connect.version,
        client: Arc::clone(&client),
        persistent: connect.expiry > 0,
        peer: Arc::clone(&kept.peer.borrow()),
        kept: Rc::clone(&kept),
        number,
        items: Vec::new(),
        aliases: HashMap::new(),
    };
    for (inbox, item) in tell {
        served.items_of(&inbox).push(item);
    }
    let Err(ended) = served.run(&mut stream, incoming, &mut out, connect.keep_alive).await;
    served.end(&ended, connect.will);
    let (reason, said) = match ended {
        Ended::Left { .. } => (None, "it left".to_owned()),
        Ended::TakenOver => (Some(0x8e), "it came again".to_owned()),
        Ended::GivenUp => (Some(0x8b), "a source is gone".to_owned()),
        Ended::Wrong(code, said) => (Some(code), said),
        Ended::Broken(error) => (None, error.to_string()),
    };
    debug!(client = &*client, reason = said, "MQTT client is gone");
    if let (Some(reason), Version::V5) = (reason, connect.version) {
        packet::write_disconnect(Version::V5, reason, &mut out);
        let _ = write(&mut stream, &mut out).await;
    }
    // Its session is its successor's, if it has one.
    let mut tell = Vec::new();
    if kept.owner.get() == Some(number) {
        tell = house.leave(&client, &kept, connect.expiry);
    }
    for (inbox, item) in tell {
        served.items_of(&inbox).push(item);
    }
    // A source that is gone has nothing to be told.
    let _ = served.hand_over().await;
    Ok(())
}

/// Says why a client is not let in, with the code of each version.
fn refused(connect: &Connect, login: Option<&(String, String)>) -> Option<(u8, u8, &'static str)> {
    if let Some((username, password)) = login {
        let given = connect.login.as_ref();
        let right = given.is_some_and(|given| same(&given.0, username) & same(&given.1, password));
        if !right {
            return Some((4, 0x86, "bad username or password"));
        }
    }
    // 3.1.1 allows no session that has no name.
    let nameless = connect.client_id.is_empty() && !connect.clean;
    (nameless && connect.version == Version::V3).then_some((2, 0x85, "no client id, but a session to be kept"))
}

/// Compares without telling by the time it takes how much is right.
fn same(given: &str, wanted: &str) -> bool {
    let differ = |sum: u8, (one, other): (u8, u8)| sum | (one ^ other);
    given.len() == wanted.len() && given.bytes().zip(wanted.bytes()).fold(0, differ) == 0
}

/// A client that was let in.
struct Served {
    house: Rc<House>,
    version: Version,
    client: Arc<str>,
    /// Whether its session outlives the connection.
    persistent: bool,
    kept: Rc<Kept>,
    peer: Arc<Peer>,
    number: u64,
    /// To be handed over, for each source.
    items: Vec<(Arc<Inbox>, Vec<Item>)>,
    aliases: HashMap<u16, Bytes>,
}

impl Served {
    /// Takes what comes and answers what is durable, until the end.
    async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        mut incoming: Incoming,
        out: &mut BytesMut,
        keep_alive: u16,
    ) -> Result<Infallible, Ended> {
        let max = self.house.door.settings.packet_bytes_max as usize;
        let silence = match keep_alive {
            0 => None,
            seconds => Some(Duration::from_millis(u64::from(seconds) * 1500)),
        };
        let look = silence.unwrap_or(PACKET_WAIT);
        let mut looked = pin!(sleep(look));
        let mut heard = Instant::now();
        let mut ended = None;
        loop {
            while ended.is_none() && self.has_room() {
                let packet = match packet::frame(&mut incoming.bytes, max) {
                    Ok(Some(frame)) => Packet::read(self.version, frame).map_err(Ended::from),
                    Ok(None) => break,
                    Err(fault) => Err(fault.into()),
                };
                heard = Instant::now();
                // What came before the end counts.
                ended = packet.and_then(|packet| self.take(packet, out)).err();
            }
            while !self.items.is_empty() {
                tokio::select! {
                    biased;
                    sent = hand_over(&mut self.items) => sent?,
                    () = self.peer.woken() => self.answer(out)?,
                }
                write(stream, out).await?;
            }
            if let Some(ended) = ended {
                return Err(ended);
            }
            let full = !self.has_room();
            self.answer(out)?;
            write(stream, out).await?;
            if full && self.has_room() {
                heard = Instant::now();
                continue;
            }
            tokio::select! {
                read = incoming.read(stream), if !full => read?,
                () = self.peer.woken() => {}
                () = &mut looked => {
                    let quiet = heard.elapsed();
                    if !full && silence.is_some_and(|silence| quiet >= silence) {
                        return Err(Ended::Wrong(0x8d, "it fell silent".to_owned()));
                    }
                    if !full && !incoming.bytes.is_empty() && quiet >= PACKET_WAIT {
                        return Err(Ended::Wrong(0x81, "a packet was never completed".to_owned()));
                    }
                    let next = look.saturating_sub(quiet).max(Duration::from_millis(100));
                    looked.as_mut().reset(tokio::time::Instant::now() + next);
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.kept.session.borrow().waiting() < usize::from(self.house.door.settings.in_flight)
    }

    /// Answers what has become durable.
    fn answer(&mut self, out: &mut BytesMut) -> Result<(), Ended> {
        if self.kept.owner.get() != Some(self.number) {
            return Err(Ended::TakenOver);
        }
        if self.peer.given_up() {
            return Err(Ended::GivenUp);
        }
        let mut session = self.kept.session.borrow_mut();
        for done in self.peer.take() {
            match session.settle(done) {
                Some((answer, true)) => answer.write_unwanted(self.version, out),
                Some((answer, false)) => answer.write(out),
                None => {}
            }
        }
        Ok(())
    }

    fn items_of(&mut self, inbox: &Arc<Inbox>) -> &mut Vec<Item> {
        let known = self.items.iter().position(|(known, _)| Arc::ptr_eq(known, inbox));
        let at = known.unwrap_or_else(|| {
            self.items.push((Arc::clone(inbox), Vec::new()));
            self.items.len() - 1
        });
        &mut self.items[at].1
    }

    async fn hand_over(&mut self) -> Result<(), Closed> {
        hand_over(&mut self.items).await
    }

    fn take(&mut self, packet: Packet, out: &mut BytesMut) -> Result<(), Ended> {
        match packet {
            Packet::Publish(publish) => self.publish(publish, out)?,
            Packet::PubRel(id) => {
                let release = self.kept.session.borrow_mut().release(id);
                match release {
                    Release::Answer(answer) => answer.write(out),
                    Release::Log(serial, holders) => {
                        let sources = shared(holders.len());
                        for holder in holders {
                            let receipt = self.receipt(id, serial, true, sources.clone());
                            let client = self.kept.number;
                            self.items_of(&holder).push(Item::Release(client, id, receipt));
                        }
                    }
                    Release::Again => {}
                }
            }
            Packet::Subscribe(id, topics) => packet::write_no_subscription(self.version, id, topics, out)?,
            Packet::Unsubscribe(id, topics) => packet::write_unsubscribed(self.version, id, topics, out)?,
            Packet::PingReq => packet::write_pong(out),
            Packet::Disconnect(reason) => return Err(Ended::Left { with_will: reason == 4 }),
            Packet::Other | Packet::PingResp => {}
            Packet::ConnAck(_) | Packet::SubAck(_) => {
                return Err(Ended::Wrong(0x82, "it sent what only a broker sends".to_owned()));
            }
        }
        Ok(())
    }

    fn publish(&mut self, mut publish: Publish, out: &mut BytesMut) -> Result<(), Ended> {
        self.resolve(&mut publish)?;
        let name = std::str::from_utf8(&publish.topic).unwrap_or_default();
        if !topic::valid(name) {
            return Err(Ended::Wrong(0x90, "it published to what is no topic".to_owned()));
        }
        let takers = self.house.door.takers();
        let mut wanting = takers.iter().filter(|taker| taker.patterns.take(name));
        let (first, second) = (wanting.next(), wanting.next());
        let (serial, digest) = match publish.qos {
            Qos::AtMostOnce => (None, 0),
            Qos::AtLeastOnce | Qos::ExactlyOnce => {
                let digest = packet::digest(&publish);
                let mut session = self.kept.session.borrow_mut();
                let serial = match session.arrive(&publish, digest) {
                    Arrival::New(serial, released) => {
                        if let Some(answer) = released {
                            answer.write(out);
                        }
                        serial
                    }
                    Arrival::Again => return Ok(()),
                    Arrival::Answer(answer, true) => {
                        answer.write_unwanted(self.version, out);
                        return Ok(());
                    }
                    Arrival::Answer(answer, false) => {
                        answer.write(out);
                        return Ok(());
                    }
                };
                if session.len() > usize::from(self.house.door.settings.in_flight) + HELD_MAX {
                    return Err(Ended::Wrong(0x97, "it lets go of no ids of QoS 2".to_owned()));
                }
                if first.is_none() {
                    session.unwanted(publish.id);
                }
                (Some(serial), digest as u16)
            }
        };
        let logged = self.persistent && publish.qos == Qos::ExactlyOnce;
        let held = logged.then_some(Held {
            client: self.kept.number,
            id: publish.id,
            digest,
        });
        let message = |receipt: Option<Receipt>| Message {
            topic: publish.topic.clone(),
            payload: publish.payload.clone(),
            qos: publish.qos.level(),
            retained: publish.retained,
            client: Arc::clone(&self.client),
            held,
            receipt,
        };
        let receipt = |sources| serial.map(|serial| self.receipt(publish.id, serial, false, sources));
        let mut items: Vec<(Arc<Inbox>, Item)> = Vec::new();
        match (first, second) {
            (Some(taker), None) => items.push((Arc::clone(&taker.inbox), Item::Message(message(receipt(None))))),
            (Some(_), Some(_)) => {
                let wanting = || takers.iter().filter(|taker| taker.patterns.take(name));
                let sources = shared(wanting().count());
                for taker in wanting() {
                    let item = Item::Message(message(receipt(sources.clone())));
                    items.push((Arc::clone(&taker.inbox), item));
                }
            }
            (None, _) => {
                let Some(taker) = takers.first() else {
                    return Err(Ended::GivenUp);
                };
                let reason = format!("no source takes the topic \"{name}\"").into();
                let item = Item::Unwanted(message(receipt(None)), reason);
                items.push((Arc::clone(&taker.inbox), item));
            }
        }
        if logged {
            let holders = items.iter().map(|(inbox, _)| Arc::clone(inbox)).collect();
            self.kept.session.borrow_mut().held_by(publish.id, holders);
        }
        for (inbox, item) in items {
            self.items_of(&inbox).push(item);
        }
        Ok(())
    }

    /// Puts the topic in the place of a number that stands for it.
    fn resolve(&mut self, publish: &mut Publish) -> Result<(), Ended> {
        let Some(alias) = publish.alias else { return Ok(()) };
        if alias == 0 || alias > ALIASES || publish.topic.len() > ALIAS_BYTES_MAX {
            return Err(Ended::Wrong(
                0x94,
                "it used a topic alias that it was not offered".to_owned(),
            ));
        }
        if publish.topic.is_empty() {
            let known = self.aliases.get(&alias);
            publish.topic = known
                .cloned()
                .ok_or_else(|| Ended::Wrong(0x94, "it used a topic alias that stands for nothing".to_owned()))?;
        } else {
            // A copy: what came is a part of all that was read with it.
            self.aliases.insert(alias, Bytes::copy_from_slice(&publish.topic));
        }
        Ok(())
    }

    fn receipt(&self, id: u16, serial: u32, release: bool, sources: Option<Arc<AtomicUsize>>) -> Receipt {
        Receipt {
            peer: Arc::clone(&self.peer),
            done: Done { id, serial, release },
            sources,
        }
    }

    /// Leaves things as the next connection is to find them; tells the will of a client that broke off.
    fn end(&mut self, ended: &Ended, will: Option<Publish>) {
        if let Ended::GivenUp = ended {
            // What was to be handed over is given up with the rest.
            self.items.clear();
            if self.kept.owner.get() == Some(self.number) {
                self.kept.renew();
            }
            return;
        }
        if let Ended::TakenOver = ended {
            // The word that woke this connection may have been meant for the next.
            self.peer.wake();
        }
        let dead = !matches!(ended, Ended::Left { with_will: false } | Ended::TakenOver);
        if let (true, Some(will)) = (dead, will) {
            // It has no id, so nothing is answered.
            let _ = self.publish(will, &mut BytesMut::new());
        }
    }
}

async fn hand_over(items: &mut Vec<(Arc<Inbox>, Vec<Item>)>) -> Result<(), Closed> {
    while let Some((inbox, waiting)) = items.last_mut() {
        inbox.send(waiting).await?;
        items.pop();
    }
    Ok(())
}

fn shared(sources: usize) -> Option<Arc<AtomicUsize>> {
    (sources > 1).then(|| Arc::new(AtomicUsize::new(sources)))
}
