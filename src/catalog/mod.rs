//! Topics and their configs. The truth is the metadata journal; this room replays it, owns all
//! changes in one task and publishes immutable snapshots.

pub mod journal;
pub mod placement;

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use self::journal::Journal;
use crate::config::Config;
use crate::log::{Logs, Partition};
use crate::metrics::Metrics;
use crate::types::{Clock, PartitionId, TopicId, TopicName, TopicNameError};

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

/// An immutable picture of all topics.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    topics: BTreeMap<TopicName, Arc<Topic>>,
    ids: BTreeMap<TopicId, Arc<Topic>>,
}

impl Snapshot {
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

/// Why a catalog change was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CatalogError {
    /// Error 17.
    #[error(transparent)]
    Name(#[from] TopicNameError),
    /// Error 36.
    #[error("topic '{0}' already exists")]
    Exists(String),
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
    /// Error 73.
    #[error("topic '{0}' is internal and cannot be changed")]
    Internal(String),
    /// Error 56.
    #[error("the catalog could not be written: {0}")]
    Storage(String),
}

/// A cheap handle to the catalog.
#[derive(Clone)]
pub struct Catalog {}

impl Catalog {
    /// Replays the metadata journal, opens every topic's logs and starts the owning task.
    pub async fn start(
        logs: Logs,
        journal: Arc<dyn Journal>,
        config: Arc<Config>,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Catalog, CatalogError> {
        let _ = (logs, journal, config, clock, metrics);
        todo!("group helper")
    }

    /// The newest picture.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        todo!("group helper")
    }

    /// Creates a topic durably, opens its logs and publishes it. With `validate_only` only checks.
    pub async fn create(
        &self,
        topic: NewTopic,
        validate_only: bool,
    ) -> Result<Arc<Topic>, CatalogError> {
        let _ = (topic, validate_only);
        todo!("group helper")
    }

    /// The internal topic `name`, created with `partitions` if it does not exist yet.
    pub async fn ensure_internal(
        &self,
        name: &str,
        partitions: u32,
    ) -> Result<Arc<Topic>, CatalogError> {
        let _ = (name, partitions);
        todo!("group helper")
    }

    /// Deletes a topic, its logs and its committed offsets' meaning (offsets are keyed by id).
    pub async fn delete(&self, id: TopicId) -> Result<(), CatalogError> {
        let _ = id;
        todo!("group helper")
    }

    /// Raises the number of partitions to `count`.
    pub async fn add_partitions(&self, id: TopicId, count: u32) -> Result<(), CatalogError> {
        let _ = (id, count);
        todo!("group helper")
    }

    /// The log of a topic's partition, if both exist.
    pub fn log(&self, topic: TopicId, partition: PartitionId) -> Option<Partition> {
        let _ = (topic, partition);
        todo!("group helper")
    }
}
