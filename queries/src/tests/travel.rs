//! `as_of()`: names and times are settled before anything is planned, and the rows come from whoever runs the query.

use super::{TICK, catalog, catalog_in, events, printed};
use crate::{Catalog, Problem, Relations};

fn asked(catalog: &Catalog, sql: &str) -> Vec<(String, u64)> {
    let query = catalog
        .plan_query_at(sql, TICK)
        .unwrap_or_else(|problem| panic!("{sql}: {problem:?}"));
    let as_of = query.as_of().iter();
    as_of
        .map(|as_of| {
            assert_eq!(as_of.name, format!("{}@{}", as_of.relation, as_of.tick));
            (as_of.relation.clone(), as_of.tick)
        })
        .collect()
}

fn refused(sql: &str) -> Problem {
    catalog().plan_query_at(sql, TICK).expect_err(sql)
}

#[test]
fn times_are_said_in_many_ways() {
    for (time, expected) in [
        ("'2026-02-28 23:00:00'", TICK - 3_600_000_000),
        ("TIMESTAMP '2026-02-28 23:00:00'", TICK - 3_600_000_000),
        ("'2026-03-01T04:30:00+05:30'", TICK - 3_600_000_000),
        ("now() - INTERVAL '1 hour'", TICK - 3_600_000_000),
        ("date_trunc('day', now())", TICK),
        ("1772323200000000", TICK),
        ("now()", TICK),
    ] {
        let sql = format!("SELECT * FROM as_of('events', {time})");
        assert_eq!(asked(&catalog(), &sql), [("events".to_owned(), expected)], "{time}");
    }
    let sql = "SELECT * FROM as_of('events', '2026-03-01 05:30:00')";
    assert_eq!(asked(&catalog_in("Asia/Kolkata"), sql), [("events".to_owned(), TICK)]);
}

#[test]
fn calls_stand_wherever_a_relation_may() {
    let sql = "WITH before AS (SELECT * FROM AS_OF(events, 5)) \
               SELECT count(*) FROM before b JOIN as_of('events', 6) AS e ON e.id = b.id, events \
               WHERE EXISTS (SELECT 1 FROM as_of('stations', 5)) \
               AND e.id IN (SELECT id FROM as_of('events', 5))";
    let expected = [("events", 5), ("events", 6), ("stations", 5)].map(|(name, tick)| (name.to_owned(), tick));
    let mut found = asked(&catalog(), sql);
    found.sort();
    assert_eq!(found, expected);
    let query = catalog().plan_query_at(sql, TICK).unwrap();
    assert_eq!(query.relations(), ["events"]);
    let inner = "SELECT * FROM tumble(as_of('readings', 7), at, INTERVAL '1 hour')";
    assert_eq!(asked(&catalog(), inner), [("readings".to_owned(), 7)]);
}

#[test]
fn earlier_rows_stand_beside_those_of_now() {
    let catalog = catalog();
    let mut relations = events(&catalog, &[(1, Some("a"), Some(5), None), (2, None, None, None)]);
    let earlier = events(&catalog, &[(1, Some("a"), Some(3), None)]);
    let earlier: Relations = earlier
        .into_iter()
        .map(|(name, rows)| (format!("{name}@9"), rows))
        .collect();
    relations.extend(earlier);
    let sql = "SELECT n.id, b.value AS was, n.value AS is FROM events n LEFT JOIN as_of('events', 9) b ON b.id = n.id";
    let query = catalog.plan_query_at(sql, TICK).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (_, batches) = runtime
        .block_on(catalog.run_query(&query, &relations, TICK, 64 << 20))
        .unwrap();
    assert_eq!(
        printed(&batches),
        "| id | was | is |\n| 1  | 3   | 5  |\n| 2  |     |    |"
    );
    // Without a name of its own it goes by the relation's.
    let named = catalog
        .plan_query("SELECT events.id FROM as_of('events', 9) WHERE events.value = 3")
        .unwrap();
    let (_, batches) = runtime
        .block_on(catalog.run_query(&named, &relations, TICK, 64 << 20))
        .unwrap();
    assert_eq!(printed(&batches), "| id |\n| 1  |");
}

#[test]
fn what_is_wrong_is_said() {
    for (sql, what) in [
        ("SELECT * FROM as_of('event', 1)", "unknown relation \"event\""),
        (
            "SELECT * FROM as_of(1, 1)",
            "as_of() needs the name of a relation first",
        ),
        (
            "SELECT * FROM as_of('events')",
            "as_of() needs the name of a relation and a time",
        ),
        (
            "SELECT * FROM as_of('events', NULL)",
            "as_of() needs a time, and this is NULL",
        ),
        (
            "SELECT * FROM as_of('events', '1960-01-01')",
            "as_of() needs a time after 1970",
        ),
        (
            "SELECT * FROM as_of('events', (SELECT max(at) FROM readings))",
            "as_of() needs a time that does not depend on any row",
        ),
    ] {
        let problem = refused(sql);
        assert_eq!(problem.what, what, "{sql}");
        assert!(problem.hint.is_some(), "{sql}");
    }
    assert!(
        refused("SELECT * FROM as_of('events', 'yesterday')")
            .what
            .contains("yesterday")
    );
    assert!(catalog().plan_query("SELECT * FROM as_of('events', now())").is_err());
    // Nobody else may use the names that calls are settled to.
    let view = catalog().plan_view("v", "SELECT * FROM \"events@5\"");
    assert_eq!(view.unwrap_err()[0].what, "unknown relation \"events@5\"");
    let view = catalog().plan_view("v", "SELECT * FROM as_of('events', 5)");
    assert!(view.unwrap_err()[0].what.starts_with("as_of() stands in a view"));
}
