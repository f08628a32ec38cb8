//! Topics, as far as a client is authorised for them.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use super::super::meter::{Meter, TopicCounters};
use super::{Access, Cluster, Resources};
use crate::log::Partition;
use crate::metadata::{self, ConfigChanges, Image, MetadataError, NewTopic};
use crate::security::{Authorized, Covers, Denied, Resource, Target, op};
use crate::types::{PartitionId, TopicId};

/// Why a client does not get a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::api) enum Unreachable {
    /// It may not have it, whether there is one or not.
    Denied(Denied),
    /// There is none of that name.
    UnknownName,
    /// There is none of that id.
    UnknownId,
}

impl From<Denied> for Unreachable {
    fn from(denied: Denied) -> Unreachable {
        Unreachable::Denied(denied)
    }
}

/// The topics at one moment, as a client may reach them.
pub(in crate::api) struct Topics<'a> {
    access: Access<'a>,
    image: Arc<Image>,
}

impl<'a> Topics<'a> {
    pub(super) fn new(access: Access<'a>) -> Topics<'a> {
        Topics { access, image: access.resources.metadata.image() }
    }

    /// The topic of that name.
    pub(in crate::api) fn named<O: op::Marker>(
        &self,
        name: &str,
    ) -> Result<Authorized<Topic<'_>, O>, Unreachable> {
        match self.image.topic(name) {
            Some(topic) => Ok(self.access.ask(self.topic(topic))?),
            None => {
                let _: Authorized<_, O> = self.access.ask(Absent { name })?;
                Err(Unreachable::UnknownName)
            }
        }
    }

    /// The topic of that id: as authorised as by its name.
    pub(in crate::api) fn with_id<O: op::Marker>(
        &self,
        id: TopicId,
    ) -> Result<Authorized<Topic<'_>, O>, Unreachable> {
        let topic = self.image.topic_by_id(id).ok_or(Unreachable::UnknownId)?;
        Ok(self.access.ask(self.topic(topic))?)
    }

    /// The topic of that name, where `W` on the whole cluster is enough as well.
    pub(in crate::api) fn named_within<W: Covers<O>, O: op::Marker>(
        &self,
        cluster: &Result<Authorized<Cluster<'_>, W>, Denied>,
        name: &str,
    ) -> Result<Authorized<Topic<'_>, O>, Unreachable> {
        match self.image.topic(name) {
            Some(topic) => self.within(cluster, self.topic(topic)),
            None => {
                let _: Authorized<_, O> = self.within(cluster, Absent { name })?;
                Err(Unreachable::UnknownName)
            }
        }
    }

    /// The topic of that id, where `W` on the whole cluster is enough as well.
    pub(in crate::api) fn with_id_within<W: Covers<O>, O: op::Marker>(
        &self,
        cluster: &Result<Authorized<Cluster<'_>, W>, Denied>,
        id: TopicId,
    ) -> Result<Authorized<Topic<'_>, O>, Unreachable> {
        let topic = self.image.topic_by_id(id).ok_or(Unreachable::UnknownId)?;
        self.within(cluster, self.topic(topic))
    }

    /// All topics on which `O` is allowed, in name order.
    pub(in crate::api) fn all<O: op::Marker>(
        &self,
    ) -> impl Iterator<Item = Authorized<Topic<'_>, O>> {
        self.image.topics().filter_map(|topic| self.access.ask(self.topic(topic)).ok())
    }

    fn within<T: Target, W: Covers<O>, O: op::Marker>(
        &self,
        cluster: &Result<Authorized<Cluster<'_>, W>, Denied>,
        target: T,
    ) -> Result<Authorized<T, O>, Unreachable> {
        let Access { resources, client } = self.access;
        Ok(resources.authorizer.authorize_within(client, cluster, target)?)
    }

    fn topic<'s>(&'s self, known: &'s Arc<metadata::Topic>) -> Topic<'s> {
        Topic { resources: self.access.resources, known }
    }
}

/// A name that no topic has.
struct Absent<'a> {
    name: &'a str,
}

impl Target for Absent<'_> {
    fn resource(&self) -> Resource<'_> {
        Resource::Topic(self.name)
    }
}

/// A topic, with the way to its logs.
pub(in crate::api) struct Topic<'a> {
    resources: &'a Resources,
    known: &'a Arc<metadata::Topic>,
}

impl Target for Topic<'_> {
    fn resource(&self) -> Resource<'_> {
        Resource::Topic(self.known.name.as_str())
    }
}

impl Deref for Topic<'_> {
    type Target = metadata::Topic;

    fn deref(&self) -> &metadata::Topic {
        self.known
    }
}

impl<O> Authorized<Topic<'_>, O> {
    /// The log of a partition, if it is there and open.
    pub(in crate::api) fn log(&self, partition: PartitionId) -> Option<Partition> {
        self.resources.metadata.log(self.id, partition)
    }

    /// The topic's counters; none for one that was deleted meanwhile.
    pub(in crate::api) fn counters(&self, meter: &Meter) -> Option<Arc<TopicCounters>> {
        meter.topic(self, || self.resources.metadata.image().topic_by_id(self.id).is_some())
    }
}

impl Authorized<Topic<'_>, op::Delete> {
    /// Deletes the topic with its logs.
    pub(in crate::api) async fn delete(&self) -> Result<(), MetadataError> {
        self.resources.metadata.delete(self.id).await
    }
}

impl Authorized<Topic<'_>, op::Alter> {
    /// Raises the number of partitions to `count`.
    pub(in crate::api) async fn add_partitions(&self, count: u32) -> Result<(), MetadataError> {
        self.resources.metadata.add_partitions(self.id, count).await
    }

    /// Checks what `add_partitions` would do, without doing it.
    pub(in crate::api) async fn check_add_partitions(
        &self,
        count: u32,
    ) -> Result<(), MetadataError> {
        self.resources.metadata.check_add_partitions(self.id, count).await
    }
}

impl Authorized<Topic<'_>, op::AlterConfigs> {
    /// Changes the topic's configs durably. With `validate_only` only checks.
    pub(in crate::api) async fn alter_configs(
        &self,
        changes: ConfigChanges,
        validate_only: bool,
    ) -> Result<(), MetadataError> {
        self.resources.metadata.alter_configs(self.id, changes, validate_only).await
    }
}

/// A name that a topic may be created under.
pub(in crate::api) struct Creatable<'a> {
    resources: &'a Resources,
    name: &'a str,
}

impl Target for Creatable<'_> {
    fn resource(&self) -> Resource<'_> {
        Resource::Topic(self.name)
    }
}

impl<'a> Access<'a> {
    /// A name to create a topic under: who may create topics in the cluster may have any.
    pub(in crate::api) fn creatable(
        self,
        cluster: &Result<Authorized<Cluster<'_>, op::Create>, Denied>,
        name: &'a str,
    ) -> Result<Authorized<Creatable<'a>, op::Create>, Denied> {
        let Access { resources, client } = self;
        resources.authorizer.authorize_within(client, cluster, Creatable { resources, name })
    }
}

impl Authorized<Creatable<'_>, op::Create> {
    /// Creates the topic durably, with `num.partitions` unless told otherwise. With `validate_only` only
    /// checks.
    pub(in crate::api) async fn create(
        &self,
        partitions: Option<u32>,
        configs: BTreeMap<String, String>,
        validate_only: bool,
    ) -> Result<Arc<metadata::Topic>, MetadataError> {
        let topic = NewTopic { name: self.name.to_owned(), partitions, configs };
        self.resources.metadata.create(topic, validate_only).await
    }
}
