//! OffsetCommit (key 8), v2-9: a group's positions, durable before the answer.
//!
//! v2-4 may say how long to keep the offsets, if the group has no members. v6 adds the leader epoch, v7
//! static members, v9 member epochs of KIP-848 groups and error 69 for a group that is not there.
//! Gaps: topic ids (v10), which the codec lacks; offsets without a retention time do not expire.

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
use crate::group::{CommittedOffset, GroupError, GroupOffset, Position};
use crate::types::{LeaderEpoch, PartitionId, Timestamp};

pub(super) const API: Api = Api::ordered(ApiKey::OffsetCommit, 2..=9).urgent();

/// The retention time of a client that leaves it to the broker.
const DEFAULT_RETENTION: i64 = -1;

impl Outcome for OffsetCommitResponse {
    fn error(&self) -> i16 {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        first_error(partitions.map(|partition| partition.error_code))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let snapshot = ctx.catalog.snapshot();
    let committed_at = ctx.clock.now();
    let retention_ms = Some(body.retention_time_ms).filter(|time| *time != DEFAULT_RETENTION);
    let expires_at = retention_ms.map(|time| Timestamp(committed_at.0.saturating_add(time)));
    // What each partition is refused for; the others go into one commit.
    let mut refused: BTreeMap<(usize, usize), ResponseError> = BTreeMap::new();
    let mut offsets = Vec::new();
    for (t, asked) in body.topics.iter().enumerate() {
        let topic = snapshot.topic(asked.name.as_str()).map(AsRef::as_ref);
        for (p, partition) in asked.partitions.iter().enumerate() {
            match offset(topic, partition, committed_at, expires_at) {
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
    let code = match committed {
        // Clients of these versions know no other error for it.
        Err(GroupError::NotFound(_)) if request.version < 9 => {
            ResponseError::IllegalGeneration.code()
        }
        committed => error::code(&committed),
    };
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
    committed_at: Timestamp,
    expires_at: Option<Timestamp>,
) -> Result<GroupOffset, ResponseError> {
    let topic = topic.ok_or(ResponseError::UnknownTopicOrPartition)?;
    let partition = PartitionId::from_wire(asked.partition_index)
        .filter(|partition| partition.0 < topic.partitions)
        .ok_or(ResponseError::UnknownTopicOrPartition)?;
    let epoch = asked.committed_leader_epoch;
    let committed = CommittedOffset {
        position: Position::from_wire(asked.committed_offset),
        leader_epoch: (epoch >= 0).then_some(LeaderEpoch(epoch)),
        metadata: asked.committed_metadata.as_deref().unwrap_or_default().to_owned(),
        committed_at,
        expires_at,
    };
    committed.check_metadata().map_err(|error| error.kafka())?;
    Ok(GroupOffset { topic: topic.id, partition, committed })
}
