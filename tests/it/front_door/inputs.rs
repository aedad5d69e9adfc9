//! Inputs that change: rows in envelopes, and snapshots of all there is.

use serde_json::{Value, json};

use crate::program::Program;
use crate::program::folder::deployment;

const KEYED: &str = r#"
columns = { id = "bigint not null", name = "text not null", level = "double" }
key = ["id"]
[format]
envelope = "debezium"
[connector]
type = "http"
"#;

const WHOLE: &str = r#"
columns = { id = "bigint not null", name = "text not null", level = "double" }
retractions = true
[format]
envelope = "debezium"
[connector]
type = "http"
"#;

fn asked(program: &Program, sql: &str) -> Value {
    Value::Array(program.sql(sql))
}

/// Sends rows and demands how many were accepted, and how many rejected.
#[track_caller]
fn sent(program: &Program, source: &str, lines: &[&str], accepted: usize, rejected: usize) -> Value {
    let answer = program.ingest(source, lines.join("\n"));
    assert_eq!(
        (answer["accepted"].as_u64(), answer["rejected"].as_u64()),
        (Some(accepted as u64), Some(rejected as u64)),
        "{answer}"
    );
    answer
}

#[test]
fn rows_in_envelopes_come_and_go() {
    let dir = deployment(&[
        ("sources/keyed.toml", KEYED),
        ("sources/whole.toml", WHOLE),
        (
            "views/levels.sql",
            "SELECT name, count(*) AS n, sum(level) AS level FROM keyed GROUP BY name",
        ),
        ("views/names.sql", "SELECT name, count(*) AS n FROM whole GROUP BY name"),
    ]);
    let program = Program::start(dir.path());
    let levels = || asked(&program, "SELECT * FROM levels ORDER BY name");
    let names = || asked(&program, "SELECT * FROM names ORDER BY name");
    // By themselves, in the payload beside a schema, and a tombstone that says nothing.
    let created = [
        r#"{"before": null, "after": {"id": 1, "name": "a", "level": 2}, "op": "r", "ts_ms": 1}"#,
        r#"{"schema": {"type": "struct", "op": "d"}, "payload": {"op": "c", "after": {"id": 2, "name": "a", "level": 3}, "before": null}}"#,
        "null",
        r#"{"schema": null, "payload": null}"#,
    ];
    sent(&program, "keyed", &created, 2, 0);
    assert_eq!(levels(), json!([{"name": "a", "n": 2, "level": 5.0}]));
    sent(&program, "whole", &created, 2, 0);
    assert_eq!(names(), json!([{"name": "a", "n": 2}]));
    // An update with and without what was, one that moves to another key, and a deletion that knows its key alone.
    sent(
        &program,
        "keyed",
        &[
            r#"{"op": "u", "before": {"id": 1, "name": "a", "level": 2}, "after": {"id": 1, "name": "b", "level": 2}}"#,
            r#"{"op": "u", "before": null, "after": {"id": 2, "name": "b", "level": 4}}"#,
            r#"{"op": "u", "before": {"id": 2}, "after": {"id": 3, "name": "b", "level": 4}}"#,
            r#"{"op": "d", "before": {"id": 1}, "after": null}"#,
        ],
        5,
        0,
    );
    assert_eq!(levels(), json!([{"name": "b", "n": 1, "level": 4.0}]));
    // What comes and goes at once leaves nothing; what is wrong stands among the rejected, whole.
    let answer = sent(
        &program,
        "keyed",
        &[
            r#"{"op": "c", "after": {"id": 7, "name": "x"}}"#,
            r#"{"op": "d", "before": {"id": 7, "name": null}}"#,
            r#"{"op": "u", "before": {"id": 3}, "after": {"id": 8, "name": 5}}"#,
            r#"{"op": "d", "before": {"id": 99}}"#,
            r#"{"op": "t"}"#,
            r#"{"op": "q", "after": {"id": 8, "name": "x"}}"#,
            r#"{"op": "d"}"#,
            r#"{"op": "c", "before": {"id": 8, "name": "x"}}"#,
            r#"{"id": 8, "name": "x"}"#,
            r#"{"op": "c", "after": [8]}"#,
            r#"{"op": "c", "after": {"id": 8, "name": "x"}"#,
            "17",
        ],
        2,
        10,
    );
    assert!(answer["reasons"].to_string().contains("is not a text"), "{answer}");
    assert_eq!(levels(), json!([{"name": "b", "n": 1, "level": 4.0}]));
    let rejected = asked(&program, "SELECT reason FROM sangam.rejected WHERE source = 'keyed'");
    let rejected = rejected.to_string();
    for reason in [
        "no retained row has this key",
        "a truncation, which is not followed",
        "an op that is none of c, r, u and d",
        "an envelope without before",
        "an envelope without after",
        "an envelope without op",
        "expected an envelope, which is an object",
        "the object is cut off",
    ] {
        assert!(rejected.contains(reason), "{reason}: {rejected}");
    }
    // Without a key both rows of an update are whole.
    sent(
        &program,
        "whole",
        &[
            r#"{"op": "u", "before": {"id": 1, "name": "a", "level": 2}, "after": {"id": 1, "name": "b", "level": 2}}"#,
            r#"{"op": "d", "before": {"id": 2, "name": "a", "level": 3}}"#,
        ],
        3,
        0,
    );
    assert_eq!(names(), json!([{"name": "b", "n": 1}]));
    sent(
        &program,
        "whole",
        &[
            r#"{"op": "u", "before": null, "after": {"id": 1, "name": "c"}}"#,
            r#"{"op": "u", "before": {"id": 1, "name": "b"}, "after": {"id": "x", "name": "c"}}"#,
            r#"{"op": "d", "before": {"id": 1}}"#,
            r#"{"op": "d", "before": {"id": 5, "name": "a", "level": 3}}"#,
        ],
        0,
        4,
    );
    assert_eq!(names(), json!([{"name": "b", "n": 1}]));
    let refused = program.post("keyed?op=delete", "application/json", br#"{"id": 3}"#);
    assert_eq!(refused.status, 409, "{}", refused.text());
    program.stop();
}

#[test]
fn a_snapshot_is_all_there_is() {
    let keyed = "columns = { id = \"bigint not null\", state = \"text\" }\nkey = [\"id\"]\nsnapshot = true\n[connector]\ntype = \"http\"\n";
    let plain =
        "columns = { stop = \"text not null\", delay = \"bigint\" }\nsnapshot = true\n[connector]\ntype = \"http\"\n";
    let file = "columns = { id = \"bigint not null\" }\nsnapshot = true\n[connector]\ntype = \"file\"\npath = \"data/ids.csv\"\n";
    let ids: String = (0..20_000).map(|id| format!("{id}\n")).collect();
    let dir = deployment(&[
        ("sources/vehicles.toml", keyed),
        ("sources/delays.toml", plain),
        ("sources/ids.toml", file),
        ("data/ids.csv", &format!("id\n{ids}")),
        (
            "views/states.sql",
            "SELECT state, count(*) AS n FROM vehicles GROUP BY state",
        ),
        (
            "views/late.sql",
            "SELECT stop, count(*) AS n, sum(delay) AS delay FROM delays GROUP BY stop",
        ),
        (
            "views/all_ids.sql",
            "SELECT count(*) AS n, count(DISTINCT id) AS d FROM ids",
        ),
    ]);
    let program = Program::start(dir.path());
    let states = || asked(&program, "SELECT * FROM states ORDER BY state");
    let late = || asked(&program, "SELECT * FROM late ORDER BY stop");
    sent(
        &program,
        "vehicles",
        &[r#"[{"id": 1, "state": "on"}, {"id": 2, "state": "on"}, {"id": 3, "state": "off"}]"#],
        3,
        0,
    );
    assert_eq!(states(), json!([{"state": "off", "n": 1}, {"state": "on", "n": 2}]));
    sent(
        &program,
        "vehicles",
        &[r#"[{"id": 2, "state": "off"}, {"id": 4, "state": "on"}]"#],
        2,
        0,
    );
    assert_eq!(states(), json!([{"state": "off", "n": 1}, {"state": "on", "n": 1}]));
    // Where a row could not be read, nothing is known to be missing.
    sent(
        &program,
        "vehicles",
        &[r#"[{"id": 5, "state": "on"}, {"id": null}]"#],
        1,
        1,
    );
    assert_eq!(states(), json!([{"state": "off", "n": 1}, {"state": "on", "n": 2}]));
    sent(&program, "vehicles", &["[]"], 0, 0);
    assert_eq!(states(), json!([]));
    sent(
        &program,
        "delays",
        &[
            r#"{"stop": "a", "delay": 3}"#,
            r#"{"stop": "a", "delay": 3}"#,
            r#"{"stop": "b"}"#,
        ],
        3,
        0,
    );
    assert_eq!(
        late(),
        json!([{"stop": "a", "n": 2, "delay": 6}, {"stop": "b", "n": 1, "delay": null}])
    );
    sent(
        &program,
        "delays",
        &[
            r#"{"stop": "a", "delay": 3}"#,
            r#"{"stop": "c", "delay": 1}"#,
            r#"{"stop": "c", "delay": 1}"#,
        ],
        3,
        0,
    );
    assert_eq!(
        late(),
        json!([{"stop": "a", "n": 1, "delay": 3}, {"stop": "c", "n": 2, "delay": 2}])
    );
    let refused = program.post("delays?op=delete", "application/json", br#"{"stop": "c", "delay": 1}"#);
    assert_eq!(refused.status, 409, "{}", refused.text());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let all = json!([{"n": 20_000, "d": 20_000}]);
    while asked(&program, "SELECT * FROM all_ids") != all && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(asked(&program, "SELECT * FROM all_ids"), all);
    program.stop();
}
