//! The views of `config/water`, with rows of the test's own.

use std::fs;

use chrono::{DateTime, SecondsFormat};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::{Value, json};

use super::Session;
use super::ledger::Operation;
use crate::program::folder;

const START_S: i64 = 1_767_990_600;
const TICKS: usize = 60;

#[test]
fn the_views_of_water_are_right_at_every_tick() {
    let dir = folder::water();
    let mut session = Session::start(dir.path(), 2);
    let stations = table(&dir.path().join("data/stations.csv"));
    let links = table(&dir.path().join("data/links.csv"));
    session.live.until("the tables are read", |live| {
        live.of("stations").rows().len() == stations.len() && live.of("links").rows().len() == links.len()
    });
    session.ledger.post("stations", Operation::Insert, &stations, 0, 1);
    session.ledger.post("links", Operation::Insert, &links, 0, 1);

    let mut rivers = Rivers {
        random: Pcg64::seed_from_u64(7),
        now_s: START_S,
        stations: &stations,
    };
    let mut rows = 0;
    for tick in 0..TICKS {
        rivers.now_s += match tick % 12 {
            11 => 11 * 3600,
            5 => 50 * 60,
            _ => rivers.random.random_range(20..400),
        };
        if tick % 5 == 4 {
            let rows = rivers.weather();
            session.send("weather", Operation::Insert, &rows, &[]);
        } else {
            let mut rows = rivers.readings();
            if tick % 7 == 3 {
                rows.push(rivers.late());
            }
            let bad: &[&str] = match tick % 6 {
                2 => &[
                    r#"{"station":"MM01"}"#,
                    r#"{"station":"MM01","at":"2026-01-10T10:00:00Z","ph":"sour"}"#,
                ],
                _ => &[],
            };
            session.send("readings", Operation::Insert, &rows, bad);
        }
        rows += session.check();
    }
    assert!(rows > TICKS * 1000, "the views were nearly empty: {rows} rows in all");
    let alerts = session.program.number("SELECT count(*) FROM sangam.alert_events");
    assert!(alerts > 20, "only {alerts} transitions of alerts");

    // Four days later everything has left: in the tick after the one that moves the clock.
    for _ in 0..2 {
        rivers.now_s += 4 * 86400;
        let (reading, weather) = (rivers.readings().swap_remove(0), rivers.weather().swap_remove(0));
        session.send("readings", Operation::Insert, &[reading], &[]);
        session.check();
        session.send("weather", Operation::Insert, &[weather], &[]);
        session.check();
    }
    assert_eq!(session.program.number("SELECT count(*) FROM sangam.errors"), 0);
    session.program.stop();
}

struct Rivers<'a> {
    random: Pcg64,
    now_s: i64,
    stations: &'a [Value],
}

impl Rivers<'_> {
    fn station(&mut self) -> Value {
        // Few stations get most readings, so that they have a usual.
        let among = if self.random.random_bool(0.6) {
            4
        } else {
            self.stations.len()
        };
        self.stations[self.random.random_range(0..among)]["station"].clone()
    }

    fn readings(&mut self) -> Vec<Value> {
        (0..self.random.random_range(1..60)).map(|_| self.reading()).collect()
    }

    fn reading(&mut self) -> Value {
        let spike = self.random.random_bool(0.03);
        let bod = self.tenths(5, 60) + if spike { 30.0 } else { 0.0 };
        let ph = if self.random.random_bool(0.05) {
            Value::Null
        } else {
            json!(self.tenths(70, 85))
        };
        let coliform = if spike {
            250_000
        } else {
            self.random.random_range(20..9000)
        };
        let at = self.now_s - self.random.random_range(0..20);
        json!({
            "station": self.station(),
            "at": time(at),
            "ph": ph,
            "dissolved_oxygen": if spike { 0.5 } else { self.tenths(30, 90) },
            "bod": bod,
            "faecal_coliform": coliform,
            "turbidity": self.tenths(100, 400),
            "temperature": if self.random.random_bool(0.01) { 85.0 } else { self.tenths(200, 300) },
        })
    }

    fn late(&mut self) -> Value {
        let mut row = self.reading();
        row["at"] = json!(time(self.now_s - 3600));
        row
    }

    fn weather(&mut self) -> Vec<Value> {
        let count = self.random.random_range(1..40);
        (0..count)
            .map(|_| {
                let at = self.now_s - self.random.random_range(0..200);
                json!({
                    "station": self.station(),
                    "at": time(at),
                    "rain_mm_h": self.tenths(0, 300),
                    "air_temperature": self.tenths(150, 400),
                })
            })
            .collect()
    }

    fn tenths(&mut self, from: i32, to: i32) -> f64 {
        f64::from(self.random.random_range(from..to)) / 10.0
    }
}

fn time(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0)
        .expect("a time of our days")
        .to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Reads a table of `config/water`, where no field is quoted.
fn table(path: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a table");
    assert!(!text.contains('"'), "{} has quotes", path.display());
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().expect("a header").split(',').collect();
    lines
        .map(|line| {
            let cell = |text: &str| text.parse::<f64>().map_or_else(|_| json!(text), |number| json!(number));
            names
                .iter()
                .zip(line.split(','))
                .map(|(name, text)| ((*name).to_owned(), cell(text)))
                .collect()
        })
        .collect()
}

#[test]
fn the_water_deployment_shows_something_soon() {
    let started = std::time::Instant::now();
    let program =
        crate::program::Program::start(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/water"));
    let mut live = program.live();
    for view in ["latest", "risk", "hourly", "readings"] {
        live.subscribe(view);
    }
    live.until("stations have readings, a risk and hours", |live| {
        live.of("latest").rows().len() > 20 && live.of("risk").rows().len() > 20 && live.of("hourly").rows().len() > 500
    });
    let readings = live.of("readings").rows().len();
    live.until("more readings come", |live| live.of("readings").rows().len() > readings);
    println!(
        "water showed {readings} readings and more within {:.1?}",
        started.elapsed()
    );
    assert!(started.elapsed() < std::time::Duration::from_secs(60));
    // Simulated rows say so, and a reading of one's own is taken beside them.
    assert_eq!(
        program.number("SELECT count(*) FROM readings WHERE simulated IS NOT TRUE"),
        0
    );
    let now = chrono::Utc::now().to_rfc3339();
    let own = format!(
        r#"{{"station":"MM01","at":"{now}","ph":9.4,"dissolved_oxygen":0.8,"bod":45,"faecal_coliform":250000,"turbidity":400,"temperature":27}}"#
    );
    assert_eq!(program.ingest("readings", own)["accepted"], 1);
    assert_eq!(
        program.number("SELECT count(*) FROM critical WHERE station = 'MM01'"),
        1
    );
    program.stop();
}
