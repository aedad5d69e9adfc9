//! `sangam explain`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use dataflows::plan::NodeId;

use crate::config::{Deployment, ViewKind};
use crate::engine::sharing as shared_by;

/// Prints how each view is kept current.
///
/// For every operator: what it does, by which keys, what it remembers and what
/// bounds that memory, and with which other views it is shared.
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
        let sharing = sharing(&deployment);
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
            let shared = &sharing[view.view.name.as_str()];
            println!("{}", view.view.explain_shared(&deployment.catalog, shared).trim_end());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns, for each view and node of its plan, the other views that the node is shared with.
fn sharing(deployment: &Deployment) -> HashMap<&str, HashMap<NodeId, Vec<String>>> {
    let names: Vec<&str> = deployment.views.iter().map(|view| view.view.name.as_str()).collect();
    let cuts = shared_by(&deployment.views).cuts;
    let users = |part: &String| -> Vec<usize> {
        let uses = |view: &usize| cuts[*view].iter().any(|(_, name)| name == part);
        (0..cuts.len()).filter(uses).collect()
    };
    let of_view = |view: usize| {
        let nodes = cuts[view].iter().map(|(node, part)| {
            let others = users(part).into_iter().filter(|&user| user != view);
            (*node, others.map(|user| names[user].to_owned()).collect())
        });
        nodes.collect()
    };
    (0..names.len()).map(|view| (names[view], of_view(view))).collect()
}
