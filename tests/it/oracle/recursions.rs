//! Random `WITH RECURSIVE`: what is reached, by how many hops, by which path.

use super::expressions::Input;
use super::values::Ty;
use super::views::{Readable, Views, Written, inputs};

/// What goes round in a recursion beside the node that was reached.
struct Carried {
    name: &'static str,
    ty: Ty,
    start: String,
    next: String,
}

impl Views<'_> {
    /// Writes a recursion over two columns of one type, where a relation has such.
    pub(super) fn recursive(&mut self) -> Option<Written> {
        let edges = self.relation();
        let mut pairs: Vec<(String, String, Ty)> = Vec::new();
        for (from, ty) in &edges.columns {
            for (to, other) in &edges.columns {
                if from != to && ty == other && *ty != Ty::Bool {
                    pairs.push((from.clone(), to.clone(), *ty));
                }
            }
        }
        // How many rows walks of some hops come to, about.
        let walks = |hops: u32| edges.rows * (1 + edges.rows / self.keys).pow(hops);
        if pairs.is_empty() || walks(1) > 600 {
            return None;
        }
        let many = walks(2) > 600;
        let rows = if many { walks(1) } else { walks(2) };
        let (from, to, ty) = self.dice.pick(&pairs).clone();
        let name = format!("r{}", self.dice.below(1_000_000));
        let all = self.dice.chance(45);
        let carried = self.carried(&edges, &from, &to, ty, all);
        let (term_from, mut conjuncts, plain) = self.term(&name, &edges, &from, &to, all);
        let start = match self.dice.chance(40) {
            true => format!(
                " WHERE {}",
                self.writer(&inputs(&edges.columns, Some("e"))).condition(1)
            ),
            false => String::new(),
        };
        if self.dice.chance(30) {
            let mut both = inputs(&edges.columns, Some("e"));
            both.push(Input {
                sql: format!("{name}.node"),
                ty,
            });
            conjuncts.push(self.writer(&both).condition(1));
        }
        let hops = carried.iter().any(|carried| carried.name == "hop");
        if hops {
            let hops = if many { 1 } else { self.dice.between(1, 2) };
            conjuncts.push(format!("{name}.hop < {hops}"));
        }
        let step = match ty {
            // What follows need not be among the rows.
            Ty::Big if self.dice.chance(25) => format!("CASE WHEN e.{to} > 3 THEN e.{to} - 1 ELSE e.{from} END"),
            _ => format!("e.{to}"),
        };
        let filter = match conjuncts.is_empty() {
            true => String::new(),
            false => format!(" WHERE {}", conjuncts.join(" AND ")),
        };
        let starts: String = carried
            .iter()
            .map(|carried| format!(", {} AS {}", carried.start, carried.name))
            .collect();
        let nexts: String = carried
            .iter()
            .enumerate()
            .map(|(index, carried)| format!(", {} AS y{index}", carried.next))
            .collect();
        let distinct = if all && self.dice.chance(50) { "DISTINCT " } else { "" };
        let shown: String = carried
            .iter()
            .enumerate()
            .map(|(index, carried)| format!(", {} AS x{}", carried.name, index + 1))
            .collect();
        let sql = format!(
            "WITH RECURSIVE {name} AS (SELECT {distinct}e.{from} AS node{starts} FROM {} e{start} UNION{} SELECT {step} \
             AS y{nexts} FROM {term_from}{filter}) SELECT node AS x0{shown} FROM {name}",
            edges.name,
            if all { " ALL" } else { "" },
        );
        let columns = carried
            .iter()
            .enumerate()
            .map(|(index, carried)| (format!("x{}", index + 1), carried.ty));
        Some(Written {
            sql,
            rows: if hops { rows } else { self.keys * self.keys },
            depth: edges.depth,
            // Plain DataFusion tells -0.0 from 0.0, where each row counts once.
            plain: plain && carried.iter().all(|carried| carried.ty != Ty::Double) && ty != Ty::Double,
            columns: std::iter::once(("x0".to_owned(), ty)).chain(columns).collect(),
        })
    }

    /// Chooses what goes round: what is bounded by hops only where hops are counted.
    fn carried(&mut self, edges: &Readable, from: &str, to: &str, ty: Ty, all: bool) -> Vec<Carried> {
        let mut carried = Vec::new();
        if self.dice.chance(50) {
            carried.push(Carried {
                name: "origin",
                ty,
                start: format!("e.{from}"),
                next: "origin".into(),
            });
        }
        if all || self.dice.chance(40) {
            carried.push(Carried {
                name: "hop",
                ty: Ty::Big,
                start: "CAST(0 AS bigint)".into(),
                next: "hop + 1".into(),
            });
            if self.dice.chance(50) {
                carried.push(Carried {
                    name: "path",
                    ty: Ty::Text,
                    start: format!("CAST(e.{from} AS text)"),
                    next: format!("concat(path, '>', CAST(e.{to} AS text))"),
                });
            }
            if self.dice.chance(50) {
                let own = inputs(&edges.columns, Some("e"));
                let start = self.writer(&own).expression(Ty::Double, 1);
                let share = self.writer(&own).expression(Ty::Double, 1);
                carried.push(Carried {
                    name: "risk",
                    ty: Ty::Double,
                    start,
                    next: format!("risk * 0.5 + {share}"),
                });
            }
        }
        carried
    }

    /// Writes what the recursive term reads: the rows so far, joined with the edges and perhaps more.
    fn term(&mut self, name: &str, edges: &Readable, from: &str, to: &str, all: bool) -> (String, Vec<String>, bool) {
        let other = self.relation();
        let ty = edges
            .columns
            .iter()
            .find(|(column, _)| column == from)
            .map(|(_, ty)| *ty);
        let alike = other.columns.iter().find(|(_, other)| Some(*other) == ty).cloned();
        let relation = match all {
            // Fewer walks: each edge once.
            true => format!("(SELECT DISTINCT * FROM {})", edges.name),
            false => edges.name.clone(),
        };
        let mut conjuncts = Vec::new();
        let on = match self.dice.below(10) {
            0 => format!("e.{from} IS NOT DISTINCT FROM {name}.node"),
            1 => format!("e.{from} = {name}.node AND e.{to} <> {name}.node"),
            _ => format!("e.{from} = {name}.node"),
        };
        let mut sql = match self.dice.below(6) {
            0 => format!("{relation} e JOIN {name} ON {on}"),
            1 => {
                conjuncts.push(on);
                format!("{name}, {relation} e")
            }
            _ => format!("{name} JOIN {relation} e ON {on}"),
        };
        if let Some((column, _)) = alike {
            let of_other = format!("SELECT s.{column} FROM {} s", other.name);
            match self.dice.below(14) {
                0 => conjuncts.push(format!("e.{to} IN ({of_other})")),
                1 => conjuncts.push(format!("e.{to} NOT IN ({of_other} WHERE s.{column} IS NOT NULL)")),
                2 => conjuncts.push(format!("EXISTS ({of_other} WHERE s.{column} = {name}.node)")),
                3 => conjuncts.push(format!("NOT EXISTS ({of_other} WHERE s.{column} = e.{to})")),
                4 => conjuncts.push(format!("(e.{to} > e.{from} OR e.{to} IN ({of_other}))")),
                5 if !all => {
                    sql = format!("{sql} LEFT JOIN {} s ON s.{column} = e.{to}", other.name);
                    conjuncts.push(format!("(s.{column} IS NULL OR s.{column} = e.{to})"));
                }
                6 => conjuncts.push(format!("{name}.node <= (SELECT max(s.{column}) FROM {} s)", other.name)),
                _ => {}
            }
        }
        (sql, conjuncts, true)
    }
}
