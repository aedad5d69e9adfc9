//! Prints Arrow batches as a table for people.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Lays rows out in columns under their names; numbers stand to the right.
pub(super) fn format(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<String, ArrowError> {
    let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let to_the_right: Vec<bool> = schema
        .fields()
        .iter()
        .map(|field| field.data_type().is_numeric())
        .collect();
    let mut lines = vec![names];
    for batch in batches {
        lines.extend(cells(batch)?);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..to_the_right.len()).map(width).collect();
    let mut text = String::new();
    for (position, line) in lines.iter().enumerate() {
        let mut row = String::new();
        for (column, cell) in line.iter().enumerate() {
            if column > 0 {
                row.push_str("  ");
            }
            let padding = " ".repeat(widths[column] - cell.chars().count());
            if to_the_right[column] {
                row.push_str(&padding);
                row.push_str(cell);
            } else {
                row.push_str(cell);
                row.push_str(&padding);
            }
        }
        text.push_str(row.trim_end());
        text.push('\n');
        if position == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text.push_str(&rule.join("  "));
            text.push('\n');
        }
    }
    Ok(text)
}

/// Formats every cell of a batch, row by row; NULL says so.
pub(super) fn cells(batch: &RecordBatch) -> Result<Vec<Vec<String>>, ArrowError> {
    let options = FormatOptions::default().with_null("NULL").with_display_error(true);
    let formatters = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect::<Result<Vec<_>, _>>()?;
    Ok((0..batch.num_rows())
        // Line breaks inside a cell would break the table.
        .map(|row| {
            formatters
                .iter()
                .map(|cell| cell.value(row).to_string().replace('\n', "\\n"))
                .collect()
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, StringArray};

    use super::*;

    #[test]
    fn numbers_stand_to_the_right() {
        let batch = RecordBatch::try_from_iter([
            (
                "station",
                Arc::new(StringArray::from(vec![Some("K1"), None])) as ArrayRef,
            ),
            ("score", Arc::new(Float64Array::from(vec![71.5, 100.0])) as ArrayRef),
        ])
        .unwrap();
        let text = format(&batch.schema(), &[batch]).unwrap();
        assert_eq!(text, "station  score\n-------  -----\nK1        71.5\nNULL     100.0\n");
    }
}
