//! What sinks have still to deliver: entries by sink and tick.
//!
//! The thread that writes puts them there with the record that says so, takes them out once they are delivered, and
//! puts one in the place of many where their net change is enough.

use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::RecordBatch;
use dataflows::Tick;
use redb::{ReadOnlyTable, ReadTransaction, ReadableDatabase};
use serde::{Deserialize, Serialize};

use super::error::LogError;
use super::record::{Outgoing, Record};
use super::store::{LogStore, OUTBOX, StoredSchemas};

/// What is known of a sink's outbox besides its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflation {
    /// Nothing after this tick was tried to be delivered yet. It is noted with each merge, and struck out before
    /// anything else is tried; without it, all that a start finds may have been.
    pub tried: Option<Tick>,
    /// How many ticks gave way to a later one, ever.
    pub conflated: u64,
}

/// Ticks of an outbox that give way to their net change.
#[derive(Debug)]
pub struct Conflated {
    /// The sink.
    pub sink: Arc<str>,
    /// The first and the last of them; no other lies between.
    pub ticks: RangeInclusive<Tick>,
    /// Their net change, which takes the last one's place; none, where nothing is left.
    pub change: Option<(RecordBatch, Vec<i64>)>,
    /// What is known of the outbox from then on.
    pub conflation: Conflation,
}

/// The name under which the store holds what is known of a sink's outbox.
pub(super) fn name_of(sink: &str) -> String {
    format!("outbox/{sink}")
}

type Entries = ReadOnlyTable<(&'static str, Tick), &'static [u8]>;

impl LogStore {
    /// Returns what a sink has still to deliver of some ticks, the oldest first: so many of them and so many bytes, at
    /// most but for the first.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn outbox(
        &self,
        sink: &str,
        ticks: RangeInclusive<Tick>,
        (count_max, bytes_max): (usize, usize),
    ) -> Result<Vec<(Tick, Outgoing)>, LogError> {
        let (transaction, entries) = self.entries()?;
        let mut schemas = StoredSchemas::open(&transaction).map_err(|error| self.unread(error))?;
        let (mut found, mut size) = (Vec::new(), 0);
        let range = (sink, *ticks.start())..=(sink, *ticks.end());
        for entry in entries
            .range(range)
            .map_err(|error| self.unread(error))?
            .take(count_max)
        {
            let (key, value) = entry.map_err(|error| self.unread(error))?;
            let bytes = value.value();
            size += bytes.len();
            if size > bytes_max && !found.is_empty() {
                break;
            }
            let tick = key.value().1;
            let damaged = |what: String| {
                let what = format!("what sink \"{sink}\" is to deliver of tick {tick}: {what}");
                LogError::damaged(self.path(), what)
            };
            match Record::decode(bytes, &mut schemas).map_err(damaged)? {
                Record::Told(told) => found.extend(told.outgoing.into_iter().map(|outgoing| (tick, outgoing))),
                Record::Tick(_) => return Err(damaged("it says what came in".to_owned())),
            }
        }
        Ok(found)
    }

    /// Returns the oldest of some ticks of which a sink has still to deliver something, and how many bytes each takes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn outbox_sizes(
        &self,
        sink: &str,
        ticks: RangeInclusive<Tick>,
        count_max: usize,
    ) -> Result<Vec<(Tick, usize)>, LogError> {
        let (_transaction, entries) = self.entries()?;
        let range = (sink, *ticks.start())..=(sink, *ticks.end());
        let entries = entries
            .range(range)
            .map_err(|error| self.unread(error))?
            .take(count_max);
        entries
            .map(|entry| {
                let (key, value) = entry.map_err(|error| self.unread(error))?;
                Ok((key.value().1, value.value().len()))
            })
            .collect()
    }

    /// Returns of how many of some ticks a sink has still to deliver something, and the newest of these.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn outbox_length(&self, sink: &str, ticks: RangeInclusive<Tick>) -> Result<(usize, Option<Tick>), LogError> {
        let (_transaction, entries) = self.entries()?;
        let range = (sink, *ticks.start())..=(sink, *ticks.end());
        let (mut count, mut newest) = (0, None);
        for entry in entries.range(range).map_err(|error| self.unread(error))? {
            let (key, _) = entry.map_err(|error| self.unread(error))?;
            count += 1;
            newest = Some(key.value().1);
        }
        Ok((count, newest))
    }

    /// Returns what else is known of a sink's outbox.
    ///
    /// # Errors
    /// When the file cannot be read, or does not hold what was written.
    pub fn conflation(&self, sink: &str) -> Result<Conflation, LogError> {
        Ok(self.meta(&name_of(sink))?.unwrap_or_default())
    }

    fn entries(&self) -> Result<(ReadTransaction, Entries), LogError> {
        let transaction = self.database().begin_read().map_err(|error| self.unread(error))?;
        let entries = transaction.open_table(OUTBOX).map_err(|error| self.unread(error))?;
        Ok((transaction, entries))
    }

    fn unread(&self, error: impl Into<redb::Error>) -> LogError {
        LogError::redb("read", self.path(), error)
    }
}
