//! `sangam check`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::counted;
use crate::config::{Deployment, ViewKind};

/// Checks a deployment without running it.
///
/// Reads every file and plans every view. Prints one line if all is well;
/// otherwise every problem there is, with file, line and a hint, and exits
/// with 1.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The deployment folder, for example config/water.
    dir: PathBuf,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Some(deployment) = super::load(&self.dir) else {
            return Ok(ExitCode::FAILURE);
        };
        println!("{}: {}", self.dir.display(), summary(&deployment));
        Ok(ExitCode::SUCCESS)
    }
}

/// Says in one line what a deployment holds.
pub(super) fn summary(deployment: &Deployment) -> String {
    let alerts = deployment
        .views
        .iter()
        .filter(|view| matches!(view.kind, ViewKind::Alert { .. }))
        .count();
    let mut parts = vec![
        counted(deployment.sources.len(), "source"),
        counted(deployment.views.len() - alerts, "view"),
        counted(alerts, "alert"),
        counted(deployment.tests.len(), "test"),
    ];
    if !deployment.warnings.is_empty() {
        parts.push(counted(deployment.warnings.len(), "warning"));
    }
    format!("all is well: {}", parts.join(", "))
}
