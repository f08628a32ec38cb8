//! ListOffsets (key 2), v1-10: the offset at a point in time, at the start or at the end.
//!
//! v2 adds the isolation level, v4 leader epochs, v7 the record with the largest timestamp
//! (KIP-734), v8 the earliest local and v9 the last tiered offset (KIP-405): without tiers the
//! first is the log start, and there is none of the second.
//! Gaps: v11 (earliest pending upload).

use std::collections::{HashMap, HashSet};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ApiKey, ListOffsetsRequest, ListOffsetsResponse, TopicName};

use super::access::{Topic, Unreachable};
use super::call::{Api, Outcome, first_error};
use super::error::Coded;
use super::{Context, Request};
use crate::log::{Isolation, Partition, ReadError};
use crate::security::{Authorized, op};
use crate::types::{LeaderEpoch, Offset, Timestamp};

pub(super) const API: Api = Api::ordered(ApiKey::ListOffsets, 1..=10).repeatable();

impl Outcome for ListOffsetsResponse {
    fn error(&self) -> i16 {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        first_error(partitions.map(|partition| partition.error_code))
    }
}

/// What a partition is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Latest,
    Earliest,
    MaxTimestamp,
    LastTiered,
    At(Timestamp),
}

impl Wanted {
    /// Kafka's negative timestamps, each from the version that introduced it.
    fn from_wire(timestamp: i64, version: i16) -> Result<Wanted, ResponseError> {
        match timestamp {
            0.. => Ok(Wanted::At(Timestamp(timestamp))),
            -1 => Ok(Wanted::Latest),
            -2 => Ok(Wanted::Earliest),
            -3 if version >= 7 => Ok(Wanted::MaxTimestamp),
            -4 if version >= 8 => Ok(Wanted::Earliest),
            -5 if version >= 9 => Ok(Wanted::LastTiered),
            _ => Err(ResponseError::UnsupportedVersion),
        }
    }
}

/// An offset that was found.
struct Found {
    timestamp: Option<Timestamp>,
    offset: Offset,
    epoch: Option<LeaderEpoch>,
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let isolation = super::isolation(body.isolation_level);
    let known = ctx.access(request).topics();
    let mut twice = named_twice(&body.topics);
    let mut topics = Vec::with_capacity(body.topics.len());
    for topic in body.topics {
        let found = known.named(&topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            let place = (topic.name.clone(), partition.partition_index);
            let outcome = match (&found, twice.get_mut(&place)) {
                (Err(Unreachable::Denied(denied)), _) => Err(denied.kafka()),
                (_, Some(Told(true))) => continue,
                (_, Some(told)) => {
                    *told = Told(true);
                    Err(ResponseError::InvalidRequest)
                }
                (Ok(found), None) => list(ctx, request.version, found, &partition, isolation).await,
                (Err(unknown), None) => Err(unknown.kafka()),
            };
            partitions.push(answer(request.version, partition.partition_index, outcome));
        }
        topics.push(
            ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions),
        );
    }
    ListOffsetsResponse::default().with_topics(topics)
}

/// Whether a partition that is named more than once has been refused already.
struct Told(bool);

/// Partitions that are named more than once: Kafka looks none of them up and refuses each once
/// (`ListOffsetsRequest.duplicatePartitions`).
fn named_twice(topics: &[ListOffsetsTopic]) -> HashMap<(TopicName, i32), Told> {
    let mut once = HashSet::new();
    let all = topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| (&topic.name, partition.partition_index))
    });
    all.filter(|partition| !once.insert(*partition))
        .map(|(name, index)| ((name.clone(), index), Told(false)))
        .collect()
}

async fn list(
    ctx: &Context,
    version: i16,
    topic: &Authorized<Topic<'_>, op::Describe>,
    asked: &ListOffsetsPartition,
    isolation: Isolation,
) -> Result<Option<Found>, ResponseError> {
    let (log, epoch) =
        super::partition(ctx, topic, asked.partition_index, asked.current_leader_epoch)?;
    let wanted = Wanted::from_wire(asked.timestamp, version)?;
    let span = log.span();
    let visible = match isolation {
        Isolation::ReadUncommitted => span.high_watermark,
        Isolation::ReadCommitted => span.last_stable,
    };
    let found = match wanted {
        Wanted::Latest => {
            return Ok(Some(Found { timestamp: None, offset: visible, epoch: Some(epoch) }));
        }
        Wanted::Earliest => {
            let epoch = match version {
                4.. => first_epoch(&log, epoch).await?,
                _ => None,
            };
            return Ok(Some(Found { timestamp: None, offset: span.start, epoch }));
        }
        Wanted::LastTiered => return Ok(None),
        Wanted::MaxTimestamp => log.max_timestamp().await,
        Wanted::At(timestamp) => log.first_at_or_after(timestamp).await,
    };
    let found = found.map_err(|error| error.kafka())?.filter(|found| found.offset < visible);
    Ok(found.map(|found| Found {
        timestamp: Some(found.timestamp),
        offset: found.offset,
        epoch: Some(found.leader_epoch),
    }))
}

/// The epoch of the first record, or the current one where there is none. `None` where the record is
/// damaged: a consumer must find the log's start all the same, to get past it.
async fn first_epoch(
    log: &Partition,
    current: LeaderEpoch,
) -> Result<Option<LeaderEpoch>, ResponseError> {
    match log.header_at(log.span().start).await {
        Ok(header) => Ok(Some(header.map_or(current, |header| header.leader_epoch))),
        Err(ReadError::Corrupt { .. } | ReadError::Storage { .. }) => Ok(None),
        Err(error) => Err(error.kafka()),
    }
}

fn answer(
    version: i16,
    index: i32,
    outcome: Result<Option<Found>, ResponseError>,
) -> ListOffsetsPartitionResponse {
    let answer = ListOffsetsPartitionResponse::default().with_partition_index(index);
    match outcome {
        Err(error) => answer.with_error_code(error.code()),
        Ok(None) => answer,
        Ok(Some(found)) => {
            let epoch = found.epoch.filter(|_| version >= 4);
            answer
                .with_timestamp(found.timestamp.map_or(-1, |timestamp| timestamp.0))
                .with_offset(found.offset.to_wire())
                .with_leader_epoch(epoch.map_or(-1, |epoch| epoch.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::fixture::{Bench, batch};
    use crate::log::{AppendOptions, AppendOrigin, Durable};
    use crate::types::PartitionId;

    async fn bench_with_records() -> Bench {
        let bench = Bench::start().await;
        let topic = bench.topic("clicks", 1).await;
        let log = bench.metadata.log(topic.id, PartitionId(0)).unwrap();
        let options = AppendOptions {
            durable: Durable::Written,
            batch_bytes_max: 1 << 20,
            origin: AppendOrigin::Broker,
        };
        for (timestamp, values) in [(1000, ["a", "b"]), (3000, ["c", "d"]), (2000, ["e", "f"])] {
            log.append(batch(timestamp, &values), options).await.unwrap();
        }
        bench
    }

    fn ask(name: &str, index: i32, timestamp: i64) -> ListOffsetsRequest {
        let partition = ListOffsetsPartition::default()
            .with_partition_index(index)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default()
            .with_name(super::super::wire_text(name).into())
            .with_partitions(vec![partition]);
        ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic])
    }

    fn only(answer: &ListOffsetsResponse) -> (i16, i64, i64) {
        let partition = &answer.topics[0].partitions[0];
        (partition.error_code, partition.timestamp, partition.offset)
    }

    #[tokio::test]
    async fn every_version_finds_start_end_and_points_in_time() {
        let bench = bench_with_records().await;
        for version in 1..=10 {
            for (timestamp, expected) in [
                (-1, (0, -1, 6)),
                (-2, (0, -1, 0)),
                (0, (0, 1000, 0)),
                (1001, (0, 3000, 2)),
                (3001, (0, -1, -1)),
            ] {
                let answer = bench.call(version, ask("clicks", 0, timestamp)).await;
                assert_eq!(only(&answer), expected, "v{version} at {timestamp}");
            }
        }
        assert_eq!(only(&bench.call(7, ask("clicks", 0, -3)).await), (0, 3000, 2));
        assert_eq!(only(&bench.call(8, ask("clicks", 0, -4)).await), (0, -1, 0));
        assert_eq!(only(&bench.call(9, ask("clicks", 0, -5)).await), (0, -1, -1));
    }

    #[tokio::test]
    async fn whatever_is_found_has_its_leader_epoch() {
        let bench = bench_with_records().await;
        let topic = bench.metadata.image().topic("clicks").unwrap().clone();
        let epoch = async |timestamp| {
            bench.call(9, ask("clicks", 0, timestamp)).await.topics[0].partitions[0].leader_epoch
        };
        let log = bench.metadata.log(topic.id, PartitionId(0)).unwrap();
        let (_, current) = bench.ctx.placement.leader(log.id());
        for found in [-1, -2, -3, -4, 0, 3000] {
            assert_eq!(epoch(found).await, current.0, "at {found}");
        }
        assert_eq!((epoch(-5).await, epoch(3001).await), (-1, -1));
        log.trim(Offset::new(6)).await.unwrap();
        assert_eq!(only(&bench.call(9, ask("clicks", 0, -2)).await), (0, -1, 6));
        assert_eq!(epoch(-2).await, current.0);
    }

    #[tokio::test]
    async fn unknown_places_and_old_epochs_are_refused() {
        let bench = bench_with_records().await;
        assert_eq!(only(&bench.call(6, ask("nowhere", 0, -1)).await).0, 3);
        assert_eq!(only(&bench.call(6, ask("clicks", 9, -1)).await).0, 3);
        assert_eq!(only(&bench.call(6, ask("clicks", 0, -3)).await).0, 35);
        let mut newer = ask("clicks", 0, -1);
        newer.topics[0].partitions[0].current_leader_epoch = i32::MAX;
        assert_eq!(only(&bench.call(6, newer).await).0, 75);
    }

    #[tokio::test]
    async fn a_partition_named_twice_is_refused_once() {
        let bench = bench_with_records().await;
        let mut request = ask("clicks", 0, -1);
        request.topics.extend(ask("clicks", 0, -2).topics);
        request.topics.extend(ask("clicks", 1, -1).topics);
        for _ in 0..3 {
            let unknown = ask("nowhere", 0, -1).topics.remove(0).partitions.remove(0);
            request.topics[2].partitions.push(unknown.with_partition_index(7));
        }
        let answer = bench.call(7, request).await;
        let codes = answer.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code);
        assert_eq!(codes.collect::<Vec<_>>(), [42, 3, 42]);
    }

    #[test]
    fn negative_timestamps_need_the_version_that_brought_them() {
        assert_eq!(Wanted::from_wire(-1, 1), Ok(Wanted::Latest));
        assert_eq!(Wanted::from_wire(-2, 1), Ok(Wanted::Earliest));
        assert_eq!(Wanted::from_wire(-3, 6), Err(ResponseError::UnsupportedVersion));
        assert_eq!(Wanted::from_wire(-3, 7), Ok(Wanted::MaxTimestamp));
        assert_eq!(Wanted::from_wire(-4, 8), Ok(Wanted::Earliest));
        assert_eq!(Wanted::from_wire(-5, 9), Ok(Wanted::LastTiered));
        assert_eq!(Wanted::from_wire(-6, 10), Err(ResponseError::UnsupportedVersion));
        assert_eq!(Wanted::from_wire(0, 1), Ok(Wanted::At(Timestamp(0))));
    }
}
