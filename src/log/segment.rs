//! A segment's extent and its sparse index. About every `index.interval.bytes` an entry tells where a batch
//! begins and the largest timestamp before it, so the same index serves look-ups by offset and by time.

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

/// One segment: what it holds, and the index by which batches in it are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The object that holds its bytes.
    pub object: ObjectId,
    /// Bytes of whole batches.
    pub bytes: u64,
    /// Largest timestamp of its first batch of records. The age of the segment counts from there. `None`
    /// before the first record.
    pub first_timestamp: Option<Timestamp>,
    /// `None` while it is empty.
    pub largest: Option<LargestTimestamp>,
    /// The largest timestamp of its transaction markers.
    pub largest_marker: Option<Timestamp>,
    /// The index entries that are not in the view yet. Without a view: all entries.
    pub index: Vec<IndexEntry>,
    /// The position of the last entry; `None` if the next batch must get one.
    pub indexed: Option<u64>,
    /// Byte ranges that recovery found damaged, in order.
    pub damaged: Vec<Damage>,
}

/// Bytes of a segment that are no valid batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first offset that is lost.
    pub offset: Offset,
    /// The first offset behind the damage that is readable again.
    pub next: Offset,
    /// The position where the damage begins.
    pub position: u64,
    /// The position where the next valid batch begins, or the segment ends.
    pub end: u64,
    /// What was found there.
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
            largest_marker: None,
            index: Vec::new(),
            indexed: None,
            damaged: Vec::new(),
        }
    }

    /// A segment whose index is in the view.
    pub fn indexed(log: LogId, entry: &SegmentEntry) -> Segment {
        let largest = entry.largest.map(|(timestamp, batch)| LargestTimestamp { timestamp, batch });
        let object = ObjectId { log, base: entry.base, revision: entry.revision };
        Segment {
            bytes: entry.bytes,
            first_timestamp: entry.first_timestamp,
            largest,
            largest_marker: entry.largest_marker,
            ..Segment::new(object)
        }
    }

    /// The key of its index in the view.
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
            largest_marker: self.largest_marker,
        }
    }

    /// The timestamp that the segment's age is counted from: the largest of its records and transaction
    /// markers, as of Kafka's `LogSegment.largestTimestamp`. `None` if none of them has a timestamp.
    pub fn youngest(&self) -> Option<Timestamp> {
        let of_records = self.largest.map(|largest| largest.timestamp);
        of_records.max(self.largest_marker).filter(|timestamp| timestamp.0 >= 0)
    }

    /// Adds a batch at the segment's end.
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
        // The timestamp of a transaction marker is not a record's.
        if header.control() && header.record_count > 0 {
            self.largest_marker = self.largest_marker.max(Some(header.max_timestamp));
        }
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

    /// Adds damage at the segment's end.
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
