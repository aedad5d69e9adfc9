//! Lists, structs and maps, and what takes them apart.

use insta::assert_snapshot;

use super::{TICK, answer, catalog, events, plain, view};

#[test]
fn elements_become_rows() {
    let catalog = catalog();
    let rows = events(
        &catalog,
        &[
            (1, Some("a b"), Some(3), None),
            (2, None, Some(1), None),
            (3, Some(""), Some(0), Some(0.5)),
        ],
    );
    for (sql, expected) in [
        (
            "SELECT id, unnest(make_array(id, value, 7)) AS x FROM events WHERE id < 3",
            "| id | x |\n| 1  | 1 |\n| 1  | 3 |\n| 1  | 7 |\n| 2  | 1 |\n| 2  | 2 |\n| 2  | 7 |",
        ),
        (
            "SELECT id, unnest(string_to_array(kind, ' ')) AS word FROM events",
            // A text without words has no list of words, as NULL has none.
            "| id | word |\n| 1  | a    |\n| 1  | b    |",
        ),
        (
            "SELECT id, unnest(make_array(1, 2)) AS x, unnest(make_array(id)) AS y FROM events WHERE id = 2",
            "| id | x | y |\n| 2  | 1 | 2 |\n| 2  | 2 |   |",
        ),
        (
            "SELECT e.id, u.x FROM events e, unnest(make_array(e.value, e.id * 10)) AS u(x)",
            "| id | x  |\n| 1  | 10 |\n| 1  | 3  |\n| 2  | 1  |\n| 2  | 20 |\n| 3  | 0  |\n| 3  | 30 |",
        ),
        (
            "SELECT e.id, u.x, v.y FROM events e CROSS JOIN unnest(make_array(e.id, e.value)) u(x) \
             CROSS JOIN unnest(make_array(u.x, u.x + 1)) v(y) WHERE v.y < 2",
            "| id | x | y |\n| 1  | 1 | 1 |\n| 2  | 1 | 1 |\n| 3  | 0 | 0 |\n| 3  | 0 | 1 |",
        ),
        (
            "SELECT e.id, l.x FROM events e CROSS JOIN LATERAL (SELECT unnest(range(0, e.value)) + 1 AS x) l WHERE l.x > 1",
            "| id | x |\n| 1  | 2 |\n| 1  | 3 |",
        ),
        (
            "SELECT e.id, l.x FROM events e JOIN LATERAL (SELECT y * 2 AS x FROM (SELECT unnest(range(0, e.value)) AS y)) l ON l.x > e.id",
            "| id | x |\n| 1  | 2 |\n| 1  | 4 |",
        ),
        (
            "SELECT e.id, u.x FROM events e LEFT JOIN unnest(string_to_array(e.kind, ' ')) u(x) ON true",
            "| id | x |\n| 1  | a |\n| 1  | b |\n| 2  |   |\n| 3  |   |",
        ),
        (
            "SELECT x, count(*) AS n FROM (SELECT unnest(make_array(make_array(id, 1), make_array(2))) AS x FROM events) GROUP BY x",
            "| x      | n |\n| [1, 1] | 1 |\n| [2, 1] | 1 |\n| [2]    | 3 |\n| [3, 1] | 1 |",
        ),
        (
            "SELECT id, unnest(unnest(make_array(make_array(id, 1), make_array(2)))) AS x FROM events WHERE id < 2",
            "| id | x |\n| 1  | 1 |\n| 1  | 1 |\n| 1  | 2 |",
        ),
        (
            "SELECT unnest(named_struct('a', id, 'b', kind)) FROM events WHERE id < 3",
            "| a | b   |\n| 1 | a b |\n| 2 |     |",
        ),
    ] {
        let sql = match sql.starts_with("SELECT unnest(named") {
            true => format!("SELECT * FROM ({sql}) AS s(a, b)"),
            false => sql.to_owned(),
        };
        assert_eq!(answer(&catalog, &sql, &rows, TICK), expected, "{sql}");
    }
    let sql = "SELECT id, unnest(make_array(id, value, 7)) AS x FROM events";
    assert_eq!(answer(&catalog, sql, &rows, TICK), plain(&catalog, sql, &rows, TICK));
}

#[test]
fn values_of_values() {
    let catalog = catalog();
    let rows = events(
        &catalog,
        &[
            (1, Some("a"), Some(3), Some(0.5)),
            (2, Some("a"), None, None),
            (3, None, Some(3), None),
        ],
    );
    let texts = [
        "SELECT named_struct('k', kind, 'v', value) AS s, count(*) AS n FROM events GROUP BY s",
        "SELECT make_map('k', kind)['k'] AS k, array_length(make_array(id, value)) AS n FROM events WHERE id = 1",
        "SELECT array_sort(make_array(value, id)) AS l, struct(id, kind) AS s, make_map('x', weight) AS m FROM events",
        "SELECT DISTINCT make_array(kind) AS l FROM events",
        "SELECT a.id, b.id AS other FROM events a JOIN events b ON make_array(a.value) = make_array(b.value) AND a.id < b.id",
        "SELECT named_struct('k', kind)['k'] AS k, [id, value][2] AS v, array_has([1, 2], id) AS h FROM events",
    ];
    for sql in texts {
        assert_eq!(
            answer(&catalog, sql, &rows, TICK),
            plain(&catalog, sql, &rows, TICK),
            "{sql}"
        );
    }
}

#[test]
fn plans_of_lists() {
    let catalog = catalog();
    let texts = [
        "SELECT e.id, u.x FROM events e, unnest(make_array(e.value, e.id)) AS u(x) WHERE u.x > 3 AND e.weight > 1",
        "SELECT e.id, u.x FROM events e LEFT JOIN unnest(string_to_array(e.kind, ' ')) u(x) ON true",
        "SELECT unnest(named_struct('a', id, 'b', kind)) FROM events",
    ];
    assert_snapshot!(texts.map(|sql| view(&catalog, sql).explain(&catalog)).join("\n"));
}
