//! Resources: what operations are carried out on, in the words of Kafka's ACLs.

use std::fmt;

use super::Operation;

/// One resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource<'a> {
    /// The topic of that name, whether there is one or not.
    Topic(&'a str),
    /// The group of that id, whether there is one or not.
    Group(&'a str),
    /// The transactional id.
    TransactionalId(&'a str),
    /// The cluster as a whole.
    Cluster,
}

impl Resource<'_> {
    /// What kind of resource it is.
    pub const fn kind(&self) -> ResourceKind {
        match self {
            Resource::Topic(_) => ResourceKind::Topic,
            Resource::Group(_) => ResourceKind::Group,
            Resource::TransactionalId(_) => ResourceKind::TransactionalId,
            Resource::Cluster => ResourceKind::Cluster,
        }
    }
}

/// Kafka's `ResourceType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// Topics.
    Topic,
    /// Groups.
    Group,
    /// Transactional ids.
    TransactionalId,
    /// The cluster.
    Cluster,
}

impl ResourceKind {
    /// The operations that there are on such resources (Kafka's `AclEntry.supportedOperations`).
    pub const fn operations(self) -> &'static [Operation] {
        use Operation::*;
        match self {
            ResourceKind::Topic => {
                &[Read, Write, Create, Delete, Alter, Describe, DescribeConfigs, AlterConfigs]
            }
            ResourceKind::Group => &[Read, Delete, Describe, DescribeConfigs, AlterConfigs],
            ResourceKind::TransactionalId => &[Write, Describe],
            ResourceKind::Cluster => &[
                Create,
                Alter,
                Describe,
                ClusterAction,
                DescribeConfigs,
                AlterConfigs,
                IdempotentWrite,
            ],
        }
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResourceKind::Topic => "Topic",
            ResourceKind::Group => "Group",
            ResourceKind::TransactionalId => "Transactional Id",
            ResourceKind::Cluster => "Cluster",
        })
    }
}
