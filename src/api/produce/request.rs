//! The produce request, decoded by hand: it is what comes most often. Nothing is appended before all
//! of it is known to be well formed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::super::primitives::{Malformed, Reader};
use crate::log::OWN_BYTES_MIN;

/// Most topics and partitions of one request: in a large frame many that are empty would fit, and
/// take far more memory than they took on the wire.
const ENTRIES_MAX: usize = 1 << 16;
/// Most entries that room is made for before they are there.
const ENTRIES_AHEAD_MAX: usize = 16;

/// What is asked for.
pub(super) struct ProduceRequest {
    pub transactional_id: Option<StrBytes>,
    pub acks: i16,
    pub topics: Vec<AskedTopic>,
}

pub(super) struct AskedTopic {
    pub name: TopicName,
    /// Indexes and records.
    pub partitions: Vec<(i32, Bytes)>,
}

/// How a client names a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum TopicName {
    Text(StrBytes),
    /// From v13 on.
    Id(Uuid),
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicName::Text(name) => f.write_str(name),
            TopicName::Id(id) => id.fmt(f),
        }
    }
}

/// Decodes a body of the versions that are served. Bytes behind it are ignored, as Kafka does.
pub(super) fn decode(body: Bytes, version: i16) -> Result<ProduceRequest, Malformed> {
    let frame_bytes = body.len();
    let mut reader = Reader::new(body, version >= 9);
    let transactional_id = reader.text()?;
    let acks = reader.i16()?;
    let _timeout_ms = reader.i32()?;
    let mut entries = 0;
    let mut count = |reader: &mut Reader| {
        let count = reader.count()?;
        entries += count;
        if entries > ENTRIES_MAX { Err(Malformed::Length) } else { Ok(count) }
    };
    let topic_count = count(&mut reader)?;
    let mut topics = Vec::with_capacity(topic_count.min(ENTRIES_AHEAD_MAX));
    for _ in 0..topic_count {
        let name = match version {
            13.. => TopicName::Id(reader.uuid()?),
            _ => TopicName::Text(reader.text()?.ok_or(Malformed::Length)?),
        };
        let partition_count = count(&mut reader)?;
        let mut partitions = Vec::with_capacity(partition_count.min(ENTRIES_AHEAD_MAX));
        for _ in 0..partition_count {
            let index = reader.i32()?;
            let records = own(reader.bytes()?.unwrap_or_default(), frame_bytes);
            reader.tags()?;
            partitions.push((index, records));
        }
        reader.tags()?;
        topics.push(AskedTopic { name, partitions });
    }
    reader.tags()?;
    Ok(ProduceRequest { transactional_id, acks, topics })
}

/// Each topic and partition once. Of a partition that is named more than once the last batch counts,
/// as in Kafka; the others are neither appended nor answered.
pub(super) fn last_of_each(topics: Vec<AskedTopic>) -> Vec<AskedTopic> {
    let indexes = |topic: &AskedTopic| are_unique(topic.partitions.iter().map(|(index, _)| *index));
    if are_unique(topics.iter().map(|topic| &topic.name)) && topics.iter().all(indexes) {
        return topics;
    }
    let mut each: Vec<AskedTopic> = Vec::new();
    let mut topic_at = HashMap::new();
    let mut partition_at: HashMap<(usize, i32), usize> = HashMap::new();
    for AskedTopic { name, partitions } in topics {
        let at = *topic_at.entry(name.clone()).or_insert_with(|| {
            each.push(AskedTopic { name, partitions: Vec::new() });
            each.len() - 1
        });
        let kept = &mut each[at].partitions;
        for (index, records) in partitions {
            match partition_at.entry((at, index)) {
                Entry::Occupied(place) => kept[*place.get()].1 = records,
                Entry::Vacant(place) => {
                    place.insert(kept.len());
                    kept.push((index, records));
                }
            }
        }
    }
    each
}

fn are_unique<T: Ord>(items: impl ExactSizeIterator<Item = T>) -> bool {
    if items.len() < 2 {
        return true;
    }
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.is_sorted_by(|a, b| a < b)
}

/// Records that the log would keep in the buffer that they came in, but which are less than half of it,
/// get one of their own.
fn own(records: Bytes, frame_bytes: usize) -> Bytes {
    if records.len() >= OWN_BYTES_MIN && 2 * records.len() < frame_bytes {
        return Bytes::copy_from_slice(&records);
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_entries_than_any_client_has_are_refused_before_room_is_made_for_them() {
        // No transactional id, acks, timeout, then so many topics.
        let body = |topics: i32| {
            let start = [&[0xff, 0xff, 0, 1, 0, 0, 0, 9][..], &topics.to_be_bytes()].concat();
            // Topics without a name and without partitions.
            [start, vec![0; 6 << 20]].concat()
        };
        let decoded = |topics| decode(body(topics).into(), 3).map(|body| body.topics.len());
        assert_eq!(decoded(1 << 16), Ok(1 << 16));
        assert_eq!(decoded((1 << 16) + 1), Err(Malformed::Length));
        assert_eq!(decoded(i32::MAX), Err(Malformed::Length));
    }

    #[test]
    fn the_last_batch_of_each_partition_counts_and_each_topic_is_there_once() {
        let topic = |name: &'static str, partitions: &[(i32, &'static str)]| AskedTopic {
            name: TopicName::Text(StrBytes::from_static_str(name)),
            partitions: partitions.iter().map(|(at, value)| (*at, Bytes::from(*value))).collect(),
        };
        for (asked, expected) in [
            (vec![], "[]"),
            (vec![topic("t", &[(1, "a"), (0, "b")])], r#"[t: [(1, b"a"), (0, b"b")]]"#),
            (
                vec![topic("t", &[(0, "a")]), topic("s", &[(0, "b")])],
                r#"[t: [(0, b"a")], s: [(0, b"b")]]"#,
            ),
            (
                vec![topic("t", &[(1, "x"), (0, "a"), (1, "y"), (0, "b"), (0, "c")])],
                r#"[t: [(1, b"y"), (0, b"c")]]"#,
            ),
            (
                vec![
                    topic("t", &[(0, "a")]),
                    topic("s", &[(0, "b")]),
                    topic("t", &[(1, "c"), (0, "d")]),
                ],
                r#"[t: [(0, b"d"), (1, b"c")], s: [(0, b"b")]]"#,
            ),
        ] {
            let told: Vec<String> = last_of_each(asked)
                .iter()
                .map(|topic| format!("{}: {:?}", topic.name, topic.partitions))
                .collect();
            assert_eq!(format!("[{}]", told.join(", ")), expected);
        }
    }

    #[test]
    fn records_that_are_the_least_of_a_large_frame_do_not_keep_it() {
        let body = |records: usize, behind: usize| {
            let start = [0xff, 0xff, 0, 1, 0, 0, 0, 9, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1];
            let length = (records as u32).to_be_bytes();
            Bytes::from([&start[..], &[0; 4], &length, &vec![7; records + behind]].concat())
        };
        for (records, behind, is_kept) in
            [(OWN_BYTES_MIN, 100, true), (OWN_BYTES_MIN, 40_000, false), (1000, 40_000, true)]
        {
            let body = body(records, behind);
            let frame = body.as_ptr_range();
            let decoded = decode(body, 3).unwrap();
            let (index, found) = &decoded.topics[0].partitions[0];
            assert_eq!((*index, found.len()), (0, records));
            assert_eq!(frame.contains(&found.as_ptr()), is_kept, "{records} of {behind}");
        }
    }
}
