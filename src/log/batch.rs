//! The v2 record batch: header, checks, and a builder for the broker's own records.

use bytes::Bytes;

use crate::types::{ProducerEpoch, ProducerId, Timestamp};

/// A record for the broker's own batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// `None` is a null key.
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Name and value, in order, duplicates kept.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Event time in ms.
    pub timestamp: Timestamp,
}

/// Who writes a batch, for idempotence and transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// The producer's id.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// Sequence of the batch's first record.
    pub base_sequence: i32,
    /// Whether the batch belongs to a transaction.
    pub transactional: bool,
}

/// Encodes an uncompressed v2 batch with base offset 0 and a right CRC. `records` may not be empty.
pub fn encode(records: &[NewRecord], producer: Option<Producer>) -> Bytes {
    let _ = (records, producer);
    todo!("log helper")
}
