//! Finished rows outlive memory: they go to files at checkpoints, and are one relation with those that have not.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::program::folder::{deployment, write};
use crate::program::{Program, sangam};

const HOURLY: &str = "--! key = [\"station\", \"hour\"]\n--! keep = \"2 days\"\nSELECT station, \
                      date_bin(INTERVAL '1 hour', at) AS hour, count(*) AS readings, max(level) AS most \
                      FROM readings GROUP BY station, hour";

fn river() -> tempfile::TempDir {
    deployment(&[
        (
            "deployment.toml",
            // So little that almost every tick is followed by a checkpoint.
            "clock = \"event\"\nworkers = 2\ncheckpoint_bytes = 2000\n",
        ),
        (
            "sources/readings.toml",
            "columns = { station = \"text not null\", at = \"timestamp not null\", level = \"bigint\" }\n\
             time = { column = \"at\", lateness = \"10 minutes\" }\nretain = \"3 hours\"\nkeep = \"20 days\"\n\
             [connector]\ntype = \"http\"\n",
        ),
        ("views/hourly.sql", HOURLY),
        // Within a bound, and over all there is.
        (
            "views/lately.sql",
            "SELECT station, sum(readings) AS readings FROM hourly WHERE hour > now() - INTERVAL '20 hours' GROUP BY station",
        ),
        (
            "views/ever.sql",
            "SELECT count(*) AS hours, sum(readings) AS readings, max(most) AS most FROM hourly",
        ),
    ])
}

fn time(minute: i64) -> String {
    let time = chrono::DateTime::from_timestamp(1_772_359_200 + minute * 60, 0).expect("a time");
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn row(minute: i64) -> Value {
    json!({"station": format!("K{}", minute % 5), "at": time(minute), "level": minute * 7_919 % 1_000})
}

/// Rows of some minutes, an hour a POST.
fn feed(program: &Program, minutes: std::ops::Range<i64>) {
    for hour in minutes.step_by(60) {
        let rows: Vec<String> = (hour..hour + 60).map(|minute| row(minute).to_string()).collect();
        program.ingest("readings", rows.join("\n"));
    }
}

/// What the view must hold when so many minutes have come, by the test's own reckoning.
fn hourly(minutes: i64) -> Vec<Value> {
    let mut groups: BTreeMap<(i64, String), (i64, i64)> = BTreeMap::new();
    for minute in 0..minutes {
        let row = row(minute);
        let (station, level) = (
            row["station"].as_str().unwrap_or_default().to_owned(),
            row["level"].as_i64(),
        );
        let group = groups.entry((minute / 60, station)).or_default();
        *group = (group.0 + 1, group.1.max(level.unwrap_or(0)));
    }
    // By the watermark at the end of the tick before the last.
    let watermark = minutes - 60 - 1 - 10;
    let gone = (watermark - 2 * 24 * 60).div_euclid(60);
    let groups = groups.into_iter().filter(|((hour, _), _)| *hour >= gone);
    let rows = groups.map(|((hour, station), (readings, most))| {
        json!({"station": station, "hour": time(hour * 60), "readings": readings, "most": most})
    });
    rows.collect()
}

fn sorted(rows: &[Value]) -> Vec<String> {
    let mut rows: Vec<String> = rows.iter().map(Value::to_string).collect();
    rows.sort();
    rows
}

/// Holds all that can be asked to the test's own reckoning.
fn check(when: &str, program: &Program, minutes: i64) {
    let expected = hourly(minutes);
    assert_eq!(
        sorted(&program.sql("SELECT * FROM hourly")),
        sorted(&expected),
        "{when}"
    );
    let number = |row: &Value, column: &str| row[column].as_i64().unwrap_or(0);
    let readings: i64 = expected.iter().map(|row| number(row, "readings")).sum();
    let most = expected.iter().map(|row| number(row, "most")).max();
    let ever = json!({"hours": expected.len(), "readings": readings, "most": most});
    assert_eq!(program.sql("SELECT * FROM ever"), [ever], "{when}");
    // The tick is the newest row's time.
    let from = time(minutes - 1 - 20 * 60);
    let late: Vec<&Value> = expected
        .iter()
        .filter(|row| row["hour"].as_str() > Some(&from))
        .collect();
    let mut lately: BTreeMap<&str, i64> = BTreeMap::new();
    for row in &late {
        *lately.entry(row["station"].as_str().unwrap_or_default()).or_default() += number(row, "readings");
    }
    let lately: Vec<Value> = lately
        .iter()
        .map(|(station, readings)| json!({"station": station, "readings": readings}))
        .collect();
    assert_eq!(sorted(&program.sql("SELECT * FROM lately")), sorted(&lately), "{when}");
    // A filter may pass over files, and a projection leave the time out.
    let some = format!("SELECT count(*) FROM hourly WHERE hour > '{from}'");
    assert_eq!(program.number(&some), late.len() as i64, "{when}");
    assert_eq!(program.number("SELECT sum(readings) FROM hourly"), readings, "{when}");
    let named = program.number("SELECT rows FROM sangam.views WHERE name = 'hourly'");
    assert_eq!(named, expected.len() as i64, "{when}");
    let mut live = program.live();
    live.subscribe("hourly");
    live.until("the snapshot", |live| {
        live.held.get("hourly").is_some_and(|held| !held.resume.is_empty())
    });
    assert_eq!(
        live.of("hourly").rows(),
        sorted(&expected),
        "{when}, by a new subscription"
    );
}

fn start(dir: &Path, data: &Path) -> Program {
    Program::start_with(dir, &["--data", data.to_str().expect("a path")])
}

#[test]
fn finished_rows_outlive_memory() {
    let (river, data) = (river(), tempfile::tempdir().expect("a folder"));
    let data = data.path().join("data");
    let program = start(river.path(), &data);
    let mut live = program.live();
    live.subscribe("hourly");
    feed(&program, 0..30 * 60);
    check("before anything leaves", &program, 30 * 60);
    feed(&program, 30 * 60..75 * 60);
    check("when the first rows have left", &program, 75 * 60);
    live.reach(program.query("SELECT 1 FROM hourly LIMIT 1", "application/json").tick());
    assert_eq!(
        live.of("hourly").rows(),
        sorted(&hourly(75 * 60)),
        "by one who was there all the time"
    );
    let kept = program.sql("SELECT name, kind, rows, files FROM sangam.history ORDER BY kind, name");
    let rows = |name: &str| {
        let line = kept.iter().find(|line| line["name"] == name);
        line.and_then(|line| line["rows"].as_i64()).unwrap_or(0)
    };
    assert!(rows("hourly") > 150, "{kept:?}");
    assert!(rows("readings") > 60 * 60, "{kept:?}");
    // Most of the view's rows are in files only.
    let held = program
        .number("SELECT sum(state_rows) FROM sangam.operators WHERE view = 'hourly' AND operator LIKE '%close%'");
    assert!(held < 150, "{held} closed rows are in memory");

    program.kill();
    let program = start(river.path(), &data);
    check("after a kill", &program, 75 * 60);
    feed(&program, 75 * 60..90 * 60);
    check("and when it has gone on", &program, 90 * 60);
    // Of three hours all rows are there: the one that is open, and two that are closed.
    let kept = hourly(90 * 60).len();
    let expected = format!(
        "right  hourly: 15 rows compared, {} rows not: they are closed",
        kept - 15
    );
    let verified = |place: &[&str]| {
        let told = sangam(&[&["verify"], place].concat());
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(
            told.status.success() && said.contains(&expected),
            "{said}, not {expected}"
        );
        assert!(said.contains("right  ever: 1 row\n"), "{said}");
    };
    verified(&[&format!("http://{}", program.address)]);
    program.stop();
    let path = |path: &Path| path.to_str().expect("a path").to_owned();
    verified(&[&path(river.path()), "--data", &path(&data)]);
    let program = start(river.path(), &data);
    check("after a stop", &program, 90 * 60);
    verified(&[&format!("http://{}", program.address)]);

    // Declared anew with the same columns, what is finished stays as it was.
    let anew = HOURLY.replace("max(level) AS most", "max(level + 1000) AS most");
    let body = json!({"name": "hourly", "sql": anew}).to_string();
    let changed = program.request(
        "POST",
        "/views",
        &[("content-type", "application/json")],
        body.as_bytes(),
    );
    assert_eq!(changed.status, 200, "{}", changed.text());
    let most = program.number("SELECT max(most) FROM hourly WHERE hour < '2026-03-04T00:00:00Z'");
    assert!(most < 1_000, "{most}");
    let most = program.number("SELECT max(most) FROM hourly");
    assert!(most > 1_000, "{most}");
    let hours = program.number("SELECT count(*) FROM hourly");
    assert_eq!(hours, hourly(90 * 60).len() as i64);
    assert_eq!(program.number("SELECT hours FROM ever"), hours);
    // What was closed under the old words is nothing to hold the new ones to.
    let audit = program.request("POST", "/verify", &[], b"").json();
    let views = audit["views"].as_array().expect("views").iter();
    let compared: Vec<&Value> = views
        .filter(|view| view["view"] == "hourly")
        .map(|view| &view["compared"])
        .collect();
    assert!(audit["right"] == true && compared == [&json!(10)], "{audit}");
    // With others it is refused.
    let other =
        json!({"name": "hourly", "sql": HOURLY.replace("max(level)", "CAST(max(level) AS double)")}).to_string();
    let refused = program.request(
        "POST",
        "/views",
        &[("content-type", "application/json")],
        other.as_bytes(),
    );
    assert!(refused.text().contains("history of"), "{}", refused.text());
    program.stop();
}

#[test]
fn a_backup_has_its_history_with_it() {
    let (river, data) = (river(), tempfile::tempdir().expect("a folder"));
    let program = start(river.path(), &data.path().join("data"));
    feed(&program, 0..60 * 60);
    let url = format!("http://{}", program.address);
    let made = sangam(&["backup", "one", "--url", &url]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let backup = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    feed(&program, 60 * 60..70 * 60);
    program.stop();
    let restored = data.path().join("restored");
    let restored = restored.to_str().expect("a path");
    let told = sangam(&["restore", &backup, "--data", restored]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(
        told.contains("rows of history") && !told.contains("; 0 rows of history"),
        "{told}"
    );
    let program = start(river.path(), Path::new(restored));
    check("as it was when it was copied", &program, 60 * 60);
    feed(&program, 60 * 60..70 * 60);
    check("and as if nothing had been", &program, 70 * 60);
    program.stop();
    let verified = sangam(&["verify", river.path().to_str().expect("a path"), "--data", restored]);
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success() && said.contains("rows of history"), "{said}");

    // A file of history that is not what was written is named, and nothing else is.
    let mut files = Vec::new();
    let mut folders = vec![Path::new(restored).join("history/hourly")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            match entry.path().is_dir() {
                true => folders.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    let file = files.first().expect("a file of history");
    let mut bytes = std::fs::read(file).expect("its bytes");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(file, bytes).expect("other bytes");
    let verified = sangam(&["verify", river.path().to_str().expect("a path"), "--data", restored]);
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(!verified.status.success() && said.contains(name), "{said}");
}

#[test]
fn what_kept_rows_and_is_gone_is_refused() {
    let (river, data) = (river(), tempfile::tempdir().expect("a folder"));
    let data = data.path().join("data");
    let program = start(river.path(), &data);
    feed(&program, 0..20 * 60);
    program.stop();
    write(
        river.path(),
        "views/hourly.sql",
        &HOURLY.replace("AS most", "AS highest"),
    );
    write(river.path(), "views/ever.sql", "SELECT count(*) AS hours FROM hourly");
    let data = data.to_str().expect("a path");
    let dir = river.path().to_str().expect("a path");
    let refused = sangam(&["run", dir, "--data", data, "--listen", "127.0.0.1:0"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--forget hourly"), "{said}");
    let program = Program::start_with(river.path(), &["--data", data, "--forget", "hourly"]);
    assert_eq!(program.number("SELECT count(*) FROM hourly WHERE highest IS NULL"), 0);
    program.stop();
}
