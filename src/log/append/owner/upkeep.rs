//! Changes of a log that are no appends: its start is raised, compacted segments are swapped in, and damage
//! that was found at rest is noted.

use std::io;

use tracing::{error, info};

use super::OwnedLog;
use super::durable::{out_of_handles, out_of_room};
use crate::log::append::writer::Fault;
use crate::log::object::record_store::ObjectId;
use crate::log::outcome::TrimError;
use crate::log::partition;
use crate::log::refusals::Refusal;
use crate::log::segment::{Damage, Segment};
use crate::log::settings::Settings;
use crate::store::ProducerEntry;
use crate::types::Offset;

/// The outcome of a trim.
#[derive(Debug)]
pub(in crate::log) struct Trimmed {
    /// The log's start now.
    pub(in crate::log) start: Offset,
    /// The segments below the start, which the caller must delete.
    pub(in crate::log) objects: Vec<ObjectId>,
}

/// A compacted segment and the segments that it replaces.
#[derive(Debug)]
pub(in crate::log) struct Replacement {
    /// Consecutive segments, none of them the active one.
    pub(in crate::log) removed: Vec<ObjectId>,
    /// The compacted segment: published, with its whole index, and with the same offsets.
    pub(in crate::log) segment: Segment,
    /// The offset up to which the log is then compacted.
    pub(in crate::log) cleaned_to: Offset,
}

impl OwnedLog {
    /// Raises the log's start to `before`, durably, and drops the segments below it. If `before` is the
    /// log's end, the active segment is dropped, too, and a new, empty one is begun.
    pub(in crate::log) fn trim(
        &mut self,
        before: Offset,
        settings: &Settings,
    ) -> Result<Trimmed, TrimError> {
        let log = self.shared.id;
        let storage = |reason: String| TrimError::Storage { log, reason };
        if before > self.end {
            return Err(TrimError::OutOfRange { before, end: self.end });
        }
        if before > self.start {
            // Sync first: if the new start survived a power loss that took records below it, the log
            // would seem to have lost its end.
            self.force_sync(settings).map_err(storage)?;
            if before == self.end {
                self.begin_empty(settings).map_err(storage)?;
            }
            if let Some(reason) = &self.start_failed {
                return Err(storage(reason.clone()));
            }
            {
                // It stays if the manifest cannot be written: a checkpoint may have written it meanwhile, and a
                // start never goes back.
                let mut noted = self.shared.noted();
                noted.start = noted.start.max(before);
            }
            if let Err(error) = settings.store.put_manifest(log, self.shared.manifest()) {
                return Err(storage(self.note_failed(&error, settings)));
            }
            self.start = before;
            self.publish();
        }
        let objects = self.drop_before_start();
        if !objects.is_empty() {
            self.keep_view(settings);
        }
        Ok(Trimmed { start: self.start, objects })
    }

    /// Handles a start that could not be noted on disk. A full disk and missing file handles pass. After any
    /// other error the log refuses appends and trims: a second attempt might report success although the
    /// first note is lost.
    fn note_failed(&mut self, error: &io::Error, settings: &Settings) -> String {
        if out_of_handles(error) || out_of_room(error) {
            return error.to_string();
        }
        let reason = format!("its start could not be noted: {error}");
        let reason = self.refuse(Refusal::disk(reason), settings);
        self.start_failed = Some(reason.clone());
        reason
    }

    /// Ends the active segment, unless it is empty.
    pub(in crate::log) fn roll(&mut self, settings: &Settings) -> Result<(), String> {
        if let Some(refusal) = &self.refused {
            return Err(refusal.to_string());
        }
        // Sync first: only the last segment of a log may have a torn tail.
        self.force_sync(settings)?;
        self.begin_empty(settings)?;
        self.keep_view(settings);
        Ok(())
    }

    /// Ends the active segment and begins the next one, which is empty.
    fn begin_empty(&mut self, settings: &Settings) -> Result<(), String> {
        if self.active_bytes == 0 {
            return Ok(());
        }
        if let Some(refusal) = self.refused.as_ref().filter(|_| self.sync_failed) {
            return Err(refusal.to_string());
        }
        let object = ObjectId::appended(self.shared.id, self.end);
        // If anything fails from here on, the new object may exist already. So the next append must go
        // into it; otherwise a later trim could take the empty object for the one with the records.
        self.roll_due = true;
        settings.store.append(object, 0, &[]).map_err(|error| error.to_string())?;
        if let Err(error) = settings.sync_object(object) {
            if out_of_handles(&error) {
                return Err(error.to_string());
            }
            // A later sync of this object could succeed although its pages from now are lost. So no
            // append to it could ever be known to be on the disk.
            self.note_failed_sync(settings);
            return Err(self.refuse(Refusal::disk(format!("a sync failed: {error}")), settings));
        }
        self.active = Some(object);
        self.active_bytes = 0;
        self.active_since = None;
        self.active_begun = settings.age.now();
        self.anchor = None;
        self.roll_due = false;
        self.unsynced.is_unlisted = true;
        self.shared.readable_mut().segments.push(Segment::new(object));
        Ok(())
    }

    fn drop_before_start(&mut self) -> Vec<ObjectId> {
        let start = self.start;
        let mut readable = self.shared.readable_mut();
        let holding = readable.segments.partition_point(|segment| segment.object.base <= start);
        let gone = readable.segments.drain(..holding.saturating_sub(1));
        let objects: Vec<ObjectId> = gone.map(|segment| segment.object).collect();
        if objects.is_empty() {
            return objects;
        }
        readable.departures += 1;
        let ended = readable.aborted.partition_point(|txn| txn.last_offset < start);
        readable.aborted.drain(..ended);
        let published = readable.published_largest;
        readable.published_largest = published.filter(|largest| largest.batch >= start);
        drop(readable);
        self.view_aborted = self.view_aborted.saturating_sub(ended);
        self.dropped.extend(objects.iter().map(ObjectId::segment));
        objects
    }

    /// Forgets idle producers. One whose next batch is only staged comes back when it is committed.
    pub(in crate::log) fn expire_producers(&mut self, settings: &Settings) {
        self.producers.expire(settings.monotonic_ms(), settings.producer_idle_max());
    }

    /// Every producer, with its last batches as far as they are written.
    pub(in crate::log) fn producers(&self) -> Vec<ProducerEntry> {
        self.producers.entries()
    }

    /// Swaps in a compacted segment. Returns false if one of the segments that it replaces was dropped
    /// meanwhile. A reader in the middle of a replaced segment looks up its position again.
    pub(in crate::log) fn replace(
        &mut self,
        replacement: Replacement,
        settings: &Settings,
    ) -> bool {
        let Replacement { removed, segment, cleaned_to } = replacement;
        let mut readable = self.shared.readable_mut();
        let first = removed.first().and_then(|object| {
            readable.segments.iter().position(|segment| segment.object == *object)
        });
        let Some(first) = first else { return false };
        let range = first..first + removed.len();
        let are_there = readable.segments.get(range.clone()).is_some_and(|there| {
            there.iter().map(|segment| segment.object).eq(removed.iter().copied())
        });
        if !are_there || range.end >= readable.segments.len() {
            return false;
        }
        let before: u64 = removed_bytes(&readable.segments[range.clone()]);
        let after = segment.bytes;
        readable.segments.splice(range, [segment]);
        readable.departures += 1;
        // Also drop the old batches in memory: they hold records of aborted transactions that are removed
        // from the list below, and readers would see these records.
        let behind = readable.segments.get(first + 1).map_or(self.end, |next| next.object.base);
        readable.tail.forget_before(behind);
        if readable.published_largest.is_some_and(|largest| largest.batch < behind) {
            let sealed = readable.segments.split_last().map_or(&[][..], |(_, sealed)| sealed);
            readable.published_largest = partition::largest(sealed);
        }
        // The compacted part has no records of aborted transactions any more.
        let ended = readable.aborted.partition_point(|txn| txn.last_offset < cleaned_to);
        readable.aborted.drain(..ended);
        readable.cleaned_to = readable.cleaned_to.max(cleaned_to);
        drop(readable);
        self.view_aborted = self.view_aborted.saturating_sub(ended);
        self.dropped.extend(removed.iter().map(ObjectId::segment));
        self.keep_view(settings);
        info!(
            log = settings.label(self.shared.id), segments = removed.len(), bytes_before = before,
            bytes_after = after, cleaned_to = %cleaned_to, "compacted"
        );
        true
    }

    /// Notes a fault of a segment; the log refuses appends from then on. Returns false if the fault does not
    /// apply any more: the segment was dropped, replaced or appended to.
    pub(in crate::log) fn note(
        &mut self,
        object: ObjectId,
        fault: Fault,
        settings: &Settings,
    ) -> bool {
        let has_it = self.shared.readable().segments.iter().any(|has| has.object == object);
        match fault {
            _ if !has_it => false,
            Fault::Damage { damage, to_the_end } => {
                self.note_damage(object, damage, to_the_end, settings)
            }
            Fault::Disk(reason) => {
                if self.refused.is_none() {
                    self.refuse(Refusal::disk(reason), settings);
                }
                true
            }
        }
    }

    /// Notes damage: reads of it get an error that names the next readable offset.
    fn note_damage(
        &mut self,
        object: ObjectId,
        mut damage: Damage,
        to_the_end: bool,
        settings: &Settings,
    ) -> bool {
        let mut readable = self.shared.readable_mut();
        let index = readable.segments.iter().position(|segment| segment.object == object);
        let Some(index) = index else { return false };
        let following = readable.segments.get(index + 1).map(|next| next.object.base);
        let Some(segment) = readable.segments.get_mut(index) else { return false };
        if segment.damaged.iter().any(|known| known.position == damage.position) {
            return true;
        }
        if to_the_end {
            // Batches were appended behind the damage since it was found: it must be looked at again.
            if segment.bytes != damage.end {
                return false;
            }
            damage.next = following.unwrap_or(self.end);
        }
        let Damage { offset, next, position, .. } = damage;
        let reason = format!("segment {object} is damaged at byte {position}: {}", damage.reason);
        segment.damaged.push(damage);
        segment.damaged.sort_by_key(|damage| damage.position);
        drop(readable);
        settings.meter.damaged.inc();
        error!(
            log = settings.label(self.shared.id), %offset, %next, reason,
            "a stored batch is damaged: reads of it get an error, reads from `next` on work"
        );
        self.give_up(Refusal::damage(reason), settings);
        true
    }

    /// Refuses appends from now on. If the log does so already, the first reason stays.
    pub(in crate::log) fn give_up(&mut self, refusal: Refusal, settings: &Settings) {
        if self.refused.is_none() {
            self.refuse(refusal, settings);
        }
    }

    /// Handles the failed sync of a segment in the background.
    pub(in crate::log) fn sync_failed(&mut self, refusal: Refusal, settings: &Settings) {
        self.note_failed_sync(settings);
        self.give_up(refusal, settings);
    }
}

fn removed_bytes(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| segment.bytes).sum()
}
