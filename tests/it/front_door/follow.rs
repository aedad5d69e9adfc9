//! The protocol of `/ws`: filters, columns, many subscriptions, going on after a break.

use serde_json::{Value, json};

use super::ledger::canonical;
use super::same;
use super::shop::shop;
use crate::program::Program;
use crate::program::folder;

fn visits(from: i64, count: i64) -> String {
    let row = |n: i64| {
        json!({"page": format!("/{}", n % 7), "seconds": n, "at": format!("2026-03-01T10:{:02}:{:02}Z", n / 60 % 60, n % 60)})
            .to_string()
    };
    (from..from + count).map(row).collect::<Vec<_>>().join("\n")
}

fn tick(reply: &Value) -> u64 {
    reply["tick"].as_u64().expect("a tick")
}

/// Compares a subscription with a query.
fn holds(program: &Program, live: &crate::program::live::Live, id: &str, sql: &str) {
    let reply = program.query(sql, "application/json");
    assert_eq!(reply.status, 200, "{}", reply.text());
    same(
        &format!("{id} against {sql}"),
        &live.of(id).rows(),
        &canonical(&reply.body),
    );
}

#[test]
fn many_subscriptions_share_a_socket() {
    let dir = shop();
    let program = Program::start(dir.path());
    let mut live = program.live();
    let mut queries = Vec::new();
    for n in 0..60 {
        let (id, filter) = (format!("over {n}"), format!("seconds >= {n}"));
        live.subscribe_as(&id, "visits", json!({"where": filter}));
        queries.push((id, format!("SELECT * FROM visits WHERE {filter}")));
    }
    for (id, options, sql) in [
        ("pages", json!({"columns": ["page"]}), "SELECT page FROM visits"),
        (
            "some",
            json!({"columns": ["seconds", "page"], "where": "page = '/3' OR seconds % 2 = 0"}),
            "SELECT seconds, page FROM visits WHERE page = '/3' OR seconds % 2 = 0",
        ),
        (
            "keyed",
            json!({"columns": ["page", "visits"]}),
            "SELECT page, visits FROM recent",
        ),
        (
            "crowds",
            json!({"where": "visits > 3"}),
            "SELECT * FROM recent WHERE visits > 3",
        ),
        ("twice", json!({}), "SELECT * FROM recent"),
        (
            "twice again",
            json!({"where": null, "columns": null, "resume": null}),
            "SELECT * FROM recent",
        ),
    ] {
        let relation = if matches!(id, "pages" | "some") {
            "visits"
        } else {
            "recent"
        };
        live.subscribe_as(id, relation, options);
        queries.push((id.to_owned(), sql.to_owned()));
    }
    live.until("every subscription has its snapshot", |live| {
        live.held.values().all(|held| held.snapshots == 1 && !held.in_snapshot)
    });
    for step in 0..12 {
        // Jumps make rows leave `recent` while others come.
        let reply = program.ingest("visits", visits(step * 100 + step % 3 * 40, 90));
        live.reach(tick(&reply));
        for (id, sql) in &queries {
            holds(&program, &live, id, sql);
        }
    }
    assert!(
        live.held.values().all(|held| held.snapshots == 1),
        "a snapshot each, then changes only"
    );
    assert!(live.of("crowds").changes > 3 && live.of("some").changes == 12);

    // What is unsubscribed is silent, and its name is free again.
    live.say(r#"{"type":"unsubscribe","id":"twice"}"#);
    live.held.remove("twice");
    live.subscribe_as("twice", "visits", json!({"where": "false"}));
    let reply = program.ingest("visits", visits(1800, 10));
    live.reach(tick(&reply));
    assert!(live.of("twice").rows().is_empty());
    assert!(live.refusals.is_empty(), "{:?}", live.refusals);
    program.stop();
}

#[test]
fn a_resumed_subscription_gets_changes_only() {
    let dir = shop();
    let program = Program::start(dir.path());
    let mut live = program.live();
    let ids = ["visits", "recent", "filtered"];
    live.subscribe("visits");
    live.subscribe("recent");
    live.subscribe_as("filtered", "visits", json!({"where": "seconds > 20"}));
    let reply = program.ingest("visits", visits(0, 60));
    live.reach(tick(&reply));
    let mut held = std::mem::take(&mut live.held);
    drop(live);
    program.ingest("visits", visits(700, 50));
    let reply = program.ingest("visits", visits(760, 30));

    // The same subscriptions go on where they were.
    let mut again = program.live();
    for id in ids {
        let token = held[id].resume.clone();
        again
            .held
            .insert(id.to_owned(), held.remove(id).expect("what was held"));
        match id {
            "filtered" => again.subscribe_as(id, "visits", json!({"where": "seconds > 20", "resume": token})),
            _ => again.subscribe_as(id, id, json!({"resume": token})),
        }
    }
    again.reach(tick(&reply));
    for (id, sql) in [
        ("visits", "SELECT * FROM visits"),
        ("recent", "SELECT * FROM recent"),
        ("filtered", "SELECT * FROM visits WHERE seconds > 20"),
    ] {
        assert_eq!(again.of(id).snapshots, 1, "{id} got a second snapshot");
        holds(&program, &again, id, sql);
    }
    let (visits_token, filtered_token) = (again.of("visits").resume.clone(), again.of("filtered").resume.clone());
    drop(again);

    // Tokens of another selection, of another view, or of none: a fresh snapshot.
    let mut other = program.live();
    for (id, relation, options) in [
        (
            "other where",
            "visits",
            json!({"where": "seconds > 21", "resume": filtered_token}),
        ),
        ("no where", "visits", json!({"resume": filtered_token})),
        (
            "other columns",
            "visits",
            json!({"columns": ["page"], "resume": visits_token}),
        ),
        ("other view", "recent", json!({"resume": visits_token})),
        ("nonsense", "recent", json!({"resume": "0123"})),
        (
            "the future",
            "visits",
            json!({"resume": format!("{}{:016x}", &visits_token[..48], u64::MAX / 2)}),
        ),
    ] {
        other.subscribe_as(id, relation, options);
    }
    other.reach(tick(&reply));
    for (id, held) in &other.held {
        assert_eq!(held.snapshots, 1, "{id} got no snapshot");
    }
    holds(
        &program,
        &other,
        "other where",
        "SELECT * FROM visits WHERE seconds > 21",
    );
    holds(&program, &other, "other columns", "SELECT page FROM visits");
    program.stop();

    // A token of another start of the program is worth nothing either.
    let program = Program::start(dir.path());
    let mut live = program.live();
    live.subscribe_as("visits", "visits", json!({"resume": visits_token}));
    live.until("a fresh snapshot", |live| {
        live.of("visits").snapshots == 1 && live.of("visits").tick > 0
    });
    assert!(live.of("visits").rows().is_empty());
    program.stop();
}

#[test]
fn whoever_falls_far_behind_gets_the_net_or_a_fresh_snapshot() {
    let columns = "columns = { k = \"bigint not null\", v = \"bigint not null\" }\nkey = [\"k\"]\n";
    let dir = folder::deployment(&[
        ("deployment.toml", "clock = \"event\"\n"),
        (
            "sources/facts.toml",
            &format!("{columns}[connector]\ntype = \"http\"\n"),
        ),
        ("views/evens.sql", "SELECT k, v FROM facts WHERE v % 2 = 0"),
    ]);
    let program = Program::start(dir.path());
    let rows = |from: i64, count: i64, v: i64| {
        (from..from + count)
            .map(|k| format!("{{\"k\":{},\"v\":{v}}}\n", k % 5000))
            .collect::<String>()
    };
    let mut live = program.live();
    live.subscribe("facts");
    live.subscribe("evens");
    let first = program.ingest("facts", rows(0, 5000, 0));
    live.reach(tick(&first));
    assert_eq!(live.of("evens").rows().len(), 5000);
    // Nothing is read meanwhile: the frames in the sockets' buffers, then what was missed, as a whole.
    let mut last = first;
    for v in 1..60 {
        last = program.ingest("facts", rows(v * 1700, 5000, v));
    }
    live.reach(tick(&last));
    for view in ["facts", "evens"] {
        holds(&program, &live, view, &format!("SELECT * FROM {view}"));
    }
    program.stop();
}

#[test]
fn messages_that_make_no_sense_are_answered_and_the_rest_goes_on() {
    let dir = shop();
    let program = Program::start(dir.path());
    let mut live = program.live();
    live.subscribe("recent");
    for (message, id, code) in [
        ("not json", Value::Null, "bad_request"),
        ("{}", Value::Null, "bad_request"),
        (r#"{"type":"dance","id":"x"}"#, json!("x"), "bad_request"),
        (r#"{"type":"subscribe","id":"x"}"#, json!("x"), "bad_request"),
        (
            r#"{"type":"subscribe","id":"x","view":"recent","were":"true"}"#,
            json!("x"),
            "bad_request",
        ),
        (
            r#"{"type":"subscribe","id":"x","view":"recnt"}"#,
            json!("x"),
            "unknown_view",
        ),
        (
            r#"{"type":"subscribe","id":"x","view":"sangam.views"}"#,
            json!("x"),
            "unknown_view",
        ),
        (
            r#"{"type":"subscribe","id":"recent","view":"recent"}"#,
            json!("recent"),
            "id_in_use",
        ),
        (
            r#"{"type":"subscribe","id":"x","view":"recent","where":"visits >"}"#,
            json!("x"),
            "bad_where",
        ),
        (
            r#"{"type":"subscribe","id":"x","view":"recent","where":"colour = 1"}"#,
            json!("x"),
            "bad_where",
        ),
        (
            r#"{"type":"subscribe","id":"x","view":"recent","where":"visits + 1"}"#,
            json!("x"),
            "bad_where",
        ),
        (
            r#"{"type":"subscribe","id":"x","view":"recent","where":"visits > (SELECT 1)"}"#,
            json!("x"),
            "bad_where",
        ),
        (
            r#"{"type":"subscribe","id":"x","view":"recent","where":"sum(visits) > 1"}"#,
            json!("x"),
            "bad_where",
        ),
        (
            r#"{"type":"subscribe","id":"x","view":"recent","columns":["visit"]}"#,
            json!("x"),
            "bad_columns",
        ),
        (
            r#"{"type":"subscribe","id":"x","view":"recent","columns":["visits"]}"#,
            json!("x"),
            "bad_columns",
        ),
        (
            r#"{"type":"subscribe","id":"x","view":"recent","columns":[]}"#,
            json!("x"),
            "bad_columns",
        ),
        (r#"{"type":"unsubscribe","id":"x"}"#, json!("x"), "unknown_id"),
    ] {
        live.say(message);
        let refusal = live.refusal();
        assert_eq!(
            (&refusal["id"], refusal["code"].as_str()),
            (&id, Some(code)),
            "{message} got {refusal}"
        );
        assert!(
            refusal["message"].as_str().is_some_and(|text| text.len() > 8),
            "{refusal}"
        );
    }
    live.send(tokio_tungstenite::tungstenite::Message::binary(vec![0xff, 0x00]));
    assert_eq!(live.refusal()["code"], "bad_request");
    let unknown = r#"{"type":"subscribe","id":"y","view":"recnt"}"#;
    live.say(unknown);
    let hint = live.refusal()["hint"].clone();
    assert!(
        hint.as_str().is_some_and(|hint| hint.contains("recent")),
        "no hint at the right name: {hint}"
    );

    // The 257th subscription is one too many; the others go on.
    for n in 0..256 {
        live.subscribe_as(&n.to_string(), "recent", json!({}));
    }
    let refusal = live.refusal();
    assert_eq!(
        (&refusal["id"], &refusal["code"]),
        (&json!("255"), &json!("too_many_subscriptions"))
    );
    live.held.remove("255");
    let reply = program.ingest("visits", visits(0, 10));
    live.reach(tick(&reply));
    holds(&program, &live, "254", "SELECT * FROM recent");

    // A message beyond all bounds ends that connection, and tells why; nobody else notices.
    let mut bold = program.live();
    bold.say(&format!(r#"{{"type":"subscribe","id":"{}"}}"#, "x".repeat(100_000)));
    assert_eq!(bold.closed(), Some(1009));
    let reply = program.ingest("visits", visits(10, 10));
    live.reach(tick(&reply));
    program.stop();
}

#[test]
fn a_view_whose_key_is_violated_says_so_until_it_is_right_again() {
    let dir = folder::deployment(&[
        (
            "sources/facts.toml",
            "columns = { a = \"bigint not null\", b = \"bigint\" }\nretractions = true\n[connector]\ntype = \"http\"\n",
        ),
        ("views/pairs.sql", "--! key = [\"a\"]\nSELECT a, b FROM facts"),
        ("views/sums.sql", "SELECT a, sum(b) AS b FROM pairs GROUP BY a"),
    ]);
    let program = Program::start(dir.path());
    let mut live = program.live();
    live.subscribe("pairs");
    live.subscribe("sums");
    let reply = program.ingest("facts", r#"[{"a":1,"b":1},{"a":2,"b":2}]"#);
    live.reach(tick(&reply));
    let failed = || program.sql("SELECT failed FROM sangam.views WHERE name = 'pairs'")[0]["failed"].clone();
    assert_eq!(failed(), Value::Null);

    let reply = program.ingest("facts", r#"{"a":1,"b":3}"#);
    let refusal = live.refusal();
    assert_eq!(
        (&refusal["id"], &refusal["code"]),
        (&json!("pairs"), &json!("view_failed")),
        "{refusal}"
    );
    assert!(failed().is_string());
    live.held.remove("pairs");
    live.reach(tick(&reply));
    // Its rows can be read, and whoever reads them goes on.
    assert_eq!(
        program.sql("SELECT b FROM pairs WHERE a = 1 ORDER BY b"),
        [json!({"b": 1}), json!({"b": 3})]
    );
    holds(&program, &live, "sums", "SELECT * FROM sums");
    live.subscribe("pairs");
    assert_eq!(live.refusal()["code"], "view_failed");

    let reply = program.ingest("facts?op=delete", r#"{"a":1,"b":1}"#);
    assert_eq!(failed(), Value::Null);
    live.held.remove("pairs");
    live.subscribe("pairs");
    live.reach(tick(&reply));
    assert_eq!(live.of("pairs").rows(), [r#"{"a":1,"b":3}"#, r#"{"a":2,"b":2}"#]);
    program.stop();
}
