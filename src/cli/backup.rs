//! `sangam backup` and `sangam restore`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use crate::engine::{BACKUP_HISTORY, copy_history, verify_history};
use crate::history::Inventory;
use crate::log::{LogError, LogStore};

/// Copies all that survives of a running deployment, as of one moment.
///
/// The copy lies in the deployment's folder for backups (.sangam-backups, or what `backups` says in
/// deployment.toml); everything goes on meanwhile.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The name of the copy. Default: the time.
    name: Option<String>,
    /// Where the deployment answers, as `sangam run` printed it.
    #[arg(long, default_value = "http://127.0.0.1:7878")]
    url: String,
}

impl Backup {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let name = self.name.map_or_else(String::new, |name| format!("?name={name}"));
        let answer = super::post(&self.url, &format!("/backup{name}"))?;
        println!("{}", answer["backup"].as_str().unwrap_or_default());
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes a data folder of a backup.
///
/// Reads all of the backup first and compares its checksums.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup: a folder that `sangam backup` printed.
    backup: PathBuf,
    /// The data folder to be made; it must not be there.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where its history goes: what `history` says in deployment.toml. Default: "history" in the data folder.
    #[arg(long, value_name = "PLACE")]
    history: Option<String>,
}

impl Restore {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if !self.backup.is_dir() {
            bail!("there is no backup \"{}\"", self.backup.display());
        }
        if self.data.exists() {
            bail!(
                "the data folder \"{}\" is there already\n  hint: Move it away, or name another with --data.",
                self.data.display()
            );
        }
        let store = LogStore::open(&self.backup)?;
        let whole = store.verify(&self.backup)?;
        let inventory: Inventory = store.meta("history")?.unwrap_or_default();
        let from = self.backup.join(BACKUP_HISTORY).display().to_string();
        let (rows, bytes) = match inventory.entries().next() {
            Some(_) => verify_history(&from, &store.owner(), &inventory)?,
            None => (0, 0),
        };
        store
            .backup(&self.backup, &self.data, |inventory, into| {
                let place = match &self.history {
                    Some(place) => place.clone(),
                    None => into.join(BACKUP_HISTORY).display().to_string(),
                };
                let copied = copy_history(&from, &place, &store.owner(), inventory);
                copied.map_err(|error| LogError::history("copy", &from, error))
            })
            .context("could not copy the backup")?;
        println!(
            "{}: {} rows, {} records of the log, {} bytes; {rows} rows of history, {bytes} bytes; all checksums right",
            self.data.display(),
            whole.rows,
            whole.records,
            whole.bytes
        );
        Ok(ExitCode::SUCCESS)
    }
}
