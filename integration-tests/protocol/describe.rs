//! DescribeConfigs, DescribeCluster and DescribeTopicPartitions.

use std::collections::HashMap;

use kafka_protocol::messages::create_topics_request::CreatableTopicConfig;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::{
    CreateTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest,
    DescribeTopicPartitionsRequest,
};

use super::client::{Client, text};
use super::requests::{Topic, creatable, create_topics, topic_name};
use super::{broker, code};
use crate::harness::{PATIENCE, unique, until};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

#[track_caller]
fn configs(
    client: &mut Client,
    version: i16,
    kind: i8,
    name: &str,
    keys: Option<&[&str]>,
) -> DescribeConfigsResult {
    let keys = keys.map(|keys| keys.iter().map(|key| text(key)).collect());
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(keys);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    client.call(version, &request).results.remove(0)
}

#[test]
fn a_topics_configs_read_back_as_they_were_set() {
    let broker = broker();
    let mut client = broker.connect();
    let set = |name: &str, value: &str| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let name = unique("configured");
    let topic = creatable(&name, 1)
        .with_configs(vec![set("cleanup.policy", "delete"), set("max.message.bytes", "20000")]);
    let version = client.latest::<CreateTopicsRequest>();
    let created = client.call(version, &create_topics(vec![topic])).topics.remove(0);
    assert_eq!(created.error_code, code::NONE, "{:?}", created.error_message);
    for version in client.versions::<DescribeConfigsRequest>() {
        let result = until("the topic's configs", PATIENCE, || {
            let result = configs(&mut client, version, TOPIC, &name, None);
            if result.error_code == 0 { Ok(result) } else { Err(format!("{result:?}")) }
        });
        let values: HashMap<&str, _> = result
            .configs
            .iter()
            .map(|config| (&*config.name, (config.value.as_deref(), config.config_source)))
            .collect();
        const OF_TOPIC: i8 = 1;
        const DEFAULT: i8 = 5;
        assert_eq!(values["cleanup.policy"], (Some("delete"), OF_TOPIC));
        assert_eq!(values["max.message.bytes"], (Some("20000"), OF_TOPIC));
        assert_eq!(values["compression.type"], (Some("producer"), DEFAULT));
        let one = configs(&mut client, version, TOPIC, &name, Some(&["max.message.bytes"]));
        assert_eq!(one.configs.len(), 1);
        assert_eq!(&*one.configs[0].name, "max.message.bytes");
    }
}

#[test]
fn the_brokers_configs_carry_kafkas_names() {
    let broker = broker();
    let mut client = broker.connect();
    let nodes = client.call(0, &DescribeClusterRequest::default()).brokers;
    let node = nodes[0].broker_id.0.to_string();
    for version in client.versions::<DescribeConfigsRequest>() {
        let result = configs(&mut client, version, BROKER, &node, None);
        assert_eq!(result.error_code, code::NONE);
        for name in ["num.partitions", "message.max.bytes", "auto.create.topics.enable"] {
            assert!(result.configs.iter().any(|config| &*config.name == name), "{name}");
        }
    }
}

#[test]
fn configs_that_have_one_value_on_one_node_are_found_by_name() {
    const BOOLEAN: i8 = 1;
    const INT: i8 = 3;
    const SHORT: i8 = 4;
    let broker = broker();
    let mut client = broker.connect();
    let nodes = client.call(0, &DescribeClusterRequest::default()).brokers;
    let node = nodes[0].broker_id.0.to_string();
    let version = client.latest::<DescribeConfigsRequest>();
    for (name, kind, value) in [
        ("broker.id", INT, node.as_str()),
        ("default.replication.factor", INT, "1"),
        ("delete.topic.enable", BOOLEAN, "true"),
        ("log.cleaner.enable", BOOLEAN, "true"),
        ("log.preallocate", BOOLEAN, "false"),
        ("min.insync.replicas", INT, "1"),
        ("node.id", INT, node.as_str()),
        ("offset.metadata.max.bytes", INT, "4096"),
        ("offsets.topic.replication.factor", SHORT, "1"),
        ("transaction.state.log.min.isr", INT, "1"),
        ("transaction.state.log.replication.factor", SHORT, "1"),
        ("unclean.leader.election.enable", BOOLEAN, "false"),
    ] {
        // As the health check of a framework asks.
        let result = configs(&mut client, version, BROKER, &node, Some(&[name]));
        let [found] = result.configs.as_slice() else { panic!("{name}: {result:?}") };
        let told = (&*found.name, found.config_type, found.value.as_deref());
        assert_eq!(told, (name, kind, Some(value)));
        assert!(!found.is_sensitive, "{name}");
    }
}

#[test]
fn configs_of_what_is_not_there_are_refused() {
    let broker = broker();
    let mut client = broker.connect();
    for version in client.versions::<DescribeConfigsRequest>() {
        let unknown = configs(&mut client, version, TOPIC, &unique("unknown"), None);
        assert_eq!(unknown.error_code, code::UNKNOWN_TOPIC_OR_PARTITION);
        let invalid = configs(&mut client, version, TOPIC, "a/b", None);
        assert_eq!(invalid.error_code, code::INVALID_TOPIC);
        let other_broker = configs(&mut client, version, BROKER, "4711", None);
        assert_eq!(other_broker.error_code, code::INVALID_REQUEST);
    }
}

#[test]
fn the_cluster_is_this_broker() {
    let broker = broker();
    let mut client = broker.connect();
    for version in client.versions::<DescribeClusterRequest>() {
        let mut request = DescribeClusterRequest::default();
        if version >= 1 {
            request.endpoint_type = 1;
        }
        let answer = client.call(version, &request);
        assert_eq!(answer.error_code, code::NONE);
        assert!(!answer.cluster_id.is_empty());
        assert_eq!(answer.brokers.len(), 1);
        let node = &answer.brokers[0];
        assert_eq!((&*node.host, node.port), ("127.0.0.1", i32::from(broker.address().port())));
        assert_eq!(answer.controller_id, node.broker_id);
    }
}

#[test]
fn partitions_are_described_page_by_page() {
    let broker = broker();
    let mut client = broker.connect();
    let (one, two) = (unique("page-a"), unique("page-b"));
    let topics =
        [Topic::create_named(&mut client, &one, 3), Topic::create_named(&mut client, &two, 2)];
    let named =
        topics.iter().map(|topic| TopicRequest::default().with_name(topic.topic_name())).collect();
    let mut request = DescribeTopicPartitionsRequest::default()
        .with_topics(named)
        .with_response_partition_limit(2)
        .with_cursor(None);
    let mut seen = Vec::new();
    loop {
        let answer = client.call(0, &request);
        let mut on_page = 0;
        for topic in &answer.topics {
            assert_eq!(topic.error_code, code::NONE);
            for partition in &topic.partitions {
                on_page += 1;
                let name = topic.name.as_ref().expect("a name").to_string();
                seen.push((name, partition.partition_index));
            }
        }
        assert!(on_page <= 2, "{on_page} partitions on a page of two");
        match answer.next_cursor {
            Some(next) => {
                let cursor = Cursor::default()
                    .with_topic_name(next.topic_name)
                    .with_partition_index(next.partition_index);
                request.cursor = Some(cursor);
            }
            None => break,
        }
        assert!(seen.len() <= 5, "the pages do not end");
    }
    let expected: Vec<(String, i32)> = (0..3)
        .map(|partition| (one.clone(), partition))
        .chain((0..2).map(|partition| (two.clone(), partition)))
        .collect();
    assert_eq!(seen, expected);
    let unknown = TopicRequest::default().with_name(topic_name(&unique("unknown")));
    let request = request.with_topics(vec![unknown]).with_cursor(None);
    let answer = client.call(0, &request);
    assert_eq!(answer.topics[0].error_code, code::UNKNOWN_TOPIC_OR_PARTITION);
}
