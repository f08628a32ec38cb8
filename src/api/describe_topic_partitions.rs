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

use super::access::Unreachable;
use super::call::{Api, Outcome, first_error};
use super::error::Coded;
use super::{Context, Request, wire_name, wire_text};
use crate::metadata::Topic;
use crate::security::{Resource, op};
use crate::types::{LogId, PartitionId, TopicName};

pub(super) const API: Api = Api::ordered(ApiKey::DescribeTopicPartitions, 0..=0).repeatable();

const PARTITIONS_MAX: u32 = 2000;

impl Outcome for DescribeTopicPartitionsResponse {
    fn error(&self) -> i16 {
        first_error(self.topics.iter().map(|topic| topic.error_code))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let access = ctx.access(request);
    let known = access.topics();
    let mut names: BTreeSet<String> = body.topics.iter().map(|it| it.name.to_string()).collect();
    if body.topics.is_empty() {
        names.extend(known.all::<op::Describe>().map(|topic| topic.name.to_string()));
    }
    let (from_name, from_index) = match &body.cursor {
        Some(cursor) => {
            (cursor.topic_name.as_str(), u32::try_from(cursor.partition_index).unwrap_or(0))
        }
        None => ("", 0),
    };
    let limit = u32::try_from(body.response_partition_limit).unwrap_or(1).clamp(1, PARTITIONS_MAX);
    let mut left = limit;
    let (mut topics, mut denied, mut next) = (Vec::new(), Vec::new(), None);
    for name in names.iter().map(String::as_str).filter(|name| *name >= from_name) {
        let found = match known.named::<op::Describe>(name) {
            Ok(topic) => Some(topic),
            Err(Unreachable::Denied(error)) => {
                denied.push(refused(name, error.kafka()));
                continue;
            }
            Err(Unreachable::UnknownName | Unreachable::UnknownId) => None,
        };
        let first = if name == from_name { from_index } else { 0 };
        if left == 0 {
            next = Some((name, first));
            break;
        }
        let Some(topic) = found else {
            topics.push(unknown(name));
            continue;
        };
        let end = topic.partitions.min(first.saturating_add(left));
        let operations = access.operations(Resource::Topic(topic.name.as_str()));
        topics.push(describe(ctx, &topic, first, end).with_topic_authorized_operations(operations));
        left -= end.saturating_sub(first);
        if end < topic.partitions {
            next = Some((name, end));
            break;
        }
    }
    topics.append(&mut denied);
    page(topics, next)
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
    refused(name, error)
}

fn refused(name: &str, error: ResponseError) -> DescribeTopicPartitionsResponseTopic {
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
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::describe_topic_partitions_request::{
        Cursor as AskedCursor, TopicRequest,
    };

    use super::*;
    use crate::api::tests::fixture::Bench;

    fn ask(names: &[&str], limit: i32) -> DescribeTopicPartitionsRequest {
        let topics =
            names.iter().map(|name| TopicRequest::default().with_name(wire_text(name).into()));
        DescribeTopicPartitionsRequest::default()
            .with_topics(topics.collect())
            .with_response_partition_limit(limit)
            .with_cursor(None)
    }

    #[tokio::test]
    async fn pages_follow_the_cursor_to_the_end_without_gap_or_double() {
        let bench = Bench::start().await;
        for (name, partitions) in [("a", 3), ("b", 1), ("c", 4)] {
            bench.topic(name, partitions).await;
        }
        let mut request = ask(&[], 2);
        let mut seen = Vec::new();
        loop {
            let answer = bench.call(0, request.clone()).await;
            let before = seen.len();
            for topic in &answer.topics {
                let name = topic.name.as_ref().unwrap().to_string();
                let indexes = topic.partitions.iter().map(|p| p.partition_index);
                seen.extend(indexes.map(|index| format!("{name}{index}")));
            }
            assert!(seen.len() - before <= 2);
            let Some(cursor) = answer.next_cursor else { break };
            request.cursor = Some(
                AskedCursor::default()
                    .with_topic_name(cursor.topic_name)
                    .with_partition_index(cursor.partition_index),
            );
        }
        let all = ["__consumer_offsets0", "a0", "a1", "a2", "b0", "c0", "c1", "c2", "c3"];
        assert_eq!(seen, all);
    }

    #[tokio::test]
    async fn named_topics_are_described_and_unknown_ones_told() {
        let bench = Bench::start().await;
        let topic = bench.topic("clicks", 1).await;
        let answer = bench.call(0, ask(&["nowhere", "clicks", "../x"], 2000)).await;
        let told: Vec<_> = answer
            .topics
            .iter()
            .map(|topic| (topic.name.as_ref().unwrap().to_string(), topic.error_code))
            .collect();
        let expected = [("../x", 17), ("clicks", 0), ("nowhere", 3)];
        assert_eq!(told, expected.map(|(name, code)| (name.to_owned(), code)));
        assert_eq!(answer.topics[1].topic_id, topic.id.0);
        assert_eq!(answer.topics[1].partitions[0].leader_id, BrokerId(1));
        assert!(answer.next_cursor.is_none());
    }
}
