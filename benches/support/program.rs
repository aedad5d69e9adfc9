//! The built program on a copy of a deployment, and what the machine says of its process.
#![allow(dead_code, reason = "each bench uses its part of this")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// A running `sangam run`; killed when dropped.
pub struct Program {
    child: Child,
    address: String,
    _dir: TempDir,
}

impl Program {
    /// Starts `config/water`; with `http`, its simulated sources take POSTs only.
    pub fn water(http: bool) -> Program {
        let dir = tempfile::tempdir().expect("a folder");
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config/water"), dir.path());
        if http {
            for source in ["readings", "weather"] {
                let path = dir.path().join(format!("sources/{source}.toml"));
                let text = fs::read_to_string(&path).expect("a source of the deployment");
                let (head, _) = text.split_once("\n[connector]\n").expect("its connector comes last");
                let http = "\n[connector]\ntype = \"http\"\n[format]\ntype = \"json\"\n";
                fs::write(&path, format!("{head}{http}")).expect("a file");
            }
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_sangam"));
        command.args(["run", "--listen", "127.0.0.1:0"]).arg(dir.path());
        Program::start(command, dir)
    }

    /// Starts any program that prints the `http://` address it answers at.
    pub fn start(mut command: Command, dir: TempDir) -> Program {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a program");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let address = lines.by_ref().find_map(|line| {
            let line = line.ok()?;
            line.split_once("http://").map(|(_, address)| address.trim().to_owned())
        });
        // Whoever stops reading stops the program at its next line.
        std::thread::spawn(move || lines.for_each(drop));
        Program {
            child,
            address: address.expect("the program says where it answers"),
            _dir: dir,
        }
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Processor time spent so far.
    pub fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = [11, 12]
            .iter()
            .filter_map(|&at| fields.get(at)?.parse::<u64>().ok())
            .sum();
        // The kernel counts in hundredths, whatever it does inside.
        Duration::from_millis(ticks * 10)
    }

    /// Resident memory, in MiB.
    pub fn resident_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the deployment") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
