//! Finds a record by its timestamp inside a batch. Decompresses the batch while it reads record after
//! record, so it takes little memory however large the decompressed batch is.

use bytes::Bytes;

use super::batch::{BatchHeader, HEADER_BYTES};
use super::inflating::Inflating;
use super::varint::{Cursor, Input, ReadFault};
use super::walk::{self, Fault};
use crate::log::outcome::TimestampOffset;
use crate::types::{Offset, Timestamp};

/// A look inflates at most this much, so that its time is bounded too.
const INFLATED_BYTES_MAX: usize = 1 << 30;

/// The first record of a batch, not before `start`, with a wanted timestamp. Where a batch cannot be
/// read on, as one that an older version has stored, its next offset is the answer: a reader then begins a
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
    inflated_bytes_max: usize,
    start: Offset,
    wanted: impl Fn(Timestamp) -> bool,
    next: &mut Offset,
) -> Result<Option<TimestampOffset>, Fault> {
    if header.record_count == 0 {
        return Ok(None);
    }
    let body = &batch[HEADER_BYTES..];
    if header.compression() == 0 {
        let body = &body[..inflated_bytes_max.min(body.len())];
        return search_in(header, &mut Cursor::new(body), start, wanted, next);
    }
    let mut body = Inflating::new(header.compression(), body, inflated_bytes_max)
        .map_err(|_| Fault::Read(ReadFault::Undecodable))?;
    search_in(header, &mut body, start, wanted, next)
}

fn search_in(
    header: &BatchHeader,
    body: &mut impl Input,
    start: Offset,
    wanted: impl Fn(Timestamp) -> bool,
    next: &mut Offset,
) -> Result<Option<TimestampOffset>, Fault> {
    for _ in 0..header.record_count {
        let layout = walk::record(body)?;
        let delta = Fault::OffsetDelta(layout.offset_delta);
        let offset = u64::try_from(layout.offset_delta).map_err(|_| delta)?;
        let offset = header.base_offset.plus(offset);
        if offset > header.last_offset() {
            return Err(delta);
        }
        let timestamp = layout.timestamp(header);
        if offset >= start && wanted(timestamp) {
            return Ok(Some(TimestampOffset {
                timestamp,
                offset,
                leader_epoch: header.leader_epoch,
            }));
        }
        *next = offset.plus(1);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::config::Codec;
    use crate::log::format::batch::{self, Changes, NewRecord, encode};
    use crate::log::format::raw_records::recompress;

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
        let (head, body) = plain.split_at(HEADER_BYTES);
        recompress(head, body, codec, Changes::none(&header)).unwrap()
    }

    fn find(batch: &Bytes, start: u64, at: i64) -> Option<(u64, i64)> {
        let header = BatchHeader::parse(batch).unwrap();
        let found = first_wanted(&header, batch, Offset::new(start), |t| t >= Timestamp(at));
        found.map(|found| (found.offset.get(), found.timestamp.0))
    }

    #[test]
    fn the_first_record_late_enough_is_found_under_every_codec() {
        for codec in CODECS {
            for value_bytes in [0, 1, 8 << 10, 16 << 10, 100_000] {
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
        assert_eq!(next, Offset::new(501));
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
