//! Bodies that are broken, too large, of another kind, or for nobody.

use std::io::{Read, Write};

use serde_json::json;

use crate::program::Program;
use crate::program::folder::deployment;

const READINGS: &str = r#"
columns = { station = "text not null", at = "timestamp not null", ph = "double", count = "integer" }
time = { column = "at", lateness = "30 seconds" }
[connector]
type = "http"
"#;

const LINKS: &str = r#"
columns = { upstream = "text not null", downstream = "text not null" }
key = ["upstream"]
[connector]
type = "file"
path = "data/links.csv"
[format]
type = "csv"
"#;

const GOOD: &str = r#"{"station":"K1","at":"2026-03-01T10:00:00Z","ph":7.5,"count":1}"#;

/// The largest body in these tests.
const BODY_BYTES: usize = 1_000_000;

fn program() -> (tempfile::TempDir, Program) {
    let dir = deployment(&[
        (
            "deployment.toml",
            &format!("clock = \"event\"\nbody_bytes_max = {BODY_BYTES}\n"),
        ),
        ("sources/readings.toml", READINGS),
        ("sources/links.toml", LINKS),
        ("data/links.csv", "upstream,downstream\nK1,K2\n"),
        (
            "views/latest.sql",
            "SELECT station, last_value(ph ORDER BY at) AS ph FROM readings GROUP BY station",
        ),
    ]);
    let program = Program::start(dir.path());
    (dir, program)
}

#[test]
fn broken_rows_are_set_aside_and_the_rest_goes_on() {
    let (_dir, program) = program();
    let mut accepted = 0;
    for (bad, bytes) in [
        (1, b"{".as_slice()),
        (1, b"}"),
        (1, b"nonsense"),
        (1, b"null"),
        (1, b"7"),
        (1, b"[1]"),
        (1, br#"{"station":"K1"}"#),
        (1, br#"{"station":null,"at":"2026-03-01T10:00:00Z"}"#),
        (1, br#"{"station":"K1","at":"yesterday"}"#),
        (1, br#"{"station":"K1","at":"2026-02-30T00:00:00Z"}"#),
        (1, br#"{"station":"K1","at":"12026-01-01T00:00:00Z"}"#),
        (1, br#"{"station":"K1","at":"1066-10-14T00:00:00Z"}"#),
        (1, br#"{"station":"K1","at":"2026-03-01T10:00:00Z","ph":"sour"}"#),
        (1, br#"{"station":"K1","at":"2026-03-01T10:00:00Z","ph":{}}"#),
        (1, br#"{"station":"K1","at":"2026-03-01T10:00:00Z","count":1.5}"#),
        (1, br#"{"station":"K1","at":"2026-03-01T10:00:00Z","count":2147483648}"#),
        (1, b"{\"station\":\"\xff\xfe\",\"at\":\"2026-03-01T10:00:00Z\"}"),
        (1, b"\x00\x01\x02\xff"),
        (2, b"{\"station\":\"K1\"\n\"at\":1}"),
    ] {
        let mut body = format!("{GOOD}\n").into_bytes();
        body.extend_from_slice(bytes);
        body.extend_from_slice(format!("\n{GOOD}\n").as_bytes());
        let reply = program.ingest("readings", &body);
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(
            (&reply["accepted"], &reply["rejected"]),
            (&json!(2), &json!(bad)),
            "{text} got {reply}"
        );
        assert_eq!(
            reply["reasons"].as_array().map(Vec::len),
            Some(bad),
            "{text} got {reply}"
        );
        accepted += 2;
    }
    assert_eq!(program.number("SELECT count(*) FROM readings"), accepted);
    let rejected = program.sql("SELECT row, reason FROM sangam.rejected WHERE row LIKE '%sour%'");
    assert_eq!(rejected.len(), 1);
    assert!(
        rejected[0]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("\"ph\"")),
        "{rejected:?}"
    );

    // Arrays and CSV that break off keep what came before.
    let cut = program.ingest("readings", format!("[{GOOD},{GOOD},{{\"station\":\"K"));
    assert_eq!((&cut["accepted"], &cut["rejected"]), (&json!(2), &json!(1)), "{cut}");
    let csv = "at,station,ph,count\n2026-03-01T10:00:00Z,K1,7.5,1\n2026-03-01T10:00:00Z,K1\n,,,\n2026-03-01T10:00:00Z,\"K1,7,1\n";
    let reply = program.post("readings", "text/csv", csv).json();
    assert_eq!(
        (&reply["accepted"], &reply["rejected"]),
        (&json!(1), &json!(3)),
        "{reply}"
    );
    let headless = program
        .post("readings", "text/csv", "K1,2026-03-01T10:00:00Z,7.5,1\n")
        .json();
    assert_eq!(headless["accepted"], json!(0), "{headless}");
    for nothing in ["", " \n\n", "[]"] {
        let reply = program.ingest("readings", nothing);
        assert_eq!(
            (&reply["accepted"], &reply["rejected"]),
            (&json!(0), &json!(0)),
            "{nothing:?} got {reply}"
        );
    }

    // Depth and length are no trap.
    for body in [
        "[".repeat(900_000),
        "{\"station\":".repeat(80_000),
        "\"".repeat(900_001),
        "x".repeat(900_000),
    ] {
        let reply = program.ingest("readings", &body);
        assert_eq!(reply["accepted"], json!(0));
        assert!(
            reply["rejected"].as_u64().is_some_and(|rejected| rejected >= 1),
            "{reply}"
        );
    }
    assert_eq!(program.number("SELECT count(*) FROM latest"), 1);
    program.stop();
}

#[test]
fn bodies_for_nobody_are_refused_with_a_hint() {
    let (_dir, program) = program();
    let json = "application/json";
    for (path, content_type, status, code, hint) in [
        ("readngs", json, 404, "unknown_source", "readings"),
        ("zzz", json, 404, "unknown_source", "readings"),
        ("latest", json, 409, "not_a_source", "readings"),
        ("links", json, 409, "source_takes_no_posts", "http"),
        ("readings?op=dance", json, 400, "unknown_operation", "delete"),
        ("readings?operation=delete", json, 400, "unknown_parameter", "op"),
        ("readings?op=delete", json, 409, "source_keeps_its_rows", "retractions"),
        ("readings", "image/png", 415, "unknown_content_type", "text/csv"),
        ("readings", "application/xml", 415, "unknown_content_type", "NDJSON"),
    ] {
        let reply = program.post(path, content_type, GOOD);
        assert_eq!(reply.refusal(), (status, code.to_owned()), "{path}: {}", reply.text());
        let told = reply.json()["error"]["hint"].to_string();
        assert!(told.contains(hint), "{path}: the hint {told} does not say {hint}");
    }
    let packed = [("content-type", json), ("content-encoding", "gzip")];
    assert_eq!(
        program
            .request("POST", "/ingest/readings", &packed, b"\x1f\x8b")
            .refusal()
            .0,
        415
    );
    assert_eq!(program.request("PUT", "/ingest/readings", &[], b"").refusal().0, 405);
    assert_eq!(program.number("SELECT count(*) FROM readings"), 0);
    program.stop();
}

#[test]
fn bodies_without_end_are_refused_and_leave_no_memory_behind() {
    let (_dir, program) = program();
    let line = format!("{GOOD}\n");
    let large = line.repeat(BODY_BYTES / line.len() + 1);
    let before = program.resident_mib();
    for _ in 0..20 {
        let reply = program.post("readings", "application/json", &large);
        assert_eq!(reply.refusal(), (413, "body_too_large".to_owned()));
        assert!(
            reply.text().contains(&BODY_BYTES.to_string()),
            "the limit is told: {}",
            reply.text()
        );
    }
    // Announced and never sent; sent in pieces and never announced; asked for first.
    let announced = "POST /ingest/readings HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    let answer = program.raw(format!("{announced}content-length: 99999999999\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    let mut chunked = format!("{announced}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..20 {
        chunked.extend_from_slice(format!("{:x}\r\n{}\r\n", 100_000, "y".repeat(100_000)).as_bytes());
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert!(program.raw_open(&chunked).starts_with("HTTP/1.1 413"));
    let mut polite = program.connect();
    write!(
        polite,
        "{announced}expect: 100-continue\r\ncontent-length: 99999999\r\n\r\n"
    )
    .expect("it reads");
    let mut answer = String::new();
    polite.read_to_string(&mut answer).expect("it answers at once");
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");

    // A body that breaks off is not taken at all.
    let answer = program.raw(format!("{announced}content-length: 1000\r\n\r\n{line}").as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    for garbage in [
        b"\x16\x03\x01\x02\x00\x01".as_slice(),
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST\r\n\r\n",
        &[0; 5000],
    ] {
        let answer = program.raw(garbage);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(program.number("SELECT count(*) FROM readings"), 0);

    // Rejected rows have a bound of their own: the oldest make place.
    let noise = format!("{{\"station\":\"{}\n", "z".repeat(9_950)).repeat(100);
    for _ in 0..120 {
        assert_eq!(program.ingest("readings", &noise)["rejected"], json!(100));
    }
    let kept = program.number("SELECT sum(length(row) + length(reason)) FROM sangam.rejected");
    assert!(kept <= 64 << 20, "{kept} bytes of rejected rows are kept");
    assert_eq!(
        program.number("SELECT rejected FROM sangam.sources WHERE name = 'readings'"),
        12_000
    );
    let grown = program.resident_mib() - before;
    println!("120 MB of rejected rows: {grown:.0} MiB more");
    assert!(grown < 250.0, "memory grew by {grown:.0} MiB");
    assert_eq!(program.ingest("readings", GOOD)["accepted"], json!(1));
    program.stop();
}
