//! OffsetCommit (key 8), v2-9: a group's positions, durable before the answer.
//!
//! v2-4 may say how long to keep the offsets, if the group has no members. v6 adds the leader epoch, v7
//! static members, v9 member epochs of KIP-848 groups and error 69 for a group that is not there.
//! Gaps: topic ids (v10), which the codec lacks; offsets without a retention time do not expire.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{ApiKey, OffsetCommitRequest, OffsetCommitResponse};

use super::access::{Topic, Unreachable};
use super::call::{Api, Outcome, first_error};
use super::error::{self, Coded};
use super::member::member_ref;
use super::{Context, Request};
use crate::group::{CommittedOffset, GroupError, GroupOffset, Position};
use crate::security::{Authorized, op};
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
    let access = ctx.access(request);
    let group = match access.group::<op::Read>(&body.group_id) {
        Ok(group) => group,
        Err(denied) => return answer(body.topics, |_, _| denied.kafka().code()),
    };
    let known = access.topics();
    let committed_at = ctx.clock.now();
    let retention_ms = Some(body.retention_time_ms).filter(|time| *time != DEFAULT_RETENTION);
    let expires_at = retention_ms.map(|time| Timestamp(committed_at.0.saturating_add(time)));
    // What each partition is refused for; the others go into one commit.
    let mut refused: BTreeMap<(usize, usize), ResponseError> = BTreeMap::new();
    let mut offsets = Vec::new();
    for (t, asked) in body.topics.iter().enumerate() {
        let topic = known.named(&asked.name);
        for (p, partition) in asked.partitions.iter().enumerate() {
            match offset(&topic, partition, committed_at, expires_at) {
                Ok(offset) => offsets.push(offset),
                Err(error) => {
                    refused.insert((t, p), error);
                }
            }
        }
    }
    let epoch = body.generation_id_or_member_epoch;
    let member = member_ref(&body.member_id, &body.group_instance_id, epoch);
    // Nothing to commit is nothing to ask the group for, as in Kafka.
    let committed = match offsets.is_empty() {
        true => Ok(()),
        false => group.commit(member, offsets).await,
    };
    let code = match committed {
        // Clients of these versions know no other error for it.
        Err(GroupError::NotFound(_)) if request.version < 9 => {
            ResponseError::IllegalGeneration.code()
        }
        committed => error::code(&committed),
    };
    answer(body.topics, |t, p| refused.get(&(t, p)).map_or(code, ResponseError::code))
}

/// The answer, with the code of each partition by where its topic and it stand in the request.
fn answer(
    topics: Vec<OffsetCommitRequestTopic>,
    code: impl Fn(usize, usize) -> i16,
) -> OffsetCommitResponse {
    let topics = topics.into_iter().enumerate().map(|(t, topic)| {
        let partitions = topic.partitions.iter().enumerate().map(|(p, partition)| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code(t, p))
        });
        OffsetCommitResponseTopic::default()
            .with_partitions(partitions.collect())
            .with_name(topic.name)
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

fn offset(
    topic: &Result<Authorized<Topic<'_>, op::Read>, Unreachable>,
    asked: &OffsetCommitRequestPartition,
    committed_at: Timestamp,
    expires_at: Option<Timestamp>,
) -> Result<GroupOffset, ResponseError> {
    let topic = topic.as_ref().map_err(Coded::kafka)?;
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
