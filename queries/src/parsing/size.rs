//! Refuses texts that are too large once written out.
//!
//! What `WITH` names stands wherever it is read, and once for each of the sets of `GROUPING SETS` around it: a
//! short text that does so within itself grows with a power of its length, and nothing that walks its
//! plan would come to an end.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::common::DataFusionError;
use datafusion::error::Result;
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, ObjectName, Query, Select, Statement, TableFactor, Visit, Visitor,
};

use crate::functions;
use crate::problem::Problem;

/// Relations that a text reads once written out, at most.
const RELATIONS_MAX: usize = 1_000;

/// Returns an error where a statement is too large.
pub(super) fn bounded(statement: &Statement) -> Result<()> {
    match statement.visit(&mut WrittenOut::default()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Counts relations, from the inside out.
#[derive(Default)]
struct WrittenOut {
    /// Those of each query and `SELECT` that is being walked.
    open: Vec<usize>,
    /// The name that each query behind a `WITH` is given, by where it stands.
    names: HashMap<usize, String>,
    /// Those behind each name.
    named: HashMap<String, usize>,
}

/// Returns a name as it is looked up, quoted or not.
fn key(name: &impl ToString) -> String {
    name.to_string().replace('"', "").to_lowercase()
}

fn place(query: &Query) -> usize {
    std::ptr::from_ref(query) as usize
}

impl WrittenOut {
    fn read(&mut self, relation: &ObjectName) {
        let count = self.named.get(&key(relation)).copied();
        self.add(count.unwrap_or(1));
    }

    fn add(&mut self, relations: usize) {
        if let Some(open) = self.open.last_mut() {
            *open = open.saturating_add(relations);
        }
    }

    /// Closes a query or `SELECT` that is read so many times.
    fn close(&mut self, times: usize) -> ControlFlow<DataFusionError, usize> {
        let relations = self.open.pop().unwrap_or(0).saturating_mul(times);
        match relations > RELATIONS_MAX {
            false => ControlFlow::Continue(relations),
            true => ControlFlow::Break(
                Problem::new(format!("written out, this reads more than {RELATIONS_MAX} relations"))
                    .hint(
                        "What WITH names is written out wherever it is read, and once for each of the GROUPING SETS \
                         around it: make it a view of its own.",
                    )
                    .into(),
            ),
        }
    }
}

impl Visitor for WrittenOut {
    type Break = DataFusionError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<DataFusionError> {
        for named in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.names.insert(place(&named.query), key(&named.alias.name));
        }
        self.open.push(0);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<DataFusionError> {
        let relations = self.close(1)?;
        match self.names.get(&place(query)) {
            Some(name) => drop(self.named.insert(name.clone(), relations)),
            None => self.add(relations),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, _: &Select) -> ControlFlow<DataFusionError> {
        self.open.push(0);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &Select) -> ControlFlow<DataFusionError> {
        let relations = self.close(sets(&select.group_by))?;
        self.add(relations);
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<DataFusionError> {
        self.read(relation);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<DataFusionError> {
        // A function's relation is an argument, and known for one to nobody else.
        if let Some(TableFactor::Table { name, .. }) = functions::read_by(factor) {
            self.read(&name);
        }
        ControlFlow::Continue(())
    }
}

/// Returns how many groupings are asked for, each of which reads all below it.
fn sets(group_by: &GroupByExpr) -> usize {
    let GroupByExpr::Expressions(keys, _) = group_by else {
        return 1;
    };
    let sets = keys.iter().map(|key| match key {
        Expr::GroupingSets(sets) => sets.len().max(1),
        Expr::Rollup(keys) => keys.len() + 1,
        // More of them are refused by themselves, in better words.
        Expr::Cube(keys) if keys.len() <= 8 => 1 << keys.len(),
        _ => 1,
    });
    sets.fold(1, usize::saturating_mul)
}
