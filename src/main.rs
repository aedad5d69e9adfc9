//! The program. Everything is in the library, so that tests and benches can reach it.
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    small_pages();
    sangam::cli::main()
}

/// Does without huge pages: clearing 2 MiB where 4 KiB are wanted takes from one to thirty
/// milliseconds on a virtual machine, which whoever waits for the tick would feel.
fn small_pages() {
    #[cfg(target_os = "linux")]
    // A kernel that cannot is no reason not to start.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}
