//! Window functions, limits and `DISTINCT ON`: plans, and answers where rows tie.

use insta::assert_snapshot;

use super::{Event, TICK, answer, catalog, events, view};

fn explained(sql: &str) -> String {
    let catalog = catalog();
    format!("{sql}\n{}", view(&catalog, sql).explain(&catalog))
}

/// Rows that tie in every column but one.
const ROWS: [Event; 6] = [
    (1, Some("a"), Some(7), Some(0.0)),
    (2, Some("a"), Some(7), Some(-0.0)),
    (3, Some("a"), None, Some(1.5)),
    (4, Some("b"), Some(7), None),
    (5, Some("b"), Some(9), None),
    (6, None, Some(7), None),
];

fn both_ways(sql: &str) -> String {
    let catalog = catalog();
    let forward = answer(&catalog, sql, &events(&catalog, &ROWS), TICK);
    let reversed: Vec<Event> = ROWS.iter().rev().copied().collect();
    let backward = answer(&catalog, sql, &events(&catalog, &reversed), TICK);
    assert_eq!(forward, backward, "{sql}");
    format!("{sql}\n{forward}")
}

#[test]
fn plans_of_windows_and_limits() {
    let texts = [
        "SELECT id, row_number() OVER (PARTITION BY kind ORDER BY value DESC) AS n FROM events",
        "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY kind ORDER BY id) AS n FROM events) e WHERE n <= 3",
        "SELECT id, sum(value) OVER (ORDER BY id ROWS 5 PRECEDING) AS s, lag(value, 2, 0) OVER (ORDER BY id) AS l, \
         count(*) OVER (PARTITION BY weight + 1) AS c FROM events",
        "SELECT id, kind FROM events ORDER BY value * 2 DESC, kind LIMIT 3 OFFSET 1",
        "SELECT count(*) AS n FROM (SELECT id FROM events LIMIT 5) e",
        "SELECT DISTINCT ON (kind) kind, id FROM events ORDER BY kind, value",
        "SELECT id FROM events ORDER BY id",
    ];
    assert_snapshot!(texts.map(explained).join("\n"));
}

#[test]
fn answers_do_not_depend_on_the_order_rows_came_in() {
    let texts = [
        "SELECT id, row_number() OVER (ORDER BY value) AS n, rank() OVER (ORDER BY value) AS r FROM events",
        "SELECT id, dense_rank() OVER (PARTITION BY kind, weight ORDER BY weight NULLS FIRST) AS d, \
         count(kind) OVER (ORDER BY value NULLS FIRST) AS c, \
         count(*) OVER (PARTITION BY value ORDER BY id, kind DESC ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS p \
         FROM events",
        "SELECT id, sum(weight) OVER (PARTITION BY kind ORDER BY value ROWS 1 PRECEDING) AS s, \
         max(weight) OVER (PARTITION BY kind ORDER BY value ROWS 1 PRECEDING) AS m FROM events",
        "SELECT id, count(*) OVER (ORDER BY weight RANGE BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS n FROM events",
        "SELECT r FROM (SELECT kind, rank() OVER () AS r, count(*) OVER (PARTITION BY kind) AS n FROM events) AS pruned",
        "SELECT id, kind FROM events ORDER BY kind DESC LIMIT 2",
        "SELECT id FROM events LIMIT 2",
        "SELECT DISTINCT ON (kind) kind, id FROM events ORDER BY kind, value DESC",
    ];
    assert_snapshot!(texts.map(both_ways).join("\n\n"));
}
