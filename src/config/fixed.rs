//! Configs of Kafka that have one value here: one node keeps one copy of each record, and some limits
//! are built in. Clients and the health checks of frameworks read them by name, so DescribeConfigs
//! lists them; setting one is accepted where it changes nothing, and refused otherwise.

use super::{Config, ConfigType, Entry, Origin};

/// The most members a group may have, those included that were only given an id.
pub const GROUP_MEMBERS_MAX: usize = 10_000;
/// The longest metadata that an offset may carry, in UTF-16 units, which are what Kafka counts in spite
/// of the config's name.
pub const OFFSET_METADATA_LENGTH_MAX: usize = 4096;

/// One row of the table.
pub(super) struct Fixed {
    /// Kafka's name.
    pub(super) name: &'static str,
    kind: ConfigType,
    /// Its value, as text.
    pub(super) value: fn(&Config) -> String,
    /// Why it can have no other, to follow "since".
    pub(super) because: &'static str,
    doc: &'static str,
}

const ONE_COPY: &str = "one machine keeps one copy of each record";

/// In name order.
pub(super) const FIXED: &[Fixed] = &[
    Fixed {
        name: "broker.id",
        kind: ConfigType::Int,
        value: |config| config.node_id.to_string(),
        because: "it is another name of node.id: set that one",
        doc: "This broker's id, under its old name.",
    },
    Fixed {
        name: "default.replication.factor",
        kind: ConfigType::Int,
        value: |_| "1".to_owned(),
        because: ONE_COPY,
        doc: "Replicas of a topic that is created without a number of them.",
    },
    Fixed {
        name: "delete.topic.enable",
        kind: ConfigType::Boolean,
        value: |_| "true".to_owned(),
        because: "topics can always be deleted",
        doc: "Whether topics can be deleted.",
    },
    Fixed {
        name: "group.max.size",
        kind: ConfigType::Int,
        value: |_| GROUP_MEMBERS_MAX.to_string(),
        because: "that limit is built in",
        doc: "The most members a consumer group may have.",
    },
    Fixed {
        name: "log.cleaner.enable",
        kind: ConfigType::Boolean,
        value: |_| "true".to_owned(),
        because: "topics with cleanup.policy=compact are always compacted",
        doc: "Whether compacted topics are compacted.",
    },
    Fixed {
        name: "log.preallocate",
        kind: ConfigType::Boolean,
        value: |_| "false".to_owned(),
        because: "segment files grow as they are written",
        doc: "Whether segment files are allocated in full when they are made.",
    },
    Fixed {
        name: "min.insync.replicas",
        kind: ConfigType::Int,
        value: |_| "1".to_owned(),
        because: ONE_COPY,
        doc: "How many replicas must have a record before acks=all is answered.",
    },
    Fixed {
        name: "offset.metadata.max.bytes",
        kind: ConfigType::Int,
        value: |_| OFFSET_METADATA_LENGTH_MAX.to_string(),
        because: "that limit is built in",
        doc: "The longest metadata that may be committed with an offset.",
    },
    Fixed {
        name: "offsets.topic.replication.factor",
        kind: ConfigType::Short,
        value: |_| "1".to_owned(),
        because: ONE_COPY,
        doc: "Replicas of __consumer_offsets.",
    },
    Fixed {
        name: "transaction.state.log.min.isr",
        kind: ConfigType::Int,
        value: |_| "1".to_owned(),
        because: ONE_COPY,
        doc: "min.insync.replicas of the topic of transactions, which are not offered yet.",
    },
    Fixed {
        name: "transaction.state.log.replication.factor",
        kind: ConfigType::Short,
        value: |_| "1".to_owned(),
        because: ONE_COPY,
        doc: "Replicas of the topic of transactions, which are not offered yet.",
    },
    Fixed {
        name: "unclean.leader.election.enable",
        kind: ConfigType::Boolean,
        value: |_| "false".to_owned(),
        because: "the only copy of a partition is the whole one",
        doc: "Whether a replica that lacks records may become the leader.",
    },
];

impl Fixed {
    /// The config as DescribeConfigs shows it.
    pub(super) fn entry(&self, config: &Config) -> Entry {
        let value = (self.value)(config);
        Entry {
            name: self.name,
            kind: self.kind,
            value: Some(value.clone()),
            origins: vec![(Origin::Default, value)],
            is_dynamic: false,
            doc: self.doc,
        }
    }
}

/// The row of a key.
pub(super) fn find(name: &str) -> Option<&'static Fixed> {
    FIXED.iter().find(|key| key.name == name)
}
