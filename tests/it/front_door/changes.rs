//! Views come, change and go on a running program: by `POST /views`, by `DELETE`, by SIGHUP.

use std::fs;

use serde_json::{Value, json};

use super::ledger::canonical;
use super::same;
use super::shop::shop;
use crate::program::{Program, Reply};

const SQL: &[(&str, &str)] = &[("content-type", "application/sql")];
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

fn visits(from: i64, count: i64) -> String {
    let row = |n: i64| {
        json!({"page": format!("/{}", n % 7), "seconds": n % 50, "at": format!("2026-03-01T10:{:02}:{:02}Z", n / 60 % 60, n % 60)})
            .to_string()
    };
    (from..from + count).map(row).collect::<Vec<_>>().join("\n")
}

fn put(program: &Program, name: &str, sql: &str) -> Value {
    let reply = program.request("POST", &format!("/views?name={name}"), SQL, sql.as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn refused(reply: &Reply, status: u16, code: &str, says: &str) {
    assert_eq!(reply.refusal(), (status, code.to_owned()), "{}", reply.text());
    assert!(reply.text().contains(says), "{} does not say {says}", reply.text());
}

fn names(program: &Program) -> Vec<String> {
    let views = program.get("/views").json();
    let views = views["views"].as_array().expect("a list of relations").clone();
    views
        .iter()
        .map(|view| view["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn a_view_is_added_changed_and_dropped() {
    let dir = shop();
    let program = Program::start(dir.path());
    program.ingest("visits", visits(0, 300));
    let mut untouched = program.live();
    untouched.subscribe("recent");
    untouched.until("there is a snapshot", |live| live.of("recent").snapshots == 1);

    let changed = put(
        &program,
        "longest",
        "SELECT page, max(seconds) AS seconds FROM visits GROUP BY page",
    );
    assert_eq!(changed["added"], json!(["longest"]));
    assert_eq!((&changed["changed"], &changed["rows"]), (&json!([]), &json!(300)));
    assert_eq!(program.number("SELECT max(seconds) FROM longest"), 49);
    let mut live = program.live();
    live.subscribe("longest");
    let reply = program.ingest("visits", r#"{"page":"/1","seconds":77,"at":"2026-03-01T10:06:00Z"}"#);
    live.reach(reply["tick"].as_u64().expect("a tick"));
    let asked = program.query("SELECT * FROM longest", "application/json");
    same("the new view", &live.of("longest").rows(), &canonical(&asked.body));

    // Another definition: who follows it begins again, by itself.
    let changed = put(
        &program,
        "longest",
        "SELECT page, min(seconds) AS seconds, count(*) AS visits FROM visits WHERE seconds > 3 GROUP BY page",
    );
    assert_eq!(changed["changed"], json!(["longest"]));
    live.until("there is another snapshot", |live| {
        live.of("longest").snapshots == 2 && !live.of("longest").in_snapshot
    });
    let asked = program.query("SELECT * FROM longest", "application/json");
    same("the changed view", &live.of("longest").rows(), &canonical(&asked.body));

    // What a view reads cannot go before it; nothing was touched.
    put(&program, "shortest", "SELECT min(seconds) AS seconds FROM longest");
    refused(
        &program.request("DELETE", "/views/longest", &[], b""),
        400,
        "bad_view",
        "shortest",
    );
    refused(
        &program.request("DELETE", "/views/visits", &[], b""),
        404,
        "unknown_view",
        "visits",
    );
    assert_eq!(program.number("SELECT seconds FROM shortest"), 4);
    assert_eq!(program.request("DELETE", "/views/shortest", &[], b"").status, 200);
    assert_eq!(program.request("DELETE", "/views/longest", &[], b"").status, 200);
    assert_eq!(live.refusal()["code"], "view_dropped");
    assert!(!names(&program).contains(&"longest".to_owned()));
    refused(
        &program.query("SELECT * FROM longest", "application/json"),
        400,
        "bad_sql",
        "longest",
    );

    let metrics = program.get("/metrics").text().to_owned();
    for (relation, stays) in [("recent", true), ("longest", false)] {
        let rows = format!("sangam_relation_rows{{relation=\"{relation}\"}}");
        assert_eq!(metrics.contains(&rows), stays, "{metrics}");
    }

    let reply = program.ingest("visits", visits(360, 10));
    untouched.reach(reply["tick"].as_u64().expect("a tick"));
    let asked = program.query("SELECT * FROM recent", "application/json");
    same(
        "what was not touched",
        &untouched.of("recent").rows(),
        &canonical(&asked.body),
    );
    assert_eq!(untouched.of("recent").snapshots, 1, "it followed on");
    program.stop();
}

#[test]
fn a_change_of_what_others_read_reaches_them() {
    let dir = shop();
    let program = Program::start(dir.path());
    program.ingest(
        "orders",
        r#"{"id":1,"product":"a","quantity":2,"cents":10,"at":"2026-03-01T10:00:00Z"}"#,
    );
    let before = program.sql("SELECT transition FROM sangam.alert_events");
    assert!(before.is_empty());
    // Orders count twice now: `busy`, `shelves` and the alert follow.
    let file = dir.path().join("views/totals.sql");
    let text = fs::read_to_string(&file)
        .expect("a view")
        .replace("count(*) AS orders", "4 * count(*) AS orders");
    let changed = put(&program, "totals", &text);
    let mut told: Vec<&str> = changed["changed"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    told.sort_unstable();
    assert_eq!(told, ["busy", "popular", "shelves", "totals"]);
    assert_eq!(program.number("SELECT orders FROM busy"), 4);
    let events = program.sql("SELECT alert, transition FROM sangam.alert_events");
    assert_eq!(events, [json!({"alert": "popular", "transition": "raised"})]);
    // The folder says what runs.
    assert_eq!(fs::read_to_string(&file).expect("a view"), text);
    let changed = put(&program, "totals", &text.replace("4 * count(*)", "count(*)"));
    assert_eq!(changed["rows"], json!(1));
    let events = program.sql("SELECT transition FROM sangam.alert_events ORDER BY at");
    assert_eq!(
        events,
        [json!({"transition": "raised"}), json!({"transition": "cleared"})]
    );
    program.stop();
}

#[test]
fn mistakes_change_nothing() {
    let dir = shop();
    let program = Program::start(dir.path());
    let before = names(&program);
    for (path, headers, body, status, code, says) in [
        (
            "/views?name=wrong",
            SQL,
            "SELECT nonsense FROM visits",
            400,
            "bad_view",
            "views/wrong.sql",
        ),
        (
            "/views?name=wrong",
            SQL,
            "SELECT random() AS x FROM visits",
            400,
            "bad_view",
            "random",
        ),
        ("/views?name=visits", SQL, "SELECT 1 AS one", 400, "bad_view", "taken"),
        (
            "/views?name=..%2Fwrong",
            SQL,
            "SELECT 1 AS one",
            400,
            "bad_view",
            "cannot be the name",
        ),
        ("/views", SQL, "SELECT 1 AS one", 400, "no_name", "?name="),
        ("/views?nam=a", SQL, "SELECT 1 AS one", 400, "no_name", "?name="),
        (
            "/views?name=a&kind=source",
            SQL,
            "SELECT 1 AS one",
            400,
            "unknown_kind",
            "alert",
        ),
        ("/views", JSON, r#"{"name":"a"}"#, 400, "bad_request", "sql"),
        (
            "/views",
            JSON,
            r#"{"name":"a","sql":"SELECT 1 AS one","kind":"alert"}"#,
            400,
            "bad_view",
            "key",
        ),
        (
            "/views?name=a",
            &[("content-type", "text/plain")],
            "SELECT 1 AS one",
            415,
            "unknown_content_type",
            "application/sql",
        ),
    ] {
        refused(
            &program.request("POST", path, headers, body.as_bytes()),
            status,
            code,
            says,
        );
    }
    assert_eq!(names(&program), before);
    let files = fs::read_dir(dir.path().join("views")).expect("a folder");
    let stray: Vec<_> = files
        .map(|file| file.expect("a file").file_name().into_string().expect("a name"))
        .filter(|name| !before.iter().any(|view| *name == format!("{view}.sql")))
        .collect();
    assert!(stray.is_empty(), "{stray:?}");
    // A file changed by hand, wrongly: the program says so and goes on.
    let recent = dir.path().join("views/recent.sql");
    let text = fs::read_to_string(&recent).expect("a view");
    fs::write(&recent, "SELECT FROM nowhere").expect("a file");
    program.signal("HUP");
    program.until("it says no", || program.said().contains("not reloaded"));
    assert_eq!(names(&program), before);
    fs::write(&recent, text).expect("a file");
    program.stop();
}

#[test]
fn a_hangup_reloads_what_differs() {
    let dir = shop();
    let program = Program::start(dir.path());
    program.ingest("visits", visits(0, 300));
    let mut live = program.live();
    live.subscribe("recent");
    live.until("there is a snapshot", |live| live.of("recent").snapshots == 1);
    let views = dir.path().join("views");
    fs::write(views.join("pages.sql"), "SELECT DISTINCT page FROM visits").expect("a file");
    fs::remove_file(views.join("notes.sql")).expect("a file");
    program.signal("HUP");
    program.until("it has reloaded", || {
        program
            .said()
            .contains("reloaded: added pages; dropped notes; 300 rows")
    });
    assert_eq!(program.number("SELECT count(*) FROM pages"), 7);
    // A new source, and a view over it and an old one.
    crate::program::folder::write(
        dir.path(),
        "sources/a_shop.toml",
        "columns = { page = \"text not null\", shop = \"text\" }\nkey = [\"page\"]\n[connector]\ntype = \"http\"\n",
    );
    let sql = "SELECT s.shop, count(*) AS visits FROM visits v JOIN a_shop s ON s.page = v.page GROUP BY s.shop";
    fs::write(views.join("by_shop.sql"), sql).expect("a file");
    program.signal("HUP");
    program.until("it has reloaded", || {
        program.said().contains("reloaded: added a_shop, by_shop; 300 rows")
    });
    assert_eq!(program.post("nowhere", "application/json", "{}").refusal().0, 404);
    program.ingest("a_shop", r#"{"page":"/1","shop":"books"}"#);
    assert_eq!(program.number("SELECT visits FROM by_shop"), 43);
    program.ingest(
        "orders",
        r#"{"id":1,"product":"a","quantity":2,"cents":10,"at":"2026-03-01T10:00:00Z"}"#,
    );
    assert_eq!(program.number("SELECT count(*) FROM orders"), 1);
    // A known source is fixed while the program runs.
    let source = dir.path().join("sources/visits.toml");
    let text = fs::read_to_string(&source).expect("a source");
    fs::write(&source, text.replace("6 hours", "7 hours")).expect("a file");
    program.signal("HUP");
    program.until("it says no", || {
        program.said().contains("source \"visits\" is declared differently")
    });
    let reply = program.ingest("visits", visits(300, 5));
    live.reach(reply["tick"].as_u64().expect("a tick"));
    assert_eq!(live.of("recent").snapshots, 1, "it followed on");
    program.stop();
}

#[test]
fn views_are_filled_while_rows_come_and_go() {
    const KEYS: u64 = 20_000;
    let dir = crate::program::folder::deployment(&[
        (
            "sources/rows.toml",
            "columns = { id = \"bigint not null\", key = \"bigint\", value = \"double\" }\nkey = [\"id\"]\n[connector]\ntype = \"http\"\n",
        ),
        (
            "views/sums.sql",
            "SELECT key, sum(value) AS value, count(*) AS n FROM rows GROUP BY key",
        ),
    ]);
    let program = Program::start_with(dir.path(), &["--workers", "2"]);
    let batch = |from: u64, count: u64, round: u64| -> String {
        let row = |id: u64| {
            format!(
                "{{\"id\":{id},\"key\":{},\"value\":{}.25}}\n",
                id % KEYS,
                id % 97 + round
            )
        };
        (from..from + count).map(row).collect()
    };
    for from in 0..20 {
        program.ingest("rows", batch(from * 10_000, 10_000, 0));
    }
    let over = std::sync::atomic::AtomicBool::new(false);
    let defined = [
        (
            "a",
            "SELECT key, min(value) AS low, max(value) AS high FROM rows GROUP BY key",
        ),
        (
            "b",
            "SELECT r.id, r.value, s.n FROM rows r JOIN sums s ON r.key = s.key WHERE r.value > 90",
        ),
        ("c", "SELECT count(*) AS n, sum(n) AS all_of_them FROM b"),
        (
            "d",
            "SELECT r.id, s.value FROM rows r JOIN sums s ON r.key = s.key WHERE r.value < 2",
        ),
        ("e", "SELECT id, value FROM rows ORDER BY value DESC, id LIMIT 50"),
    ];
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut round = 1;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let from = round * 7_919 % 200_000;
                program.ingest("rows", batch(from, 200, round));
                if round.is_multiple_of(5) {
                    let ids: String = (from..from + 100).map(|id| format!("{{\"id\":{id}}}\n")).collect();
                    let reply = program.post("rows?op=delete", "application/json", ids);
                    assert_eq!(reply.status, 200, "{}", reply.text());
                }
                round += 1;
            }
            round
        });
        for _ in 0..2 {
            for (name, sql) in &defined {
                put(&program, name, sql);
            }
            for (name, sql) in defined.iter().rev() {
                // Another text of the same meaning is filled anew, with all that reads it.
                put(&program, name, &format!("{sql} -- again"));
            }
            if !sender.is_finished() {
                program.request("DELETE", "/views/c", &[], b"");
                program.request("DELETE", "/views/b", &[], b"");
            }
        }
        put(&program, defined[1].0, defined[1].1);
        put(&program, defined[2].0, defined[2].1);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(sender.join().expect("no panic") > 20, "rows came meanwhile");
    });
    for (name, sql) in &defined {
        let (found, wanted) = (format!("SELECT * FROM {name}"), (*sql).to_owned());
        let found = program.query(&found, "application/json");
        let wanted = program.query(&wanted, "application/json");
        same(name, &canonical(&found.body), &canonical(&wanted.body));
    }
    assert_eq!(
        program.number("SELECT count(*) FROM sangam.operators WHERE view = 'a'"),
        3,
        "old ones are gone"
    );
    program.stop();
}

#[test]
fn a_view_that_closes_begins_with_the_first_whole_bucket() {
    let dir = shop();
    let program = Program::start(dir.path());
    let minutes = |range: std::ops::Range<i64>| -> String {
        let at = |n: i64| format!("2026-03-01T{:02}:{:02}:00Z", n / 60, n % 60);
        let row = |n: i64| json!({"page": "/", "seconds": n, "at": at(n)}).to_string();
        range.map(row).collect::<Vec<_>>().join("\n")
    };
    // Rows stay six hours: of those before 02:29 some have left by now.
    for from in (0..510).step_by(30) {
        program.ingest("visits", minutes(from..from + 30));
    }
    let sql = "--! emit = \"on close\"\nSELECT date_bin(INTERVAL '1 hour', at) AS hour, count(*) AS n FROM visits GROUP BY hour";
    put(&program, "closed_hours", sql);
    program.ingest("visits", minutes(510..512));
    let hours = "SELECT CAST(date_part('hour', hour) AS BIGINT) AS hour, n FROM closed_hours ORDER BY hour";
    let of = |hours: std::ops::Range<i64>| -> Vec<Value> { hours.map(|hour| json!({"hour": hour, "n": 60})).collect() };
    // Berlin is an hour ahead.
    assert_eq!(program.sql(hours), of(4..9));
    program.ingest("visits", minutes(512..545));
    program.ingest("visits", minutes(545..546));
    assert_eq!(program.sql(hours), of(4..10));
    program.stop();
}
