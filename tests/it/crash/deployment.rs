//! What is run while it is killed: every kind of source, and views of every kind of state.

use std::path::Path;

use crate::program::folder::write;

/// What ticks follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// The machine's clock: ticks come by themselves, for expiry, `now()` and closing.
    Wall,
    /// The rows' times: each POST is a tick, and nothing happens without one.
    Event,
}

/// Options that make what is rare in production happen every second.
const OPTIONS: &str = "durability = \"sync\"\ncheckpoint_bytes = 32768\n";

const HTTP: &str = "[connector]\ntype = \"http\"\n";

const SOURCES: &[(&str, &str)] = &[
    // Every row that was ever sent: what is missing or doubled shows for ever.
    (
        "journal",
        "columns = { id = \"bigint not null\", hand = \"bigint not null\", amount = \"bigint not null\" }\n\
         keep = \"forever\"\n",
    ),
    (
        "readings",
        "columns = { id = \"bigint not null\", station = \"text not null\", level = \"bigint\", at = \"timestamp not null\" }\n\
         time = { column = \"at\", lateness = \"1 second\" }\nretain = \"12 seconds\"\nkeep = \"30 seconds\"\n",
    ),
    (
        "gauges",
        "columns = { gauge = \"text not null\", level = \"bigint not null\", note = \"text\" }\nkey = [\"gauge\"]\n",
    ),
    (
        "orders",
        "columns = { id = \"bigint not null\", station = \"text not null\", pieces = \"bigint not null\" }\n\
         retractions = true\n",
    ),
    (
        "stations",
        "columns = { station = \"text not null\", place = \"text\" }\nkey = [\"station\"]\n",
    ),
];

const VIEWS: &[(&str, &str)] = &[
    (
        "views/totals.sql",
        "SELECT hand, count(*) AS n, sum(amount) AS amount, max(id) AS newest FROM journal GROUP BY hand",
    ),
    (
        "views/busiest.sql",
        "SELECT hand, amount FROM totals ORDER BY amount DESC, hand LIMIT 2",
    ),
    (
        "views/levels.sql",
        "SELECT station, count(*) AS n, avg(level) AS mean, min(level) AS least, max(level) AS most
         FROM readings GROUP BY station",
    ),
    (
        "views/placed.sql",
        "SELECT r.id, r.level, s.place FROM readings r JOIN stations s ON s.station = r.station WHERE r.level > 30",
    ),
    (
        "views/latest.sql",
        "SELECT station, id, at FROM
           (SELECT *, row_number() OVER (PARTITION BY station ORDER BY at DESC, id DESC) AS place FROM readings)
         WHERE place = 1",
    ),
    (
        "views/recent.sql",
        "SELECT station, count(*) AS n, sum(level) AS level FROM readings
         WHERE at > now() - INTERVAL '3 seconds' GROUP BY station",
    ),
    (
        "views/finished.sql",
        "--! emit = \"on close\"\n--! keep = \"20 seconds\"
         SELECT station, date_bin(INTERVAL '2 seconds', at) AS bucket, count(*) AS n, sum(level) AS level
         FROM readings GROUP BY station, bucket",
    ),
    (
        "views/running.sql",
        "--! keep = \"15 seconds\"
         SELECT date_bin(INTERVAL '2 seconds', at) AS bucket, count(*) AS n, max(level) AS most
         FROM readings GROUP BY bucket",
    ),
    (
        "views/spans.sql",
        "SELECT date_bin(INTERVAL '6 seconds', bucket) AS span, sum(n) AS n FROM finished
         WHERE bucket > now() - INTERVAL '12 seconds' GROUP BY span",
    ),
    (
        "views/wanted.sql",
        "SELECT s.place, count(*) AS orders, sum(o.pieces) AS pieces
         FROM orders o LEFT JOIN stations s ON s.station = o.station GROUP BY s.place",
    ),
    (
        "views/idle.sql",
        "SELECT station FROM stations WHERE NOT EXISTS (SELECT 1 FROM orders WHERE orders.station = stations.station)",
    ),
    // Some have no pieces, and fail.
    ("views/shares.sql", "SELECT id, 100 / pieces AS share FROM orders"),
    (
        "alerts/high.sql",
        "--! key = [\"gauge\"]\n--! priority = \"critical\"
         SELECT gauge, level FROM gauges WHERE level > 50",
    ),
    (
        "alerts/rush.sql",
        "--! key = [\"station\"]\n--! priority = \"high\"\nSELECT station, n FROM recent WHERE n > 4",
    ),
];

/// Writes the deployment to a folder; its history is in the data folder, or at another place.
pub(super) fn deployment(dir: &Path, clock: Clock, history: Option<&str>) {
    let clock = match clock {
        Clock::Wall => "wall",
        Clock::Event => "event",
    };
    let history = history.map_or_else(String::new, |place| format!("history = \"{place}\"\n"));
    write(
        dir,
        "deployment.toml",
        &format!("clock = \"{clock}\"\nworkers = 2\n{OPTIONS}{history}"),
    );
    for (name, text) in SOURCES {
        write(dir, &format!("sources/{name}.toml"), &format!("{text}\n{HTTP}"));
    }
    for (path, text) in VIEWS {
        write(dir, path, text);
    }
}
