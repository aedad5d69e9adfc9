//! Texts that hold JSON, and types that no source has.

use insta::assert_snapshot;

use super::{TICK, answer, catalog, events, view};

#[test]
fn json_is_taken_apart() {
    let catalog = catalog();
    let rows = events(
        &catalog,
        &[
            (1, Some(r#"{"a": 1, "b": {"c": "x"}, "l": [1, 2]}"#), None, None),
            (2, Some(r#"{"a": "one", "b": null}"#), None, None),
            (3, Some("no json"), None, None),
            (4, None, None, None),
        ],
    );
    let texts = [
        "SELECT id, json_get_int(kind, 'a') AS a, kind ->> 'a' AS t, kind -> 'b' AS b, kind -> 'b' ->> 'c' AS c FROM events",
        "SELECT id, kind ? 'a' AS has, json_length(kind, 'l') AS n, json_get_json(kind, 'l') AS l FROM events",
        "SELECT kind -> 'b' -> 'c' AS c, json_get(kind, 'a') AS a, (kind -> 'a')::bigint AS n FROM events",
        "SELECT kind ->> 'a' AS a, count(*) AS n FROM events GROUP BY kind ->> 'a'",
        "SELECT id FROM events WHERE kind ->> 'a' = 'one' OR kind -> 'b' ->> 'c' IS NOT NULL",
        "SELECT id, x FROM events e, unnest(json_get_array(e.kind, 'l')) AS u(x)",
    ];
    assert_snapshot!(
        texts
            .map(|sql| format!("{sql}\n{}\n", answer(&catalog, sql, &rows, TICK)))
            .join("\n")
    );
}

#[test]
fn values_of_no_one_type_are_not_kept() {
    let catalog = catalog();
    let texts = [
        "SELECT kind -> 'a' AS a, count(*) AS n FROM events GROUP BY kind -> 'a'",
        "SELECT DISTINCT kind -> 'a' AS a FROM events",
        "SELECT max(kind -> 'a') AS a FROM events",
        "SELECT e.id FROM events e JOIN events f ON (e.kind -> 'a') = (f.kind -> 'a')",
        "SELECT id FROM events WHERE kind -> 'a' = 1",
        "SELECT id FROM events WHERE kind -> 'a' IS NOT NULL AND (kind -> 'b')::double > 3",
        "SELECT make_array(kind -> 'a') AS a FROM events",
        "SELECT arrow_cast(kind, 'Dictionary(Int32, Utf8)') AS k, count(*) AS n FROM events GROUP BY k",
    ];
    let told = texts.map(|sql| {
        let told = match catalog.plan_view("v", sql) {
            Ok(view) => view.explain(&catalog),
            Err(problems) => problems
                .into_iter()
                .map(|problem| format!("{}\n   {}\n", problem.what, problem.hint.unwrap_or_default()))
                .collect(),
        };
        format!("{sql}\n{told}")
    });
    assert_snapshot!(told.join("\n"));
}

#[test]
fn types_that_no_source_has() {
    let catalog = catalog();
    let rows = events(
        &catalog,
        &[
            (1, Some("a1"), Some(3), Some(0.5)),
            (2, Some("b("), Some(-7), None),
            (3, None, None, Some(2.5)),
        ],
    );
    let texts = [
        "SELECT id, INTERVAL '1 hour' + INTERVAL '3 days' AS i FROM events WHERE id = 1",
        "SELECT INTERVAL '1 day' AS i, count(*) AS n FROM events GROUP BY i",
        "SELECT CAST(concat(CAST(id AS text), ' days') AS interval) AS i, count(*) AS n FROM events GROUP BY i",
        "SELECT CAST(value AS decimal(20, 3)) * CAST(1.5 AS decimal(20, 3)) AS d FROM events",
        "SELECT sum(CAST(value AS decimal(38, 2))) AS s, max(CAST(value AS decimal(38, 2))) AS m FROM events",
        "SELECT arrow_cast(value, 'Decimal256(50, 3)') AS d, count(*) AS n FROM events GROUP BY d",
        "SELECT encode(CAST(kind AS bytea), 'hex') AS b, CAST(kind AS bytea) AS v FROM events",
        "SELECT CAST(kind AS bytea) AS b, count(*) AS n FROM events GROUP BY b",
        "SELECT DATE '2026-01-31' + INTERVAL '1 month' AS d, CAST('01:02:03' AS time) AS t FROM events WHERE id = 1",
        "SELECT CAST('01:02:03' AS time) AS t, DATE '2026-01-31' AS d, count(*) AS n FROM events GROUP BY t, d",
        "SELECT arrow_cast(kind, 'Dictionary(Int32, Utf8)') AS k FROM events",
        "SELECT id, regexp_replace(kind, '[0-9]', 'x') AS r, regexp_like(kind, '^a') AS m FROM events",
        "SELECT id FROM events WHERE kind ~ '^[ab]1'",
        // A pattern of its own for each row, one of them bad.
        "SELECT id, regexp_like('b', kind) AS m FROM events",
    ];
    assert_snapshot!(
        texts
            .map(|sql| {
                let view = view(&catalog, sql);
                let types: Vec<String> = view
                    .schema
                    .fields()
                    .iter()
                    .map(|field| field.data_type().to_string())
                    .collect();
                format!("{sql}\n{}\n{}\n", types.join(", "), answer(&catalog, sql, &rows, TICK))
            })
            .join("\n")
    );
    for sql in [
        "SELECT id FROM events WHERE kind ~ '('",
        "SELECT regexp_replace(kind, '(', 'x') AS r FROM events",
        "SELECT regexp_like(kind, '[') AS r FROM events",
    ] {
        match catalog.plan_view("v", sql) {
            Err(problems) => println!("{sql}: {problems:?}"),
            // Then every row fails, and nothing panics.
            Ok(_) => println!("{sql}: {}", answer(&catalog, sql, &rows, TICK)),
        }
    }
}
