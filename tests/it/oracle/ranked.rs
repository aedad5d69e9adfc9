//! Random views in which rows have an order: window functions, top rows, `DISTINCT ON`.

use super::expressions::Input;
use super::values::Ty;
use super::views::{Views, Written};

impl Views<'_> {
    /// Writes `ORDER BY` keys, some of which leave ties.
    fn keys(&mut self, inputs: &[Input]) -> String {
        let count = self.dice.between(1, 2);
        let keys: Vec<String> = (0..count)
            .map(|_| {
                let input = self.dice.pick(inputs).clone();
                let key = match self.dice.chance(15) {
                    true => self.writer(inputs).expression(input.ty, 1),
                    false => input.sql,
                };
                let direction = *self.dice.pick(&["", "", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
                format!("{key}{direction}")
            })
            .collect();
        keys.join(", ")
    }

    fn partition(&mut self, inputs: &[Input]) -> String {
        match self.dice.below(4) {
            0 => String::new(),
            1 => {
                let (first, second) = (self.dice.pick(inputs).sql.clone(), self.dice.pick(inputs).sql.clone());
                format!("PARTITION BY {first}, {second} ")
            }
            _ => format!("PARTITION BY {} ", self.dice.pick(inputs).sql),
        }
    }

    /// Writes the frame of a function, or nothing; `range` says what type offsets are in.
    fn frame(&mut self, range: Option<Ty>) -> String {
        let rows = |dice: &mut super::dice::Dice| dice.between(0, 3).to_string();
        let units = match (self.dice.below(6), range) {
            (0, _) => return String::new(),
            (1, _) => "GROUPS",
            (2 | 3, Some(_)) => "RANGE",
            _ => "ROWS",
        };
        let mut offset = || match (units, range) {
            ("RANGE", Some(Ty::Time)) => {
                let interval = *self.dice.pick(&["10 minutes", "1 hour", "0 seconds", "1 day"]);
                format!("INTERVAL '{interval}'")
            }
            ("RANGE", Some(Ty::Double)) => format!("{}.5", self.dice.between(0, 3)),
            _ => rows(self.dice),
        };
        let (near, far) = (offset(), offset());
        match self.dice.below(8) {
            0 => format!(" {units} UNBOUNDED PRECEDING"),
            1 => format!(" {units} BETWEEN {near} PRECEDING AND CURRENT ROW"),
            2 => format!(" {units} BETWEEN {near} PRECEDING AND {far} FOLLOWING"),
            3 => format!(" {units} BETWEEN CURRENT ROW AND {far} FOLLOWING"),
            4 => format!(" {units} BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING"),
            5 => format!(" {units} BETWEEN UNBOUNDED PRECEDING AND {far} FOLLOWING"),
            6 => format!(" {units} BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING"),
            _ => format!(" {units} BETWEEN UNBOUNDED PRECEDING AND {near} PRECEDING"),
        }
    }

    /// Writes one window function, and the type of its value.
    fn over(&mut self, inputs: &[Input]) -> (String, Ty) {
        let partition = self.partition(inputs);
        let order = match self.dice.chance(85) {
            true => format!("ORDER BY {}", self.keys(inputs)),
            false => String::new(),
        };
        let input = self.dice.pick(inputs).clone();
        let nulls = *self.dice.pick(&["", "", " IGNORE NULLS"]);
        if self.dice.chance(9)
            && let Some(decayed) = self.decayed(inputs, &partition, &order)
        {
            return decayed;
        }
        match self.dice.below(12) {
            0 | 1 => {
                let function = *self.dice.pick(&["row_number", "rank", "dense_rank"]);
                (
                    format!("CAST({function}() OVER ({partition}{order}) AS bigint)"),
                    Ty::Big,
                )
            }
            2 if !order.is_empty() => {
                let function = *self.dice.pick(&["percent_rank()", "cume_dist()"]);
                (format!("{function} OVER ({partition}{order})"), Ty::Double)
            }
            3 => {
                let tiles = self.dice.between(1, 5);
                (
                    format!("CAST(ntile({tiles}) OVER ({partition}{order}) AS bigint)"),
                    Ty::Big,
                )
            }
            4 | 5 => {
                let function = *self.dice.pick(&["lag", "lead"]);
                let distance = self.dice.between(0, 3);
                (
                    format!("{function}({}, {distance}){nulls} OVER ({partition}{order})", input.sql),
                    input.ty,
                )
            }
            6 | 7 => {
                let frame = self.frame(None);
                let place = self.dice.between(1, 3);
                let (name, last) = match self.dice.below(3) {
                    0 => ("first_value", String::new()),
                    1 => ("last_value", String::new()),
                    _ => ("nth_value", format!(", {place}")),
                };
                let frame = if order.is_empty() { String::new() } else { frame };
                (
                    format!("{name}({}{last}){nulls} OVER ({partition}{order}{frame})", input.sql),
                    input.ty,
                )
            }
            _ => {
                // One order column, of a type that takes offsets.
                let ranged = inputs
                    .iter()
                    .filter(|input| matches!(input.ty, Ty::Big | Ty::Double | Ty::Time))
                    .cloned()
                    .collect::<Vec<_>>();
                let (order, range) = match ranged.is_empty() || self.dice.chance(40) {
                    true => (order, None),
                    false => {
                        let key = self.dice.pick(&ranged).clone();
                        let direction = *self.dice.pick(&["", " DESC", " NULLS FIRST"]);
                        (format!("ORDER BY {}{direction}", key.sql), Some(key.ty))
                    }
                };
                let frame = if order.is_empty() {
                    String::new()
                } else {
                    self.frame(range)
                };
                let (call, ty) = match input.ty {
                    Ty::Big => (
                        format!("{}({})", self.dice.pick(&["sum", "min", "max", "count"]), input.sql),
                        Ty::Big,
                    ),
                    Ty::Double => {
                        let function = *self.dice.pick(&["sum", "avg", "min", "max", "stddev_pop"]);
                        (format!("{function}({})", input.sql), Ty::Double)
                    }
                    Ty::Bool => ("count(*)".to_owned(), Ty::Big),
                    ty => match self.dice.below(3) {
                        0 => (format!("count({})", input.sql), Ty::Big),
                        1 => (format!("min({})", input.sql), ty),
                        _ => (format!("max({})", input.sql), ty),
                    },
                };
                let filter = match self.dice.chance(15) {
                    true => format!(" FILTER (WHERE {})", self.writer(inputs).condition(0)),
                    false => String::new(),
                };
                (format!("{call}{filter} OVER ({partition}{order}{frame})"), ty)
            }
        }
    }

    /// Writes a view with window functions, maybe only of some ranks.
    pub(super) fn windowed(&mut self, nested: usize) -> Written {
        let from = self.from(nested);
        let mut shown = self.shown(&from.inputs, false);
        for index in 0..self.dice.between(1, 3) {
            let (sql, ty) = self.over(&from.inputs);
            let mut name = format!("w{index}");
            while shown.iter().any(|(_, taken, _)| *taken == name) {
                name.push('w');
            }
            shown.push((sql, name, ty));
        }
        let filter = self.filter(&from.inputs);
        let rank = match self.dice.chance(35) {
            true => {
                let function = *self.dice.pick(&["row_number", "rank", "dense_rank"]);
                let (partition, keys) = (self.partition(&from.inputs), self.keys(&from.inputs));
                let place = format!("{function}() OVER ({partition}ORDER BY {keys})");
                // Without the cast a filter on a rank bounds what is computed.
                let place = match self.dice.chance(70) {
                    true => place,
                    false => format!("CAST({place} AS bigint)"),
                };
                shown.retain(|(_, name, _)| name != "place");
                shown.push((place, "place".to_owned(), Ty::Big));
                let wanted = self.dice.between(1, 4);
                Some(*self.dice.pick(&["<=", "=", "<"])).map(|comparison| format!("place {comparison} {wanted}"))
            }
            false => None,
        };
        let mut written = self.written(&from, "", &shown, &filter, from.rows);
        written.plain = false;
        if let Some(rank) = rank {
            let columns: Vec<&str> = written.columns.iter().map(|(name, _)| name.as_str()).collect();
            written.sql = format!(
                "SELECT {} FROM ({}) ranked WHERE {rank}",
                columns.join(", "),
                written.sql
            );
        }
        written
    }

    /// Writes a view of the first rows in some order.
    pub(super) fn top(&mut self, nested: usize) -> Written {
        let from = self.from(nested);
        let shown = self.shown(&from.inputs, true);
        let filter = self.filter(&from.inputs);
        if self.dice.chance(35) {
            let key = self.dice.pick(&from.inputs).sql.clone();
            let keys = self.keys(&from.inputs);
            let order = match self.dice.chance(80) {
                true => format!("{filter} ORDER BY {key}, {keys}"),
                false => filter,
            };
            let mut written = self.written(&from, &format!("DISTINCT ON ({key}) "), &shown, &order, from.rows);
            written.plain = false;
            return written;
        }
        let keys = self.keys(&from.inputs);
        let rows = self.dice.between(1, 9);
        let limit = match self.dice.below(5) {
            0 => format!("LIMIT {rows} OFFSET {}", self.dice.between(1, 4)),
            1 => format!("OFFSET {rows}"),
            _ => format!("LIMIT {rows}"),
        };
        let order = match self.dice.chance(90) {
            true => format!("{filter} ORDER BY {keys} {limit}"),
            false => format!("{filter} {limit}"),
        };
        let mut written = self.written(&from, "", &shown, &order, from.rows);
        written.plain = false;
        written
    }
}
