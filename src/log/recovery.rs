//! Opening a log: walks the batches that the view does not cover yet, rebuilds index and producer
//! state from them, cuts a torn tail, and marks damage it may not cut.

use tracing::{error, info, warn};

use super::LogError;
use super::batch::{self, BatchHeader};
use super::outcome::AbortedTxn;
use super::owner::Settings;
use super::producer::{BatchFacts, Producers};
use super::record_store::ObjectId;
use super::scan::{Found, Scan};
use super::segment::{Damage, Segment};
use crate::types::{LogId, Offset};

/// A log as its bytes say it is.
#[derive(Default)]
pub(super) struct Replayed {
    pub(super) segments: Vec<Segment>,
    pub(super) producers: Producers,
    pub(super) aborted: Vec<AbortedTxn>,
    pub(super) start: Offset,
    pub(super) end: Offset,
    pub(super) refused: Option<String>,
}

/// Reads what the store has of a log. Cuts a torn tail off; changes nothing else.
pub(super) fn replay(log: LogId, settings: &Settings) -> Result<Replayed, LogError> {
    let objects = settings.store.list(log).map_err(|e| failed("list", log.to_string(), e))?;
    let mut replayed = Replayed::default();
    let Some((first, _)) = objects.first() else {
        return Ok(replayed);
    };
    replayed.start = *first;
    replayed.end = *first;
    let mut scanned = 0;
    for (index, (base, length)) in objects.iter().enumerate() {
        let object = ObjectId { log, base: *base };
        if *base != replayed.end {
            replayed.refuse(format!(
                "offsets {} to {} are missing before segment {object}",
                replayed.end,
                base.get().saturating_sub(1)
            ));
            replayed.end = replayed.end.max(*base);
        }
        let following = objects.get(index + 1).map(|(base, _)| *base);
        replayed.segment(object, *length, following, settings)?;
        scanned += length;
    }
    if let Some(last) = replayed.segments.last().filter(|_| settings.sync && scanned > 0) {
        // What was only in the page cache may be shown to readers and named as a duplicate.
        let object = last.object;
        settings.store.sync(object).map_err(|e| failed("sync", object.to_string(), e))?;
    }
    info!(%log, start = %replayed.start, end = %replayed.end, scanned_bytes = scanned, "log recovered");
    Ok(replayed)
}

impl Replayed {
    fn segment(
        &mut self,
        object: ObjectId,
        length: u64,
        following: Option<Offset>,
        settings: &Settings,
    ) -> Result<(), LogError> {
        let unreadable = |e| failed("read", object.to_string(), e);
        let mut segment = Segment::new(object);
        let mut scan = Scan::new(&*settings.store, object, 0, length);
        while let Some(found) = scan.advance().map_err(unreadable)? {
            let (position, reason) = match found {
                Found::Batch { header, bytes, .. } if header.base_offset == self.end => {
                    segment.push(&header, settings.index_interval_bytes);
                    self.batch(&header, &bytes);
                    continue;
                }
                Found::Batch { position, header, .. } => (
                    position,
                    format!("base offset {} instead of {}", header.base_offset, self.end),
                ),
                Found::Bad { position, reason } => (position, reason),
            };
            let next = scan.resync(position, self.end.plus(1)).map_err(unreadable)?;
            if next.is_none() && following.is_none() {
                let truncated_bytes = length - position;
                settings
                    .store
                    .truncate(object, position)
                    .map_err(|e| failed("truncate", object.to_string(), e))?;
                warn!(
                    log = %object.log, segment = %object.base, position, truncated_bytes, reason,
                    end = %self.end, "log tail was torn, truncated to the last valid batch"
                );
                break;
            }
            // Valid batches follow, so this is no torn tail: what was acknowledged may not be cut.
            let (end, next) = next.unwrap_or((length, following.unwrap_or(self.end)));
            self.refuse(format!("segment {object} is damaged at byte {position}: {reason}"));
            segment.damage(Damage { offset: self.end, next, position, end, reason });
            self.end = next;
            scan.seek(end);
        }
        self.segments.push(segment);
        Ok(())
    }

    fn batch(&mut self, header: &BatchHeader, bytes: &[u8]) {
        self.end = header.next_offset();
        let Some(producer) = header.producer else { return };
        if header.control() {
            if let Some(marker) = batch::marker_of(bytes) {
                let offset = header.base_offset;
                let aborted =
                    self.producers.replay_marker(producer.id, producer.epoch, marker, offset);
                self.aborted.extend(aborted);
            }
        } else if let Some(facts) = BatchFacts::of(header) {
            self.producers.replay(&facts, header.base_offset);
        }
    }

    fn refuse(&mut self, reason: String) {
        error!(reason, "log is damaged: it is readable around the damage and takes no appends");
        self.refused.get_or_insert(format!("{reason}; run `ottla doctor`"));
    }
}

fn failed(action: &'static str, path: String, source: std::io::Error) -> LogError {
    LogError::Io { action, path, source }
}
