//! Conditions with `now()` under `OR` and `NOT`, and between columns.

use insta::assert_snapshot;

use super::{TICK, answer, catalog, plain, readings, view};

const MINUTE: i64 = 60_000_000;

const CONDITIONS: &[&str] = &[
    "at > now() - INTERVAL '5 minutes' OR ph > 9",
    "NOT (at < now() - INTERVAL '5 minutes')",
    "NOT (at < now() - INTERVAL '5 minutes' AND ph < 9)",
    "at > now() OR at < now() - INTERVAL '8 minutes'",
    "at NOT BETWEEN now() - INTERVAL '8 minutes' AND now()",
    "now() BETWEEN at AND at + INTERVAL '6 minutes'",
    "now() NOT BETWEEN at AND at + INTERVAL '6 minutes'",
    "(at > now() - INTERVAL '5 minutes' OR ph IS NULL) AND (at <= now() OR station = 'd') AND ph IS NOT NULL",
    "(at > now() - INTERVAL '5 minutes') IS TRUE OR (ph > 9 AND station <> 'a')",
    "(ph > 9 OR at >= now()) AND at > now() - INTERVAL '9 minutes'",
];

#[test]
fn conditions_are_those_of_sql() {
    let catalog = catalog();
    let tick = TICK as i64;
    let rows = readings(
        &catalog,
        &[
            ("a", tick - 10 * MINUTE, Some(9.5)),
            ("b", tick - 6 * MINUTE, None),
            ("c", tick - 4 * MINUTE, Some(1.0)),
            ("d", tick + MINUTE, Some(2.0)),
            ("e", tick - 5 * MINUTE, Some(10.0)),
        ],
    );
    for condition in CONDITIONS {
        let sql = format!("SELECT station FROM readings WHERE {condition}");
        for at in [TICK, TICK + MINUTE as u64, TICK - 5 * MINUTE as u64] {
            assert_eq!(
                answer(&catalog, &sql, &rows, at),
                plain(&catalog, &sql, &rows, at),
                "{sql}"
            );
        }
    }
}

#[test]
fn plans_of_alternatives() {
    let catalog = catalog();
    let plans: Vec<String> = CONDITIONS
        .iter()
        .map(|condition| {
            let sql = format!("SELECT station FROM readings WHERE {condition}");
            format!("{condition}\n{}", view(&catalog, &sql).explain(&catalog))
        })
        .collect();
    assert_snapshot!(plans.join("\n"));
}

#[test]
fn conditions_over_both_sides_of_a_join() {
    let catalog = catalog();
    let tick = TICK as i64;
    let rows = readings(
        &catalog,
        &[
            ("a", tick - 10 * MINUTE, Some(9.5)),
            ("a", tick - 6 * MINUTE, Some(2.0)),
            ("b", tick - 4 * MINUTE, Some(1.0)),
        ],
    );
    let sql = "SELECT x.ph, y.ph AS other FROM readings x JOIN readings y ON x.station = y.station \
               WHERE x.at > now() - INTERVAL '5 minutes' OR (x.ph < y.ph AND y.at <= now() - INTERVAL '8 minutes')";
    let expected = "| ph  | other |\n| 1.0 | 1.0   |\n| 2.0 | 9.5   |";
    assert_eq!(answer(&catalog, sql, &rows, TICK), expected);
    assert_eq!(plain(&catalog, sql, &rows, TICK), expected);
    assert_snapshot!(view(&catalog, sql).explain(&catalog));
}

#[test]
fn what_a_row_fails_on_does_not_hang_on_the_time() {
    let catalog = catalog();
    let rows = readings(
        &catalog,
        &[("a", TICK as i64, Some(1.0)), ("b", TICK as i64, Some(1.0))],
    );
    // `count` is 0 for the first row: it fails, although the bound alone would keep it.
    let sql = "SELECT station FROM readings WHERE at > now() - INTERVAL '5 minutes' OR 10 / count > 1";
    assert_eq!(answer(&catalog, sql, &rows, TICK), "| station |\n| b       |");
}
