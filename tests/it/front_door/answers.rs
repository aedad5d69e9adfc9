//! `/sql`: one answer in every form, every type as it was sent, nothing but questions.

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use dataflows::json::RowEncoder;
use serde_json::{Value, json};

use super::ledger::canonical;
use crate::program::Program;
use crate::program::folder::deployment;

const ARROW: &str = "application/vnd.apache.arrow.stream";

const SOURCE: &str = r#"
key = ["k"]
[columns]
k = "bigint not null"
small = "smallint"
number = "integer"
yes = "boolean"
single = "real"
double = "double"
money = "decimal(20,4)"
day = "date"
at = "timestamp"
text = "text"
bytes = "bytea"
[connector]
type = "http"
"#;

fn program() -> (tempfile::TempDir, Program) {
    let dir = deployment(&[
        (
            "deployment.toml",
            "time_zone = \"Asia/Kolkata\"\nbody_bytes_max = 4000000\n",
        ),
        ("sources/kinds.toml", SOURCE),
        ("views/kinds_again.sql", "--! key = [\"k\"]\nSELECT * FROM kinds"),
    ]);
    let program = Program::start(dir.path());
    (dir, program)
}

fn rows() -> Vec<Value> {
    vec![
        json!({"k": 1, "small": -32768, "number": 2147483647, "yes": true, "single": 0.1, "double": 0.1,
            "money": "1234567890123456.7890", "day": "2024-02-29", "at": "2026-03-29T02:30:00.123456+05:30",
            "text": "naïve \"q\", 水\n", "bytes": "00ff10"}),
        json!({"k": i64::MAX, "small": 0, "number": -1, "yes": false, "single": -0.0, "double": 5e-324,
            "money": "-0.0001", "day": "1970-01-01", "at": "1970-01-01T00:00:00Z", "text": "", "bytes": ""}),
        json!({"k": i64::MIN}),
        json!({"k": 9_007_199_254_740_993_i64, "double": 1.7976931348623157e308}),
    ]
}

#[test]
fn an_answer_is_the_same_in_json_csv_and_arrow() {
    let (_dir, program) = program();
    let rows = rows();
    let body = rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let reply = program.ingest("kinds", body);
    assert_eq!(
        (&reply["accepted"], &reply["rejected"]),
        (&json!(4), &json!(0)),
        "{reply}"
    );

    let sql = "SELECT * FROM kinds_again ORDER BY k";
    let in_json = program.query(sql, "application/json");
    let found: Vec<Value> = serde_json::from_slice(&in_json.body).expect("rows");
    assert_eq!(
        found[1],
        json!({"k": 1, "small": -32768, "number": 2147483647, "yes": true, "single": 0.1, "double": 0.1,
        "money": "1234567890123456.7890", "day": "2024-02-29", "at": "2026-03-28T21:00:00.123456Z",
        "text": "naïve \"q\", 水\n", "bytes": "00ff10"})
    );
    assert_eq!(
        found[0]["k"],
        json!(i64::MIN.to_string()),
        "beyond 2^53 a number is a string"
    );
    assert!(
        found[0]
            .as_object()
            .expect("a row")
            .iter()
            .all(|(name, value)| name == "k" || value.is_null())
    );

    let in_arrow = program.query(sql, ARROW);
    assert_eq!(in_arrow.headers["content-type"], ARROW);
    let batches: Vec<RecordBatch> = StreamReader::try_new(in_arrow.body.as_slice(), None)
        .expect("Arrow")
        .map(|batch| batch.expect("Arrow"))
        .collect();
    let mut encoded = vec![b'['];
    for (position, batch) in batches.iter().enumerate() {
        encoded.extend(if position > 0 { b",".as_slice() } else { b"" });
        RowEncoder::new(&batch.schema()).objects(batch, &mut encoded);
    }
    encoded.push(b']');
    assert_eq!(canonical(&encoded), canonical(&in_json.body));

    // CSV sent back in makes the same rows.
    let in_csv = program.query(sql, "text/csv");
    assert!(
        in_csv
            .text()
            .starts_with("k,small,number,yes,single,double,money,day,at,text,bytes\n"),
        "{}",
        in_csv.text()
    );
    let deleted = program.ingest("kinds?op=delete", r#"[{"k":1},{"k":9007199254740993}]"#);
    assert_eq!(deleted["accepted"], json!(2), "{deleted}");
    let reply = program.post("kinds", "text/csv", &in_csv.body).json();
    assert_eq!(
        (&reply["accepted"], &reply["rejected"]),
        (&json!(4), &json!(0)),
        "{reply}"
    );
    let again = program.query(
        "SELECT * FROM kinds_again WHERE text IS NOT NULL AND text <> '' ORDER BY k",
        "application/json",
    );
    assert_eq!(canonical(&again.body), vec![found[1].to_string()]);

    // A large answer comes in pieces, and whole.
    let many: String = (0..30_000)
        .map(|k| format!("{{\"k\":{k},\"text\":\"row {k}\"}}\n"))
        .collect();
    program.ingest("kinds", many);
    let sql = "SELECT k, text FROM kinds WHERE text LIKE 'row %'";
    assert_eq!(program.sql(sql).len(), 30_000);
    assert_eq!(program.query(sql, "text/csv").text().lines().count(), 30_001);
    let in_arrow = program.query(sql, ARROW);
    let count = StreamReader::try_new(in_arrow.body.as_slice(), None)
        .expect("Arrow")
        .map(|batch| batch.expect("Arrow").num_rows());
    assert_eq!(count.sum::<usize>(), 30_000);
    // No rows are an answer, too.
    assert_eq!(
        program
            .query("SELECT k FROM kinds WHERE false", "application/json")
            .text()
            .trim(),
        "[]"
    );
    assert_eq!(
        program.query("SELECT k FROM kinds WHERE false", "text/csv").text(),
        "k\n"
    );
    program.stop();
}

#[test]
fn sql_asks_and_does_nothing_else() {
    let (_dir, program) = program();
    program.ingest("kinds", rows()[0].to_string());
    for sql in [
        "SELECT count(*) FROM kinds, kinds_again",
        "WITH x AS (SELECT k FROM kinds) SELECT sum(k) OVER (ORDER BY k) FROM x",
        "SELECT name FROM sangam.views UNION SELECT name FROM sangam.sources",
        "SELECT * FROM sangam.late, sangam.rejected, sangam.alert_events",
        "SELECT * FROM sangam.operators",
        "VALUES (1), (2)",
        "select now(), random() < 2 -- a comment",
    ] {
        let reply = program.query(sql, "*/*");
        assert_eq!(reply.status, 200, "{sql}: {}", reply.text());
    }
    for sql in [
        "SELEC 1",
        "SELECT k FROM",
        "SELECT colour FROM kinds",
        "SELECT k FROM kind",
        "SELECT k + text::date FROM kinds WHERE yes > 'x' AND nothing(k)",
        "CREATE TABLE t (x INT)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "DROP TABLE kinds",
        "INSERT INTO kinds (k) VALUES (1)",
        "UPDATE kinds SET k = 2",
        "DELETE FROM kinds",
        "COPY (SELECT 1) TO '/tmp/sangam-must-not-exist.csv' STORED AS CSV",
        "SET datafusion.execution.batch_size = 1",
        "SELECT 1; SELECT 2",
        "EXPLAIN ANALYZE SELECT k FROM kinds",
        "SELECT * FROM '/etc/passwd'",
    ] {
        let reply = program.query(sql, "application/json");
        assert_eq!(reply.refusal(), (400, "bad_sql".to_owned()), "{sql}: {}", reply.text());
    }
    assert!(!std::path::Path::new("/tmp/sangam-must-not-exist.csv").exists());
    let near = program
        .query("SELECT k FROM kind", "application/json")
        .text()
        .to_owned();
    assert!(near.contains("kinds"), "no hint at the right name: {near}");
    let line = program
        .query("SELECT k,\n  colour\nFROM kinds", "application/json")
        .json();
    assert!(
        line["error"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("line 2")),
        "no line in {line}"
    );

    assert_eq!(program.query("", "*/*").refusal(), (400, "empty_query".to_owned()));
    assert_eq!(
        program.query("SELECT 1", "image/png").refusal(),
        (406, "not_acceptable".to_owned())
    );
    let large = format!("SELECT 1 -- {}", "x".repeat(2 << 20));
    assert_eq!(program.query(&large, "*/*").status, 413);
    let broken = program.request("POST", "/sql", &[], b"SELECT '\xff\xfe'");
    assert_eq!(broken.status, 400, "{}", broken.text());
    let failing = program.query("SELECT 1 / (k - k) FROM kinds", "*/*");
    assert_eq!(failing.refusal(), (400, "query_failed".to_owned()));
    // The rows are as they were.
    assert_eq!(program.number("SELECT count(*) FROM kinds"), 1);
    program.stop();
}

#[test]
fn an_answer_is_never_older_than_what_was_acknowledged() {
    let (_dir, program) = program();
    for k in 0..300 {
        let tick = program.ingest("kinds", format!("{{\"k\":{k}}}"))["tick"]
            .as_u64()
            .expect("a tick");
        let reply = program.query("SELECT count(*) AS n FROM kinds_again", "application/json");
        assert!(
            reply.tick() >= tick,
            "tick {} after {tick} was acknowledged",
            reply.tick()
        );
        assert_eq!(reply.json(), json!([{"n": k + 1}]));
    }
    program.stop();
}
