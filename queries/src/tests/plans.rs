//! Golden plans: SQL in, the printed incremental plan out.

use insta::assert_snapshot;

use super::{catalog, view};

fn explained(sql: &str) -> String {
    let catalog = catalog();
    view(&catalog, sql).explain(&catalog)
}

#[test]
fn filter_and_project() {
    assert_snapshot!(explained(
        "SELECT id, value * 2 + 1 AS twice, upper(kind) AS kind FROM events WHERE value > 10 AND kind <> 'x'"
    ));
}

#[test]
fn select_star() {
    assert_snapshot!(explained("SELECT * FROM readings"));
}

#[test]
fn grouped_by_time() {
    assert_snapshot!(explained(
        "SELECT station, date_bin(INTERVAL '1 hour', at) AS hour, avg(ph) AS ph, count(*) AS readings, \
         max(ph) FILTER (WHERE ph < 14) AS highest, last_value(ph ORDER BY at) AS latest \
         FROM readings GROUP BY station, hour HAVING count(*) > 3"
    ));
}

#[test]
fn temporal() {
    assert_snapshot!(explained(
        "SELECT station, count(*) AS n FROM readings WHERE at > now() - INTERVAL '10 minutes' AND ph > 9 GROUP BY station"
    ));
}

#[test]
fn temporal_over_an_expression() {
    assert_snapshot!(explained(
        "SELECT station FROM readings WHERE date_bin(INTERVAL '1 hour', at) BETWEEN now() - INTERVAL '1 day' AND now()"
    ));
}

#[test]
fn joins() {
    assert_snapshot!(explained(
        "SELECT r.station, r.ph, s.river, e.kind FROM readings r JOIN stations s ON r.station = s.station AND r.ph > s.limit_ph \
         LEFT JOIN events e ON e.kind = lower(s.river) AND e.value > 0 AND r.ph > 3"
    ));
}

#[test]
fn distinct_and_union() {
    assert_snapshot!(explained(
        "SELECT station FROM readings UNION SELECT upper(station) FROM stations"
    ));
    assert_snapshot!(explained(
        "SELECT kind AS k FROM events UNION ALL SELECT river FROM stations"
    ));
    assert_snapshot!(explained("SELECT DISTINCT kind, weight FROM events"));
}

#[test]
fn global_counts() {
    assert_snapshot!(explained("SELECT count(*) AS n FROM events"));
    assert_snapshot!(explained(
        "SELECT count(*) AS n, sum(value) AS total FROM events WHERE value / id > 3"
    ));
}

#[test]
fn constants() {
    assert_snapshot!(explained("SELECT 1 + 1 AS two, 'x' AS x"));
    assert_snapshot!(explained(
        "SELECT e.id, l.name FROM events e JOIN (VALUES ('a', 'Alpha'), ('b', 'Beta')) AS l(kind, name) ON e.kind = l.kind"
    ));
}

#[test]
fn views_over_views() {
    let mut catalog = catalog();
    let hourly = catalog
        .plan_view("hourly", "SELECT station, date_bin(INTERVAL '1 hour', at) AS hour, avg(ph) AS ph FROM readings GROUP BY station, hour")
        .unwrap();
    assert_eq!(
        hourly.implied_key.as_deref(),
        Some(["station".to_owned(), "hour".to_owned()].as_slice())
    );
    assert_eq!(hourly.inputs, ["readings"]);
    catalog.add_view(hourly).unwrap();
    let view = view(
        &catalog,
        "SELECT h.station, max(h.ph) AS ph FROM hourly h JOIN stations s USING (station) GROUP BY h.station",
    );
    assert_eq!(view.inputs, ["hourly", "stations"]);
    assert_snapshot!(view.explain(&catalog));
}

#[test]
fn subqueries_that_become_joins() {
    assert_snapshot!(explained(
        "SELECT s.station, (SELECT count(*) FROM readings r WHERE r.station = s.station) AS n FROM stations s"
    ));
}

#[test]
fn float_keys_and_guarded_arguments() {
    assert_snapshot!(explained(
        "SELECT weight, sum(100 / value) FILTER (WHERE value <> 0) AS total FROM events GROUP BY weight"
    ));
}

#[test]
fn plans_repeat_exactly() {
    let catalog = catalog();
    let sql = "SELECT s.station, (SELECT count(*) FROM readings r WHERE r.station = s.station) AS n FROM stations s";
    let plans: Vec<String> = (0..2).map(|_| format!("{:?}", view(&catalog, sql).plan)).collect();
    assert_eq!(plans[0], plans[1]);
}

#[test]
fn keys_that_plans_imply() {
    let catalog = catalog();
    for (sql, key) in [
        ("SELECT * FROM stations", Some(vec!["station"])),
        ("SELECT river FROM stations", None),
        (
            "SELECT station AS s, limit_ph FROM stations WHERE limit_ph > 7",
            Some(vec!["s"]),
        ),
        (
            "SELECT kind AS k, count(*) AS n FROM events GROUP BY kind",
            Some(vec!["k"]),
        ),
        ("SELECT count(*) AS n FROM events GROUP BY kind", None),
        ("SELECT count(*) AS n FROM events", None),
        ("SELECT DISTINCT kind, value FROM events", Some(vec!["kind", "value"])),
        (
            "SELECT a.station, b.river FROM stations a LEFT JOIN stations b ON a.river = b.station",
            Some(vec!["station"]),
        ),
        (
            "SELECT e.id, s.station FROM events e JOIN stations s ON e.kind = s.station",
            None,
        ),
    ] {
        let view = view(&catalog, sql);
        let key = key.map(|key| key.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(view.implied_key, key, "{sql}");
    }
}

#[test]
fn how_far_a_view_looks_back() {
    let catalog = catalog();
    let sql =
        "SELECT station FROM readings WHERE at > now() - INTERVAL '10 minutes' AND at <= now() + INTERVAL '1 day'";
    assert_eq!(view(&catalog, sql).look_back_us, Some(600_000_000));
    assert_eq!(
        view(
            &catalog,
            "SELECT station FROM readings WHERE at + INTERVAL '2 days' >= now()"
        )
        .look_back_us,
        Some(172_800_000_000)
    );
    assert_eq!(
        view(&catalog, "SELECT station FROM readings WHERE now() > at").look_back_us,
        None
    );
    assert_eq!(view(&catalog, "SELECT station FROM readings").look_back_us, None);
}

#[test]
fn joins_of_every_kind() {
    let texts = [
        "SELECT e.id, s.river FROM events e RIGHT JOIN stations s ON e.kind = s.river",
        "SELECT e.id, s.river FROM events e FULL JOIN stations s ON e.kind = s.river",
        "SELECT e.id, s.river FROM events e LEFT JOIN stations s ON e.kind = s.river AND e.weight > s.limit_ph",
        "SELECT e.id, s.river FROM events e JOIN stations s ON e.weight > s.limit_ph",
        "SELECT id FROM events WHERE kind IN (SELECT river FROM stations)",
        "SELECT id FROM events WHERE kind NOT IN (SELECT river FROM stations)",
        "SELECT id FROM events e WHERE EXISTS (SELECT 1 FROM stations s WHERE s.river = e.kind AND s.limit_ph < e.weight)",
        "SELECT id FROM events WHERE id = 1 OR kind IN (SELECT river FROM stations)",
        "SELECT id FROM events WHERE weight > (SELECT avg(weight) FROM events)",
        "SELECT kind FROM events EXCEPT SELECT river FROM stations",
        "SELECT count(*) AS n FROM events CROSS JOIN stations",
    ];
    insta::assert_snapshot!(texts.map(explained).join("\n"));
}

#[test]
fn aggregates_of_distinct_values() {
    insta::assert_snapshot!(explained(
        "SELECT kind, count(DISTINCT id) AS n, sum(DISTINCT weight) AS s, max(DISTINCT id) AS m FROM events GROUP BY kind"
    ));
}

#[test]
fn recursions() {
    let texts = [
        "WITH RECURSIVE reach AS (SELECT station, river FROM stations UNION \
         SELECT r.station, s.river FROM reach r JOIN stations s ON s.station = r.river) SELECT * FROM reach",
        "WITH RECURSIVE spread(kind, risk, hops, path) AS (SELECT kind, weight, 0, kind AS path FROM events WHERE value > 0 \
         UNION ALL SELECT s.river, risk * 0.5 + s.limit_ph, hops + 1, path || '>' || s.river FROM spread \
         JOIN stations s ON s.station = kind WHERE hops < 3 AND NOT EXISTS (SELECT 1 FROM readings r WHERE r.station = s.river)) \
         SELECT kind, sum(risk) AS risk FROM spread GROUP BY kind",
        "WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM n WHERE x < 9) SELECT a.x, b.x AS y FROM n a JOIN n b ON a.x = b.x + 1",
        "WITH RECURSIVE w(weight) AS (SELECT weight FROM events UNION SELECT DISTINCT w.weight / 2 FROM w, \
         (SELECT max(limit_ph) AS most FROM stations) m WHERE weight > 1 AND weight < m.most) SELECT weight FROM w",
        "WITH RECURSIVE r AS (SELECT id FROM events UNION SELECT e.value FROM r JOIN events e ON e.id = r.id \
         LEFT JOIN stations s ON s.station = e.kind WHERE e.value IN (SELECT id FROM events) OR s.river IS NULL) SELECT id FROM r",
    ];
    insta::assert_snapshot!(texts.map(explained).join("\n"));
}

#[test]
fn aggregates_that_keep_values() {
    insta::assert_snapshot!(explained(
        "SELECT station, median(ph) AS m, percentile_cont(0.9) WITHIN GROUP (ORDER BY ph DESC) AS p, \
         string_agg(DISTINCT station, ', ' ORDER BY station) AS s, array_agg(count ORDER BY at DESC) AS l, \
         nth_value(ph, -2 ORDER BY at) AS n, corr(ph, count) AS c, count(DISTINCT (station, count)) AS d \
         FROM readings GROUP BY station"
    ));
}

#[test]
fn grouping_sets() {
    insta::assert_snapshot!(explained(
        "SELECT kind, id % 10 AS digit, grouping(kind) AS whole, avg(weight) AS w FROM events GROUP BY ROLLUP (kind, id % 10)"
    ));
}
