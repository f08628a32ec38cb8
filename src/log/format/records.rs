//! Decodes the records of batches, for the executor and the coordinators. Decompression has a bound: a
//! decompression bomb is an error, never a large allocation.

use bytes::Bytes;
use thiserror::Error;

use super::batch::BatchHeader;
use super::raw_records::RawBatch;
use super::varint::{self, Cursor};
use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp};

/// A decoded record; its bytes share the batch's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Position in the partition.
    pub offset: Offset,
    /// The create time or append time, whichever the batch has.
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
    /// The bytes of the batch contradict each other.
    #[error("batch at offset {0} is corrupt: {1}")]
    Corrupt(Offset, String),
    /// The batch decompresses to more than the bound.
    #[error("batch at offset {0} inflates to more than {1} bytes")]
    TooLarge(Offset, usize),
}

/// The smallest header: an empty name and a null value.
const HEADER_ENTRY_BYTES_MIN: usize = 2;

/// Decodes whole batches, as `Partition::read` returns them. Each may decompress to at most
/// `inflated_bytes_max`.
pub fn decode(batches: Bytes, inflated_bytes_max: usize) -> Result<Vec<DecodedBatch>, DecodeError> {
    let mut decoded = Vec::new();
    let mut rest = batches;
    let mut next = Offset::ZERO;
    while !rest.is_empty() {
        let header =
            BatchHeader::parse(&rest).map_err(|e| DecodeError::Corrupt(next, e.to_string()))?;
        if header.bytes > rest.len() {
            return Err(DecodeError::Corrupt(
                header.base_offset,
                format!("it has {} bytes and says {}", rest.len(), header.bytes),
            ));
        }
        next = header.next_offset();
        decoded.push(decode_batch(&header, &rest.split_to(header.bytes), inflated_bytes_max)?);
    }
    Ok(decoded)
}

/// Decodes one whole batch, whose header is given.
pub(in crate::log) fn decode_batch(
    header: &BatchHeader,
    batch: &Bytes,
    inflated_bytes_max: usize,
) -> Result<DecodedBatch, DecodeError> {
    let records =
        if header.control() { Vec::new() } else { records(header, batch, inflated_bytes_max)? };
    Ok(DecodedBatch {
        base_offset: header.base_offset,
        last_offset: header.last_offset(),
        control: header.control(),
        transactional: header.transactional(),
        producer: header.producer.map(|p| (p.id, p.epoch)),
        records,
    })
}

fn records(
    header: &BatchHeader,
    batch: &Bytes,
    inflated_bytes_max: usize,
) -> Result<Vec<Record>, DecodeError> {
    let raw = RawBatch::open(header, batch, inflated_bytes_max)?;
    let mut records = Vec::with_capacity(raw.count());
    for (index, record) in raw.records().enumerate() {
        let record = record?;
        let headers = headers(raw.body(), record.headers).ok_or_else(|| {
            let reason = format!("record {index} of {} is malformed", raw.count());
            DecodeError::Corrupt(header.base_offset, reason)
        })?;
        let share = |bytes: &[u8]| raw.body().slice_ref(bytes);
        records.push(Record {
            offset: header.base_offset.plus(u64::from(record.offset_delta)),
            timestamp: record.timestamp,
            key: record.key.map(share),
            value: record.value.map(share),
            headers,
        });
    }
    Ok(records)
}

/// The headers of a record, which take all of `bytes`; `None` if the bytes contradict each other.
fn headers(body: &Bytes, bytes: &[u8]) -> Option<Vec<(Bytes, Option<Bytes>)>> {
    let mut cursor = Cursor::new(bytes);
    let count = usize::try_from(varint::varint(&mut cursor).ok()?).ok()?;
    if count > cursor.remaining() / HEADER_ENTRY_BYTES_MIN {
        return None;
    }
    let share = |range: std::ops::Range<usize>| body.slice_ref(&bytes[range]);
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        let name = share(cursor.nullable()??);
        headers.push((name, cursor.nullable()?.map(share)));
    }
    (cursor.remaining() == 0).then_some(headers)
}

/// The committed data batches of a `ReadCommitted` read: drops control batches and batches of the
/// aborted transactions, as a Kafka consumer does.
pub fn committed(
    batches: Vec<DecodedBatch>,
    aborted: &[crate::log::AbortedTxn],
) -> Vec<DecodedBatch> {
    let is_aborted = |batch: &DecodedBatch| {
        batch.transactional
            && aborted.iter().any(|txn| {
                batch.producer.is_some_and(|(id, _)| id == txn.producer)
                    && txn.first_offset <= batch.base_offset
                    && batch.last_offset <= txn.last_offset
            })
    };
    batches.into_iter().filter(|batch| !batch.control && !is_aborted(batch)).collect()
}

#[cfg(test)]
mod tests;
