//! Topics and their configs. The truth is the metadata journal; this room replays it, owns all
//! changes in one task and publishes immutable images.

pub mod at_rest;
pub mod journal;
pub mod local_journal;
pub mod placement;

mod collector;
mod record;
mod replay;
mod task;
mod topic;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use self::journal::Journal;
use self::task::{Command, Owner};
use crate::config::Config;
use crate::log::{Logs, Partition};
use crate::metrics::Metrics;
use crate::types::{Clock, LogId, PartitionId, Progress, TopicId, TopicName, TopicNameError};

pub use local_journal::LocalJournal;
pub use topic::{BrokerConfig, ConfigChange, ConfigChanges, TopicConfig};

/// The most partitions a topic may have: each costs memory at every start.
pub const PARTITIONS_MAX: u32 = 10_000;
/// Changes that may wait for the owning task.
const QUEUE_CHANGES_MAX: usize = 64;

/// One topic as it stands.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its identity.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// Number of partitions, from 1.
    pub partitions: u32,
    /// Topic configs that differ from the broker's, by Kafka's names.
    pub configs: BTreeMap<String, String>,
    /// Internal topics (`__consumer_offsets`, …) are marked so in Metadata.
    pub internal: bool,
}

impl Topic {
    /// The ids of all its logs.
    pub fn logs(&self) -> impl Iterator<Item = LogId> + use<> {
        let topic = self.id;
        (0..self.partitions).map(move |index| LogId { topic, partition: PartitionId(index) })
    }

    /// All topic configs that hold for it, in name order.
    pub fn describe_configs(&self, broker: &Config) -> Vec<TopicConfig> {
        topic::describe(&self.configs, self.internal, broker)
    }
}

/// An immutable picture of all topics.
#[derive(Clone, Debug, Default)]
pub struct Image {
    topics: BTreeMap<TopicName, Arc<Topic>>,
    ids: BTreeMap<TopicId, Arc<Topic>>,
}

impl Image {
    /// By name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// By id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.ids.get(&id)
    }

    /// All topics in name order.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// How many topics there are.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether there is no topic.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    fn insert(&mut self, topic: Topic) {
        let topic = Arc::new(topic);
        self.ids.insert(topic.id, topic.clone());
        self.topics.insert(topic.name.clone(), topic);
    }

    fn remove(&mut self, id: TopicId) -> Option<Arc<Topic>> {
        let topic = self.ids.remove(&id)?;
        self.topics.remove(&topic.name);
        Some(topic)
    }
}

/// A topic to create.
#[derive(Clone, Debug)]
pub struct NewTopic {
    /// Its name, unchecked.
    pub name: String,
    /// `None`: `num.partitions`.
    pub partitions: Option<u32>,
    /// Topic configs, unchecked.
    pub configs: BTreeMap<String, String>,
}

/// Why a metadata change was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MetadataError {
    /// Error 17.
    #[error(transparent)]
    Name(#[from] TopicNameError),
    /// Error 36.
    #[error("topic '{0}' already exists")]
    Exists(String),
    /// Error 17: Kafka's tools would count both under one metric name.
    #[error("topic '{name}' collides with '{other}': they differ only in '.' and '_'")]
    Collides {
        /// The new name.
        name: String,
        /// That of the topic that is there.
        other: String,
    },
    /// Error 3 (by name).
    #[error("topic '{0}' does not exist")]
    UnknownName(String),
    /// Error 100 (by id).
    #[error("topic id {0} does not exist")]
    UnknownId(TopicId),
    /// Error 37.
    #[error("{0}")]
    Partitions(String),
    /// Error 40.
    #[error("{0}")]
    Config(String),
    /// Error 17: clients may not change it.
    #[error("topic '{0}' is internal and cannot be changed")]
    Internal(String),
    /// Error 56.
    #[error("the metadata could not be written: {0}")]
    Storage(String),
}

/// A cheap handle to the metadata. The owning task ends when the last handle is dropped.
#[derive(Clone)]
pub struct Metadata {
    published: Arc<Published>,
    changes: mpsc::Sender<Command>,
}

/// What readers see without asking the owning task.
struct Published {
    image: ArcSwap<Image>,
    changed: watch::Sender<()>,
    logs: Logs,
}

impl Published {
    /// The log of a topic that is published; internal logs that are no topic stay out of reach.
    fn log(&self, topic: TopicId, partition: PartitionId) -> Option<Partition> {
        let image = self.image.load();
        let known = image.topic_by_id(topic)?.partitions > partition.0;
        known.then(|| self.logs.partition(LogId { topic, partition })).flatten()
    }
}

impl Metadata {
    /// Replays the metadata journal, opens every topic's logs and starts the owning task.
    pub async fn start(
        logs: Logs,
        journal: Arc<dyn Journal>,
        config: Arc<Config>,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Metadata, MetadataError> {
        let replayed = replay::replay(&*journal).await?;
        replay::delete_orphans(&logs, &replayed).await?;
        replay::open_logs(&logs, &replayed.image, &config, &*clock).await?;
        let published = Arc::new(Published {
            image: ArcSwap::from_pointee(replayed.image),
            changed: watch::Sender::new(()),
            logs,
        });
        collector::register(&published, metrics)?;
        let (changes, queue) = mpsc::channel(QUEUE_CHANGES_MAX);
        let owner = Owner::new(published.clone(), journal, config, replayed.next);
        tokio::spawn(owner.run(queue));
        Ok(Metadata { published, changes })
    }

    /// How far the start has come, for the rooms that start after the metadata.
    pub fn progress(&self) -> &Progress {
        self.published.logs.progress()
    }

    /// The newest picture.
    pub fn image(&self) -> Arc<Image> {
        self.published.image.load_full()
    }

    /// Told after each new image is published.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.published.changed.subscribe()
    }

    /// Creates a topic durably, opens its logs and publishes it. With `validate_only` only checks.
    pub async fn create(
        &self,
        topic: NewTopic,
        validate_only: bool,
    ) -> Result<Arc<Topic>, MetadataError> {
        self.ask(|reply| Command::Create { topic, validate_only, reply }).await
    }

    /// The internal topic `name`, created with `partitions` if it does not exist yet. It has
    /// `configs` where nothing else was set for it before.
    pub async fn ensure_internal(
        &self,
        name: &str,
        partitions: u32,
        configs: &[(&str, &str)],
    ) -> Result<Arc<Topic>, MetadataError> {
        let name = TopicName::parse(name)?;
        let configs = configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let configs = configs.collect();
        self.ask(|reply| Command::EnsureInternal { name, partitions, configs, reply }).await
    }

    /// Changes a topic's configs durably; its logs follow at once. With `validate_only` only
    /// checks.
    pub async fn alter_configs(
        &self,
        id: TopicId,
        changes: ConfigChanges,
        validate_only: bool,
    ) -> Result<(), MetadataError> {
        self.ask(|reply| Command::AlterConfigs { id, changes, validate_only, reply }).await
    }

    /// Deletes a topic, its logs and its committed offsets' meaning (offsets are keyed by id).
    pub async fn delete(&self, id: TopicId) -> Result<(), MetadataError> {
        self.ask(|reply| Command::Delete { id, reply }).await
    }

    /// Raises the number of partitions to `count`.
    pub async fn add_partitions(&self, id: TopicId, count: u32) -> Result<(), MetadataError> {
        self.change_partitions(id, count, false).await
    }

    /// Checks what `add_partitions` would do, without doing it.
    pub async fn check_add_partitions(&self, id: TopicId, count: u32) -> Result<(), MetadataError> {
        self.change_partitions(id, count, true).await
    }

    async fn change_partitions(
        &self,
        id: TopicId,
        count: u32,
        validate_only: bool,
    ) -> Result<(), MetadataError> {
        self.ask(|reply| Command::AddPartitions { id, count, validate_only, reply }).await
    }

    /// The log of a topic's partition, if both exist.
    pub fn log(&self, topic: TopicId, partition: PartitionId) -> Option<Partition> {
        self.published.log(topic, partition)
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, MetadataError>>) -> Command,
    ) -> Result<T, MetadataError> {
        let stopping = || MetadataError::Storage("the broker is stopping".to_owned());
        let (reply, answer) = oneshot::channel();
        self.changes.send(command(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}
