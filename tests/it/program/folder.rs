//! Deployment folders for tests: written out, or copied from `config`.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

/// Writes a deployment of these files, each a path and a text.
pub fn deployment(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder of our own");
    for (path, text) in files {
        write(dir.path(), path, text);
    }
    dir
}

/// Writes one file of a deployment.
pub fn write(dir: &Path, path: &str, text: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().expect("a file in a folder")).expect("a folder");
    fs::write(path, text).expect("a file");
}

/// Copies `config/water` with its simulated senders replaced by POSTs, under the event clock.
pub fn water() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder of our own");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config/water"), dir.path());
    let options = dir.path().join("deployment.toml");
    let text = fs::read_to_string(&options).expect("the deployment's options");
    fs::write(options, format!("clock = \"event\"\n{text}")).expect("a file");
    let mut replaced = 0;
    for entry in fs::read_dir(dir.path().join("sources")).expect("its sources") {
        let path = entry.expect("a file").path();
        let text = fs::read_to_string(&path).expect("a source");
        if text.contains("type = \"simulate\"") {
            fs::write(&path, posted(&text)).expect("a file");
            replaced += 1;
        }
    }
    assert_eq!(replaced, 2, "readings and weather are simulated");
    dir
}

/// Leaves out every section of the connector and says `http` instead.
fn posted(source: &str) -> String {
    let mut kept = Vec::new();
    let mut in_connector = false;
    for line in source.lines() {
        if line.starts_with('[') {
            in_connector = line.starts_with("[connector");
        }
        if !in_connector {
            kept.push(line);
        }
    }
    format!("{}\n\n[connector]\ntype = \"http\"\n", kept.join("\n"))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let entry = entry.expect("a file");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
