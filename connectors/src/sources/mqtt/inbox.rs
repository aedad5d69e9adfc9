//! Between a connection, which is served by a thread of its own, and the reader of a source: messages one way, word
//! of what is durable the other. Both ways are bounded.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};

/// Bytes of messages that wait for a reader.
const ROOM_BYTES: usize = 32 << 20;

/// What a message is reckoned to take besides its own bytes.
const MESSAGE_BYTES: usize = 128;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept under these locks is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What waits for the reader of one source.
#[derive(Debug)]
pub(crate) struct Inbox {
    items: Mutex<Vec<Item>>,
    filled: Condvar,
    room: Semaphore,
}

/// What a reader takes.
#[derive(Debug)]
pub(crate) enum Item {
    /// A message for this source.
    Message(Message),
    /// A message that no source wants, for the rejected.
    Unwanted(Message, Arc<str>),
    /// A client's id of QoS 2 is free again.
    Release(u32, u16, Receipt),
    /// A client has forgotten all ids it used.
    Forget(u32),
}

/// A message.
#[derive(Debug)]
pub(crate) struct Message {
    /// Valid UTF-8.
    pub(crate) topic: Bytes,
    pub(crate) payload: Bytes,
    pub(crate) qos: u8,
    pub(crate) retained: bool,
    pub(crate) client: Arc<str>,
    /// What is to be logged with it.
    pub(crate) held: Option<Held>,
    /// Whom to tell that it is durable; nobody, of QoS 0.
    pub(crate) receipt: Option<Receipt>,
}

/// What is logged of a message of QoS 2, so that it is known again after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    /// A number of the client's name.
    pub(crate) client: u32,
    pub(crate) id: u16,
    /// A number of its bytes.
    pub(crate) digest: u16,
}

impl Message {
    fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

impl Item {
    fn bytes(&self) -> usize {
        let bytes = match self {
            Item::Message(message) | Item::Unwanted(message, _) => message.bytes(),
            Item::Release(..) | Item::Forget(_) => 0,
        };
        (MESSAGE_BYTES + bytes).min(ROOM_BYTES)
    }
}

/// The reader is gone.
#[derive(Debug)]
pub(crate) struct Closed;

impl Inbox {
    pub(crate) fn new() -> Arc<Inbox> {
        Arc::new(Inbox {
            items: Mutex::default(),
            filled: Condvar::new(),
            room: Semaphore::new(ROOM_BYTES),
        })
    }

    /// Hands items over, in their order; waits while there is no room, so that a slow engine is felt.
    pub(crate) async fn send(&self, items: &mut Vec<Item>) -> Result<(), Closed> {
        while !items.is_empty() {
            let mut bytes = items[0].bytes();
            let mut take = 1;
            while take < items.len() && bytes + items[take].bytes() <= ROOM_BYTES / 8 {
                bytes += items[take].bytes();
                take += 1;
            }
            let room = self.room.acquire_many(bytes as u32).await.map_err(|_| Closed)?;
            room.forget();
            let mut waiting = lock(&self.items);
            if self.room.is_closed() {
                return Err(Closed);
            }
            if take == items.len() {
                waiting.append(items);
            } else {
                waiting.extend(items.drain(..take));
            }
            drop(waiting);
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Takes all there is; where there is nothing, waits for so long.
    pub(crate) fn take(&self, wait: Duration) -> Vec<Item> {
        let until = Instant::now() + wait;
        let mut items = lock(&self.items);
        while items.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Vec::new();
            }
            items = self
                .filled
                .wait_timeout(items, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let taken = mem::take(&mut *items);
        drop(items);
        self.room.add_permits(taken.iter().map(Item::bytes).sum());
        taken
    }

    /// Takes nothing more; returns what was not taken.
    pub(crate) fn close(&self) -> Vec<Item> {
        let mut items = lock(&self.items);
        self.room.close();
        mem::take(&mut *items)
    }
}

/// The way back to a connection, or to the session that outlives it.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    done: Mutex<Vec<Done>>,
    wake: Notify,
    given_up: AtomicBool,
}

/// Word that something is durable: a message, or that its id is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) id: u16,
    pub(crate) serial: u32,
    pub(crate) release: bool,
}

impl Peer {
    /// Waits for word, or for anything else that [`Peer::wake`] was called for.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Takes the words that came.
    pub(crate) fn take(&self) -> Vec<Done> {
        mem::take(&mut *lock(&self.done))
    }

    /// Whether a message was given up, so that the other side has to send it again.
    pub(crate) fn given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
        self.wake();
    }
}

/// Whom to tell once something is durable.
#[derive(Debug)]
pub(crate) struct Receipt {
    pub(crate) peer: Arc<Peer>,
    pub(crate) done: Done,
    /// How many sources have yet to say so, where it is not one alone.
    pub(crate) sources: Option<Arc<AtomicUsize>>,
}

impl Receipt {
    fn last(&self) -> bool {
        let before = self.sources.as_ref().map(|left| left.fetch_sub(1, Ordering::AcqRel));
        before.is_none_or(|before| before == 1)
    }

    /// Tells all of them, each other side once.
    pub(crate) fn settle(receipts: Vec<Receipt>) {
        let mut words: Vec<Done> = Vec::new();
        let mut told: Option<Arc<Peer>> = None;
        let tell = |peer: &Option<Arc<Peer>>, words: &mut Vec<Done>| {
            if let Some(peer) = peer
                && !words.is_empty()
            {
                lock(&peer.done).append(words);
                peer.wake();
            }
        };
        for receipt in receipts {
            if !receipt.last() {
                continue;
            }
            if told.as_ref().is_none_or(|peer| !Arc::ptr_eq(peer, &receipt.peer)) {
                tell(&told, &mut words);
                told = Some(receipt.peer);
            }
            words.push(receipt.done);
        }
        tell(&told, &mut words);
    }

    /// Says that it will not be durable.
    pub(crate) fn give_up(self) {
        self.peer.give_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Item {
        Item::Message(Message {
            topic: Bytes::from_static(b"t"),
            payload: Bytes::from(vec![0; bytes]),
            qos: 0,
            retained: false,
            client: "c".into(),
            held: None,
            receipt: None,
        })
    }

    #[test]
    fn a_full_inbox_holds_the_sender_back() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let inbox = Inbox::new();
        let mut items: Vec<Item> = (0..100).map(|_| message(1 << 20)).collect();
        let sent =
            runtime.block_on(async { tokio::time::timeout(Duration::from_millis(50), inbox.send(&mut items)).await });
        assert!(sent.is_err());
        let waiting = inbox.take(Duration::ZERO).len();
        assert!((20..32).contains(&waiting), "{waiting}");
        assert_eq!(items.len() + waiting, 100);
        inbox.close();
        assert!(runtime.block_on(inbox.send(&mut items)).is_err());
    }

    #[test]
    fn a_message_of_several_sources_is_settled_by_the_last() {
        let peer = Arc::new(Peer::default());
        let left = Arc::new(AtomicUsize::new(2));
        let done = Done {
            id: 1,
            serial: 1,
            release: false,
        };
        let receipt = || Receipt {
            peer: Arc::clone(&peer),
            done,
            sources: Some(Arc::clone(&left)),
        };
        Receipt::settle(vec![receipt()]);
        assert!(peer.take().is_empty());
        Receipt::settle(vec![receipt()]);
        assert_eq!(peer.take(), [done]);
    }
}
