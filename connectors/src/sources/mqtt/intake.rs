//! What reads for one source: makes batches of the messages that came, and tells whom they came from once they are
//! durable.
//!
//! The ids of messages of QoS 2 are logged with their rows, each in a slot of the position, until the other side has
//! let go of them and that is logged, too. So a message that was durable when everything stopped is known when it
//! comes again. There are never more slots than there were ids in use at one time.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, TimestampMicrosecondArray};
use arrow::datatypes::DataType;

use crate::column::Column;
use crate::decoded::Rejected;
use crate::error::ConfigError;
use crate::messages::{Filling, MessageDecoder, Messages};
use crate::sources::mqtt::inbox::{Held, Inbox, Item, Message, Receipt};
use crate::sources::mqtt::metadata::{MqttMetadata, Part};
use crate::sources::mqtt::topic::Patterns;
use crate::sources::{Batch, Position, Read, Setting};

/// Messages in one batch.
const BATCH_MESSAGES: usize = 8192;
/// Bytes of messages in one batch.
const BATCH_BYTES: usize = 8 << 20;

/// How long a reader waits for messages where nothing else is to be done.
const WAIT_IDLE: Duration = Duration::from_millis(20);
/// The same while word is due that batches are durable, which reaches it between two reads.
const WAIT_DUE: Duration = Duration::from_millis(1);

/// Reads what is in the inbox of a source.
#[derive(Debug)]
pub(crate) struct Intake {
    inbox: Arc<Inbox>,
    patterns: Patterns,
    decoder: MessageDecoder,
    parts: Vec<Part>,
    /// The type of the column that tells when messages came.
    received: Option<DataType>,
    /// Taken from the inbox and not read yet.
    taken: VecDeque<Item>,
    slots: Slots,
    /// Whom to tell of each batch that is not acknowledged, in their order.
    due: VecDeque<Vec<Receipt>>,
    acknowledged: u64,
}

impl Intake {
    pub(crate) fn new(
        setting: &Setting<'_>,
        patterns: Patterns,
        metadata: &MqttMetadata,
    ) -> Result<Intake, ConfigError> {
        let (columns, parts) = metadata.columns(setting.columns, patterns.columns())?;
        let filled = [patterns.columns(), &columns].concat();
        let decoder = MessageDecoder::new(setting.format, setting.columns, &filled, setting.time_zone)?;
        let type_of = |column: &Column| column.field.data_type().clone();
        let received = parts.iter().position(|part| *part == Part::Received);
        Ok(Intake {
            inbox: Inbox::new(),
            decoder,
            received: received.map(|at| type_of(&setting.columns[columns[at]])),
            patterns,
            parts,
            taken: VecDeque::new(),
            slots: Slots::default(),
            due: VecDeque::new(),
            acknowledged: 0,
        })
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    pub(crate) fn patterns(&self) -> &Patterns {
        &self.patterns
    }

    /// Reads what came, up to a batch.
    pub(crate) fn read(&mut self, now_us: i64) -> Read {
        loop {
            if self.taken.is_empty() {
                let wait = if self.due.is_empty() { WAIT_IDLE } else { WAIT_DUE };
                self.taken = self.inbox.take(wait).into();
            }
            if self.taken.is_empty() {
                return Read::Wait(Duration::ZERO);
            }
            let (batch, receipts) = self.batch(now_us);
            if !batch.decoded.is_empty() || !batch.position.is_empty() {
                self.due.push_back(receipts);
                return Read::Rows(batch);
            }
            // Messages without rows: there is nothing to lose.
            Receipt::settle(receipts);
        }
    }

    fn batch(&mut self, now_us: i64) -> (Batch, Vec<Receipt>) {
        let mut messages: Vec<Message> = Vec::new();
        let (mut unwanted, mut receipts, mut position) = (Vec::new(), Vec::new(), Position::new());
        let mut bytes = 0;
        while messages.len() + unwanted.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let Some(item) = self.taken.pop_front() else { break };
            match item {
                Item::Message(mut message) => {
                    bytes += message.payload.len();
                    receipts.extend(message.receipt.take());
                    if let Some(held) = message.held {
                        self.slots.hold(held, &mut position);
                    }
                    messages.push(message);
                }
                Item::Unwanted(mut message, reason) => {
                    bytes += message.payload.len();
                    receipts.extend(message.receipt.take());
                    unwanted.push(Rejected::new(&message.payload, &*reason));
                }
                Item::Release(client, id, receipt) => {
                    self.slots.free(client, id, &mut position);
                    receipts.push(receipt);
                }
                Item::Forget(client) => self.slots.forget(client, &mut position),
            }
        }
        let mut batch = Batch::from(self.decode(&messages, now_us));
        batch.decoded.rejected.append(&mut unwanted);
        batch.position = position;
        (batch, receipts)
    }

    fn decode(&mut self, messages: &[Message], now_us: i64) -> crate::decoded::Decoded {
        let values: Vec<Option<&[u8]>> = messages.iter().map(|message| Some(&message.payload[..])).collect();
        let captured = self.patterns.columns().len();
        let mut levels: Vec<Vec<Option<&[u8]>>> = vec![Vec::with_capacity(messages.len()); captured];
        if captured > 0 {
            let mut found = Vec::new();
            for message in messages {
                let topic = std::str::from_utf8(&message.topic).unwrap_or_default();
                self.patterns.values(topic, &mut found);
                for (level, found) in levels.iter_mut().zip(&found) {
                    level.push(found.map(str::as_bytes));
                }
            }
        }
        let mut filled: Vec<Filling<'_>> = levels.into_iter().map(Filling::Bytes).collect();
        for part in &self.parts {
            let each = |of: fn(&Message) -> &[u8]| Filling::Bytes(messages.iter().map(|one| Some(of(one))).collect());
            filled.push(match part {
                Part::Topic => each(|message| &message.topic),
                Part::Client => each(|message| message.client.as_bytes()),
                Part::Qos => each(|message| [&b"0"[..], b"1", b"2"][usize::from(message.qos.min(2))]),
                Part::Retained => each(|message| if message.retained { b"true" } else { b"false" }),
                Part::Received => {
                    let times = TimestampMicrosecondArray::from_value(now_us, messages.len());
                    let data_type = self.received.clone().unwrap_or_else(|| times.data_type().clone());
                    Filling::Values(Arc::new(times.with_data_type(data_type)))
                }
            });
        }
        let messages = Messages {
            keys: &[],
            values: &values,
            filled,
        };
        self.decoder.decode(&messages).decoded
    }

    /// Takes up what an earlier run has logged: returns the ids that are held.
    pub(crate) fn resume(&mut self, position: &Position) -> Vec<Held> {
        self.slots = Slots::restored(position);
        self.slots.held().collect()
    }

    /// Hears that the first `batches` batches are durable.
    pub(crate) fn acknowledge(&mut self, batches: u64) {
        let mut receipts = Vec::new();
        while self.acknowledged < batches {
            let Some(mut due) = self.due.pop_front() else { break };
            receipts.append(&mut due);
            self.acknowledged += 1;
        }
        Receipt::settle(receipts);
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        // Whom they came from is to send them again, to whoever reads next.
        let due = mem::take(&mut self.due).into_iter().flatten();
        let waiting = self.taken.drain(..).chain(self.inbox.close());
        let waiting = waiting.filter_map(|item| match item {
            Item::Message(message) | Item::Unwanted(message, _) => message.receipt,
            Item::Release(_, _, receipt) => Some(receipt),
            Item::Forget(_) => None,
        });
        due.chain(waiting).for_each(Receipt::give_up);
    }
}

/// The ids that are held, and where in the position each stands.
#[derive(Debug, Default, PartialEq, Eq)]
struct Slots {
    /// By client and id: the slot, and the number of the message's bytes.
    of: HashMap<(u32, u16), (usize, u16)>,
    free: Vec<usize>,
    count: usize,
}

/// What a slot holds when it is free: 0 is no id.
const FREE: i64 = 0;

impl Slots {
    fn restored(position: &Position) -> Slots {
        let mut slots = Slots::default();
        for (name, &value) in position {
            let Some(slot) = name.strip_prefix("slot/").and_then(|slot| slot.parse::<usize>().ok()) else {
                continue;
            };
            slots.count = slots.count.max(slot + 1);
            match unpack(value) {
                held if held.id == 0 => slots.free.push(slot),
                held => drop(slots.of.insert((held.client, held.id), (slot, held.digest))),
            }
        }
        slots
    }

    fn held(&self) -> impl Iterator<Item = Held> {
        self.of
            .iter()
            .map(|(&(client, id), &(_, digest))| Held { client, id, digest })
    }

    fn hold(&mut self, held: Held, position: &mut Position) {
        // A client that began its ids anew means another message by this one.
        let entry = self.of.entry((held.client, held.id)).or_insert_with(|| {
            let slot = self.free.pop().unwrap_or_else(|| {
                self.count += 1;
                self.count - 1
            });
            (slot, held.digest)
        });
        entry.1 = held.digest;
        position.insert(format!("slot/{}", entry.0), pack(held));
    }

    fn free(&mut self, client: u32, id: u16, position: &mut Position) {
        if let Some((slot, _)) = self.of.remove(&(client, id)) {
            self.free.push(slot);
            position.insert(format!("slot/{slot}"), FREE);
        }
    }

    fn forget(&mut self, client: u32, position: &mut Position) {
        let all: Vec<u16> = self.of.keys().filter(|key| key.0 == client).map(|key| key.1).collect();
        for id in all {
            self.free(client, id, position);
        }
    }
}

fn pack(held: Held) -> i64 {
    (u64::from(held.client) << 32 | u64::from(held.id) << 16 | u64::from(held.digest)).cast_signed()
}

fn unpack(value: i64) -> Held {
    let value = value.cast_unsigned();
    Held {
        client: (value >> 32) as u32,
        id: (value >> 16) as u16,
        digest: value as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(client: u32, id: u16) -> Held {
        Held {
            client,
            id,
            digest: id ^ 0xffff,
        }
    }

    #[test]
    fn slots_are_used_again_and_survive() {
        let mut slots = Slots::default();
        let mut logged = Position::new();
        for id in 1..=100 {
            slots.hold(held(u32::MAX, id), &mut logged);
        }
        for id in 1..=90 {
            slots.free(u32::MAX, id, &mut logged);
        }
        for id in 101..=150 {
            slots.hold(held(7, id), &mut logged);
        }
        assert_eq!(logged.len(), 100);
        let mut restored = Slots::restored(&logged);
        assert_eq!(restored.of, slots.of);
        assert_eq!((restored.count, restored.free.len()), (100, 40));
        restored.forget(7, &mut logged);
        assert_eq!(Slots::restored(&logged).of.len(), 10);
        // The same id again is the same slot.
        let again = Held {
            digest: 1,
            ..held(u32::MAX, 95)
        };
        restored.hold(again, &mut logged);
        assert!(Slots::restored(&logged).held().any(|held| held == again));
        assert_eq!((Slots::restored(&logged).of.len(), logged.len()), (10, 100));
        assert_eq!(unpack(pack(held(u32::MAX, 65535))), held(u32::MAX, 65535));
    }
}
