//! `sangam new`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

/// Writes a small working deployment to start from.
///
/// A source to send readings to, a view, an alert and a test, each explained in
/// comments.
#[derive(Debug, Args)]
pub(super) struct New {
    /// The folder to make; it must not exist yet, or be empty.
    name: PathBuf,
}

/// The files of a new deployment; they lie beside this one as they are written.
const FILES: [(&str, &str); 6] = [
    ("README.md", include_str!("new/README.md")),
    ("deployment.toml", include_str!("new/deployment.toml")),
    ("sources/readings.toml", include_str!("new/sources/readings.toml")),
    ("views/latest.sql", include_str!("new/views/latest.sql")),
    ("alerts/high_water.sql", include_str!("new/alerts/high_water.sql")),
    ("tests/high_water.toml", include_str!("new/tests/high_water.toml")),
];

impl New {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        write(&self.name)?;
        let dir = self.name.display();
        for (path, _) in FILES {
            println!("wrote {dir}/{path}");
        }
        println!("\nNext: sangam test {dir}, then sangam run {dir}");
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes the files of a new deployment into `dir`.
pub(super) fn write(dir: &Path) -> anyhow::Result<()> {
    let is_empty = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => !dir.exists(),
    };
    if !is_empty {
        bail!("{} exists already; choose another name", dir.display());
    }
    for (path, text) in FILES {
        let path = dir.join(path);
        let folder = path.parent().unwrap_or(dir);
        fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
        fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_new_deployment_passes_check() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("mine");
        write(&dir).unwrap();
        let deployment = config::load(&dir).unwrap();
        assert_eq!(deployment.name, "mine");
        assert_eq!(deployment.warnings, []);
        assert_eq!(deployment.views.len(), 2);
        assert!(deployment.views.iter().all(|view| view.key_is_implied));
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        assert!(write(dir.path()).unwrap_err().to_string().contains("exists already"));
    }
}
