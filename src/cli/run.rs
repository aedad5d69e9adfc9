//! `sangam run`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::config::Deployment;

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
    /// Worker threads. Wins over deployment.toml; without either, one per processor.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
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
        serve(deployment)
    }
}

/// Starts the engine and answers until told to stop.
fn serve(_deployment: Deployment) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the engine is not wired in yet")
}
