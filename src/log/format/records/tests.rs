use std::io::Write;

use super::*;
use crate::log::AbortedTxn;
use crate::log::format::batch::{HEADER_BYTES, NewRecord, Producer, encode};

fn sample() -> Vec<NewRecord> {
    let header =
        |name: &str, value: Option<&'static str>| (name.to_owned(), value.map(Bytes::from));
    vec![
        NewRecord {
            key: Some(Bytes::from_static(b"k")),
            value: Some(Bytes::from_static(b"v")),
            headers: vec![header("h", Some("1")), header("h", Some("2")), header("", None)],
            timestamp: Timestamp(1000),
        },
        NewRecord { timestamp: Timestamp(900), ..NewRecord::default() },
        NewRecord {
            value: Some(Bytes::from(vec![b'x'; 5000])),
            timestamp: Timestamp(i64::from(u32::MAX) * 4),
            ..NewRecord::default()
        },
    ]
}

/// Puts another body behind a batch's header.
fn with_body(batch: &[u8], codec: u8, body: &[u8]) -> Bytes {
    let mut out = batch[..HEADER_BYTES].to_vec();
    out.extend_from_slice(body);
    let length = (out.len() - 12) as i32;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    out[22] = out[22] & !0x07 | codec;
    Bytes::from(out)
}

fn check(batch: Bytes) {
    let decoded = decode(batch, 1 << 20).unwrap();
    assert_eq!(decoded.len(), 1);
    for (index, (record, sent)) in decoded[0].records.iter().zip(sample()).enumerate() {
        assert_eq!(record.offset, Offset::new(index as u64));
        assert_eq!(record.timestamp, sent.timestamp);
        assert_eq!((&record.key, &record.value), (&sent.key, &sent.value));
        let headers: Vec<_> =
            sent.headers.into_iter().map(|(name, value)| (Bytes::from(name), value)).collect();
        assert_eq!(record.headers, headers);
    }
    assert_eq!(decoded[0].records.len(), 3);
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn xerial(body: &[u8]) -> Vec<u8> {
    let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    for block in body.chunks(2000) {
        let block = snap::raw::Encoder::new().compress_vec(block).unwrap();
        out.extend_from_slice(&(block.len() as u32).to_be_bytes());
        out.extend_from_slice(&block);
    }
    out
}

fn lz4(body: &[u8]) -> Vec<u8> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn compressed(body: &[u8]) -> Vec<(u8, Vec<u8>)> {
    vec![
        (1, gzip(body)),
        (2, snap::raw::Encoder::new().compress_vec(body).unwrap()),
        (2, xerial(body)),
        (3, lz4(body)),
        (4, zstd::bulk::compress(body, 1).unwrap()),
    ]
}

#[test]
fn records_come_back_under_every_compression() {
    let batch = encode(&sample(), None);
    check(batch.clone());
    for (codec, body) in compressed(&batch[HEADER_BYTES..]) {
        check(with_body(&batch, codec, &body));
    }
}

#[test]
fn several_batches_come_back_in_order() {
    let two = [encode(&sample(), None), encode(&sample()[..1], None)].concat();
    let decoded = decode(Bytes::from(two), 1 << 20).unwrap();
    let counts: Vec<usize> = decoded.iter().map(|batch| batch.records.len()).collect();
    assert_eq!(counts, [3, 1]);
}

#[test]
fn bombs_end_as_errors_under_every_compression() {
    let batch = encode(&sample(), None);
    for (codec, body) in compressed(&vec![0; 4 << 20]) {
        let bomb = with_body(&batch, codec, &body);
        assert_eq!(
            decode(bomb, 1 << 20).unwrap_err(),
            DecodeError::TooLarge(Offset::ZERO, 1 << 20)
        );
    }
}

#[test]
fn batches_cut_or_flipped_anywhere_are_errors_or_other_records_and_never_panics() {
    let plain = encode(&sample()[..2], None);
    let mut batches = vec![plain.clone()];
    for (codec, body) in compressed(&plain[HEADER_BYTES..]) {
        batches.push(with_body(&plain, codec, &body));
    }
    for batch in batches {
        for cut in 1..batch.len() {
            assert!(decode(batch.slice(..cut), 1 << 20).is_err());
        }
        for at in 0..batch.len() {
            for bit in 0..8 {
                let mut flipped = batch.to_vec();
                flipped[at] ^= 1 << bit;
                // What comes out does not matter here: the log has checked the CRC.
                let _ = decode(Bytes::from(flipped), 1 << 20);
            }
        }
    }
}

#[test]
fn counts_that_cannot_be_are_refused_before_anything_is_allocated() {
    let mut batch = encode(&sample()[1..2], None).to_vec();
    batch[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    assert!(matches!(decode(Bytes::from(batch), 1 << 20), Err(DecodeError::Corrupt(..))));
    // One record with 2^28 headers in no bytes at all.
    let mut record = vec![0, 0, 0, 1, 1];
    crate::log::format::varint::put(&mut record, 1 << 28);
    let mut body = Vec::new();
    crate::log::format::varint::put(&mut body, record.len() as i64);
    body.extend_from_slice(&record);
    let batch = with_body(&encode(&sample()[1..2], None), 0, &body);
    assert!(matches!(decode(batch, 1 << 20), Err(DecodeError::Corrupt(..))));
}

#[test]
fn log_append_time_replaces_the_producers_timestamps() {
    let mut batch = encode(&sample(), None).to_vec();
    batch[22] |= 0x08;
    batch[35..43].copy_from_slice(&777i64.to_be_bytes());
    let decoded = decode(Bytes::from(batch), 1 << 20).unwrap();
    assert!(decoded[0].records.iter().all(|record| record.timestamp == Timestamp(777)));
}

#[test]
fn aborted_batches_are_dropped_and_the_same_producers_committed_ones_kept() {
    let by = |id, base: u64, transactional| {
        let (id, epoch) = (ProducerId(id), ProducerEpoch(0));
        let producer = Producer { id, epoch, base_sequence: 0, transactional };
        let mut batch = encode(&sample()[..1], Some(producer)).to_vec();
        batch[..8].copy_from_slice(&(base as i64).to_be_bytes());
        batch
    };
    let batches =
        [by(1, 0, true), by(2, 1, true), by(1, 2, false), by(1, 10, true), by(1, 20, true)];
    let decoded = decode(Bytes::from(batches.concat()), 1 << 20).unwrap();
    let aborted = [(1, 0, 5), (1, 20, 21)].map(|(producer, first, last)| AbortedTxn {
        producer: ProducerId(producer),
        first_offset: Offset::new(first),
        last_offset: Offset::new(last),
    });
    let kept = committed(decoded, &aborted);
    let offsets: Vec<u64> = kept.iter().map(|batch| batch.base_offset.get()).collect();
    assert_eq!(offsets, [1, 2, 10]);
}
