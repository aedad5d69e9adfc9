//! Reads calls in `FROM`: their names, and what stands between the parentheses.

use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments, TableFactor};

/// Returns the name, in lower case, and the arguments of a call in `FROM`.
pub(super) fn called(factor: &TableFactor) -> Option<(String, &[FunctionArg])> {
    let TableFactor::Table {
        name, args: Some(args), ..
    } = factor
    else {
        return None;
    };
    let [part] = name.0.as_slice() else { return None };
    Some((part.as_ident()?.value.to_lowercase(), &args.args))
}

/// Returns the name a relation in `FROM` is given there.
pub(super) fn alias_of(factor: TableFactor) -> Option<ast::TableAlias> {
    match factor {
        TableFactor::Table { alias, .. } => alias,
        _ => None,
    }
}

/// Reads an argument as an expression; none where it has a name of its own.
pub(super) fn expression(argument: &FunctionArg) -> Option<&ast::Expr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression),
        _ => None,
    }
}

/// Reads an argument as a relation.
pub(super) fn relation(argument: &FunctionArg) -> Option<TableFactor> {
    let table = |name: ast::ObjectName, args: Option<ast::TableFunctionArgs>| TableFactor::Table {
        name,
        alias: None,
        args,
        with_hints: vec![],
        version: None,
        with_ordinality: false,
        partitions: vec![],
        json_path: None,
        sample: None,
        index_hints: vec![],
    };
    Some(match expression(argument)? {
        ast::Expr::Identifier(name) => table(vec![name.clone()].into(), None),
        ast::Expr::CompoundIdentifier(names) => table(names.clone().into(), None),
        ast::Expr::Nested(inner) => {
            return relation(&FunctionArg::Unnamed(FunctionArgExpr::Expr(inner.as_ref().clone())));
        }
        ast::Expr::Subquery(subquery) => TableFactor::Derived {
            lateral: false,
            subquery: subquery.clone(),
            alias: None,
            sample: None,
        },
        ast::Expr::Function(function) => match &function.args {
            FunctionArguments::List(list) => table(
                function.name.clone(),
                Some(ast::TableFunctionArgs {
                    args: list.args.clone(),
                    settings: None,
                }),
            ),
            _ => return None,
        },
        _ => return None,
    })
}
