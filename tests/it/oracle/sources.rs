//! Random sources: append-only, upsert by key, retractions; with and without time, lateness, retain.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use super::dice::Dice;
use super::values::{Row, Spread, TYPES, Taste, Ty, Value, value};

/// A column of a source.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) ty: Ty,
    pub(crate) nullable: bool,
    pub(crate) spread: Spread,
}

/// What may happen to a source's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Append,
    Keyed {
        key: Vec<usize>,
        version: Option<usize>,
    },
    Counted,
    /// What is sent is all there is, by a key or without.
    Snapshot {
        key: Option<Vec<usize>>,
    },
}

/// A source as the test means it.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) kind: Kind,
    /// The time column, with its lateness.
    pub(crate) time: Option<(usize, Option<i64>)>,
    pub(crate) retain_us: Option<i64>,
}

const SECOND_US: i64 = 1_000_000;

impl Spec {
    /// Makes up a source. All of a case's sources have `k` and a `g` of one type, so that joins meet.
    pub(crate) fn random(dice: &mut Dice, name: String, shared: Ty) -> Spec {
        let mut columns = vec![
            Column {
                name: "k".into(),
                ty: Ty::Big,
                nullable: false,
                spread: Spread::Few,
            },
            Column {
                name: "g".into(),
                ty: shared,
                nullable: dice.chance(75),
                spread: Spread::Few,
            },
            Column {
                name: "n".into(),
                ty: Ty::Big,
                nullable: dice.chance(60),
                spread: Spread::Wide,
            },
        ];
        for index in 0..dice.between(1, 4) {
            let ty = *dice.pick(&TYPES);
            let spread = if dice.chance(40) { Spread::Few } else { Spread::Wide };
            columns.push(Column {
                name: format!("c{index}"),
                ty,
                nullable: dice.chance(70),
                spread,
            });
        }
        let kind = match dice.weighted(&[30, 35, 35, 12]) {
            3 => Kind::Snapshot {
                key: dice.chance(60).then(|| vec![0]),
            },
            0 => Kind::Append,
            1 => {
                let mut key = vec![0];
                if dice.chance(40) {
                    columns[1].nullable = false;
                    key.push(1);
                    if dice.chance(50) {
                        key.reverse();
                    }
                }
                let version = dice.chance(30).then(|| {
                    let ty = *dice.pick(&[Ty::Big, Ty::Time]);
                    columns.push(Column {
                        name: "v".into(),
                        ty,
                        nullable: false,
                        spread: Spread::Few,
                    });
                    columns.len() - 1
                });
                Kind::Keyed { key, version }
            }
            _ => Kind::Counted,
        };
        let timed = dice.chance(55);
        let time = timed.then(|| {
            let at = dice.below(columns.len() + 1);
            columns.insert(
                at,
                Column {
                    name: "at".into(),
                    ty: Ty::Time,
                    nullable: false,
                    spread: Spread::Near,
                },
            );
            let late = (kind == Kind::Append && dice.chance(60)).then(|| *dice.pick(&[0, 60, 900, 3600]) * SECOND_US);
            (at, late)
        });
        let kind = match (kind, time) {
            (Kind::Keyed { key, version }, Some((at, _))) => {
                let moved = |column: usize| if column >= at { column + 1 } else { column };
                Kind::Keyed {
                    key: key.into_iter().map(moved).collect(),
                    version: version.map(moved),
                }
            }
            (Kind::Snapshot { key: Some(key) }, Some((at, _))) => Kind::Snapshot {
                key: Some(
                    key.into_iter()
                        .map(|column| if column >= at { column + 1 } else { column })
                        .collect(),
                ),
            },
            (kind, _) => kind,
        };
        // Views close their buckets by the lateness of such a source.
        let (kind, time) = match (kind, time) {
            (Kind::Append, None) if dice.chance(50) => {
                columns.push(Column {
                    name: "at".into(),
                    ty: Ty::Time,
                    nullable: false,
                    spread: Spread::Near,
                });
                let late = *dice.pick(&[0, 60, 900]) * SECOND_US;
                (Kind::Append, Some((columns.len() - 1, Some(late))))
            }
            other => other,
        };
        // Untimed rows expire by ticks, which go as fast as time does.
        let retain_us = dice
            .chance(if kind == Kind::Append { 60 } else { 35 })
            .then(|| *dice.pick(&[3600, 7200, 20_000]) * SECOND_US)
            .filter(|_| !matches!(kind, Kind::Snapshot { .. }));
        Spec {
            name,
            columns,
            kind,
            time,
            retain_us,
        }
    }

    /// The source's file.
    pub(crate) fn toml(&self) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                let null = if column.nullable { "" } else { " not null" };
                format!("{} = \"{}{null}\"", column.name, column.ty.sql())
            })
            .collect();
        let mut text = format!("columns = {{ {} }}\n", columns.join(", "));
        match &self.kind {
            Kind::Append => {}
            Kind::Keyed { key, version } => {
                let names: Vec<String> = key.iter().map(|&at| format!("\"{}\"", self.columns[at].name)).collect();
                let _ = writeln!(text, "key = [{}]", names.join(", "));
                if let Some(version) = version {
                    let _ = writeln!(text, "version = \"{}\"", self.columns[*version].name);
                }
            }
            Kind::Counted => text.push_str("retractions = true\n"),
            Kind::Snapshot { key } => {
                text.push_str("snapshot = true\n");
                if let Some(key) = key {
                    let names: Vec<String> = key.iter().map(|&at| format!("\"{}\"", self.columns[at].name)).collect();
                    let _ = writeln!(text, "key = [{}]", names.join(", "));
                }
            }
        }
        if let Some((column, lateness)) = self.time {
            let lateness = lateness
                .map(|us| format!(", lateness = \"{} seconds\"", us / SECOND_US))
                .unwrap_or_default();
            let _ = writeln!(
                text,
                "time = {{ column = \"{}\"{lateness} }}",
                self.columns[column].name
            );
        }
        if let Some(us) = self.retain_us {
            let _ = writeln!(text, "retain = \"{} seconds\"", us / SECOND_US);
        }
        text.push_str("[connector]\ntype = \"http\"\n");
        text
    }

    /// Whether the test can take every row back: by key, as a whole, or by letting time pass.
    pub(crate) fn can_be_emptied(&self) -> bool {
        self.kind != Kind::Append || (self.time.is_none() && self.retain_us.is_some())
    }

    /// Makes up a row.
    pub(crate) fn row(&self, dice: &mut Dice, taste: Taste) -> Row {
        self.columns
            .iter()
            .map(|column| match column.nullable && dice.chance(15) {
                true => Value::Null,
                false if column.spread == Spread::Near => {
                    // Mostly a little before the case's time; now and then late by hours.
                    let back = if dice.chance(8) {
                        dice.between(0, 30_000)
                    } else {
                        dice.between(0, 600)
                    };
                    Value::Time(taste.now_us - back * SECOND_US)
                }
                false => value(dice, column.ty, column.spread, taste),
            })
            .collect()
    }

    /// The key of a row, in one text.
    pub(crate) fn key(&self, row: &Row) -> Option<String> {
        match &self.kind {
            Kind::Keyed { key, .. } | Kind::Snapshot { key: Some(key) } => {
                Some(key.iter().map(|&at| row[at].key()).collect::<Vec<_>>().join("|"))
            }
            _ => None,
        }
    }

    /// The schema of a deletion that names only the key.
    pub(crate) fn key_schema(&self, schema: &SchemaRef) -> Option<(SchemaRef, Vec<usize>)> {
        match &self.kind {
            Kind::Keyed { key, .. } => {
                let mut key = key.clone();
                key.sort_unstable();
                Some((Arc::new(schema.project(&key).expect("key columns")), key))
            }
            _ => None,
        }
    }
}
