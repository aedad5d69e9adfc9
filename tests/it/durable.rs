//! What was acknowledged is there again: after a kill, after a stop, from a checkpoint and from the log.

use std::path::Path;

use serde_json::{Value, json};

use crate::program::folder::deployment;
use crate::program::{Program, sangam};

const RELATIONS: &[&str] = &[
    "readings",
    "stations",
    "marks",
    "hourly",
    "recent",
    "named",
    "final",
    "best",
    "high",
    "sangam.late",
    "sangam.rejected",
    "sangam.alert_events",
    "sangam.errors",
];

fn shop(options: &str) -> tempfile::TempDir {
    let http = "[connector]\ntype = \"http\"\n";
    let readings = format!(
        "columns = {{ station = \"text not null\", at = \"timestamp not null\", ph = \"double\" }}\n\
         time = {{ column = \"at\", lateness = \"10 minutes\" }}\nretain = \"6 hours\"\n{http}"
    );
    let stations = format!(
        "columns = {{ station = \"text not null\", river = \"text\", version = \"bigint not null\" }}\n\
         key = [\"station\"]\nversion = \"version\"\n{http}"
    );
    let marks = format!("columns = {{ station = \"text not null\", mark = \"bigint\" }}\nretractions = true\n{http}");
    let options = format!("clock = \"event\"\nworkers = 2\n{options}\n");
    deployment(&[
        ("deployment.toml", &options),
        ("sources/readings.toml", &readings),
        ("sources/stations.toml", &stations),
        ("sources/marks.toml", &marks),
        (
            "views/hourly.sql",
            "--! key = [\"station\", \"hour\"]\n--! keep = \"2 days\"\nSELECT station, date_bin(INTERVAL '1 hour', at) AS hour, \
             avg(ph) AS ph, count(*) AS readings FROM readings GROUP BY station, hour",
        ),
        (
            "views/final.sql",
            "--! emit = \"on close\"\nSELECT date_bin(INTERVAL '30 minutes', at) AS half, count(*) AS readings FROM readings \
             GROUP BY half",
        ),
        (
            "views/recent.sql",
            "--! key = [\"station\"]\nSELECT station, count(*) AS readings, max(100 / (CAST(ph * 10 AS bigint) - 70)) AS odd FROM readings \
             WHERE at > now() - INTERVAL '1 hour' GROUP BY station",
        ),
        (
            "views/named.sql",
            "SELECT r.river, h.hour, h.ph, m.mark FROM hourly h JOIN stations r ON r.station = h.station \
             LEFT JOIN marks m ON m.station = h.station WHERE h.hour > now() - INTERVAL '5 hours'",
        ),
        (
            "views/best.sql",
            "SELECT station, at, ph FROM (SELECT *, row_number() OVER (PARTITION BY station ORDER BY ph DESC) AS n \
             FROM readings) WHERE n <= 2",
        ),
        (
            "alerts/high.sql",
            "--! key = [\"station\"]\n--! priority = \"high\"\nSELECT station, readings FROM recent WHERE readings >= 3",
        ),
    ])
}

fn at(minute: i64) -> String {
    let time = chrono::DateTime::from_timestamp(1_772_359_200 + minute * 60, 0).expect("a time");
    time.to_rfc3339()
}

/// Rows of some minutes, one of them late and one that is none.
fn readings(from: i64, to: i64) -> String {
    let row = |minute: i64| {
        json!({"station": format!("K{}", minute % 5), "at": at(minute), "ph": 5.0 + (minute % 40) as f64 / 10.0})
            .to_string()
    };
    let mut rows: Vec<String> = (from..to).map(row).collect();
    // The very first rows make none late.
    rows.push(row(from - 200));
    rows.push("{\"station\": 7".to_owned());
    rows.join("\n")
}

/// All that can be read, in an order of its own.
fn state(program: &Program) -> Vec<(String, Vec<String>)> {
    let read = |name: &&str| {
        let mut rows: Vec<String> = program
            .sql(&format!("SELECT * FROM {name}"))
            .iter()
            .map(Value::to_string)
            .collect();
        rows.sort();
        ((*name).to_owned(), rows)
    };
    RELATIONS.iter().map(read).collect()
}

fn start(dir: &Path, data: &Path) -> Program {
    Program::start_with(dir, &["--data", data.to_str().expect("a path")])
}

/// Feeds a little of everything, from some minute on.
fn feed(program: &Program, minute: i64) {
    program.ingest("readings", readings(minute, minute + 50));
    for station in 0..5 {
        let row =
            json!({"station": format!("K{station}"), "river": format!("river {}", station % 2), "version": minute});
        program.ingest("stations", row.to_string());
        program.ingest(
            "marks",
            json!({"station": format!("K{station}"), "mark": minute}).to_string(),
        );
    }
    // An older version changes nothing, and what is taken back is gone.
    program.ingest(
        "stations",
        json!({"station": "K1", "river": "old", "version": minute - 1}).to_string(),
    );
    let taken = program.request(
        "POST",
        "/ingest/marks?op=delete",
        &[],
        json!({"station": "K2", "mark": minute}).to_string().as_bytes(),
    );
    assert_eq!(taken.status, 200, "{}", taken.text());
    let taken = program.request("POST", "/ingest/stations?op=delete", &[], b"{\"station\": \"K3\"}");
    assert_eq!(taken.status, 200, "{}", taken.text());
    program.ingest("readings", readings(minute + 50, minute + 60));
}

fn same(when: &str, before: &[(String, Vec<String>)], after: &[(String, Vec<String>)]) {
    for ((name, before), (_, after)) in before.iter().zip(after) {
        assert_eq!(before, after, "{name} {when}");
    }
}

/// Kills and stops a program some times; what it holds is the same each time, and that of one that ran through.
fn survives(options: &str) {
    let dir = shop(options);
    let data = tempfile::tempdir().expect("a folder");
    let mut program = start(dir.path(), data.path());
    let through = Program::start(dir.path());
    for round in 0..6 {
        feed(&program, round * 60);
        feed(&through, round * 60);
        let before = state(&program);
        let empty = before.iter().find(|(_, rows)| rows.is_empty()).map(|(name, _)| name);
        assert!(round < 4 || empty.is_none(), "{empty:?} is empty");
        if round % 2 == 0 {
            program.kill();
        } else {
            program.stop();
        }
        program = start(dir.path(), data.path());
        same(&format!("after round {round}"), &before, &state(&program));
    }
    // Ticks follow event time here, so both have cut the same ones.
    same("without a break", &state(&through), &state(&program));
}

#[test]
fn the_log_alone_brings_everything_back() {
    survives("checkpoint_bytes = 1000000000");
}

#[test]
fn many_checkpoints_bring_everything_back() {
    survives("checkpoint_bytes = 1");
}

#[test]
fn a_subscriber_goes_on_where_it_was() {
    let dir = shop("");
    let data = tempfile::tempdir().expect("a folder");
    let program = start(dir.path(), data.path());
    feed(&program, 0);
    let mut live = program.live();
    for relation in ["hourly", "named", "best", "high"] {
        live.subscribe(relation);
    }
    let reply = program.ingest("readings", readings(61, 64));
    live.reach(reply["tick"].as_u64().expect("a tick"));
    let tokens: Vec<(String, String)> = live
        .held
        .iter()
        .map(|(name, held)| (name.clone(), held.resume.clone()))
        .collect();
    let held = std::mem::take(&mut live.held);
    drop(live);
    // While nobody listens.
    program.ingest("readings", readings(64, 70));
    program.kill();
    let program = start(dir.path(), data.path());
    let mut live = program.live();
    live.held = held;
    for (name, token) in &tokens {
        live.subscribe_as(name, name, json!({"resume": token}));
    }
    let reply = program.ingest("readings", readings(70, 75));
    live.reach(reply["tick"].as_u64().expect("a tick"));
    for (name, _) in &tokens {
        assert_eq!(live.held[name].snapshots, 1, "{name} was sent all of it again");
        let mut rows: Vec<String> = program
            .sql(&format!("SELECT * FROM {name}"))
            .iter()
            .map(Value::to_string)
            .collect();
        rows.sort();
        let mut held = live.of(name).rows();
        held.sort();
        assert_eq!(held, rows, "{name}");
    }
}

#[test]
fn a_request_that_is_sent_again_counts_once() {
    let dir = shop("");
    let data = tempfile::tempdir().expect("a folder");
    let program = start(dir.path(), data.path());
    let send = |program: &Program| {
        let body = readings(0, 10);
        let reply = program.request(
            "POST",
            "/ingest/readings",
            &[("Idempotency-Key", "one")],
            body.as_bytes(),
        );
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    };
    let first = send(&program);
    assert_eq!(first["repeated"], Value::Null);
    let again = send(&program);
    assert_eq!(
        (&again["repeated"], &again["accepted"], &again["tick"]),
        (&json!(true), &first["accepted"], &first["tick"])
    );
    program.kill();
    let program = start(dir.path(), data.path());
    assert_eq!(send(&program)["repeated"], json!(true));
    program.stop();
    let program = start(dir.path(), data.path());
    assert_eq!(send(&program)["repeated"], json!(true));
    assert_eq!(program.number("SELECT count(*) AS n FROM readings"), 11);
    let reply = program.request("POST", "/ingest/readings", &[("Idempotency-Key", "")], b"{}");
    assert_eq!(reply.refusal(), (400, "unusable_idempotency_key".to_owned()));
}

#[test]
fn what_does_not_fit_is_refused() {
    let dir = shop("");
    let data = tempfile::tempdir().expect("a folder");
    let arguments = |dir: &Path| {
        let (dir, data) = (dir.to_str().expect("a path"), data.path().to_str().expect("a path"));
        ["run", dir, "--listen", "127.0.0.1:0", "--data", data].map(str::to_owned)
    };
    let refused = |said: &str| {
        let arguments = arguments(dir.path());
        let output = sangam(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!output.status.success(), "it started");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(said), "{text}");
        assert!(text.to_lowercase().contains("hint"), "{text}");
    };
    let program = start(dir.path(), data.path());
    feed(&program, 0);
    refused("in use by another program");
    program.stop();
    let source = dir.path().join("sources/readings.toml");
    let text = std::fs::read_to_string(&source).expect("a source");
    std::fs::write(
        &source,
        text.replace("ph = \"double\"", "ph = \"double\", ntu = \"double\""),
    )
    .expect("a file");
    // A column more that may be NULL is no harm.
    let program = start(dir.path(), data.path());
    assert_eq!(
        program.number("SELECT count(*) AS n FROM readings WHERE ntu IS NULL"),
        61
    );
    program.stop();
    std::fs::write(
        &source,
        text.replace("station = \"text not null\"", "station = \"text\""),
    )
    .expect("a file");
    let program = start(dir.path(), data.path());
    program.ingest("readings", json!({"at": at(61), "ph": 7.5}).to_string());
    program.kill();
    std::fs::write(&source, &text).expect("a file");
    // Whether the row is in the log, or in a checkpoint.
    refused("column \"station\" may be NULL no more");
    std::fs::write(
        &source,
        text.replace("station = \"text not null\"", "station = \"text\""),
    )
    .expect("a file");
    let program = start(dir.path(), data.path());
    assert_eq!(
        program.number("SELECT count(*) AS n FROM readings WHERE station IS NULL"),
        1
    );
    program.stop();
    std::fs::write(&source, &text).expect("a file");
    refused("column \"station\" may be NULL no more");
}

#[test]
fn a_backup_is_whole_and_begins_anew() {
    let dir = shop("checkpoint_bytes = 20000");
    let data = tempfile::tempdir().expect("a folder");
    let path = |path: &Path| path.to_str().expect("a path").to_owned();
    let program = start(dir.path(), data.path());
    feed(&program, 0);
    feed(&program, 60);
    let before = state(&program);
    let backup = program.request("POST", "/backup?name=one", &[], b"");
    assert_eq!(backup.status, 200, "{}", backup.text());
    let backup = backup.json()["backup"].as_str().expect("a folder").to_owned();
    assert_eq!(program.request("POST", "/backup?name=one", &[], b"").status, 500);
    assert_eq!(
        program.request("POST", "/backup?name=../one", &[], b"").refusal().0,
        400
    );
    feed(&program, 120);
    let audit = program.request("POST", "/verify", &[], b"").json();
    assert_eq!(audit["right"], json!(true), "{audit}");
    let views = audit["views"].as_array().expect("views");
    assert!(
        views.iter().filter(|view| view["passed_over"].is_null()).count() >= 3,
        "{audit}"
    );
    program.stop();
    let stopped = sangam(&["verify", &path(dir.path()), "--data", &path(data.path())]);
    let said = String::from_utf8_lossy(&stopped.stdout).into_owned();
    assert!(stopped.status.success() && said.contains("right  recent"), "{said}");
    let anew = data.path().join("anew");
    let restored = sangam(&["restore", &backup, "--data", &path(&anew)]);
    assert!(
        restored.status.success(),
        "{}",
        String::from_utf8_lossy(&restored.stderr)
    );
    let program = start(dir.path(), &anew);
    same("restored", &before, &state(&program));
    program.stop();
    // A byte that is not what it was is found in whatever file it is, and the file is named.
    for entry in std::fs::read_dir(anew.join("checkpoint")).expect("a folder") {
        let file = entry.expect("a file").path();
        let whole = std::fs::read(&file).expect("a file");
        let mut bytes = whole.clone();
        let at = bytes.len() / 2;
        bytes[at] ^= 0x10;
        std::fs::write(&file, bytes).expect("a file");
        let stopped = sangam(&["verify", &path(dir.path()), "--data", &path(&anew)]);
        let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(
            !stopped.status.success() && said.contains(&name) && said.contains("hint"),
            "{name}: {said}"
        );
        std::fs::write(&file, whole).expect("a file");
    }
}

/// `fixtures/format-1.tar.gz` is a deployment whose program, of before there was history, was killed between two
/// checkpoints: its folder, its data, and in `data/state.json` what it had answered last.
#[test]
fn a_data_folder_of_the_first_format_is_opened() {
    let dir = tempfile::tempdir().expect("a folder");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/format-1.tar.gz");
    let unpacked = std::process::Command::new("tar")
        .arg("xzf")
        .arg(&fixture)
        .arg("-C")
        .arg(dir.path())
        .status()
        .expect("tar");
    assert!(unpacked.success());
    let state = std::fs::read_to_string(dir.path().join("data/state.json")).expect("the answers");
    let state: std::collections::BTreeMap<String, Vec<String>> = serde_json::from_str(&state).expect("JSON");
    for run in ["the first start", "a start after it was written to"] {
        let program = start(dir.path(), &dir.path().join(".sangam"));
        for (name, rows) in &state {
            let parsed = rows
                .iter()
                .map(|row| serde_json::from_str::<Value>(row).expect("a row").to_string());
            let mut expected: Vec<String> = parsed.collect();
            expected.sort();
            let mut found: Vec<String> = program
                .sql(&format!("SELECT * FROM {name}"))
                .iter()
                .map(Value::to_string)
                .collect();
            found.sort();
            assert_eq!(found, expected, "{name}, at {run}");
        }
        // With the stop's checkpoint finished rows go to history, and are read there.
        program.stop();
    }
    let history = dir.path().join(".sangam/history/hourly");
    assert!(history.is_dir(), "finished rows are in files now");
}
