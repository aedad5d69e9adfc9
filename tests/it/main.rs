//! Tests from outside: one binary, because each links the whole of DataFusion.
mod front_door;
mod oracle;
mod program;
mod real_data;
mod robust;
mod tidy;
