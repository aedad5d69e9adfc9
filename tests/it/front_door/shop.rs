//! A small deployment with every kind of source: rows that replace each other,
//! rows that are taken back, rows that expire, rows on which expressions fail.

use chrono::{DateTime, SecondsFormat};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Session;
use super::ledger::Operation;
use crate::program::folder::deployment;

const START_S: i64 = 1_774_750_000;
const TICKS: usize = 80;
const HTTP: &str = "[connector]\ntype = \"http\"\n";

const PRODUCTS: &str = r#"
columns = { product = "text not null", price = "decimal(12,2)", serial = "bigint", sold = "boolean" }
key = ["product"]
"#;
const ORDERS: &str = r#"
columns = { id = "bigint not null", product = "text", quantity = "bigint", cents = "bigint", rating = "double", at = "timestamp not null", note = "text" }
time = { column = "at" }
retractions = true
retain = "2 days"
"#;
const VISITS: &str = r#"
columns = { page = "text", seconds = "bigint", at = "timestamp not null" }
time = { column = "at", lateness = "1 minute" }
retain = "6 hours"
"#;
const STOCK: &str = r#"
columns = { shop = "text not null", product = "text not null", pieces = "bigint not null", at = "timestamp not null" }
key = ["shop", "product"]
time = { column = "at" }
retain = "1 day"
"#;

const VIEWS: &[(&str, &str)] = &[
    (
        "views/totals.sql",
        "SELECT product, count(*) AS orders, sum(quantity) AS pieces, sum(cents) AS cents, avg(rating) AS rating,
           min(rating) AS worst, max(at) AS newest, stddev(rating) AS spread,
           count(*) FILTER (WHERE note IS NULL) AS silent
         FROM orders GROUP BY product",
    ),
    ("views/busy.sql", "SELECT product, orders FROM totals WHERE orders > 2"),
    (
        "views/loved.sql",
        "SELECT product, sum(rating) AS rating FROM orders GROUP BY product HAVING count(rating) > 1 AND sum(rating) > 3",
    ),
    (
        "views/priced.sql",
        "SELECT orders.id, products.product, products.price, products.serial, orders.note
         FROM orders JOIN products ON products.product = orders.product",
    ),
    (
        "views/unpriced.sql",
        "SELECT orders.product, orders.id FROM orders
         LEFT JOIN products ON products.product = orders.product WHERE products.product IS NULL",
    ),
    (
        "views/shelves.sql",
        "SELECT stock.shop, stock.product, stock.pieces, products.price, totals.orders
         FROM stock LEFT JOIN products ON products.product = stock.product
         LEFT JOIN totals ON totals.product = stock.product",
    ),
    ("views/notes.sql", "SELECT DISTINCT note, product FROM orders"),
    (
        "views/seen.sql",
        "SELECT product AS what FROM orders UNION ALL SELECT page FROM visits",
    ),
    (
        "views/recent.sql",
        "SELECT page, count(*) AS visits, sum(seconds) AS seconds FROM visits
         WHERE at > now() - INTERVAL '10 minutes' GROUP BY page",
    ),
    (
        "views/hours.sql",
        "SELECT page, date_bin(INTERVAL '1 hour', at) AS hour, first_value(seconds ORDER BY at) AS first, count(*) AS visits
         FROM visits GROUP BY page, date_bin(INTERVAL '1 hour', at)",
    ),
    ("views/unit.sql", "SELECT id, product, cents / quantity AS unit FROM orders"),
    ("views/units.sql", "SELECT count(*) AS orders, sum(unit) AS cents, max(unit) AS dearest FROM unit"),
    (
        "alerts/popular.sql",
        "--! key = [\"product\"]\n--! priority = \"high\"\nSELECT product, orders FROM totals WHERE orders > 3 AND product IS NOT NULL",
    ),
];

/// Writes the deployment.
pub(super) fn shop() -> TempDir {
    let sources = [
        ("products", PRODUCTS),
        ("orders", ORDERS),
        ("visits", VISITS),
        ("stock", STOCK),
    ];
    let dir = deployment(&[("deployment.toml", "clock = \"event\"\ntime_zone = \"Europe/Berlin\"\n")]);
    for (name, text) in sources {
        crate::program::folder::write(dir.path(), &format!("sources/{name}.toml"), &format!("{text}\n{HTTP}"));
    }
    for (path, text) in VIEWS {
        crate::program::folder::write(dir.path(), path, text);
    }
    dir
}

#[test]
fn a_shop_is_right_at_every_tick_on_one_worker() {
    play(1, 1);
}

#[test]
fn a_shop_is_right_at_every_tick_on_two_workers() {
    play(2, 2);
}

fn play(workers: usize, seed: u64) {
    let dir = shop();
    let mut session = Session::start(dir.path(), workers);
    let mut traffic = Traffic {
        random: Pcg64::seed_from_u64(seed),
        now_s: START_S,
    };
    let (mut rows, mut failing) = (0, 0);
    for _ in 0..TICKS {
        traffic.now_s += if traffic.random.random_bool(0.06) {
            7 * 3600
        } else {
            traffic.random.random_range(0..240)
        };
        traffic.send(&mut session);
        rows += session.check();
        failing += errors(&session);
    }
    assert!(
        rows > TICKS * 100 && failing > TICKS,
        "too little happened: {rows} rows, {failing} failing"
    );

    // Everything goes: by hand where rows are taken back, by time elsewhere.
    for source in ["orders", "products", "stock"] {
        let held = session.ledger.held(source);
        session.send(source, Operation::Delete, &held, &[]);
        session.check();
    }
    assert_eq!(errors(&session), 0);
    traffic.now_s += 86400;
    let visit = traffic.visit();
    session.send("visits", Operation::Insert, &[visit], &[]);
    session.check();
    let state = "SELECT coalesce(sum(state_rows), 0) FROM sangam.operators WHERE view IN ('priced', 'shelves', 'notes', 'unit')";
    assert_eq!(session.program.number(state), 0, "state is left behind");
    session.program.stop();
}

/// Compares `sangam.errors` and the frames' counts with the failing rows the books predict.
fn errors(session: &Session) -> usize {
    let fails = |order: &Value| order["quantity"] == json!(0) && !order["cents"].is_null();
    let failing = session
        .ledger
        .held("orders")
        .iter()
        .filter(|order| fails(order))
        .count();
    let told = session
        .program
        .sql("SELECT view, count(*) AS rows FROM sangam.errors GROUP BY view");
    let expected = if failing == 0 {
        vec![]
    } else {
        vec![json!({"view": "unit", "rows": failing})]
    };
    assert_eq!(told, expected, "failing rows at tick {}", session.tick);
    for (view, errors) in [("unit", failing), ("units", failing), ("totals", 0), ("orders", 0)] {
        assert_eq!(session.live.of(view).errors, errors as u64, "errors told of {view}");
    }
    failing
}

struct Traffic {
    random: Pcg64,
    now_s: i64,
}

impl Traffic {
    fn send(&mut self, session: &mut Session) {
        let (source, operation, rows, bad): (_, _, Vec<Value>, &[&str]) = match self.random.random_range(0..100) {
            0..28 => {
                let rows = (0..self.random.random_range(1..12)).map(|_| self.order()).collect();
                let bad: &[&str] = if self.random.random_bool(0.3) {
                    &[r#"{"id":"x"}"#, r#"{"id":1.5,"at":"2026-03-29"}"#]
                } else {
                    &[]
                };
                ("orders", Operation::Insert, rows, bad)
            }
            28..48 => {
                let held = session.ledger.held("orders");
                let mut rows: Vec<Value> = held.sample(&mut self.random, held.len().min(8)).cloned().collect();
                // One that was never there, and one a second time.
                rows.push(self.order());
                rows.extend(rows.first().cloned());
                ("orders", Operation::Delete, rows, &[])
            }
            48..60 => (
                "products",
                Operation::Insert,
                (0..3).map(|_| self.product()).collect(),
                &[],
            ),
            60..66 => {
                // A key alone deletes; what else a row has is not looked at.
                let rows = (0..2).map(|_| json!({"product": self.name()})).collect();
                ("products", Operation::Delete, rows, &[])
            }
            66..76 => ("stock", Operation::Insert, (0..4).map(|_| self.stock()).collect(), &[]),
            76..80 => {
                let held = session.ledger.held("stock");
                let key = |row: &Value| json!({"shop": row["shop"], "product": row["product"]});
                let mut rows: Vec<Value> = held.sample(&mut self.random, 2).map(key).collect();
                rows.push(json!({"shop": "nowhere", "product": "none"}));
                ("stock", Operation::Delete, rows, &[])
            }
            _ => {
                let mut rows: Vec<Value> = (0..self.random.random_range(1..15)).map(|_| self.visit()).collect();
                if self.random.random_bool(0.3) {
                    let mut late = self.visit();
                    late["at"] = json!(self.time(self.now_s - 1000));
                    rows.push(late);
                }
                ("visits", Operation::Insert, rows, &[])
            }
        };
        session.send(source, operation, &rows, bad);
    }

    fn name(&mut self) -> &'static str {
        ["tea", "milk", "rice", "naïve \"quoted\", naan", "", "line\nbreak"]
            .choose(&mut self.random)
            .expect("names")
    }

    fn maybe(&mut self, value: Value) -> Value {
        if self.random.random_bool(0.12) {
            Value::Null
        } else {
            value
        }
    }

    fn order(&mut self) -> Value {
        let (name, cents, quantity) = (
            self.name(),
            self.random.random_range(-500..9000),
            self.random.random_range(0..4),
        );
        let rating = f64::from(self.random.random_range(0..50)) / 10.0 + 0.1;
        let note = ["kind", "rude", ""].choose(&mut self.random).expect("notes");
        json!({
            "id": self.random.random_range(0..30),
            "product": self.maybe(json!(name)),
            "quantity": self.maybe(json!(quantity)),
            "cents": self.maybe(json!(cents)),
            "rating": self.maybe(json!(rating)),
            "at": self.time(self.now_s - self.now_s % 60),
            "note": self.maybe(json!(note)),
        })
    }

    fn product(&mut self) -> Value {
        let price = format!(
            "{}.{:02}",
            self.random.random_range(-3..9_999_999_999_i64),
            self.random.random_range(0..100)
        );
        let serial = [i64::MAX, i64::MIN, 9_007_199_254_740_993, 1, 0]
            .choose(&mut self.random)
            .expect("serials");
        json!({"product": self.name(), "price": self.maybe(json!(price)), "serial": serial, "sold": self.random.random_bool(0.5)})
    }

    fn stock(&mut self) -> Value {
        let shop = ["north", "south"].choose(&mut self.random).expect("shops");
        let at = self.now_s - self.random.random_range(0..7200);
        json!({"shop": shop, "product": self.name(), "pieces": self.random.random_range(0..5), "at": self.time(at)})
    }

    fn visit(&mut self) -> Value {
        let page = ["/", "/tea", "tea"].choose(&mut self.random).expect("pages");
        let at = self.now_s - self.random.random_range(0..50);
        json!({"page": page, "seconds": self.random.random_range(0..9), "at": self.time(at)})
    }

    fn time(&self, seconds: i64) -> String {
        DateTime::from_timestamp(seconds, 0)
            .expect("a time of our days")
            .to_rfc3339_opts(SecondsFormat::Secs, true)
    }
}
