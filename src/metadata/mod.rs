//! What the cluster knows, as one immutable [`Image`] of parts. The truth is the metadata journal;
//! this room replays it, owns all changes in one task and publishes an image for each.
//!
//! A change is decided by the owner (`task.rs`), becomes durable as a journal record (`record.rs`,
//! `change/`) and is then applied to the image (`image.rs`); a start applies the same records
//! (`replay.rs`). When most of the slot is history, the owner writes the image to it and trims what
//! is before.
//!
//! To keep something new (ACLs, users, quotas, SQL tables): a module in `change/` with the enum of
//! its changes and their bytes, a variant of `Change`, a part that applies them (as `topics.rs`),
//! and a field of `Image` behind an `Arc`. The compiler then names the few places that must know of it.
//! There is no empty place for what nothing uses yet.

pub mod at_rest;
pub mod journal;
pub mod local_journal;
pub mod placement;

mod brokers;
mod change;
mod collector;
mod config_change;
mod features;
mod image;
mod record;
mod replay;
mod task;
mod topic;
mod topic_logs;
mod topics;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use self::journal::Journal;
use self::replay::Replay;
use self::task::{Command, Owner};
use crate::config::Config;
use crate::log::{Logs, Partition};
use crate::metrics::Metrics;
use crate::types::{Clock, LogId, PartitionId, Progress, TopicId, TopicName, TopicNameError};

pub use brokers::BrokerScope;
pub use config_change::{ConfigChange, ConfigChanges};
pub use features::{Features, SUPPORTED_FEATURES, SupportedFeature};
pub use image::Image;
pub use local_journal::LocalJournal;
pub use topic::TopicConfig;
pub use topics::Topic;

/// The most partitions a topic may have: each costs memory at every start.
pub const PARTITIONS_MAX: u32 = 10_000;
/// Changes that may wait for the owning task.
const QUEUE_CHANGES_MAX: usize = 64;

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
    /// Error 42: a broker config.
    #[error("{0}")]
    BrokerConfig(String),
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
        let mut replay = Replay::default();
        replay.read_on(&*journal).await?;
        let (image, next, history) = replay.finish();
        config.overlay(image.brokers.overlays(config.node_id));
        topic_logs::delete_orphans(&logs, &image).await?;
        topic_logs::open_logs(&logs, &image, &config, &*clock).await?;
        let published = Arc::new(Published {
            image: ArcSwap::from_pointee(image),
            changed: watch::Sender::new(()),
            logs,
        });
        collector::register(&published, metrics)?;
        let (changes, queue) = mpsc::channel(QUEUE_CHANGES_MAX);
        let mut owner = Owner::new(published.clone(), journal, config, (next, history));
        owner.finalize(SUPPORTED_FEATURES).await?;
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

    /// Changes configs of brokers durably; all rooms follow at once. With `validate_only` only checks.
    pub async fn alter_broker_configs(
        &self,
        scope: BrokerScope,
        changes: ConfigChanges,
        validate_only: bool,
    ) -> Result<(), MetadataError> {
        self.ask(|reply| Command::AlterBrokers { scope, changes, validate_only, reply }).await
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
