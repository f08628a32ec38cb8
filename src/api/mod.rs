//! One file per Kafka API: decode, ask the rooms below, encode. Sentinels end here: Kafka's `-1`
//! and empty strings become `Option` and enums in these files and do not travel further down.

mod access;
mod answers;
mod call;
mod error;
mod header;
mod member;
mod meter;
mod primitives;
mod table;

#[cfg(test)]
pub(crate) mod tests;

mod alter_configs;
mod api_versions;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_topic_partitions;
mod fetch;
mod find_coordinator;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_groups;
mod list_offsets;
mod metadata;
mod offset_commit;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
mod session;
mod sync_group;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages;
use kafka_protocol::protocol::StrBytes;

use self::access::Topic;
use crate::config::Config;
use crate::log::{Isolation, Partition};
use crate::metadata::placement::Placement;
use crate::security::Authorized;
use crate::types::{Clock, LeaderEpoch, PartitionId, TopicName};

pub use access::Resources;
pub use answers::{AnswerBudget, Held};
pub use call::{Begun, Order, Refusal, Reply, begin};
pub use header::{PREFIX_BYTES, exceeded_frame_bytes_max};
pub use meter::Meter;
pub use session::{Authentication, ClientSoftware, Identity, Session, Throttle};

/// What every handler may use. One per broker, shared.
pub struct Context {
    /// The broker's configuration.
    pub config: Arc<Config>,
    /// Identity of the cluster, as Metadata answers it.
    pub cluster_id: String,
    /// Topics, groups and producer ids, as far as a request's client is authorised for them.
    pub resources: Resources,
    /// Leaders and coordinators.
    pub placement: Arc<dyn Placement>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Counters of requests, bytes and records.
    pub meter: Meter,
    /// Bytes of answers in memory.
    pub answers: AnswerBudget,
}

/// What a request says of itself, beside its body.
#[derive(Clone, Debug)]
pub struct Request {
    /// The version its body was decoded with and the answer is encoded with.
    pub version: i16,
    /// `client.id`; empty when null.
    pub client_id: StrBytes,
    /// The connection that it came on.
    pub session: Arc<Session>,
    /// Who its client was when it began.
    pub identity: Arc<Identity>,
}

/// A reply that may still be waiting for disk, records or members.
pub type Later<T> = BoxFuture<'static, T>;

/// A topic name for a response.
fn wire_name(name: &TopicName) -> messages::TopicName {
    wire_text(name.as_str()).into()
}

/// Text for a response.
fn wire_text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Kafka's isolation levels: 0 reads everything, 1 what is committed.
fn isolation(level: i8) -> Isolation {
    if level == 0 { Isolation::ReadUncommitted } else { Isolation::ReadCommitted }
}

/// The names that a request has more than once.
fn repeated<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut once = BTreeSet::new();
    names.filter(|name| !once.insert(*name)).collect()
}

/// The log of a topic's partition and its leader epoch, for a client that believes in the leader
/// epoch `believed`.
fn partition<O>(
    ctx: &Context,
    topic: &Authorized<Topic<'_>, O>,
    index: i32,
    believed: i32,
) -> Result<(Partition, LeaderEpoch), ResponseError> {
    let unknown = ResponseError::UnknownTopicOrPartition;
    let partition = PartitionId::from_wire(index).ok_or(unknown)?;
    let log = topic.log(partition).ok_or(absent(topic, partition))?;
    let (_, epoch) = ctx.placement.leader(log.id());
    fenced(believed, epoch)?;
    Ok((log, epoch))
}

/// What a partition without an open log is: unknown, or offline since its log could not be opened.
fn absent(topic: &crate::metadata::Topic, partition: PartitionId) -> ResponseError {
    if partition.0 < topic.partitions {
        ResponseError::KafkaStorageError
    } else {
        ResponseError::UnknownTopicOrPartition
    }
}

/// Checks the leader epoch that a client believes in, -1 for none (KIP-320).
fn fenced(believed: i32, current: LeaderEpoch) -> Result<(), ResponseError> {
    match believed {
        -1 => Ok(()),
        epoch if epoch < current.0 => Err(ResponseError::FencedLeaderEpoch),
        epoch if epoch > current.0 => Err(ResponseError::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}
