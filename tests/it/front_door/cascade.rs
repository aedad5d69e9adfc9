//! Cascades: risk that spreads over supply links, with its decay, its hops and its path.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::{Value, json};

use super::Session;
use super::ledger::Operation;
use crate::program::Program;
use crate::program::folder::deployment;

const LINKS: &str = r#"
columns = { supplier = "text not null", customer = "text not null", share = "double not null" }
retractions = true
[connector]
type = "http"
"#;
const SHOCKS: &str = r#"
columns = { firm = "text not null", risk = "double not null" }
key = ["firm"]
[connector]
type = "http"
"#;
const SPREAD: &str = "WITH RECURSIVE spread AS (
  SELECT firm AS origin, firm, risk, 0 AS hops, firm AS path FROM shocks
  UNION ALL
  SELECT s.origin, l.customer, s.risk * l.share * 0.5, s.hops + 1, s.path || ' > ' || l.customer
  FROM spread s JOIN links l ON l.supplier = s.firm
  WHERE s.hops < 4
)
SELECT origin, firm, risk, hops, path FROM spread";
const EXPOSED: &str = "SELECT firm, sum(risk) AS risk, min(hops) AS hops, count(*) AS ways FROM spread GROUP BY firm";
const REACH: &str = "WITH RECURSIVE reach AS (
  SELECT supplier, customer FROM links
  UNION
  SELECT r.supplier, l.customer FROM reach r JOIN links l ON l.supplier = r.customer
)
SELECT supplier, customer FROM reach";
const UNSHARED: &str = "WITH RECURSIVE chain(firm, hops, worth) AS (
  SELECT firm, 0, 100.0 FROM shocks
  UNION ALL
  SELECT l.customer, c.hops + 1, 100.0 / (100 / CAST(l.share * 10 AS bigint)) FROM chain c JOIN links l ON l.supplier = c.firm
  WHERE c.hops < 3
)
SELECT firm, hops, worth FROM chain";

fn link(supplier: &str, customer: &str, share: f64) -> Value {
    json!({"supplier": supplier, "customer": customer, "share": share})
}

#[test]
fn taking_a_link_back_takes_back_what_depended_on_it() {
    let dir = deployment(&[
        ("deployment.toml", "clock = \"event\"\n"),
        ("sources/links.toml", LINKS),
        ("sources/shocks.toml", SHOCKS),
        ("views/spread.sql", SPREAD),
        ("views/exposed.sql", EXPOSED),
        ("views/reach.sql", REACH),
    ]);
    let mut session = Session::start(dir.path(), 2);
    // A diamond that closes a circle: a > b > d, a > c > d, d > a.
    let links = [
        link("a", "b", 0.5),
        link("a", "c", 1.0),
        link("b", "d", 1.0),
        link("c", "d", 1.0),
        link("d", "a", 1.0),
    ];
    session.send("links", Operation::Insert, &links, &[]);
    session.send("shocks", Operation::Insert, &[json!({"firm": "a", "risk": 8.0})], &[]);
    session.check();
    let paths = |session: &Session| -> Vec<(String, f64)> {
        let rows = session.program.sql("SELECT path, risk FROM spread ORDER BY path");
        rows.iter()
            .map(|row| {
                (
                    row["path"].as_str().expect("a path").to_owned(),
                    row["risk"].as_f64().expect("a risk"),
                )
            })
            .collect()
    };
    let whole = paths(&session);
    assert_eq!(whole.len(), 11, "{whole:?}");
    assert!(whole.contains(&("a > b > d > a".to_owned(), 0.5)), "{whole:?}");
    session.send("links", Operation::Delete, &links[..1], &[]);
    session.check();
    let left: Vec<_> = whole
        .iter()
        .filter(|(path, _)| !path.contains("a > b"))
        .cloned()
        .collect();
    assert_eq!(paths(&session), left);
    // The circle over c still reaches everything but b.
    assert_eq!(
        session
            .program
            .number("SELECT count(*) FROM reach WHERE customer = 'b'"),
        0
    );
    session.send("links", Operation::Insert, &links[..1], &[]);
    session.check();
    assert_eq!(paths(&session), whole);
    // A circle does not hold itself up.
    session.send("links", Operation::Delete, &links[..4], &[]);
    session.check();
    assert_eq!(session.program.sql("SELECT supplier, customer FROM reach").len(), 1);
    session.program.stop();
}

#[test]
fn links_that_come_and_go_leave_nothing_behind() {
    for workers in [1, 2] {
        let dir = deployment(&[
            ("deployment.toml", "clock = \"event\"\n"),
            ("sources/links.toml", LINKS),
            ("sources/shocks.toml", SHOCKS),
            ("views/spread.sql", SPREAD),
            ("views/exposed.sql", EXPOSED),
            ("views/reach.sql", REACH),
            ("views/chain.sql", UNSHARED),
        ]);
        let mut session = Session::start(dir.path(), workers);
        let mut random = Pcg64::seed_from_u64(workers as u64);
        let firm = |number: u32| format!("a firm with a long name {number}");
        for _ in 0..50 {
            let held = session.ledger.held("links");
            if random.random_bool(0.45) && !held.is_empty() {
                let gone = held[random.random_range(0..held.len())].clone();
                session.send("links", Operation::Delete, &[gone], &[]);
            } else if random.random_bool(0.2) {
                let shock = json!({"firm": firm(random.random_range(0..6)), "risk": 1.5});
                session.send("shocks", Operation::Insert, &[shock], &[]);
            } else {
                let (from, to) = (random.random_range(0..6), random.random_range(0..6));
                // A share of nothing fails a division of `chain`.
                let share = f64::from(random.random_range(0..3)) / 2.0;
                session.send("links", Operation::Insert, &[link(&firm(from), &firm(to), share)], &[]);
            }
            session.check();
        }
        for source in ["links", "shocks"] {
            let held = session.ledger.held(source);
            session.send(source, Operation::Delete, &held, &[]);
            session.check();
        }
        assert_eq!(session.program.number("SELECT count(*) FROM sangam.errors"), 0);
        let state = "SELECT coalesce(sum(state_rows), 0) FROM sangam.operators";
        assert_eq!(session.program.number(state), 0, "state is left behind");
        session.program.stop();
    }
}

#[test]
fn a_recursion_without_an_end_is_cut_off_and_says_so() {
    let dir = deployment(&[
        ("deployment.toml", "clock = \"event\"\n"),
        ("sources/shocks.toml", SHOCKS),
        (
            "views/endless.sql",
            "WITH RECURSIVE n AS (SELECT firm, 0 AS x FROM shocks UNION ALL SELECT firm, x + 1 FROM n)
                 SELECT firm, x FROM n",
        ),
        (
            "views/ends.sql",
            "WITH RECURSIVE n AS (SELECT firm, 0 AS x FROM shocks UNION SELECT firm, x + 1 FROM n WHERE x < 1000)
                 SELECT firm, x FROM n",
        ),
    ]);
    let program = Program::start_with(dir.path(), &["--workers", "2"]);
    let errors = || program.sql("SELECT view, expression, reason FROM sangam.errors");
    let error =
        json!({"view": "endless", "expression": "WITH RECURSIVE n", "reason": "did not end within 1000 rounds"});
    for firm in ["a", "b"] {
        program.ingest("shocks", json!({"firm": firm, "risk": 1.0}).to_string());
        assert_eq!(errors(), std::slice::from_ref(&error));
    }
    assert_eq!(program.number("SELECT count(*) FROM endless"), 2_002);
    assert_eq!(program.number("SELECT count(*) FROM ends"), 2_002);
    program.ingest("shocks?op=delete", json!({"firm": "a"}).to_string());
    assert_eq!(errors(), [error]);
    program.ingest("shocks?op=delete", json!({"firm": "b"}).to_string());
    assert_eq!(errors(), Vec::<Value>::new());
    assert_eq!(program.number("SELECT count(*) FROM endless"), 0);
    program.stop();
}
