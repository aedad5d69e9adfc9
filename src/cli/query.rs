//! `sangam query`.

use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use arrow::ipc::reader::StreamReader;
use clap::{Args, ValueEnum};

use super::table;

/// Asks a running deployment in SQL.
///
/// For example: sangam query 'SELECT * FROM sangam.views'
#[derive(Debug, Args)]
pub(super) struct Query {
    /// One SQL query over views, sources and the system's tables (sangam.views, sangam.sources, …).
    sql: String,
    /// Where the deployment answers, as `sangam run` printed it.
    #[arg(long, default_value = "http://127.0.0.1:7878")]
    url: String,
    /// How to print the rows.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Columns, for people.
    Table,
    /// An array of objects.
    Json,
    /// A header and a line a row.
    Csv,
}

impl Format {
    fn media_type(self) -> &'static str {
        match self {
            Format::Table => "application/vnd.apache.arrow.stream",
            Format::Json => "application/json",
            Format::Csv => "text/csv",
        }
    }
}

impl Query {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let url = format!("{}/sql", self.url.trim_end_matches('/'));
        let mut response = ureq::post(&url)
            .config()
            .http_status_as_error(false)
            .build()
            .header("accept", self.format.media_type())
            .header("content-type", "application/sql")
            .send(&self.sql)
            .with_context(|| format!("could not reach {url}; is `sangam run` running there?"))?;
        let status = response.status();
        // An answer may be larger than the client's own cautious limit.
        let mut body = response.body_mut().with_config().limit(u64::MAX).reader();
        if !status.is_success() {
            let mut text = String::new();
            body.read_to_string(&mut text).context("could not read the answer")?;
            bail!(
                "{}",
                explain(&text).unwrap_or_else(|| format!("{status}: {}", text.trim()))
            );
        }
        let mut out = std::io::stdout().lock();
        match self.format {
            Format::Json | Format::Csv => {
                std::io::copy(&mut body, &mut out).context("could not read the answer")?;
            }
            Format::Table => {
                let reader = StreamReader::try_new(body, None).context("could not read the answer")?;
                let schema = reader.schema();
                let batches = reader
                    .collect::<Result<Vec<_>, _>>()
                    .context("could not read the answer")?;
                let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
                out.write_all(table::format(&schema, &batches)?.as_bytes())?;
                writeln!(out, "({})", super::counted(rows, "row"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Takes message and hint out of the server's JSON error.
pub(super) fn explain(body: &str) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    let error = body.get("error").filter(|error| error.is_object()).unwrap_or(&body);
    let message = error.get("message").or_else(|| error.get("error"))?.as_str()?;
    Some(match error.get("hint").and_then(|hint| hint.as_str()) {
        Some(hint) => format!("{message}\n    Hint: {hint}"),
        None => message.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::explain;

    #[test]
    fn errors_of_the_server_keep_their_hint() {
        let body = r#"{"code":"bad_sql","message":"no table `x`","hint":"Did you mean `y`?"}"#;
        assert_eq!(explain(body).unwrap(), "no table `x`\n    Hint: Did you mean `y`?");
        assert_eq!(explain(r#"{"error":"plain"}"#).unwrap(), "plain");
        assert_eq!(explain("not json"), None);
    }
}
