//! Metadata, CreateTopics, DeleteTopics and CreatePartitions.

use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, MetadataRequest,
};
use uuid::Uuid;

use super::client::{Client, text};
use super::requests::{
    Topic, append_values, creatable, create_topics, describe, read_from, topic_name,
};
use super::{broker, code};
use crate::harness::{PATIENCE, unique, until};

fn by_name(name: &str) -> MetadataRequestTopic {
    MetadataRequestTopic::default().with_name(Some(topic_name(name)))
}

fn ask(client: &mut Client, version: i16, name: &str, create: bool) -> MetadataResponseTopic {
    let mut request = MetadataRequest::default().with_topics(Some(vec![by_name(name)]));
    if version >= 4 {
        request.allow_auto_topic_creation = create;
    }
    client.call(version, &request).topics.remove(0)
}

#[test]
fn metadata_names_the_broker_and_the_partitions() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create_with(&mut client, 3);
    for version in client.versions::<MetadataRequest>() {
        let request = MetadataRequest::default().with_topics(Some(vec![by_name(&topic.name)]));
        let answer = client.call(version, &request);
        let node = &answer.brokers[0];
        assert_eq!(answer.brokers.len(), 1);
        assert_eq!(node.port, i32::from(broker.address().port()));
        if version >= 2 {
            assert!(answer.cluster_id.is_some_and(|id| !id.is_empty()));
        }
        if version >= 1 {
            assert_eq!(answer.controller_id, node.node_id);
        }
        let of_topic = &answer.topics[0];
        assert_eq!(of_topic.error_code, code::NONE);
        if version >= 10 {
            assert_eq!(of_topic.topic_id, topic.id);
        }
        let mut indexes: Vec<i32> =
            of_topic.partitions.iter().map(|partition| partition.partition_index).collect();
        indexes.sort_unstable();
        assert_eq!(indexes, [0, 1, 2]);
        for partition in &of_topic.partitions {
            assert_eq!(partition.leader_id, node.node_id);
            assert_eq!(partition.replica_nodes, [node.node_id]);
            assert_eq!(partition.isr_nodes, [node.node_id]);
        }
    }
}

#[test]
fn a_null_list_means_all_topics_and_an_empty_one_none() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    for version in client.versions::<MetadataRequest>() {
        // In v0 a list cannot be null, and the empty one means all.
        let all = if version >= 1 { None } else { Some(Vec::new()) };
        let answer = client.call(version, &MetadataRequest::default().with_topics(all));
        let name = Some(topic.topic_name());
        assert!(answer.topics.iter().any(|listed| listed.name == name), "v{version}");
        if version >= 1 {
            let none = MetadataRequest::default().with_topics(Some(Vec::new()));
            assert!(client.call(version, &none).topics.is_empty(), "v{version}");
        }
    }
}

#[test]
fn asking_for_a_topic_creates_it_only_if_the_client_agrees() {
    let broker = broker();
    let mut client = broker.connect();
    for version in client.versions::<MetadataRequest>() {
        let name = unique("auto");
        if version >= 4 {
            let refused = ask(&mut client, version, &name, false);
            assert_eq!(refused.error_code, code::UNKNOWN_TOPIC_OR_PARTITION);
            assert_eq!(describe(&mut client, &name).error_code, code::UNKNOWN_TOPIC_OR_PARTITION);
        }
        until("the topic that asking creates", PATIENCE, || {
            let topic = ask(&mut client, version, &name, true);
            if topic.error_code == 0 { Ok(()) } else { Err(format!("{topic:?}")) }
        });
        assert_eq!(describe(&mut client, &name).partitions.len(), 1);
    }
}

#[test]
fn names_that_no_topic_can_have_are_refused() {
    let broker = broker();
    let mut client = broker.connect();
    let long = "x".repeat(250);
    for name in ["a/b", "../x", "..", ".", "", "a b", "ö", &long] {
        for version in client.versions::<MetadataRequest>() {
            let topic = ask(&mut client, version, name, true);
            assert_eq!(topic.error_code, code::INVALID_TOPIC, "{name:?} v{version}");
        }
        let version = client.latest::<CreateTopicsRequest>();
        let created = client.call(version, &create_topics(vec![creatable(name, 1)]));
        assert_eq!(created.topics[0].error_code, code::INVALID_TOPIC, "{name:?}");
    }
}

#[test]
fn names_that_differ_only_in_dot_and_underscore_collide() {
    let broker = broker();
    let mut client = broker.connect();
    let name = unique("collides");
    Topic::create_named(&mut client, &format!("{name}.x"), 1);
    let version = client.latest::<CreateTopicsRequest>();
    let request = create_topics(vec![creatable(&format!("{name}_x"), 1)]);
    let refused = client.call(version, &request).topics.remove(0);
    assert_eq!(refused.error_code, code::INVALID_TOPIC);
    assert!(refused.error_message.is_some_and(|message| message.contains("collide")));
}

#[test]
fn topics_are_found_by_id() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let version = client.latest::<MetadataRequest>();
    let by_id = |id| MetadataRequestTopic::default().with_topic_id(id).with_name(None);
    let request = MetadataRequest::default()
        .with_topics(Some(vec![by_id(topic.id), by_id(Uuid::new_v4())]))
        .with_allow_auto_topic_creation(false);
    let answer = client.call(version, &request);
    let known = answer.topics.iter().find(|found| found.topic_id == topic.id).expect("known");
    assert_eq!((known.error_code, known.name.clone()), (code::NONE, Some(topic.topic_name())));
    let unknown = answer.topics.iter().find(|found| found.topic_id != topic.id).expect("unknown");
    assert_eq!((unknown.error_code, unknown.name.clone()), (code::UNKNOWN_TOPIC_ID, None));
}

#[test]
fn the_id_counts_where_a_topic_has_both() {
    let broker = broker();
    let mut client = broker.connect();
    let (topic, other) = (Topic::create(&mut client), Topic::create(&mut client));
    let both = |name: &str, id: Uuid| by_name(name).with_topic_id(id);
    let mut ask = |version: i16, topics: Vec<MetadataRequestTopic>| {
        let request = MetadataRequest::default()
            .with_topics(Some(topics))
            .with_allow_auto_topic_creation(false);
        let mut told: Vec<_> = client
            .call(version, &request)
            .topics
            .into_iter()
            .map(|topic| (topic.name.map(|name| name.to_string()), topic.error_code))
            .collect();
        told.sort();
        told
    };
    let found = |topic: &Topic| (Some(topic.name.clone()), code::NONE);
    for version in [12, 13] {
        // As Java's Admin asks.
        assert_eq!(ask(version, vec![both("", topic.id)]), [found(&topic)]);
        assert_eq!(ask(version, vec![both(&other.name, topic.id)]), [found(&topic)]);
        // With one id in a request, its names say nothing.
        let mixed = vec![by_name(&other.name), both("", topic.id), both(&topic.name, topic.id)];
        assert_eq!(ask(version, mixed), [found(&topic)]);
        let unknown = [(None, code::UNKNOWN_TOPIC_ID)];
        assert_eq!(ask(version, vec![both(&topic.name, Uuid::new_v4())]), unknown);
    }
    for version in [10, 11] {
        let told = ask(version, vec![by_name(&other.name), both("", topic.id)]);
        assert!(told.iter().all(|(_, error)| *error == code::INVALID_REQUEST), "{told:?}");
        assert_eq!(told.len(), 2);
    }
}

#[test]
fn a_created_topic_is_there_and_cannot_be_created_again() {
    let broker = broker();
    let mut client = broker.connect();
    for version in client.versions::<CreateTopicsRequest>() {
        let name = unique("created");
        let request = create_topics(vec![creatable(&name, 2)]);
        let created = client.call(version, &request).topics.remove(0);
        assert_eq!(created.error_code, code::NONE, "v{version} {:?}", created.error_message);
        if version >= 5 {
            assert_eq!((created.num_partitions, created.replication_factor), (2, 1));
            let configs = created.configs.expect("configs");
            assert!(configs.iter().any(|config| &*config.name == "cleanup.policy"));
        }
        until("the created topic", PATIENCE, || {
            let topic = describe(&mut client, &name);
            if topic.partitions.len() == 2 { Ok(()) } else { Err(format!("{topic:?}")) }
        });
        let again = client.call(version, &request).topics.remove(0);
        assert_eq!(again.error_code, code::TOPIC_ALREADY_EXISTS);
    }
}

#[test]
fn a_topic_that_cannot_be_is_refused_with_its_reason() {
    let broker = broker();
    let mut client = broker.connect();
    let config = |name: &str, value: &str| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let name = unique("refused");
    let topic = || creatable(&name, 1);
    let cases: Vec<(CreatableTopic, i16)> = vec![
        (topic().with_num_partitions(0), code::INVALID_PARTITIONS),
        (topic().with_num_partitions(-2), code::INVALID_PARTITIONS),
        (topic().with_replication_factor(3), code::INVALID_REPLICATION_FACTOR),
        (topic().with_replication_factor(0), code::INVALID_REPLICATION_FACTOR),
        (topic().with_configs(vec![config("no.such.config", "1")]), code::INVALID_CONFIG),
        (topic().with_configs(vec![config("retention.ms", "soon")]), code::INVALID_CONFIG),
        (topic().with_configs(vec![config("cleanup.policy", "burn")]), code::INVALID_CONFIG),
    ];
    for version in client.versions::<CreateTopicsRequest>() {
        for (topic, error) in &cases {
            let refused = client.call(version, &create_topics(vec![topic.clone()]));
            assert_eq!(refused.topics[0].error_code, *error, "v{version} {topic:?}");
            let reason = refused.topics[0].error_message.as_deref();
            assert!(reason.is_some_and(|reason| !reason.is_empty()), "v{version} {topic:?}");
        }
        let twice = client.call(version, &create_topics(vec![topic(), topic()]));
        assert!(twice.topics.iter().all(|topic| topic.error_code == code::INVALID_REQUEST));
    }
    assert_eq!(describe(&mut client, &name).error_code, code::UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn a_validated_topic_is_not_created_and_minus_one_means_the_default() {
    let broker = broker();
    let mut client = broker.connect();
    let version = client.latest::<CreateTopicsRequest>();
    let name = unique("validated");
    let request = create_topics(vec![creatable(&name, -1).with_replication_factor(-1)]);
    let validated = client.call(version, &request.clone().with_validate_only(true));
    assert_eq!(validated.topics[0].error_code, code::NONE);
    assert_eq!(describe(&mut client, &name).error_code, code::UNKNOWN_TOPIC_OR_PARTITION);
    let created = client.call(version, &request);
    assert_eq!(created.topics[0].error_code, code::NONE);
    assert_eq!(created.topics[0].num_partitions, 1);
}

#[test]
fn a_deleted_topic_is_gone_and_a_recreated_one_is_another() {
    let broker = broker();
    let mut client = broker.connect();
    for version in client.versions::<DeleteTopicsRequest>() {
        let topic = Topic::create(&mut client);
        append_values(&mut client, &topic, ["of the first life"]);
        let request = DeleteTopicsRequest::default().with_timeout_ms(30_000);
        let request = if version >= 6 {
            request.with_topics(vec![
                DeleteTopicState::default().with_name(None).with_topic_id(topic.id),
            ])
        } else {
            request.with_topic_names(vec![topic.topic_name()])
        };
        let deleted = client.call(version, &request).responses.remove(0);
        assert_eq!(deleted.error_code, code::NONE, "v{version}");
        assert_eq!(deleted.name, Some(topic.topic_name()));
        until("the topic to be gone", PATIENCE, || {
            let left = describe(&mut client, &topic.name);
            let is_gone = left.error_code == code::UNKNOWN_TOPIC_OR_PARTITION;
            if is_gone { Ok(()) } else { Err(format!("{left:?}")) }
        });
        let again = client.call(version, &request).responses.remove(0);
        let unknown =
            if version >= 6 { code::UNKNOWN_TOPIC_ID } else { code::UNKNOWN_TOPIC_OR_PARTITION };
        assert_eq!(again.error_code, unknown, "v{version}");
        let recreated = Topic::create_named(&mut client, &topic.name, 1);
        assert_ne!(recreated.id, topic.id);
        assert!(read_from(&mut client, &recreated, 0).is_empty());
    }
}

#[test]
fn partitions_are_added_and_never_taken_away() {
    let broker = broker();
    let mut client = broker.connect();
    for version in client.versions::<CreatePartitionsRequest>() {
        let topic = Topic::create_with(&mut client, 2);
        let mut grow = |name: &str, count: i32, assignments: Option<Vec<_>>| {
            let topic = CreatePartitionsTopic::default()
                .with_name(topic_name(name))
                .with_count(count)
                .with_assignments(assignments);
            let request =
                CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
            client.call(version, &request).results.remove(0).error_code
        };
        assert_eq!(grow(&topic.name, 2, None), code::INVALID_PARTITIONS);
        assert_eq!(grow(&topic.name, 1, None), code::INVALID_PARTITIONS);
        assert_eq!(grow(&unique("unknown"), 3, None), code::UNKNOWN_TOPIC_OR_PARTITION);
        let one_too_few = vec![CreatePartitionsAssignment::default()];
        assert_eq!(grow(&topic.name, 4, Some(one_too_few)), code::INVALID_REPLICA_ASSIGNMENT);
        assert_eq!(grow(&topic.name, 4, None), code::NONE);
        until("the new partitions", PATIENCE, || {
            let grown = describe(&mut client, &topic.name);
            if grown.partitions.len() == 4 { Ok(()) } else { Err(format!("{grown:?}")) }
        });
    }
}
