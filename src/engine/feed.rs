//! Feeds the coordinator from sources that are read: each on its own thread by the wall clock, or all
//! merged by event time.

use std::ops::Range;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use connectors::{Batch, Decoded, Read, Reader, Rejected};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use tokio::sync::oneshot;

use super::coordinator::Request;
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
    let mut pace: Option<Pace> = None;
    loop {
        if feed.snapshot {
            let _ = whole(&mut feed).is_none_or(|decoded| send(feed.source, decoded, doors));
            return;
        }
        match feed.reader.read(now_us()) {
            Ok(Read::Rows(Batch { decoded, .. })) => {
                let sent = match (feed.speed, feed.time) {
                    (Some(speed), Some(time)) => {
                        let pace = pace.get_or_insert_with(|| Pace::new(speed));
                        send_paced(&feed, decoded, time, pace, doors)
                    }
                    _ => send(feed.source, decoded, doors),
                };
                if !sent {
                    return;
                }
            }
            Ok(Read::Wait(time)) => {
                if !doors.wait(time) {
                    return;
                }
            }
            Ok(Read::End) => {
                tracing::info!(source = feed.name, "source ended");
                return;
            }
            Err(error) => {
                tracing::error!(source = feed.name, %error, "source stopped");
                return;
            }
        }
    }
}

/// Sends rows and waits until they are cut: a slow engine is felt here.
fn send(source: usize, decoded: Decoded, doors: &Doors) -> bool {
    let (reply, answer) = oneshot::channel();
    let request = Request::Ingest {
        source,
        operation: Operation::Insert,
        decoded,
        arrived: Instant::now(),
        reply: Some(reply),
        permit: None,
    };
    doors.open() && doors.requests.send(request).is_ok() && answer.blocking_recv().is_ok()
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

fn send_paced(feed: &Feed, decoded: Decoded, time: usize, pace: &mut Pace, doors: &Doors) -> bool {
    let Decoded { rows, rejected } = decoded;
    if !rejected.is_empty()
        && !send(
            feed.source,
            Decoded {
                rows: rows.slice(0, 0),
                rejected,
            },
            doors,
        )
    {
        return false;
    }
    let times = rows.column(time).as_primitive::<TimestampMicrosecondType>().clone();
    let step = (PACE_US as f64 * pace.speed) as i64;
    let mut from = 0;
    while from < rows.num_rows() {
        let wait = pace.until(times.value(from));
        if !wait.is_zero() && !doors.wait(wait) {
            return false;
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
        if !send(feed.source, slice, doors) {
            return false;
        }
        from += run;
    }
    true
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
            tick.first
                .extend(whole(&mut feed).map(|decoded| (feed.source, decoded)));
            continue;
        }
        while let Some(decoded) = next(&mut feed) {
            tick.first.push((feed.source, decoded));
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
        tick.push(head.feed.source, &head.decoded.rows, run, rejected);
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
    match feed.reader.read(i64::MAX) {
        Ok(Read::Rows(Batch { decoded, .. })) => Some(decoded),
        Ok(Read::Wait(_) | Read::End) => None,
        Err(error) => {
            tracing::error!(source = feed.name, %error, "source stopped");
            None
        }
    }
}

/// Reads a source to its end; what cannot be read to its end is no snapshot.
fn whole(feed: &mut Feed) -> Option<Decoded> {
    let (mut batches, mut rejected) = (Vec::new(), Vec::new());
    loop {
        match feed.reader.read(i64::MAX) {
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
    first: Vec<(usize, Decoded)>,
    parts: Vec<Part>,
}

/// The rows of one source in a tick: stretches of the batches they were decoded in.
struct Part {
    source: usize,
    stretches: Vec<(RecordBatch, Range<usize>)>,
    rejected: Vec<Rejected>,
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

    fn push(&mut self, source: usize, batch: &RecordBatch, rows: Range<usize>, rejected: Vec<Rejected>) {
        self.rows += rows.len();
        let known = self.parts.iter().position(|part| part.source == source);
        let known = known.unwrap_or_else(|| {
            self.parts.push(Part {
                source,
                stretches: Vec::new(),
                rejected: Vec::new(),
            });
            self.parts.len() - 1
        });
        let part = &mut self.parts[known];
        part.rejected.extend(rejected);
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
            rows.push((part.source, decoded));
        }
        self.rows = 0;
        if rows.is_empty() {
            return true;
        }
        let (reply, answer) = oneshot::channel();
        doors.open() && doors.requests.send(Request::Replay { rows, reply }).is_ok() && answer.blocking_recv().is_ok()
    }
}
