//! Tests from outside: one binary, because each links the whole of DataFusion.
mod real_data;
mod tidy;
