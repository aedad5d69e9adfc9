//! Random calls of the aggregates beyond counts, sums, means and extremes.

use super::expressions::Input;
use super::values::Ty;
use super::views::Views;

/// Every aggregate that random views must have written, by its name in a plan.
pub(crate) const WRITTEN: [&str; 39] = [
    "count(*)",
    "count",
    "approx_distinct",
    "sum",
    "avg",
    "min",
    "max",
    "any_value",
    "var_samp",
    "var_pop",
    "stddev_samp",
    "stddev_pop",
    "covar_samp",
    "covar_pop",
    "corr",
    "regr_slope",
    "regr_intercept",
    "regr_count",
    "regr_r2",
    "regr_avgx",
    "regr_avgy",
    "regr_sxx",
    "regr_syy",
    "regr_sxy",
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "bit_xor",
    "median",
    "approx_median",
    "percentile_cont",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "first_value",
    "last_value",
    "nth_value",
    "array_agg",
    "string_agg",
];

/// Aggregates of DataFusion that no random view writes as an aggregate, and why.
pub(crate) const NOT_WRITTEN: [(&str, &str); 1] = [("grouping", "it becomes a column beside GROUPING SETS")];

#[test]
fn the_oracle_writes_every_aggregate() {
    for function in datafusion::functions_aggregate::all_default_aggregate_functions() {
        let name = match function.name() {
            "var" => "var_samp",
            "stddev" => "stddev_samp",
            name => name,
        };
        assert!(
            WRITTEN.contains(&name) || NOT_WRITTEN.iter().any(|(other, _)| *other == name),
            "no random view writes {name}"
        );
    }
}

impl Views<'_> {
    /// Writes an argument of a type: most often a column.
    pub(crate) fn argument(&mut self, inputs: &[Input], ty: Ty) -> String {
        let mut writer = self.writer(inputs);
        if writer.dice.chance(70)
            && let Some(column) = writer.column(ty)
        {
            column
        } else {
            writer.expression(ty, 1)
        }
    }

    fn order(&mut self, inputs: &[Input]) -> String {
        let by = self.dice.pick(inputs).sql.clone();
        let direction = *self.dice.pick(&["", " DESC", " ASC NULLS FIRST", " DESC NULLS LAST"]);
        let second = if self.dice.chance(30) {
            let by = self.dice.pick(inputs).sql.clone();
            format!(", {by}{}", self.dice.pick(&["", " DESC", " NULLS FIRST"]))
        } else {
            String::new()
        };
        format!("{by}{direction}{second}")
    }

    /// Writes a call; tells what goes before it in the list, its type, and whether plain DataFusion gives the same.
    pub(crate) fn statistic(&mut self, inputs: &[Input], filter: &str) -> (String, Ty, bool) {
        let input = self.dice.pick(inputs).clone();
        let distinct = *self.dice.pick(&["", "", "", "DISTINCT "]);
        let (call, ty, plain) = match self.dice.below(23) {
            22 => return self.mode(inputs, filter),
            0 | 1 => {
                let function = *self.dice.pick(&["bool_and", "bool_or"]);
                (
                    format!("{function}({})", self.argument(inputs, Ty::Bool)),
                    Ty::Bool,
                    true,
                )
            }
            2..=4 => {
                let function = *self.dice.pick(&["bit_and", "bit_or", "bit_xor"]);
                let ty = *self.dice.pick(&[Ty::Big, Ty::Int]);
                // In groups, plain DataFusion passes over the DISTINCT of bit_xor.
                let agrees = distinct.is_empty() || function != "bit_xor";
                (
                    format!("{function}({distinct}{})", self.argument(inputs, ty)),
                    ty,
                    agrees,
                )
            }
            5..=9 => return self.over_pairs(inputs, filter),
            10 | 11 => {
                let ty = *self.dice.pick(&[Ty::Double, Ty::Double, Ty::Big, Ty::Decimal]);
                let number = self.argument(inputs, ty);
                let ty = if ty == Ty::Big { Ty::Double } else { ty };
                (format!("median({distinct}{number})"), ty, true)
            }
            12 => (
                format!("approx_median({})", self.argument(inputs, Ty::Double)),
                Ty::Double,
                false,
            ),
            13..=15 => self.percentile(inputs),
            16 => {
                let kinds = [
                    format!("CAST(approx_distinct({}) AS bigint)", input.sql),
                    format!("count({distinct}{}, {})", input.sql, self.dice.pick(inputs).sql),
                ];
                let kind = self.dice.below(2);
                let plain = kind == 1 && distinct.is_empty();
                let call = match kind {
                    0 => return (kinds[0].replace(") AS", &format!("){filter} AS")), Ty::Big, false),
                    _ => kinds[1].clone(),
                };
                (call, Ty::Big, plain)
            }
            17 => (format!("any_value({})", input.sql), input.ty, false),
            18 => {
                let at = *self.dice.pick(&[1, 2, 3, -1, -2]);
                let order = self.order(inputs);
                (
                    format!("nth_value({}, {at} ORDER BY {order})", input.sql),
                    input.ty,
                    false,
                )
            }
            19 => {
                let argument = self.argument(inputs, Ty::Text);
                let delimiter = *self.dice.pick(&["', '", "''", "'|'"]);
                let (order, plain) = match (distinct.is_empty(), self.dice.below(3)) {
                    (_, 0) => (format!(" ORDER BY {argument}"), true),
                    (true, 1) => (format!(" ORDER BY {}", self.order(inputs)), false),
                    _ => (String::new(), false),
                };
                (
                    format!("string_agg({distinct}{argument}, {delimiter}{order})"),
                    Ty::Text,
                    plain,
                )
            }
            _ => {
                let (order, plain) = match (distinct.is_empty(), self.dice.below(3)) {
                    (_, 0) => {
                        let direction = *self.dice.pick(&["", " DESC", " ASC NULLS FIRST"]);
                        (format!(" ORDER BY {}{direction}", input.sql), true)
                    }
                    (true, 1) => (format!(" ORDER BY {}", self.order(inputs)), false),
                    _ => (String::new(), false),
                };
                let nulls = *self.dice.pick(&["", "", " IGNORE NULLS"]);
                let list = format!("array_agg({distinct}{}{order}){filter}{nulls}", input.sql);
                // No expression reads a list: the list leaves as it is, beside its length.
                let name = format!("l{}", self.dice.below(1_000_000));
                (format!("{list} AS {name}, count(*)"), Ty::Big, plain)
            }
        };
        (format!("{call}{filter}"), ty, plain)
    }

    fn over_pairs(&mut self, inputs: &[Input], filter: &str) -> (String, Ty, bool) {
        let (y, x) = (self.argument(inputs, Ty::Double), self.argument(inputs, Ty::Double));
        let function = *self.dice.pick(&[
            "covar_samp",
            "covar_pop",
            "corr",
            "regr_slope",
            "regr_intercept",
            "regr_count",
            "regr_r2",
            "regr_avgx",
            "regr_avgy",
            "regr_sxx",
            "regr_syy",
            "regr_sxy",
        ]);
        if function == "regr_count" {
            return (format!("CAST({function}({y}, {x}){filter} AS bigint)"), Ty::Big, true);
        }
        // What plain DataFusion divides by may be rounding errors alone.
        let exact = matches!(
            function,
            "covar_samp" | "covar_pop" | "regr_sxx" | "regr_syy" | "regr_sxy"
        );
        (format!("{function}({y}, {x}){filter}"), Ty::Double, exact)
    }

    fn percentile(&mut self, inputs: &[Input]) -> (String, Ty, bool) {
        let number = self.argument(inputs, Ty::Double);
        let part = *self.dice.pick(&["0.5", "0.9", "0.25", "0", "1", "0.333"]);
        let direction = *self.dice.pick(&["", " DESC"]);
        match self.dice.below(4) {
            0 => (
                format!("approx_percentile_cont({part}) WITHIN GROUP (ORDER BY {number}{direction})"),
                Ty::Double,
                false,
            ),
            1 => {
                let weight = self.argument(inputs, Ty::Double);
                (
                    format!("approx_percentile_cont_with_weight({weight}, {part}) WITHIN GROUP (ORDER BY {number})"),
                    Ty::Double,
                    false,
                )
            }
            2 => (format!("percentile_cont({number}, {part})"), Ty::Double, true),
            _ => (
                format!("percentile_cont({part}) WITHIN GROUP (ORDER BY {number}{direction})"),
                Ty::Double,
                true,
            ),
        }
    }

    /// Writes a `GROUP BY` of several groupings; tells whether one has no keys.
    pub(crate) fn groupings(&mut self, keys: &[String]) -> (String, bool) {
        let (sets, empty) = match keys {
            [key] => match self.dice.below(4) {
                0 => (format!("ROLLUP ({key})"), true),
                1 => (format!("CUBE ({key})"), true),
                2 => (format!("GROUPING SETS (({key}), (), ({key}))"), true),
                _ => (format!("GROUPING SETS (({key}))"), false),
            },
            [first, second, ..] => match self.dice.below(5) {
                0 => (format!("ROLLUP ({first}, {second})"), true),
                1 => (format!("CUBE ({first}, {second})"), true),
                2 => (format!("GROUPING SETS (({first}, {second}), ({second}))"), false),
                3 => (format!("GROUPING SETS (({first}), ({second}), ({first}))"), false),
                _ => (format!("{first}, ROLLUP ({second})"), false),
            },
            [] => (String::new(), false),
        };
        (sets, empty)
    }
}
