//! What a simulation runs, and changes while it runs: deployments whose answers are easily computed by hand.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::ledger::{Held, item};
use crate::config::Deployment;

/// What a view must hold, sorted.
type Answer = fn(&Held) -> Vec<Vec<String>>;

/// A view, and what it must hold.
pub(super) struct View {
    path: &'static str,
    text: &'static str,
    pub(super) answer: Answer,
}

impl View {
    pub(super) fn name(&self) -> &'static str {
        let (_, name) = self.path.split_once('/').expect("a file in a folder");
        name.trim_end_matches(".sql")
    }
}

const TOTALS: View = View {
    path: "views/totals.sql",
    text: "--! key = [\"item\"]\nSELECT item, count(*) AS orders, sum(id) AS ids FROM orders GROUP BY item",
    answer: |held| totals_by(held, 1),
};

const TOTALS_TWICE: View = View {
    path: "views/totals.sql",
    text: "--! key = [\"item\"]\nSELECT item, count(*) AS orders, sum(2 * id) AS ids FROM orders GROUP BY item",
    answer: |held| totals_by(held, 2),
};

const NAMED: View = View {
    path: "views/named.sql",
    text: "SELECT t.item, t.orders, s.amount FROM totals t JOIN stock s ON s.item = t.item",
    answer: |held| {
        let stock = held.stock();
        let totals = totals(held).into_iter();
        let named = totals.filter_map(|(item, (orders, _))| {
            let amount = stock.get(&item)?.to_string();
            Some(vec![item, orders.to_string(), amount])
        });
        named.collect()
    },
};

/// The alert. It is raised, updated and cleared as orders come.
const MANY: View = View {
    path: "alerts/many.sql",
    text: "--! key = [\"item\"]\n--! priority = \"high\"\n\
           SELECT item, orders % 3 AS over FROM totals WHERE orders % 7 >= 4",
    answer: |held| many(held, 7),
};

const MANY_OF_FIVE: View = View {
    path: "alerts/many.sql",
    text: "--! key = [\"item\"]\n--! priority = \"high\"\n\
           SELECT item, orders % 3 AS over FROM totals WHERE orders % 5 >= 4",
    answer: |held| many(held, 5),
};

/// By the machine's clock: it is another at every tick.
const RECENT: View = View {
    path: "views/recent.sql",
    text: "SELECT id, item FROM orders WHERE at > now() - INTERVAL '4 milliseconds'",
    answer: |held| recent(held, 4_000),
};

const RECENT_FOR_LONGER: View = View {
    path: "views/recent.sql",
    text: "SELECT id, item FROM orders WHERE at > now() - INTERVAL '7 milliseconds'",
    answer: |held| recent(held, 7_000),
};

/// It shares its filter with `recent`, where both are new.
const FRESH: View = View {
    path: "views/fresh.sql",
    text: "SELECT item, count(*) AS orders FROM orders WHERE at > now() - INTERVAL '4 milliseconds' GROUP BY item",
    answer: |held| {
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for row in recent(held, 4_000) {
            *counts.entry(row[1].clone()).or_default() += 1;
        }
        let rows = counts.into_iter().map(|(item, count)| vec![item, count.to_string()]);
        rows.collect()
    },
};

const PAIRS: View = View {
    path: "views/pairs.sql",
    text: "SELECT o.id, s.amount FROM orders o JOIN stock s ON s.item = o.item",
    answer: |held| {
        let stock = held.stock();
        let orders = (0..).zip(&held.orders);
        let pairs = orders.filter_map(|(id, _)| Some(vec![id.to_string(), stock.get(&item(id))?.to_string()]));
        let mut pairs: Vec<Vec<String>> = pairs.collect();
        pairs.sort();
        pairs
    },
};

/// By the time of the rows: a bucket is told in the tick after the one whose rows say that it is over.
const FINISHED: View = View {
    path: "views/finished.sql",
    text: "--! emit = \"on close\"\n--! keep = \"1 hour\"\n\
           SELECT date_bin(INTERVAL '2 milliseconds', at) AS bucket, count(*) AS orders FROM orders GROUP BY bucket",
    answer: |held| {
        let Some(watermark_us) = held.clock_before_us.map(|clock_us| clock_us - 5_000) else {
            return Vec::new();
        };
        let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
        for at_us in &held.orders {
            *counts.entry(at_us.div_euclid(2_000) * 2_000).or_default() += 1;
        }
        let closed = counts.into_iter().filter(|(bucket, _)| bucket + 2_000 <= watermark_us);
        let mut rows: Vec<Vec<String>> = closed
            .map(|(bucket, orders)| vec![bucket.to_string(), orders.to_string()])
            .collect();
        rows.sort();
        rows
    },
};

/// What may run. Each differs from each: by what is new, by what is gone, and by what reads something else.
const VARIANTS: [&[View]; 4] = [
    &[TOTALS, NAMED, MANY, RECENT, FINISHED],
    &[TOTALS_TWICE, NAMED, MANY, RECENT, FRESH, FINISHED],
    &[TOTALS, MANY_OF_FIVE, RECENT, FRESH, PAIRS, FINISHED],
    &[TOTALS, NAMED, RECENT_FOR_LONGER, PAIRS, FINISHED],
];

/// How many there are.
pub(super) const COUNT: usize = VARIANTS.len();

fn totals(held: &Held) -> BTreeMap<String, (i64, i64)> {
    let mut totals: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for (id, _) in (0..).zip(&held.orders) {
        let (orders, ids) = totals.entry(item(id)).or_default();
        *orders += 1;
        *ids += id;
    }
    totals
}

fn totals_by(held: &Held, factor: i64) -> Vec<Vec<String>> {
    let totals = totals(held).into_iter();
    totals
        .map(|(item, (orders, ids))| vec![item, orders.to_string(), (factor * ids).to_string()])
        .collect()
}

fn many(held: &Held, of: i64) -> Vec<Vec<String>> {
    let totals = totals(held).into_iter();
    totals
        .filter(|(_, (orders, _))| orders % of >= 4)
        .map(|(item, (orders, _))| vec![item, (orders % 3).to_string()])
        .collect()
}

fn recent(held: &Held, interval_us: i64) -> Vec<Vec<String>> {
    let orders = (0..).zip(&held.orders);
    let recent = orders.filter(|(_, at)| **at > held.now_us - interval_us);
    let mut recent: Vec<Vec<String>> = recent.map(|(id, _)| vec![id.to_string(), item(id)]).collect();
    recent.sort();
    recent
}

/// The deployments, planned once.
fn planned() -> &'static [Deployment; COUNT] {
    static PLANNED: OnceLock<[Deployment; COUNT]> = OnceLock::new();
    PLANNED.get_or_init(|| VARIANTS.map(plan))
}

fn plan(views: &[View]) -> Deployment {
    let dir = tempfile::tempdir().expect("a folder");
    let http = "[connector]\ntype = \"http\"\n";
    let files = [
        ("deployment.toml", "checkpoint_bytes = 3000\nworkers = 1\n".to_owned()),
        (
            "sources/orders.toml",
            format!(
                "columns = {{ id = \"bigint not null\", item = \"text\", at = \"timestamp not null\" }}\n\
                 time = {{ column = \"at\", lateness = \"5 ms\" }}\n{http}"
            ),
        ),
        (
            "sources/stock.toml",
            format!("columns = {{ item = \"text not null\", amount = \"bigint\" }}\nkey = [\"item\"]\n{http}"),
        ),
    ];
    let views = views.iter().map(|view| (view.path, view.text.to_owned()));
    for (path, text) in files.into_iter().chain(views) {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    crate::config::load(dir.path()).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// Returns a deployment by its number.
pub(super) fn deployment(number: usize) -> Deployment {
    planned()[number].clone()
}

/// Returns the views of the deployment that runs.
pub(super) fn views(running: &Deployment) -> &'static [View] {
    // Each was loaded from a folder of its own.
    let number = planned().iter().position(|planned| planned.dir == running.dir);
    VARIANTS[number.expect("one of ours")]
}
