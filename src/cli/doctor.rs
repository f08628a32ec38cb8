//! `ottla doctor DATA_DIR`: verifies every log of a stopped broker's directory and names each bad
//! offset. Changes nothing.

use std::path::Path;
use std::process::ExitCode;

use crate::log::data_dir::DataDir;
use crate::log::verify::{self, Report};

/// Prints what it finds; the code is 1 when something is bad.
pub(super) fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let claim = DataDir::inspect(path)?;
    let logs = claim.logs();
    if !logs.try_exists()? {
        println!("{} holds no logs yet: nothing to verify", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let (mut count, mut bytes, mut bad) = (0u64, 0u64, 0u64);
    for report in verify::verify(&logs)? {
        let report = report?;
        count += 1;
        bytes += report.bytes;
        bad += report.findings.len() as u64;
        print_findings(&report);
    }
    println!("verified {count} logs, {bytes} bytes: {bad} bad places");
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_findings(report: &Report) {
    for finding in &report.findings {
        let rest = match finding.next {
            Some(next) => format!("readable again from offset {next}"),
            None => "the log's end, which the next start cuts off".to_owned(),
        };
        println!(
            "bad offset {} in segment {} at byte {}: {}; {rest}",
            finding.offset, finding.segment, finding.position, finding.reason
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::batch::{self, NewRecord};

    #[test]
    fn a_missing_foreign_or_served_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(run(&dir.path().join("absent")).is_err());
        let path = dir.path().join("ours");
        let served = DataDir::open(&path).unwrap();
        assert!(run(&path).unwrap_err().to_string().contains("in use"));
        drop(served);
        run(&path).unwrap();
        std::fs::write(dir.path().join("thesis.txt"), "").unwrap();
        assert!(run(dir.path()).unwrap_err().to_string().contains("not made by Ottla"));
    }
    #[test]
    fn a_damaged_log_ends_with_code_1_and_an_intact_one_with_0() {
        let dir = tempfile::tempdir().unwrap();
        let logs = DataDir::open(dir.path()).unwrap().logs();
        let segment = logs.join(format!("{}-0", uuid::Uuid::from_u128(1)));
        std::fs::create_dir_all(&segment).unwrap();
        let record = NewRecord { value: Some("paid".into()), ..NewRecord::default() };
        let mut bytes = batch::encode(&[record], None).to_vec();
        let path = segment.join(format!("{:020}.log", 0));
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(run(dir.path()).unwrap(), ExitCode::SUCCESS);
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(run(dir.path()).unwrap(), ExitCode::FAILURE);
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}
