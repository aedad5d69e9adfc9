//! Views that close their buckets of time: random ones, and what each must hold.
//!
//! At each tick a view is closed as far as its watermark at the end of the tick before
//! says. What stood in a bucket then, by the batch answer, stays; of the batch answer at
//! the tick itself only the open buckets count.

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type};
use queries::{Closing, Emit};

use super::case::Case;
use super::dice::Dice;
use super::ledger::Book;
use super::sources::{Kind, Spec};

/// A text, whether later rows leave what it has closed as it is, and a name for its bucket.
pub(super) struct Written {
    pub(super) sql: String,
    pub(super) steady: bool,
    /// Whether it is to close its buckets.
    pub(super) closes: bool,
}

/// What has closed already: a view's name, and its bucket's column.
pub(super) type Finished = (String, String);

/// Draws when rows are shown, and how long they are kept.
pub(super) fn options(dice: &mut Dice) -> (Emit, Option<i64>) {
    let keep_us = *dice.pick(&[1, 3, 24]) * 3_600_000_000;
    match dice.below(3) {
        0 => (Emit::OnClose, None),
        1 => (Emit::OnClose, Some(keep_us)),
        _ => (Emit::OnChange, Some(keep_us)),
    }
}

/// Writes a view with a bucket of the time of some source that says how late its rows are.
pub(super) fn write(dice: &mut Dice, specs: &[Spec], finished: &[Finished]) -> Option<Written> {
    if !finished.is_empty() && dice.chance(30) {
        let (name, bucket) = dice.pick(finished).clone();
        return Some(Written {
            sql: format!(
                "SELECT date_bin(INTERVAL '3 hours', {bucket}) AS hours, count(*) AS n FROM {name} GROUP BY hours"
            ),
            steady: false,
            closes: true,
        });
    }
    let timed: Vec<&Spec> = specs
        .iter()
        .filter(|spec| spec.kind == Kind::Append && spec.time.is_some_and(|(_, lateness)| lateness.is_some()))
        .collect();
    if timed.is_empty() {
        return None;
    }
    let spec = *dice.pick(&timed);
    let name = &spec.name;
    let size = *dice.pick(&["5 minutes", "20 minutes", "1 hour"]);
    let aggregates = *dice.pick(&[
        "count(*) AS n",
        "sum(n) AS total, count(DISTINCT g) AS different",
        "min(n) AS least, max(g) AS most, median(n) AS middle",
        "first_value(n ORDER BY at, g) AS first, count(*) FILTER (WHERE n > 3) AS high",
        "array_agg(g ORDER BY n) AS list, avg(n) AS mean",
    ]);
    let steady = spec.retain_us.is_none();
    let by_key = dice.chance(60);
    let (key, group) = if by_key { ("k, ", "k, ") } else { ("", "") };
    let sql = match dice.below(12) {
        0 | 1 => format!(
            "SELECT {key}date_bin(INTERVAL '{size}', at) AS bucket, {aggregates} FROM {name} GROUP BY {group}bucket"
        ),
        2 => {
            let unit = *dice.pick(&["minute", "hour", "day"]);
            format!("SELECT {key}date_trunc('{unit}', at) AS bucket, {aggregates} FROM {name} GROUP BY {group}bucket")
        }
        3 => {
            let call = match dice.below(4) {
                0 => format!("tumble({name}, at, INTERVAL '{size}')"),
                1 => format!("hop({name}, at, INTERVAL '10 minutes', INTERVAL '30 minutes')"),
                2 => format!("cumulate({name}, at, INTERVAL '10 minutes', INTERVAL '1 hour')"),
                _ => format!("session({name}, at, INTERVAL '2 minutes', k)"),
            };
            format!(
                "SELECT {key}window_start, window_end, {aggregates} FROM {call} GROUP BY {group}window_start, window_end"
            )
        }
        4 => {
            return Some(Written {
                sql: format!(
                    "SELECT bucket, k, n FROM (SELECT *, row_number() OVER (PARTITION BY bucket ORDER BY n DESC, k) AS r \
                     FROM (SELECT *, date_bin(INTERVAL '{size}', at) AS bucket FROM {name})) WHERE r <= 2"
                ),
                steady,
                closes: true,
            });
        }
        5 => format!("SELECT DISTINCT {key}date_bin(INTERVAL '{size}', at) AS bucket, g FROM {name}"),
        6 => {
            // Closed by an expression of what the join keeps.
            let other = &dice.pick(specs).name;
            let join = *dice.pick(&["JOIN", "LEFT JOIN"]);
            return Some(Written {
                sql: format!(
                    "SELECT date_bin(INTERVAL '{size}', a.at) AS bucket, a.k, a.n, b.n AS m FROM {name} a \
                     {join} {other} b ON a.k = b.k"
                ),
                steady: false,
                closes: true,
            });
        }
        7 => {
            let other = &dice.pick(specs).name;
            let which = *dice.pick(&["EXISTS", "NOT EXISTS"]);
            return Some(Written {
                sql: format!(
                    "SELECT date_bin(INTERVAL '{size}', a.at) AS bucket, count(*) AS n FROM {name} a \
                     WHERE {which} (SELECT 1 FROM {other} b WHERE b.g = a.g) GROUP BY bucket"
                ),
                steady: false,
                closes: true,
            });
        }
        8..=10 => {
            // Pairs near each other in time: what the watermark has passed is forgotten.
            let other = &dice.pick(&timed).name;
            let near = *dice.pick(&[
                "b.at BETWEEN a.at - INTERVAL '3 minutes' AND a.at",
                "a.k = b.k AND b.at BETWEEN a.at - INTERVAL '10 minutes' AND a.at + INTERVAL '5 minutes'",
                "a.k = b.k AND a.at >= b.at AND a.at < b.at + INTERVAL '20 minutes'",
                "a.g = b.g AND b.at <= a.at AND a.n < b.n",
            ]);
            let side = *dice.pick(&["a", "b"]);
            return Some(Written {
                sql: format!(
                    "SELECT date_bin(INTERVAL '{size}', {side}.at) AS bucket, a.k, a.n, a.at, b.n AS m, b.at AS met \
                     FROM {name} a JOIN {other} b ON {near}"
                ),
                steady: false,
                closes: dice.chance(60),
            });
        }
        _ => {
            // Two groupings by one bucket, side by side: both sides of the join let go of theirs.
            let join = *dice.pick(&["JOIN", "LEFT JOIN"]);
            format!(
                "SELECT l.bucket, l.n, r.total FROM \
                 (SELECT date_bin(INTERVAL '{size}', at) AS bucket, count(*) AS n FROM {name} GROUP BY bucket) l {join} \
                 (SELECT date_bin(INTERVAL '{size}', at) AS bucket, sum(n) AS total FROM {name} WHERE n > 2 GROUP BY bucket) r \
                 ON l.bucket = r.bucket"
            )
        }
    };
    Some(Written {
        sql,
        steady,
        closes: true,
    })
}

/// What a view has closed.
pub(super) struct Closed {
    closing: Closing,
    /// The watermark as of the last tick.
    pub(super) watermark_us: Option<i64>,
    below: i64,
    gone: i64,
    /// Its batch answer at the last tick, of open buckets.
    open: Vec<RecordBatch>,
    closed: Vec<RecordBatch>,
}

impl Closed {
    pub(super) fn new(closing: Closing) -> Self {
        Closed {
            closing,
            watermark_us: None,
            below: i64::MIN,
            gone: i64::MIN,
            open: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// Returns the watermark at the end of the tick before; `of_view` knows that of the views it reads one tick earlier.
    pub(super) fn watermark(&self, books: &[Book], of_view: impl Fn(&str) -> Option<i64>) -> Option<i64> {
        let of_source = |name: &String| {
            let book = books.iter().find(|book| book.spec.name == *name);
            book.and_then(Book::watermark_before_us)
        };
        let sources = self.closing.sources.iter().map(of_source);
        let views = self.closing.views.iter().map(|name| of_view(name));
        let all: Option<Vec<i64>> = sources.chain(views).collect();
        all?.into_iter().min()
    }

    /// Closes what the watermark has passed.
    pub(super) fn close(&mut self, watermark_us: Option<i64>) -> usize {
        let Some(watermark_us) = watermark_us else { return 0 };
        self.watermark_us = self.watermark_us.max(Some(watermark_us));
        let below = self.closing.below(watermark_us).unwrap_or(i64::MIN);
        self.below = self.below.max(below);
        let mut count = 0;
        let column = self.closing.bucket;
        let below = self.below;
        for batch in std::mem::take(&mut self.open) {
            let closed = chosen(&batch, column, |bucket| bucket.is_some_and(|bucket| bucket < below));
            count += closed.num_rows();
            self.closed.push(closed);
            self.open.push(chosen(&batch, column, |bucket| {
                bucket.is_none_or(|bucket| bucket >= below)
            }));
        }
        if let Some(gone) = self.closing.gone(watermark_us) {
            self.gone = self.gone.max(gone);
            let gone = self.gone;
            for batch in &mut self.closed {
                *batch = chosen(batch, column, |bucket| bucket.is_none_or(|bucket| bucket >= gone));
            }
        }
        self.closed.retain(|batch| batch.num_rows() > 0);
        count
    }

    /// Returns what the view holds at a tick with this batch answer.
    pub(super) fn holds(&mut self, answer: &[RecordBatch]) -> Vec<RecordBatch> {
        let (column, below) = (self.closing.bucket, self.below);
        let open = |bucket: Option<i64>| bucket.is_none_or(|bucket| bucket >= below);
        self.open = answer.iter().map(|batch| chosen(batch, column, open)).collect();
        let mut rows = self.closed.clone();
        if self.closing.emit == Emit::OnChange {
            rows.extend(self.open.iter().cloned());
        }
        rows
    }

    /// Returns what is closed and kept, and the same of a batch answer over all rows there ever were.
    pub(super) fn steady(&self, answer: &[RecordBatch]) -> (Vec<RecordBatch>, Vec<RecordBatch>) {
        let (below, gone) = (self.below, self.gone);
        let closed = |bucket: Option<i64>| bucket.is_some_and(|bucket| bucket < below && bucket >= gone);
        let of_answer = answer.iter().map(|batch| chosen(batch, self.closing.bucket, closed));
        (self.closed.clone(), of_answer.collect())
    }
}

impl Case<'_> {
    /// Has the engine audit itself, which must find nothing wrong: neither in open buckets nor in closed ones.
    pub(crate) async fn audit(&mut self) -> Result<(), String> {
        let audit = self.patiently(self.engine.audit()).await?;
        let audit = audit.map_err(|error| error.to_string())?;
        for audited in &audit.views {
            if let Some(difference) = &audited.difference {
                return Err(format!("{}, by an audit: {difference}", audited.view));
            }
            let mut views = self.made.deployment.views.iter();
            if views.any(|known| known.view.name == audited.view && known.view.closing.is_some()) {
                self.tally.audited += audited.compared;
                self.tally.passed_over += audited.rows - audited.compared;
            }
        }
        Ok(())
    }
}

pub(crate) fn chosen(batch: &RecordBatch, column: usize, wanted: impl Fn(Option<i64>) -> bool) -> RecordBatch {
    let times = cast(batch.column(column), &DataType::Int64).expect("a bucket is a time");
    let times = times.as_primitive::<Int64Type>();
    let mask: BooleanArray = (0..times.len())
        .map(|row| Some(wanted(times.is_valid(row).then(|| times.value(row)))))
        .collect();
    filter_record_batch(batch, &mask).expect("one flag a row")
}
