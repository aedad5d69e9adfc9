//! Functions of ours beside scalar ones: plans, answers, misuse.

use insta::assert_snapshot;

use super::{TICK, answer, catalog, events, readings, view};

const MINUTE: i64 = 60_000_000;

#[test]
fn plans_of_our_functions() {
    let texts = [
        "SELECT kind, mode(value) AS usual, mode(DISTINCT kind) FILTER (WHERE id > 2) AS k FROM events GROUP BY kind",
        "SELECT station, at, ewma(ph + 1, at, INTERVAL '1 hour') OVER (PARTITION BY station ORDER BY at) AS mean FROM readings",
        "SELECT c.node, c.risk, c.path FROM cascade((SELECT station, limit_ph FROM stations WHERE river IS NOT NULL), \
         (SELECT a.station, b.station, a.limit_ph / 2 FROM stations a JOIN stations b ON a.river = b.river), 0.5, 3) c \
         WHERE c.hops > 0",
    ];
    let explained = texts.map(|sql| {
        let catalog = catalog();
        format!("{sql}\n{}", view(&catalog, sql).explain(&catalog))
    });
    assert_snapshot!(explained.join("\n"));
}

#[test]
fn answers_of_our_functions() {
    let catalog = catalog();
    let rows = [
        (1, Some("a"), Some(2), Some(8.0)),
        (2, Some("b"), Some(3), Some(0.5)),
        (3, Some("b"), Some(1), Some(-0.0)),
        (4, None, Some(1), Some(2.0)),
    ];
    let rows = events(&catalog, &rows);
    // Links from an id to a value, weighed, from the risks of two of them.
    let sql = "SELECT * FROM cascade((SELECT id, weight FROM events WHERE id IN (1, 3)), (SELECT id, value FROM events), 0.5, 3)";
    assert_eq!(
        answer(&catalog, sql, &rows, TICK),
        "\
| node | risk | source | hops | path      |
| 1    | 8.0  | 1      | 0    | [1]       |
| 2    | 4.0  | 1      | 1    | [1, 2]    |
| 3    | 2.0  | 1      | 2    | [1, 2, 3] |"
    );
    // Nodes of two types meet in one; a source that is reached more strongly shows that.
    let sql = "SELECT node, risk, hops FROM cascade((SELECT CAST(id AS integer), weight FROM events), \
               (SELECT id, value, 0.5 FROM events), 1, 1) ORDER BY node LIMIT 3";
    assert_eq!(
        answer(&catalog, sql, &rows, TICK),
        "\
| node | risk | hops |
| 1    | 8.0  | 0    |
| 2    | 4.0  | 1    |
| 3    | 0.25 | 1    |"
    );
    let sql =
        "SELECT mode(kind) AS kind, mode(value) AS value, mode(weight) FILTER (WHERE weight < 1) AS w FROM events";
    assert_eq!(
        answer(&catalog, sql, &rows, TICK),
        "| kind | value | w   |\n| b    | 1     | 0.0 |"
    );
    let rows = readings(
        &catalog,
        &[
            ("a", TICK as i64, Some(6.0)),
            ("a", TICK as i64 + 10 * MINUTE, Some(9.0)),
            ("a", TICK as i64 + 30 * MINUTE, None),
        ],
    );
    let sql = "SELECT ewma(ph, at, INTERVAL '10 minutes') OVER (ORDER BY at) AS m, \
               ewma(CAST(NULL AS double), at, INTERVAL '10 minutes') OVER (ORDER BY at) AS none FROM readings";
    assert_eq!(
        answer(&catalog, sql, &rows, TICK),
        "| m   | none |\n| 6.0 |      |\n| 8.0 |      |\n| 8.0 |      |"
    );
}

#[test]
fn misuse_is_told() {
    let catalog = catalog();
    for (sql, said) in [
        ("SELECT * FROM cascade(stations)", "reads more relations than are given"),
        (
            "SELECT * FROM cascade(stations, stations, 1, 2)",
            "sources of two columns",
        ),
        (
            "SELECT * FROM cascade((SELECT station, limit_ph FROM stations), (SELECT station FROM stations), 1, 2)",
            "links of two columns",
        ),
        (
            "SELECT * FROM cascade((SELECT station, river FROM stations), (SELECT station, river FROM stations), 1, 2)",
            "a number as the risk",
        ),
        (
            "SELECT * FROM cascade((SELECT station, limit_ph FROM stations), (SELECT station, river FROM stations), 0, 2)",
            "a number above 0 as its decay",
        ),
        (
            "SELECT * FROM cascade((SELECT station, limit_ph FROM stations), (SELECT station, river FROM stations), 1, 65)",
            "a number of hops from 1 to 64",
        ),
        (
            "SELECT * FROM cascade((SELECT station, limit_ph FROM stations), (SELECT station, river FROM stations), 1, 1 + 1)",
            "plain numbers",
        ),
        ("SELECT * FROM cascade(1, stations, 1, 1)", "the name of a relation"),
        (
            "SELECT ewma(ph, at) OVER (ORDER BY at) AS x FROM readings",
            "a value, its time and a half-life",
        ),
        (
            "SELECT ewma(ph, at, INTERVAL '1 month') OVER (ORDER BY at) AS x FROM readings",
            "days or less",
        ),
    ] {
        match catalog.plan_view("v", sql) {
            Ok(_) => panic!("{sql} is planned"),
            Err(problems) => {
                assert!(problems[0].what.contains(said), "{sql}: {problems:?}");
                assert!(
                    problems[0].hint.as_ref().is_some_and(|hint| hint.starts_with("Write ")),
                    "{sql}: {problems:?}"
                );
            }
        }
    }
}
