//! The command line: one file a subcommand.
mod backtest;
mod backup;
mod check;
mod explain;
mod new;
mod query;
mod run;
mod table;
mod test;
mod verify;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::config::{self, Deployment};

/// Keeps SQL views current while rows stream in.
///
/// A deployment is a folder: sources and tests in TOML, views and alerts in
/// SQL. Start with `sangam new mine`, then `sangam run mine` and open the
/// address it prints.
#[derive(Debug, Parser)]
#[command(
    name = "sangam",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Test(test::TestCommand),
    Explain(explain::Explain),
    New(new::New),
    Query(query::Query),
    Backup(backup::Backup),
    Restore(backup::Restore),
    Verify(verify::Verify),
    Backtest(backtest::BacktestCommand),
}

/// Runs the command the process was started with.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Test(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::New(command) => command.run(),
        Command::Query(command) => command.run(),
        Command::Backup(command) => command.run(),
        Command::Restore(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Backtest(command) => command.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Loads a deployment; prints what is wrong with it, or what is worth knowing.
fn load(dir: &Path) -> Option<Deployment> {
    let problems = match config::load(dir) {
        Ok(deployment) => {
            for warning in &deployment.warnings {
                eprintln!("warning: {}", warning.under(dir));
            }
            return Some(deployment);
        }
        Err(problems) => problems,
    };
    for problem in &problems {
        eprintln!("{}", problem.under(dir));
    }
    eprintln!("\n{}: {}", dir.display(), counted(problems.len(), "problem"));
    None
}

/// Asks something of a running deployment that answers in JSON.
fn post(url: &str, path: &str) -> anyhow::Result<serde_json::Value> {
    let url = format!("{}{path}", url.trim_end_matches('/'));
    let mut response = ureq::post(&url)
        .config()
        .http_status_as_error(false)
        .build()
        .send_empty()
        .with_context(|| format!("could not reach {url}; is `sangam run` running there?"))?;
    let text = response
        .body_mut()
        .read_to_string()
        .context("could not read the answer")?;
    if !response.status().is_success() {
        anyhow::bail!("{}", query::explain(&text).unwrap_or(text));
    }
    serde_json::from_str(&text).context("could not read the answer")
}

/// Counts things in English.
fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}
