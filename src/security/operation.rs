//! Operations: what may be allowed or denied, in the words of Kafka's ACLs.

use std::fmt;

/// Kafka's `AclOperation`, as far as there are resources to carry them out on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Fetch from a topic; be a member of a group, commit its offsets.
    Read,
    /// Produce to a topic, or in the name of a transactional id.
    Write,
    /// Create topics.
    Create,
    /// Delete a topic, its records or a group.
    Delete,
    /// Add partitions to a topic.
    Alter,
    /// See that it is there, and what it is like.
    Describe,
    /// What brokers ask of each other.
    ClusterAction,
    /// Read the configs.
    DescribeConfigs,
    /// Change the configs.
    AlterConfigs,
    /// Get a producer id without a transactional id.
    IdempotentWrite,
}

impl Operation {
    /// Kafka's code of the operation.
    pub const fn code(self) -> u8 {
        match self {
            Operation::Read => 3,
            Operation::Write => 4,
            Operation::Create => 5,
            Operation::Delete => 6,
            Operation::Alter => 7,
            Operation::Describe => 8,
            Operation::ClusterAction => 9,
            Operation::DescribeConfigs => 10,
            Operation::AlterConfigs => 11,
            Operation::IdempotentWrite => 12,
        }
    }

    /// The operations whose permission, on the same resource, permits this one as well. Handlers ask
    /// for the operation that they carry out and nothing else; what follows from what is decided here.
    /// A denial implies nothing.
    pub const fn implied_by(self) -> &'static [Operation] {
        match self {
            Operation::Describe => {
                &[Operation::Read, Operation::Write, Operation::Delete, Operation::Alter]
            }
            Operation::DescribeConfigs => &[Operation::AlterConfigs],
            Operation::Read
            | Operation::Write
            | Operation::Create
            | Operation::Delete
            | Operation::Alter
            | Operation::ClusterAction
            | Operation::AlterConfigs
            | Operation::IdempotentWrite => &[],
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The operations as types, for what an [`Authorized`](super::Authorized) was granted.
pub mod op {
    use super::Operation;

    /// An operation as a type.
    pub trait Marker {
        /// As a value.
        const OPERATION: Operation;
    }

    macro_rules! markers {
        ($($name:ident),*) => {$(
            #[doc = concat!("[`Operation::", stringify!($name), "`].")]
            #[derive(Clone, Copy, Debug)]
            pub struct $name;

            impl Marker for $name {
                const OPERATION: Operation = Operation::$name;
            }
        )*};
    }

    markers!(
        Read,
        Write,
        Create,
        Delete,
        Alter,
        Describe,
        ClusterAction,
        DescribeConfigs,
        AlterConfigs,
        IdempotentWrite
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describe_follows_from_read_write_delete_and_alter_and_from_nothing_else() {
        use Operation::*;
        assert_eq!(Describe.implied_by(), [Read, Write, Delete, Alter]);
        assert_eq!(DescribeConfigs.implied_by(), [AlterConfigs]);
        for operation in [Read, Write, Create, Delete, Alter, ClusterAction, AlterConfigs] {
            assert!(operation.implied_by().is_empty(), "{operation}");
        }
    }

    #[test]
    fn codes_are_kafkas() {
        use Operation::*;
        let all = [
            Read,
            Write,
            Create,
            Delete,
            Alter,
            Describe,
            ClusterAction,
            DescribeConfigs,
            AlterConfigs,
            IdempotentWrite,
        ];
        assert!(all.iter().map(|operation| operation.code()).eq(3..=12));
    }
}
