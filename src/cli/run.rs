//! `sangam run`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::net::TcpListener;

use crate::config::{Deployment, Edit};
use crate::engine::{Changed, Data, Engine, RelationKind};
use crate::server;

/// Runs a deployment until Ctrl-C.
///
/// Prints the address to open in a browser, then one line of progress.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// The deployment folder, for example config/water.
    dir: PathBuf,
    /// Address and port to answer on; port 0 takes a free one. Wins over deployment.toml.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Worker threads. Wins over deployment.toml; without either, one for every two processors.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Folder for what is to survive. Wins over deployment.toml; without either, .sangam in the deployment folder.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Drop the rows of a source that is declared no more; may be said several times.
    #[arg(long, value_name = "SOURCE")]
    forget: Vec<String>,
}

impl Run {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Some(mut deployment) = super::load(&self.dir) else {
            return Ok(ExitCode::FAILURE);
        };
        if let Some(listen) = self.listen {
            deployment.options.listen = listen;
        }
        if let Some(workers) = self.workers {
            deployment.options.workers = Some(usize::from(workers));
        }
        let dir = self
            .data
            .unwrap_or_else(|| deployment.dir.join(&deployment.options.data));
        let data = Data {
            history: deployment.history(&dir),
            dir,
            durability: deployment.options.durability,
            forget: self.forget,
            reads: true,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("sangam server")
            .build()
            .context("could not start the runtime")?;
        runtime.block_on(serve(deployment, data))
    }
}

/// Starts the engine and answers until told to stop.
async fn serve(deployment: Deployment, data: Data) -> anyhow::Result<ExitCode> {
    let listen = deployment.options.listen.clone();
    // The door first: without it there is no use in starting anything.
    let listener = TcpListener::bind(&listen)
        .await
        .with_context(|| format!("could not listen on {listen}"))?;
    let address = listener
        .local_addr()
        .context("could not tell the address that was taken")?;
    let name = deployment.name.clone();
    let engine = Engine::open(deployment, data)?;
    let recovery = tokio::spawn(recover(engine.clone()));
    let count = |kind| {
        engine
            .relations()
            .iter()
            .filter(|relation| relation.kind == kind)
            .count()
    };
    println!(
        "sangam {} runs {name}: {} sources, {} views, {} alerts",
        env!("CARGO_PKG_VERSION"),
        count(RelationKind::Source),
        count(RelationKind::View),
        count(RelationKind::Alert)
    );
    println!("  open   http://{address}");
    println!("  live   ws://{address}/ws");
    println!("  stop   Ctrl-C");
    println!("  reload SIGHUP, after the folder was changed");
    let progress = tokio::spawn(report(engine.clone()));
    let reloading = tokio::spawn(reload(engine.clone()));
    let failed = engine.clone();
    let stop = async move {
        tokio::select! {
            () = interrupted() => {}
            () = failure(&failed) => {}
        }
    };
    let served = server::serve(engine.clone(), listener, stop).await;
    progress.abort();
    recovery.abort();
    reloading.abort();
    println!();
    let stopping = engine.clone();
    tokio::task::spawn_blocking(move || stopping.shutdown())
        .await
        .context("could not stop the engine")?;
    served?;
    match engine.failure() {
        Some(reason) => anyhow::bail!("the engine stopped: {reason}"),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Completes on Ctrl-C, and on the signal by which services are stopped.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without a handler there is nothing to wait for but the end of the process.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Reads the folder anew at each SIGHUP, and applies what differs.
async fn reload(engine: Engine) {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut asked) = signal(SignalKind::hangup()) else {
            return;
        };
        while asked.recv().await.is_some() {
            match engine.edit(Edit::Reload).await {
                Ok(changed) => println!("\nreloaded: {}", told(&changed)),
                Err(error) => eprintln!("\nnot reloaded, all runs on as before: {error}"),
            }
        }
    }
}

/// Says what a change came to.
fn told(changed: &Changed) -> String {
    let lists = [
        ("added", &changed.added),
        ("changed", &changed.changed),
        ("dropped", &changed.dropped),
    ];
    let said: Vec<String> = lists
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what} {}", names.join(", ")))
        .collect();
    if said.is_empty() {
        return "nothing has changed".to_owned();
    }
    let seconds = changed.took.as_secs_f64();
    format!("{}; {} rows in {seconds:.1} s", said.join("; "), changed.rows)
}

/// Completes once the engine has stopped by itself.
async fn failure(engine: &Engine) {
    let mut progress = engine.progress();
    while engine.failure().is_none() {
        if progress.changed().await.is_err() {
            break;
        }
    }
}

/// Says how far the program has come in taking up what the last run left.
async fn recover(engine: Engine) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.tick().await;
    let mut told = false;
    while let Some(recovery) = engine.recovery() {
        every.tick().await;
        if recovery.rows.1 + recovery.bytes.1 > 0 {
            println!(
                "taking up what the last run left: {} % · {} of {} rows · {} of {} bytes of the log",
                recovery.percent(),
                recovery.rows.0,
                recovery.rows.1,
                recovery.bytes.0,
                recovery.bytes.1
            );
            told = true;
        }
    }
    if told && engine.failure().is_none() {
        println!("everything is as the last run left it");
    }
}

/// Seconds between lines where nobody sees a line being rewritten.
const LINE_SECONDS: u64 = 10;

/// Keeps one line of progress current on a terminal; elsewhere prints one every few seconds.
async fn report(engine: Engine) {
    let terminal = std::io::stdout().is_terminal();
    let seconds = if terminal { 1 } else { LINE_SECONDS };
    let mut every = tokio::time::interval(Duration::from_secs(seconds));
    every.tick().await;
    while engine.recovery().is_some() {
        every.tick().await;
    }
    let mut before = accepted(&engine);
    loop {
        every.tick().await;
        let now = accepted(&engine);
        let rate = (now - before) as f64 / seconds as f64;
        before = now;
        let (median, tail) = engine.tick_seconds();
        let alerts: u64 = engine
            .relations()
            .iter()
            .filter(|relation| relation.kind == RelationKind::Alert)
            .map(|relation| engine.standing(&relation.name))
            .sum();
        let line = format!(
            "{rate:.0} events/s · {now} rows in · tick {:.1} ms (p99 {:.1} ms) · {alerts} alerts standing",
            median * 1e3,
            tail * 1e3
        );
        if terminal {
            print!("\r\x1b[2K{line}");
            // A terminal that went away stops nothing.
            let _ = std::io::stdout().flush();
        } else {
            println!("{line}");
        }
    }
}

fn accepted(engine: &Engine) -> u64 {
    engine.sources().iter().map(|source| source.accepted).sum()
}
