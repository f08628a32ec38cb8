//! Fetch (key 1), v4-18: record batches from the log to the client, as they lie there.
//!
//! A long poll (KIP-41's `min_bytes`, `max_wait_ms`) waits for the partitions' high watermarks or
//! last stable offsets to move. v7 brings fetch sessions (KIP-227): every answer has session id 0,
//! which tells the client to send full requests, as a broker without room for sessions does. v9 adds
//! leader epochs (KIP-320), v12 is flexible, v13 names topics by id. `max_bytes` is handed out in
//! request order and the first batch always fits (KIP-74); clients rotate the order so that no
//! partition starves. Replica fields are ignored: there are no followers.
//! Gaps: sessions; current leaders and endpoints (KIP-951); preferred replicas.

mod response;

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::{ApiKey, FetchRequest, TopicName};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::call::{Api, Call, Reply, first_error};
use super::error::{self, Coded};
use super::meter::TopicCounters;
use super::{Context, Later, Refusal};
use crate::catalog::Topic;
use crate::log::{Isolation, OffsetSpan, Partition, ReadRequest, ReadResult};
use crate::types::{Offset, TopicId};

pub(super) const API: Api = Api::parked(ApiKey::Fetch, 4..=18);

/// Kafka's `fetch.max.bytes` of the broker: no answer is larger, but for a single batch.
const BYTES_MAX: usize = 55 << 20;

/// A topic as asked, with its answers.
struct FetchedTopic {
    name: TopicName,
    id: Uuid,
    counters: Option<Arc<TopicCounters>>,
    partitions: Vec<FetchedPartition>,
}

struct FetchedPartition {
    index: i32,
    bytes_max: usize,
    /// The log and the offset wanted, unless the request was refused at sight.
    source: Result<(Partition, Offset), ResponseError>,
    answer: Result<ReadResult, ResponseError>,
}

impl FetchedPartition {
    /// Bytes of records in its answer.
    fn bytes(&self) -> usize {
        self.answer.as_ref().map_or(0, |read| read.records.len())
    }

    /// Whether it shows more than when it was read.
    fn is_moved(&self, isolation: Isolation) -> bool {
        let visible = |span: &OffsetSpan| match isolation {
            Isolation::ReadUncommitted => span.high_watermark,
            Isolation::ReadCommitted => span.last_stable,
        };
        match (&self.source, &self.answer) {
            (Ok((log, _)), Ok(read)) => visible(&log.span()) != visible(&read.span),
            _ => false,
        }
    }
}

/// How long to wait, and for how much.
struct Patience {
    bytes_min: usize,
    bytes_max: usize,
    until: Instant,
    isolation: Isolation,
}

pub(super) fn begin(mut call: Call) -> Result<Later<Reply>, Refusal> {
    let body: FetchRequest = call.decode()?;
    Ok(Box::pin(async move { answer(call, body).await }))
}

async fn answer(call: Call, body: FetchRequest) -> Reply {
    let version = call.request.version;
    // Session 0 in epochs 0 and -1 is a full fetch. No other was ever given out.
    if version >= 7 && (body.session_id != 0 || body.session_epoch > 0) {
        let lost = ResponseError::FetchSessionIdNotFound.code();
        return response::encode(call, lost, lost, &[]);
    }
    let wait = Duration::from_millis(u64::try_from(body.max_wait_ms).unwrap_or(0));
    let patience = Patience {
        bytes_min: usize::try_from(body.min_bytes).unwrap_or(0),
        bytes_max: usize::try_from(body.max_bytes).unwrap_or(0).min(BYTES_MAX),
        until: Instant::now() + wait,
        isolation: super::isolation(body.isolation_level),
    };
    let mut topics = resolve(&call.ctx, version, body);
    let ready = read(&mut topics, &patience, |_| true).await;
    if !ready && !wait.is_zero() {
        wait_and_read(&mut topics, &patience).await;
    }
    for topic in &topics {
        if let Some(counters) = &topic.counters {
            let answers =
                topic.partitions.iter().filter_map(|partition| partition.answer.as_ref().ok());
            counters.bytes_out.inc_by(answers.map(|read| read.records.len() as u64).sum());
        }
    }
    let partitions = topics.iter().flat_map(|topic| &topic.partitions);
    let outcome = first_error(partitions.map(|partition| error::code(&partition.answer)));
    response::encode(call, outcome, error::NONE, &topics)
}

/// Finds the logs.
fn resolve(ctx: &Context, version: i16, body: FetchRequest) -> Vec<FetchedTopic> {
    let snapshot = ctx.catalog.snapshot();
    let mut topics = Vec::with_capacity(body.topics.len());
    for asked in body.topics {
        let topic = if version >= 13 {
            snapshot.topic_by_id(TopicId(asked.topic_id)).ok_or(ResponseError::UnknownTopicId)
        } else {
            let named = snapshot.topic(asked.topic.as_str());
            named.ok_or(ResponseError::UnknownTopicOrPartition)
        };
        let partitions = asked.partitions.iter().map(|partition| {
            let source = topic.and_then(|topic| source(ctx, topic, partition));
            FetchedPartition {
                index: partition.partition,
                bytes_max: usize::try_from(partition.partition_max_bytes).unwrap_or(0),
                answer: Err(source
                    .as_ref()
                    .err()
                    .copied()
                    .unwrap_or(ResponseError::UnknownServerError)),
                source,
            }
        });
        topics.push(FetchedTopic {
            partitions: partitions.collect(),
            counters: topic.ok().and_then(|topic| ctx.meter.topic(&ctx.catalog, topic)),
            name: asked.topic,
            id: asked.topic_id,
        });
    }
    topics
}

fn source(
    ctx: &Context,
    topic: &Topic,
    asked: &FetchPartition,
) -> Result<(Partition, Offset), ResponseError> {
    let (log, _) = super::partition(ctx, topic, asked.partition, asked.current_leader_epoch)?;
    let offset = Offset::from_wire(asked.fetch_offset).ok_or(ResponseError::OffsetOutOfRange)?;
    Ok((log, offset))
}

/// Reads the partitions that are due, in request order; the others keep their answers and the
/// bytes these take. Says whether the answer can go out: enough bytes, an error, or nothing that
/// more could be expected of.
async fn read(
    topics: &mut [FetchedTopic],
    patience: &Patience,
    is_due: impl Fn(&FetchedPartition) -> bool,
) -> bool {
    let partitions = || topics.iter().flat_map(|topic| &topic.partitions);
    let mut bytes: usize = partitions().map(FetchedPartition::bytes).sum();
    let waiting = partitions().any(|partition| partition.source.is_ok());
    let mut failed = false;
    for partition in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        if !is_due(partition) {
            continue;
        }
        let Ok((log, from)) = &partition.source else { continue };
        bytes -= partition.bytes();
        let request = ReadRequest {
            from: *from,
            bytes_max: partition.bytes_max.min(patience.bytes_max.saturating_sub(bytes)),
            at_least_one: bytes == 0,
            isolation: patience.isolation,
        };
        let outcome = log.read(request).await;
        partition.answer = outcome.map_err(|error| {
            failed = true;
            tracing::debug!(log = %log.id(), %error, "fetch refused");
            error.kafka()
        });
        bytes += partition.bytes();
    }
    failed || !waiting || bytes >= patience.bytes_min
}

/// Reads a partition again whenever it has more to show, until it is enough or the time is over.
async fn wait_and_read(topics: &mut [FetchedTopic], patience: &Patience) {
    let sources = topics
        .iter()
        .flat_map(|topic| &topic.partitions)
        .filter_map(|partition| partition.source.as_ref().ok());
    // Kept from wake to wake: only what fired is armed again, however many partitions wait.
    let mut news: FuturesUnordered<_> =
        sources.map(|(log, _)| next_change(log.subscribe())).collect();
    loop {
        // What moved between the last read and the subscription counts as news too.
        let isolation = patience.isolation;
        let is_moved = |partition: &FetchedPartition| partition.is_moved(isolation);
        if read(topics, patience, is_moved).await {
            return;
        }
        let Ok(Some(first)) = timeout_at(patience.until, news.next()).await else { return };
        let mut fired = vec![first];
        while let Some(Some(next)) = news.next().now_or_never() {
            fired.push(next);
        }
        for span in fired {
            let Some(span) = span else {
                // The topic was deleted: the read finds out and says so.
                read(topics, patience, |_| true).await;
                return;
            };
            news.push(next_change(span));
        }
    }
}

/// The span's receiver once the span has changed; `None` when its log is gone.
async fn next_change(mut span: watch::Receiver<OffsetSpan>) -> Option<watch::Receiver<OffsetSpan>> {
    span.changed().await.ok().map(|()| span)
}

#[cfg(test)]
mod tests;
