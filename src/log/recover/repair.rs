//! Repairs a damaged log, so that it takes appends again: keeps every undamaged batch, saves the damaged bytes
//! beside the log, and writes batches without records (fillers) for the lost offsets, so that offsets stay
//! contiguous and every other record keeps its offset.
//!
//! Each damaged segment is replaced in one step by a new one with a higher revision. A crash before that step
//! leaves the old segment, and the next repair begins again. An undamaged log is not changed.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use super::recovery::Torn;
use super::verify::{AtRest, Examined};
use crate::log::LogError;
use crate::log::format::batch::{self, BatchHeader, HEADER_BYTES};
use crate::log::format::scan::{Found, Scan};
use crate::log::object::manifest::Manifest;
use crate::log::object::record_store::{Location, ObjectId, RecordStore};
use crate::log::segment::{Damage, Segment};
use crate::types::{LeaderEpoch, LogId, Offset, Progress};

/// How many bytes of a new segment one write takes.
const WRITE_BYTES: usize = 1 << 20;
/// Only damage up to this size may be a batch that can be restored (`restored`).
const RESTORED_BYTES_MAX: u64 = 128 << 20;

/// What a repair did at one place of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mended {
    /// Offsets whose records are lost; fillers have these offsets now.
    GivenUp {
        /// The first lost offset.
        from: Offset,
        /// The offset after the last lost one.
        to: Offset,
        /// The file with the damaged bytes; `None` if there were none.
        saved: Option<PathBuf>,
    },
    /// A batch that was restored: only header fields were wrong whose values are known from elsewhere.
    Restored {
        /// Its first offset.
        from: Offset,
        /// The offset after its last.
        to: Offset,
        /// The file with the damaged bytes.
        saved: PathBuf,
    },
    /// A torn tail that was cut off, as the next start would have done.
    Cut {
        /// The log's end.
        end: Offset,
        /// The file with the cut bytes.
        saved: PathBuf,
    },
}

impl AtRest {
    /// Repairs a log and returns what it did, which is nothing if the log is undamaged.
    ///
    /// With `lossless`, a log whose repair would give up offsets is not changed, and is an error.
    pub fn repair(
        &self,
        log: LogId,
        lossless: bool,
        progress: &Progress,
    ) -> Result<Vec<Mended>, LogError> {
        let examined = self.examine(log, progress)?;
        if lossless && let Some(offset) = self.first_loss(&examined)? {
            return Err(LogError::Io {
                action: "repair without loss",
                path: log.to_string(),
                source: io::Error::other(format!("offset {offset} cannot be restored")),
            });
        }
        let Examined { listing, walked, gone } = examined;
        let mut mended = Vec::new();
        if let Some(end) = gone {
            // Nothing is left to keep: the log continues, empty, at the offset where it ended.
            let object = ObjectId::appended(log, end);
            let failed = |source| failed("begin", object, source);
            self.store.append(object, 0, &[]).map_err(failed)?;
            self.store.sync(object).map_err(failed)?;
            let manifest = Manifest { start: end, ..Manifest::raised(&listing, end) };
            self.store.put_manifest(log, manifest).map_err(failed)?;
            mended.push(Mended::GivenUp { from: Offset::ZERO, to: end, saved: None });
        }
        if listing.drafts {
            let discarded = self.store.discard_drafts(log);
            discarded.map_err(|source| LogError::Io {
                action: "remove drafts of",
                path: log.to_string(),
                source,
            })?;
        }
        for segment in walked.segments.iter().filter(|segment| !segment.damaged.is_empty()) {
            let torn = walked.torn.as_ref().filter(|torn| torn.object == segment.object);
            self.replace(segment, torn, &mut mended)?;
        }
        for (following, from) in &walked.gaps {
            let earlier = listing.objects.iter().filter(|(object, _)| object.base == *from);
            let revision = earlier.map(|(object, _)| object.revision + 1).max().unwrap_or(0);
            let object = ObjectId { log, base: *from, revision };
            let epoch = self.epoch_at(*following, 0)?;
            let mut draft = Draft::new(self, object, epoch);
            draft.fill(*from, following.base)?;
            draft.publish()?;
            mended.push(Mended::GivenUp { from: *from, to: following.base, saved: None });
        }
        if let Some(Torn { object, position, bytes, .. }) = walked.torn {
            let saved = self.save(object, position, bytes)?;
            // If the segment was replaced above, its torn tail is gone already.
            if !mended_here(&walked.segments, object) {
                let cut = self.store.truncate(object, position);
                cut.and_then(|()| self.store.sync(object))
                    .map_err(|source| failed("truncate", object, source))?;
            }
            mended.push(Mended::Cut { end: walked.end, saved });
        }
        Ok(mended)
    }

    /// The first offset that a repair would give up.
    fn first_loss(&self, examined: &Examined) -> Result<Option<Offset>, LogError> {
        let Examined { walked, gone, .. } = examined;
        let mut lost: Vec<Offset> = gone.iter().map(|_| Offset::ZERO).collect();
        lost.extend(walked.gaps.iter().map(|(_, from)| *from));
        for segment in &walked.segments {
            for damage in &segment.damaged {
                if self.restored(segment.object, damage)?.is_none() {
                    lost.push(damage.offset);
                }
            }
        }
        Ok(lost.into_iter().min())
    }

    /// Publishes a new revision of a damaged segment and removes the old one.
    fn replace(
        &self,
        segment: &Segment,
        torn: Option<&Torn>,
        mended: &mut Vec<Mended>,
    ) -> Result<(), LogError> {
        let old = segment.object;
        // Fillers before the first undamaged batch get the leader epoch of that batch.
        let first = segment.damaged.first().filter(|damage| damage.position == 0);
        let epoch = self.epoch_at(old, first.map_or(0, |damage| damage.end))?;
        let mut draft = Draft::new(self, ObjectId { revision: old.revision + 1, ..old }, epoch);
        let mut position = 0;
        for damage in &segment.damaged {
            draft.copy(old, position, damage.position)?;
            position = damage.end;
            let (from, to) = (damage.offset, damage.next);
            let length = damage.end - damage.position;
            let saved = match length {
                0 => None,
                length => Some(self.save(old, damage.position, length)?),
            };
            match (self.restored(old, damage)?, saved) {
                (Some(batch), Some(saved)) => {
                    draft.push(&batch)?;
                    mended.push(Mended::Restored { from, to, saved });
                }
                (_, saved) => {
                    draft.fill(from, to)?;
                    mended.push(Mended::GivenUp { from, to, saved });
                }
            }
        }
        draft.copy(old, position, torn.map_or(segment.bytes, |torn| torn.position))?;
        draft.publish()?;
        self.store.delete(old).map_err(|source| failed("remove", old, source))
    }

    /// The leader epoch of the batch at a position; epoch 0 if no batch begins there.
    fn epoch_at(&self, object: ObjectId, position: u64) -> Result<LeaderEpoch, LogError> {
        let location = Location { object, position, length: HEADER_BYTES };
        let bytes = self.store.read(location).map_err(|source| failed("read", object, source))?;
        let is_batch = BatchHeader::parse(&bytes).is_ok();
        Ok(if is_batch { batch::leader_epoch(&bytes) } else { LeaderEpoch(0) })
    }

    fn save(&self, object: ObjectId, position: u64, length: u64) -> Result<PathBuf, LogError> {
        let saved = self.store.save_damage(object, position, length);
        saved.map_err(|source| failed("save damaged bytes of", object, source))
    }

    /// The batch that the damaged bytes were, if only fields are wrong that its CRC does not cover and whose
    /// values follow from its place in the log: base offset, length and magic.
    fn restored(&self, object: ObjectId, damage: &Damage) -> Result<Option<Vec<u8>>, LogError> {
        let length = damage.end - damage.position;
        let Some(payload) = length.checked_sub(12).and_then(|rest| i32::try_from(rest).ok()) else {
            return Ok(None);
        };
        if length < HEADER_BYTES as u64 || length > RESTORED_BYTES_MAX {
            return Ok(None);
        }
        let location = Location { object, position: damage.position, length: length as usize };
        let bytes = self.store.read(location).map_err(|source| failed("read", object, source))?;
        let mut batch = bytes.to_vec();
        if batch.len() < HEADER_BYTES {
            return Ok(None);
        }
        batch[8..12].copy_from_slice(&payload.to_be_bytes());
        batch[16] = 2;
        let epoch = batch::leader_epoch(&batch);
        batch::patch(&mut batch, damage.offset, epoch);
        let is_it = BatchHeader::parse(&batch)
            .is_ok_and(|header| header.crc_matches(&batch) && header.next_offset() == damage.next);
        Ok(is_it.then_some(batch))
    }
}

fn mended_here(segments: &[Segment], object: ObjectId) -> bool {
    segments.iter().any(|segment| segment.object == object && !segment.damaged.is_empty())
}

/// The new revision of a segment, which does not count before it is published.
struct Draft<'a> {
    logs: &'a AtRest,
    object: ObjectId,
    written: u64,
    buffer: Vec<u8>,
    /// The leader epoch of the last batch, which fillers get.
    epoch: LeaderEpoch,
}

impl Draft<'_> {
    fn new(logs: &AtRest, object: ObjectId, epoch: LeaderEpoch) -> Draft<'_> {
        Draft { logs, object, written: 0, buffer: Vec::new(), epoch }
    }

    /// Copies the batches of a range.
    fn copy(&mut self, from: ObjectId, position: u64, end: u64) -> Result<(), LogError> {
        let mut scan = Scan::new(&self.logs.store, from, position, end);
        while let Some(found) = scan.advance().map_err(|e| failed("read", from, e))? {
            match found {
                Found::Batch { bytes, .. } => self.push(&bytes)?,
                // The same bytes were valid when the log was examined: the disk is failing.
                Found::Bad { position, reason } => {
                    let reason = format!("byte {position} has changed while it was read: {reason}");
                    return Err(failed("read", from, io::Error::other(reason)));
                }
            }
        }
        Ok(())
    }

    /// Writes fillers for the offsets from `from` up to `to`.
    fn fill(&mut self, from: Offset, to: Offset) -> Result<(), LogError> {
        let mut next = from;
        while next < to {
            let offsets = u32::try_from(to.get() - next.get()).unwrap_or(i32::MAX as u32);
            let offsets = offsets.min(i32::MAX as u32);
            let filler: Bytes = batch::encode_filler(next, offsets, self.epoch);
            self.push(&filler)?;
            next = next.plus(u64::from(offsets));
        }
        Ok(())
    }

    fn push(&mut self, batch: &[u8]) -> Result<(), LogError> {
        self.epoch = batch::leader_epoch(batch);
        self.buffer.extend_from_slice(batch);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), LogError> {
        let written = self.logs.store.append_draft(self.object, self.written, &self.buffer);
        written.map_err(|source| failed("write", self.object, source))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn publish(mut self) -> Result<(), LogError> {
        self.flush()?;
        let published = self.logs.store.publish(self.object);
        published.map_err(|source| failed("publish", self.object, source))
    }
}

fn failed(action: &'static str, object: ObjectId, source: io::Error) -> LogError {
    LogError::Io { action, path: object.to_string(), source }
}

#[cfg(test)]
mod tests;
