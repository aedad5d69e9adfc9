//! What is refused, by name, with a way out.

use insta::assert_snapshot;

use super::catalog;

fn refused(sql: &str) -> String {
    let problems = catalog().plan_view("v", sql).expect_err(sql);
    problems
        .into_iter()
        .map(|problem| {
            let line = problem.line.map_or_else(|| "?".to_owned(), |line| line.to_string());
            format!("{line}: {}\n   {}\n", problem.what, problem.hint.unwrap_or_default())
        })
        .collect()
}

#[test]
fn constructs_that_cannot_be_kept_current() {
    let texts = [
        "SELECT id, sum(value) OVER (ORDER BY id ROWS BETWEEN 1 FOLLOWING AND 1 PRECEDING) AS n FROM events",
        "SELECT id, array_agg(value) OVER (PARTITION BY kind ORDER BY id) AS n FROM events",
        "SELECT e.id, l.n FROM events e LEFT JOIN LATERAL (SELECT unnest(make_array(e.id)) AS n WHERE e.id > 3) l ON true",
        "SELECT kind, count(*) AS n FROM events GROUP BY CUBE (id, kind, value, weight, id + 1, id + 2, id + 3, id + 4, id + 5)",
        "SELECT array_agg(DISTINCT value ORDER BY id) AS m FROM events",
        "SELECT nth_value(value, 0 ORDER BY id) AS m FROM events",
        "SELECT string_agg(kind, kind) AS m FROM events",
        "SELECT percentile_cont(1.5) WITHIN GROUP (ORDER BY value) AS m FROM events",
        "SELECT sum(arrow_cast(weight, 'Decimal256(40, 2)')) AS m FROM events",
        "SELECT id FROM events WHERE random() > 0.5",
        "SELECT uuid() AS u FROM events",
        "SELECT id FROM events e WHERE weight NOT IN (SELECT limit_ph FROM stations s WHERE s.river = e.kind)",
        "SELECT id, (SELECT river FROM stations) AS r FROM events",
    ];
    assert_snapshot!(texts.map(|sql| format!("{sql}\n{}", refused(sql))).join("\n"));
}

#[test]
fn now_outside_time_bounds() {
    let texts = [
        "SELECT now() AS n FROM events",
        "SELECT station FROM readings WHERE at = now()",
        "SELECT station FROM readings WHERE at = now() OR ph > 9",
        "SELECT station FROM readings WHERE CASE WHEN at > now() THEN ph ELSE 1 END > 3",
        "SELECT station FROM readings WHERE (at > now()) IS NOT TRUE",
        "SELECT station FROM readings WHERE at > now() - INTERVAL '1 month'",
        "SELECT station FROM readings WHERE now() - at < INTERVAL '1 hour'",
        "SELECT station FROM readings WHERE date_trunc('day', at) = date_trunc('day', now())",
        "SELECT station, count(*) FILTER (WHERE at > now() - INTERVAL '1 hour') AS n FROM readings GROUP BY station",
        "SELECT station FROM readings WHERE at > current_date",
    ];
    assert_snapshot!(texts.map(|sql| format!("{sql}\n{}", refused(sql))).join("\n"));
}

#[test]
fn mistakes() {
    let texts = [
        "SELECT idd\nFROM events",
        "SELECT id,\n  nonsense\nFROM events",
        "SELECT id\nFROM event",
        "SELECT id FROM nowhere_at_all",
        "SELECT id FROM events WHERE",
        "SELECT sum(kind) AS s FROM events",
        "SELECT id + kind FROM events",
        "SELECT lowr(kind) AS k FROM events",
        "SELECT id, id FROM events",
        "SELECT e.id, s.id FROM events e JOIN events s ON e.id = s.id",
        "SELECT id FROM events e JOIN events s ON e.id = s.id",
        "SELECT kind, count(*) AS n FROM events",
        "SELECT id FROM events WHERE kind",
        "SELECT upper(kind, 3) AS k FROM events",
        "INSERT INTO events VALUES (1)",
        "SELECT 1; SELECT 2",
        "",
        "SELECT 1 / 0 AS x",
        "SELECT CAST('abc' AS BIGINT) AS x FROM events",
    ];
    assert_snapshot!(texts.map(|sql| format!("{sql}\n{}", refused(sql))).join("\n"));
}

/// Each level stands twice, or four times, in the next: planning must not even begin.
#[test]
fn texts_that_grow_once_written_out() {
    let doubled = |levels: usize| {
        let levels = (1..=levels).map(|level| {
            let below = level - 1;
            format!("t{level} AS (SELECT a.id FROM t{below} a JOIN t{below} b ON a.id = b.id)")
        });
        let levels: Vec<String> = levels.collect();
        format!(
            "WITH t0 AS (SELECT id FROM events), {} SELECT id FROM t{}",
            levels.join(", "),
            levels.len()
        )
    };
    let grouped = |levels: usize| {
        (0..levels).fold(
            "SELECT kind AS a, value AS b, 1 AS n FROM events".to_owned(),
            |below, _| format!("SELECT a, b, sum(n) AS n FROM ({below}) AS q GROUP BY CUBE (a, b)"),
        )
    };
    for sql in [doubled(40), grouped(8)] {
        assert!(refused(&sql).contains("written out, this reads more than 1000 relations"));
    }
    for sql in [doubled(5), grouped(3)] {
        assert!(catalog().plan_view("v", &sql).is_ok());
    }
}

#[test]
fn several_problems_at_once() {
    assert_snapshot!(refused(
        "SELECT uuid() AS u,\n  array_agg(DISTINCT value ORDER BY id) AS m\nFROM events GROUP BY kind\nORDER BY 1\nLIMIT 3"
    ));
}

#[test]
fn an_unknown_relation_is_told_apart() {
    let problems = catalog().plan_view("v", "SELECT *\nFROM hourly").unwrap_err();
    assert_eq!(problems[0].kind, crate::ProblemKind::UnknownRelation("hourly".into()));
    assert_eq!(problems[0].line, Some(2));
}

#[test]
fn recursive_terms_that_are_not_linear() {
    let term = |union: &str, term: &str| {
        format!("WITH RECURSIVE r AS (SELECT id, value FROM events UNION{union} {term}) SELECT id FROM r")
    };
    let texts = [
        term("", "SELECT a.id, b.value FROM r a JOIN r b ON a.value = b.id"),
        term(" ALL", "SELECT id, count(*) FROM r WHERE id < 9 GROUP BY id"),
        term(" ALL", "SELECT DISTINCT value, id FROM r WHERE id < 9"),
        term(
            "",
            "SELECT id, value FROM r WHERE id < 9 UNION ALL SELECT id, value FROM events",
        ),
        term("", "SELECT e.id, e.value FROM events e LEFT JOIN r ON r.id = e.value"),
        term("", "SELECT e.id, r.value FROM events e FULL JOIN r ON r.id = e.value"),
        term(
            "",
            "SELECT e.id, r.value FROM r LEFT JOIN events e ON r.id = e.value AND e.weight > r.value",
        ),
        term("", "SELECT id, value FROM events EXCEPT SELECT id, value FROM r"),
        term(
            " ALL",
            "SELECT e.id, e.value FROM events e LEFT SEMI JOIN r ON r.id = e.value",
        ),
        term("", "SELECT id, value FROM events WHERE id IN (SELECT value FROM r)"),
        term(
            "",
            "SELECT r.id, r.value FROM r WHERE EXISTS (SELECT 1 FROM events e WHERE e.id = r.value AND e.value < r.id)",
        ),
        term(
            "",
            "SELECT e.id, r.value FROM r JOIN readings d ON d.count = r.id AND d.at > now() - make_time(r.id)",
        ),
        term("", "SELECT id, sum(value) OVER (ORDER BY id) FROM r"),
        term("", "(SELECT id, value FROM r LIMIT 3)"),
        term("", "SELECT id, value + 1 FROM r WHERE value < 9 ORDER BY id"),
        term("", "SELECT id, value + 1 FROM r WHERE value < 9 LIMIT 3"),
        term(
            "",
            "SELECT 1 AS id, 2 AS value FROM r WHERE false UNION ALL SELECT 1, 2",
        ),
        term(
            "",
            "SELECT id, value FROM (WITH RECURSIVE s AS (SELECT id, value FROM r UNION SELECT id + 1, value FROM s WHERE id < 9) SELECT * FROM s) s",
        ),
    ];
    assert_snapshot!(texts.map(|sql| format!("{sql}\n{}", refused(&sql))).join("\n"));
}
