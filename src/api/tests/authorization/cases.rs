//! What a client asks of each API about one topic, group and transactional id, what it is told when it
//! may not, and what the authoriser is asked for. Each row is Apache Kafka's.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::alter_configs_request as alter;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_records_request as delete_records;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_topic_partitions_request::TopicRequest;
use kafka_protocol::messages::fetch_request as fetch;
use kafka_protocol::messages::incremental_alter_configs_request as incremental;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::list_offsets_request as list_offsets;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request as commit;
use kafka_protocol::messages::offset_fetch_request as offset_fetch;
use kafka_protocol::messages::offset_for_leader_epoch_request as epochs;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::Request;
use uuid::Uuid;

use super::super::fixture::{batch, decode, frame};
use crate::api::wire_text as text;

/// What a request speaks of.
#[derive(Clone, Debug)]
pub struct Subject {
    pub topic: String,
    pub id: Uuid,
    pub group: String,
    pub transactional_id: String,
}

/// A request, and how its answer is read.
pub struct Asked {
    pub frame: Bytes,
    /// The answer in full.
    pub read: Box<dyn Fn(Vec<Bytes>) -> String>,
}

/// Whom the authoriser denies what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Denying {
    Nothing,
    Everything,
    /// Operation and kind of resource, such as `Read Topic`.
    Only(&'static [&'static str]),
}

/// One row of the matrix.
pub struct Case {
    pub api: ApiKey,
    pub what: &'static str,
    pub ask: fn(&Subject) -> Asked,
    /// What is denied, and the codes of the answer then.
    pub denying: Denying,
    pub codes: &'static [i16],
    /// What the authoriser is asked for when it allows everything; `T`, `G` and `X` stand for the topic,
    /// the group and the transactional id.
    pub asked: &'static [&'static str],
    /// The request names the topic and the group, so that the answer may. Then a client learns nothing
    /// from how it is refused: not whether they are there.
    pub is_by_name: bool,
}

fn asked<Q: Request<Response: Debug>>(version: i16, body: Q) -> Asked {
    let read = move |chunks| format!("{:?}", decode::<Q::Response>(version, chunks));
    Asked { frame: frame(version, &body), read: Box::new(read) }
}

pub fn create_topics(name: &str) -> Asked {
    let topic = CreatableTopic::default()
        .with_name(text(name).into())
        .with_num_partitions(1)
        .with_replication_factor(1);
    asked(7, CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000))
}

fn produce(version: i16, subject: &Subject, records: Bytes) -> ProduceRequest {
    let partition = PartitionProduceData::default().with_records(Some(records));
    let topic = match version {
        13.. => TopicProduceData::default().with_topic_id(subject.id),
        _ => TopicProduceData::default().with_name(text(&subject.topic).into()),
    };
    let topic = topic.with_partition_data(vec![partition]);
    ProduceRequest::default().with_acks(1).with_timeout_ms(10_000).with_topic_data(vec![topic])
}

pub fn fill(subject: &Subject) -> Asked {
    asked(9, produce(9, subject, batch(1000, &["a"])))
}

/// The same batch, as part of a transaction.
fn transactional() -> Bytes {
    const ATTRIBUTES_AT: usize = 22;
    let mut bytes = BytesMut::from(&batch(1000, &["a"])[..]);
    bytes[ATTRIBUTES_AT] |= 0x10;
    let crc = crc32c::crc32c(&bytes[21..]).to_be_bytes();
    bytes[17..21].copy_from_slice(&crc);
    bytes.freeze()
}

pub fn commit(subject: &Subject) -> Asked {
    let partition = commit::OffsetCommitRequestPartition::default()
        .with_committed_offset(1)
        .with_committed_metadata(Some(text("")));
    let topic = commit::OffsetCommitRequestTopic::default()
        .with_name(text(&subject.topic).into())
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(text(&subject.group).into())
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    asked(8, request)
}

fn fetch(version: i16, subject: &Subject) -> Asked {
    let partition = fetch::FetchPartition::default()
        .with_current_leader_epoch(-1)
        .with_partition_max_bytes(1 << 20);
    let topic = match version {
        13.. => fetch::FetchTopic::default().with_topic_id(subject.id),
        _ => fetch::FetchTopic::default().with_topic(text(&subject.topic).into()),
    };
    let request = FetchRequest::default()
        .with_session_epoch(-1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![topic.with_partitions(vec![partition])]);
    asked(version, request)
}

fn metadata(topics: Option<Vec<MetadataRequestTopic>>, may_create: bool) -> MetadataRequest {
    MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(may_create)
}

fn named(subject: &Subject) -> Option<Vec<MetadataRequestTopic>> {
    Some(vec![MetadataRequestTopic::default().with_name(Some(text(&subject.topic).into()))])
}

fn offset_fetch(version: i16, subject: &Subject, is_whole: bool) -> Asked {
    let group = || GroupId(text(&subject.group));
    if version < 8 {
        let topic = offset_fetch::OffsetFetchRequestTopic::default()
            .with_name(text(&subject.topic).into())
            .with_partition_indexes(vec![0]);
        let topics = (!is_whole).then(|| vec![topic]);
        let request = OffsetFetchRequest::default().with_group_id(group()).with_topics(topics);
        return asked(version, request);
    }
    let topic = offset_fetch::OffsetFetchRequestTopics::default()
        .with_name(text(&subject.topic).into())
        .with_partition_indexes(vec![0]);
    let group = offset_fetch::OffsetFetchRequestGroup::default()
        .with_group_id(group())
        .with_topics((!is_whole).then(|| vec![topic]));
    asked(version, OffsetFetchRequest::default().with_groups(vec![group]))
}

fn coordinator(version: i16, key_type: i8, key: &str) -> Asked {
    let request = FindCoordinatorRequest::default().with_key_type(key_type);
    let request = match version {
        4.. => request.with_coordinator_keys(vec![text(key)]),
        _ => request.with_key(text(key)),
    };
    asked(version, request)
}

fn delete_topics(name: Option<&str>, id: Uuid) -> Asked {
    let name = name.map(|name| text(name).into());
    let topic = DeleteTopicState::default().with_name(name).with_topic_id(id);
    asked(6, DeleteTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000))
}

fn describe_configs(kind: i8, name: &str) -> Asked {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(Some(vec![text("cleanup.policy")]));
    asked(4, DescribeConfigsRequest::default().with_resources(vec![resource]))
}

fn alter_configs(kind: i8, name: &str, config: Option<&str>) -> Asked {
    let configs = config.into_iter().map(|name| {
        alter::AlterableConfig::default().with_name(text(name)).with_value(Some(text("60000")))
    });
    let resource = alter::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(configs.collect());
    asked(2, AlterConfigsRequest::default().with_resources(vec![resource]))
}

fn incremental_alter_configs(kind: i8, name: &str, config: Option<&str>) -> Asked {
    let configs = config.into_iter().map(|name| {
        incremental::AlterableConfig::default()
            .with_name(text(name))
            .with_value(Some(text("60000")))
    });
    let resource = incremental::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(configs.collect());
    asked(1, IncrementalAlterConfigsRequest::default().with_resources(vec![resource]))
}

fn init_producer_id(id: Option<&str>) -> Asked {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(id.map(|id| text(id).into()))
        .with_transaction_timeout_ms(10_000)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    asked(4, request)
}

fn describe_topic_partitions(names: &[&str]) -> Asked {
    let topics = names.iter().map(|name| TopicRequest::default().with_name(text(name).into()));
    let request = DescribeTopicPartitionsRequest::default()
        .with_topics(topics.collect())
        .with_response_partition_limit(2000)
        .with_cursor(None);
    asked(0, request)
}

fn join(subject: &Subject) -> Asked {
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
    let request = JoinGroupRequest::default()
        .with_group_id(text(&subject.group).into())
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    asked(4, request)
}

macro_rules! case {
    ($api:ident, $what:literal, $ask:expr, $denying:expr => $codes:expr, [$($asked:literal),*]) => {
        Case {
            api: ApiKey::$api,
            what: $what,
            ask: $ask,
            denying: $denying,
            codes: &$codes,
            asked: &[$($asked),*],
            is_by_name: true,
        }
    };
    ($api:ident, $what:literal, $ask:expr, $denying:expr => $codes:expr, [$($asked:literal),*], unnamed) => {
        Case { is_by_name: false, ..case!($api, $what, $ask, $denying => $codes, [$($asked),*]) }
    };
}

use Denying::{Everything, Only};

/// Every API, each with all the ways in which it asks for different things.
pub fn all() -> Vec<Case> {
    vec![
        case!(Produce, "by name", fill, Everything => [29], ["Write Topic T"]),
        case!(Produce, "by id", |s| asked(13, produce(13, s, batch(1, &["a"]))),
            Everything => [29], ["Write Topic T"], unnamed),
        case!(Produce, "a transactional batch", |s| {
                let id = Some(text(&s.transactional_id).into());
                asked(9, produce(9, s, transactional()).with_transactional_id(id))
            },
            Only(&["Write TransactionalId"]) => [53], ["Write TransactionalId X", "Write Topic T"]),
        case!(Fetch, "by name", |s| fetch(12, s), Everything => [29], ["Read Topic T"]),
        case!(Fetch, "by id", |s| fetch(13, s), Everything => [29], ["Read Topic T"], unnamed),
        case!(ListOffsets, "the end", |s| {
                let partition = list_offsets::ListOffsetsPartition::default()
                    .with_current_leader_epoch(-1)
                    .with_timestamp(-1);
                let topic = list_offsets::ListOffsetsTopic::default()
                    .with_name(text(&s.topic).into())
                    .with_partitions(vec![partition]);
                asked(7, ListOffsetsRequest::default()
                    .with_replica_id((-1).into())
                    .with_topics(vec![topic]))
            },
            Everything => [29], ["Describe Topic T"]),
        case!(Metadata, "by name", |s| asked(12, metadata(named(s), false)),
            Everything => [29], ["Describe Topic T"]),
        case!(Metadata, "by id", |s| {
                let topic = MetadataRequestTopic::default().with_name(None).with_topic_id(s.id);
                asked(12, metadata(Some(vec![topic]), false))
            },
            Everything => [29], ["Describe Topic T"], unnamed),
        case!(Metadata, "a topic to create", |s| {
                let name = format!("new-{}", s.topic);
                let topic = MetadataRequestTopic::default().with_name(Some(text(&name).into()));
                asked(12, metadata(Some(vec![topic]), true))
            },
            Only(&["Create Cluster", "Create Topic"]) => [29],
            ["Describe Topic new-T", "Create Cluster"]),
        case!(Metadata, "with the operations", |s| {
                asked(8, metadata(named(s), false)
                    .with_include_cluster_authorized_operations(true)
                    .with_include_topic_authorized_operations(true))
            },
            Everything => [29],
            ["Describe Topic T", "Read Topic T", "Write Topic T", "Create Topic T",
             "Delete Topic T", "Alter Topic T", "DescribeConfigs Topic T", "AlterConfigs Topic T",
             "Describe Cluster", "Create Cluster", "Alter Cluster", "ClusterAction Cluster",
             "DescribeConfigs Cluster", "AlterConfigs Cluster", "IdempotentWrite Cluster"]),
        case!(OffsetCommit, "to a group", commit, Everything => [30],
            ["Read Group G", "Read Topic T"]),
        case!(OffsetCommit, "for a topic", commit, Only(&["Read Topic"]) => [29],
            ["Read Group G", "Read Topic T"]),
        case!(OffsetFetch, "of a group", |s| offset_fetch(8, s, false), Everything => [30],
            ["Describe Group G", "Describe Topic T"]),
        case!(OffsetFetch, "of a group, v2", |s| offset_fetch(2, s, false), Everything => [30],
            ["Describe Group G", "Describe Topic T"]),
        case!(OffsetFetch, "of a group, v1", |s| offset_fetch(1, s, false), Everything => [30],
            ["Describe Group G", "Describe Topic T"]),
        case!(OffsetFetch, "for a topic", |s| offset_fetch(8, s, false),
            Only(&["Describe Topic"]) => [29], ["Describe Group G", "Describe Topic T"]),
        case!(OffsetFetch, "all of a group", |s| offset_fetch(8, s, true),
            Only(&["Describe Topic"]) => [], ["Describe Group G", "Describe Topic T"]),
        case!(FindCoordinator, "of a group", |s| coordinator(4, 0, &s.group),
            Everything => [30], ["Describe Group G"]),
        case!(FindCoordinator, "of a group, v0", |s| coordinator(0, 0, &s.group),
            Everything => [30], ["Describe Group G"]),
        case!(FindCoordinator, "of a transactional id", |s| coordinator(4, 1, &s.transactional_id),
            Everything => [53], ["Describe TransactionalId X"]),
        case!(FindCoordinator, "of a share partition",
            |_| coordinator(6, 2, "g:AAAAAAAAAAAAAAAAAAAAAQ:0"),
            Everything => [31], ["ClusterAction Cluster"]),
        case!(JoinGroup, "a group", join, Everything => [30], ["Read Group G"]),
        case!(Heartbeat, "of a member", |s| {
                asked(3, HeartbeatRequest::default()
                    .with_group_id(text(&s.group).into())
                    .with_member_id(text("m")))
            },
            Everything => [30], ["Read Group G"]),
        case!(LeaveGroup, "a group", |s| {
                let member = MemberIdentity::default().with_member_id(text("m"));
                asked(4, LeaveGroupRequest::default()
                    .with_group_id(text(&s.group).into())
                    .with_members(vec![member]))
            },
            Everything => [30], ["Read Group G"]),
        case!(SyncGroup, "of a member", |s| {
                asked(5, SyncGroupRequest::default()
                    .with_group_id(text(&s.group).into())
                    .with_member_id(text("m"))
                    .with_protocol_type(Some(text("consumer")))
                    .with_protocol_name(Some(text("range"))))
            },
            Everything => [30], ["Read Group G"]),
        case!(DescribeGroups, "with the operations", |s| {
                asked(5, DescribeGroupsRequest::default()
                    .with_groups(vec![text(&s.group).into()])
                    .with_include_authorized_operations(true))
            },
            Everything => [30],
            ["Describe Group G", "Read Group G", "Delete Group G", "DescribeConfigs Group G",
             "AlterConfigs Group G"]),
        case!(ListGroups, "all", |_| asked(4, ListGroupsRequest::default()),
            Everything => [], ["Describe Cluster"], unnamed),
        case!(ApiVersions, "of a client", |_| {
                asked(3, ApiVersionsRequest::default()
                    .with_client_software_name(text("x"))
                    .with_client_software_version(text("1")))
            },
            Everything => [], [], unnamed),
        case!(CreateTopics, "a topic", |s| create_topics(&format!("new-{}", s.topic)),
            Everything => [29], ["Create Cluster", "DescribeConfigs Topic new-T"]),
        case!(CreateTopics, "by the topic's own permission", |s| create_topics(&s.topic),
            Only(&["Create Cluster", "Create Topic"]) => [29],
            ["Create Cluster", "DescribeConfigs Topic T"]),
        case!(DeleteTopics, "by name", |s| delete_topics(Some(&s.topic), Uuid::nil()),
            Everything => [29], ["Delete Cluster"]),
        case!(DeleteTopics, "by id", |s| delete_topics(None, s.id),
            Everything => [29], ["Delete Cluster"], unnamed),
        case!(DeleteTopics, "that it may describe", |s| delete_topics(None, s.id),
            Only(&["Delete Cluster", "Delete Topic"]) => [29], ["Delete Cluster"]),
        case!(DeleteRecords, "all", |s| {
                let partition = delete_records::DeleteRecordsPartition::default().with_offset(-1);
                let topic = delete_records::DeleteRecordsTopic::default()
                    .with_name(text(&s.topic).into())
                    .with_partitions(vec![partition]);
                asked(2, DeleteRecordsRequest::default()
                    .with_topics(vec![topic])
                    .with_timeout_ms(10_000))
            },
            Everything => [29], ["Delete Topic T"]),
        case!(InitProducerId, "idempotent", |_| init_producer_id(None),
            Everything => [31], ["IdempotentWrite Cluster"]),
        case!(InitProducerId, "transactional", |s| init_producer_id(Some(&s.transactional_id)),
            Everything => [53], ["Write TransactionalId X"]),
        case!(OffsetForLeaderEpoch, "of a topic", |s| {
                let partition = epochs::OffsetForLeaderPartition::default()
                    .with_current_leader_epoch(-1)
                    .with_leader_epoch(0);
                let topic = epochs::OffsetForLeaderTopic::default()
                    .with_topic(text(&s.topic).into())
                    .with_partitions(vec![partition]);
                asked(4, OffsetForLeaderEpochRequest::default()
                    .with_replica_id((-1).into())
                    .with_topics(vec![topic]))
            },
            Everything => [29], ["ClusterAction Cluster"]),
        case!(DescribeConfigs, "of a topic", |s| describe_configs(2, &s.topic),
            Everything => [29], ["DescribeConfigs Topic T"]),
        case!(DescribeConfigs, "of the broker", |_| describe_configs(4, "1"),
            Everything => [31], ["DescribeConfigs Cluster"]),
        case!(DescribeConfigs, "of a group", |s| describe_configs(32, &s.group),
            Everything => [30], ["DescribeConfigs Group G"]),
        case!(AlterConfigs, "of a topic", |s| alter_configs(2, &s.topic, Some("retention.ms")),
            Everything => [29], ["AlterConfigs Topic T"]),
        case!(AlterConfigs, "of the broker", |_| alter_configs(4, "1", None),
            Everything => [31], ["AlterConfigs Cluster"]),
        case!(AlterConfigs, "of a group", |s| alter_configs(32, &s.group, None),
            Everything => [30], ["AlterConfigs Group G"]),
        case!(AlterConfigs, "of another broker", |_| alter_configs(4, "9", None),
            Everything => [42], []),
        case!(CreatePartitions, "one more", |s| {
                let topic = CreatePartitionsTopic::default()
                    .with_name(text(&s.topic).into())
                    .with_count(2)
                    .with_assignments(None);
                asked(3, CreatePartitionsRequest::default()
                    .with_topics(vec![topic])
                    .with_timeout_ms(10_000))
            },
            Everything => [29], ["Alter Topic T"]),
        case!(DeleteGroups, "a group", |s| {
                let names = vec![text(&s.group).into()];
                asked(2, DeleteGroupsRequest::default().with_groups_names(names))
            },
            Everything => [30], ["Delete Group G"]),
        case!(IncrementalAlterConfigs, "of a topic",
            |s| incremental_alter_configs(2, &s.topic, Some("retention.ms")),
            Everything => [29], ["AlterConfigs Topic T"]),
        case!(IncrementalAlterConfigs, "of the broker", |_| incremental_alter_configs(4, "1", None),
            Everything => [31], ["AlterConfigs Cluster"]),
        case!(IncrementalAlterConfigs, "of a group",
            |s| incremental_alter_configs(32, &s.group, Some("consumer.session.timeout.ms")),
            Everything => [30], ["AlterConfigs Group G"]),
        case!(DescribeCluster, "with the operations", |_| {
                asked(1, DescribeClusterRequest::default()
                    .with_include_cluster_authorized_operations(true))
            },
            Everything => [],
            ["Describe Cluster", "Create Cluster", "Alter Cluster", "ClusterAction Cluster",
             "DescribeConfigs Cluster", "AlterConfigs Cluster", "IdempotentWrite Cluster"], unnamed),
        case!(DescribeCluster, "without them",
            |_| asked(1, DescribeClusterRequest::default()), Everything => [], [], unnamed),
        case!(DescribeTopicPartitions, "by name", |s| describe_topic_partitions(&[&s.topic]),
            Everything => [29],
            ["Describe Topic T", "Read Topic T", "Write Topic T", "Create Topic T",
             "Delete Topic T", "Alter Topic T", "DescribeConfigs Topic T", "AlterConfigs Topic T"]),
    ]
}

/// Requests that name nothing and get everything, with what they say of topics and groups.
pub fn lists() -> Vec<(&'static str, Asked)> {
    vec![
        ("Metadata", asked(12, metadata(None, true))),
        ("Metadata v0", asked(0, metadata(Some(Vec::new()), true))),
        ("ListGroups", asked(4, ListGroupsRequest::default())),
        ("DescribeTopicPartitions", describe_topic_partitions(&[])),
    ]
}
