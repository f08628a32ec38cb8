//! DescribeTopicPartitions (key 75), v0: topics and partitions in pages (KIP-966).
//!
//! Topics are answered in name order, beginning at the cursor, up to the limit that the client sets
//! (at most 2000 partitions, Kafka's `max.request.partition.size.limit`). No topics asked means all.
//! One replica is all there is, so there are no eligible leader replicas. Gaps: none.

use std::collections::BTreeSet;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
};

use super::call::{Api, Outcome, first_error};
use super::error::Coded;
use super::metadata::TOPIC_OPERATIONS;
use super::{Context, Request, wire_name, wire_text};
use crate::catalog::Topic;
use crate::types::{LogId, PartitionId, TopicName};

pub(super) const API: Api = Api::ordered(ApiKey::DescribeTopicPartitions, 0..=0);

const PARTITIONS_MAX: u32 = 2000;

impl Outcome for DescribeTopicPartitionsResponse {
    fn error(&self) -> i16 {
        first_error(self.topics.iter().map(|topic| topic.error_code))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    _request: &Request,
    body: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let snapshot = ctx.catalog.snapshot();
    let mut names: BTreeSet<&str> = body.topics.iter().map(|topic| topic.name.as_str()).collect();
    if body.topics.is_empty() {
        names.extend(snapshot.topics().map(|topic| topic.name.as_str()));
    }
    let (from_name, from_index) = match &body.cursor {
        Some(cursor) => {
            (cursor.topic_name.as_str(), u32::try_from(cursor.partition_index).unwrap_or(0))
        }
        None => ("", 0),
    };
    let limit = u32::try_from(body.response_partition_limit).unwrap_or(1).clamp(1, PARTITIONS_MAX);
    let mut left = limit;
    let mut topics = Vec::new();
    for name in names.into_iter().filter(|name| *name >= from_name) {
        let first = if name == from_name { from_index } else { 0 };
        if left == 0 {
            return page(topics, Some((name, first)));
        }
        let Some(topic) = snapshot.topic(name) else {
            topics.push(unknown(name));
            continue;
        };
        let end = topic.partitions.min(first.saturating_add(left));
        topics.push(describe(ctx, topic, first, end));
        left -= end.saturating_sub(first);
        if end < topic.partitions {
            return page(topics, Some((name, end)));
        }
    }
    page(topics, None)
}

fn page(
    topics: Vec<DescribeTopicPartitionsResponseTopic>,
    next: Option<(&str, u32)>,
) -> DescribeTopicPartitionsResponse {
    let cursor = next.map(|(name, index)| {
        Cursor::default()
            .with_topic_name(wire_text(name).into())
            .with_partition_index(PartitionId(index).to_wire())
    });
    DescribeTopicPartitionsResponse::default().with_topics(topics).with_next_cursor(cursor)
}

fn unknown(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let error = match TopicName::parse(name) {
        Ok(_) => ResponseError::UnknownTopicOrPartition,
        Err(illegal) => illegal.kafka(),
    };
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(error.code())
        .with_name(Some(wire_text(name).into()))
}

fn describe(
    ctx: &Context,
    topic: &Topic,
    first: u32,
    end: u32,
) -> DescribeTopicPartitionsResponseTopic {
    let partitions = (first..end).map(|index| {
        let partition = PartitionId(index);
        let (leader, epoch) = ctx.placement.leader(LogId { topic: topic.id, partition });
        DescribeTopicPartitionsResponsePartition::default()
            .with_partition_index(partition.to_wire())
            .with_leader_id(BrokerId(leader))
            .with_leader_epoch(epoch.0)
            .with_replica_nodes(vec![BrokerId(leader)])
            .with_isr_nodes(vec![BrokerId(leader)])
            .with_eligible_leader_replicas(Some(Vec::new()))
            .with_last_known_elr(Some(Vec::new()))
    });
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(wire_name(&topic.name)))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.internal)
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(TOPIC_OPERATIONS)
}
