//! Random calls of functions of ours: the aggregate `mode`, the window function `ewma`, and `cascade` in `FROM`.

use super::expressions::Input;
use super::values::Ty;
use super::views::{Views, Written, inputs};

impl Views<'_> {
    /// Writes `mode` of a column, as an aggregate.
    pub(super) fn mode(&mut self, inputs: &[Input], filter: &str) -> (String, Ty, bool) {
        let input = self.dice.pick(inputs).clone();
        let distinct = *self.dice.pick(&["", "", "", "DISTINCT "]);
        (format!("mode({distinct}{}){filter}", input.sql), input.ty, false)
    }

    /// Writes `ewma` over some order, most often that of its time; none where there is no time.
    pub(super) fn decayed(&mut self, inputs: &[Input], partition: &str, order: &str) -> Option<(String, Ty)> {
        let of = |types: &[Ty]| -> Vec<Input> {
            let fit = inputs.iter().filter(|input| types.contains(&input.ty));
            fit.cloned().collect()
        };
        let (times, numbers) = (of(&[Ty::Time]), of(&[Ty::Double, Ty::Big, Ty::Decimal]));
        if times.is_empty() || numbers.is_empty() {
            return None;
        }
        let (time, number) = (self.dice.pick(&times).sql.clone(), self.dice.pick(&numbers).sql.clone());
        let half_life = *self.dice.pick(&["1 second", "10 minutes", "1 hour", "30 days"]);
        let order = match self.dice.below(5) {
            0 => order.to_owned(),
            1 => format!("ORDER BY {time} DESC"),
            _ => format!("ORDER BY {time}"),
        };
        let call = format!("ewma({number}, {time}, INTERVAL '{half_life}') OVER ({partition}{order})");
        Some((call, Ty::Double))
    }

    /// Writes a cascade over two columns of one type of a relation, from the rows of another, where there are such.
    pub(super) fn cascade(&mut self) -> Option<Written> {
        let (links, sources) = (self.relation(), self.relation());
        let numeric = |ty: Ty| matches!(ty, Ty::Double | Ty::Big | Ty::Decimal);
        let mut found: Vec<(String, String, String, String, Ty)> = Vec::new();
        for (from, ty) in &links.columns {
            for (to, other) in &links.columns {
                for (node, third) in &sources.columns {
                    let risks = sources.columns.iter().filter(|(_, ty)| numeric(*ty));
                    if from != to && ty == other && ty == third && *ty != Ty::Bool {
                        found
                            .extend(risks.map(|(risk, _)| (from.clone(), to.clone(), node.clone(), risk.clone(), *ty)));
                    }
                }
            }
        }
        if found.is_empty() {
            return None;
        }
        let (from, to, node, risk, ty) = self.dice.pick(&found).clone();
        let of_links = inputs(&links.columns, Some("e"));
        let shares: Vec<Input> = of_links.iter().filter(|input| numeric(input.ty)).cloned().collect();
        let share = match shares.is_empty() || self.dice.chance(40) {
            true => String::new(),
            false if self.dice.chance(50) => format!(", {}", self.dice.pick(&shares).sql),
            false => format!(", CASE WHEN {} > 3 THEN 0.75 ELSE 0.5 END", self.dice.pick(&shares).sql),
        };
        let of_sources = inputs(&sources.columns, Some("s"));
        let (some_sources, some_links) = (self.filter(&of_sources), self.filter(&of_links));
        let decay = *self.dice.pick(&["0.5", "0.9", "1", "1.25"]);
        let hops = self.dice.between(1, 6);
        let wanted = *self.dice.pick(&["", "", " WHERE hops > 0", " WHERE node <> source"]);
        let path = *self.dice.pick(&["", ", path AS l0"]);
        let sql = format!(
            "SELECT node AS x0, risk AS x1, source AS x2, hops AS x3{path} FROM \
             cascade((SELECT s.{node}, s.{risk} FROM {} s{some_sources}), \
             (SELECT e.{from}, e.{to}{share} FROM {} e{some_links}), {decay}, {hops}){wanted}",
            sources.name, links.name
        );
        let columns = [("x0", ty), ("x1", Ty::Double), ("x2", ty), ("x3", Ty::Big)];
        Some(Written {
            sql,
            rows: (2 * links.rows + sources.rows).min(self.keys * self.keys * 4),
            depth: links.depth.max(sources.depth),
            // Plain DataFusion has no plan for it.
            plain: false,
            columns: columns.map(|(name, ty)| (name.to_owned(), ty)).to_vec(),
        })
    }
}
