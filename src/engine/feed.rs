//! Feeds the coordinator from sources that are read: each on its own thread by the wall clock, or all
//! merged by event time.
//!
//! A batch goes with the position behind it into one record of the log; the reader hears once it can be lost no more.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Context;
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use connectors::{Batch, Decoded, Position, Read, ReadError, Reader, Rejected};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use tokio::sync::oneshot;

use super::coordinator::{Accepted, Arrival, Request};
use super::filling::ChangeRequest;
use super::source::Operation;

/// A source to be read.
pub(super) struct Feed {
    pub(super) source: usize,
    pub(super) name: String,
    pub(super) reader: Box<dyn Reader>,
    /// Position of the event time.
    pub(super) time: Option<usize>,
    /// Event seconds for each second, for a paced replay.
    pub(super) speed: Option<f64>,
    /// Whether all it reads is one snapshot.
    pub(super) snapshot: bool,
    /// What is still to be passed over, as an earlier run has logged it.
    pub(super) skip: Count,
    /// What was taken in all, of a source that yields the same in every run.
    pub(super) taken: Count,
}

/// Rows, and what could not become one.
#[derive(Clone, Copy, Default)]
pub(super) struct Count {
    rows: usize,
    rejected: usize,
}

/// How counts are named in positions.
const ROWS: &str = "rows";
const REJECTED: &str = "rejected";

/// Batches that may wait to be safe before the next is read.
const UNACKNOWLEDGED_MAX: usize = 8;

/// How often is looked whether batches are safe, where nothing is to be read.
const LOOK_EVERY: Duration = Duration::from_millis(1);

impl Feed {
    /// Goes on where an earlier run has logged that it was.
    pub(super) fn resume(&mut self, position: &Position) -> anyhow::Result<()> {
        if self.reader.repeats() {
            let count = |name: &str| position.get(name).and_then(|count| usize::try_from(*count).ok());
            self.taken = Count {
                rows: count(ROWS).unwrap_or(0),
                rejected: count(REJECTED).unwrap_or(0),
            };
            self.skip = self.taken;
            return Ok(());
        }
        self.reader
            .resume(position)
            .context("the reader cannot go on where it was")
    }

    /// Reads on, past what an earlier run has logged.
    fn read(&mut self, now_us: i64) -> Result<Read, ReadError> {
        loop {
            let mut batch = match self.reader.read(now_us)? {
                Read::Rows(batch) => batch,
                other => return Ok(other),
            };
            if self.skip.rows == 0 && self.skip.rejected == 0 {
                return Ok(Read::Rows(batch));
            }
            let decoded = &mut batch.decoded;
            let rows = self.skip.rows.min(decoded.rows.num_rows());
            let rejected = self.skip.rejected.min(decoded.rejected.len());
            self.skip.rows -= rows;
            self.skip.rejected -= rejected;
            decoded.rows = decoded.rows.slice(rows, decoded.rows.num_rows() - rows);
            decoded.rejected.drain(..rejected);
            if !decoded.is_empty() {
                return Ok(Read::Rows(batch));
            }
        }
    }

    /// Puts the position behind rows that are taken next to them, where the reader does not say it itself.
    fn positioned(&mut self, batch: Batch) -> Batch {
        if !self.reader.repeats() {
            return batch;
        }
        self.taken.rows += batch.decoded.rows.num_rows();
        self.taken.rejected += batch.decoded.rejected.len();
        let position = [(ROWS, self.taken.rows), (REJECTED, self.taken.rejected)];
        let position = position.map(|(name, count)| (name.to_owned(), i64::try_from(count).unwrap_or(i64::MAX)));
        Batch {
            position: Position::from(position),
            ..batch
        }
    }
}

/// What every feed is given: the doors in, and the word that it is over.
#[derive(Clone)]
pub(super) struct Doors {
    pub(super) requests: Sender<Request>,
    pub(super) changes: Sender<ChangeRequest>,
    /// Disconnected when the engine stops.
    pub(super) stopped: Receiver<()>,
}

impl Doors {
    /// Tells whether the engine still runs.
    fn open(&self) -> bool {
        self.stopped.try_recv() == Err(TryRecvError::Empty)
    }

    /// Waits; tells whether to go on.
    fn wait(&self, time: Duration) -> bool {
        matches!(self.stopped.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }
}

/// Rows that are released together when a replay is paced.
const PACE_US: i64 = 1_000;

/// Reads one source by the wall clock until it ends or the engine stops.
pub(super) fn follow(mut feed: Feed, doors: &Doors, now_us: impl Fn() -> i64) {
    let mut sending = Sending::default();
    let failed = match follow_on(&mut feed, &mut sending, doors, now_us) {
        Ok(()) => sending.settle(&mut feed, doors),
        Err(error) => Err(error),
    };
    if let Err(error) = failed {
        tracing::error!(source = feed.name, %error, "source stopped");
    }
}

fn follow_on(feed: &mut Feed, sending: &mut Sending, doors: &Doors, now_us: impl Fn() -> i64) -> Result<(), ReadError> {
    if feed.snapshot {
        if let Some(decoded) = whole(feed) {
            let batch = feed.positioned(decoded.into());
            sending.send(feed, batch, doors)?;
        }
        return Ok(());
    }
    let mut pace: Option<Pace> = None;
    while doors.open() {
        sending.look(feed)?;
        match feed.read(now_us())? {
            Read::Rows(batch) => {
                let goes_on = match (feed.speed, feed.time) {
                    (Some(speed), Some(time)) => {
                        let pace = pace.get_or_insert_with(|| Pace::new(speed));
                        sending.send_paced(feed, batch, time, pace, doors)?
                    }
                    _ => {
                        let batch = feed.positioned(batch);
                        sending.send(feed, batch, doors)?
                    }
                };
                if !goes_on {
                    return Ok(());
                }
            }
            Read::Wait(time) => {
                // What waits to be safe is to be told so soon.
                let time = if sending.is_empty() { time } else { time.min(LOOK_EVERY) };
                if !doors.wait(time) {
                    return Ok(());
                }
            }
            Read::End => {
                tracing::info!(source = feed.name, "source ended");
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Batches on their way: a slow engine is felt here.
#[derive(Default)]
struct Sending {
    waiting: VecDeque<oneshot::Receiver<Accepted>>,
    safe: u64,
}

impl Sending {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Sends rows, and waits where too many are not safe yet. Tells whether to go on.
    fn send(&mut self, feed: &mut Feed, batch: Batch, doors: &Doors) -> Result<bool, ReadError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Ingest(Arrival {
            source: feed.source,
            operation: Operation::Insert,
            batch,
            idempotency_key: None,
            arrived: Instant::now(),
            reply: Some(reply),
            permit: None,
        });
        if !doors.open() || doors.requests.send(request).is_err() {
            return Ok(false);
        }
        self.waiting.push_back(answer);
        while self.waiting.len() >= UNACKNOWLEDGED_MAX {
            if !self.await_first(feed)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits for the oldest. Tells whether it is safe: not so where the engine has stopped.
    fn await_first(&mut self, feed: &mut Feed) -> Result<bool, ReadError> {
        let Some(first) = self.waiting.pop_front() else {
            return Ok(true);
        };
        if first.blocking_recv().is_err() {
            return Ok(false);
        }
        self.safe += 1;
        feed.reader.acknowledge(self.safe)?;
        Ok(true)
    }

    /// Tells the reader of those that are safe by now.
    fn look(&mut self, feed: &mut Feed) -> Result<(), ReadError> {
        let before = self.safe;
        while let Some(first) = self.waiting.front_mut() {
            match first.try_recv() {
                Ok(_) => {
                    self.safe += 1;
                    self.waiting.pop_front();
                }
                Err(_) => break,
            }
        }
        if self.safe > before {
            feed.reader.acknowledge(self.safe)?;
        }
        Ok(())
    }

    /// Waits until all are safe, or the engine stops.
    fn settle(&mut self, feed: &mut Feed, doors: &Doors) -> Result<(), ReadError> {
        while !self.waiting.is_empty() {
            if !doors.open() || !self.await_first(feed)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn send_paced(
        &mut self,
        feed: &mut Feed,
        batch: Batch,
        time: usize,
        pace: &mut Pace,
        doors: &Doors,
    ) -> Result<bool, ReadError> {
        let Decoded { rows, rejected } = batch.decoded;
        if !rejected.is_empty() {
            let alone = Decoded {
                rows: rows.slice(0, 0),
                rejected,
            };
            let alone = feed.positioned(alone.into());
            if !self.send(feed, alone, doors)? {
                return Ok(false);
            }
        }
        let times = rows.column(time).as_primitive::<TimestampMicrosecondType>().clone();
        let step = (PACE_US as f64 * pace.speed) as i64;
        let mut from = 0;
        while from < rows.num_rows() {
            let wait = pace.until(times.value(from));
            if !wait.is_zero() && !doors.wait(wait) {
                return Ok(false);
            }
            let edge = times.value(from).saturating_add(step);
            let run = times.values()[from..]
                .iter()
                .take_while(|at| **at <= edge)
                .count()
                .max(1);
            let slice = Decoded {
                rows: rows.slice(from, run),
                rejected: Vec::new(),
            };
            let slice = feed.positioned(slice.into());
            if !self.send(feed, slice, doors)? {
                return Ok(false);
            }
            from += run;
        }
        Ok(true)
    }
}

struct Pace {
    speed: f64,
    started: Instant,
    first_us: Option<i64>,
}

impl Pace {
    fn new(speed: f64) -> Self {
        Pace {
            speed,
            started: Instant::now(),
            first_us: None,
        }
    }

    /// Returns how long until a row of this event time is released.
    fn until(&mut self, at_us: i64) -> Duration {
        let first = *self.first_us.get_or_insert(at_us);
        let due = Duration::from_secs_f64((at_us.saturating_sub(first)).max(0) as f64 / 1e6 / self.speed);
        due.saturating_sub(self.started.elapsed())
    }
}

/// Reads all sources under the event clock: merged by event time, `tick_rows` a tick, the same in every run.
///
/// Sources without a time come first, whole, in the tick of the first timed rows.
pub(super) fn replay(feeds: Vec<Feed>, tick_rows: usize, doors: &Doors) {
    let (untimed, timed): (Vec<Feed>, Vec<Feed>) =
        feeds.into_iter().partition(|feed| feed.time.is_none() || feed.snapshot);
    let mut tick = Cut::new(tick_rows);
    for mut feed in untimed {
        if feed.snapshot {
            if let Some(decoded) = whole(&mut feed) {
                let batch = feed.positioned(decoded.into());
                tick.first.push((feed.source, batch));
            }
            continue;
        }
        while let Some(decoded) = next(&mut feed) {
            let batch = feed.positioned(decoded.into());
            tick.first.push((feed.source, batch));
        }
    }
    let mut heads: Vec<Head> = timed.into_iter().filter_map(Head::new).collect();
    while !heads.is_empty() {
        let earliest = (0..heads.len())
            .min_by_key(|&head| (heads[head].time(), head))
            .unwrap_or(0);
        let others = heads.iter().enumerate().filter(|(head, _)| *head != earliest);
        let edge = others.map(|(head, other)| (other.time(), head)).min();
        let head = &mut heads[earliest];
        // Rows follow in their own order; a head goes first while no other's is earlier.
        let run = head.run(edge, earliest, tick.room());
        let rejected = std::mem::take(&mut head.decoded.rejected);
        tick.push(head, run, rejected);
        if !head.refill() {
            heads.remove(earliest);
        }
        if tick.room() == 0 && !tick.send(doors) {
            return;
        }
    }
    tick.send(doors);
}

/// Reads on until there are rows; a follower's wait is its end here, for recorded data does not grow.
fn next(feed: &mut Feed) -> Option<Decoded> {
    match feed.read(i64::MAX) {
        Ok(Read::Rows(Batch { decoded, .. })) => Some(decoded),
        Ok(Read::Wait(_) | Read::End) => None,
        Err(error) => {
            tracing::error!(source = feed.name, %error, "source stopped");
            None
        }
    }
}

/// Reads a source to its end; what cannot be read to its end is no snapshot. None, where an earlier run has had it.
fn whole(feed: &mut Feed) -> Option<Decoded> {
    let (mut batches, mut rejected) = (Vec::new(), Vec::new());
    loop {
        match feed.read(i64::MAX) {
            Ok(Read::Rows(Batch { decoded, .. })) => {
                batches.push(decoded.rows);
                rejected.extend(decoded.rejected);
            }
            Ok(Read::Wait(_) | Read::End) => break,
            Err(error) => {
                tracing::error!(source = feed.name, %error, "source stopped");
                return None;
            }
        }
    }
    let schema = batches.first()?.schema();
    let rows = concat_batches(&schema, &batches).expect("rows of one source have one schema");
    Some(Decoded { rows, rejected })
}

/// A timed source with its next rows.
struct Head {
    feed: Feed,
    column: usize,
    decoded: Decoded,
    from: usize,
}

impl Head {
    fn new(mut feed: Feed) -> Option<Self> {
        let column = feed.time?;
        let decoded = next(&mut feed)?;
        let mut head = Head {
            feed,
            column,
            decoded,
            from: 0,
        };
        head.refill().then_some(head)
    }

    /// The event time of the next row; rows that were rejected ride with the rows before them.
    fn time(&self) -> i64 {
        self.decoded
            .rows
            .column(self.column)
            .as_primitive::<TimestampMicrosecondType>()
            .value(self.from)
    }

    /// Makes sure that there is a next row, or something rejected to hand over; tells whether there is.
    fn refill(&mut self) -> bool {
        while self.from >= self.decoded.rows.num_rows() {
            let Some(mut decoded) = next(&mut self.feed) else {
                return false;
            };
            // Rejected rows without any good one wait for the next that has.
            let mut rejected = std::mem::take(&mut self.decoded.rejected);
            rejected.append(&mut decoded.rejected);
            self.decoded = Decoded {
                rows: decoded.rows,
                rejected,
            };
            self.from = 0;
        }
        true
    }

    /// Takes the rows that come before those of all others, by their places.
    fn run(&mut self, edge: Option<(i64, usize)>, own: usize, room: usize) -> Range<usize> {
        let times = self
            .decoded
            .rows
            .column(self.column)
            .as_primitive::<TimestampMicrosecondType>();
        let ahead = |at: i64| edge.is_none_or(|edge| (at, own) < edge);
        let rest = &times.values()[self.from..];
        let run = rest.iter().take(room).take_while(|at| ahead(**at)).count().max(1);
        self.from += run;
        self.from - run..self.from
    }
}

/// The tick being filled.
struct Cut {
    tick_rows: usize,
    rows: usize,
    /// Untimed rows, which go with the first tick and are not counted.
    first: Vec<(usize, Batch)>,
    parts: Vec<Part>,
}

/// The rows of one source in a tick: stretches of the batches they were decoded in.
struct Part {
    source: usize,
    stretches: Vec<(RecordBatch, Range<usize>)>,
    rejected: Vec<Rejected>,
    /// Where the source is once all of it is taken.
    position: Position,
}

impl Cut {
    fn new(tick_rows: usize) -> Self {
        Cut {
            tick_rows,
            rows: 0,
            first: Vec::new(),
            parts: Vec::new(),
        }
    }

    fn room(&self) -> usize {
        self.tick_rows - self.rows
    }

    fn push(&mut self, head: &mut Head, rows: Range<usize>, rejected: Vec<Rejected>) {
        self.rows += rows.len();
        let (source, batch) = (head.feed.source, &head.decoded.rows);
        let taken = Decoded {
            rows: batch.slice(rows.start, rows.len()),
            rejected,
        };
        let Batch { decoded, position, .. } = head.feed.positioned(taken.into());
        let known = self.parts.iter().position(|part| part.source == source);
        let known = known.unwrap_or_else(|| {
            self.parts.push(Part {
                source,
                stretches: Vec::new(),
                rejected: Vec::new(),
                position: Position::new(),
            });
            self.parts.len() - 1
        });
        let part = &mut self.parts[known];
        part.rejected.extend(decoded.rejected);
        part.position = position;
        match part.stretches.last_mut() {
            // Sources take turns, often by a few rows: what goes on where it stopped is one stretch. A batch
            // begins at its first row, so no other one goes on there.
            Some((_, last)) if last.end == rows.start && rows.start > 0 => last.end = rows.end,
            _ => part.stretches.push((batch.clone(), rows)),
        }
    }

    /// Sends the tick and waits until it is cut; tells whether to go on.
    fn send(&mut self, doors: &Doors) -> bool {
        let mut rows = std::mem::take(&mut self.first);
        for part in std::mem::take(&mut self.parts) {
            let stretches = part.stretches.iter();
            let batches: Vec<RecordBatch> = stretches
                .map(|(batch, rows)| batch.slice(rows.start, rows.len()))
                .collect();
            let Some(first) = batches.first() else { continue };
            let merged = concat_batches(&first.schema(), &batches).expect("rows of one source have one schema");
            let decoded = Decoded {
                rows: merged,
                rejected: part.rejected,
            };
            let batch = Batch {
                position: part.position,
                ..decoded.into()
            };
            rows.push((part.source, batch));
        }
        self.rows = 0;
        if rows.is_empty() {
            return true;
        }
        let (reply, answer) = oneshot::channel();
        doors.open() && doors.requests.send(Request::Replay { rows, reply }).is_ok() && answer.blocking_recv().is_ok()
    }
}
