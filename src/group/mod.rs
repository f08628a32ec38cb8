//! Consumer groups and committed offsets. The state machine is pure (`state`, `effect`); `task`
//! performs its effects and persists before it replies; `offsets` keeps `__consumer_offsets` in
//! Kafka's own record format. Knows no Kafka message.

mod collector;
mod effect;
mod expiry;
mod member;
mod offsets;
mod position;
mod rebalance;
mod replay;
mod state;
mod task;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use self::task::{Command, Directory, Shard};
use crate::config::{Config, GROUP_MEMBERS_MAX, OFFSET_METADATA_LENGTH_MAX};
use crate::log::AgeClock;
use crate::metadata::Metadata;
use crate::metrics::Metrics;
use crate::types::{Clock, Generation, LeaderEpoch, PartitionId, Timestamp, TopicId};

pub use position::Position;

/// A member's request to join (KIP-62, KIP-345, KIP-394).
#[derive(Clone, Debug)]
pub struct Join {
    /// The group.
    pub group: String,
    /// `None` for a new member.
    pub member: Option<String>,
    /// `group.instance.id`, for static members.
    pub instance: Option<String>,
    /// From the request header, prefix of generated member ids.
    pub client_id: String,
    /// The peer's address as text.
    pub client_host: String,
    /// How long it may stay silent.
    pub session_timeout: Duration,
    /// How long a rebalance waits for it.
    pub rebalance_timeout: Duration,
    /// `consumer`, `connect`, …
    pub protocol_type: String,
    /// Name and opaque metadata, most preferred first.
    pub protocols: Vec<(String, Bytes)>,
    /// v4+: a new member is first given its id (error 79).
    pub require_known_member: bool,
    /// v9+: a static leader that comes back can be told to keep the assignment (KIP-814).
    pub can_skip_assignment: bool,
}

/// A completed join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The new generation.
    pub generation: Generation,
    /// The protocol all members support.
    pub protocol: String,
    /// Its type.
    pub protocol_type: String,
    /// The leader's member id.
    pub leader: String,
    /// This member's id.
    pub member: String,
    /// For the leader: every member's id, instance and metadata. Empty for others.
    pub members: Vec<(String, Option<String>, Bytes)>,
    /// A static leader came back: keep the assignment (KIP-814).
    pub skip_assignment: bool,
}

/// A sync: the leader's carries the assignments.
#[derive(Clone, Debug)]
pub struct Sync {
    /// The group.
    pub group: String,
    /// Who.
    pub member: String,
    /// Its instance.
    pub instance: Option<String>,
    /// Its generation.
    pub generation: Generation,
    /// Checked if given (v5+).
    pub protocol_type: Option<String>,
    /// Checked if given (v5+).
    pub protocol: Option<String>,
    /// Member id and opaque assignment.
    pub assignments: Vec<(String, Bytes)>,
}

/// A member's share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Opaque.
    pub assignment: Bytes,
    /// The group's.
    pub protocol_type: String,
    /// The chosen one.
    pub protocol: String,
}

/// Who acts: `None` members are simple consumers that only commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberRef {
    /// Member id.
    pub member: Option<String>,
    /// Instance id.
    pub instance: Option<String>,
    /// Generation.
    pub generation: Option<Generation>,
}

/// A committed position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Where to read on.
    pub position: Position,
    /// Leader epoch of the last consumed record, if sent.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Client's text.
    pub metadata: String,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// When it may be forgotten, if its client said so.
    pub expires_at: Option<Timestamp>,
}

impl CommittedOffset {
    /// Refuses a text that is longer than one may be (`offset.metadata.max.bytes`). Kafka counts what
    /// Java does, which is UTF-16 units.
    pub fn check_metadata(&self) -> Result<(), GroupError> {
        // No text has more of them than it has bytes.
        if self.metadata.len() <= OFFSET_METADATA_LENGTH_MAX {
            return Ok(());
        }
        match self.metadata.encode_utf16().count() {
            ..=OFFSET_METADATA_LENGTH_MAX => Ok(()),
            length => Err(GroupError::MetadataTooLarge(length)),
        }
    }
}

/// A committed position with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOffset {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// The position.
    pub committed: CommittedOffset,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// Its id.
    pub group: String,
    /// `consumer`, or empty for one that only commits.
    pub protocol_type: String,
    /// Kafka's state name: `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Stable`, `Dead`.
    pub state: &'static str,
}

/// A group in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its listing.
    pub listing: GroupListing,
    /// Chosen protocol, empty while rebalancing.
    pub protocol: String,
    /// Its members.
    pub members: Vec<MemberDescription>,
}

/// A member in a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Member id.
    pub member: String,
    /// Instance id.
    pub instance: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Peer address.
    pub client_host: String,
    /// Opaque, of the chosen protocol.
    pub metadata: Bytes,
    /// Opaque.
    pub assignment: Bytes,
}

/// Why a group request was refused; the comments name Kafka's code.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GroupError {
    /// 24.
    #[error("group id is empty")]
    InvalidGroupId,
    /// 25.
    #[error("member '{0}' is not known to the group")]
    UnknownMember(String),
    /// 22.
    #[error("generation {0} is not the group's current one")]
    IllegalGeneration(Generation),
    /// 27.
    #[error("the group is rebalancing: rejoin")]
    RebalanceInProgress,
    /// 23.
    #[error("no protocol is supported by all members")]
    InconsistentProtocol,
    /// 26.
    #[error(
        "session timeout {0:?} is outside group.min.session.timeout.ms and group.max.session.timeout.ms"
    )]
    InvalidSessionTimeout(Duration),
    /// 79: join again with this member id.
    #[error("join again as member '{0}'")]
    MemberIdRequired(String),
    /// 82.
    #[error("instance '{0}' was fenced by a newer member")]
    FencedInstance(String),
    /// 68.
    #[error("group '{0}' still has members")]
    NotEmpty(String),
    /// 69.
    #[error("group '{0}' does not exist")]
    NotFound(String),
    /// 12.
    #[error("offset metadata has {0} UTF-16 units, at most {max} are allowed", max = OFFSET_METADATA_LENGTH_MAX)]
    MetadataTooLarge(usize),
    /// 81.
    #[error("the group has {max} members, the most it may have; use another group", max = GROUP_MEMBERS_MAX)]
    Full,
    /// 15: the broker is starting or stopping.
    #[error("the coordinator is not available")]
    NotAvailable,
    /// 16, as Kafka answers for 56 of the topic's log: the client asks for the coordinator anew.
    #[error("offsets could not be written: {0}")]
    Storage(String),
}

/// The internal topic that keeps groups and their offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// What Kafka's group coordinator asks of that topic's logs: the newest commit is all that counts.
const OFFSETS_CONFIGS: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("compression.type", "producer"),
    ("segment.bytes", "104857600"),
];
/// How many tasks own groups.
const SHARDS: usize = 4;
/// Requests that may wait for a shard.
const QUEUE_REQUESTS_MAX: usize = 1024;

/// A cheap handle to the group coordinator. Its tasks end when the last handle is dropped.
#[derive(Clone)]
pub struct Groups {
    shards: Arc<[mpsc::Sender<Command>]>,
    directory: Arc<Directory>,
    config: Arc<Config>,
    offsets_partitions: u32,
}

impl Groups {
    /// Replays `__consumer_offsets` (created if absent) and starts the coordinator.
    pub async fn start(
        metadata: Metadata,
        config: Arc<Config>,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Groups, GroupError> {
        let topic = metadata
            .ensure_internal(OFFSETS_TOPIC, config.offsets_topic_partitions, OFFSETS_CONFIGS)
            .await
            .map_err(|error| GroupError::Storage(error.to_string()))?;
        let directory = Arc::new(Directory::new());
        collector::register(&directory, &metadata, metrics)?;
        let ages = Arc::new(AgeClock::start(clock.clone()));
        let new_shard = || {
            let (metadata, config, clock) = (metadata.clone(), config.clone(), clock.clone());
            Shard::new(metadata, config, clock, ages.clone(), topic.clone(), directory.clone())
        };
        let mut shards: Vec<Shard> = (0..SHARDS).map(|_| new_shard()).collect();
        let image = metadata.image();
        let progress = metadata.progress();
        progress.begin("reading committed offsets", u64::from(topic.partitions));
        for id in topic.logs() {
            let log = metadata.log(id.topic, id.partition);
            let log = log.ok_or_else(|| GroupError::Storage(format!("log {id} is not open")))?;
            for (group, replayed) in replay::replay(&log, &image).await? {
                let shard = &mut shards[shard_of(id.partition)];
                shard.adopt(&group, replayed.metadata, replayed.offsets);
            }
            progress.advance();
        }
        let spawn = |shard: Shard| {
            let (requests, queue) = mpsc::channel(QUEUE_REQUESTS_MAX);
            tokio::spawn(shard.run(queue));
            requests
        };
        Ok(Groups {
            shards: shards.into_iter().map(spawn).collect(),
            directory,
            config,
            offsets_partitions: topic.partitions,
        })
    }

    /// Waits for the rebalance to complete.
    pub async fn join(&self, request: Join) -> Result<Joined, GroupError> {
        check_group_id(&request.group)?;
        let session = request.session_timeout;
        let (min, max) =
            (self.config.group_min_session_timeout, self.config.group_max_session_timeout);
        if session < min || session > max {
            return Err(GroupError::InvalidSessionTimeout(session));
        }
        let group = request.group.clone();
        self.ask(&group, |reply| Command::Join { request, reply }).await?
    }

    /// Waits for the leader's assignment: an event, never a timer.
    pub async fn sync(&self, request: Sync) -> Result<Synced, GroupError> {
        check_group_id(&request.group)?;
        let group = request.group.clone();
        self.ask(&group, |reply| Command::Sync { request, reply }).await?
    }

    /// Keeps a member's session alive.
    pub async fn heartbeat(&self, group: &str, member: MemberRef) -> Result<(), GroupError> {
        check_group_id(group)?;
        let owned = group.to_owned();
        self.ask(group, |reply| Command::Heartbeat { group: owned, member, reply }).await?
    }

    /// Removes members; one result each.
    pub async fn leave(
        &self,
        group: &str,
        members: Vec<MemberRef>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        check_group_id(group)?;
        let owned = group.to_owned();
        self.ask(group, |reply| Command::Leave { group: owned, members, reply }).await
    }

    /// Commits durably, all or none. For a generation of a group that does not exist: `NotFound`.
    pub async fn commit(
        &self,
        group: &str,
        member: MemberRef,
        offsets: Vec<GroupOffset>,
    ) -> Result<(), GroupError> {
        offsets.iter().try_for_each(|offset| offset.committed.check_metadata())?;
        let owned = group.to_owned();
        self.ask(group, |reply| Command::Commit { group: owned, member, offsets, reply }).await?
    }

    /// All committed offsets of a group; empty for an unknown group.
    pub fn committed(&self, group: &str) -> Vec<GroupOffset> {
        let Some(published) = self.directory.get(group) else { return Vec::new() };
        let offsets = published.offsets.iter();
        offsets
            .map(|((topic, partition), (_, committed))| GroupOffset {
                topic: *topic,
                partition: *partition,
                committed: committed.clone(),
            })
            .collect()
    }

    /// All groups, by id.
    pub fn list(&self) -> Vec<GroupListing> {
        let mut groups: Vec<_> = self.directory.iter().map(|group| group.listing.clone()).collect();
        groups.sort_by(|a, b| a.group.cmp(&b.group));
        groups
    }

    /// One group; Kafka describes an unknown one as `Dead`, which the caller does with `None`.
    pub async fn describe(&self, group: &str) -> Option<GroupDescription> {
        let owned = group.to_owned();
        self.ask(group, |reply| Command::Describe { group: owned, reply }).await.ok()?
    }

    /// Deletes an empty group with its offsets.
    pub async fn delete(&self, group: &str) -> Result<(), GroupError> {
        let owned = group.to_owned();
        self.ask(group, |reply| Command::Delete { group: owned, reply }).await?
    }

    async fn ask<T>(
        &self,
        group: &str,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, GroupError> {
        let shard = shard_of(offsets::partition_of(group, self.offsets_partitions));
        let (reply, answer) = oneshot::channel();
        let sent = self.shards[shard].send(command(reply)).await;
        sent.map_err(|_| GroupError::NotAvailable)?;
        answer.await.map_err(|_| GroupError::NotAvailable)
    }
}

/// The task that owns the groups of a partition.
fn shard_of(partition: PartitionId) -> usize {
    partition.0 as usize % SHARDS
}

fn check_group_id(group: &str) -> Result<(), GroupError> {
    if group.is_empty() { Err(GroupError::InvalidGroupId) } else { Ok(()) }
}
