//! Views whose buckets of time close: what closes them, and what may be let go of then.
//!
//! `floor` finds how late a row may still come, as a value of each column; `demand` what
//! rows further down can only concern closed buckets, `passing` what joins by time may forget,
//! `again` which closed buckets can be computed again.

mod again;
mod demand;
mod floor;
mod passing;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, TimeUnit};
use dataflows::plan::{Bucket, Node, Operator, Plan, times_of};

use crate::catalog::{Catalog, Relation};
use crate::problem::Problem;
use crate::view::View;
use again::Again;
use floor::{Floor, floor};

pub use passing::Passing;

/// When a view's rows are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emit {
    /// As they change.
    #[default]
    OnChange,
    /// Once their bucket is closed, and then no more changed.
    OnClose,
}

/// How a view closes its buckets.
#[derive(Clone, Debug)]
pub struct Closing {
    /// Position of the bucket's column.
    pub bucket: usize,
    /// When rows are shown.
    pub emit: Emit,
    /// How long closed rows stay, in microseconds by the view's watermark.
    pub keep_us: Option<i64>,
    /// The sources whose watermarks the view's is the least of.
    pub sources: Vec<String>,
    /// The views that emit on close it reads: it is no further than they were before the tick.
    pub views: Vec<String>,
    /// Sources that replace by key and hold nothing back: their rows may come when the bucket is closed.
    pub unheld: Vec<String>,
    /// For how long a row may be waited for until its bucket is over, in microseconds.
    pub size_us: i64,
    /// The largest lateness of its sources, in microseconds.
    pub lateness_us: i64,
    floor: Floor,
    /// For sources that hold nothing back and that it reads itself, what time closes their rows.
    lates: Vec<(String, Bucket)>,
    /// What closed buckets can be computed again from, if they can.
    again: Option<Again>,
}

impl Closing {
    /// Returns the value of the bucket's column from which on also closed buckets are what the view's batch answer says
    /// now, because all their rows are still there; none where nothing tells.
    ///
    /// `first` says from which time on a source or a view that closes still holds every row that it held since the
    /// view's definition began to run, as a number of the column of its time; none where no row of it has left.
    pub fn whole_from(&self, first: impl Fn(&str) -> Option<i64>) -> Option<i64> {
        Some(self.again.as_ref()?.whole_from(first))
    }

    /// Returns the value of the bucket's column below which every row is final at a watermark.
    pub fn below(&self, watermark_us: i64) -> Option<i64> {
        self.floor.at(watermark_us)
    }

    /// Returns the value of the bucket's column below which final rows leave at a watermark.
    pub fn gone(&self, watermark_us: i64) -> Option<i64> {
        self.floor.at(watermark_us.checked_sub(self.keep_us?)?)
    }

    /// Returns which rows of a source belong to buckets below what is closed.
    pub fn late(&self, source: &str, rows: &RecordBatch, below: i64) -> Vec<usize> {
        let mut late: Vec<usize> = Vec::new();
        for (_, bucket) in self.lates.iter().filter(|(name, _)| name == source) {
            let times = times_of(bucket, rows);
            late.extend((0..rows.num_rows()).filter(|&row| times.is_valid(row) && times.value(row) < below));
        }
        // A view may read a source in several places.
        late.sort_unstable();
        late.dedup();
        late
    }
}

impl Catalog {
    /// Has a planned view close its buckets of time.
    ///
    /// # Errors
    /// When it has none, or an input that never says that it is over.
    pub fn closing(&self, mut view: View, emit: Emit, keep_us: Option<i64>) -> Result<View, Problem> {
        let mut inputs = Inputs::default();
        self.inputs_of(&view.plan, &mut inputs)?;
        if inputs.sources.is_empty() && inputs.views.is_empty() {
            let what = "no source of the view has a `time` with a `lateness`, so no bucket of it ever closes";
            return Err(Problem::new(what)
                .hint("Declare it in the source: time = { column = \"at\", lateness = \"30 seconds\" }."));
        }
        let columns = 0..view.schema.fields().len();
        let bucket = columns
            .filter(|&column| is_time(view.schema.field(column).data_type()))
            .filter_map(|column| Some((column, floor(self, &view.plan, view.plan.root, column)?)))
            .filter(|(_, timed)| timed.is_bucket)
            // Whichever is over first; of several that are at once, the first.
            .max_by_key(|(column, timed)| {
                let days = *view.schema.field(*column).data_type() == DataType::Date32;
                let unit = if days { 86_400_000_000 } else { 1 };
                let at = timed.floor.at(SOME_TIME_US).map(|at| at.saturating_mul(unit));
                (at, std::cmp::Reverse(*column))
            });
        let Some((bucket, timed)) = bucket else {
            return Err(
                Problem::new("the view shows no bucket of a source's time, so nothing in it is ever closed").hint(
                    "Group by one and show it: date_bin(INTERVAL '1 hour', at) AS hour, or the window_end of \
                     tumble(readings, at, INTERVAL '1 hour').",
                ),
            );
        };
        let demands = demand::closes(&mut view.plan, bucket, self.time_zone());
        let again = self.again(&view.plan, &demands);
        let lates = inputs.unheld.iter().flat_map(|source| {
            let of_source = demands.iter().filter(move |(name, _)| name == source);
            of_source.cloned()
        });
        let lates = lates.collect();
        let on_close = emit == Emit::OnClose;
        let schema = view.schema.clone();
        view.plan.nodes.push(Node {
            operator: Operator::Close {
                bucket,
                on_close,
                keeps: keep_us.is_some(),
            },
            inputs: vec![view.plan.root],
            schema,
            append_only: on_close && keep_us.is_none(),
            closes: Vec::new(),
        });
        view.plan.root = view.plan.nodes.len() - 1;
        // A key may come again in a later bucket.
        let name = view.schema.field(bucket).name();
        if let Some(key) = &mut view.implied_key
            && !key.contains(name)
        {
            key.push(name.clone());
        }
        if keep_us.is_none() {
            view.warnings.push(
                "the rows of closed buckets are kept for ever: bound them, for example by keep = \"2 years\""
                    .to_owned(),
            );
        }
        view.closing = Some(Closing {
            bucket,
            emit,
            keep_us,
            sources: inputs.sources,
            views: inputs.views,
            unheld: inputs.unheld,
            size_us: timed.size_us,
            lateness_us: inputs.lateness_us,
            floor: timed.floor,
            lates,
            again,
        });
        Ok(view)
    }

    /// Collects what a plan's watermark is made of, through the views it reads.
    fn inputs_of(&self, plan: &Plan, found: &mut Inputs) -> Result<(), Problem> {
        for name in plan.relations() {
            let relation = self.relation(name).map(AsRef::as_ref);
            let (list, lateness_us) = match relation {
                Some(Relation::Source(source)) => match (&source.time_column, &source.key, source.lateness_us) {
                    // Rows without a time hold nothing back: what they are when a bucket closes, counts.
                    (None, _, _) => continue,
                    (Some(_), None, Some(lateness_us)) => (&mut found.sources, lateness_us),
                    (Some(time), Some(key), _) if key.contains(time) => (&mut found.unheld, 0),
                    (Some(time), Some(_), _) => {
                        let what = format!(
                            "source \"{name}\" replaces rows by a key without their time \"{time}\", so a row may leave \
                             a bucket that is closed"
                        );
                        let hint = format!("Put \"{time}\" into the key of {name}, or let the view emit on change.");
                        return Err(Problem::new(what).hint(hint));
                    }
                    (Some(_), None, None) if !source.append_only && source.expires_after_us.is_none() => {
                        let what = format!("source \"{name}\" takes rows back, also from a bucket that is closed");
                        return Err(Problem::new(what).hint("Let the view emit on change, without `keep`."));
                    }
                    (Some(time), None, None) => {
                        let what =
                            format!("source \"{name}\" declares no `lateness`, so no bucket over it ever closes");
                        let hint = format!(
                            "Say in sources/{name}.toml how late rows may be: time = {{ column = \"{time}\", \
                             lateness = \"30 seconds\" }}."
                        );
                        return Err(Problem::new(what).hint(hint));
                    }
                },
                Some(Relation::View(inner)) => match &inner.closing {
                    Some(closing) if closing.emit == Emit::OnClose => (&mut found.views, 0),
                    _ => {
                        self.inputs_of(&inner.plan, found)?;
                        continue;
                    }
                },
                Some(Relation::System(_)) | None => continue,
            };
            if !list.iter().any(|known| known == name) {
                list.push(name.to_owned());
            }
            found.lateness_us = found.lateness_us.max(lateness_us);
        }
        Ok(())
    }
}

/// A time to compare floors at: 2026-01-01T12:34:56.789Z.
const SOME_TIME_US: i64 = 1_767_270_896_789_000;

/// Tells whether the engine can say of a column's values how far it is closed.
fn is_time(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(TimeUnit::Microsecond, _) | DataType::Date32
    )
}

/// What a view's watermark is made of.
#[derive(Default)]
struct Inputs {
    sources: Vec<String>,
    views: Vec<String>,
    unheld: Vec<String>,
    lateness_us: i64,
}
