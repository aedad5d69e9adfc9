//! Rows as bodies: NDJSON, a JSON array, CSV.

use serde_json::Value;

/// A body and what it says it is.
pub(super) struct Body {
    pub(super) content_type: &'static str,
    pub(super) bytes: Vec<u8>,
}

impl Body {
    /// One object a line; `bad` lines stand between them.
    pub(super) fn lines(rows: &[Value], bad: &[&str]) -> Body {
        let bytes = mixed(rows, bad).join("\n").into_bytes();
        Body {
            content_type: "application/x-ndjson",
            bytes,
        }
    }

    /// An array; `bad` values stand between the rows.
    pub(super) fn array(rows: &[Value], bad: &[&str]) -> Body {
        let bytes = format!("[{}]", mixed(rows, bad).join(",\n ")).into_bytes();
        Body {
            content_type: "application/json",
            bytes,
        }
    }

    /// A header line and a line a row. Columns may come in any order: here, in that of the letters.
    ///
    /// Nothing comes of rows whose NULLs CSV cannot tell from empty texts.
    pub(super) fn csv(rows: &[Value]) -> Option<Body> {
        let objects: Vec<_> = rows.iter().map(|row| row.as_object().expect("a row")).collect();
        let mut names: Vec<&String> = objects.iter().flat_map(|row| row.keys()).collect();
        names.sort();
        names.dedup();
        let is_unclear = |name: &String| {
            let cells = || objects.iter().map(|row| row.get(name).unwrap_or(&Value::Null));
            cells().any(Value::is_null) && !cells().any(Value::is_number)
        };
        if names.iter().any(|name| is_unclear(name)) {
            return None;
        }
        let mut text = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(",");
        text.push_str("\r\n");
        for row in objects {
            let cells: Vec<String> = names
                .iter()
                .map(|name| cell(row.get(*name).unwrap_or(&Value::Null)))
                .collect();
            text.push_str(&cells.join(","));
            text.push_str("\r\n");
        }
        Some(Body {
            content_type: "text/csv",
            bytes: text.into_bytes(),
        })
    }
}

/// A bad line after every second good one, the rest at the end.
fn mixed(rows: &[Value], bad: &[&str]) -> Vec<String> {
    let mut bad = bad.iter();
    let mut lines = Vec::new();
    for (position, row) in rows.iter().enumerate() {
        lines.push(row.to_string());
        if position % 2 == 1 {
            lines.extend(bad.next().map(|line| (*line).to_owned()));
        }
    }
    lines.extend(bad.map(|line| (*line).to_owned()));
    lines
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
        other => other.to_string(),
    }
}
