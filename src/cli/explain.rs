//! `sangam explain`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::config::ViewKind;

/// Prints how each view is kept current.
///
/// For every operator: what it does, by which keys, what it remembers and what
/// bounds that memory.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The deployment folder, for example config/water.
    dir: PathBuf,
    /// One view or alert; without it, all of them.
    view: Option<String>,
}

impl Explain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Some(deployment) = super::load(&self.dir) else {
            return Ok(ExitCode::FAILURE);
        };
        let chosen: Vec<_> = deployment
            .views
            .iter()
            .filter(|view| self.view.as_ref().is_none_or(|name| view.view.name == *name))
            .collect();
        if let Some(name) = &self.view
            && chosen.is_empty()
        {
            let names: Vec<&str> = deployment.views.iter().map(|view| view.view.name.as_str()).collect();
            anyhow::bail!("there is no view or alert \"{name}\"; there are: {}", names.join(", "));
        }
        for (position, view) in chosen.iter().enumerate() {
            if position > 0 {
                println!();
            }
            if let ViewKind::Alert { priority } = view.kind {
                println!("alert of priority {priority}");
            }
            if let (Some(key), false) = (&view.key, view.key_is_implied) {
                let names: Vec<&str> = key
                    .iter()
                    .map(|column| view.view.schema.field(*column).name().as_str())
                    .collect();
                println!(
                    "declared key: {} (not implied by the plan, so counted: state of one entry a key)",
                    names.join(", ")
                );
            }
            println!("{}", view.view.explain(&deployment.catalog).trim_end());
        }
        Ok(ExitCode::SUCCESS)
    }
}
