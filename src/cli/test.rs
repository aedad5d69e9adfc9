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
            let failures = runtime
                .block_on(play::play(&deployment, test))
                .with_context(|| format!("test \"{}\"", test.name))?;
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
        Ok(if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config;

    /// Plays every test of a folder; returns what failed, as it would be printed.
    fn failures(dir: &Path) -> Vec<String> {
        let deployment = config::load(dir).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut failures = Vec::new();
        for test in &deployment.tests {
            let failed = runtime.block_on(play::play(&deployment, test)).unwrap();
            failures.extend(failed.iter().map(|failure| failure.print(&test.file)));
        }
        failures
    }

    #[test]
    fn the_tests_of_config_water_pass() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/water");
        assert_eq!(failures(&dir), [""; 0]);
    }

    #[test]
    fn the_test_of_a_new_deployment_passes_and_fails_readably() {
        let dir = tempfile::tempdir().unwrap();
        crate::cli::new::write(dir.path()).unwrap();
        assert_eq!(failures(dir.path()), [""; 0]);

        let test = dir.path().join("tests/high_water.toml");
        let text = fs::read_to_string(&test).unwrap();
        let wrong = text
            .replace("[{ station = \"K2\" }]", "[{ station = \"K3\" }]")
            .replace("expect.high_water = []", "expect_late.readings = 1");
        fs::write(&test, wrong).unwrap();
        assert_eq!(
            failures(dir.path()),
            [
                "    tests/high_water.toml:13: step 1: high_water: 1 missing (-), 1 unexpected (+)\n        station\n      - K3\n      + K2",
                "    tests/high_water.toml:15: step 2: readings: expected 1 late rows, found 0",
            ]
        );
    }

    #[test]
    fn rows_that_are_not_taken_must_be_said() {
        let dir = tempfile::tempdir().unwrap();
        crate::cli::new::write(dir.path()).unwrap();
        let text = "[[step]]\nat = \"2026-01-01\"\nrows.readings = [{ station = \"K1\" }]\nexpect.latest = []\n";
        fs::write(dir.path().join("tests/high_water.toml"), text).unwrap();
        assert_eq!(
            failures(dir.path()),
            ["    tests/high_water.toml:1: step 1: readings: expected 0 rejected rows, found 1"]
        );
    }
}
