//! Walks the batches of an object from a position on, and checks the CRC of each batch.

use std::io;
use std::ops::RangeInclusive;

use bytes::Bytes;

use super::batch::{BatchHeader, HEADER_BYTES, HeaderError};
use crate::log::object::record_store::{Location, ObjectId, RecordStore};
use crate::types::{Offset, Progress};

/// Where fields of a batch's header begin (Kafka's record batch, version 2).
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const LAST_OFFSET_DELTA_AT: usize = 23;
const RECORD_COUNT_AT: usize = 57;
/// How many bytes one read takes; a larger batch is read as a whole.
const WINDOW_BYTES: usize = 64 << 10;
/// The same for a walk with `Scan::once`.
const ONCE_WINDOW_BYTES: usize = 256 << 10;

/// What the walk found at its position.
#[derive(Debug)]
pub enum Found {
    /// A whole batch with a right CRC.
    Batch {
        /// Where it begins.
        position: u64,
        /// Its header.
        header: BatchHeader,
        /// All of its bytes.
        bytes: Bytes,
    },
    /// No valid batch. The walk stays there until `seek` or `resync`.
    Bad {
        /// Where a batch should begin.
        position: u64,
        /// What was found.
        reason: String,
    },
}

/// See the module's header.
pub struct Scan<'a> {
    store: &'a dyn RecordStore,
    object: ObjectId,
    position: u64,
    end: u64,
    window: Bytes,
    window_at: u64,
    progress: Option<&'a Progress>,
    /// Whether to read with `RecordStore::read_once`.
    once: bool,
}

impl<'a> Scan<'a> {
    /// A walk from `position` up to `end`, which must not lie past the object's end.
    pub fn new(store: &'a dyn RecordStore, object: ObjectId, position: u64, end: u64) -> Scan<'a> {
        let window = Bytes::new();
        let (window_at, progress, once) = (0, None, false);
        Scan { store, object, position, end, window, window_at, progress, once }
    }

    /// Counts the bytes of the batches that it passes in `progress`.
    pub fn counted(self, progress: &'a Progress) -> Scan<'a> {
        Scan { progress: Some(progress), ..self }
    }

    /// `new` for a walk that reads everything once: it does not change which bytes the page cache keeps for
    /// readers.
    pub fn once(store: &'a dyn RecordStore, object: ObjectId, position: u64, end: u64) -> Scan<'a> {
        Scan { once: true, ..Scan::new(store, object, position, end) }
    }

    /// The batch at the walk's position, checked; moves behind it. `None` at the end.
    pub fn advance(&mut self) -> io::Result<Option<Found>> {
        if self.position >= self.end {
            return Ok(None);
        }
        let position = self.position;
        let bad = |reason: String| Ok(Some(Found::Bad { position, reason }));
        let header = match BatchHeader::parse(&self.bytes(HEADER_BYTES)?) {
            Ok(header) => header,
            Err(e) => return bad(e.to_string()),
        };
        if header.bytes as u64 > self.end - position {
            return bad("it ends before its own length".to_owned());
        }
        let bytes = self.bytes(header.bytes)?;
        if !header.crc_matches(&bytes) {
            return bad("its CRC does not match its bytes".to_owned());
        }
        self.position += header.bytes as u64;
        if let Some(progress) = self.progress {
            progress.scanned(header.bytes as u64);
        }
        Ok(Some(Found::Batch { position, header, bytes }))
    }

    /// The header at the walk's position, without a check of the batch; does not move. `None` at the end.
    pub fn peek(&mut self) -> io::Result<Option<Result<BatchHeader, HeaderError>>> {
        if self.position >= self.end {
            return Ok(None);
        }
        Ok(Some(BatchHeader::parse(&self.bytes(HEADER_BYTES)?)))
    }

    /// The walk's position.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Moves to `position`.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// The first position after `bad` where a valid batch begins whose base offset is one of `offsets`.
    /// Tries the position where the damaged batch says that it ends first, since its records may contain
    /// bytes that look like batches. Then tries every byte, since that length may be damaged, too.
    pub fn resync(
        &mut self,
        bad: u64,
        offsets: RangeInclusive<Offset>,
    ) -> io::Result<Option<(u64, Offset)>> {
        self.resync_while(bad, offsets, |_| true)
    }

    /// `resync` that calls a function at intervals, with the number of bytes that it has passed since the
    /// last call, and ends if that returns false.
    pub fn resync_while(
        &mut self,
        bad: u64,
        offsets: RangeInclusive<Offset>,
        mut goes_on: impl FnMut(u64) -> bool,
    ) -> io::Result<Option<(u64, Offset)>> {
        let restore = std::mem::replace(&mut self.position, bad);
        if let Ok(header) = BatchHeader::parse(&self.bytes(HEADER_BYTES)?) {
            let (at, next) = (bad + header.bytes as u64, header.next_offset());
            self.position = at;
            let behind = self.advance()?;
            self.position = restore;
            match behind {
                Some(Found::Batch { header, .. })
                    if header.base_offset == next && offsets.contains(&next) =>
                {
                    return Ok(Some((at, next)));
                }
                None if at == self.end && next == *offsets.end() => return Ok(None),
                _ => {}
            }
        }
        let mut found = None;
        self.position = bad + 1;
        let mut asked_at = bad;
        while self.position + HEADER_BYTES as u64 <= self.end {
            if self.position - asked_at >= WINDOW_BYTES as u64 {
                if !goes_on(self.position - asked_at) {
                    break;
                }
                asked_at = self.position;
            }
            // The cheapest test first: the magic byte, then the header, then the CRC of the whole batch.
            let candidate = self.bytes(HEADER_BYTES)?;
            if candidate.get(MAGIC_AT) == Some(&2)
                && BatchHeader::parse(&candidate).is_ok_and(|h| offsets.contains(&h.base_offset))
            {
                let at = self.position;
                if let Some(Found::Batch { header, .. }) = self.advance()? {
                    found = Some((at, header.base_offset));
                    break;
                }
            }
            self.position += 1;
        }
        self.position = restore;
        Ok(found)
    }

    /// Whether the header of a batch would be all zeros at `position`.
    pub fn is_hole(&mut self, position: u64) -> io::Result<bool> {
        let restore = std::mem::replace(&mut self.position, position);
        let header = self.bytes(HEADER_BYTES)?;
        self.position = restore;
        Ok(header.len() == HEADER_BYTES && header.iter().all(|byte| *byte == 0))
    }

    /// Whether the walk's end cuts a batch short that begins at `position` with the offset `base`: what the
    /// beginning of a write leaves.
    pub fn is_cut_short(&mut self, position: u64, base: Offset) -> io::Result<bool> {
        let restore = std::mem::replace(&mut self.position, position);
        let header = self.bytes(HEADER_BYTES)?;
        self.position = restore;
        if let Ok(header) = BatchHeader::parse(&header) {
            let is_short = header.bytes as u64 > self.end - position;
            return Ok(header.base_offset == base && is_short);
        }
        let written = base.get().to_be_bytes();
        let begun = header.len().min(written.len());
        let is_other = header.get(MAGIC_AT).is_some_and(|magic| *magic != 2);
        Ok(header.len() < HEADER_BYTES && header[..begun] == written[..begun] && !is_other)
    }

    /// Whether the bytes from `position` up to the walk's end are a whole batch by its CRC, which does not cover
    /// its base offset, its length and its magic.
    pub fn is_whole_behind_its_place(&mut self, position: u64) -> io::Result<bool> {
        let restore = std::mem::replace(&mut self.position, position);
        let header = self.bytes(HEADER_BYTES)?;
        let expected = header.get(CRC_AT..CRC_AT + 4).and_then(|crc| crc.try_into().ok());
        let Some(expected) = expected.filter(|_| header.len() == HEADER_BYTES) else {
            self.position = restore;
            return Ok(false);
        };
        let mut crc = 0;
        self.position = position + CRC_AT as u64 + 4;
        while self.position < self.end {
            let bytes = self.bytes(WINDOW_BYTES)?;
            if bytes.is_empty() {
                break;
            }
            crc = crc32c::crc32c_append(crc, &bytes);
            self.position += bytes.len() as u64;
        }
        self.position = restore;
        Ok(crc == u32::from_be_bytes(expected))
    }

    /// The offset behind a damaged last batch at `position`, which began with the offset `base`. If its header
    /// does not tell, at least that one offset was given out.
    pub fn lost_to(&mut self, position: u64, base: Offset) -> io::Result<Offset> {
        let restore = std::mem::replace(&mut self.position, position);
        let header = self.bytes(HEADER_BYTES)?;
        self.position = restore;
        let number = |at: usize| {
            let bytes = header.get(at..at + 4)?.try_into().ok()?;
            u32::try_from(i32::from_be_bytes(bytes)).ok()
        };
        // Two fields that were written with the same number, and one bit is wrong at most in each.
        let records = number(LAST_OFFSET_DELTA_AT).zip(number(RECORD_COUNT_AT));
        let records = records.filter(|(delta, count)| delta.checked_add(1) == Some(*count));
        Ok(base.plus(records.map_or(1, |(_, count)| u64::from(count))))
    }

    /// Up to `length` bytes at the walk's position, fewer only at the end.
    fn bytes(&mut self, length: usize) -> io::Result<Bytes> {
        let length = (length as u64).min(self.end - self.position) as usize;
        let within = self
            .position
            .checked_sub(self.window_at)
            .and_then(|skip| usize::try_from(skip).ok())
            .filter(|skip| skip.saturating_add(length) <= self.window.len());
        if let Some(skip) = within {
            return Ok(self.window.slice(skip..skip + length));
        }
        let window = if self.once { ONCE_WINDOW_BYTES } else { WINDOW_BYTES };
        let length_read = (window.max(length) as u64).min(self.end - self.position) as usize;
        let (object, position) = (self.object, self.position);
        let location = Location { object, position, length: length_read };
        self.window = match self.once {
            true => self.store.read_once(location)?,
            false => self.store.read(location)?,
        };
        self.window_at = self.position;
        Ok(self.window.slice(..length.min(self.window.len())))
    }
}
