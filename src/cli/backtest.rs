//! `sangam backtest`.

mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use crate::config::Deployment;
use crate::engine::{self, Backtest, Span};
use crate::log::LogError;

/// Tries changed definitions on what has happened: which alerts there would have been, and which rows.
///
/// This is how to tune a threshold. Copy the deployment folder, change the alert in the copy, and ask what would have
/// been different over the time that is still known:
///
///   $ cp -r plant trial          # then edit trial/alerts/too_hot.sql
///   $ sangam backtest trial --url http://127.0.0.1:7878
///
/// All that came in is played twice, through the definitions that ran and through the new ones, as fast as this
/// machine can; the running program, its alerts and its sinks notice nothing. For every alert it prints how often it
/// was raised, updated and cleared under each, and what happened under one of them only; for every view, which rows
/// differ at the end. What follows from time alone, such as an alert that clears when its rows get old, happens at
/// the next recorded tick.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct BacktestCommand {
    /// The folder with the changed definitions.
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// The folder to compare with. Default: the definitions that ran last.
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// The data folder of a stopped program. Default: as deployment.toml says, in the folder to compare with or in NEW.
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    data: Option<PathBuf>,
    /// Where the program answers, if it runs on this machine: a copy of its data is made, read and removed.
    #[arg(long)]
    url: Option<String>,
    /// The first moment that counts, such as 2026-03-01T10:00:00Z; what came before is played all the same.
    /// Default: the first that is known.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<u64>,
    /// The last moment. Default: the last that is known.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<u64>,
    /// Prints JSON, for programs.
    #[arg(long)]
    json: bool,
}

fn moment(text: &str) -> Result<u64, String> {
    engine::tick(text).ok_or_else(|| "write 2026-03-01T10:00:00Z, or microseconds since 1970".to_owned())
}

impl BacktestCommand {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Some(new) = super::load(&self.new) else {
            return Ok(ExitCode::FAILURE);
        };
        match &self.url {
            Some(url) => {
                let copy = Copy::of(url)?;
                self.compare(&copy.0, &new)
            }
            None => {
                let data = match &self.data {
                    Some(data) => data.clone(),
                    None => self.against.as_deref().unwrap_or(&self.new).join(&new.options.data),
                };
                if !data.join("log.redb").is_file() {
                    bail!(
                        "there is no data folder \"{}\"\n  hint: Name the one that the program used with --data, or say \
                         with --url where it runs.",
                        data.display()
                    );
                }
                self.compare(&data, &new)
            }
        }
    }

    fn compare(&self, data: &Path, new: &Deployment) -> anyhow::Result<ExitCode> {
        let Some(old) = self.old(data)? else {
            return Ok(ExitCode::FAILURE);
        };
        let workers = new.options.workers;
        let workers = workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let span = Span {
            old: &old,
            new,
            from: self.from,
            to: self.to,
            workers,
        };
        let mut progress = |which: &str, ticks: u64| eprintln!("{which}: {ticks} ticks played");
        let backtest = Backtest::run(data, &span, &mut progress).map_err(in_use)?;
        match self.json {
            true => println!(
                "{}",
                serde_json::to_string_pretty(&backtest).context("could not write the answer")?
            ),
            false => print!("{}", report::text(&backtest)),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Reads the definitions to compare with; prints what is wrong with them.
    fn old(&self, data: &Path) -> anyhow::Result<Option<Deployment>> {
        if let Some(against) = &self.against {
            return Ok(super::load(against));
        }
        match engine::definitions(data) {
            Ok(Some(old)) => Ok(Some(old)),
            Ok(None) => bail!(
                "\"{}\" has no copy of the definitions that ran\n  hint: Name their folder with --against.",
                data.display()
            ),
            Err(problems) => {
                for problem in &problems {
                    eprintln!("{}", problem.under(&data.join("deployment")));
                }
                bail!(
                    "the definitions that ran last cannot be read\n  hint: Set the variables they name, or name a \
                     folder with --against."
                )
            }
        }
    }
}

/// Says how to go about a data folder that is in use.
fn in_use(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<LogError>() {
        Some(LogError::InUse(data)) => anyhow::anyhow!(
            "the data folder \"{}\" is in use by a running program\n  hint: Say where it answers, as in \
             --url http://127.0.0.1:7878: then it makes a copy, which is read instead.",
            data.display()
        ),
        _ => error,
    }
}

/// A copy of what a running program keeps. It is removed when dropped.
struct Copy(PathBuf);

impl Copy {
    fn of(url: &str) -> anyhow::Result<Copy> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let name = format!(
            "backtest-{}-{}",
            std::process::id(),
            now.map_or(0, |since| since.as_micros())
        );
        let answer = super::post(url, &format!("/backup?name={name}"))?;
        let folder = PathBuf::from(answer["backup"].as_str().unwrap_or_default());
        let copy = Copy(folder);
        if !copy.0.is_dir() {
            bail!(
                "the copy \"{}\" is not on this machine\n  hint: Run the backtest where the program runs.",
                copy.0.display()
            );
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("warning: could not remove {}: {error}", self.0.display());
        }
    }
}
