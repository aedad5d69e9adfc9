//! SQL and values at their limits: a clear error or the right answer, and other views go on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::folder::deployment;
use crate::program::{Program, sangam};

const VALUES: &str = r#"
columns = { k = "bigint not null", v = "bigint", x = "double", t = "text", d = "decimal(38, 2)" }
key = ["k"]
[connector]
type = "http"
"#;

fn asked(program: &Program, sql: &str) -> Value {
    Value::Array(program.sql(sql))
}

/// What fails fails row by row, and stands in `sangam.errors`; the rest of the view, and all other views, do not care.
#[test]
fn values_at_their_limits() {
    let failing = [
        ("divided", "SELECT k, 10 / v AS y FROM facts", 1),
        ("remainder", "SELECT k, 10 % v AS y FROM facts", 1),
        ("negated", "SELECT k, v / -1 AS y FROM facts", 1),
        ("read", "SELECT k, CAST(t AS bigint) AS y FROM facts", 3),
        ("narrow", "SELECT k, CAST(v AS smallint) AS y FROM facts", 2),
        ("whole", "SELECT k, CAST(x AS bigint) AS y FROM facts", 2),
        ("pattern", "SELECT k, regexp_like('abc', t) AS y FROM facts", 1),
        (
            "times",
            "SELECT k, TIMESTAMP '2026-01-01T00:00:00Z' + v * INTERVAL '1 day' AS y FROM facts",
            2,
        ),
        ("long", "SELECT k, length(repeat('x', v)) AS y FROM facts", 1),
        ("decimals", "SELECT k, d * d AS y FROM facts", 1),
        (
            "grouped",
            "SELECT 10 / v AS y, count(*) AS n FROM facts GROUP BY 10 / v",
            1,
        ),
    ];
    let mut files = vec![
        ("sources/facts.toml".to_owned(), VALUES.to_owned()),
        (
            "views/rows.sql".to_owned(),
            "SELECT count(*) AS n, sum(v) AS v, sum(x) AS x FROM facts".to_owned(),
        ),
    ];
    let refused: Vec<&str> = failing
        .iter()
        .filter(|(name, sql, _)| {
            let dir = deployment(&[("sources/facts.toml", VALUES), (&format!("views/{name}.sql"), sql)]);
            let output = sangam(&["check", dir.path().to_str().expect("a path in UTF-8")]);
            let refused = !output.status.success();
            if refused {
                println!("{name}: {}", String::from_utf8_lossy(&output.stderr));
            }
            refused
        })
        .map(|(name, ..)| *name)
        .collect();
    let failing: Vec<_> = failing.iter().filter(|(name, ..)| !refused.contains(name)).collect();
    assert!(refused.len() <= 1, "{refused:?}");
    files.extend(
        failing
            .iter()
            .map(|(name, sql, _)| (format!("views/{name}.sql"), (*sql).to_owned())),
    );
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    let dir = deployment(&files);
    let program = Program::start(dir.path());
    let rows = [
        json!({"k": 1, "v": 0, "x": 1.5, "t": "7", "d": "1.25"}),
        json!({"k": 2, "v": i64::MAX, "x": 1e300, "t": "[", "d": "99999999999999999999999999999999.99"}),
        json!({"k": 3, "v": i64::MIN, "x": -1e300, "t": "x+", "d": "-1"}),
        json!({"k": 4, "v": null, "x": null, "t": null, "d": null}),
        json!({"k": 5, "v": 2, "x": 0, "t": "ä", "d": 0}),
    ];
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    let answer = program.ingest("facts", lines.join("\n"));
    assert_eq!(answer["rejected"], 0, "{answer}");
    for (name, sql, errors) in &failing {
        let found = program.number(&format!("SELECT count(*) FROM sangam.errors WHERE view = '{name}'"));
        let kept = program.number(&format!("SELECT count(*) FROM {name}"));
        println!("{name}: {kept} rows, {found} errors");
        assert_eq!(
            found,
            *errors,
            "{sql}: {}",
            asked(&program, &format!("SELECT * FROM sangam.errors WHERE view = '{name}'"))
        );
        assert!(kept >= 5 - errors - 1, "{sql}: {kept} rows");
    }
    assert_eq!(
        asked(&program, "SELECT n, v, x FROM rows"),
        json!([{"n": 5, "v": 1, "x": 1.5}])
    );
    // What is taken back takes its errors along.
    let gone: Vec<String> = (1..=5).map(|k| json!({"k": k}).to_string()).collect();
    let reply = program.post("facts?op=delete", "application/json", gone.join("\n"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(program.number("SELECT count(*) FROM sangam.errors"), 0);
    assert_eq!(asked(&program, "SELECT n, v FROM rows"), json!([{"n": 0, "v": null}]));
    program.stop();
}

/// A value of 10 MB is more than a row may have; values just below are kept, joined and grouped by.
#[test]
fn huge_texts() {
    let dir = deployment(&[
        ("deployment.toml", "body_bytes_max = 33554432\n"),
        ("sources/facts.toml", VALUES),
        (
            "views/lengths.sql",
            "SELECT t, count(*) AS n, max(length(t)) AS l FROM facts GROUP BY t",
        ),
        (
            "views/doubled.sql",
            "SELECT k, length(concat(t, t, t, t, t, t, t, t, t, t, t, t)) AS l FROM facts",
        ),
        ("views/rows.sql", "SELECT count(*) AS n FROM facts"),
    ]);
    let program = Program::start(dir.path());
    let row = |k: i64, letters: usize| json!({"k": k, "t": "x".repeat(letters)}).to_string();
    let body = [row(1, 10 << 20), row(2, 1_000_000), row(3, 1_000_000), row(4, 3)].join("\n");
    let answer = program.ingest("facts", body);
    assert_eq!(
        (&answer["accepted"], &answer["rejected"]),
        (&json!(3), &json!(1)),
        "{answer}"
    );
    assert!(answer["reasons"][0].to_string().contains("longer than"), "{answer}");
    assert_eq!(
        asked(&program, "SELECT n, l FROM lengths ORDER BY l"),
        json!([{"n": 1, "l": 3}, {"n": 2, "l": 1_000_000}])
    );
    assert_eq!(program.number("SELECT max(l) FROM doubled"), 12_000_000);
    let reply = program.post(
        "facts?op=delete",
        "application/json",
        [row(2, 1), row(3, 1), row(4, 1)].join("\n"),
    );
    assert_eq!(reply.status, 200);
    assert_eq!(program.number("SELECT count(*) FROM lengths"), 0);
    // JSON of any depth is a text like others; of the rows' own, 64 levels are read.
    let deep = "[".repeat(20_000) + &"]".repeat(20_000);
    let answer = program.ingest("facts", json!({"k": 9, "t": deep}).to_string());
    assert_eq!(answer["accepted"], 1, "{answer}");
    let reply = program.query(
        "SELECT t -> 0 AS first, json_length(t) AS l FROM facts",
        "application/json",
    );
    assert!(reply.status == 200 || reply.status == 400, "{}", reply.text());
    let answer = program.ingest("facts", format!("{{\"k\": 10, \"v\": {deep}}}"));
    assert_eq!(answer["rejected"], 1, "{answer}");
    assert_eq!(asked(&program, "SELECT n FROM rows"), json!([{"n": 1}]));
    program.stop();
}

/// All rows of one key, and none of two: the same answers, in time.
#[test]
fn one_key_and_all_keys() {
    let source = "columns = { k = \"bigint not null\", g = \"bigint not null\", v = \"bigint\" }\nretractions = true\n[connector]\ntype = \"http\"\n";
    let dir = deployment(&[
        ("sources/facts.toml", source),
        (
            "views/sums.sql",
            "SELECT g, count(*) AS n, sum(v) AS v, max(v) AS m, count(DISTINCT v) AS d FROM facts GROUP BY g",
        ),
        (
            "views/ranks.sql",
            "SELECT g, k FROM (SELECT g, k, row_number() OVER (PARTITION BY g ORDER BY v DESC) AS n FROM facts) r WHERE n <= 2",
        ),
        (
            "views/pairs.sql",
            "SELECT a.g, count(*) AS n FROM facts a JOIN sums b ON a.g = b.g GROUP BY a.g",
        ),
        ("views/all_of_them.sql", "SELECT count(*) AS n FROM facts"),
    ]);
    let program = Program::start(dir.path());
    let rows = |g: &dyn Fn(usize) -> usize| -> String {
        (0..40_000)
            .map(|k| format!("{{\"k\":{k},\"g\":{},\"v\":{}}}\n", g(k), k % 1_000))
            .collect()
    };
    for g in [&(|_: usize| 7usize) as &dyn Fn(usize) -> usize, &|k| k] {
        let started = Instant::now();
        let body = rows(g);
        let answer = program.ingest("facts", &body);
        assert_eq!(answer["accepted"], 40_000, "{answer}");
        let groups = if g(1) == g(2) { 1 } else { 40_000 };
        assert_eq!(program.number("SELECT count(*) FROM sums"), groups);
        assert_eq!(program.number("SELECT sum(n) FROM pairs"), 40_000);
        assert_eq!(program.number("SELECT count(*) FROM ranks"), (groups * 2).min(40_000));
        let reply = program.post("facts?op=delete", "application/json", body);
        assert_eq!(reply.status, 200);
        assert_eq!(program.number("SELECT count(*) FROM sums"), 0);
        assert_eq!(asked(&program, "SELECT n FROM all_of_them"), json!([{"n": 0}]));
        println!("{groups} groups took {:.1?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(60));
    }
    program.stop();
}

/// Texts that go too deep are refused in words; what is merely long is planned.
#[test]
fn texts_at_their_limits() {
    let row = |what: &str, by: &str, times: usize| vec![what; times].join(by);
    let conditions: Vec<String> = (0..10_000).map(|k| format!("k = {k}")).collect();
    let members: Vec<String> = (0..10_000).map(|k| k.to_string()).collect();
    let unions: Vec<String> = (0..100).map(|k| format!("SELECT k + {k} AS k FROM facts")).collect();
    let nested = |levels: usize| {
        let mut sql = "SELECT k, v FROM facts".to_owned();
        for level in 0..levels {
            sql = format!("SELECT k, v + {level} AS v FROM ({sql}) s{level} WHERE k >= -{level}");
        }
        sql
    };
    let fine = [
        ("ors", format!("SELECT k FROM facts WHERE {}", conditions.join(" OR "))),
        (
            "ands",
            format!(
                "SELECT k FROM facts WHERE NOT ({})",
                conditions[..3_000].join(" AND ").replace(" = ", " <> ")
            ),
        ),
        (
            "members",
            format!("SELECT k FROM facts WHERE k IN ({})", members.join(", ")),
        ),
        ("unions", unions.join(" UNION ALL ")),
        ("sum", format!("SELECT k, {} AS y FROM facts", row("v", " + ", 100))),
        (
            "brackets",
            format!("SELECT {}k{} AS k FROM facts", "(".repeat(20), ")".repeat(20)),
        ),
        (
            "cases",
            format!(
                "SELECT CASE k {} END AS y FROM facts",
                (0..2_000)
                    .map(|k| format!("WHEN {k} THEN {k} + 1"))
                    .collect::<Vec<_>>()
                    .join(" ")
            ),
        ),
        ("nested", nested(12)),
        (
            "joins",
            format!(
                "SELECT f0.k FROM facts f0 {}",
                (1..24)
                    .map(|n| format!("JOIN facts f{n} ON f{n}.k = f0.k"))
                    .collect::<Vec<_>>()
                    .join(" ")
            ),
        ),
        (
            "wide",
            format!(
                "SELECT {} FROM facts",
                (0..1_000)
                    .map(|n| format!("v + {n} AS c{n}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        ),
    ];
    let wrong = [
        (
            "brackets",
            format!("SELECT {}k{} AS k FROM facts", "(".repeat(10_000), ")".repeat(10_000)),
            "too deep",
        ),
        (
            "nots",
            format!("SELECT k FROM facts WHERE {} k = 1", "NOT ".repeat(10_000)),
            "",
        ),
        ("nested", nested(5_000), ""),
        (
            "sum",
            format!("SELECT {} AS y FROM facts", row("v", " + ", 10_000)),
            "operators in a row",
        ),
        (
            "casts",
            format!("SELECT v{} AS y FROM facts", "::bigint".repeat(10_000)),
            "operators in a row",
        ),
        (
            "unions",
            row("SELECT k FROM facts", " UNION ALL ", 6_000),
            "set operations in a row",
        ),
        (
            "joins",
            format!("SELECT 1 AS x FROM facts{}", " CROSS JOIN facts".repeat(2_000)),
            "relations in one FROM",
        ),
        (
            "ors",
            format!("SELECT k FROM facts WHERE {}", row("k = 1", " OR ", 100_000)),
            "words without a comma",
        ),
        (
            "broken",
            format!("SELECT {} FROM facts WHERE", row("k", " OR ", 5_000)),
            "could not parse",
        ),
    ];
    let mut files = vec![("sources/facts.toml".to_owned(), VALUES.to_owned())];
    files.extend(
        fine.iter()
            .map(|(name, sql)| (format!("views/{name}.sql"), sql.clone())),
    );
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    let dir = deployment(&files);
    let program = Program::start(dir.path());
    let lines: String = (0..50).map(|k| json!({"k": k, "v": k}).to_string() + "\n").collect();
    program.ingest("facts", lines);
    for (name, rows) in [
        ("ors", 50),
        ("ands", 50),
        ("members", 50),
        ("unions", 5_000),
        ("sum", 50),
        ("cases", 50),
        ("nested", 50),
        ("joins", 50),
        ("wide", 50),
    ] {
        assert_eq!(program.number(&format!("SELECT count(*) FROM {name}")), rows, "{name}");
    }
    for (name, sql) in &fine {
        let reply = program.query(&format!("SELECT count(*) AS n FROM ({sql}) q"), "application/json");
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
    }
    for (name, sql, said) in &wrong {
        let reply = program.query(sql, "application/json");
        assert_eq!(reply.status, 400, "{name}: {}", reply.text());
        assert!(reply.text().contains(said), "{name}: {}", reply.text());
        let path = format!("views/{name}.sql");
        let dir = deployment(&[("sources/facts.toml", VALUES), (&path, sql)]);
        let output = sangam(&["check", dir.path().to_str().expect("a path in UTF-8")]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{name}: {told}");
        assert!(told.contains(said), "{name}: {told}");
    }
    assert_eq!(program.number("SELECT count(*) FROM sum"), 50);
    program.stop();
}

/// A thousand views are planned, run, and all right.
#[test]
fn a_thousand_views() {
    let mut files = vec![("sources/facts.toml".to_owned(), VALUES.to_owned())];
    for view in 0..1_000 {
        let sql = match view % 5 {
            0 => format!("SELECT k, v + {view} AS y FROM facts WHERE v % 7 = {}", view % 7),
            1 => format!(
                "SELECT v % {} AS g, count(*) AS y FROM facts GROUP BY v % {}",
                view % 9 + 1,
                view % 9 + 1
            ),
            2 => format!("SELECT k, row_number() OVER (ORDER BY v DESC, k) AS y FROM facts WHERE k > {view}"),
            3 => format!("SELECT a.k, b.y FROM facts a JOIN v{:04} b ON a.k = b.k", view - 3),
            _ => format!("SELECT max(y) AS y FROM v{:04}", view - 1),
        };
        files.push((format!("views/v{view:04}.sql"), sql));
    }
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    let dir = deployment(&files);
    let started = Instant::now();
    let output = sangam(&["check", dir.path().to_str().expect("a path in UTF-8")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let checked = started.elapsed();
    let program = Program::start(dir.path());
    let up = started.elapsed() - checked;
    let mut posts = Vec::new();
    for round in 0..5 {
        let posted = Instant::now();
        let rows: String = (0..200)
            .map(|k| json!({"k": round * 200 + k, "v": k}).to_string() + "\n")
            .collect();
        let answer = program.ingest("facts", rows);
        assert_eq!(answer["accepted"], 200, "{answer}");
        // Reads everything at the tick of the rows.
        assert_eq!(program.number("SELECT count(*) FROM facts"), (round + 1) * 200);
        assert_eq!(program.number("SELECT sum(y) FROM v0001"), (round + 1) * 200);
        posts.push(posted.elapsed());
    }
    println!(
        "1,000 views: checked in {checked:.1?}, up in {up:.1?}, 200 rows in {posts:.1?}, {:.0} MiB",
        program.resident_mib()
    );
    let n = program.number("SELECT count(*) FROM v0000");
    assert_eq!(n, program.number("SELECT count(*) FROM facts WHERE v % 7 = 0"));
    assert_eq!(n, program.number("SELECT count(*) FROM v0003"));
    assert!(checked < Duration::from_secs(60), "{checked:.1?} to check");
    assert!(up < Duration::from_secs(60), "{up:.1?} to start");
    program.stop();
}
