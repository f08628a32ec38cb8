//! The metadata's owner: checks a change against the newest state, claims a journal position for
//! it, and publishes only what is durable.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error};

use super::journal::{Journal, JournalError, Slot};
use super::record::{self, Change};
use super::replay::{apply, blocking, configure, open};
use super::topic::Delta;
use super::{
    ConfigChanges, Image, MetadataError, NewTopic, PARTITIONS_MAX, Published, Topic, topic,
};
use crate::config::Config;
use crate::types::{LogId, PartitionId, TopicId, TopicName};

/// Names that only the broker itself may take.
const RESERVED_PREFIX: &str = "__ottla_";

type Reply<T> = oneshot::Sender<Result<T, MetadataError>>;

/// What handles ask for. A caller that went away does not stop its change.
pub(super) enum Command {
    Create {
        topic: NewTopic,
        validate_only: bool,
        reply: Reply<Arc<Topic>>,
    },
    EnsureInternal {
        name: TopicName,
        partitions: u32,
        configs: BTreeMap<String, String>,
        reply: Reply<Arc<Topic>>,
    },
    AlterConfigs {
        id: TopicId,
        changes: ConfigChanges,
        validate_only: bool,
        reply: Reply<()>,
    },
    Delete {
        id: TopicId,
        reply: Reply<()>,
    },
    AddPartitions {
        id: TopicId,
        count: u32,
        validate_only: bool,
        reply: Reply<()>,
    },
}

/// See the module's header.
pub(super) struct Owner {
    published: Arc<Published>,
    journal: Arc<dyn Journal>,
    config: Arc<Config>,
    /// The journal's next vacant position, as far as this node has read.
    next: u64,
}

impl Owner {
    pub(super) fn new(
        published: Arc<Published>,
        journal: Arc<dyn Journal>,
        config: Arc<Config>,
        next: u64,
    ) -> Owner {
        Owner { published, journal, config, next }
    }

    /// Serves until every handle is gone.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Create { topic, validate_only, reply } => {
                    let _ = reply.send(self.create(topic, validate_only).await);
                }
                Command::EnsureInternal { name, partitions, configs, reply } => {
                    let _ = reply.send(self.ensure_internal(name, partitions, configs).await);
                }
                Command::AlterConfigs { id, changes, validate_only, reply } => {
                    let _ = reply.send(self.alter_configs(id, changes, validate_only).await);
                }
                Command::Delete { id, reply } => {
                    let _ = reply.send(self.delete(id).await);
                }
                Command::AddPartitions { id, count, validate_only, reply } => {
                    let _ = reply.send(self.add_partitions(id, count, validate_only).await);
                }
            }
        }
    }

    fn image(&self) -> Arc<Image> {
        self.published.image.load_full()
    }

    async fn create(
        &mut self,
        new: NewTopic,
        validate_only: bool,
    ) -> Result<Arc<Topic>, MetadataError> {
        let name = TopicName::parse(&new.name)?;
        let partitions = new.partitions.unwrap_or(self.config.num_partitions);
        let configs = new.configs;
        let mut topic = Topic { id: TopicId::random(), name, partitions, configs, internal: false };
        self.check_new(&self.image(), &topic)?;
        if topic.name.as_str().starts_with(RESERVED_PREFIX) {
            return Err(MetadataError::Internal(new.name));
        }
        topic.configs =
            topic::check(&topic.configs, &self.config).map_err(MetadataError::Config)?;
        if validate_only {
            return Ok(Arc::new(topic));
        }
        self.add(topic).await
    }

    async fn ensure_internal(
        &mut self,
        name: TopicName,
        partitions: u32,
        mut configs: BTreeMap<String, String>,
    ) -> Result<Arc<Topic>, MetadataError> {
        if let Some(topic) = self.image().topic(name.as_str()).cloned() {
            // A directory of a version that did not set them yet.
            configs.retain(|name, _| !topic.configs.contains_key(name));
            let delta = topic::Delta { set: configs, ..topic::Delta::default() };
            self.change_configs(topic.id, delta).await?;
            return self.image().topic_by_id(topic.id).cloned().ok_or(unknown(topic.id));
        }
        let configs = topic::check(&configs, &self.config).map_err(MetadataError::Config)?;
        let topic = Topic { id: TopicId::random(), name, partitions, configs, internal: true };
        self.check_new(&self.image(), &topic)?;
        self.add(topic).await
    }

    fn check_new(&self, image: &Image, topic: &Topic) -> Result<(), MetadataError> {
        if image.topic(topic.name.as_str()).is_some() {
            return Err(MetadataError::Exists(topic.name.to_string()));
        }
        if let Some(other) = image.topics().find(|other| topic.name.collides_with(&other.name)) {
            return Err(MetadataError::Collides {
                name: topic.name.to_string(),
                other: other.name.to_string(),
            });
        }
        check_partitions(topic.partitions)
    }

    async fn add(&mut self, topic: Topic) -> Result<Arc<Topic>, MetadataError> {
        // The logs come first: a published topic can be written at once. They are empty until
        // then, so what a crash in between leaves behind holds nothing.
        configure(&self.published.logs, &topic, &self.config)?;
        open(&self.published.logs, topic.logs().collect()).await?;
        let change = Change::TopicCreated {
            id: topic.id.0,
            name: topic.name.to_string(),
            partitions: topic.partitions,
            configs: topic.configs.clone(),
            internal: topic.internal,
        };
        let id = topic.id;
        let decided = self.decide(change, |owner, now| owner.check_new(now, &topic)).await;
        if let Err(refused) = decided {
            self.delete_logs(id).await;
            return Err(refused);
        }
        debug!(topic = %topic.name, %id, partitions = topic.partitions, "created a topic");
        self.image().topic_by_id(id).cloned().ok_or(unknown(id))
    }

    async fn alter_configs(
        &mut self,
        id: TopicId,
        changes: ConfigChanges,
        validate_only: bool,
    ) -> Result<(), MetadataError> {
        let topic = configurable(&self.image(), id)?;
        let delta =
            topic::delta(&topic.configs, changes, &self.config).map_err(MetadataError::Config)?;
        check_delta(&self.image(), id, &delta, &self.config)?;
        if validate_only {
            return Ok(());
        }
        self.change_configs(id, delta).await
    }

    async fn change_configs(&mut self, id: TopicId, delta: Delta) -> Result<(), MetadataError> {
        if delta.is_empty() {
            return Ok(());
        }
        let change =
            Change::ConfigsChanged { id: id.0, set: delta.set.clone(), unset: delta.unset.clone() };
        // A config that another node changes meanwhile has the value of who comes last.
        self.decide(change, |owner, now| check_delta(now, id, &delta, &owner.config)).await?;
        debug!(topic = %id, set = ?delta.set, unset = ?delta.unset, "changed topic configs");
        Ok(())
    }

    async fn delete(&mut self, id: TopicId) -> Result<(), MetadataError> {
        let topic = changeable(&self.image(), id)?;
        let change = Change::TopicDeleted { id: id.0 };
        self.decide(change, |_, now| changeable(now, id).map(drop)).await?;
        debug!(topic = %topic.name, %id, "deleted a topic");
        self.delete_logs(id).await;
        Ok(())
    }

    async fn add_partitions(
        &mut self,
        id: TopicId,
        count: u32,
        validate_only: bool,
    ) -> Result<(), MetadataError> {
        let before = check_more(&self.image(), id, count)?.partitions;
        if validate_only {
            return Ok(());
        }
        open(&self.published.logs, log_ids(id, before..count)).await?;
        let change = Change::PartitionsAdded { id: id.0, count };
        self.decide(change, |_, now| check_more(now, id, count).map(drop)).await?;
        debug!(topic = %id, partitions = count, "added partitions");
        Ok(())
    }

    /// Claims a position for `change`, applies and publishes it. Each time another node was
    /// faster, its change is applied first and `check` decides again.
    async fn decide(
        &mut self,
        change: Change,
        check: impl Fn(&Owner, &Image) -> Result<(), MetadataError>,
    ) -> Result<(), MetadataError> {
        let bytes = record::encode(&change).map_err(MetadataError::Storage)?;
        loop {
            match self.journal.append(Slot::METADATA, self.next, bytes.clone()).await {
                Ok(()) => {
                    self.next += 1;
                    return self.publish(change);
                }
                Err(JournalError::Occupied { .. }) => {
                    self.catch_up().await?;
                    check(self, &self.image())?;
                }
                Err(JournalError::Storage(reason)) => return Err(MetadataError::Storage(reason)),
            }
        }
    }

    /// Applies what other writers decided meanwhile.
    async fn catch_up(&mut self) -> Result<(), MetadataError> {
        let read = self.journal.read(Slot::METADATA, self.next).await;
        for (seq, bytes) in read.map_err(|error| MetadataError::Storage(error.to_string()))? {
            let change = record::decode(&bytes).map_err(MetadataError::Storage)?;
            let grown = match &change {
                Change::TopicCreated { id, partitions, .. } => Some((*id, *partitions)),
                Change::PartitionsAdded { id, count } => Some((*id, *count)),
                Change::ConfigsChanged { .. } | Change::TopicDeleted { .. } => None,
            };
            if let Some((id, partitions)) = grown {
                open(&self.published.logs, log_ids(TopicId(id), 0..partitions)).await?;
            }
            self.publish(change)?;
            self.next = seq + 1;
        }
        Ok(())
    }

    fn publish(&mut self, change: Change) -> Result<(), MetadataError> {
        let mut image = Image::clone(&self.image());
        let configured = match &change {
            Change::TopicCreated { id, .. } | Change::ConfigsChanged { id, .. } => Some(*id),
            Change::PartitionsAdded { .. } | Change::TopicDeleted { .. } => None,
        };
        apply(&mut image, change).map_err(MetadataError::Storage)?;
        if let Some(topic) = configured.and_then(|id| image.topic_by_id(TopicId(id))) {
            configure(&self.published.logs, topic, &self.config)?;
        }
        self.published.image.store(Arc::new(image));
        self.published.changed.send_replace(());
        Ok(())
    }

    /// Failing to remove files is not the caller's concern: the next start tries again.
    async fn delete_logs(&self, id: TopicId) {
        let logs = self.published.logs.clone();
        if let Err(reason) = blocking(move || logs.delete_topic(id)).await {
            error!(topic = %id, %reason, "the logs of a deleted topic could not be removed");
        }
    }
}

fn log_ids(topic: TopicId, partitions: Range<u32>) -> Vec<LogId> {
    partitions.map(|index| LogId { topic, partition: PartitionId(index) }).collect()
}

fn check_partitions(count: u32) -> Result<(), MetadataError> {
    match count {
        0 => Err(MetadataError::Partitions("a topic needs at least one partition".to_owned())),
        1..=PARTITIONS_MAX => Ok(()),
        _ => Err(MetadataError::Partitions(format!(
            "{count} partitions were asked for, at most {PARTITIONS_MAX} are possible"
        ))),
    }
}

fn unknown(id: TopicId) -> MetadataError {
    MetadataError::UnknownId(id)
}

/// A topic whose configs clients may change: as in Kafka also `__consumer_offsets`, but none that
/// only Ottla has.
fn configurable(image: &Image, id: TopicId) -> Result<Arc<Topic>, MetadataError> {
    let topic = image.topic_by_id(id).ok_or(unknown(id))?;
    if topic.name.as_str().starts_with(RESERVED_PREFIX) {
        return Err(MetadataError::Internal(topic.name.to_string()));
    }
    Ok(topic.clone())
}

fn check_delta(
    image: &Image,
    id: TopicId,
    delta: &Delta,
    broker: &Config,
) -> Result<(), MetadataError> {
    let topic = image.topic_by_id(id).ok_or(unknown(id))?;
    let mut configs = topic.configs.clone();
    delta.apply(&mut configs);
    topic::agree(&configs, broker).map_err(MetadataError::Config)
}

fn changeable(image: &Image, id: TopicId) -> Result<Arc<Topic>, MetadataError> {
    let topic = image.topic_by_id(id).ok_or(MetadataError::UnknownId(id))?;
    if topic.internal {
        return Err(MetadataError::Internal(topic.name.to_string()));
    }
    Ok(topic.clone())
}

fn check_more(image: &Image, id: TopicId, count: u32) -> Result<Arc<Topic>, MetadataError> {
    let topic = changeable(image, id)?;
    check_partitions(count)?;
    if count <= topic.partitions {
        return Err(MetadataError::Partitions(format!(
            "topic '{}' has {} partitions, it cannot go to {count}: partitions can only be added",
            topic.name, topic.partitions
        )));
    }
    Ok(topic)
}
