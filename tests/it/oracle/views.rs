//! Random views: every supported operator, combined, over sources and over each other.

use super::dice::Dice;
use super::expressions::{Input, Writer};
use super::nested;
use super::values::Ty;

/// A relation a view may read.
#[derive(Clone, Debug)]
pub(crate) struct Readable {
    pub(crate) name: String,
    pub(crate) columns: Vec<(String, Ty)>,
    /// Its columns of lists, and the types of their elements.
    pub(crate) lists: Vec<(String, Ty)>,
    /// About how many rows it has: joins of joins would take all day.
    pub(crate) rows: usize,
    /// How many views lie under it.
    pub(crate) depth: usize,
}

/// A text, and what the test should know of it.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) sql: String,
    pub(crate) columns: Vec<(String, Ty)>,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    /// Whether plain DataFusion means the same by it.
    pub(crate) plain: bool,
}

/// The `FROM` of a query.
pub(super) struct From {
    pub(super) sql: String,
    /// Goes before the whole query.
    with: String,
    pub(super) inputs: Vec<Input>,
    pub(super) rows: usize,
    depth: usize,
    plain: bool,
}

impl From {
    /// Puts a query that stood before the text into it: a `UNION` has two texts.
    fn inlined(self) -> From {
        match self.with.strip_prefix("WITH q AS ") {
            Some(inner) => From {
                sql: format!("{} q", inner.trim_end()),
                with: String::new(),
                ..self
            },
            None => self,
        }
    }
}

const ROWS_MAX: usize = 900;
pub(crate) const DEPTH_MAX: usize = 3;

/// Writes views over some relations.
pub(crate) struct Views<'a> {
    pub(crate) dice: &'a mut Dice,
    pub(crate) relations: &'a [Readable],
    pub(crate) keys: usize,
    pub(crate) may_fail: bool,
}

impl Views<'_> {
    /// Writes a view.
    pub(crate) fn view(&mut self) -> Written {
        let mut written = self.query(2);
        while written.rows > ROWS_MAX || written.depth >= DEPTH_MAX {
            written = self.query(2);
        }
        written.depth += 1;
        written
    }

    fn query(&mut self, nested: usize) -> Written {
        if self.dice.chance(8)
            && let Some(written) = self.recursive()
        {
            return written;
        }
        if self.dice.chance(5)
            && let Some(written) = self.cascade()
        {
            return written;
        }
        match self.dice.weighted(&[22, 30, 7, 9, 12, 14, 8]) {
            0 => self.linear(nested),
            1 => self.grouped(nested, true),
            2 => self.grouped(nested, false),
            3 => self.distinct(nested),
            4 => self.union(nested),
            5 => self.windowed(nested),
            _ => self.top(nested),
        }
    }

    pub(crate) fn writer<'w>(&'w mut self, inputs: &'w [Input]) -> Writer<'w> {
        Writer {
            dice: self.dice,
            inputs,
            may_fail: self.may_fail,
        }
    }

    pub(super) fn relation(&mut self) -> Readable {
        self.dice.pick(self.relations).clone()
    }

    pub(super) fn from(&mut self, nested: usize) -> From {
        match self.dice.weighted(&[40, 30, if nested > 0 { 20 } else { 0 }, 9, 9, 6]) {
            3 => self.in_time_windows(nested),
            4 => self.unnested(),
            5 => self.as_of(),
            0 => {
                let relation = self.relation();
                From {
                    sql: relation.name.clone(),
                    with: String::new(),
                    inputs: inputs(&relation.columns, None),
                    rows: relation.rows,
                    depth: relation.depth,
                    plain: true,
                }
            }
            1 => self.join(nested),
            _ => {
                let inner = self.query(nested - 1);
                let inputs = inputs(&inner.columns, Some("q"));
                let nested_with = inner.sql.starts_with("WITH");
                let (with, sql) = if self.dice.chance(50) && !nested_with {
                    (format!("WITH q AS ({}) ", inner.sql), "q".to_owned())
                } else {
                    (String::new(), format!("({}) q", inner.sql))
                };
                From {
                    sql,
                    with,
                    inputs,
                    rows: inner.rows,
                    depth: inner.depth,
                    plain: inner.plain,
                }
            }
        }
    }

    /// Puts the rows of a relation or a small query into time windows.
    fn in_time_windows(&mut self, nested: usize) -> From {
        let (relation, columns, rows, depth, plain) = self.side(nested);
        let times: Vec<&String> = columns
            .iter()
            .filter_map(|(name, ty)| (*ty == Ty::Time).then_some(name))
            .collect();
        if times.is_empty() || columns.iter().any(|(name, _)| name.starts_with("window_")) {
            return self.from(0);
        }
        let time = (*self.dice.pick(&times)).clone();
        let keys: Vec<&String> = columns
            .iter()
            .filter_map(|(name, ty)| (*ty != Ty::Double).then_some(name))
            .collect();
        let (call, windows) = nested::time_window(self.dice, &relation, &time, &keys);
        let mut inputs = inputs(&columns, Some("w"));
        for edge in ["w.window_start", "w.window_end"] {
            inputs.push(Input {
                sql: edge.to_owned(),
                ty: Ty::Time,
            });
        }
        From {
            sql: format!("{call} w"),
            with: String::new(),
            inputs,
            rows: rows * windows,
            depth,
            plain,
        }
    }

    /// Puts beside each row of a relation the latest of another at that time.
    fn as_of(&mut self) -> From {
        let (left, right) = (self.relation(), self.relation());
        let times = |relation: &Readable| -> Vec<String> {
            let times = relation.columns.iter().filter(|(_, ty)| *ty == Ty::Time);
            times.map(|(name, _)| name.clone()).collect()
        };
        let (left_times, right_times) = (times(&left), times(&right));
        let taken = left.columns.iter().any(|(name, _)| name.starts_with("seen_"));
        if left_times.is_empty() || right_times.is_empty() || taken {
            return self.from(0);
        }
        let keys: Vec<String> = left
            .columns
            .iter()
            .filter(|column| right.columns.contains(column) && column.1 != Ty::Time)
            .map(|(name, _)| name.clone())
            .collect();
        let key = match keys.is_empty() || self.dice.chance(20) {
            true => None,
            false => Some(self.dice.pick(&keys).clone()),
        };
        let (shown, ty) = self.dice.pick(&right.columns).clone();
        let at = self.dice.pick(&right_times).clone();
        let own = key.iter().map(|key| format!("{key}, ")).collect::<String>();
        let mut inputs = inputs(&left.columns, Some(&left.name));
        for (sql, ty) in [("seen_at", Ty::Time), ("seen_x", ty)] {
            inputs.push(Input {
                sql: sql.to_owned(),
                ty,
            });
        }
        let by = key.iter().map(|key| format!(", {key}")).collect::<String>();
        From {
            sql: format!(
                "asof({}, {}, (SELECT {own}{at} AS seen_at, {shown} AS seen_x FROM {}), seen_at{by})",
                left.name,
                self.dice.pick(&left_times),
                right.name
            ),
            with: String::new(),
            inputs,
            rows: left.rows,
            depth: left.depth.max(right.depth),
            plain: false,
        }
    }

    /// Makes rows of the elements of a list.
    fn unnested(&mut self) -> From {
        let relation = self.relation();
        let mut inputs = inputs(&relation.columns, Some("r"));
        let list = match relation.lists.is_empty() || self.dice.chance(30) {
            true => nested::list(self.dice, &inputs),
            false => {
                let (name, ty) = self.dice.pick(&relation.lists).clone();
                Some((format!("r.{name}"), ty))
            }
        };
        let Some((list, ty)) = list else { return self.from(0) };
        let mut element = "el".to_owned();
        while relation.columns.iter().any(|(name, _)| *name == element) {
            element.push('l');
        }
        let name = &relation.name;
        let form = self.dice.below(4);
        let sql = match form {
            0 => format!("{name} r, unnest({list}) AS u({element})"),
            1 => format!("{name} r CROSS JOIN LATERAL (SELECT unnest({list}) AS {element}) u"),
            2 => format!("{name} r LEFT JOIN unnest({list}) AS u({element}) ON true"),
            _ => format!("(SELECT r.*, unnest({list}) AS {element} FROM {name} r) u"),
        };
        if form == 3 {
            inputs = self::inputs(&relation.columns, Some("u"));
        }
        inputs.push(Input {
            sql: format!("u.{element}"),
            ty,
        });
        From {
            sql,
            with: String::new(),
            inputs,
            rows: relation.rows * 3,
            depth: relation.depth,
            plain: true,
        }
    }

    /// Writes one more column to show, of no plain type, or nothing.
    fn nested_column(&mut self, inputs: &[Input]) -> Option<String> {
        match self.dice.chance(12) {
            true => nested::value(self.dice, inputs),
            false => None,
        }
    }

    /// A side of a join: a relation, or a small query.
    fn side(&mut self, nested: usize) -> (String, Vec<(String, Ty)>, usize, usize, bool) {
        if nested > 0 && self.dice.chance(20) {
            let inner = if self.dice.chance(60) {
                self.grouped(nested - 1, true)
            } else {
                self.linear(nested - 1)
            };
            return (
                format!("({})", inner.sql),
                inner.columns,
                inner.rows,
                inner.depth,
                inner.plain,
            );
        }
        let relation = self.relation();
        (relation.name, relation.columns, relation.rows, relation.depth, true)
    }

    fn join(&mut self, nested: usize) -> From {
        let (left, columns, mut rows, mut depth, mut plain) = self.side(nested);
        let mut sql = format!("{left} a");
        let mut all = inputs(&columns, Some("a"));
        let sides = if self.dice.chance(25) { 2 } else { 1 };
        for alias in ["b", "c"].into_iter().take(sides) {
            let (right, columns, right_rows, right_depth, right_plain) = self.side(nested);
            let right_inputs = inputs(&columns, Some(alias));
            let kind = match self.dice.weighted(&[48, 28, 8, 12, 4]) {
                0 => "JOIN",
                1 => "LEFT JOIN",
                2 => "RIGHT JOIN",
                3 => "FULL JOIN",
                _ if rows * right_rows <= ROWS_MAX => "CROSS JOIN",
                _ => "JOIN",
            };
            if kind == "CROSS JOIN" {
                sql = format!("{sql} CROSS JOIN {right} {alias}");
                rows *= right_rows;
                all.extend(right_inputs);
                depth = depth.max(right_depth);
                plain &= right_plain;
                continue;
            }
            let mut on = Vec::new();
            let mut pairs: Vec<(Input, Input)> = Vec::new();
            for left in &all {
                for right in right_inputs
                    .iter()
                    .filter(|right| right.ty == left.ty && !matches!(left.ty, Ty::Bool | Ty::Decimal))
                {
                    // Columns of one name mean the same: they meet.
                    let weight = if left.sql.split('.').next_back() == right.sql.split('.').next_back() {
                        6
                    } else {
                        1
                    };
                    pairs.extend(std::iter::repeat_n((left.clone(), right.clone()), weight));
                }
            }
            let keys = if self.dice.chance(35) { 2 } else { 1 };
            for _ in 0..keys {
                if pairs.is_empty() {
                    break;
                }
                let (left, right) = self.dice.pick(&pairs).clone();
                let equals = if keys == 1 && self.dice.chance(8) {
                    "IS NOT DISTINCT FROM"
                } else {
                    "="
                };
                if left.ty == Ty::Big && equals == "=" && self.dice.chance(12) {
                    on.push(format!("{} + CAST(1 AS bigint) = {}", left.sql, right.sql));
                } else {
                    on.push(format!("{} {equals} {}", left.sql, right.sql));
                }
            }
            if on.is_empty() {
                on.push(format!(
                    "CAST({} AS text) = CAST({} AS text)",
                    all[0].sql, right_inputs[0].sql
                ));
                rows = rows.max(right_rows);
            }
            if self.dice.chance(15) {
                on.push(self.writer(&right_inputs).condition(0));
            } else if kind != "JOIN" && self.dice.chance(15) {
                on.push(self.writer(&all).condition(0));
            } else if self.dice.chance(15) {
                on.push(self.over_both(&all, &right_inputs));
            }
            if let Some(near) = self.near(&all, &right_inputs) {
                // Alone, so that pairs are found by their times only.
                if self.dice.chance(25) && rows * right_rows <= 2 * ROWS_MAX {
                    on.clear();
                }
                on.push(near);
            }
            sql = format!("{sql} {kind} {right} {alias} ON {}", on.join(" AND "));
            rows = (rows * right_rows / self.keys.max(1)).max(rows);
            all.extend(right_inputs);
            depth = depth.max(right_depth);
            plain &= right_plain;
        }
        From {
            sql,
            with: String::new(),
            inputs: all,
            rows,
            depth,
            plain,
        }
    }

    /// Writes a condition over both sides of a join that no row fails.
    fn over_both(&mut self, left: &[Input], right: &[Input]) -> String {
        let mut pairs = Vec::new();
        for left in left {
            pairs.extend(
                right
                    .iter()
                    .filter(|right| right.ty == left.ty)
                    .map(|right| (left, right)),
            );
        }
        match pairs.is_empty() {
            true => format!("{} IS NOT NULL OR {} IS NULL", left[0].sql, right[0].sql),
            false => {
                let (left, right) = *self.dice.pick(&pairs);
                let comparison = *self.dice.pick(&["<", "<=", "<>", ">"]);
                format!("{} {comparison} {}", left.sql, right.sql)
            }
        }
    }

    /// Writes how near each other the times of both sides must be, or nothing.
    fn near(&mut self, left: &[Input], right: &[Input]) -> Option<String> {
        if !self.dice.chance(16) {
            return None;
        }
        let of = |inputs: &[Input]| -> Vec<String> {
            let times = inputs.iter().filter(|input| input.ty == Ty::Time);
            times.map(|input| input.sql.clone()).collect()
        };
        let (lefts, rights) = (of(left), of(right));
        if lefts.is_empty() || rights.is_empty() {
            return None;
        }
        let (a, b) = (self.dice.pick(&lefts).clone(), self.dice.pick(&rights).clone());
        let span = *self.dice.pick(&["1 minute", "5 minutes", "2 hours"]);
        Some(match self.dice.below(6) {
            0 => format!("{a} BETWEEN {b} - INTERVAL '{span}' AND {b}"),
            1 => format!("{b} BETWEEN {a} - INTERVAL '{span}' AND {a} + INTERVAL '1 minute'"),
            2 => format!("{a} < {b} AND {b} <= {a} + INTERVAL '{span}'"),
            3 => format!("{a} + INTERVAL '{span}' > {b} AND {a} - INTERVAL '{span}' < {b}"),
            4 => format!("{b} >= {a} - INTERVAL '{span}'"),
            _ => format!("{a} > {b} - INTERVAL '{span}' AND {b} >= {a}"),
        })
    }

    /// Writes a condition with a subquery, where a relation has a column to compare with.
    fn subquery(&mut self, inputs: &[Input]) -> Option<String> {
        let outer = self.dice.pick(inputs).clone();
        let relation = self.relation();
        let alike = |column: &&(String, Ty)| column.1 == outer.ty && !matches!(outer.ty, Ty::Bool | Ty::Decimal);
        let (column, _) = relation.columns.iter().find(alike)?.clone();
        let filter = if self.dice.chance(50) {
            let own: Vec<Input> = self::inputs(&relation.columns, Some("s"));
            let condition = Writer {
                dice: self.dice,
                inputs: &own,
                may_fail: false,
            };
            format!(" AND {}", { condition }.condition(0))
        } else {
            String::new()
        };
        let name = &relation.name;
        let not = *self.dice.pick(&["", "", "NOT "]);
        // Inside the subquery, a bare name is the subquery's own.
        let correlated = outer.sql.contains('.');
        Some(match self.dice.below(3) {
            0 if correlated => {
                let both = self.over_both(inputs, &self::inputs(&relation.columns, Some("s")));
                let both = if inputs.iter().all(|input| input.sql.contains('.')) && self.dice.chance(40) {
                    format!(" AND ({both})")
                } else {
                    String::new()
                };
                format!(
                    "{not}EXISTS (SELECT 1 FROM {name} s WHERE s.{column} = {}{filter}{both})",
                    outer.sql
                )
            }
            1 => {
                let other = self.writer(inputs).condition(0);
                format!(
                    "({other} OR {} IN (SELECT s.{column} FROM {name} s WHERE true{filter}))",
                    outer.sql
                )
            }
            _ => format!(
                "{} {not}IN (SELECT s.{column} FROM {name} s WHERE true{filter})",
                outer.sql
            ),
        })
    }

    /// Writes a `WHERE`, or nothing.
    pub(super) fn filter(&mut self, inputs: &[Input]) -> String {
        let mut conjuncts = Vec::new();
        if self.dice.chance(35) {
            conjuncts.push(self.writer(inputs).condition(2));
        }
        if self.dice.chance(9)
            && let Some(condition) = self.subquery(inputs)
        {
            conjuncts.push(condition);
        }
        if self.dice.chance(28)
            && let Some(time) = self.writer(inputs).column(Ty::Time)
        {
            let near = *self.dice.pick(&["20 minutes", "1 hour", "90 minutes"]);
            let far = *self.dice.pick(&["2 hours", "6 hours", "1 day"]);
            let other = self.writer(inputs).column(Ty::Time).unwrap_or_else(|| time.clone());
            let condition = self.writer(inputs).condition(1);
            conjuncts.push(match self.dice.below(15) {
                9 => format!("({time} > now() - INTERVAL '{near}' OR {condition})"),
                10 => format!("NOT ({time} < now() - INTERVAL '{near}' AND {condition})"),
                11 => format!("({time} > now() OR {other} < now() - INTERVAL '{near}')"),
                12 => format!("now() BETWEEN {time} AND {other} + INTERVAL '{near}'"),
                13 => format!("{time} NOT BETWEEN now() - INTERVAL '{far}' AND now() - INTERVAL '{near}'"),
                14 => format!(
                    "({time} > now() - INTERVAL '{near}' AND {condition} OR {other} <= now() - INTERVAL '{far}' OR NOT ({time} >= now() - INTERVAL '{far}' OR {condition}))"
                ),
                0 | 1 => format!("{time} > now() - INTERVAL '{near}'"),
                2 => format!("{time} >= now() - INTERVAL '{far}'"),
                3 => format!("now() - INTERVAL '{near}' < {time}"),
                4 => format!("{time} + INTERVAL '{near}' > now()"),
                5 => format!("{time} > now() - INTERVAL '{far}' AND {time} <= now() - INTERVAL '{near}'"),
                6 => format!("{time} BETWEEN now() - INTERVAL '{far}' AND now()"),
                7 => format!("date_trunc('hour', {time}) >= now() - INTERVAL '{far}'"),
                _ => format!("{time} < now() + INTERVAL '{near}'"),
            });
        }
        if conjuncts.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conjuncts.join(" AND "))
        }
    }

    /// Writes what a `SELECT` shows: some columns as they are, some computed.
    pub(super) fn shown(&mut self, inputs: &[Input], computed: bool) -> Vec<(String, String, Ty)> {
        let count = self.dice.between(1, 4) as usize;
        let mut shown: Vec<(String, String, Ty)> = Vec::new();
        for index in 0..count {
            let input = self.dice.pick(inputs).clone();
            if !computed || self.dice.chance(55) {
                let bare = input.sql.rsplit('.').next().unwrap_or(&input.sql).to_owned();
                let name = if shown.iter().any(|(_, name, _)| *name == bare) || bare.starts_with('x') {
                    format!("x{index}")
                } else {
                    bare
                };
                shown.push((input.sql, name, input.ty));
            } else {
                let sql = self.writer(inputs).expression(input.ty, 2);
                shown.push((sql, format!("x{index}"), input.ty));
            }
        }
        shown
    }

    fn linear(&mut self, nested: usize) -> Written {
        let from = self.from(nested);
        let shown = self.shown(&from.inputs, true);
        let filter = self.filter(&from.inputs);
        let more = self.nested_column(&from.inputs);
        let more = more.map_or_else(String::new, |value| format!("{value} AS l0, "));
        self.written(&from, &more, &shown, &filter, from.rows)
    }

    fn distinct(&mut self, nested: usize) -> Written {
        let from = self.from(nested);
        let shown = self.shown(&from.inputs, true);
        let filter = self.filter(&from.inputs);
        let more = self.nested_column(&from.inputs);
        let more = more.map_or_else(String::new, |value| format!("{value} AS l0, "));
        self.written(&from, &format!("DISTINCT {more}"), &shown, &filter, from.rows)
    }

    fn union(&mut self, nested: usize) -> Written {
        let (first, second) = (self.from(nested.min(1)).inlined(), self.from(nested.min(1)).inlined());
        let shown = self.shown(&first.inputs, true);
        let others: Vec<(String, String, Ty)> = shown
            .iter()
            .enumerate()
            .map(|(index, (_, _, ty))| {
                let mut writer = self.writer(&second.inputs);
                let sql = writer.column(*ty).unwrap_or_else(|| writer.expression(*ty, 1));
                (sql, format!("y{index}"), *ty)
            })
            .collect();
        let (left, right) = (self.filter(&first.inputs), self.filter(&second.inputs));
        let left = self.written(&first, "", &shown, &left, first.rows);
        let right = self.written(&second, "", &others, &right, second.rows);
        let operation = match self.dice.below(12) {
            0 => "INTERSECT",
            1 => "EXCEPT",
            _ => "UNION",
        };
        let all = if self.dice.chance(60) { "ALL " } else { "" };
        Written {
            sql: format!("{} {operation} {all}{}", left.sql, right.sql),
            columns: left.columns,
            rows: if operation == "UNION" {
                left.rows + right.rows
            } else {
                left.rows
            },
            depth: left.depth.max(right.depth),
            plain: left.plain && right.plain,
        }
    }

    fn grouped(&mut self, nested: usize, keyed: bool) -> Written {
        let from = self.from(nested);
        let mut shown = Vec::new();
        let mut keys = Vec::new();
        let count = if !keyed { 0 } else { self.dice.between(1, 2) };
        for index in 0..count {
            let input = self.dice.pick(&from.inputs).clone();
            let (sql, ty) = match self.dice.below(10) {
                0 => (self.writer(&from.inputs).expression(input.ty, 1), input.ty),
                1 | 2 if input.ty == Ty::Time => (format!("date_bin(INTERVAL '1 hour', {})", input.sql), Ty::Time),
                _ => (input.sql.clone(), input.ty),
            };
            if keys.contains(&sql) {
                continue;
            }
            let bare = sql.rsplit('.').next().unwrap_or(&sql).to_owned();
            let name = if sql == input.sql && shown.iter().all(|(_, name, _)| *name != bare) {
                bare
            } else {
                format!("key{index}")
            };
            keys.push(sql.clone());
            shown.push((sql, name, ty));
        }
        let nested_key = if keys.is_empty() {
            None
        } else {
            self.nested_column(&from.inputs)
        };
        keys.extend(nested_key.clone());
        let more = nested_key.map_or_else(String::new, |value| format!("{value} AS l0, "));
        let mut plain = from.plain;
        for index in 0..self.dice.between(1, 4) {
            let (sql, ty, agrees) = self.aggregate(&from.inputs);
            plain &= agrees;
            let mut name = format!("s{index}");
            while shown.iter().any(|(_, taken, _)| *taken == name) {
                name.push('s');
            }
            shown.push((sql, name, ty));
        }
        let mut rest = self.filter(&from.inputs);
        let time = shown.iter().find(|(sql, _, ty)| *ty == Ty::Time && keys.contains(sql));
        if let Some((time, ..)) = time
            && self.dice.chance(40)
        {
            // Groups of a time are mostly wanted while it is near.
            let near = *self.dice.pick(&["20 minutes", "1 hour", "6 hours"]);
            let how = if rest.is_empty() { "WHERE" } else { "AND" };
            rest = format!("{rest} {how} {time} > now() - INTERVAL '{near}'");
        }
        if !keys.is_empty() {
            let groups = if self.dice.chance(16) {
                let (groups, _) = self.groupings(&keys);
                if self.dice.chance(40) {
                    shown.push((format!("grouping({})", keys[0]), "level".to_owned(), Ty::Int));
                }
                groups
            } else {
                keys.join(", ")
            };
            rest = format!("{rest} GROUP BY {groups}");
        }
        if self.dice.chance(22) {
            let having = match self.dice.below(3) {
                0 => "count(*) > 1".to_owned(),
                1 => "count(*) % 2 = 1".to_owned(),
                _ => {
                    let column = self
                        .writer(&from.inputs)
                        .column(Ty::Big)
                        .unwrap_or_else(|| "1".to_owned());
                    format!("sum({column}) <= 40")
                }
            };
            rest = format!("{rest} HAVING {having}");
        }
        let rows = if keys.is_empty() {
            1
        } else {
            (from.rows).min(self.keys * self.keys * keys.len())
        };
        let mut written = self.written(&from, &more, &shown, &rest, rows);
        written.plain = plain;
        written
    }

    /// Writes an aggregate; tells its type, and whether plain DataFusion gives the same.
    fn aggregate(&mut self, inputs: &[Input]) -> (String, Ty, bool) {
        let filter = if self.dice.chance(22) {
            format!(" FILTER (WHERE {})", self.writer(inputs).condition(1))
        } else {
            String::new()
        };
        let input = self.dice.pick(inputs).clone();
        if self.dice.chance(45) {
            return self.statistic(inputs, &filter);
        }
        let (call, ty, plain) = match self.dice.below(16) {
            14 => (
                format!("count(DISTINCT {})", input.sql),
                Ty::Big,
                input.ty != Ty::Double,
            ),
            15 => {
                let function = *self.dice.pick(&["sum", "avg", "count", "stddev"]);
                let ty = if function == "count" { Ty::Big } else { Ty::Double };
                // Plain DataFusion tells -0.0 from 0.0.
                (
                    format!("{function}(DISTINCT {})", self.argument(inputs, Ty::Double)),
                    ty,
                    false,
                )
            }
            0 => ("count(*)".to_owned(), Ty::Big, true),
            1 => (format!("count({})", input.sql), Ty::Big, true),
            2 | 3 => (format!("sum({})", self.argument(inputs, Ty::Big)), Ty::Big, true),
            4 => (format!("sum({})", self.argument(inputs, Ty::Double)), Ty::Double, true),
            5 => {
                let number = self.argument(inputs, Ty::Double);
                (format!("avg({number})"), Ty::Double, true)
            }
            6 => (format!("avg({})", self.argument(inputs, Ty::Big)), Ty::Double, true),
            7 => {
                let function = *self.dice.pick(&["stddev", "var_samp", "var_pop", "stddev_pop"]);
                (
                    format!("{function}({})", self.argument(inputs, Ty::Double)),
                    Ty::Double,
                    true,
                )
            }
            8 | 9 => (format!("min({})", input.sql), input.ty, input.ty != Ty::Bool),
            10 => (format!("max({})", input.sql), input.ty, input.ty != Ty::Bool),
            11 if inputs.iter().any(|input| input.ty == Ty::Decimal) => {
                let function = *self.dice.pick(&["sum", "avg"]);
                (
                    format!("{function}({})", self.argument(inputs, Ty::Decimal)),
                    Ty::Decimal,
                    true,
                )
            }
            _ => {
                let function = *self.dice.pick(&["first_value", "last_value"]);
                let order = self.dice.pick(inputs).sql.clone();
                let direction = *self.dice.pick(&["", " DESC", " ASC NULLS FIRST", " DESC NULLS LAST"]);
                let second = if self.dice.chance(25) {
                    let nulls = *self.dice.pick(&["", " NULLS FIRST"]);
                    format!(", {}{nulls}", self.dice.pick(inputs).sql)
                } else {
                    String::new()
                };
                (
                    format!("{function}({} ORDER BY {order}{direction}{second})", input.sql),
                    input.ty,
                    false,
                )
            }
        };
        (format!("{call}{filter}"), ty, plain)
    }

    pub(super) fn written(
        &mut self,
        from: &From,
        distinct: &str,
        shown: &[(String, String, Ty)],
        rest: &str,
        rows: usize,
    ) -> Written {
        let list: Vec<String> = shown.iter().map(|(sql, name, _)| format!("{sql} AS {name}")).collect();
        Written {
            sql: format!(
                "{}SELECT {distinct}{} FROM {}{rest}",
                from.with,
                list.join(", "),
                from.sql
            ),
            columns: shown.iter().map(|(_, name, ty)| (name.clone(), *ty)).collect(),
            rows: rows.max(1),
            depth: from.depth,
            plain: from.plain,
        }
    }
}

pub(super) fn inputs(columns: &[(String, Ty)], alias: Option<&str>) -> Vec<Input> {
    columns
        .iter()
        .map(|(name, ty)| Input {
            sql: alias.map_or_else(|| name.clone(), |alias| format!("{alias}.{name}")),
            ty: *ty,
        })
        .collect()
}
