//! What is known of the messages that one other side has sent and may send again.
//!
//! A message is answered (PUBACK for QoS 1, PUBREC for QoS 2) once its row is durable, and only on a connection it
//! came in on: other sides break off when they hear of an id they have not used yet. Until then, and for QoS 2 until
//! they have let go of its id (PUBREL), the same message coming again is no second row. It is the same if it says so
//! (DUP), has the same id and the same bytes: a client that forgot what it had sent begins its ids anew.

use std::collections::HashMap;
use std::sync::Arc;

use crate::sources::mqtt::inbox::{Done, Inbox};
use crate::sources::mqtt::packet::{Answer, Publish, Qos};

/// The unfinished messages of one other side.
#[derive(Debug, Default)]
pub(crate) struct Session {
    entries: HashMap<u16, Entry>,
    /// How many are not durable yet.
    waiting: usize,
    serial: u32,
}

#[derive(Debug)]
struct Entry {
    /// Tells it from a later message with the same id.
    serial: u32,
    digest: Digest,
    qos: Qos,
    phase: Phase,
    /// Whether it came, perhaps again, on the connection that is open.
    here: bool,
    /// Whether no source wanted it.
    unwanted: bool,
    /// Who has logged its id.
    holders: Vec<Arc<Inbox>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Digest {
    Whole(u64),
    /// What the log remembers of it.
    Logged(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The engine has it.
    Waiting,
    /// It is durable.
    Durable,
    /// The other side has let go of its id, which is to be logged.
    Releasing,
}

/// What is to be done about a message that came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is new: hand it on under this serial. Some clients use the id of a message again that they have let go of
    /// before they hear that they may; then that is to be answered first, or they wait for it for ever.
    New(u32, Option<Answer>),
    /// It is on its way already.
    Again,
    /// It is durable already.
    Answer(Answer, bool),
}

/// What is to be done about an id that was let go of.
#[derive(Debug)]
pub(crate) enum Release {
    /// Nothing was logged of it.
    Answer(Answer),
    /// These have logged it, and are to log that it is free.
    Log(u32, Vec<Arc<Inbox>>),
    /// It is on its way already.
    Again,
}

impl Session {
    /// How many messages are not durable yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many ids are in use.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes note of a message of QoS 1 or 2.
    pub(crate) fn arrive(&mut self, publish: &Publish, digest: u64) -> Arrival {
        if let Some(entry) = self.entries.get_mut(&publish.id) {
            let same = match entry.digest {
                Digest::Whole(known) => known == digest,
                Digest::Logged(known) => known == digest as u16,
            };
            if publish.duplicate && same && entry.qos == publish.qos && entry.phase != Phase::Releasing {
                entry.here = true;
                let unwanted = entry.unwanted;
                return match (entry.phase, entry.qos) {
                    (Phase::Waiting, _) => Arrival::Again,
                    (_, Qos::ExactlyOnce) => Arrival::Answer(Answer::PubRec(publish.id), unwanted),
                    _ => {
                        self.entries.remove(&publish.id);
                        Arrival::Answer(Answer::PubAck(publish.id), unwanted)
                    }
                };
            }
        }
        self.serial = self.serial.wrapping_add(1);
        let entry = Entry {
            serial: self.serial,
            digest: Digest::Whole(digest),
            qos: publish.qos,
            phase: Phase::Waiting,
            here: true,
            unwanted: false,
            holders: Vec::new(),
        };
        let before = self.entries.insert(publish.id, entry).map(|before| before.phase);
        // A side that began its ids anew waits for no answer to what it had sent before.
        if before != Some(Phase::Waiting) {
            self.waiting += 1;
        }
        let released = before == Some(Phase::Releasing);
        Arrival::New(self.serial, released.then_some(Answer::PubComp(publish.id)))
    }

    /// Says of the message that came last under this id who will log the id.
    pub(crate) fn held_by(&mut self, id: u16, holders: Vec<Arc<Inbox>>) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.holders = holders;
        }
    }

    /// Says of the message that came last under this id that no source wanted it.
    pub(crate) fn unwanted(&mut self, id: u16) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.unwanted = true;
        }
    }

    /// Remembers what an earlier run has logged: an id that is held.
    pub(crate) fn restore(&mut self, id: u16, digest: u16, holder: Arc<Inbox>) {
        self.serial = self.serial.wrapping_add(1);
        self.entries
            .entry(id)
            .and_modify(|entry| entry.holders.push(Arc::clone(&holder)))
            .or_insert_with(|| Entry {
                serial: self.serial,
                digest: Digest::Logged(digest),
                qos: Qos::ExactlyOnce,
                phase: Phase::Durable,
                here: false,
                unwanted: false,
                holders: vec![holder],
            });
    }

    /// Hears that something is durable; returns what to answer now, and whether no source wanted the message.
    pub(crate) fn settle(&mut self, done: Done) -> Option<(Answer, bool)> {
        let entry = self.entries.get_mut(&done.id)?;
        if entry.serial != done.serial {
            return None;
        }
        let (here, unwanted) = (entry.here, entry.unwanted);
        let answer = match (done.release, entry.phase, entry.qos) {
            (true, Phase::Releasing, _) => {
                self.entries.remove(&done.id);
                Answer::PubComp(done.id)
            }
            (false, Phase::Waiting, Qos::ExactlyOnce) => {
                self.waiting -= 1;
                entry.phase = Phase::Durable;
                Answer::PubRec(done.id)
            }
            (false, Phase::Waiting, _) => {
                self.waiting -= 1;
                entry.phase = Phase::Durable;
                if here {
                    self.entries.remove(&done.id);
                }
                Answer::PubAck(done.id)
            }
            _ => return None,
        };
        here.then_some((answer, unwanted))
    }

    /// Hears that the other side has let go of an id.
    pub(crate) fn release(&mut self, id: u16) -> Release {
        match self.entries.get_mut(&id) {
            Some(entry) if entry.phase == Phase::Releasing => {
                entry.here = true;
                Release::Again
            }
            // It cannot have heard that the message is durable, so it means another one.
            Some(entry) if entry.phase == Phase::Waiting => Release::Answer(Answer::PubComp(id)),
            Some(entry) if !entry.holders.is_empty() => {
                entry.here = true;
                entry.phase = Phase::Releasing;
                Release::Log(entry.serial, entry.holders.clone())
            }
            _ => {
                self.entries.remove(&id);
                Release::Answer(Answer::PubComp(id))
            }
        }
    }

    /// Hears that the connection is gone.
    pub(crate) fn disconnect(&mut self) {
        for entry in self.entries.values_mut() {
            entry.here = false;
        }
    }

    /// Forgets the messages that will not be durable: when they come again, they are new.
    pub(crate) fn give_up(&mut self) {
        self.entries.retain(|_, entry| entry.phase != Phase::Waiting);
        self.waiting = 0;
        for entry in self.entries.values_mut() {
            // It is let go of again, too.
            if entry.phase == Phase::Releasing {
                entry.phase = Phase::Durable;
            }
        }
    }

    /// Forgets all: the other side has. Returns whether ids are held in a log.
    pub(crate) fn clear(&mut self) -> Vec<Arc<Inbox>> {
        let mut holders: Vec<Arc<Inbox>> = Vec::new();
        for entry in self.entries.values() {
            for holder in &entry.holders {
                if !holders.iter().any(|known| Arc::ptr_eq(known, holder)) {
                    holders.push(Arc::clone(holder));
                }
            }
        }
        self.entries.clear();
        self.waiting = 0;
        holders
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn publish(id: u16, qos: Qos, payload: &'static str, duplicate: bool) -> Publish {
        Publish {
            topic: Bytes::from_static(b"t"),
            payload: Bytes::from_static(payload.as_bytes()),
            qos,
            id,
            duplicate,
            retained: false,
            alias: None,
        }
    }

    fn arrive(session: &mut Session, publish: &Publish) -> Arrival {
        session.arrive(publish, crate::sources::mqtt::packet::digest(publish))
    }

    fn serial(arrival: Arrival) -> u32 {
        match arrival {
            Arrival::New(serial, None) => serial,
            other => panic!("{other:?}"),
        }
    }

    fn done(id: u16, serial: u32, release: bool) -> Done {
        Done { id, serial, release }
    }

    #[test]
    fn a_message_is_answered_once_durable_on_the_connection_it_came_in_on() {
        let mut session = Session::default();
        let first = publish(1, Qos::AtLeastOnce, "a", false);
        let again = publish(1, Qos::AtLeastOnce, "a", true);
        let serial = serial(arrive(&mut session, &first));
        assert_eq!(arrive(&mut session, &again), Arrival::Again);
        assert_eq!(session.waiting(), 1);
        session.disconnect();
        // The new connection has not carried it yet, so nothing is said there.
        assert_eq!(session.settle(done(1, serial, false)), None);
        assert_eq!(session.waiting(), 0);
        assert_eq!(arrive(&mut session, &again), Arrival::Answer(Answer::PubAck(1), false));
        assert_eq!(session.len(), 0);
    }

    #[test]
    fn ids_that_begin_anew_are_other_messages() {
        let mut session = Session::default();
        let old = serial(arrive(&mut session, &publish(1, Qos::AtLeastOnce, "a", false)));
        let new = serial(arrive(&mut session, &publish(1, Qos::AtLeastOnce, "a", false)));
        assert_eq!(session.waiting(), 1);
        assert_eq!(session.settle(done(1, old, false)), None);
        assert_eq!(session.settle(done(1, new, false)), Some((Answer::PubAck(1), false)));
        // The same id and bytes once it was answered: another message, which was lost once on its way.
        serial(arrive(&mut session, &publish(1, Qos::AtLeastOnce, "a", true)));
        serial(arrive(&mut session, &publish(1, Qos::AtLeastOnce, "b", true)));
    }

    #[test]
    fn qos_2_is_held_until_its_release_is_logged() {
        let mut session = Session::default();
        let inbox = Inbox::new();
        let first = serial(arrive(&mut session, &publish(7, Qos::ExactlyOnce, "a", false)));
        session.held_by(7, vec![Arc::clone(&inbox)]);
        assert_eq!(session.settle(done(7, first, false)), Some((Answer::PubRec(7), false)));
        let again = publish(7, Qos::ExactlyOnce, "a", true);
        assert_eq!(arrive(&mut session, &again), Arrival::Answer(Answer::PubRec(7), false));
        assert!(matches!(session.release(7), Release::Log(serial, holders) if serial == first && holders.len() == 1));
        session.disconnect();
        assert!(matches!(session.release(7), Release::Again));
        assert_eq!(session.settle(done(7, first, true)), Some((Answer::PubComp(7), false)));
        assert!(matches!(session.release(7), Release::Answer(Answer::PubComp(7))));
        assert_eq!(session.len(), 0);
    }

    #[test]
    fn an_id_that_is_used_too_early_is_answered_for_both() {
        let mut session = Session::default();
        let first = serial(arrive(&mut session, &publish(7, Qos::ExactlyOnce, "a", false)));
        session.held_by(7, vec![Inbox::new()]);
        session.settle(done(7, first, false));
        assert!(matches!(session.release(7), Release::Log(..)));
        let Arrival::New(second, released) = arrive(&mut session, &publish(7, Qos::AtLeastOnce, "b", false)) else {
            panic!("not new");
        };
        assert_eq!(released, Some(Answer::PubComp(7)));
        assert_eq!(session.settle(done(7, first, true)), None);
        assert_eq!(session.settle(done(7, second, false)), Some((Answer::PubAck(7), false)));
    }

    #[test]
    fn what_was_logged_is_known_again() {
        let mut session = Session::default();
        let message = publish(9, Qos::ExactlyOnce, "a", true);
        let digest = crate::sources::mqtt::packet::digest(&message);
        session.restore(9, digest as u16, Inbox::new());
        assert_eq!(
            arrive(&mut session, &message),
            Arrival::Answer(Answer::PubRec(9), false)
        );
        assert!(matches!(session.release(9), Release::Log(..)));
        session.restore(9, 0, Inbox::new());
        assert_eq!(session.clear().len(), 2);
        assert_eq!(session.len(), 0);
    }
}
