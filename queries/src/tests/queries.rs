//! Ad-hoc queries: anything DataFusion answers, over one tick.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};

use super::{TICK, catalog, events, printed, readings};
use crate::{Catalog, QueryError, Relations};

fn ask(catalog: &Catalog, sql: &str, relations: &Relations) -> Result<String, QueryError> {
    let query = catalog.plan_query(sql).map_err(QueryError::from)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (schema, batches) = runtime.block_on(catalog.run_query(&query, relations, TICK, 64 << 20))?;
    assert!(batches.iter().all(|batch| batch.schema() == schema));
    Ok(printed(&batches))
}

fn answered(sql: &str) -> String {
    let catalog = catalog();
    let rows = events(
        &catalog,
        &[
            (1, Some("a"), Some(2), Some(0.5)),
            (2, Some("b"), Some(0), Some(-0.0)),
            (3, Some("a"), Some(5), Some(0.0)),
        ],
    );
    ask(&catalog, sql, &rows).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

#[test]
fn what_views_cannot_do() {
    assert_eq!(
        answered("SELECT id FROM events ORDER BY id DESC LIMIT 1"),
        "| id |\n| 3  |"
    );
    assert_eq!(
        answered(
            "SELECT id, row_number() OVER (PARTITION BY kind ORDER BY id) AS n, sum(weight) OVER (ORDER BY id) AS s FROM events"
        ),
        "| id | n | s   |\n| 1  | 1 | 0.5 |\n| 2  | 1 | 0.5 |\n| 3  | 2 | 0.5 |"
    );
    assert_eq!(
        answered("SELECT count(DISTINCT kind) AS k, sum(DISTINCT value) AS s, median(value) AS m FROM events"),
        "| k | s | m   |\n| 2 | 7 | 2.0 |"
    );
    assert_eq!(
        answered("SELECT DISTINCT ON (kind) kind, id, value FROM events ORDER BY kind, id DESC"),
        "| kind | id | value |\n| a    | 3  | 5     |\n| b    | 2  | 0     |"
    );
    assert_eq!(
        answered("SELECT kind, count(*) AS n FROM events GROUP BY ROLLUP (kind)"),
        "| kind | n |\n|      | 3 |\n| a    | 2 |\n| b    | 1 |"
    );
    assert_eq!(
        answered("SELECT id FROM events WHERE value > (SELECT avg(value) FROM events)"),
        "| id |\n| 3  |"
    );
    assert_eq!(
        answered("SELECT id FROM events WHERE kind NOT IN (SELECT 'a')"),
        "| id |\n| 2  |"
    );
    assert_eq!(
        answered(
            "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT sum(n) AS s FROM r"
        ),
        "| s |\n| 6 |"
    );
    assert_eq!(
        answered("SELECT sum(value) AS s FROM generate_series(1, 4)"),
        "| s  |\n| 10 |"
    );
    assert_eq!(
        answered("SELECT round(wqi_cpcb(5.5, 6, 7.6, 2.2), 2) AS wqi, wqi_class(83) AS class"),
        "| wqi   | class             |\n| 83.17 | Good to Excellent |"
    );
}

#[test]
fn shared_rules_hold() {
    assert_eq!(
        answered("SELECT weight, count(*) AS n FROM events GROUP BY weight"),
        "| weight | n |\n| 0.0    | 2 |\n| 0.5    | 1 |"
    );
    assert_eq!(
        answered("SELECT last_value(kind ORDER BY kind = 'z') AS k FROM events"),
        "| k |\n| b |"
    );
    assert_eq!(
        answered("SELECT kind FROM events UNION ALL SELECT kind FROM events ORDER BY kind LIMIT 1"),
        "| kind |\n| a    |"
    );
    assert_eq!(
        answered(
            "SELECT sum(s) AS s FROM (SELECT sum(value) AS s FROM (SELECT * FROM events UNION ALL SELECT * FROM events) u GROUP BY kind) t"
        ),
        "| s  |\n| 14 |"
    );
}

#[test]
fn the_tick_is_now() {
    assert_eq!(
        answered("SELECT now() AS n, current_date AS d, now() - INTERVAL '1 month' AS m"),
        "| n                    | d          | m                    |\n| 2026-03-01T00:00:00Z | 2026-03-01 | 2026-02-01T00:00:00Z |"
    );
}

#[test]
fn a_failing_row_fails_the_query() {
    let catalog = catalog();
    let rows = events(&catalog, &[(1, None, Some(0), None)]);
    assert_eq!(
        ask(&catalog, "SELECT 1 / value AS x FROM events", &rows)
            .unwrap_err()
            .to_string(),
        "divide by zero"
    );
}

#[test]
fn system_tables_and_names() {
    let mut catalog = catalog();
    let schema = Arc::new(Schema::new(vec![Field::new("rows", DataType::Int64, false)]));
    catalog.add_system_table("sangam.late", schema.clone()).unwrap();
    let query = catalog
        .plan_query("SELECT l.rows FROM sangam.late l, events e, (SELECT * FROM public.readings) r")
        .unwrap();
    assert_eq!(query.relations(), ["sangam.late", "events", "readings"]);
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(vec![3, 4]))]).unwrap();
    let rows = Relations::from([("sangam.late".to_owned(), (schema, vec![batch]).into())]);
    assert_eq!(
        ask(&catalog, "SELECT sum(rows) AS n FROM sangam.late", &rows).unwrap(),
        "| n |\n| 7 |"
    );
    assert_eq!(
        catalog.plan_view("v", "SELECT rows FROM sangam.late").unwrap_err()[0].what,
        "the system table sangam.late in a view cannot be kept current"
    );
    assert!(
        matches!(ask(&catalog, "SELECT * FROM events", &rows), Err(QueryError::MissingRelation(name)) if name == "events")
    );
}

#[test]
fn columns_of_one_name_are_numbered() {
    assert_eq!(
        answered("SELECT a.id, b.id FROM events a JOIN events b ON a.id = b.id WHERE a.id = 1"),
        "| id | id_2 |\n| 1  | 1    |"
    );
}

#[test]
fn civil_time_in_queries() {
    let catalog = super::catalog_in("Asia/Kolkata");
    let rows = readings(&catalog, &[("a", 66_600_000_000, None)]);
    let answer = ask(
        &catalog,
        "SELECT date_trunc('day', at)::date AS day FROM readings",
        &rows,
    )
    .unwrap();
    assert_eq!(answer, "| day        |\n| 1970-01-02 |");
}

#[test]
fn mistakes_are_one_clear_line() {
    let catalog = catalog();
    for (sql, what) in [
        ("SELECT nope FROM events", "unknown column \"nope\""),
        ("SELECT * FROM evnts", "unknown relation \"evnts\""),
        ("UPDATE events SET id = 1", "UPDATE is not allowed here"),
        ("CREATE TABLE x AS SELECT 1", "CREATE is not allowed here"),
        ("EXPLAIN SELECT 1", "EXPLAIN is not allowed here"),
    ] {
        assert_eq!(catalog.plan_query(sql).unwrap_err().what, what, "{sql}");
    }
}

#[test]
fn a_result_without_an_end_is_stopped() {
    let catalog = catalog();
    let error = ask(
        &catalog,
        "SELECT * FROM generate_series(1, 1000000000) AS a",
        &Relations::new(),
    )
    .unwrap_err();
    assert!(matches!(error, QueryError::TooLarge { .. }), "{error}");
    let error = ask(
        &catalog,
        "SELECT * FROM generate_series(1, 1000000000) AS a(x) ORDER BY x DESC LIMIT 100000000",
        &Relations::new(),
    );
    assert!(matches!(error, Err(QueryError::TooLarge { .. })), "{error:?}");
}
