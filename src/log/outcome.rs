//! The types that the handle of a log takes and returns.

use thiserror::Error;

use super::read::reader;
use crate::types::{LeaderEpoch, LogId, Offset, ProducerEpoch, ProducerId, Timestamp};

/// How far an append must have come before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// Written to the page cache (`acks=0` and `acks=1`).
    Written,
    /// Synced to disk, or written if the broker's durability is `page-cache` (`acks=all`).
    Synced,
}

/// Who made the batches of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    /// A producer: its records are checked, and what is stored must fit a segment, as with Kafka.
    Client,
    /// The broker itself, for one of its own topics or for a job: its records are what they say.
    Broker,
}

/// How to append.
#[derive(Clone, Copy, Debug)]
pub struct AppendOptions {
    /// When to answer.
    pub durable: Durable,
    /// Largest batch accepted, bytes.
    pub batch_bytes_max: u32,
    /// Who made the batches.
    pub origin: AppendOrigin,
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record; of the original append if this one was a duplicate.
    pub base_offset: Offset,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// First offset of the log at that time.
    pub log_start: Offset,
    /// The time that the broker stamped it with; `None` where the producer's holds.
    pub append_time: Option<Timestamp>,
    /// The batch was one of the producer's last five, already stored.
    pub duplicate: bool,
}

/// What is wrong with one record of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordFault {
    /// Its place in the batch, from 0.
    pub index: i32,
    /// Why it is not taken.
    pub reason: String,
}

fn first(faults: &[RecordFault]) -> String {
    faults.first().map_or_else(String::new, |first| {
        format!(" (record {} of the batch: {})", first.index, first.reason)
    })
}

impl AppendError {
    /// The records at fault, as far as they are named one by one.
    pub fn faults(&self) -> &[RecordFault] {
        match self {
            AppendError::TimestampType { faults }
            | AppendError::TimestampRange { faults, .. }
            | AppendError::NoKey { faults, .. } => faults,
            _ => &[],
        }
    }
}

/// Why an append stored nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AppendError {
    /// Wrong CRC, or a batch that is cut short or has an impossible length (error 2).
    #[error("record batch is corrupt: {0}")]
    Corrupt(String),
    /// No batch at all, a wrong magic, count, delta or flag, or records that are not what they or the
    /// batch say (error 87).
    #[error("record batch is invalid: {0}")]
    Invalid(String),
    /// Its records cannot be found in its bytes: they are not what the codec has written (error -1).
    #[error("record batch cannot be decoded: {0}; check the producer's compression library")]
    Undecodable(String),
    /// It claims the broker's append time, which only a broker may stamp (error 32).
    #[error("record batch has timestamp type LogAppendTime, which producers may not set")]
    TimestampType {
        /// The first of what is wrong with the batch.
        faults: Vec<RecordFault>,
    },
    /// Over `message.max.bytes` / `max.message.bytes` (error 10).
    #[error(
        "record batch has {bytes} bytes, at most {bytes_max} are allowed; lower the producer's batch.size or raise message.max.bytes"
    )]
    TooLarge {
        /// The batch's size.
        bytes: usize,
        /// The limit.
        bytes_max: u32,
    },
    /// It is stored as more than `segment.bytes` (error 18).
    #[error(
        "record batch is stored as {bytes} bytes, and the topic's segment.bytes is {segment_bytes}; lower the producer's batch.size or raise segment.bytes"
    )]
    LargerThanSegment {
        /// Its size in the form that the topic stores.
        bytes: usize,
        /// The limit.
        segment_bytes: u64,
    },
    /// It holds too much for its records to be checked, or stored under the topic's codec (error 10).
    #[error(
        "record batch inflates to more than {bytes_max} bytes, and its records have to be checked; lower the producer's batch.size"
    )]
    Inflates {
        /// The bound.
        bytes_max: usize,
    },
    /// Records whose time is too far from the broker's (error 32).
    #[error(
        "{count} records have a timestamp that message.timestamp.before.max.ms and message.timestamp.after.max.ms do not allow{}; check the producer's clock, or change the topic's configs", first(.faults)
    )]
    TimestampRange {
        /// How many.
        count: usize,
        /// The first of what is wrong with the batch.
        faults: Vec<RecordFault>,
    },
    /// Records without a key in a compacted topic (error 87).
    #[error(
        "{count} records have no key, which compaction goes by{}; give every record a key, or take compact out of the topic's cleanup.policy", first(.faults)
    )]
    NoKey {
        /// How many.
        count: usize,
        /// The first of what is wrong with the batch.
        faults: Vec<RecordFault>,
    },
    /// A gap in a producer's sequence (error 45).
    #[error("producer {producer} sent sequence {sequence}, expected {expected}")]
    OutOfOrderSequence {
        /// Who.
        producer: ProducerId,
        /// What came.
        sequence: i32,
        /// What had to come.
        expected: i32,
    },
    /// An epoch below the producer's current one (error 47).
    #[error("producer {producer} with epoch {epoch} was fenced by epoch {current}")]
    Fenced {
        /// Who.
        producer: ProducerId,
        /// Its epoch.
        epoch: ProducerEpoch,
        /// The epoch that fenced it.
        current: ProducerEpoch,
    },
    /// Transactional data without an open transaction, or the reverse (error 48).
    #[error("producer {0} has no such transaction state")]
    InvalidTxnState(ProducerId),
    /// The topic was deleted meanwhile (error 3).
    #[error("the partition was deleted")]
    Deleted,
    /// The disk refused: full (error 56), or failed and the log is fenced (error 56).
    #[error("log {log} refuses writes: {reason}")]
    Storage {
        /// Which log.
        log: LogId,
        /// Why.
        reason: String,
    },
    /// The broker is shutting down.
    #[error("the broker is stopping")]
    Stopping,
}

/// Why a log's start was not raised.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TrimError {
    /// There is nothing yet where it should start (error 1).
    #[error("offset {before} is beyond the log's end {end}")]
    OutOfRange {
        /// What was asked.
        before: Offset,
        /// One past the last offset.
        end: Offset,
    },
    /// The topic was deleted meanwhile (error 3).
    #[error("the partition was deleted")]
    Deleted,
    /// The disk refused (error 56).
    #[error("log {log} could not be trimmed: {reason}")]
    Storage {
        /// Which log.
        log: LogId,
        /// Why.
        reason: String,
    },
    /// The broker is shutting down.
    #[error("the broker is stopping")]
    Stopping,
}

/// What a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the high watermark.
    ReadUncommitted,
    /// Up to the last stable offset, with the aborted transactions in range.
    ReadCommitted,
}

/// A read of whole batches.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// First offset wanted; the first batch returned may start before it.
    pub from: Offset,
    /// Stop before this many bytes.
    pub bytes_max: usize,
    /// Return one batch even when it is larger than `bytes_max` (KIP-74).
    pub at_least_one: bool,
    /// What may be seen.
    pub isolation: Isolation,
}

/// An aborted transaction that overlaps a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTxn {
    /// Whose.
    pub producer: ProducerId,
    /// Its first offset in this partition.
    pub first_offset: Offset,
    /// Offset of its abort marker.
    pub last_offset: Offset,
}

/// A transaction without a marker yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenTxn {
    /// Whose.
    pub producer: ProducerId,
    /// With which epoch.
    pub epoch: ProducerEpoch,
    /// Its first offset in this partition.
    pub first_offset: Offset,
}

/// What a read returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadResult {
    /// Whole verbatim batches, possibly none.
    pub records: bytes::Bytes,
    /// The partition's offsets at that time.
    pub span: OffsetSpan,
    /// Aborted transactions in range; empty for `ReadUncommitted`.
    pub aborted: Vec<AbortedTxn>,
}

impl ReadResult {
    /// The offset behind the last record; `None` without records.
    pub fn next_offset(&self) -> Option<Offset> {
        reader::last_offset(&self.records).map(|last| last.plus(1))
    }
}

/// Why a read returned nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// `from` lies before the log start or after the log end (error 1).
    #[error("offset {from} is out of range {start}..={end}")]
    OutOfRange {
        /// What was asked.
        from: Offset,
        /// First offset.
        start: Offset,
        /// One past the last offset.
        end: Offset,
    },
    /// The batch on disk fails its checks (error 2).
    #[error("batch at offset {offset} is corrupt: {reason}")]
    Corrupt {
        /// Offset asked for.
        offset: Offset,
        /// Where the log is readable again, if it is: beyond `offset`, maybe at its end.
        next: Option<Offset>,
        /// What was found.
        reason: String,
    },
    /// The topic was deleted meanwhile (error 3).
    #[error("the partition was deleted")]
    Deleted,
    /// The disk failed (error 56).
    #[error("log {log} could not be read: {reason}")]
    Storage {
        /// Which log.
        log: LogId,
        /// Why.
        reason: String,
    },
}

/// A partition's four offsets: start <= last stable <= high watermark <= end. And how much readers were
/// shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffsetSpan {
    /// First readable offset.
    pub start: Offset,
    /// First offset of the earliest open transaction, or the high watermark.
    pub last_stable: Offset,
    /// One past the last offset readers see.
    pub high_watermark: Offset,
    /// One past the last offset that the log has published, after its sync where one was asked
    /// for: on a log without replicas, the high watermark. More may be written already.
    pub end: Offset,
    /// Grows by the size of every batch that readers are shown, and never shrinks while the log is open:
    /// the difference of two spans' counts is the size of what was shown between them.
    pub shown_bytes: u64,
}

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    /// The record's timestamp.
    pub timestamp: Timestamp,
    /// Its offset.
    pub offset: Offset,
    /// The leader epoch it was appended in.
    pub leader_epoch: LeaderEpoch,
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// Its records become visible.
    Commit,
    /// Its records are skipped by `ReadCommitted` readers.
    Abort,
}
