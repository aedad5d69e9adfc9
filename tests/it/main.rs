//! Tests from outside: one binary, because each links the whole of DataFusion.
mod bounds;
#[cfg(target_os = "linux")]
mod crash;
mod durable;
mod front_door;
mod history;
mod kept;
mod nexmark;
mod oracle;
mod pipelined;
mod program;
mod proofs;
mod real_data;
mod robust;
mod sinks;
mod slt;
mod tidy;
mod tpch;
mod travel;

/// Held for reading by a test that runs an engine in this process, for writing while a bug is planted in it.
static HONEST: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());
