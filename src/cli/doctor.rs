//! `ottla doctor`: verifies a stopped broker's data directory.

use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(data_dir: &Path) -> anyhow::Result<ExitCode> {
    let _ = data_dir;
    todo!("log helper")
}
