//! Raw input of several sources in history, tick by tick as it came.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use dataflows::Tick;
use futures_util::TryStreamExt;
use queries::QueryError;
use queries::cold::{Cold, RowStream, Span, TICK_COLUMN};

use super::raw::entries_of;
use crate::history::Layout;
use crate::log::TickRecord;

/// Memory for sorting the files of one source.
const SORT_BYTES: usize = 64 << 20;

/// One source's rows on their way.
struct Reel {
    source: Arc<str>,
    rows: RowStream,
    batch: Option<RecordBatch>,
    at: usize,
}

impl Reel {
    fn ticks(batch: &RecordBatch) -> &[u64] {
        let column = batch.column(batch.num_columns() - 3);
        column.as_primitive::<UInt64Type>().values()
    }

    /// Returns the tick of the next row.
    async fn next_tick(&mut self) -> Result<Option<Tick>, QueryError> {
        loop {
            if let Some(batch) = &self.batch
                && let Some(tick) = Reel::ticks(batch).get(self.at)
            {
                return Ok(Some(*tick));
            }
            self.at = 0;
            self.batch = self.rows.try_next().await?;
            if self.batch.is_none() {
                return Ok(None);
            }
        }
    }

    /// Takes the rows of a tick.
    async fn take(&mut self, tick: Tick) -> Result<Vec<RecordBatch>, QueryError> {
        let mut taken = Vec::new();
        while self.next_tick().await? == Some(tick) {
            let Some(batch) = &self.batch else { break };
            let rest = &Reel::ticks(batch)[self.at..];
            let count = rest.partition_point(|other| *other <= tick);
            taken.push(batch.slice(self.at, count));
            self.at += count;
        }
        Ok(taken)
    }
}

/// What is played: a source, how its rows are laid out, and its files.
pub(in crate::engine) type Played = (Arc<str>, Layout, Cold);

/// Hands the ticks in files of several sources up to one, oldest first.
///
/// # Errors
/// When a file is damaged or missing; and whatever `take` fails with.
pub(in crate::engine) async fn play(
    sources: Vec<Played>,
    through: Tick,
    take: &mut dyn FnMut(TickRecord) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (mut reels, mut is_first) = (Vec::new(), true);
    for (source, layout, cold) in sources {
        let span = Span {
            column: TICK_COLUMN.to_owned(),
            from_us: None,
            to_us: i64::try_from(through).ok().and_then(|through| through.checked_add(1)),
        };
        reels.push(Reel {
            source,
            rows: cold.replay(layout.schema(), Some(&span), SORT_BYTES)?,
            batch: None,
            at: 0,
        });
    }
    loop {
        let mut next: Option<Tick> = None;
        for reel in &mut reels {
            let tick = reel.next_tick().await?;
            next = match (next, tick) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
        }
        let Some(tick) = next else { return Ok(()) };
        let mut record = TickRecord {
            tick,
            // With the first, constants and empty groups are there.
            everything: std::mem::take(&mut is_first),
            ..TickRecord::default()
        };
        for reel in &mut reels {
            let rows = reel.take(tick).await?;
            if &*reel.source != super::TICKS {
                record.entries.extend(entries_of(&reel.source, &rows)?);
            }
        }
        take(record)?;
    }
}
