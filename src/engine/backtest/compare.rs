//! What two deployments showed, compared by name: what happened to alerts, and the rows of views.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use dataflows::Tick;
use dataflows::json::{BoundRows, RowEncoder};
use serde::Serialize;
use serde_json::Value;

use super::Shown;
use crate::config::{Deployment, ViewDef, ViewKind};
use crate::log::Transition;

/// Things listed, at most; all are counted.
const LISTED_MAX: usize = 20;

/// The first few of some things, and how many there are.
#[derive(Clone, Debug, Serialize)]
pub struct Listed<T> {
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub first: Vec<T>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Listed {
            count: 0,
            first: Vec::new(),
        }
    }
}

impl<T> Listed<T> {
    fn add(&mut self, one: impl FnOnce() -> T) {
        self.count += 1;
        if self.first.len() < LISTED_MAX {
            self.first.push(one());
        }
    }
}

/// Which definitions have something of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Declared {
    /// Both have.
    Both,
    /// Only those that ran.
    Old,
    /// Only those that are tried.
    New,
}

/// How often things happened to an alert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Transitions {
    /// It was raised.
    pub raised: usize,
    /// It stood, and its row changed.
    pub updated: usize,
    /// It was cleared.
    pub cleared: usize,
}

/// One thing that happened to an alert.
#[derive(Clone, Debug, Serialize)]
pub struct Happened {
    /// When.
    pub tick: Tick,
    /// `raised`, `updated` or `cleared`.
    pub transition: String,
    /// The key.
    pub key: Value,
    /// The row.
    pub row: Value,
}

/// What is different of one alert.
#[derive(Debug, Serialize)]
pub struct AlertDifference {
    /// Its name.
    pub alert: String,
    /// Who declares it.
    pub declared: Declared,
    /// What happened under the definitions that ran.
    pub old: Transitions,
    /// What happens under the new ones.
    pub new: Transitions,
    /// What happened only under those that ran.
    pub only_old: Listed<Happened>,
    /// What happens only under the new ones.
    pub only_new: Listed<Happened>,
}

/// A row of both that is another.
#[derive(Clone, Debug, Serialize)]
pub struct ChangedRow {
    /// As it was.
    pub old: Value,
    /// As it is under the new definitions.
    pub new: Value,
}

/// What is different of the rows of one view at the end.
#[derive(Debug, Serialize)]
pub struct RowsDifference {
    /// Its name.
    pub view: String,
    /// Who declares it.
    pub declared: Declared,
    /// Rows under the definitions that ran.
    pub old: usize,
    /// Rows under the new ones.
    pub new: usize,
    /// Rows only under those that ran.
    pub only_old: Listed<Value>,
    /// Rows only under the new ones.
    pub only_new: Listed<Value>,
    /// Rows of one key that differ, where both have the same key.
    pub changed: Listed<ChangedRow>,
}

/// Whether something is different.
pub trait Difference {
    /// Tells whether it is.
    fn differs(&self) -> bool;
}

impl Difference for AlertDifference {
    fn differs(&self) -> bool {
        self.declared != Declared::Both || self.only_old.count + self.only_new.count > 0
    }
}

impl Difference for RowsDifference {
    fn differs(&self) -> bool {
        self.declared != Declared::Both || self.only_old.count + self.only_new.count + self.changed.count > 0
    }
}

/// Compares all that two deployments showed.
pub(super) fn all(
    (old, before): (&Deployment, &Shown),
    (new, after): (&Deployment, &Shown),
) -> (Vec<AlertDifference>, Vec<RowsDifference>) {
    let names: BTreeSet<&str> = old
        .views
        .iter()
        .chain(&new.views)
        .map(|view| view.view.name.as_str())
        .collect();
    let (mut alerts, mut views) = (Vec::new(), Vec::new());
    for name in names {
        let find = |deployment: &'_ Deployment, is_alert: bool| {
            let found = deployment.views.iter().find(|view| view.view.name == name);
            found.filter(|view| (view.kind != ViewKind::View) == is_alert).cloned()
        };
        let who = |old: &Option<ViewDef>, new: &Option<ViewDef>| match (old, new) {
            (None, None) => None,
            (Some(_), None) => Some(Declared::Old),
            (None, Some(_)) => Some(Declared::New),
            (Some(_), Some(_)) => Some(Declared::Both),
        };
        if let Some(declared) = who(&find(old, true), &find(new, true)) {
            let of = |shown: &Shown| shown.transitions.get(name).cloned().unwrap_or_default();
            alerts.push(alert(name, declared, &of(before), &of(after)));
        }
        let (was, is) = (find(old, false), find(new, false));
        if let Some(declared) = who(&was, &is) {
            let rows = |shown: &Shown, view: &Option<ViewDef>| {
                let rows = shown.relations.get(name).map(|relation| relation.batches.clone());
                Rows::new(&rows.unwrap_or_default(), view.as_ref())
            };
            views.push(rows_of(name, declared, &rows(before, &was), &rows(after, &is)));
        }
    }
    (alerts, views)
}

fn alert(name: &str, declared: Declared, before: &[Transition], after: &[Transition]) -> AlertDifference {
    let count = |all: &[Transition]| {
        let of = |what: &str| all.iter().filter(|told| &*told.transition == what).count();
        Transitions {
            raised: of("raised"),
            updated: of("updated"),
            cleared: of("cleared"),
        }
    };
    let only = |these: &[Transition], those: &[Transition]| -> Listed<Happened> {
        let known: BTreeSet<(Tick, &str, &str)> = those.iter().map(identity).collect();
        let mut listed = Listed::default();
        for told in these.iter().filter(|told| !known.contains(&identity(told))) {
            listed.add(|| Happened {
                tick: told.tick,
                transition: told.transition.to_string(),
                key: value(&told.key),
                row: value(&told.row),
            });
        }
        listed
    };
    AlertDifference {
        alert: name.to_owned(),
        declared,
        old: count(before),
        new: count(after),
        only_old: only(before, after),
        only_new: only(after, before),
    }
}

/// Reads what was written as JSON by the engine itself.
fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

fn identity(told: &Transition) -> (Tick, &str, &str) {
    (told.tick, &told.key, &told.transition)
}

/// The rows of a view as JSON: by key, where it has one, how often each is there.
struct Rows {
    key: Option<Vec<String>>,
    count: usize,
    rows: BTreeMap<String, BTreeMap<String, usize>>,
}

impl Rows {
    fn new(batches: &[RecordBatch], view: Option<&ViewDef>) -> Rows {
        let key = view.and_then(|view| view.key.as_deref()).unwrap_or_default();
        let names = |view: &ViewDef| {
            let columns = view.key.as_ref()?.iter();
            Some(
                columns
                    .map(|&column| view.view.schema.field(column).name().clone())
                    .collect(),
            )
        };
        let mut rows = Rows {
            key: view.and_then(names),
            count: 0,
            rows: BTreeMap::new(),
        };
        for batch in batches {
            let schema = batch.schema();
            let (whole, keyed) = (RowEncoder::new(&schema), RowEncoder::with_columns(&schema, key));
            let (whole, keyed) = (whole.bind(batch), keyed.bind(batch));
            for row in 0..batch.num_rows() {
                let text = |encoder: &BoundRows<'_>| {
                    let mut bytes = Vec::new();
                    encoder.object(row, &mut bytes);
                    String::from_utf8_lossy(&bytes).into_owned()
                };
                *rows
                    .rows
                    .entry(text(&keyed))
                    .or_default()
                    .entry(text(&whole))
                    .or_default() += 1;
            }
            rows.count += batch.num_rows();
        }
        rows
    }
}

fn rows_of(name: &str, declared: Declared, before: &Rows, after: &Rows) -> RowsDifference {
    let mut difference = RowsDifference {
        view: name.to_owned(),
        declared,
        old: before.count,
        new: after.count,
        only_old: Listed::default(),
        only_new: Listed::default(),
        changed: Listed::default(),
    };
    let is_keyed = before.key.is_some() && before.key == after.key;
    let none = BTreeMap::new();
    let keys: BTreeSet<&String> = before.rows.keys().chain(after.rows.keys()).collect();
    for key in keys {
        let (was, is) = (
            before.rows.get(key).unwrap_or(&none),
            after.rows.get(key).unwrap_or(&none),
        );
        let (gone, come) = (missing(was, is), missing(is, was));
        match (gone.as_slice(), come.as_slice()) {
            ([old], [new]) if is_keyed => difference.changed.add(|| ChangedRow {
                old: value(old),
                new: value(new),
            }),
            _ => {
                gone.iter().for_each(|row| difference.only_old.add(|| value(row)));
                come.iter().for_each(|row| difference.only_new.add(|| value(row)));
            }
        }
    }
    difference
}

/// Returns the rows of `these` that `those` lacks, each as often as it lacks it.
fn missing<'r>(these: &'r BTreeMap<String, usize>, those: &BTreeMap<String, usize>) -> Vec<&'r str> {
    let lacks = these.iter().flat_map(|(row, count)| {
        let lacking = count.saturating_sub(those.get(row).copied().unwrap_or(0));
        std::iter::repeat_n(row.as_str(), lacking)
    });
    lacks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(key: bool, rows: &[(&str, &str)]) -> Rows {
        let mut all = Rows {
            key: key.then(|| vec!["k".to_owned()]),
            count: rows.len(),
            rows: BTreeMap::new(),
        };
        for (key, row) in rows {
            let key = (*key).to_owned();
            *all.rows.entry(key).or_default().entry((*row).to_owned()).or_default() += 1;
        }
        all
    }

    fn told(key: &str, tick: Tick, transition: &str) -> Transition {
        Transition {
            alert: "high".into(),
            key: format!("{{\"k\":\"{key}\"}}"),
            tick,
            transition: transition.into(),
            priority: "high".into(),
            raised: tick,
            row: "{}".to_owned(),
        }
    }

    #[test]
    fn rows_are_told_apart_by_key_where_both_have_it() {
        let (was, is) = (
            &[("a", "1"), ("b", "2"), ("c", "3")],
            &[("a", "1"), ("b", "5"), ("d", "4")],
        );
        let keyed = rows_of("v", Declared::Both, &rows(true, was), &rows(true, is));
        assert_eq!(
            (keyed.only_old.count, keyed.only_new.count, keyed.changed.count),
            (1, 1, 1)
        );
        assert_eq!(keyed.changed.first[0].new, 5);
        let plain = rows_of("v", Declared::Both, &rows(false, was), &rows(false, is));
        assert_eq!(
            (plain.only_old.count, plain.only_new.count, plain.changed.count),
            (2, 2, 0)
        );
        let same = rows_of("v", Declared::Both, &rows(false, was), &rows(false, was));
        assert!(!same.differs());
    }

    #[test]
    fn a_row_counts_as_often_as_it_is_there() {
        let (was, is) = (&[("", "1"), ("", "1"), ("", "2")], &[("", "1"), ("", "2"), ("", "2")]);
        let difference = rows_of("v", Declared::Both, &rows(false, was), &rows(false, is));
        assert_eq!(difference.only_old.first, [1]);
        assert_eq!(difference.only_new.first, [2]);
    }

    #[test]
    fn what_happened_under_one_only_is_listed_in_order_and_counted() {
        let before: Vec<Transition> = (0..50).map(|tick| told("a", tick, "updated")).collect();
        let mut after = before[..20].to_vec();
        after.push(told("b", 7, "raised"));
        let difference = alert("high", Declared::Both, &before, &after);
        assert_eq!(difference.old.updated, 50);
        assert_eq!((difference.new.updated, difference.new.raised), (20, 1));
        assert_eq!(
            (difference.only_old.count, difference.only_old.first.len()),
            (30, LISTED_MAX)
        );
        assert_eq!(difference.only_old.first[0].tick, 20);
        assert_eq!(difference.only_new.first[0].key, serde_json::json!({"k": "b"}));
        assert!(difference.differs());
    }
}
