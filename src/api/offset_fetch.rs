//! OffsetFetch (key 9), v1-9: a group's committed positions.
//!
//! From v2 on null topics mean all of them, v8 asks for many groups (KIP-709). `require_stable`
//! (v7, KIP-447) holds always: offsets that a transaction has not committed are not stored yet.
//! Gaps: topic ids (v10), which the codec lacks; member epochs (v9) are not checked, since there
//! are only classic groups.

use std::collections::BTreeMap;

use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopics;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{ApiKey, OffsetFetchRequest, OffsetFetchResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::call::{Api, Outcome, first_error};
use super::{Context, Request, wire_name, wire_text};
use crate::catalog::Snapshot;
use crate::group::CommittedOffset;
use crate::types::{PartitionId, TopicId};

pub(super) const API: Api = Api::ordered(ApiKey::OffsetFetch, 1..=9);

impl Outcome for OffsetFetchResponse {
    fn error(&self) -> i16 {
        let groups = self.groups.iter().map(|group| group.error_code);
        first_error([self.error_code].into_iter().chain(groups))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: OffsetFetchRequest,
) -> OffsetFetchResponse {
    if request.version >= 8 {
        let groups = body.groups.into_iter().map(|group| {
            let topics = fetch(ctx, group.group_id.as_str(), group.topics);
            OffsetFetchResponseGroup::default().with_group_id(group.group_id).with_topics(topics)
        });
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let asked = body.topics.map(|topics| {
        let topics = topics.into_iter().map(|topic| {
            OffsetFetchRequestTopics::default()
                .with_name(topic.name)
                .with_partition_indexes(topic.partition_indexes)
        });
        topics.collect()
    });
    let topics = fetch(ctx, body.group_id.as_str(), asked).into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_committed_offset(partition.committed_offset)
                .with_committed_leader_epoch(partition.committed_leader_epoch)
                .with_metadata(partition.metadata)
        });
        OffsetFetchResponseTopic::default()
            .with_name(topic.name)
            .with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default().with_topics(topics.collect())
}

/// A group's positions where asked, or all.
fn fetch(
    ctx: &Context,
    group: &str,
    asked: Option<Vec<OffsetFetchRequestTopics>>,
) -> Vec<OffsetFetchResponseTopics> {
    let mut committed: BTreeMap<TopicId, BTreeMap<PartitionId, CommittedOffset>> = BTreeMap::new();
    for offset in ctx.groups.committed(group) {
        committed.entry(offset.topic).or_default().insert(offset.partition, offset.committed);
    }
    let snapshot = ctx.catalog.snapshot();
    match asked {
        Some(topics) => {
            topics.into_iter().map(|topic| some(&snapshot, topic, &committed)).collect()
        }
        None => all(&snapshot, committed),
    }
}

fn some(
    snapshot: &Snapshot,
    asked: OffsetFetchRequestTopics,
    committed: &BTreeMap<TopicId, BTreeMap<PartitionId, CommittedOffset>>,
) -> OffsetFetchResponseTopics {
    let topic = snapshot.topic(asked.name.as_str());
    let offsets = topic.and_then(|topic| committed.get(&topic.id));
    let partitions = asked.partition_indexes.into_iter().map(|index| {
        let partition = PartitionId::from_wire(index);
        position(index, partition.and_then(|partition| offsets?.get(&partition)))
    });
    topic_of(asked.name, partitions.collect())
}

fn all(
    snapshot: &Snapshot,
    committed: BTreeMap<TopicId, BTreeMap<PartitionId, CommittedOffset>>,
) -> Vec<OffsetFetchResponseTopics> {
    let topics = committed.into_iter().filter_map(|(id, offsets)| {
        let name = wire_name(&snapshot.topic_by_id(id)?.name);
        let partitions = offsets.iter();
        let partitions =
            partitions.map(|(partition, committed)| position(partition.to_wire(), Some(committed)));
        Some(topic_of(name, partitions.collect()))
    });
    topics.collect()
}

fn topic_of(
    name: TopicName,
    partitions: Vec<OffsetFetchResponsePartitions>,
) -> OffsetFetchResponseTopics {
    OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions)
}

/// -1 where nothing was committed: that is no error.
fn position(index: i32, committed: Option<&CommittedOffset>) -> OffsetFetchResponsePartitions {
    let position = OffsetFetchResponsePartitions::default().with_partition_index(index);
    match committed {
        Some(committed) => position
            .with_committed_offset(committed.offset.to_wire())
            .with_committed_leader_epoch(committed.leader_epoch.map_or(-1, |epoch| epoch.0))
            .with_metadata(Some(wire_text(&committed.metadata))),
        None => position
            .with_committed_offset(-1)
            .with_committed_leader_epoch(-1)
            .with_metadata(Some(StrBytes::default())),
    }
}
