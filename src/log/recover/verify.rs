//! Verifies the logs of a stopped broker: the header, CRC and offset of every batch, and that no records are
//! missing that the view knows to have been on the disk. Changes no log.

use std::io;
use std::path::Path;

use bytes::Bytes;

use super::log_time::Clocks;
use super::promise::{self, Cache};
use super::recovery::{self, Replayed, Walk};
use crate::log::LogError;
use crate::log::boot::Boot;
use crate::log::data_dir::DataDir;
use crate::log::format::scan::{Found, Scan};
use crate::log::object::local_store::LocalRecordStore;
use crate::log::object::record_store::{Listing, ObjectId, RecordStore};
use crate::store::Store;
use crate::types::{LogId, Offset, Progress};

/// Something wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The segment in which it was found.
    pub segment: ObjectId,
    /// The first offset that cannot be read.
    pub offset: Offset,
    /// The first readable offset after it, or the offset at which the log continues; `None` for a torn
    /// tail, which the next start cuts off.
    pub next: Option<Offset>,
    /// The position in the segment.
    pub position: u64,
    /// What was found.
    pub reason: String,
}

/// What was found in a log.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which log.
    pub log: LogId,
    /// Its first offset.
    pub start: Offset,
    /// The offset after its last undamaged batch.
    pub end: Offset,
    /// Bytes read.
    pub bytes: u64,
    /// What is wrong, by offset; empty for an undamaged log.
    pub findings: Vec<Finding>,
    /// Other things in the log's directory, as sentences: leftovers that the next start removes, damaged
    /// bytes that a repair has saved, foreign files.
    pub notes: Vec<String>,
}

/// The logs of a stopped broker.
pub struct AtRest {
    pub(in crate::log) store: LocalRecordStore,
    pub(in crate::log) view: Option<Store>,
    view_fault: Option<String>,
}

/// Everything that is known about a log.
pub(in crate::log) struct Examined {
    pub(in crate::log) listing: Listing,
    pub(in crate::log) walked: Replayed,
    /// Up to where it was on the disk once, if nothing of it is there.
    pub(in crate::log) gone: Option<Offset>,
}

impl AtRest {
    /// Opens the logs of `dir`, which must have some. Without the view a lost end of a log is not noticed:
    /// `view_fault` tells why there is no view.
    pub fn open(dir: &DataDir) -> Result<AtRest, LogError> {
        let (view, fault) = match Store::open_existing(&dir.view()) {
            Ok(Some(view)) => (Some(view), None),
            Ok(None) => (None, Some("there is no view".to_owned())),
            Err(error) => (None, Some(error.to_string())),
        };
        let logs = AtRest::without_view(&dir.logs(), dir.boot(), view)?;
        Ok(AtRest { view_fault: fault, ..logs })
    }

    fn without_view(logs: &Path, boot: Boot, view: Option<Store>) -> Result<AtRest, LogError> {
        let failed =
            |source| LogError::Io { action: "read", path: logs.display().to_string(), source };
        let store = LocalRecordStore::existing(logs, boot).map_err(failed)?;
        Ok(AtRest { store, view, view_fault: None })
    }

    /// Why there is no view, if there is none.
    pub fn view_fault(&self) -> Option<&str> {
        self.view_fault.as_deref()
    }

    /// Every log that has files, or that is in the view.
    pub fn logs(&self) -> Result<Vec<LogId>, LogError> {
        let failed = |source| LogError::Io { action: "list", path: "logs".to_owned(), source };
        let mut logs = self.store.logs().map_err(failed)?;
        // If the view fails, the files alone decide.
        logs.extend(self.view.iter().flat_map(|view| view.logs().unwrap_or_default()));
        logs.sort_unstable();
        logs.dedup();
        Ok(logs)
    }

    /// Appends that wait in the write-ahead log, and what is wrong with it. Bytes that a power loss has taken
    /// from the end of a log lie there; the next start replays them, or `repair_wal`.
    pub fn pending(&self) -> Result<(u64, Vec<String>), LogError> {
        self.store.pending().map_err(wal_failed)
    }

    /// Replays the appends of the write-ahead log into their logs, as the next start does, and gives up what
    /// cannot be replayed: what was wrong.
    pub fn repair_wal(&self) -> Result<Vec<String>, LogError> {
        self.store.repair_wal().map_err(wal_failed)
    }

    /// The names in the directory of the logs that are no log.
    pub fn strangers(&self) -> Result<Vec<String>, LogError> {
        self.store.strangers().map_err(|source| LogError::Io {
            action: "list",
            path: "logs".to_owned(),
            source,
        })
    }

    /// Verifies a whole log, and counts the bytes in `progress`.
    pub fn verify(&self, log: LogId, progress: &Progress) -> Result<Report, LogError> {
        let Examined { listing, walked, gone } = self.examine(log, progress)?;
        let mut findings = Vec::new();
        findings.extend(gone.map(|end| Finding {
            segment: ObjectId::appended(log, Offset::ZERO),
            offset: Offset::ZERO,
            next: Some(end),
            position: 0,
            reason: promise::files_gone(end),
        }));
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
        findings.extend(walked.torn.iter().map(|torn| Finding {
            segment: torn.object,
            offset: walked.end,
            next: None,
            position: torn.position,
            reason: torn.reason.clone(),
        }));
        findings.sort_by_key(|finding| (finding.offset, finding.position));
        let notes = self.notes(log, &listing, &walked)?;
        let Replayed { start, end, scanned_bytes, .. } = walked;
        Ok(Report { log, start, end, bytes: scanned_bytes, findings, notes })
    }

    fn notes(
        &self,
        log: LogId,
        listing: &Listing,
        walked: &Replayed,
    ) -> Result<Vec<String>, LogError> {
        let mut notes = Vec::new();
        let leftovers = recovery::current(listing, &self.store)?.1.len() + walked.superseded.len();
        if leftovers > 0 {
            let start = match walked.refused {
                Some(_) => "the first start after a repair",
                None => "the next start",
            };
            notes.push(format!("{leftovers} unused segments, which {start} removes"));
        }
        if let Some(fault) = &listing.manifest_fault {
            notes.push(format!("its manifest cannot be read: {fault}; a lost end is not noticed"));
        }
        if listing.drafts {
            notes.push("an unfinished draft, which the next start removes".to_owned());
        }
        if let Some(start) = listing.start {
            notes.push(format!("records before offset {start} were deleted"));
        }
        let others = self.store.others(log).map_err(|source| LogError::Io {
            action: "list",
            path: log.to_string(),
            source,
        })?;
        for other in others {
            notes.push(if LocalRecordStore::is_saved_damage(&other) {
                format!("damaged bytes that a repair has saved: {other}")
            } else {
                format!("a file that is not the broker's: {other}")
            });
        }
        Ok(notes)
    }

    pub(in crate::log) fn examine(
        &self,
        log: LogId,
        progress: &Progress,
    ) -> Result<Examined, LogError> {
        let listing = recovery::list(log, &self.store)?;
        let (objects, _) = recovery::current(&listing, &self.store)?;
        // Nobody appends: producers without an open transaction are of no use.
        let clocks = Clocks::default();
        // The index is not used, so one entry for each segment is enough.
        let cache = Cache::of(&listing, &self.store);
        let how = Walk { index_interval_bytes: u64::MAX, clocks, progress, cache };
        let mut walked = recovery::walk(log, &objects, None, &self.store, &how, |_| ())?;
        let snapshot = self.view.as_ref().and_then(|view| view.log_snapshot(log).ok().flatten());
        let synced = snapshot.map(|snapshot| snapshot.end);
        walked.hold_to(&listing, synced);
        let gone = promise::promised(&listing, synced).filter(|_| objects.is_empty());
        Ok(Examined { listing, walked, gone })
    }

    /// The undamaged batches of a log, in order.
    pub fn batches(&self, log: LogId) -> Result<Vec<Bytes>, LogError> {
        let (objects, _) = recovery::current(&recovery::list(log, &self.store)?, &self.store)?;
        let mut batches = Vec::new();
        for (object, length) in objects {
            let failed = |source| LogError::Io { action: "read", path: object.to_string(), source };
            let mut scan = Scan::new(&self.store, object, 0, length);
            while let Some(found) = scan.advance().map_err(failed)? {
                match found {
                    Found::Batch { bytes, .. } => batches.push(bytes),
                    Found::Bad { position, .. } => {
                        match scan.resync(position, object.base..=Offset::MAX).map_err(failed)? {
                            Some((next, _)) => scan.seek(next),
                            None => break,
                        }
                    }
                }
            }
        }
        Ok(batches)
    }
}

/// Verifies every log in the directory `logs`, which must exist, one after the other, without a view.
pub fn verify(logs: &Path) -> Result<impl Iterator<Item = Result<Report, LogError>>, LogError> {
    let at_rest = AtRest::without_view(logs, Boot::default(), None)?;
    let progress = Progress::default();
    Ok(at_rest.logs()?.into_iter().map(move |log| at_rest.verify(log, &progress)))
}

fn wal_failed(source: io::Error) -> LogError {
    LogError::Io { action: "read the write-ahead log of", path: "logs".to_owned(), source }
}
