//! OffsetCommit (key 8), v2-9: a group's positions, durable before the answer.
//!
//! v6 adds the leader epoch, v7 static members, v9 member epochs of KIP-848 groups. The retention
//! time of v2-4 is ignored, as by Kafka since 2.1. Gaps: topic ids (v10), which the codec lacks;
//! offsets do not expire.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{ApiKey, OffsetCommitRequest, OffsetCommitResponse};

use super::call::{Api, Outcome, first_error};
use super::error::{self, Coded};
use super::member::member_ref;
use super::{Context, Request};
use crate::catalog::Topic;
use crate::group::{CommittedOffset, GroupError, GroupOffset, OFFSET_METADATA_BYTES_MAX};
use crate::types::{LeaderEpoch, Offset, PartitionId, Timestamp};

pub(super) const API: Api = Api::ordered(ApiKey::OffsetCommit, 2..=9).urgent();

impl Outcome for OffsetCommitResponse {
    fn error(&self) -> i16 {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        first_error(partitions.map(|partition| partition.error_code))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    _request: &Request,
    body: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let snapshot = ctx.catalog.snapshot();
    let now = ctx.clock.now();
    // What each partition is refused for; the others go into one commit.
    let mut refused: BTreeMap<(usize, usize), ResponseError> = BTreeMap::new();
    let mut offsets = Vec::new();
    for (t, asked) in body.topics.iter().enumerate() {
        let topic = snapshot.topic(asked.name.as_str()).map(AsRef::as_ref);
        for (p, partition) in asked.partitions.iter().enumerate() {
            match offset(topic, partition, now) {
                Ok(offset) => offsets.push(offset),
                Err(error) => {
                    refused.insert((t, p), error);
                }
            }
        }
    }
    let epoch = body.generation_id_or_member_epoch;
    let member = member_ref(&body.member_id, &body.group_instance_id, epoch);
    let committed = ctx.groups.commit(body.group_id.as_str(), member, offsets).await;
    let code = error::code(&committed);
    let topics = body.topics.into_iter().enumerate().map(|(t, topic)| {
        let partitions = topic.partitions.iter().enumerate().map(|(p, partition)| {
            let own = refused.get(&(t, p)).map(ResponseError::code);
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(own.unwrap_or(code))
        });
        OffsetCommitResponseTopic::default()
            .with_partitions(partitions.collect())
            .with_name(topic.name)
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

fn offset(
    topic: Option<&Topic>,
    asked: &OffsetCommitRequestPartition,
    now: Timestamp,
) -> Result<GroupOffset, ResponseError> {
    let topic = topic.ok_or(ResponseError::UnknownTopicOrPartition)?;
    let partition = PartitionId::from_wire(asked.partition_index)
        .filter(|partition| partition.0 < topic.partitions)
        .ok_or(ResponseError::UnknownTopicOrPartition)?;
    let offset = Offset::from_wire(asked.committed_offset).ok_or(ResponseError::InvalidRequest)?;
    let metadata = asked.committed_metadata.as_ref().map(|text| text.to_string());
    let metadata = metadata.unwrap_or_default();
    if metadata.len() > OFFSET_METADATA_BYTES_MAX {
        return Err(GroupError::MetadataTooLarge(metadata.len()).kafka());
    }
    let epoch = asked.committed_leader_epoch;
    Ok(GroupOffset {
        topic: topic.id,
        partition,
        committed: CommittedOffset {
            offset,
            leader_epoch: (epoch >= 0).then_some(LeaderEpoch(epoch)),
            metadata,
            committed_at: now,
        },
    })
}
