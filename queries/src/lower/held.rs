//! Refuses types that stateful operators and the view store cannot hold.

use arrow::datatypes::{DataType, Field};
use dataflows::nested::is_held;
use dataflows::plan::{Node, NodeId, Operator};

use crate::functions::json;
use crate::problem::Problem;

/// Names a column that would have to be kept and cannot be.
pub(super) fn refused(nodes: &[Node], root: NodeId) -> Option<Problem> {
    let unheld = |id: NodeId, columns: Option<&[usize]>| -> Option<Problem> {
        let schema = &nodes[id].schema;
        let found = match columns {
            Some(columns) => columns
                .iter()
                .map(|column| schema.field(*column))
                .find(|field| !is_held(field.data_type())),
            None => schema
                .fields()
                .iter()
                .map(AsRef::as_ref)
                .find(|field| !is_held(field.data_type())),
        };
        found.map(problem)
    };
    let state = nodes.iter().find_map(|node| match &node.operator {
        Operator::Aggregate { keys, calls, .. } => {
            let mut columns = keys.clone();
            columns.extend(calls.iter().flat_map(|call| {
                let order = call.order.iter().map(|(column, _)| *column);
                call.arguments.iter().copied().chain(order)
            }));
            unheld(node.inputs[0], Some(&columns))
        }
        Operator::Join { .. }
        | Operator::TemporalFilter { .. }
        | Operator::TemporalAny { .. }
        | Operator::Window { .. }
        | Operator::Table { .. } => node.inputs.iter().find_map(|input| unheld(*input, None)),
        _ => None,
    });
    state.or_else(|| unheld(root, None))
}

/// Tells whether a value of no one type stands in a type.
fn holds_any(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            holds_any(field.data_type())
        }
        DataType::Map(entries, _) => holds_any(entries.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| holds_any(field.data_type())),
        other => json::is_any(other),
    }
}

fn problem(field: &Field) -> Problem {
    if holds_any(field.data_type()) {
        return Problem::not_maintained("a value that -> takes out of JSON, in a group, a join or a list,")
            .hint("Take it out as what it is: data ->> 'name', json_get_int(data, 'n'), json_get_float(data, 'x').");
    }
    let name = match field.name() {
        name if name.starts_with("__") => "a column".to_owned(),
        name => format!("the column \"{name}\""),
    };
    let hint = match field.data_type() {
        DataType::Dictionary(_, value) => format!("Cast it: arrow_cast(x, '{value}')."),
        DataType::ListView(item) | DataType::LargeListView(item) => {
            format!("Cast it: arrow_cast(x, 'List({})').", item.data_type())
        }
        _ => "Cast it to a plain type, a list, a struct or a map of those.".to_owned(),
    };
    Problem::not_maintained(format!("{name} of type {}", field.data_type())).hint(hint)
}
