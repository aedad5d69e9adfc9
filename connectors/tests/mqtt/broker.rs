//! A mosquitto of a test's own.
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take before a test gives up.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until it is so.
#[track_caller]
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn program(name: &str, package: &str) -> PathBuf {
    let places = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&places)
        .chain([
            "/usr/sbin".into(),
            "/usr/local/sbin".into(),
            "/opt/homebrew/sbin".into(),
        ])
        .map(|place| place.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("this test needs the program {name}: on Debian, apt-get install {package}"))
}

/// Runs a program to its end and returns what it wrote.
pub(crate) fn run(name: &str, package: &str, arguments: &[&str], directory: &Path) -> Output {
    let mut command = Command::new(program(name, package));
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    command.output().unwrap()
}

/// A broker on a free port, ended when dropped.
pub(crate) struct Broker {
    pub(crate) directory: TempDir,
    pub(crate) port: u16,
    process: Option<Child>,
}

impl Broker {
    /// Starts one with these lines of configuration besides its listener.
    pub(crate) fn start(lines: &str) -> Broker {
        let mut broker = Broker::prepared(lines, |_| {});
        broker.run();
        broker
    }

    /// One that does not run yet, for which more files are written.
    pub(crate) fn prepared(lines: &str, prepare: impl FnOnce(&Path)) -> Broker {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        prepare(directory.path());
        // It runs as whoever runs the test, and queues without a bound, else it drops messages.
        let access = if lines.contains("allow_anonymous") {
            ""
        } else {
            "allow_anonymous true"
        };
        let configuration = format!(
            "user root\nmax_queued_messages 0\nmax_inflight_messages 0\npersistence true\n\
             persistence_location {}/\nlog_dest stderr\nlog_type all\nlistener {port} 127.0.0.1\n{access}\n{lines}\n",
            directory.path().display()
        );
        fs::write(directory.path().join("mosquitto.conf"), configuration).unwrap();
        Broker {
            directory,
            port,
            process: None,
        }
    }

    /// Starts it, perhaps again.
    pub(crate) fn run(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .unwrap();
        let process = Command::new(program("mosquitto", "mosquitto"))
            .args(["-c", "mosquitto.conf"])
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let port = self.port;
        until("mosquitto listens", || {
            if let Some(status) = self.process.as_mut().unwrap().try_wait().unwrap() {
                panic!("mosquitto ended: {status}: {}", self.log());
            }
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.directory.path().join("log")).expect("a log");
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Has it write down what it knows, and waits for that.
    pub(crate) fn save(&self) {
        let id = self.process.as_ref().unwrap().id().to_string();
        let saved = || self.log().matches("Saving in-memory database").count();
        let before = saved();
        assert!(Command::new("kill").args(["-USR1", &id]).status().unwrap().success());
        until("mosquitto saves", || saved() > before);
        let database = self.directory.path().join("mosquitto.db");
        until("mosquitto has saved", || {
            database.exists() && !database.with_extension("db.new").exists()
        });
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What `mosquitto_pub` is to do.
pub(crate) struct Publisher<'a> {
    pub(crate) port: u16,
    pub(crate) version: &'a str,
    pub(crate) qos: u8,
    pub(crate) more: &'a [&'a str],
    pub(crate) directory: &'a Path,
}

impl Publisher<'_> {
    /// Publishes each line as a message, and waits until it has; tells whether it was let to.
    pub(crate) fn lines(&self, topic: &str, lines: impl IntoIterator<Item = String>) -> Result<(), String> {
        let mut child = self.spawn(topic, &["-l"]);
        let mut input = child.stdin.take().unwrap();
        for line in lines {
            // Whoever was turned away reads no more.
            if input.write_all(format!("{line}\n").as_bytes()).is_err() {
                break;
            }
        }
        drop(input);
        let output = child.wait_with_output().unwrap();
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Begins to publish.
    pub(crate) fn spawn(&self, topic: &str, what: &[&str]) -> Child {
        let (port, qos) = (self.port.to_string(), self.qos.to_string());
        Command::new(program("mosquitto_pub", "mosquitto-clients"))
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-q",
                &qos,
                "-V",
                self.version,
                "-t",
                topic,
            ])
            .args(what)
            .args(self.more)
            .current_dir(self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

/// Publishes lines to a broker with no ado.
pub(crate) fn publish(port: u16, qos: u8, topic: &str, lines: impl IntoIterator<Item = String>) {
    let publisher = Publisher {
        port,
        version: "mqttv311",
        qos,
        more: &[],
        directory: Path::new("."),
    };
    publisher.lines(topic, lines).unwrap();
}
