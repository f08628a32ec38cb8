//! DeleteRecords (key 21), v0-2: raises the start of logs (KIP-107).
//!
//! v2 is flexible. -1 means the high watermark; an offset beyond it is refused with error 1. Topics
//! that are only compacted are refused with error 44, internal ones with 17. `timeout_ms` is not
//! needed: no replica is waited for. Gaps: none.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{ApiKey, DeleteRecordsRequest, DeleteRecordsResponse, TopicName};

use super::access::Topic;
use super::call::{Api, Outcome, first_error};
use super::error::Coded;
use super::{Context, Request};
use crate::security::{Authorized, op};
use crate::types::{Offset, PartitionId};

pub(super) const API: Api = Api::ordered(ApiKey::DeleteRecords, 0..=2);

/// Asks for all records that are there.
const HIGH_WATERMARK: i64 = -1;
/// The low watermark of a partition that was not changed.
const NO_OFFSET: i64 = -1;

impl Outcome for DeleteRecordsResponse {
    fn error(&self) -> i16 {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        first_error(partitions.map(|partition| partition.error_code))
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    // Each partition once: of one that is named again, the last offset counts.
    let mut asked: BTreeMap<TopicName, BTreeMap<i32, i64>> = BTreeMap::new();
    for topic in body.topics {
        let offsets = topic.partitions.iter();
        let offsets = offsets.map(|partition| (partition.partition_index, partition.offset));
        asked.entry(topic.name).or_default().extend(offsets);
    }
    let known = ctx.access(request).topics();
    let mut topics = Vec::with_capacity(asked.len());
    for (topic, offsets) in asked {
        let found = known.named(&topic);
        let trims = offsets.into_iter().map(|(index, before)| {
            let found = &found;
            async move {
                let result = DeleteRecordsPartitionResult::default().with_partition_index(index);
                let trimmed = match found {
                    Ok(topic) => trim(topic, index, before).await,
                    Err(unreachable) => Err(unreachable.kafka()),
                };
                match trimmed {
                    Ok(start) => result.with_low_watermark(start.to_wire()),
                    Err(error) => {
                        result.with_low_watermark(NO_OFFSET).with_error_code(error.code())
                    }
                }
            }
        });
        let partitions = join_all(trims).await;
        topics
            .push(DeleteRecordsTopicResult::default().with_partitions(partitions).with_name(topic));
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

/// Drops what lies before `before`; returns where the log starts then.
async fn trim(
    topic: &Authorized<Topic<'_>, op::Delete>,
    index: i32,
    before: i64,
) -> Result<Offset, ResponseError> {
    let log = PartitionId::from_wire(index)
        .and_then(|partition| topic.log(partition))
        .ok_or(ResponseError::UnknownTopicOrPartition)?;
    let name = &topic.name;
    if topic.internal {
        return Err(ResponseError::InvalidTopicException);
    }
    let config = log.config();
    if config.compaction.is_some() && config.retention.is_none() {
        return Err(ResponseError::PolicyViolation);
    }
    let end = log.span().high_watermark;
    let before = match before {
        HIGH_WATERMARK => end,
        _ => u64::try_from(before).map(Offset::new).map_err(|_| ResponseError::OffsetOutOfRange)?,
    };
    if before > end {
        return Err(ResponseError::OffsetOutOfRange);
    }
    let start = log.trim(before).await.map_err(|error| {
        tracing::debug!(topic = %name, partition = index, %error, "records were not deleted");
        error.kafka()
    })?;
    tracing::info!(topic = %name, partition = index, start = start.get(), "records deleted");
    Ok(start)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::CreateTopicsRequest;
    use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
    use kafka_protocol::messages::delete_records_request::{
        DeleteRecordsPartition, DeleteRecordsTopic,
    };

    use super::*;
    use crate::api::tests::fixture::Bench;
    use crate::api::wire_text;
    use crate::log::batch::{NewRecord, encode};
    use crate::log::{AppendOptions, AppendOrigin, Durable};

    async fn delete(
        bench: &Bench,
        version: i16,
        name: &str,
        offsets: &[(i32, i64)],
    ) -> Vec<(i16, i64)> {
        let partitions = offsets.iter().map(|(index, offset)| {
            DeleteRecordsPartition::default().with_partition_index(*index).with_offset(*offset)
        });
        let topic = DeleteRecordsTopic::default()
            .with_name(wire_text(name).into())
            .with_partitions(partitions.collect());
        let request = DeleteRecordsRequest::default().with_topics(vec![topic]);
        let answer = bench.call(version, request).await;
        let partitions = answer.topics[0].partitions.iter();
        partitions.map(|partition| (partition.error_code, partition.low_watermark)).collect()
    }

    async fn with_policy(bench: &Bench, name: &'static str, policy: &str) {
        let config = CreatableTopicConfig::default()
            .with_name(wire_text("cleanup.policy"))
            .with_value(Some(wire_text(policy)));
        let topic = CreatableTopic::default()
            .with_name(wire_text(name).into())
            .with_num_partitions(1)
            .with_replication_factor(1)
            .with_configs(vec![config]);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]);
        assert_eq!(bench.call(5, request).await.topics[0].error_code, 0);
    }

    async fn fill(bench: &Bench, name: &str) {
        let topic = bench.metadata.image().topic(name).unwrap().clone();
        let log = bench.metadata.log(topic.id, PartitionId(0)).unwrap();
        let options = AppendOptions {
            durable: Durable::Written,
            batch_bytes_max: 1 << 20,
            origin: AppendOrigin::Broker,
        };
        let timestamp = bench.ctx.clock.now();
        for value in ["a", "b", "c", "d", "e"] {
            // Compacted topics take no record without a key.
            let record = NewRecord { key: Some(value.into()), timestamp, ..NewRecord::default() };
            log.append(encode(&[record], None), options).await.unwrap();
        }
    }

    #[tokio::test]
    async fn every_version_raises_the_start_and_never_lowers_it() {
        for version in 0..=2 {
            let bench = Bench::start().await;
            bench.topic("t", 1).await;
            fill(&bench, "t").await;
            assert_eq!(delete(&bench, version, "t", &[(0, 2)]).await, [(0, 2)]);
            assert_eq!(delete(&bench, version, "t", &[(0, 1)]).await, [(0, 2)]);
            assert_eq!(delete(&bench, version, "t", &[(0, 6)]).await, [(1, -1)]);
            assert_eq!(delete(&bench, version, "t", &[(0, -2)]).await, [(1, -1)]);
            assert_eq!(delete(&bench, version, "t", &[(0, -1)]).await, [(0, 5)]);
            assert_eq!(delete(&bench, version, "t", &[(7, 1), (0, 0)]).await, [(0, 5), (3, -1)]);
        }
    }

    #[tokio::test]
    async fn of_a_partition_that_is_named_twice_the_last_offset_counts() {
        let bench = Bench::start().await;
        bench.topic("t", 2).await;
        fill(&bench, "t").await;
        assert_eq!(delete(&bench, 2, "t", &[(0, 4), (0, 1)]).await, [(0, 1)]);
        let topic = |offsets: &[(i32, i64)]| {
            let partitions = offsets.iter().map(|(index, offset)| {
                DeleteRecordsPartition::default().with_partition_index(*index).with_offset(*offset)
            });
            DeleteRecordsTopic::default()
                .with_name(wire_text("t").into())
                .with_partitions(partitions.collect())
        };
        let twice = vec![topic(&[(0, 4)]), topic(&[(0, 2), (1, 0)])];
        let answer = bench.call(2, DeleteRecordsRequest::default().with_topics(twice)).await;
        let [only] = answer.topics.as_slice() else { panic!("{:?}", answer.topics) };
        let told: Vec<_> =
            only.partitions.iter().map(|it| (it.partition_index, it.low_watermark)).collect();
        assert_eq!(told, [(0, 2), (1, 0)]);
    }

    #[tokio::test]
    async fn topics_that_are_only_compacted_and_internal_ones_are_refused() {
        let bench = Bench::start().await;
        for (name, policy, answer) in [
            ("compacted", "compact", (44, -1)),
            ("both", "compact,delete", (0, 2)),
            ("neither", "", (0, 2)),
        ] {
            with_policy(&bench, name, policy).await;
            fill(&bench, name).await;
            assert_eq!(delete(&bench, 2, name, &[(0, 2)]).await, [answer], "{name}");
        }
        assert_eq!(delete(&bench, 2, "__consumer_offsets", &[(0, 0)]).await, [(17, -1)]);
        assert_eq!(delete(&bench, 2, "__consumer_offsets", &[(99, 0)]).await, [(3, -1)]);
        assert_eq!(delete(&bench, 2, "nowhere", &[(0, 0)]).await, [(3, -1)]);
    }
}
