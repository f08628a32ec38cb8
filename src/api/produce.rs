//! Produce (key 0), v3-13: appends record batches as they come.
//!
//! v9 is flexible, v13 names topics by id (KIP-516). ApiVersions shows v0 as the lowest, since
//! librdkafka before 2.11.1 turns features off otherwise (KAFKA-18659); v0-2 close the connection,
//! as with Kafka. Appends are queued in request order and answered when they are written
//! (`acks=1`) or on the disk (`acks=all`). `timeout_ms` is not needed: no replica is waited for.
//! Gaps: transactional producers are refused; current leaders (KIP-951) are left out.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ApiKey, ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::call::{Api, Call, Outcome, Reply, first_error};
use super::error::{self, Coded};
use super::meter::TopicCounters;
use super::{Context, Later, Refusal, absent};
use crate::catalog::Topic;
use crate::log::{AppendError, AppendOptions, Appended, Durable, PendingAppend};
use crate::types::{PartitionId, TopicId};

pub(super) const API: Api = Api::staged(ApiKey::Produce, 3..=13).advertised_from(0);

impl Outcome for ProduceResponse {
    fn error(&self) -> i16 {
        let partitions = self.responses.iter().flat_map(|topic| &topic.partition_responses);
        first_error(partitions.map(|partition| partition.error_code))
    }
}

/// Why nothing was appended to a partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum ProduceError {
    #[error("{1}")]
    Refused(ResponseError, &'static str),
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl Coded for ProduceError {
    fn kafka(&self) -> ResponseError {
        match self {
            ProduceError::Refused(error, _) => *error,
            ProduceError::Append(error) => error.kafka(),
        }
    }
}

/// A topic of the request, its appends queued.
struct Queued {
    name: TopicName,
    id: Uuid,
    counters: Option<Arc<TopicCounters>>,
    partitions: Vec<QueuedPartition>,
}

struct QueuedPartition {
    index: i32,
    bytes: u64,
    append: Result<PendingAppend, ProduceError>,
}

/// Queues the appends: the answer is given when they are done.
pub(super) async fn begin(mut call: Call) -> Result<Later<Reply>, Refusal> {
    let body: ProduceRequest = call.decode()?;
    let acks = body.acks;
    let queued = enqueue(&call.ctx, call.request.version, body).await;
    Ok(Box::pin(async move {
        let mut responses = Vec::with_capacity(queued.len());
        for topic in queued {
            responses.push(outcome(topic).await);
        }
        let response = ProduceResponse::default().with_responses(responses);
        if acks != 0 {
            return call.answer(&response);
        }
        // Nobody waits for an answer: a closed connection is the only way to say that it failed.
        let error = response.error();
        call.count(error);
        if error == error::NONE {
            return Reply::Silence;
        }
        Reply::Close(format!("produce with acks=0 failed with error {error}"))
    }))
}

async fn enqueue(ctx: &Context, version: i16, body: ProduceRequest) -> Vec<Queued> {
    let refused = match body.acks {
        _ if body.transactional_id.is_some() => Some(ProduceError::Refused(
            ResponseError::InvalidTxnState,
            "transactions are not supported yet",
        )),
        -1..=1 => None,
        _ => Some(ProduceError::Refused(
            ResponseError::InvalidRequiredAcks,
            "acks must be 0, 1 or -1",
        )),
    };
    let durable = if body.acks == -1 { Durable::Synced } else { Durable::Written };
    let snapshot = ctx.catalog.snapshot();
    let mut queued = Vec::with_capacity(body.topic_data.len());
    for data in body.topic_data {
        let topic = if version >= 13 {
            snapshot.topic_by_id(TopicId(data.topic_id))
        } else {
            snapshot.topic(data.name.as_str())
        };
        let mut partitions = Vec::with_capacity(data.partition_data.len());
        for partition in data.partition_data {
            let records = partition.records.unwrap_or_default();
            let bytes = records.len() as u64;
            let append = match (&refused, topic) {
                (Some(refused), _) => Err(refused.clone()),
                (None, Some(topic)) => append(ctx, topic, partition.index, records, durable).await,
                (None, None) if version >= 13 => Err(ProduceError::Refused(
                    ResponseError::UnknownTopicId,
                    "the topic id does not exist",
                )),
                (None, None) => Err(ProduceError::Refused(
                    ResponseError::UnknownTopicOrPartition,
                    "the topic does not exist",
                )),
            };
            partitions.push(QueuedPartition { index: partition.index, bytes, append });
        }
        let counters = topic.map(|topic| ctx.meter.topic(topic.id, &topic.name));
        queued.push(Queued { name: data.name, id: data.topic_id, counters, partitions });
    }
    queued
}

async fn append(
    ctx: &Context,
    topic: &Topic,
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
    let log = ctx.catalog.log(topic.id, partition).ok_or_else(|| {
        ProduceError::Refused(
            absent(topic, partition),
            "the partition does not exist, or its log could not be opened at the broker's start",
        )
    })?;
    check_batch(&records)?;
    let batch_bytes_max = log.config().batch_bytes_max;
    let options = AppendOptions { durable, batch_bytes_max, within_segment: true };
    Ok(log.enqueue(records, options).await)
}

/// What Kafka asks of a producer beyond what every batch must fulfil (`ProduceRequest.validate`):
/// exactly one whole batch in format 2, neither a control batch nor part of a transaction. The log
/// checks the rest.
fn check_batch(records: &[u8]) -> Result<(), ProduceError> {
    const LENGTH_AT: usize = 8;
    const OVERHEAD: usize = 12;
    /// Of a batch without records.
    const LENGTH_MIN: usize = 49;
    const MAGIC_AT: usize = 16;
    const ATTRIBUTES_AT: usize = 21;
    const TRANSACTIONAL: u8 = 0x10;
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
    let Some(attributes) = records.get(ATTRIBUTES_AT + 1) else {
        return invalid("the record batch is cut short");
    };
    if attributes & CONTROL != 0 {
        return invalid("clients may not write control batches");
    }
    if attributes & TRANSACTIONAL != 0 {
        return Err(ProduceError::Refused(
            ResponseError::TransactionalIdAuthorizationFailed,
            "a transactional record batch needs a transactional id",
        ));
    }
    Ok(())
}

async fn outcome(topic: Queued) -> TopicProduceResponse {
    let mut answers = Vec::with_capacity(topic.partitions.len());
    for partition in topic.partitions {
        let outcome = match partition.append {
            Ok(pending) => pending.await.map_err(ProduceError::from),
            Err(refused) => Err(refused),
        };
        let answer = PartitionProduceResponse::default()
            .with_index(partition.index)
            .with_error_code(error::code(&outcome));
        answers.push(match outcome {
            Ok(appended) => {
                if let Some(counters) = &topic.counters {
                    count(counters, &appended, partition.bytes);
                }
                answer
                    .with_base_offset(appended.base_offset.to_wire())
                    .with_log_append_time_ms(appended.append_time.map_or(-1, |time| time.0))
                    .with_log_start_offset(appended.log_start.to_wire())
            }
            Err(error) => {
                tracing::debug!(topic = %topic.name.0, partition = partition.index, %error, "append refused");
                answer
                    .with_base_offset(-1)
                    .with_record_errors(record_errors(&error))
                    .with_error_message(Some(StrBytes::from_string(error.to_string())))
            }
        });
    }
    TopicProduceResponse::default()
        .with_name(topic.name)
        .with_topic_id(topic.id)
        .with_partition_responses(answers)
}

/// The records at fault (KIP-467).
fn record_errors(error: &ProduceError) -> Vec<BatchIndexAndErrorMessage> {
    let ProduceError::Append(error) = error else { return Vec::new() };
    let faults = error.faults().iter();
    faults
        .map(|fault| {
            BatchIndexAndErrorMessage::default()
                .with_batch_index(fault.index)
                .with_batch_index_error_message(Some(StrBytes::from_string(fault.reason.clone())))
        })
        .collect()
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
