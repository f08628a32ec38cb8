//! The records of a batch as raw slices, and new batches made from some of them, for compaction and
//! recompression. Keys, values and headers are not interpreted, and decompression is bounded.

use std::io;

use bytes::Bytes;

use super::batch::{self, BatchHeader, Changes, HEADER_BYTES};
use super::compression::{self, InflateError};
use super::records::DecodeError;
use super::varint::{self, Cursor};
use super::walk::{self, Broken, Fault};
use crate::log::config::Codec;
use crate::types::{Offset, Timestamp};

/// The smallest record: seven fields of one byte each.
const RECORD_BYTES_MIN: usize = 7;

/// One record inside the decompressed body of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct RawRecord<'a> {
    /// Its offset minus the batch's base offset.
    pub(in crate::log) offset_delta: u32,
    /// The create time or append time, whichever the batch has.
    pub(in crate::log) timestamp: Timestamp,
    /// `None` is a null key.
    pub(in crate::log) key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub(in crate::log) value: Option<&'a [u8]>,
    /// The number of headers and the headers, not decoded.
    pub(in crate::log) headers: &'a [u8],
    /// The whole record, with its length in front.
    whole: &'a [u8],
}

/// A batch whose body is decompressed.
#[derive(Clone, Debug)]
pub(in crate::log) struct RawBatch {
    header: BatchHeader,
    /// The header as it is stored.
    head: Bytes,
    body: Bytes,
    count: usize,
}

impl RawBatch {
    /// Decompresses the body of one whole batch, whose header is given, to at most
    /// `inflated_bytes_max`. Does not decode the records yet.
    pub(in crate::log) fn open(
        header: &BatchHeader,
        batch: &Bytes,
        inflated_bytes_max: usize,
    ) -> Result<RawBatch, DecodeError> {
        let base = header.base_offset;
        if batch.len() != header.bytes {
            return Err(DecodeError::Corrupt(
                base,
                format!("it has {} bytes and says {}", batch.len(), header.bytes),
            ));
        }
        let compressed = batch.slice(HEADER_BYTES..);
        let body = if compressed.is_empty() {
            // A batch that compaction emptied. No codec compresses anything to zero bytes.
            compressed
        } else {
            compression::inflate(header.compression(), compressed, inflated_bytes_max).map_err(
                |e| match e {
                    InflateError::Corrupt(reason) => DecodeError::Corrupt(base, reason),
                    InflateError::TooLarge => DecodeError::TooLarge(base, inflated_bytes_max),
                },
            )?
        };
        let count = usize::try_from(header.record_count)
            .ok()
            .filter(|count| *count <= body.len() / RECORD_BYTES_MIN)
            .ok_or_else(|| {
                let count = header.record_count;
                DecodeError::Corrupt(
                    base,
                    format!("{count} records do not fit {} bytes", body.len()),
                )
            })?;
        Ok(RawBatch { header: *header, head: batch.slice(..HEADER_BYTES), body, count })
    }

    /// The decompressed records.
    pub(in crate::log) fn body(&self) -> &Bytes {
        &self.body
    }

    /// The number of records in the header; so many can fit the body.
    pub(in crate::log) fn count(&self) -> usize {
        self.count
    }

    /// The records in order; the first error ends them.
    pub(in crate::log) fn records(&self) -> RawRecords<'_> {
        RawRecords { batch: self, cursor: Cursor::new(&self.body), index: 0, failed: false }
    }

    /// The batch with only the records `kept`, which are records of this batch in their order. As with
    /// Kafka's cleaner, base offset, leader epoch, last offset delta, producer, sequence, codec,
    /// transactional and timestamp type stay, and records keep their offset deltas. The maximum timestamp
    /// becomes that of the kept records, except with append time. If no record is kept, the batch is only
    /// a header, which still tells its producer's sequence.
    ///
    /// `delete_horizon` is written in place of the base timestamp, and the records' timestamps become
    /// relative to it (KIP-534). With `None`, a horizon that the batch has already stays.
    pub(in crate::log) fn keep<'a>(
        &self,
        kept: impl IntoIterator<Item = RawRecord<'a>>,
        delete_horizon: Option<Timestamp>,
    ) -> io::Result<Bytes> {
        let header = &self.header;
        let base_timestamp = delete_horizon.unwrap_or(header.base_timestamp);
        // With append time, records have no timestamps of their own that would have to be shifted.
        let shift = if header.log_append_time() { None } else { delete_horizon };
        let mut body = Vec::new();
        let mut record_count = 0;
        let mut max_timestamp = None;
        for record in kept {
            match shift {
                None => body.extend_from_slice(record.whole),
                Some(horizon) => put_shifted(&mut body, &record, horizon)?,
            }
            record_count += 1;
            max_timestamp = max_timestamp.max(Some(record.timestamp));
        }
        let max_timestamp = match max_timestamp {
            Some(max) if !header.log_append_time() => max,
            _ => header.max_timestamp,
        };
        let mut out = self.head.to_vec();
        let codec = match Codec::of(header.compression()) {
            Some(codec) if !body.is_empty() => codec,
            _ => Codec::Uncompressed,
        };
        compression::deflate(codec, &body, &mut out)?;
        let changes = Changes {
            codec: codec.number(),
            base_timestamp,
            delete_horizon: delete_horizon.is_some() || header.delete_horizon().is_some(),
            max_timestamp,
            record_count,
            ..Changes::none(header)
        };
        batch::rewrite(&mut out, &changes);
        Ok(Bytes::from(out))
    }
}

/// A batch with the header `head` and the records `body` under another codec. `changes` are the
/// header's; the codec's number among them is set here.
pub(in crate::log) fn recompress(
    head: &[u8],
    body: &[u8],
    codec: Codec,
    changes: Changes,
) -> io::Result<Bytes> {
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    out.extend_from_slice(head);
    compression::deflate(codec, body, &mut out)?;
    batch::rewrite(&mut out, &Changes { codec: codec.number(), ..changes });
    Ok(Bytes::from(out))
}

/// Appends a record whose timestamp becomes relative to `horizon`.
fn put_shifted(out: &mut Vec<u8>, record: &RawRecord<'_>, horizon: Timestamp) -> io::Result<()> {
    let delta = record.timestamp.0.checked_sub(horizon.0).ok_or_else(|| {
        let reason = format!("{} is too far from {horizon}", record.timestamp);
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })?;
    let mut fields = Vec::with_capacity(record.whole.len() + 10);
    // Record attributes: none are defined.
    fields.push(0);
    varint::put(&mut fields, delta);
    varint::put(&mut fields, i64::from(record.offset_delta));
    varint::put_nullable(&mut fields, record.key);
    varint::put_nullable(&mut fields, record.value);
    fields.extend_from_slice(record.headers);
    varint::put(out, fields.len() as i64);
    out.extend_from_slice(&fields);
    Ok(())
}

/// See [`RawBatch::records`].
pub(in crate::log) struct RawRecords<'a> {
    batch: &'a RawBatch,
    cursor: Cursor<'a>,
    index: usize,
    failed: bool,
}

impl<'a> Iterator for RawRecords<'a> {
    type Item = Result<RawRecord<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let corrupt = |base: Offset, reason| Some(Err(DecodeError::Corrupt(base, reason)));
        if self.failed {
            return None;
        }
        let base = self.batch.header.base_offset;
        if self.index == self.batch.count {
            let trailing = self.cursor.remaining();
            self.failed = true;
            if trailing > 0 {
                return corrupt(base, format!("{trailing} bytes follow its last record"));
            }
            return None;
        }
        let record = record(&self.batch.header, &self.batch.body, &mut self.cursor);
        self.failed = record.is_err();
        let index = self.index as i32;
        self.index += 1;
        match record {
            Ok(record) => Some(Ok(record)),
            Err(fault) => corrupt(base, Broken { index, fault }.of(self.batch.header.record_count)),
        }
    }
}

/// One record; nothing is said of its offset delta but that it is none below zero.
fn record<'a>(
    header: &BatchHeader,
    body: &'a [u8],
    cursor: &mut Cursor<'a>,
) -> Result<RawRecord<'a>, Fault> {
    let layout = walk::record(cursor)?;
    let slice = |(from, length): (usize, usize)| &body[from..from + length];
    let offset_delta =
        u32::try_from(layout.offset_delta).map_err(|_| Fault::OffsetDelta(layout.offset_delta))?;
    Ok(RawRecord {
        offset_delta,
        timestamp: layout.timestamp(header),
        key: layout.key.map(slice),
        value: layout.value.map(slice),
        headers: &body[layout.headers..layout.end],
        whole: &body[layout.start..layout.end],
    })
}

#[cfg(test)]
mod tests;
