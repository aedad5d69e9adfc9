//! `sangam verify`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::engine::{Data, Engine, verify_history};
use crate::history::Inventory;
use crate::log::{Durability, LogStore};

/// Audits a deployment, running or stopped.
///
/// Of a stopped one, every checksum of the data folder is compared, and a copy of it is brought to where the last run
/// ended. Of both, each view is compared with the batch answer over what its inputs hold: one that closes its buckets
/// in those that are open, and in closed ones whose input is still retained. Exits with 1 where anything differs.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The deployment folder, or the address of a running one, such as http://127.0.0.1:7878.
    deployment: String,
    /// The data folder of a stopped one. Default: as deployment.toml says.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Verify {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if self.deployment.starts_with("http://") {
            let audit = super::post(&self.deployment, "/verify")?;
            let views = audit["views"].as_array().cloned().unwrap_or_default();
            for view in &views {
                let text = |key: &str| view[key].as_str();
                let number = |key: &str| view[key].as_u64().unwrap_or(0) as usize;
                let name = text("view").unwrap_or_default();
                let (rows, compared) = (number("rows"), number("compared"));
                println!(
                    "{}",
                    line(name, rows, compared, text("difference"), text("passed_over"))
                );
            }
            return Ok(code(audit["right"] == true));
        }
        let dir = Path::new(&self.deployment);
        let Some(deployment) = super::load(dir) else {
            return Ok(ExitCode::FAILURE);
        };
        let data = self.data.unwrap_or_else(|| dir.join(&deployment.options.data));
        if !data.is_dir() {
            bail!(
                "there is no data folder \"{}\"\n  hint: Name it with --data, or run the deployment first.",
                data.display()
            );
        }
        let store = LogStore::open(&data)?;
        let whole = store.verify(&data)?;
        println!(
            "{}: {} rows, {} records of the log, {} bytes, all checksums right",
            data.display(),
            whole.rows,
            whole.records,
            whole.bytes
        );
        let history = deployment.history(&data);
        let inventory: Inventory = store.meta("history")?.unwrap_or_default();
        if inventory.entries().next().is_some() {
            let (rows, bytes) = verify_history(&history, &store.owner(), &inventory)?;
            println!("{history}: {rows} rows of history, {bytes} bytes, all checksums right");
        }
        // What is looked at must stay as it is.
        let copy = std::env::temp_dir().join(format!("sangam-verify-{}", std::process::id()));
        store
            .backup(&data, &copy, |_, _| Ok(true))
            .context("could not copy the data folder")?;
        drop(store);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let audit = runtime.context("could not start the runtime")?.block_on(async {
            let engine = Engine::open(
                deployment,
                Data {
                    dir: copy.clone(),
                    history,
                    durability: Durability::Interval,
                    forget: Vec::new(),
                    reads: false,
                },
            )?;
            while engine.recovery().is_some() && engine.failure().is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if let Some(reason) = engine.failure() {
                bail!(reason);
            }
            let audit = engine.audit().await.context("could not compare the views");
            tokio::task::spawn_blocking(move || engine.shutdown()).await?;
            audit
        });
        let removed = std::fs::remove_dir_all(&copy);
        let audit = audit?;
        removed.with_context(|| format!("could not remove {}", copy.display()))?;
        for view in &audit.views {
            let difference = view.difference.as_deref();
            println!(
                "{}",
                line(&view.view, view.rows, view.compared, difference, view.passed_over)
            );
        }
        Ok(code(audit.views.iter().all(|view| view.difference.is_none())))
    }
}

/// Says what was found of a view.
fn line(view: &str, rows: usize, compared: usize, difference: Option<&str>, passed_over: Option<&str>) -> String {
    let all = super::counted(rows, "row");
    match (difference, passed_over) {
        (Some(difference), _) => format!("WRONG  {view}: {difference}"),
        (None, None) => format!("right  {view}: {all}"),
        (None, Some(why)) if compared == 0 => format!("       {view}: {all}, not compared: {why}"),
        (None, Some(why)) => {
            let others = super::counted(rows.saturating_sub(compared), "row");
            format!(
                "right  {view}: {} compared, {others} not: {why}",
                super::counted(compared, "row")
            )
        }
    }
}

fn code(is_right: bool) -> ExitCode {
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn what_was_not_compared_is_said() {
        assert_eq!(line("a", 1, 1, None, None), "right  a: 1 row");
        assert_eq!(
            line("a", 3, 0, None, Some("gone")),
            "       a: 3 rows, not compared: gone"
        );
        assert_eq!(
            line("a", 1_003, 2, None, Some("gone")),
            "right  a: 2 rows compared, 1001 rows not: gone"
        );
        assert_eq!(line("a", 3, 2, Some("other"), Some("gone")), "WRONG  a: other");
    }
}
