//! A declared column and the name it goes by in the input.
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};

/// One declared column of a source.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Name, type and nullability in the source's schema.
    pub field: FieldRef,
    /// The input's name for it, where that differs.
    pub from: Option<String>,
    /// Whether it is one of those that tell rows apart.
    pub key: bool,
}

impl Column {
    /// A column that goes by its own name in the input.
    pub fn new(field: FieldRef) -> Column {
        Column {
            field,
            from: None,
            key: false,
        }
    }

    /// The name to look for in the input.
    pub fn input_name(&self) -> &str {
        self.from.as_deref().unwrap_or(self.field.name())
    }
}

/// Returns the schema that `columns` declare.
pub fn schema(columns: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(
        columns
            .iter()
            .map(|column| Arc::clone(&column.field))
            .collect::<Vec<_>>(),
    ))
}
