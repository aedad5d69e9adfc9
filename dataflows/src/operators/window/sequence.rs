//! Slots in an order that somebody else decides.

/// Slots of one chunk, at most.
const CHUNK: usize = 512;

/// An ordered list of slots, in chunks: a change moves one chunk's slots, not all.
#[derive(Default)]
pub(super) struct Sequence {
    chunks: Vec<Vec<u32>>,
    /// The position of each chunk's first slot; true once [`Sequence::settle`] was called.
    starts: Vec<usize>,
    length: usize,
}

impl Sequence {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Returns the first position whose slot is not `before`, which holds for a prefix of the slots.
    pub(super) fn partition_point(&self, mut before: impl FnMut(u32) -> bool) -> usize {
        // What comes in order comes at the end.
        match self.chunks.last().and_then(|chunk| chunk.last()) {
            None => return 0,
            Some(&last) if before(last) => return self.length,
            _ => {}
        }
        let chunk = self
            .chunks
            .partition_point(|chunk| chunk.last().is_some_and(|&last| before(last)));
        let within = self.chunks[chunk].partition_point(|&slot| before(slot));
        self.start(chunk) + within
    }

    fn start(&self, chunk: usize) -> usize {
        match self.starts.get(chunk) {
            Some(start) if self.starts.len() == self.chunks.len() => *start,
            _ => self.chunks[..chunk].iter().map(Vec::len).sum(),
        }
    }

    /// Returns a position's chunk, and the place in it; the end of the last chunk for the end.
    fn place(&self, position: usize) -> (usize, usize) {
        if self.starts.len() == self.chunks.len() {
            let chunk = self
                .starts
                .partition_point(|&start| start <= position)
                .saturating_sub(1);
            return (chunk, position - self.starts.get(chunk).copied().unwrap_or(0));
        }
        let mut rest = position;
        for (index, chunk) in self.chunks.iter().enumerate() {
            if rest < chunk.len() || (rest == chunk.len() && index + 1 == self.chunks.len()) {
                return (index, rest);
            }
            rest -= chunk.len();
        }
        (0, 0)
    }

    pub(super) fn insert(&mut self, position: usize, slot: u32) {
        let (index, within) = self.place(position);
        self.starts.clear();
        self.length += 1;
        let Some(chunk) = self.chunks.get_mut(index) else {
            self.chunks.push(vec![slot]);
            return;
        };
        if chunk.len() < CHUNK {
            chunk.insert(within, slot);
        } else if within == chunk.len() {
            // Full and in order: the next chunk will fill up, too.
            self.chunks.insert(index + 1, vec![slot]);
        } else {
            let upper = chunk.split_off(CHUNK / 2);
            if within <= CHUNK / 2 {
                chunk.insert(within, slot);
            }
            self.chunks.insert(index + 1, upper);
            if within > CHUNK / 2 {
                self.chunks[index + 1].insert(within - CHUNK / 2, slot);
            }
        }
    }

    pub(super) fn remove(&mut self, position: usize) -> u32 {
        let (index, within) = self.place(position);
        self.starts.clear();
        self.length -= 1;
        let slot = self.chunks[index].remove(within);
        if self.chunks[index].is_empty() {
            self.chunks.remove(index);
        }
        slot
    }

    /// Drops all slots from a position on and returns them.
    pub(super) fn truncate(&mut self, position: usize) -> Vec<u32> {
        if position >= self.length {
            return Vec::new();
        }
        let (index, within) = self.place(position);
        let mut dropped = self.chunks[index].split_off(within);
        dropped.extend(self.chunks.drain(index + 1..).flatten());
        if self.chunks[index].is_empty() {
            self.chunks.remove(index);
        }
        self.length = position;
        self.starts.clear();
        self.settle();
        dropped
    }

    /// Prepares for being read by position.
    pub(super) fn settle(&mut self) {
        if self.starts.len() == self.chunks.len() {
            return;
        }
        self.starts.clear();
        let mut start = 0;
        for chunk in &self.chunks {
            self.starts.push(start);
            start += chunk.len();
        }
    }

    pub(super) fn get(&self, position: usize) -> Option<u32> {
        let (chunk, within) = self.place(position);
        self.chunks.get(chunk)?.get(within).copied()
    }

    /// Returns the slots from a position on.
    pub(super) fn from(&self, position: usize) -> impl Iterator<Item = u32> + '_ {
        let (chunk, within) = match position < self.length {
            true => self.place(position),
            false => (self.chunks.len(), 0),
        };
        let first = self.chunks.get(chunk).map_or(&[][..], |chunk| &chunk[within..]);
        let rest = self.chunks.get(chunk + 1..).unwrap_or_default();
        first.iter().chain(rest.iter().flatten()).copied()
    }

    pub(super) fn bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(|chunk| chunk.capacity() * 4).sum();
        chunks + self.chunks.capacity() * size_of::<Vec<u32>>() + self.starts.capacity() * 8
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
                sequence.insert(at, value);
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
