//! Holds a recovered log to its durable end: the end up to which it was on the disk once, by its manifest, the
//! write-ahead log and the view (docs/adr/0012). Says what its next manifest says.

use tracing::{error, info};

use super::recovery::{Replayed, failed};
use crate::log::LogError;
use crate::log::object::manifest::{Manifest, ManifestSegment};
use crate::log::object::record_store::{Listing, Location, ObjectId, RecordStore};
use crate::log::partition::Noted;
use crate::log::refusals::Refusal;
use crate::log::segment::{Damage, Segment};
use crate::types::{LogId, Offset};

/// How many bytes `Replayed::write_again` writes at once.
const AGAIN_BYTES: u64 = 1 << 20;

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

/// Up to where a log was on the disk once, by what lies in the store and by the view; `None` if it
/// may always have been empty.
pub(in crate::log) fn promised(listing: &Listing, synced: Option<Offset>) -> Option<Offset> {
    let noted = listing.manifest.as_ref().map(|manifest| manifest.end);
    let promised = listing.start.max(listing.promised).max(noted).max(synced);
    promised.filter(|end| *end > Offset::ZERO)
}

/// What is said of a log without files that went up to `end`.
pub(in crate::log) fn files_gone(end: Offset) -> String {
    format!("all of its files are gone, although all before offset {end} had been on the disk")
}

impl Replayed {
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
    pub(super) fn note(&mut self, listing: &Listing) {
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
            is_void: self.refused.is_some(),
        };
        let last = self.segments.last().map(Segment::id);
        let is_last = |segment: &ManifestSegment| Some(segment.id) == last;
        self.is_listed = manifest.is_some_and(|manifest| manifest.segments.iter().any(is_last));
    }

    /// A new manifest of the log.
    pub(super) fn manifest(&self) -> Manifest {
        let Noted { version, start, end, failed_sync, .. } = self.noted;
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

    /// Notes for the next start that the sync of a recovered log failed.
    pub(super) fn note_failed_sync(&self, log: LogId, listing: &Listing, store: &dyn RecordStore) {
        let end = listing.manifest.as_ref().map_or(Offset::ZERO, |manifest| manifest.end);
        let raised = Manifest::raised(listing, end);
        let manifest = Manifest { failed_sync: store.boot().id, ..raised };
        if let Err(error) = store.put_manifest(log, manifest) {
            error!(%log, %error, "that a sync failed could not be noted: restart the machine, not only the broker");
        }
    }

    /// Writes what the page cache shows behind the durable end again, unchanged, and syncs it.
    pub(super) fn write_again(&self, store: &dyn RecordStore) -> Result<(), LogError> {
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
