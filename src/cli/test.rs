//! `sangam test`.

mod compare;
mod play;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::counted;
use crate::config::{Deployment, Test};

/// Runs a deployment's own tests.
///
/// Each file in tests/ sends rows at given times and says which rows the views
/// must then hold. No connector runs and nothing is kept. Exits with 1 if a
/// test fails.
#[derive(Debug, Args)]
pub(super) struct TestCommand {
    /// The deployment folder, for example config/water.
    dir: PathBuf,
    /// One test, by the name of its file; without it, all of them.
    name: Option<String>,
}

impl TestCommand {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Some(deployment) = super::load(&self.dir) else {
            return Ok(ExitCode::FAILURE);
        };
        let tests = self.chosen(&deployment)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("could not start the runtime")?;
        let mut failed = 0;
        for test in &tests {
            let failures = runtime.block_on(play::play(&deployment, test)).with_context(|| format!("test \"{}\"", test.name))?;
            if failures.is_empty() {
                println!("ok      {}", test.name);
                continue;
            }
            failed += 1;
            println!("FAILED  {}", test.name);
            for failure in &failures {
                println!("{}", failure.print(&self.dir.join(&test.file)));
            }
        }
        println!("\n{}, {failed} failed", counted(tests.len(), "test"));
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn chosen(&self, deployment: &Deployment) -> anyhow::Result<Vec<Test>> {
        let tests: Vec<Test> = deployment
            .tests
            .iter()
            .filter(|test| self.name.as_ref().is_none_or(|name| test.name == *name))
            .cloned()
            .collect();
        match &self.name {
            Some(name) if tests.is_empty() => {
                let names: Vec<&str> = deployment.tests.iter().map(|test| test.name.as_str()).collect();
                anyhow::bail!("there is no test \"{name}\"; there are: {}", names.join(", "));
            }
            _ => Ok(tests),
        }
    }
}
