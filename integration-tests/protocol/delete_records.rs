//! DeleteRecords: where a log starts afterwards, and what may not be deleted from.

use kafka_protocol::messages::create_topics_request::CreatableTopicConfig;
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteRecordsRequest, FetchRequest, ListOffsetsRequest,
};

use super::batch::Batch;
use super::client::{Client, text};
use super::requests::{
    Topic, append, append_values, creatable, create_topics, delete_records, describe, fetch,
    fetched, offset_of, read_from, topic_name,
};
use super::{broker, code};
use crate::harness::{PATIENCE, unique, until};

const HIGH_WATERMARK: i64 = -1;
const EARLIEST: i64 = -2;

/// Deletes before the offset; returns error code and low watermark.
#[track_caller]
fn delete(
    client: &mut Client,
    version: i16,
    topic: &str,
    partition: i32,
    offset: i64,
) -> (i16, i64) {
    let answer = client.call(version, &delete_records(topic, partition, offset)).topics.remove(0);
    assert_eq!(answer.name, topic_name(topic));
    let partition = &answer.partitions[0];
    (partition.error_code, partition.low_watermark)
}

#[test]
fn a_log_starts_where_it_was_told_and_never_goes_back() {
    let broker = broker();
    let mut client = broker.connect();
    let fetch_version = client.latest::<FetchRequest>();
    let list_version = client.latest::<ListOffsetsRequest>();
    for version in client.versions::<DeleteRecordsRequest>() {
        let topic = Topic::create(&mut client);
        append_values(&mut client, &topic, ["a", "b", "c"]);
        append_values(&mut client, &topic, ["d", "e"]);
        assert_eq!(delete(&mut client, version, &topic.name, 0, 0), (code::NONE, 0));
        // In the middle of a batch.
        assert_eq!(delete(&mut client, version, &topic.name, 0, 2), (code::NONE, 2));
        assert_eq!(delete(&mut client, version, &topic.name, 0, 1), (code::NONE, 2));
        assert_eq!(offset_of(&mut client, list_version, &topic, EARLIEST).offset, 2);
        let below = client.call(fetch_version, &fetch(fetch_version, &topic, 0, 1));
        assert_eq!(fetched(below).error_code, code::OFFSET_OUT_OF_RANGE);
        let at_start = fetched(client.call(fetch_version, &fetch(fetch_version, &topic, 0, 2)));
        assert_eq!((at_start.error_code, at_start.log_start_offset), (code::NONE, 2));
        let left: Vec<_> =
            read_from(&mut client, &topic, 2).into_iter().map(|record| record.value).collect();
        assert_eq!(left, ["c", "d", "e"]);
        for beyond in [6, i64::MAX, -2, i64::MIN] {
            let refused = delete(&mut client, version, &topic.name, 0, beyond);
            assert_eq!(refused, (code::OFFSET_OUT_OF_RANGE, -1), "{beyond}");
        }
        let all = delete(&mut client, version, &topic.name, 0, HIGH_WATERMARK);
        assert_eq!(all, (code::NONE, 5));
        assert!(read_from(&mut client, &topic, 5).is_empty());
        assert_eq!(append_values(&mut client, &topic, ["f"]), 5);
    }
}

#[test]
fn what_is_not_there_has_no_records_to_delete() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let unknown = (code::UNKNOWN_TOPIC_OR_PARTITION, -1);
    for version in client.versions::<DeleteRecordsRequest>() {
        assert_eq!(delete(&mut client, version, &topic.name, 7, 0), unknown);
        assert_eq!(delete(&mut client, version, &topic.name, -1, 0), unknown);
        assert_eq!(delete(&mut client, version, &unique("unknown"), 0, 0), unknown);
        assert_eq!(delete(&mut client, version, "a/b", 0, 0), unknown);
    }
}

#[test]
fn a_topic_that_is_only_compacted_keeps_its_records() {
    let broker = broker();
    let mut client = broker.connect();
    let version = client.latest::<DeleteRecordsRequest>();
    for (policy, expected) in [
        ("compact", (code::POLICY_VIOLATION, -1)),
        ("compact,delete", (code::NONE, 1)),
        ("delete", (code::NONE, 1)),
        ("", (code::NONE, 1)),
    ] {
        let name = unique("policy");
        let config = CreatableTopicConfig::default()
            .with_name(text("cleanup.policy"))
            .with_value(Some(text(policy)));
        let request = create_topics(vec![creatable(&name, 1).with_configs(vec![config])]);
        let create_version = client.latest::<CreateTopicsRequest>();
        let created = client.call(create_version, &request).topics.remove(0);
        assert_eq!(created.error_code, code::NONE, "{:?}", created.error_message);
        let id = created.topic_id;
        until("the topic", PATIENCE, || match describe(&mut client, &name).error_code {
            code::NONE => Ok(()),
            error => Err(format!("error {error}")),
        });
        let topic = Topic { name, id };
        until("its log", PATIENCE, || match append(&mut client, &topic, &Batch::of(["a"])).0 {
            code::NONE => Ok(()),
            error => Err(format!("error {error}")),
        });
        assert_eq!(delete(&mut client, version, &topic.name, 0, 1), expected, "{policy:?}");
    }
}
