//! The program. Everything is in the library, so that tests and benches can reach it.
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sangam::cli::main()
}
