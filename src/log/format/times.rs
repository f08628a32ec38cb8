//! Finds a record by its timestamp inside a batch. Decompresses the batch while it reads record after
//! record, so it takes little memory however large the decompressed batch is.

use std::io::{self, BufReader, Read};

use bytes::Bytes;

use super::batch::{BatchHeader, HEADER_BYTES};
use super::compression;
use crate::log::outcome::TimestampOffset;
use crate::types::{Offset, Timestamp};

/// A look inflates at most this much, so that its time is bounded too.
const INFLATED_BYTES_MAX: u64 = 1 << 30;
const BUFFER_BYTES: usize = 8 << 10;

/// The first record of a batch, not before `start`, with a wanted timestamp. Where a batch cannot be
/// read on, which the broker does not forbid, its next offset is the answer: a reader then begins a
/// little early.
pub(in crate::log) fn first_wanted(
    header: &BatchHeader,
    batch: &Bytes,
    start: Offset,
    wanted: impl Fn(Timestamp) -> bool,
) -> Option<TimestampOffset> {
    let mut next = header.base_offset;
    search(header, batch, INFLATED_BYTES_MAX, start, wanted, &mut next).unwrap_or_else(|_| {
        Some(TimestampOffset {
            timestamp: header.max_timestamp,
            offset: next.max(start),
            leader_epoch: header.leader_epoch,
        })
    })
}

/// `first_wanted`, with an error where a record cannot be decoded; `next` is then the offset of that
/// record.
fn search(
    header: &BatchHeader,
    batch: &Bytes,
    inflated_bytes_max: u64,
    start: Offset,
    wanted: impl Fn(Timestamp) -> bool,
    next: &mut Offset,
) -> io::Result<Option<TimestampOffset>> {
    if header.record_count == 0 {
        return Ok(None);
    }
    let body = compression::inflating(header.compression(), batch.slice(HEADER_BYTES..))?;
    let mut body = BufReader::with_capacity(BUFFER_BYTES, body.take(inflated_bytes_max));
    for _ in 0..header.record_count {
        let length = u64::try_from(varlong(&mut body)?).map_err(io::Error::other)?;
        let mut record = (&mut body).take(length);
        let _attributes = byte(&mut record)?;
        let timestamp_delta = varlong(&mut record)?;
        let offset_delta = u64::try_from(varlong(&mut record)?).map_err(io::Error::other)?;
        let timestamp = if header.log_append_time() {
            header.max_timestamp
        } else {
            Timestamp(header.base_timestamp.0.wrapping_add(timestamp_delta))
        };
        let offset = header.base_offset.plus(offset_delta);
        if offset > header.last_offset() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if offset >= start && wanted(timestamp) {
            return Ok(Some(TimestampOffset {
                timestamp,
                offset,
                leader_epoch: header.leader_epoch,
            }));
        }
        *next = offset.plus(1);
        let rest = record.limit();
        if io::copy(&mut record, &mut io::sink())? < rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(None)
}

fn byte(reader: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0];
    reader.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// A zigzag varint of at most 64 bits.
fn varlong(reader: &mut impl Read) -> io::Result<i64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = byte(reader)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::config::Codec;
    use crate::log::format::batch::{self, Changes, NewRecord, encode};
    use crate::log::format::raw_records::RawBatch;

    const CODECS: [Codec; 5] =
        [Codec::Uncompressed, Codec::Gzip(1), Codec::Snappy, Codec::Lz4, Codec::Zstd(1)];

    /// Records of `value_bytes` at offset 500 on, under `codec`.
    fn batch(codec: Codec, times: &[i64], value_bytes: usize) -> Bytes {
        let value = Bytes::from(vec![b'v'; value_bytes]);
        let records: Vec<_> = times
            .iter()
            .map(|ms| NewRecord {
                value: Some(value.clone()),
                timestamp: Timestamp(*ms),
                ..NewRecord::default()
            })
            .collect();
        let mut plain = encode(&records, None).to_vec();
        plain[..8].copy_from_slice(&500i64.to_be_bytes());
        let plain = Bytes::from(plain);
        let header = BatchHeader::parse(&plain).unwrap();
        let raw = RawBatch::open(&header, &plain, usize::MAX).unwrap();
        raw.recompress(codec, Changes::none(&header)).unwrap()
    }

    fn find(batch: &Bytes, start: u64, at: i64) -> Option<(u64, i64)> {
        let header = BatchHeader::parse(batch).unwrap();
        let found = first_wanted(&header, batch, Offset::new(start), |t| t >= Timestamp(at));
        found.map(|found| (found.offset.get(), found.timestamp.0))
    }

    #[test]
    fn the_first_record_late_enough_is_found_under_every_codec() {
        for codec in CODECS {
            for value_bytes in [0, 1, BUFFER_BYTES, 100_000] {
                let batch = batch(codec, &[10, 40, 20, 30, 50], value_bytes);
                assert_eq!(find(&batch, 0, 5), Some((500, 10)));
                assert_eq!(find(&batch, 0, 11), Some((501, 40)));
                assert_eq!(find(&batch, 0, 41), Some((504, 50)));
                assert_eq!(find(&batch, 0, 51), None);
                // What lies before the log's start is gone.
                assert_eq!(find(&batch, 502, 11), Some((502, 20)));
                assert_eq!(find(&batch, 502, 31), Some((504, 50)));
            }
        }
    }

    #[test]
    fn append_time_holds_for_every_record() {
        for codec in CODECS {
            let sent = batch(codec, &[10, 40, 20], 10);
            let mut stamped = sent.to_vec();
            let mut header = BatchHeader::parse(&sent).unwrap();
            batch::stamp(&mut stamped, &mut header, Timestamp(77));
            let stamped = Bytes::from(stamped);
            assert_eq!(find(&stamped, 0, 5), Some((500, 77)));
            assert_eq!(find(&stamped, 501, 77), Some((501, 77)));
            assert_eq!(find(&stamped, 0, 78), None);
        }
    }

    #[test]
    fn a_batch_larger_than_memory_should_hold_is_searched_to_its_last_record() {
        // 128 MiB in a body of a few kilobytes.
        let mut times = vec![1; 127];
        times.push(2);
        let batch = batch(Codec::Zstd(1), &times, 1 << 20);
        assert!(batch.len() < 1 << 20);
        assert_eq!(find(&batch, 0, 2), Some((627, 2)));
    }

    #[test]
    fn a_batch_that_cannot_be_read_on_is_answered_with_what_was_not_looked_at() {
        for codec in CODECS {
            let whole = batch(codec, &[10, 20, 90], 50_000);
            // Behind the first record, or before it where a codec has larger blocks.
            let cut = HEADER_BYTES + (whole.len() - HEADER_BYTES) * 2 / 3;
            let header = BatchHeader::parse(&whole).unwrap();
            let found = first_wanted(&header, &whole.slice(..cut), Offset::ZERO, |t| t.0 > 80);
            let found = found.unwrap();
            assert_eq!(found.timestamp, Timestamp(90));
            assert!((500..=502).contains(&found.offset.get()), "{codec:?}: {found:?}");
        }
        let header = BatchHeader::parse(&batch(Codec::Uncompressed, &[10, 20, 90], 1000)).unwrap();
        let whole = batch(Codec::Uncompressed, &[10, 20, 90], 1000);
        let mut next = Offset::ZERO;
        let outcome = search(&header, &whole, 1500, Offset::ZERO, |t| t.0 > 80, &mut next);
        assert!(outcome.is_err());
        assert_eq!(next, Offset::new(502));
    }

    #[test]
    fn bytes_flipped_anywhere_never_panic_and_never_answer_outside_the_batch() {
        for codec in CODECS {
            let whole = batch(codec, &[10, 40, 20], 30);
            for at in HEADER_BYTES..whole.len() {
                for bit in 0..8 {
                    let mut flipped = whole.to_vec();
                    flipped[at] ^= 1 << bit;
                    if let Some((offset, _)) = find(&Bytes::from(flipped), 0, 15) {
                        assert!((500..=503).contains(&offset));
                    }
                }
            }
        }
    }
}
