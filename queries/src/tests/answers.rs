//! Batch answers of views: failing rows, exact sums, ties, keys and time.

use super::{TICK, answer, catalog, catalog_in, events, plain, readings, view};

const MINUTE: i64 = 60_000_000;

#[test]
fn a_failing_row_is_absent_and_the_rest_stays() {
    let catalog = catalog();
    let rows = events(
        &catalog,
        &[
            (1, None, Some(2), None),
            (2, None, Some(0), None),
            (3, None, None, None),
            (4, None, Some(5), None),
        ],
    );
    let sql = "SELECT id, 100 / value AS share FROM events";
    assert_eq!(
        answer(&catalog, sql, &rows, TICK),
        "| id | share |\n| 1  | 50    |\n| 3  |       |\n| 4  | 20    |"
    );
    let sql = "SELECT id FROM events WHERE 100 / value > 30";
    assert_eq!(answer(&catalog, sql, &rows, TICK), "| id |\n| 1  |");
    // The guard holds on every row of its own, whatever the batch.
    let sql = "SELECT id FROM events WHERE value <> 0 AND 100 / value >= 20";
    assert_eq!(answer(&catalog, sql, &rows, TICK), "| id |\n| 1  |\n| 4  |");
    let sql =
        "SELECT sum(100 / value) AS s, sum(100 / value) FILTER (WHERE value <> 0) AS t, count(*) AS n FROM events";
    assert_eq!(answer(&catalog, sql, &rows, TICK), "| s  | t  | n |\n| 70 | 70 | 3 |");
    let sql = "SELECT sum(100 / value) FILTER (WHERE value <> 0) AS t, count(*) AS n FROM events";
    assert_eq!(answer(&catalog, sql, &rows, TICK), "| t  | n |\n| 70 | 4 |");
}

/// DataFusion's estimate of how many rows pass compares decimals of different precision, and gives up.
#[test]
fn filters_are_not_estimated() {
    let catalog = catalog();
    let rows = events(&catalog, &[(2, None, None, None), (-1, None, None, None)]);
    let sql = "SELECT id FROM (SELECT id, dense_rank() OVER (ORDER BY id) AS place FROM events) AS placed \
               WHERE place > place * id";
    assert_eq!(answer(&catalog, sql, &rows, TICK), "| id |\n| -1 |");
}

/// DataFusion leaves the key of the subquery at microseconds while the union's are cast to nanoseconds.
#[test]
fn keys_are_compared_in_one_type() {
    let catalog = catalog_in("Asia/Kolkata");
    let rows = readings(&catalog, &[("a", 0, Some(7.0))]);
    let sql = "SELECT q.ph AS ph FROM (SELECT at, ph FROM readings UNION ALL \
               SELECT TIMESTAMP '2026-01-01T06:00:00Z', max(ph) FROM readings) AS q \
               WHERE EXISTS (SELECT 1 FROM readings s WHERE s.at = q.at)";
    assert_eq!(answer(&catalog, sql, &rows, TICK), "| ph  |\n| 7.0 |");
}

#[test]
fn sums_of_doubles_are_exact() {
    let catalog = catalog();
    let weights = [1e300, 1.0, -1e300, 1e-300, 0.1, 0.2, -0.3];
    let rows: Vec<_> = weights
        .iter()
        .enumerate()
        .map(|(id, weight)| (id as i64, None, None, Some(*weight)))
        .collect();
    let sql = "SELECT sum(weight) AS s FROM events";
    assert_eq!(
        answer(&catalog, sql, &events(&catalog, &rows), TICK),
        "| s   |\n| 1.0 |"
    );
    let sql =
        "SELECT avg(weight) AS a, var_pop(weight) AS v, stddev(weight) AS d FROM events WHERE id > 3 GROUP BY kind";
    let forward = answer(&catalog, sql, &events(&catalog, &rows), TICK);
    let backward: Vec<_> = rows.iter().rev().copied().collect();
    assert_eq!(forward, answer(&catalog, sql, &events(&catalog, &backward), TICK));
}

#[test]
fn ties_have_one_winner() {
    let catalog = catalog();
    let rows = [
        (1, Some("a"), Some(7), None),
        (1, Some("c"), Some(7), None),
        (1, Some("b"), Some(7), None),
        (2, None, Some(7), None),
    ];
    let sql = "SELECT value, first_value(kind ORDER BY id) AS f, last_value(kind ORDER BY id) AS l, \
               first_value(kind ORDER BY id DESC) AS d, last_value(kind) IGNORE NULLS AS i FROM events GROUP BY value";
    let expected = "| value | f | l | d | i |\n| 7     | a |   |   | c |";
    assert_eq!(answer(&catalog, sql, &events(&catalog, &rows), TICK), expected);
    let reversed: Vec<_> = rows.iter().rev().copied().collect();
    assert_eq!(answer(&catalog, sql, &events(&catalog, &reversed), TICK), expected);
}

#[test]
fn float_keys_have_one_form() {
    let catalog = catalog();
    let odd_nan = f64::from_bits(0x7ff8_0000_0000_0001);
    let rows = events(
        &catalog,
        &[
            (1, None, None, Some(0.0)),
            (2, None, None, Some(-0.0)),
            (3, None, None, Some(f64::NAN)),
            (4, None, None, Some(odd_nan)),
            (5, None, None, None),
        ],
    );
    let sql = "SELECT weight, count(*) AS n FROM events GROUP BY weight";
    assert_eq!(
        answer(&catalog, sql, &rows, TICK),
        "| weight | n |\n|        | 1 |\n| 0.0    | 2 |\n| NaN    | 2 |"
    );
    let sql = "SELECT DISTINCT weight FROM events";
    assert_eq!(
        answer(&catalog, sql, &rows, TICK),
        "| weight |\n|        |\n| 0.0    |\n| NaN    |"
    );
    let sql = "SELECT a.id AS a, b.id AS b FROM events a JOIN events b ON a.weight = b.weight WHERE a.id < b.id";
    assert_eq!(answer(&catalog, sql, &rows, TICK), "| a | b |\n| 1 | 2 |\n| 3 | 4 |");
}

#[test]
fn now_is_the_tick() {
    let catalog = catalog();
    let tick = TICK as i64;
    let rows = readings(
        &catalog,
        &[
            ("a", tick - 10 * MINUTE, Some(1.0)),
            ("b", tick - 10 * MINUTE + 1, Some(2.0)),
            ("c", tick, Some(3.0)),
            ("d", tick + 1, Some(4.0)),
        ],
    );
    let sql = "SELECT station FROM readings WHERE at > now() - INTERVAL '10 minutes' AND now() >= at";
    assert_eq!(
        answer(&catalog, sql, &rows, TICK),
        "| station |\n| b       |\n| c       |"
    );
    assert_eq!(
        plain(&catalog, sql, &rows, TICK),
        "| station |\n| b       |\n| c       |"
    );
    assert_eq!(
        answer(&catalog, sql, &rows, TICK + 1),
        "| station |\n| c       |\n| d       |"
    );
    let sql = "SELECT station FROM readings WHERE date_bin(INTERVAL '10 minutes', at) BETWEEN now() - INTERVAL '10 minutes' AND now()";
    assert_eq!(answer(&catalog, sql, &rows, TICK), plain(&catalog, sql, &rows, TICK));
}

#[test]
fn days_are_local_and_bins_are_not() {
    let catalog = catalog_in("Asia/Kolkata");
    // 18:29 and 18:30 UTC are one minute apart and on two days in India.
    let rows = readings(
        &catalog,
        &[("a", 66_540 * 1_000_000, None), ("b", 66_600 * 1_000_000, None)],
    );
    let sql = "SELECT date_trunc('day', at) AS day, count(*) AS n FROM readings GROUP BY day";
    assert_eq!(
        answer(&catalog, sql, &rows, TICK),
        "| day                       | n |\n| 1970-01-01T00:00:00+05:30 | 1 |\n| 1970-01-02T00:00:00+05:30 | 1 |"
    );
    let sql = "SELECT date_bin(INTERVAL '1 day', at) AS day, count(*) AS n FROM readings GROUP BY day";
    assert_eq!(
        answer(&catalog, sql, &rows, TICK),
        "| day                       | n |\n| 1970-01-01T05:30:00+05:30 | 2 |"
    );
    let sql = "SELECT station FROM readings WHERE at >= '1970-01-02 00:00:00'";
    assert_eq!(answer(&catalog, sql, &rows, TICK), "| station |\n| b       |");
}

#[test]
fn left_joins_keep_rows_whose_condition_fails() {
    let catalog = catalog();
    let rows = events(
        &catalog,
        &[
            (1, Some("a"), Some(1), None),
            (2, Some("a"), Some(2), None),
            (3, None, Some(3), None),
        ],
    );
    let sql = "SELECT l.id AS l, r.id AS r FROM events l LEFT JOIN events r ON l.kind = r.kind AND l.value > 1 AND r.value < 2";
    let expected = "| l | r |\n| 1 |   |\n| 2 | 1 |\n| 3 |   |";
    assert_eq!(answer(&catalog, sql, &rows, TICK), expected);
    assert_eq!(plain(&catalog, sql, &rows, TICK), expected);
}

#[test]
fn agrees_with_plain_datafusion() {
    let catalog = catalog();
    let rows: Vec<_> = (0..500i64)
        .map(|id| {
            let kind = [Some("a"), Some("b"), Some(""), None][(id % 4) as usize];
            (
                id,
                kind,
                (id % 7 != 0).then_some(id % 13 - 6),
                (id % 5 != 0).then_some((id % 11) as f64 / 4.0),
            )
        })
        .collect();
    let rows = events(&catalog, &rows);
    for sql in [
        "SELECT * FROM events",
        "SELECT id FROM events WHERE value > 2 AND kind IN ('a', 'b')",
        "SELECT kind, count(*) AS n, count(value) AS c, sum(value) AS s, avg(value) AS a, min(value) AS lo, max(kind) AS hi FROM events GROUP BY kind",
        "SELECT kind, sum(weight) AS s, avg(weight) AS a, min(weight) AS lo, max(weight) AS hi FROM events GROUP BY kind HAVING count(*) > 3",
        "SELECT count(*) AS n, count(value) FILTER (WHERE value > 0) AS c, max(weight) AS w FROM events WHERE id < 0",
        "SELECT kind, value % 3 AS r, last_value(id ORDER BY id) AS l, first_value(id ORDER BY id DESC) AS f FROM events GROUP BY kind, value % 3",
        "SELECT DISTINCT kind, value FROM events",
        "SELECT kind FROM events WHERE id < 10 UNION ALL SELECT upper(kind) FROM events WHERE id < 5",
        "SELECT kind FROM events UNION SELECT kind FROM events WHERE value > 0",
        "SELECT a.id, b.value FROM events a JOIN events b ON a.id = b.value",
        "SELECT a.id, b.value FROM events a LEFT JOIN events b ON a.id = b.value AND b.weight > 1",
        "SELECT a.kind, count(b.id) AS n FROM events a LEFT JOIN events b ON a.id = b.id + 250 GROUP BY a.kind",
        "WITH big AS (SELECT * FROM events WHERE value > 3) SELECT b.kind, max(b.id) AS m FROM big b JOIN events e ON e.id = b.id GROUP BY b.kind",
        "SELECT CASE WHEN value > 0 THEN 'up' WHEN value < 0 THEN 'down' END AS way, count(*) AS n FROM events GROUP BY way",
        "SELECT id, substr(kind, 1, 1) AS k, coalesce(value, 0) AS v FROM events WHERE kind LIKE 'a%'",
        "SELECT count(*) AS n FROM (SELECT 1 AS x FROM events UNION ALL SELECT 2 FROM events) u",
        "SELECT e.id, n.name FROM events e JOIN (VALUES ('a', 'Alpha'), ('b', 'Beta')) AS n(kind, name) ON e.kind = n.kind",
        "SELECT kind, stddev(value) AS d, var_pop(value) AS v FROM events WHERE id % 2 = 0 GROUP BY kind HAVING count(*) > 500",
    ] {
        assert_eq!(
            answer(&catalog, sql, &rows, TICK),
            plain(&catalog, sql, &rows, TICK),
            "{sql}"
        );
    }
}

#[test]
fn over_no_rows() {
    let catalog = catalog();
    let rows = events(&catalog, &[]);
    let sql = "SELECT count(*) AS n, sum(value) AS s, avg(weight) AS a, last_value(kind ORDER BY id) AS l FROM events";
    assert_eq!(
        answer(&catalog, sql, &rows, TICK),
        "| n | s | a | l |\n| 0 |   |   |   |"
    );
    assert_eq!(
        answer(
            &catalog,
            "SELECT kind, count(*) AS n FROM events GROUP BY kind",
            &rows,
            TICK
        ),
        ""
    );
    let sql = "SELECT 1 + 1 AS two";
    assert_eq!(answer(&catalog, sql, &rows, TICK), "| two |\n| 2   |");
}

#[test]
fn strings_and_times_leave_in_plain_types() {
    let catalog = catalog();
    let sql = "SELECT substr(kind, 1, 2) AS s, arrow_cast(kind, 'Dictionary(Int32, Utf8)') AS d, to_timestamp(id) AS t FROM events";
    let types: Vec<String> = view(&catalog, sql)
        .schema
        .fields()
        .iter()
        .map(|field| field.data_type().to_string())
        .collect();
    assert_eq!(types[..2], ["Utf8", "Utf8"]);
    assert!(types[2].starts_with("Timestamp(µs"), "{}", types[2]);
}

#[test]
fn recursions_go_on_by_each_row_once_or_as_often_as_it_follows() {
    let catalog = catalog();
    // Edges id > value: a circle, and two ways from 1 to 4.
    let edges = [(1, 2), (1, 3), (2, 4), (3, 4), (4, 2)];
    let rows: Vec<_> = edges.iter().map(|(from, to)| (*from, None, Some(*to), None)).collect();
    let rows = events(&catalog, &rows);
    let sql = "WITH RECURSIVE r(n) AS (SELECT id FROM events WHERE id = 1 UNION SELECT e.value FROM r JOIN events e ON e.id = r.n) \
               SELECT n FROM r";
    assert_eq!(answer(&catalog, sql, &rows, TICK), "| n |\n| 1 |\n| 2 |\n| 3 |\n| 4 |");
    assert_eq!(plain(&catalog, sql, &rows, TICK), answer(&catalog, sql, &rows, TICK));
    let sql = "WITH RECURSIVE r(n, hops) AS (SELECT DISTINCT id, 0 FROM events WHERE id = 1 UNION ALL \
               SELECT e.value, hops + 1 FROM r JOIN events e ON e.id = r.n WHERE hops < 3) SELECT n, count(*) AS ways FROM r GROUP BY n";
    assert_eq!(
        answer(&catalog, sql, &rows, TICK),
        "| n | ways |\n| 1 | 1    |\n| 2 | 3    |\n| 3 | 1    |\n| 4 | 2    |"
    );
    // `UNION` knows one zero and one NaN.
    let odd = [0.0, -0.0, f64::NAN, f64::from_bits(0x7ff8_0000_0000_0001)];
    let rows: Vec<_> = odd.iter().map(|weight| (1, None, None, Some(*weight))).collect();
    let sql = "WITH RECURSIVE w(x) AS (SELECT weight FROM events UNION SELECT -x FROM w) SELECT x FROM w";
    assert_eq!(
        answer(&catalog, sql, &events(&catalog, &rows), TICK),
        "| x   |\n| 0.0 |\n| NaN |"
    );
}
