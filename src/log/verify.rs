//! Verifies logs at rest: every batch's header, CRC and offset, without changing a byte.

use std::path::Path;
use std::time::Duration;

use super::LogError;
use super::local_store::LocalRecordStore;
use super::record_store::{ObjectId, RecordStore};
use super::recovery;
use crate::types::{LogId, Offset};

/// Something wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In which segment.
    pub segment: ObjectId,
    /// The offset that cannot be read.
    pub offset: Offset,
    /// The first readable offset after it; `None` when the log ends there.
    pub next: Option<Offset>,
    /// Where in the segment.
    pub position: u64,
    /// What was found.
    pub reason: String,
}

/// A log as it was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which log.
    pub log: LogId,
    /// Its first offset.
    pub start: Offset,
    /// The offset after its last whole batch.
    pub end: Offset,
    /// Bytes read.
    pub bytes: u64,
    /// What is wrong, by offset; nothing if all is well.
    pub findings: Vec<Finding>,
}

/// Verifies every log in the directory `logs`, which must exist, one by one.
pub fn verify(logs: &Path) -> Result<impl Iterator<Item = Result<Report, LogError>>, LogError> {
    let failed = |source| LogError::Io { action: "read", path: logs.display().to_string(), source };
    let store = LocalRecordStore::existing(logs).map_err(failed)?;
    let ids = store.logs().map_err(failed)?;
    Ok(ids.into_iter().map(move |log| verify_log(log, &store)))
}

fn verify_log(log: LogId, store: &dyn RecordStore) -> Result<Report, LogError> {
    let (objects, _) = recovery::current(&recovery::list(log, store)?);
    // The index is not looked at, so one entry per segment is enough.
    let walked = recovery::walk(log, &objects, None, store, u64::MAX, Duration::ZERO, |_| ())?;
    let mut findings = Vec::new();
    findings.extend(walked.gaps.iter().map(|(segment, expected)| Finding {
        segment: *segment,
        offset: *expected,
        next: Some(segment.base),
        position: 0,
        reason: format!("the segment does not begin at offset {expected}"),
    }));
    for segment in &walked.segments {
        findings.extend(segment.damaged.iter().map(|damage| Finding {
            segment: segment.object,
            offset: damage.offset,
            next: Some(damage.next),
            position: damage.position,
            reason: damage.reason.clone(),
        }));
    }
    findings.extend(walked.torn.map(|torn| Finding {
        segment: torn.object,
        offset: walked.end,
        next: None,
        position: torn.position,
        reason: torn.reason,
    }));
    findings.sort_by_key(|finding| (finding.segment, finding.position));
    Ok(Report { log, start: walked.start, end: walked.end, bytes: walked.scanned_bytes, findings })
}
