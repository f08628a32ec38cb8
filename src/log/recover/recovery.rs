//! Opening a log: takes the view's snapshot if the log still fits it, walks the batches after it,
//! rebuilds index and producer state from them, cuts a torn tail, removes what a crash has left of
//! deletions and compactions, and marks damage it may not cut.

use std::io;

use tracing::{debug, error, info, warn};

use super::log_time::{Clocks, LogTime};
use super::promise::{Cache, files_gone, promised};
use super::snapshot::snapshot;
use crate::log::LogError;
use crate::log::append::producer::{BatchFacts, Producers};
use crate::log::format::batch::{self, BatchHeader, HEADER_BYTES, Producer};
use crate::log::format::scan::{Found, Scan};
use crate::log::object::record_store::{Listing, ObjectId, RecordStore};
use crate::log::outcome::AbortedTxn;
use crate::log::partition::Noted;
use crate::log::refusals::Refusal;
use crate::log::segment::{Damage, Segment};
use crate::log::settings::Settings;
use crate::store::{AbortedEntry, Anchor, LogSnapshot};
use crate::types::{LogId, Offset, Progress};

/// The state of a log as recovery has rebuilt it.
#[derive(Default)]
pub(in crate::log) struct Replayed {
    pub(in crate::log) segments: Vec<Segment>,
    pub(in crate::log) producers: Producers,
    pub(in crate::log) aborted: Vec<AbortedTxn>,
    pub(in crate::log) start: Offset,
    pub(in crate::log) end: Offset,
    /// The last batch.
    pub(in crate::log) anchor: Option<Anchor>,
    /// Bytes that were scanned, behind the end of the view's snapshot.
    pub(in crate::log) scanned_bytes: u64,
    /// How many of the aborted transactions the view has.
    pub(in crate::log) view_aborted: usize,
    /// The log is compacted up to this offset.
    pub(in crate::log) cleaned_to: Offset,
    /// Segments whose offsets an earlier segment holds already.
    pub(in crate::log) superseded: Vec<ObjectId>,
    /// Segments that do not begin where the one before them ends, with the offset at which they should.
    pub(in crate::log) gaps: Vec<(ObjectId, Offset)>,
    /// The bytes after the last valid batch of the log, if there are any.
    pub(in crate::log) torn: Option<Torn>,
    /// Why the log refuses appends, if it does.
    pub(in crate::log) refused: Option<Refusal>,
    /// What the log's manifest says from now on.
    pub(in crate::log) noted: Noted,
    /// The manifest lists the last segment.
    pub(in crate::log) is_listed: bool,
    /// The last segment was synced after everything was done to it.
    pub(in crate::log) is_synced: bool,
    /// Where the first batch begins that no sync may have reached, although the page cache shows it.
    pub(super) doubtful: Option<(ObjectId, u64)>,
    time: LogTime,
}

/// A torn tail: bytes at the end of a log that are no whole batch.
pub(in crate::log) struct Torn {
    pub(in crate::log) object: ObjectId,
    pub(in crate::log) position: u64,
    pub(in crate::log) bytes: u64,
    pub(in crate::log) reason: String,
}

/// Recovers a log from its segments and the view. Cuts off a torn tail and removes leftovers, unless the log
/// is damaged; changes nothing else.
pub(in crate::log) fn replay(log: LogId, settings: &Settings) -> Result<Replayed, LogError> {
    let store = &*settings.store;
    let mut listing = list(log, store)?;
    if let Some(fault) = &listing.manifest_fault {
        warn!(
            log = settings.label(log),
            fault,
            "manifest cannot be read: an end that was on the disk and is lost cannot be told now"
        );
    }
    if listing.is_start_new {
        // Before anybody sees the new start: it never goes back.
        store.settle_manifest(log).map_err(|source| manifest_failed(log, source))?;
    }
    if listing.drafts
        && let Err(error) = store.discard_drafts(log)
    {
        warn!(log = settings.label(log), %error, "drafts of a compaction were not removed");
    }
    let (objects, leftovers) = current(&listing, store)?;
    if objects.is_empty() {
        return Ok(absent(log, &listing, settings));
    }
    let (known, synced) = snapshot(log, &objects, &mut listing, settings);
    // The index of a whole log may not fit in memory, so each segment's index goes to the view when the
    // segment is done.
    let keep_index =
        |segment: &mut Segment| match settings.view.keep_index(log, segment.id(), &segment.index) {
            Ok(()) => segment.index = Vec::new(),
            Err(error) => warn!(log = settings.label(log), %error, "index stays in memory"),
        };
    let how = Walk {
        index_interval_bytes: settings.topics.of(log.topic).config().index_interval_bytes,
        clocks: Clocks {
            wall: settings.age.now(),
            monotonic_ms: settings.monotonic_ms(),
            idle_max: settings.producer_idle_max(),
        },
        progress: settings.progress(),
        cache: Cache::of(&listing, store),
    };
    let mut replayed = walk(log, &objects, known, store, &how, keep_index)?;
    replayed.hold_to(&listing, synced);
    let label = settings.label(log);
    if let Some(refusal) = &replayed.refused {
        let places: usize = replayed.segments.iter().map(|segment| segment.damaged.len()).sum();
        settings.meter.damaged.inc_by((places + replayed.gaps.len()) as u64);
        settings.note_refusal(log, refusal);
        let Refusal { reason, next_step } = refusal;
        error!(
            log = label,
            reason,
            next_step,
            "log is damaged: it takes no appends, and all records but the damaged ones can be read"
        );
    }
    // In a damaged log a leftover, or what seems a torn tail, may be the only copy of some records.
    let is_whole = replayed.refused.is_none();
    if let Some(Torn { object, position, bytes, reason }) =
        replayed.torn.take().filter(|_| is_whole)
    {
        store.truncate(object, position).map_err(|e| failed("truncate", object, e))?;
        warn!(
            log = label, segment = %object.base, position, truncated_bytes = bytes, reason,
            end = %replayed.end, "log tail was torn, truncated to the last valid batch"
        );
    }
    if is_whole && let Cache::Doubtful { .. } = how.cache {
        replayed.write_again(store)?;
    }
    let has_leftovers = !leftovers.is_empty() || !replayed.superseded.is_empty();
    if replayed.scanned_bytes > 0 || has_leftovers {
        // Sync, also with `durability = page-cache`. Bytes that may be only in the page cache will now be
        // shown to readers, count as stored for producers, and go into a snapshot. A cut tail must not
        // reappear behind later appends. And a segment that replaces leftovers may have been published by
        // a process that was killed before it synced the name.
        if let Some(last) = replayed.segments.last() {
            if let Err(error) = store.sync(last.object) {
                replayed.note_failed_sync(log, &listing, store);
                return Err(failed("sync", last.object, error));
            }
            replayed.is_synced = true;
        }
        debug!(
            log = label, start = %replayed.start, end = %replayed.end,
            scanned_bytes = replayed.scanned_bytes, "log recovered"
        );
    }
    replayed.note(&listing);
    if is_whole && let Cache::Doubtful { .. } = how.cache {
        // From here on the disk has what the page cache shows.
        let manifest = replayed.manifest();
        replayed.noted.version = manifest.version;
        store.put_manifest(log, manifest).map_err(|source| manifest_failed(log, source))?;
    }
    for object in leftovers.iter().chain(&replayed.superseded).filter(|_| is_whole) {
        match store.delete(*object) {
            Ok(()) => {
                info!(log = label, segment = %object, "removed a segment that a crash left behind")
            }
            Err(error) => {
                warn!(log = label, segment = %object, %error, "an unused segment could not be removed")
            }
        }
    }
    Ok(replayed)
}

/// A log without segments: a new one, or one whose files are gone although it is known that it had
/// some. Its offsets may not be given out again.
fn absent(log: LogId, listing: &Listing, settings: &Settings) -> Replayed {
    let mut replayed = Replayed::default();
    // If the view fails, the log is treated as if there were no view.
    let synced = settings.view.log_snapshot(log).ok().flatten().map(|snapshot| snapshot.end);
    let end = promised(listing, synced);
    if let Some(end) = end {
        (replayed.start, replayed.end) = (end, end);
        replayed.refuse(files_gone(end));
    }
    replayed.hold_to(listing, synced);
    if let Some(refusal) = &replayed.refused {
        settings.note_refusal(log, refusal);
        let Refusal { reason, next_step } = refusal;
        error!(log = settings.label(log), reason, next_step, "log is lost: it takes no appends");
    }
    replayed.note(listing);
    replayed
}

/// What lies in the store of a log.
pub(in crate::log) fn list(log: LogId, store: &dyn RecordStore) -> Result<Listing, LogError> {
    store.list(log).map_err(|source| LogError::Io { action: "list", path: log.to_string(), source })
}

/// Objects with their lengths, by base offset.
type Objects = Vec<(ObjectId, u64)>;

/// The objects that hold the log, in order, and leftovers: objects whose removal a crash has interrupted,
/// which are earlier revisions and segments below the log start. Segments that a compaction has joined to
/// another one are found only by the walk.
pub(in crate::log) fn current(
    listing: &Listing,
    store: &dyn RecordStore,
) -> Result<(Objects, Vec<ObjectId>), LogError> {
    let mut leftovers = Vec::new();
    let mut objects = Objects::with_capacity(listing.objects.len());
    for (object, bytes) in &listing.objects {
        if let Some((earlier, _)) = objects.pop_if(|(earlier, _)| earlier.base == object.base) {
            leftovers.push(earlier);
        }
        objects.push((*object, *bytes));
    }
    if let Some(start) = listing.start {
        let mut kept =
            objects.partition_point(|(object, _)| object.base <= start).saturating_sub(1);
        // A compacted segment before the start may reach beyond it: a compaction may have joined the
        // segments behind it to it.
        for (index, (object, bytes)) in objects.iter().enumerate().take(kept) {
            if reaches(store, *object, *bytes, start).map_err(|e| failed("read", *object, e))? {
                kept = index;
                break;
            }
        }
        leftovers.extend(objects.drain(..kept).map(|(object, _)| object));
    }
    Ok((objects, leftovers))
}

/// Whether a segment may hold the offset `start`, although another segment behind it begins at or before
/// `start`. Only a compacted segment can; one with a damaged end counts as if it did.
fn reaches(
    store: &dyn RecordStore,
    object: ObjectId,
    bytes: u64,
    start: Offset,
) -> io::Result<bool> {
    if object.revision == 0 {
        return Ok(false);
    }
    let mut scan = Scan::new(store, object, 0, bytes);
    while let Some(found) = scan.advance()? {
        match found {
            Found::Batch { header, .. } if header.next_offset() > start => return Ok(true),
            Found::Batch { .. } => {}
            Found::Bad { position, .. } => {
                match scan.resync(position, object.base..=Offset::MAX)? {
                    Some((behind, _)) => scan.seek(behind),
                    None => return Ok(true),
                }
            }
        }
    }
    Ok(false)
}

/// The parameters of `walk`.
pub(in crate::log) struct Walk<'a> {
    pub(in crate::log) index_interval_bytes: u64,
    /// What tells idle producers.
    pub(in crate::log) clocks: Clocks,
    /// Counts the bytes while they are read.
    pub(in crate::log) progress: &'a Progress,
    /// What the page cache has of unsynced writes.
    pub(in crate::log) cache: Cache,
}

/// Walks a log from the end of the snapshot `known`, or from its beginning, and changes nothing. Calls
/// `sealed` for every segment but the last when it has been walked.
pub(in crate::log) fn walk(
    log: LogId,
    objects: &[(ObjectId, u64)],
    known: Option<(LogSnapshot, Vec<AbortedEntry>)>,
    store: &dyn RecordStore,
    how: &Walk<'_>,
    mut sealed: impl FnMut(&mut Segment),
) -> Result<Replayed, LogError> {
    let Walk { clocks, progress, .. } = *how;
    let time = LogTime::new(clocks);
    let mut replayed = match known {
        Some((snapshot, aborted)) => Replayed::from_view(log, &snapshot, &aborted, time),
        None => Replayed { time, ..Replayed::default() },
    };
    // The last segment of the snapshot may have grown since.
    let mut grown = replayed.segments.pop();
    let first = replayed.segments.len();
    if let Some((object, _)) = objects.first().filter(|_| grown.is_none()) {
        replayed.start = object.base;
        replayed.end = object.base;
    }
    for (index, (object, length)) in objects.iter().enumerate().skip(first) {
        let segment = match grown.take() {
            Some(segment) => segment,
            // The segment before it holds its records: a compaction has joined the two.
            None if object.base < replayed.end => {
                replayed.superseded.push(*object);
                continue;
            }
            None => {
                replayed.begin(*object);
                Segment::new(*object)
            }
        };
        replayed.scanned_bytes += length - segment.bytes;
        let mut scan = Scan::new(store, *object, segment.bytes, *length).counted(progress);
        let later = objects.get(index + 1..).unwrap_or_default();
        replayed
            .segment(segment, &mut scan, *length, later, how)
            .map_err(|e| failed("read", *object, e))?;
        if let Some(segment) = replayed.segments.last_mut().filter(|_| !later.is_empty()) {
            sealed(segment);
        }
    }
    replayed.time.end(&mut replayed.producers);
    Ok(replayed)
}

impl Replayed {
    fn from_view(
        log: LogId,
        snapshot: &LogSnapshot,
        aborted: &[AbortedEntry],
        mut time: LogTime,
    ) -> Replayed {
        let txn = |entry: &AbortedEntry| AbortedTxn {
            producer: entry.producer,
            first_offset: entry.first_offset,
            last_offset: entry.marker,
        };
        let segments: Vec<Segment> =
            snapshot.segments.iter().map(|e| Segment::indexed(log, e)).collect();
        let seen_ms = time.pass_known(&segments, &snapshot.producers);
        Replayed {
            segments,
            producers: Producers::from_entries(&snapshot.producers, &seen_ms),
            aborted: aborted.iter().map(txn).collect(),
            view_aborted: aborted.len(),
            start: snapshot.start,
            end: snapshot.end,
            cleaned_to: snapshot.cleaned_to,
            anchor: snapshot.anchor,
            time,
            ..Replayed::default()
        }
    }

    /// Begins a segment, and notes a gap if offsets are missing before it.
    fn begin(&mut self, object: ObjectId) {
        self.anchor = None;
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
        later: &[(ObjectId, u64)],
        how: &Walk<'_>,
    ) -> io::Result<()> {
        let object = segment.object;
        while let Some(found) = scan.advance()? {
            let (position, reason) = match found {
                Found::Batch { position, header, bytes } if header.base_offset == self.end => {
                    if let Cache::Doubtful { from } = how.cache
                        && self.doubtful.is_none()
                        && header.next_offset() > from
                    {
                        self.doubtful = Some((object, position));
                    }
                    segment.push(&header, how.index_interval_bytes);
                    self.batch(position, &header, &bytes);
                    continue;
                }
                Found::Batch { position, header, .. } => {
                    let found = header.base_offset;
                    (position, format!("its base offset is {found} instead of {}", self.end))
                }
                Found::Bad { position, reason } => (position, reason),
            };
            // A later segment that begins before this point is a leftover: skip it.
            let following = later.iter().map(|(object, _)| object.base).find(|b| *b >= self.end);
            // The CRC does not cover the base offset: what so few bytes cannot have led to is none. A batch
            // takes 61 bytes at least, and 2^31 offsets at most.
            let batches = (length - position) / HEADER_BYTES as u64 + 1;
            let highest = self.end.plus(batches.saturating_mul(1 << 31));
            let next = scan.resync(position, self.end.plus(1)..=following.unwrap_or(highest))?;
            if following.is_none() && self.is_torn(scan, position, next.is_some(), how.cache)? {
                let reason = match next {
                    Some((_, next)) => {
                        format!("a hole of zeros, whole batches behind it from offset {next} on")
                    }
                    None => reason,
                };
                self.torn = Some(Torn { object, position, bytes: length - position, reason });
                break;
            }
            // Valid batches follow, so this is damage and no torn tail: they may be acknowledged and must
            // not be cut off.
            let (end, next) = match next {
                Some(next) => next,
                None => (length, following.map_or_else(|| scan.lost_to(position, self.end), Ok)?),
            };
            self.refuse(format!("segment {object} is damaged at byte {position}: {reason}"));
            segment.damage(Damage { offset: self.end, next, position, end, reason });
            self.end = next;
            scan.seek(end);
        }
        self.segments.push(segment);
        Ok(())
    }

    /// Whether what is at `position`, where the log's last bytes begin to be no batch, is what is left of an
    /// unsynced write. `goes_on` tells that there are whole batches behind.
    fn is_torn(
        &self,
        scan: &mut Scan<'_>,
        position: u64,
        goes_on: bool,
        cache: Cache,
    ) -> io::Result<bool> {
        // Zeros where a batch should begin are bytes that never reached the disk. So nothing behind them was
        // synced: the machine lost power in the middle of unsynced writes.
        Ok(match cache {
            Cache::Whole if goes_on => false,
            _ if goes_on => scan.is_hole(position)?,
            // A whole batch whose length, offset or magic is wrong.
            _ if scan.is_whole_behind_its_place(position)? => false,
            Cache::Whole => scan.is_cut_short(position, self.end)?,
            _ => true,
        })
    }

    fn batch(&mut self, position: u64, header: &BatchHeader, bytes: &[u8]) {
        self.end = header.next_offset();
        self.anchor = Some(Anchor { position, base_offset: header.base_offset, crc: header.crc });
        self.time.pass(header.max_timestamp);
        let Some(producer) = header.producer else { return };
        let seen_ms = self.time.now_ms();
        if header.control() {
            if let Some(marker) = batch::marker_of(bytes) {
                let offset = header.base_offset;
                let Producer { id, epoch, .. } = producer;
                let aborted = self.producers.replay_marker(id, epoch, marker, offset, seen_ms);
                self.aborted.extend(aborted);
            }
        } else if let Some(facts) = BatchFacts::of(header, seen_ms) {
            self.producers.replay(&facts, header.base_offset);
        }
        self.time.forget_idle(&mut self.producers);
    }

    pub(super) fn refuse(&mut self, reason: String) {
        self.refused.get_or_insert(Refusal::damage(reason));
    }
}

fn manifest_failed(log: LogId, source: io::Error) -> LogError {
    LogError::Io { action: "write the manifest of", path: log.to_string(), source }
}

pub(super) fn failed(action: &'static str, object: ObjectId, source: io::Error) -> LogError {
    LogError::Io { action, path: object.to_string(), source }
}
