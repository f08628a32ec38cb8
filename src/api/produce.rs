//! Produce (key 0), v3-13: appends record batches as they come.
//!
//! v9 is flexible, v13 names topics by id (KIP-516). ApiVersions shows v0 as the lowest, since
//! librdkafka before 2.11.1 turns features off otherwise (KAFKA-18659); v0-2 close the connection,
//! as with Kafka. Appends take their places in request order and are answered when they are
//! written (`acks=1`) or on the disk (`acks=all`). `timeout_ms` is not needed: no replica is waited for.
//! Decoded and encoded by hand: it is what comes most often. A request names at most 65,536 topics
//! and partitions; of a partition that it names more than once the last batch counts. Gaps: transactional producers are refused; current leaders (KIP-951) are left out.

mod request;
mod response;

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use tokio::task::coop::consume_budget;

use self::request::{ProduceRequest, TopicName};
use super::access::{Access, Topic, Unreachable};
use super::call::{Api, Call, Reply, first_error};
use super::error::{self, Coded};
use super::meter::TopicCounters;
use super::{Begun, Context, Order, Refusal, Request, absent};
use crate::log::{AppendError, AppendOptions, AppendOrigin, Appended, Durable, PendingAppend};
use crate::security::{Authorized, op};
use crate::types::{PartitionId, TopicId};

pub(super) const API: Api = Api::staged(ApiKey::Produce, 3..=13).advertised_from(0);

/// Where a batch has its format, and the byte with its attributes.
const MAGIC_AT: usize = 16;
const ATTRIBUTES_AT: usize = 22;

/// Why nothing was appended to a partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum ProduceError {
    #[error("{1}")]
    Refused(ResponseError, &'static str),
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl From<Unreachable> for ProduceError {
    fn from(unreachable: Unreachable) -> ProduceError {
        let why = match unreachable {
            Unreachable::Denied(_) => "the client is not authorised for it",
            Unreachable::UnknownName => "the topic does not exist",
            Unreachable::UnknownId => "the topic id does not exist",
        };
        ProduceError::Refused(unreachable.kafka(), why)
    }
}

impl Coded for ProduceError {
    fn kafka(&self) -> ResponseError {
        match self {
            ProduceError::Refused(error, _) => *error,
            ProduceError::Append(error) => error.kafka(),
        }
    }
}

/// A topic of the request, its appends begun.
struct Produced {
    name: TopicName,
    counters: Option<Arc<TopicCounters>>,
    partitions: Vec<ProducedPartition>,
}

struct ProducedPartition {
    index: i32,
    bytes: u64,
    append: Append,
}

enum Append {
    Pending(PendingAppend),
    Done(Result<Appended, ProduceError>),
}

/// Begins the appends: the answer is given when they are done.
pub(super) async fn begin(mut call: Call) -> Result<Begun, Refusal> {
    let version = call.request.version;
    let body = request::decode(call.take_body(), version).map_err(|why| call.malformed(why))?;
    let acks = body.acks;
    let mut topics = append_all(&call.ctx, &call.request, body).await;
    let is_done = |partition: &ProducedPartition| matches!(partition.append, Append::Done(_));
    if topics.iter().flat_map(|topic| &topic.partitions).all(is_done) {
        return Ok(Begun::Answered(answer(call, acks, &topics)));
    }
    let reply = async move {
        for partition in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            if let Append::Pending(append) = &mut partition.append {
                partition.append = Append::Done(append.await.map_err(ProduceError::from));
            }
        }
        answer(call, acks, &topics)
    };
    Ok(Begun::Pending(Order::Staged, Box::pin(reply)))
}

/// The answer to appends that are done.
fn answer(call: Call, acks: i16, topics: &[Produced]) -> Reply {
    for topic in topics {
        for partition in &topic.partitions {
            match (partition.outcome(), &topic.counters) {
                (Ok(appended), Some(counters)) => count(counters, appended, partition.bytes),
                (Ok(_), None) => {}
                (Err(error), _) => {
                    let (topic, partition) = (&topic.name, partition.index);
                    tracing::debug!(%topic, partition, %error, "append refused");
                }
            }
        }
    }
    let partitions = topics.iter().flat_map(|topic| &topic.partitions);
    let error = first_error(partitions.map(|partition| error::code(partition.outcome())));
    if acks != 0 {
        return response::encode(call, error, topics);
    }
    // Nobody waits for an answer: a closed connection is the only way to say that it failed.
    call.count(error);
    if error == error::NONE {
        return Reply::Silence;
    }
    Reply::Close(format!("produce with acks=0 failed with error {error}"))
}

async fn append_all(ctx: &Context, request: &Request, body: ProduceRequest) -> Vec<Produced> {
    let access = ctx.access(request);
    // One such batch that may not be written, and nothing of the request is appended.
    let barred = check_transactional(access, &body).err();
    let has_valid_acks = matches!(body.acks, -1..=1);
    let durable = if body.acks == -1 { Durable::Synced } else { Durable::Written };
    let known = access.topics();
    let topics = request::last_of_each(body.topics);
    let mut produced = Vec::with_capacity(topics.len());
    for asked in topics {
        let topic = match (&barred, &asked.name) {
            (Some(barred), _) => Err(barred.clone()),
            (None, TopicName::Id(id)) => known.with_id(TopicId(*id)).map_err(ProduceError::from),
            (None, TopicName::Text(name)) => known.named(name).map_err(ProduceError::from),
        };
        let topic = topic.and_then(|topic| match has_valid_acks {
            true => Ok(topic),
            false => Err(ProduceError::Refused(
                ResponseError::InvalidRequiredAcks,
                "acks must be 0, 1 or -1",
            )),
        });
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for (index, records) in asked.partitions {
            let bytes = records.len() as u64;
            let append = match &topic {
                Ok(topic) => append(topic, index, records, durable).await,
                Err(refused) => Err(refused.clone()),
            };
            let append = match append.map(PendingAppend::into_outcome) {
                Ok(Err(pending)) => Append::Pending(pending),
                Ok(Ok(outcome)) => Append::Done(outcome.map_err(ProduceError::from)),
                Err(refused) => Append::Done(Err(refused)),
            };
            partitions.push(ProducedPartition { index, bytes, append });
            // An append that waited for nobody was work all the same: other connections have their turn.
            consume_budget().await;
        }
        let counters = topic.ok().and_then(|topic| topic.counters(&ctx.meter));
        produced.push(Produced { name: asked.name, counters, partitions });
    }
    produced
}

impl ProducedPartition {
    /// The outcome of what was waited for.
    fn outcome(&self) -> &Result<Appended, ProduceError> {
        const UNDECIDED: Result<Appended, ProduceError> = Err(ProduceError::Refused(
            ResponseError::UnknownServerError,
            "the append was not waited for",
        ));
        match &self.append {
            Append::Done(outcome) => outcome,
            Append::Pending(_) => &UNDECIDED,
        }
    }
}

/// Whether the transactional batches of a request may be written: by their transactional id.
fn check_transactional(access: Access<'_>, body: &ProduceRequest) -> Result<(), ProduceError> {
    let mut batches = body.topics.iter().flat_map(|topic| &topic.partitions);
    if !batches.any(|(_, batch)| is_transactional(batch)) {
        return Ok(());
    }
    match &body.transactional_id {
        Some(id) => access
            .transactional_id::<op::Write>(id)
            .map(|_| ())
            .map_err(|denied| ProduceError::from(Unreachable::Denied(denied))),
        None => Err(ProduceError::Refused(
            ResponseError::TransactionalIdAuthorizationFailed,
            "a transactional record batch needs a transactional id",
        )),
    }
}

async fn append(
    topic: &Authorized<Topic<'_>, op::Write>,
    index: i32,
    records: Bytes,
    durable: Durable,
) -> Result<PendingAppend, ProduceError> {
    if topic.internal {
        return Err(ProduceError::Refused(
            ResponseError::InvalidTopicException,
            "clients may not write to internal topics",
        ));
    }
    let unknown = ProduceError::Refused(
        ResponseError::UnknownTopicOrPartition,
        "the partition does not exist",
    );
    let partition = PartitionId::from_wire(index).ok_or(unknown)?;
    let log = topic.log(partition).ok_or_else(|| {
        ProduceError::Refused(
            absent(topic, partition),
            "the partition does not exist, or its log could not be opened at the broker's start",
        )
    })?;
    check_batch(&records)?;
    let batch_bytes_max = log.config().batch_bytes_max;
    let options = AppendOptions { durable, batch_bytes_max, origin: AppendOrigin::Client };
    Ok(log.enqueue(records, options).await)
}

/// What Kafka asks of a producer beyond what every batch must fulfil (`ProduceRequest.validate`):
/// exactly one whole batch in format 2 that is no control batch, nor part of a transaction: there is no
/// transactional id that a producer id could belong to. The log checks the rest.
fn check_batch(records: &[u8]) -> Result<(), ProduceError> {
    const LENGTH_AT: usize = 8;
    const OVERHEAD: usize = 12;
    /// Of a batch without records.
    const LENGTH_MIN: usize = 49;
    const CONTROL: u8 = 0x20;
    let invalid = |why| Err(ProduceError::Refused(ResponseError::InvalidRecord, why));
    let length: Option<[u8; 4]> =
        records.get(LENGTH_AT..OVERHEAD).and_then(|bytes| bytes.try_into().ok());
    let (Some(length), Some(magic)) = (length, records.get(MAGIC_AT)) else {
        return invalid("the partition has no record batch");
    };
    match magic {
        2 => {}
        0 | 1 => return invalid("only record batches in format 2 are accepted"),
        _ => {
            return Err(ProduceError::Refused(
                ResponseError::CorruptMessage,
                "the record batch has an unknown format",
            ));
        }
    }
    // A length that no batch can have is for the log to find.
    let length = usize::try_from(i32::from_be_bytes(length));
    if let Ok(length) = length
        && length >= LENGTH_MIN
    {
        match (length + OVERHEAD).cmp(&records.len()) {
            Ordering::Less => {
                return invalid("a produce request may carry only one record batch per partition");
            }
            Ordering::Equal => {}
            Ordering::Greater => return invalid("the record batch is cut short"),
        }
    }
    let Some(attributes) = records.get(ATTRIBUTES_AT) else {
        return invalid("the record batch is cut short");
    };
    if attributes & CONTROL != 0 {
        return invalid("clients may not write control batches");
    }
    if is_transactional(records) {
        return Err(ProduceError::Refused(
            ResponseError::InvalidProducerIdMapping,
            "no producer id belongs to this transactional id: transactions are not supported yet",
        ));
    }
    Ok(())
}

/// Whether a batch says that it is part of a transaction.
fn is_transactional(batch: &[u8]) -> bool {
    const TRANSACTIONAL: u8 = 0x10;
    batch.get(MAGIC_AT) == Some(&2)
        && batch.get(ATTRIBUTES_AT).is_some_and(|attributes| attributes & TRANSACTIONAL != 0)
}

fn count(counters: &TopicCounters, appended: &Appended, bytes: u64) {
    if appended.duplicate {
        return;
    }
    counters.bytes_in.inc_by(bytes);
    counters.records_in.inc_by(appended.last_offset.since(appended.base_offset) + 1);
}

#[cfg(test)]
mod tests;
