//! Recorded data of real rivers and waterworks, shuffled and damaged by a seed, through `file` and `http`.
//!
//! What must come out is worked out from the text that went in: which rows are
//! late, which are damaged, and what each view answers over the rest.
mod choptank;
mod gecco;
mod india;
mod recording;

use std::path::{Path, PathBuf};

/// Returns a recorded file, or says what is left out where the data does not lie beside the clone.
///
/// With `SANGAM_REQUIRE_DATA` set, as in CI, its absence is a failure.
fn recorded(file: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    // A clone made for CI has the data in the same place beside it.
    let path = folder.join(file);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("SANGAM_REQUIRE_DATA").is_none(),
        "{} is missing: put the recorded data beside the clone, or unset SANGAM_REQUIRE_DATA",
        path.display()
    );
    println!(
        "LEFT OUT: {} is not there, so this recording was not replayed",
        path.display()
    );
    None
}
