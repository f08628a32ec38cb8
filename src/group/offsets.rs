//! Records of `__consumer_offsets` in Kafka's own format, since lag tools read the topic: big-endian
//! numbers, strings and byte arrays behind their lengths, -1 for null.
//!
//! | record        | key                                            | value |
//! |---------------|------------------------------------------------|-------|
//! | OffsetCommit  | `1:i16 group topic partition:i32`              | `3:i16 offset:i64 leader_epoch:i32 metadata timestamp:i64` |
//! |               |                                                | `1:i16 offset:i64 metadata timestamp:i64 expires:i64`, where the client said how long to keep it |
//! | GroupMetadata | `2:i16 group`                                  | `3:i16 protocol_type generation:i32 protocol? leader? timestamp:i64 [member instance? client_id client_host rebalance_ms:i32 session_ms:i32 subscription assignment]` |
//!
//! An offset's record carries the topic's id in the header `ottla.topic.id` (16 bytes): Kafka's key
//! has only the name, and the offsets of a deleted topic must not apply to a new one of that name.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::effect::{GroupMetadata, MemberMetadata};
use super::{CommittedOffset, Position};
use crate::log::batch::NewRecord;
use crate::log::records::Record;
use crate::types::{Generation, LeaderEpoch, PartitionId, Timestamp, TopicId};

const TOPIC_ID_HEADER: &str = "ottla.topic.id";
const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 2;
const OFFSET_VALUE: i16 = 3;
const EXPIRING_OFFSET_VALUE: i16 = 1;
/// The time of expiry of an offset that has none, and of a group's state of which it is not known.
const NEVER: i64 = -1;
const GROUP_VALUE: i16 = 3;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A committed offset, or its removal.
    Offset {
        group: String,
        topic: String,
        /// Absent in records that Kafka itself wrote.
        topic_id: Option<TopicId>,
        partition: PartitionId,
        committed: Option<CommittedOffset>,
    },
    /// A group's state and since when it is so, or its removal. The first formats lack the time.
    Group { group: String, metadata: Option<(GroupMetadata, Option<Timestamp>)> },
    /// A key of another kind: share groups, KIP-848 groups.
    Other(i16),
}

/// Kafka's choice of a group's partition: `Utils.abs(groupId.hashCode()) % partitions`.
pub(super) fn partition_of(group: &str, partitions: u32) -> PartitionId {
    let hash = group
        .encode_utf16()
        .fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // As Java's: the most negative number counts as 0.
    let hash = if hash == i32::MIN { 0 } else { hash.unsigned_abs() };
    PartitionId(hash % partitions.max(1))
}

/// The record of a committed offset; `None` removes it.
pub(super) fn offset_record(
    group: &str,
    topic: &str,
    topic_id: TopicId,
    partition: PartitionId,
    committed: Option<&CommittedOffset>,
    now: Timestamp,
) -> NewRecord {
    let mut key = BytesMut::new();
    key.put_i16(OFFSET_KEY);
    put_string(&mut key, group);
    put_string(&mut key, topic);
    key.put_i32(partition.to_wire());
    let value = committed.map(|committed| {
        let mut value = BytesMut::new();
        // Kafka's later formats have no time of expiry, this one no leader epoch. No version of
        // OffsetCommit has both.
        let expires_at = committed.expires_at;
        value.put_i16(if expires_at.is_some() { EXPIRING_OFFSET_VALUE } else { OFFSET_VALUE });
        value.put_i64(committed.position.to_wire());
        if expires_at.is_none() {
            value.put_i32(committed.leader_epoch.map_or(-1, |epoch| epoch.0));
        }
        put_string(&mut value, &committed.metadata);
        value.put_i64(committed.committed_at.0);
        if let Some(expires_at) = expires_at {
            value.put_i64(expires_at.0);
        }
        value.freeze()
    });
    let id = Bytes::copy_from_slice(topic_id.0.as_bytes());
    let headers = vec![(TOPIC_ID_HEADER.to_owned(), Some(id))];
    NewRecord { key: Some(key.freeze()), value, headers, timestamp: now }
}

/// The record of a group's state; `None` removes it.
pub(super) fn group_record(
    group: &str,
    metadata: Option<&GroupMetadata>,
    now: Timestamp,
) -> NewRecord {
    let mut key = BytesMut::new();
    key.put_i16(GROUP_KEY);
    put_string(&mut key, group);
    let value = metadata.map(|metadata| {
        let mut value = BytesMut::new();
        value.put_i16(GROUP_VALUE);
        put_string(&mut value, &metadata.protocol_type);
        value.put_i32(metadata.generation.0);
        put_nullable(&mut value, metadata.protocol.as_deref());
        put_nullable(&mut value, metadata.leader.as_deref());
        value.put_i64(now.0);
        value.put_i32(metadata.members.len() as i32);
        for member in &metadata.members {
            put_string(&mut value, &member.member);
            put_nullable(&mut value, member.instance.as_deref());
            put_string(&mut value, &member.client_id);
            put_string(&mut value, &member.client_host);
            value.put_i32(millis(member.rebalance_timeout));
            value.put_i32(millis(member.session_timeout));
            put_bytes(&mut value, &member.subscription);
            put_bytes(&mut value, &member.assignment);
        }
        value.freeze()
    });
    NewRecord { key: Some(key.freeze()), value, headers: Vec::new(), timestamp: now }
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

fn put_nullable(out: &mut BytesMut, text: Option<&str>) {
    match text {
        Some(text) => put_string(out, text),
        None => out.put_i16(-1),
    }
}

/// Strings come from requests that bound them to 32767 bytes; a longer one is cut rather than
/// written with a wrong length.
fn put_string(out: &mut BytesMut, text: &str) {
    let mut end = text.len().min(i16::MAX as usize);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_i16(end as i16);
    out.put_slice(&text.as_bytes()[..end]);
}

fn put_bytes(out: &mut BytesMut, bytes: &Bytes) {
    out.put_i32(bytes.len() as i32);
    out.put_slice(bytes);
}

/// Reads a record of the topic, also those Kafka itself wrote in older formats.
pub(super) fn decode(record: &Record) -> Result<Entry, String> {
    let mut key = Reader(record.key.clone().ok_or("it has no key")?);
    match key.i16()? {
        0 | OFFSET_KEY => {
            let (group, topic) = (key.string()?, key.string()?);
            let partition =
                PartitionId::from_wire(key.i32()?).ok_or("its partition is negative")?;
            let committed = record.value.clone().map(decode_offset).transpose()?;
            Ok(Entry::Offset { group, topic, topic_id: topic_id(record), partition, committed })
        }
        GROUP_KEY => {
            let group = key.string()?;
            let metadata = record.value.clone().map(decode_group).transpose()?;
            Ok(Entry::Group { group, metadata })
        }
        other => Ok(Entry::Other(other)),
    }
}

fn topic_id(record: &Record) -> Option<TopicId> {
    let header = record.headers.iter().find(|(name, _)| name == TOPIC_ID_HEADER.as_bytes())?;
    Uuid::from_slice(header.1.as_ref()?).ok().map(TopicId)
}

fn decode_offset(value: Bytes) -> Result<CommittedOffset, String> {
    let mut value = Reader(value);
    let version = value.i16()?;
    if !(0..=OFFSET_VALUE).contains(&version) {
        return Err(format!("its offset has format {version}, at most {OFFSET_VALUE} is known"));
    }
    let position = Position::from_wire(value.i64()?);
    let epoch = if version >= 3 { value.i32()? } else { -1 };
    let (metadata, committed_at) = (value.string()?, Timestamp(value.i64()?));
    let expires_at = match version {
        EXPIRING_OFFSET_VALUE => Some(value.i64()?).filter(|at| *at != NEVER).map(Timestamp),
        _ => None,
    };
    Ok(CommittedOffset {
        position,
        leader_epoch: (epoch >= 0).then_some(LeaderEpoch(epoch)),
        metadata,
        committed_at,
        expires_at,
    })
}

fn decode_group(value: Bytes) -> Result<(GroupMetadata, Option<Timestamp>), String> {
    let mut value = Reader(value);
    let version = value.i16()?;
    if !(0..=GROUP_VALUE).contains(&version) {
        return Err(format!("its group has format {version}, at most {GROUP_VALUE} is known"));
    }
    let mut metadata = GroupMetadata {
        protocol_type: value.string()?,
        generation: Generation(value.i32()?),
        protocol: value.nullable()?,
        leader: value.nullable()?,
        members: Vec::new(),
    };
    let since = if version >= 2 { Some(value.i64()?) } else { None };
    for _ in 0..value.i32()? {
        metadata.members.push(decode_member(version, &mut value)?);
    }
    Ok((metadata, since.filter(|at| *at != NEVER).map(Timestamp)))
}

fn decode_member(version: i16, value: &mut Reader) -> Result<MemberMetadata, String> {
    let member = value.string()?;
    let instance = if version >= 3 { value.nullable()? } else { None };
    let (client_id, client_host) = (value.string()?, value.string()?);
    let rebalance = if version >= 1 { Some(value.millis()?) } else { None };
    let session_timeout = value.millis()?;
    Ok(MemberMetadata {
        member,
        instance,
        client_id,
        client_host,
        rebalance_timeout: rebalance.unwrap_or(session_timeout),
        session_timeout,
        subscription: value.bytes()?,
        assignment: value.bytes()?,
    })
}

/// Reads numbers and lengths and never past the end.
pub(super) struct Reader(Bytes);

impl Reader {
    pub(super) fn new(bytes: Bytes) -> Reader {
        Reader(bytes)
    }

    pub(super) fn i16(&mut self) -> Result<i16, String> {
        self.0.try_get_i16().map_err(|error| error.to_string())
    }

    pub(super) fn i32(&mut self) -> Result<i32, String> {
        self.0.try_get_i32().map_err(|error| error.to_string())
    }

    fn i64(&mut self) -> Result<i64, String> {
        self.0.try_get_i64().map_err(|error| error.to_string())
    }

    fn millis(&mut self) -> Result<Duration, String> {
        Ok(Duration::from_millis(u64::try_from(self.i32()?).unwrap_or(0)))
    }

    fn take(&mut self, length: usize) -> Result<Bytes, String> {
        if length > self.0.len() {
            return Err(format!("it ends {} bytes too early", length - self.0.len()));
        }
        Ok(self.0.split_to(length))
    }

    fn nullable(&mut self) -> Result<Option<String>, String> {
        let Ok(length) = usize::try_from(self.i16()?) else { return Ok(None) };
        let text = self.take(length)?;
        String::from_utf8(text.to_vec()).map(Some).map_err(|error| error.to_string())
    }

    pub(super) fn string(&mut self) -> Result<String, String> {
        Ok(self.nullable()?.unwrap_or_default())
    }

    /// Copied: a slice would keep all that was read with it in memory.
    fn bytes(&mut self) -> Result<Bytes, String> {
        let Ok(length) = usize::try_from(self.i32()?) else { return Ok(Bytes::new()) };
        Ok(Bytes::copy_from_slice(&self.take(length)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Offset;

    fn read(record: NewRecord) -> Record {
        Record {
            offset: Offset::ZERO,
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: record.headers.into_iter().map(|(name, v)| (Bytes::from(name), v)).collect(),
        }
    }

    fn committed() -> CommittedOffset {
        CommittedOffset {
            position: Position::from_wire(7),
            leader_epoch: Some(LeaderEpoch(2)),
            metadata: "m".to_owned(),
            committed_at: Timestamp(1),
            expires_at: None,
        }
    }

    fn metadata() -> GroupMetadata {
        GroupMetadata {
            protocol_type: "consumer".to_owned(),
            generation: Generation(3),
            protocol: Some("range".to_owned()),
            leader: Some("a-1".to_owned()),
            members: vec![MemberMetadata {
                member: "a-1".to_owned(),
                instance: Some("a".to_owned()),
                client_id: "c".to_owned(),
                client_host: "/127.0.0.1".to_owned(),
                rebalance_timeout: Duration::from_secs(300),
                session_timeout: Duration::from_secs(45),
                subscription: Bytes::from_static(b"sub"),
                assignment: Bytes::from_static(b"assign"),
            }],
        }
    }

    #[test]
    fn an_offset_has_kafkas_bytes() {
        let id = TopicId(Uuid::NAMESPACE_URL);
        let record = offset_record("g", "t", id, PartitionId(4), Some(&committed()), Timestamp(1));
        assert_eq!(record.key.as_deref(), Some(&b"\0\x01\0\x01g\0\x01t\0\0\0\x04"[..]));
        let value = b"\0\x03\0\0\0\0\0\0\0\x07\0\0\0\x02\0\x01m\0\0\0\0\0\0\0\x01";
        assert_eq!(record.value.as_deref(), Some(&value[..]));
        let entry = Entry::Offset {
            group: "g".to_owned(),
            topic: "t".to_owned(),
            topic_id: Some(id),
            partition: PartitionId(4),
            committed: Some(committed()),
        };
        assert_eq!(decode(&read(record)), Ok(entry));
    }

    #[test]
    fn an_offset_that_expires_has_kafkas_bytes_too() {
        let id = TopicId(Uuid::NAMESPACE_URL);
        let committed = CommittedOffset {
            position: Position::from_wire(-2),
            leader_epoch: None,
            expires_at: Some(Timestamp(9)),
            ..committed()
        };
        let record = offset_record("g", "t", id, PartitionId(4), Some(&committed), Timestamp(1));
        let value =
            b"\0\x01\xff\xff\xff\xff\xff\xff\xff\xfe\0\x01m\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x09";
        assert_eq!(record.value.as_deref(), Some(&value[..]));
        let read = read(record);
        let told = |record: &Record| match decode(record) {
            Ok(Entry::Offset { committed, .. }) => committed,
            other => panic!("{other:?}"),
        };
        assert_eq!(told(&read), Some(committed.clone()));
        // Kafka writes -1 where the client set none.
        let mut never = value.to_vec();
        never[21..].fill(0xff);
        let never = Record { value: Some(never.into()), ..read };
        assert_eq!(told(&never), Some(CommittedOffset { expires_at: None, ..committed }));
    }

    #[test]
    fn a_group_survives_its_record() {
        let record = group_record("g", Some(&metadata()), Timestamp(1));
        assert_eq!(record.key.as_deref(), Some(&b"\0\x02\0\x01g"[..]));
        let since = Some(Timestamp(1));
        let entry = Entry::Group { group: "g".to_owned(), metadata: Some((metadata(), since)) };
        assert_eq!(decode(&read(record)), Ok(entry));
        let removal = group_record("g", None, Timestamp(1));
        let entry = Entry::Group { group: "g".to_owned(), metadata: None };
        assert_eq!(decode(&read(removal)), Ok(entry));
    }

    #[test]
    fn a_value_cut_anywhere_is_an_error() {
        let whole = read(group_record("g", Some(&metadata()), Timestamp(1)));
        let value = whole.value.clone().unwrap();
        for length in 0..value.len() {
            let cut = Record { value: Some(value.slice(..length)), ..whole.clone() };
            assert!(decode(&cut).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn keys_of_other_kinds_are_named() {
        let mut record = read(group_record("g", None, Timestamp(1)));
        record.key = Some(Bytes::from_static(b"\0\x05rest"));
        assert_eq!(decode(&record), Ok(Entry::Other(5)));
    }

    #[test]
    fn groups_lie_where_kafka_puts_them() {
        // "test".hashCode() is 3556498; "polygenelubricants".hashCode() is Integer.MIN_VALUE.
        assert_eq!(partition_of("test", 50), PartitionId(48));
        assert_eq!(partition_of("polygenelubricants", 50), PartitionId(0));
        assert_eq!(partition_of("", 50), PartitionId(0));
    }
}
