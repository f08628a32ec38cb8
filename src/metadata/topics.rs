//! The part of the image that holds topics with their configs.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};

use super::change::{Change, TopicChange};
use super::config_change;
use super::topic::{self, TopicConfig};
use crate::config::Config;
use crate::types::{LogId, PartitionId, TopicId, TopicName};

/// One topic as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// All topics. The maps share what they have in common with their clones: a clone costs nothing, and
/// a change of one topic a few nodes of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    by_name: OrdMap<TopicName, Arc<Topic>>,
    by_id: OrdMap<TopicId, Arc<Topic>>,
    /// Topics that were deleted, whose logs may still be on disk.
    logs_left: OrdSet<TopicId>,
}

impl Topics {
    /// By name.
    pub fn named(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    /// By id.
    pub fn with_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.by_id.get(&id)
    }

    /// In name order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.by_name.values()
    }

    /// Deleted topics whose logs may still be on disk.
    pub(super) fn logs_left(&self) -> impl Iterator<Item = TopicId> {
        self.logs_left.iter().copied()
    }

    /// Whether the topic was deleted and its logs may still be on disk.
    pub(super) fn leaves_logs(&self, id: TopicId) -> bool {
        self.logs_left.contains(&id)
    }

    /// The topics that are not the same in `newer`, as they are there; deleted ones are left out.
    /// Costs what was changed, where the one came from the other.
    pub(super) fn changed_in<'a>(
        &'a self,
        newer: &'a Topics,
    ) -> impl Iterator<Item = (Option<&'a Arc<Topic>>, &'a Arc<Topic>)> {
        self.by_id.diff(&newer.by_id).filter_map(|item| match item {
            DiffItem::Add(_, new) => Some((None, new)),
            DiffItem::Update { old: (_, old), new: (_, new) } => Some((Some(old), new)),
            DiffItem::Remove(..) => None,
        })
    }

    /// See [`super::Image::apply`].
    pub(super) fn apply(&mut self, change: &TopicChange) -> Result<(), String> {
        match change {
            TopicChange::Created { id, name, partitions, configs, internal } => {
                let name = TopicName::parse(name).map_err(|error| error.to_string())?;
                if self.named(name.as_str()).is_some() {
                    return Err(format!("topic '{name}' is created twice"));
                }
                if self.with_id(*id).is_some() {
                    return Err(format!("topic id {id} is given twice"));
                }
                self.put(Topic {
                    id: *id,
                    name,
                    partitions: *partitions,
                    configs: configs.clone(),
                    internal: *internal,
                });
            }
            TopicChange::PartitionsAdded { id, count } => {
                let topic = Topic::clone(self.known(*id)?);
                self.put(Topic { partitions: *count, ..topic });
            }
            TopicChange::ConfigsChanged { id, set, unset } => {
                let mut topic = Topic::clone(self.known(*id)?);
                config_change::change(&mut topic.configs, set, unset);
                self.put(topic);
            }
            TopicChange::Deleted { id } => {
                let topic = self.known(*id)?.clone();
                self.by_id.remove(id);
                self.by_name.remove(&topic.name);
                self.logs_left.insert(*id);
            }
            TopicChange::LogsLeft { ids } => self.logs_left.extend(ids.iter().copied()),
            TopicChange::LogsRemoved { ids } => {
                for id in ids {
                    self.logs_left.remove(id);
                }
            }
        }
        Ok(())
    }

    fn known(&self, id: TopicId) -> Result<&Arc<Topic>, String> {
        self.with_id(id).ok_or_else(|| format!("topic {id} does not exist"))
    }

    fn put(&mut self, topic: Topic) {
        let topic = Arc::new(topic);
        self.by_id.insert(topic.id, topic.clone());
        self.by_name.insert(topic.name.clone(), topic);
    }

    /// What makes these topics out of none.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> {
        let created = self.iter().map(|topic| TopicChange::Created {
            id: topic.id,
            name: topic.name.to_string(),
            partitions: topic.partitions,
            configs: topic.configs.clone(),
            internal: topic.internal,
        });
        let left: Vec<TopicId> = self.logs_left().collect();
        let left = (!left.is_empty()).then_some(TopicChange::LogsLeft { ids: left });
        created.chain(left).map(Change::Topic)
    }
}
