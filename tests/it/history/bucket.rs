//! A real S3 server for a test: moto, in a process of its own, on a port that was free.
//!
//! It is installed beside the compiled dependencies the first time. A machine that cannot is
//! told so, and only in CI does that fail the test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What is installed.
const MOTO: &str = "moto[server]==5.2.5";

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    /// Host and port.
    pub address: String,
}

impl Server {
    /// Starts a server; none where there can be none.
    pub fn start() -> Option<Server> {
        let python = match installed() {
            Ok(python) => python,
            Err(reason) if std::env::var_os("SANGAM_REQUIRE_DATA").is_some() => panic!("{reason}"),
            Err(reason) => {
                eprintln!("skipped: {reason}");
                return None;
            }
        };
        let mut child = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("an installed server starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its output")).lines();
        let address = lines.by_ref().find_map(|line| {
            let line = line.ok()?;
            line.split_once("http://").map(|(_, address)| address.trim().to_owned())
        });
        // Whoever stops reading stops the server at its next line.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Server {
            child,
            address: address.expect("the server says where it answers"),
        })
    }

    /// Makes a bucket.
    pub fn make_bucket(&self, name: &str) {
        self.tell("PUT", &format!("/{name}"), "");
    }

    /// Refuses everything to everybody from now on.
    pub fn refuse_all(&self) {
        self.tell("POST", "/moto-api/reset-auth", "0");
    }

    fn tell(&self, method: &str, path: &str, body: &str) {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .body(body.to_owned())
            .expect("a request");
        ureq::Agent::new_with_defaults()
            .run(request)
            .expect("the server does as it is told");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the Python that has the server, installing it if need be.
fn installed() -> Result<PathBuf, String> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let folder = cache
        .ok_or("there is no HOME to install an S3 server in")?
        .join("sangam");
    let place = folder.join("moto-5.2.5");
    let python = place.join("bin/python");
    if python.exists() {
        return Ok(python);
    }
    // Another test may be at it: each makes its own, and the first to be done is kept.
    let making = folder.join(format!("moto-5.2.5.{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| format!("could not make {}: {error}", folder.display()))?;
    run(Command::new("python3").args(["-m", "venv"]).arg(&making))?;
    let made = run(Command::new(making.join("bin/python")).args(["-m", "pip", "install", "--quiet", MOTO]));
    let kept = made.map(|()| std::fs::rename(&making, &place));
    let _ = std::fs::remove_dir_all(&making);
    kept.map(|_| python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let told = command
        .output()
        .map_err(|error| format!("could not install {MOTO}: {error}"))?;
    if told.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&told.stderr);
    Err(format!("could not install {MOTO}: {}", said.trim()))
}
