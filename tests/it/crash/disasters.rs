//! One disaster at a time: what the program says, that it loses nothing it acknowledged, and that it goes on after.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use sangam::log::{LogStore, Manifest};

use super::deployment::{Clock, deployment};
use super::disk::{Cut, Disk};
use crate::program::{PATIENCE, Program};

/// Rows of one POST: a dozen of them are more than a checkpoint waits for.
const ROWS: u64 = 200;

/// A deployment on a disk, and the rows that were acknowledged.
struct Place {
    root: tempfile::TempDir,
    folder: PathBuf,
    disk: Disk,
    random: Pcg64,
    acknowledged: BTreeSet<u64>,
    next: u64,
}

impl Place {
    fn new(seed: u64) -> Place {
        let root = tempfile::tempdir().expect("a folder of our own");
        let folder = root.path().join("deployment");
        deployment(&folder, Clock::Event, None);
        Place {
            disk: Disk::new(root.path()),
            root,
            folder,
            random: Pcg64::seed_from_u64(seed),
            acknowledged: BTreeSet::new(),
            next: 0,
        }
    }

    fn data(&self) -> PathBuf {
        self.disk.folder().join("data")
    }

    /// Starts it and waits for nothing.
    fn spawn(&self, variables: &[(&str, &str)]) -> Program {
        self.disk.forget_calls();
        let mut all = self.disk.variables();
        all.extend(
            variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let data = self.data();
        Program::spawn(&self.folder, &["--data", data.to_str().expect("a path in UTF-8")], &all)
    }

    fn start(&self, variables: &[(&str, &str)]) -> Program {
        let mut program = self.spawn(variables);
        if let Err(status) = program.ready() {
            panic!("it ended with {status}; it said:\n{}", program.said());
        }
        program
    }

    /// Sends the next rows; tells whether they were acknowledged. Rows that were not are sent again, by the same key.
    fn post(&mut self, program: &Program) -> bool {
        let ids = self.next * ROWS..(self.next + 1) * ROWS;
        let rows = ids
            .clone()
            .map(|id| format!("{{\"id\":{id},\"hand\":0,\"amount\":{}}}", id % 7));
        let body = rows.collect::<Vec<_>>().join("\n");
        let key = format!("post-{}", self.next);
        let headers = [("content-type", "application/json"), ("idempotency-key", &*key)];
        let reply = program.try_request("POST", "/ingest/journal", &headers, body.as_bytes());
        let Ok(reply) = reply else { return false };
        if reply.status != 200 {
            let (status, code) = reply.refusal();
            assert!(matches!(status, 503 | 507), "{status} {code}: {}", reply.text());
            return false;
        }
        assert_eq!(reply.json()["accepted"], ROWS, "{}", reply.text());
        self.acknowledged.extend(ids);
        self.next += 1;
        true
    }

    fn post_all(&mut self, program: &Program, posts: usize) {
        for _ in 0..posts {
            assert!(self.post(program), "not acknowledged; it said:\n{}", program.said());
        }
    }

    /// Every acknowledged row is there once; of one POST more perhaps all.
    fn check(&self, program: &Program) {
        let rows = program.sql("SELECT id FROM journal");
        let once: BTreeSet<u64> = rows.iter().map(|row| row["id"].as_u64().expect("an id")).collect();
        assert_eq!(rows.len(), once.len(), "rows are there twice");
        let lost = self.acknowledged.difference(&once).count();
        assert_eq!(lost, 0, "acknowledged rows are lost; it said:\n{}", program.said());
        let more = once.len() - self.acknowledged.len();
        assert!(more == 0 || more as u64 == ROWS, "{more} rows were never acknowledged");
        let n = program.number("SELECT coalesce(sum(n), 0) FROM totals");
        assert_eq!(n as usize, once.len(), "of the view");
    }
}

/// Tells what a stopped program must tell: its end is a failure, and the file and a way out are named.
fn told(program: &mut Program, words: &[&str]) {
    let status = program.ended(PATIENCE);
    // What it said last may still be on its way.
    for word in words {
        program.until(&format!("it says \"{word}\""), || {
            program.said().to_lowercase().contains(word)
        });
    }
    let said = program.said();
    assert!(!status.success(), "it ended as if all were well; it said:\n{said}");
    assert_ne!(status.code(), Some(101), "it panicked:\n{said}");
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    for point in [
        "write:log.redb:1:ENOSPC+",
        "truncate:log.redb:1:ENOSPC+",
        "write:checkpoint:1:ENOSPC+",
    ] {
        let mut place = Place::new(1);
        let switch = place.root.path().join("full");
        let text = switch.to_str().expect("a path in UTF-8").to_owned();
        let mut program = place.start(&[("POWERCUT_FAIL", point), ("POWERCUT_FAIL_WHILE", &text)]);
        place.post_all(&program, 20);
        fs::write(&switch, "").expect("a file");
        // It may take some rows yet, where it writes without needing room.
        let refused = (0..2_000).find(|_| !place.post(&program));
        assert!(
            refused.is_some() || point.contains("checkpoint"),
            "{point}: it took everything; it said:\n{}",
            program.said()
        );
        program.until("it says that no space is left", || program.said().contains("no space"));
        assert!(
            program.said().to_lowercase().contains("hint"),
            "it said:\n{}",
            program.said()
        );
        fs::remove_file(&switch).expect("a file");
        // Either it goes on by itself, or it has stopped and does when it is started again.
        let mut waited = 0;
        while program.is_alive() && waited < 250 && !place.post(&program) {
            std::thread::sleep(Duration::from_millis(20));
            waited += 1;
        }
        if program.is_alive() {
            place.check(&program);
            program.signal("KILL");
            program.ended(PATIENCE);
        } else {
            told(&mut program, &["no space", "hint"]);
        }
        place.disk.cut(Cut::Clean, &mut place.random);
        let program = place.start(&[]);
        place.check(&program);
        place.post_all(&program, 20);
        place.check(&program);
        program.stop();
    }
}

#[test]
fn a_sync_that_fails_stops_it_and_loses_nothing() {
    for (n, torn) in [(1, false), (6, false), (23, true), (60, true)] {
        let mut place = Place::new(n);
        let switch = place.root.path().join("fails");
        let text = switch.to_str().expect("a path in UTF-8").to_owned();
        let point = format!("sync:log.redb:{n}:EIO");
        let mut program = place.start(&[("POWERCUT_FAIL", &point), ("POWERCUT_FAIL_WHILE", &text)]);
        place.post_all(&program, 5);
        fs::write(&switch, "").expect("a file");
        assert!(
            (0..2_000).any(|_| !place.post(&program)),
            "{point}: it went on after its log could not be made safe"
        );
        told(&mut program, &["log.redb"]);
        // After such a failure nobody knows what the disk holds.
        let cut = if torn { Cut::Torn(0.5) } else { Cut::Clean };
        place.disk.cut(cut, &mut place.random);
        let program = place.start(&[]);
        place.check(&program);
        place.post_all(&program, 5);
        place.check(&program);
        program.stop();
    }
}

#[test]
fn a_checkpoint_that_fails_loses_nothing() {
    for point in [
        "sync:checkpoint:1:EIO",
        "write:checkpoint:2:EIO",
        "write:checkpoint:1:short+",
        "rename:checkpoint:1:EIO",
    ] {
        let mut place = Place::new(7);
        let mut program = place.start(&[("POWERCUT_FAIL", point)]);
        let taken = (0..80).take_while(|_| place.post(&program)).count();
        assert!(
            place.disk.calls().contains("\nF "),
            "{point} never came in {taken} posts"
        );
        // Whoever does not take rows any more is about to end.
        if taken == 80 {
            place.check(&program);
            program.signal("KILL");
            program.ended(PATIENCE);
        } else {
            told(&mut program, &["checkpoint"]);
        }
        place.disk.cut(Cut::Clean, &mut place.random);
        let program = place.start(&[]);
        place.check(&program);
        place.post_all(&program, 20);
        place.check(&program);
        program.stop();
    }
}

#[test]
fn what_was_stopped_in_peace_survives_a_power_cut() {
    let mut place = Place::new(3);
    for _ in 0..3 {
        let program = place.start(&[]);
        place.check(&program);
        place.post_all(&program, 15);
        program.stop();
        let lost = place.disk.cut(Cut::Clean, &mut place.random);
        println!("{lost:?}");
    }
    let program = place.start(&[]);
    place.check(&program);
}

/// Whatever a first start was interrupted at: the next one makes safe what that one left unsafe.
#[test]
fn a_first_start_that_dies_costs_nothing_later() {
    let mut died = 0;
    for n in [1, 2, 3, 5, 8, 12, 17, 23, 30, 40] {
        let mut place = Place::new(n);
        let mut program = place.spawn(&[("POWERCUT_KILL", &format!("any::{n}:after"))]);
        if program.ready().is_ok() {
            program.signal("KILL");
        } else {
            died += 1;
        }
        program.ended(PATIENCE);
        let mut program = place.start(&[]);
        place.post_all(&program, 2);
        program.signal("KILL");
        program.ended(PATIENCE);
        place.disk.cut(Cut::Clean, &mut place.random);
        let program = place.start(&[]);
        println!("died at call {n} of its first start");
        place.check(&program);
    }
    assert!(died > 4, "only {died} died before they were ready");
}

#[test]
fn two_programs_on_one_folder_are_one_too_many() {
    let mut place = Place::new(4);
    let program = place.start(&[]);
    place.post_all(&program, 3);
    let mut second = place.spawn(&[]);
    assert!(
        second.ready().is_err(),
        "the second runs, too; it said:\n{}",
        second.said()
    );
    told(&mut second, &["in use", "hint", "data"]);
    place.post_all(&program, 3);
    place.check(&program);
    program.stop();
}

/// Returns the files of the newest checkpoint; others may lie about until the next.
fn checkpoint(data: &Path) -> Vec<PathBuf> {
    let log = LogStore::open(data).expect("a log");
    let manifest: Manifest = log.meta("checkpoint").expect("a log").expect("a checkpoint");
    let sources = manifest.sources.values().flat_map(|source| &source.parts);
    let views = manifest.views.values().flat_map(|view| &view.parts);
    let parts = sources.chain(views).chain(manifest.tables.values().flatten());
    parts
        .map(|part| data.join("checkpoint").join(&part.file.name))
        .collect()
}

/// A byte that is not what was written is told by the file it stands in; where it does not matter, all is there.
#[test]
fn damage_is_never_passed_over() {
    let mut place = Place::new(5);
    let mut program = place.start(&[]);
    place.post_all(&program, 40);
    // Some of it stands in the log alone.
    program.signal("KILL");
    program.ended(PATIENCE);
    let files = checkpoint(&place.data());
    assert!(!files.is_empty(), "there is no checkpoint");
    let log = place.data().join("log.redb");
    let mut found = [0, 0];
    for case in 0..36 {
        let is_log = case % 3 != 0;
        let file = if is_log { &log } else { &files[case % files.len()] };
        let bytes = fs::read(file).expect("a file");
        let mut damaged = bytes.clone();
        // Where anything stands: most of a young log is empty.
        let full: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] != 0).collect();
        // The first bytes say which commit is the last one.
        let all = full.iter().take_while(|&&at| at < 512).count();
        let within = if is_log && case % 2 == 0 { all } else { full.len() };
        let at = full[place.random.random_range(0..within)];
        damaged[at] ^= 1 << place.random.random_range(0..8);
        fs::write(file, damaged).expect("a file");
        let all: Vec<(PathBuf, Vec<u8>)> = files
            .iter()
            .chain([&log])
            .filter(|path| *path != file)
            .map(|path| (path.clone(), fs::read(path).expect("a file")))
            .collect();
        let mut program = place.spawn(&[]);
        match program.ready() {
            Err(_) => {
                let name = file
                    .file_name()
                    .expect("a name")
                    .to_str()
                    .expect("UTF-8")
                    .to_lowercase();
                told(&mut program, &["data", "is damaged", "hint"]);
                // A log that fell back to what it held before may name files that are gone.
                let said = program.said().to_lowercase();
                assert!(
                    said.contains(&name) || (is_log && said.contains(".blocks")),
                    "not {name}, but:\n{said}"
                );
                found[usize::from(is_log)] += 1;
            }
            Ok(()) => {
                assert!(
                    is_log,
                    "byte {at} of {} was changed, and nobody said so",
                    file.display()
                );
                place.check(&program);
                program.signal("KILL");
                program.ended(PATIENCE);
            }
        }
        // Back to what it was before.
        fs::write(file, bytes).expect("a file");
        for (path, bytes) in all {
            fs::write(path, bytes).expect("a file");
        }
        for entry in fs::read_dir(place.data().join("checkpoint")).expect("a folder") {
            let path = entry.expect("an entry").path();
            if !files.contains(&path) {
                fs::remove_file(path).expect("a file");
            }
        }
    }
    println!("damage was found in {} checkpoints and {} logs", found[0], found[1]);
    assert!(found[0] == 12 && found[1] > 2, "{found:?}");
    let program = place.start(&[]);
    place.check(&program);
}
