//! The segment that a compaction writes: what is left of some segments, without a gap in its
//! offsets.

use std::io;

use bytes::Bytes;

use crate::log::format::batch::{self, BatchHeader};
use crate::log::object::record_store::{ObjectId, RecordStore};
use crate::log::segment::Segment;
use crate::types::{LeaderEpoch, Offset};

/// Bytes collected before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// See the module's header. Nobody sees it before it is published.
pub(super) struct Draft<'a> {
    store: &'a dyn RecordStore,
    /// What was written so far, and its index.
    pub(super) segment: Segment,
    /// What it takes the place of.
    pub(super) sources: Vec<ObjectId>,
    index_interval_bytes: u64,
    /// Bytes that were put in and are not in the store yet.
    buffer: Vec<u8>,
    /// Where the next batch must begin.
    next: Offset,
    /// The leader epoch of offsets before `next` that nothing stands for yet, and the first of them.
    gap: Option<(Offset, LeaderEpoch)>,
    /// Something differs from the sources.
    pub(super) changed: bool,
}

impl<'a> Draft<'a> {
    /// An empty one, to take the place of `first` and of what may follow.
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

    /// The offset after the last one that it takes.
    pub(super) fn end(&self) -> Offset {
        self.next
    }

    /// Puts in what is left of the next batch.
    pub(super) fn put(&mut self, header: &BatchHeader, bytes: &Bytes) -> io::Result<()> {
        self.fill()?;
        self.write(header, bytes)?;
        self.next = header.next_offset();
        Ok(())
    }

    /// Leaves the next batch out.
    pub(super) fn skip(&mut self, header: &BatchHeader, bytes: &Bytes) {
        // A filler alone comes out as it was.
        self.changed |= header.producer.is_some() || header.record_count > 0 || self.gap.is_some();
        self.gap.get_or_insert((header.base_offset, batch::leader_epoch(bytes)));
        self.next = header.next_offset();
    }

    /// Writes all that is left to write.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.fill()?;
        self.flush()
    }

    /// Offsets stay contiguous on disk: something stands for those that are gone.
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
