//! Walks the batches of an object from a position on, and checks the CRC of each batch.

use std::io;
use std::ops::RangeInclusive;

use bytes::Bytes;

use super::batch::{BatchHeader, HEADER_BYTES, HeaderError};
use crate::log::object::record_store::{Location, ObjectId, RecordStore};
use crate::types::{Offset, Progress};

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
            if candidate.get(16) == Some(&2)
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
