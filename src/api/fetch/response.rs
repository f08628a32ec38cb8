//! The fetch response, written by hand: the codec would copy the records, here they stay the
//! log's own bytes and travel as chunks of their own.

use bytes::{BufMut, Bytes, BytesMut};

use super::super::answers::Held;
use super::super::call::{Call, Reply};
use super::super::error;
use super::super::primitives::Writer;
use super::{FetchedPartition, FetchedTopic};

/// A frame in the making.
struct Frame {
    version: i16,
    first: Option<BytesMut>,
    done: Vec<Bytes>,
    open: Writer,
}

/// Encodes the whole response. `outcome` is what the request counts as, `error` the response's own
/// error code.
pub(super) fn encode(
    call: Call,
    outcome: i16,
    error: i16,
    topics: &[FetchedTopic],
    held: Held,
) -> Reply {
    let version = call.request.version;
    let open = Writer::new(call.frame_start(), version >= 12);
    let mut frame = Frame { version, first: None, done: Vec::new(), open };
    frame.open.bytes.put_i32(call.throttle_time_ms());
    if version >= 7 {
        frame.open.bytes.put_i16(error);
        frame.open.bytes.put_i32(0); // session_id
    }
    frame.open.count(topics.len());
    for topic in topics {
        frame.topic(topic);
    }
    frame.open.tags();
    let Frame { first, mut done, open, .. } = frame;
    match first {
        None => call.finish(open.bytes, done, held, outcome),
        Some(first) => {
            done.push(open.bytes.freeze());
            call.finish(first, done, held, outcome)
        }
    }
}

impl Frame {
    fn topic(&mut self, topic: &FetchedTopic) {
        if self.version >= 13 {
            self.open.uuid(topic.id);
        } else {
            self.open.text(topic.name.as_str());
        }
        self.open.count(topic.partitions.len());
        for partition in &topic.partitions {
            self.partition(partition);
        }
        self.open.tags();
    }

    fn partition(&mut self, partition: &FetchedPartition) {
        self.open.bytes.put_i32(partition.index);
        self.open.bytes.put_i16(error::code(&partition.answer));
        let read = partition.answer.as_ref().ok();
        let span = read.map(|read| read.span);
        self.open.bytes.put_i64(span.map_or(-1, |span| span.high_watermark.to_wire()));
        self.open.bytes.put_i64(span.map_or(-1, |span| span.last_stable.to_wire()));
        if self.version >= 5 {
            self.open.bytes.put_i64(span.map_or(-1, |span| span.start.to_wire()));
        }
        let aborted = read.map(|read| read.aborted.as_slice()).unwrap_or_default();
        self.open.count(aborted.len());
        for txn in aborted {
            self.open.bytes.put_i64(txn.producer.0);
            self.open.bytes.put_i64(txn.first_offset.to_wire());
            self.open.tags();
        }
        if self.version >= 11 {
            self.open.bytes.put_i32(-1); // preferred_read_replica
        }
        let records = read.map(|read| read.records.clone()).unwrap_or_default();
        self.open.count(records.len());
        if !records.is_empty() {
            self.chunk(records);
        }
        self.open.tags();
    }

    /// Puts bytes on the wire behind what was written, without copying them.
    fn chunk(&mut self, bytes: Bytes) {
        let before = std::mem::replace(&mut self.open.bytes, BytesMut::with_capacity(128));
        match self.first {
            None => self.first = Some(before),
            Some(_) => self.done.push(before.freeze()),
        }
        self.done.push(bytes);
    }
}
