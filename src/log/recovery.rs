//! Opening a log: takes the view's snapshot if the log still fits it, walks the batches after it,
//! rebuilds index and producer state from them, cuts a torn tail, and marks damage it may not cut.

use std::io;
use std::time::Duration;

use tracing::{error, info, warn};

use super::LogError;
use super::batch::{self, BatchHeader};
use super::outcome::AbortedTxn;
use super::owner::Settings;
use super::producer::{BatchFacts, Producers};
use super::record_store::{ObjectId, RecordStore};
use super::scan::{Found, Scan};
use super::segment::{Damage, Segment};
use crate::store::{AbortedEntry, Anchor, LogSnapshot, StoreError};
use crate::types::{LogId, Offset};

/// A log as its bytes say it is.
#[derive(Default)]
pub(super) struct Replayed {
    pub(super) segments: Vec<Segment>,
    pub(super) producers: Producers,
    pub(super) aborted: Vec<AbortedTxn>,
    pub(super) start: Offset,
    pub(super) end: Offset,
    /// The last batch.
    pub(super) anchor: Option<Anchor>,
    /// Bytes that were walked, past what the view knew.
    pub(super) scanned_bytes: u64,
    /// How many of the aborted transactions the view knew.
    pub(super) view_aborted: usize,
    /// Segments that begin elsewhere than at the offset given.
    pub(super) gaps: Vec<(ObjectId, Offset)>,
    /// Bytes after the last valid batch of the log.
    pub(super) torn: Option<Torn>,
    /// Why the log may not be written to.
    pub(super) refused: Option<String>,
    /// When this is, by the monotonic clock.
    now: Duration,
}

/// The end of a log that was not written whole.
pub(super) struct Torn {
    pub(super) object: ObjectId,
    pub(super) position: u64,
    pub(super) bytes: u64,
    pub(super) reason: String,
}

/// Reads what the store has of a log. Cuts a torn tail off; changes nothing else.
pub(super) fn replay(log: LogId, settings: &Settings) -> Result<Replayed, LogError> {
    let store = &*settings.store;
    let objects = list(log, store)?;
    if objects.is_empty() {
        return Ok(Replayed::default());
    }
    let known = snapshot(log, &objects, settings);
    // A whole index may not fit in memory: the view takes it over segment by segment.
    let keep_index = |segment: &mut Segment| match settings.view.keep_index(
        log,
        segment.object.base,
        &segment.index,
    ) {
        Ok(()) => segment.index = Vec::new(),
        Err(error) => warn!(log = settings.label(log), %error, "index stays in memory"),
    };
    let interval = settings.topics.of(log.topic).config().index_interval_bytes;
    let now = settings.clock.monotonic();
    let mut replayed = walk(log, &objects, known, store, interval, now, keep_index)?;
    let label = settings.label(log);
    if let Some(reason) = &replayed.refused {
        settings.meter.refusing.inc();
        error!(
            log = label,
            reason, "log is damaged: it is readable around the damage, and takes no appends"
        );
    }
    if let Some(Torn { object, position, bytes, reason }) = replayed.torn.take() {
        store.truncate(object, position).map_err(|e| failed("truncate", object, e))?;
        warn!(
            log = label, segment = %object.base, position, truncated_bytes = bytes, reason,
            end = %replayed.end, "log tail was torn, truncated to the last valid batch"
        );
    }
    if replayed.scanned_bytes > 0 {
        // What was only in the page cache is about to be shown to readers, and to be named to
        // producers as stored.
        if let Some(last) = replayed.segments.last().filter(|_| settings.sync) {
            store.sync(last.object).map_err(|e| failed("sync", last.object, e))?;
        }
        info!(
            log = label, start = %replayed.start, end = %replayed.end,
            scanned_bytes = replayed.scanned_bytes, "log recovered"
        );
    }
    Ok(replayed)
}

/// Every object of a log with its length, by base offset.
pub(super) fn list(log: LogId, store: &dyn RecordStore) -> Result<Vec<(Offset, u64)>, LogError> {
    store.list(log).map_err(|source| LogError::Io { action: "list", path: log.to_string(), source })
}

/// Walks a log from where `known` ends, or from its beginning, and changes nothing. `sealed` is
/// given every segment but the last when it has been walked.
pub(super) fn walk(
    log: LogId,
    objects: &[(Offset, u64)],
    known: Option<(LogSnapshot, Vec<AbortedEntry>)>,
    store: &dyn RecordStore,
    index_interval_bytes: u64,
    now: Duration,
    mut sealed: impl FnMut(&mut Segment),
) -> Result<Replayed, LogError> {
    let mut replayed = match known {
        Some((snapshot, aborted)) => Replayed::from_view(log, &snapshot, &aborted, now),
        None => Replayed { now, ..Replayed::default() },
    };
    // The last segment that the view knows may have grown since.
    let grown = replayed.segments.pop();
    let first = replayed.segments.len();
    if let Some((base, _)) = objects.first().filter(|_| grown.is_none()) {
        replayed.start = *base;
        replayed.end = *base;
    }
    let mut grown = grown;
    for (index, (base, length)) in objects.iter().enumerate().skip(first) {
        let object = ObjectId { log, base: *base };
        let segment = grown.take().unwrap_or_else(|| {
            replayed.begin(object);
            Segment::new(object)
        });
        replayed.scanned_bytes += length - segment.bytes;
        let mut scan = Scan::new(store, object, segment.bytes, *length);
        let following = objects.get(index + 1).map(|(base, _)| *base);
        replayed
            .segment(segment, &mut scan, *length, following, index_interval_bytes)
            .map_err(|e| failed("read", object, e))?;
        if let Some(segment) = replayed.segments.last_mut().filter(|_| following.is_some()) {
            sealed(segment);
        }
    }
    Ok(replayed)
}

/// The view's snapshot of a log, if the log has everything that the snapshot says.
fn snapshot(
    log: LogId,
    objects: &[(Offset, u64)],
    settings: &Settings,
) -> Option<(LogSnapshot, Vec<AbortedEntry>)> {
    let (store, view) = (&*settings.store, &settings.view);
    let known = || -> Result<_, StoreError> {
        let Some(snapshot) = view.log_snapshot(log)? else { return Ok(None) };
        Ok(Some((snapshot, view.log_aborted(log)?)))
    };
    let misfit = match known() {
        Ok(None) => return None,
        Ok(Some((snapshot, aborted))) => match misfit(log, &snapshot, objects, store) {
            None => return Some((snapshot, aborted)),
            Some(misfit) => misfit,
        },
        Err(error) => error.to_string(),
    };
    let label = settings.label(log);
    warn!(log = label, misfit, "view does not fit the log, scanning the whole log");
    if let Err(error) = view.forget_log(log) {
        warn!(log = label, %error, "view still holds what does not fit");
    }
    None
}

/// What a log lacks of its snapshot.
fn misfit(
    log: LogId,
    snapshot: &LogSnapshot,
    objects: &[(Offset, u64)],
    store: &dyn RecordStore,
) -> Option<String> {
    let Some((last, sealed)) = snapshot.segments.split_last() else {
        return Some("it names no segment".to_owned());
    };
    let is_there = |(i, entry): (usize, &crate::store::SegmentEntry)| {
        objects.get(i) == Some(&(entry.base, entry.bytes))
    };
    if !sealed.iter().enumerate().all(is_there) {
        return Some("its older segments differ".to_owned());
    }
    match objects.get(sealed.len()) {
        Some((base, length)) if *base == last.base && *length >= last.bytes => {}
        _ => return Some(format!("segment {} is shorter", last.base)),
    }
    let object = ObjectId { log, base: last.base };
    let anchor = snapshot.anchor;
    match Scan::new(store, object, anchor.position, last.bytes).peek() {
        Ok(Some(Ok(header)))
            if header.base_offset == anchor.base_offset
                && header.crc == anchor.crc
                && header.next_offset() == snapshot.end
                && anchor.position + header.bytes as u64 == last.bytes =>
        {
            None
        }
        _ => Some(format!("batch at offset {} differs", anchor.base_offset)),
    }
}

impl Replayed {
    fn from_view(
        log: LogId,
        snapshot: &LogSnapshot,
        aborted: &[AbortedEntry],
        now: Duration,
    ) -> Replayed {
        let txn = |entry: &AbortedEntry| AbortedTxn {
            producer: entry.producer,
            first_offset: entry.first_offset,
            last_offset: entry.marker,
        };
        Replayed {
            segments: snapshot.segments.iter().map(|e| Segment::indexed(log, e)).collect(),
            producers: Producers::from_entries(&snapshot.producers, now),
            aborted: aborted.iter().map(txn).collect(),
            view_aborted: aborted.len(),
            start: snapshot.start,
            end: snapshot.end,
            anchor: Some(snapshot.anchor),
            now,
            ..Replayed::default()
        }
    }

    /// Notes offsets that are missing between two segments.
    fn begin(&mut self, object: ObjectId) {
        if object.base != self.end {
            let from = self.end;
            self.gaps.push((object, from));
            self.refuse(format!("segment {object} does not begin at offset {from}"));
            self.end = self.end.max(object.base);
        }
    }

    fn segment(
        &mut self,
        mut segment: Segment,
        scan: &mut Scan<'_>,
        length: u64,
        following: Option<Offset>,
        index_interval_bytes: u64,
    ) -> io::Result<()> {
        let object = segment.object;
        while let Some(found) = scan.advance()? {
            let (position, reason) = match found {
                Found::Batch { position, header, bytes } if header.base_offset == self.end => {
                    segment.push(&header, index_interval_bytes);
                    self.batch(position, &header, &bytes);
                    continue;
                }
                Found::Batch { position, header, .. } => {
                    let found = header.base_offset;
                    (position, format!("its base offset is {found} instead of {}", self.end))
                }
                Found::Bad { position, reason } => (position, reason),
            };
            let next = scan.resync(position, self.end.plus(1))?;
            // A hole of zeros where a batch should begin was never on the disk, nor was anything
            // behind it synced: the machine lost power in the middle of unsynced writes.
            let hole = following.is_none() && scan.is_hole(position)?;
            if hole || (next.is_none() && following.is_none()) {
                self.torn = Some(Torn { object, position, bytes: length - position, reason });
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

    fn batch(&mut self, position: u64, header: &BatchHeader, bytes: &[u8]) {
        self.end = header.next_offset();
        self.anchor = Some(Anchor { position, base_offset: header.base_offset, crc: header.crc });
        let Some(producer) = header.producer else { return };
        if header.control() {
            if let Some(marker) = batch::marker_of(bytes) {
                let offset = header.base_offset;
                let aborted =
                    self.producers.replay_marker(producer.id, producer.epoch, marker, offset);
                self.aborted.extend(aborted);
            }
        } else if let Some(facts) = BatchFacts::of(header, self.now) {
            self.producers.replay(&facts, header.base_offset);
        }
    }

    fn refuse(&mut self, reason: String) {
        self.refused.get_or_insert(format!("{reason}; stop the broker and run `ottla doctor`"));
    }
}

fn failed(action: &'static str, object: ObjectId, source: io::Error) -> LogError {
    LogError::Io { action, path: object.to_string(), source }
}
