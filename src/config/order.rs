//! The order in which views can be planned: each after all it reads.

use std::collections::{BTreeMap, BTreeSet};

/// Sorts names so that each follows the names it reads, alphabetically where free.
///
/// Also returns the cycles, each as a path that ends where it began.
pub(crate) fn topological(reads: &BTreeMap<String, Vec<String>>) -> (Vec<String>, Vec<Vec<String>>) {
    let mut walk = Walk {
        reads,
        done: BTreeSet::new(),
        path: Vec::new(),
        order: Vec::new(),
        cycles: Vec::new(),
    };
    for name in reads.keys() {
        walk.visit(name);
    }
    (walk.order, walk.cycles)
}

struct Walk<'a> {
    reads: &'a BTreeMap<String, Vec<String>>,
    done: BTreeSet<&'a str>,
    path: Vec<&'a str>,
    order: Vec<String>,
    cycles: Vec<Vec<String>>,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, name: &'a str) {
        if self.done.contains(name) {
            return;
        }
        let Some(reads) = self.reads.get(name) else { return };
        if let Some(start) = self.path.iter().position(|on_path| *on_path == name) {
            let mut cycle: Vec<String> = self.path[start..].iter().map(|name| (*name).to_owned()).collect();
            cycle.push(name.to_owned());
            self.cycles.push(cycle);
            return;
        }
        self.path.push(name);
        for read in reads {
            self.visit(read);
        }
        self.path.pop();
        self.done.insert(name);
        self.order.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(pairs: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        pairs
            .iter()
            .map(|(name, reads)| ((*name).to_owned(), owned(reads)))
            .collect()
    }

    #[test]
    fn a_view_follows_what_it_reads() {
        let (order, cycles) = topological(&reads(&[
            ("alarm", &["risk", "latest"]),
            ("latest", &["readings"]),
            ("quality", &["latest"]),
            ("risk", &["quality", "latest"]),
        ]));
        assert_eq!(order, ["latest", "quality", "risk", "alarm"]);
        assert!(cycles.is_empty());
    }

    #[test]
    fn a_cycle_is_told_with_its_path() {
        let (_, cycles) = topological(&reads(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"]), ("d", &["d"])]));
        assert_eq!(cycles, [vec!["b", "c", "b"], vec!["d", "d"]]);
    }
}
