//! A PostgreSQL of this machine, in a folder of its own, for as long as a bench needs it.
#![allow(dead_code, reason = "each bench uses its part of this")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where Debian puts the programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// Who runs it where the bench is run by root, which PostgreSQL refuses.
const USER: &str = "postgres";

/// A running server; stopped, and its folder removed, when dropped.
pub struct Postgres {
    folder: PathBuf,
    port: u16,
}

impl Postgres {
    /// Starts a server, or says why there is none.
    pub fn start() -> Result<Postgres, String> {
        if !Path::new(PROGRAMS).join("initdb").exists() {
            return Err(format!("there is no PostgreSQL 15 in {PROGRAMS}"));
        }
        let folder = std::env::temp_dir().join(format!("sangam-postgres-{}", std::process::id()));
        std::fs::create_dir(&folder).map_err(|error| format!("could not make {}: {error}", folder.display()))?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        drop(listener);
        let server = Postgres { folder, port };
        if is_root() {
            let folder = server.folder.to_string_lossy().into_owned();
            run(Command::new("chown").args([USER, &folder]))?;
        }
        let data = server.folder.join("data").to_string_lossy().into_owned();
        run(program("initdb").args([
            "-D",
            &data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ]))?;
        let options = format!(
            "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={} -c fsync=off -c max_wal_size=4GB",
            server.folder.display()
        );
        let log = server.folder.join("log").to_string_lossy().into_owned();
        run(program("pg_ctl").args(["-D", &data, "-l", &log, "-w", "-o", &options, "start"]))?;
        Ok(server)
    }

    /// Runs a statement and returns what it answers.
    pub fn sql(&self, statement: &str) -> String {
        let told = self.psql(statement).output().expect("psql");
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        String::from_utf8_lossy(&told.stdout).trim().to_owned()
    }

    /// Begins a `COPY … FROM STDIN`.
    pub fn copy(&self, statement: &str) -> Copying {
        let child = self.psql(statement).stdin(Stdio::piped()).spawn().expect("psql");
        Copying { child }
    }

    fn psql(&self, statement: &str) -> Command {
        let mut psql = Command::new(Path::new(PROGRAMS).join("psql"));
        psql.args([
            "-h",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-qAt",
            "-v",
            "ON_ERROR_STOP=1",
        ]);
        psql.args(["-c", statement]);
        psql
    }
}

/// Rows on their way into a table.
pub struct Copying {
    child: Child,
}

impl Copying {
    /// Sends lines.
    pub fn send(&mut self, text: &[u8]) {
        self.child
            .stdin
            .as_mut()
            .expect("a pipe")
            .write_all(text)
            .expect("psql reads on");
    }

    /// Waits until all are in.
    pub fn finish(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("psql").success());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.folder.join("data").to_string_lossy().into_owned();
        let _ = run(program("pg_ctl").args(["-D", &data, "-m", "immediate", "stop"]));
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A program of the server's, run by somebody who may.
fn program(name: &str) -> Command {
    let path = Path::new(PROGRAMS).join(name);
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", USER, "--"]).arg(path);
    // The folder the bench was started in may not be that user's to see.
    command.current_dir("/");
    command
}

fn is_root() -> bool {
    let told = Command::new("id").arg("-u").output();
    told.is_ok_and(|told| told.stdout.trim_ascii() == b"0")
}

fn run(command: &mut Command) -> Result<(), String> {
    // A server that stays would hold a pipe open for ever.
    let told = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    match told {
        Ok(told) if told.success() => Ok(()),
        Ok(told) => Err(format!("{command:?} ended with {told}")),
        Err(error) => Err(format!("could not run {command:?}: {error}")),
    }
}
