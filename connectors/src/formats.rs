//! One file a format.
pub(crate) mod csv;
pub(crate) mod envelope;
pub(crate) mod json;
pub(crate) mod parquet;
