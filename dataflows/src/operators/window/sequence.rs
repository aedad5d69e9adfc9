//! Rows in an order that somebody else decides.

/// Places of one chunk, at most.
const CHUNK: usize = 512;

/// A row, and what decides nearly all comparisons with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Not greater than that of a later row.
    pub(super) prefix: u64,
    pub(super) slot: u32,
}

/// An ordered list of places, in chunks: a change moves one chunk's places, not all.
#[derive(Default)]
pub(super) struct Sequence {
    /// The first chunk stands here: for most partitions there is no other.
    first: Vec<Place>,
    /// The others, none of them empty.
    more: Vec<Vec<Place>>,
    /// The position of each chunk's first place; true once [`Sequence::settle`] was called.
    starts: Vec<usize>,
    length: usize,
}

impl Sequence {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    fn chunks(&self) -> usize {
        1 + self.more.len()
    }

    fn chunk(&self, index: usize) -> &[Place] {
        match index {
            0 => &self.first,
            index => &self.more[index - 1],
        }
    }

    fn chunk_mut(&mut self, index: usize) -> &mut Vec<Place> {
        match index {
            0 => &mut self.first,
            index => &mut self.more[index - 1],
        }
    }

    /// Returns the first position whose slot is not `before`, which holds for the first slots and then no more.
    pub(super) fn partition_point(&self, mut before: impl FnMut(u32) -> bool) -> usize {
        self.search(|place| before(place.slot))
    }

    /// The same with whole places.
    #[inline]
    pub(super) fn search(&self, mut before: impl FnMut(&Place) -> bool) -> usize {
        if self.more.is_empty() {
            return self.first.partition_point(before);
        }
        // What comes in order comes at the end.
        let last = self.chunk(self.more.len());
        if last.last().is_some_and(&mut before) {
            return self.length;
        }
        if !self.first.last().is_some_and(&mut before) {
            return self.first.partition_point(before);
        }
        let chunk = self.more.partition_point(|chunk| chunk.last().is_some_and(&mut before));
        self.start(chunk + 1) + self.more[chunk].partition_point(before)
    }

    fn start(&self, chunk: usize) -> usize {
        match self.starts.get(chunk) {
            Some(start) if self.starts.len() == self.chunks() => *start,
            _ => (0..chunk).map(|chunk| self.chunk(chunk).len()).sum(),
        }
    }

    /// Returns a position's chunk, and the place in it; the end of the last chunk for the end.
    fn place(&self, position: usize) -> (usize, usize) {
        if self.more.is_empty() {
            return (0, position);
        }
        if self.starts.len() == self.chunks() {
            let chunk = self
                .starts
                .partition_point(|&start| start <= position)
                .saturating_sub(1);
            return (chunk, position - self.starts[chunk]);
        }
        let mut rest = position;
        for chunk in 0..self.more.len() {
            let length = self.chunk(chunk).len();
            if rest < length {
                return (chunk, rest);
            }
            rest -= length;
        }
        (self.more.len(), rest)
    }

    pub(super) fn insert(&mut self, position: usize, place: Place) {
        let (index, within) = self.place(position);
        self.starts.clear();
        self.length += 1;
        let chunk = self.chunk_mut(index);
        if chunk.len() < CHUNK {
            chunk.insert(within, place);
        } else if within == chunk.len() {
            // Full and in order: the next chunk will fill up, too.
            self.more.insert(index, vec![place]);
        } else {
            let mut upper = chunk.split_off(CHUNK / 2);
            match within.checked_sub(CHUNK / 2 + 1) {
                None => chunk.insert(within, place),
                Some(_) => upper.insert(within - CHUNK / 2, place),
            }
            self.more.insert(index, upper);
        }
    }

    pub(super) fn remove(&mut self, position: usize) -> u32 {
        let (index, within) = self.place(position);
        self.starts.clear();
        self.length -= 1;
        let slot = self.chunk_mut(index).remove(within).slot;
        if self.chunk(index).is_empty() && !self.more.is_empty() {
            match index {
                0 => self.first = self.more.remove(0),
                index => drop(self.more.remove(index - 1)),
            }
        }
        slot
    }

    /// Drops all slots from a position on and returns them.
    pub(super) fn truncate(&mut self, position: usize) -> Vec<u32> {
        if position >= self.length {
            return Vec::new();
        }
        let (index, within) = self.place(position);
        let mut dropped: Vec<u32> = self.chunk_mut(index).drain(within..).map(|place| place.slot).collect();
        dropped.extend(self.more.drain(index..).flatten().map(|place| place.slot));
        if index > 0 && within == 0 {
            self.more.pop();
        }
        self.length = position;
        self.starts.clear();
        self.settle();
        dropped
    }

    /// Prepares for being read by position.
    pub(super) fn settle(&mut self) {
        if self.more.is_empty() || self.starts.len() == self.chunks() {
            return;
        }
        self.starts.clear();
        let mut start = 0;
        for chunk in 0..self.chunks() {
            self.starts.push(start);
            start += self.chunk(chunk).len();
        }
    }

    pub(super) fn get(&self, position: usize) -> Option<u32> {
        let (chunk, within) = self.place(position.min(self.length));
        self.chunk(chunk).get(within).map(|place| place.slot)
    }

    /// Returns the slots from a position on.
    pub(super) fn from(&self, position: usize) -> impl Iterator<Item = u32> + '_ {
        let (chunk, within) = self.place(position.min(self.length));
        let rest = &self.more[chunk.min(self.more.len())..];
        let places = self.chunk(chunk)[within..].iter().chain(rest.iter().flatten());
        places.map(|place| place.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_a_vector_keeps() {
        let (mut sequence, mut plain) = (Sequence::default(), Vec::new());
        let mut state = 7u64;
        let mut dice = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        for round in 0..6000u32 {
            if dice(3) > 0 || plain.is_empty() {
                // Values are even and in order, so that every odd one has its place.
                let value = dice(20_000) as u32 * 2;
                let at = sequence.partition_point(|slot| slot < value);
                assert_eq!(at, plain.partition_point(|slot| *slot < value), "round {round}");
                sequence.insert(at, Place { prefix: 0, slot: value });
                plain.insert(at, value);
            } else {
                let at = dice(plain.len());
                assert_eq!(sequence.remove(at), plain.remove(at), "round {round}");
            }
        }
        sequence.settle();
        assert_eq!(sequence.len(), plain.len());
        assert!(sequence.from(0).eq(plain.iter().copied()));
        for at in 0..plain.len() + 2 {
            assert_eq!(sequence.get(at), plain.get(at).copied());
            assert!(sequence.from(at).eq(plain.iter().skip(at).copied()));
        }
        let dropped = sequence.truncate(777);
        assert_eq!(dropped, plain.split_off(777));
        assert!(sequence.from(0).eq(plain.iter().copied()));
    }
}
