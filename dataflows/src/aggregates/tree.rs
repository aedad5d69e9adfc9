//! A sorted multiset that knows how much lies before each of its values.
//!
//! A B-tree whose inner nodes keep the mass of each child: adding a value,
//! taking one back and finding the one at a rank take logarithmic time.

use std::ops::{AddAssign, SubAssign};

/// Values a leaf holds before it is split.
const LEAF: usize = 128;
/// Children an inner node has before it is split.
const INNER: usize = 64;

/// What a value counts for: its multiplicity, or a weight.
pub(super) trait Mass: Copy + Default + Ord + AddAssign + SubAssign + Send {}

impl Mass for i64 {}
impl Mass for i128 {}

/// Values in order, each with its mass. A value without mass is not there.
///
/// While a tick is applied a mass may be negative: a row may be taken back
/// before it comes. Ranks are asked for only once it is over.
pub(super) struct Tree<K, M> {
    root: Node<K, M>,
    total: M,
}

enum Node<K, M> {
    Leaf(Vec<(K, M)>),
    Inner(Vec<Child<K, M>>),
}

struct Child<K, M> {
    /// No value of the child is less; all values of the one before it are.
    first: K,
    total: M,
    node: Node<K, M>,
}

impl<K, M: Mass> Default for Tree<K, M> {
    fn default() -> Self {
        Tree {
            root: Node::Leaf(Vec::new()),
            total: M::default(),
        }
    }
}

impl<K, M> Node<K, M> {
    fn values(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Inner(children) => children.iter().map(|child| child.node.values()).sum(),
        }
    }
}

impl<K: Copy + Ord, M: Mass> Tree<K, M> {
    /// Returns the mass of all values.
    pub(super) fn total(&self) -> M {
        self.total
    }

    /// Returns how many values there are, by looking at each leaf.
    pub(super) fn len(&self) -> usize {
        self.root.values()
    }

    /// Adds to the mass of a value; returns by how many the number of values grew.
    pub(super) fn add(&mut self, key: K, mass: M) -> isize {
        if mass == M::default() {
            return 0;
        }
        self.total += mass;
        let (grown, split) = self.root.add(key, mass);
        if let Some(right) = split {
            let left = std::mem::replace(&mut self.root, Node::Inner(Vec::with_capacity(2)));
            let mut total = self.total;
            total -= right.total;
            if let (Node::Inner(children), Some(first)) = (&mut self.root, left.first()) {
                children.push(Child {
                    first,
                    total,
                    node: left,
                });
                children.push(right);
            }
        } else if let Node::Inner(children) = &mut self.root
            && children.len() < 2
        {
            self.root = children.pop().map_or(Node::Leaf(Vec::new()), |child| child.node);
        }
        grown
    }

    /// Returns the smallest value.
    pub(super) fn first(&self) -> Option<K> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Inner(children) => node = &children.first()?.node,
                Node::Leaf(entries) => return entries.first().map(|(key, _)| *key),
            }
        }
    }

    /// Returns the largest value.
    pub(super) fn last(&self) -> Option<K> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Inner(children) => node = &children.last()?.node,
                Node::Leaf(entries) => return entries.last().map(|(key, _)| *key),
            }
        }
    }

    /// Returns the first value at which the mass of it and all before it reaches `rank`; else the last.
    pub(super) fn at(&self, mut rank: M) -> Option<K> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Inner(children) => {
                    let (last, others) = children.split_last()?;
                    let found = others.iter().find(|child| {
                        let here = child.total >= rank;
                        if !here {
                            rank -= child.total;
                        }
                        here
                    });
                    node = &found.unwrap_or(last).node;
                }
                Node::Leaf(entries) => {
                    let found = entries.iter().find(|(_, mass)| {
                        let here = *mass >= rank;
                        if !here {
                            rank -= *mass;
                        }
                        here
                    });
                    return found.or(entries.last()).map(|(key, _)| *key);
                }
            }
        }
    }
}

impl<K: Copy + Ord, M: Mass> Node<K, M> {
    fn first(&self) -> Option<K> {
        match self {
            Node::Leaf(entries) => entries.first().map(|(key, _)| *key),
            Node::Inner(children) => children.first().map(|child| child.first),
        }
    }

    fn len(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Inner(children) => children.len(),
        }
    }

    fn capacity(&self) -> usize {
        match self {
            Node::Leaf(_) => LEAF,
            Node::Inner(_) => INNER,
        }
    }

    /// Returns by how many values it grew, and what was split off to its right.
    fn add(&mut self, key: K, mass: M) -> (isize, Option<Child<K, M>>) {
        let grown = match self {
            Node::Leaf(entries) => match entries.binary_search_by(|(known, _)| known.cmp(&key)) {
                Ok(at) => {
                    entries[at].1 += mass;
                    if entries[at].1 != M::default() {
                        return (0, None);
                    }
                    entries.remove(at);
                    -1
                }
                Err(at) => {
                    entries.insert(at, (key, mass));
                    1
                }
            },
            Node::Inner(children) => {
                let at = children.partition_point(|child| child.first <= key).saturating_sub(1);
                let child = &mut children[at];
                child.first = child.first.min(key);
                child.total += mass;
                let (grown, split) = child.node.add(key, mass);
                if let Some(right) = split {
                    child.total -= right.total;
                    children.insert(at + 1, right);
                } else if grown < 0 {
                    tidy(children, at);
                }
                grown
            }
        };
        (grown, self.split())
    }

    /// Splits the right half off where it has become too large.
    fn split(&mut self) -> Option<Child<K, M>> {
        if self.len() <= self.capacity() {
            return None;
        }
        let node = match self {
            Node::Leaf(entries) => Node::Leaf(entries.split_off(entries.len() / 2)),
            Node::Inner(children) => Node::Inner(children.split_off(children.len() / 2)),
        };
        let mut total = M::default();
        match &node {
            Node::Leaf(entries) => entries.iter().for_each(|(_, mass)| total += *mass),
            Node::Inner(children) => children.iter().for_each(|child| total += child.total),
        }
        Some(Child {
            first: node.first()?,
            total,
            node,
        })
    }
}

/// Joins the child at a position with the one to its right, or its left, where both are small.
fn tidy<K: Copy + Ord, M: Mass>(children: &mut Vec<Child<K, M>>, at: usize) {
    let child = &children[at].node;
    if child.len() == 0 {
        children.remove(at);
        return;
    }
    if child.len() > child.capacity() / 4 || children.len() < 2 {
        return;
    }
    let left = at.min(children.len() - 2);
    if children[left].node.len() + children[left + 1].node.len() > children[left].node.capacity() / 2 {
        return;
    }
    let right = children.remove(left + 1);
    let left = &mut children[left];
    match (&mut left.node, right.node) {
        (Node::Leaf(entries), Node::Leaf(more)) => entries.extend(more),
        (Node::Inner(children), Node::Inner(more)) => children.extend(more),
        // All children of a node are of one depth.
        _ => return,
    }
    left.total += right.total;
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64;
    use std::collections::BTreeMap;

    #[test]
    fn is_what_a_sorted_list_is() {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        println!("seed {seed}");
        let mut random = Pcg64::seed_from_u64(seed);
        for values in [3u32, 100, 5_000, 1_000_000] {
            let (mut tree, mut known) = (Tree::<u32, i64>::default(), BTreeMap::<u32, i64>::new());
            for step in 0..30_000 {
                // Grows, then shrinks to nothing.
                let key = match step > 20_000 && !known.is_empty() {
                    true => {
                        let from = random.random_range(0..values);
                        let next = known.range(from..).next().or(known.iter().next());
                        next.map_or(0, |(key, _)| *key)
                    }
                    false => random.random_range(0..values),
                };
                let mass = if step > 20_000 {
                    -known.get(&key).copied().unwrap_or(-1)
                } else {
                    random.random_range(1..4)
                };
                let before = known.len() as isize;
                let entry = known.entry(key).or_default();
                *entry += mass;
                if *entry == 0 {
                    known.remove(&key);
                }
                assert_eq!(tree.add(key, mass), known.len() as isize - before);
                let total: i64 = tree.total();
                if step % 500 == 0 {
                    assert_eq!(total, known.values().sum::<i64>());
                    let all: Vec<u32> = known.iter().flat_map(|(key, mass)| (0..*mass).map(|_| *key)).collect();
                    for rank in [1, total / 3, total / 2, total] {
                        let rank = rank.max(1);
                        assert_eq!(tree.at(rank), all.get(rank as usize - 1).copied());
                    }
                    assert_eq!(tree.at(total + 5), all.last().copied());
                    assert_eq!((tree.first(), tree.last()), (all.first().copied(), all.last().copied()));
                }
            }
        }
    }
}
