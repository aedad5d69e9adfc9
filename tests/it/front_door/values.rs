//! Values of values, through every door: lists and JSON in, elements, structs and windows out.

use serde_json::{Value, json};

use crate::program::Program;
use crate::program::folder::deployment;

const SAMPLES: &str = r#"
columns = { id = "bigint not null", at = "timestamp not null", ph = "double[]", tags = "text[] not null", note = "text" }
time = { column = "at" }
retractions = true
[connector]
type = "http"
"#;

const VIEWS: &[(&str, &str)] = &[
    (
        "views/tags.sql",
        "SELECT u.tag, count(*) AS samples FROM samples s, unnest(s.tags) AS u(tag) GROUP BY u.tag",
    ),
    (
        "views/shapes.sql",
        "SELECT id, ph, named_struct('first', ph[1], 'tags', tags) AS s, make_map('n', array_length(tags)) AS m FROM samples",
    ),
    (
        "views/lists.sql",
        "SELECT tags, count(*) AS samples, max(note ->> 'depth') AS depth, max(json_get_int(note, 'depth')) AS deepest \
         FROM samples GROUP BY tags",
    ),
    (
        "views/hourly.sql",
        "SELECT window_start, window_end, count(*) AS samples FROM hop(samples, at, INTERVAL '30 minutes', INTERVAL '1 hour') \
         GROUP BY window_start, window_end",
    ),
    (
        "views/open.sql",
        "SELECT id FROM samples WHERE at > now() - INTERVAL '1 hour' OR note ? 'keep'",
    ),
];

#[test]
fn lists_and_json_go_in_and_come_out() {
    let mut files = vec![
        ("deployment.toml", "clock = \"event\"\n"),
        ("sources/samples.toml", SAMPLES),
    ];
    files.extend(VIEWS);
    let dir = deployment(&files);
    let program = Program::start(dir.path());
    let rows = [
        json!({"id": 1, "at": "2026-03-01T10:10:00Z", "ph": [7.5, null], "tags": ["a", "b", "a"], "note": "{\"depth\": 3}"}),
        json!({"id": 2, "at": "2026-03-01T10:40:00Z", "ph": null, "tags": [], "note": "{\"depth\": 12, \"keep\": 1}"}),
        json!({"id": 3, "at": "2026-03-01T12:00:00Z", "ph": [], "tags": ["b", null], "note": "none"}),
    ];
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    program.ingest("samples", lines.join("\n"));
    let ask = |sql: &str| -> Value { Value::Array(program.sql(sql)) };

    assert_eq!(
        ask("SELECT * FROM tags ORDER BY tag NULLS LAST"),
        json!([{"tag": "a", "samples": 2}, {"tag": "b", "samples": 2}, {"tag": null, "samples": 1}])
    );
    assert_eq!(
        ask("SELECT * FROM shapes ORDER BY id"),
        json!([
            {"id": 1, "ph": [7.5, null], "s": {"first": 7.5, "tags": ["a", "b", "a"]}, "m": {"n": 3}},
            {"id": 2, "ph": null, "s": {"first": null, "tags": []}, "m": {"n": 0}},
            {"id": 3, "ph": [], "s": {"first": null, "tags": ["b", null]}, "m": {"n": 2}},
        ])
    );
    assert_eq!(
        ask("SELECT tags, samples, depth, deepest FROM lists ORDER BY deepest NULLS LAST"),
        json!([
            {"tags": ["a", "b", "a"], "samples": 1, "depth": "3", "deepest": 3},
            {"tags": [], "samples": 1, "depth": "12", "deepest": 12},
            {"tags": ["b", null], "samples": 1, "depth": null, "deepest": null},
        ])
    );
    assert_eq!(
        ask("SELECT window_start, samples FROM hourly WHERE samples > 1"),
        json!([{"window_start": "2026-03-01T10:00:00Z", "samples": 2}])
    );
    // By noon the first is too old, and the second stays for what its note says.
    assert_eq!(ask("SELECT id FROM open ORDER BY id"), json!([{"id": 2}, {"id": 3}]));

    let taken = program.post("samples?op=delete", "application/json", lines[0].as_bytes());
    assert_eq!(taken.status, 200, "{}", taken.text());
    assert_eq!(
        ask("SELECT * FROM tags ORDER BY tag NULLS LAST"),
        json!([{"tag": "b", "samples": 1}, {"tag": null, "samples": 1}])
    );
    assert_eq!(ask("SELECT count(*) AS n FROM lists"), json!([{"n": 2}]));
    let bad = program.ingest(
        "samples",
        r#"{"id": 4, "at": "2026-03-01T12:00:00Z", "ph": [1, "x"], "tags": []}"#,
    );
    assert_eq!(bad["rejected"], 1, "{bad}");
    program.stop();
}
