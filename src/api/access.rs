//! The handlers' way to topics, groups, transactional ids and the cluster: as far as the client of a
//! request is authorised for them, and no other way.
//!
//! Nobody but this file and those below it sees the fields of [`Resources`], and what they hand out is
//! [`Authorized`] for one operation. What changes something is a method of the operation that allows it:
//! `Authorized<Topic, op::Delete>` has a `delete`, `Authorized<Topic, op::Read>` has none.

mod groups;
mod topics;

use std::sync::Arc;

use super::{Context, Request};
use crate::group::Groups;
use crate::metadata::{BrokerScope, ConfigChanges, Features, Metadata, MetadataError};
use crate::security::{Authorized, Authorizer, Client, Denied, Resource, ResourceKind, Target, op};
use crate::txn::{ProducerIdError, ProducerIds};
use crate::types::ProducerId;

pub(super) use groups::Group;
pub(super) use topics::{Creatable, Topic, Topics, Unreachable};

/// What clients must be authorised for, with who decides about it.
pub struct Resources {
    metadata: Metadata,
    groups: Groups,
    producer_ids: ProducerIds,
    authorizer: Authorizer,
}

impl Resources {
    /// Puts the rooms' handles out of the handlers' reach.
    pub fn new(
        metadata: Metadata,
        groups: Groups,
        producer_ids: ProducerIds,
        authorizer: Authorizer,
    ) -> Resources {
        Resources { metadata, groups, producer_ids, authorizer }
    }
}

impl Context {
    /// What the client of `request` may reach.
    pub(super) fn access<'a>(&'a self, request: &'a Request) -> Access<'a> {
        let session = &request.session;
        let client = Client {
            principal: &request.identity.principal,
            host: session.peer().ip(),
            listener: session.listener(),
        };
        Access { resources: &self.resources, client }
    }
}

impl Context {
    /// The cluster's features, which every client may know, also before it has authenticated.
    pub(super) fn features(&self) -> Arc<Features> {
        self.resources.metadata.image().features().clone()
    }
}

/// What one client may reach. Cheap to copy; for one request.
#[derive(Clone, Copy)]
pub(super) struct Access<'a> {
    resources: &'a Resources,
    client: Client<'a>,
}

impl<'a> Access<'a> {
    /// The topics as they are now.
    pub(super) fn topics(self) -> Topics<'a> {
        Topics::new(self)
    }

    /// A group, whether there is one of that id or not.
    pub(super) fn group<O: op::Marker>(
        self,
        id: &'a str,
    ) -> Result<Authorized<Group<'a>, O>, Denied> {
        self.ask(Group::new(self.resources, id))
    }

    /// The cluster.
    pub(super) fn cluster<O: op::Marker>(self) -> Result<Authorized<Cluster<'a>, O>, Denied> {
        self.ask(Cluster { resources: self.resources })
    }

    /// The cluster, for an idempotent producer: who may write to any topic may be one (KIP-679).
    pub(super) fn idempotent_producers(
        self,
    ) -> Result<Authorized<Cluster<'a>, op::IdempotentWrite>, Denied> {
        let cluster = Cluster { resources: self.resources };
        self.resources.authorizer.authorize_or_any::<_, _, op::Write>(
            self.client,
            cluster,
            ResourceKind::Topic,
        )
    }

    /// A transactional id.
    pub(super) fn transactional_id<O: op::Marker>(
        self,
        id: &'a str,
    ) -> Result<Authorized<TransactionalId<'a>, O>, Denied> {
        self.ask(TransactionalId { id })
    }

    /// Whether `O` is allowed on `resource`: for what an answer may tell, since it leads nowhere.
    pub(super) fn may<O: op::Marker>(self, resource: Resource<'_>) -> bool {
        struct Told<'a>(Resource<'a>);
        impl Target for Told<'_> {
            fn resource(&self) -> Resource<'_> {
                self.0
            }
        }
        let asked: Result<Authorized<_, O>, _> = self.ask(Told(resource));
        asked.is_ok()
    }

    /// The operations that are allowed on `resource`, as answers tell them: bits by Kafka's codes.
    pub(super) fn operations(self, resource: Resource<'_>) -> i32 {
        let allowed = self.resources.authorizer.allowed_operations(self.client, resource);
        allowed.fold(0, |bits, operation| bits | 1 << operation.code())
    }

    /// Those on the cluster: none for a client that may not describe it.
    pub(super) fn cluster_operations(self) -> i32 {
        match self.cluster::<op::Describe>() {
            Ok(cluster) => self.operations(cluster.resource()),
            Err(_) => 0,
        }
    }

    fn ask<T: Target, O: op::Marker>(self, target: T) -> Result<Authorized<T, O>, Denied> {
        self.resources.authorizer.authorize(self.client, target)
    }
}

/// The cluster as a whole.
pub(super) struct Cluster<'a> {
    resources: &'a Resources,
}

impl Target for Cluster<'_> {
    fn resource(&self) -> Resource<'_> {
        Resource::Cluster
    }
}

impl Authorized<Cluster<'_>, op::IdempotentWrite> {
    /// A producer id nobody was ever given.
    pub(super) async fn allocate_producer_id(&self) -> Result<ProducerId, ProducerIdError> {
        self.resources.producer_ids.allocate().await
    }
}

impl Authorized<Cluster<'_>, op::AlterConfigs> {
    /// Changes configs of brokers durably. With `validate_only` only checks.
    pub(super) async fn alter_broker_configs(
        &self,
        scope: BrokerScope,
        changes: ConfigChanges,
        validate_only: bool,
    ) -> Result<(), MetadataError> {
        self.resources.metadata.alter_broker_configs(scope, changes, validate_only).await
    }
}

/// A transactional id.
pub(super) struct TransactionalId<'a> {
    id: &'a str,
}

impl TransactionalId<'_> {
    /// As the client named it.
    pub(super) fn id(&self) -> &str {
        self.id
    }
}

impl Target for TransactionalId<'_> {
    fn resource(&self) -> Resource<'_> {
        Resource::TransactionalId(self.id)
    }
}
