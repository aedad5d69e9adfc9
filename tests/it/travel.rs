//! What was shown at an earlier time, and what other definitions would have made of it: the real program.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::program::folder::{deployment, write};
use crate::program::{Program, sangam};

const HTTP: &str = "[connector]\ntype = \"http\"\n";

/// Levels at stations, and when they are high.
fn levels() -> tempfile::TempDir {
    let source =
        format!("columns = {{ station = \"text not null\", level = \"double\" }}\nkey = [\"station\"]\n{HTTP}");
    let visits = format!("columns = {{ station = \"text not null\" }}\nretractions = true\n{HTTP}");
    deployment(&[
        ("deployment.toml", "workers = 1\n"),
        ("sources/levels.toml", &source),
        ("sources/visits.toml", &visits),
        (
            "views/counted.sql",
            "--! key = [\"station\"]\nSELECT station, count(*) AS visits FROM visits GROUP BY station",
        ),
        (
            "views/doubled.sql",
            "--! key = [\"station\"]\nSELECT station, level * 2 AS level FROM levels",
        ),
        ("views/wet.sql", "SELECT level FROM levels WHERE level >= 3"),
        (
            "alerts/high.sql",
            "--! key = [\"station\"]\n--! priority = \"high\"\nSELECT station, level FROM levels WHERE level >= 5",
        ),
    ])
}

/// The same with other thresholds, a factor of three and a source more.
fn trial(at: &Path) {
    let source =
        format!("columns = {{ station = \"text not null\", level = \"double\" }}\nkey = [\"station\"]\n{HTTP}");
    let visits = format!("columns = {{ station = \"text not null\" }}\nretractions = true\n{HTTP}");
    let rain = format!("columns = {{ station = \"text not null\" }}\nretractions = true\n{HTTP}");
    for (path, text) in [
        ("deployment.toml", "workers = 1\n"),
        ("sources/levels.toml", source.as_str()),
        ("sources/visits.toml", visits.as_str()),
        ("sources/rain.toml", rain.as_str()),
        (
            "views/counted.sql",
            "--! key = [\"station\"]\nSELECT station, count(*) AS visits FROM visits GROUP BY station",
        ),
        (
            "views/doubled.sql",
            "--! key = [\"station\"]\nSELECT station, level * 3 AS level FROM levels",
        ),
        ("views/rained.sql", "SELECT count(*) AS rain FROM rain"),
        ("views/wet.sql", "SELECT level FROM levels WHERE level >= 5"),
        (
            "alerts/high.sql",
            "--! key = [\"station\"]\n--! priority = \"high\"\nSELECT station, level FROM levels WHERE level >= 6.5",
        ),
    ] {
        write(at, path, text);
    }
}

/// What happened, in this order.
const HAPPENED: &[(&str, f64)] = &[
    ("K1", 3.0),
    ("K1", 6.0),
    ("K2", 5.0),
    ("K1", 4.0),
    ("K2", 5.5),
    ("K3", 4.0),
    ("K2", 2.0),
    ("K1", 7.0),
];

const RELATIONS: &[&str] = &["levels", "doubled", "wet", "high", "counted"];

/// Brings all that happened; returns the tick of each, and what every relation held then.
fn bring(program: &Program) -> Vec<(u64, BTreeMap<&'static str, Vec<String>>)> {
    let mut seen = Vec::new();
    for (station, level) in HAPPENED {
        program.ingest("visits", json!({"station": station}).to_string());
        let answer = program.ingest("levels", json!({"station": station, "level": level}).to_string());
        let tick = answer["tick"].as_u64().expect("a tick");
        let held = RELATIONS
            .iter()
            .map(|relation| (*relation, sorted(program, &format!("SELECT * FROM {relation}"))));
        seen.push((tick, held.collect()));
    }
    seen
}

fn sorted(program: &Program, sql: &str) -> Vec<String> {
    let mut rows: Vec<String> = program.sql(sql).iter().map(Value::to_string).collect();
    rows.sort();
    rows
}

fn time(tick: u64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(tick as i64).expect("a time");
    time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

#[test]
fn a_query_sees_what_was_there() {
    let dir = levels();
    let program = Program::start(dir.path());
    let seen = bring(&program);
    for (tick, held) in &seen {
        for (relation, rows) in held {
            let asked = format!("SELECT * FROM as_of('{relation}', TIMESTAMP '{}')", time(*tick));
            assert_eq!(sorted(&program, &asked), *rows, "{relation} at {tick}");
        }
    }
    let (first, last) = (seen[0].0, seen[seen.len() - 1].0);

    // Two times beside each other, and now; by text, by tick and by how long ago.
    let asked = format!(
        "SELECT n.station, b.level AS was, n.level AS is FROM levels n \
         LEFT JOIN as_of('levels', '{}') b ON b.station = n.station ORDER BY n.station",
        time(seen[2].0)
    );
    assert_eq!(
        program.sql(&asked),
        [
            json!({"station": "K1", "was": 6.0, "is": 7.0}),
            json!({"station": "K2", "was": 5.0, "is": 2.0}),
            json!({"station": "K3", "was": null, "is": 4.0}),
        ]
    );
    let asked =
        format!("SELECT (SELECT count(*) FROM as_of(wet, {first})) + (SELECT count(*) FROM as_of(wet, {last})) AS wet");
    assert_eq!(program.number(&asked), 3);
    assert_eq!(
        program.number("SELECT count(*) FROM as_of('levels', now()) AS l WHERE l.level > 3"),
        2
    );
    let joined = format!("SELECT levels.level FROM as_of('levels', {first})");
    assert_eq!(program.sql(&joined), [json!({"level": 3.0})]);

    for (sql, code) in [
        ("SELECT * FROM as_of('levels', now() - INTERVAL '1 hour')", "not_known"),
        (
            "SELECT * FROM as_of('levels', now() + INTERVAL '1 hour')",
            "in_the_future",
        ),
        ("SELECT * FROM as_of('level', now())", "bad_sql"),
        ("SELECT * FROM as_of('sangam.views', now())", "bad_sql"),
        ("SELECT * FROM as_of('levels')", "bad_sql"),
        ("SELECT * FROM as_of('levels', 'yesterday')", "bad_sql"),
        ("SELECT * FROM as_of('levels', NULL)", "bad_sql"),
        ("SELECT * FROM levels l, as_of('levels', l.station)", "bad_sql"),
    ] {
        let reply = program.query(sql, "application/json");
        assert_eq!(reply.refusal().1, code, "{sql}: {}", reply.text());
        assert!(
            reply.json()["error"]["hint"].is_string() || sql.contains("yesterday") || sql.contains("l.station"),
            "{}",
            reply.text()
        );
    }
    let view = json!({"name": "past", "sql": "SELECT * FROM as_of('levels', '2026-01-01')"}).to_string();
    let reply = program.request(
        "POST",
        "/views",
        &[("content-type", "application/json")],
        view.as_bytes(),
    );
    assert!(reply.text().contains("stands in a view"), "{}", reply.text());
    program.stop();
}

#[test]
fn changes_lead_from_one_time_to_another() {
    let dir = levels();
    let program = Program::start(dir.path());
    let seen = bring(&program);
    let lines = |query: &str| -> Vec<Value> {
        let reply = program.get(query);
        assert_eq!(reply.status, 200, "{query}: {}", reply.text());
        reply
            .text()
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect()
    };
    // From nothing to what there is, tick by tick.
    let all = lines(&format!(
        "/views/doubled/changes?from={}&to={}",
        time(seen[0].0),
        seen[7].0
    ));
    let ticks: Vec<u64> = all.iter().map(|line| line["tick"].as_u64().expect("a tick")).collect();
    assert_eq!(ticks, seen.iter().map(|(tick, _)| *tick).collect::<Vec<_>>());
    let mut held: BTreeMap<String, String> = BTreeMap::new();
    for (line, (_, seen)) in all.iter().zip(&seen) {
        for row in line["upsert"].as_array().expect("a list") {
            held.insert(row["station"].to_string(), row.to_string());
        }
        for row in line["delete"].as_array().expect("a list") {
            held.remove(&row["station"].to_string());
        }
        let mut held: Vec<&String> = held.values().collect();
        held.sort();
        assert_eq!(held, seen["doubled"].iter().collect::<Vec<_>>());
    }
    // Both ends count; a view without a key has rows that come and go.
    let some = lines(&format!("/views/wet/changes?from={}&to={}", seen[6].0, seen[6].0));
    assert_eq!(
        some,
        [json!({"tick": seen[6].0, "insert": [], "delete": [{"level": 5.5}]})]
    );
    assert_eq!(
        lines(&format!("/views/counted/changes?from={}", seen[7].0)),
        [] as [Value; 0]
    );
    let source = lines(&format!("/views/levels/changes?from={}", seen[7].0));
    assert_eq!(
        source,
        [json!({"tick": seen[7].0, "upsert": [{"station": "K1", "level": 7.0}], "delete": []})]
    );

    for (path, status, code) in [
        ("/views/nowhere/changes?from=1", 404, "unknown_view"),
        ("/views/wet/changes", 400, "no_time"),
        ("/views/wet/changes?from=soon", 400, "bad_time"),
        ("/views/wet/changes?from=5&to=4", 400, "bad_time"),
        ("/views/wet/changes?from=1", 400, "not_known"),
        ("/views/wet/changes?from=1&until=2", 400, "unknown_parameter"),
    ] {
        let reply = program.get(path);
        assert_eq!(reply.refusal(), (status, code.to_owned()), "{path}: {}", reply.text());
    }
    program.stop();
}

#[test]
fn a_backtest_counts_what_would_have_been() {
    let (dir, new, data) = (
        levels(),
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    trial(new.path());
    let (trial, data) = (
        new.path().to_str().expect("a path"),
        data.path().to_str().expect("a path"),
    );
    let program = Program::start_with(dir.path(), &["--data", data]);
    let seen = bring(&program);
    let url = format!("http://{}", program.address);

    let ran = sangam(&["backtest", trial, "--url", &url, "--json"]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let found: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    check(&found, &seen);
    let backups = dir.path().join(".sangam-backups");
    assert_eq!(
        std::fs::read_dir(&backups).expect("a folder").count(),
        0,
        "the copy is still there"
    );

    // For people, and only from some moment on.
    let from = time(seen[7].0);
    let ran = sangam(&["backtest", trial, "--url", &url, "--from", &from]);
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(text.contains("the same under both: high, counted"), "{text}");
    assert!(text.contains("source rain is new"), "{text}");
    let ran = sangam(&["backtest", trial, "--url", &url]);
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for line in [
        "as it ran 3 1 2",
        "as it is new 1 0 0",
        "only as it ran: 5",
        "view doubled: 3 rows as it ran, 3 rows as it is new",
        "- {\"level\":4.0}",
    ] {
        assert!(lines.iter().any(|told| told == line), "no \"{line}\" in:\n{text}");
    }

    // A folder that is in use is not read.
    let refused = sangam(&["backtest", trial, "--data", data]);
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("--url"),
        "{refused:?}"
    );

    // A changed alert is compared with what runs now, also after a kill.
    let sql = "--! key = [\"station\"]\n--! priority = \"high\"\nSELECT station, level FROM levels WHERE level >= 6.5";
    let changed = json!({"name": "high", "sql": sql, "kind": "alert"}).to_string();
    let reply = program.request(
        "POST",
        "/views",
        &[("content-type", "application/json")],
        changed.as_bytes(),
    );
    assert_eq!(reply.status, 200, "{}", reply.text());
    program.kill();
    let ran = sangam(&["backtest", trial, "--data", data, "--json"]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let found: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    assert_eq!(found["alerts"][0]["only_old"]["count"], 0, "{found}");
    let ran = sangam(&[
        "backtest",
        trial,
        "--data",
        data,
        "--json",
        "--against",
        dir.path().to_str().expect("a path"),
    ]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

fn check(found: &Value, seen: &[(u64, BTreeMap<&'static str, Vec<String>>)]) {
    let alert = &found["alerts"][0];
    assert_eq!(alert["alert"], "high");
    assert_eq!(
        alert["old"],
        json!({"raised": 3, "updated": 1, "cleared": 2}),
        "{found}"
    );
    assert_eq!(
        alert["new"],
        json!({"raised": 1, "updated": 0, "cleared": 0}),
        "{found}"
    );
    let happened: Vec<(u64, &str, &str)> = alert["only_old"]["first"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|told| {
            (
                told["tick"].as_u64().expect("a tick"),
                told["transition"].as_str().expect("a word"),
                told["key"]["station"].as_str().expect("a station"),
            )
        })
        .collect();
    let expected = [
        (1, "raised", "K1"),
        (2, "raised", "K2"),
        (3, "cleared", "K1"),
        (4, "updated", "K2"),
        (6, "cleared", "K2"),
    ];
    assert_eq!(happened, expected.map(|(at, what, key)| (seen[at].0, what, key)));
    assert_eq!(alert["only_new"]["count"], 0);
    let view = |name: &str| {
        let views = found["views"].as_array().expect("a list");
        views
            .iter()
            .find(|view| view["view"] == name)
            .unwrap_or_else(|| panic!("no {name} in {found}"))
    };
    assert_eq!(view("wet")["only_old"], json!({"count": 1, "first": [{"level": 4.0}]}));
    assert_eq!(view("doubled")["changed"]["count"], 3);
    assert_eq!(
        view("doubled")["changed"]["first"][0],
        json!({"old": {"station": "K1", "level": 14.0}, "new": {"station": "K1", "level": 21.0}})
    );
    assert_eq!(view("rained")["declared"], "new");
    assert_eq!(view("counted")["changed"]["count"], 0);
    assert_eq!(found["new_sources"], json!(["rain"]));
    assert_eq!(found["gone_sources"], json!([]));
    assert_eq!(found["rows"], 16);
}
