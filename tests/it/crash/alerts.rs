//! Alert transitions: what was told stays told, once; what must be told is known from the books.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use serde_json::Value;

use crate::program::Program;

/// What happened to an alert, by tick, alert and key.
type Happened = BTreeMap<(u64, String, String), Event>;

/// A transition, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    transition: String,
    raised: u64,
    row: String,
}

const ALL: &str = "SELECT alert, key, tick, transition, raised, row FROM sangam.alert_events";

/// The same, and the rows of both alerts, at one tick.
const WITH_ROWS: &str = "SELECT alert, key, tick, transition, raised, row FROM sangam.alert_events
    UNION ALL SELECT 'high', gauge, NULL, 'now', NULL, CAST(level AS VARCHAR) FROM high
    UNION ALL SELECT 'rush', station, NULL, 'now', NULL, CAST(n AS VARCHAR) FROM rush";

/// The transitions of `high`: gauges above 50, which only the rows of one source decide.
#[derive(Default)]
pub(super) struct Expected {
    /// By gauge: when it was raised, and its level.
    standing: BTreeMap<String, (u64, i64)>,
    happened: Happened,
}

impl Expected {
    /// Compares what stands at the end of a tick with what stood before it.
    pub(super) fn tick(&mut self, tick: u64, gauges: &[Value]) {
        let now: BTreeMap<String, i64> = gauges
            .iter()
            .map(|row| {
                let gauge = row["gauge"].as_str().expect("a gauge").to_owned();
                (gauge, row["level"].as_i64().expect("a level"))
            })
            .filter(|(_, level)| *level > 50)
            .collect();
        for (gauge, level) in &now {
            match self.standing.get(gauge).copied() {
                None => {
                    self.standing.insert(gauge.clone(), (tick, *level));
                    self.happens(tick, gauge, "raised", tick, *level);
                }
                Some((raised, old)) if old != *level => {
                    self.standing.insert(gauge.clone(), (raised, *level));
                    self.happens(tick, gauge, "updated", raised, *level);
                }
                Some(_) => {}
            }
        }
        let gone: Vec<String> = self
            .standing
            .keys()
            .filter(|gauge| !now.contains_key(*gauge))
            .cloned()
            .collect();
        for gauge in gone {
            if let Some((raised, level)) = self.standing.remove(&gauge) {
                self.happens(tick, &gauge, "cleared", raised, level);
            }
        }
    }

    fn happens(&mut self, tick: u64, gauge: &str, transition: &str, raised: u64, level: i64) {
        let text = |value: &Value| value.to_string();
        let key = text(&serde_json::json!({ "gauge": gauge }));
        let row = text(&serde_json::json!({ "gauge": gauge, "level": level }));
        let event = Event {
            transition: transition.to_owned(),
            raised,
            row,
        };
        self.happened.insert((tick, "high".to_owned(), key), event);
    }
}

/// What somebody who watches alerts has been told, across all restarts.
#[derive(Default)]
pub(super) struct Watch {
    told: Happened,
}

impl Watch {
    /// Asks what is new since the last time. A program that is going away tells nothing.
    pub(super) fn look(&mut self, program: &Program) {
        let since = self.told.last_key_value().map_or(0, |((tick, ..), _)| *tick);
        let sql = format!("{ALL} WHERE tick >= {since}");
        let Ok(reply) = program.try_request("POST", "/sql", &[("accept", "application/json")], sql.as_bytes()) else {
            return;
        };
        if reply.status == 200
            && let Ok(rows) = serde_json::from_slice::<Vec<Value>>(&reply.body)
        {
            for (place, event) in happened(&rows) {
                if let Some(before) = self.told.insert(place.clone(), event.clone()) {
                    assert_eq!(before, event, "the transition at {place:?} was told in two ways");
                }
            }
        }
    }

    /// Compares what is stored with what was told, and with what must be. Nothing is on its way.
    ///
    /// Returns how many transitions there are.
    pub(super) fn check(&mut self, program: &Program, expected: &Expected) -> usize {
        let (now, rows): (Vec<Value>, Vec<Value>) = program
            .sql(WITH_ROWS)
            .into_iter()
            .partition(|row| row["transition"] == "now");
        let stored = happened(&rows);
        let mut rows_now = BTreeMap::from([("high", BTreeSet::new()), ("rush", BTreeSet::new())]);
        for row in &now {
            let (alert, column) = match row["alert"].as_str() {
                Some("high") => ("high", "level"),
                _ => ("rush", "n"),
            };
            let number: i64 = row["row"]
                .as_str()
                .and_then(|text| text.parse().ok())
                .expect("a number");
            let name = if alert == "high" { "gauge" } else { "station" };
            let text = serde_json::json!({ name: row["key"], column: number }).to_string();
            rows_now.entry(alert).or_default().insert(text);
        }
        assert_eq!(rows.len(), stored.len(), "a transition is stored twice: {rows:#?}");
        for (place, event) in &self.told {
            assert_eq!(
                stored.get(place),
                Some(event),
                "a transition that was told at {place:?} is gone"
            );
        }
        let of = |name: &'static str| stored.iter().filter(move |((_, alert, _), _)| alert == name);
        for (place, event) in of("high") {
            assert_eq!(expected.happened.get(place), Some(event), "of high, at {place:?}");
        }
        for (place, event) in &expected.happened {
            assert_eq!(stored.get(place), Some(event), "of high, at {place:?}");
        }
        for alert in ["high", "rush"] {
            // By key: when it was raised, and its row.
            let mut standing: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
            for ((tick, _, key), event) in of(alert) {
                let before = standing.get(key.as_str()).copied();
                let is_right = match (event.transition.as_str(), before) {
                    ("raised", None) => event.raised == *tick,
                    ("updated", Some((raised, row))) => raised == event.raised && row != event.row,
                    ("cleared", Some((raised, row))) => raised == event.raised && row == event.row,
                    _ => false,
                };
                assert!(is_right, "{alert}: {event:?} of {key} at tick {tick}, after {before:?}");
                match event.transition.as_str() {
                    "cleared" => standing.remove(key.as_str()),
                    _ => standing.insert(key, (event.raised, &event.row)),
                };
            }
            let stands: BTreeSet<String> = standing.values().map(|(_, row)| (*row).to_owned()).collect();
            assert_eq!(stands, rows_now[alert], "what stands of {alert}, and its rows");
        }
        self.told = stored;
        self.told.len()
    }
}

/// Reads rows of `sangam.alert_events`, each in one spelling.
fn happened(rows: &[Value]) -> Happened {
    let text = |row: &Value, column: &str| row[column].as_str().expect("a text").to_owned();
    let json = |text: String| -> String {
        let value: Value = serde_json::from_str(&text).expect("JSON");
        value.to_string()
    };
    rows.iter()
        .map(|row| {
            let raised = DateTime::parse_from_rfc3339(&text(row, "raised")).expect("a time");
            // Integers past 2^53 are texts.
            let tick = row["tick"].as_u64().or_else(|| row["tick"].as_str()?.parse().ok());
            let event = Event {
                transition: text(row, "transition"),
                raised: u64::try_from(raised.timestamp_micros()).expect("after 1970"),
                row: json(text(row, "row")),
            };
            (
                (tick.expect("a tick"), text(row, "alert"), json(text(row, "key"))),
                event,
            )
        })
        .collect()
}
