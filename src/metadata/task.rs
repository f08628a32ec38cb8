//! The metadata's owner: checks a change against the newest state, claims a journal position for
//! it, and publishes only what is durable.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};

use super::brokers::{BrokerConfigs, BrokerKeys};
use super::change::{BrokerChange, Change, TopicChange};
use super::config_change::{Delta, delta};
use super::features::SupportedFeature;
use super::journal::{History, Journal, JournalError, Slot, SlotSize};
use super::replay::Replay;
use super::topic::TopicKeys;
use super::topic_logs::{blocking, configure, open};
use super::{
    BrokerScope, ConfigChanges, Image, MetadataError, NewTopic, PARTITIONS_MAX, Published, Topic,
    record, topic,
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
    AlterBrokers {
        scope: BrokerScope,
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

/// Bytes of an image in one journal record, so that no part is much larger than what the journal
/// reads at once.
const IMAGE_PART_BYTES: usize = 256 << 10;

/// See the module's header.
pub(super) struct Owner {
    published: Arc<Published>,
    journal: Arc<dyn Journal>,
    config: Arc<Config>,
    /// The journal's next vacant position, as far as this node has read.
    next: u64,
    history: History,
    /// Deleted topics whose logs are removed, which the image does not know yet.
    removed: Vec<TopicId>,
    image_part_bytes: usize,
}

impl Owner {
    /// The owner of what `replayed` has read, which is published.
    pub(super) fn new(
        published: Arc<Published>,
        journal: Arc<dyn Journal>,
        config: Arc<Config>,
        (next, history): (u64, History),
    ) -> Owner {
        // The start has removed what was left.
        let removed = published.image.load().topics.logs_left().collect();
        let image_part_bytes = IMAGE_PART_BYTES;
        Owner { published, journal, config, next, history, removed, image_part_bytes }
    }

    /// Writes an image in parts of about so many bytes.
    #[cfg(test)]
    pub(super) fn with_image_parts_of(self, image_part_bytes: usize) -> Owner {
        Owner { image_part_bytes, ..self }
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
                Command::AlterBrokers { scope, changes, validate_only, reply } => {
                    let _ = reply.send(self.alter_brokers(scope, changes, validate_only).await);
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

    pub(super) fn image(&self) -> Arc<Image> {
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
            let delta = Delta { set: configs, ..Delta::default() };
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
        let change = TopicChange::Created {
            id: topic.id,
            name: topic.name.to_string(),
            partitions: topic.partitions,
            configs: topic.configs.clone(),
            internal: topic.internal,
        };
        let id = topic.id;
        let changes = [Change::Topic(change)];
        let decided = self.decide(&changes, |owner, now| owner.check_new(now, &topic)).await;
        if let Err(refused) = decided {
            self.remove_logs(id).await;
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
        let delta = delta(&topic.configs, changes, &TopicKeys(&self.config))
            .map_err(MetadataError::Config)?;
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
        let (set, unset) = (delta.set.clone(), delta.unset.clone());
        let changes = [Change::Topic(TopicChange::ConfigsChanged { id, set, unset })];
        // A config that another node changes meanwhile has the value of who comes last.
        self.decide(&changes, |owner, now| check_delta(now, id, &delta, &owner.config)).await?;
        debug!(topic = %id, set = ?delta.set, unset = ?delta.unset, "changed topic configs");
        Ok(())
    }

    async fn alter_brokers(
        &mut self,
        scope: BrokerScope,
        changes: ConfigChanges,
        validate_only: bool,
    ) -> Result<(), MetadataError> {
        let image = self.image();
        let set = image.brokers.set(scope);
        let delta = delta(&set, changes, &BrokerKeys(&self.config));
        let change = BrokerChange::new(scope, delta.map_err(MetadataError::BrokerConfig)?);
        check_brokers(&image, &change, &self.config)?;
        if validate_only || (change.set.is_empty() && change.unset.is_empty()) {
            return Ok(());
        }
        let changes = [Change::Broker(change.clone())];
        self.decide(&changes, |owner, now| check_brokers(now, &change, &owner.config)).await?;
        // Names alone: a value may be a secret.
        let set: Vec<&String> = change.set.keys().collect();
        info!(?scope, ?set, unset = ?change.unset, "changed broker configs");
        Ok(())
    }

    async fn delete(&mut self, id: TopicId) -> Result<(), MetadataError> {
        let topic = changeable(&self.image(), id)?;
        let changes = [Change::Topic(TopicChange::Deleted { id })];
        self.decide(&changes, |_, now| changeable(now, id).map(drop)).await?;
        debug!(topic = %topic.name, %id, "deleted a topic");
        if self.remove_logs(id).await {
            self.removed.push(id);
        }
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
        let changes = [Change::Topic(TopicChange::PartitionsAdded { id, count })];
        self.decide(&changes, |_, now| check_more(now, id, count).map(drop)).await?;
        debug!(topic = %id, partitions = count, "added partitions");
        Ok(())
    }

    /// Claims a position for `changes`, applies and publishes them, all together. Each time another
    /// node was faster, its changes are applied first and `check` decides again.
    pub(super) async fn decide(
        &mut self,
        changes: &[Change],
        check: impl Fn(&Owner, &Image) -> Result<(), MetadataError>,
    ) -> Result<(), MetadataError> {
        let bytes = record::encode(changes);
        while !self.append(bytes.clone()).await? {
            self.catch_up().await?;
            check(self, &self.image())?;
        }
        self.carry_out(changes)?;
        if self.history.is_most() {
            // The changes are durable, whatever becomes of those before them.
            if let Err(failure) = self.rewrite().await {
                warn!(%failure, "the metadata's journal could not be written anew, it grows for now");
            }
            self.history.put_off();
        }
        Ok(())
    }

    /// Claims the next position, if no other writer has.
    async fn append(&mut self, record: Bytes) -> Result<bool, MetadataError> {
        let length = record.len();
        match self.journal.append(Slot::METADATA, self.next, record).await {
            Ok(()) => {
                self.next += 1;
                self.history.add(length);
                Ok(true)
            }
            Err(JournalError::Occupied { .. }) => Ok(false),
            Err(JournalError::Storage(reason)) => Err(MetadataError::Storage(reason)),
        }
    }

    /// Applies and publishes what the record that was appended last says.
    fn carry_out(&mut self, changes: &[Change]) -> Result<(), MetadataError> {
        let mut image = Image::clone(&self.image());
        image.apply(self.next - 1, changes).map_err(MetadataError::Storage)?;
        self.publish(image)
    }

    /// Makes those features final that this version supports and that have no level yet.
    pub(super) async fn finalize(
        &mut self,
        supported: &[SupportedFeature],
    ) -> Result<(), MetadataError> {
        let changes = self.image().features().missing(supported);
        if changes.is_empty() {
            return Ok(());
        }
        // Another node may have done the same meanwhile: it is as well done twice.
        self.decide(&changes, |_, _| Ok(())).await
    }

    /// Applies what other writers decided meanwhile.
    async fn catch_up(&mut self) -> Result<(), MetadataError> {
        let (before, position) = (self.image(), self.next);
        let mut replay = Replay::from(Image::clone(&before), self.next, self.history);
        replay.read_on(&*self.journal).await?;
        let image;
        (image, self.next, self.history) = replay.finish();
        if self.next == position {
            return Err(MetadataError::Storage(format!(
                "the metadata's journal refuses position {position} but has no record there"
            )));
        }
        for (old, new) in before.topics.changed_in(&image.topics) {
            let opened = old.map_or(0, |topic| topic.partitions);
            open(&self.published.logs, log_ids(new.id, opened..new.partitions)).await?;
        }
        self.publish(image)
    }

    /// Makes the logs follow `image` and shows it to all readers.
    fn publish(&mut self, image: Image) -> Result<(), MetadataError> {
        let before = self.image();
        if before.brokers != image.brokers {
            self.config.overlay(image.brokers.overlays(self.config.node_id));
            // Their defaults are other ones now.
            for topic in image.topics() {
                configure(&self.published.logs, topic, &self.config)?;
            }
        } else {
            for (_, topic) in before.topics.changed_in(&image.topics) {
                configure(&self.published.logs, topic, &self.config)?;
            }
        }
        self.published.image.store(Arc::new(image));
        self.published.changed.send_replace(());
        Ok(())
    }

    /// Writes the image to the journal's slot and forgets the records before it. After a crash in
    /// between these still count, and the parts of the image that were written do not.
    pub(super) async fn rewrite(&mut self) -> Result<(), MetadataError> {
        if !self.removed.is_empty() {
            let ids = self.removed.clone();
            let changes = [Change::Topic(TopicChange::LogsRemoved { ids })];
            if !self.append(record::encode(&changes)).await? {
                return Ok(());
            }
            self.carry_out(&changes)?;
            self.removed.clear();
        }
        let (image, first) = (self.image(), self.next);
        let mut size = SlotSize::default();
        for part in record::parts(&image, self.image_part_bytes) {
            size.add(part.len());
            if !self.append(part).await? {
                // Another writer is at work. Its record may follow from what this node has not
                // read: nothing is trimmed, and the parts so far say nothing.
                return Ok(());
            }
        }
        let trimmed = self.journal.trim(Slot::METADATA, first).await;
        trimmed.map_err(|error| MetadataError::Storage(error.to_string()))?;
        self.history.rewritten(size);
        Ok(())
    }

    /// Removes the logs of a topic that is gone. Failing to remove files is not the caller's concern:
    /// the next start tries again.
    async fn remove_logs(&self, id: TopicId) -> bool {
        let logs = self.published.logs.clone();
        let removed = blocking(move || logs.delete_topic(id)).await;
        if let Err(reason) = &removed {
            error!(topic = %id, %reason, "the logs of a deleted topic could not be removed");
        }
        removed.is_ok()
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

/// Checks what this broker's config would be.
fn check_brokers(
    image: &Image,
    change: &BrokerChange,
    config: &Config,
) -> Result<(), MetadataError> {
    let mut brokers = BrokerConfigs::clone(&image.brokers);
    brokers.apply(change);
    let node = match change.scope {
        BrokerScope::Cluster => config.node_id,
        BrokerScope::Broker(node) => node,
    };
    config.check_overlays(&brokers.overlays(node)).map_err(MetadataError::BrokerConfig)
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
