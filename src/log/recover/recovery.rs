//! Opening a log: takes the view's snapshot if the log still fits it, walks the batches after it,
//! rebuilds index and producer state from them, cuts a torn tail, removes what a crash has left of
//! deletions and compactions, and marks damage it may not cut.

use std::io;

use tracing::{debug, error, info, warn};

use super::log_time::{Clocks, LogTime};
use crate::log::LogError;
use crate::log::append::producer::{BatchFacts, Producers};
use crate::log::format::batch::{self, BatchHeader, Producer};
use crate::log::format::scan::{Found, Scan};
use crate::log::object::manifest::{Manifest, ManifestSegment};
use crate::log::object::record_store::{Listing, Location, ObjectId, RecordStore};
use crate::log::outcome::AbortedTxn;
use crate::log::partition::Noted;
use crate::log::refusals::Refusal;
use crate::log::segment::{Damage, Segment};
use crate::log::settings::Settings;
use crate::store::{AbortedEntry, Anchor, LogSnapshot, SegmentEntry, StoreError};
use crate::types::{LogId, Offset, Progress};

/// How many bytes `Replayed::write_again` writes at once.
const AGAIN_BYTES: u64 = 1 << 20;

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
    /// Where the first batch begins that no sync may have reached, although the page cache shows it.
    doubtful: Option<(ObjectId, u64)>,
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
            idle_max: settings.producer_idle_max,
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
            store.sync(last.object).map_err(|e| failed("sync", last.object, e))?;
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
        store.put_manifest(log, manifest).map_err(|source| LogError::Io {
            action: "write the manifest of",
            path: log.to_string(),
            source,
        })?;
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

/// Up to where a log was on the disk once, by what lies in the store and by the view; `None` if it
/// may always have been empty.
pub(super) fn promised(listing: &Listing, synced: Option<Offset>) -> Option<Offset> {
    let noted = listing.manifest.as_ref().map(|manifest| manifest.end);
    let promised = listing.start.max(listing.promised).max(noted).max(synced);
    promised.filter(|end| *end > Offset::ZERO)
}

/// What is said of a log without files that went up to `end`.
pub(in crate::log) fn files_gone(end: Offset) -> String {
    format!("all of its files are gone, although all before offset {end} had been on the disk")
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

/// What the page cache has of the writes that no sync has followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) enum Cache {
    /// All of them: the machine runs since they were made. Only the end of the last write can be missing, if
    /// the process was killed meanwhile.
    Whole,
    /// Any part of them may be missing: power was lost, or nothing tells that it was not.
    Lost,
    /// A sync has failed, and the machine runs since. The cache may show bytes at and behind this offset that no
    /// later sync will write, or it may have dropped them.
    Doubtful {
        /// The durable end.
        from: Offset,
    },
}

impl Cache {
    /// What is known of the cache between a log and its disk.
    pub(in crate::log) fn of(listing: &Listing, store: &dyn RecordStore) -> Cache {
        let boot = store.boot();
        match &listing.manifest {
            Some(manifest) if boot.is(manifest.failed_sync) => {
                Cache::Doubtful { from: manifest.end }
            }
            _ if boot.is_same => Cache::Whole,
            _ => Cache::Lost,
        }
    }
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

/// The state of a log in the view.
type Known = (LogSnapshot, Vec<AbortedEntry>);

/// The view's snapshot of a log, if it fits the log; and the offset up to which the log was once on the disk
/// according to the view, also if the snapshot does not fit.
fn snapshot(
    log: LogId,
    objects: &[(ObjectId, u64)],
    listing: &mut Listing,
    settings: &Settings,
) -> (Option<Known>, Option<Offset>) {
    let (store, view) = (&*settings.store, &settings.view);
    let known = || -> Result<_, StoreError> {
        let Some(snapshot) = view.log_snapshot(log)? else { return Ok(None) };
        Ok(Some((snapshot, view.log_aborted(log)?)))
    };
    let (misfit, snapshot) = match known() {
        Ok(None) => return (None, None),
        Ok(Some((snapshot, aborted))) => match misfit(log, &snapshot, objects, store) {
            None => {
                let end = snapshot.end;
                return (Some((snapshot, aborted)), Some(end));
            }
            Some(misfit) => (misfit, Some(snapshot)),
        },
        Err(error) => (error.to_string(), None),
    };
    let label = settings.label(log);
    warn!(log = label, misfit, "view does not fit the log, scanning the whole log");
    let synced = snapshot.as_ref().map(|snapshot| snapshot.end);
    // Of a log that an earlier version wrote, the view alone tells how far it was on the disk.
    if let Err(error) = keep_end(log, synced.unwrap_or_default(), listing, store) {
        warn!(log = label, %error, "manifest was not written, the snapshot stays in the view");
    } else if let Err(error) = view.forget_log(log) {
        warn!(log = label, %error, "a snapshot that does not fit could not be removed from the view");
    }
    (None, synced)
}

/// Raises the durable end in a log's manifest to `end`.
fn keep_end(
    log: LogId,
    end: Offset,
    listing: &mut Listing,
    store: &dyn RecordStore,
) -> io::Result<()> {
    if listing.manifest.as_ref().map_or(Offset::ZERO, |manifest| manifest.end) >= end {
        return Ok(());
    }
    let manifest = Manifest::raised(listing, end);
    store.put_manifest(log, manifest.clone())?;
    listing.manifest = Some(manifest);
    Ok(())
}

/// Why a snapshot does not fit its log; `None` if it fits.
fn misfit(
    log: LogId,
    snapshot: &LogSnapshot,
    objects: &[(ObjectId, u64)],
    store: &dyn RecordStore,
) -> Option<String> {
    let Some((last, sealed)) = snapshot.segments.split_last() else {
        return Some("it names no segment".to_owned());
    };
    let object =
        |entry: &SegmentEntry| ObjectId { log, base: entry.base, revision: entry.revision };
    let is_there =
        |(i, entry): (usize, &SegmentEntry)| objects.get(i) == Some(&(object(entry), entry.bytes));
    if !sealed.iter().enumerate().all(is_there) {
        return Some("its older segments differ".to_owned());
    }
    match objects.get(sealed.len()) {
        Some((found, length)) if *found == object(last) && *length >= last.bytes => {}
        _ => return Some(format!("segment {} is shorter", last.base)),
    }
    let Some(anchor) = snapshot.anchor else {
        let is_empty = last.bytes == 0 && snapshot.end == last.base;
        return (!is_empty).then(|| "it names no last batch".to_owned());
    };
    match Scan::new(store, object(last), anchor.position, last.bytes).peek() {
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

    /// Holds the log to what is known about it: where it starts, and up to where it was on the
    /// disk. A log that ends before that has lost records that may have been acknowledged: that is
    /// no torn tail, and their offsets may not be given out again.
    pub(in crate::log) fn hold_to(&mut self, listing: &Listing, synced: Option<Offset>) {
        if let Some(reason) = &listing.refused {
            self.refused.get_or_insert(Refusal::incomplete(reason.clone()));
        }
        let noted = listing.manifest.as_ref().map(|manifest| manifest.start).max(listing.start);
        if let (Some(start), Some(first)) = (noted, self.segments.first())
            && listing.manifest.is_some()
            && first.object.base > start
        {
            let object = first.object;
            self.gaps.insert(0, (object, start));
            self.refuse(format!("{object} is the first segment, the log starts at offset {start}"));
        }
        if let Some(manifest) = &listing.manifest {
            self.cleaned_to = self.cleaned_to.max(manifest.cleaned_to.min(self.end));
        }
        self.start = self.start.max(listing.start.unwrap_or_default());
        let promised = promised(listing, synced).unwrap_or_default().max(self.start);
        let Some(segment) = self.segments.last_mut().filter(|_| self.end < promised) else {
            return;
        };
        let (position, bytes, reason) = match self.torn.take() {
            Some(torn) => (torn.position, torn.bytes, torn.reason),
            None => {
                let reason = match missing(listing, segment.object) {
                    Some(gone) => format!("segment {gone} is gone"),
                    None => "it ends too early".to_owned(),
                };
                (segment.bytes, 0, reason)
            }
        };
        let reason = format!("{reason}; all before offset {promised} had been on the disk");
        let object = segment.object;
        segment.damage(Damage {
            offset: self.end,
            next: promised,
            position,
            end: position + bytes,
            reason: reason.clone(),
        });
        self.end = promised;
        self.refuse(format!("segment {object} is damaged at byte {position}: {reason}"));
    }

    /// What the manifest says from now on. The log ends at its durable end, unless it refuses appends.
    fn note(&mut self, listing: &Listing) {
        let manifest = listing.manifest.as_ref();
        let end = manifest.map_or(Offset::ZERO, |manifest| manifest.end);
        self.noted = Noted {
            version: manifest.map_or(0, |manifest| manifest.version),
            start: self.start,
            end: if self.refused.is_none() { self.end } else { end },
            // A log that refuses appends was not looked after: the next start must know.
            failed_sync: manifest
                .and_then(|manifest| manifest.failed_sync)
                .filter(|_| self.refused.is_some()),
        };
        let last = self.segments.last().map(Segment::id);
        let is_last = |segment: &ManifestSegment| Some(segment.id) == last;
        self.is_listed = manifest.is_some_and(|manifest| manifest.segments.iter().any(is_last));
    }

    /// A new manifest of the log.
    fn manifest(&self) -> Manifest {
        let Noted { version, start, end, failed_sync } = self.noted;
        let segment =
            |segment: &Segment| ManifestSegment { id: segment.id(), bytes: segment.bytes };
        Manifest {
            version: version + 1,
            start,
            end,
            cleaned_to: self.cleaned_to,
            failed_sync,
            segments: self.segments.iter().map(segment).collect(),
        }
    }

    /// Writes what the page cache shows behind the durable end again, unchanged, and syncs it.
    fn write_again(&self, store: &dyn RecordStore) -> Result<(), LogError> {
        let Some((first, from)) = self.doubtful else { return Ok(()) };
        let again = self.segments.iter().skip_while(|segment| segment.object != first);
        for segment in again {
            let object = segment.object;
            let mut position = if object == first { from } else { 0 };
            while position < segment.bytes {
                let length = (segment.bytes - position).min(AGAIN_BYTES) as usize;
                let bytes = store.read(Location { object, position, length });
                let bytes = bytes.map_err(|e| failed("read", object, e))?;
                if bytes.is_empty() {
                    break;
                }
                store.append(object, position, &bytes).map_err(|e| failed("write", object, e))?;
                position += bytes.len() as u64;
            }
            store.sync(object).map_err(|e| failed("sync", object, e))?;
            info!(
                segment = %object, from = if object == first { from } else { 0 },
                "a sync has failed in this boot of the machine: bytes were written again and synced"
            );
        }
        Ok(())
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
            let next =
                scan.resync(position, self.end.plus(1)..=following.unwrap_or(Offset::MAX))?;
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

    fn refuse(&mut self, reason: String) {
        self.refused.get_or_insert(Refusal::damage(reason));
    }
}

/// A segment behind `last` that the manifest lists and that is not there.
fn missing(listing: &Listing, last: ObjectId) -> Option<ObjectId> {
    let listed = listing.manifest.iter().flat_map(|manifest| &manifest.segments);
    let mut behind = listed.filter(|listed| listed.id.base > last.base);
    behind.next().map(|ManifestSegment { id, .. }| ObjectId {
        base: id.base,
        revision: id.revision,
        ..last
    })
}

fn failed(action: &'static str, object: ObjectId, source: io::Error) -> LogError {
    LogError::Io { action, path: object.to_string(), source }
}
