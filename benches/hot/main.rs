//! The hot pieces without sockets: what a batch costs to check, a log to append and to read, and a
//! request from frame to frame. One binary, so that DataFusion is linked once.
//!
//! `cargo bench --bench hot` runs all of them, `cargo bench --bench hot -- append` those whose name
//! contains the word. Figures beside Apache Kafka come from `scripts/bench-vs-kafka`.

mod batch;
mod log;
mod metadata;
mod records;
mod request;

use bytes::Bytes;
use criterion::{criterion_group, criterion_main};
use ottla::log::batch::{NewRecord, encode};
use ottla::types::Timestamp;

/// The time of every record and of every clock here: nothing is old enough for retention.
const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// A batch of about `bytes` bytes, in records of 1 KiB as far as they fit.
fn batch_of(bytes: usize) -> Bytes {
    let record = NewRecord {
        value: Some(Bytes::from(vec![b'x'; 1024.min(bytes) - 100])),
        timestamp: NOW,
        ..NewRecord::default()
    };
    encode(&vec![record; (bytes / 1024).max(1)], None)
}

criterion_group!(
    hot,
    batch::check,
    records::check,
    log::append,
    log::read,
    metadata::journal,
    request::answer
);
criterion_main!(hot);
