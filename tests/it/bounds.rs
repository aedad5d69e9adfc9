//! For each kind of bound that `explain` names: state stays flat while ten times as much goes by.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, TimestampMicrosecondArray};
use connectors::Decoded;
use sangam::config;
use sangam::engine::{Engine, Operation};

/// 2026-01-01, where every second holds some rows.
const START_US: i64 = 1_767_225_600_000_000;
const SECOND_US: i64 = 1_000_000;

/// No bound is longer: after this many seconds state is what it will be.
const SPAN: i64 = 60;

struct Bound {
    /// The head of the source, beside its columns.
    source: &'static str,
    view: &'static str,
    /// What `explain` must say.
    named: &'static str,
}

const LATE: &str = "time = { column = \"at\", lateness = \"5 seconds\" }";
const RETAINED: &str = "time = { column = \"at\", lateness = \"5 seconds\" }\nretain = \"40 seconds\"";

/// The one group has no key, and is not counted among the rows that are held.
const ONE_GROUP: &str = "state: one group";

const BOUNDS: &[Bound] = &[
    Bound {
        source: LATE,
        view: "--! emit = \"on close\"\n--! keep = \"30 seconds\"\nSELECT k, date_bin(INTERVAL '10 seconds', at) AS bucket, \
               count(*) AS n, count(DISTINCT n) AS d, median(n) AS m, min(n) AS l FROM s GROUP BY k, bucket",
        named: "bound: the watermark: let go of once bucket is closed",
    },
    Bound {
        source: RETAINED,
        view: "--! keep = \"30 seconds\"\nSELECT k, window_end, array_agg(n ORDER BY n) AS list \
               FROM hop(s, at, INTERVAL '5 seconds', INTERVAL '10 seconds') GROUP BY k, window_end",
        named: "state: the rows of closed buckets; bound: keep, 30 seconds",
    },
    Bound {
        source: LATE,
        view: "--! emit = \"on close\"\n--! keep = \"20 seconds\"\nSELECT bucket, k, n FROM (SELECT *, \
               rank() OVER (PARTITION BY bucket ORDER BY n) AS r FROM (SELECT *, date_bin(INTERVAL '10 seconds', at) AS bucket \
               FROM s)) WHERE r <= 2",
        named: "the watermark: let go of once",
    },
    Bound {
        source: LATE,
        view: "--! emit = \"on close\"\n--! keep = \"20 seconds\"\nSELECT date_bin(INTERVAL '10 seconds', a.at) AS bucket, \
               count(*) AS n FROM s a JOIN s b ON a.k = b.k AND a.n > b.n AND b.at BETWEEN a.at - INTERVAL '3 seconds' AND a.at \
               GROUP BY bucket",
        named: "the watermark: let go of once",
    },
    Bound {
        source: RETAINED,
        view: "--! emit = \"on close\"\n--! keep = \"20 seconds\"\nSELECT k, window_start, window_end, count(*) AS n \
               FROM session(s, at, INTERVAL '2 seconds', k) GROUP BY k, window_start, window_end",
        named: "retain of source s, 40 seconds",
    },
    Bound {
        source: LATE,
        view: "SELECT max(a.n - b.n) AS n FROM s a JOIN s b ON a.k = b.k AND b.at BETWEEN a.at - INTERVAL '20 seconds' AND a.at",
        named: "the watermark: left rows go once none to come can meet them; the watermark: right rows go",
    },
    Bound {
        source: LATE,
        view: "SELECT count(*) AS n FROM s a JOIN s b ON b.at >= a.at AND b.at < a.at + INTERVAL '2 seconds'",
        named: "inner join, at from at to at + 1999999 us",
    },
    Bound {
        source: RETAINED,
        view: "SELECT date_bin(INTERVAL '10 seconds', at) AS bucket, count(*) AS n FROM s GROUP BY bucket",
        named: "bound: retain of source s, 40 seconds",
    },
    Bound {
        source: "key = [\"k\"]",
        view: "SELECT n % 3 AS m, count(*) AS n FROM s GROUP BY m",
        named: "bound: one row for each k of source s",
    },
    Bound {
        source: LATE,
        view: "SELECT k, count(*) AS n FROM s WHERE at > now() - INTERVAL '30 seconds' GROUP BY k",
        named: "bound: rows leave 30 seconds after their time, by now()",
    },
    Bound {
        source: LATE,
        view: "SELECT k, n FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY n DESC) AS r FROM s) WHERE r <= 3",
        named: "state: the rows of these ranks, in order",
    },
    Bound {
        source: LATE,
        view: "SELECT count(*) AS n, sum(n) AS total FROM s",
        named: ONE_GROUP,
    },
];

/// A join of which one side is kept for ever, a few rows here, and the other only as long as it can meet what comes.
const ONE_SIDE: Bound = Bound {
    source: LATE,
    view: "SELECT count(*) AS n FROM s a JOIN s b ON a.k = b.k AND b.at >= a.at WHERE a.at < TIMESTAMP '2026-01-01 00:00:30Z'",
    named: "the watermark: right rows go once none to come can meet them",
};

#[tokio::test]
async fn state_is_bounded_by_what_explain_names() {
    let _honest = crate::HONEST.read().await;
    for bound in BOUNDS {
        let unbounded = stays_flat(bound).await;
        assert_eq!(unbounded, [""; 0], "{}", bound.view);
    }
}

#[tokio::test]
async fn one_side_of_a_join_is_bounded_where_only_that_is_named() {
    let _honest = crate::HONEST.read().await;
    let unbounded = stays_flat(&ONE_SIDE).await;
    assert_eq!(unbounded.len(), 1, "{unbounded:?}");
}

/// Runs a view for long; returns what `explain` says nothing bounds.
async fn stays_flat(bound: &Bound) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a folder of our own");
    let deployment = write(dir.path(), bound);
    let view = &deployment.views[0].view;
    let explained = view.explain(&deployment.catalog);
    assert!(explained.contains(bound.named), "{explained}");
    let unbounded = view.unbounded(&deployment.catalog);
    let engine = Engine::start(deployment).expect("a sound deployment");
    let (first, later) = run(&engine).await;
    engine.shutdown();
    assert!(
        first.1 > 0 && (first.0 > 0 || bound.named == ONE_GROUP),
        "nothing is held: {}",
        bound.view
    );
    assert!(
        later.0 <= first.0 + first.0 / 4 + 2 && later.1 <= first.1 + first.1 / 2 + 1024,
        "{} rows in {} bytes were held at first, and later {} in {}: {}",
        first.0,
        first.1,
        later.0,
        later.1,
        bound.view
    );
    unbounded
}

fn write(dir: &Path, bound: &Bound) -> config::Deployment {
    for folder in ["sources", "views"] {
        std::fs::create_dir(dir.join(folder)).expect("a folder of our own");
    }
    let source = format!(
        "columns = {{ k = \"bigint not null\", at = \"timestamp not null\", n = \"bigint\" }}\n{}\n[connector]\ntype = \"http\"\n",
        bound.source
    );
    for (file, text) in [
        ("deployment.toml", "clock = \"event\"\nworkers = 2\n"),
        ("sources/s.toml", &source),
        ("views/v.sql", bound.view),
    ] {
        std::fs::write(dir.join(file), text).expect("a folder of our own");
    }
    config::load(dir).unwrap_or_else(|problems| panic!("{}: {}", bound.view, problems[0]))
}

/// Runs through twelve spans; returns the most rows and bytes that the view's operators held in
/// the second, and in all later ones.
async fn run(engine: &Engine) -> ((u64, u64), (u64, u64)) {
    let schema = Arc::clone(&engine.deployment().sources[0].schema);
    let (mut first, mut later) = ((0, 0), (0, 0));
    for second in 0..12 * SPAN {
        let at = START_US + second * SECOND_US;
        // Some come late, but in time.
        let times = (0..6).map(|row| at - (row % 3) * 2 * SECOND_US);
        let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
        let rows = RecordBatch::try_new(
            Arc::clone(&schema),
            vec![
                Arc::new(Int64Array::from_iter_values((0..6).map(|row| (second / 3 + row) % 4))),
                Arc::new(times),
                Arc::new(Int64Array::from_iter_values((0..6).map(|row| second * 7 % 50 + row))),
            ],
        )
        .expect("columns of the source");
        let decoded = Decoded {
            rows,
            rejected: Vec::new(),
        };
        let accepted = engine.ingest("s", Operation::Insert, decoded).await.expect("it runs");
        let view = ["v".to_owned()];
        engine.snapshot(&view, accepted.tick).await.expect("it runs");
        let held = engine.operators().into_iter().fold((0, 0), |held, operator| {
            (held.0 + operator.stats.state_rows, held.1 + operator.stats.state_bytes)
        });
        let most = match second / SPAN {
            0 => continue,
            1 => &mut first,
            _ => &mut later,
        };
        *most = (held.0.max(most.0), held.1.max(most.1));
    }
    (first, later)
}
