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
            alert: Arc::clone(&self.alert),
            key: key.clone(),
            tick: *raised,
            transition: "raised".into(),
            priority: Arc::clone(&self.priority),
            raised: *raised,
            row: row.clone(),
        })
    }

    /// Goes on from what stands by what was told, and returns what is to be told for it to be so, in order of the
    /// key: what stands in both was raised when it was.
    pub(super) fn goes_on_from(&mut self, told: &Standing, tick: Tick) -> Vec<Transition> {
        let mut transitions = cleared(&self.alert, &self.priority, tick, told);
        transitions.retain(|transition| !self.standing.contains_key(&transition.key));
        for (key, (raised, row)) in &mut self.standing {
            let before = told.get(key);
            *raised = before.map_or(tick, |(raised, _)| *raised);
            if before.is_none_or(|(_, before)| before != row) {
                transitions.push(Transition {
                    alert: Arc::clone(&self.alert),
                    key: key.clone(),
                    tick,
                    transition: if before.is_some() { "updated" } else { "raised" }.into(),
                    priority: Arc::clone(&self.priority),
                    raised: *raised,
                    row: row.clone(),
                });
            }
        }
        transitions.sort_by(|one, other| one.key.cmp(&other.key));
        transitions
    }

    /// Clears all that stand.
    pub(super) fn clear(&mut self, tick: Tick) -> Vec<Transition> {
        cleared(&self.alert, &self.priority, tick, &std::mem::take(&mut self.standing))
    }
}

/// Says that all that stand are cleared, in order of the key.
pub(super) fn cleared(alert: &Arc<str>, priority: &Arc<str>, tick: Tick, standing: &Standing) -> Vec<Transition> {
    let cleared = standing.iter().map(|(key, (raised, row))| Transition {
        alert: Arc::clone(alert),
        key: key.clone(),
        tick,
        transition: "cleared".into(),
        priority: Arc::clone(priority),
        raised: *raised,
        row: row.clone(),
    });
    let mut cleared: Vec<Transition> = cleared.collect();
    cleared.sort_by(|one, other| one.key.cmp(&other.key));
    cleared
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
