//! The produce response, encoded by hand.

use bytes::BufMut;

use super::super::answers::Held;
use super::super::call::{Call, Reply};
use super::super::error;
use super::super::primitives::Writer;
use super::{ProduceError, Produced, ProducedPartition, TopicName};

/// Encodes the whole response. `outcome` is what the request counts as.
pub(super) fn encode(call: Call, outcome: i16, topics: &[Produced]) -> Reply {
    let version = call.request.version;
    let mut writer = Writer::new(call.frame_start(), version >= 9);
    writer.count(topics.len());
    for topic in topics {
        match &topic.name {
            TopicName::Text(name) => writer.text(name),
            TopicName::Id(id) => writer.uuid(*id),
        }
        writer.count(topic.partitions.len());
        for partition in &topic.partitions {
            put(&mut writer, version, partition);
        }
        writer.tags();
    }
    writer.bytes.put_i32(call.throttle_time_ms());
    writer.tags();
    call.finish(writer.bytes, Vec::new(), Held::default(), outcome)
}

fn put(writer: &mut Writer, version: i16, partition: &ProducedPartition) {
    let outcome = partition.outcome();
    let appended = outcome.as_ref().ok();
    writer.bytes.put_i32(partition.index);
    writer.bytes.put_i16(error::code(outcome));
    writer.bytes.put_i64(appended.map_or(-1, |appended| appended.base_offset.to_wire()));
    let append_time = appended.and_then(|appended| appended.append_time);
    writer.bytes.put_i64(append_time.map_or(-1, |time| time.0));
    if version >= 5 {
        writer.bytes.put_i64(appended.map_or(-1, |appended| appended.log_start.to_wire()));
    }
    if version >= 8 {
        // The records at fault, and why (KIP-467).
        let faults = match outcome {
            Err(ProduceError::Append(error)) => error.faults(),
            _ => &[],
        };
        writer.count(faults.len());
        for fault in faults {
            writer.bytes.put_i32(fault.index);
            writer.nullable_text(Some(&fault.reason));
            writer.tags();
        }
        let message = outcome.as_ref().err().map(ToString::to_string);
        writer.nullable_text(message.as_deref());
    }
    writer.tags();
}
