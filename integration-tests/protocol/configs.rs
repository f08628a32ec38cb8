//! IncrementalAlterConfigs and AlterConfigs: what they refuse, and what a change does to a topic
//! that is being written; DescribeConfigs of what was changed.

use std::collections::BTreeMap;

use bytes::Buf;
use kafka_protocol::messages::alter_configs_request::{self, AlterConfigsResource};
use kafka_protocol::messages::create_topics_request::CreatableTopicConfig;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::incremental_alter_configs_request as incremental;
use kafka_protocol::messages::{
    AlterConfigsRequest, CreateTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest,
    FetchRequest, IncrementalAlterConfigsRequest, ProduceRequest,
};

use super::batch::Batch;
use super::client::{Client, text};
use super::requests::{
    Topic, append, creatable, create_topics, fetch, fetched, produce, produced, read_from,
};
use super::{broker, code};
use crate::harness::{PATIENCE, unique, until};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// Key and value.
type Pair<'a> = (&'a str, Option<&'a str>);

/// Key, operation and value.
type Operation<'a> = (&'a str, i8, Option<&'a str>);

fn changing(kind: i8, name: &str, operations: &[Operation]) -> IncrementalAlterConfigsRequest {
    let configs = operations.iter().map(|(name, operation, value)| {
        incremental::AlterableConfig::default()
            .with_name(text(name))
            .with_config_operation(*operation)
            .with_value(value.map(text))
    });
    let resource = incremental::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(configs.collect());
    IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
}

fn replacing(kind: i8, name: &str, configs: &[Pair]) -> AlterConfigsRequest {
    let configs = configs.iter().map(|(name, value)| {
        alter_configs_request::AlterableConfig::default()
            .with_name(text(name))
            .with_value(value.map(text))
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(configs.collect());
    AlterConfigsRequest::default().with_resources(vec![resource])
}

/// Changes a topic's configs at the highest version, which must succeed.
#[track_caller]
fn change(client: &mut Client, topic: &str, operations: &[Operation]) {
    let version = client.latest::<IncrementalAlterConfigsRequest>();
    let answer = client.call(version, &changing(TOPIC, topic, operations)).responses.remove(0);
    assert_eq!(answer.error_code, code::NONE, "{:?}", answer.error_message);
}

#[track_caller]
fn described(client: &mut Client, topic: &str) -> Vec<DescribeConfigsResourceResult> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text(topic))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![resource])
        .with_include_synonyms(true);
    let version = client.latest::<DescribeConfigsRequest>();
    let result = client.call(version, &request).results.remove(0);
    assert_eq!(result.error_code, code::NONE);
    result.configs
}

/// What the topic itself sets.
#[track_caller]
fn own(client: &mut Client, topic: &str) -> BTreeMap<String, String> {
    const OF_TOPIC: i8 = 1;
    let configs = described(client, topic).into_iter();
    configs
        .filter(|config| config.config_source == OF_TOPIC)
        .map(|config| (config.name.to_string(), config.value.unwrap_or_default().to_string()))
        .collect()
}

/// Waits until the topic sets exactly these: Kafka's broker learns from its controller.
#[track_caller]
fn until_own(client: &mut Client, topic: &str, expected: &[(&str, &str)]) {
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    until("the topic's configs", PATIENCE, || {
        let own = own(client, topic);
        if own == expected { Ok(()) } else { Err(format!("{own:?}, not {expected:?}")) }
    });
}

#[test]
fn single_configs_change_and_lists_grow_and_shrink() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let steps: [(Operation, &[(&str, &str)]); 9] = [
        (("retention.ms", SET, Some("1000")), &[("retention.ms", "1000")]),
        (("retention.ms", SET, Some(" +7 ")), &[("retention.ms", "7")]),
        (("retention.ms", DELETE, None), &[]),
        (("retention.ms", DELETE, Some("")), &[]),
        (("cleanup.policy", APPEND, Some("compact")), &[("cleanup.policy", "delete,compact")]),
        (("cleanup.policy", APPEND, Some("compact")), &[("cleanup.policy", "delete,compact")]),
        (("cleanup.policy", SUBTRACT, Some("delete")), &[("cleanup.policy", "compact")]),
        (("cleanup.policy", SUBTRACT, Some("compact")), &[("cleanup.policy", "")]),
        (("no.such.config", DELETE, None), &[("cleanup.policy", "")]),
    ];
    for version in client.versions::<IncrementalAlterConfigsRequest>() {
        for (operation, expected) in steps {
            let request = changing(TOPIC, &topic.name, &[operation]);
            let answer = client.call(version, &request).responses.remove(0);
            assert_eq!(answer.error_code, code::NONE, "{operation:?} {:?}", answer.error_message);
            assert_eq!((answer.resource_type, &*answer.resource_name), (TOPIC, &*topic.name));
            until_own(&mut client, &topic.name, expected);
        }
        change(&mut client, &topic.name, &[("cleanup.policy", DELETE, None)]);
        until_own(&mut client, &topic.name, &[]);
    }
}

#[test]
fn a_replacement_unsets_what_it_does_not_name() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    for version in client.versions::<AlterConfigsRequest>() {
        for configs in
            [&[("retention.ms", "5"), ("segment.ms", "6")][..], &[("segment.ms", "7")], &[]]
        {
            let all: Vec<_> = configs.iter().map(|(name, value)| (*name, Some(*value))).collect();
            let request = replacing(TOPIC, &topic.name, &all);
            let answer = client.call(version, &request).responses.remove(0);
            assert_eq!(answer.error_code, code::NONE, "{:?}", answer.error_message);
            until_own(&mut client, &topic.name, configs);
        }
    }
}

#[test]
fn a_change_that_cannot_be_is_refused_with_its_reason() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let name = topic.name.as_str();
    let nodes = client.call(0, &DescribeClusterRequest::default()).brokers;
    let node = nodes[0].broker_id.0.to_string();
    let unknown = unique("unknown");
    let good = ("retention.bytes", SET, Some("5"));
    let cases: [(i8, &str, &[Operation], i16); 17] = [
        (TOPIC, name, &[good, ("retention.ms", SET, Some("soon"))], code::INVALID_CONFIG),
        (TOPIC, name, &[good, ("retention.ms", SET, Some("-2"))], code::INVALID_CONFIG),
        (TOPIC, name, &[good, ("retention.ms", APPEND, Some("1"))], code::INVALID_CONFIG),
        (TOPIC, name, &[good, ("cleanup.policy", APPEND, Some("burn"))], code::INVALID_CONFIG),
        (TOPIC, name, &[good, ("no.such.config", SET, Some("1"))], code::INVALID_CONFIG),
        (TOPIC, name, &[good, ("no.such.config", APPEND, Some("1"))], code::INVALID_CONFIG),
        (
            TOPIC,
            name,
            &[
                ("min.compaction.lag.ms", SET, Some("10")),
                ("max.compaction.lag.ms", SET, Some("5")),
            ],
            code::INVALID_CONFIG,
        ),
        (TOPIC, name, &[good, ("retention.ms", SET, None)], code::INVALID_REQUEST),
        (TOPIC, name, &[("cleanup.policy", SUBTRACT, None)], code::INVALID_REQUEST),
        (TOPIC, name, &[good, good], code::INVALID_REQUEST),
        (TOPIC, name, &[good, ("retention.bytes", DELETE, None)], code::INVALID_REQUEST),
        (TOPIC, &unknown, &[good], code::UNKNOWN_TOPIC_OR_PARTITION),
        (TOPIC, "a/b", &[good], code::INVALID_TOPIC),
        (TOPIC, "", &[good], code::INVALID_REQUEST),
        (BROKER, &node, &[("node.id", SET, Some("5"))], code::INVALID_REQUEST),
        (BROKER, "4711", &[good], code::INVALID_REQUEST),
        (BROKER, "one", &[good], code::INVALID_REQUEST),
    ];
    for version in client.versions::<IncrementalAlterConfigsRequest>() {
        for (kind, name, operations, expected) in cases {
            let refused = client.call(version, &changing(kind, name, operations));
            let refused = &refused.responses[0];
            assert_eq!(refused.error_code, expected, "{kind} {name} {operations:?}");
            assert!(refused.error_message.as_deref().is_some_and(|reason| !reason.is_empty()));
        }
        let checked = changing(TOPIC, name, &[good]).with_validate_only(true);
        assert_eq!(client.call(version, &checked).responses[0].error_code, code::NONE);
        // What is right beside it is answered by itself.
        let mut both = changing(TOPIC, &unknown, &[good]);
        both.resources.extend(changing(TOPIC, name, &[]).resources);
        let answers: BTreeMap<String, i16> = client
            .call(version, &both)
            .responses
            .into_iter()
            .map(|answer| (answer.resource_name.to_string(), answer.error_code))
            .collect();
        assert_eq!(answers[&unknown], code::UNKNOWN_TOPIC_OR_PARTITION);
        assert_eq!(answers[name], code::NONE);
    }
    for version in client.versions::<AlterConfigsRequest>() {
        let good = ("retention.bytes", Some("5"));
        let cases: [(i8, &str, &[Pair], i16); 9] = [
            (TOPIC, name, &[good, ("retention.ms", Some("soon"))], code::INVALID_CONFIG),
            (TOPIC, name, &[good, ("no.such.config", Some("1"))], code::INVALID_CONFIG),
            (TOPIC, name, &[good, ("retention.ms", None)], code::INVALID_REQUEST),
            (TOPIC, name, &[good, good], code::INVALID_REQUEST),
            (TOPIC, &unknown, &[good], code::UNKNOWN_TOPIC_OR_PARTITION),
            (TOPIC, "a/b", &[good], code::INVALID_TOPIC),
            (TOPIC, "", &[good], code::INVALID_REQUEST),
            (BROKER, &node, &[("node.id", Some("5"))], code::INVALID_REQUEST),
            (BROKER, "4711", &[good], code::INVALID_REQUEST),
        ];
        for (kind, name, configs, expected) in cases {
            let refused = client.call(version, &replacing(kind, name, configs));
            assert_eq!(refused.responses[0].error_code, expected, "{kind} {name} {configs:?}");
        }
        let checked = replacing(TOPIC, name, &[good]).with_validate_only(true);
        assert_eq!(client.call(version, &checked).responses[0].error_code, code::NONE);
    }
    assert_eq!(own(&mut client, name), BTreeMap::new());
}

#[test]
fn values_have_kafkas_bounds_and_read_back_as_kafka_writes_them() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    for (name, value, read) in [
        ("cleanup.policy", "compact,delete", "compact,delete"),
        ("cleanup.policy", "delete,compact", "delete,compact"),
        ("cleanup.policy", " compact , delete", "compact,delete"),
        ("cleanup.policy", "delete,delete", "delete"),
        ("cleanup.policy", "", ""),
        ("retention.ms", "0", "0"),
        ("retention.ms", "-1", "-1"),
        ("retention.bytes", "-2", "-2"),
        ("max.message.bytes", "0", "0"),
        ("segment.bytes", "1048576", "1048576"),
        ("segment.ms", "1", "1"),
        ("segment.jitter.ms", "0", "0"),
        ("index.interval.bytes", "0", "0"),
        ("min.cleanable.dirty.ratio", ".25", "0.25"),
        ("min.cleanable.dirty.ratio", "1", "1.0"),
        ("max.compaction.lag.ms", "1", "1"),
        ("compression.type", "uncompressed", "uncompressed"),
        ("compression.gzip.level", "9", "9"),
        ("compression.zstd.level", "-131072", "-131072"),
        ("compression.lz4.level", "9", "9"),
        ("message.timestamp.type", "LogAppendTime", "LogAppendTime"),
        ("message.timestamp.before.max.ms", "0", "0"),
        ("preallocate", "FALSE", "false"),
    ] {
        change(&mut client, &topic.name, &[(name, SET, Some(value))]);
        until("the value to read back", PATIENCE, || {
            let own = own(&mut client, &topic.name);
            let shown = own.get(name).map(String::as_str);
            if shown == Some(read) { Ok(()) } else { Err(format!("{name}={shown:?}, not {read}")) }
        });
    }
    let version = client.latest::<CreateTopicsRequest>();
    for (name, value) in [
        ("cleanup.policy", "DELETE"),
        ("cleanup.policy", "delete,"),
        ("cleanup.policy", "compact,none"),
        ("retention.ms", "-2"),
        ("retention.ms", "1.5"),
        ("retention.ms", ""),
        ("retention.ms", "9223372036854775808"),
        ("max.message.bytes", "-1"),
        ("max.message.bytes", "2147483648"),
        ("segment.bytes", "1048575"),
        ("segment.bytes", "2147483648"),
        ("segment.ms", "0"),
        ("segment.jitter.ms", "-1"),
        ("index.interval.bytes", "-1"),
        ("min.cleanable.dirty.ratio", "1.1"),
        ("min.compaction.lag.ms", "-1"),
        ("max.compaction.lag.ms", "0"),
        ("delete.retention.ms", "-1"),
        ("compression.type", "GZIP"),
        ("compression.gzip.level", "0"),
        ("compression.gzip.level", "10"),
        ("compression.zstd.level", "23"),
        ("message.timestamp.type", "createtime"),
        ("message.timestamp.after.max.ms", "-1"),
        ("retension.ms", "1"),
    ] {
        let config =
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)));
        let request =
            create_topics(vec![creatable(&unique("bounds"), 1).with_configs(vec![config])]);
        let created = client.call(version, &request).topics.remove(0);
        assert_eq!(created.error_code, code::INVALID_CONFIG, "{name}={value}");
    }
}

#[test]
fn defaults_types_and_origins_are_kafkas() {
    const STRING: i8 = 2;
    const INT: i8 = 3;
    const LONG: i8 = 5;
    const DOUBLE: i8 = 6;
    const LIST: i8 = 7;
    const LONG_MAX: &str = "9223372036854775807";
    const DEFAULT: i8 = 5;
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let configs = described(&mut client, &topic.name);
    // The finest of several units is no origin while it is not set.
    for (name, kind, value, origin) in [
        ("cleanup.policy", LIST, "delete", Some("log.cleanup.policy")),
        ("compression.gzip.level", INT, "-1", Some("compression.gzip.level")),
        ("compression.lz4.level", INT, "9", Some("compression.lz4.level")),
        ("compression.type", STRING, "producer", Some("compression.type")),
        ("compression.zstd.level", INT, "3", Some("compression.zstd.level")),
        ("delete.retention.ms", LONG, "86400000", Some("log.cleaner.delete.retention.ms")),
        ("flush.messages", LONG, LONG_MAX, Some("log.flush.interval.messages")),
        ("flush.ms", LONG, LONG_MAX, None),
        ("index.interval.bytes", INT, "4096", Some("log.index.interval.bytes")),
        ("local.retention.bytes", LONG, "-2", Some("log.local.retention.bytes")),
        ("local.retention.ms", LONG, "-2", Some("log.local.retention.ms")),
        ("max.compaction.lag.ms", LONG, LONG_MAX, Some("log.cleaner.max.compaction.lag.ms")),
        ("max.message.bytes", INT, "1048588", Some("message.max.bytes")),
        (
            "message.timestamp.after.max.ms",
            LONG,
            "3600000",
            Some("log.message.timestamp.after.max.ms"),
        ),
        (
            "message.timestamp.before.max.ms",
            LONG,
            LONG_MAX,
            Some("log.message.timestamp.before.max.ms"),
        ),
        ("message.timestamp.type", STRING, "CreateTime", Some("log.message.timestamp.type")),
        ("min.cleanable.dirty.ratio", DOUBLE, "0.5", Some("log.cleaner.min.cleanable.ratio")),
        ("min.compaction.lag.ms", LONG, "0", Some("log.cleaner.min.compaction.lag.ms")),
        ("retention.bytes", LONG, "-1", Some("log.retention.bytes")),
        ("retention.ms", LONG, "604800000", None),
        ("segment.bytes", INT, "1073741824", Some("log.segment.bytes")),
        ("segment.jitter.ms", LONG, "0", None),
        ("segment.ms", LONG, "604800000", None),
    ] {
        let found = configs.iter().find(|config| &*config.name == name).expect(name);
        let shown = (found.config_type, found.value.as_deref(), found.config_source);
        assert_eq!(shown, (kind, Some(value), DEFAULT), "{name}");
        let origins: Vec<_> = found
            .synonyms
            .iter()
            .map(|synonym| (&*synonym.name, synonym.value.as_deref(), synonym.source))
            .collect();
        let expected: Vec<_> = origin.iter().map(|name| (*name, Some(value), DEFAULT)).collect();
        assert_eq!(origins, expected, "{name}");
        assert!(!found.read_only && !found.is_sensitive, "{name}");
    }
    change(&mut client, &topic.name, &[("max.message.bytes", SET, Some("2000"))]);
    until_own(&mut client, &topic.name, &[("max.message.bytes", "2000")]);
    let configs = described(&mut client, &topic.name);
    let own = configs.iter().find(|config| &*config.name == "max.message.bytes").expect("there");
    let origins: Vec<_> = own
        .synonyms
        .iter()
        .map(|synonym| (&*synonym.name, synonym.value.as_deref(), synonym.source))
        .collect();
    const OF_TOPIC: i8 = 1;
    let expected = [
        ("max.message.bytes", Some("2000"), OF_TOPIC),
        ("message.max.bytes", Some("1048588"), DEFAULT),
    ];
    assert_eq!(origins, expected);
}

#[test]
fn the_largest_batch_changes_while_the_topic_is_written() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let large = Batch::of_size(5000);
    assert_eq!(append(&mut client, &topic, &large).0, code::NONE);
    let until_answer = |client: &mut Client, expected: i16| {
        until("the new bound", PATIENCE, || {
            let (error, _) = append(client, &topic, &large);
            if error == expected { Ok(()) } else { Err(format!("error {error}")) }
        });
    };
    change(&mut client, &topic.name, &[("max.message.bytes", SET, Some("2000"))]);
    until_answer(&mut client, code::MESSAGE_TOO_LARGE);
    assert_eq!(append(&mut client, &topic, &Batch::of_size(1000)).0, code::NONE);
    change(&mut client, &topic.name, &[("max.message.bytes", DELETE, None)]);
    until_answer(&mut client, code::NONE);
}

#[test]
fn a_batch_larger_than_a_segment_is_refused() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let sizes =
        [("segment.bytes", SET, Some("1048576")), ("max.message.bytes", SET, Some("4000000"))];
    change(&mut client, &topic.name, &sizes);
    until_own(
        &mut client,
        &topic.name,
        &[("max.message.bytes", "4000000"), ("segment.bytes", "1048576")],
    );
    until("the new bounds", PATIENCE, || {
        match append(&mut client, &topic, &Batch::of_size(2_000_000)).0 {
            code::RECORD_LIST_TOO_LARGE => Ok(()),
            error => Err(format!("error {error}")),
        }
    });
    let beyond_both = append(&mut client, &topic, &Batch::of_size(5_000_000)).0;
    assert_eq!(beyond_both, code::MESSAGE_TOO_LARGE);
    assert_eq!(append(&mut client, &topic, &Batch::of_size(900_000)), (code::NONE, 0));
}

#[test]
fn the_broker_stamps_records_while_a_topic_asks_for_its_time() {
    const STAMPED: u8 = 0x08;
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let version = client.latest::<ProduceRequest>();
    let batch = Batch::of(["a", "b"]).at(&[1_700_000_000_000, 1_700_000_000_005]);
    let send = |client: &mut Client| {
        let request = produce(version, &topic, 0, -1, Some(batch.encode()));
        let answer = produced(client.call(version, &request));
        assert_eq!(answer.error_code, code::NONE);
        (answer.base_offset, answer.log_append_time_ms)
    };
    assert_eq!(send(&mut client), (0, -1));
    change(&mut client, &topic.name, &[("message.timestamp.type", SET, Some("LogAppendTime"))]);
    let (offset, stamp) = until("stamped records", PATIENCE, || {
        let (offset, stamp) = send(&mut client);
        if stamp >= 0 { Ok((offset, stamp)) } else { Err("the producer's time".to_owned()) }
    });
    assert!(stamp > 1_750_000_000_000, "{stamp} is now");
    let fetch_version = client.latest::<FetchRequest>();
    let answer = client.call(fetch_version, &fetch(fetch_version, &topic, 0, offset));
    let stored = fetched(answer).records.expect("records");
    assert_eq!(stored[22] & STAMPED, STAMPED);
    assert_eq!((&stored[35..43]).get_i64(), stamp, "the batch's largest timestamp");
    // Whole and with a right CRC, although the broker changed what it covers.
    let values: Vec<_> = read_from(&mut client, &topic, offset)
        .into_iter()
        .take(2)
        .map(|record| record.value)
        .collect();
    assert_eq!(values, ["a", "b"]);

    change(&mut client, &topic.name, &[("message.timestamp.type", DELETE, None)]);
    let offset = until("the producer's time", PATIENCE, || match send(&mut client) {
        (offset, -1) => Ok(offset),
        (_, stamp) => Err(format!("stamped {stamp}")),
    });
    let timestamps: Vec<i64> =
        read_from(&mut client, &topic, offset).into_iter().map(|record| record.timestamp).collect();
    assert_eq!(timestamps, [1_700_000_000_000, 1_700_000_000_005]);
}
