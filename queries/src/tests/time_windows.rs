//! `tumble`, `hop`, `cumulate` and `session` in `FROM`.

use insta::assert_snapshot;

use super::{Catalog, Relations, TICK, answer, catalog, catalog_in, plain, printed, readings, view};

const MINUTE: i64 = 60_000_000;

/// Readings at some minutes after the tick's midnight.
fn at_minutes(catalog: &Catalog, minutes: &[(&str, i64)]) -> Relations {
    let rows: Vec<_> = minutes
        .iter()
        .map(|(station, minute)| (*station, TICK as i64 + minute * MINUTE, Some(*minute as f64)))
        .collect();
    readings(catalog, &rows)
}

fn queried(catalog: &Catalog, sql: &str, relations: &Relations) -> String {
    let query = catalog
        .plan_query(sql)
        .unwrap_or_else(|problem| panic!("{sql}: {problem}"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (_, batches) = runtime
        .block_on(catalog.run_query(&query, relations, TICK, 1 << 24))
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    printed(&batches)
}

#[test]
fn windows_one_after_the_other() {
    let catalog = catalog();
    let rows = at_minutes(&catalog, &[("a", 0), ("a", 9), ("b", 10), ("b", -1)]);
    let sql = "SELECT station, window_start, window_end FROM tumble(readings, at, INTERVAL '10 minutes')";
    let expected = "\
| station | window_start         | window_end           |
| a       | 2026-03-01T00:00:00Z | 2026-03-01T00:10:00Z |
| a       | 2026-03-01T00:00:00Z | 2026-03-01T00:10:00Z |
| b       | 2026-02-28T23:50:00Z | 2026-03-01T00:00:00Z |
| b       | 2026-03-01T00:10:00Z | 2026-03-01T00:20:00Z |";
    assert_eq!(answer(&catalog, sql, &rows, TICK), expected);
    assert_eq!(plain(&catalog, sql, &rows, TICK), expected);
    assert_eq!(queried(&catalog, sql, &rows), expected);
    let sql = "SELECT w.window_start, count(*) AS n, max(w.ph) AS m \
               FROM tumble(readings, at, INTERVAL '10 minutes', INTERVAL '-1 minute') AS w GROUP BY w.window_start";
    assert_eq!(
        answer(&catalog, sql, &rows, TICK),
        "\
| window_start         | n | m    |
| 2026-02-28T23:59:00Z | 2 | 0.0  |
| 2026-03-01T00:09:00Z | 2 | 10.0 |"
    );
}

#[test]
fn windows_that_overlap() {
    let catalog = catalog();
    let rows = at_minutes(&catalog, &[("a", 0), ("b", 7)]);
    let sql =
        "SELECT station, window_start, window_end FROM hop(readings, at, INTERVAL '5 minutes', INTERVAL '12 minutes')";
    let expected = "\
| station | window_start         | window_end           |
| a       | 2026-02-28T23:50:00Z | 2026-03-01T00:02:00Z |
| a       | 2026-02-28T23:55:00Z | 2026-03-01T00:07:00Z |
| a       | 2026-03-01T00:00:00Z | 2026-03-01T00:12:00Z |
| b       | 2026-03-01T00:00:00Z | 2026-03-01T00:12:00Z |
| b       | 2026-03-01T00:05:00Z | 2026-03-01T00:17:00Z |";
    assert_eq!(answer(&catalog, sql, &rows, TICK), expected);
    assert_eq!(plain(&catalog, sql, &rows, TICK), expected);
    let sql = "SELECT station, window_start, window_end FROM cumulate(readings, at, INTERVAL '5 minutes', INTERVAL '15 minutes')";
    let expected = "\
| station | window_start         | window_end           |
| a       | 2026-03-01T00:00:00Z | 2026-03-01T00:05:00Z |
| a       | 2026-03-01T00:00:00Z | 2026-03-01T00:10:00Z |
| a       | 2026-03-01T00:00:00Z | 2026-03-01T00:15:00Z |
| b       | 2026-03-01T00:00:00Z | 2026-03-01T00:10:00Z |
| b       | 2026-03-01T00:00:00Z | 2026-03-01T00:15:00Z |";
    assert_eq!(answer(&catalog, sql, &rows, TICK), expected);
}

#[test]
fn days_are_counted_in_utc() {
    let catalog = catalog_in("Europe/Berlin");
    // The day on which the clocks are put forward.
    let at = 1_774_746_000_000_000;
    let rows = readings(&catalog, &[("a", at, None)]);
    let sql =
        "SELECT CAST(window_end - window_start AS text) AS d, window_start FROM tumble(readings, at, INTERVAL '1 day')";
    assert_snapshot!(answer(&catalog, sql, &rows, TICK));
}

#[test]
fn relations_of_every_kind() {
    let catalog = catalog();
    let rows = at_minutes(&catalog, &[("a", 0), ("a", 9), ("b", 10)]);
    let window = "at, INTERVAL '10 minutes')";
    for sql in [
        format!("WITH q AS (SELECT * FROM readings WHERE ph > 1) SELECT station, window_end FROM tumble(q, {window}"),
        format!("SELECT s.station, s.window_end FROM tumble((SELECT * FROM readings WHERE ph > 1), {window} s"),
        format!("SELECT readings.station, readings.window_end FROM TUMBLE(readings, readings.{window} WHERE ph > 1"),
    ] {
        assert_eq!(
            answer(&catalog, &sql, &rows, TICK),
            "\
| station | window_end           |
| a       | 2026-03-01T00:10:00Z |
| b       | 2026-03-01T00:20:00Z |",
            "{sql}"
        );
    }
    let sql = "SELECT a.station, b.station AS other FROM tumble(readings, at, INTERVAL '10 minutes') a \
               JOIN hop(readings, at, INTERVAL '10 minutes', INTERVAL '20 minutes') b \
               ON a.window_start = b.window_start AND a.ph < b.ph";
    assert_eq!(
        answer(&catalog, sql, &rows, TICK),
        "\
| station | other |
| a       | a     |
| a       | b     |
| a       | b     |"
    );
    assert_eq!(view(&catalog, sql).inputs, ["readings"]);
    let text = "SELECT 1 FROM tumble(hop((SELECT * FROM a JOIN b USING (x)), t, INTERVAL '1 s'), u, INTERVAL '1 s'), session(c, t)";
    assert_eq!(Catalog::references(text).unwrap(), ["a", "b", "c"]);
}

#[test]
fn a_session_ends_after_a_gap() {
    let catalog = catalog();
    let rows = at_minutes(
        &catalog,
        &[
            ("a", 0),
            ("a", 4),
            ("b", 5),
            ("a", 9),
            ("a", 9),
            ("a", 13),
            ("b", 30),
            ("a", 18),
        ],
    );
    let sql = "SELECT station, ph, window_start, window_end FROM session(readings, at, INTERVAL '5 minutes', station)";
    let expected = "\
| station | ph   | window_start         | window_end           |
| a       | 0.0  | 2026-03-01T00:00:00Z | 2026-03-01T00:09:00Z |
| a       | 13.0 | 2026-03-01T00:09:00Z | 2026-03-01T00:18:00Z |
| a       | 18.0 | 2026-03-01T00:18:00Z | 2026-03-01T00:23:00Z |
| a       | 4.0  | 2026-03-01T00:00:00Z | 2026-03-01T00:09:00Z |
| a       | 9.0  | 2026-03-01T00:09:00Z | 2026-03-01T00:18:00Z |
| a       | 9.0  | 2026-03-01T00:09:00Z | 2026-03-01T00:18:00Z |
| b       | 30.0 | 2026-03-01T00:30:00Z | 2026-03-01T00:35:00Z |
| b       | 5.0  | 2026-03-01T00:05:00Z | 2026-03-01T00:10:00Z |";
    assert_eq!(queried(&catalog, sql, &rows), expected);
    assert_eq!(plain(&catalog, sql, &rows, TICK), expected);
    let sql = "SELECT window_start, window_end, count(*) AS n FROM session(readings, at, INTERVAL '5 minutes') GROUP BY window_start, window_end";
    assert_eq!(
        queried(&catalog, sql, &rows),
        "\
| window_start         | window_end           | n |
| 2026-03-01T00:00:00Z | 2026-03-01T00:18:00Z | 6 |
| 2026-03-01T00:18:00Z | 2026-03-01T00:23:00Z | 1 |
| 2026-03-01T00:30:00Z | 2026-03-01T00:35:00Z | 1 |"
    );
}

#[test]
fn plans_of_windows() {
    let catalog = catalog();
    let texts = [
        "SELECT window_start, count(*) AS n FROM tumble(readings, at, INTERVAL '10 minutes') GROUP BY window_start",
        "SELECT window_start, window_end, max(ph) AS m FROM hop(readings, at, INTERVAL '5 minutes', INTERVAL '1 hour') \
         WHERE ph > 3 AND window_end > now() - INTERVAL '1 hour' GROUP BY window_start, window_end",
        "SELECT station, window_end FROM cumulate(readings, at, INTERVAL '1 hour', INTERVAL '1 day')",
    ];
    assert_snapshot!(texts.map(|sql| view(&catalog, sql).explain(&catalog)).join("\n"));
}

#[test]
fn misuse_is_told() {
    let calls = [
        "tumble(reading, at, INTERVAL '1 hour')",
        "tumble(readings, att, INTERVAL '1 hour')",
        "tumble(readings, ph, INTERVAL '1 hour')",
        "tumble(readings, at + INTERVAL '1 hour', INTERVAL '1 hour')",
        "tumble(readings, at)",
        "tumble(readings, at, NULL)",
        "tumble(readings, at, 10)",
        "tumble(readings, at, INTERVAL '-1 hour')",
        "tumble(readings, at, INTERVAL '0 hours')",
        "tumble(readings, at, INTERVAL '1 month')",
        "tumble(readings, at, INTERVAL '1 hour', INTERVAL '1 hour', 3)",
        "tumble(readings, at, size => INTERVAL '1 hour')",
        "tumble()",
        "tumble(1, at, INTERVAL '1 hour')",
        "tumble(tumble(readings, at, INTERVAL '1 hour'), at, INTERVAL '1 hour')",
        "hop(readings, at, INTERVAL '1 hour')",
        "hop(readings, at, INTERVAL '1 second', INTERVAL '1 day')",
        "cumulate(readings, at, INTERVAL '7 minutes', INTERVAL '1 hour')",
        "session(readings, at, INTERVAL '1 hour', upper(station))",
    ];
    let catalog = catalog();
    let told = calls.map(|call| {
        let sql = format!("SELECT station\nFROM {call}");
        let problem = catalog.plan_query(&sql).expect_err(call);
        format!(
            "{call}\n{:?}: {}\n   {}\n",
            problem.line,
            problem.what,
            problem.hint.unwrap_or_default()
        )
    });
    assert_snapshot!(told.join("\n"));
}
