//! CSV as RFC 4180 has it, with the values of the JSON encoder.
//!
//! NULL is an empty field and the empty string is `""`, so that both can be told
//! apart. Lists and structs are JSON inside a quoted field.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use dataflows::json::RowEncoder;

pub(super) fn header(schema: &Schema) -> Vec<u8> {
    let mut out = Vec::new();
    for (position, field) in schema.fields().iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        text(field.name(), &mut out);
    }
    out.push(b'\n');
    out
}

pub(super) fn lines(encoder: &RowEncoder, batch: &RecordBatch) -> Vec<u8> {
    let rows = encoder.bind(batch);
    let mut out = Vec::new();
    let mut cell = Vec::new();
    for row in 0..batch.num_rows() {
        for column in 0..batch.num_columns() {
            if column > 0 {
                out.push(b',');
            }
            cell.clear();
            rows.cell(column, row, &mut cell);
            field(&cell, &mut out);
        }
        out.push(b'\n');
    }
    out
}

/// Turns one JSON value into a field.
fn field(json: &[u8], out: &mut Vec<u8>) {
    match json {
        b"null" => {}
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => match std::str::from_utf8(inner) {
            Ok(inner) => text(inner, out),
            Err(_) => out.extend_from_slice(json),
        },
        [b'"', ..] => text(&serde_json::from_slice::<String>(json).unwrap_or_default(), out),
        _ => text(&String::from_utf8_lossy(json), out),
    }
}

fn text(value: &str, out: &mut Vec<u8>) {
    let special = |byte: &u8| matches!(byte, b',' | b'"' | b'\n' | b'\r');
    if !value.is_empty() && !value.as_bytes().iter().any(special) {
        out.extend_from_slice(value.as_bytes());
        return;
    }
    out.push(b'"');
    for &byte in value.as_bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        let fields = |json: &str| {
            let mut out = Vec::new();
            field(json.as_bytes(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(fields("null"), "");
        assert_eq!(fields("\"\""), "\"\"");
        assert_eq!(fields("1.5"), "1.5");
        assert_eq!(fields("\"plain\""), "plain");
        assert_eq!(fields(r#""a\"b""#), r#""a""b""#);
        assert_eq!(fields("[1,2]"), "\"[1,2]\"");
        assert_eq!(fields(r#""two\nlines""#), "\"two\nlines\"");
    }
}
