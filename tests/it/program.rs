//! The built program as a test sees it: a process, its HTTP door, its figures.
//!
//! `live` follows views over a WebSocket, `folder` writes the deployments. Every
//! wait is for something that is told (a line, an answer, a frame, a tick), and
//! fails with a message when its time is over. A program is killed when dropped.
pub mod folder;
pub mod live;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::http::Request;

use live::Live;

/// How long the program may take over anything a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often an answer is asked for that nobody announces.
const PAUSE: Duration = Duration::from_millis(5);

/// A running program.
pub struct Program {
    child: Child,
    /// Where it answers: host and port.
    pub address: String,
    /// What it prints, line by line, until its address is known.
    lines: Mutex<Receiver<String>>,
    said: Arc<Mutex<String>>,
    agent: ureq::Agent,
    /// Where it keeps what is to survive, unless it was told another folder.
    _data: tempfile::TempDir,
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: ureq::http::HeaderMap,
    /// Its whole body.
    pub body: Vec<u8>,
}

impl Reply {
    /// Returns the body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("an answer in UTF-8")
    }

    /// Returns the body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}: {}", self.status, self.text()))
    }

    /// Returns the code of a refusal, with its status; panics unless it says what and has the one shape.
    pub fn refusal(&self) -> (u16, String) {
        let body = self.json();
        let error = &body["error"];
        let message = error["message"]
            .as_str()
            .unwrap_or_else(|| panic!("no message in {body}"));
        assert!(message.len() > 8, "a message that says nothing: {body}");
        (
            self.status,
            error["code"]
                .as_str()
                .unwrap_or_else(|| panic!("no code in {body}"))
                .to_owned(),
        )
    }

    /// Returns the tick an answer to SQL is of.
    pub fn tick(&self) -> u64 {
        let tick = self.headers.get("x-sangam-tick").expect("the tick of an answer");
        tick.to_str().expect("digits").parse().expect("a tick")
    }
}

/// Runs a subcommand to its end.
pub fn sangam(arguments: &[&str]) -> Output {
    let child = Command::new(env!("CARGO_BIN_EXE_sangam"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.wait_with_output().expect("the program ends")
}

impl Program {
    /// Starts `sangam run` on a folder and waits until every view has its first answer.
    pub fn start(dir: &Path) -> Program {
        Self::start_with(dir, &[])
    }

    /// The same with more arguments.
    pub fn start_with(dir: &Path, arguments: &[&str]) -> Program {
        let mut program = Self::spawn(dir, arguments, &[]);
        if let Err(status) = program.ready() {
            panic!("it ended with {status}; it said:\n{}", program.said());
        }
        program
    }

    /// Starts `sangam run` in an environment, and waits for nothing.
    pub fn spawn(dir: &Path, arguments: &[&str], variables: &[(String, String)]) -> Program {
        let data = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sangam"));
        command
            .arg("run")
            .arg(dir)
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments);
        if !arguments.contains(&"--data") {
            command.arg("--data").arg(data.path());
        }
        let mut child = command
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let said = Arc::new(Mutex::new(String::new()));
        let lines = listen(child.stdout.take().expect("a pipe"), &said);
        let _ = listen(child.stderr.take().expect("a pipe"), &said);
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        Program {
            child,
            address: String::new(),
            lines: Mutex::new(lines),
            said,
            agent,
            _data: data,
        }
    }

    /// Waits until every view has its first answer, or the process has ended.
    pub fn ready(&mut self) -> Result<(), ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while self.address.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.get_mut().expect("no panic under it").recv_timeout(left) {
                Ok(line) => {
                    if let Some((_, address)) = line.split_once("http://") {
                        self.address = address.trim().to_owned();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended(PATIENCE)),
                Err(RecvTimeoutError::Timeout) => panic!("it printed no address: {}", self.said()),
            }
        }
        loop {
            if let Ok(reply) = self.try_request("GET", "/readyz", &[], b"")
                && reply.status == 200
            {
                return Ok(());
            }
            if !self.is_alive() {
                return Err(self.ended(PATIENCE));
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain until it is ready; it said:\n{}",
                self.said()
            );
            thread::sleep(PAUSE);
        }
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is gone");
    }

    /// Tells whether the process runs.
    pub fn is_alive(&self) -> bool {
        // A process that ended is a zombie until it is waited for.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        stat.is_ok_and(|stat| {
            stat.rsplit_once(')')
                .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
        })
    }

    /// Returns everything printed so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("no panic under it").clone()
    }

    /// Asks again and again until the answer is yes.
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(
                Instant::now() < deadline,
                "waited in vain until {what}; it said:\n{}",
                self.said()
            );
            thread::sleep(PAUSE);
        }
    }

    /// Sends a request.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.try_request(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}; it said:\n{}", self.said()))
    }

    /// Sends a request that may come to nothing, because the program is stopping.
    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Reply, ureq::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = if body.is_empty() && method != "POST" {
            self.agent.run(request.body(()).expect("a request"))?
        } else {
            self.agent.run(request.body(body).expect("a request"))?
        };
        Ok(Reply {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.body_mut().with_config().limit(u64::MAX).read_to_vec()?,
        })
    }

    /// Gets a page.
    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], b"")
    }

    /// Brings rows; the path may carry an operation, as in `readings?op=delete`.
    pub fn post(&self, source: &str, content_type: &str, body: impl AsRef<[u8]>) -> Reply {
        self.request(
            "POST",
            &format!("/ingest/{source}"),
            &[("content-type", content_type)],
            body.as_ref(),
        )
    }

    /// Brings rows that must be understood; returns the counts.
    pub fn ingest(&self, source: &str, body: impl AsRef<[u8]>) -> Value {
        let reply = self.post(source, "application/json", body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// Asks in SQL for an answer of some form.
    pub fn query(&self, sql: &str, accept: &str) -> Reply {
        self.request("POST", "/sql", &[("accept", accept)], sql.as_bytes())
    }

    /// Asks in SQL; returns the rows.
    pub fn sql(&self, sql: &str) -> Vec<Value> {
        let reply = self.query(sql, "application/json");
        assert_eq!(reply.status, 200, "{sql}: {}", reply.text());
        serde_json::from_slice(&reply.body).expect("an array of rows")
    }

    /// Asks in SQL for one number.
    pub fn number(&self, sql: &str) -> i64 {
        let rows = self.sql(sql);
        let row = rows
            .first()
            .and_then(Value::as_object)
            .unwrap_or_else(|| panic!("no row from {sql}"));
        row.values()
            .next()
            .and_then(Value::as_i64)
            .unwrap_or_else(|| panic!("no number in {row:?}"))
    }

    /// Opens a WebSocket.
    pub fn live(&self) -> Live {
        Live::connect(self)
    }

    /// Opens a connection for bytes of one's own choice.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("it takes connections");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// Writes bytes and no more, then reads until the other side has said everything.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // Who refuses early may have closed already: what counts is the answer.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        Self::rest(stream)
    }

    /// Writes bytes and waits, as one who may have more to say.
    pub fn raw_open(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // As above.
        let _ = stream.write_all(bytes);
        Self::rest(stream)
    }

    fn rest(mut stream: TcpStream) -> String {
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::WouldBlock,
                "it neither answers nor closes"
            );
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Returns the memory in use, in MiB.
    pub fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("its resident memory");
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<f64>()
            .expect("a number")
            / 1024.0
    }

    /// Sends the signal of Ctrl-C.
    pub fn interrupt(&self) {
        self.signal("INT");
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status();
        assert!(sent.expect("kill starts").success(), "the signal could not be sent");
    }

    /// Waits for the end of the process.
    pub fn ended(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "it runs on after {within:?}; it said:\n{}",
                self.said()
            );
            thread::sleep(PAUSE);
        }
    }

    /// Stops it as Ctrl-C does, and checks that it went well.
    pub fn stop(mut self) {
        self.interrupt();
        let status = self.ended(Duration::from_secs(15));
        assert!(status.success(), "it ended with {status}; it said:\n{}", self.said());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already; either way nothing is left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the program said:\n{}", self.said());
        }
    }
}

/// Reads lines on a thread of its own, so that a full pipe never stops the program.
fn listen(pipe: impl Read + Send + 'static, said: &Arc<Mutex<String>>) -> Receiver<String> {
    let (lines, heard) = channel();
    let said = said.clone();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if let Ok(mut said) = said.lock() {
                said.push_str(&line);
                said.push('\n');
            }
            // Whoever only wanted the address has stopped listening.
            let _ = lines.send(line);
        }
    });
    heard
}
