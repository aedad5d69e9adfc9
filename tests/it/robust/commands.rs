//! The subcommands: what they print, how they end.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::program::folder::deployment;
use crate::program::{Program, sangam};

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn path(dir: &Path) -> &str {
    dir.to_str().expect("a path in UTF-8")
}

#[test]
fn check_lists_every_mistake_with_its_place() {
    let dir = deployment(&[
        ("deployment.toml", "listen = \"nowhere\"\nclok = \"event\"\n"),
        (
            "sources/readings.toml",
            "columns = { station = \"txt\", at = \"timestamp not null\" }\ntime = { column = \"att\" }\nretain = \"2 fortnights\"\n[connector]\ntype = \"htp\"\n",
        ),
        ("sources/broken.toml", "columns = {\n"),
        (
            "sources/fine.toml",
            "columns = { k = \"bigint not null\", at = \"timestamp not null\" }\n[connector]\ntype = \"http\"\n",
        ),
        ("views/typo.sql", "SELECT k\nFROM fin"),
        ("views/column.sql", "SELECT k,\n  colour\nFROM fine"),
        (
            "views/ranked.sql",
            "SELECT k, array_agg(k) OVER (ORDER BY k) AS n FROM fine",
        ),
        ("views/luck.sql", "SELECT k, random() AS r FROM fine"),
        ("views/round.sql", "SELECT k FROM about"),
        ("views/about.sql", "SELECT k FROM round"),
        ("alerts/nokey.sql", "SELECT k FROM fine"),
        ("tests/wrong.toml", "[[step]]\nat = \"2026-01-01\"\nrows.fin = []\n"),
    ]);
    let output = sangam(&["check", path(dir.path())]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for place in [
        "deployment.toml:1:",
        "deployment.toml:2:",
        "sources/readings.toml:1:",
        "sources/readings.toml:2:",
        "sources/readings.toml:3:",
        "sources/readings.toml:5:",
        "sources/broken.toml:",
        "views/typo.sql:2:",
        "views/column.sql:2:",
        "views/ranked.sql",
        "views/luck.sql",
        "circle: about → round",
        "alerts/nokey.sql",
        "tests/wrong.toml:3:",
    ] {
        assert!(said.contains(place), "nothing about {place} in\n{said}");
    }
    assert!(said.matches("Hint: ").count() >= 8, "hints are missing in\n{said}");
    assert!(said.contains("\"fine\""), "no hint at the right name in\n{said}");
    // Neither does it run, nor is anything tested or explained.
    for command in ["run", "test", "explain"] {
        let output = sangam(&[command, path(dir.path())]);
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
    }
}

#[test]
fn a_new_deployment_is_checked_tested_explained_run_and_asked() {
    let parent = tempfile::tempdir().expect("a folder of our own");
    let dir = parent.path().join("mine");
    let dir = path(&dir);
    for (arguments, expected) in [
        (vec!["new", dir], "Next: sangam test"),
        (vec!["check", dir], "all is well: 1 source, 1 view, 1 alert, 1 test"),
        (vec!["test", dir], "1 test, 0 failed"),
        (vec!["explain", dir], "station"),
        (vec!["explain", dir, "latest"], "station"),
    ] {
        let output = sangam(&arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        assert!(
            said(&output).contains(expected),
            "{arguments:?}: no {expected} in\n{}",
            said(&output)
        );
    }
    let again = sangam(&["new", dir]);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("exists already"));
    let unknown = sangam(&["explain", dir, "latst"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(said(&unknown).contains("latest"), "{}", said(&unknown));

    let program = Program::start(Path::new(dir));
    let now = chrono::Utc::now().to_rfc3339();
    let reply = program.ingest(
        "readings",
        format!("{{\"station\":\"K1\",\"at\":\"{now}\",\"level_m\":5.5}}"),
    );
    assert_eq!(reply["accepted"], 1, "{reply}");
    let ahead = program.ingest(
        "readings",
        r#"{"station":"K1","at":"2099-01-01T00:00:00Z","level_m":5.5}"#,
    );
    assert_eq!(
        ahead["rejected"], 1,
        "one row of 2099 would make all others late: {ahead}"
    );
    let url = format!("http://{}", program.address);
    let ask = |sql: &str, format: &str| sangam(&["query", "--url", &url, "--format", format, sql]);
    let table = ask("SELECT station, level_m FROM high_water", "table");
    assert!(table.status.success(), "{}", said(&table));
    assert_eq!(
        String::from_utf8_lossy(&table.stdout),
        "station  level_m\n-------  -------\nK1           5.5\n(1 row)\n"
    );
    let rows: Value = serde_json::from_slice(&ask("SELECT level_m FROM latest", "json").stdout).expect("JSON");
    assert_eq!(rows, serde_json::json!([{"level_m": 5.5}]));
    assert_eq!(ask("SELECT station FROM latest", "csv").stdout, b"station\nK1\n");
    let wrong = ask("SELECT stations FROM latest", "table");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(
        said(&wrong).contains("stations") && !said(&wrong).contains('{'),
        "{}",
        said(&wrong)
    );

    // A door that is taken is no riddle; neither is a folder that is not there.
    let taken = sangam(&["run", dir, "--listen", &program.address]);
    assert_eq!(taken.status.code(), Some(1));
    assert!(
        said(&taken).contains(&format!("could not listen on {}", program.address)),
        "{}",
        said(&taken)
    );
    program.stop();
    let gone = sangam(&["query", "--url", &url, "SELECT 1"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(said(&gone).contains("could not reach"), "{}", said(&gone));
    for command in ["check", "run", "test", "explain"] {
        let output = sangam(&[command, "no/such/folder"]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(said(&output).contains("no/such/folder"), "{command}: {}", said(&output));
    }
}

#[test]
fn a_deployments_own_tests_fail_readably() {
    let parent = tempfile::tempdir().expect("a folder of our own");
    let dir = parent.path().join("mine");
    assert!(sangam(&["new", path(&dir)]).status.success());
    let test = dir.join("tests/high_water.toml");
    let text = std::fs::read_to_string(&test).expect("its test");
    std::fs::write(&test, text.replace("[{ station = \"K2\" }]", "[{ station = \"K3\" }]")).expect("a file");
    let output = sangam(&["test", path(&dir)]);
    assert_eq!(output.status.code(), Some(1));
    for line in [
        "FAILED  high_water",
        "high_water.toml:13",
        "- K3",
        "+ K2",
        "1 test, 1 failed",
    ] {
        assert!(said(&output).contains(line), "no {line} in\n{}", said(&output));
    }
}

#[test]
fn help_speaks_to_newcomers() {
    let help = sangam(&["--help"]);
    assert!(help.status.success());
    for command in [
        "run", "check", "test", "explain", "new", "query", "backup", "restore", "verify",
    ] {
        assert!(
            said(&help).contains(&format!("\n  {command} ")),
            "no {command} in\n{}",
            said(&help)
        );
        let output = sangam(&[command, "--help"]);
        assert!(
            output.status.success() && output.stdout.len() > 200,
            "{command}: {}",
            said(&output)
        );
    }
    assert_eq!(sangam(&["dance"]).status.code(), Some(2));
}
