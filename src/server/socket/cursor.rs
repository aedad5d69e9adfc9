//! A place in a snapshot: the rows that are in files first, then those in memory.

use std::sync::{Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use dataflows::Tick;
use futures_util::StreamExt;
use queries::Relation;
use queries::cold::RowStream;

use super::selection::Selection;
use crate::server::limits::SNAPSHOT_FRAME_ROWS;

/// A place in a snapshot. It holds pointers to the relation's rows as they were.
pub(super) struct Cursor {
    pub(super) tick: Tick,
    /// Rows in files, as far as they are not read yet. Nobody waits for the lock: it makes the stream one that may be
    /// looked at from several threads.
    files: Option<Mutex<RowStream>>,
    batches: std::vec::IntoIter<RecordBatch>,
    /// Not yet looked at.
    rest: Option<RecordBatch>,
    /// Selected, not yet sent.
    ready: Option<RecordBatch>,
}

impl Cursor {
    pub(super) fn new(tick: Tick, relation: &Relation) -> Result<Self, ArrowError> {
        let files = relation.cold.as_ref().map(|cold| cold.stream(&relation.schema, None));
        let files = files.transpose();
        let batches = relation.batches.iter().filter(|rows| rows.num_rows() > 0).cloned();
        Ok(Cursor {
            files: files
                .map_err(|error| ArrowError::from_external_error(Box::new(error)))?
                .map(Mutex::new),
            batches: batches.collect::<Vec<_>>().into_iter(),
            ..Cursor::empty(tick)
        })
    }

    pub(super) fn empty(tick: Tick) -> Self {
        Cursor {
            tick,
            files: None,
            batches: Vec::new().into_iter(),
            rest: None,
            ready: None,
        }
    }

    async fn following(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        while let Some(files) = &mut self.files {
            let files = files.get_mut().unwrap_or_else(PoisonError::into_inner);
            match files.next().await {
                Some(Ok(rows)) if rows.num_rows() > 0 => return Ok(Some(rows)),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(ArrowError::from_external_error(Box::new(error))),
                None => self.files = None,
            }
        }
        Ok(self.batches.next())
    }

    pub(super) fn is_done(&self) -> bool {
        self.files.is_none() && self.rest.is_none() && self.ready.is_none() && self.batches.len() == 0
    }

    /// Encodes the next rows, at most as many as a frame takes.
    pub(super) async fn next(&mut self, selection: &Selection) -> Result<Vec<u8>, ArrowError> {
        let mut out = Vec::new();
        let mut rows = 0;
        while rows < SNAPSHOT_FRAME_ROWS {
            if let Some(ready) = self.ready.take() {
                let taken = ready.num_rows().min(SNAPSHOT_FRAME_ROWS - rows);
                if rows > 0 {
                    out.push(b',');
                }
                selection.write(&ready.slice(0, taken), &mut out);
                rows += taken;
                if taken < ready.num_rows() {
                    self.ready = Some(ready.slice(taken, ready.num_rows() - taken));
                }
                continue;
            }
            let rest = match self.rest.take() {
                Some(rest) => rest,
                None => match self.following().await? {
                    Some(rest) => rest,
                    None => break,
                },
            };
            let taken = rest.num_rows().min(SNAPSHOT_FRAME_ROWS);
            let selected = selection.select(&rest.slice(0, taken))?;
            self.ready = Some(selected).filter(|selected| selected.num_rows() > 0);
            if rest.num_rows() > taken {
                self.rest = Some(rest.slice(taken, rest.num_rows() - taken));
            }
            // A filter that few rows pass must not keep the thread for a whole relation.
            tokio::task::consume_budget().await;
        }
        Ok(out)
    }
}
