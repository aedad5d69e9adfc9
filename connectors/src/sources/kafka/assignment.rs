//! The partitions that are read, and how far: in batches that were handed over, and in those that are safe.
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::sources::Position;

/// A partition: the place of its topic in the list, and its number.
pub(super) type Key = (u32, i32);

/// What is logged of a partition that is there no more.
pub(super) const FORGOTTEN: i64 = -1;

/// A partition that is read.
#[derive(Debug, Clone)]
pub(super) struct Partition {
    /// What it is called: its topic and its number.
    pub(super) name: Arc<str>,
    /// The offset of the message that is expected next.
    pub(super) next: i64,
    /// The identity of the topic that this is an offset of, as far as it is known.
    pub(super) identity: Option<i64>,
    /// The identity that was logged.
    logged: Option<i64>,
    /// The offset up to which rows are safe.
    safe: i64,
    /// The offset that was committed.
    committed: i64,
    /// Batches that hold rows of it and are not safe yet.
    in_flight: usize,
    /// Which time it is that it is read: what was handed over the time before is nothing to commit.
    turn: u64,
    /// Why its messages are dropped, if they are: they come again.
    pub(super) held: Option<Held>,
}

/// Why messages of a partition are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// It is about to be given away.
    Leaving,
    /// It is about to be read from another offset.
    Moving,
}

/// What is known of a partition whether or not it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) next: i64,
    pub(super) identity: Option<i64>,
}

/// Partitions that are read, and batches on their way.
#[derive(Debug)]
pub(super) struct Assignment {
    topics: Vec<Arc<str>>,
    partitions: BTreeMap<Key, Partition>,
    known: HashMap<Key, Known>,
    identities: Vec<Option<i64>>,
    turns: u64,
    batches: u64,
    tickets: VecDeque<Ticket>,
}

/// What a batch holds.
#[derive(Debug)]
struct Ticket {
    batch: u64,
    /// Partitions with their turn and what follows the batch's messages.
    offsets: Vec<(Key, u64, i64)>,
}

impl Assignment {
    pub(super) fn new(topics: Vec<Arc<str>>) -> Assignment {
        Assignment {
            identities: vec![None; topics.len()],
            topics,
            partitions: BTreeMap::new(),
            known: HashMap::new(),
            turns: 0,
            batches: 0,
            tickets: VecDeque::new(),
        }
    }

    /// The name of a topic.
    pub(super) fn topic(&self, key: Key) -> &str {
        &self.topics[key.0 as usize]
    }

    /// What a partition is called.
    pub(super) fn name(&self, key: Key) -> String {
        format!("{}/{}", self.topic(key), key.1)
    }

    /// Finds a partition by its topic's name.
    pub(super) fn key(&self, topic: &str, partition: i32) -> Option<Key> {
        let at = self.topics.iter().position(|name| **name == *topic)?;
        Some((at as u32, partition))
    }

    /// Takes up what an earlier run has logged.
    pub(super) fn recall(&mut self, position: &Position) {
        for (name, &next) in position.iter().filter(|(_, next)| **next != FORGOTTEN) {
            let Some((topic, partition)) = name.rsplit_once('/') else {
                continue;
            };
            if let Some(key) = partition.parse().ok().and_then(|partition| self.key(topic, partition)) {
                let identity = position.get(&identity_name(name)).copied();
                self.known.insert(key, Known { next, identity });
            }
        }
    }

    /// What is known of a partition.
    pub(super) fn known(&self, key: Key) -> Option<Known> {
        self.known.get(&key).copied()
    }

    /// Whether anything is known of a topic.
    pub(super) fn knows_topic(&self, topic: u32) -> bool {
        self.known.keys().any(|key| key.0 == topic)
    }

    /// The identity of a topic, as far as it is known.
    pub(super) fn identity(&self, key: Key) -> Option<i64> {
        self.identities[key.0 as usize]
    }

    /// Begins to read a partition, or goes on elsewhere in one that is read.
    pub(super) fn begin(&mut self, key: Key, next: i64, identity: Option<i64>) {
        let name = self.name(key).into();
        self.turns += 1;
        let partition = Partition {
            name,
            next,
            identity,
            logged: None,
            safe: next,
            committed: next,
            in_flight: 0,
            turn: self.turns,
            held: None,
        };
        self.partitions.insert(key, partition);
        self.known.insert(key, Known { next, identity });
    }

    /// Reads a partition no more; what was read of it stays known.
    pub(super) fn end(&mut self, key: Key) {
        if let Some(partition) = self.partitions.remove(&key) {
            let Partition { next, identity, .. } = partition;
            self.known.insert(key, Known { next, identity });
        }
    }

    /// The partitions of a topic that are known and of a number past `count`.
    pub(super) fn beyond(&self, topic: u32, count: usize) -> Vec<Key> {
        let mut beyond: Vec<Key> = self.known.keys().copied().collect();
        beyond.retain(|key| key.0 == topic && key.1 as usize >= count);
        beyond.sort_unstable();
        beyond
    }

    /// Forgets all that is known of a partition.
    pub(super) fn forget(&mut self, key: Key) {
        self.partitions.remove(&key);
        self.known.remove(&key);
    }

    /// The partitions that are read.
    pub(super) fn partitions(&self) -> impl Iterator<Item = (Key, &Partition)> {
        self.partitions.iter().map(|(key, partition)| (*key, partition))
    }

    pub(super) fn get(&self, key: Key) -> Option<&Partition> {
        self.partitions.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Partition> {
        self.partitions.get_mut(&key)
    }

    /// Learns the identity of a topic. Returns its partitions that were read of another of that name: what is known of
    /// them is void, and their messages are dropped until they begin anew.
    pub(super) fn identify(&mut self, topic: &str, identity: i64) -> Vec<Key> {
        let Some((at, _)) = self.key(topic, 0) else {
            return Vec::new();
        };
        self.identities[at as usize] = Some(identity);
        let mut void = Vec::new();
        for (key, partition) in &mut self.partitions {
            if key.0 != at {
                continue;
            }
            match partition.identity {
                Some(known) if known != identity => {
                    if partition.held.is_none() {
                        partition.held = Some(Held::Moving);
                    }
                    void.push(*key);
                }
                _ => partition.identity = Some(identity),
            }
        }
        void
    }

    /// Notes that a batch goes out with these partitions; returns where reading goes on after it.
    pub(super) fn hand_over(&mut self, keys: &[Key]) -> Position {
        self.batches += 1;
        let mut position = Position::new();
        let mut offsets = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(partition) = self.partitions.get_mut(key) else {
                continue;
            };
            partition.in_flight += 1;
            offsets.push((*key, partition.turn, partition.next));
            position.insert(partition.name.to_string(), partition.next);
            if let Some(identity) = partition.identity
                && partition.logged != Some(identity)
            {
                partition.logged = Some(identity);
                position.insert(identity_name(&partition.name), identity);
            }
        }
        self.tickets.push_back(Ticket {
            batch: self.batches,
            offsets,
        });
        position
    }

    /// Hears that the first `batches` batches are safe.
    pub(super) fn acknowledge(&mut self, batches: u64) {
        while let Some(ticket) = self.tickets.pop_front_if(|ticket| ticket.batch <= batches) {
            for (key, turn, next) in ticket.offsets {
                if let Some(partition) = self.partitions.get_mut(&key)
                    && partition.turn == turn
                {
                    partition.in_flight -= 1;
                    partition.safe = next;
                }
            }
        }
    }

    /// Whether nothing read of these partitions is on its way any more.
    pub(super) fn is_settled(&self, keys: &[Key]) -> bool {
        keys.iter().all(|key| {
            self.partitions
                .get(key)
                .is_none_or(|partition| partition.in_flight == 0)
        })
    }

    /// What is safe and not committed; it counts as committed then.
    pub(super) fn to_commit(&mut self) -> Vec<(Key, i64)> {
        let mut due = Vec::new();
        for (key, partition) in &mut self.partitions {
            if partition.safe > partition.committed && partition.held != Some(Held::Moving) {
                partition.committed = partition.safe;
                due.push((*key, partition.safe));
            }
        }
        due
    }

    /// Takes nothing for committed any more.
    pub(super) fn commit_again(&mut self) {
        for partition in self.partitions.values_mut() {
            partition.committed = partition.committed.min(partition.safe - 1);
        }
    }
}

/// What the identity of a partition's topic is logged by; no partition is called so.
fn identity_name(partition: &str) -> String {
    format!("{partition}#identity")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment() -> Assignment {
        Assignment::new(vec!["a".into(), "b".into()])
    }

    fn advance(assignment: &mut Assignment, key: Key, next: i64) {
        assignment.get_mut(key).unwrap().next = next;
    }

    #[test]
    fn only_what_is_safe_is_committed() {
        let mut assignment = assignment();
        assignment.begin((0, 0), 10, None);
        assignment.begin((1, 3), 0, None);
        assert_eq!(assignment.to_commit(), []);
        advance(&mut assignment, (0, 0), 15);
        assert_eq!(assignment.hand_over(&[(0, 0)]), Position::from([("a/0".into(), 15)]));
        advance(&mut assignment, (0, 0), 20);
        advance(&mut assignment, (1, 3), 7);
        let position = assignment.hand_over(&[(0, 0), (1, 3)]);
        assert_eq!(position, Position::from([("a/0".into(), 20), ("b/3".into(), 7)]));
        assignment.acknowledge(1);
        assert_eq!(assignment.to_commit(), [((0, 0), 15)]);
        assert!(!assignment.is_settled(&[(0, 0)]));
        assignment.acknowledge(2);
        assert!(assignment.is_settled(&[(0, 0), (1, 3)]));
        assert_eq!(assignment.to_commit(), [((0, 0), 20), ((1, 3), 7)]);
        assert_eq!(assignment.to_commit(), []);
        assignment.commit_again();
        assert_eq!(assignment.to_commit(), [((0, 0), 20), ((1, 3), 7)]);
    }

    #[test]
    fn what_was_read_the_time_before_is_not_committed() {
        let mut assignment = assignment();
        assignment.begin((0, 0), 0, None);
        advance(&mut assignment, (0, 0), 5);
        assignment.hand_over(&[(0, 0)]);
        assignment.end((0, 0));
        assert_eq!(assignment.known((0, 0)).map(|known| known.next), Some(5));
        assignment.begin((0, 0), 50, None);
        assignment.acknowledge(1);
        assert_eq!(assignment.to_commit(), []);
        assert!(assignment.is_settled(&[(0, 0)]));
    }

    #[test]
    fn a_topic_of_another_identity_begins_anew() {
        let mut assignment = assignment();
        assignment.recall(&Position::from([
            ("a/0".into(), 7),
            ("a/1".into(), 9),
            ("a/0#identity".into(), 77),
            ("other/1".into(), 3),
            ("nothing".into(), 3),
            ("b/1".into(), FORGOTTEN),
        ]));
        let known = assignment.known((0, 0)).unwrap();
        assert_eq!((known.next, known.identity), (7, Some(77)));
        assert!(assignment.knows_topic(0) && !assignment.knows_topic(1));
        assert_eq!(assignment.beyond(0, 1), [(0, 1)]);
        assignment.begin((0, 0), 7, Some(77));
        assignment.begin((0, 1), 9, None);
        assert_eq!(assignment.known((0, 1)).unwrap().identity, None);
        assert_eq!(assignment.identify("a", 77), []);
        assert_eq!(assignment.identify("a", 78), [(0, 0), (0, 1)]);
        assert_eq!(assignment.get((0, 0)).unwrap().held, Some(Held::Moving));
        assignment.begin((0, 0), 0, Some(78));
        advance(&mut assignment, (0, 0), 1);
        let position = assignment.hand_over(&[(0, 0)]);
        assert_eq!(
            position,
            Position::from([("a/0".into(), 1), ("a/0#identity".into(), 78)])
        );
        // It is told once.
        assert_eq!(assignment.hand_over(&[(0, 0)]), Position::from([("a/0".into(), 1)]));
    }
}
