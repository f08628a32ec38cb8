//! The catalogue of sled keys. Every key begins with its family's number; numbers and layouts are
//! persisted, so neither is ever reused or changed: a new layout gets a new number or version byte.

use super::log_view::SegmentId;
use crate::types::{LogId, Offset, PartitionId, TopicId};

/// What a key is about. All integers in keys are big-endian, so that ranges follow their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// The view's own format.
    /// Key:   nothing more.
    /// Value: version:u8, `FORMAT`. Another one is set aside and rebuilt.
    Format = 1,
    /// How far the view has applied a log, and the log's state there; dies with the topic id.
    /// Key:   topic_id:16 partition:u32
    /// Value: `LogSnapshot`, see `log_view`.
    LogSnapshot = 2,
    /// An aborted transaction; dies with the topic id.
    /// Key:   topic_id:16 partition:u32 marker_offset:u64
    /// Value: version:u8 producer_id:u64 first_offset:u64
    LogAborted = 4,
    /// A page of sparse index entries of one segment; dies with the segment. (Number 3 was the same
    /// without a revision.)
    /// Key:   topic_id:16 partition:u32 segment_base:u64 segment_revision:u32 first_offset:u64
    /// Value: version:u8, then per entry offset:u64 position:u64 timestamp_before:i64
    LogIndexPage = 5,
}

/// The layout of all families together.
pub const FORMAT: u8 = 2;

/// The key of the view's format.
pub fn format() -> [u8; 1] {
    [Family::Format as u8]
}

/// The prefix of all keys of a log in one family, and the whole key of its snapshot.
pub fn log(family: Family, log: LogId) -> Vec<u8> {
    let mut key = Vec::with_capacity(37);
    key.push(family as u8);
    key.extend_from_slice(log.topic.0.as_bytes());
    key.extend_from_slice(&log.partition.0.to_be_bytes());
    key
}

/// The log that a key of `log` is about.
pub fn log_of(key: &[u8]) -> Option<LogId> {
    let (topic, rest) = key.get(1..)?.split_first_chunk()?;
    let topic = TopicId(uuid::Uuid::from_bytes(*topic));
    Some(LogId { topic, partition: PartitionId(u32::from_be_bytes(*rest.first_chunk()?)) })
}

/// The prefix of a segment's index pages.
pub fn index_pages(id: LogId, segment: SegmentId) -> Vec<u8> {
    let mut key = log(Family::LogIndexPage, id);
    key.extend_from_slice(&segment.base.get().to_be_bytes());
    key.extend_from_slice(&segment.revision.to_be_bytes());
    key
}

/// The index page of a segment that begins with `first`.
pub fn index_page(id: LogId, segment: SegmentId, first: Offset) -> Vec<u8> {
    let mut key = index_pages(id, segment);
    key.extend_from_slice(&first.get().to_be_bytes());
    key
}

/// An aborted transaction by its marker.
pub fn aborted(id: LogId, marker: Offset) -> Vec<u8> {
    let mut key = log(Family::LogAborted, id);
    key.extend_from_slice(&marker.get().to_be_bytes());
    key
}
