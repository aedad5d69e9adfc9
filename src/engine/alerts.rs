//! Alerts have an identity: a row in is raised, a changed row updated, a row out cleared.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType, UInt64Type};
use dataflows::json::RowEncoder;
use dataflows::{Tick, Updates};

use crate::log::Transition;

/// Transitions kept in memory; the oldest go first.
pub const TRANSITIONS_MAX: usize = 100_000;

/// The names of the tables in checkpoints.
pub(super) const EVENTS: &str = "alert_events";
pub(super) const STANDING: &str = "standing";

/// When each standing alert was raised, and its row, by key.
pub(super) type Standing = HashMap<String, (Tick, String)>;

/// The standing alerts of one alert view.
pub(super) struct AlertState {
    alert: Arc<str>,
    priority: Arc<str>,
    key: RowEncoder,
    row: RowEncoder,
    standing: Standing,
}

impl AlertState {
    pub(super) fn new(alert: &str, priority: &str, schema: &Schema, key: &[usize]) -> Self {
        AlertState {
            alert: alert.into(),
            priority: priority.into(),
            key: RowEncoder::with_columns(schema, key),
            row: RowEncoder::new(schema),
            standing: Standing::new(),
        }
    }

    /// Returns how many alerts stand.
    pub(super) fn standing(&self) -> usize {
        self.standing.len()
    }

    /// Takes one tick's changes and returns what happened, in order of the key.
    pub(super) fn apply(&mut self, tick: Tick, changes: &[Updates]) -> Vec<Transition> {
        // By key, what the row was and is; a row that came and went within the tick is neither.
        let mut net: BTreeMap<String, HashMap<String, i64>> = BTreeMap::new();
        for updates in changes {
            let (keys, rows) = (self.key.bind(updates.rows()), self.row.bind(updates.rows()));
            for (position, diff) in updates.diffs().iter().enumerate() {
                let text = |encoder: &dataflows::json::BoundRows<'_>| {
                    let mut bytes = Vec::new();
                    encoder.object(position, &mut bytes);
                    String::from_utf8_lossy(&bytes).into_owned()
                };
                *net.entry(text(&keys)).or_default().entry(text(&rows)).or_default() += diff;
            }
        }
        let mut transitions = Vec::new();
        for (key, rows) in net {
            let net: i64 = rows.values().sum();
            let now = rows.into_iter().find(|(_, diff)| *diff > 0).map(|(row, _)| row);
            let before = self.standing.get(&key).cloned();
            let (transition, raised, row) = match (before, now) {
                (None, Some(row)) => ("raised", tick, row),
                (Some((raised, old)), Some(row)) if old != row => ("updated", raised, row),
                // Taken back, and not put back: cleared, with the row as it last stood.
                (Some((raised, old)), None) if net < 0 => ("cleared", raised, old),
                _ => continue,
            };
            match transition {
                "cleared" => self.standing.remove(&key),
                _ => self.standing.insert(key.clone(), (raised, row.clone())),
            };
            transitions.push(Transition {
                alert: Arc::clone(&self.alert),
                key,
                tick,
                transition: transition.into(),
                priority: Arc::clone(&self.priority),
                raised,
                row,
            });
        }
        transitions
    }
}

impl AlertState {
    /// Returns those that stand.
    pub(super) fn all_standing(&self) -> &Standing {
        &self.standing
    }

    /// Returns those that stand, each as it was told last.
    pub(super) fn standing_rows(&self) -> impl Iterator<Item = Transition> {
        let standing = self.standing.iter();
        standing.map(|(key, (raised, row))| Transition {
            transition: "raised".into(),
            ..self.cleared(*raised, key, *raised, row)
        })
    }

    /// Takes the first rows of an alert that stood as `old` before: what stands in both was raised when it was.
    pub(super) fn replace(&mut self, old: Option<&Standing>, tick: Tick, rows: &[Updates]) -> Vec<Transition> {
        let mut transitions = self.apply(tick, rows);
        let Some(old) = old else { return transitions };
        transitions.retain_mut(|transition| {
            let Some((raised, row)) = old.get(&transition.key) else {
                return true;
            };
            if let Some(standing) = self.standing.get_mut(&transition.key) {
                standing.0 = *raised;
            }
            transition.raised = *raised;
            transition.transition = "updated".into();
            *row != transition.row
        });
        let gone = old.iter().filter(|(key, _)| !self.standing.contains_key(*key));
        transitions.extend(gone.map(|(key, (raised, row))| self.cleared(tick, key, *raised, row)));
        transitions.sort_by(|one, other| one.key.cmp(&other.key));
        transitions
    }

    /// Clears all that stand.
    pub(super) fn clear(&mut self, tick: Tick) -> Vec<Transition> {
        let standing: BTreeMap<String, (Tick, String)> = self.standing.drain().collect();
        let cleared = standing
            .iter()
            .map(|(key, (raised, row))| self.cleared(tick, key, *raised, row));
        cleared.collect()
    }

    fn cleared(&self, tick: Tick, key: &str, raised: Tick, row: &str) -> Transition {
        Transition {
            alert: Arc::clone(&self.alert),
            key: key.to_owned(),
            tick,
            transition: "cleared".into(),
            priority: Arc::clone(&self.priority),
            raised,
            row: row.to_owned(),
        }
    }
}

/// The newest transitions of all alerts.
#[derive(Default)]
pub(super) struct AlertEvents(VecDeque<Transition>);

impl AlertEvents {
    pub(super) fn extend(&mut self, transitions: Vec<Transition>) {
        self.0.extend(transitions);
        while self.0.len() > TRANSITIONS_MAX {
            self.0.pop_front();
        }
    }

    pub(super) fn batch(&self, through: Tick) -> RecordBatch {
        let events: Vec<&Transition> = self.0.iter().filter(|event| event.tick <= through).collect();
        batch(events.into_iter())
    }
}

/// Makes rows of transitions.
pub(super) fn batch<'a>(events: impl Iterator<Item = &'a Transition> + Clone) -> RecordBatch {
    let events = || events.clone();
    let text = |of: fn(&Transition) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(events().map(of))) };
    let time = |of: fn(&Transition) -> Tick| -> ArrayRef {
        let times = TimestampMicrosecondArray::from_iter_values(events().map(|event| of(event) as i64));
        Arc::new(times.with_timezone("UTC"))
    };
    let columns: Vec<ArrayRef> = vec![
        text(|event| &event.alert),
        text(|event| &event.key),
        Arc::new(UInt64Array::from_iter_values(events().map(|event| event.tick))),
        time(|event| event.tick),
        text(|event| &event.transition),
        text(|event| &event.priority),
        time(|event| event.raised),
        text(|event| &event.row),
    ];
    RecordBatch::try_new(schema(), columns).expect("eight columns an event")
}

/// Reads what [`batch`] made.
pub(super) fn transitions(rows: &RecordBatch) -> Vec<Transition> {
    let text = |column: usize| rows.column(column).as_string::<i32>();
    let ticks = rows.column(2).as_primitive::<UInt64Type>();
    let raised = rows.column(6).as_primitive::<TimestampMicrosecondType>();
    let transition = |row| Transition {
        alert: text(0).value(row).into(),
        key: text(1).value(row).to_owned(),
        tick: ticks.value(row),
        transition: text(4).value(row).into(),
        priority: text(5).value(row).into(),
        raised: raised.value(row) as Tick,
        row: text(7).value(row).to_owned(),
    };
    (0..rows.num_rows()).map(transition).collect()
}

/// The columns of `sangam.alert_events`.
pub(super) fn schema() -> SchemaRef {
    let time = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("alert", DataType::Utf8, false),
        Field::new("key", DataType::Utf8, false),
        Field::new("tick", DataType::UInt64, false),
        Field::new("at", time(), false),
        Field::new("transition", DataType::Utf8, false),
        Field::new("priority", DataType::Utf8, false),
        Field::new("raised", time(), false),
        Field::new("row", DataType::Utf8, false),
    ]))
}
