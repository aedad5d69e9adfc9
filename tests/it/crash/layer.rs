//! The disk itself, before anything is concluded from it: what was synced is there after a power cut, and what
//! was not is gone; calls fail and processes die where they are told to.
//!
//! The one who writes is `actor`, this same test binary started once more under the library: it does what a script
//! says by Rust's own `std::fs`, as the program does, and says what it has done.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use rand::SeedableRng;
use rand_pcg::Pcg64;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::disk::{Cut, Disk, Lost};

const SCRIPT: &str = "POWERCUT_SCRIPT";
const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");

/// Does what a script says, if there is one: a test that is none.
#[test]
fn actor() {
    let Ok(script) = std::env::var(SCRIPT) else { return };
    let folder = std::env::var("POWERCUT_DIR").expect("a folder");
    for line in script.lines() {
        act(Path::new(&folder), &line.split(' ').collect::<Vec<_>>());
        println!("done {line}");
    }
}

fn act(folder: &Path, words: &[&str]) {
    let at = |name: &str| folder.join(name);
    let open = |name: &str| OpenOptions::new().read(true).write(true).open(at(name)).expect(name);
    let told = |what: &str, result: std::io::Result<()>| {
        if let Err(error) = result {
            println!("{what} failed: {:?}", error.raw_os_error());
        }
    };
    match words {
        ["create", name] => drop(File::create(at(name)).expect(name)),
        ["mkdir", name] => fs::create_dir(at(name)).expect(name),
        // One letter, over and over: at an offset, or at the end.
        ["put", name, offset, letter, length] => {
            let bytes = letter.repeat(length.parse().expect("a length"));
            let written = open(name).write_all_at(bytes.as_bytes(), offset.parse().expect("an offset"));
            told("put", written);
        }
        ["append", name, letter, length] => {
            let mut file = open(name);
            file.seek(SeekFrom::End(0)).expect("a file");
            let bytes = letter.repeat(length.parse().expect("a length"));
            told("append", file.write_all(bytes.as_bytes()));
        }
        ["cut", name, length] => told("cut", open(name).set_len(length.parse().expect("a length"))),
        ["sync", name] => told("sync", open(name).sync_data()),
        ["names", name] => told("names", File::open(at(name)).expect(name).sync_all()),
        ["rename", from, to] => fs::rename(at(from), at(to)).expect(from),
        ["remove", name] => fs::remove_file(at(name)).expect(name),
        ["rmdir", name] => fs::remove_dir(at(name)).expect(name),
        ["copy", from, to] => drop(fs::copy(at(from), at(to)).expect(from)),
        ["read", name] => println!("it holds {}", fs::read(at(name)).expect(name).len()),
        ["rows", name, from, to] => {
            let database = Database::create(at(name)).expect("a database");
            for row in from.parse::<u64>().expect("a number")..to.parse().expect("a number") {
                let transaction = database.begin_write().expect("a transaction");
                let mut rows = transaction.open_table(ROWS).expect("a table");
                rows.insert(row, &*vec![row as u8; 300]).expect("a row");
                drop(rows);
                match transaction.commit() {
                    Ok(()) => println!("row {row}"),
                    Err(error) => return println!("not row {row}: {error}"),
                }
            }
        }
        ["die"] => std::process::abort(),
        other => panic!("no such action: {other:?}"),
    }
}

/// A disk, and who writes to it.
struct Stage {
    _root: tempfile::TempDir,
    disk: Disk,
    random: Pcg64,
}

impl Stage {
    fn new() -> Stage {
        let root = tempfile::tempdir().expect("a folder of our own");
        Stage {
            disk: Disk::new(root.path()),
            _root: root,
            random: Pcg64::seed_from_u64(1),
        }
    }

    fn act(&self, script: &[&str], variables: &[(&str, &str)]) -> Output {
        self.disk.forget_calls();
        let output = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "crash::layer::actor", "--nocapture", "--test-threads", "1"])
            .env(SCRIPT, script.join("\n"))
            .envs(self.disk.variables())
            .envs(variables.iter().copied())
            .output()
            .expect("this test starts");
        assert!(
            !String::from_utf8_lossy(&output.stderr).contains("powercut:"),
            "{output:?}"
        );
        output
    }

    /// Does it all, then the power is cut.
    fn cut_after(&mut self, script: &[&str], cut: Cut) -> Lost {
        let output = self.act(script, &[]);
        assert!(
            said(&output).contains(&format!("done {}", script[script.len() - 1])),
            "{output:?}"
        );
        self.disk.cut(cut, &mut self.random)
    }

    /// Tells a file as its letters and how often each comes in a row; none if it is not there.
    fn read(&self, name: &str) -> Option<String> {
        let bytes = fs::read(self.disk.folder().join(name)).ok()?;
        let runs = bytes.chunk_by(|one, other| one == other);
        let runs = runs.map(|run| format!("{}{}", if run[0] == 0 { '0' } else { run[0] as char }, run.len()));
        Some(runs.collect::<Vec<_>>().join(" "))
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_was_synced_is_there_and_what_was_not_is_gone() {
    let mut stage = Stage::new();
    let lost = stage.cut_after(
        &[
            "create a",
            "append a x 5000",
            "sync a",
            "names .",
            "append a y 5000",
            "put a 0 z 10",
            "create unnamed",
            "append unnamed x 10",
            "sync unnamed",
        ],
        Cut::Clean,
    );
    assert_eq!(stage.read("a").as_deref(), Some("x5000"));
    assert_eq!(stage.read("unnamed"), None, "its bytes were safe, its name was not");
    assert_eq!((lost.pages, lost.spared, lost.names), (3, 0, 1));

    // The same without a cut: a kill alone loses nothing, and what another process wrote before can still be lost.
    stage.act(&["append a y 100", "die"], &[]);
    assert_eq!(stage.read("a").as_deref(), Some("x5000 y100"));
    stage.cut_after(&["append a z 10"], Cut::Clean);
    assert_eq!(stage.read("a").as_deref(), Some("x5000"));
    // Whoever syncs a file syncs what others wrote, too.
    stage.act(&["append a y 100", "die"], &[]);
    stage.cut_after(&["append a z 10", "sync a", "cut a 0"], Cut::Clean);
    assert_eq!(stage.read("a").as_deref(), Some("x5000 y100 z10"));
    stage.cut_after(&["cut a 7", "sync a", "put a 0 u 3", "append a v 9000"], Cut::Clean);
    assert_eq!(stage.read("a").as_deref(), Some("x7"));
}

#[test]
fn names_are_safe_once_their_folder_is() {
    let mut stage = Stage::new();
    stage.cut_after(
        &[
            "create a",
            "append a x 9",
            "sync a",
            "create b",
            "append b y 9",
            "sync b",
            "names .",
        ],
        Cut::Clean,
    );
    stage.cut_after(&["rename a b", "create c", "mkdir d", "create d/e"], Cut::Clean);
    assert_eq!(stage.read("a").as_deref(), Some("x9"));
    assert_eq!(stage.read("b").as_deref(), Some("y9"), "what was renamed over is back");
    assert_eq!(stage.read("c"), None);
    assert!(!stage.disk.folder().join("d").exists());
    stage.cut_after(&["rename a b", "names ."], Cut::Clean);
    assert_eq!((stage.read("a"), stage.read("b").as_deref()), (None, Some("x9")));
    stage.cut_after(&["remove b", "create f", "append f z 10"], Cut::Clean);
    assert_eq!((stage.read("b").as_deref(), stage.read("f")), (Some("x9"), None));
    // The old file is gone and its inode free; a new one of the same name has nothing of it.
    stage.cut_after(&["remove b", "names .", "create b", "names ."], Cut::Clean);
    assert_eq!(stage.read("b").as_deref(), Some(""), "a safe name of unsafe bytes");
    stage.cut_after(
        &["mkdir d", "names .", "create d/e", "append d/e x 3", "sync d/e"],
        Cut::Clean,
    );
    assert!(stage.disk.folder().join("d").is_dir() && stage.read("d/e").is_none());
    stage.cut_after(
        &[
            "create d/e",
            "append d/e x 3",
            "sync d/e",
            "names d",
            "mkdir d/f",
            "names d",
            "rmdir d/f",
        ],
        Cut::Clean,
    );
    assert_eq!(stage.read("d/e").as_deref(), Some("x3"));
    assert!(stage.disk.folder().join("d/f").is_dir());
    stage.cut_after(&["copy d/e g", "sync g", "names ."], Cut::Clean);
    assert_eq!(stage.read("g").as_deref(), Some("x3"), "copies are seen");
}

#[test]
fn a_torn_cut_keeps_some_pages_and_not_others() {
    let mut stage = Stage::new();
    stage.cut_after(&["create a", "append a x 409600", "sync a", "names ."], Cut::Clean);
    let lost = stage.cut_after(&["put a 0 y 409600"], Cut::Torn(0.5));
    assert!(
        lost.pages > 20 && lost.spared > 20 && lost.pages + lost.spared == 100,
        "{lost:?}"
    );
    let bytes = fs::read(stage.disk.folder().join("a")).expect("a file");
    for page in bytes.chunks(4096) {
        assert!(page.iter().all(|byte| *byte == page[0]), "a page is one or the other");
    }
    let lost = stage.cut_after(&["put a 0 z 409600"], Cut::Torn(0.0));
    assert_eq!((lost.pages, lost.spared), (0, 100));
    assert_eq!(stage.read("a").as_deref(), Some("z409600"));
}

#[test]
fn a_process_dies_where_it_is_told_to() {
    let mut stage = Stage::new();
    stage.cut_after(&["create log", "append log x 8192", "sync log", "names ."], Cut::Clean);
    let script = ["append log y 8192", "sync log", "append log z 8192", "sync log"];
    // Point, what was done by then, and what is there after a mere kill and after a cut.
    let cases = [
        ("write:log:1:before", 0, "x8192", "x8192"),
        ("write:log:1:half", 0, "x8192 y4096", "x8192"),
        ("write:log:1:after", 0, "x8192 y8192", "x8192"),
        ("sync:log:1:before", 1, "x8192 y8192", "x8192"),
        ("sync:log:1:after", 1, "x8192 y8192", "x8192 y8192"),
        ("write:log:2:half", 2, "x8192 y8192 z4096", "x8192 y8192"),
        ("sync:log:2:half", 3, "x8192 y8192 z8192", "x8192 y8192 z4096 04096"),
        ("any:log:2:before", 0, "x8192", "x8192"),
    ];
    for (point, done, killed, cut) in cases {
        let output = stage.act(&script, &[("POWERCUT_KILL", point)]);
        assert_eq!(output.status.signal(), Some(9), "{point}: {output:?}");
        assert_eq!(said(&output).matches("done ").count(), done, "{point}");
        assert!(
            stage
                .disk
                .calls()
                .lines()
                .last()
                .is_some_and(|line| line.starts_with("K ")),
            "{point}"
        );
        assert_eq!(stage.read("log").as_deref(), Some(killed), "{point}: after the kill");
        stage.disk.cut(Cut::Clean, &mut stage.random);
        assert_eq!(stage.read("log").as_deref(), Some(cut), "{point}: after the cut");
        stage.cut_after(&["put log 0 x 8192", "cut log 8192", "sync log"], Cut::Clean);
    }
    let output = stage.act(&script, &[("POWERCUT_KILL", "sync:other:1:before")]);
    assert!(
        output.status.success() && said(&output).contains("done sync log"),
        "{output:?}"
    );
}

#[test]
fn calls_fail_where_they_are_told_to() {
    let mut stage = Stage::new();
    stage.cut_after(&["create log", "append log x 8192", "sync log", "names ."], Cut::Clean);
    let script = ["append log y 4096", "sync log", "append log z 4096", "sync log"];
    let fails = |stage: &Stage, what: &str| said(&stage.act(&script, &[("POWERCUT_FAIL", what)]));
    // After a sync that failed the next one says yes, and yet what was written before is not safe.
    assert!(
        fails(&stage, "sync:log:1:EIO")
            .contains("sync failed: Some(5)\ndone sync log\ndone append log z 4096\ndone sync")
    );
    assert_eq!(stage.read("log").as_deref(), Some("x8192 y4096 z4096"));
    stage.disk.cut(Cut::Clean, &mut stage.random);
    assert_eq!(stage.read("log").as_deref(), Some("x8192 04096 z4096"));
    let full = fails(&stage, "write:log:1:ENOSPC+");
    assert_eq!(full.matches("append failed: Some(28)").count(), 2, "{full}");
    // `write_all` goes on after a short write, and all is there.
    assert!(!fails(&stage, "write:log:1:short").contains("failed:"));
    assert_eq!(stage.read("log").as_deref(), Some("x8192 04096 z4096 y4096 z4096"));
    let calls = stage.disk.calls();
    let writes = calls
        .lines()
        .filter(|line| line.starts_with("B ") && line.contains(" write "));
    assert_eq!(writes.count(), 3, "{calls}");
    // A switch turns it on and off.
    let switch = stage.disk.folder().with_file_name("switch");
    let text = switch.to_str().expect("a path in UTF-8");
    let variables = [("POWERCUT_FAIL", "write:log:1:ENOSPC+"), ("POWERCUT_FAIL_WHILE", text)];
    assert!(!said(&stage.act(&script, &variables)).contains("failed:"));
    fs::write(&switch, "").expect("a file");
    assert!(said(&stage.act(&script, &variables)).contains("append failed: Some(28)"));
}

#[test]
fn a_sync_that_only_says_yes_is_found_out() {
    let mut stage = Stage::new();
    stage.cut_after(&["create log", "append log x 4096", "sync log", "names ."], Cut::Clean);
    let output = stage.act(&["append log y 4096", "sync log"], &[("POWERCUT_IGNORE", "log")]);
    assert!(said(&output).contains("done sync log"), "{output:?}");
    stage.disk.cut(Cut::Clean, &mut stage.random);
    assert_eq!(stage.read("log").as_deref(), Some("x4096"));
}

/// What the store says it has committed it has, wherever it died and whatever the cut kept.
#[test]
fn an_embedded_store_keeps_what_it_committed() {
    let mut stage = Stage::new();
    stage.cut_after(&["rows log.redb 0 1", "names ."], Cut::Clean);
    let mut next = 1;
    for round in 0..24 {
        let (call, when) = [
            ("sync", "before"),
            ("sync", "half"),
            ("sync", "after"),
            ("write", "half"),
            ("write", "after"),
            ("any", "before"),
        ][round % 6];
        let point = format!("{call}:log.redb:{}:{when}", 1 + round * 5);
        let output = stage.act(
            &[&format!("rows log.redb {next} {}", next + 20)],
            &[("POWERCUT_KILL", &point)],
        );
        // The first is said on a line that the test runner began.
        let said = said(&output);
        let told = |row: &u64| said.lines().any(|line| line.ends_with(&format!("row {row}")));
        let acknowledged = (next..next + 20).filter(told).count() as u64;
        let cut = [Cut::Clean, Cut::Torn(0.5), Cut::Torn(0.1)][round % 3];
        let lost = stage.disk.cut(cut, &mut stage.random);
        println!("{point}: {acknowledged} rows acknowledged, {cut:?} took {lost:?}");
        let database = Database::create(stage.disk.folder().join("log.redb")).expect("a database that opens");
        let reading = database.begin_read().expect("a transaction");
        let rows = reading.open_table(ROWS).expect("a table");
        let found: Vec<u64> = rows
            .iter()
            .expect("rows")
            .map(|row| row.expect("a row").0.value())
            .collect();
        let (last, wanted) = (found.len() as u64, next + acknowledged);
        assert_eq!(found, (0..last).collect::<Vec<_>>(), "{point}");
        assert!(
            last == wanted || last == wanted + 1,
            "{point}: {last} rows of {wanted} acknowledged"
        );
        next = last;
        drop(rows);
        drop(reading);
        drop(database);
        stage.disk.settle();
    }
    assert!(next > 50, "too little was written: {next}");
}
