//! What the check of a batch's records costs. A Produce whose last record is broken is refused when all
//! others were checked, one whose first record is broken at once; nothing is appended, and all else is
//! the same. So the difference of the two is the cost of checking all records but one.

use std::io::Write;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use ottla::log::batch::{HEADER_BYTES, NewRecord, encode};

use crate::NOW;
use crate::request::{Bench, produce};

/// Of the fields of a batch's header: where they begin.
const LENGTH_AT: usize = 8;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;

/// About what a producer's default `batch.size` holds, before compression.
const BATCH_BYTES: usize = 16 << 10;

/// Kafka's error for a batch with a broken record.
const INVALID_RECORD: i16 = 87;

/// Which record is broken.
#[derive(Clone, Copy)]
enum Broken {
    First,
    Last,
}

/// The codecs by their numbers.
const CODECS: [&str; 5] = ["uncompressed", "gzip", "snappy", "lz4", "zstd"];

/// Words in an order that does not repeat, so that they compress to about a half.
fn text(bytes: usize, seed: &mut u64) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes + 8);
    while text.len() < bytes {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        let word = (*seed >> 32) % 4096;
        text.extend_from_slice(format!("{word:x} ").as_bytes());
    }
    text.truncate(bytes);
    text
}

/// The body of a batch, and where its records begin.
fn body(record_bytes: usize) -> (Vec<u8>, Vec<usize>, Bytes) {
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    let records: Vec<NewRecord> = (0..BATCH_BYTES / record_bytes)
        .map(|_| NewRecord {
            value: Some(text(record_bytes, &mut seed).into()),
            timestamp: NOW,
            ..NewRecord::default()
        })
        .collect();
    let batch = encode(&records, None);
    let body = batch[HEADER_BYTES..].to_vec();
    let (mut begins, mut at) = (Vec::new(), 0);
    while at < body.len() {
        begins.push(at);
        let (length, bytes) = length_at(&body[at..]);
        at += bytes + length;
    }
    assert_eq!((at, begins.len()), (body.len(), records.len()));
    (body, begins, batch.slice(..HEADER_BYTES))
}

/// A record's length, and how many bytes say it.
fn length_at(bytes: &[u8]) -> (usize, usize) {
    let (mut value, mut read) = (0, 0);
    loop {
        let byte = bytes[read];
        value |= usize::from(byte & 0x7f) << (7 * read);
        read += 1;
        if byte & 0x80 == 0 {
            return (value >> 1, read);
        }
    }
}

/// A batch with one broken record, under a codec.
fn batch(codec: usize, record_bytes: usize, broken: Broken) -> Bytes {
    let (mut body, begins, header) = body(record_bytes);
    let at = match broken {
        Broken::First => 0,
        Broken::Last => begins[begins.len() - 1],
    };
    // A length of -1, in as many bytes.
    let (_, bytes) = length_at(&body[at..]);
    body[at..at + bytes].fill(0x80);
    body[at] = 0x81;
    body[at + bytes - 1] &= 0x7f;
    let body = compressed(codec, body);
    let mut batch = [&header[..], &body].concat();
    let length = u32::try_from(batch.len() - LENGTH_AT - 4).expect("a length");
    batch[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_be_bytes());
    batch[ATTRIBUTES_AT + 1] |= u8::try_from(codec).expect("a codec");
    let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

fn compressed(codec: usize, body: Vec<u8>) -> Vec<u8> {
    match codec {
        1 => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            out.write_all(&body).expect("memory");
            out.finish().expect("memory")
        }
        2 => snap::raw::Encoder::new().compress_vec(&body).expect("a small block"),
        3 => {
            let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
            out.write_all(&body).expect("memory");
            out.finish().expect("memory")
        }
        4 => zstd::encode_all(&body[..], 0).expect("memory"),
        _ => body,
    }
}

/// Batches of records of 1 KiB and of 100 B, under every codec.
pub fn check(criterion: &mut Criterion) {
    let bench = Bench::start();
    bench.runtime.block_on(bench.create_topic());
    for record_bytes in [1024, 100] {
        let mut group = criterion.benchmark_group(format!("check of records of {record_bytes} B"));
        let checked = (BATCH_BYTES / record_bytes - 1) as u64;
        group.throughput(Throughput::Elements(checked));
        for (codec, name) in CODECS.iter().enumerate() {
            for (broken, which) in [(Broken::First, "none"), (Broken::Last, "all but one")] {
                let request = produce(1, batch(codec, record_bytes, broken));
                let refused = bench.runtime.block_on(bench.produce_error(request.clone()));
                assert_eq!(refused, INVALID_RECORD, "{name}, {which}");
                let id = BenchmarkId::new(*name, format!("{which} of {}", checked + 1));
                group.bench_function(id, |bencher| {
                    bencher.iter(|| bench.runtime.block_on(bench.answer(request.clone())));
                });
            }
        }
        group.finish();
    }
}
