//! Brings rows with equal keys to one worker, by handing each worker a selection of the same batch.

use timely::communication::Push;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::channels::pushers::exchange::Distributor;

use crate::aggregates::canonical;
use crate::group_index::hash_keys;
use crate::parts::{Part, Parts};

/// The pact under which [`ByColumns`] decides.
pub(crate) struct Exchange;

impl Exchange {
    #[expect(clippy::new_ret_no_self, reason = "a pact is all one ever wants of an exchange")]
    pub(crate) fn new<B: FnOnce(usize) -> ByColumns>(build: B) -> DistributorPact<B> {
        DistributorPact(build)
    }
}

/// Sends a row to the worker that owns the hash of its key.
pub(crate) struct ByColumns {
    columns: Vec<usize>,
    hashes: Vec<u64>,
}

pub(crate) fn by_columns(columns: Vec<usize>) -> ByColumns {
    ByColumns {
        columns,
        hashes: Vec::new(),
    }
}

impl Distributor<Parts> for ByColumns {
    fn partition<T: Clone, P: Push<Message<T, Parts>>>(&mut self, container: &mut Parts, time: &T, pushers: &mut [P]) {
        let mut outgoing: Vec<Vec<Part>> = vec![Vec::new(); pushers.len()];
        for part in container.0.drain(..) {
            if self.columns.is_empty() {
                outgoing[0].push(part);
                continue;
            }
            let keys: Vec<_> = self
                .columns
                .iter()
                .map(|&column| canonical(&part.column(column)))
                .collect();
            hash_keys(&keys, part.len(), &mut self.hashes);
            let peers = pushers.len() as u64;
            let share = part.len() / pushers.len();
            let mut rows: Vec<Vec<u32>> = pushers
                .iter()
                .map(|_| Vec::with_capacity(share + share / 8 + 8))
                .collect();
            for (hash, row) in self.hashes.iter().zip(0..) {
                // A multiplication instead of a division, of bits the table inside a worker does not use.
                let owner = (((hash >> 20) & 0xffff_ffff) * peers) >> 32;
                rows[owner as usize].push(row);
            }
            for (parts, rows) in outgoing.iter_mut().zip(rows) {
                if !rows.is_empty() {
                    parts.push(part.select(rows));
                }
            }
        }
        for (parts, pusher) in outgoing.into_iter().zip(pushers) {
            if !parts.is_empty() {
                Message::push_at(&mut Parts(parts), time.clone(), pusher);
            }
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Parts>>>(&mut self, _time: &T, _pushers: &mut [P]) {}
}
