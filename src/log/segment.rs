//! A segment's extent and its sparse index: every so many bytes, where a batch begins and which
//! timestamps came before it. One index answers look-ups by offset and by time.

use crate::log::format::batch::BatchHeader;
use crate::log::object::record_store::ObjectId;
use crate::store::{SegmentEntry, SegmentId};
use crate::types::{LogId, Offset, Timestamp};

pub use crate::store::IndexEntry;

/// The largest timestamp of a segment, and the first batch that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LargestTimestamp {
    /// The timestamp.
    pub timestamp: Timestamp,
    /// Base offset of the batch.
    pub batch: Offset,
}

/// One segment: what it holds and how to find a place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where its bytes lie.
    pub object: ObjectId,
    /// Bytes of whole batches.
    pub bytes: u64,
    /// Largest timestamp of its first batch of records, which its age is counted from; `None` while
    /// it has none.
    pub first_timestamp: Option<Timestamp>,
    /// `None` while it is empty.
    pub largest: Option<LargestTimestamp>,
    /// Entries that are not in the view yet; all of them without a view.
    pub index: Vec<IndexEntry>,
    /// Position of the last entry; `None` makes the next batch get one.
    pub indexed: Option<u64>,
    /// Byte ranges that recovery found damaged, in order.
    pub damaged: Vec<Damage>,
}

/// Bytes of a segment that are no valid batches, with valid batches behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Offset that should begin here.
    pub offset: Offset,
    /// First offset that is readable again.
    pub next: Offset,
    /// Where the damage begins.
    pub position: u64,
    /// Where the next valid batch begins, or the segment ends.
    pub end: u64,
    /// What was found.
    pub reason: String,
}

impl Segment {
    /// An empty one.
    pub fn new(object: ObjectId) -> Segment {
        Segment {
            object,
            bytes: 0,
            first_timestamp: None,
            largest: None,
            index: Vec::new(),
            indexed: None,
            damaged: Vec::new(),
        }
    }

    /// One whose batches the view has indexed.
    pub fn indexed(log: LogId, entry: &SegmentEntry) -> Segment {
        let largest = entry.largest.map(|(timestamp, batch)| LargestTimestamp { timestamp, batch });
        let object = ObjectId { log, base: entry.base, revision: entry.revision };
        let first_timestamp = entry.first_timestamp;
        Segment { bytes: entry.bytes, first_timestamp, largest, ..Segment::new(object) }
    }

    /// What its index is found by in the view.
    pub fn id(&self) -> SegmentId {
        self.object.segment()
    }

    /// What the view keeps of it besides the index.
    pub fn entry(&self) -> SegmentEntry {
        SegmentEntry {
            base: self.object.base,
            revision: self.object.revision,
            bytes: self.bytes,
            first_timestamp: self.first_timestamp,
            largest: self.largest.map(|l| (l.timestamp, l.batch)),
        }
    }

    /// Takes in a batch that lies at the segment's end.
    pub fn push(&mut self, header: &BatchHeader, index_interval_bytes: u64) {
        let timestamp_before = self.largest.map_or(Timestamp(i64::MIN), |l| l.timestamp);
        if self.indexed.is_none_or(|last| self.bytes - last >= index_interval_bytes) {
            self.index.push(IndexEntry {
                offset: header.base_offset,
                position: self.bytes,
                timestamp_before,
            });
            self.indexed = Some(self.bytes);
        }
        // Transaction markers carry a time of their own, which is no record's.
        if !header.control() && header.record_count > 0 {
            self.first_timestamp.get_or_insert(header.max_timestamp);
            if header.max_timestamp > timestamp_before {
                self.largest = Some(LargestTimestamp {
                    timestamp: header.max_timestamp,
                    batch: header.base_offset,
                });
            }
        }
        self.bytes += header.bytes as u64;
    }

    /// Takes in damage that lies at the segment's end.
    pub fn damage(&mut self, damage: Damage) {
        self.bytes = damage.end;
        self.indexed = None;
        self.damaged.push(damage);
    }
}

/// The last entry at or before `offset`.
pub fn floor_by_offset(index: &[IndexEntry], offset: Offset) -> Option<IndexEntry> {
    let after = index.partition_point(|entry| entry.offset <= offset);
    index.get(after.checked_sub(1)?).copied()
}

/// The last entry before which every timestamp is below `timestamp`.
pub fn floor_by_time(index: &[IndexEntry], timestamp: Timestamp) -> Option<IndexEntry> {
    let after = index.partition_point(|entry| entry.timestamp_before < timestamp);
    index.get(after.checked_sub(1)?).copied()
}
