//! `deployment.toml`: what holds for the deployment as a whole.

use std::path::PathBuf;

use serde::Deserialize;

use crate::log::Durability;

/// The deployment's options. Every key may be left out; so may the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Address and port to answer on; port 0 takes a free one. Default "127.0.0.1:7878".
    pub listen: String,
    /// Worker threads, 1 to 256. Default: one for every two processors, for decoding and answering want some, too.
    pub workers: Option<usize>,
    /// What time it is: "wall" (default) follows the machine's clock, "event"
    /// the event times of the rows, for replays of recorded data.
    pub clock: Clock,
    /// The zone of civil days and of times written without one, for example
    /// "Asia/Kolkata". Default "UTC".
    pub time_zone: String,
    /// Rows a tick takes from files and generators under the event clock. Default 1000.
    pub tick_rows: usize,
    /// Ticks that may be unfinished at a time: fewer are quicker answered, as what
    /// waits meanwhile is cut into one. Default: one more than there are workers.
    pub in_flight: Option<usize>,
    /// The largest request body taken, in bytes. Default 16777216 (16 MiB).
    pub body_bytes_max: usize,
    /// Where what is to survive is kept, relative to the deployment's folder. Default ".sangam".
    pub data: PathBuf,
    /// What acknowledged means: "sync" (default), it survives a power cut; "interval", it does 0.2 seconds later;
    /// "none", it is gone with the program.
    pub durability: Durability,
    /// The folder that backups are made in, relative to the deployment's. Default ".sangam-backups".
    pub backups: PathBuf,
    /// Where finished rows and raw input are kept that say `keep`: a folder, relative to the deployment's, or a bucket
    /// as in "s3://bucket/prefix". Default: "history" in the data folder.
    pub history: Option<String>,
    /// Bytes the log grows by before all that is retained is written down anew, and the log before goes.
    /// Default 67108864 (64 MiB).
    pub checkpoint_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            listen: "127.0.0.1:7878".to_owned(),
            workers: None,
            clock: Clock::Wall,
            time_zone: "UTC".to_owned(),
            tick_rows: 1_000,
            in_flight: None,
            body_bytes_max: 16 << 20,
            data: ".sangam".into(),
            durability: Durability::Sync,
            backups: ".sangam-backups".into(),
            history: None,
            checkpoint_bytes: 64 << 20,
        }
    }
}

/// What ticks follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// The machine's clock.
    #[default]
    Wall,
    /// The event time of the input.
    Event,
}

impl Options {
    /// Returns what is wrong with the values: key, what, hint.
    pub(crate) fn check(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut wrong = Vec::new();
        let port = self
            .listen
            .rsplit_once(':')
            .map(|(host, port)| (host, port.parse::<u16>()));
        if !matches!(port, Some((host, Ok(_))) if !host.is_empty()) {
            let what = format!("`listen`: \"{}\" is not an address with a port", self.listen);
            wrong.push((
                "listen",
                what,
                "Write for example \"127.0.0.1:7878\", or \"0.0.0.0:7878\" for all networks.",
            ));
        }
        if self.workers.is_some_and(|workers| !(1..=256).contains(&workers)) {
            wrong.push((
                "workers",
                "`workers` must be from 1 to 256".to_owned(),
                "Leave it out for one worker for every two processors.",
            ));
        }
        for (key, value) in [
            ("tick_rows", self.tick_rows),
            ("in_flight", self.in_flight.unwrap_or(1)),
            ("body_bytes_max", self.body_bytes_max),
            ("checkpoint_bytes", self.checkpoint_bytes),
        ] {
            if value == 0 {
                wrong.push((
                    key,
                    format!("`{key}` must be at least 1"),
                    "Leave it out to take the default.",
                ));
            }
        }
        wrong
    }
}
