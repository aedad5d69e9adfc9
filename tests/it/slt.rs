//! What each feature means, as scripts: sources and views are declared, rows come and go, views are read.
//!
//! The scripts lie in `slt/`, in the form of `sqllogictest`. Every query also checks all views of the script
//! against DataFusion's batch answer over the script's own rows, and what is created after rows came is
//! told of them from the start. `SANGAM_SLT` names one script to run alone; with `SANGAM_SLT_WRITE` what is
//! found is written down as what is expected, to be read before it is believed.
mod database;

use std::path::{Path, PathBuf};
use std::task::{Context, Poll, Waker};

use database::Database;

#[test]
fn scripts_say_what_is_true() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/slt");
    let only = std::env::var("SANGAM_SLT").ok();
    let mut scripts: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the scripts")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "slt"))
        .filter(|path| {
            only.as_deref()
                .is_none_or(|only| path.file_stem().is_some_and(|name| name == only))
        })
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no script");
    let _honest = crate::HONEST.blocking_read();
    let mut wrong = Vec::new();
    for script in &scripts {
        let mut runner = sqllogictest::Runner::new(|| async { Ok(Database::new()) });
        if std::env::var_os("SANGAM_SLT_WRITE").is_some() {
            let written = runner.update_test_file(
                script,
                " ",
                sqllogictest::default_validator,
                sqllogictest::default_normalizer,
                sqllogictest::default_column_validator,
            );
            finish(written).unwrap_or_else(|error| panic!("{}: {error}", script.display()));
        } else if let Err(error) = runner.run_file(script) {
            wrong.push(error.to_string());
        }
        runner.shutdown();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    println!("{} scripts", scripts.len());
}

/// The reference's closed list and the script of what is refused say the same.
#[test]
fn the_closed_list_is_tested_line_by_line() {
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        std::fs::read_to_string(path).expect("a text")
    };
    let reference = read("docs/sql.md");
    let (_, list) = reference
        .split_once("| construct | why | instead |")
        .expect("the closed list");
    let mut listed: Vec<&str> = list
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .collect();
    let script = read("tests/it/slt/refused.slt");
    let mut refused: Vec<&str> = script
        .lines()
        .skip(1)
        .filter_map(|line| line.strip_prefix("# "))
        .collect();
    listed.sort_unstable();
    refused.sort_unstable();
    assert_eq!(listed, refused);
}

/// Runs what never waits.
fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}
