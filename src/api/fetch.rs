//! Fetch (key 1), v4-18: record batches from the log to the client, as they lie there.
//!
//! A long poll (KIP-41's `min_bytes`, `max_wait_ms`) waits for the partitions' high watermarks or
//! last stable offsets to move. v7 brings fetch sessions (KIP-227): every answer has session id 0,
//! which tells the client to send full requests, as a broker without room for sessions does. v9 adds
//! leader epochs (KIP-320), v12 is flexible, v13 names topics by id. `max_bytes` is handed out in
//! request order and the first batch always fits (KIP-74); clients rotate the order so that no
//! partition starves. Replica fields are ignored: there are no followers. A request waits for 60 seconds
//! at most, and while its records find no room in the budget of answers (`answers.rs`); an error, or
//! more than fits, ends the wait at once, where Kafka waits for unknown topics' sake and for a
//! `min_bytes` that the limits of a partition keep out of reach.
//! Gaps: sessions; current leaders and endpoints (KIP-951); preferred replicas.

mod response;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::{ApiKey, FetchRequest, TopicName};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::access::Topic;
use super::answers::{AnswerBudget, Held};
use super::call::{Api, Call, Reply, first_error};
use super::error::{self, Coded};
use super::meter::TopicCounters;
use super::{Context, Later, Refusal, Request};
use crate::log::{Isolation, OffsetSpan, Partition, ReadError, ReadRequest, ReadResult};
use crate::security::{Authorized, op};
use crate::types::{Offset, TopicId};

pub(super) const API: Api = Api::parked(ApiKey::Fetch, 4..=18);

/// Kafka's `fetch.max.bytes` of the broker: no answer is larger, but for a single batch.
const BYTES_MAX: usize = 55 << 20;
/// No fetch waits longer, whatever it asks for: until then a client that is gone holds its place.
const WAIT_MAX: Duration = Duration::from_secs(60);

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

    /// Whether its answer ends before what readers may see: waiting would add nothing to it.
    fn is_cut(&self, isolation: Isolation) -> bool {
        let (Ok((_, from)), Ok(read)) = (&self.source, &self.answer) else { return false };
        read.next_offset().unwrap_or(*from) < visible(&read.span, isolation)
    }

    /// Whether it shows more than when it was read, or starts later than where it was asked for.
    fn is_moved(&self, isolation: Isolation) -> bool {
        let (Ok((log, from)), Ok(read)) = (&self.source, &self.answer) else { return false };
        let now = log.span();
        visible(&now, isolation) != visible(&read.span, isolation) || now.start > *from
    }
}

/// The offset before which readers may see records.
fn visible(span: &OffsetSpan, isolation: Isolation) -> Offset {
    match isolation {
        Isolation::ReadUncommitted => span.high_watermark,
        Isolation::ReadCommitted => span.last_stable,
    }
}

/// A request at work.
struct Fetch {
    topics: Vec<FetchedTopic>,
    /// The answer goes out when it has so much, or when the time is over.
    bytes_min: usize,
    bytes_max: usize,
    until: Instant,
    isolation: Isolation,
    answers: AnswerBudget,
    /// What is charged for the records read.
    held: Held,
}

pub(super) fn begin(mut call: Call) -> Result<Later<Reply>, Refusal> {
    let body: FetchRequest = call.decode()?;
    Ok(Box::pin(async move { answer(call, body).await }))
}

async fn answer(call: Call, body: FetchRequest) -> Reply {
    let version = call.request.version;
    // A full request, in session epoch 0 or -1, is answered without a session whatever id it brings.
    // No session was ever given out.
    if version >= 7 && !matches!(body.session_epoch, 0 | -1) {
        let lost = ResponseError::FetchSessionIdNotFound.code();
        return response::encode(call, lost, lost, &[], Held::default());
    }
    let wait = Duration::from_millis(u64::try_from(body.max_wait_ms).unwrap_or(0)).min(WAIT_MAX);
    let bytes_max = usize::try_from(body.max_bytes).unwrap_or(0).min(BYTES_MAX);
    let mut fetch = Fetch {
        bytes_min: usize::try_from(body.min_bytes).unwrap_or(0).min(bytes_max),
        bytes_max,
        until: Instant::now() + wait,
        isolation: super::isolation(body.isolation_level),
        answers: call.ctx.answers.clone(),
        held: Held::default(),
        topics: resolve(&call.ctx, &call.request, body),
    };
    fetch.read(|_| true).await;
    if !wait.is_zero() && !fetch.is_enough() {
        fetch.wait_and_read().await;
    }
    let Fetch { topics, held, .. } = fetch;
    for topic in &topics {
        if let Some(counters) = &topic.counters {
            let answers =
                topic.partitions.iter().filter_map(|partition| partition.answer.as_ref().ok());
            counters.bytes_out.inc_by(answers.map(|read| read.records.len() as u64).sum());
        }
    }
    let partitions = topics.iter().flat_map(|topic| &topic.partitions);
    let outcome = first_error(partitions.map(|partition| error::code(&partition.answer)));
    response::encode(call, outcome, error::NONE, &topics, held)
}

/// Finds the logs.
fn resolve(ctx: &Context, request: &Request, body: FetchRequest) -> Vec<FetchedTopic> {
    let known = ctx.access(request).topics();
    let mut topics = Vec::with_capacity(body.topics.len());
    for asked in body.topics {
        let topic = match request.version {
            13.. => known.with_id(TopicId(asked.topic_id)),
            _ => known.named(&asked.topic),
        };
        let partitions = asked.partitions.iter().map(|partition| {
            let source = match &topic {
                Ok(topic) => source(ctx, topic, partition),
                Err(unreachable) => Err(unreachable.kafka()),
            };
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
            counters: topic.ok().and_then(|topic| topic.counters(&ctx.meter)),
            name: asked.topic,
            id: asked.topic_id,
        });
    }
    topics
}

fn source(
    ctx: &Context,
    topic: &Authorized<Topic<'_>, op::Read>,
    asked: &FetchPartition,
) -> Result<(Partition, Offset), ResponseError> {
    let (log, _) = super::partition(ctx, topic, asked.partition, asked.current_leader_epoch)?;
    let offset = Offset::from_wire(asked.fetch_offset).ok_or(ResponseError::OffsetOutOfRange)?;
    Ok((log, offset))
}

impl Fetch {
    fn partitions(&self) -> impl Iterator<Item = &FetchedPartition> {
        self.topics.iter().flat_map(|topic| &topic.partitions)
    }

    /// Whether the answer can go out: an error, nothing that more could be expected of, enough bytes, or
    /// a partition that has more than fits, since its reader is behind and has no use for waiting.
    fn is_enough(&self) -> bool {
        let bytes: usize = self.partitions().map(FetchedPartition::bytes).sum();
        self.partitions().any(|partition| partition.answer.is_err())
            || self.partitions().next().is_none()
            || bytes >= self.bytes_min
            || self.partitions().any(|partition| partition.is_cut(self.isolation))
    }

    /// Reads the partitions that are due, in request order; the others keep their answers and the
    /// bytes these take.
    async fn read(&mut self, is_due: impl Fn(&FetchedPartition) -> bool) {
        let Fetch { topics, bytes_max, until, isolation, answers, held, .. } = self;
        let isolation = *isolation;
        let mut bytes: usize =
            topics.iter().flat_map(|topic| &topic.partitions).map(FetchedPartition::bytes).sum();
        for partition in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            if !is_due(partition) {
                continue;
            }
            let Ok((log, from)) = &partition.source else { continue };
            bytes -= partition.answer.as_ref().map_or(0, |read| read.records.len());
            held.resize(bytes, answers);
            let wanted = partition.bytes_max.min(bytes_max.saturating_sub(bytes));
            let reader = Reader { log, from: *from, isolation, answers, until: *until };
            let outcome = match bytes {
                0 => reader.first(wanted).await,
                _ => reader.more(wanted, held.bytes()).await,
            };
            let (outcome, room) = match outcome {
                Ok((read, room)) => (Ok(read), room),
                Err(error) => (Err(error), Held::default()),
            };
            partition.answer = outcome.map_err(|error| {
                tracing::debug!(log = %log.id(), %error, "fetch refused");
                error.kafka()
            });
            bytes += partition.answer.as_ref().map_or(0, |read| read.records.len());
            held.add(room);
            held.resize(bytes, answers);
        }
    }

    /// Waits until the partitions have enough to show, or the time is over, and reads what they show
    /// more then.
    async fn wait_and_read(&mut self) {
        loop {
            let waited = timeout_at(self.until, self.wait()).await;
            let isolation = self.isolation;
            match waited {
                // A deleted topic: the read finds out and says so.
                Ok(News::Gone) => self.read(|_| true).await,
                _ => self.read(|partition| partition.is_moved(isolation)).await,
            }
            if waited.is_err() || self.is_enough() {
                return;
            }
        }
    }

    /// Waits until reading again is worth it. Counts bytes meanwhile and reads none, however often
    /// the logs grow.
    async fn wait(&self) -> News {
        let watched =
            self.partitions().filter_map(|partition| Watched::of(partition, self.isolation));
        let mut watched: Vec<Watched> = watched.collect();
        // Kept from wake to wake: only what fired is armed again, however many partitions wait.
        let subscribed = watched.iter().enumerate();
        let mut news: FuturesUnordered<_> =
            subscribed.map(|(at, watched)| next_change(at, watched.log.subscribe())).collect();
        // What came between the read and the subscription counts as well.
        let mut bytes = 0;
        for watched in &mut watched {
            match watched.look() {
                Some(more) => bytes += watched.read_bytes + more,
                None => return News::Enough,
            }
        }
        while bytes < self.bytes_min {
            let Some((at, span)) = news.next().await else { return News::Gone };
            let Some(span) = span else { return News::Gone };
            match watched[at].look() {
                Some(more) => bytes += more,
                None => return News::Enough,
            }
            news.push(next_change(at, span));
        }
        News::Enough
    }
}

/// Reads one partition. Its records are charged before they are read.
struct Reader<'a> {
    log: &'a Partition,
    from: Offset,
    isolation: Isolation,
    answers: &'a AnswerBudget,
    until: Instant,
}

impl Reader<'_> {
    /// The first records of an answer: up to `wanted` bytes, but one batch at least (KIP-74). When there
    /// is no room for them until the time is over, none.
    async fn first(&self, wanted: usize) -> Result<(ReadResult, Held), ReadError> {
        // A reader at the log's end needs no room. If records came between the two looks at the log, they
        // are read: an empty answer with a high watermark above its offset would contradict itself.
        if visible(&self.log.span(), self.isolation) <= self.from {
            let (read, room) = self.read(0, Held::default(), false).await?;
            if visible(&read.span, self.isolation) <= self.from {
                return Ok((read, room));
            }
        }
        let batch_bytes_max = self.log.config().batch_bytes_max as usize;
        let Ok(room) = timeout_at(self.until, self.answers.take_first(wanted, 0)).await else {
            return self.read(0, Held::default(), false).await;
        };
        let has_room_for_any = room.bytes() >= batch_bytes_max;
        let (read, room) = self.read(wanted, room, has_room_for_any).await?;
        let is_missing = read.records.is_empty() && visible(&read.span, self.isolation) > self.from;
        if has_room_for_any || !is_missing {
            return Ok((read, room));
        }
        // The first batch is larger than the room, or than what was asked for.
        drop(room);
        let room = self.answers.take_first(batch_bytes_max, batch_bytes_max);
        match timeout_at(self.until, room).await {
            Ok(room) => self.read(wanted, room, true).await,
            Err(_) => Ok((read, Held::default())),
        }
    }

    /// More records for an answer that holds `held` bytes: what there is room for, maybe none.
    async fn more(&self, wanted: usize, held: usize) -> Result<(ReadResult, Held), ReadError> {
        self.read(wanted, self.answers.try_take(wanted, held), false).await
    }

    async fn read(
        &self,
        wanted: usize,
        room: Held,
        at_least_one: bool,
    ) -> Result<(ReadResult, Held), ReadError> {
        let bytes_max = wanted.min(room.bytes());
        let (from, isolation) = (self.from, self.isolation);
        let request = ReadRequest { from, bytes_max, at_least_one, isolation };
        Ok((self.log.read(request).await?, room))
    }
}

/// What a wait has ended with.
enum News {
    /// There is enough, or it has to be read to know.
    Enough,
    /// A log is gone.
    Gone,
}

/// A partition that a fetch waits for.
struct Watched {
    log: Partition,
    from: Offset,
    isolation: Isolation,
    bytes_max: usize,
    /// Bytes of records that the answer has of it already.
    read_bytes: usize,
    /// What else it had to show at the last look.
    more_bytes: usize,
    /// The span with which it was read.
    read: OffsetSpan,
}

impl Watched {
    fn of(partition: &FetchedPartition, isolation: Isolation) -> Option<Watched> {
        let (Ok((log, from)), Ok(read)) = (&partition.source, &partition.answer) else {
            return None;
        };
        Some(Watched {
            log: log.clone(),
            from: *from,
            isolation,
            bytes_max: partition.bytes_max,
            read_bytes: read.records.len(),
            more_bytes: 0,
            read: read.span,
        })
    }

    /// How many bytes it has to show more than at the last look; `None` when waiting would add nothing
    /// to its answer, or when only a read can tell.
    fn look(&mut self) -> Option<usize> {
        let now = self.log.span();
        if visible(&now, self.isolation) == visible(&self.read, self.isolation) {
            return (now.start <= self.from).then_some(0);
        }
        // What an open transaction held back is not counted by itself.
        let is_held_back = self.isolation == Isolation::ReadCommitted
            && [now, self.read].iter().any(|span| span.last_stable != span.high_watermark);
        if now.start > self.from || is_held_back {
            return None;
        }
        let shown = now.shown_bytes.wrapping_sub(self.read.shown_bytes) as usize;
        let more = shown - std::mem::replace(&mut self.more_bytes, shown);
        (self.read_bytes + shown <= self.bytes_max).then_some(more)
    }
}

/// The span's receiver once the span has changed, with the number given; `None` when its log is gone.
async fn next_change(
    at: usize,
    mut span: watch::Receiver<OffsetSpan>,
) -> (usize, Option<watch::Receiver<OffsetSpan>>) {
    let changed = span.changed().await;
    (at, changed.ok().map(|()| span))
}

#[cfg(test)]
mod tests;
