//! Random scalar expressions, typed so that nearly all of them are accepted.

use super::dice::Dice;
use super::values::Ty;

/// A column an expression may read.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    /// As it is written, qualified where it must be.
    pub(crate) sql: String,
    pub(crate) ty: Ty,
}

/// Writes expressions over some columns.
pub(crate) struct Writer<'a> {
    pub(crate) dice: &'a mut Dice,
    pub(crate) inputs: &'a [Input],
    /// Whether expressions may fail on some rows.
    pub(crate) may_fail: bool,
}

impl Writer<'_> {
    /// Returns a column of a type, if there is one.
    pub(crate) fn column(&mut self, ty: Ty) -> Option<String> {
        let fitting: Vec<&Input> = self.inputs.iter().filter(|input| input.ty == ty).collect();
        (!fitting.is_empty()).then(|| self.dice.pick(&fitting).sql.clone())
    }

    /// Returns any column.
    pub(crate) fn any(&mut self) -> Input {
        self.dice.pick(self.inputs).clone()
    }

    fn literal(&mut self, ty: Ty) -> String {
        let number = self.dice.between(-3, 6);
        match ty {
            Ty::Big => format!("CAST({number} AS bigint)"),
            Ty::Int => format!("CAST({number} AS integer)"),
            Ty::Double => format!("CAST({number}.5 AS double)"),
            Ty::Text => format!("'{}'", self.dice.pick(&["a", "b", "", "x1", "é"])),
            Ty::Bool => (*self.dice.pick(&["true", "false"])).to_owned(),
            Ty::Time => "TIMESTAMP '2026-01-01T06:00:00Z'".to_owned(),
            Ty::Date => "DATE '2026-01-02'".to_owned(),
            Ty::Decimal => format!("CAST({number}.25 AS decimal(10, 2))"),
        }
    }

    fn leaf(&mut self, ty: Ty) -> String {
        if self.dice.chance(85)
            && let Some(column) = self.column(ty)
        {
            return column;
        }
        match ty {
            Ty::Time | Ty::Date | Ty::Decimal => self.column(ty).unwrap_or_else(|| self.literal(ty)),
            _ => self.literal(ty),
        }
    }

    /// Writes an expression of a type, nested at most `depth` deep.
    pub(crate) fn expression(&mut self, ty: Ty, depth: usize) -> String {
        if depth == 0 || self.dice.chance(30) {
            return self.leaf(ty);
        }
        let depth = depth - 1;
        match self.dice.below(10) {
            0 => {
                let (condition, then, other) = (
                    self.condition(depth),
                    self.expression(ty, depth),
                    self.expression(ty, depth),
                );
                return format!("CASE WHEN {condition} THEN {then} ELSE {other} END");
            }
            1 => {
                let (first, second) = (self.expression(ty, depth), self.expression(ty, depth));
                return format!("COALESCE({first}, {second})");
            }
            2 if ty != Ty::Bool => {
                let (first, second) = (self.expression(ty, depth), self.leaf(ty));
                return format!("NULLIF({first}, {second})");
            }
            _ => {}
        }
        let fails = self.may_fail;
        match ty {
            Ty::Big => match self.dice.below(if fails { 11 } else { 6 }) {
                0..=2 => self.binary(ty, &["+", "-", "*"], depth),
                3 => format!("CAST({} AS bigint)", self.expression(Ty::Int, depth)),
                4 => format!("CAST(length({}) AS bigint)", self.expression(Ty::Text, depth)),
                5 => format!("- {}", self.leaf(ty)),
                6 | 7 => self.binary(ty, &["/", "%"], depth),
                8 => format!("abs({})", self.expression(ty, depth)),
                9 => format!("CAST({} AS bigint)", self.leaf(Ty::Text)),
                _ => format!("CAST({} AS bigint)", self.expression(Ty::Double, depth)),
            },
            Ty::Int => match self.dice.below(if fails { 5 } else { 3 }) {
                0 | 1 => self.binary(ty, &["+", "-", "*"], depth),
                2 => format!("CAST(length({}) AS integer)", self.expression(Ty::Text, depth)),
                3 => self.binary(ty, &["/", "%"], depth),
                _ => format!("CAST({} AS integer)", self.expression(Ty::Big, depth)),
            },
            Ty::Double => match self.dice.below(if fails { 8 } else { 7 }) {
                0..=2 => self.binary(ty, &["+", "-", "*", "/"], depth),
                3 => format!("CAST({} AS double)", self.expression(Ty::Big, depth)),
                4 => format!("abs({})", self.expression(ty, depth)),
                5 => format!(
                    "{}({})",
                    self.dice.pick(&["round", "floor", "ceil", "sqrt"]),
                    self.expression(ty, depth)
                ),
                6 => format!("CAST({} AS double)", self.leaf(Ty::Decimal)),
                _ => format!("CAST({} AS double)", self.leaf(Ty::Text)),
            },
            Ty::Text => match self.dice.below(7) {
                0 => format!("upper({})", self.expression(ty, depth)),
                1 => format!("lower({})", self.expression(ty, depth)),
                2 => format!("concat({}, {})", self.expression(ty, depth), self.expression(ty, depth)),
                3 => format!("({} || {})", self.expression(ty, depth), self.expression(ty, depth)),
                4 => format!(
                    "substr({}, {}, {})",
                    self.expression(ty, depth),
                    self.dice.between(1, 3),
                    self.dice.between(0, 3)
                ),
                5 => format!("CAST({} AS text)", self.expression(Ty::Big, depth)),
                _ => format!("replace({}, 'a', 'zz')", self.expression(ty, depth)),
            },
            Ty::Bool => self.condition(depth),
            Ty::Time => match self.dice.below(3) {
                0 => format!(
                    "date_trunc('{}', {})",
                    self.dice.pick(&["hour", "day", "minute"]),
                    self.leaf(ty)
                ),
                1 => format!(
                    "date_bin(INTERVAL '{} minutes', {})",
                    self.dice.pick(&[10, 60, 90]),
                    self.leaf(ty)
                ),
                _ => format!(
                    "({} {} INTERVAL '90 minutes')",
                    self.leaf(ty),
                    self.dice.pick(&["+", "-"])
                ),
            },
            Ty::Date if fails => format!("CAST({} AS date)", self.leaf(Ty::Time)),
            Ty::Date => self.leaf(ty),
            Ty::Decimal if fails => format!("CAST({} AS decimal(10, 2))", self.leaf(Ty::Double)),
            Ty::Decimal => format!("abs({})", self.leaf(ty)),
        }
    }

    fn binary(&mut self, ty: Ty, operators: &[&str], depth: usize) -> String {
        let operator = *self.dice.pick(operators);
        format!(
            "({} {operator} {})",
            self.expression(ty, depth),
            self.expression(ty, depth)
        )
    }

    /// Writes a condition.
    pub(crate) fn condition(&mut self, depth: usize) -> String {
        if depth > 0 && self.dice.chance(35) {
            let (left, right) = (self.condition(depth - 1), self.condition(depth - 1));
            return match self.dice.below(5) {
                0 => format!("NOT ({left})"),
                1 | 2 => format!("({left} OR {right})"),
                _ => format!("({left} AND {right})"),
            };
        }
        let input = self.any();
        let (column, ty) = (input.sql, input.ty);
        match (self.dice.below(8), ty) {
            (0, _) => format!("({column} IS NOT NULL)"),
            (1, _) => format!("({column} IS DISTINCT FROM {})", self.leaf(ty)),
            (_, Ty::Bool) => column,
            (2, Ty::Text) => format!("{column} LIKE '{}'", self.dice.pick(&["a%", "%1%", "_", "%"])),
            (3, Ty::Big | Ty::Int) => format!("{column} IN (0, 1, 2, {})", self.dice.between(3, 9)),
            (4, Ty::Big | Ty::Int | Ty::Double) => {
                format!(
                    "{column} {}BETWEEN {} AND {}",
                    self.dice.pick(&["", "NOT "]),
                    self.literal(ty),
                    self.literal(ty)
                )
            }
            _ => {
                let operator = *self.dice.pick(&["<", "<=", ">", ">=", "=", "<>", ">=", "<=", "<>"]);
                format!("{column} {operator} {}", self.expression(ty, depth.min(1)))
            }
        }
    }
}
