//! `cascade(sources, links, decay, hops)` in `FROM`: what spreads along links, and how it got there.
//!
//! | argument | what |
//! |---|---|
//! | `sources` | a relation of two columns: a node, and the risk it has by itself |
//! | `links` | a relation of two or three: the node that passes risk on, the node that gets it, and the share of it that arrives (1 where there is no third) |
//! | `decay` | what is left of any risk after a hop, above 0 |
//! | `hops` | how far it goes at most, 1 to 64 |
//!
//! Water that is foul upstream, a kitchen without flour, a full ghat: the station below, the schools it
//! feeds, the next zones have a part of the risk, and those behind them a part of that. Each node that is
//! reached has one row: `node`, the strongest `risk` of all walks that lead there (the source's times
//! `share * decay` for each hop), the `source` it began at, `hops`, and the `path` as a list from the source
//! to the node. A source reaches itself in no hop. Of walks that are as strong the one of fewer hops counts,
//! then the one whose last hop comes from the smaller node, and so on backwards.
//!
//! Links may go round in circles. A node or a risk that is NULL, a risk that is NaN, and a share that is not
//! a finite number above 0 count for nothing. Nodes and links may be there several times.

mod spread;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use arrow::row::{RowConverter, SortField};
use dataflows::functions;
use datafusion::common::{Column, DFSchemaRef, ScalarValue};
use datafusion::logical_expr::binary::comparison_coercion;
use datafusion::logical_expr::{Expr, cast, lit};

use super::canonical::canonical;
use super::kinds::table::{Planned, Table};
use crate::problem::Problem;
use spread::Spread;

/// How far risk may spread.
const HOPS_MAX: i64 = 64;

/// The function, for the list.
pub(super) static CASCADE: Table = Table {
    name: "cascade",
    call: "cascade((SELECT station, risk FROM …), (SELECT upstream, downstream, share FROM …), 0.8, 6)",
    relations: 2,
    plan,
};

fn plan(relations: &[DFSchemaRef], constants: &[ScalarValue]) -> Result<Planned, Problem> {
    let [sources, links] = relations else {
        return Err(CASCADE.misused("reads two relations"));
    };
    let [decay, hops] = constants else {
        return Err(CASCADE.misused("takes a decay and a number of hops after its relations"));
    };
    let decay = match decay.cast_to(&DataType::Float64) {
        Ok(ScalarValue::Float64(Some(decay))) if decay > 0.0 && decay.is_finite() => decay,
        _ => return Err(CASCADE.misused("needs a number above 0 as its decay")),
    };
    let hops = match hops {
        ScalarValue::Int64(Some(hops)) if (1..=HOPS_MAX).contains(hops) => *hops,
        _ => return Err(CASCADE.misused(&format!("needs a number of hops from 1 to {HOPS_MAX}"))),
    };
    if sources.fields().len() != 2 {
        return Err(CASCADE.misused("needs sources of two columns: a node and its risk"));
    }
    if !(2..=3).contains(&links.fields().len()) {
        return Err(CASCADE.misused("needs links of two columns, or of three: from, to and a share"));
    }
    let type_of = |relation: &DFSchemaRef, column: usize| relation.field(column).data_type().clone();
    let nodes = [type_of(sources, 0), type_of(links, 0), type_of(links, 1)];
    let node = nodes[1..]
        .iter()
        .try_fold(nodes[0].clone(), |one, other| match one == *other {
            true => Some(one),
            false => comparison_coercion(&one, other),
        });
    let node = match node {
        Some(DataType::LargeUtf8 | DataType::Utf8View) => Some(DataType::Utf8),
        node => node.filter(|node| !node.is_nested() && RowConverter::supports_fields(&[SortField::new(node.clone())])),
    };
    let Some(node) = node else {
        return Err(CASCADE.misused("needs nodes of one plain type in its sources and links"));
    };
    if !type_of(sources, 1).is_numeric() {
        return Err(CASCADE.misused("needs a number as the risk of a source"));
    }
    if links.fields().len() == 3 && !type_of(links, 2).is_numeric() {
        return Err(CASCADE.misused("needs a number as the share of a link"));
    }
    let column = |relation: &DFSchemaRef, at: usize, data_type: &DataType| {
        let (qualifier, field) = relation.qualified_field(at);
        let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
        match field.data_type() == data_type {
            true => column,
            false => cast(column, data_type.clone()),
        }
    };
    let name = |relation: &DFSchemaRef, at: usize| match column(relation, at, &node) {
        float if node.is_floating() => canonical(float),
        plain => plain,
    };
    let share = match links.fields().len() {
        3 => column(links, 2, &DataType::Float64),
        _ => lit(1.0),
    };
    let path = DataType::new_list(node.clone(), true);
    let columns = vec![
        Field::new("node", node.clone(), true),
        Field::new("risk", DataType::Float64, true),
        Field::new("source", node.clone(), true),
        Field::new("hops", DataType::Int64, true),
        Field::new("path", path, true),
    ];
    Ok(Planned {
        inputs: vec![
            vec![
                name(sources, 0).alias("node"),
                column(sources, 1, &DataType::Float64).alias("risk"),
            ],
            vec![
                name(links, 0).alias("from"),
                name(links, 1).alias("to"),
                share.alias("share"),
            ],
        ],
        columns,
        key: Some(vec![0]),
        function: Arc::new(Cascade {
            node,
            decay,
            hops: hops.unsigned_abs() as usize,
        }),
    })
}

/// One call.
#[derive(Debug)]
struct Cascade {
    node: DataType,
    decay: f64,
    hops: usize,
}

impl functions::Table for Cascade {
    fn state(&self) -> Box<dyn functions::TableState> {
        Box::new(Spread::new(&self.node, self.decay, self.hops))
    }
}
