//! The segment that a compaction writes: the batches that remain of one or more segments, with fillers in
//! place of the others, so that its offsets have no gap.

use std::io;

use bytes::Bytes;

use crate::log::format::batch::{self, BatchHeader};
use crate::log::object::record_store::{ObjectId, RecordStore};
use crate::log::segment::Segment;
use crate::types::{LeaderEpoch, Offset};

/// Bytes collected before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// See the module's header. Readers do not see it before it is published.
pub(super) struct Draft<'a> {
    store: &'a dyn RecordStore,
    /// The segment as far as it is written, and its index.
    pub(super) segment: Segment,
    /// The segments that it replaces.
    pub(super) sources: Vec<ObjectId>,
    index_interval_bytes: u64,
    /// Bytes of batches that are not written to the store yet.
    buffer: Vec<u8>,
    /// The base offset that the next batch must have.
    next: Offset,
    /// Batches before `next` were left out and have no filler yet: the first of their offsets, and its
    /// leader epoch.
    gap: Option<(Offset, LeaderEpoch)>,
    /// Whether the draft differs from its sources.
    pub(super) changed: bool,
}

impl<'a> Draft<'a> {
    /// An empty draft that replaces `first`, and the segments behind it that are added to `sources`.
    pub(super) fn new(
        store: &'a dyn RecordStore,
        first: ObjectId,
        index_interval_bytes: u64,
    ) -> Draft<'a> {
        Draft {
            store,
            segment: Segment::new(ObjectId { revision: first.revision + 1, ..first }),
            sources: Vec::new(),
            index_interval_bytes,
            buffer: Vec::new(),
            next: first.base,
            gap: None,
            changed: false,
        }
    }

    /// The offset after the last batch that was put in or skipped.
    pub(super) fn end(&self) -> Offset {
        self.next
    }

    /// Adds the next batch, or what remains of it.
    pub(super) fn put(&mut self, header: &BatchHeader, bytes: &Bytes) -> io::Result<()> {
        self.fill()?;
        self.write(header, bytes)?;
        self.next = header.next_offset();
        Ok(())
    }

    /// Leaves the next batch out.
    pub(super) fn skip(&mut self, header: &BatchHeader, bytes: &Bytes) {
        // A single filler is written again as it was, which changes nothing.
        self.changed |= header.producer.is_some() || header.record_count > 0 || self.gap.is_some();
        self.gap.get_or_insert((header.base_offset, batch::leader_epoch(bytes)));
        self.next = header.next_offset();
    }

    /// Writes the last filler and the rest of the buffer.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.fill()?;
        self.flush()
    }

    /// Writes a filler for the batches that were left out, so that offsets stay contiguous on disk.
    fn fill(&mut self) -> io::Result<()> {
        let Some((mut from, epoch)) = self.gap.take() else { return Ok(()) };
        while from < self.next {
            let offsets = self.next.since(from).min(i32::MAX as u64) as u32;
            let filler = batch::encode_filler(from, offsets, epoch);
            let header =
                BatchHeader::parse(&filler).map_err(|e| io::Error::other(e.to_string()))?;
            self.write(&header, &filler)?;
            from = header.next_offset();
        }
        Ok(())
    }

    fn write(&mut self, header: &BatchHeader, bytes: &Bytes) -> io::Result<()> {
        self.segment.push(header, self.index_interval_bytes);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let position = self.segment.bytes - self.buffer.len() as u64;
        self.store.append_draft(self.segment.object, position, &self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}
