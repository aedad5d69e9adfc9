//! A folder on a disk whose power can be cut: what `powercut.c` keeps of it, and what is left after a cut.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rand::RngExt;
use rand_pcg::Pcg64;

const PAGE: usize = 4096;

/// The folder, its journal, and the log of calls.
pub(super) struct Disk {
    root: PathBuf,
}

/// How much of what was not synced a power cut takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cut {
    /// All of it.
    Clean,
    /// Each page and each folder's names with this chance: disks write when and in what order they like.
    Torn(f64),
}

/// What a power cut took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Pages that are as they were at the last sync.
    pub(super) pages: usize,
    /// Pages written but not synced that are there all the same.
    pub(super) spared: usize,
    /// Names that came, went or changed and did not.
    pub(super) names: usize,
}

/// Compiles the library, once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/crash/powercut.c");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(folder).expect("a folder of the build");
        // Under a name of its own first: another test process may be loading it.
        let (made, library) = (
            folder.join(format!("powercut.{}.so", std::process::id())),
            folder.join("powercut.so"),
        );
        let compiled = Command::new("cc")
            .args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .args([&made, &source])
            .output()
            .expect("a C compiler: cc");
        assert!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        fs::rename(&made, &library).expect("a library");
        library
    })
}

impl Disk {
    /// Makes an empty disk in a folder.
    pub(super) fn new(root: &Path) -> Disk {
        // Paths are compared as the kernel tells them.
        let root = fs::canonicalize(root).expect("a folder");
        fs::create_dir(root.join("disk")).expect("a folder");
        let disk = Disk { root };
        disk.settle();
        disk
    }

    /// Returns the folder that lies on the disk.
    pub(super) fn folder(&self) -> PathBuf {
        self.root.join("disk")
    }

    /// Returns the variables under which a program uses the disk.
    pub(super) fn variables(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        vec![
            ("LD_PRELOAD".to_owned(), text(library())),
            ("POWERCUT_DIR".to_owned(), text(&self.folder())),
            ("POWERCUT_JOURNAL".to_owned(), text(&self.journal())),
            ("POWERCUT_LOG".to_owned(), text(&self.log())),
        ]
    }

    /// Returns the log of calls, a line each.
    pub(super) fn calls(&self) -> String {
        let bytes = fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Begins a new log of calls.
    pub(super) fn forget_calls(&self) {
        fs::write(self.log(), "").expect("a file");
    }

    /// Takes everything that is there for safe: the disk has had all the time in the world.
    pub(super) fn settle(&self) {
        // What was there before may not exist yet.
        let _ = fs::remove_dir_all(self.journal());
        for kind in ["inodes", "folders", "graves"] {
            fs::create_dir_all(self.journal().join(kind)).expect("a folder");
        }
        let mut folders = vec![self.folder()];
        while let Some(folder) = folders.pop() {
            let mut names = String::new();
            for (inode, name, path) in entries(&folder) {
                let is_folder = path.is_dir();
                names.push_str(&format!("{} {inode} {name}\n", if is_folder { 'd' } else { 'f' }));
                if is_folder {
                    folders.push(path);
                } else {
                    fs::copy(&path, self.kept("inodes", inode)).expect("a copy");
                }
            }
            let inode = fs::metadata(&folder).expect("a folder").ino();
            fs::write(self.kept("folders", inode), names).expect("a file");
        }
    }

    /// Cuts the power: puts the folder to what the disk held. Nobody may be using it.
    pub(super) fn cut(&self, cut: Cut, random: &mut Pcg64) -> Lost {
        let mut now: HashMap<u64, PathBuf> = HashMap::new();
        let mut folders = vec![self.folder(), self.journal().join("graves")];
        while let Some(folder) = folders.pop() {
            for (inode, _, path) in entries(&folder) {
                if path.is_dir() {
                    folders.push(path.clone());
                }
                now.insert(inode, path);
            }
        }
        let restored = self.root.join("restored");
        let inode = fs::metadata(self.folder()).expect("a folder").ino();
        let mut restore = Restore {
            disk: self,
            now,
            cut,
            random,
            lost: Lost::default(),
        };
        restore.folder(inode, &self.folder(), &restored);
        let lost = restore.lost;
        // The folder itself stays: somebody may name it by its inode.
        for (_, _, path) in entries(&self.folder()) {
            let removed = if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
            removed.expect("it can be removed");
        }
        for (_, name, path) in entries(&restored) {
            fs::rename(path, self.folder().join(name)).expect("it can be moved");
        }
        fs::remove_dir(&restored).expect("it is empty");
        self.settle();
        lost
    }

    fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    fn log(&self) -> PathBuf {
        self.root.join("calls.log")
    }

    fn kept(&self, kind: &str, inode: u64) -> PathBuf {
        self.journal().join(kind).join(inode.to_string())
    }

    fn kept_bytes(&self, inode: u64) -> Vec<u8> {
        // What was never synced is empty.
        fs::read(self.kept("inodes", inode)).unwrap_or_default()
    }
}

/// A restore in progress.
struct Restore<'a> {
    disk: &'a Disk,
    /// Where each inode that still exists can be read.
    now: HashMap<u64, PathBuf>,
    cut: Cut,
    random: &'a mut Pcg64,
    lost: Lost,
}

impl Restore<'_> {
    /// Tells whether something that was not synced is there all the same.
    fn is_spared(&mut self) -> bool {
        match self.cut {
            Cut::Clean => false,
            Cut::Torn(lost) => !self.random.random_bool(lost),
        }
    }

    fn folder(&mut self, inode: u64, now: &Path, to: &Path) {
        fs::create_dir(to).expect("a folder");
        let kept = fs::read_to_string(self.disk.kept("folders", inode)).unwrap_or_default();
        let mut kept: Vec<(bool, u64, String)> = kept
            .lines()
            .map(|line| {
                let mut words = line.splitn(3, ' ');
                let mut word = || words.next().expect("three words a line");
                let (kind, inode) = (word(), word());
                (
                    kind == "d",
                    inode.parse().expect("the number of an inode"),
                    word().to_owned(),
                )
            })
            .collect();
        let mut here: Vec<(bool, u64, String)> = match now.is_dir() {
            true => entries(now)
                .into_iter()
                .map(|(inode, name, path)| (path.is_dir(), inode, name))
                .collect(),
            false => Vec::new(),
        };
        kept.sort();
        here.sort();
        // A folder's names change in order, so that a file that was renamed has one name or the other.
        let is_spared = kept != here && self.is_spared();
        if !is_spared {
            self.lost.names += here.iter().filter(|entry| !kept.contains(entry)).count();
            self.lost.names += kept.iter().filter(|entry| !here.contains(entry)).count();
        }
        for (is_folder, inode, name) in if is_spared { here } else { kept } {
            let target = to.join(name);
            let now = self.now.get(&inode).cloned().unwrap_or_default();
            if is_folder {
                self.folder(inode, &now, &target);
            } else {
                fs::write(target, self.bytes(inode, &now)).expect("a file");
            }
        }
    }

    fn bytes(&mut self, inode: u64, now: &Path) -> Vec<u8> {
        let kept = self.disk.kept_bytes(inode);
        let Ok(now) = fs::read(now) else { return kept };
        let mut length = kept.len();
        if now.len() != length && self.is_spared() {
            length = now.len();
        }
        let mut bytes = kept.clone();
        bytes.resize(length, 0);
        for at in (0..length.max(now.len())).step_by(PAGE) {
            let page = |bytes: &[u8]| bytes.get(at..bytes.len().min(at + PAGE)).map(<[u8]>::to_vec);
            let (old, new) = (page(&kept), page(&now));
            if old == new {
                continue;
            }
            let Some(new) = new.filter(|_| at < length && self.is_spared()) else {
                self.lost.pages += 1;
                continue;
            };
            let ends = length.min(at + new.len());
            bytes[at..ends].copy_from_slice(&new[..ends - at]);
            self.lost.spared += 1;
        }
        bytes
    }
}

/// Lists a folder: inode, name and path, in order of the name.
fn entries(folder: &Path) -> Vec<(u64, String, PathBuf)> {
    let mut entries: Vec<(u64, String, PathBuf)> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("a name in UTF-8");
            (entry.metadata().expect("its inode").ino(), name, entry.path())
        })
        .collect();
    entries.sort_by(|one, other| one.1.cmp(&other.1));
    entries
}
