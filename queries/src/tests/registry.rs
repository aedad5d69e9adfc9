//! Every aggregate and window function of DataFusion is kept current, or stands on a closed list.

use std::collections::{BTreeMap, BTreeSet};

use super::{TICK, answer, catalog, events, plain};

/// A call of each aggregate over `events`.
const AGGREGATES: &[(&str, &str)] = &[
    ("any_value", "any_value(kind)"),
    ("approx_distinct", "approx_distinct(kind)"),
    ("approx_median", "approx_median(weight)"),
    (
        "approx_percentile_cont",
        "approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY weight DESC)",
    ),
    (
        "approx_percentile_cont_with_weight",
        "approx_percentile_cont_with_weight(value, 0.5) WITHIN GROUP (ORDER BY weight)",
    ),
    ("array_agg", "array_agg(kind ORDER BY id DESC)"),
    ("avg", "avg(value)"),
    ("bit_and", "bit_and(value)"),
    ("bit_or", "bit_or(value)"),
    ("bit_xor", "bit_xor(value)"),
    ("bool_and", "bool_and(value > 3)"),
    ("bool_or", "bool_or(value > 3)"),
    ("corr", "corr(weight, value)"),
    ("count", "count(kind, value)"),
    ("covar_pop", "covar_pop(weight, value)"),
    ("covar_samp", "covar_samp(weight, value)"),
    ("first_value", "first_value(kind ORDER BY id)"),
    ("grouping", "grouping(kind)"),
    ("last_value", "last_value(kind ORDER BY id)"),
    ("max", "max(value)"),
    ("median", "median(value)"),
    ("min", "min(value)"),
    ("mode", "mode(value)"),
    ("nth_value", "nth_value(kind, 2 ORDER BY id)"),
    ("percentile_cont", "percentile_cont(0.3) WITHIN GROUP (ORDER BY weight)"),
    ("regr_avgx", "regr_avgx(weight, value)"),
    ("regr_avgy", "regr_avgy(weight, value)"),
    ("regr_count", "regr_count(weight, value)"),
    ("regr_intercept", "regr_intercept(weight, value)"),
    ("regr_r2", "regr_r2(weight, value)"),
    ("regr_slope", "regr_slope(weight, value)"),
    ("regr_sxx", "regr_sxx(weight, value)"),
    ("regr_sxy", "regr_sxy(weight, value)"),
    ("regr_syy", "regr_syy(weight, value)"),
    ("stddev", "stddev(weight)"),
    ("stddev_pop", "stddev_pop(weight)"),
    ("string_agg", "string_agg(kind, ', ' ORDER BY id DESC)"),
    ("sum", "sum(value)"),
    ("var", "var(weight)"),
    ("var_pop", "var_pop(weight)"),
];

/// Aggregates that no view keeps current, and why.
const AGGREGATES_REFUSED: &[(&str, &str)] = &[];

/// A call of each window function over `events`, without its `OVER (ORDER BY id)`.
const WINDOWS: &[(&str, &str)] = &[
    ("cume_dist", "cume_dist()"),
    ("dense_rank", "dense_rank()"),
    ("ewma", "ewma(weight, to_timestamp_micros(id), INTERVAL '1 second')"),
    ("first_value", "first_value(kind)"),
    ("lag", "lag(value)"),
    ("last_value", "last_value(kind) IGNORE NULLS"),
    ("lead", "lead(value, 2, 0)"),
    ("nth_value", "nth_value(kind, 2)"),
    ("ntile", "ntile(3)"),
    ("percent_rank", "percent_rank()"),
    ("rank", "rank()"),
    ("row_number", "row_number()"),
];

/// Window functions that no view keeps current, and why.
const WINDOWS_REFUSED: &[(&str, &str)] = &[];

fn names(list: &[(&str, &str)]) -> BTreeSet<String> {
    list.iter().map(|(name, _)| (*name).to_owned()).collect()
}

#[test]
fn every_aggregate_is_kept_current() {
    let catalog = catalog();
    let session = catalog.session();
    // Aliases are keys of the registry too.
    let mut known: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, function) in session.aggregate_functions() {
        known.entry(function.name().to_owned()).or_default().push(key.clone());
    }
    let listed: BTreeSet<String> = names(AGGREGATES).union(&names(AGGREGATES_REFUSED)).cloned().collect();
    assert_eq!(known.keys().cloned().collect::<BTreeSet<_>>(), listed);
    for (name, call) in AGGREGATES {
        for alias in &known[*name] {
            let call = call.replacen(name, alias, 1);
            for sql in [
                format!("SELECT kind, {call} AS x FROM events GROUP BY kind"),
                format!("SELECT {call} FILTER (WHERE id > 2) AS x FROM events"),
            ] {
                if *name == "grouping" && !sql.contains("GROUP BY") {
                    continue;
                }
                if let Err(problems) = catalog.plan_view("v", &sql) {
                    panic!("{sql}: {problems:#?}");
                }
            }
        }
    }
    for (name, _) in AGGREGATES_REFUSED {
        let sql = format!("SELECT {name}(value) AS x FROM events");
        assert!(
            catalog.plan_view("v", &sql).is_err(),
            "{sql} is kept current: take it off the list"
        );
    }
}

#[test]
fn every_window_function_is_kept_current() {
    let catalog = catalog();
    let session = catalog.session();
    let known: BTreeSet<String> = session
        .window_functions()
        .values()
        .map(|function| function.name().to_owned())
        .collect();
    let listed: BTreeSet<String> = names(WINDOWS).union(&names(WINDOWS_REFUSED)).cloned().collect();
    assert_eq!(known, listed);
    for (_, call) in WINDOWS {
        let sql = format!("SELECT id, {call} OVER (ORDER BY id) AS x FROM events");
        if let Err(problems) = catalog.plan_view("v", &sql) {
            panic!("{sql}: {problems:#?}");
        }
    }
}

/// Numbers in a printed answer, rounded to what two ways of summing agree on.
fn rounded(text: &str) -> String {
    let cell = |cell: &str| match cell.trim().parse::<f64>() {
        Ok(number) => format!("{number:.9}"),
        Err(_) => cell.trim().to_owned(),
    };
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| line.split('|').map(cell).collect::<Vec<_>>().join("|"))
        .collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn aggregates_are_those_of_plain_datafusion() {
    let catalog = catalog();
    let rows: Vec<_> = (0..40i64)
        .map(|id| {
            let kind = ["a", "b", "c"][id as usize * 7 % 3];
            let value = (id % 5 != 0).then_some(id * 31 % 17 - 4);
            let weight = (id % 7 != 0).then_some((id * 13 % 29) as f64 / 8.0 - 1.0);
            (id, (id % 11 != 0).then_some(kind), value, weight)
        })
        // Groups of one row, and without values.
        .chain([(40, Some("one"), Some(3), Some(1.5)), (41, Some("none"), None, None)])
        .collect();
    let relations = events(&catalog, &rows);
    let none = events(&catalog, &[]);
    let more = [
        ("count", "count(DISTINCT kind)"),
        ("sum", "sum(DISTINCT value)"),
        ("median", "median(weight)"),
        ("median", "median(DISTINCT value)"),
        (
            "percentile_cont",
            "percentile_cont(0.25) WITHIN GROUP (ORDER BY value DESC)",
        ),
        ("percentile_cont", "quantile_cont(weight, 0.8)"),
        ("array_agg", "array_agg(DISTINCT kind ORDER BY kind DESC NULLS LAST)"),
        ("array_agg", "array_agg(value ORDER BY id) FILTER (WHERE id % 2 = 0)"),
        ("array_agg", "array_agg(value) IGNORE NULLS"),
        ("string_agg", "string_agg(DISTINCT kind, '-' ORDER BY kind)"),
        ("string_agg", "string_agg(kind, NULL ORDER BY id)"),
        ("nth_value", "nth_value(value, -2 ORDER BY id)"),
        ("nth_value", "nth_value(value, 9 ORDER BY id DESC)"),
        ("bit_xor", "bit_xor(DISTINCT value)"),
        ("first_value", "first_value(DISTINCT value ORDER BY id)"),
        ("avg", "avg(CAST(value AS decimal(10, 2)))"),
        ("avg", "avg(DISTINCT CAST(value AS decimal(10, 2)))"),
        ("median", "median(CAST(value AS decimal(10, 2)))"),
        ("sum", "sum(CAST(id AS integer))"),
        ("bit_or", "bit_or(CAST(value AS smallint))"),
        (
            "sum",
            "sum(TIMESTAMP '2026-01-01T00:00:00' - TIMESTAMP '2025-12-31T00:00:00')",
        ),
    ];
    for (name, call) in AGGREGATES.iter().chain(&more) {
        let arbitrary = call.ends_with("IGNORE NULLS") || *name == "any_value";
        if *name == "grouping" || name.starts_with("approx") || arbitrary {
            continue;
        }
        for (sql, relations) in [
            (
                format!("SELECT kind, {call} AS x FROM events GROUP BY kind"),
                &relations,
            ),
            (format!("SELECT {call} AS x FROM events"), &relations),
            (format!("SELECT {call} AS x FROM events"), &none),
        ] {
            assert_eq!(
                rounded(&answer(&catalog, &sql, relations, TICK)),
                rounded(&plain(&catalog, &sql, relations, TICK)),
                "{sql}"
            );
        }
    }
}

#[test]
fn grouping_sets_are_those_of_plain_datafusion() {
    let catalog = catalog();
    let rows: Vec<_> = (0..30i64)
        .map(|id| {
            let kind = (id % 5 != 0).then_some(["a", "b", "c"][id as usize % 3]);
            (
                id,
                kind,
                (id % 4 != 0).then_some(id % 2),
                (id % 7 != 0).then_some((id % 3) as f64),
            )
        })
        .collect();
    let relations = events(&catalog, &rows);
    for sql in [
        "SELECT kind, value, count(*) AS n, sum(weight) AS s FROM events GROUP BY ROLLUP (kind, value)",
        "SELECT kind, value, grouping(kind) AS k, grouping(value) AS v, grouping(kind, value) AS b, max(id) AS m \
         FROM events GROUP BY CUBE (kind, value)",
        "SELECT kind, value, weight, count(*) AS n FROM events GROUP BY GROUPING SETS ((kind, weight), (value), (value), ())",
        "SELECT id % 3 AS r, kind, grouping(id % 3) AS g, count(DISTINCT value) AS n, sum(value) FILTER (WHERE id > 5) AS f \
         FROM events GROUP BY GROUPING SETS ((id % 3, kind), (id % 3))",
        "SELECT kind, value, count(*) AS n FROM events GROUP BY kind, ROLLUP (value)",
        "SELECT kind FROM events GROUP BY ROLLUP (kind)",
        "SELECT kind, count(*) AS n FROM events GROUP BY ROLLUP (kind) HAVING grouping(kind) = 0 OR count(*) > 3",
        "SELECT weight, string_agg(kind, ',' ORDER BY id) AS k FROM events GROUP BY CUBE (weight)",
    ] {
        assert_eq!(
            rounded(&answer(&catalog, sql, &relations, TICK)),
            rounded(&plain(&catalog, sql, &relations, TICK)),
            "{sql}"
        );
    }
}

#[test]
fn the_empty_set_is_one_row_over_no_rows() {
    let catalog = catalog();
    let none = events(&catalog, &[]);
    let sql = "SELECT kind, count(*) AS n, sum(value) AS s FROM events GROUP BY ROLLUP (kind)";
    assert_eq!(answer(&catalog, sql, &none, TICK), "| kind | n | s |\n|      | 0 |   |");
    let sql = "SELECT kind, grouping(kind) AS g FROM events GROUP BY GROUPING SETS ((kind), (), ())";
    assert_eq!(
        answer(&catalog, sql, &none, TICK),
        "| kind | g |\n|      | 1 |\n|      | 1 |"
    );
    let sql = "SELECT kind, count(*) AS n FROM events GROUP BY GROUPING SETS ((kind))";
    assert_eq!(answer(&catalog, sql, &none, TICK), "");
}

#[test]
fn sketches_are_exact() {
    let catalog = catalog();
    let rows: Vec<_> = (0..1_000i64)
        .map(|id| (id, None, Some(id % 3), Some((id * 7_919 % 1_000) as f64)))
        .collect();
    let relations = events(&catalog, &rows);
    let sql = "SELECT approx_distinct(weight) AS d, approx_median(weight) AS m, \
               approx_percentile_cont(0.25) WITHIN GROUP (ORDER BY weight) AS p, \
               approx_percentile_cont(0.25, 10) WITHIN GROUP (ORDER BY weight DESC) AS q, \
               approx_percentile_cont_with_weight(1, 0.25) WITHIN GROUP (ORDER BY weight) AS w, \
               approx_percentile_cont_with_weight(value, 1) WITHIN GROUP (ORDER BY weight) AS h FROM events";
    assert_eq!(
        answer(&catalog, sql, &relations, TICK),
        "| d    | m     | p      | q      | w      | h     |\n| 1000 | 499.5 | 249.75 | 749.25 | 249.75 | 996.0 |"
    );
}
