//! The fetch response, written by hand: the codec would copy the records, here they stay the
//! log's own bytes and travel as chunks of their own.

use bytes::{BufMut, Bytes, BytesMut};

use super::super::call::{Call, Reply};
use super::super::error;
use super::{FetchedPartition, FetchedTopic};

/// A frame in the making.
struct Frame {
    version: i16,
    first: Option<BytesMut>,
    done: Vec<Bytes>,
    open: BytesMut,
}

/// Encodes the whole response. `outcome` is what the request counts as, `error` the response's own
/// error code.
pub(super) fn encode(call: Call, outcome: i16, error: i16, topics: &[FetchedTopic]) -> Reply {
    let version = call.request.version;
    let start = call.frame_start();
    let mut frame = Frame { version, first: None, done: Vec::new(), open: start };
    frame.open.put_i32(0); // throttle_time_ms
    if version >= 7 {
        frame.open.put_i16(error);
        frame.open.put_i32(0); // session_id
    }
    frame.count(topics.len());
    for topic in topics {
        frame.topic(topic);
    }
    frame.tags();
    let Frame { first, mut done, open, .. } = frame;
    match first {
        None => call.finish(open, done, outcome),
        Some(first) => {
            done.push(open.freeze());
            call.finish(first, done, outcome)
        }
    }
}

impl Frame {
    fn flexible(&self) -> bool {
        self.version >= 12
    }

    fn topic(&mut self, topic: &FetchedTopic) {
        if self.version >= 13 {
            self.open.put_slice(topic.id.as_bytes());
        } else {
            self.text(topic.name.as_str());
        }
        self.count(topic.partitions.len());
        for partition in &topic.partitions {
            self.partition(partition);
        }
        self.tags();
    }

    fn partition(&mut self, partition: &FetchedPartition) {
        self.open.put_i32(partition.index);
        self.open.put_i16(error::code(&partition.answer));
        let read = partition.answer.as_ref().ok();
        let span = read.map(|read| read.span);
        self.open.put_i64(span.map_or(-1, |span| span.high_watermark.to_wire()));
        self.open.put_i64(span.map_or(-1, |span| span.last_stable.to_wire()));
        if self.version >= 5 {
            self.open.put_i64(span.map_or(-1, |span| span.start.to_wire()));
        }
        let aborted = read.map(|read| read.aborted.as_slice()).unwrap_or_default();
        self.count(aborted.len());
        for txn in aborted {
            self.open.put_i64(txn.producer.0);
            self.open.put_i64(txn.first_offset.to_wire());
            self.tags();
        }
        if self.version >= 11 {
            self.open.put_i32(-1); // preferred_read_replica
        }
        let records = read.map(|read| read.records.clone()).unwrap_or_default();
        if self.flexible() {
            self.varint(records.len() + 1);
        } else {
            self.open.put_i32(records.len() as i32);
        }
        if !records.is_empty() {
            self.chunk(records);
        }
        self.tags();
    }

    /// Puts bytes on the wire behind what was written, without copying them.
    fn chunk(&mut self, bytes: Bytes) {
        let before = std::mem::replace(&mut self.open, BytesMut::with_capacity(128));
        match self.first {
            None => self.first = Some(before),
            Some(_) => self.done.push(before.freeze()),
        }
        self.done.push(bytes);
    }

    fn text(&mut self, text: &str) {
        if self.flexible() {
            self.varint(text.len() + 1);
        } else {
            // Topic names have at most 249 bytes, and an unknown one came in an `i16` too.
            self.open.put_i16(text.len() as i16);
        }
        self.open.put_slice(text.as_bytes());
    }

    fn count(&mut self, items: usize) {
        if self.flexible() { self.varint(items + 1) } else { self.open.put_i32(items as i32) }
    }

    fn tags(&mut self) {
        if self.flexible() {
            self.open.put_u8(0);
        }
    }

    fn varint(&mut self, value: usize) {
        let mut value = value as u32;
        while value >= 0x80 {
            self.open.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.open.put_u8(value as u8);
    }
}
