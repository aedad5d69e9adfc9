//! Which closed buckets can be computed again: those whose rows are all still there, and the same as they were then.
//!
//! A bucket stays as it was when it closed, its inputs go on. Their answer says what it was only where its rows follow
//! from rows of that bucket alone (no table beside them, no other bucket, no `now()`), and where none of these may come
//! or be taken back once it is closed, but by expiry. How far that has come, whoever asks knows.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use dataflows::plan::{Bucket, Operator, Plan, times_of};

use super::demand;
use super::floor::{rising, times};
use crate::catalog::{Catalog, Relation, SourceRelation};

/// What the rows of a view's closed buckets follow from.
#[derive(Clone, Debug)]
pub(super) struct Again {
    paths: Vec<Path>,
}

/// One relation that is read, and how the time of its rows becomes the bucket.
#[derive(Clone, Debug)]
struct Path {
    relation: String,
    /// From the relation up: each never falls while that below it rises.
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
struct Step {
    bucket: Bucket,
    /// The column it is made of, alone.
    schema: SchemaRef,
}

impl Again {
    /// Returns the least value of the bucket's column from which on buckets have all their rows.
    ///
    /// `first` says from which time on a relation still holds every row, as a number of its time's column; none where
    /// it holds all there ever were.
    pub(super) fn whole_from(&self, first: impl Fn(&str) -> Option<i64>) -> i64 {
        let whole = |path: &Path| {
            let Some(first) = first(&path.relation).filter(|first| *first > i64::MIN) else {
                return i64::MIN;
            };
            // The last time of which rows may be missing is in a bucket that is not whole, as are all before it.
            let last = path.steps.iter().try_fold(first - 1, |time, step| step.at(time));
            last.map_or(i64::MAX, |last| last.saturating_add(1))
        };
        self.paths.iter().map(whole).max().unwrap_or(i64::MIN)
    }
}

impl Step {
    fn at(&self, time: i64) -> Option<i64> {
        let column = times(time, self.schema.field(0).data_type())?;
        let row = RecordBatch::try_new(Arc::clone(&self.schema), vec![column]).ok()?;
        times_of(&self.bucket, &row).iter().next().flatten()
    }
}

impl Catalog {
    /// Finds what the closed buckets of a plan follow from; none where that is more than their own rows. `read` says by
    /// what time the rows of the relations it reads are closed.
    pub(super) fn again(&self, plan: &Plan, read: &[(String, Bucket)]) -> Option<Again> {
        let paths = self.paths(plan, read)?;
        Some(Again { paths })
    }

    fn paths(&self, plan: &Plan, read: &[(String, Bucket)]) -> Option<Vec<Path>> {
        let gets = plan.nodes.iter();
        let gets = gets.filter(|node| matches!(node.operator, Operator::Get { .. }));
        // Times that are only near each other meet rows of other buckets.
        let is_near = |operator: &Operator| matches!(operator, Operator::Join { band: Some(_), .. });
        let near = plan.nodes.iter().any(|node| is_near(&node.operator));
        // What is read in some other way than bucket by bucket is not among `read`.
        if gets.count() != read.len() || near || plan.has_timers() {
            return None;
        }
        let mut paths = Vec::new();
        for (name, bucket) in read {
            let relation = self.relation(name)?;
            let field = relation.schema().field(bucket.column);
            if let Some(of) = &bucket.of {
                rising(&of.physical, self.time_zone())?;
            }
            let step = Step {
                bucket: Bucket {
                    column: 0,
                    of: bucket.of.clone(),
                },
                schema: Arc::new(Schema::new(vec![Field::new(
                    field.name(),
                    field.data_type().clone(),
                    true,
                )])),
            };
            let stays = match relation.as_ref() {
                Relation::Source(source) => holds_back(source, field.name()),
                // What it has closed stays until it is gone.
                Relation::View(inner) => match &inner.closing {
                    Some(closing) => closing.bucket == bucket.column,
                    None => {
                        let mut plan = inner.plan.clone();
                        let read = demand::closes(&mut plan, bucket.column, self.time_zone());
                        for mut path in self.paths(&plan, &read)? {
                            path.steps.push(step.clone());
                            paths.push(path);
                        }
                        continue;
                    }
                },
                Relation::System(_) => false,
            };
            if !stays {
                return None;
            }
            paths.push(Path {
                relation: name.clone(),
                steps: vec![step],
            });
        }
        Some(paths)
    }
}

/// Tells whether a source takes no row whose time its watermark has passed, and takes none back but by expiry.
fn holds_back(source: &SourceRelation, time: &str) -> bool {
    source.key.is_none()
        && source.lateness_us.is_some()
        && (source.append_only || source.expires_after_us.is_some())
        && source.time_column.as_deref() == Some(time)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, TimeUnit};

    use super::*;
    use crate::closing::Emit;

    const HOUR_US: i64 = 3_600_000_000;
    /// 2026-01-02T10:20:00Z.
    const SOME_TIME_US: i64 = 1_767_349_200_000_000;
    /// The hour after.
    const NEXT_HOUR_US: i64 = 1_767_351_600_000_000;

    fn catalog() -> Catalog {
        let mut catalog = Catalog::new("Asia/Kolkata").expect("a zone");
        let at = DataType::Timestamp(TimeUnit::Microsecond, Some("Asia/Kolkata".into()));
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("station", DataType::Utf8, false),
            Field::new("at", at, false),
            Field::new("ph", DataType::Float64, true),
        ]));
        let readings = SourceRelation {
            name: "readings".into(),
            schema: Arc::clone(&schema),
            append_only: false,
            key: None,
            retain_us: Some(3 * HOUR_US),
            expires_after_us: Some(3 * HOUR_US),
            time_column: Some("at".into()),
            lateness_us: Some(0),
        };
        let keyed = SourceRelation {
            name: "keyed".into(),
            key: Some(vec!["station".into(), "at".into()]),
            expires_after_us: None,
            lateness_us: None,
            ..readings.clone()
        };
        let stations = SourceRelation {
            name: "stations".into(),
            schema: Arc::new(Schema::new(vec![Field::new("station", DataType::Utf8, false)])),
            key: Some(vec!["station".into()]),
            time_column: None,
            ..keyed.clone()
        };
        for source in [readings, keyed, stations] {
            catalog.add_source(source).expect("a source");
        }
        catalog
    }

    /// Adds a view; one that closes on demand.
    fn add(catalog: &mut Catalog, name: &str, sql: &str, closes: bool) {
        let view = catalog
            .plan_view(name, sql)
            .unwrap_or_else(|problems| panic!("{problems:?}"));
        let view = match closes {
            true => catalog
                .closing(view, Emit::OnChange, Some(24 * HOUR_US))
                .expect("a bucket"),
            false => view,
        };
        catalog.add_view(view).expect("a view");
    }

    /// From which bucket on a view can be computed again, if everything it reads is there since some time.
    fn whole(catalog: &mut Catalog, sql: &str) -> Option<i64> {
        whole_since(catalog, sql, |_| Some(SOME_TIME_US))
    }

    fn whole_since(catalog: &mut Catalog, sql: &str, first: impl Fn(&str) -> Option<i64>) -> Option<i64> {
        let view = catalog
            .plan_view("asked", sql)
            .unwrap_or_else(|problems| panic!("{problems:?}"));
        let view = catalog
            .closing(view, Emit::OnClose, None)
            .unwrap_or_else(|problem| panic!("{problem:?}"));
        view.closing.expect("it closes").whole_from(first)
    }

    #[test]
    fn a_bucket_is_whole_from_the_first_that_begins_among_what_is_there() {
        let mut catalog = catalog();
        let hourly = "SELECT station, date_bin(INTERVAL '1 hour', at) AS hour, max(ph) AS ph FROM readings GROUP BY station, hour";
        // A bucket is the first number at or above it: any time of the hour before is less.
        let from = whole(&mut catalog, hourly).expect("it can be");
        assert!(from > NEXT_HOUR_US - HOUR_US && from <= NEXT_HOUR_US, "{from}");
        // Where the hour itself begins there, it is whole.
        assert!(whole_since(&mut catalog, hourly, |_| Some(NEXT_HOUR_US)).expect("it can be") <= NEXT_HOUR_US);
        assert!(whole_since(&mut catalog, hourly, |_| Some(NEXT_HOUR_US + 1)).expect("it can be") > NEXT_HOUR_US);
        assert_eq!(whole_since(&mut catalog, hourly, |_| None), Some(i64::MIN));
        // By the end of a window.
        let tumbled =
            "SELECT window_end, count(*) AS n FROM tumble(readings, at, INTERVAL '1 hour') GROUP BY window_end";
        let from = whole(&mut catalog, tumbled).expect("it can be");
        assert!(from > NEXT_HOUR_US && from <= NEXT_HOUR_US + HOUR_US, "{from}");
        // By the civil day, which begins at 18:30 UTC.
        let daily = "SELECT date_trunc('day', at) AS day, count(*) AS n FROM readings GROUP BY day";
        let from = whole(&mut catalog, daily).expect("it can be");
        let next_day_us = SOME_TIME_US - SOME_TIME_US.rem_euclid(24 * HOUR_US) + 18 * HOUR_US + HOUR_US / 2;
        assert!(from > next_day_us - 24 * HOUR_US && from <= next_day_us, "{from}");
        // Both sides of a join by the bucket itself.
        let joined = "SELECT l.hour, l.n, r.n AS m FROM \
             (SELECT date_bin(INTERVAL '1 hour', at) AS hour, count(*) AS n FROM readings GROUP BY hour) l LEFT JOIN \
             (SELECT date_bin(INTERVAL '1 hour', at) AS hour, count(ph) AS n FROM readings GROUP BY hour) r ON l.hour = r.hour";
        assert!(whole(&mut catalog, joined).is_some());
    }

    #[test]
    fn a_bucket_of_views_goes_by_what_is_there_of_them() {
        let mut catalog = catalog();
        let hourly = "SELECT station, date_bin(INTERVAL '1 hour', at) AS hour, count(*) AS n FROM readings GROUP BY station, hour";
        add(&mut catalog, "plain", hourly, false);
        add(&mut catalog, "hourly", hourly, true);
        let over = |name: &str| {
            format!("SELECT date_bin(INTERVAL '2 hours', hour) AS hours, sum(n) AS n FROM {name} GROUP BY hours")
        };
        let of_source = |name: &str| (name == "readings").then_some(SOME_TIME_US);
        let from = whole_since(&mut catalog, &over("plain"), of_source).expect("it can be");
        // From 10:00 to 12:00 is not whole.
        assert!(
            from > NEXT_HOUR_US - HOUR_US && from <= NEXT_HOUR_US + HOUR_US,
            "{from}"
        );
        // What its source has let go of, a view that closes still holds.
        assert_eq!(whole_since(&mut catalog, &over("hourly"), of_source), Some(i64::MIN));
        let of_view = |name: &str| (name == "hourly").then_some(NEXT_HOUR_US);
        let from = whole_since(&mut catalog, &over("hourly"), of_view).expect("it can be");
        assert!(
            from > NEXT_HOUR_US - HOUR_US && from <= NEXT_HOUR_US + HOUR_US,
            "{from}"
        );
    }

    #[test]
    fn what_more_than_its_rows_decides_cannot_be_computed_again() {
        let mut catalog = catalog();
        for sql in [
            // A table beside it may have changed.
            "SELECT date_bin(INTERVAL '1 hour', r.at) AS hour, count(*) AS n FROM readings r JOIN stations s \
             ON s.station = r.station GROUP BY hour",
            "SELECT date_bin(INTERVAL '1 hour', r.at) AS hour, count(*) AS n FROM readings r WHERE NOT EXISTS \
             (SELECT 1 FROM stations s WHERE s.station = r.station) GROUP BY hour",
            // Rows leave by `now()`.
            "SELECT date_bin(INTERVAL '1 hour', at) AS hour, count(*) AS n FROM readings \
             WHERE at > now() - INTERVAL '2 hours' GROUP BY hour",
            // Rows of other buckets.
            "SELECT date_bin(INTERVAL '1 hour', a.at) AS hour, a.ph, b.ph AS other FROM readings a JOIN readings b \
             ON a.station = b.station AND b.at BETWEEN a.at - INTERVAL '5 minutes' AND a.at",
            "SELECT window_end, count(*) AS n FROM hop(readings, at, INTERVAL '10 minutes', INTERVAL '1 hour') \
             GROUP BY window_end",
            "SELECT window_end, count(*) AS n FROM session(readings, at, INTERVAL '10 minutes', station) \
             GROUP BY window_end",
            // Rows of one source, by two buckets.
            "SELECT date_bin(INTERVAL '1 hour', at) AS hour FROM readings UNION ALL \
             SELECT date_bin(INTERVAL '1 hour', at + INTERVAL '3 hours') AS hour FROM readings",
            // Its rows may come when the bucket is closed.
            "SELECT date_bin(INTERVAL '1 hour', r.at) AS hour, count(*) AS n FROM readings r JOIN keyed k \
             ON k.station = r.station AND k.at = r.at GROUP BY hour",
        ] {
            assert_eq!(whole(&mut catalog, sql), None, "{sql}");
        }
    }
}
