//! The packets of MQTT 3.1.1 and 5 as one type, read and written by rumqttc's codecs.
//!
//! Packets are framed here, because those codecs say of some malformed packets that they need more bytes, and take
//! no DISCONNECT of version 5 without a reason. Their event loop is not used: it forgets which packets of QoS 2 it
//! has received whenever a connection breaks, and takes the other side's next PUBREL for an error, again and again.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rumqttc::mqttbytes::{self, v4};
use rumqttc::v5::mqttbytes as mqttbytes5;
use rumqttc::v5::mqttbytes::v5;
use serde::{Deserialize, Deserializer, de};
use thiserror::Error;

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V3,
    /// MQTT 5.
    V5,
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::Integer(5) => Ok(Version::V5),
            toml::Value::String(text) if text == "5" || text == "5.0" => Ok(Version::V5),
            toml::Value::String(text) if text == "3.1.1" => Ok(Version::V3),
            toml::Value::Integer(other) => Err(de::Error::custom(format!(
                "{other} is not a version of MQTT; there are 5 and \"3.1.1\""
            ))),
            _ => Err(de::Error::custom("the versions of MQTT are 5 and \"3.1.1\"")),
        }
    }
}

/// How surely a message is delivered: at most once, at least once, exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// Sent once, never acknowledged.
    AtMostOnce,
    /// Sent until it is acknowledged.
    AtLeastOnce,
    /// Sent until it is acknowledged, and remembered until the other side has forgotten it.
    ExactlyOnce,
}

impl<'de> Deserialize<'de> for Qos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Qos, D::Error> {
        match i64::deserialize(deserializer)? {
            0 => Ok(Qos::AtMostOnce),
            1 => Ok(Qos::AtLeastOnce),
            2 => Ok(Qos::ExactlyOnce),
            other => Err(de::Error::custom(format!("qos is 0, 1 or 2, not {other}"))),
        }
    }
}

impl Qos {
    pub(crate) fn level(self) -> u8 {
        self as u8
    }
}

/// Why bytes are no packet.
#[derive(Debug, Error)]
pub(crate) enum Fault {
    #[error("a packet of {bytes} bytes is larger than the {max} that are taken")]
    TooLarge { bytes: usize, max: usize },
    #[error("malformed packet: {0}")]
    Malformed(String),
}

impl From<mqttbytes::Error> for Fault {
    fn from(error: mqttbytes::Error) -> Fault {
        Fault::Malformed(error.to_string().to_lowercase())
    }
}

impl From<mqttbytes5::Error> for Fault {
    fn from(error: mqttbytes5::Error) -> Fault {
        Fault::Malformed(error.to_string().to_lowercase())
    }
}

/// A packet that one side or the other receives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    ConnAck(ConnAck),
    Publish(Publish),
    PubRel(u16),
    /// A wish for so many topics.
    Subscribe(u16, usize),
    SubAck(Vec<u8>),
    /// A wish to be rid of so many topics.
    Unsubscribe(u16, usize),
    PingReq,
    PingResp,
    /// The end, with version 5's reason.
    Disconnect(u8),
    /// What neither side has a use for here.
    Other,
}

/// A message, or one again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    /// Valid UTF-8; empty where an alias stands for it.
    pub(crate) topic: Bytes,
    pub(crate) payload: Bytes,
    pub(crate) qos: Qos,
    /// 0 for QoS 0.
    pub(crate) id: u16,
    pub(crate) duplicate: bool,
    pub(crate) retained: bool,
    pub(crate) alias: Option<u16>,
}

/// What a client introduces itself with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    /// Whether what was known of this client is to be forgotten.
    pub(crate) clean: bool,
    /// How long the session outlives the connection, in seconds; `u32::MAX` is for ever.
    pub(crate) expiry: u32,
    pub(crate) keep_alive: u16,
    pub(crate) login: Option<(String, String)>,
    pub(crate) will: Option<Publish>,
}

/// The answer to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnAck {
    pub(crate) session_present: bool,
    /// 0 is yes.
    pub(crate) code: u8,
    pub(crate) reason: Option<String>,
    pub(crate) keep_alive: Option<u16>,
    pub(crate) qos_max: Option<u8>,
}

/// Takes the next whole packet from the buffer, if one is there.
pub(crate) fn frame(buffer: &mut BytesMut, max: usize) -> Result<Option<BytesMut>, Fault> {
    let (mut length, mut shift, mut header) = (0_usize, 0, 1);
    loop {
        let Some(&byte) = buffer.get(header) else {
            return Ok(None);
        };
        length |= usize::from(byte & 0x7f) << shift;
        header += 1;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
        if shift > 21 {
            return Err(Fault::Malformed("its length takes more than four bytes".to_owned()));
        }
    }
    let bytes = header + length;
    if bytes > max {
        return Err(Fault::TooLarge { bytes, max });
    }
    Ok((buffer.len() >= bytes).then(|| buffer.split_to(bytes)))
}

/// The bytes of a packet after its header.
fn body(frame: &[u8]) -> &[u8] {
    let header = 1 + frame[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    frame.get(header..).unwrap_or_default()
}

impl Packet {
    /// Reads a packet that was framed.
    pub(crate) fn read(version: Version, mut frame: BytesMut) -> Result<Packet, Fault> {
        match frame[0] >> 4 {
            2 => return conn_ack(version, frame),
            14 => return Ok(Packet::Disconnect(body(&frame).first().copied().unwrap_or(0))),
            // Publishes are never sent from here, so nothing is due to what answers them; what AUTH asks for was
            // never offered.
            4 | 5 | 7 | 15 => return Ok(Packet::Other),
            _ => {}
        }
        let packet = match version {
            Version::V3 => match v4::Packet::read(&mut frame, usize::MAX)? {
                v4::Packet::Publish(publish) => Packet::Publish(Publish {
                    topic: publish.topic.into(),
                    payload: publish.payload,
                    qos: qos(publish.qos as u8),
                    id: publish.pkid,
                    duplicate: publish.dup,
                    retained: publish.retain,
                    alias: None,
                }),
                v4::Packet::PubRel(release) => Packet::PubRel(release.pkid),
                v4::Packet::Subscribe(subscribe) => Packet::Subscribe(subscribe.pkid, subscribe.filters.len()),
                v4::Packet::SubAck(ack) => Packet::SubAck(ack.return_codes.into_iter().map(granted).collect()),
                v4::Packet::Unsubscribe(wish) => Packet::Unsubscribe(wish.pkid, wish.topics.len()),
                v4::Packet::PingReq => Packet::PingReq,
                v4::Packet::PingResp => Packet::PingResp,
                _ => Packet::Other,
            },
            Version::V5 => match v5::Packet::read(&mut frame, None)? {
                v5::Packet::Publish(publish) => {
                    if std::str::from_utf8(&publish.topic).is_err() {
                        return Err(Fault::Malformed("topic is not UTF-8".to_owned()));
                    }
                    Packet::Publish(Publish {
                        topic: publish.topic,
                        payload: publish.payload,
                        qos: qos(publish.qos as u8),
                        id: publish.pkid,
                        duplicate: publish.dup,
                        retained: publish.retain,
                        alias: publish.properties.and_then(|properties| properties.topic_alias),
                    })
                }
                v5::Packet::PubRel(release) => Packet::PubRel(release.pkid),
                v5::Packet::Subscribe(subscribe) => Packet::Subscribe(subscribe.pkid, subscribe.filters.len()),
                v5::Packet::SubAck(ack) => Packet::SubAck(ack.return_codes.into_iter().map(granted5).collect()),
                v5::Packet::Unsubscribe(wish) => Packet::Unsubscribe(wish.pkid, wish.filters.len()),
                v5::Packet::PingReq(_) => Packet::PingReq,
                v5::Packet::PingResp(_) => Packet::PingResp,
                _ => Packet::Other,
            },
        };
        Ok(packet)
    }
}

fn qos(level: u8) -> Qos {
    match level {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        _ => Qos::ExactlyOnce,
    }
}

fn granted(code: v4::SubscribeReasonCode) -> u8 {
    match code {
        v4::SubscribeReasonCode::Success(qos) => qos as u8,
        v4::SubscribeReasonCode::Failure => 0x80,
    }
}

fn granted5(code: v5::SubscribeReasonCode) -> u8 {
    use v5::SubscribeReasonCode as Code;
    match code {
        Code::Success(qos) => qos as u8,
        Code::Failure | Code::Unspecified => 0x80,
        Code::ImplementationSpecific => 0x83,
        Code::NotAuthorized => 0x87,
        Code::TopicFilterInvalid => 0x8f,
        Code::PkidInUse => 0x91,
        Code::QuotaExceeded => 0x97,
        Code::SharedSubscriptionsNotSupported => 0x9e,
        Code::SubscriptionIdNotSupported => 0xa1,
        Code::WildcardSubscriptionsNotSupported => 0xa2,
    }
}

/// Reads a CONNACK, also one of version 3.1.1 that answers version 5: so a broker refuses what it does not know.
fn conn_ack(version: Version, mut frame: BytesMut) -> Result<Packet, Fault> {
    let &[flags, code, ref rest @ ..] = body(&frame) else {
        return Err(Fault::Malformed("CONNACK is too short".to_owned()));
    };
    let mut ack = ConnAck {
        session_present: flags & 1 == 1,
        code,
        ..ConnAck::default()
    };
    if version == Version::V5 && !rest.is_empty() {
        match v5::Packet::read(&mut frame, None) {
            Ok(v5::Packet::ConnAck(read)) => {
                if let Some(properties) = read.properties {
                    ack.reason = properties.reason_string;
                    ack.keep_alive = properties.server_keep_alive;
                    ack.qos_max = properties.max_qos;
                }
            }
            // A refusal counts, also for reasons that the codec does not know.
            _ if code != 0 => {}
            Ok(_) => return Err(Fault::Malformed("CONNACK".to_owned())),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Packet::ConnAck(ack))
}

impl Connect {
    /// Reads the first packet of a connection, whose version is not known yet. No version: one that is not served.
    pub(crate) fn read(mut frame: BytesMut) -> Result<Option<Connect>, Fault> {
        let malformed = |what: &str| Fault::Malformed(what.to_owned());
        if frame[0] != 0x10 {
            return Err(malformed("the first packet is no CONNECT"));
        }
        let level = match body(&frame) {
            [0, 4, b'M', b'Q', b'T', b'T', level, ..] => *level,
            // MQTT 3.1 called itself so.
            [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', ..] => return Ok(None),
            _ => return Err(malformed("the first packet is no CONNECT")),
        };
        match level {
            4 => match v4::Packet::read(&mut frame, usize::MAX)? {
                v4::Packet::Connect(connect) => Ok(Some(Connect {
                    version: Version::V3,
                    client_id: connect.client_id,
                    clean: connect.clean_session,
                    expiry: if connect.clean_session { 0 } else { u32::MAX },
                    keep_alive: connect.keep_alive,
                    login: connect.login.map(|login| (login.username, login.password)),
                    will: connect
                        .last_will
                        .map(|will| Publish::will(will.topic.into(), will.message, will.retain)),
                })),
                _ => Err(malformed("the first packet is no CONNECT")),
            },
            5 => match v5::Packet::read(&mut frame, None)? {
                v5::Packet::Connect(connect, will, login) => {
                    if let Some(will) = &will
                        && std::str::from_utf8(&will.topic).is_err()
                    {
                        return Err(malformed("topic is not UTF-8"));
                    }
                    Ok(Some(Connect {
                        version: Version::V5,
                        client_id: connect.client_id,
                        clean: connect.clean_start,
                        expiry: connect
                            .properties
                            .and_then(|properties| properties.session_expiry_interval)
                            .unwrap_or(0),
                        keep_alive: connect.keep_alive,
                        login: login.map(|login| (login.username, login.password)),
                        will: will.map(|will| Publish::will(will.topic, will.message, will.retain)),
                    }))
                }
                _ => Err(malformed("the first packet is no CONNECT")),
            },
            _ => Ok(None),
        }
    }

    /// Writes it, asking for no more than `in_flight` unacknowledged messages where the version knows how to.
    pub(crate) fn write(&self, in_flight: u16, packet_bytes_max: u32, out: &mut BytesMut) -> Result<(), Fault> {
        match self.version {
            Version::V3 => {
                let mut connect = v4::Connect::new(self.client_id.as_str());
                connect.keep_alive = self.keep_alive;
                connect.clean_session = self.clean;
                if let Some((username, password)) = &self.login {
                    connect.set_login(username.as_str(), password.as_str());
                }
                connect.write(out)?;
            }
            Version::V5 => {
                let connect = v5::Connect {
                    keep_alive: self.keep_alive,
                    client_id: self.client_id.clone(),
                    clean_start: self.clean,
                    properties: Some(v5::ConnectProperties {
                        session_expiry_interval: Some(self.expiry),
                        receive_maximum: Some(in_flight),
                        max_packet_size: Some(packet_bytes_max),
                        ..v5::ConnectProperties::new()
                    }),
                };
                let login = self
                    .login
                    .as_ref()
                    .map(|(username, password)| v5::Login::new(username.as_str(), password.as_str()));
                connect.write(&None, &login, out)?;
            }
        }
        Ok(())
    }
}

impl Publish {
    fn will(topic: Bytes, payload: Bytes, retained: bool) -> Publish {
        Publish {
            topic,
            payload,
            // Nobody is there who could acknowledge it.
            qos: Qos::AtMostOnce,
            id: 0,
            duplicate: false,
            retained,
            alias: None,
        }
    }
}

/// What a side that takes messages in answers; written alike in both versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "these are the names of MQTT")]
pub(crate) enum Answer {
    PubAck(u16),
    PubRec(u16),
    PubComp(u16),
}

impl Answer {
    pub(crate) fn write(self, out: &mut BytesMut) {
        let (kind, id) = match self {
            Answer::PubAck(id) => (0x40, id),
            Answer::PubRec(id) => (0x50, id),
            Answer::PubComp(id) => (0x70, id),
        };
        out.put_slice(&[kind, 2]);
        out.put_u16(id);
    }

    /// Writes it with the reason that nobody wanted the message, which only version 5 can say.
    pub(crate) fn write_unwanted(self, version: Version, out: &mut BytesMut) {
        const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
        let at = out.len();
        self.write(out);
        if version == Version::V5 && !matches!(self, Answer::PubComp(_)) {
            out[at + 1] = 3;
            out.put_u8(NO_MATCHING_SUBSCRIBERS);
        }
    }
}

/// Writes a CONNACK; a listener says what it is able to.
pub(crate) fn write_conn_ack(
    version: Version,
    session_present: bool,
    code: u8,
    offer: Option<&Offer>,
    out: &mut BytesMut,
) {
    let mut properties = BytesMut::new();
    if let Some(offer) = offer {
        properties.put_u8(0x21);
        properties.put_u16(offer.in_flight);
        properties.put_u8(0x27);
        properties.put_u32(offer.packet_bytes_max);
        properties.put_u8(0x22);
        properties.put_u16(offer.aliases);
        // Neither wildcard, nor shared subscriptions, nor identifiers of them.
        properties.put_slice(&[0x28, 0, 0x29, 0, 0x2a, 0]);
        if let Some(client_id) = &offer.client_id {
            properties.put_u8(0x12);
            properties.put_u16(client_id.len() as u16);
            properties.put_slice(client_id.as_bytes());
        }
    }
    match version {
        Version::V3 => out.put_slice(&[0x20, 2, u8::from(session_present), code]),
        // At most 71 bytes of properties: one byte is enough for each length.
        Version::V5 => {
            out.put_slice(&[0x20, 3 + properties.len() as u8, u8::from(session_present), code]);
            out.put_u8(properties.len() as u8);
            out.put_slice(&properties);
        }
    }
}

/// What a listener tells clients of version 5 about itself.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) in_flight: u16,
    pub(crate) packet_bytes_max: u32,
    pub(crate) aliases: u16,
    /// The name given to a client that has none, of at most 23 bytes.
    pub(crate) client_id: Option<String>,
}

/// Refuses all topics of a SUBSCRIBE.
pub(crate) fn write_no_subscription(version: Version, id: u16, topics: usize, out: &mut BytesMut) -> Result<(), Fault> {
    match version {
        Version::V3 => {
            v4::SubAck::new(id, vec![v4::SubscribeReasonCode::Failure; topics]).write(out)?;
        }
        Version::V5 => {
            let ack = v5::SubAck {
                pkid: id,
                return_codes: vec![v5::SubscribeReasonCode::TopicFilterInvalid; topics],
                properties: Some(v5::SubAckProperties {
                    reason_string: Some("messages are taken in here, not passed on".to_owned()),
                    user_properties: Vec::new(),
                }),
            };
            ack.write(out)?;
        }
    }
    Ok(())
}

/// Confirms that there are no such subscriptions.
pub(crate) fn write_unsubscribed(version: Version, id: u16, topics: usize, out: &mut BytesMut) -> Result<(), Fault> {
    match version {
        Version::V3 => {
            out.put_slice(&[0xb0, 2]);
            out.put_u16(id);
        }
        Version::V5 => {
            let ack = v5::UnsubAck {
                pkid: id,
                reasons: vec![v5::UnsubAckReason::NoSubscriptionExisted; topics],
                properties: None,
            };
            ack.write(out)?;
        }
    }
    Ok(())
}

/// Writes the wish for messages of these topics.
pub(crate) fn write_subscribe(
    version: Version,
    id: u16,
    filters: &[String],
    qos: Qos,
    out: &mut BytesMut,
) -> Result<(), Fault> {
    match version {
        Version::V3 => {
            let qos = mqttbytes::qos(qos.level())?;
            let filters = filters
                .iter()
                .map(|filter| v4::SubscribeFilter::new(filter.clone(), qos));
            let mut subscribe = v4::Subscribe::new_many(filters);
            subscribe.pkid = id;
            subscribe.write(out)?;
        }
        Version::V5 => {
            let qos = mqttbytes5::qos(qos.level()).unwrap_or(mqttbytes5::QoS::AtMostOnce);
            let filters = filters.iter().map(|filter| v5::Filter {
                // What is retained is told when the subscription is new, not whenever the client is back.
                retain_forward_rule: v5::RetainForwardRule::OnNewSubscribe,
                ..v5::Filter::new(filter.clone(), qos)
            });
            let mut subscribe = v5::Subscribe::new_many(filters, None);
            subscribe.pkid = id;
            subscribe.write(out)?;
        }
    }
    Ok(())
}

pub(crate) fn write_ping(out: &mut BytesMut) {
    out.put_slice(&[0xc0, 0]);
}

pub(crate) fn write_pong(out: &mut BytesMut) {
    out.put_slice(&[0xd0, 0]);
}

/// Writes the end; only version 5 gives a reason, and only there a listener says anything.
pub(crate) fn write_disconnect(version: Version, reason: u8, out: &mut BytesMut) {
    match version {
        Version::V3 => out.put_slice(&[0xe0, 0]),
        Version::V5 => out.put_slice(&[0xe0, 2, reason, 0]),
    }
}

/// A number of a message, by which the same bytes are known again.
pub(crate) fn digest(publish: &Publish) -> u64 {
    let mut sum = mix(0xcbf2_9ce4_8422_2325, publish.topic.len() as u64);
    for mut part in [&publish.topic[..], &publish.payload[..]] {
        while part.len() >= 8 {
            sum = mix(sum, part.get_u64_le());
        }
        let mut last = [0; 8];
        last[..part.len()].copy_from_slice(part);
        sum = mix(sum, u64::from_le_bytes(last));
    }
    sum ^ (sum >> 32)
}

fn mix(sum: u64, next: u64) -> u64 {
    (sum ^ next).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

#[cfg(test)]
mod tests;
