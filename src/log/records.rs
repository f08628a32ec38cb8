//! Decoding of records inside a batch, for the executor, coordinators and timestamp look-ups.
//! Decompression is bounded: a compressed bomb is an error, never an allocation.

use bytes::Bytes;
use thiserror::Error;

use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp};

/// A decoded record; its bytes share the batch's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Position in the partition.
    pub offset: Offset,
    /// Create or append time, as the batch says.
    pub timestamp: Timestamp,
    /// `None` is a null key.
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    /// In order, duplicates kept.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// One decoded batch.
#[derive(Clone, Debug)]
pub struct DecodedBatch {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset of the last record, also when the batch was compacted.
    pub last_offset: Offset,
    /// A transaction marker, not data: `records` is empty then.
    pub control: bool,
    /// Whether the batch belongs to a transaction.
    pub transactional: bool,
    /// Who wrote it, if idempotent.
    pub producer: Option<(ProducerId, ProducerEpoch)>,
    /// Its records.
    pub records: Vec<Record>,
}

/// Why a batch could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Its bytes contradict each other.
    #[error("batch at offset {0} is corrupt: {1}")]
    Corrupt(Offset, String),
    /// It inflates to more than the bound.
    #[error("batch at offset {0} inflates to more than {1} bytes")]
    TooLarge(Offset, usize),
}

/// Decodes whole batches, as `Partition::read` returns them, each inflating to at most
/// `inflated_bytes_max`.
pub fn decode(batches: Bytes, inflated_bytes_max: usize) -> Result<Vec<DecodedBatch>, DecodeError> {
    let _ = (batches, inflated_bytes_max);
    todo!("log helper")
}

/// The committed data batches of a `ReadCommitted` read: drops control batches and batches of the
/// aborted transactions, as a Kafka consumer does.
pub fn committed(batches: Vec<DecodedBatch>, aborted: &[super::AbortedTxn]) -> Vec<DecodedBatch> {
    let _ = (batches, aborted);
    todo!("log helper")
}
