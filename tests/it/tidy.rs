//! Rules of the house that no compiler checks.

use std::path::{Path, PathBuf};

/// Returns every file below a folder with one of the given endings.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|ending| endings.contains(&ending.to_string_lossy().as_ref()))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn lines_with(folder: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for path in files(folder, &["rs", "toml"]) {
        let text = std::fs::read_to_string(&path).expect("text");
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn crates_look_one_way() {
    let cases: &[(&str, &[&str])] = &[
        // The incremental engine knows no I/O and nobody above it.
        (
            "dataflows",
            &[
                "tokio",
                "axum",
                "queries::",
                "connectors::",
                "sangam::",
                "std::net",
                "std::fs",
            ],
        ),
        // Planning knows neither where rows come from nor who asks.
        (
            "queries",
            &["axum", "connectors::", "sangam::", "timely::", "differential"],
        ),
        // A connector moves bytes; it knows neither views nor engines.
        (
            "connectors",
            &["axum", "queries::", "sangam::", "datafusion", "timely::"],
        ),
    ];
    for (folder, words) in cases {
        let found = lines_with(&format!("{folder}/src"), words);
        assert!(
            found.is_empty(),
            "{folder} must not know of {words:?}:\n{}",
            found.join("\n")
        );
    }
}

#[test]
fn heavy_libraries_have_one_home() {
    let cases: &[(&str, &[&str])] = &[
        ("src/engine", &["axum::", "datafusion::", "timely::"]),
        ("src/config", &["axum::", "datafusion::", "timely::"]),
        ("src/cli", &["axum::", "datafusion::", "timely::"]),
        ("src/server", &["datafusion::", "timely::"]),
    ];
    for (folder, words) in cases {
        let found = lines_with(folder, words);
        assert!(
            found.is_empty(),
            "{folder} must not use {words:?}:\n{}",
            found.join("\n")
        );
    }
}

#[test]
fn nothing_is_left_lying_about() {
    // Put together, so that this line is not found itself.
    let words: Vec<String> = [
        ("dbg", "!("),
        ("todo", "!("),
        ("unimplemented", "!("),
        ("#[ig", "nore"),
        ("FIX", "ME"),
    ]
    .iter()
    .map(|(left, right)| format!("{left}{right}"))
    .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for folder in ["src", "connectors", "dataflows", "queries", "tests", "benches"] {
        let found = lines_with(folder, &words);
        assert!(found.is_empty(), "left behind:\n{}", found.join("\n"));
    }
}

#[test]
fn files_hold_one_idea() {
    let mut long = Vec::new();
    for folder in [
        "src",
        "connectors/src",
        "dataflows/src",
        "queries/src",
        "tests",
        "benches",
    ] {
        for path in files(folder, &["rs"]) {
            let lines = std::fs::read_to_string(&path).expect("text").lines().count();
            let is_test = path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests");
            if lines > 650 && !is_test {
                long.push(format!("{lines} lines  {}", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "look for the second idea in:\n{}", long.join("\n"));
}
