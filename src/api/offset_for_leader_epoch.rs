//! OffsetForLeaderEpoch (key 23), v2-4: where the records of a leader epoch end (KIP-320).
//!
//! Consumers ask after each new leader epoch, which here is each start of the broker, whether the
//! log still holds what they have read. Epochs only rise along a log, so the place where they pass
//! the one asked for is found by halving; no history is kept. Replica ids are ignored: there are no
//! followers. Gaps: none.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{ApiKey, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use super::access::Topic;
use super::call::{Api, Outcome, first_error};
use super::error::Coded;
use super::{Context, Request};
use crate::log::{Partition, ReadError};
use crate::security::{Authorized, op};
use crate::types::{LeaderEpoch, Offset};

pub(super) const API: Api = Api::ordered(ApiKey::OffsetForLeaderEpoch, 2..=4).repeatable();

impl Outcome for OffsetForLeaderEpochResponse {
    fn error(&self) -> i16 {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        first_error(partitions.map(|partition| partition.error_code))
    }
}

/// A client that knows no epoch asks for this one. All others below the first are merely too old.
const UNDEFINED_EPOCH: i32 = -1;

/// An epoch and one past its last offset.
type EpochEnd = (LeaderEpoch, Offset);

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let access = ctx.access(request);
    // As in Kafka: brokers may ask for every topic, consumers for those that they may describe.
    let cluster = access.cluster::<op::ClusterAction>();
    let known = access.topics();
    let mut topics = Vec::with_capacity(body.topics.len());
    for topic in body.topics {
        let found = known.named_within(&cluster, &topic.topic);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let outcome = match &found {
                Ok(found) => epoch_end(ctx, found, &asked).await,
                Err(unreachable) => Err(unreachable.kafka()),
            };
            partitions.push(answer(asked.partition, outcome));
        }
        topics.push(
            OffsetForLeaderTopicResult::default()
                .with_topic(topic.topic)
                .with_partitions(partitions),
        );
    }
    OffsetForLeaderEpochResponse::default().with_topics(topics)
}

fn answer(index: i32, outcome: Result<Option<EpochEnd>, ResponseError>) -> EpochEndOffset {
    let answer = EpochEndOffset::default().with_partition(index);
    match outcome {
        Ok(Some((epoch, end))) => answer.with_leader_epoch(epoch.0).with_end_offset(end.to_wire()),
        Ok(None) => answer.with_leader_epoch(-1).with_end_offset(-1),
        Err(error) => {
            answer.with_error_code(error.code()).with_leader_epoch(-1).with_end_offset(-1)
        }
    }
}

/// `None` for an epoch that this broker never had, as in Kafka.
async fn epoch_end(
    ctx: &Context,
    topic: &Authorized<Topic<'_>, op::Describe>,
    asked: &OffsetForLeaderPartition,
) -> Result<Option<EpochEnd>, ResponseError> {
    let (log, current) = super::partition(ctx, topic, asked.partition, asked.current_leader_epoch)?;
    let wanted = LeaderEpoch(asked.leader_epoch);
    if wanted.0 == UNDEFINED_EPOCH || wanted > current {
        return Ok(None);
    }
    if wanted == current {
        return Ok(Some((wanted, log.span().high_watermark)));
    }
    match last_up_to(&log, wanted).await {
        Ok(found) => Ok(Some(found)),
        // Damage must not keep a consumer from the records behind it: nothing is cut off.
        Err(ReadError::Corrupt { .. }) => Ok(Some((wanted, log.span().high_watermark))),
        Err(error) => Err(error.kafka()),
    }
}

/// The newest epoch not above `wanted` that has records, and where its records end.
async fn last_up_to(log: &Partition, wanted: LeaderEpoch) -> Result<EpochEnd, ReadError> {
    let span = log.span();
    // All batches before `low` are of epochs up to `wanted`, all from `high` on are of later ones.
    let (mut low, mut high) = (span.start.get(), span.high_watermark.get());
    let mut newest = wanted;
    while low < high {
        let middle = low + (high - low) / 2;
        let Some(batch) = log.header_at(Offset::new(middle)).await? else { break };
        if batch.leader_epoch > wanted {
            // The batch may begin before the offset that was asked for.
            high = batch.base_offset.get().min(middle);
        } else {
            newest = batch.leader_epoch;
            low = batch.next_offset().get().max(middle + 1);
        }
    }
    Ok((newest, Offset::new(high)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use futures_util::future::join_all;
    use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderTopic;

    use super::*;
    use crate::api::tests::fixture::{Bench, batch};
    use crate::config::Config;
    use crate::log::boot::Boot;
    use crate::log::{AppendOptions, AppendOrigin, Durable, Logs};
    use crate::metrics::Metrics;
    use crate::store::Store;
    use crate::types::{LogId, PartitionId, SystemClock, Timestamp, TopicId};

    const OPTIONS: AppendOptions = AppendOptions {
        durable: Durable::Written,
        batch_bytes_max: 1 << 20,
        origin: AppendOrigin::Broker,
    };

    fn ask(name: &str, index: i32, epoch: i32) -> OffsetForLeaderEpochRequest {
        let partition = OffsetForLeaderPartition::default()
            .with_partition(index)
            .with_current_leader_epoch(-1)
            .with_leader_epoch(epoch);
        let topic = OffsetForLeaderTopic::default()
            .with_topic(super::super::wire_text(name).into())
            .with_partitions(vec![partition]);
        OffsetForLeaderEpochRequest::default().with_replica_id((-1).into()).with_topics(vec![topic])
    }

    fn only(answer: &OffsetForLeaderEpochResponse) -> (i16, i32, i64) {
        let partition = &answer.topics[0].partitions[0];
        (partition.error_code, partition.leader_epoch, partition.end_offset)
    }

    #[tokio::test]
    async fn every_version_tells_where_the_current_epoch_ends() {
        let bench = Bench::start().await;
        let topic = bench.topic("clicks", 1).await;
        let log = bench.metadata.log(topic.id, PartitionId(0)).unwrap();
        log.append(batch(1, &["a", "b"]), OPTIONS).await.unwrap();
        let (_, current) = bench.ctx.placement.leader(log.id());
        for version in 2..=4 {
            let epoch = current.0;
            let answer = bench.call(version, ask("clicks", 0, epoch)).await;
            assert_eq!(only(&answer), (0, epoch, 2));
            assert_eq!(only(&bench.call(version, ask("clicks", 0, epoch + 1)).await), (0, -1, -1));
            assert_eq!(only(&bench.call(version, ask("clicks", 0, -1)).await), (0, -1, -1));
            assert_eq!(only(&bench.call(version, ask("clicks", 0, -2)).await), (0, -2, 0));
            assert_eq!(only(&bench.call(version, ask("clicks", 7, epoch)).await), (3, -1, -1));
            assert_eq!(only(&bench.call(version, ask("nowhere", 0, epoch)).await), (3, -1, -1));
        }
        let mut newer = ask("clicks", 0, current.0);
        newer.topics[0].partitions[0].current_leader_epoch = current.0 + 1;
        assert_eq!(only(&bench.call(4, newer).await).0, 75);
        let mut older = ask("clicks", 0, current.0);
        older.topics[0].partitions[0].current_leader_epoch = -2;
        assert_eq!(only(&bench.call(4, older).await).0, 74);
    }

    fn start(dir: &Path, epoch: i32) -> Logs {
        // A view of its own at each start: it is built from the logs again.
        let store = Store::open(&dir.join(format!("view{epoch}"))).unwrap();
        let (config, clock) = (Config::default(), Arc::new(SystemClock::default()));
        let epoch = LeaderEpoch(epoch);
        Logs::start(
            &dir.join("logs"),
            Boot::default(),
            store,
            &config,
            clock,
            epoch,
            &Metrics::default(),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn epochs_of_earlier_starts_end_where_the_next_one_with_records_begins() {
        let tmp = tempfile::tempdir().unwrap();
        let id = LogId { topic: TopicId::random(), partition: PartitionId(0) };
        // Epoch 4 wrote nothing; the batches differ in length, so that halving meets their middles.
        let starts: [(i32, &[&[&'static str]]); 3] =
            [(2, &[&["a"], &["b", "c", "d"]]), (3, &[&["e", "f"]]), (5, &[&["g"], &["h", "i"]])];
        for (epoch, batches) in starts {
            let logs = start(tmp.path(), epoch);
            let log = logs.open(id).unwrap();
            for values in batches {
                log.append(batch(if epoch == 5 { 7 } else { 1 }, values), OPTIONS).await.unwrap();
            }
            let found = last_up_to(&log, LeaderEpoch(epoch)).await.unwrap();
            assert_eq!((found.0.0, found.1), (epoch, log.span().high_watermark));
            logs.shutdown();
        }
        let logs = start(tmp.path(), 6);
        let log = logs.open(id).unwrap();
        for (asked, epoch, end) in [(1, 1, 0), (2, 2, 4), (3, 3, 6), (4, 3, 6), (5, 5, 9)] {
            let found = last_up_to(&log, LeaderEpoch(asked)).await.unwrap();
            assert_eq!((found.0.0, found.1.get()), (epoch, end), "epoch {asked}");
        }
        // Each record keeps the epoch that it was appended in, however it is looked up.
        let epochs: Vec<i32> = join_all((0..10).map(|at| log.header_at(Offset::new(at))))
            .await
            .into_iter()
            .map(|header| header.unwrap().map_or(-1, |header| header.leader_epoch.0))
            .collect();
        assert_eq!(epochs, [2, 2, 2, 2, 3, 3, 5, 5, 5, -1]);
        let by_time = log.first_at_or_after(Timestamp(0)).await.unwrap().unwrap();
        assert_eq!((by_time.offset, by_time.leader_epoch), (Offset::ZERO, LeaderEpoch(2)));
        let newest = log.first_at_or_after(Timestamp(7)).await.unwrap().unwrap();
        assert_eq!((newest.offset.get(), newest.leader_epoch), (6, LeaderEpoch(5)));
        let largest = log.max_timestamp().await.unwrap().unwrap();
        assert_eq!((largest.offset.get(), largest.leader_epoch), (6, LeaderEpoch(5)));
        logs.shutdown();
    }
}
